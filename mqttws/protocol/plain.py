"""The interface of a framing, which carries MQTT bytes over a transport, and its implementation for plain TCP.

`framing` implements it for a WebSocket; only a WebSocket connection imports that.

Spec: §6
"""

from __future__ import annotations

import sys

from mqttws.hints import TYPE_CHECKING
from mqttws.protocol.events import Ended, Opened, UpgradeRequested

if TYPE_CHECKING:
    from mqttws.protocol.frames import LongFrame

# WebSocket close codes. Spec: RFC 6455 §7.4.1
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
#: The maximum size of the reason in a close frame, in bytes. Spec: RFC 6455 §5.5, §5.5.1
MOST_REASON = 123
#: From the range for private use: another client took over the session [MQTT-3.1.4-2].
TAKEN_OVER = 4001

#: The events of a framing; received MQTT bytes are reported as bytes.
FramingEvent = bytes | Opened | UpgradeRequested | Ended


class Framing:
    """The framing of a transport; this class is that of plain TCP, which passes bytes on unchanged.

    Attributes:
        opened: Whether MQTT packets may be exchanged.
        finished: After `close`: whether the transport can be closed without waiting for the peer.
        long: A long WebSocket message of which some pieces are not sent yet; None otherwise. It precedes other output.
    """

    __slots__ = ("_out", "finished", "long", "opened")

    def __init__(self) -> None:
        self.opened = True
        self.finished = False
        self.long: LongFrame | None = None
        self._out: list[bytes] = []

    def start(self) -> list[FramingEvent]:
        """Start, and return the resulting events. Call this once, before any other method."""
        return [Opened()]

    def receive_data(self, data: bytes) -> list[FramingEvent]:
        """Handle bytes from the peer. Return the resulting events, in order.

        Args:
            data: Received bytes, divided anywhere.
        """
        return [data]

    @property
    def payload_left(self) -> int:
        """How many of the next bytes from the peer are MQTT bytes that `receive_data` would return unchanged."""
        return sys.maxsize

    def pass_payload(self, count: int) -> None:
        """Record that this number of those bytes was handled without `receive_data`."""

    def take_whole(self, data: bytes) -> bytes | None:
        """Handle bytes from the peer if they consist of whole binary messages, without an event for them.

        Args:
            data: Received bytes, divided anywhere.

        Returns:
            Their payloads, joined. None if `data` is anything else: then nothing has changed, and `receive_data`
            handles it.
        """
        return data

    def receive_eof(self) -> Ended | None:
        """Handle EOF. Return Ended if EOF is an error here, else None."""
        return None

    def send(self, data: bytes) -> None:
        """Send MQTT bytes; over a WebSocket, in one message.

        Args:
            data: Encoded packets, or a part of them.
        """
        self._out.append(data)

    def frame(self, data: bytes) -> bytes:
        """Return MQTT bytes as they are sent; over a WebSocket, in one message. Call this only before `close`.

        Args:
            data: Encoded packets, or a part of them.
        """
        return data

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the transport gracefully; over a WebSocket, send a close frame.

        Args:
            code: The WebSocket close code, 1000 to 4999.
            reason: The reason in the close frame, at most 123 bytes in UTF-8.
        """
        self.finished = True

    @property
    def has_output(self) -> bool:
        """Whether there are bytes to send."""
        return bool(self._out) or self.long is not None

    def data_to_send(self) -> bytes:
        """Return the bytes to send now, in one piece."""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        long, self.long = self.long, None
        if long is not None:
            pieces = []
            while not long.complete:
                pieces.append(long.next_piece())
            data = b"".join([*pieces, data])
        return data

    def next_piece(self) -> bytes:
        """Return the next piece of a long message, if there is one; otherwise the bytes to send now."""
        long = self.long
        if long is None:
            return self.data_to_send()
        piece = long.next_piece()
        if long.complete:
            self.long = None
        return piece
