"""Replacement of the request target and the Host in a client's upgrade request, for servers with signed URLs."""

from __future__ import annotations

import re
from typing import Final

from mqttws.client.url import Endpoint

#: The maximum size of a head in bytes. A longer one is forwarded unchanged, and the server will refuse it.
_MOST: Final = 64 * 1024
_END: Final = re.compile(rb"\r?\n\r?\n")
_HOST: Final = re.compile(rb"^host[ \t]*:[^\r\n]*", re.IGNORECASE | re.MULTILINE)


class Retarget:
    """A filter for a client's bytes that replaces target and Host in the first head.

    Args:
        endpoint: The endpoint with the new target and Host.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._head: bytearray | None = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Handle bytes from the client. Return the bytes to forward; none until the head is complete."""
        if self._head is None:
            return data
        self._head += data
        found = _END.search(self._head)
        if found is None:
            return self.rest() if len(self._head) > _MOST else b""
        head, rest = bytes(self._head[: found.start()]), bytes(self._head[found.start() :])
        self._head = None
        return self._rewritten(head) + rest

    def rest(self) -> bytes:
        """Return the bytes of an incomplete head, unchanged."""
        rest, self._head = bytes(self._head or b""), None
        return rest

    def _rewritten(self, head: bytes) -> bytes:
        line, end, headers = head.partition(b"\n")
        words = line.split(b" ")
        if len(words) == 3:
            words[1] = self._endpoint.target.encode("latin-1", "replace")
        host = b"Host: " + self._endpoint.host_header.encode("latin-1", "replace")
        return b" ".join(words) + end + _HOST.sub(lambda _: host, headers, count=1)
