"""A minimal HTTPS client: one POST to a service of AWS, and its answer.

It uses the standard library's `http.client`, because a client of Cognito sends only two small requests an hour: pools,
HTTP/2 and a further dependency would have no advantage. `http.client` follows no redirects, so tokens are sent only to
the given host. It blocks; in an event loop, call it in a worker thread.

This module adds verified TLS, the proxies of the environment, one deadline for the whole exchange, a limit for the
answer, and errors that contain no body, no header and no path. It is independent of AWS's protocols.
"""

from __future__ import annotations

import base64
import http.client
import socket
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

__all__ = ["Response", "TransferError", "check_url", "post"]


class TransferError(OSError):
    """There was no answer, or it is not usable. The message contains the host."""


@dataclass(frozen=True, slots=True, repr=False)
class Response:
    """An answer. Its body, which may contain tokens, is not in its `repr`.

    Args:
        status: The HTTP status.
        headers: The headers by name in lower case; of a repeated header, the last.
        body: The whole body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Response(status={self.status}, {len(self.body)} bytes)"


def check_url(url: str) -> SplitResult:
    """Check that a request can be sent to a URL. Return its parts.

    Raises:
        ValueError: The URL is not valid.
    """
    try:
        parts: SplitResult | None = urlsplit(url)
        port = parts.port if parts is not None else None
    except ValueError:
        parts, port = None, 0
    if (
        parts is None
        or parts.scheme not in ("https", "http")
        or not parts.hostname
        or parts.username is not None
        or port == 0
        or not _can_connect(parts.hostname)
        or not _is_target(parts.path + parts.query)
    ):
        # Neither the URL nor the standard library's message is shown: they may contain a name and a password.
        raise ValueError("expected a URL such as https://host[:port]/path, without a user's name in it")
    return parts


def _can_connect(host: str) -> bool:
    """Return whether the system's resolver can be asked for a host: it raises other errors than OSError."""
    try:
        host.encode("idna")
    except UnicodeError:  # an empty label, one of over 63 characters, or a character that no name may contain
        return False
    return host.isprintable() and " " not in host


def _is_target(text: str) -> bool:
    """Return whether a path or a query can be sent: `http.client` refuses other characters only when it sends them."""
    return text.isascii() and text.isprintable() and " " not in text


def post(
    url: str,
    headers: Mapping[str, str],
    body: bytes,
    *,
    timeout: float = 10.0,
    most: int = 65_536,
    context: ssl.SSLContext | None = None,
) -> Response:
    """Send one POST on a new connection, and read the answer.

    Args:
        url: `https://host[:port]/path`, or `http://…` for a service on this machine.
        headers: The headers; Host and Content-Length are added.
        body: The body.
        timeout: Seconds for all of it; looking up the name has no limit of its own.
        most: The maximum bytes of the answer's body.
        context: The TLS context; None for one that trusts the system's authorities.

    Raises:
        ValueError: The URL is not valid.
        TransferError: There was no answer in time, or it is not usable.
    """
    parts = check_url(url)
    where = f"{parts.hostname}:{parts.port or (443 if parts.scheme == 'https' else 80)}"
    connection, target, more = _connection(parts, timeout, context)
    line = _Line(timeout)
    connection._create_connection = line.open  # type: ignore[attr-defined]
    responses: list[http.client.HTTPResponse] = []

    def response(*arguments: Any, **options: Any) -> http.client.HTTPResponse:
        responses.append(http.client.HTTPResponse(*arguments, **options))
        return responses[-1]

    # Collected to be closed: before Python 3.11.5 http.client does not close a proxy's refusal of CONNECT.
    connection.response_class = response  # type: ignore[assignment]
    try:
        return _exchange(connection, line, target, {**headers, **more}, body, most)
    except TimeoutError:
        raise TransferError(f"no answer from {where} within {timeout:g} s") from None
    except ssl.SSLCertVerificationError as fault:
        raise TransferError(f"the certificate of {where} is not trusted: {fault.verify_message}") from None
    except _TooLong:
        raise TransferError(f"the answer from {where} has more than {most} bytes") from None
    except OSError as fault:
        # Includes the refusal of a proxy; the message of http.client for it contains only the status.
        raise TransferError(f"cannot reach {where}: {fault.strerror or fault}") from None
    except (http.client.HTTPException, ValueError) as fault:  # ValueError: http.client reads a chunk of negative size
        raise TransferError(f"the answer from {where} is not HTTP ({type(fault).__name__})") from None
    finally:
        for opened in responses:
            opened.close()
        connection.close()
        line.close()


