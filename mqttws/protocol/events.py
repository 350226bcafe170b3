"""What a user of a `Connection` learns.

An Application Message that arrives is told by its `Publish` packet itself; everything else by a class of this
page. `Closed` is always the last event of a connection, and there is always one.
"""

from __future__ import annotations

from dataclasses import dataclass

from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Publish
from mqttws.codec.subscribing import Subscribe, Unsubscribe
from mqttws.errors import MQTTError


@dataclass(slots=True)
class Closed:
    """The connection is over.

    Attributes:
        error: why; None after an orderly end: our own DISCONNECT, or (to a server) the client's.
    """

    error: MQTTError | None


@dataclass(slots=True)
class Delivered:
    """Messages of ours of QoS 1 or 2 are acknowledged in full.

    Attributes:
        tokens: what `publish` returned for them, at least one.
    """

    tokens: list[int]


@dataclass(slots=True)
class Sent:
    """Messages of ours of QoS 0 are handed to the network: all that were published up to one of them.

    Attributes:
        token: what `publish` returned for that one.
    """

    token: int


# To a client only.


@dataclass(slots=True)
class Expired:
    """Messages of ours have waited to be sent for as long as they may; they will not be.

    Attributes:
        tokens: what `publish` returned for them, at least one.
    """

    tokens: list[int]


@dataclass(slots=True)
class Connected:
    """The server accepted the CONNECT.

    Attributes:
        session_present: whether the server had kept the session. Spec: §3.2.2.2
    """

    session_present: bool


@dataclass(slots=True)
class Subscribed:
    """A SUBACK arrived, or the server ends the connection each time it is asked for one.

    Attributes:
        token: what `subscribe` returned; None where the connection itself restored a subscription.
        return_codes: (Topic Filter, 0, 1, 2 or 0x80) pairs, in the order asked; 0x80 also for one over which the
            server ends the connection.
    """

    token: int | None
    return_codes: tuple[tuple[str, int], ...]


@dataclass(slots=True)
class Skipped:
    """A message came that is larger than `max_packet_size`. It was acknowledged, and its payload was not kept.

    Attributes:
        topic: its Topic Name.
        size: bytes of its PUBLISH.
    """

    topic: str
    size: int


@dataclass(slots=True)
class Stalled:
    """No acknowledgement has come for a while, though some are due. The server has been pinged.

    Attributes:
        count: how many are due.
        seconds: since when.
    """

    count: int
    seconds: float


@dataclass(slots=True)
class Rejected:
    """A message was given up: the server ends the connection each time it is sent. `Closed` follows.

    Attributes:
        token: what `publish` returned for it.
        topic: its Topic Name.
        size: bytes of its topic and payload.
    """

    token: int
    topic: str
    size: int


@dataclass(slots=True)
class Unsubscribed:
    """An UNSUBACK arrived, or the server ends the connection each time it is asked for one.

    Attributes:
        token: what `unsubscribe` returned.
        return_codes: (Topic Filter, return code) pairs, in the order asked: 0, or 0x80 for one over which the server
            ends the connection.
    """

    token: int
    return_codes: tuple[tuple[str, int], ...]


# To a server only.


@dataclass(slots=True)
class UpgradeRequested:
    """A client asks for the WebSocket: call `accept_upgrade` or `reject_upgrade`.

    Attributes:
        target: the request target as received: path and query.
        headers: (name in lower case, value) pairs as received, Host included.
        subprotocol: the one that will be spoken: "mqtt" or "mqttv3.1".
    """

    target: str
    headers: tuple[tuple[str, str], ...]
    subprotocol: str

    def __repr__(self) -> str:
        return f"UpgradeRequested(path={self.target.partition('?')[0]!r}, subprotocol={self.subprotocol!r})"


@dataclass(slots=True)
class ConnectReceived:
    """A client's CONNECT: call `accept` or `refuse`. What it sends meanwhile waits."""

    connect: Connect


@dataclass(slots=True)
class SubscribeReceived:
    """A client's SUBSCRIBE: call `suback`."""

    subscribe: Subscribe


@dataclass(slots=True)
class UnsubscribeReceived:
    """A client's UNSUBSCRIBE: call `unsuback`."""

    unsubscribe: Unsubscribe


Event = (
    Publish
    | Delivered
    | Sent
    | Closed
    | Connected
    | Expired
    | Subscribed
    | Rejected
    | Skipped
    | Stalled
    | Unsubscribed
    | UpgradeRequested
    | ConnectReceived
    | SubscribeReceived
    | UnsubscribeReceived
)
