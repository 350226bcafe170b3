"""The client's opening handshake of a WebSocket: an HTTP upgrade request, answered by 101 or by a refusal.

Nearly every request and every 101 response is plain: one line and some headers of visible ASCII. This module writes and
parses these itself, because importing h11 takes longer than the handshake. h11 handles everything else: unusual
requests, refusals with their bodies, and everything that HTTP does not allow. In both cases this module checks that a
101 is the answer to its request.

Spec: §6, RFC 6455 §4.1, §4.2.2
"""

from __future__ import annotations

import os
from binascii import b2a_base64
from collections.abc import Callable, Iterable

from mqttws.errors import ConnectError, HandshakeRejected
from mqttws.hints import TYPE_CHECKING
from mqttws.protocol.events import Ended, Opened
from mqttws.protocol.framing import WebSocketFraming, shown
from mqttws.protocol.heads import IN_HOST, Head, HeadTooLarge, accept_of, list_of, texts_of
from mqttws.protocol.plain import PROTOCOL_ERROR, FramingEvent

if TYPE_CHECKING:
    import h11

#: How many bytes of the body of a refusal are kept.
MAX_REFUSAL_BODY = 4096

# The characters of a header's name, and of its value. They are checked without regular expressions, because importing
# `re` would delay a program's first message. Spec: RFC 9110 §5.1, §5.5
_IN_NAME = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-!#$%&'*+.^_`|~"
_IN_VALUE = bytes(range(0x20, 0x7F))
#: Headers that affect the framing or routing of the HTTP message. h11 handles messages in which they are unexpected.
_OF_HTTP = frozenset({b"host", b"content-length", b"transfer-encoding"})
#: Response headers that belong to the upgrade.
_OF_UPGRADE = frozenset(
    {b"upgrade", b"connection", b"sec-websocket-accept", b"sec-websocket-protocol", b"sec-websocket-extensions"}
)

_Lines = list[tuple[bytes, bytes]]


class _Unusable(Exception):
    """The response is not a valid answer to the upgrade request."""


