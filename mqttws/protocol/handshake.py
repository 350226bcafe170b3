"""The server's opening handshake of a WebSocket: an HTTP upgrade request, answered by 101 or by a refusal.

h11 parses HTTP, and wsproto checks the upgrade. This module adds what neither of them does: a limit for all data before
the WebSocket is open (`heads`), checks for requests that a proxy could interpret differently, the subprotocol, and an
answer that may come later than the request. Error messages of h11 and wsproto are escaped before they are shown. After
the 101 the objects of both libraries are released, and `framing` handles the frames. The client's handshake is in
`client_handshake`.

Spec: §6, RFC 6455 §4
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import h11
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, RejectData, Request
from wsproto.utilities import LocalProtocolError as WSLocalProtocolError
from wsproto.utilities import RemoteProtocolError as WSRemoteProtocolError

from mqttws.errors import LocalProtocolError, RemoteProtocolError
from mqttws.hints import ClassVar
from mqttws.protocol.events import Ended, Opened, UpgradeRequested
from mqttws.protocol.frames import take_masked, take_short
from mqttws.protocol.framing import WebSocketFraming, shown
from mqttws.protocol.heads import Head, HeadTooLarge, texts_of
from mqttws.protocol.plain import FramingEvent

#: The WebSocket subprotocols that the server accepts; clients of MQTT 3.1 offer the second one. Spec: §6
SUBPROTOCOLS = ("mqtt", "mqttv3.1")
#: How many bytes a client may send before its upgrade is answered, although it should send none.
MAX_EARLY = 16 * 1024
#: The beginning of a line that continues the previous one.
_FOLDED_LINE = re.compile(rb"\n[ \t]")
#: An Upgrade header line. Spec: RFC 9110 §7.8
_UPGRADE_LINE = re.compile(rb"\nupgrade[ \t]*:([^\r\n]*)\r?(?=\n)", re.IGNORECASE)
#: A target in absolute form: the authority, then path and query. Spec: RFC 9112 §3.2.2
_ABSOLUTE = re.compile(r"(?:https?|wss?)://([^/?#]+)([^#]*)", re.IGNORECASE)
#: 16 bytes in base64: the last character before the padding encodes only two bits.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")

#: The server's answer to a head that exceeds its limits. Spec: RFC 6585 §5
_TOO_LARGE = RejectConnection(status_code=431)

Headers = Iterable[tuple[str, str]]


class ServerWebSocket(WebSocketFraming):
    """The server's end of a WebSocket.

    A request that is not an upgrade, or offers none of `SUBPROTOCOLS`, is rejected immediately; any other is reported
    as `UpgradeRequested`.

    Spec: RFC 6455 §4.2, [MQTT-6.0.0-3], [MQTT-6.0.0-4]
    """

    __slots__ = ("_early", "_head", "_subprotocol", "_upgrade")

    #: The required form of Sec-WebSocket-Key.
    KEY: ClassVar[re.Pattern[bytes]] = _KEY

    def __init__(self) -> None:
        super().__init__(is_client=False)
        self._head = Head()
        self._upgrade: WSConnection | None = WSConnection(ConnectionType.SERVER)
        self._subprotocol: str | None = None  # the selected one, while the request is not answered
        self._early = b""  # bytes that arrived after the request and before the answer

    def start(self) -> list[FramingEvent]:
        """Start, without an event: the client sends first. See `Framing.start`."""
        return []

    def take_whole(self, data: bytes) -> bytes | None:
        """Handle bytes that consist of whole binary messages; see `Framing.take_whole`."""
        if self._left or self._header or self._fragmented or not self._is_open:
            return None
        short = take_short(data)
        if short is not None:
            return short
        payloads: list[bytes] = []
        if take_masked(data, 0, payloads) != len(data):
            return None
        return payloads[0] if len(payloads) == 1 else b"".join(payloads)

    def accept_upgrade(self, headers: Headers = ()) -> list[FramingEvent]:
        """Answer 101. Return the resulting events.

        Args:
            headers: Additional response headers, as (name, value) pairs.

        Raises:
            LocalProtocolError: There is no request to answer, or HTTP does not allow a header.

        Spec: RFC 6455 §4.2.2
        """
        extra_headers = _checked(200, headers)
        subprotocol = self._take_request()
        self._answer(AcceptConnection(subprotocol=subprotocol, extra_headers=extra_headers))
        self._upgrade = None  # it keeps about 4 KiB, including h11's objects
        self._open()
        early, self._early = self._early, b""
        return [Opened(), *self._receive_frames(early)]

    def reject_upgrade(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answer the upgrade request with a status other than 101.

        Args:
            status: 300 to 599, but not 304, which has no body.
            headers: Response headers, as (name, value) pairs; Content-Length and Connection are added.
            body: The body of the response.

        Raises:
            LocalProtocolError: There is no request to answer, or HTTP does not allow the status or a header.

        Spec: RFC 6455 §4.2.2
        """
        if not 300 <= status <= 599 or status == 304:
            raise LocalProtocolError(f"the HTTP status is {status}; it must be 300 to 599, and not 304", "§6")
        octets = _checked(status, headers, _framing_headers(body))
        self._take_request()
        self._reject(status, octets, body)

    def _take_request(self) -> str:
        """Mark the request as answered, and return the selected subprotocol."""
        subprotocol, self._subprotocol = self._subprotocol, None
        if subprotocol is None or self.finished:
            raise LocalProtocolError("there is no upgrade request to accept or reject", "§6")
        return subprotocol

    def _reject(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        self._answer(RejectConnection(status_code=status, headers=headers, has_body=True))
        self._answer(RejectData(data=body, body_finished=True))
        self.finished = True

    def _answer(self, event: Event) -> None:
        assert self._upgrade is not None
        self._out.append(self._upgrade.send(event))

    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        if self._subprotocol is not None:
            self._early += data
            return [] if len(self._early) <= MAX_EARLY else [self._too_early()]
        try:
            split = self._head.receive_data(data if self._head.begun else data.lstrip(b"\r\n"))  # RFC 9112 §2.2
            if split is None:
                return []
            head, self._early = split
            assert self._upgrade is not None
            self._upgrade.receive_data(_choose_websocket(head))
            request = next(event for event in self._upgrade.events() if isinstance(event, Request))
            target, headers = _split_target(request.target, _headers_of(head, self.KEY))
        except HeadTooLarge as error:
            return [self._refuse_request(WSRemoteProtocolError(str(error), _TOO_LARGE))]
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
        """End the connection of a client that sends frames without waiting for the 101."""
        self._early = b""
        self.finished = True
        return Ended(RemoteProtocolError("the client did not wait for the answer to its upgrade", "RFC 6455 §4.1"))

    def _refuse_request(self, error: Exception) -> Ended:
        """Reject a request that is not a valid upgrade."""
        hint = getattr(error, "event_hint", None)
        status, headers = (hint.status_code, list(hint.headers)) if hint is not None else (400, [])
        body = f"This is a WebSocket endpoint of MQTT: {shown(error)}\n".encode()
        try:
            self._reject(status, [*headers, *_framing_headers(body)], body)
        except (h11.LocalProtocolError, WSLocalProtocolError):  # HTTP allows no response to this request
            self.finished = True
        return Ended(RemoteProtocolError(f"the client's request is not a WebSocket upgrade: {shown(error)}", "§6"))


def _octets(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def _checked(status: int, headers: Headers, more: Sequence[tuple[bytes, bytes]] = ()) -> list[tuple[bytes, bytes]]:
    """Check the headers of a response before anything is sent or changed."""
    try:
        octets = [*_octets(headers), *more]
        h11.Response(status_code=status, headers=octets)
    except (h11.LocalProtocolError, UnicodeError):
        raise LocalProtocolError("HTTP does not allow a header of the response", "RFC 9110 §5") from None
    return octets


def _framing_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"content-length", b"%d" % len(body)), (b"connection", b"close")]


