"""Encoding and decoding of the basic data types of MQTT: integers, strings, binary data and the remaining length.

The encoders handle the caller's values and raise `LocalProtocolError`. The decoders handle the peer's bytes and raise
`MalformedPacket`. A `Reader` reads the body of one packet, and never beyond its end.

Spec: §1.5, §2.2.3
"""

from __future__ import annotations

from mqttws.errors import IllFormedText, LocalProtocolError, MalformedPacket
from mqttws.hints import Final, NoReturn

#: The largest two-byte integer, and therefore the largest length of a string in bytes. Spec: §1.5.2
MAX_UINT16: Final = 65_535
#: The largest remaining length that four bytes can express. Spec: §2.2.3
MAX_REMAINING_LENGTH: Final = 268_435_455
#: Each byte by its value. Two of them make an integer; in the compiled build this is faster than `to_bytes`.
BYTES: Final[tuple[bytes, ...]] = tuple(map(bytes, zip(range(256))))
#: Each length below 256, in two bytes.
LENGTHS: Final[tuple[bytes, ...]] = tuple(map(b"\0".__add__, BYTES))


def encode_uint16(value: int) -> bytes:
    """Encode an integer of 0 to 65,535 as two bytes, most significant first.

    Spec: §1.5.2
    """
    return BYTES[value >> 8] + BYTES[value & 0xFF]


def encode_string(text: str, what: str = "a string") -> bytes:
    """Encode text as its length in two bytes and its UTF-8 form.

    Args:
        text: 0 to 65,535 bytes once encoded, without U+0000 and without surrogates.
        what: Names the text in an error message.

    Raises:
        LocalProtocolError: The text breaks one of those rules.

    Spec: §1.5.3, [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-1.5.3-3]
    """
    try:
        data = text.encode()
    except UnicodeEncodeError as error:
        surrogate = ord(text[error.start])
    else:
        if "\0" in text:
            raise LocalProtocolError(f"{what} contains U+0000, which MQTT strings must not", "MQTT-1.5.3-2")
        return encode_binary(data, what)
    raise IllFormedText(f"{what} contains the surrogate U+{surrogate:04X}, which UTF-8 cannot encode", "MQTT-1.5.3-1")


def encode_binary(data: bytes, what: str = "binary data") -> bytes:
    """Encode data of 0 to 65,535 bytes as its length in two bytes, then the data.

    Raises:
        LocalProtocolError: The data is longer.

    Spec: §1.5.3, §3.1.3.5
    """
    length = len(data)
    if length < 256:
        return LENGTHS[length] + data
    if length > MAX_UINT16:
        raise LocalProtocolError(f"{what} has {length:,} bytes; the maximum is 65,535", "§1.5.3")
    return length.to_bytes(2, "big") + data


def encode_remaining_length(length: int) -> bytes:
    """Encode a remaining length of 0 to 268,435,455 in its shortest form, one to four bytes.

    Raises:
        LocalProtocolError: The length does not fit in four bytes.

    Spec: §2.2.3
    """
    if length < 128:
        return BYTES[length]
    if length < 16_384:
        return bytes((length & 0x7F | 0x80, length >> 7))
    if length > MAX_REMAINING_LENGTH:
        raise LocalProtocolError(
            f"the packet would have a remaining length of {length:,} bytes; the maximum is 268,435,455", "§2.2.3"
        )
    encoded = bytearray()
    while length > 127:
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def decode_remaining_length(data: bytes | bytearray, start: int) -> tuple[int, int] | None:
    """Decode the remaining length at an offset.

    An encoding longer than necessary ("80 00" for 0) is accepted, because the standard does not forbid it. It is never
    produced.

    Returns:
        The length and the offset after it; None if the data ends before the length does.

    Raises:
        MalformedPacket: The fourth byte indicates that a fifth follows.

    Spec: §2.2.3
    """
    length = 0
    unit = 1
    for position in range(start, min(start + 4, len(data))):
        byte = data[position]
        if byte < 128:
            return length + byte * unit, position + 1
        length += (byte - 128) * unit
        unit *= 128
    if len(data) - start >= 4:
        raise MalformedPacket("the remaining length continues after four bytes", "§2.2.3")
    return None


class Reader:
    """A reader for the body of one packet (everything after the fixed header), from start to end."""

    __slots__ = ("_body", "_packet", "_position")

    def __init__(self, body: bytes | memoryview, packet: str) -> None:
        self._body = body
        self._position = 0
        self._packet = packet

    def _take(self, count: int, what: str) -> bytes | memoryview:
        start = self._position
        end = start + count
        if end > len(self._body):
            self._refuse(count, what)
        self._position = end
        return self._body[start:end]

    def _refuse(self, count: int, what: str) -> NoReturn:
        left = len(self._body) - self._position
        raise MalformedPacket(f"{self._packet} ends inside {what}: expected {count} bytes, found {left}", "§2.2.3")

    def uint8(self, what: str) -> int:
        """Read one byte."""
        return self._take(1, what)[0]

    def uint16(self, what: str) -> int:
        """Read a two-byte integer. Spec: §1.5.2."""
        body, start = self._body, self._position
        if start + 2 > len(body):
            self._refuse(2, what)
        self._position = start + 2
        return body[start] << 8 | body[start + 1]

    def binary(self, what: str) -> bytes:
        """Read binary data after its length of two bytes. Spec: §3.1.3.5."""
        return bytes(self._take(self.uint16(f"the length of {what}"), what))

    def string(self, what: str) -> str:
        """Read a UTF-8 string after its length of two bytes. Spec: §1.5.3, [MQTT-1.5.3-1] to [MQTT-1.5.3-3]."""
        data = self._take(self.uint16(f"the length of {what}"), what)
        return decode_text(data, f"{what} of {self._packet}")

    def rest(self, what: str) -> bytes:
        """Read the rest of the body, which may be empty."""
        rest = bytes(self._body[self._position :])
        self._position = len(self._body)
        return rest

    def __bool__(self) -> bool:
        """Return whether any bytes are left."""
        return self._position < len(self._body)

    def end(self) -> None:
        """Check that no bytes are left."""
        left = len(self._body) - self._position
        if left:
            raise MalformedPacket(f"{self._packet} has {left} surplus bytes within its remaining length", "§2.2.3")


def decode_text(data: bytes | memoryview, what: str) -> str:
    """Decode the bytes of a string (without its length) as strict UTF-8.

    Raises:
        MalformedPacket: Ill-formed UTF-8 (surrogates and overlong forms included), or U+0000.

    Spec: §1.5.3, [MQTT-1.5.3-1], [MQTT-1.5.3-2], [MQTT-1.5.3-3]
    """
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        ill_formed = error.start
    else:
        if "\0" in text:
            raise MalformedPacket(f"{what} contains U+0000", "MQTT-1.5.3-2")
        return text
    raise MalformedPacket(f"{what} is ill-formed UTF-8 at byte {ill_formed}", "MQTT-1.5.3-1")
