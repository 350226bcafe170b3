"""Several addresses of one service: which one the next attempt is made to.

An attempt to connect tries each URL once, those first that have not failed lately, before the client waits. A callable
is asked once an attempt, and may return several. A name with several addresses is treated alike: where a server takes
the TCP connection and is silent, the other addresses of its name are tried before the next URL.

A connection that is lost counts as a failure of its URL and of its address, so that the next attempt begins elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

from mqttws.client.url import parse_url
from mqttws.errors import ConnectError

A = TypeVar("A", bound=Hashable)
#: How many failures of different URLs, and of different addresses, are remembered.
MOST_FAILURES = 1_000


class Endpoints:
    """Where a client connects to.

    Args:
        source: a URL, several, or a callable that returns either, or something to be awaited.
        order: "given" or "random", among those that have not failed lately.
        random: returns a random number, 0 up to 1.
    """

    def __init__(self, source: Any, order: str, random: Callable[[], float]) -> None:
        self._source = source
        self._shuffle = order == "random"
        self._random = random
        self._urls = _Failures()
        self._addresses = _Failures()
        self._round: list[Any] = []  # what this attempt has still to try
        self._current: Any = None
        self._again = False  # whether it is tried again, at another of its addresses
        self._found: list[Hashable] = []  # the addresses of its name
        self._tried: set[Hashable] = set()  # those of them that took a TCP connection in this attempt
        self._reached: Hashable | None = None

    def ask(self) -> Any:
        """Return what `choose` is to be given; with asyncio it may have to be awaited before. Runs user code."""
        if self._round:
            return self._round
        return self._source() if callable(self._source) else self._source

    def choose(self, answer: Any) -> Any:
        """Return the URL to try next; it is not checked.

        Args:
            answer: to `ask`.

        Raises:
            ConnectError: a callable returned an empty list.
        """
        if answer is not self._round:
            urls = list(answer) if _is_several(answer) else [answer]
            if not urls:
                raise ConnectError("the callable returned no URL")
            self._round = self._sorted(urls, self._urls, key=_key)
        if not self._again:
            self._tried.clear()
        self._current, self._again = self._round.pop(0), False
        self._found, self._reached = [], None
        return self._current

    def sort(self, addresses: Sequence[A]) -> list[A]:
        """Return the addresses of the host in the order in which to try them."""
        self._found = list(addresses)
        left = [address for address in addresses if address not in self._tried] or list(addresses)
        return self._sorted(left, self._addresses, key=lambda address: address)

    def reached(self, address: Hashable) -> None:
        """Note which address took the TCP connection."""
        self._reached = address
        self._tried.add(address)

    def failed(self, *, silent: bool) -> bool:
        """Note that the attempt to connect failed.

        Args:
            silent: whether the server took the TCP connection, and then did not answer.

        Returns:
            Whether to try another address immediately.
        """
        self._note_failure()
        if silent and self._reached is not None and any(address not in self._tried for address in self._found):
            self._round.insert(0, self._current)
            self._again = True
        return bool(self._round)

    def connected(self) -> None:
        """Note that there is a connection."""
        self._round = []
        self._urls.forget(_key(self._current))
        self._addresses.forget(self._reached)

    def lost(self) -> None:
        """Note that the connection was lost."""
        self._note_failure()
        self._round = []

    def _note_failure(self) -> None:
        self._urls.note(_key(self._current))
        if self._reached is not None:
            self._addresses.note(self._reached)

    def _sorted(self, items: Sequence[A], failures: _Failures, key: Callable[[A], Hashable]) -> list[A]:
        ranks = [self._random() if self._shuffle else float(place) for place in range(len(items))]
        keys = [(failures.last(key(item)), rank) for item, rank in zip(items, ranks, strict=True)]
        return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]


class _Failures:
    """What has failed lately, and in which order."""

    def __init__(self) -> None:
        self._last: dict[Hashable, int] = {}  # the number of its last failure, of all failures; the oldest first
        self._count = 0

    def note(self, key: Hashable) -> None:
        self.forget(key)
        self._count += 1
        self._last[key] = self._count
        if len(self._last) > MOST_FAILURES:
            del self._last[next(iter(self._last))]

    def forget(self, key: Hashable) -> None:
        self._last.pop(key, None)

    def last(self, key: Hashable) -> int:
        return self._last.get(key, 0)


def check_url(url: object) -> None:
    """Check what a client is given to connect to; a callable is not asked yet.

    Raises:
        ValueError: it is not a URL, or a list that is empty or contains something else.
        TypeError: it is nothing of the kind.
    """
    if _is_several(url):
        if not url:
            raise ValueError("the list of URLs is empty; it needs at least one")
        for each in url:  # type: ignore[attr-defined] # it is a sequence
            parse_url(each)
    elif isinstance(url, str):
        parse_url(url)
    elif not callable(url):
        raise TypeError(f"a URL is a str, several of them, or a callable, not {type(url).__name__}")


def _is_several(url: object) -> bool:
    return isinstance(url, Sequence) and not isinstance(url, (str, bytes))


def _key(url: Any) -> Hashable:
    """Return by what a URL is known again: a signed one is another each time."""
    try:
        return str(parse_url(url))
    except (TypeError, ValueError):  # the attempt will say so
        return None
