"""The state of one client identifier: its session and, while the client is connected, its connection.

Spec: §3.1.2.4
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from mqttws.broker.hooks import Peer
from mqttws.broker.retained import Walk
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError
from mqttws.protocol.session import Session

#: Memory overhead in bytes: of a level of a Topic Filter, of a message that is queued or in flight, of a packet
#: identifier of QoS 2 that the client has not released, and of a QoS 0 packet that waits to be written.
LEVEL = 300
MESSAGE = 250
IDENTIFIER = 100
PACKET = 50


class SessionInfo(NamedTuple):
    """A description of a session.

    Attributes:
        client_id: The client identifier.
        connected: Whether the client is connected.
        address: IP address and port of the client's current or last connection.
        username: The user name of the client; None if there is none.
        subscriptions: Topic Filter -> granted QoS.
        waiting: The number of messages that wait for the client.
        in_flight: The number of QoS 1 and 2 messages that the client has not acknowledged.
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
        """Return the description of a subscriber.

        Args:
            subscriber: The subscriber.
        """
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
    """The interface of an open connection for the router."""

    @property
    def held(self) -> int:
        """The number of bytes that wait to be sent."""

    def send(self, packets: bytes) -> bool:
        """Send PUBLISH packets of QoS 0. Return False if the client reads too slowly and they are dropped."""

    def wake(self) -> None:
        """Schedule a write, because the session has something to send."""

    def end(self, error: MQTTError) -> None:
        """Close the connection.

        `Registry.detach` has been called when this returns, unless the caller is handling an event of this connection,
        such as a PUBLISH that its own client would receive: then that event and those after it are handled first.
        """


class Subscriber:
    """The state of one client identifier.

    Attributes:
        client_id: The client identifier.
        session: Queued and in-flight messages, and the subscriptions.
        owner: The owner of the session; None if it has none.
        peer: The current connection, or what is kept of the last one.
        known: Whether the client has connected to this process; False for a session from a store until then.
        clean_session: Whether the session ends with the connection.
        will: Published when the connection ends without a DISCONNECT.
        outlet: The connection; None while the client is disconnected.
        expiry: Seconds to keep the session after the connection; None keeps it without limit.
        overflowing: Whether the last message for the client was dropped because of a limit.
        levels: The number of levels of all Topic Filters together.
        filter_bytes: The bytes of all Topic Filters together.
        due: Topic Filter -> the QoS granted to each subscription whose retained messages have not been sent yet.
        walk: The search for the retained messages of one subscription; None if there is none.
        walk_filter: The Topic Filter of that subscription.
        walk_qos: The QoS granted to it.
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
        self.due: dict[str, tuple[int, ...]] = {}
        self.walk: Walk | None = None
        self.walk_filter = ""
        self.walk_qos = 0

    @property
    def has_retained(self) -> bool:
        """Whether retained messages for subscriptions are still to be sent."""
        return self.walk is not None or bool(self.due)

    @property
    def empty(self) -> bool:
        """Whether no message is queued for the client or in flight in either direction."""
        return not len(self.session.sender) and not len(self.session.receiver)

    @property
    def size(self) -> int:
        """The memory in bytes of messages, Topic Filters and packet identifiers, and of the user name."""
        sender = self.session.sender
        size = sender.size + len(sender) * MESSAGE + len(self.session.receiver) * IDENTIFIER
        size += self.filter_bytes + self.levels * LEVEL
        if self.peer.username is not None and not self.clean_session:
            size += len(self.peer.username.encode())
        return size if self.outlet is None else size + self.outlet.held
