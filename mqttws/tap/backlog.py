"""What is forwarded and not read yet. Reading takes longer than forwarding, and is to cost the traffic little.

A piece is read soon after it was forwarded. While more comes than can be read, reading takes a tenth of the time, and
the rest waits: up to a number of bytes. What goes beyond is read at once, and so the traffic waits for the reading.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from math import inf
from typing import Final

#: Seconds that reading takes at once.
_SLICE: Final = 0.0005
#: How long reading pauses, in times of how long it took.
_PAUSE: Final = 9
#: Steps of work between two looks at the clock.
_LOOK: Final = 8


class Backlog:
    """Work that waits its turn, in order. Work is an iterator: it does a little, and yields.

    Args:
        most: bytes that may wait.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[int, Iterator[None]]] = deque()
        self._size = 0
        self._due = False

    def add(self, size: int, work: Iterator[None]) -> None:
        """Take work for so many bytes; in an event loop."""
        self._waiting.append((size, work))
        self._size += size
        while self._size > self._most:
            self._do()
        if not self._due and self._waiting:
            self._due = True
            asyncio.get_running_loop().call_soon(self._slice)

    def finish(self) -> None:
        """Do all that waits."""
        while self._waiting:
            self._do()

    def _do(self, until: float = inf) -> None:
        """Do the first work, as far as time allows."""
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
