"""A TCP connection for the blocking driver: every address of a name is tried, the next one without waiting long.

A `Dialer` waits for nothing itself: its sockets are watched by the driver's selector, and the name is resolved in a
thread, because the system's resolver can neither be hurried nor interrupted.

Spec: RFC 8305 (Happy Eyeballs)
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from itertools import zip_longest

from mqttws.sockets import ATTEMPT_DELAY, is_address

_Address = tuple[socket.AddressFamily, int, object]


def resolve(host: str, port: int) -> list[_Address]:
    """Resolve a name; IPv6 and IPv4 addresses in turn, each kind in the order of the system.

    Raises:
        OSError: there is no such name, or no answer.

    Spec: RFC 8305 §4
    """
    found = [
        (family, protocol, address)
        for family, _, protocol, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    ]
    first = [entry for entry in found if entry[0] == found[0][0]]
    others = [entry for entry in found if entry[0] != found[0][0]]
    return [entry for pair in zip_longest(first, others) for entry in pair if entry is not None]


class Dialer:
    """One attempt to reach a name.

    Args:
        host: name or address.
        port: 1 to 65,535.
        selector: watches the sockets, until `close`.
        wake: makes whoever waits for the selector call `advance`; called from another thread.

    Raises:
        OSError: `host` is no proper address.
    """

    def __init__(self, host: str, port: int, selector: selectors.BaseSelector, wake: Callable[[], None]) -> None:
        self._host, self._port = host, port
        self._selector = selector
        self._wake = wake
        self._resolved: list[_Address] | OSError | None = None
        self._waiting: list[_Address] = []
        self._pending: set[socket.socket] = set()
        self._next_start: float | None = None
        self._last_error = OSError(errno.EHOSTUNREACH, "the name has no address")
        if is_address(host):
            self._resolved = resolve(host, port)
        else:
            threading.Thread(target=self._resolve, name=f"mqttws resolving {host}", daemon=True).start()

    def _resolve(self) -> None:
        try:
            self._resolved = resolve(self._host, self._port)
        except OSError as error:
            self._resolved = error
        self._wake()

    def advance(self, now: float, ready: Iterable[socket.socket] = ()) -> socket.socket | None:
        """Go on.

        Args:
            now: seconds.
            ready: the sockets of which the selector has told something.

        Returns:
            A connected socket that does not block; None: not yet.

        Raises:
            OSError: there is no such name, or every address has failed; the error is that of the last.
        """
        if self._resolved is None:
            return None
        if isinstance(self._resolved, OSError):
            raise self._resolved
        self._waiting += self._resolved
        self._resolved = []
        for candidate in self._pending.intersection(ready):
            self._forget(candidate)
            code = candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code == 0:
                candidate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return candidate
            candidate.close()
            self._last_error = OSError(code, os.strerror(code))
        while self._waiting and (not self._pending or self._next_start is None or now >= self._next_start):
            self._next_start = now + ATTEMPT_DELAY
            self._start(self._waiting.pop(0))
        if not self._pending:
            raise self._last_error
        return None

    def next_deadline(self) -> float | None:
        """Tell when `advance` must be called at the latest; None for never."""
        return self._next_start if self._waiting else None

    def close(self) -> None:
        """Give up what is under way."""
        for candidate in list(self._pending):
            self._forget(candidate)
            candidate.close()

    def _forget(self, candidate: socket.socket) -> None:
        self._pending.discard(candidate)
        self._selector.unregister(candidate)

    def _start(self, entry: _Address) -> None:
        """Begin to connect to one address."""
        family, protocol, address = entry
        candidate = None
        try:
            candidate = socket.socket(family, socket.SOCK_STREAM, protocol)
            candidate.setblocking(False)
            code = candidate.connect_ex(address)  # type: ignore[arg-type] # whatever getaddrinfo gave
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
        except OSError as error:
            self._last_error = error
            if candidate is not None:
                candidate.close()
            return
        self._pending.add(candidate)
        self._selector.register(candidate, selectors.EVENT_WRITE)
