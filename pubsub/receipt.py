"""When a message is acknowledged: as soon as the last of those that were given it has taken it.

A callback has taken a message when it returns; an iteration, when it moves on. Until then the server gets no
acknowledgement, and so delivers the message again if this process dies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["Receipt", "Release"]

#: Releases a message. A second time it does nothing that matters, so that it may be repeated after an interrupt.
Release = Callable[[], object]


class Receipt:
    """Knows those that have yet to take one message. It begins with one, which made it.

    It needs no lock: each step is one operation of a set, and to acknowledge twice does no harm.

    Args:
        acknowledge: Called when the last one has taken the message.
    """

    __slots__ = ("_acknowledge", "_holders")

    def __init__(self, acknowledge: Callable[[], object]) -> None:
        self._acknowledge = acknowledge
        self._holders: set[object] = {self}

    def hold(self) -> Release:
        """Note one more that has to take it. Return what that one calls when it has."""
        holder = object()
        self._holders.add(holder)
        return partial(self.release, holder)

    def release(self, holder: object = None) -> None:
        """Note that one has taken it; without an argument, the one that made this."""
        self._holders.discard(self if holder is None else holder)
        if not self._holders:
            self._acknowledge()
