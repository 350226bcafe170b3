"""Admission of connections: limits in total and for each address, which apply from the first byte to the last.

A connection is pending until it gets a CONNACK 0. Pending connections have limits for each address and for the bytes
that are buffered for all of them. Beyond a limit of connections, the oldest pending connection is closed; one whose
CONNECT waits for an answer of a hook only if there is no other. Beyond the limit of bytes, the one with the most bytes
is closed. A new connection is refused only if none is pending: a client that has been accepted is never closed for a
pending one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import inf
from typing import Generic, Protocol, TypeVar

from mqttws.broker.limits import Limits


class Connection(Protocol):
    """The interface that `Admission` needs of a connection."""

    def evict(self, reason: str) -> None:
        """Drop the connection; `Admission.leave` has been called when this returns."""


C = TypeVar("C", bound=Connection)


class Admission(Generic[C]):
    """The connections of one broker.

    Args:
        limits: The limits.
        most: How many connections the system allows.
    """

    def __init__(self, limits: Limits, most: float = inf) -> None:
        self._limits = limits
        self._most = min(limits.max_connections, most)
        self._hosts: dict[C, str] = {}
        self._by_address: Counter[str] = Counter()
        self._pending: dict[C, int] = {}  # the oldest first -> the bytes buffered for it
        self._pending_by_address: dict[str, dict[C, None]] = {}
        self._silent: dict[C, None] = {}  # those of them whose CONNECT has not arrived
        self._held = 0

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._hosts)

    @property
    def all(self) -> list[C]:
        """Every connection."""
        return list(self._hosts)

    def admit(self, connection: C, host: str) -> str | None:
        """Admit a connection. Return the reason for refusing it, or None; call leave() when an admitted one ends."""
        limits = self._limits
        pending = self._pending_by_address.get(host)
        if pending is not None and len(pending) >= limits.max_pending_per_address:
            self._evict(pending, f"{len(pending):,} connections from this address wait to be accepted")
        most = limits.max_connections_per_address
        if most is not None and self._by_address[host] >= most:
            pending = self._pending_by_address.get(host)
            if not pending:
                return f"{most:,} connections from this address are already open"
            self._evict(pending, f"{most:,} connections from this address are open")
        if len(self._hosts) >= self._most:
            if not self._pending:
                return f"{len(self._hosts):,} clients are already connected"
            self._evict(self._silent or self._pending, "the broker is full")
        self._hosts[connection] = host
        self._by_address[host] += 1
        self._pending[connection] = 0
        self._silent[connection] = None
        self._pending_by_address.setdefault(host, {})[connection] = None
        return None

    def _evict(self, connections: Iterable[C], reason: str) -> None:
        """Close the oldest of some pending connections; one whose CONNECT has arrived only if there is no other."""
        silent = next(filter(self._silent.__contains__, connections), None)
        if silent is not None:
            silent.evict(f"{reason}, and it has sent no CONNECT")
        else:
            next(iter(connections)).evict(f"{reason}, and its CONNECT has not been answered")

    def asked(self, connection: C) -> None:
        """Record that a hook was asked about a pending connection's CONNECT."""
        self._silent.pop(connection, None)

    def hold(self, connection: C, size: int) -> None:
        """Record the bytes buffered for a pending connection. Beyond the limit for all, close those with the most."""
        if connection not in self._pending:
            return
        self._held += size - self._pending[connection]
        self._pending[connection] = size
        while self._held > self._limits.max_pending_bytes:
            # Not the oldest: it may be a client with a small CONNECT that waits for the authenticator.
            most = max(self._pending, key=self._pending.__getitem__)
            most.evict("too many bytes are buffered for connections without a CONNACK")

    def accept(self, connection: C) -> None:
        """Record that a pending connection has been accepted as a client."""
        self._held -= self._pending.pop(connection, 0)
        self._silent.pop(connection, None)
        host = self._hosts[connection]
        pending = self._pending_by_address.get(host, {})
        pending.pop(connection, None)
        if not pending:
            self._pending_by_address.pop(host, None)

    def leave(self, connection: C) -> None:
        """Record that an admitted connection has ended."""
        self.accept(connection)
        host = self._hosts.pop(connection)
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]
