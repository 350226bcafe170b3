"""WebSocket framing: MQTT bytes inside binary messages, with the interface of `plain`.

`client_handshake` and `handshake` open the WebSocket. Afterwards wsproto handles fragments, pings, the closing
handshake and every malformed frame. It takes 5 to 7 µs per frame, so this module has a fast path for nearly all
traffic: binary messages in a single frame (first byte 0x82). It parses them itself, complete ones in one loop (see
`frames`), if they are masked as required, if their length is in its shortest form, and if no fragmented message is
incomplete. Every other frame goes to wsproto, byte for byte. MQTT packets are independent of message boundaries
[MQTT-6.0.0-2], so payload bytes are passed on as they arrive; only the header of a frame is buffered.

wsproto is imported by the functions that use it. A connection that is closed normally never needs it: close frames with
the code 1000 are made and recognized here. Importing it together with h11 takes longer than connecting and publishing a
first message.

All output of one turn is sent as one binary message.

Spec: §6, RFC 6455
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable

from mqttws.errors import ConnectionClosed, RemoteProtocolError
from mqttws.hints import TYPE_CHECKING
from mqttws.protocol.events import Ended
from mqttws.protocol.frames import (
    BINARY_FRAME,
    LongFrame,
    binary_frame,
    close_frame,
    header_size,
    parse_header,
    take_masked,
    take_plain,
)
from mqttws.protocol.masking import mask
from mqttws.protocol.outgoing import LONG
from mqttws.protocol.plain import NORMAL, UNSUPPORTED_DATA, Framing, FramingEvent

if TYPE_CHECKING:
    from wsproto.connection import Connection
    from wsproto.events import CloseConnection, TextMessage


#: The number of frames that may wait to be sent while each ping is still answered.
MOST_PONGS = 1_000


class WebSocketFraming(Framing, ABC):
    """The framing of a WebSocket, for both roles. The subclasses open the WebSocket.

    Args:
        is_client: Whether this is the client's end.
        entropy: A function that returns the given number of unpredictable bytes, for masking keys.
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
        "_last_pong",
        "_left",
        "_ours",
        "_ws",
    )

    def __init__(self, is_client: bool, entropy: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__()
        self.opened = False
        self._ws: Connection | None = None  # wsproto's state, created on demand
        self._is_client = is_client
        self._is_open = False  # from the handshake to the first close frame sent or received
        self._closing = False  # whether this end has sent the first close frame
        self._entropy = entropy
        self._keys = b""  # unused masking keys, one after the other: as a list, they would take ten times the memory
        # The current frame:
        self._header = b""  # its header, while that is incomplete
        self._left = 0  # how many bytes of its payload have not arrived yet
        self._key: bytes | None = None  # its masking key, rotated so that it begins with the next byte to use
        self._ours = False  # whether it is handled here, not by wsproto
        self._fragmented = False  # whether wsproto is inside a fragmented message
        self._last_pong = b""  # the latest pong

    def receive_data(self, data: bytes) -> list[FramingEvent]:
        """Handle bytes from the peer; see `Framing.receive_data`."""
        if self.finished or not data:  # h11 takes an empty input for EOF
            return []
        if self.opened:
            return self._receive_frames(data)
        return self._receive_handshake(data)

    @property
    def payload_left(self) -> int:
        """See `Framing.payload_left`."""
        return self._left if self._ours and self._key is None and not self.finished else 0

    def pass_payload(self, count: int) -> None:
        """See `Framing.pass_payload`."""
        self._left -= count

    def send(self, data: bytes) -> None:
        """Send MQTT bytes in one message; see `Framing.send`. After `close` it does nothing."""
        if not self._is_open:
            return
        if self._is_client and len(data) >= 2 * LONG:
            self.long = LongFrame(self.data_to_send(), data, self._next_key())
        else:
            self._out.append(binary_frame(data, self._next_key() if self._is_client else None))

    def frame(self, data: bytes) -> bytes:
        """Return MQTT bytes as one message; see `Framing.frame`."""
        return binary_frame(data, self._next_key() if self._is_client else None)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Send a close frame; see `Framing.close`. Spec: RFC 6455 §7.1.2."""
        if self._is_open:
            self._is_open = False
            if self._ws is None and code == NORMAL and not reason:
                self._out.append(close_frame(self._next_key() if self._is_client else None))
            else:
                from wsproto.events import CloseConnection

                self._out.append(self._wsproto().send(CloseConnection(code=code, reason=reason)))
            self._closing = True
        elif not self._closing:
            self.finished = True

    def _open(self) -> None:
        """Switch from the handshake to frames."""
        self.opened = self._is_open = True

    def _wsproto(self) -> Connection:
        """Return wsproto's state of the open WebSocket; create it if necessary."""
        if self._ws is None:
            from wsproto.connection import Connection, ConnectionType
            from wsproto.events import CloseConnection

            self._ws = Connection(ConnectionType.CLIENT if self._is_client else ConnectionType.SERVER)
            if self._closing:  # this end has sent its close frame already
                self._ws.send(CloseConnection(code=NORMAL))
        return self._ws

    def _next_key(self) -> bytes:
        """Return a masking key. 64 are drawn at a time: a call for entropy costs the same for few bytes as for many."""
        keys = self._keys or self._entropy(256)
        self._keys = keys[4:]
        return keys[:4]

    @abstractmethod
    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        """Handle bytes of the opening handshake."""

    def _receive_frames(self, data: bytes) -> list[FramingEvent]:
        """Split received bytes into frames; see the module's docstring."""
        events: list[FramingEvent] = []
        payloads: list[bytes] = []
        masked = not self._is_client
        if self._header:  # all that is kept between two calls: at most 13 bytes
            data, self._header = self._header + data, b""
        position, end = 0, len(data)
        while position < end and not self.finished:
            # Inside a frame whose header has been handled: pass its payload on, as much as has arrived.
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
                # The fast path: all complete, plain frames at this position, in one call. It stops at any other frame.
                # wsproto must see fragmented messages whole, and after a close frame no data may be delivered.
                position = (take_masked if masked else take_plain)(data, position, payloads)
                if position == end:
                    break
            # An incomplete frame, or one for wsproto. Its header must be complete to decide which.
            measured = parse_header(data, position)
            if measured is None:
                self._header = data[position:]
                break
            header, size = measured
            first = data[position]
            self._ours = (
                first == BINARY_FRAME
                and header == header_size(size, masked)  # also False if the masking is wrong
                and size < 1 << 63
                and not self._fragmented
                and self._is_open
            )
            self._left = size
            following = position + header
            if self._ours:
                self._key = data[following - 4 : following] if masked else None  # the last bytes of the header
            elif (
                self._closing
                and self._ws is None
                and header == header_size(size, masked)
                and data.startswith(close_frame(data[following - 4 : following] if masked else None), position)
            ):
                # The peer's answer to the close frame that was made here: it needs no wsproto either.
                self._report(payloads, events)
                events.append(self._closed(NORMAL, ""))
            else:
                if first & 0x0F < 8:  # a data frame, not a control frame
                    self._fragmented = not first & 0x80
                self._receive_unusual(data[position:following], payloads, events)
            position = following
        self._report(payloads, events)
        return events

    def _report(self, payloads: list[bytes], events: list[FramingEvent]) -> None:
        """Report the payloads received so far, before another event."""
        if payloads:
            events.append(b"".join(payloads))
            payloads.clear()

    def _closed(self, code: int | None, reason: str) -> Ended:
        """Handle the close frame of the peer, which is answered if necessary."""
        self.finished = True
        return Ended(ConnectionClosed("the peer closed the WebSocket", code, reason))

    def _unmask(self, chunk: bytes) -> bytes:
        """Unmask part of a payload, and rotate the key for the next part."""
        key = self._key
        if key is None:
            return chunk
        turn = len(chunk) % 4
        self._key = key[turn:] + key[:turn]
        return mask(chunk, key)

    def _receive_unusual(self, data: bytes, payloads: list[bytes], events: list[FramingEvent]) -> None:
        """Pass a piece of a frame to wsproto, and handle its events."""
        from wsproto.connection import ConnectionState
        from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

        ws = self._wsproto()
        ws.receive_data(data)
        for event in ws.events():
            self._is_open = ws.state is ConnectionState.OPEN  # the fast path stops at a close frame
            if isinstance(event, BytesMessage):
                payloads.append(bytes(event.data))
            elif isinstance(event, Ping):
                if self._is_open:
                    self._pong(ws.send(event.response()))
            elif isinstance(event, (TextMessage, CloseConnection)):
                self._report(payloads, events)
                events.append(self._end(event))
                break  # whatever follows a close frame is ignored (RFC 6455 §5.5.1)

    def _pong(self, frame: bytes) -> None:
        """Send a pong. If the peer reads none of many, it replaces the latest one. Spec: RFC 6455 §5.5.3."""
        if len(self._out) >= MOST_PONGS and self._out[-1] is self._last_pong:
            self._out.pop()
        self._last_pong = frame
        self._out.append(frame)

    def _end(self, event: TextMessage | CloseConnection) -> Ended:
        """Handle an event that ends the WebSocket: a close frame, a malformed frame, or a text message."""
        from wsproto.connection import ConnectionState
        from wsproto.events import TextMessage
        from wsproto.frame_protocol import CloseReason

        ws = self._wsproto()
        if isinstance(event, TextMessage):
            self.close(UNSUPPORTED_DATA, "MQTT requires binary messages")
            self.finished = True
            return Ended(
                RemoteProtocolError("the peer sent a text message; MQTT requires binary messages", "MQTT-6.0.0-1")
            )
        if ws.state in (ConnectionState.OPEN, ConnectionState.LOCAL_CLOSING):
            # wsproto reports a malformed frame with the same event as a close frame; only the state differs.
            self.close(event.code)
            self.finished = True
            return Ended(RemoteProtocolError(f"a malformed WebSocket frame: {shown(event.reason)}", "RFC 6455 §5"))
        if ws.state is ConnectionState.REMOTE_CLOSING:
            self._out.append(ws.send(event.response()))
        code = None if event.code == CloseReason.NO_STATUS_RCVD else int(event.code)
        return self._closed(code, shown(event.reason or ""))


def shown(complaint: object) -> str:
    """Escape an error message of wsproto or h11. It can quote the peer, whose bytes must not control a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(complaint)
    )
