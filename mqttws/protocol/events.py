"""What a user of a `Connection` learns.

An Application Message that arrives is told by its `Publish` packet itself; everything else by a class of this
page. `Closed` is always the last event of a connection, and there is always one.
"""

from __future__ import annotations

from mqttws.codec.connecting import Connect
from mqttws.codec.packet import Value
from mqttws.codec.publishing import Publish
from mqttws.codec.subscribing import Subscribe, Unsubscribe
from mqttws.errors import MQTTError


class Closed(Value):
    """The connection is over.

    Attributes:
        error: why; None after an orderly end: our own DISCONNECT, or (to a server) the client's.
    """

    __slots__ = ("error",)
    __match_args__ = ("error",)

    def __init__(self, error: MQTTError | None) -> None:
        self.error = error


class Delivered(Value):
    """Messages of ours of QoS 1 or 2 are acknowledged in full.

    Attributes:
        tokens: what `publish` returned for them, at least one.
    """

    __slots__ = ("tokens",)
    __match_args__ = ("tokens",)

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens


class Sent(Value):
    """Messages of ours of QoS 0 are handed to the network: all that were published up to one of them.

    Attributes:
        token: what `publish` returned for that one.
    """

    __slots__ = ("token",)
    __match_args__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token = token


# To a client only.


class Expired(Value):
    """Messages of ours have waited to be sent for as long as they may; they will not be.

    Attributes:
        tokens: what `publish` returned for them, at least one.
    """

    __slots__ = ("tokens",)
    __match_args__ = ("tokens",)

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens


class Connected(Value):
    """The server accepted the CONNECT.

    Attributes:
        session_present: whether the server had kept the session. Spec: §3.2.2.2
    """

    __slots__ = ("session_present",)
    __match_args__ = ("session_present",)

    def __init__(self, session_present: bool) -> None:
        self.session_present = session_present


class Subscribed(Value):
    """A SUBACK arrived, or the server ends the connection each time it is asked for one.

    Attributes:
        token: what `subscribe` returned; None where the connection itself restored a subscription.
        return_codes: (Topic Filter, 0, 1, 2 or 0x80) pairs, in the order asked; 0x80 also for one over which the
            server ends the connection.
    """

    __slots__ = ("return_codes", "token")
    __match_args__ = ("token", "return_codes")

    def __init__(self, token: int | None, return_codes: tuple[tuple[str, int], ...]) -> None:
        self.token = token
        self.return_codes = return_codes


class Skipped(Value):
    """A message came that is larger than `max_packet_size`. It was acknowledged, and its payload was not kept.

    Attributes:
        topic: its Topic Name.
        size: bytes of its PUBLISH.
    """

    __slots__ = ("size", "topic")
    __match_args__ = ("topic", "size")

    def __init__(self, topic: str, size: int) -> None:
        self.topic = topic
        self.size = size


class Stalled(Value):
    """No acknowledgement has come for a while, though some are due. The server has been pinged.

    Attributes:
        count: how many are due.
        seconds: since when.
    """

    __slots__ = ("count", "seconds")
    __match_args__ = ("count", "seconds")

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.seconds = seconds


class Rejected(Value):
    """A message was given up: the server ends the connection each time it is sent. `Closed` follows.

    Attributes:
        token: what `publish` returned for it.
        topic: its Topic Name.
        size: bytes of its topic and payload.
    """

    __slots__ = ("size", "token", "topic")
    __match_args__ = ("token", "topic", "size")

    def __init__(self, token: int, topic: str, size: int) -> None:
        self.token = token
        self.topic = topic
        self.size = size


class Unsubscribed(Value):
    """An UNSUBACK arrived, or the server ends the connection each time it is asked for one.

    Attributes:
        token: what `unsubscribe` returned.
        return_codes: (Topic Filter, return code) pairs, in the order asked: 0, or 0x80 for one over which the server
            ends the connection.
    """

    __slots__ = ("return_codes", "token")
    __match_args__ = ("token", "return_codes")

    def __init__(self, token: int, return_codes: tuple[tuple[str, int], ...]) -> None:
        self.token = token
        self.return_codes = return_codes


# To a server only.


class UpgradeRequested(Value):
    """A client asks for the WebSocket: call `accept_upgrade` or `reject_upgrade`.

    Attributes:
        target: the request target as received: path and query.
        headers: (name in lower case, value) pairs as received, Host included.
        subprotocol: the one that will be spoken: "mqtt" or "mqttv3.1".
    """

    __slots__ = ("headers", "subprotocol", "target")
    __match_args__ = ("target", "headers", "subprotocol")

    def __init__(self, target: str, headers: tuple[tuple[str, str], ...], subprotocol: str) -> None:
        self.target = target
        self.headers = headers
        self.subprotocol = subprotocol

    def __repr__(self) -> str:
        return f"UpgradeRequested(path={self.target.partition('?')[0]!r}, subprotocol={self.subprotocol!r})"


class ConnectReceived(Value):
    """A client's CONNECT: call `accept` or `refuse`. What it sends meanwhile waits."""

    __slots__ = ("connect",)
    __match_args__ = ("connect",)

    def __init__(self, connect: Connect) -> None:
        self.connect = connect


class SubscribeReceived(Value):
    """A client's SUBSCRIBE: call `suback`."""

    __slots__ = ("subscribe",)
    __match_args__ = ("subscribe",)

    def __init__(self, subscribe: Subscribe) -> None:
        self.subscribe = subscribe


class UnsubscribeReceived(Value):
    """A client's UNSUBSCRIBE: call `unsuback`."""

    __slots__ = ("unsubscribe",)
    __match_args__ = ("unsubscribe",)

    def __init__(self, unsubscribe: Unsubscribe) -> None:
        self.unsubscribe = unsubscribe


# From a framing to its connection: see `mqttws.protocol.plain`.


class Opened(Value):
    """MQTT packets may be exchanged from now on."""

    __slots__ = ()


class Ended(Value):
    """Nothing more will arrive.

    Attributes:
        error: the reason; a `ConnectionClosed` if the peer closed the WebSocket in order.
    """

    __slots__ = ("error",)
    __match_args__ = ("error",)

    def __init__(self, error: MQTTError) -> None:
        self.error = error


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
