"""Masking of WebSocket payloads. It takes most of the time of a frame, because Python has no XOR of bytes.

In the compiled build a module in C (`masking.c`) takes the place of this one, which is the reference.

The standard library offers two ways:

- Treat payload and key as large integers: low fixed cost, high cost per byte.
- Translate each of the four lanes (every fourth byte, masked by the same byte of the key) with that byte's table: high
  fixed cost, low cost per byte.

Spec: RFC 6455 §5.3
"""

from __future__ import annotations

from mqttws.hints import Final

#: For each byte of a masking key, the table for `bytes.translate`. Built at the first long payload and assigned in one
#: step: threads may build it at the same time, but none sees it incomplete.
_xor_tables: tuple[bytes, ...] = ()
#: From this size on, four passes of `translate` are faster than one XOR of two large integers.
_TRANSLATE_FROM: Final = 512

_from_bytes: Final = int.from_bytes


def mask(payload: bytes | memoryview, key: bytes, before: bytes = b"") -> bytes:
    """Mask or unmask a payload: XOR each byte with a byte of the key, cyclically.

    Args:
        payload: Any number of bytes.
        key: The masking key, 4 bytes.
        before: Bytes to return first, such as the header of a frame: joining them here saves a copy of the payload.

    Spec: RFC 6455 §5.3
    """
    size = len(payload)
    if size < _TRANSLATE_FROM:
        return before + xor(payload, (key * (size // 4 + 1))[:size])
    tables = _xor_tables or _build_tables()
    masked = bytearray(payload)
    masked[::4] = masked[::4].translate(tables[key[0]])
    masked[1::4] = masked[1::4].translate(tables[key[1]])
    masked[2::4] = masked[2::4].translate(tables[key[2]])
    masked[3::4] = masked[3::4].translate(tables[key[3]])
    return before + masked


def _build_tables() -> tuple[bytes, ...]:
    global _xor_tables  # built at first use, because that takes 10 ms
    tables = tuple([bytes([value ^ byte for value in range(256)]) for byte in range(256)])
    _xor_tables = tables
    return tables


def xor(data: bytes | memoryview, keys: bytes) -> bytes:
    """XOR two byte strings of equal length."""
    return (_from_bytes(data, "little") ^ _from_bytes(keys, "little")).to_bytes(len(data), "little")
