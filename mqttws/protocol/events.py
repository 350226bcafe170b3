"""The events that a `Connection` reports.

A received Application Message is reported as its `Publish` packet, everything else as an instance of a class of this
module. `Closed` is always the last event of a connection.
"""

from __future__ import annotations

from mqttws.codec.connecting import Connect
from mqttws.codec.packet import Value
from mqttws.codec.publishing import Publish
from mqttws.codec.subscribing import Subscribe, Unsubscribe
from mqttws.errors import MQTTError


class Closed(Value):
    """The connection has ended.

    Attributes:
        error: The reason; None after a DISCONNECT that a client sent or a server received.
    """

    __slots__ = ("error",)
    __match_args__ = ("error",)

    def __init__(self, error: MQTTError | None) -> None:
        self.error = error


class Delivered(Value):
    """Published QoS 1 or 2 messages were completely acknowledged.

    Attributes:
        tokens: The tokens that `publish` returned for them, at least one.
    """

    __slots__ = ("tokens",)
    __match_args__ = ("tokens",)

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens


class Sent(Value):
    """Published QoS 0 messages were sent: all those up to a token.

    Attributes:
        token: The token that `publish` returned for the last of them.
    """

    __slots__ = ("token",)
    __match_args__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token = token


# To a client only.


class Expired(Value):
    """Published messages expired in the queue and will not be sent.

    Attributes:
        tokens: The tokens that `publish` returned for them, at least one.
    """

    __slots__ = ("tokens",)
    __match_args__ = ("tokens",)

    def __init__(self, tokens: list[int]) -> None:
        self.tokens = tokens


class Connected(Value):
    """The server accepted the CONNECT.

    Attributes:
        session_present: Whether the server has stored the session. Spec: §3.2.2.2.
    """

    __slots__ = ("session_present",)
    __match_args__ = ("session_present",)

    def __init__(self, session_present: bool) -> None:
        self.session_present = session_present


class Subscribed(Value):
    """A SUBACK arrived, or the server closes the connection each time it receives the SUBSCRIBE.

    Attributes:
        token: The token that `subscribe` returned; None if the connection itself restored the subscriptions.
        return_codes: Pairs of a Topic Filter and 0, 1, 2 or 0x80, in the requested order. 0x80 also marks a Topic
            Filter whose SUBSCRIBE the server answers by closing the connection.
    """

    __slots__ = ("return_codes", "token")
    __match_args__ = ("token", "return_codes")

    def __init__(self, token: int | None, return_codes: tuple[tuple[str, int], ...]) -> None:
        self.token = token
        self.return_codes = return_codes


class Skipped(Value):
    """A message larger than `max_packet_size` was received. It was acknowledged, and its payload was discarded.

    Attributes:
        topic: Its Topic Name.
        size: The size of its PUBLISH in bytes.
    """

    __slots__ = ("size", "topic")
    __match_args__ = ("topic", "size")

    def __init__(self, topic: str, size: int) -> None:
        self.topic = topic
        self.size = size


class Stalled(Value):
    """Acknowledgements are due, but none has arrived for some time. A PINGREQ has been sent.

    Attributes:
        count: The number of acknowledgements that are due.
        seconds: The time without any acknowledgement.
    """

    __slots__ = ("count", "seconds")
    __match_args__ = ("count", "seconds")

    def __init__(self, count: int, seconds: float) -> None:
        self.count = count
        self.seconds = seconds


class Rejected(Value):
    """A message will not be sent again: the server closes the connection each time it is sent. `Closed` follows.

    Attributes:
        token: The token that `publish` returned for it.
        topic: Its Topic Name.
        size: The size of its topic and payload in bytes.
    """

    __slots__ = ("size", "token", "topic")
    __match_args__ = ("token", "topic", "size")

    def __init__(self, token: int, topic: str, size: int) -> None:
        self.token = token
        self.topic = topic
        self.size = size


class Unsubscribed(Value):
    """An UNSUBACK arrived, or the server closes the connection each time it receives the UNSUBSCRIBE.

    Attributes:
        token: The token that `unsubscribe` returned.
        return_codes: Pairs of a Topic Filter and a return code, in the requested order: 0, or 0x80 for a Topic Filter
            whose UNSUBSCRIBE the server answers by closing the connection.
    """

    __slots__ = ("return_codes", "token")
    __match_args__ = ("token", "return_codes")

    def __init__(self, token: int, return_codes: tuple[tuple[str, int], ...]) -> None:
        self.token = token
        self.return_codes = return_codes


# To a server only.


class UpgradeRequested(Value):
    """A client requests the WebSocket upgrade: call `accept_upgrade` or `reject_upgrade`.

    Attributes:
        target: The request target as received: path and query.
        headers: (name in lower case, value) pairs as received, Host included.
        subprotocol: The selected subprotocol: "mqtt" or "mqttv3.1".
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
    """A client's CONNECT: call `accept` or `refuse`. Until then, further data from the client is held.

    Attributes:
        connect: The packet.
    """

    __slots__ = ("connect",)
    __match_args__ = ("connect",)

    def __init__(self, connect: Connect) -> None:
        self.connect = connect


class SubscribeReceived(Value):
    """A client's SUBSCRIBE: call `suback`.

    Attributes:
        subscribe: The packet.
    """

    __slots__ = ("subscribe",)
    __match_args__ = ("subscribe",)

    def __init__(self, subscribe: Subscribe) -> None:
        self.subscribe = subscribe


class UnsubscribeReceived(Value):
    """A client's UNSUBSCRIBE: call `unsuback`.

    Attributes:
        unsubscribe: The packet.
    """

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
        error: The reason; a `ConnectionClosed` if the peer closed the WebSocket cleanly.
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
