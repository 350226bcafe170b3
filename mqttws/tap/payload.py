"""Guess the format of an Application Message: JSON, text, CBOR, or bytes. MQTT itself does not define it.

Spec: RFC 8259, RFC 8949
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

#: The maximum number of nested arrays and objects.
_MAX_DEPTH: Final = 64
#: The simple values of CBOR that have names. Spec: RFC 8949 §3.3
_SIMPLE: Final = {20: False, 21: True, 22: None}


class Payload(NamedTuple):
    """The probable format of a payload.

    Attributes:
        kind: "empty", "JSON", "text", "CBOR" or "bytes".
        value: The decoded value of JSON and CBOR, the str of text, otherwise the bytes.
    """

    kind: str
    value: Any


def read_payload(data: bytes) -> Payload:
    """Guess the format of a payload, and decode it.

    Args:
        data: The payload.

    Returns:
        The probable format, and the decoded value.

    Examples:
        >>> from mqttws.tap import read_payload
        >>> read_payload(b'{"celsius": 21.5}')
        Payload(kind='JSON', value={'celsius': 21.5})
    """
    if not data:
        return Payload("empty", b"")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return _read_cbor(data)
    try:
        value = json.loads(text, parse_constant=_no_json)
        if not _is_deep(value):
            return Payload("JSON", value)
    except (ValueError, RecursionError):
        pass
    if all(character.isprintable() or character in "\t\r\n" for character in text):
        return Payload("text", text)
    return _read_cbor(data)


def _no_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _is_deep(value: Any) -> bool:
    """Return whether decoded JSON is nested too deeply: code that handles it recursively would fail."""
    level = [value]
    for _ in range(_MAX_DEPTH):
        level = [item for entry in level if isinstance(entry, (list, dict)) for item in _children(entry)]
    return any(isinstance(entry, (list, dict)) for entry in level)


def _children(value: list[Any] | dict[str, Any]) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _read_cbor(data: bytes) -> Payload:
    """Decode one whole CBOR array, map or tagged value. Other items are ambiguous: a byte below 0x18 is an integer."""
    if data[0] >> 5 in (4, 5, 6):
        try:
            value, end = _item(data, 0, 0)
        except (ValueError, IndexError, struct.error):
            return Payload("bytes", data)
        if end == len(data):
            return Payload("CBOR", value)
    return Payload("bytes", data)


def _item(data: bytes, position: int, depth: int) -> tuple[Any, int]:
    """Decode one data item. Return it, and the offset after it."""
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    major, extra = data[position] >> 5, data[position] & 31
    argument, position = _argument(data, position)
    if argument is None and major in (0, 1, 6):
        raise ValueError("an integer or a tag with indefinite length")
    if major == 7:
        return _simple(data, extra, argument, position)
    if argument is not None and major in (2, 3):
        end = position + argument
        if end > len(data):
            raise ValueError("a string ends outside the data")
        piece = data[position:end]
        return (piece.decode() if major == 3 else piece), end
    if major == 0:
        return argument, position
    if major == 1:
        assert argument is not None
        return -1 - argument, position
    if major == 6:
        value, position = _item(data, position, depth + 1)
        return {f"tag {argument}": value}, position
    items, position = _items(data, position, argument, 2 if major == 5 else 1, depth)
    if major in (2, 3):
        wanted: type = str if major == 3 else bytes
        if not all(isinstance(item, wanted) for item in items):
            raise ValueError("a chunk of a string has another type")
        return wanted().join(items), position
    if major == 4:
        return items, position
    return {_as_key(key): value for key, value in zip(items[::2], items[1::2], strict=True)}, position


def _argument(data: bytes, position: int) -> tuple[int | None, int]:
    """Decode the argument after the major type. Return it (None: indefinite length), and the offset after it."""
    extra = data[position] & 31
    position += 1
    if extra < 24:
        return extra, position
    if extra == 31:
        return None, position
    if extra > 27:
        raise ValueError("a reserved length")
    size = 1 << extra - 24
    if position + size > len(data):
        raise ValueError("an argument ends outside the data")
    return int.from_bytes(data[position : position + size], "big"), position + size


def _items(data: bytes, position: int, count: int | None, each: int, depth: int) -> tuple[list[Any], int]:
    """Decode the items of an array, a map or a string in chunks; without a count, up to the break."""
    items: list[Any] = []
    if count is not None and count * each > len(data) - position:
        raise ValueError("more items than bytes")
    while count is None or len(items) < count * each:
        if count is None and data[position] == 0xFF:
            return items, position + 1
        item, position = _item(data, position, depth + 1)
        items.append(item)
    return items, position


def _simple(data: bytes, extra: int, argument: int | None, position: int) -> tuple[Any, int]:
    if extra in (25, 26, 27):
        form = {25: ">e", 26: ">f", 27: ">d"}[extra]
        return struct.unpack(form, data[position - struct.calcsize(form) : position])[0], position
    if argument is None:
        raise ValueError("a break outside an item")
    return _SIMPLE.get(argument, f"simple {argument}"), position


def _as_key(key: Any) -> Any:
    return key if isinstance(key, (str, int, bytes, float, bool, type(None))) else repr(key)