def _choose_websocket(head: bytes) -> bytes:
    """Select WebSocket if an upgrade offers several protocols; wsproto does not. Spec: RFC 6455 §4.2.1 (3)."""
    lines = _UPGRADE_LINE.findall(head)
    offered = [protocol.strip().lower() for line in lines for protocol in line.split(b",")]
    if len(offered) < 2 or b"websocket" not in offered:
        return head
    return _UPGRADE_LINE.sub(b"", head).replace(b"\n", b"\nUpgrade: websocket\r\n", 1)


def _split_target(target: str, headers: tuple[tuple[str, str], ...]) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Split a target in absolute form: return its path and query, and the headers with its authority as Host.

    Spec: RFC 9112 §3.2.2
    """
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        return target, headers
    authority, path = absolute.groups()
    headers = tuple((name, authority if name == "host" else value) for name, value in headers)
    return path if path.startswith("/") else f"/{path}", headers


def _headers_of(head: bytes, key: re.Pattern[bytes]) -> tuple[tuple[str, str], ...]:
    """Return the headers of a request as received; wsproto removes some of them, and decodes the host.

    Raises:
        wsproto.utilities.RemoteProtocolError: The request uses HTTP/1.0; or it has a body or a folded line, which a
            proxy may have interpreted differently; or its key is invalid or repeated.

    Spec: RFC 6455 §4.1, §4.2.1, §11.3, RFC 9112 §5.2
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
        raise WSRemoteProtocolError("Sec-WebSocket-Key and Sec-WebSocket-Version must not be repeated")
    for name, value in request.headers:
        if name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
            raise WSRemoteProtocolError("An upgrade must not have a body")
        if name == b"sec-websocket-key" and not key.fullmatch(value):
            raise WSRemoteProtocolError("Sec-WebSocket-Key must be 16 bytes in base64")
    return texts_of(request.headers)
