"""How a stream of MQTT bytes travels: one small interface with ordered events, and plain TCP, where it goes as it is.

`framing` and `handshake` carry the same bytes inside a WebSocket; only a connection that has one loads them.

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
#: Bytes of a closing frame's reason at most. Spec: RFC 6455 §5.5, §5.5.1
MOST_REASON = 123
#: Ours, from the range for private use: the session was taken over [MQTT-3.1.4-2].
TAKEN_OVER = 4001

#: MQTT bytes come as bytes.
FramingEvent = bytes | Opened | UpgradeRequested | Ended


class Framing:
    """The interface, and the raw framing of plain TCP: bytes as they are.

    Attributes:
        opened: whether MQTT may flow.
        finished: whether nothing is left to wait for once `close` has been called.
    """

    __slots__ = ("_out", "finished", "opened")

    def __init__(self) -> None:
        self.opened = True
        self.finished = False
        self._out: list[bytes] = []

    def start(self) -> list[FramingEvent]:
        """Begin; to be called once, before all else."""
        return [Opened()]

    def receive_data(self, data: bytes) -> list[FramingEvent]:
        """Take bytes from the peer. Returns what they mean, in order."""
        return [data]

    def receive_eof(self) -> Ended | None:
        """Take the news that the peer sends nothing more. Returns what that means, if it means more than this."""
        return None

    def send(self, data: bytes) -> None:
        """Send MQTT bytes, in one message where there are messages."""
        self._out.append(data)

    def frame(self, data: bytes) -> bytes:
        """Put MQTT bytes into one message, where there are messages, without sending them. Only before `close`."""
        return data

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send what closes the connection in order, where there is such a thing."""
        self.finished = True

    @property
    def has_output(self) -> bool:
        """Whether there are bytes to be sent."""
        return bool(self._out)

    def data_to_send(self) -> bytes:
        """Take the bytes that are to be sent now."""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data
