"""A server's end of a WebSocket for clients that deviate from RFC 6455.

An AWS SDK that is still in use sends a key of 128 bytes, expects lower-case header names in the response, and reads
only the first packet of a WebSocket message. Use this class for such clients only, and `ServerWebSocket` for others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from mqttws.codec.wire import decode_remaining_length
from mqttws.hints import ClassVar
from mqttws.protocol.handshake import Headers, ServerWebSocket
from mqttws.protocol.plain import FramingEvent


class LenientServerWebSocket(ServerWebSocket):
    """A `ServerWebSocket` that accepts long keys, and sends each packet in a separate WebSocket message."""

    __slots__ = ()

    #: 16 bytes in base64, or up to 128.
    KEY: ClassVar[re.Pattern[bytes]] = re.compile(rb"[A-Za-z0-9+/]{22,172}={0,2}")

    def accept_upgrade(self, headers: Headers = ()) -> list[FramingEvent]:
        """See `ServerWebSocket.accept_upgrade`. Header names are sent in lower case, which is equivalent in HTTP."""
        position = len(self._out)
        events = super().accept_upgrade(headers)
        status_line, *lines = self._out[position].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        lowered = (name.lower() + colon + value for name, colon, value in pairs)
        self._out[position] = b"\r\n".join([status_line, *lowered])
        return events

    def send(self, data: bytes) -> None:
        """See `Framing.send`. The data must be whole packets."""
        for packet in _packets(data):
            super().send(packet)


def _packets(data: bytes) -> Iterator[bytes]:
    """Split concatenated packets. Spec: §2.2."""
    start = 0
    while start < len(data):
        read = decode_remaining_length(data, start + 1)
        assert read is not None  # this process encoded them
        length, body = read
        yield data[start : body + length]
        start = body + length
