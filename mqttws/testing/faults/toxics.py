"""Faults of the bytes of one direction, such as latency and limited bandwidth: the toxics of Toxiproxy.

Each function makes a `Shaper` from its parameters. A shaper receives pieces, each with the time at which to send it,
and yields pieces with later times or fewer bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple


class Timed(NamedTuple):
    """A piece of data, or the end, and when it may be sent.

    Attributes:
        due: When it may be sent, in seconds.
        what: "send", "fin" or "rst".
        data: The bytes to send.
    """

    due: float
    what: str
    data: bytes = b""


class Shaper:
    """The base class of shapers, which forwards data unchanged.

    Attributes:
        swallows: Whether it drops all data.
        end: ("fin" or "rst", seconds after the start of the connection) if it ends the connection, else None.
    """

    swallows = False
    end: tuple[str, float] | None = None

    def shape(self, piece: Timed) -> Iterator[Timed]:
        """Yield the result for a piece or an end."""
        yield piece


class _Latency(Shaper):
    def __init__(self, chance: random.Random, seconds: float, jitter: float) -> None:
        self._chance, self._seconds, self._jitter = chance, seconds, jitter

    def shape(self, piece: Timed) -> Iterator[Timed]:
        late = self._seconds + self._jitter * self._chance.uniform(-1, 1) if self._jitter else self._seconds
        yield piece._replace(due=piece.due + max(0.0, late))


class _Bandwidth(Shaper):
    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free = 0.0

    def shape(self, piece: Timed) -> Iterator[Timed]:
        step = max(1, int(self._rate / 50))  # the bytes of 20 ms
        for start in range(0, len(piece.data), step):
            data = piece.data[start : start + step]
            self._free = max(self._free, piece.due) + len(data) / self._rate
            yield Timed(self._free, "send", data)
        if piece.what != "send":
            yield piece._replace(due=max(piece.due, self._free))


class _Slicer(Shaper):
    def __init__(self, chance: random.Random, size: int, variation: int, seconds: float) -> None:
        self._chance, self._size, self._variation, self._seconds = chance, size, variation, seconds
        self._last = 0.0

    def shape(self, piece: Timed) -> Iterator[Timed]:
        start, due = 0, max(piece.due, self._last)
        while start < len(piece.data):
            size = max(1, self._size + self._chance.randint(-self._variation, self._variation))
            yield Timed(due, "send", piece.data[start : start + size])
            start += size
            due += self._seconds
        self._last = due
        if piece.what != "send":
            yield piece._replace(due=due)


class _Limit(Shaper):
    def __init__(self, size: int) -> None:
        self._left = size

    def shape(self, piece: Timed) -> Iterator[Timed]:
        if self.swallows:
            return
        if len(piece.data) < self._left or piece.what != "send":
            self._left -= len(piece.data)
            yield piece
            return
        yield piece._replace(data=piece.data[: self._left])
        yield Timed(piece.due, "fin")
        self.swallows = True


class _SlowClose(Shaper):
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def shape(self, piece: Timed) -> Iterator[Timed]:
        yield piece if piece.what == "send" else piece._replace(due=piece.due + self._seconds)


class _Ending(Shaper):
    def __init__(self, what: str, seconds: float, swallows: bool) -> None:
        self.end = what, seconds
        self.swallows = swallows

    def shape(self, piece: Timed) -> Iterator[Timed]:
        if not self.swallows:
            yield piece


def latency(chance: random.Random, *, seconds: float, jitter: float = 0.0) -> Shaper:
    """Delay all bytes by `seconds`, plus or minus up to `jitter`; the order is kept."""
    return _Latency(chance, seconds, jitter)


def bandwidth(chance: random.Random, *, rate: float) -> Shaper:
    """Forward at most `rate` bytes per second."""
    if not rate > 0:
        raise ValueError(f"the rate is {rate}; it must be above 0")
    return _Bandwidth(rate)


def slow_close(chance: random.Random, *, seconds: float) -> Shaper:
    """Forward FIN `seconds` late."""
    return _SlowClose(seconds)


def timeout(chance: random.Random, *, seconds: float) -> Shaper:
    """Forward nothing, and close the connection after `seconds`; 0: never."""
    return _Ending("fin", seconds or float("inf"), True)


def reset_peer(chance: random.Random, *, seconds: float = 0.0) -> Shaper:
    """Reset the connection after `seconds`."""
    return _Ending("rst", seconds, False)


def slicer(chance: random.Random, *, size: int, variation: int = 0, seconds: float = 0.0) -> Shaper:
    """Cut the bytes into pieces of `size`, plus or minus up to `variation`, `seconds` apart."""
    return _Slicer(chance, size, variation, seconds)


def limit_data(chance: random.Random, *, size: int) -> Shaper:
    """Forward `size` bytes, then close the connection."""
    return _Limit(size)


#: The toxics, by name.
TOXICS: Final[dict[str, Callable[..., Shaper]]] = {
    maker.__name__: maker for maker in (latency, bandwidth, slow_close, timeout, reset_peer, slicer, limit_data)
}
