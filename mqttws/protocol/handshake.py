"""The server's opening handshake of a WebSocket: an HTTP upgrade request, answered by 101 or by a refusal.

h11 parses HTTP. This module checks the upgrade and adds a limit for all data before the WebSocket is open (`heads`),
checks for requests that a proxy could interpret differently, the subprotocol, and an answer that may come later than
the request. No answer repeats text of the request. wsproto is not used here: it decodes Host by Python's codec "idna",
which takes time quadratic in the length of a label and refuses names of IDNA 2008, and of several Connection lines it
reads only the last. After the 101 the object of h11 is released, and `framing` handles the frames. The client's
handshake is in `client_handshake`.

Spec: §6, RFC 6455 §4
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import h11

from mqttws.errors import LocalProtocolError, RemoteProtocolError
from mqttws.hints import ClassVar
from mqttws.protocol.events import Ended, Opened, UpgradeRequested
from mqttws.protocol.frames import take_masked, take_short
from mqttws.protocol.framing import WebSocketFraming
from mqttws.protocol.heads import IN_HOST, Head, HeadTooLarge, Lines, accept_of, list_of, texts_of
from mqttws.protocol.plain import FramingEvent

#: The WebSocket subprotocols that the server accepts; clients of MQTT 3.1 offer the second one. Spec: §6
SUBPROTOCOLS = ("mqtt", "mqttv3.1")
#: How many bytes a client may send before its upgrade is answered, although it should send none.
MAX_EARLY = 16 * 1024
#: The version of WebSocket. Spec: RFC 6455 §4.1
_VERSION = b"13"
#: The headers of an answer that requires or confirms the upgrade.
_REQUIRED = ((b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"))
#: The beginning of a line that continues the previous one.
_FOLDED_LINE = re.compile(rb"\n[ \t]")
#: A target in absolute form: the authority, then path and query. Spec: RFC 9112 §3.2.2
_ABSOLUTE = re.compile(r"(?:https?|wss?)://([^/?#]+)([^#]*)", re.IGNORECASE)
#: 16 bytes in base64: the last character before the padding encodes only two bits.
_KEY = re.compile(rb"[A-Za-z0-9+/]{21}[AQgw]==")

Headers = Iterable[tuple[str, str]]


class _Refused(Exception):
    """The request is not a valid upgrade.

    Attributes:
        status: The HTTP status of the answer.
        headers: Its headers, without those that every refusal has.
    """

    def __init__(self, message: str, status: int = 400, headers: Lines = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class ServerWebSocket(WebSocketFraming):
    """The server's end of a WebSocket.

    A request that is not an upgrade, or offers none of `SUBPROTOCOLS`, is rejected immediately; any other is reported
    as `UpgradeRequested`.

    Spec: RFC 6455 §4.2, [MQTT-6.0.0-3], [MQTT-6.0.0-4]
    """

    __slots__ = ("_early", "_head", "_http", "_key_sent", "_subprotocol")

    #: The required form of Sec-WebSocket-Key.
    KEY: ClassVar[re.Pattern[bytes]] = _KEY

    def __init__(self) -> None:
        super().__init__(is_client=False)
        self._head = Head()
        self._http: h11.Connection | None = h11.Connection(h11.SERVER)
        self._key_sent = b""  # the Sec-WebSocket-Key of the request
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
        lines = [
            *_REQUIRED,
            (b"Sec-WebSocket-Accept", accept_of(self._key_sent)),
            (b"Sec-WebSocket-Protocol", subprotocol.encode()),
            *extra_headers,
        ]
        self._answer(h11.InformationalResponse(status_code=101, headers=lines, reason=b"Switching Protocols"))
        self._http, self._key_sent = None, b""  # h11's object takes about 4 KiB
        self._open()
        early, self._early = self._early, b""
        return [Opened(), *self._receive_frames(early)]

    def reject_upgrade(self, status: int, headers: Headers = (), body: bytes = b"") -> None:
        """Answer the upgrade request with a status other than 101.

        Args:
            status: 300 to 599, but not 304, which has no body.
            headers: Response headers, as (name, value) pairs; Content-Length and Connection are added, and Upgrade if
                the status is 426.
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

    def _reject(self, status: int, headers: Lines, body: bytes) -> None:
        """Send a refusal. A 426 must name the required protocol. Spec: RFC 9110 §7.8, §15.5.22."""
        lines = list(headers)
        if status == 426 and not any(name.lower() == b"upgrade" for name, _ in lines):
            lines[:0] = _REQUIRED
        self._answer(h11.Response(status_code=status, headers=lines))
        self._answer(h11.Data(data=body))
        self._answer(h11.EndOfMessage())
        self.finished = True

    def _answer(self, event: h11.Event) -> None:
        assert self._http is not None
        self._out.append(self._http.send(event) or b"")

    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        if self._subprotocol is not None:
            self._early += data
            return [] if len(self._early) <= MAX_EARLY else [self._too_early()]
        try:
            split = self._head.receive_data(data if self._head.begun else data.lstrip(b"\r\n"))  # RFC 9112 §2.2
            if split is None:
                return []
            head, self._early = split
            request = self._parse(head)
            lines = list(request.headers)
            self._key_sent = _check_upgrade(request, self.KEY)
        except HeadTooLarge as error:
            return [self._refuse_request(_Refused(str(error), 431))]  # RFC 6585 §5
        except _Refused as error:
            return [self._refuse_request(error)]
        offered = list_of(lines, b"sec-websocket-protocol")
        for subprotocol in SUBPROTOCOLS:
            if subprotocol.encode() in offered:
                self._subprotocol = subprotocol
                target, headers = _split_target(request.target.decode("ascii"), texts_of(lines))
                return [UpgradeRequested(target, headers, subprotocol)]
        body = b"The WebSocket subprotocol 'mqtt' must be offered [MQTT-6.0.0-3].\n"
        self._reject(400, _framing_headers(body), body)
        return [Ended(RemoteProtocolError("the client does not offer the subprotocol 'mqtt'", "MQTT-6.0.0-3"))]

    def _parse(self, head: bytes) -> h11.Request:
        """Parse a request.

        Raises:
            _Refused: It is not HTTP, or has a folded line, which a proxy may have interpreted differently.

        Spec: RFC 9112 §5.2
        """
        assert self._http is not None
        self._http.receive_data(head)
        try:
            request = self._http.next_event()
        except h11.RemoteProtocolError:
            raise _Refused("Bad HTTP message") from None
        assert isinstance(request, h11.Request)
        if _FOLDED_LINE.search(head):
            raise _Refused("A header must not be folded")
        return request

    def _too_early(self) -> Ended:
        """End the connection of a client that sends frames without waiting for the 101."""
        self._early = b""
        self.finished = True
        return Ended(RemoteProtocolError("the client did not wait for the answer to its upgrade", "RFC 6455 §4.1"))

    def _refuse_request(self, refused: _Refused) -> Ended:
        """Reject a request that is not a valid upgrade."""
        body = f"This is a WebSocket endpoint of MQTT: {refused}\n".encode()
        try:
            self._reject(refused.status, [*refused.headers, *_framing_headers(body)], body)
        except h11.LocalProtocolError:  # HTTP allows no response to this request
            self.finished = True
        return Ended(RemoteProtocolError(f"the client's request is not a WebSocket upgrade: {refused}", "§6"))


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


