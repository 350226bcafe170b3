"""Masking, and the binary frame that nearly all traffic is made of. Pure functions of bytes.

Spec: RFC 6455 §5.2, §5.3
"""

from __future__ import annotations

#: FIN set, no reserved bits, opcode 2: a whole binary message.
BINARY_FRAME = 0x82

#: For each byte of a masking key the table that `bytes.translate` wants. Built when a long payload first comes.
_XOR_TABLES: list[bytes] = []
#: From this size on, four passes of `translate` are faster than one XOR of two large integers.
_TRANSLATE_FROM = 1024


def mask(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask a payload: each byte is XORed with that of the key, in turn.

    Args:
        payload: any number of bytes.
        key: 4 bytes.

    Spec: RFC 6455 §5.3
    """
    size = len(payload)
    if size < _TRANSLATE_FROM:
        keys = key * (size // 4 + 1)
        number = int.from_bytes(payload, "little") ^ int.from_bytes(keys[:size], "little")
        return number.to_bytes(size, "little")
    if not _XOR_TABLES:
        _XOR_TABLES.extend(bytes(value ^ byte for value in range(256)) for byte in range(256))
    masked = bytearray(size)
    for lane in range(4):
        masked[lane::4] = payload[lane::4].translate(_XOR_TABLES[key[lane]])
    return bytes(masked)


def binary_frame(payload: bytes, key: bytes | None) -> bytes:
    """Build a whole binary message of one frame.

    Args:
        payload: any number of bytes.
        key: the masking key of 4 bytes, for a client; None for a server.
    """
    size = len(payload)
    bit = 0 if key is None else 0x80
    if size < 126:
        header = bytes((BINARY_FRAME, bit | size))
    elif size < 65_536:
        header = bytes((BINARY_FRAME, bit | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((BINARY_FRAME, bit | 127)) + size.to_bytes(8, "big")
    if key is None:
        return header + payload
    return header + key + mask(payload, key)


def parse_header(data: bytes, start: int) -> tuple[int, int] | None:
    """Measure the frame that begins at an offset, without judging it.

    Returns:
        The sizes of its header and of its payload; None where the header is not all there.
    """
    if len(data) - start < 2:
        return None
    second = data[start + 1]
    size = second & 0x7F
    extended = 2 if size == 126 else 8 if size == 127 else 0
    header = 2 + extended + (4 if second & 0x80 else 0)
    if len(data) - start < header:
        return None
    if extended:
        size = int.from_bytes(data[start + 2 : start + 2 + extended], "big")
    return header, size


def header_size(size: int, masked: bool) -> int:
    """Tell how long the header of a payload must be: the length in its shortest form. Spec: RFC 6455 §5.2."""
    return (2 if size < 126 else 4 if size < 65_536 else 10) + 4 * masked
