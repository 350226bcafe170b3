"""Several addresses of one service: which one the next attempt is made to.

An attempt tries each address once, those first that have not failed lately, before the client waits. A connection that
is lost counts as a failure of its address, so that the next attempt begins with another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from mqttws.client.url import parse_url


class Endpoints:
    """The URLs that a client is given, called for the next one.

    Args:
        urls: at least one.
        order: "given" or "random", among those that have not failed lately.
        random: returns a random number, 0 up to 1.

    Raises:
        ValueError: there is none, or one is no URL.
    """

    def __init__(self, urls: Sequence[str], order: str, random: Callable[[], float]) -> None:
        if not urls:
            raise ValueError("the list of URLs is empty; it needs at least one")
        for url in urls:
            parse_url(url)
        self._urls = list(urls)
        self._shuffle = order == "random"
        self._random = random
        self._failures: dict[str, int] = {}  # by URL: the number of its last failure, of all failures
        self._count = 0
        self._round: list[str] = []  # what this attempt has still to try
        self._current: str | None = None

    def __call__(self) -> str:
        """Return the URL to try next."""
        if not self._round:
            self._round = sorted(self._urls, key=lambda url: (self._failures.get(url, 0), self._rank(url)))
        self._current = self._round.pop(0)
        return self._current

    def _rank(self, url: str) -> float:
        return self._random() if self._shuffle else self._urls.index(url)

    def failed(self) -> bool:
        """Note that the attempt to connect failed. Returns whether another URL is to be tried at once."""
        self._note_failure()
        return bool(self._round)

    def connected(self) -> None:
        """Note that there is a connection."""
        self._round.clear()
        if self._current is not None:
            self._failures.pop(self._current, None)

    def lost(self) -> None:
        """Note that the connection was lost."""
        self._note_failure()
        self._round.clear()

    def _note_failure(self) -> None:
        if self._current is not None:
            self._count += 1
            self._failures[self._current] = self._count


def choose_source(url: Any, order: str, random: Callable[[], float]) -> tuple[Any, Endpoints | None]:
    """Return where each attempt is to get its URL from: a str, or a callable; and the endpoints, where it is those."""
    if isinstance(url, str) or callable(url):
        return url, None
    endpoints = Endpoints(url, order, random)
    return endpoints, endpoints


def check_url(url: object) -> None:
    """Check what a client is given to connect to; a callable is not asked yet.

    Raises:
        ValueError: it is no URL, or a list with something in it that is none.
    """
    if isinstance(url, str):
        parse_url(url)
    elif isinstance(url, Sequence):
        Endpoints(url, "given", lambda: 0.0)
    elif not callable(url):
        raise TypeError(f"a URL is a str, several of them, or a callable, not {type(url).__name__}")
