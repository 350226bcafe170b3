"""One client identifier, as the router knows it: its session, and the connection it is reached by, if any.

Spec: §3.1.2.4
"""

from __future__ import annotations

from typing import Protocol

from mqttws.broker.hooks import Peer
from mqttws.codec.publishing import Message
from mqttws.errors import MQTTError
from mqttws.protocol.session import Session


class Outlet(Protocol):
    """A live connection, as the router sees it."""

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
        peer: its connection, or its last one.
        clean_session: whether the session ends with the connection.
        will: published when the connection ends without a DISCONNECT.
        outlet: its connection; None while it is away.
        expiry: seconds to keep the session after the connection; None for ever.
        overflowing: whether the last message for it was dropped because of a bound.
        levels: of its Topic Filters, taken together.
        due: Topic Filter -> QoS granted, for subscriptions that have still to bring retained messages.
        arriving: the retained messages that one of them brings and that are still to be sent, the first one last.
        arriving_filter: that Topic Filter.
        arriving_qos: the QoS granted to it.
    """

    __slots__ = (
        "arriving",
        "arriving_filter",
        "arriving_qos",
        "clean_session",
        "client_id",
        "due",
        "expiry",
        "levels",
        "outlet",
        "overflowing",
        "owner",
        "peer",
        "session",
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
        self.levels = 0
        self.due: dict[str, int] = {}
        self.arriving: list[Message] = []
        self.arriving_filter = ""
        self.arriving_qos = 0