class ClientWebSocket(WebSocketFraming):
    """The client's end of a WebSocket.

    Args:
        host: The Host header, exactly as it is to be sent.
        target: Path and query, exactly as they are to be sent.
        headers: Additional request headers, as (name, value) pairs.
        subprotocol: The subprotocol to offer; the server must select it.
        entropy: The source of masking keys; see `WebSocketFraming`.

    Raises:
        ConnectError: HTTP does not allow one of these values.

    Spec: RFC 6455 §4.1, [MQTT-6.0.0-3], [MQTT-6.0.0-4]
    """

    __slots__ = ("_body", "_head", "_http", "_nonce", "_refusal", "_subprotocol")

    def __init__(
        self,
        host: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        subprotocol: str = "mqtt",
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        super().__init__(is_client=True, entropy=entropy)
        self._subprotocol = subprotocol
        self._head = Head()
        self._http: h11.Connection | None = None
        self._refusal: tuple[int, _Lines] | None = None  # status and headers
        self._body = b""
        self._nonce = b2a_base64(os.urandom(16), newline=False)
        self._out.append(_request(host, target, self._upgrade_lines(headers)))

    def _upgrade_lines(self, headers: Iterable[tuple[str, str]]) -> _Lines:
        """Return the request headers, except Host.

        Raises:
            ConnectError: One contains characters other than visible ASCII and spaces.
        """
        headers = list(headers)
        if not all(text.isascii() and text.isprintable() for header in headers for text in header):
            raise _not_allowed()
        return [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Key", self._nonce),
            (b"Sec-WebSocket-Version", b"13"),
            (b"Sec-WebSocket-Protocol", self._subprotocol.encode("ascii")),
            *((name.encode(), value.encode()) for name, value in headers),
        ]

    def start(self) -> list[FramingEvent]:
        """Start, without an event: the upgrade request is in the output. See `Framing.start`."""
        return []

    def receive_eof(self) -> Ended | None:
        """Handle EOF, which may end the body of a refusal. Return Ended if it does, else None."""
        return None if self._refusal is None or self.finished else self._rejected()

    def _receive_handshake(self, data: bytes) -> list[FramingEvent]:
        try:
            if self._http is not None:
                return self._receive_response(data)
            split = self._head.receive_data(data)
            if split is None:
                return []
            head, rest = split
            lines = _read_switching(head)
            if lines is None:
                return self._receive_response(head + rest)
            events = self._accepted(lines)
            return events + self._receive_frames(rest) if self.opened else events
        except (_Unusable, HeadTooLarge, UnicodeError) as error:
            self.finished = True
            return [Ended(ConnectError(f"the server's answer to the upgrade cannot be used: {shown(error)}"))]

    def _receive_response(self, data: bytes) -> list[FramingEvent]:
        """Parse a response that is not a plain 101 with h11."""
        import h11

        http = self._http
        if http is None:
            http = self._http = h11.Connection(h11.CLIENT)
            # h11 parses a response only after a request. The real one has been sent; this one is discarded.
            http.send(h11.Request(method="GET", target="/", headers=[("Host", "h"), ("Upgrade", "websocket")]))
        http.receive_data(data)
        while True:
            try:
                event = http.next_event()
            except h11.RemoteProtocolError:
                raise _Unusable("Bad HTTP message") from None
            if isinstance(event, h11.InformationalResponse) and event.status_code == 101:
                events = self._accepted(list(event.headers))
                return events + self._receive_frames(http.trailing_data[0]) if self.opened else events
            if isinstance(event, h11.InformationalResponse):
                continue  # 100 or 103: the final response follows. RFC 9110 §15.2
            if isinstance(event, h11.Response):
                self._refusal = event.status_code, list(event.headers)
            elif isinstance(event, h11.Data):
                self._body = (self._body + event.data)[:MAX_REFUSAL_BODY]
                if len(self._body) == MAX_REFUSAL_BODY:
                    return [self._rejected()]
            elif isinstance(event, h11.EndOfMessage):
                return [self._rejected()]
            else:  # h11 needs more data
                return []

    def _accepted(self, lines: _Lines) -> list[FramingEvent]:
        """Check that a 101 response answers the upgrade request. Spec: RFC 6455 §4.1.

        Raises:
            _Unusable: It does not.
        """
        found: dict[bytes, bytes] = {}
        for name, value in lines:
            if name in _OF_UPGRADE:
                # Repeated lines form one list (RFC 9110 §5.3), so a repeated single value does not match below.
                found[name] = b"%s, %s" % (found[name], value) if name in found else value
        if b"upgrade" not in list_of(lines, b"connection", lower=True):
            raise _Unusable("Missing header, 'Connection: Upgrade'")
        if found.get(b"upgrade", b"").lower() != b"websocket":
            raise _Unusable("Missing header, 'Upgrade: websocket'")
        if found.get(b"sec-websocket-accept") != accept_of(self._nonce):
            raise _Unusable("Bad accept token")
        if b"sec-websocket-extensions" in found:
            raise _Unusable("unrecognized extensions")
        subprotocol = found[b"sec-websocket-protocol"].decode("ascii") if b"sec-websocket-protocol" in found else None
        if subprotocol == self._subprotocol:
            self._http = None
            self._open()
            return [Opened()]
        if subprotocol is not None:
            raise _Unusable(f"unrecognized subprotocol {subprotocol}")
        self._is_open = True  # the WebSocket is open, but MQTT must not be sent over it
        self.close(PROTOCOL_ERROR, "no subprotocol")
        self.finished = True
        detail = f"the server chose the subprotocol {subprotocol!r}; it must be {self._subprotocol!r}"
        others = texts_of(line for line in lines if line[0] not in _OF_UPGRADE)
        return [Ended(HandshakeRejected(101, others, b"", detail))]

    def _rejected(self) -> Ended:
        assert self._refusal is not None
        self.finished = True
        status, headers = self._refusal
        return Ended(HandshakeRejected(status, texts_of(headers), self._body))


def _request(host: str, target: str, lines: _Lines) -> bytes:
    """Encode the request.

    Raises:
        ConnectError: It contains something that HTTP does not allow.
    """
    if not _is_host(host):
        raise _not_allowed()
    written = [b"%s: %s" % line for line in lines]
    if (
        target
        and target.isascii()
        and target.isprintable()
        and " " not in target
        and not any(name.lower() in _OF_HTTP for name, _ in lines)
        and list(map(_split_line, written)) == lines  # a name with a colon would be read as another header
    ):
        head = [b"GET %s HTTP/1.1" % target.encode(), b"Host: %s" % host.encode(), *written]
        return b"\r\n".join([*head, b"", b""])
    import h11

    try:
        request = h11.Request(
            method="GET", target=target.encode("ascii"), headers=[(b"Host", host.encode("ascii")), *lines]
        )
        return h11.Connection(h11.CLIENT).send(request) or b""
    except (h11.LocalProtocolError, UnicodeError):
        raise _not_allowed() from None


def _is_host(host: str) -> bool:
    """Return whether a Host header is an address, or a name whose labels DNS allows. It is sent as it is."""
    labels = host.partition(":")[0].removesuffix(".").split(".")
    return (
        host.isascii() and not host.encode().translate(None, IN_HOST) and all(0 < len(label) <= 63 for label in labels)
    )


def _split_line(line: bytes) -> tuple[bytes, bytes] | None:
    """Split a header line into name and value; None unless the value is visible ASCII with single spaces."""
    name, _, value = line.partition(b":")
    value = value.removeprefix(b" ")
    if not name or name.translate(None, _IN_NAME) or not value or value.translate(None, _IN_VALUE):
        return None
    return None if b"  " in value or value != value.strip(b" ") else (name, value)


def _not_allowed() -> ConnectError:
    """Return the error for an invalid request. It does not include h11's message, which could quote a credential."""
    return ConnectError("the upgrade request cannot be made: HTTP does not allow its host, path, query or a header")


def _read_switching(head: bytes) -> _Lines | None:
    """Parse the headers of a plain 101, with names in lower case; return None for any other response."""
    status_line, *lines = head[:-4].split(b"\r\n")
    if not head.endswith(b"\r\n\r\n") or not status_line.startswith(b"HTTP/1.1 101 ") or b"\n" in status_line:
        return None
    found = []
    for line in lines:
        split = _split_line(line)
        if split is None or (name := split[0].lower()) in _OF_HTTP:
            return None
        found.append((name, split[1]))
    return found
