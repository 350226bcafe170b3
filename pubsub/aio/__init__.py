"""The PubSub API for asyncio: the same as `pubsub.PubSub`, with `await` before what waits."""

from __future__ import annotations

from pubsub.aio.api import Observable, PubSub, Subscription
from pubsub.aio.iteration import Messages
from pubsub.aio.requester import Requester

__all__ = ["Messages", "Observable", "PubSub", "Requester", "Subscription"]
