"""Where and how a client connects to AWS IoT that proves its identity by a certificate or to a custom authorizer.

    unsigned_url("abc-ats.iot.eu-west-1.amazonaws.com", authorizer)    "wss://.../mqtt", with what the authorizer needs
    alpn_for("mqtts://...:443", "certificate")                         "x-amzn-mqtt-ca"

What is signed by Signature Version 4 is `sigv4`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING
from urllib.parse import quote

if TYPE_CHECKING:
    from pubsub.aws.custom_auth import CustomAuthorizer

__all__ = ["FreshHeaders", "alpn_for", "unsigned_url"]

_HTTPS_PORT = "443"
#: On that port AWS IoT takes everything, and knows MQTT by the name of the protocol.
_ALPN = {"certificate": "x-amzn-mqtt-ca", "custom_authorizer": "mqtt"}


def unsigned_url(endpoint: str, authorizer: CustomAuthorizer | None) -> str:
    """Return the URL for a custom authorizer or, without one, for a certificate."""
    scheme, separator, rest = endpoint.partition("://")
    if not separator:
        scheme, rest = "wss", endpoint
    if authorizer is None and scheme == "wss":
        scheme = "mqtts"  # AWS IoT takes certificates for MQTT over TLS alone
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
    """Return the protocol to offer in TLS; None for none.

    Args:
        url: To connect to.
        way: How the client proves its identity: `certificate` or `custom_authorizer`.
    """
    scheme, _, rest = url.partition("://")
    port = rest.partition("/")[0].rpartition("@")[2].rpartition(":")[2]
    return _ALPN[way] if scheme == "mqtts" and port == _HTTPS_PORT else None


class FreshHeaders:
    """Headers that are made anew at each attempt: the token may be another one.

    Args:
        headers: Those that stay.
        authorizer: Adds its own.
    """

    def __init__(self, headers: Mapping[str, str] | Iterable[tuple[str, str]], authorizer: CustomAuthorizer) -> None:
        self._headers = list(headers.items() if isinstance(headers, Mapping) else headers)
        self._authorizer = authorizer

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter([*self._headers, *self._authorizer.parameters()])


def _user_information(authorizer: CustomAuthorizer) -> str:
    """Encode user name and password for a URL, because the URL is what each attempt asks the provider for."""
    username, password = authorizer.connect_username(), authorizer.password
    if username is None:
        return ""
    user = quote(username, safe="")
    return f"{user}@" if password is None else f"{user}:{quote(password, safe='')}@"
