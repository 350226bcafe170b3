"""A server's end of a WebSocket for clients that do not follow its standard completely.

An SDK of AWS that is still in use sends a key of 128 bytes, expects lower-case header names in the response, and reads
only one packet from a message with several. This class is for such clients only; all others use `ServerWebSocket`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from mqttws.codec.wire import decode_remaining_length
from mqttws.protocol.handshake import Headers, ServerWebSocket
from mqttws.protocol.plain import FramingEvent


class LenientServerWebSocket(ServerWebSocket):
    """A `ServerWebSocket` that accepts long keys, and sends each packet in a separate message."""

    __slots__ = ()

    #: 16 bytes in base64, or up to 128.
    KEY: ClassVar[re.Pattern[bytes]] = re.compile(rb"[A-Za-z0-9+/]{22,172}={0,2}")

    def accept_upgrade(self, headers: Headers = ()) -> list[FramingEvent]:
        """See `ServerWebSocket.accept_upgrade`. To HTTP, names in lower case are the same."""
        position = len(self._out)
        events = super().accept_upgrade(headers)
        status_line, *lines = self._out[position].split(b"\r\n")
        pairs = (line.partition(b":") for line in lines)
        lowered = (name.lower() + colon + value for name, colon, value in pairs)
        self._out[position] = b"\r\n".join([status_line, *lowered])
        return events

    def send(self, data: bytes) -> None:
        """See `Framing.send`; the data are whole packets."""
        for packet in _packets(data):
            super().send(packet)


def _packets(data: bytes) -> Iterator[bytes]:
    """Take whole packets apart. Spec: §2.2."""
    start = 0
    while start < len(data):
        read = decode_remaining_length(data, start + 1)
        assert read is not None  # they are our own
        length, body = read
        yield data[start : body + length]
        start = body + length
