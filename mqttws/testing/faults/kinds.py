"""The faults that a rule can apply to a unit (a packet, a frame or a head): one function for each.

A function receives the `Unit` and calls its methods: `forward` sends bytes as packets, `write` sends bytes unchanged,
`back` sends bytes to the sender, and `end` closes the connection. If it calls none of them, the unit is dropped. The
keyword arguments of a function are the parameters of the rule; packets among them are `Packet` objects, bytes, or
hexadecimal strings.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mqttws.codec.packet import Packet
from mqttws.codec.publishing import PacketIdOnly
from mqttws.codec.subscribing import SubAck
from mqttws.codec.wire import decode_remaining_length, encode_remaining_length
from mqttws.protocol.masking import mask
from mqttws.tap.fields import fields_of
from mqttws.tap.record import CLIENT, MQTT, OTHER, OTHER_END, Record


class Unit:
    """A unit that a rule matches, and the actions that replace its forwarding.

    Attributes:
        record: The record of the unit.
        data: Its bytes.
        chance: The random number generator of the connection and direction.
        websocket: Whether packets are sent in WebSocket frames.
        done: The actions, in order: (name, seconds of delay, bytes).
        drawn: Parameters that were chosen at random, for a replay.
    """

    def __init__(self, record: Record, chance: random.Random, websocket: bool) -> None:
        self.record = record
        self.data = record.data
        self.chance = chance
        self.websocket = websocket
        self.done: list[tuple[str, float, bytes]] = []
        self.drawn: dict[str, Any] = {}

    def forward(self, data: bytes, delay: float = 0.0) -> None:
        """Forward MQTT bytes, in a frame over WebSocket; forward a frame or a head unchanged."""
        self.write(self.framed(data) if self.record.layer in (MQTT, OTHER) else data, delay)

    def write(self, data: bytes, delay: float = 0.0) -> None:
        """Forward bytes unchanged, after a delay that also applies to all later bytes."""
        self.done.append(("write", delay, data))

    def aside(self, data: bytes, delay: float) -> None:
        """Forward MQTT bytes after a delay, during which later bytes overtake them."""
        self.done.append(("aside", delay, self.framed(data) if self.record.layer in (MQTT, OTHER) else data))

    def back(self, data: bytes) -> None:
        """Send MQTT bytes to the sender, as if the other end had sent them."""
        self.done.append(("back", 0.0, self.framed(data, OTHER_END[self.record.sender])))

    def back_raw(self, data: bytes) -> None:
        """Send bytes to the sender unchanged."""
        self.done.append(("back", 0.0, data))

    def end(self, how: str) -> None:
        """End the connection by "rst" or "fin"; or keep it, and forward nothing more in either direction: "silence"."""
        if how not in ("rst", "fin", "silence"):
            raise ValueError(f"a connection ends by rst, fin or silence, not {how!r}")
        self.done.append((how, 0.0, b""))

    def framed(self, data: bytes, sender: str | None = None, first: int = 0x82) -> bytes:
        """Put bytes into a frame over WebSocket; return them unchanged over TCP."""
        if not self.websocket:
            return data
        return self.frame(first, data, (sender or self.record.sender) == CLIENT)

    def frame(self, first: int, data: bytes, masked: bool) -> bytes:
        """Return a frame with any first byte, masked or not."""
        size, bit = len(data), 0x80 if masked else 0
        header = bytes((first, bit | size)) if size < 126 else bytes((first, bit | 126)) + size.to_bytes(2, "big")
        if size > 65_535:
            header = bytes((first, bit | 127)) + size.to_bytes(8, "big")
        if not masked:
            return header + data
        key = self.chance.randbytes(4)
        return mask(data, key, header + key)


def as_bytes(packet: Packet | bytes | str) -> bytes:
    """Return the bytes of a packet."""
    if isinstance(packet, Packet):
        return packet.encode()
    return bytes.fromhex(packet) if isinstance(packet, str) else bytes(memoryview(packet))


# Packets that are dropped, delayed, repeated or replaced.


def drop(unit: Unit) -> None:
    """Forward nothing of it."""


def delay(unit: Unit, *, seconds: float, jitter: float = 0.0) -> None:
    """Delay it and everything after it."""
    late = max(0.0, seconds + jitter * unit.chance.uniform(-1, 1)) if jitter else seconds
    if jitter:
        unit.drawn = {"seconds": round(late, 6), "jitter": 0.0}
    unit.forward(unit.data, late)


def hold(unit: Unit, *, seconds: float) -> None:
    """Hold it back while later units pass. For acknowledgements."""
    unit.aside(unit.data, seconds)


def duplicate(unit: Unit, *, copies: int = 1) -> None:
    """Forward it, and `copies` copies after it."""
    for _ in range(copies + 1):
        unit.forward(unit.data)


def reorder(unit: Unit) -> None:
    """Forward it after the next unit."""
    unit.done.append(("swap", 0.0, unit.framed(unit.data)))


def replace(unit: Unit, *, packet: Packet | bytes | str) -> None:
    """Forward another packet instead."""
    unit.forward(as_bytes(packet))


def inject(unit: Unit, *, packet: Packet | bytes | str) -> None:
    """Forward it, and then another packet."""
    unit.forward(unit.data)
    unit.forward(as_bytes(packet))


def answer(unit: Unit, *, packet: Packet | bytes | str) -> None:
    """Forward nothing, and answer instead of the other end."""
    unit.back(as_bytes(packet))


def truncate(unit: Unit, *, size: int, end: str = "rst") -> None:
    """Forward its first `size` bytes, then end the connection: rst, fin or silence."""
    unit.write(unit.framed(unit.data)[:size])
    unit.end(end)


def reset(unit: Unit) -> None:
    """Reset the connection instead."""
    unit.end("rst")


def close(unit: Unit) -> None:
    """Close the connection instead, by FIN in both directions."""
    unit.end("fin")


def silence(unit: Unit) -> None:
    """Forward nothing more in either direction, and keep the connection."""
    unit.end("silence")


# Packets with changed contents.


def corrupt(unit: Unit, *, at: int = -1, value: int = -1) -> None:
    """Change one byte: the one at an offset (-1: any), to a value (-1: any other)."""
    place = at if at >= 0 else unit.chance.randrange(len(unit.data))
    data = bytearray(unit.data)
    if place < len(data):
        changed = value if value >= 0 else data[place] ^ unit.chance.randrange(1, 256)
        data[place] = changed & 0xFF
        unit.drawn = {"at": place, "value": changed & 0xFF}
    unit.forward(bytes(data))


def set_field(unit: Unit, *, name: str, value: int | str) -> None:
    """Set the value of a field, such as "packet identifier" or "return code": a number, or hexadecimal."""
    data = unit.data
    for field in fields_of(unit.record):
        if field.name == name:
            made = value.to_bytes(field.size, "big") if isinstance(value, int) else bytes.fromhex(value)
            data = data[: field.start] + made + data[field.start + field.size :]
            break
    unit.forward(data)


def set_flags(unit: Unit, *, flags: int) -> None:
    """Set the low four bits of its first byte: DUP 8, QoS 2 and 4, RETAIN 1."""
    unit.forward(bytes((unit.data[0] & 0xF0 | flags & 0x0F,)) + unit.data[1:])


def refuse(unit: Unit, *, return_code: int) -> None:
    """Turn a CONNACK into a refusal, and close the connection."""
    unit.forward(bytes((0x20, 2, 0, return_code)))
    unit.end("fin")


def fail_subscription(unit: Unit) -> None:
    """Turn every return code of a SUBACK into 0x80."""
    unit.forward(
        unit.data[:4] + b"\x80" * (len(unit.data) - 4) if isinstance(unit.record.packet, SubAck) else unit.data
    )


def wrong_count(unit: Unit, *, more: int = 1) -> None:
    """Add `more` return codes to a SUBACK; a negative number removes some."""
    packet = unit.record.packet
    if isinstance(packet, SubAck):
        codes = [*packet.return_codes, *[0] * max(0, more)][: len(packet.return_codes) + more]
        body = packet.packet_id.to_bytes(2, "big") + bytes(codes)
        unit.forward(b"\x90" + encode_remaining_length(len(body)) + body)
    else:
        unit.forward(unit.data)


def stranger(unit: Unit, *, offset: int = 1000) -> None:
    """Give an acknowledgement a packet identifier that is not in use."""
    packet = unit.record.packet
    if isinstance(packet, (PacketIdOnly, SubAck)):
        other = (packet.packet_id + offset - 1) % 65_535 + 1
        unit.forward(unit.data[:2] + other.to_bytes(2, "big") + unit.data[4:])
    else:
        unit.forward(unit.data)


def session_lost(unit: Unit) -> None:
    """Set session present to 0 in a CONNACK."""
    unit.forward(b"\x20\x02\x00" + unit.data[3:])


def session_kept(unit: Unit) -> None:
    """Set session present to 1 in a CONNACK."""
    unit.forward(b"\x20\x02\x01" + unit.data[3:])


def wrong_length(unit: Unit, *, more: int) -> None:
    """Add `more` to its remaining length, without adding bytes; `more` may be negative."""
    header = decode_remaining_length(unit.data, 1)
    if header is None:
        unit.forward(unit.data)
        return
    length, start = header
    unit.forward(unit.data[:1] + encode_remaining_length(max(0, length + more)) + unit.data[start:])


def endless_length(unit: Unit) -> None:
    """Encode its remaining length in five bytes, which is not allowed."""
    unit.forward(unit.data[:1] + b"\xff\xff\xff\xff\x01" + unit.data[2:])


def long_length(unit: Unit) -> None:
    """Encode its remaining length in more bytes than necessary, which is allowed."""
    header = decode_remaining_length(unit.data, 1)
    if header is None or header[1] != 2:
        unit.forward(unit.data)
    else:
        unit.forward(unit.data[:1] + bytes((unit.data[1] | 0x80, 0)) + unit.data[2:])


def garbage(unit: Unit, *, size: int) -> None:
    """Forward `size` random bytes instead."""
    made = unit.chance.randbytes(size)
    unit.forward(made)


# Frames. Over plain TCP the first three split or join the bytes, and the others forward them unchanged.


def split(unit: Unit, *, size: int = 1, seconds: float = 0.0) -> None:
    """Send it in frames of `size` bytes, `seconds` apart."""
    for start in range(0, len(unit.data), size):
        unit.forward(unit.data[start : start + size], seconds if start else 0.0)


def fragment(unit: Unit, *, size: int = 1, pings: bool = False) -> None:
    """Send it as one message in fragments of `size` bytes; with `pings`, a ping between two of them."""
    pieces = [unit.data[start : start + size] for start in range(0, len(unit.data), size)]
    for number, piece in enumerate(pieces):
        first = (2 if number == 0 else 0) | (0x80 if number == len(pieces) - 1 else 0)
        unit.write(unit.framed(piece, first=first))
        if pings and unit.websocket and number < len(pieces) - 1:
            unit.write(unit.framed(b"between", first=0x89))


def join(unit: Unit, *, count: int = 2) -> None:
    """Wait until there are `count` units, and send them in one frame."""
    unit.done.append(("join", float(count), unit.data))


def empty_frames(unit: Unit, *, count: int = 1) -> None:
    """Send `count` empty frames before it."""
    if unit.websocket:
        for _ in range(count):
            unit.forward(b"")
    unit.forward(unit.data)


def text_frame(unit: Unit) -> None:
    """Send it in a text frame."""
    unit.write(unit.framed(unit.data, first=0x81))


def reserved_bits(unit: Unit, *, bits: int = 4) -> None:
    """Send it in a frame with reserved bits set: 4, 2, 1."""
    unit.write(unit.framed(unit.data, first=0x82 | (bits & 7) << 4))


def reserved_opcode(unit: Unit, *, opcode: int = 3) -> None:
    """Send it in a frame with a reserved opcode."""
    unit.write(unit.framed(unit.data, first=0x80 | opcode & 15))


def wrong_mask(unit: Unit) -> None:
    """Mask it if it must not be masked, or leave it unmasked if it must be."""
    unit.write(unit.frame(0x82, unit.data, unit.record.sender != CLIENT) if unit.websocket else unit.data)


def close_frame(unit: Unit, *, code: int = 1001, reason: str = "") -> None:
    """Send a close frame instead, and close the connection."""
    if unit.websocket:
        unit.write(unit.framed(code.to_bytes(2, "big") + reason.encode(), first=0x88))
    unit.end("fin")


def ping_flood(unit: Unit, *, count: int = 1000, size: int = 0) -> None:
    """Send `count` pings before it."""
    if unit.websocket:
        unit.write(b"".join(unit.framed(bytes(size), first=0x89) for _ in range(count)))
    unit.forward(unit.data)


# The upgrade.


def http(
    unit: Unit,
    *,
    status: int,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    body: str = "",
    reason: str = "",
) -> None:
    """Answer a request instead of the server, or replace its answer; then close the connection."""
    content = body.encode()
    lines = [f"HTTP/1.1 {status} {reason}".rstrip()]
    given = list(headers.items() if isinstance(headers, Mapping) else headers)
    given += [("Content-Length", str(len(content))), ("Connection", "close")]
    lines += [f"{name}: {value}" for name, value in given]
    made = "\r\n".join([*lines, "", ""]).encode("latin-1") + content
    if unit.record.sender == CLIENT:
        unit.back_raw(made)
    else:
        unit.write(made)
    unit.end("fin")


def set_header(unit: Unit, *, name: str, value: str | None = None) -> None:
    """Set a header to another value, or remove it (None)."""
    lines = unit.data.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    kept = [line for line in lines if line.partition(":")[0].strip().lower() != name.lower()]
    if value is not None:
        kept.append(f"{name}: {value}")
    unit.write("\r\n".join([*kept, "", ""]).encode("latin-1"))


#: The kinds of faults, by name.
KINDS: Final[dict[str, Callable[..., None]]] = {
    kind.__name__: kind
    for kind in (
        drop, delay, hold, duplicate, reorder, replace, inject, answer, truncate, reset, close, silence,
        corrupt, set_field, set_flags, refuse, fail_subscription, wrong_count, stranger, session_lost, session_kept,
        wrong_length, endless_length, long_length, garbage,
        split, fragment, join, empty_frames, text_frame, reserved_bits, reserved_opcode, wrong_mask, close_frame,
        ping_flood, http, set_header,
    )
}  # fmt: skip
