"""Who is let in: connections, counted from their first byte to their last.

A connection that has not been accepted as a client's (no CONNACK 0 yet) is a stranger's. Strangers have bounds for each
address and for what they hold together; beyond these, and where the broker is full, the stranger that has been there
longest makes way. Only where there is no stranger to go is a new connection refused: a client never is for a stranger.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar

from mqttws.broker.limits import Limits


class Visitor(Protocol):
    """A connection, as the doors see it."""

    def turn_out(self, reason: str) -> None:
        """Drop the connection; `Doors.leave` has been called when this returns."""


V = TypeVar("V", bound=Visitor)


class Doors(Generic[V]):
    """The connections of one broker.

    Args:
        limits: the bounds.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._hosts: dict[V, str] = {}
        self._by_address: Counter[str] = Counter()
        self._strangers: dict[V, int] = {}  # in the order of their coming -> the bytes that each holds
        self._strangers_by_address: dict[str, dict[V, None]] = {}
        self._held = 0

    def __len__(self) -> int:
        """Count the connections."""
        return len(self._hosts)

    @property
    def all(self) -> list[V]:
        """Every connection."""
        return list(self._hosts)

    def admit(self, visitor: V, host: str) -> str | None:
        """Let a new connection in. Returns why not, where it may not; else `leave` must follow one day."""
        limits = self._limits
        strangers = self._strangers_by_address.get(host)
        if strangers is not None and len(strangers) >= limits.max_pending_per_address:
            next(iter(strangers)).turn_out(f"{len(strangers):,} connections from its address have sent no CONNECT")
        most = limits.max_connections_per_address
        if most is not None and self._by_address[host] >= most:
            strangers = self._strangers_by_address.get(host)
            if not strangers:
                return f"{most:,} connections are open from this address already"
            next(iter(strangers)).turn_out(
                f"{most:,} connections are open from its address, and it has sent no CONNECT"
            )
        if len(self._hosts) >= limits.max_connections:
            if not self._strangers:
                return f"{len(self._hosts):,} clients are connected already"
            next(iter(self._strangers)).turn_out("the broker is full, and it has sent no CONNECT")
        self._hosts[visitor] = host
        self._by_address[host] += 1
        self._strangers[visitor] = 0
        self._strangers_by_address.setdefault(host, {})[visitor] = None
        return None

    def hold(self, visitor: V, size: int) -> None:
        """Note how many bytes a stranger holds. Beyond the bound for all, those that came first are turned out."""
        if visitor not in self._strangers:
            return
        self._held += size - self._strangers[visitor]
        self._strangers[visitor] = size
        while self._held > self._limits.max_pending_bytes:
            oldest = next(other for other, held in self._strangers.items() if held)
            oldest.turn_out("connections without a CONNACK hold too many bytes")

    def accept(self, visitor: V) -> None:
        """Note that a stranger has become a client."""
        self._held -= self._strangers.pop(visitor, 0)
        host = self._hosts[visitor]
        strangers = self._strangers_by_address.get(host, {})
        strangers.pop(visitor, None)
        if not strangers:
            self._strangers_by_address.pop(host, None)

    def leave(self, visitor: V) -> None:
        """Note that a connection that was admitted is gone."""
        self.accept(visitor)
        host = self._hosts.pop(visitor)
        self._by_address[host] -= 1
        if not self._by_address[host]:
            del self._by_address[host]
