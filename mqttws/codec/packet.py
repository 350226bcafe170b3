"""The base classes of the fourteen control packets, and of other small values with named fields.

A packet is defined by its fields (`Value`): they are checked on construction, and equality, hash and repr use them. Do
not change a packet once it is made. This is not enforced, because enforcing it costs as much as building the packet.

A packet class checks its fields in its constructor, for both directions. It raises `LocalProtocolError` for values that
break a rule; `packets.decode` converts this to `MalformedPacket`, because there the values are the peer's.

Spec: §2
"""

from __future__ import annotations

from mqttws.codec.wire import BYTES, Reader, encode_remaining_length
from mqttws.errors import LocalProtocolError
from mqttws.hints import ClassVar


class Value:
    """The base class of packets and events: named fields, on which equality, hash and repr are based.

    A dataclass would do the same. But imports delay a program's first message, and importing `dataclasses` and
    generating the methods of twenty classes takes as long as importing half of the codec and the machines.
    """

    __slots__ = ()

    #: The names of the fields, in the order of the constructor.
    __match_args__: ClassVar[tuple[str, ...]] = ()
    #: Fields whose values a repr must not show.
    secret_fields: ClassVar[frozenset[str]] = frozenset()

    def _values(self) -> tuple[object, ...]:
        return tuple(getattr(self, field) for field in self.__match_args__)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), self._values()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._repr_fields())})"

    def _repr_fields(self) -> list[str]:
        return [
            f"{field}={'***' if field in self.secret_fields and value is not None else shorten(value)}"
            for field, value in zip(self.__match_args__, self._values(), strict=True)
        ]


class Packet(Value):
    """The base class of all control packets."""

    __slots__ = ()

    #: The control packet type: the high nibble of the first byte, 1 to 14. Spec: §2.2.1
    type: ClassVar[int]
    #: The low nibble of the first byte, where the standard fixes it. Spec: §2.2.2, table 2.2
    flags: ClassVar[int] = 0
    #: The statement that a wrong low nibble breaks.
    flags_statement: ClassVar[str] = "MQTT-2.2.2-2"

    def encode(self) -> bytes:
        """Return the whole packet, encoded: fixed header, variable header and payload.

        This one is for packets without the latter two. Classes contain their first byte as a constant, because reading
        `type` and `flags` from the class takes longer than encoding a short body.
        """
        return with_fixed_header(BYTES[self.type << 4 | self.flags], b"")

    @classmethod
    def decode(cls, flags: int, reader: Reader) -> Packet:
        """Return a packet of this class, decoded.

        Args:
            flags: The low nibble of its first byte.
            reader: A reader at the start of the body, which is everything after the fixed header.

        Raises:
            MalformedPacket: The body cannot be read.
            LocalProtocolError: The fields break a rule (`packets.decode` converts it to `MalformedPacket`).
        """
        reader.end()
        return cls()


def with_fixed_header(first: bytes, body: bytes) -> bytes:
    """Return a whole packet: the first byte, the remaining length, and the body. Spec: §2.2."""
    return first + encode_remaining_length(len(body)) + body


def shorten(value: object) -> str:
    """Return the repr of a value; for long bytes or text, of the first 64 items, and the length."""
    if isinstance(value, (bytes, str)) and len(value) > 64:
        return f"{value[:64]!r}...({len(value):,})"
    return repr(value)


def check_packet_id(packet_id: int) -> None:
    """Check a packet identifier: 1 to 65,535.

    Spec: §2.3.1, [MQTT-2.3.1-1]
    """
    if not 1 <= packet_id <= 65_535:
        raise LocalProtocolError(f"the packet identifier is {packet_id}; it must be 1 to 65,535", "MQTT-2.3.1-1")
