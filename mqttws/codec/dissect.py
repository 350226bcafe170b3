"""One packet -> its bytes, field by field, named: for study, for the console, for a log of one's own.

Nothing of a packet's layout is repeated here. The packets decode themselves from a `Reader`; this room gives them one
that takes notes. What cannot be decoded is shown as far as it could be read.
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
        start: the offset of the first one.
        data: the bytes.
        name: what they are, in the standard's words.
        value: what they mean: int, str or bytes; for flags a str that spells them out.
    """

    start: int
    data: bytes
    name: str
    value: int | str | bytes


class Dissection(NamedTuple):
    """What `dissect` found.

    Attributes:
        fields: every byte that could be read, in order.
        packet: the packet; None where there is an error.
        error: what is wrong with it; None where nothing is.
    """

    fields: tuple[Field, ...]
    packet: Packet | None
    error: MalformedPacket | None


class _Recorder(Reader):
    """A reader that takes notes of what is read from it."""

    __slots__ = ("notes",)

    def __init__(self, body: bytes | memoryview, packet: str) -> None:
        super().__init__(body, packet)
        self.notes: list[Field] = []

    # Each of these does what the reader's own does.

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
    """Take one packet apart.

    Args:
        data: one whole packet, from its first byte to its last.

    Returns:
        Its fields, and the packet or what is wrong with it. A password among them is shown as it is.

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
            raise MalformedPacket("there is no byte at all", "§2.2")
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
            raise MalformedPacket(f"{length:,} bytes are announced, {len(data) - start:,} are there", "§2.2.3")
    except MalformedPacket as fault:
        packet, error = None, fault
    for note in recorder[0].notes if recorder else ():
        fields.append(note._replace(start=start + note.start, name=note.name.removeprefix("the "), value=_value(note)))
    return Dissection(tuple(fields), packet, error)


def _first_byte(cls: type[Packet], first: int) -> str:
    """Spell out the first byte. Spec: §2.2.1, §2.2.2."""
    if cls is Publish:
        return f"Publish: DUP {first >> 3 & 1}, QoS {first >> 1 & 3}, RETAIN {first & 1}"
    return cls.__name__


def _value(note: Field) -> int | str | bytes:
    """Spell out a byte of flags; leave all else."""
    names = {"the connect flags": _CONNECT_FLAGS, "the acknowledge flags": _ACKNOWLEDGE_FLAGS}.get(note.name)
    if names is None or not isinstance(note.value, int):
        return note.value
    bits = f"{note.value:08b}"
    return f"{bits}: " + (", ".join(name for name, bit in zip(names, bits, strict=True) if bit == "1") or "none set")
