"""Analysis of WebSocket frames: it names their parts, down to single bits, and the rules that they break.

`protocol.framing` processes the frames of a connection; this module only describes them.

Spec: RFC 6455 §5
"""

from __future__ import annotations

from typing import Final

from mqttws.protocol.frames import header_size
from mqttws.protocol.masking import mask
from mqttws.tap.record import CLIENT, Broken, Field, Record

CONTINUATION: Final = 0
TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
OPCODES: Final = {0: "continuation", 1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}


def opcode_name(first: int) -> str:
    """Return the name of a frame's opcode, from its first byte."""
    return OPCODES.get(first & 0x0F, f"opcode {first & 0x0F}")


def check_frame(header: bytes, size: int, sender: str, fragmented: bool) -> tuple[Broken, ...]:
    """Check the header of a frame.

    Args:
        header: The whole header, including the masking key.
        size: The size of the payload in bytes.
        sender: "client" or "server".
        fragmented: Whether an unfinished message precedes this frame.
    """
    broken = []
    first, masked = header[0], bool(header[1] & 0x80)
    opcode, control = first & 0x0F, first & 0x08
    if masked != (sender == CLIENT):
        must = "must" if sender == CLIENT else "must not"
        broken.append(Broken("RFC 6455 §5.1", f"a frame of a {sender} {must} be masked"))
    if first & 0x70:
        broken.append(
            Broken("RFC 6455 §5.2", f"reserved bits are set: {first >> 4 & 7:03b}; no extension gives them a meaning")
        )
    if opcode not in OPCODES:
        broken.append(Broken("RFC 6455 §5.2", f"the opcode {opcode} is reserved"))
    if control and (size > 125 or not first & 0x80):
        broken.append(
            Broken("RFC 6455 §5.5", "a control frame must not be fragmented or have a payload of more than 125 bytes")
        )
    if len(header) != header_size(size, masked) or size >> 63:
        broken.append(Broken("RFC 6455 §5.2", "the length is not in its shortest form"))
    if opcode == CONTINUATION and not fragmented:
        broken.append(Broken("RFC 6455 §5.4", "a continuation frame without a message to continue"))
    if opcode in (TEXT, BINARY) and fragmented:
        broken.append(Broken("RFC 6455 §5.4", "a new message inside a fragmented one"))
    if opcode == TEXT:
        broken.append(Broken("MQTT-6.0.0-1", "a text frame; MQTT must be sent in binary frames"))
    if opcode == CLOSE and size == 1:
        broken.append(Broken("RFC 6455 §5.5.1", "a close frame with one byte; the close code has two"))
    return tuple(broken)


def payload_of(data: bytes) -> bytes:
    """Return the unmasked payload of a frame; of an incomplete frame, the part that is there."""
    start = _header_length(data)
    if data[1] & 0x80:
        return mask(data[start:], data[start - 4 : start])
    return data[start:]


def turned(key: bytes, count: int) -> bytes:
    """Rotate a masking key by `count` bytes; an empty key stays empty."""
    turn = count % 4
    return key[turn:] + key[:turn]


def key_at(record: Record, start: int) -> bytes:
    """Return the masking key of a frame, rotated for an offset in the record; empty if the frame is not masked."""
    if "frame" in record.notes:
        return turned(bytes.fromhex(record.notes.get("masking_key", "")), start)
    if record.data[1] < 128:
        return b""
    header = _header_length(record.data)
    return turned(record.data[header - 4 : header], start - header)


def rest_fields(data: bytes, key: bytes) -> list[Field]:
    """Return the fields of a later part of a frame that did not arrive in one piece.

    Args:
        data: Bytes of the payload, as sent.
        key: The masking key, rotated for the first of them; empty if the frame is not masked.
    """
    return [Field(0, len(data), "payload", mask(data, key) if key else data, "frame/payload")]


def _header_length(data: bytes) -> int:
    return 2 + {126: 2, 127: 8}.get(data[1] & 0x7F, 0) + (4 if data[1] & 0x80 else 0)


def frame_fields(data: bytes) -> list[Field]:
    """Split a frame into fields; each byte is in exactly one. Values of masked fields are unmasked."""
    if len(data) < 2 or len(data) < _header_length(data):
        return [Field(0, len(data), "beginning of a header", data, "frame/rest")] if data else []
    first, second = data[0], data[1]
    code = second & 0x7F
    bits: tuple[tuple[str, int, int], ...] = (
        ("FIN", 1, first >> 7), ("RSV1", 1, first >> 6 & 1), ("RSV2", 1, first >> 5 & 1), ("RSV3", 1, first >> 4 & 1),
        ("opcode", 4, first & 0x0F),
    )  # fmt: skip
    end = "last" if first & 0x80 else "not the last"
    fields = [
        Field(
            0,
            1,
            "FIN, reserved bits and opcode",
            f"{opcode_name(first)}, {end} of its message",
            "frame/first byte",
            bits=bits,
        )
    ]
    bits = (("MASK", 1, second >> 7), ("payload length", 7, code))
    words = f"{'masked' if second & 0x80 else 'not masked'}, payload length {code}"
    fields.append(Field(1, 1, "MASK and payload length", words, "frame/second byte", bits=bits))
    position = 2
    extended = {126: 2, 127: 8}.get(code, 0)
    if extended:
        value = int.from_bytes(data[2 : 2 + extended], "big")
        fields.append(Field(2, extended, "extended payload length", value, "frame/extended length"))
        position += extended
    if second & 0x80:
        fields.append(Field(position, 4, "masking key", data[position : position + 4], "frame/masking key"))
        position += 4
    payload = payload_of(data)
    if first & 0x0F == CLOSE and len(payload) >= 2:
        fields.append(Field(position, 2, "close code", int.from_bytes(payload[:2], "big"), "frame/close code"))
        if payload[2:]:
            fields.append(
                Field(position + 2, len(payload) - 2, "reason", payload[2:].decode("utf-8", "replace"), "frame/reason")
            )
    elif payload:
        key = "frame/control payload" if first & 0x08 else "frame/payload"
        fields.append(Field(position, len(payload), "payload", payload, key))
    return fields
