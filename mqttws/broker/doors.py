"""Admission of connections: limits in total and for each address, which apply from the first byte to the last.

A connection without a CONNACK 0 is called a stranger. Strangers have limits for each address and for the bytes that are
buffered for all of them. Beyond a limit, or if the broker is full, the oldest stranger is closed. A new connection is
refused only if there is no stranger: a client that has been accepted is never closed for a stranger.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar

from mqttws.broker.limits import Limits


class Visitor(Protocol):
    """The interface of a connection for its admission."""

    def turn_out(self, reason: str) -> None:
        """Drop the connection; `Doors.leave` has been called when this returns."""


V = TypeVar("V", bound=Visitor)


class Doors(Generic[V]):
    """The connections of one broker.

    Args:
        limits: The limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._hosts: dict[V, str] = {}
        self._by_address: Counter[str] = Counter()
        self._strangers: dict[V, int] = {}  # the oldest first -> the bytes buffered for it
        self._strangers_by_address: dict[str, dict[V, None]] = {}
        self._held = 0

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._hosts)

    @property
    def all(self) -> list[V]:
        """Every connection."""
        return list(self._hosts)

    def admit(self, visitor: V, host: str) -> str | None:
        """Admit a connection. Return the reason for refusing it, or None; call leave() when an admitted one ends."""
        limits = self._limits
        strangers = self._strangers_by_address.get(host)
        if strangers is not None and len(strangers) >= limits.max_pending_per_address:
            next(iter(strangers)).turn_out(f"{len(strangers):,} connections from this address have sent no CONNECT")
        most = limits.max_connections_per_address
        if most is not None and self._by_address[host] >= most:
            strangers = self._strangers_by_address.get(host)
            if not strangers:
                return f"{most:,} connections from this address are already open"
            next(iter(strangers)).turn_out(
                f"{most:,} connections from this address are open, and it has sent no CONNECT"
            )
        if len(self._hosts) >= limits.max_connections:
            if not self._strangers:
                return f"{len(self._hosts):,} clients are already connected"
            next(iter(self._strangers)).turn_out("the broker is full, and it has sent no CONNECT")
        self._hosts[visitor] = host
        self._by_address[host] += 1
        self._strangers[visitor] = 0
        self._strangers_by_address.setdefault(host, {})[visitor] = None
        return None

    def hold(self, visitor: V, size: int) -> None:
        """Record how many bytes are buffered for a stranger. Beyond the limit for all, close the oldest ones."""
        if visitor not in self._strangers:
            return
        self._held += size - self._strangers[visitor]
        self._strangers[visitor] = size
        while self._held > self._limits.max_pending_bytes:
            oldest = next(other for other, held in self._strangers.items() if held)
            oldest.turn_out("too many bytes are buffered for connections without a CONNACK")

    def accept(self, visitor: V) -> None:
        """Record that a stranger has been accepted as a client."""
        self._held -= self._strangers.pop(visitor, 0)
        host = self._hosts[visitor]
        strangers = self._strangers_by_address.get(host, {})
        strangers.pop(visitor, None)
        if not strangers:
            self._strangers_by_address.pop(host, None)

    def leave(self, visitor: V) -> None:
        """Record that an admitted connection has ended."""
        self.accept(visitor)
        host = self._hosts.pop(visitor)
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]
