"""The URL and the ALPN name for AWS IoT with a client certificate or a custom authorizer.

    unsigned_url("abc-ats.iot.eu-west-1.amazonaws.com", authorizer)    "wss://.../mqtt", with parameters
    alpn_for("mqtts://...:443", "certificate")                         "x-amzn-mqtt-ca"

For URLs with a Signature Version 4 see `sigv4`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pubsub.aws.custom_auth import CustomAuthorizer

__all__ = ["FreshHeaders", "alpn_for", "unsigned_url"]

_HTTPS_PORT = "443"
#: On that port AWS IoT accepts several protocols, and recognizes MQTT by its ALPN name.
_ALPN = {"certificate": "x-amzn-mqtt-ca", "custom_authorizer": "mqtt"}


def unsigned_url(endpoint: str, authorizer: CustomAuthorizer | None) -> str:
    """Return the URL for a custom authorizer or, without one, for a certificate."""
    scheme, separator, rest = endpoint.partition("://")
    if not separator:
        scheme, rest = "wss", endpoint
    scheme = scheme.lower()
    if authorizer is None and scheme == "wss":
        scheme = "mqtts"  # AWS IoT accepts client certificates only for MQTT over TLS
    authority, slash, behind = rest.partition("/")
    if scheme in ("mqtts", "mqtt"):
        slash = behind = ""  # MQTT over TCP has no path
    elif not slash:
        slash, behind = "/", "mqtt"
    user = ""
    if authorizer is not None:
        if authorizer.via == "query":
            behind += ("&" if "?" in behind else "?") + authorizer.query()
        user = _user_information(authorizer)
    return f"{scheme}://{user}{authority}{slash}{behind}"


def alpn_for(url: str, way: str) -> str | None:
    """Return the protocol name to offer in TLS, or None.

    Args:
        url: The URL to connect to.
        way: The kind of authentication: `certificate` or `custom_authorizer`.
    """
    scheme, _, rest = url.partition("://")
    port = rest.partition("/")[0].rpartition("@")[2].rpartition(":")[2]
    return _ALPN[way] if scheme.lower() == "mqtts" and port == _HTTPS_PORT else None


class FreshHeaders:
    """Headers that are created at each attempt, because the token may have changed.

    Args:
        headers: The constant headers.
        authorizer: Returns the custom authorizer of the current attempt, whose parameters are added. Must not block.
    """

    def __init__(
        self,
        headers: Mapping[str, str] | Iterable[tuple[str, str]],
        authorizer: Callable[[], CustomAuthorizer],
    ) -> None:
        self._headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._authorizer = authorizer

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([*self._headers, *self._authorizer().parameters()])


def _user_information(authorizer: CustomAuthorizer) -> str:
    """Encode user name and password for the URL, which is created at each attempt; so the token can be new."""
    username, password = authorizer.connect_username(), authorizer.password
    if username is None:
        return ""
    user = quote(username, safe="")
    return f"{user}@" if password is None else f"{user}:{quote(password, safe='')}@"
