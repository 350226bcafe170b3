"""The record: one unit of one layer, sent by one end of a connection. All output of the tap is made from records.

The layers, from the lowest: `tcp`, a piece as it was read from the socket, after TLS; `http`, a head or a body;
`frame`, a WebSocket frame; `mqtt`, a packet; `other`, bytes that are none of these. A record lists the parts of lower
records that contain its bytes, so that each byte of a payload can be traced to the piece in which it arrived.
Expensive parts (fields, the descriptive line) are computed on demand, not while bytes are forwarded.

A tap keeps some 100,000 records while messages flow. A record therefore refers to few objects that the garbage
collector examines: `parts`, `changes`, `packet` and `notes` are made from strings, integers and bytes on demand.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from mqttws.codec.packet import Packet
from mqttws.codec.packets import decode
from mqttws.codec.wire import decode_remaining_length

CLIENT: Final = "client"
SERVER: Final = "server"
OTHER_END: Final = {CLIENT: SERVER, SERVER: CLIENT}

TCP: Final = "tcp"
HTTP: Final = "http"
FRAME: Final = "frame"
MQTT: Final = "mqtt"
OTHER: Final = "other"
LAYERS: Final = (TCP, HTTP, FRAME, MQTT, OTHER)


#: The items of a `Part` as a plain tuple: it is created faster, and the garbage collector stops tracking it.
Place = tuple[int, int, int]


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
        readable: Whether `packet` can be decoded.
        broken: The rules that it breaks.
        answers: The number of the record that it answers; 0 if it answers none.
        round_trip: Seconds since that record; 0 if it answers none.
        hidden: Its secret bytes: a password, a token, a signature.
    """

    __slots__ = (
        "_changes",
        "_notes",
        "_parts",
        "answers",
        "broken",
        "connection",
        "data",
        "hidden",
        "layer",
        "name",
        "number",
        "offset",
        "readable",
        "round_trip",
        "sender",
        "size",
        "time",
    )
    _COMPARED = tuple(name.lstrip("_") for name in __slots__)

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
        parts: tuple[Place, ...] = (),
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
        self._parts = parts
        self.readable = False
        self._changes: tuple[tuple[str, int, str, str], ...] = ()
        self.broken: tuple[Broken, ...] = ()
        self.answers = 0
        self.round_trip = 0.0
        self.hidden: tuple[Span, ...] = ()
        self._notes: dict[str, Any] | None = None

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts of records of the next lower layer that contain its bytes."""
        return tuple(map(Part._make, self._parts))

    @property
    def packet(self) -> Packet | None:
        """The packet, of the layer `mqtt`; None if it cannot be read. It is decoded on each access."""
        if not self.readable:
            return None
        header = decode_remaining_length(self.data, 1)
        assert header is not None
        return decode(self.data[0], self.data[header[1] :])

    @property
    def changes(self) -> tuple[Change, ...]:
        """Its effects on the state of both ends."""
        made: list[Change] = []
        for end, packet_id, before, after in self._changes:
            if not packet_id:
                made.append(Change(end, "connection", before, after))
                continue
            first, second = ("requests", "answers") if "subscribe" in before + after else ("sends", "receives")
            made.append(Change(end, f"{first} {packet_id}", before, after))
            made.append(Change(OTHER_END[end], f"{second} {packet_id}", before, after))
        return tuple(made)

    def add_change(self, end: str, packet_id: int, before: str, after: str) -> None:
        """Add a change.

        Args:
            end: The end whose connection changes, or that began the flow of the packet identifier.
            packet_id: 0 for the connection.
            before: The state, or the step of the flow.
            after: The same, after this record.
        """
        self._changes += ((end, packet_id, before, after),)

    @property
    def notes(self) -> dict[str, Any]:
        """Additional information by name: texts and numbers."""
        if self._notes is None:
            self._notes = {}
        return self._notes

    @property
    def cut(self) -> int:
        """How many bytes at its end are not in `data`."""
        return self.size - len(self.data)

    def __repr__(self) -> str:
        return f"<Record {self.number}: {self.sender} {self.layer} {self.name}, {self.size:,} bytes>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in self._COMPARED)

    __hash__ = None  # type: ignore[assignment]
