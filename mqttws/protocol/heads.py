"""What both sides of the opening handshake of a WebSocket need of HTTP.

A head (start line and headers) is buffered until it is complete, with limits on its size, before any parser sees it.

Spec: RFC 6455 §4, RFC 9112 §2
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable
from functools import lru_cache

#: The maximum size of the head of a request or a response, in bytes.
MAX_HEAD = 16 * 1024
#: The maximum number of its header lines.
MAX_LINES = 100
#: The blank line that ends a head, with the LF before it. Both forms of a line's end are accepted.
_BLANK_LINES = (b"\n\r\n", b"\n\n")
#: The characters of a Host: a name or an address, and a port. Spec: RFC 9110 §7.2, RFC 3986 §3.2.2
IN_HOST = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-._~!$&'()*+,;=%:[]"
#: The server hashes the client's key followed by this to prove that it implements WebSocket. Spec: RFC 6455 §1.3
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
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

#: Headers, as (name, value) pairs.
Lines = Iterable[tuple[bytes, bytes]]


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


def list_of(lines: Lines, name: bytes, lower: bool = False) -> list[bytes]:
    """Return the elements of a header that is a list. Its lines form one list, in their order.

    Args:
        lines: The headers, with names in lower case.
        name: The name of the header, in lower case.
        lower: Whether to return the elements in lower case, because they are compared without regard to case.

    Spec: RFC 9110 §5.3, §5.6.1
    """
    values = (value.lower() if lower else value for each, value in lines if each == name)
    return [element.strip(b" \t") for value in values for element in value.split(b",")]


def accept_of(key: bytes) -> bytes:
    """Return the Sec-WebSocket-Accept for a key. Spec: RFC 6455 §4.2.2."""
    try:  # hashlib's fallback without OpenSSL, which takes 2 MiB and longer to load than the client's whole handshake
        from _sha1 import sha1  # type: ignore[import-not-found]
    except ImportError:
        from hashlib import sha1

    return b2a_base64(sha1(key + _GUID).digest(), newline=False)


def texts_of(headers: Lines) -> tuple[tuple[str, str], ...]:
    """Decode headers. Equal ones are shared: a server keeps those of each connection."""
    return tuple(_alike(name, value) if name in _ALIKE else _text_of(name, value) for name, value in headers)


# Strings are shared by caches of bounded size. They are not interned: Python 3.12 never frees an interned string, so a
# client could fill the memory with headers.
def _text_of(name: bytes, value: bytes) -> tuple[str, str]:
    return _name_of(name), value.decode("latin-1")


@lru_cache(maxsize=64)
def _name_of(name: bytes) -> str:
    return name.decode("latin-1").lower()


_alike = lru_cache(maxsize=64)(_text_of)
