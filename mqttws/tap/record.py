"""A record: one unit of one layer, sent by one end of a connection. All views of a session are made from records.

The layers, from the lowest: `tcp`, a piece as it was read from the socket, after TLS; `http`, a head or a body;
`frame`, a WebSocket frame; `mqtt`, a packet; `other`, bytes that are none of these. A record lists the parts of lower
records that contain its bytes, so that each byte of a payload can be traced to the piece in which it arrived.
Expensive parts (fields, the descriptive line) are computed on demand, not while bytes are forwarded.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mqttws.codec.packet import Packet

CLIENT: Final = "client"
SERVER: Final = "server"
OTHER_END: Final = {CLIENT: SERVER, SERVER: CLIENT}

TCP: Final = "tcp"
HTTP: Final = "http"
FRAME: Final = "frame"
MQTT: Final = "mqtt"
OTHER: Final = "other"
LAYERS: Final = (TCP, HTTP, FRAME, MQTT, OTHER)


class Part(NamedTuple):
    """Bytes of a record of a lower layer.

    Attributes:
        record: its number.
        start: the offset of the first byte in it.
        size: how many bytes.
    """

    record: int
    start: int
    size: int


class Change(NamedTuple):
    """A change of the state of one end that a record causes.

    Attributes:
        end: "client" or "server".
        what: "connection", or a packet identifier with what this end does: "sends 7", "receives 7"; of SUBSCRIBE and
            UNSUBSCRIBE "requests 7", "answers 7".
        before: the state; "" for none.
        after: the state; "" for none.
    """

    end: str
    what: str
    before: str
    after: str


class Broken(NamedTuple):
    """A rule that a record breaks.

    Attributes:
        statement: the normative statement, such as "MQTT-3.3.1-4", or a section, such as "RFC 6455 §5.1".
        message: what was found, and what was expected.
    """

    statement: str
    message: str


class Span(NamedTuple):
    """Secret bytes of a record.

    Attributes:
        start: the offset of the first one.
        size: how many.
        key: the masking key that they are masked with, turned to the first one; empty for none.
    """

    start: int
    size: int
    key: bytes = b""


class Field(NamedTuple):
    """Some bytes of a record.

    Attributes:
        start: the offset of the first one in the record's bytes.
        size: how many.
        name: what they are, in the words of the standard.
        value: what they mean.
        key: what `explain` knows them by, such as "PUBLISH/Topic Name".
        secret: whether the value is hidden until it is asked for.
        bits: for a byte of flags: (name, number of bits, value), the highest first.
    """

    start: int
    size: int
    name: str
    value: int | str | bytes
    key: str
    secret: bool = False
    bits: tuple[tuple[str, int, int], ...] = ()


class Record:
    """One unit of one layer.

    Attributes:
        number: from 1, in the order in which the records were made, over all connections of a tap.
        time: seconds since the epoch, when its last byte was read.
        connection: from 1.
        sender: "client" or "server".
        layer: one of `LAYERS`.
        name: of its kind: "data", "FIN", "RST"; "GET", "101", "body"; "binary", "ping"; "PUBLISH".
        offset: of its first byte in the stream of its layer (`tcp`, `http` and `frame`: all that the sender sent;
            `mqtt` and `other` inside frames: all that the frames carried).
        size: how many bytes it has.
        data: those bytes; of a unit that is longer than what a reader keeps, the first ones. A frame's are as sent,
            masked or not.
        parts: where its bytes lie in the records of the next lower layer.
        packet: of the layer `mqtt`: the packet; None if it cannot be read.
        changes: what it means for either end.
        broken: the rules that it breaks.
        answers: the number of the record that it answers; 0 for none.
        round_trip: seconds since that one; 0 if it answers none.
        hidden: the bytes that are a secret: a password, a token, a signature.
        notes: what else is known of it, by name; texts and numbers.
    """

    __slots__ = (
        "answers",
        "broken",
        "changes",
        "connection",
        "data",
        "hidden",
        "layer",
        "name",
        "notes",
        "number",
        "offset",
        "packet",
        "parts",
        "round_trip",
        "sender",
        "size",
        "time",
    )

    def __init__(
        self,
        number: int,
        time: float,
        connection: int,
        sender: str,
        layer: str,
        name: str,
        offset: int,
        data: bytes,
        size: int,
        parts: tuple[Part, ...] = (),
    ) -> None:
        self.number = number
        self.time = time
        self.connection = connection
        self.sender = sender
        self.layer = layer
        self.name = name
        self.offset = offset
        self.data = data
        self.size = size
        self.parts = parts
        self.packet: Packet | None = None
        self.changes: tuple[Change, ...] = ()
        self.broken: tuple[Broken, ...] = ()
        self.answers = 0
        self.round_trip = 0.0
        self.hidden: tuple[Span, ...] = ()
        self.notes: dict[str, Any] = {}

    @property
    def cut(self) -> int:
        """How many of its last bytes are not kept."""
        return self.size - len(self.data)

    def __repr__(self) -> str:
        return f"<Record {self.number}: {self.sender} {self.layer} {self.name}, {self.size:,} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]