def _check_upgrade(request: h11.Request, key: re.Pattern[bytes]) -> bytes:
    """Check that a request is a valid upgrade, and return its Sec-WebSocket-Key.

    Args:
        request: The request, in which h11 has found one Host.
        key: The required form of Sec-WebSocket-Key.

    Raises:
        _Refused: It is not a valid upgrade.

    Spec: RFC 6455 §4.2.1, §4.4, §11.3, RFC 9112 §3.2
    """
    if request.http_version != b"1.1":
        raise _Refused("Request must be of HTTP/1.1")
    if request.method != b"GET":
        raise _Refused("Request method must be GET")
    lines = list(request.headers)
    single = dict(lines)
    if b"transfer-encoding" in single or single.get(b"content-length", b"0") != b"0":
        raise _Refused("An upgrade must not have a body")
    if single[b"host"].translate(None, IN_HOST):
        raise _Refused("Host must be a name or an address, in ASCII")
    if b"upgrade" not in list_of(lines, b"connection", lower=True):
        raise _Refused("Missing header, 'Connection: Upgrade'")
    if b"websocket" not in list_of(lines, b"upgrade", lower=True):
        raise _Refused("Missing header, 'Upgrade: websocket'")
    names = [name for name, _ in lines]
    if names.count(b"sec-websocket-key") > 1 or names.count(b"sec-websocket-version") > 1:
        raise _Refused("Sec-WebSocket-Key and Sec-WebSocket-Version must not be repeated")
    version = single.get(b"sec-websocket-version")
    if version != _VERSION:
        status = 400 if version is None else 426
        raise _Refused("Missing header, 'Sec-WebSocket-Version: 13'", status, [(b"Sec-WebSocket-Version", _VERSION)])
    if not key.fullmatch(single.get(b"sec-websocket-key", b"")):
        raise _Refused("Sec-WebSocket-Key must be 16 bytes in base64")
    return single[b"sec-websocket-key"]
