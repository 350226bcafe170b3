"""A limit on the memory of all sessions of a broker: queued and in-flight messages, subscriptions, identifiers.

Each session has limits, but a thousand sessions within their limits could still use too much. So there is a limit for
all of them together. Beyond it, sessions that use more than their share get nothing more; the others are unaffected.

Maintaining the exact sum would cost time twice for every message. Instead, only additions are counted. When their sum
reaches the limit, all sessions are measured, which corrects the sum for what has been removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from mqttws.broker.subscriber import Subscriber

#: The minimum time in seconds between two measurements of all sessions.
_INTERVAL = 0.05


class Memory:
    """The memory limit of one broker.

    Args:
        most: The limit in bytes; None for no limit.
        subscribers: Returns the subscribers whose sessions count.
    """

    def __init__(self, most: int | None, subscribers: Callable[[], Iterable[Subscriber]]) -> None:
        self._most = most
        self._subscribers = subscribers
        self._held = 0  # an upper bound of the bytes in use
        self._share = most or 0
        self._counted_at = -_INTERVAL

    def allows(self, subscriber: Subscriber, size: int) -> bool:
        """Return whether a session may use `size` more bytes; if so, count them."""
        if self._most is None:
            return True
        self._held += size
        return self._held <= self._most or self._has_share(self._most, subscriber, size)

    def _has_share(self, most: int, subscriber: Subscriber, size: int) -> bool:
        now = monotonic()
        if now - self._counted_at >= _INTERVAL:
            self._counted_at = now
            sizes = [held for each in self._subscribers() if (held := each.size)]
            self._held = sum(sizes) + size
            self._share = most // max(1, len(sizes))
            if self._held <= most:
                return True
        if subscriber.size + size <= self._share:
            return True
        self._held -= size
        return False
