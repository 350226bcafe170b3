"""Protection against foreign web pages: the Origin of an upgrade request is compared with its Host.

A browser allows every page to open a WebSocket to every host, including loopback, and sends the page's origin in
`Origin`. Programs send no Origin. A request without an Origin is accepted, and so is an Origin in the allow-list.
Otherwise the page must come from the host that it connects to. On a loopback listener the name of that host must be a
loopback name as well: a page's host name can be made to resolve to 127.0.0.1 (DNS rebinding), and would otherwise count
as the same host.

Spec: RFC 6455 §10.2, RFC 6454
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from mqttws.broker.hooks import Peer

#: Scheme, host and port as a browser writes them. No page has the scheme of a WebSocket. Only a host of HTTP is always
#: in lower case; that of "app://Main" or "safari-web-extension://0A5B" is not changed.
_ORIGIN = re.compile(
    r"(?!wss?:|https?://[^A-Z]*[A-Z])([a-z][a-z0-9+.-]*)://"
    r"(?:\[[0-9a-f:.]+\]|[A-Za-z0-9._~!$&'()+,;=%-]+)(?::([1-9][0-9]{0,4}))?"
)
#: The origin of a page from a file in Chromium, Electron and the WebView of Android; other browsers send "null".
_FILE = "file://"
_DEFAULT_PORTS = {("http", "80"), ("https", "443")}


def check_origins(allowed_origins: Collection[str]) -> None:
    """Check that each entry can match an Origin.

    Args:
        allowed_origins: See `objection_to_origin`.

    Raises:
        TypeError: An entry is not a str.
        ValueError: An entry is neither "*" nor an origin as browsers write it.

    Spec: RFC 6454 §6.2
    """
    for origin in allowed_origins:
        if not isinstance(origin, str):
            raise TypeError(f"an entry of allowed_origins is {type(origin).__name__}; it must be str")
        if origin in ("*", "null", _FILE):
            continue
        match = _ORIGIN.fullmatch(origin)
        if match is None or match.groups() in _DEFAULT_PORTS:
            raise ValueError(
                f"the origin {origin!r} would match no page: write scheme://host[:port] in lower case, without a path "
                "and without the default port, such as https://app.example; '*' allows every origin"
            )


def objection_to_origin(peer: Peer, allowed_origins: Collection[str]) -> str | None:
    """Return why the page of a browser must not connect; None if it may, or if there is no Origin.

    Args:
        peer: The connection, with the headers of its upgrade request.
        allowed_origins: For example "https://app.example"; "*" allows all.
    """
    origins = [value for name, value in peer.headers if name == "origin"]
    if not origins or "*" in allowed_origins:
        return None
    if len(origins) > 1:
        return "the upgrade carries more than one Origin"
    origin = origins[0] if origins[0] == _FILE else origins[0].rstrip("/")
    if origin in allowed_origins:
        return None
    host = _host_of(f"//{peer.header('host') or ''}")
    if not host or _host_of(origin) != host:
        return f"the page with origin {origin!r} comes from another host; add it to allowed_origins to allow it"
    if is_loopback(peer.local_address[0]) and not is_loopback(host):
        return f"the host {host!r} is not a loopback name; add {origin!r} to allowed_origins to allow it"
    return None


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # for example, an unclosed bracket
        return ""


def is_loopback(host: str) -> bool:
    """Return whether a host (a name or an address) is loopback."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