class _TooLong(Exception):
    pass


class _Line:
    """The TCP connection of an exchange, which ends when the time for the exchange is up.

    The time-out of a socket starts again with each byte; this ends also an exchange with a very slow peer or proxy.
    """

    def __init__(self, seconds: float) -> None:
        self.is_overdue = False
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._opened: list[socket.socket] = []
        self._timer: threading.Timer | None = None

    def open(self, address: tuple[str, int], *_: object) -> socket.socket:
        """Connect; see `socket.create_connection`."""
        sock = _dial(address, self._deadline)
        self._opened.append(sock)
        sock.settimeout(self._seconds)
        # TLS replaces the object. And SSLSocket.shutdown() would turn it for a moment into a socket without encryption.
        self._opened.append(sock.dup())
        self._timer = threading.Timer(self._deadline - time.monotonic(), self._end)
        self._timer.daemon = True
        self._timer.start()
        return sock

    def _end(self) -> None:
        self.is_overdue = True
        try:
            self._opened[-1].shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the exchange has ended

    def close(self) -> None:
        """Close the connection."""
        if self._timer is not None:
            self._timer.cancel()
        for sock in self._opened:
            sock.close()


def _dial(address: tuple[str, int], deadline: float) -> socket.socket:
    """Connect to the first address of a host that answers. Each gets an equal share of the time that is left."""
    *others, last = [found[4][:2] for found in socket.getaddrinfo(*address, type=socket.SOCK_STREAM)]
    for left, other in zip(range(len(others) + 1, 1, -1), others, strict=True):
        try:
            return _connected(other, (deadline - time.monotonic()) / left)
        except OSError:
            pass
    return _connected(last, deadline - time.monotonic())


def _connected(address: Any, seconds: float) -> socket.socket:
    if seconds <= 0.0:  # 0 would mean not to wait
        raise TimeoutError
    return socket.create_connection(address, seconds)


def _exchange(
    connection: http.client.HTTPConnection,
    line: _Line,
    target: str,
    headers: Mapping[str, str],
    body: bytes,
    most: int,
) -> Response:
    try:
        connection.connect()  # includes the answer of a proxy, and TLS
        connection.request("POST", target, body, dict(headers))
        answer = connection.getresponse()
        received = answer.read(most + 1)
        if answer.length and len(received) <= most:
            raise http.client.IncompleteRead(received)  # read() with a size does not report it
    except (OSError, http.client.HTTPException):
        if line.is_overdue:
            raise TimeoutError from None
        raise
    if line.is_overdue:
        raise TimeoutError
    if len(received) > most:
        raise _TooLong
    return Response(answer.status, {name.lower(): value for name, value in answer.getheaders()}, received)


def _connection(
    parts: SplitResult, timeout: float, context: ssl.SSLContext | None
) -> tuple[http.client.HTTPConnection, str, dict[str, str]]:
    """Return a connection, not yet open, through the proxy that the environment names; the target; more headers."""
    host = parts.hostname or ""
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    proxy = None
    if not urllib.request.proxy_bypass(parts.netloc):
        proxy = urllib.request.getproxies().get(parts.scheme)
    via = None if proxy is None else _checked_proxy(proxy, parts.scheme)
    to, port = (host, parts.port) if via is None else (via.hostname or "", via.port or 80)
    if parts.scheme == "https":
        secure = http.client.HTTPSConnection(to, port, timeout=timeout, context=context or ssl.create_default_context())
        if via is not None:
            secure.set_tunnel(host, parts.port or 443, _proxy_headers(via))
        return secure, target, {}
    plain = http.client.HTTPConnection(to, port, timeout=timeout)
    if via is None:
        return plain, target, {}
    return plain, f"http://{parts.netloc}{target}", _proxy_headers(via)


def _checked_proxy(proxy: str, scheme: str) -> SplitResult:
    try:
        via: SplitResult | None = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        port = via.port if via is not None else None
    except ValueError:
        via, port = None, 0
    if via is None or via.scheme != "http" or not via.hostname or port == 0 or not _can_connect(via.hostname):
        # Neither the proxy's URL nor the standard library's message is shown: they may contain a password.
        raise TransferError(f"the environment's proxy for {scheme} is not http://host:port; correct it, or unset it")
    return via


def _proxy_headers(via: SplitResult) -> dict[str, str]:
    if via.username is None:
        return {}
    user = f"{unquote(via.username)}:{unquote(via.password or '')}".encode()
    return {"Proxy-Authorization": f"Basic {base64.b64encode(user).decode()}"}
