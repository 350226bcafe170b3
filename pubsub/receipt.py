"""When a message is acknowledged: as soon as the last of those that were given it has taken it.

A callback has taken a message when it returns; an iteration, when it moves on. Until then the server gets no
acknowledgement, and so delivers the message again if this process dies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Receipt"]


class Receipt:
    """Counts those that have yet to take one message. It begins with one holder, which made it.

    Args:
        acknowledge: called when the last one has taken it.
    """

    __slots__ = ("_acknowledge", "_left", "_lock")

    def __init__(self, acknowledge: Callable[[], object]) -> None:
        self._acknowledge = acknowledge
        self._left = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Count one more that has to take it."""
        with self._lock:
            self._left += 1

    def release(self) -> None:
        """Count one less."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._acknowledge()
