"""Proxies: the choice of a proxy, and the tunnel through an HTTP proxy. `socks` implements SOCKS5 proxies.

Spec: RFC 9110 §9.3.6
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes, urlsplit

import h11

from mqttws.client.options import ENVIRONMENT
from mqttws.client.socks import SocksTunnel
from mqttws.client.url import Endpoint, check_host
from mqttws.errors import ConnectError

#: Scheme of a proxy's URL -> its default port.
_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy.

    Attributes:
        scheme: "http", "socks5" or "socks5h"; the last two are equivalent here.
        host: Name or address.
        port: 1 to 65,535.
        credentials: User name and password; None if the proxy needs none.
    """

    scheme: str
    host: str
    port: int
    credentials: tuple[bytes, bytes] | None = field(default=None, repr=False)

    def tunnel(self, endpoint: Endpoint) -> Tunnel | SocksTunnel:
        """Return a new tunnel to an endpoint."""
        return Tunnel(self, endpoint) if self.scheme == "http" else SocksTunnel(self.credentials, endpoint)


def choose_proxy(setting: str | None, endpoint: Endpoint) -> Proxy | None:
    """Return the proxy for an endpoint, or None.

    Args:
        setting: `ENVIRONMENT`, the URL of a proxy (http:// or socks5h://[user:password@]host:port), or None for none.
        endpoint: The destination of the tunnel.

    Raises:
        ConnectError: The URL of the proxy is not valid.
    """
    if setting is None:
        return None
    if setting == ENVIRONMENT:
        if endpoint.scheme != "wss" or not any(name.lower() == "https_proxy" for name in os.environ):
            return None
        from urllib.request import getproxies_environment, proxy_bypass

        proxies = getproxies_environment()
        if "https" not in proxies or proxy_bypass(f"{endpoint.host}:{endpoint.port}"):
            return None
        setting = proxies["https"]
    return _parse_proxy(setting)


def _parse_proxy(url: str) -> Proxy:
    """Parse the URL of a proxy.

    Raises:
        ConnectError: It is not valid. The message of the standard library is not included: it could show the password.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        host, port = parts.hostname or "", _PORTS.get(parts.scheme, 0) if parts.port is None else parts.port
        user, password = parts.username, parts.password
        check_host(host)
    except ValueError:
        host = ""
    if not host or not host.isascii() or parts.scheme not in _PORTS or not port:
        raise ConnectError(
            "the URL of the proxy is not of the form http://[user:password@]host:port, or with socks5h://"
        )
    credentials = None
    if user is not None:
        credentials = unquote_to_bytes(user), unquote_to_bytes(password or "")
        if parts.scheme != "http" and not all(1 <= len(each) <= 255 for each in credentials):
            raise ConnectError("SOCKS5 requires a user name and a password of 1 to 255 bytes")
    return Proxy(parts.scheme, host, port, credentials)


class Tunnel:
    """The client's side of a tunnel through an HTTP proxy, opened by CONNECT. It does no I/O.

    Args:
        proxy: The HTTP proxy.
        endpoint: The destination of the tunnel.

    Attributes:
        established: Whether the tunnel is open.
    """

    def __init__(self, proxy: Proxy, endpoint: Endpoint) -> None:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        authority = f"{host}:{endpoint.port}"
        headers = [("Host", authority)]
        if proxy.credentials is not None:
            authorization = "Basic " + base64.b64encode(b":".join(proxy.credentials)).decode()
            headers.append(("Proxy-Authorization", authorization))
        self._http = h11.Connection(h11.CLIENT)
        self._out = self._http.send(h11.Request(method="CONNECT", target=authority, headers=headers)) or b""
        self._out += self._http.send(h11.EndOfMessage()) or b""
        self.established = False

    def receive_data(self, data: bytes) -> bytes:
        """Handle bytes from the proxy.

        Returns:
            The bytes received through the tunnel, once it is `established`.

        Raises:
            ConnectError: The proxy refused the tunnel, or its answer is not HTTP.
        """
        try:
            self._http.receive_data(data)
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Response):
                    if not 200 <= event.status_code < 300:
                        raise ConnectError(f"the proxy refused the tunnel with HTTP status {event.status_code}")
                    self.established = True
                elif not isinstance(event, h11.InformationalResponse):
                    break
        except h11.RemoteProtocolError:
            raise ConnectError("the proxy's answer to CONNECT is not HTTP") from None
        return self._http.trailing_data[0] if self.established else b""

    def data_to_send(self) -> bytes:
        """Return the bytes to send now."""
        data, self._out = self._out, b""
        return data
