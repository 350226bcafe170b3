"""Split a record into fields, and describe it in one line. Each byte is in exactly one field.

`codec.dissect` splits packets by recording how they are decoded; `http` and `frame` split heads and frames. Bytes that
none of them can decode become one field, so that nothing is omitted.

Spec: §2, §3
"""

from __future__ import annotations

import struct
from typing import Final

from mqttws.codec.connecting import ConnAck, Connect
from mqttws.codec.dissect import Field as Dissected
from mqttws.codec.dissect import dissect
from mqttws.codec.packet import shorten
from mqttws.codec.packets import PACKETS
from mqttws.codec.publishing import PacketIdOnly, Publish
from mqttws.codec.subscribing import SubAck, Subscribe, Unsubscribe
from mqttws.codec.wire import decode_remaining_length
from mqttws.errors import ConnectionRefused, MalformedPacket
from mqttws.tap.frame import CLOSE, frame_fields, payload_of, rest_fields
from mqttws.tap.http import head_fields, read_head, shown_protocols, user_information
from mqttws.tap.payload import read_payload
from mqttws.tap.record import FRAME, HTTP, MQTT, TCP, Field, Record

#: The fields of packets whose values are hidden: AWS's custom authorizers carry a token in the user name.
_SECRET: Final = frozenset({"user name", "password"})
_FIRST: Final = (("type", 4), ("flags", 4))
_FIRST_PUBLISH: Final = (("type", 4), ("DUP", 1), ("QoS", 2), ("RETAIN", 1))
_CONNECT_FLAGS: Final = (
    ("user name", 1), ("password", 1), ("will retain", 1), ("will QoS", 2), ("will", 1), ("clean session", 1),
    ("reserved", 1),
)  # fmt: skip
_BITS: Final = {
    "connect flags": _CONNECT_FLAGS,
    "acknowledge flags": (("reserved", 7), ("session present", 1)),
    "requested QoS": (("reserved", 6), ("QoS", 2)),
}


def fields_of(record: Record) -> list[Field]:
    """Split a record into fields.

    Args:
        record: Any record.

    Returns:
        The fields in order; together they cover all of `record.data`. Secret values are marked but not hidden: the
        caller must hide them.
    """
    data = record.data
    if not data:
        return []
    if record.layer == MQTT:
        if record.name == "CONNECT" and not record.readable:
            return _unread_connect_fields(data, record.size)
        if "version" in record.notes and record.packet is None:
            return _foreign_fields(data, record.name)
        return packet_fields(data, record.size)
    if record.layer == FRAME:
        if "frame" in record.notes:
            return rest_fields(data, bytes.fromhex(record.notes.get("masking_key", "")))
        return frame_fields(data)
    if record.layer == HTTP and record.name != "body":
        return head_fields(data)
    name = {TCP: "data", HTTP: "body"}.get(record.layer, "bytes that are not MQTT")
    return [Field(0, len(data), name, data, f"{record.layer}/{name}")]


def packet_fields(data: bytes, size: int | None = None) -> list[Field]:
    """Split a packet into fields.

    Args:
        data: The bytes of the packet; of a long packet, the first ones.
        size: The size of the packet in bytes; None if `data` is the whole packet.

    Returns:
        The fields in order; together they cover all of `data`.
    """
    if not data:
        return []
    kind = PACKETS.get(data[0] >> 4)
    packet = kind.__name__.upper() if kind is not None else "packet"
    fields = []
    end = 0
    for found in dissect(data).fields:
        name = found.name
        secret = packet == "CONNECT" and name in _SECRET
        for start, piece, value in _split(found):
            fields.append(Field(start, len(piece), name, value, f"{packet}/{name}", secret, _bits(packet, name, piece)))
            end = start + len(piece)
    if end < len(data):
        left = data[end:]
        if packet == "PUBLISH" and size is not None and size > len(data) and end > 2:
            fields += _rest_of_publish(data, end)
        else:
            fields.append(Field(end, len(left), "not read", left, f"{packet}/not read"))
    return [field for field in fields if field.size]


def _split(found: Dissected) -> list[tuple[int, bytes, int | str | bytes]]:
    """Split the return codes of a SUBACK into one field each; return any other field unchanged."""
    if found.name == "return codes":
        return [(found.start + at, found.data[at : at + 1], code) for at, code in enumerate(found.data)]
    return [(found.start, found.data, found.value)]


def _rest_of_publish(data: bytes, end: int) -> list[Field]:
    """Return the field for the kept part of the payload of a PUBLISH that is too long to keep whole."""
    return [Field(end, len(data) - end, "payload", data[end:], "PUBLISH/payload")]


def _unread_connect_fields(data: bytes, size: int) -> list[Field]:
    """Return the fields of a CONNECT that is malformed or of another MQTT version: the rest may contain a password."""
    start = start_of_secrets(data)
    fields = [field for field in packet_fields(data, size) if field.start + field.size <= start]
    end = fields[-1].start + fields[-1].size
    if end < len(data):
        fields.append(Field(end, len(data) - end, "not read", data[end:], "CONNECT/not read", True))
    return fields


def start_of_secrets(data: bytes) -> int:
    """Return the offset from which a CONNECT that cannot be decoded may contain secrets: after its protocol level.

    Args:
        data: The bytes of the packet, or the first ones.
    """
    try:
        header = decode_remaining_length(data, 1)
    except MalformedPacket:
        header = None
    if header is None:
        return 1
    name = next((name for name in (b"\x00\x04MQTT", b"\x00\x06MQIsdp") if data.startswith(name, header[1])), None)
    return header[1] if name is None else min(header[1] + len(name) + 1, len(data))


