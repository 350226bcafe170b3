"""Admission of connections: limits in total and for each address, which apply from the first byte to the last.

A connection is pending until it gets a CONNACK 0. Pending connections have limits for each address and for the bytes
that are buffered for all of them. Beyond a limit, or if the broker is full, the oldest pending connection is closed. A
new connection is refused only if none is pending: a client that has been accepted is never closed for a pending one.
"""

from __future__ import annotations

from collections import Counter
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
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._hosts: dict[C, str] = {}
        self._by_address: Counter[str] = Counter()
        self._pending: dict[C, int] = {}  # the oldest first -> the bytes buffered for it
        self._pending_by_address: dict[str, dict[C, None]] = {}
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
            next(iter(pending)).evict(f"{len(pending):,} connections from this address have sent no CONNECT")
        most = limits.max_connections_per_address
        if most is not None and self._by_address[host] >= most:
            pending = self._pending_by_address.get(host)
            if not pending:
                return f"{most:,} connections from this address are already open"
            next(iter(pending)).evict(f"{most:,} connections from this address are open, and it has sent no CONNECT")
        if len(self._hosts) >= limits.max_connections:
            if not self._pending:
                return f"{len(self._hosts):,} clients are already connected"
            next(iter(self._pending)).evict("the broker is full, and it has sent no CONNECT")
        self._hosts[connection] = host
        self._by_address[host] += 1
        self._pending[connection] = 0
        self._pending_by_address.setdefault(host, {})[connection] = None
        return None

    def hold(self, connection: C, size: int) -> None:
        """Record the bytes buffered for a pending connection. Beyond the limit for all, close the oldest ones."""
        if connection not in self._pending:
            return
        self._held += size - self._pending[connection]
        self._pending[connection] = size
        while self._held > self._limits.max_pending_bytes:
            oldest = next(other for other, held in self._pending.items() if held)
            oldest.evict("too many bytes are buffered for connections without a CONNACK")

    def accept(self, connection: C) -> None:
        """Record that a pending connection has been accepted as a client."""
        self._held -= self._pending.pop(connection, 0)
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
