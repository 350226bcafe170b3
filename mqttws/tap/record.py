"""The record: one unit of one layer, sent by one end of a connection. All output of the tap is made from records.

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
        record: The number of that record.
        start: The offset of the first byte in it.
        size: The number of bytes.
    """

    record: int
    start: int
    size: int


class Change(NamedTuple):
    """A change of the state of one end that a record causes.

    Attributes:
        end: "client" or "server".
        what: "connection", or the role of this end and a packet identifier: "sends 7", "receives 7"; for SUBSCRIBE and
            UNSUBSCRIBE "requests 7", "answers 7".
        before: The state before the record; "" if there was none.
        after: The state after the record; "" if there is none.
    """

    end: str
    what: str
    before: str
    after: str


class Broken(NamedTuple):
    """A rule that a record breaks.

    Attributes:
        statement: The normative statement, such as "MQTT-3.3.1-4", or a section, such as "RFC 6455 §5.1".
        message: What was found, and what was expected.
    """

    statement: str
    message: str


class Span(NamedTuple):
    """Secret bytes of a record.

    Attributes:
        start: The offset of the first one.
        size: The number of bytes.
        key: Their masking key, rotated so that it begins with the byte for the first one; empty if they are not masked.
    """

    start: int
    size: int
    key: bytes = b""


class Field(NamedTuple):
    """Some bytes of a record.

    Attributes:
        start: The offset of the first one in the record's data.
        size: The number of bytes.
        name: The standard's name for the field.
        value: The decoded value.
        key: The key for `explain`, such as "PUBLISH/Topic Name".
        secret: Whether the value is a secret, to be hidden by default.
        bits: For a byte of flags: (name, number of bits, value), the highest first.
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
        number: From 1, in the order in which the records were made, for all connections of a tap together.
        time: When its last byte was read, in seconds since the epoch.
        connection: The number of the connection, from 1.
        sender: "client" or "server".
        layer: One of `LAYERS`.
        name: The kind of unit: "data", "FIN", "RST"; "GET", "101", "body"; "binary", "ping"; "PUBLISH".
        offset: The offset of its first byte in the stream of its layer. For `tcp`, `http` and `frame` that is the
            stream of all bytes from the sender; for `mqtt` and `other` inside frames, of the payloads of these.
        size: Its size in bytes.
        data: Its bytes, or the first ones if a limit applies. Those of a frame are as sent, masked or not.
        parts: The parts of records of the next lower layer that contain its bytes.
        packet: For the layer `mqtt`: the packet; None if it cannot be decoded.
        changes: Its effects on the state of both ends.
        broken: The rules that it breaks.
        answers: The number of the record that it answers; 0 if it answers none.
        round_trip: Seconds since that record; 0 if it answers none.
        hidden: Its secret bytes: a password, a token, a signature.
        notes: Additional information by name: texts and numbers.
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
        """How many bytes at its end are not in `data`."""
        return self.size - len(self.data)

    def __repr__(self) -> str:
        return f"<Record {self.number}: {self.sender} {self.layer} {self.name}, {self.size:,} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self.__slots__)

    __hash__ = None  # type: ignore[assignment]
