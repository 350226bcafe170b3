"""The PubSub API for threads."""

from __future__ import annotations

from pubsub.sync.api import Observable, PubSub, Subscription
from pubsub.sync.iteration import Messages

__all__ = ["Messages", "Observable", "PubSub", "Subscription"]
