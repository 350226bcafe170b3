"""Analysis of the HTTP heads that open a WebSocket: it names their parts, and the rules that they break.

A head is split at its spaces, colons and line ends, even if it is malformed; `protocol.handshake` is the module that
validates heads. The response is checked against the request: `Sec-WebSocket-Accept` is computed from the key.

Spec: RFC 9112 §2 to §6, RFC 6455 §4
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final, NamedTuple

from mqttws.tap.record import Broken, Field

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: Headers of a response whose values are credentials.
_SECRET_HEADERS: Final = frozenset({"set-cookie", "set-cookie2", "authorization", "x-amz-security-token"})
#: Parameters of a signed URL that are not secret; every other value in a query is hidden.
_PLAIN_PARAMETERS: Final = frozenset({"x-amz-algorithm", "x-amz-date", "x-amz-expires", "x-amz-signedheaders"})
#: The headers that have an explanation; the others share one.
KNOWN_HEADERS: Final = frozenset(
    {
        "host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "sec-websocket-protocol",
        "sec-websocket-extensions", "sec-websocket-accept", "origin", "date", "retry-after", "location",
        "content-length", "transfer-encoding", "server", "user-agent",
    }
)  # fmt: skip
#: The headers of a request whose values are shown. Any other may be a token: that of a custom authorizer has any name.
_PLAIN_HEADERS: Final = KNOWN_HEADERS | {
    "accept", "accept-encoding", "accept-language", "cache-control", "content-type", "pragma", "x-amz-date",
    "x-amz-content-sha256", "x-amz-customauthorizer-name",
}  # fmt: skip
#: The subprotocols that are shown. Browsers can send a token only as one.
_PLAIN_PROTOCOLS: Final = re.compile(r"(mqtt[a-z0-9.]{0,6}(,\s*|$))*", re.IGNORECASE)
_USER_INFORMATION: Final = re.compile(r"(?!/)([^/]*//)?(.*)@")
_METHOD: Final = re.compile(rb"[A-Z]{1,10} |HTTP/")
_LINE_END: Final = re.compile(rb"\r?\n")


def shown_protocols(value: str) -> str:
    """Return the value of Sec-WebSocket-Protocol if it contains no token; otherwise "hidden"."""
    return repr(value) if _PLAIN_PROTOCOLS.fullmatch(value) else "hidden"


def user_information(target: str) -> tuple[int, int]:
    """Return the start and the end of the user information in a target; two equal numbers if there is none.

    Only a target that does not begin with a slash has a host. A password may contain a slash or a question mark.
    """
    found = _USER_INFORMATION.match(target)
    return found.span(2) if found is not None else (0, 0)


class Head(NamedTuple):
    """The parts of a head that this module needs.

    Attributes:
        name: The method, or the status code.
        headers: (name in lower case, value) pairs.
        upgrade: Whether it requests or opens a WebSocket.
    """

    name: str
    headers: tuple[tuple[str, str], ...]
    upgrade: bool

    def get(self, name: str) -> str | None:
        """Return the value of the first header with this name, or None."""
        return next((value for key, value in self.headers if key == name), None)

    def elements(self, name: str) -> list[str]:
        """Return the elements of a header that is a list. Its lines form one list. Spec: RFC 9110 §5.3."""
        words = (word.strip() for key, value in self.headers if key == name for word in value.split(","))
        return [word for word in words if word]


def accept_for(key: str) -> str:
    """Compute `Sec-WebSocket-Accept`. Spec: RFC 6455 §4.2.2."""
    return base64.b64encode(hashlib.sha1(key.encode("latin-1") + _GUID, usedforsecurity=False).digest()).decode()


def read_head(data: bytes) -> Head:
    """Parse a head."""
    lines = _LINE_END.split(data)
    words = lines[0].split(b" ")
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers.append((name.decode("latin-1").strip().lower(), value.decode("latin-1").strip()))
    response = words[0].startswith(b"HTTP/")
    name = (words[1] if len(words) > 1 else b"") if response else words[0]
    head = Head(name.decode("latin-1"), tuple(headers), False)
    asked = "websocket" in map(str.lower, head.elements("upgrade"))
    return head._replace(upgrade=asked and (not response or name == b"101"))


def check_response(response: Head, request: Head | None) -> tuple[Broken, ...]:
    """Compare a 101 with the request that it answers. Spec: RFC 6455 §4.1, [MQTT-6.0.0-3], [MQTT-6.0.0-4]."""
    if request is None or response.name != "101":
        return ()
    broken = []
    expected = accept_for(request.get("sec-websocket-key") or "")
    if response.get("sec-websocket-accept") != expected:
        seen = response.get("sec-websocket-accept")
        broken.append(Broken("RFC 6455 §4.2.2", f"Sec-WebSocket-Accept is {seen!r}; for this key it is {expected!r}"))
    offered = request.elements("sec-websocket-protocol")
    chosen = response.get("sec-websocket-protocol")
    if chosen not in offered:
        seen = "no subprotocol" if chosen is None else f"the subprotocol {shown_protocols(chosen)}"
        shown = shown_protocols(", ".join(offered))
        broken.append(Broken("MQTT-6.0.0-4", f"the server chose {seen}; offered are: {shown}"))
    return tuple(broken)


def check_request(request: Head) -> tuple[Broken, ...]:
    """Check the request for a WebSocket that is to carry MQTT. Spec: RFC 6455 §4.1, [MQTT-6.0.0-3]."""
    if not request.upgrade:
        return ()
    broken = []
    offered = request.elements("sec-websocket-protocol")
    if "mqtt" not in offered and "mqttv3.1" not in offered:
        broken.append(
            Broken(
                "MQTT-6.0.0-3",
                f"the client offers the subprotocols: {shown_protocols(', '.join(offered))}; 'mqtt' must be among them",
            )
        )
    if not re.fullmatch(r"[A-Za-z0-9+/]{21}[AQgw]==", request.get("sec-websocket-key") or ""):
        broken.append(Broken("RFC 6455 §4.1", "Sec-WebSocket-Key is not 16 bytes in base64"))
    if request.get("sec-websocket-version") != "13":
        broken.append(
            Broken("RFC 6455 §4.1", f"Sec-WebSocket-Version is {request.get('sec-websocket-version')!r}; it must be 13")
        )
    return tuple(broken)


class _Cutter:
    """Splits a head into fields, from left to right."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position = 0
        self.fields: list[Field] = []

    def take(self, end: int, name: str, key: str, secret: bool = False) -> str:
        """Make a field of the bytes before an offset, if there are any. Return their text."""
        text = self.data[self.position : end].decode("latin-1")
        if end > self.position:
            self.fields.append(Field(self.position, end - self.position, name, text, key, secret))
            self.position = end
        return text

    def until(self, separator: bytes, end: int) -> int:
        """Return the offset of a separator, or `end`."""
        found = self.data.find(separator, self.position, end)
        return end if found < 0 else found


