"""How many bytes the sessions of a broker hold together: what waits for clients, is in flight, or is noted of them.

Each session has bounds; a thousand sessions, each within its bounds, could still hold too much. So there is a bound for
all, and beyond it those that hold more than their share get nothing more, while everybody else goes on.

To keep the sum with every message would cost each message twice. It is estimated instead: what is added is added up,
and only when that reaches the bound are all sessions counted, which finds what has left them since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from time import monotonic

from mqttws.broker.subscriber import Subscriber

#: The sessions are counted no more often than this, in seconds, however much is asked for.
_INTERVAL = 0.05


class Memory:
    """The account of one broker.

    Args:
        most: the bound in bytes; None for none.
        subscribers: gives all whose sessions count.
    """

    def __init__(self, most: int | None, subscribers: Callable[[], Iterable[Subscriber]]) -> None:
        self._most = most
        self._subscribers = subscribers
        self._held = 0  # at most, since `_counted_at`
        self._share = most or 0
        self._counted_at = -_INTERVAL

    def allows(self, subscriber: Subscriber, size: int) -> bool:
        """Tell whether a session may hold so many bytes more, and count them."""
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
