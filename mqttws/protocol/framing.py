"""The frames of an open WebSocket: MQTT bytes inside binary messages, over the interface of `plain`.

What opens a WebSocket is the business of `handshake`. Once it is open, fragments, pings, the closing handshake and
every malformed frame are wsproto's. One path of our own lies in front of it, because it carries nearly all traffic and
wsproto takes 5 to 7 µs for each frame of it: whole binary messages in one frame (first byte 0x82) are cut out by
ourselves, in one loop where they are all there (see `frames`), provided that they are masked as they must be, that
their length is in its shortest form, and that no fragmented message is under way. Every other frame goes to wsproto,
byte for byte. MQTT takes no notice of where messages end [MQTT-6.0.0-2], so a payload is handed on as it arrives and
never held back; only a frame's header is.

wsproto is imported by the functions that use it: most connections need it at their end, if at all, and importing it,
and h11 with it, takes a client longer than to connect and to publish a first message.

Going out, whatever waits together leaves as one binary message.

Spec: §6, RFC 6455
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

from mqttws.errors import ConnectionClosed, RemoteProtocolError
from mqttws.protocol.events import Ended
from mqttws.protocol.frames import (
    BINARY_FRAME,
    binary_frame,
    header_size,
    mask,
    parse_header,
    take_masked,
    take_plain,
)
from mqttws.protocol.plain import NORMAL, UNSUPPORTED_DATA, Framing, FramingEvent

if TYPE_CHECKING:
    from wsproto.connection import Connection
    from wsproto.events import CloseConnection, TextMessage


class WebSocketFraming(Framing, ABC):
    """What the two ends of a WebSocket share: the frames. How each opens it is in `handshake`.

    Args:
        is_client: which end this is.
        entropy: gives so many bytes that no one can guess; masking keys are made of it.
    """

    __slots__ = (
        "_closing",
        "_entropy",
        "_fragmented",
        "_header",
        "_is_client",
        "_is_open",
        "_key",
        "_keys",
        "_left",
        "_ours",
        "_ws",
    )

    def __init__(self, is_client: bool, entropy: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__()
        self.opened = False
        self._ws: Connection | None = None  # wsproto's side, made when it has something to do
        self._is_client = is_client
        self._is_open = False  # between the handshake and the first closing frame, of either end
        self._closing = False  # whether a closing frame was sent first
        self._entropy = entropy
        self._keys: list[bytes] = []  # drawn and not used yet, the next one last
        # The frame under way:
        self._header = b""  # its header, while that is not all there
        self._left = 0  # how much of its payload is to come
        self._key: bytes | None = None  # its masking key, turned to the next byte
        self._ours = False  # whether it goes the short way
        self._fragmented = False  # whether wsproto is inside a fragmented message

    def receive_data(self, data: bytes) -> list[FramingEvent]:
        """See `Framing.receive_data`."""
        if self.finished or not data:  # to h11, no bytes would mean the end
            return []
        if self.opened:
            return self._receive_frames(data)
        return self._receive_handshake(data)

    def send(self, data: bytes) -> None:
        """See `Framing.send`. After `close` it does nothing."""
        if self._is_open:
            self._out.append(self.frame(data))

    def frame(self, data: bytes) -> bytes:
        """See `Framing.frame`."""
        return binary_frame(data, self._next_key() if self._is_client else None)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """See `Framing.close`. Spec: RFC 6455 §7.1.2."""
        if self._is_open:
            from wsproto.events import CloseConnection

            self._is_open, self._closing = False, True
            self._out.append(self._wsproto().send(CloseConnection(code=code, reason=reason)))
        elif not self._closing:
            self.finished = True

    def _open(self) -> None:
        """Begin with the frames."""
        self.opened = self._is_open = True

    def _wsproto(self) -> Connection:
        """Return wsproto's side of the open WebSocket."""
        if self._ws is None:
            from wsproto.connection import Connection, ConnectionType

            self._ws = Connection(ConnectionType.CLIENT if self._is_client else ConnectionType.SERVER)
        return self._ws

    def _next_key(self) -> bytes:
        """Draw a masking key; 64 at a time, since a call for entropy costs the same for few bytes and for many."""
        if not self._keys:
            drawn = self._entropy(256)
            self._keys = [drawn[start : start + 4] for start in range(252, -1, -4)]
        return self._keys.pop()

    @abstractmethod
    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        """Take bytes of the opening handshake."""

    def _receive_frames(self, data: bytes) -> list[FramingEvent]:
        """Cut the stream at the frames' ends; see the top of the module."""
        events: list[FramingEvent] = []
        payloads: list[bytes] = []
        masked = not self._is_client
        if self._header:
            data, self._header = self._header + data, b""
        position, end = 0, len(data)
        while position < end and not self.finished:
            if self._left:
                chunk = data[position : position + self._left]
                position += len(chunk)
                self._left -= len(chunk)
                if self._ours:
                    payloads.append(self._unmask(chunk))
                else:
                    self._receive_unusual(chunk, payloads, events)
                continue
            if not self._fragmented and self._is_open:
                position = (take_masked if masked else take_plain)(data, position, payloads)
                if position == end:
                    break
            measured = parse_header(data, position)
            if measured is None:
                self._header = data[position:]
                break
            header, size = measured
            first = data[position]
            self._ours = (
                first == BINARY_FRAME
                and header == header_size(size, masked)  # which also tells whether it is masked as it must be
                and size < 1 << 63
                and not self._fragmented
                and self._is_open
            )
            self._left = size
            following = position + header
            if self._ours:
                self._key = data[following - 4 : following] if masked else None
            else:
                if first & 0x0F < 8:  # a data frame, not a control frame
                    self._fragmented = not first & 0x80
                self._receive_unusual(data[position:following], payloads, events)
            position = following
        if payloads:
            events.append(b"".join(payloads))
        return events

    def _unmask(self, chunk: bytes) -> bytes:
        key = self._key
        if key is None:
            return chunk
        turn = len(chunk) % 4
        self._key = key[turn:] + key[:turn]
        return mask(chunk, key)

    def _receive_unusual(self, data: bytes, payloads: list[bytes], events: list[FramingEvent]) -> None:
        """Let wsproto have a piece of a frame, and act on what it makes of it."""
        from wsproto.connection import ConnectionState
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

        ws = self._wsproto()
        ws.receive_data(data)
        for event in ws.events():
            self._is_open = ws.state is ConnectionState.OPEN
            if isinstance(event, BytesMessage):
                payloads.append(bytes(event.data))
            elif isinstance(event, Ping):
                if self._is_open:
                    self._out.append(ws.send(event.response()))
            elif isinstance(event, (TextMessage, CloseConnection)):
                if payloads:
                    events.append(b"".join(payloads))
                    payloads.clear()
                events.append(self._end(event))
                break

    def _end(self, event: TextMessage | CloseConnection) -> Ended:
        """Answer what ends the WebSocket: a closing frame, a frame that cannot be read, or a text message."""
        from wsproto.connection import ConnectionState
        from wsproto.events import TextMessage
        from wsproto.frame_protocol import CloseReason

        ws = self._wsproto()
        if isinstance(event, TextMessage):
            self.close(UNSUPPORTED_DATA, "MQTT takes binary messages")
            self.finished = True
            return Ended(RemoteProtocolError("the peer sent a text message; MQTT takes binary ones", "MQTT-6.0.0-1"))
        if ws.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            # wsproto tells a frame that it cannot read by the same event as the peer's closing frame.
            self.close(event.code)
            self.finished = True
            return Ended(RemoteProtocolError(f"a malformed WebSocket frame: {shown(event.reason)}", "RFC 6455 §5"))
        if ws.state is ConnectionState.REMOTE_CLOSING:
            self._out.append(ws.send(event.response()))
        self.finished = True
        code = None if event.code == CloseReason.NO_STATUS_RCVD else int(event.code)
        return Ended(ConnectionClosed("the peer closed the WebSocket", code, shown(event.reason or "")))


def shown(complaint: object) -> str:
    """Escape what wsproto or h11 says: it may quote the peer, whose bytes must not command a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(complaint)
    )
