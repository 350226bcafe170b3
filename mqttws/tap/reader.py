"""Decode the two streams of bytes of a connection into records. Sans-IO.

A `SessionReader` decodes one connection, with a `_Stream` for each direction. The first bytes of a stream show whether
it is HTTP or MQTT. After the head of a WebSocket upgrade come frames, which contain MQTT. Bytes that cannot be decoded
become records of the layer `other`, and decoding continues as far as possible. This module does not affect what is
forwarded, and never raises because of a peer's data.

Bytes of a client that cannot be decoded are secret until its CONNECT is known, because they may contain the CONNECT and
its password.

At most `limit` bytes of a head or a packet are kept. A frame that does not arrive in one piece becomes several records:
the first contains the header, the others, named "rest of", more of the payload.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import count, takewhile
from typing import Final

from mqttws.codec.decoder import Decoder
from mqttws.codec.packet import Packet
from mqttws.codec.packets import PACKETS, check_first_byte, decode
from mqttws.codec.publishing import Publish
from mqttws.codec.wire import decode_remaining_length
from mqttws.errors import MalformedPacket, MQTTError
from mqttws.protocol.frames import BINARY_FRAME, header_size, parse_header
from mqttws.protocol.masking import mask
from mqttws.tap.fields import fields_of, start_of_secrets
from mqttws.tap.frame import BINARY, TEXT, check_frame, key_at, opcode_name, turned
from mqttws.tap.http import Head, check_request, check_response, head_fields, read_head
from mqttws.tap.record import (
    CLIENT,
    FRAME,
    HTTP,
    MQTT,
    OTHER,
    OTHER_END,
    SERVER,
    TCP,
    Broken,
    Field,
    Place,
    Record,
    Span,
)
from mqttws.tap.state import Ends

#: How many bytes of one packet are kept.
LIMIT: Final = 1024 * 1024
#: The maximum size of a head in bytes.
_MAX_HEAD: Final = 64 * 1024
_METHOD: Final = re.compile(rb"[A-Z]{3,10} ")
_METHOD_SO_FAR: Final = re.compile(rb"[A-Z]{0,10}")
#: The first bytes of TLS, which has no secrets to hide, and whose first byte is also that of a CONNECT with flags.
_TLS: Final = re.compile(rb"\x16\x03[\x00-\x04]")
#: The types of packets with credentials: CONNECT, and AUTH of MQTT 5.
_WITH_SECRETS: Final = (1, 15)
_MQTT_3_1: Final = b"\x00\x06MQIsdp"
_END_OF_HEAD: Final = re.compile(rb"\r?\n\r?\n")

#: Control packet type -> the name of the packet in the standard.
NAMES: Final = {number: packet.__name__.upper() for number, packet in PACKETS.items()}

# The modes of a stream.
_UNKNOWN, _HEAD, _BODY, _FRAMES, _MQTT, _LOST = "unknown", "head", "body", "frames", "mqtt", "lost"


_Found = dict[int, tuple[Record, list[Span]]]  # secret bytes by the number of their record


class SessionReader:
    """A decoder for the data of both ends of one connection.

    Args:
        connection: The number of the connection, from 1.
        numbers: The numbers for records, shared by the connections of a tap.
        limit: The bytes of one unit that are kept.
        frames: Whether both streams begin with frames, without an upgrade.

    Attributes:
        ends: The state of both ends.
        upgrade: The request for the WebSocket; None if there was none.
    """

    def __init__(
        self, connection: int = 1, numbers: Iterator[int] | None = None, limit: int = LIMIT, frames: bool = False
    ) -> None:
        self.connection = connection
        self.ends = Ends()
        self.upgrade: Head | None = None
        self._numbers = count(1) if numbers is None else numbers
        self._limit = limit
        self._streams = {end: _Stream(self, end, _FRAMES if frames else _UNKNOWN) for end in (CLIENT, SERVER)}
        self._records: list[Record] = []
        self._last = 0  # the number of the last record
        # The lower records of the current unit of each end, in case it contains secrets to hide in them as well.
        # Bounded: a head and a CONNECT, which can contain secrets, are shorter than the limit.
        self._below: dict[str, dict[int, Record]] = {CLIENT: {}, SERVER: {}}
        self._below_size = {CLIENT: 0, SERVER: 0}
        # What is hidden in them because the current unit may contain secrets, until it can be decoded.
        self._concealed: dict[str, list[tuple[Record, list[Span]]]] = {CLIENT: [], SERVER: []}

    def opened(self, time: float, /, **notes: str | int) -> list[Record]:
        """Record that the connection is open.

        Args:
            time: When it was opened, in seconds since the epoch.
            **notes: The notes of the record.

        Returns:
            The record.
        """
        self.make(CLIENT, time, TCP, "open", 0, b"", 0, ()).notes.update(notes)
        return self.taken()

    def receive_data(self, sender: str, data: bytes, time: float) -> list[Record]:
        """Decode data from one end.

        Args:
            sender: "client" or "server".
            data: One piece, as it was read, after TLS.
            time: Seconds since the epoch.

        Returns:
            The records that it completes; the piece itself is the first one.
        """
        for _ in self.reading(sender, data, time):
            pass
        return self.taken()

    def reading(self, sender: str, data: bytes, time: float) -> Iterator[None]:
        """Return an iterator that decodes data as `receive_data` does, one unit per step. `taken` returns the records.

        Args:
            sender: "client" or "server".
            data: One piece, as it was read, after TLS.
            time: When it was read, in seconds since the epoch.
        """
        if data:
            stream = self._streams[sender]
            known = self._last
            yield from stream.receive(data, time)
            self._conceal(sender, stream.secret_places(known))
            if not stream.keeps:
                self._below[sender].clear()
                self._below_size[sender] = 0

    def receive_end(self, sender: str, time: float, reset: bool = False) -> list[Record]:
        """Record the end of one direction.

        Args:
            sender: "client" or "server".
            time: When it ended, in seconds since the epoch.
            reset: Whether it ended by RST; otherwise by FIN.

        Returns:
            The records of an incomplete unit, if there is one, and of the end.
        """
        self._streams[sender].end(time, "RST" if reset else "FIN")
        return self.taken()

    def receive_gap(self, sender: str, size: int, time: float) -> list[Record]:
        """Record missing bytes in a capture. Later data in this direction cannot be decoded.

        Args:
            sender: "client" or "server".
            size: The number of missing bytes.
            time: When they were noticed, in seconds since the epoch.

        Returns:
            The records of an incomplete unit, if there is one, and of the gap.
        """
        self._streams[sender].miss(size, time)
        return self.taken()

    def under_way(self, sender: str) -> bool:
        """Return whether an end has sent an incomplete unit.

        Args:
            sender: "client" or "server".
        """
        return self._streams[sender].under_way

    def make(
        self,
        sender: str,
        time: float,
        layer: str,
        name: str,
        offset: int,
        data: bytes,
        size: int,
        parts: tuple[Place, ...],
    ) -> Record:
        """Create and return the next record. Called by the streams."""
        record = Record(next(self._numbers), time, self.connection, sender, layer, name, offset, data, size, parts)
        self._records.append(record)
        self._last = record.number
        if layer in (TCP, FRAME) and self._below_size[sender] < 2 * self._limit:
            self._below[sender][record.number] = record
            self._below_size[sender] += len(data)
        return record

    def other(self, sender: str) -> _Stream:
        """Return the stream of the other end. Called by the streams."""
        return self._streams[OTHER_END[sender]]

    @property
    def limit(self) -> int:
        """The bytes of one unit that are kept."""
        return self._limit

    def hide(self, record: Record) -> None:
        """Mark the secret bytes of a record, and the bytes of lower records that contain them.

        Args:
            record: The record.
        """
        self.hide_fields(record, fields_of(record))

    def hide_fields(self, record: Record, fields: Iterable[Field]) -> None:
        """Mark the secret ones of some fields of a record, as `hide` does."""
        if record.cut:  # its last parts are not known: leave them hidden
            self._concealed[record.sender].clear()
        self.reveal(record.sender)
        found: _Found = {}
        for field in fields:
            if field.secret:
                self._find(record, field.start, field.size, b"", found)
        for made, spans in found.values():
            made.hidden += tuple(spans)

    def cover(self, record: Record, start: int) -> None:
        """Hide the rest of a record that cannot be decoded. The current unit of its end stays as it is."""
        found: _Found = {}
        key = key_at(record, start) if record.layer == FRAME else b""
        self._find(record, start, record.size - start, key, found)
        for made, spans in found.values():
            made.hidden += tuple(spans)

    def reveal(self, sender: str) -> None:
        """End `_conceal`: the unit of an end can be decoded, or is known to have no secrets."""
        for record, spans in self._concealed[sender]:
            concealed = set(map(id, spans))
            record.hidden = tuple(span for span in record.hidden if id(span) not in concealed)
        self._concealed[sender].clear()

    def _conceal(self, sender: str, places: Iterable[Place]) -> None:
        """Hide parts of an incomplete unit that may contain secrets: a live view shows the lower records now."""
        found: _Found = {}
        for number, start, size in places:
            below = self._below[sender].get(number)
            if below is not None:
                self._find(below, start, size, key_at(below, start) if below.layer == FRAME else b"", found)
        for record, spans in found.values():
            record.hidden += tuple(spans)
        self._concealed[sender] += found.values()

    def _find(self, record: Record, start: int, size: int, key: bytes, found: _Found) -> None:
        """Find some bytes of a record in it and in the lower records."""
        found.setdefault(record.number, (record, []))[1].append(Span(start, size, key))
        at = 0  # of the part in the record
        for part in record.parts:
            first, last = max(start, at), min(start + size, at + part.size)
            below = self._below[record.sender].get(part.record)
            if first < last and below is not None:
                place = part.start + first - at
                carried = key_at(below, place) if below.layer == FRAME else turned(key, first - start)
                self._find(below, place, last - first, carried, found)
            at += part.size

    def taken(self) -> list[Record]:
        """Return and remove the records that have been made."""
        records, self._records = self._records, []
        return records


Unit = tuple[int, bytes, int, tuple[Place, ...]]  # offset, bytes kept, size, parts


class _Cutter:
    """A collector that divides bytes into units, and keeps track of the lower records that contain them.

    Args:
        measure: (bytes, offset) -> the size of the unit that begins there; None if more bytes are needed.
        limit: The bytes of a unit that are kept.
    """

    __slots__ = ("_gathered", "_kept", "_limit", "_measure", "_parts", "_size", "offset")

    def __init__(self, measure: Callable[[bytes, int], int | None], limit: int) -> None:
        self._measure = measure
        self._limit = limit
        self._kept = bytearray()
        self._parts: list[Place] = []
        self._size: int | None = None  # of the unit that has begun
        self._gathered = 0  # bytes of it, kept or not
        self.offset = 0  # of its first byte in the stream

    @property
    def under_way(self) -> bool:
        """Whether a unit is incomplete."""
        return self._gathered > 0

    @property
    def parts(self) -> list[Place]:
        """The parts of the incomplete unit, in lower records."""
        return self._parts

    @property
    def first(self) -> int:
        """The first byte of the incomplete unit; 0 if there is none."""
        return self._kept[0] if self._kept else 0

    def take(self, data: bytes, position: int, record: int, start: int) -> tuple[Unit | None, int]:
        """Return the next unit, or keep the available part of it.

        Args:
            data: Bytes of the stream.
            position: The offset at which to start.
            record: The record that contains `data`.
            start: The offset of `data` in that record.

        Returns:
            The unit, or None if it is incomplete; and the offset at which to continue.
        """
        size = self._size
        if size is None:
            if self._gathered:
                size = self._measure(bytes(self._kept) + data[position : position + 16], 0)
            else:
                size = self._measure(data, position)
            self._size = size
        end = len(data) if size is None else position + size - self._gathered
        if size is None or end > len(data):
            self._keep(data, position, len(data), record, start)
            return None, len(data)
        if not self._gathered:
            unit: Unit = (
                self.offset,
                data[position : min(end, position + self._limit)],
                size,
                ((record, start + position, size),),
            )
            self._size = None
            self.offset += size
        else:
            self._keep(data, position, end, record, start)
            unit = self.drop()
        return unit, end

    def drop(self) -> Unit:
        """Return the incomplete unit, and start a new one."""
        unit = self.offset, bytes(self._kept), self._gathered, tuple(self._parts)
        self.offset += self._gathered
        self._kept, self._parts, self._size, self._gathered = bytearray(), [], None, 0
        return unit

    def _keep(self, data: bytes, position: int, end: int, record: int, start: int) -> None:
        space = self._limit - len(self._kept)
        if space > 0 and end > position:
            self._kept += data[position : min(end, position + space)]
            self._parts.append((record, start + position, end - position))
        self._gathered += end - position


class _Stream:
    """The decoder for the data of one end.

    Args:
        reader: The connection.
        sender: The end.
        mode: The initial mode.
    """

    def __init__(self, reader: SessionReader, sender: str, mode: str) -> None:
        self._reader = reader
        self._sender = sender
        self._mode = mode
        self._time = 0.0
        self._offset = 0  # of the next byte of the socket
        # While the stream is unknown, or inside a head:
        self._head = b""
        self._head_parts: list[Place] = []
        self._head_offset = 0
        self._body_left: int | None = None  # of a body; None: to the end of the stream
        # Frames:
        self._frames = _Cutter(self._measure_frame, reader.limit)
        self._frame_left = 0  # of the current frame: how many bytes have not arrived yet
        self._frame_first: Record | None = None  # its first record
        self._frame_key = b""  # its masking key, rotated so that it begins with the next byte to use
        self._frame_carries = False  # whether its payload is MQTT
        self._fragmented = False
        self._in_mqtt = False  # whether the current message contains MQTT
        # Packets:
        self._packets = _Cutter(self._measure_packet, reader.limit)
        self._decoder = Decoder()
        self._first = True
        self._fault: MalformedPacket | None = None
        # Whether what cannot be decoded may contain a CONNECT, as before it, or the rest of a unit with secrets:
        self._hides = sender == CLIENT
        self._before_connect = sender == CLIENT

    @property
    def under_way(self) -> bool:
        """Whether a unit is incomplete."""
        return self.keeps or self._frame_left > 0

    @property
    def keeps(self) -> bool:
        """Whether bytes of earlier pieces belong to an incomplete unit."""
        return bool(self._head) or self._frames.under_way or self._packets.under_way

    def receive(self, data: bytes, time: float) -> Iterator[None]:
        """Decode one piece, one unit per step."""
        self._time = time
        record = self._reader.make(self._sender, time, TCP, "data", self._offset, data, len(data), ())
        self._offset += len(data)
        position = 0
        while position < len(data):
            if self._mode is _FRAMES:
                position = self._receive_frames(data, position, record.number)
            elif self._mode is _MQTT:
                position = self._receive_mqtt(data, position, record.number, 0)
            elif self._mode is _LOST:
                self._other(data[position:], record.number, position, self._offset - len(data) + position)
                return
            elif self._mode is _BODY:
                position = self._receive_body(data, position, record.number)
            else:
                position = self._receive_head(data, position, record.number)
            yield

    def secret_places(self, known: int) -> Iterator[Place]:
        """Yield the parts of incomplete units in records after a number, if they may contain secrets."""
        parts = [self._head_parts]
        if self._before_connect:
            parts += [self._packets.parts, self._frames.parts]
        elif self._packets.first >> 4 in _WITH_SECRETS:
            parts.append(self._packets.parts)
        for places in parts:
            yield from takewhile(lambda place: place[0] > known, reversed(places))

    def end(self, time: float, name: str) -> None:
        """Record the end of the stream, and any incomplete unit before it."""
        self._time = time
        self._cut_short()
        record = self._reader.make(self._sender, time, TCP, name, self._offset, b"", 0, ())
        self._reader.ends.close(record)

    def miss(self, size: int, time: float) -> None:
        """Record missing bytes, and stop decoding."""
        self._time = time
        self._cut_short()
        self._other(b"", 0, 0, self._offset, (), "gap", size)
        self._offset += size
        self._mode = _LOST

    def _cut_short(self) -> None:
        """Record a unit that will not be completed."""
        if self._head:
            self._lose_head("cut short")
        for cutter, layer in ((self._packets, "packet"), (self._frames, "frame")):
            if cutter.under_way:
                offset, kept, size, parts = cutter.drop()
                start = self._start_of_secrets(kept) if cutter is self._packets else 0
                made = self._other(kept, 0, 0, offset, parts, "cut short", size, (_secret(start, size),))
                made.notes["unit"] = layer

    def _lose_head(self, name: str) -> None:
        """Record a head that will not be completed. Its last line may be the beginning of a secret."""
        self._hides = True
        parts = tuple(self._head_parts)
        self._other(self._head, 0, 0, self._head_offset, parts, name, secrets=head_fields(self._head))
        self._head, self._head_parts = b"", []

    def _start_of_secrets(self, data: bytes) -> int:
        """Return from which offset on bytes are hidden that begin a packet and cannot be decoded, if they are."""
        if self._first and _TLS.match(data):
            self._hides = self._before_connect = False
        elif data and data[0] >> 4 in _WITH_SECRETS:
            self._hides = True
            return start_of_secrets(data) if data[0] >> 4 == 1 else 1
        return 0

    # HTTP, and the detection of MQTT.

    def _receive_head(self, data: bytes, position: int, number: int) -> int:
        """Collect an HTTP head, or detect MQTT. Return the offset at which to continue."""
        if not self._head:
            self._head_offset = self._offset - len(data) + position
        before = len(self._head)
        head = self._head + data[position:]
        if self._mode is _UNKNOWN or self._sender == CLIENT:
            kind = _kind(head, self._sender)
            if kind is None:
                self._keep_head(head, number, position, len(data))
                return len(data)
            self._mode = kind
            if kind is _MQTT:
                return self._go_on_as_mqtt(data, position, number)
        found = _END_OF_HEAD.search(head, max(0, before - 3))
        if found is None:
            self._keep_head(head, number, position, len(data))
            if len(self._head) > _MAX_HEAD:
                self._mode = _LOST
                self._lose_head("not MQTT")
            return len(data)
        end = position + found.end() - before
        parts = (*self._head_parts, (number, position, end - position))
        self._head, self._head_parts = b"", []
        self._on_head(head[: found.end()], parts)
        return end

    def _keep_head(self, head: bytes, number: int, start: int, end: int) -> None:
        self._head = head
        self._head_parts.append((number, start, end - start))

    def _go_on_as_mqtt(self, data: bytes, position: int, number: int) -> int:
        """Pass on the first bytes, which were kept until the protocol was known."""
        head, parts = self._head, self._head_parts
        self._head, self._head_parts = b"", []
        self._reader.reveal(self._sender)
        self._packets.offset = self._head_offset
        at = 0
        for record, start, size in parts:
            self._receive_mqtt(head[at : at + size], 0, record, start)
            at += size
        return position

    def _on_head(self, data: bytes, parts: tuple[Place, ...]) -> None:
        head = read_head(data)
        record = self._reader.make(self._sender, self._time, HTTP, head.name, self._head_offset, data, len(data), parts)
        if self._sender == CLIENT:
            self._reader.upgrade = head
            record.broken = check_request(head)
        else:
            record.broken = check_response(head, self._reader.upgrade)
        self._reader.hide(record)
        if head.upgrade:
            self._mode = _FRAMES
            self._frames.offset = self._head_offset + len(data)
            return
        if self._sender == SERVER:
            self._reader.other(SERVER).not_upgraded()
        self._body_left = _body_size(head)
        self._mode = _HEAD if self._body_left == 0 else _BODY

    def not_upgraded(self) -> None:
        """Handle a refused upgrade: the client may send another request."""
        if self._mode is _FRAMES and not self._frames.under_way and self._frames.offset == self._offset:
            self._mode = _HEAD

    def _receive_body(self, data: bytes, position: int, number: int) -> int:
        end = len(data) if self._body_left is None else min(len(data), position + self._body_left)
        parts = ((number, position, end - position),)
        offset = self._offset - len(data) + position
        body = data[position:end]
        record = self._reader.make(self._sender, self._time, HTTP, "body", offset, body, len(body), parts)
        if self._sender == CLIENT:  # it may be that of a request for a token
            self._reader.cover(record, 0)
        if self._body_left is not None:
            self._body_left -= end - position
            if not self._body_left:
                self._mode = _HEAD
        return end

    # Frames. The payload of a data frame is decoded as it arrives, because the peer does not wait for all of it.

    def _measure_frame(self, data: bytes, position: int) -> int | None:
        """Return how much of a frame to collect: the header, or the whole of a control frame."""
        measured = parse_header(data, position)
        if measured is None:
            return None
        header, payload = measured
        return header + payload if data[position] & 0x08 and payload < 126 else header

    def _receive_frames(self, data: bytes, position: int, number: int) -> int:
        if self._frame_left:
            return self._go_on_with_frame(data, position, number)
        unit, position = self._frames.take(data, position, number, 0)
        if unit is None:
            return position
        offset, taken, _, parts = unit
        measured = parse_header(taken, 0)
        assert measured is not None
        header, payload = measured
        more = min(header + payload - len(taken), len(data) - position)
        if more:
            taken += data[position : position + more]
            record, start, size = parts[-1]
            if start + size == position:
                parts = (*parts[:-1], (record, start, size + more))
            else:
                parts += ((number, position, more),)
            self._frames.offset += more
        self._on_frame(offset, taken, header, payload, parts)
        return position + more

    def _on_frame(self, offset: int, data: bytes, header: int, payload: int, parts: tuple[Place, ...]) -> None:
        """Make the record of a frame, with the available part of its payload."""
        first, masked = data[0], data[1] > 127
        name = "binary" if first == BINARY_FRAME else opcode_name(first)
        record = self._reader.make(self._sender, self._time, FRAME, name, offset, data, header + payload, parts)
        opcode = first & 0x0F
        plain = (
            first == BINARY_FRAME
            and not self._fragmented
            and masked == (self._sender == CLIENT)
            and header == header_size(payload, masked)
        )
        if not plain:
            record.broken = check_frame(data[:header], payload, self._sender, self._fragmented)
            if opcode < 8:
                self._fragmented = not first & 0x80
        if opcode in (TEXT, BINARY):
            self._in_mqtt = not first & 0x70  # with a reserved bit set, an extension has transformed the payload
        self._frame_left = header + payload - len(data)
        self._frame_first = record
        self._frame_key = data[header - 4 : header] if masked else b""
        self._frame_carries = opcode <= BINARY and self._in_mqtt
        self._deliver_masked(data[header:], record, header)

    def _go_on_with_frame(self, data: bytes, position: int, number: int) -> int:
        """Make a record of the next bytes of a frame that did not arrive in one piece."""
        piece = data[position : position + self._frame_left]
        self._frame_left -= len(piece)
        first = self._frame_first
        assert first is not None
        parts = ((number, position, len(piece)),)
        record = self._reader.make(
            self._sender, self._time, FRAME, f"rest of {first.name}", self._frames.offset, piece, len(piece), parts
        )
        record.notes["frame"] = first.number
        if self._frame_key:
            record.notes["masking_key"] = self._frame_key.hex()
        self._frames.offset += len(piece)
        self._deliver_masked(piece, record, 0)
        return position + len(piece)

    def _deliver_masked(self, payload: bytes, record: Record, start: int) -> None:
        """Unmask a piece of a payload and decode its packets. `start` is its offset in the record."""
        key = self._frame_key
        self._frame_key = turned(key, len(payload))
        if self._frame_carries and payload:
            self._deliver(mask(payload, key) if key else payload, record.number, start)
        elif self._before_connect:
            code = 2 if record.name == "close" else 0  # the close code is not secret
            if len(payload) > code:
                self._reader.cover(record, start + code)

    def _deliver(self, payload: bytes, number: int, start: int) -> None:
        """Decode the packets in the payload of a frame."""
        position = 0
        while position < len(payload):
            if self._fault is not None:
                self._other(payload[position:], number, start + position, self._packets.offset)
                self._packets.offset += len(payload) - position
                return
            position = self._receive_mqtt(payload, position, number, start)

    # Packets.

    def _measure_packet(self, data: bytes, position: int) -> int | None:
        first = data[position]
        if self._first or first >> 4 not in PACKETS:
            check_first_byte(first)
        header = decode_remaining_length(data, position + 1)
        if header is None:
            return None
        if self._first and first & 0xF0 == 0x10 and first != 0x10:
            # Only a CONNECT of MQTT 3.1 may have flags. Any other such first byte is another protocol, such as TLS.
            start = header[1]
            if not _MQTT_3_1.startswith(data[start : start + len(_MQTT_3_1)]):
                raise MalformedPacket(
                    f"the first byte is {first:#04x}; no protocol name of MQTT follows", "MQTT-2.2.2-2"
                )
            if len(data) - start < len(_MQTT_3_1):
                return None
        return header[0] + header[1] - position

    def _receive_mqtt(self, data: bytes, position: int, number: int, start: int) -> int:
        try:
            unit, position = self._packets.take(data, position, number, start)
        except MalformedPacket as fault:
            self._lose(fault, data, position, number, start)
            return len(data)
        if unit is not None:
            self._first = False
            self._on_packet(*unit)
        return position

    def _lose(self, fault: MalformedPacket, data: bytes, position: int, number: int, start: int) -> None:
        """Stop decoding packets: the beginning of the next one is unknown."""
        self._fault = fault
        offset, kept, _, parts = self._packets.drop()
        if self._mode is _MQTT:
            self._mode = _LOST
        else:
            self._packets.offset += len(data) - position
        parts += ((number, start + position, len(data) - position),)
        left = kept + data[position:]
        secrets = (_secret(self._start_of_secrets(left), len(left)),)
        record = self._other(left, 0, 0, offset, parts, secrets=secrets)
        record.broken = (Broken(fault.statement, fault.message),)

    def _on_packet(self, offset: int, data: bytes, size: int, parts: tuple[Place, ...]) -> None:
        record = self._reader.make(self._sender, self._time, MQTT, NAMES[data[0] >> 4], offset, data, size, parts)
        self._read_packet(record, data, size)
        if data[0] >> 4 == 1:
            if self._fault is None:
                self._hides = self._before_connect = False
            self._reader.hide(record)
        elif self._before_connect:
            self._reader.reveal(self._sender)
            if not record.readable:
                self._reader.cover(record, 1)

    def _read_packet(self, record: Record, data: bytes, size: int) -> None:
        reader = self._reader
        if reader.ends.version > 4 and not (self._sender == CLIENT and data[0] >> 4 == 1):
            record.notes["version"] = reader.ends.version
            return
        try:
            packet = self._decode(data, size)
        except MalformedPacket as fault:
            self._decoder = Decoder()
            record.broken = (Broken(fault.statement, fault.message),)
            if data[0] >> 4 == 1:
                self._note_version(record)
                if reader.ends.version <= 4:  # what follows may be its rest
                    self._fault, self._hides = fault, True
                    self._mode = _LOST if self._mode is _MQTT else self._mode
        except MQTTError as error:  # the packet is not kept completely
            record.notes["unread"] = str(error)
        else:
            if packet is not None:
                record.readable = True
                reader.ends.follow(record, packet)

    def _decode(self, data: bytes, size: int) -> Packet | None:
        if len(data) == size:
            return self._decoder.feed(data)[0]
        header = decode_remaining_length(data, 1)
        if data[0] >> 4 != Publish.type or header is None:
            return None
        return decode(data[0], data[header[1] :])

    def _note_version(self, record: Record) -> None:
        """Record the Protocol Level of a CONNECT of another version, which the server may support."""
        at = record.data.find(b"\x00\x04MQTT")
        if 0 < at <= 5 and len(record.data) > at + 6 and record.data[at + 6] > 4:
            self._reader.ends.version = record.data[at + 6]
            record.notes["version"] = record.data[at + 6]

    def _other(
        self,
        data: bytes,
        number: int,
        start: int,
        offset: int,
        parts: tuple[Place, ...] | None = None,
        name: str = "not MQTT",
        size: int | None = None,
        secrets: Iterable[Field] | None = None,
    ) -> Record:
        """Make a record of bytes that cannot be decoded. Of what may be secret, only `secrets` is, or else all."""
        if parts is None:
            parts = ((number, start, len(data)),)
        size = len(data) if size is None else size
        record = self._reader.make(self._sender, self._time, OTHER, name, offset, data, size, parts)
        if self._hides:
            self._reader.hide_fields(record, (_secret(0, size),) if secrets is None else secrets)
        else:
            self._reader.reveal(self._sender)
        return record


def _secret(start: int, size: int) -> Field:
    """Return a field that hides all from an offset in a record of this size."""
    return Field(start, size - start, "", b"", "", True)


def _kind(data: bytes, sender: str) -> str | None:
    """Return the mode of a stream from its first bytes; None if more bytes are needed."""
    if sender == SERVER:
        if data.startswith(b"HTTP/"):
            return _HEAD
        return None if b"HTTP/".startswith(data) else _MQTT
    if _METHOD.match(data):
        return _HEAD
    return None if _METHOD_SO_FAR.fullmatch(data) else _MQTT


def _body_size(head: Head) -> int | None:
    """Return the size of the body after a head; None if it ends with the stream."""
    if head.get("transfer-encoding") is not None:
        return None
    length = head.get("content-length")
    if length is not None and length.isdecimal():
        return int(length) if len(length) < 19 else None  # Python refuses to convert thousands of digits
    return None if head.name.isdecimal() and head.name not in ("101", "204", "304") else 0