def _foreign_fields(data: bytes, packet: str) -> list[Field]:
    """Return the fields of a packet of another MQTT version. The fixed header is the same in all versions."""
    try:
        header = decode_remaining_length(data, 1)
    except MalformedPacket:
        header = None
    end = header[1] if header is not None else 1
    fields = [
        Field(
            0,
            1,
            "packet type and flags",
            packet,
            f"{packet}/packet type and flags",
            False,
            _bits(packet, "packet type and flags", data[:1]),
        )
    ]
    if header is not None:
        fields.append(Field(1, end - 1, "remaining length", header[0], f"{packet}/remaining length"))
    if end < len(data):
        fields.append(Field(end, len(data) - end, "not read", data[end:], f"{packet}/not read"))
    return fields


def _bits(packet: str, name: str, piece: bytes) -> tuple[tuple[str, int, int], ...]:
    """Split a byte of flags into its bits, the highest first."""
    if name == "packet type and flags":
        widths: tuple[tuple[str, int], ...] = _FIRST_PUBLISH if packet == "PUBLISH" else _FIRST
    else:
        widths = _BITS.get(name, ())
    if not widths or len(piece) != 1:
        return ()
    bits, shift = [], 8
    for what, width in widths:
        shift -= width
        bits.append((what, width, piece[0] >> shift & (1 << width) - 1))
    return tuple(bits)


def summary(record: Record, secrets: bool = False) -> str:
    """Return a description of a record in one line, without its name. Text from a peer is escaped.

    Args:
        record: Any record.
        secrets: Whether to show a user name and the query of a target.
    """
    if record.layer == MQTT:
        return _packet_summary(record, secrets)
    if record.layer == FRAME and "frame" not in record.notes:
        return _frame_summary(record, secrets)
    if record.layer == HTTP and record.name != "body":
        return _head_summary(record, secrets)
    return f"{record.size:,} bytes" if record.size else ""


def _packet_summary(record: Record, secrets: bool) -> str:
    packet = record.packet
    if packet is None:
        version = record.notes.get("version")
        return f"{record.size:,} bytes, " + (f"MQTT of level {version}" if version else "not decoded")
    if isinstance(packet, Connect):
        words = [
            shorten(packet.client_id),
            "clean session" if packet.clean_session else "kept session",
            f"keep alive {packet.keep_alive} s",
        ]
        if packet.will is not None:
            words.append(
                f"will {shorten(packet.will.topic)} QoS {packet.will.qos}" + (" RETAIN" if packet.will.retain else "")
            )
        if packet.username is not None:
            words.append(f"user {shorten(packet.username) if secrets else 'name hidden'}")
        return ", ".join(words)
    if isinstance(packet, ConnAck):
        if packet.return_code:
            return f"{packet.return_code}: {ConnectionRefused.MEANINGS[packet.return_code]}"
        return "0: accepted" + (", session present" if packet.session_present else "")
    if isinstance(packet, Publish):
        flags = (" RETAIN" if packet.retain else "") + (" DUP" if packet.dup else "")
        number = f" id {packet.packet_id}" if packet.packet_id is not None else ""
        return f"{shorten(packet.topic)} QoS {packet.qos}{number}{flags}, {_payload_summary(record, packet.payload)}"
    if isinstance(packet, Subscribe):
        asked = ", ".join(f"{shorten(topic_filter)} QoS {qos}" for topic_filter, qos in packet.topic_filters)
        return f"id {packet.packet_id}: {asked}"
    if isinstance(packet, Unsubscribe):
        return f"id {packet.packet_id}: {', '.join(map(shorten, packet.topic_filters))}"
    if isinstance(packet, SubAck):
        return f"id {packet.packet_id}: " + ", ".join(
            "refused" if code == 0x80 else f"QoS {code}" for code in packet.return_codes
        )
    return f"id {packet.packet_id}" if isinstance(packet, PacketIdOnly) else ""


def _payload_summary(record: Record, payload: bytes) -> str:
    size = len(payload) + record.cut
    kind, value = read_payload(payload)
    if kind in ("empty", "bytes"):
        shown = payload[:16].hex(" ") + ("..." if size > 16 else "")
        return f"{size:,} bytes" + (f": {shown}" if payload else "")
    text = payload.decode() if kind in ("JSON", "text") else repr(value)
    return f"{size:,} bytes of {kind}: {shorten(text)}"


def _frame_summary(record: Record, secrets: bool) -> str:
    data = record.data
    words = [
        "FIN" if data[0] & 0x80 else "to be continued",
        "masked" if data[1] & 0x80 else "not masked",
        f"{record.size:,} bytes",
    ]
    if data[0] & 0x0F == CLOSE:
        payload = payload_of(data)
        if len(payload) >= 2:
            words.append(f"code {struct.unpack('>H', payload[:2])[0]}")
            if payload[2:] and (secrets or not record.hidden):
                words.append(shorten(payload[2:].decode("utf-8", "replace")))
    return ", ".join(words)


def _head_summary(record: Record, secrets: bool) -> str:
    head = read_head(record.data)
    first = record.data.split(b"\r\n", 1)[0].decode("latin-1").split(" ")
    if head.name.isdecimal():
        words = shorten(" ".join(first[2:]))[1:-1]
    else:
        target = first[1] if len(first) > 1 else ""
        if not secrets:
            start, end = user_information(target)
            target = target[:start] + target[end:]
        path, mark, _ = target.partition("?")
        words = shorten(target if secrets else path + mark)[1:-1] + ("(query hidden)" if mark and not secrets else "")
    protocol = head.get("sec-websocket-protocol")
    if protocol is None:
        return words
    hidden = not secrets and shown_protocols(protocol) == "hidden"
    return f"{words}, subprotocol {'hidden' if hidden else shorten(protocol)}"
