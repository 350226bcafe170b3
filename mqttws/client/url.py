"""Parsing of the URLs to which a client connects.

A URL may be a credential (a signed one is), so neither the repr of `Endpoint` nor any message shows its query or its
user information. Host, path and query are not decoded, normalised or encoded again: a signature covers exactly the
bytes that are sent.

There are no regular expressions here, because importing `re` would delay a program's first message.
"""

from __future__ import annotations

from mqttws.client.value import Value

#: Scheme -> (WebSocket?, TLS?, default port).
_SCHEMES = {
    "ws": (True, False, 80),
    "wss": (True, True, 443),
    "mqtt": (False, False, 1883),
    "mqtts": (False, True, 8883),
}
_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
_DIGITS = frozenset("0123456789")
_SCHEME = _LETTERS | _DIGITS | frozenset("+.-")
_IPV6 = _DIGITS | frozenset("ABCDEFabcdef:.")


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
    if not (url.isascii() and url.isprintable()) or " " in url:
        bad = next(character for character in url if not "!" <= character <= "~")
        raise ValueError(
            f"the URL contains {bad!r}; it must be visible ASCII, with all else percent-encoded (IDNA in a host)"
        )
    parts = _split(url)
    if parts is None or parts[0] not in _SCHEMES:
        raise ValueError(
            "the URL is not of the form ws://host[:port]/path (or wss://, or mqtt://host[:port], mqtts://): "
            + (_shown(url) if parts is None else f"the scheme is {parts[0]!r}")
        )
    scheme, user_information, host, digits, target = parts
    websocket, _, default_port = _SCHEMES[scheme]
    port = int(digits or default_port)
    if not 1 <= port <= 65_535:
        raise ValueError(f"the port of the URL is {port}; it must be 1 to 65,535")
    target = target or "/"
    if not websocket and target != "/":
        raise ValueError(f"a {scheme}:// URL must not have a path or a query: MQTT over TCP has none")
    check_host(host)
    user, colon, password = (user_information or "").partition(":")
    return Endpoint(
        scheme=scheme,
        host=host.strip("[]"),
        port=port,
        host_header=host if port == default_port else f"{host}:{port}",
        target=target if target.startswith("/") else "/" + target,
        username=_decoded_user(user) if user_information is not None else None,
        password=_unquoted(password) if colon else None,
    )


def _split(url: str) -> tuple[str, str | None, str, str, str] | None:
    """Split a URL into scheme, user information, host, port and target; None if it has another form.

    The scheme is in lower case. Without user information, that is None. An IPv6 address is in its brackets. The port is
    0 to 5 digits. The target begins with "/" or "?", or is empty.
    """
    scheme, separator, rest = url.partition("://")
    end = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, target = rest[:end], rest[end:]
    user, at, place = authority.rpartition("@")
    if place.startswith("["):
        host, _, port = place.partition("]")
        host_is_valid = len(host) > 1 and _IPV6.issuperset(host[1:]) and "]" in place
        host += "]"
        colon, port = port[:1], port[1:]
    else:
        host, colon, port = place.partition(":")
        host_is_valid = bool(host) and "[" not in host and "]" not in host
    valid = (
        separator
        and scheme[:1] in _LETTERS
        and _SCHEME.issuperset(scheme)
        and "@" not in user
        and host_is_valid
        and (not colon or (colon == ":" and 1 <= len(port) <= 5 and _DIGITS.issuperset(port)))
        and "#" not in target
    )
    return (scheme.lower(), user if at else None, host, port, target) if valid else None


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
    if "@" in url:
        return "it has user information and is not shown"
    return repr(url.partition("?")[0].partition("#")[0][:80])
