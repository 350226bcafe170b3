"""The PubSub API for programs with threads; see `pubsub.aio` for asyncio."""

from __future__ import annotations

from pubsub.sync.api import Observable, PubSub, Subscription
from pubsub.sync.iteration import Messages
from pubsub.sync.requester import Requester

__all__ = ["Messages", "Observable", "PubSub", "Requester", "Subscription"]
