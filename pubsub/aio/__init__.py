"""The PubSub API for asyncio. It corresponds to `pubsub.PubSub`; the methods that wait are coroutine functions."""

from __future__ import annotations

from pubsub.aio.api import Observable, PubSub, Subscription
from pubsub.aio.iteration import Messages
from pubsub.aio.requester import Requester

__all__ = ["Messages", "Observable", "PubSub", "Requester", "Subscription"]
