"""TCP connections of the blocking client: the addresses of a name are tried in turn, without waiting for each to fail.

A `Dialer` never blocks: the poller of the client watches its sockets, and a thread of the `resolver` looks up the
name.

Spec: RFC 8305 (Happy Eyeballs)
"""

from __future__ import annotations

import _socket
import errno
import os
from collections.abc import Callable, Iterable

from mqttws.hints import TYPE_CHECKING
from mqttws.poll import WRITE, Poller
from mqttws.sockets import ATTEMPT_DELAY, is_address, socket_module, unix_address

if TYPE_CHECKING:
    import socket

    from mqttws.resolver import Address, Lookup

#: The results of `connect_ex` while the connection is in progress; the second one on Windows.
_UNDER_WAY = {0, errno.EINPROGRESS, errno.EWOULDBLOCK}


class Dialer:
    """One attempt to connect to a host.

    Args:
        host: Name or address of the host.
        port: 1 to 65,535.
        poller: Watches the sockets, until `close`.
        wake: Ends the wait of the poller, so that `advance` is called; called in another thread.
        unix_socket: Path of a Unix socket to connect to instead; None for none.
        bind_address: The address of this machine to connect from; None: the system chooses.
        resolved: Called with the time at which a name was looked up, in seconds.
        sort: Puts the addresses of a name into the order in which to try them.

    Attributes:
        reached: The address of the socket that `advance` returned.

    Raises:
        OSError: `host` is not a valid address.
    """

    def __init__(
        self,
        host: str,
        port: int,
        poller: Poller,
        wake: Callable[[], None],
        *,
        unix_socket: str | None = None,
        bind_address: str | None = None,
        resolved: Callable[[float], object] = lambda now: None,
        sort: Callable[[list[Address]], list[Address]] = list,
    ) -> None:
        self._bind_address = bind_address
        self._poller = poller
        self._lookup: Lookup | None = None
        self._waiting: list[Address] = []
        self._resolved, self._sort = resolved, sort
        self.reached: Address | None = None
        self._pending: dict[socket.socket, Address] = {}
        self._next_start: float | None = None
        self._last_error = OSError(errno.EHOSTUNREACH, "the name has no address")
        if unix_socket is not None:
            self._waiting.append(unix_address(unix_socket))
        elif is_address(host):
            self._waiting += _addresses_of(host, port)
        else:
            from mqttws.resolver import look_up  # not needed for an address

            self._lookup = look_up(host, port)
            self._lookup.watch(wake)

    def advance(self, now: float, ready: Iterable[socket.socket] = ()) -> socket.socket | None:
        """Use the result of the lookup, examine the sockets that are ready, and start the connections that are due.

        Args:
            now: Seconds.
            ready: The sockets that the poller has reported.

        Returns:
            A connected, non-blocking socket; None while there is none.

        Raises:
            OSError: The name does not exist, or every address has failed; the error is that of the last one.
        """
        if self._lookup is not None:
            outcome = self._lookup.outcome
            if outcome is None:
                return None
            if isinstance(outcome, OSError):
                raise outcome
            self._lookup = None
            self._resolved(now)
            self._waiting += self._sort(outcome)
        for candidate in self._pending.keys() & set(ready):
            entry = self._forget(candidate)
            code = candidate.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
            if code == 0:
                return self._reach(candidate, entry)
            candidate.close()
            self._last_error = OSError(code, os.strerror(code))
        while self._waiting and (not self._pending or self._next_start is None or now >= self._next_start):
            self._next_start = now + ATTEMPT_DELAY
            entry = self._waiting.pop(0)
            started = self._start(entry)
            if started is not None:
                return self._reach(started, entry)
        if not self._pending:
            raise self._last_error
        return None

    def next_deadline(self) -> float | None:
        """Return the latest time of the next call of `advance`; None for no limit."""
        return self._next_start if self._waiting else None

    def close(self) -> None:
        """Abandon the attempts in progress."""
        for candidate in list(self._pending):
            self._forget(candidate)
            candidate.close()

    def _reach(self, connected: socket.socket, entry: Address) -> socket.socket:
        if connected.family in (_socket.AF_INET, _socket.AF_INET6):
            connected.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        self.reached = entry
        return connected

    def _forget(self, candidate: socket.socket) -> Address:
        self._poller.watch(candidate, 0)
        return self._pending.pop(candidate)

    def _start(self, entry: Address) -> socket.socket | None:
        """Start connecting to one address. Return the socket if it is already connected: on one machine, most are."""
        family, protocol, address = entry
        candidate = None
        try:
            candidate = socket_module().socket(family, _socket.SOCK_STREAM, protocol)
            candidate.setblocking(False)
            if self._bind_address is not None:
                candidate.bind((self._bind_address, 0))
            code = candidate.connect_ex(address)
            if code not in _UNDER_WAY:
                raise OSError(code, os.strerror(code))
        except OSError as error:
            self._last_error = error
            if candidate is not None:
                candidate.close()
            return None
        started: socket.socket = candidate
        try:
            started.getpeername()
        except OSError:  # not connected yet
            self._pending[started] = entry
            self._poller.watch(started, WRITE)
            return None
        return started


def _addresses_of(host: str, port: int) -> list[Address]:
    """Return what the resolver would for an IP address, without the resolver for the usual form of IPv4.

    Raises:
        OSError: It is not a valid address.
    """
    try:
        _socket.inet_pton(_socket.AF_INET, host)
    except OSError:  # IPv6, or an old form such as 127.1
        from mqttws.resolver import resolve

        # As bytes, because a str would load the codec for international names, whose tables are large.
        return resolve(host.encode(), port)
    return [(_socket.AF_INET, _socket.IPPROTO_TCP, (host, port))]
