"""Split one packet into named fields of bytes, for study, for the console and for logs.

This module does not repeat the layouts. The packets decode themselves from a `Reader`; here they are given a reader
that records what is read. An invalid packet is shown as far as it could be read.
"""

from __future__ import annotations

from typing import NamedTuple

from mqttws.codec.packet import Packet
from mqttws.codec.packets import check_first_byte, decode
from mqttws.codec.publishing import Publish
from mqttws.codec.wire import Reader, decode_remaining_length
from mqttws.errors import MalformedPacket

#: The bits of a byte of flags, highest first. Spec: figures 3.4, 3.8 and 3.10
_CONNECT_FLAGS = ("user name", "password", "will retain", "will QoS", "will QoS", "will", "clean session", "reserved")
_ACKNOWLEDGE_FLAGS = (*("reserved",) * 7, "session present")


class Field(NamedTuple):
    """Some bytes of a packet.

    Attributes:
        start: The offset of the first one.
        data: The bytes.
        name: The standard's name for the field.
        value: The decoded value, as int, str or bytes; for flags, a str that lists them.
    """

    start: int
    data: bytes
    name: str
    value: int | str | bytes


class Dissection(NamedTuple):
    """The result of `dissect`.

    Attributes:
        fields: The fields that could be read, in order.
        packet: The packet; None if there is an error.
        error: What is wrong with the packet; None if it is valid.
    """

    fields: tuple[Field, ...]
    packet: Packet | None
    error: MalformedPacket | None


class _Recorder(Reader):
    """A reader that records each field that is read from it."""

    __slots__ = ("notes",)

    def __init__(self, body: bytes | memoryview, packet: str) -> None:
        super().__init__(body, packet)
        self.notes: list[Field] = []

    # Each method reads as its base method does, and records the field.

    def uint8(self, what: str) -> int:
        start = self._position
        value = super().uint8(what)
        return self._note(start, what, value)

    def uint16(self, what: str) -> int:
        start = self._position
        value = super().uint16(what)
        return self._note(start, what, value)

    def binary(self, what: str) -> bytes:
        value = super().binary(what)
        self._note(self._position - len(value), what, value)
        return value

    def string(self, what: str) -> str:
        start = self._position + 2
        value = super().string(what)
        self._note(start, what, value)
        return value

    def rest(self, what: str) -> bytes:
        start = self._position
        value = super().rest(what)
        if value:
            self._note(start, what, value)
        return value

    def _note(self, start: int, what: str, value: int | str | bytes) -> int:
        data = bytes(self._body[start : self._position])
        self.notes.append(Field(start, data, what, value))
        return value if isinstance(value, int) else 0


def dissect(data: bytes) -> Dissection:
    """Split one packet into its fields.

    Args:
        data: One whole packet, from its first byte to its last.

    Returns:
        The fields, and the packet or its error. A password is not hidden.

    Examples:
        >>> from mqttws import dissect
        >>> [(field.name, field.value) for field in dissect(bytes.fromhex("40 02 00 07")).fields]
        [('packet type and flags', 'PubAck'), ('remaining length', 2), ('packet identifier', 7)]

    Spec: §2, §3
    """
    fields: list[Field] = []
    recorder: list[_Recorder] = []

    def make_reader(body: bytes | memoryview, packet: str) -> _Recorder:
        recorder.append(_Recorder(body, packet))
        return recorder[0]

    packet, error, start = None, None, 0
    try:
        if not data:
            raise MalformedPacket("the packet is empty", "§2.2")
        fields.append(Field(0, data[:1], "packet type and flags", f"type {data[0] >> 4}, flags {data[0] & 15:04b}"))
        cls = check_first_byte(data[0])
        fields[0] = fields[0]._replace(value=_first_byte(cls, data[0]))
        header = decode_remaining_length(data, 1)
        if header is None:
            raise MalformedPacket("the packet ends inside its fixed header", "§2.2")
        length, start = header
        fields.append(Field(1, data[1:start], "remaining length", length))
        packet = decode(data[0], data[start : start + length], make_reader)
        if len(data) - start != length:
            raise MalformedPacket(
                f"the remaining length is {length:,} bytes, but {len(data) - start:,} follow", "§2.2.3"
            )
    except MalformedPacket as fault:
        packet, error = None, fault
    for note in recorder[0].notes if recorder else ():
        fields.append(note._replace(start=start + note.start, name=note.name.removeprefix("the "), value=_value(note)))
    return Dissection(tuple(fields), packet, error)


def _first_byte(cls: type[Packet], first: int) -> str:
    """Describe the first byte. Spec: §2.2.1, §2.2.2."""
    if cls is Publish:
        return f"Publish: DUP {first >> 3 & 1}, QoS {first >> 1 & 3}, RETAIN {first & 1}"
    return cls.__name__


def _value(note: Field) -> int | str | bytes:
    """Return the value of a field; describe a byte of flags."""
    names = {"the connect flags": _CONNECT_FLAGS, "the acknowledge flags": _ACKNOWLEDGE_FLAGS}.get(note.name)
    if names is None or not isinstance(note.value, int):
        return note.value
    bits = f"{note.value:08b}"
    return f"{bits}: " + (", ".join(name for name, bit in zip(names, bits, strict=True) if bit == "1") or "none set")
