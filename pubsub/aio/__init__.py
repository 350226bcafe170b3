"""The PubSub API for asyncio: the same as `pubsub.PubSub`, with `await` before what waits."""

from __future__ import annotations

from pubsub.aio.api import Observable, PubSub, Subscription
from pubsub.aio.iteration import Messages

__all__ = ["Messages", "Observable", "PubSub", "Subscription"]
