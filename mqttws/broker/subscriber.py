"""One client identifier, as the router knows it: its session, and the connection it is reached by, if any.

Spec: §3.1.2.4
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from mqttws.broker.hooks import Peer
from mqttws.broker.retained import Walk
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError
from mqttws.protocol.session import Session

#: What a session counts for in memory beside what its bounds count in bytes: a level of a Topic Filter, a message that
#: waits or is in flight, a packet identifier of QoS 2 that the client has not released.
LEVEL = 300
MESSAGE = 250
IDENTIFIER = 150


class SessionInfo(NamedTuple):
    """What there is to know of a session.

    Attributes:
        client_id: the client identifier.
        connected: whether there is a connection now.
        address: IP address and port of the client, of the last time where it is away.
        username: of the client; None for none.
        subscriptions: Topic Filter -> QoS granted.
        waiting: how many messages wait for it.
        in_flight: how many messages of QoS 1 and 2 it has not acknowledged.
    """

    client_id: str
    connected: bool
    address: tuple[str, int]
    username: str | None
    subscriptions: dict[str, int]
    waiting: int
    in_flight: int

    @classmethod
    def of(cls, subscriber: Subscriber) -> SessionInfo:
        """Describe a subscriber."""
        peer, session = subscriber.peer, subscriber.session
        return cls(
            subscriber.client_id,
            subscriber.outlet is not None,
            peer.address,
            peer.username,
            dict(session.subscriptions),
            session.sender.waiting,
            session.sender.in_flight,
        )


class Outlet(Protocol):
    """A live connection, as the router sees it."""

    @property
    def held(self) -> int:
        """How many bytes wait in it to be sent."""

    def send(self, packets: bytes) -> bool:
        """Send PUBLISH packets of QoS 0. Returns False where the client reads too slowly and they are dropped."""

    def wake(self) -> None:
        """Take the news that the session has something to send."""

    def end(self, error: MQTTError) -> None:
        """End the connection; `Router.detach` has been called when this returns."""


class Subscriber:
    """What is known of one client identifier.

    Attributes:
        client_id: the identifier.
        session: what is on its way to and from it, and its subscriptions.
        owner: whose session it is; None for nobody's in particular.
        peer: its connection, or what is kept of its last one.
        known: whether the authenticator has seen the client in the time of this process: not where its session comes
            from a store and it has not been back.
        clean_session: whether the session ends with the connection.
        will: published when the connection ends without a DISCONNECT.
        outlet: its connection; None while it is away.
        expiry: seconds to keep the session after the connection; None for ever.
        overflowing: whether the last message for it was dropped because of a bound.
        levels: of its Topic Filters, taken together.
        filter_bytes: of the same.
        due: Topic Filter -> QoS granted, for subscriptions that have still to bring retained messages.
        walk: how far one of them has come with that; None for none.
        walk_filter: that Topic Filter.
        walk_qos: the QoS granted to it.
    """

    __slots__ = (
        "clean_session",
        "client_id",
        "due",
        "expiry",
        "filter_bytes",
        "known",
        "levels",
        "outlet",
        "overflowing",
        "owner",
        "peer",
        "session",
        "walk",
        "walk_filter",
        "walk_qos",
        "will",
    )

    def __init__(self, client_id: str, session: Session, owner: str | None, peer: Peer) -> None:
        self.client_id = client_id
        self.session = session
        self.owner = owner
        self.peer = peer
        self.clean_session = True
        self.will: Message | None = None
        self.outlet: Outlet | None = None
        self.expiry: float | None = None
        self.overflowing = False
        self.known = True
        self.levels = 0
        self.filter_bytes = 0
        self.due: dict[str, int] = {}
        self.walk: Walk | None = None
        self.walk_filter = ""
        self.walk_qos = 0

    @property
    def bringing(self) -> bool:
        """Whether there are subscriptions that have still to bring retained messages."""
        return self.walk is not None or bool(self.due)

    @property
    def empty(self) -> bool:
        """Whether nothing waits for the client, or is on its way to it or from it."""
        return not len(self.session.sender) and not len(self.session.receiver)

    @property
    def size(self) -> int:
        """How many bytes it takes: what waits for it and is in flight, its Topic Filters, its packet identifiers."""
        sender = self.session.sender
        size = sender.size + len(sender) * MESSAGE + len(self.session.receiver) * IDENTIFIER
        size += self.filter_bytes + self.levels * LEVEL
        return size if self.outlet is None else size + self.outlet.held
