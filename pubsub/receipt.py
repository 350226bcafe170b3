"""When a message counts as taken: as soon as the last of those who were given it has taken it.

A callback has taken a message when it returns; an iteration, when it moves on. Until then the server hears nothing,
and so delivers it again should this process die.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

__all__ = ["Receipt"]


class Receipt:
    """Counts who still has to take one message. It begins with one holder: who made it.

    Args:
        acknowledge: what to do when nobody is left.
    """

    __slots__ = ("_acknowledge", "_left", "_lock")

    def __init__(self, acknowledge: Callable[[], object]) -> None:
        self._acknowledge = acknowledge
        self._left = 1
        self._lock = threading.Lock()

    def hold(self) -> None:
        """Note one more who has to take it."""
        with self._lock:
            self._left += 1

    def release(self) -> None:
        """Note that one has taken it."""
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._acknowledge()
