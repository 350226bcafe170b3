"""How a stream of MQTT bytes travels: raw, or inside a WebSocket. One small interface, ordered events.

WebSocket is wsproto's, and with it h11's: the handshake, fragments, pings, the closing handshake, every frame
that is malformed. One path of our own lies in front of it, because it carries nearly all traffic and wsproto takes
5 to 7 µs for each frame of it: whole binary messages in one frame (first byte 0x82) are cut out by ourselves, in one
loop where they are all there (see `frames`), provided that they are masked as they must be, that their length is in its
shortest form, and that no fragmented message is under way. Every other frame goes to wsproto, byte for byte. MQTT takes
no notice of where messages end [MQTT-6.0.0-2], so a payload is handed on as it arrives and never held back; only a
frame's header is.

Going out, whatever waits together leaves as one binary message.

Spec: §6, RFC 6455
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from sys import intern
from typing import ClassVar

import h11
from wsproto import ConnectionType, WSConnection
from wsproto.connection import Connection, ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Event,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError as WSLocalProtocolError
from wsproto.utilities import RemoteProtocolError as WSRemoteProtocolError

from mqttws.errors import (
    ConnectError,
    ConnectionClosed,
    HandshakeRejected,
    LocalProtocolError,
    MQTTError,
    RemoteProtocolError,
)
from mqttws.protocol.events import UpgradeRequested
from mqttws.protocol.frames import (
    BINARY_FRAME,
    binary_frame,
    header_size,
    mask,
    parse_header,
    take_masked,
    take_plain,
)

#: The WebSocket subprotocols that a server of ours speaks; the second is what clients of MQTT 3.1 offer. Spec: §6
SUBPROTOCOLS = ("mqtt", "mqttv3.1")
#: How much of the body of a refusal is kept.
MAX_REFUSAL_BODY = 4096
#: How many bytes the head of a request or a response may take.
MAX_HEAD = 16 * 1024
#: How many bytes a client may send before its upgrade is answered, though it should send none.
MAX_EARLY = 16 * 1024
#: The blank line that ends it.
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
#: A line that goes on with the one before it.
_FOLDED_LINE = re.compile(rb"\n[ \t]")
#: 16 bytes in base64: the last character before the padding stands for two bits.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")

#: Looked up once: each look-up of an enumeration's member takes as long as cutting out a frame's header.
_OPEN = ConnectionState.OPEN

# WebSocket close codes. Spec: RFC 6455 §7.4.1
NORMAL = 1000
GOING_AWAY = 1001
PROTOCOL_ERROR = 1002
UNSUPPORTED_DATA = 1003
POLICY_VIOLATION = 1008
#: Ours, from the range for private use: the session was taken over [MQTT-3.1.4-2].
TAKEN_OVER = 4001

Headers = Iterable[tuple[str, str]]


@dataclass(slots=True)
class Opened:
    """MQTT may flow."""


@dataclass(slots=True)
class Ended:
    """Nothing more will come.

    Attributes:
        error: why; a `ConnectionClosed` where the peer closed the WebSocket in order.
    """

    error: MQTTError


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

    def data_to_send(self) -> bytes:
        """Take the bytes that are to be sent now."""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        return data


class _Frames:
    """wsproto's side of an open WebSocket, made when there is work for it: for most connections there never is.

    It takes the place of the `WSConnection` that has done the handshake, which with h11 holds some 4 KiB.

    Args:
        role: which end this is.
    """

    __slots__ = ("_connection", "_role")

    def __init__(self, role: ConnectionType) -> None:
        self._role = role
        self._connection: Connection | None = None

    @property
    def state(self) -> ConnectionState:
        """See `WSConnection.state`."""
        return ConnectionState.OPEN if self._connection is None else self._connection.state

    def _made(self) -> Connection:
        if self._connection is None:
            self._connection = Connection(self._role)
        return self._connection

    def send(self, event: Event) -> bytes:
        """See `WSConnection.send`."""
        return self._made().send(event)

    def receive_data(self, data: bytes) -> None:
        """See `WSConnection.receive_data`."""
        self._made().receive_data(data)

    def events(self) -> Iterable[Event]:
        """See `WSConnection.events`."""
        return self._made().events()


class WebSocketFraming(Framing, ABC):
    """What the two ends of a WebSocket share: messages. See `ClientWebSocket` and `ServerWebSocket` for handshakes.

    Args:
        role: which end this is.
        entropy: gives so many bytes that no one can guess; masking keys are made of it.
    """

    __slots__ = (
        "_entropy",
        "_fragmented",
        "_head",
        "_header",
        "_is_client",
        "_key",
        "_keys",
        "_left",
        "_ours",
        "_role",
        "_ws",
    )

    def __init__(self, role: ConnectionType, entropy: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__()
        self.opened = False
        self._ws: WSConnection | _Frames = WSConnection(role)
        self._role = role
        self._is_client = role is ConnectionType.CLIENT
        self._entropy = entropy
        self._keys: list[bytes] = []  # drawn and not used yet, the next one last
        self._head = b""  # of the peer's handshake, while that is not all there
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
        if self._ws.state is _OPEN:
            self._out.append(self.frame(data))

    def frame(self, data: bytes) -> bytes:
        """See `Framing.frame`."""
        return binary_frame(data, self._next_key() if self._is_client else None)

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """See `Framing.close`. Spec: RFC 6455 §7.1.2."""
        if self._ws.state is _OPEN:
            self._out.append(self._ws.send(CloseConnection(code=code, reason=reason)))
        elif self._ws.state is not ConnectionState.LOCAL_CLOSING:
            self.finished = True

    def _open(self) -> None:
        """Begin with the frames: nothing of the handshake is needed any more."""
        self.opened = True
        self._ws = _Frames(self._role)

    def _next_key(self) -> bytes:
        """Draw a masking key; 64 at a time, since a call for entropy costs the same for few bytes and for many."""
        if not self._keys:
            drawn = self._entropy(256)
            self._keys = [drawn[start : start + 4] for start in range(252, -1, -4)]
        return self._keys.pop()

    def _split_head(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Gather the head of the peer's handshake. Returns it, and what lies behind; None while it is not all there.

        Raises:
            wsproto's RemoteProtocolError: it is longer than it may be.
        """
        data = self._head + data
        blank_line = _END_OF_HEAD.search(data, max(0, len(self._head) - 3))
        if (blank_line.end() if blank_line else len(data)) > MAX_HEAD:
            raise WSRemoteProtocolError("the head of the HTTP message is too long")
        if blank_line is None:
            self._head = data
            return None
        self._head = b""
        return data[: blank_line.end()], data[blank_line.end() :]

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
            if not self._fragmented and self._ws.state is _OPEN:
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
                and self._ws.state is _OPEN
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
        ws = self._ws
        ws.receive_data(data)
        for event in ws.events():
            if isinstance(event, BytesMessage):
                payloads.append(bytes(event.data))
            elif isinstance(event, Ping):
                if ws.state is _OPEN:
                    self._out.append(ws.send(event.response()))
            elif isinstance(event, (TextMessage, CloseConnection)):
                if payloads:
                    events.append(b"".join(payloads))
                    payloads.clear()
                events.append(self._end(event))
                break

    def _end(self, event: TextMessage | CloseConnection) -> Ended:
        """Answer what ends the WebSocket: a closing frame, a frame that cannot be read, or a text message."""
        ws = self._ws
        if isinstance(event, TextMessage):
            self.close(UNSUPPORTED_DATA, "MQTT takes binary messages")
            self.finished = True
            return Ended(RemoteProtocolError("the peer sent a text message; MQTT takes binary ones", "MQTT-6.0.0-1"))
        if ws.state in (_OPEN, ConnectionState.LOCAL_CLOSING):
            # wsproto tells a frame that it cannot read by the same event as the peer's closing frame.
            self.close(event.code)
            self.finished = True
            return Ended(RemoteProtocolError(f"a malformed WebSocket frame: {_shown(event.reason)}", "RFC 6455 §5"))
        if ws.state is ConnectionState.REMOTE_CLOSING:
            self._out.append(ws.send(event.response()))
        self.finished = True
        code = None if event.code == CloseReason.NO_STATUS_RCVD else int(event.code)
        return Ended(ConnectionClosed("the peer closed the WebSocket", code))


