"""Buffering of an HTTP head (start line and headers) until it is complete, with limits on its size.

Both sides of the opening handshake of a WebSocket use it, before any parser sees the data.

Spec: RFC 6455 §4, RFC 9112 §2
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from sys import intern

#: The maximum size of the head of a request or a response, in bytes.
MAX_HEAD = 16 * 1024
#: The maximum number of its header lines.
MAX_LINES = 100
#: The blank line that ends a head.
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")


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
        blank_line = _END_OF_HEAD.search(data, max(0, seen - 3))
        if (blank_line.end() if blank_line else len(data)) > MAX_HEAD:
            raise HeadTooLarge("the head of the HTTP message is too long")
        if blank_line is None:
            self._data = data
            return None
        self._data = b""
        if data.count(b"\n", 0, blank_line.end()) > MAX_LINES + 2:
            raise HeadTooLarge(f"the head of the HTTP message has over {MAX_LINES} lines")
        return data[: blank_line.end()], data[blank_line.end() :]


def texts_of(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Decode headers. The strings are interned: a server keeps those of each connection, and most are equal."""
    return tuple((intern(name.decode("latin-1").lower()), intern(value.decode("latin-1"))) for name, value in headers)
