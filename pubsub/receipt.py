"""Reference counting for acknowledgements: a message is acknowledged when all its subscriptions have processed it.

A callback has processed a message when it returns; an iteration, when the next message is requested. Until then the
server gets no acknowledgement, so it delivers the message again if this process dies.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

__all__ = ["Receipt", "Release"]

#: Releases a message. May be called again, so that it can be repeated after an interrupt.
Release = Callable[[], object]


class Receipt:
    """The holders of one message: those that have not processed it yet. The first holder is the creator.

    It needs no lock: each step is one operation on a set, and acknowledging twice has no effect.

    Args:
        acknowledge: Called when there is no holder any more.
    """

    __slots__ = ("_acknowledge", "_holders")

    def __init__(self, acknowledge: Callable[[], object]) -> None:
        self._acknowledge = acknowledge
        self._holders: set[object] = {self}

    def hold(self) -> Release:
        """Add a holder. Return the function that it calls when it has processed the message."""
        holder = object()
        self._holders.add(holder)
        return partial(self.release, holder)

    def release(self, holder: object = None) -> None:
        """Remove a holder; without an argument, the creator."""
        self._holders.discard(self if holder is None else holder)
        if not self._holders:
            self._acknowledge()
