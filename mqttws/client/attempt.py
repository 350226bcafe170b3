"""An attempt to connect: create the protocol layers for a URL, before the TCP connection is open."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from mqttws.client.endpoints import parse_urls
from mqttws.client.layers import Link
from mqttws.client.options import ENVIRONMENT, Options
from mqttws.client.url import Endpoint, parse_url
from mqttws.codec import compiled
from mqttws.errors import ConnectError, ConnectTimeout, LocalProtocolError
from mqttws.hints import TYPE_CHECKING
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.plain import Framing
from mqttws.protocol.session import Session

if TYPE_CHECKING:
    from mqttws.client.tls import TLSPipe  # it imports ssl, which a plain connection does not need


class Attempt:
    """An attempt to connect.

    Attributes:
        host: The name or address for the TCP connection: of the server or of the proxy.
        port: 1 to 65,535.
        link: The layers above the TCP connection.
        deadline: The time by which the TCP connection must be open.
        where: Host and port for error messages.
    """

    __slots__ = ("deadline", "host", "link", "port", "where")

    def __init__(self, host: str, port: int, link: Link, deadline: float, where: str) -> None:
        self.host = host
        self.port = port
        self.link = link
        self.deadline = deadline
        self.where = where

    def failed(self, error: Exception) -> ConnectError:
        """Return the error for a failed TCP connection.

        Args:
            error: An `OSError`; or what the process lacked, such as a `MemoryError` or the `RuntimeError` of a thread.
        """
        # asyncio changes the messages of system errors. The numbers of resolver errors are negative.
        if not isinstance(error, OSError):
            reason = str(error) or type(error).__name__
        elif error.errno is not None and error.errno > 0:
            reason = os.strerror(error.errno)
        else:
            reason = error.strerror or str(error) or "it took too long"
        kind = ConnectTimeout if isinstance(error, TimeoutError) else ConnectError
        return kind(f"cannot connect to {self.where}: {reason}")


def make_attempt(
    url: str,
    options: Options,
    client_id: str,
    session: Session,
    now: float,
    make_tls: Callable[[str, int], TLSPipe],
    log: Callable[[str], None] | None = None,
) -> Attempt:
    """Create an attempt with all its layers.

    Args:
        url: The URL to connect to.
        options: The options of the client.
        client_id: The client identifier.
        session: The session of the client.
        now: The current time in seconds.
        make_tls: A function that creates the TLS layer for a host and a port.
        log: A function that is called with a line for each packet; None: packets are not logged.

    Raises:
        ConnectError: The URL is not valid, has no user name for a password, or HTTP does not allow the upgrade request.
        ssl.SSLError, OSError: The TLS context cannot be created.
    """
    try:
        endpoint = parse_url(url)
        connect = options.connect(client_id, endpoint)
    except (TypeError, ValueError, LocalProtocolError) as error:
        raise ConnectError(str(error)) from None
    proxy = None
    if may_have_proxy(options, endpoint):
        from mqttws.client.proxy import choose_proxy

        proxy = choose_proxy(options.proxy, endpoint)
    framing: Framing = Framing()
    if endpoint.websocket:
        from mqttws.protocol.client_handshake import ClientWebSocket

        framing = ClientWebSocket(endpoint.host_header, endpoint.target, options.header_pairs)
    machine_class: Callable[..., ClientMachine] = ClientMachine
    if log is not None and not compiled:  # a compiled class cannot be subclassed, so it cannot log packets
        from mqttws.client.packet_log import LoggedMachine

        machine_class = partial(LoggedMachine, log)
    machine = machine_class(
        connect,
        session,
        ping_timeout=options.ping_timeout,
        max_packet_size=options.max_packet_size,
        max_filters=options.max_filters,
        publish_rate=options.publish_rate,
        resend_after=options.resend_after,
        ack_timeout=options.ack_timeout,
        reject_suspects=True,
        skip_oversize=options.oversize == "skip",
    )
    connection = ClientConnection(machine, framing, now, open_timeout=options.timeout)
    tunnel = proxy.tunnel(endpoint) if proxy is not None else None
    tls = make_tls(endpoint.host, endpoint.port) if endpoint.tls else None
    link = Link(connection, now, tunnel, tls, linger=not endpoint.websocket)
    deadline = now + min(options.timeout, options.connect_timeout or options.timeout)
    if proxy is not None:
        return Attempt(proxy.host, proxy.port, link, deadline, f"the proxy {proxy.host}:{proxy.port}")
    if options.unix_socket is not None:
        return Attempt(endpoint.host, endpoint.port, link, deadline, f"the socket {options.unix_socket}")
    return Attempt(endpoint.host, endpoint.port, link, deadline, f"{endpoint.host}:{endpoint.port}")


def may_have_proxy(options: Options, endpoint: Endpoint) -> bool:
    """Return whether a proxy may be used. If not, the modules for proxies are not imported."""
    if options.proxy == ENVIRONMENT:
        named = endpoint.scheme == "wss" and any(name.lower() == "https_proxy" for name in os.environ)
        return named and options.unix_socket is None
    return options.proxy is not None and options.unix_socket is None


def check_url(url: object, options: Options) -> None:
    """Check the URL argument of a client, and the options that depend on it. A callable is not called.

    Raises:
        ValueError: A URL is malformed, or a sequence is empty; or no URL uses `tls` or `headers`, which are given.
        LocalProtocolError: There is a password, but no user name.
        TypeError: It is neither a str, nor a sequence of str, nor a callable.
    """
    endpoints = parse_urls(url)
    options.check_use(endpoints)
    for endpoint in endpoints:
        options.connect(options.client_id, endpoint)