class ClientWebSocket(WebSocketFraming):
    """The client's end of a WebSocket.

    Args:
        host: the Host header, exactly as it is to be sent.
        target: path and query, exactly as they are to be sent.
        headers: more headers of the request.
        subprotocol: what is offered, and must be chosen by the server.
        entropy: see `WebSocketFraming`.

    Raises:
        ConnectError: the request cannot be made of this.

    Spec: [MQTT-6.0.0-3], [MQTT-6.0.0-4]
    """

    __slots__ = ("_body", "_refusal", "_subprotocol")

    def __init__(
        self,
        host: str,
        target: str,
        headers: Headers = (),
        subprotocol: str = "mqtt",
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(ConnectionType.CLIENT, entropy)
        self._subprotocol = subprotocol
        self._refusal: RejectConnection | None = None
        self._body = b""
        try:
            request = Request(
                host=host,
                target=target,
                subprotocols=[subprotocol],
                extra_headers=_request_headers(headers),
            )
            self._out.append(self._ws.send(request))
        except (h11.LocalProtocolError, UnicodeError):
            # What h11 says of it could repeat the request target or a header, and so a credential.
            raise ConnectError(
                "the upgrade request cannot be made: the host, path, query or a header holds what HTTP does not allow"
            ) from None

    def start(self) -> list[FramingEvent]:
        """See `Framing.start`."""
        return []

    def receive_eof(self) -> Ended | None:
        """Take the news that the peer sends nothing more: a refusal may end in this way."""
        return None if self._refusal is None or self.finished else self._rejected()

    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        try:
            if self._refusal is not None:
                return self._receive_response(data)
            split = self._split_head(data)
            if split is None:
                return []
            head, rest = split
            events = self._receive_response(head)
            if self.opened:
                events += self._receive_frames(rest)
            elif rest and not self.finished:
                events += self._receive_response(rest)
            return events
        except (WSRemoteProtocolError, UnicodeError) as error:
            self.finished = True
            return [Ended(ConnectError(f"the server's answer to the upgrade cannot be used: {_shown(error)}"))]

    def _receive_response(self, data: bytes) -> list[FramingEvent]:
        self._ws.receive_data(data)
        for event in self._ws.events():
            if isinstance(event, AcceptConnection):
                return self._accepted(event)
            ended = self._refused(event)
            if ended is not None:
                return [ended]
        return []

    def _accepted(self, event: AcceptConnection) -> list[FramingEvent]:
        if event.subprotocol == self._subprotocol:
            self._open()
            return [Opened()]
        self.close(PROTOCOL_ERROR, "no subprotocol")
        self.finished = True
        detail = f"the server chose the subprotocol {event.subprotocol!r}; it must be {self._subprotocol!r}"
        return [Ended(HandshakeRejected(101, _texts(event.extra_headers), b"", detail))]

    def _refused(self, event: Event) -> Ended | None:
        if isinstance(event, RejectConnection):
            self._refusal = event
            if not event.has_body:
                return self._rejected()
        else:
            assert isinstance(event, RejectData)
            self._body = (self._body + event.data)[:MAX_REFUSAL_BODY]
            if event.body_finished or len(self._body) == MAX_REFUSAL_BODY:
                return self._rejected()
        return None

    def _rejected(self) -> Ended:
        assert self._refusal is not None
        self.finished = True
        return Ended(HandshakeRejected(self._refusal.status_code, _texts(self._refusal.headers), self._body))


class ServerWebSocket(WebSocketFraming):
    """The server's end of a WebSocket.

    A request that is no upgrade, or offers none of `SUBPROTOCOLS`, is rejected here; any other is told by
    `UpgradeRequested`.

    Spec: [MQTT-6.0.0-3], [MQTT-6.0.0-4]
    """

    __slots__ = ("_early", "_subprotocol")

    #: What the key of a request must look like.
    KEY: ClassVar[re.Pattern[bytes]] = _KEY

    def __init__(self) -> None:
        super().__init__(ConnectionType.SERVER)
        self._subprotocol: str | None = None  # chosen, while the decision is awaited
        self._early = b""  # what the client has sent since

    def start(self) -> list[FramingEvent]:
        """See `Framing.start`."""
        return []

    def accept_upgrade(self, headers: Headers = ()) -> list[FramingEvent]:
        """Answer 101. Returns what follows from it.

        Args:
            headers: more headers of the response.

        Raises:
            LocalProtocolError: no request waits, or HTTP does not allow a header.
        """
        extra_headers = _checked(200, headers)
        subprotocol = self._take_request()
        self._out.append(self._ws.send(AcceptConnection(subprotocol=subprotocol, extra_headers=extra_headers)))
        self._open()
        early, self._early = self._early, b""
        return [Opened(), *self._receive_frames(early)]

    def reject_upgrade(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answer anything but 101.

        Args:
            status: 300 to 599, but not 304, which has no body.
            headers: of the response; its length is added.
            body: of the response.

        Raises:
            LocalProtocolError: no request waits, or HTTP does not allow the status or a header.
        """
        if not 300 <= status <= 599 or status == 304:
            raise LocalProtocolError(f"the HTTP status is {status}; it must be 300 to 599, and not 304", "§6")
        octets = _checked(status, headers, _framing_headers(body))
        self._take_request()
        self._reject(status, octets, body)

    def _take_request(self) -> str:
        subprotocol, self._subprotocol = self._subprotocol, None
        if subprotocol is None or self.finished:
            raise LocalProtocolError("there is no upgrade to accept or reject", "§6")
        return subprotocol

    def _reject(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._out.append(self._ws.send(RejectConnection(status_code=status, headers=headers, has_body=True)))
        self._out.append(self._ws.send(RejectData(data=body, body_finished=True)))
        self.finished = True

    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        if self._subprotocol is not None:
            self._early += data
            return [] if len(self._early) <= MAX_EARLY else [self._too_early()]
        try:
            split = self._split_head(data)
            if split is None:
                return []
            head, self._early = split
            self._ws.receive_data(head)
            request = next(event for event in self._ws.events() if isinstance(event, Request))
            headers = _headers_of(head, self.KEY)
        except (WSRemoteProtocolError, UnicodeError) as error:
            return [self._refuse_request(error)]
        for subprotocol in SUBPROTOCOLS:
            if subprotocol in request.subprotocols:
                self._subprotocol = subprotocol
                return [UpgradeRequested(request.target, headers, subprotocol)]
        body = b"The WebSocket subprotocol 'mqtt' must be offered [MQTT-6.0.0-3].\n"
        self._reject(400, _framing_headers(body), body)
        return [Ended(RemoteProtocolError("the client does not offer the subprotocol 'mqtt'", "MQTT-6.0.0-3"))]

    def _too_early(self) -> Ended:
        """End the connection of a client that goes on without waiting for its 101."""
        self._early = b""
        self.finished = True
        return Ended(RemoteProtocolError("the client did not wait for the answer to its upgrade", "RFC 6455 §4.1"))

    def _refuse_request(self, error: Exception) -> Ended:
        """Answer a request that is no upgrade."""
        hint = getattr(error, "event_hint", None)
        status, headers = (hint.status_code, list(hint.headers)) if hint is not None else (400, [])
        body = f"This is a WebSocket endpoint of MQTT: {_shown(error)}\n".encode()
        try:
            self._reject(status, [*headers, *_framing_headers(body)], body)
        except (h11.LocalProtocolError, WSLocalProtocolError):  # the request leaves HTTP no way to answer
            self.finished = True
        return Ended(RemoteProtocolError(f"the client's request is no upgrade to WebSocket: {_shown(error)}", "§6"))


def _shown(complaint: object) -> str:
    """Escape what wsproto or h11 says: it may quote the peer, whose bytes must not command a terminal."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(complaint)
    )


def _request_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Encode the headers of a request: visible ASCII and spaces only, though HTTP would bear more.

    Raises:
        UnicodeError: a name or a value holds something else.
    """
    headers = list(headers)
    if not all(text.isascii() and text.isprintable() for header in headers for text in header):
        raise UnicodeError
    return _octets(headers)


def _octets(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _texts(headers: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    """Decode headers. They are interned: a server keeps those of each connection, and most are alike."""
    return tuple((intern(name.decode("latin-1").lower()), intern(value.decode("latin-1"))) for name, value in headers)


def _checked(status: int, headers: Headers, more: Sequence[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
    """Check the headers of a response before anything is sent or changed."""
    try:
        octets = [*_octets(headers), *more]
        h11.Response(status_code=status, headers=octets)
    except (h11.LocalProtocolError, UnicodeError):
        raise LocalProtocolError("a header of the response holds what HTTP does not allow", "RFC 9110 §5") from None
    return octets


def _framing_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]


def _headers_of(head: bytes, key: re.Pattern[bytes]) -> tuple[tuple[str, str], ...]:
    """Read the headers of a request as they came; wsproto takes some of them out, and decodes the host.

    Raises:
        wsproto's RemoteProtocolError: the request is of HTTP/1.0; or it has a body or a folded line, which a proxy in
            front may have read otherwise than we do; or its key is no key. Spec: RFC 6455 §4.1, §4.2.1, RFC 9112 §5.2
    """
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    if request.http_version != b"1.1":
        raise WSRemoteProtocolError("Request must be of HTTP/1.1")
    if _FOLDED_LINE.search(head):
        raise WSRemoteProtocolError("A header must not be folded")
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise WSRemoteProtocolError("An upgrade must not have a body")
        if name == b"sec-websocket-key" and not key.fullmatch(value):
            raise WSRemoteProtocolError("Sec-WebSocket-Key must be 16 bytes in base64")
    return _texts(request.headers)
