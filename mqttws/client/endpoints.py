"""The choice among several URLs and addresses of a service for each attempt to connect.

An attempt tries each URL once before the client waits, beginning with those that have not failed recently. A callable
is called once for each attempt, and may return several URLs. A host name with several addresses is treated alike: if a
server accepts the TCP connection but does not answer, the other addresses of its name are tried before the next URL.

A lost connection counts as a failure of its URL and of its address, so that the next attempt begins with another.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from mqttws.client.url import Endpoint, parse_url
from mqttws.errors import ConnectError
from mqttws.hints import Any, TypeVar

A = TypeVar("A", bound=Hashable)
#: The maximum number of URLs, and of addresses, whose failures are remembered.
MOST_FAILURES = 1_000


class Endpoints:
    """The URLs and addresses to which a client connects.

    Args:
        source: A URL, a sequence of URLs, or a callable that returns either, or an awaitable of either.
        order: The order of those that have not failed recently: "given" or "random".
        random: A function that returns a random number, uniformly distributed from 0 to 1.
        check: A function that checks the valid URLs which a callable has returned; see `Options.check_use`.
    """

    def __init__(
        self,
        source: Any,
        order: str,
        random: Callable[[], float],
        check: Callable[[list[Endpoint]], object] = lambda endpoints: None,
    ) -> None:
        self._source = source
        self._check = check
        self._shuffle = order == "random"
        self._random = random
        self._urls = _Failures()
        self._addresses = _Failures()
        self._round: list[Any] = []  # the URLs that this attempt has not tried yet
        self._current: Any = None  # the URL being tried
        self._again = False  # whether to try it again, at another of its addresses
        self._found: list[Hashable] = []  # the addresses of its host name
        self._tried: set[Hashable] = set()  # those that have accepted a TCP connection in this attempt
        self._reached: Hashable | None = None  # the last of these

    def restart(self) -> None:
        """Begin the next attempt with all URLs, which a callable is asked for again."""
        self._round, self._again = [], False

    def ask(self) -> Any:
        """Return the argument for `choose`. It may be an awaitable, to be awaited first. This may call user code."""
        if self._round:
            return self._round
        return self._source() if callable(self._source) else self._source

    def choose(self, answer: Any) -> Any:
        """Return the URL to try next. It is not checked.

        Args:
            answer: The result of `ask`.

        Raises:
            ConnectError: A callable returned an empty list, or no URL that uses the options.
        """
        if answer is not self._round:
            urls = list(answer) if _is_several(answer) else [answer]
            if not urls:
                raise ConnectError("the callable returned no URL")
            if callable(self._source):
                try:
                    self._check([endpoint for endpoint in map(_parsed, urls) if endpoint is not None])
                except ValueError as error:
                    raise ConnectError(str(error)) from None
            self._round = self._sorted(urls, self._urls, key=_key)
        if not self._again:
            self._tried.clear()
        self._current, self._again = self._round.pop(0), False
        self._found, self._reached = [], None
        return self._current

    def sort(self, addresses: Sequence[A]) -> list[A]:
        """Return the addresses of the host name in the order in which to try them."""
        self._found = list(addresses)
        left = [address for address in addresses if address not in self._tried] or list(addresses)
        return self._sorted(left, self._addresses, key=lambda address: address)

    def reached(self, address: Hashable) -> None:
        """Record the address that accepted the TCP connection."""
        self._reached = address
        self._tried.add(address)

    def failed(self, *, silent: bool) -> bool:
        """Record that connecting failed.

        Args:
            silent: Whether the error was a timeout: a server that accepted the TCP connection has not answered.

        Returns:
            Whether to try another address or URL immediately.
        """
        self._note_failure()
        if silent and self._reached is not None and any(address not in self._tried for address in self._found):
            self._round.insert(0, self._current)
            self._again = True
        return bool(self._round)

    def connected(self) -> None:
        """Record that the client is connected."""
        self._round = []
        if self._urls:
            self._urls.forget(_key(self._current))
        self._addresses.forget(self._reached)

    def lost(self) -> None:
        """Record that the connection was lost."""
        self._note_failure()
        self._round = []

    def _note_failure(self) -> None:
        self._urls.note(_key(self._current))
        if self._reached is not None:
            self._addresses.note(self._reached)

    def _sorted(self, items: Sequence[A], failures: _Failures, key: Callable[[A], Hashable]) -> list[A]:
        if len(items) == 1:
            return list(items)
        ranks = [self._random() if self._shuffle else float(place) for place in range(len(items))]
        keys = [(failures.last(key(item)), rank) for item, rank in zip(items, ranks, strict=True)]
        return [items[place] for place in sorted(range(len(items)), key=keys.__getitem__)]


class _Failures:
    """The most recent failures and their order."""

    def __init__(self) -> None:
        self._last: dict[Hashable, int] = {}  # key -> sequence number of its last failure; the oldest first
        self._count = 0

    def __bool__(self) -> bool:
        return bool(self._last)

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


def parse_urls(url: object) -> list[Endpoint]:
    """Parse the URL argument of a client. A callable is not called.

    Returns:
        Its URLs; none for a callable.

    Raises:
        ValueError: It is a malformed URL, or a sequence that is empty or contains one.
        TypeError: It is neither a str, nor a sequence of str, nor a callable.
    """
    if _is_several(url):
        if not url:
            raise ValueError("the list of URLs is empty; it needs at least one")
        return [parse_url(each) for each in url]  # type: ignore[attr-defined] # it is a sequence
    if isinstance(url, str):
        return [parse_url(url)]
    if not callable(url):
        raise TypeError(f"the URL must be a str, a sequence of str, or a callable, not {type(url).__name__}")
    return []


def _is_several(url: object) -> bool:
    return isinstance(url, Sequence) and not isinstance(url, (str, bytes))


def _key(url: Any) -> Hashable:
    """Return the part of a URL that identifies its endpoint. The query is omitted: a signed one differs each time."""
    endpoint = _parsed(url)
    return None if endpoint is None else str(endpoint)


def _parsed(url: Any) -> Endpoint | None:
    """Return the parsed URL; None if it is not valid, which the attempt reports."""
    try:
        return parse_url(url)
    except (TypeError, ValueError):
        return None
