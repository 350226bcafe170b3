"""Buffering of an HTTP head (start line and headers) until it is complete, with limits on its size.

Both sides of the opening handshake of a WebSocket use it, before any parser sees the data.

Spec: RFC 6455 §4, RFC 9112 §2
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from sys import intern

#: The maximum size of the head of a request or a response, in bytes.
MAX_HEAD = 16 * 1024
#: The maximum number of its header lines.
MAX_LINES = 100
#: The blank line that ends a head, with the LF before it. Both forms of a line's end are accepted.
_BLANK_LINES = (b"\n\r\n", b"\n\n")
#: The headers that most clients send alike. None of them is a credential.
_ALIKE = frozenset(
    (
        b"host",
        b"upgrade",
        b"connection",
        b"user-agent",
        b"sec-websocket-version",
        b"sec-websocket-protocol",
        b"sec-websocket-extensions",
    )
)


class HeadTooLarge(Exception):
    """The head of an HTTP message has too many bytes or lines."""


class Head:
    """The head of an HTTP message, while it is incomplete."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = b""

    @property
    def begun(self) -> bool:
        """Whether part of it has arrived."""
        return bool(self._data)

    def receive_data(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Handle received bytes. Return the head and the bytes after it; None while the head is incomplete.

        Raises:
            HeadTooLarge: It exceeds a limit.
        """
        data, seen = self._data + data, len(self._data)
        ends = [at + len(line) for line in _BLANK_LINES if (at := data.find(line, max(0, seen - 3))) >= 0]
        end = min(ends, default=len(data))
        if end > MAX_HEAD:
            raise HeadTooLarge("the head of the HTTP message is too long")
        if not ends:
            self._data = data
            return None
        self._data = b""
        if data.count(b"\n", 0, end) > MAX_LINES + 2:
            raise HeadTooLarge(f"the head of the HTTP message has over {MAX_LINES} lines")
        return data[:end], data[end:]


def texts_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Decode headers. Equal ones are shared: a server keeps those of each connection."""
    return tuple(_alike(name, value) if name in _ALIKE else _text_of(name, value) for name, value in headers)


def _text_of(name: bytes, value: bytes) -> tuple[str, str]:
    return intern(name.decode("latin-1").lower()), intern(value.decode("latin-1"))


_alike = lru_cache(maxsize=64)(_text_of)
