"""A queue of data that was forwarded but is not decoded yet. Decoding is slower, and must not delay the forwarding.

A piece is decoded soon after it was forwarded. If data arrives faster than it can be decoded, decoding takes a tenth of
the time and the rest waits, up to a number of bytes. Beyond that, data is decoded immediately, which delays the
traffic.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final

#: Seconds of one slice of decoding.
_SLICE: Final = 0.0005
#: The pause after a slice, as a multiple of its duration.
_PAUSE: Final = 9
#: Steps of work between two reads of the clock.
_LOOK: Final = 8


class Backlog:
    """A queue of work. Each item is an iterator that does one step when it is advanced.

    Args:
        most: The maximum bytes of waiting data.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[int, Iterator[None]]] = deque()
        self._size = 0
        self._due = False

    def add(self, size: int, work: Iterator[None]) -> None:
        """Add work for `size` bytes. Call this in an event loop."""
        self._waiting.append((size, work))
        self._size += size
        while self._size > self._most:
            self._do()
        if not self._due and self._waiting:
            self._due = True
            asyncio.get_running_loop().call_soon(self._slice)

    def finish(self) -> None:
        """Do all queued work."""
        while self._waiting:
            self._do()

    def _do(self, until: float = inf) -> None:
        """Do the first item of work, until it is complete or the time is up."""
        size, work = self._waiting[0]
        for number, _ in enumerate(work):
            if number % _LOOK == 0 and time.monotonic() >= until:
                return
        self._waiting.popleft()
        self._size -= size

    def _slice(self) -> None:
        begun = now = time.monotonic()
        while self._waiting and now < begun + _SLICE:
            self._do(begun + _SLICE)
            now = time.monotonic()
        self._due = bool(self._waiting)
        if self._due:
            asyncio.get_running_loop().call_later(_PAUSE * (now - begun), self._slice)