def head_fields(data: bytes) -> list[Field]:
    """Split a head into fields; each byte is in exactly one."""
    cutter = _Cutter(data)
    if not _METHOD.match(data):
        cutter.take(len(data), "beginning of a line", "HTTP/rest", True)
        return cutter.fields
    for number, match in enumerate(_LINE_END.finditer(data)):
        blank = number > 0 and match.start() == cutter.position
        if number == 0:
            _cut_first_line(cutter, match.start())
        elif not blank:
            _cut_header(cutter, match.start())
        name = "blank line" if blank else "end of line"
        cutter.take(match.end(), name, f"HTTP/{name}")
    cutter.take(len(data), "beginning of a line", "HTTP/rest", True)
    return cutter.fields


def _cut_first_line(cutter: _Cutter, end: int) -> None:
    if cutter.data.startswith(b"HTTP/"):
        names = ("version", "status code", "reason")
    else:
        names = ("method", "target", "version")
    for name in names:
        stop = end if name == names[-1] else cutter.until(b" ", end)
        if name == "target":
            _cut_target(cutter, stop)
        else:
            cutter.take(stop, name, f"HTTP/{name}")
        if stop < end:
            cutter.take(stop + 1, "space", "HTTP/space")


def _cut_target(cutter: _Cutter, end: int) -> None:
    first = cutter.position
    start, stop = user_information(cutter.data[first:end].decode("latin-1"))
    if start < stop:
        cutter.take(first + start, "path", "HTTP/path")
        cutter.take(first + stop, "user information", "HTTP/path", True)
    cutter.take(cutter.until(b"?", end), "path", "HTTP/path")
    while cutter.position < end:
        cutter.take(cutter.position + 1, "separator of the query", "HTTP/query separator")
        stop = cutter.until(b"&", end)
        equals = cutter.until(b"=", stop)
        name = cutter.take(equals, "name of a parameter", "HTTP/parameter name", equals == stop)
        if equals < stop:
            cutter.take(equals + 1, "equals sign", "HTTP/query separator")
            cutter.take(stop, name, "HTTP/parameter value", name.lower() not in _PLAIN_PARAMETERS)


def _cut_header(cutter: _Cutter, end: int) -> None:
    colon = cutter.until(b":", end)
    if cutter.data[cutter.position] in b" \t":  # the line continues the value before it
        colon = end
    name = cutter.take(colon, "header name", "HTTP/header name", colon == end).strip().lower()
    if colon < end:
        stop = colon + 1
        while stop < end and cutter.data[stop] in b" \t":
            stop += 1
        cutter.take(stop, "colon", "HTTP/colon")
        key = f"HTTP/{name}" if name in KNOWN_HEADERS else "HTTP/header value"
        response = cutter.data.startswith(b"HTTP/")
        secret = name in _SECRET_HEADERS if response else name not in _PLAIN_HEADERS
        if name == "location":  # the query of a signed URL is a credential
            cutter.take(cutter.until(b"?", end), name, key)
            secret = True
        if name == "sec-websocket-protocol":
            secret = shown_protocols(cutter.data[stop:end].decode("latin-1").strip()) == "hidden"
        cutter.take(end, name, key, secret)
