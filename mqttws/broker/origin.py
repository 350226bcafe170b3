"""Which browsers may connect: the Origin of the upgrade request against the Host that it was sent to.

A browser lets every page open a WebSocket to every host, loopback included, and says in `Origin` which page it is.
Programs send no Origin. So: none is fine; one of an allow-list is fine; else the page must come from the host that
it connects to. On a loopback listener that host must be named as loopback too: a page's own name can be made to
resolve to 127.0.0.1 (DNS rebinding), and would otherwise pass for the same host.

Spec: RFC 6455 §10.2, RFC 6454
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from urllib.parse import urlsplit

from mqttws.broker.hooks import Peer


def objection_to_origin(peer: Peer, allowed_origins: Collection[str]) -> str | None:
    """Say why a browser's page may not connect; None where it may, or where there is no browser.

    Args:
        peer: with the headers of its upgrade request.
        allowed_origins: such as "https://app.example"; "*" allows all.
    """
    origins = [value for name, value in peer.headers if name == "origin"]
    if not origins or "*" in allowed_origins:
        return None
    if len(origins) > 1:
        return "the upgrade carries more than one Origin"
    origin = origins[0].rstrip("/")
    if origin in allowed_origins:
        return None
    host = _host_of(f"//{peer.header('host') or ''}")
    if not host or _host_of(origin) != host:
        return f"the page of origin {origin!r} comes from another host; allow it by allowed_origins"
    if is_loopback(peer.local_address[0]) and not is_loopback(host):
        return f"the host {host!r} is not a name of this machine's loopback; allow {origin!r} by allowed_origins"
    return None


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:  # a bracket left open, and the like
        return ""


def is_loopback(host: str) -> bool:
    """Tell whether a host, a name or an address, is this machine's loopback."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
