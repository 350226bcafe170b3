"""Parsing of the URLs to which a client connects.

A URL may be a credential (a signed one is), so neither the repr of `Endpoint` nor any message shows its query or its
user information. Host, path and query are not decoded, normalised or encoded again: a signature covers exactly the
bytes that are sent.
"""

from __future__ import annotations

import re

from mqttws.client.value import Value

_URL = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^/?#@]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?"
)
#: Scheme -> (WebSocket?, TLS?, default port).
_SCHEMES = {
    "ws": (True, False, 80),
    "wss": (True, True, 443),
    "mqtt": (False, False, 1883),
    "mqtts": (False, True, 8883),
}


class Endpoint(Value):
    """A parsed URL.

    Attributes:
        scheme: "ws", "wss", "mqtt" or "mqtts".
        host: The name or address to connect to; an IPv6 address without its brackets.
        port: 1 to 65,535.
        host_header: The Host header: as in the URL, but without the scheme's default port.
        target: Path and query, as in the URL; at least "/".
        username: The user name in the URL, percent-decoded; None if it has none.
        password: The password in the URL, percent-decoded to bytes; None if it has none.
    """

    __slots__ = __match_args__ = ("scheme", "host", "port", "host_header", "target", "username", "password")
    secret_fields = frozenset({"target", "username", "password"})

    def __init__(
        self,
        scheme: str,
        host: str,
        port: int,
        host_header: str,
        target: str,
        username: str | None,
        password: bytes | None,
    ) -> None:
        self.scheme = scheme
        self.host = host
        self.port = port
        self.host_header = host_header
        self.target = target
        self.username = username
        self.password = password

    @property
    def websocket(self) -> bool:
        """Whether to use a WebSocket."""
        return _SCHEMES[self.scheme][0]

    @property
    def tls(self) -> bool:
        """Whether to use TLS."""
        return _SCHEMES[self.scheme][1]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}{self.target.partition('?')[0]}"


def parse_url(url: str) -> Endpoint:
    """Parse a URL: `ws://`, `wss://`, `mqtt://` or `mqtts://`, then `[user[:password]@]host[:port][/path][?query]`.

    Raises:
        ValueError: It is not valid. The message shows neither query nor user information.
        TypeError: It is not a str.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be a str, not {type(url).__name__}")
    bad = next((character for character in url if not "!" <= character <= "~"), None)
    if bad is not None:
        raise ValueError(
            f"the URL contains {bad!r}; it must be visible ASCII, with all else percent-encoded (IDNA in a host)"
        )
    match = _URL.fullmatch(url)
    scheme = match["scheme"].lower() if match else ""
    if match is None or scheme not in _SCHEMES:
        raise ValueError(
            "the URL is not of the form ws://host[:port]/path (or wss://, or mqtt://host[:port], mqtts://): "
            + (f"the scheme is {scheme!r}" if scheme else _shown(url))
        )
    websocket, _, default_port = _SCHEMES[scheme]
    port = int(match["port"] or default_port)
    if not 1 <= port <= 65_535:
        raise ValueError(f"the port of the URL is {port}; it must be 1 to 65,535")
    target = match["target"] or "/"
    if not websocket and target != "/":
        raise ValueError(f"a {scheme}:// URL must not have a path or a query: MQTT over TCP has none")
    host = match["host"]
    check_host(host)
    user, colon, password = (match["user"] or "").partition(":")
    return Endpoint(
        scheme=scheme,
        host=host.strip("[]"),
        port=port,
        host_header=host if port == default_port else f"{host}:{port}",
        target=target if target.startswith("/") else "/" + target,
        username=_decoded_user(user) if match["user"] is not None else None,
        password=_unquoted(password) if colon else None,
    )


def _unquoted(text: str) -> bytes:
    from urllib.parse import unquote_to_bytes  # most URLs have no user information and do not need this import

    return unquote_to_bytes(text)


def _decoded_user(user: str) -> str:
    try:
        return _unquoted(user).decode()
    except UnicodeDecodeError:
        raise ValueError("the user name of the URL is not UTF-8 after percent-decoding") from None


def check_host(host: str) -> None:
    """Check the lengths of a host name's labels.

    Raises:
        ValueError: A label is empty or longer than 63 characters.

    Spec: RFC 1035 §2.3.4
    """
    if not all(0 < len(label) <= 63 for label in host.removesuffix(".").split(".")):
        raise ValueError(f"the host {host!r} has a label that is empty or longer than 63 characters")


def _shown(url: str) -> str:
    """Return the part of an invalid URL that can be shown: user information and query can contain secrets."""
    return "it has user information and is not shown" if "@" in url else repr(re.split("[?#]", url, maxsplit=1)[0][:80])
