"""The opening handshake of a WebSocket, one class for each end: a request of HTTP, and 101 or a refusal.

HTTP is h11's, and what makes a request an upgrade is wsproto's. Ours is what neither of them does: a bound for all
that comes before the WebSocket is open, a closer look at requests that a proxy in front may read otherwise, the
subprotocol, and a decision that may be awaited between a request and its answer. What h11 and wsproto complain of is
escaped before it is shown to anybody. With the answer 101 the frames begin, and both libraries' objects are let go;
see `framing`.

Spec: §6, RFC 6455 §4
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from sys import intern
from typing import ClassVar

import h11
from wsproto import ConnectionType
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import LocalProtocolError as WSLocalProtocolError
from wsproto.utilities import RemoteProtocolError as WSRemoteProtocolError

from mqttws.errors import ConnectError, HandshakeRejected, LocalProtocolError, RemoteProtocolError
from mqttws.protocol.events import Ended, Opened, UpgradeRequested
from mqttws.protocol.framing import WebSocketFraming, shown
from mqttws.protocol.plain import PROTOCOL_ERROR, FramingEvent

#: The WebSocket subprotocols that a server of ours speaks; the second is what clients of MQTT 3.1 offer. Spec: §6
SUBPROTOCOLS = ("mqtt", "mqttv3.1")
#: How much of the body of a refusal is kept.
MAX_REFUSAL_BODY = 4096
#: How many bytes the head of a request or a response may take.
MAX_HEAD = 16 * 1024
#: How many header lines it may have.
MAX_LINES = 100
#: How many bytes a client may send before its upgrade is answered, though it should send none.
MAX_EARLY = 16 * 1024
#: The blank line that ends a head.
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
#: A line that goes on with the one before it.
_FOLDED_LINE = re.compile(rb"\n[ \t]")
#: A line that names protocols to change to. Spec: RFC 9110 §7.8
_UPGRADE_LINE = re.compile(rb"\nupgrade[ \t]*:([^\r\n]*)\r?(?=\n)", re.IGNORECASE)
#: A target in absolute form: the authority, then path and query. Spec: RFC 9112 §3.2.2
_ABSOLUTE = re.compile(r"(?:https?|wss?)://([^/?#]+)([^#]*)", re.IGNORECASE)
#: 16 bytes in base64: the last character before the padding stands for two bits.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")

#: What a server answers to a head beyond its bounds. Spec: RFC 6585 §5
_TOO_LARGE = RejectConnection(status_code=431)

Headers = Iterable[tuple[str, str]]


class _Handshake(WebSocketFraming):
    """What the two ends share: the head of the peer's message is gathered before h11 sees any of it.

    Args:
        role: which end this is.
        entropy: see `WebSocketFraming`.
    """

    __slots__ = ("_head",)

    def __init__(self, role: ConnectionType, entropy: Callable[[int], bytes] = os.urandom) -> None:
        super().__init__(role, entropy)
        self._head = b""  # while it is not all there

    def start(self) -> list[FramingEvent]:
        """See `Framing.start`."""
        return []

    def _split_head(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Gather the head of the peer's handshake. Returns it, and what lies behind; None while it is not all there.

        Raises:
            wsproto's RemoteProtocolError: it is longer than it may be, in bytes or in lines.
        """
        data = self._head + data
        blank_line = _END_OF_HEAD.search(data, max(0, len(self._head) - 3))
        if (blank_line.end() if blank_line else len(data)) > MAX_HEAD:
            raise WSRemoteProtocolError("the head of the HTTP message is too long", _TOO_LARGE)
        if blank_line is None:
            self._head = data
            return None
        self._head = b""
        if data.count(b"\n", 0, blank_line.end()) > MAX_LINES + 2:
            raise WSRemoteProtocolError(f"the head of the HTTP message has over {MAX_LINES} lines", _TOO_LARGE)
        return data[: blank_line.end()], data[blank_line.end() :]


class ClientWebSocket(_Handshake):
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
            return [Ended(ConnectError(f"the server's answer to the upgrade cannot be used: {shown(error)}"))]

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


class ServerWebSocket(_Handshake):
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
            split = self._split_head(data if self._head else data.lstrip(b"\r\n"))  # RFC 9112 §2.2
            if split is None:
                return []
            head, self._early = split
            self._ws.receive_data(_choose_websocket(head))
            request = next(event for event in self._ws.events() if isinstance(event, Request))
            target, headers = _split_target(request.target, _headers_of(head, self.KEY))
        except (WSRemoteProtocolError, UnicodeError) as error:
            return [self._refuse_request(error)]
        for subprotocol in SUBPROTOCOLS:
            if subprotocol in request.subprotocols:
                self._subprotocol = subprotocol
                return [UpgradeRequested(target, headers, subprotocol)]
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
        body = f"This is a WebSocket endpoint of MQTT: {shown(error)}\n".encode()
        try:
            self._reject(status, [*headers, *_framing_headers(body)], body)
        except (h11.LocalProtocolError, WSLocalProtocolError):  # the request leaves HTTP no way to answer
            self.finished = True
        return Ended(RemoteProtocolError(f"the client's request is no upgrade to WebSocket: {shown(error)}", "§6"))


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


def _choose_websocket(head: bytes) -> bytes:
    """Choose WebSocket where an upgrade offers several protocols, which wsproto does not. Spec: RFC 6455 §4.2.1 (3)."""
    lines = _UPGRADE_LINE.findall(head)
    offered = [protocol.strip().lower() for line in lines for protocol in line.split(b",")]
    if len(offered) < 2 or b"websocket" not in offered:
        return head
    return _UPGRADE_LINE.sub(b"", head).replace(b"\n", b"\nUpgrade: websocket\r\n", 1)


def _split_target(target: str, headers: tuple[tuple[str, str], ...]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Take the path and query out of a target in absolute form, whose authority counts for the Host.

    Spec: RFC 9112 §3.2.2
    """
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return target, headers
    authority, path = absolute.groups()
    headers = tuple((name, authority if name == "host" else value) for name, value in headers)
    return path if path.startswith("/") else f"/{path}", headers


def _headers_of(head: bytes, key: re.Pattern[bytes]) -> tuple[tuple[str, str], ...]:
    """Read the headers of a request as they came; wsproto takes some of them out, and decodes the host.

    Raises:
        wsproto's RemoteProtocolError: the request is of HTTP/1.0; or it has a body or a folded line, which a proxy in
            front may have read otherwise than we do; or its key is no key, or one of two. Spec: RFC 6455 §4.1, §4.2.1,
            §11.3, RFC 9112 §5.2
    """
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(head)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    if request.http_version != b"1.1":
        raise WSRemoteProtocolError("Request must be of HTTP/1.1")
    if _FOLDED_LINE.search(head):
        raise WSRemoteProtocolError("A header must not be folded")
    names = [name for name, _ in request.headers]
    if names.count(b"sec-websocket-key") > 1 or names.count(b"sec-websocket-version") > 1:
        raise WSRemoteProtocolError("Sec-WebSocket-Key and Sec-WebSocket-Version must not be there twice")
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise WSRemoteProtocolError("An upgrade must not have a body")
        if name == b"sec-websocket-key" and not key.fullmatch(value):
            raise WSRemoteProtocolError("Sec-WebSocket-Key must be 16 bytes in base64")
    return _texts(request.headers)
