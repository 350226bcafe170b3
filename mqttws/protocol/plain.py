"""The transport of MQTT bytes: an interface with ordered events, and its implementation for plain TCP.

`framing` and `handshake` implement it for a WebSocket; only a WebSocket connection loads them.

Spec: §6
"""

from __future__ import annotations

from mqttws.protocol.events import Ended, Opened, UpgradeRequested

# WebSocket close codes. Spec: RFC 6455 §7.4.1
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
#: The maximum bytes of the reason in a close frame. Spec: RFC 6455 §5.5, §5.5.1
MOST_REASON = 123
#: From the range for private use: the session was taken over [MQTT-3.1.4-2].
TAKEN_OVER = 4001

#: MQTT bytes are reported as bytes.
FramingEvent = bytes | Opened | UpgradeRequested | Ended


class Framing:
    """The interface, and its implementation for plain TCP, which passes bytes on unchanged.

    Attributes:
        opened: whether MQTT packets may be exchanged.
        finished: after `close`: whether there is no answer to wait for.
    """

    __slots__ = ("_out", "finished", "opened")

    def __init__(self) -> None:
        self.opened = True
        self.finished = False
        self._out: list[bytes] = []

    def start(self) -> list[FramingEvent]:
        """Start. Call this once, before any other method."""
        return [Opened()]

    def receive_data(self, data: bytes) -> list[FramingEvent]:
        """Handle bytes from the peer. Return the resulting events, in order."""
        return [data]

    def receive_eof(self) -> Ended | None:
        """Handle EOF. Return Ended if EOF is an error here, else None."""
        return None

    def send(self, data: bytes) -> None:
        """Send MQTT bytes; over a WebSocket, in one message."""
        self._out.append(data)

    def frame(self, data: bytes) -> bytes:
        """Return MQTT bytes as they are sent, over a WebSocket in one message. Only before `close`."""
        return data

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close the transport gracefully; over a WebSocket, send a close frame."""
        self.finished = True

    @property
    def has_output(self) -> bool:
        """Whether there are bytes to send."""
        return bool(self._out)

    def data_to_send(self) -> bytes:
        """Return the bytes to send now."""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data
