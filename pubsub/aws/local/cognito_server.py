"""An HTTP server for `LocalCognito`.

    with LocalCognitoServer(LocalCognito([pool], ring)) as server:
        CognitoIdentity(pool.pool_id, endpoint=server.endpoint)

It is blocking, with a thread and one request for each connection, which is enough for development. A connection has one
deadline, however slow its peer is. It answers the CORS preflight of browsers, so that a page from another origin can
use it. Bodies are never logged.
"""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from types import TracebackType
from typing import Any, cast

from pubsub.aws.local.cognito import Answer, LocalCognito
from pubsub.owned_lock import OwnedLock

__all__ = ["LocalCognitoServer"]

_log = logging.getLogger(__name__)
_MOST_BYTES = 65_536
_TIMEOUT = 10.0
_CORS = {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": "*"}
_PREFLIGHT = {
    "Access-Control-Allow-Methods": "POST",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Max-Age": "60",
}


class LocalCognitoServer:
    """A server, which listens from its creation until `close`.

    Args:
        cognito: The service.
        host: The address to listen on; the default accepts connections only from this machine.
        port: The port; 0 for any free port.
        context: A TLS context; None for plain HTTP.
        clock: Returns the time in seconds since 1970; also for the `Date` of the answers.

    Raises:
        OSError: The port is in use.
    """

    def __init__(
        self,
        cognito: LocalCognito,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        context: ssl.SSLContext | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._server = _Server((host, port), cognito, context, clock)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="local-cognito")
        self._thread.daemon = True
        self._thread.start()
        bound = self._server.server_address[1]
        shown = f"[{host}]" if ":" in host else host
        self.endpoint = f"{'https' if context else 'http'}://{shown}:{bound}/"
        """The URL of the service."""

    def close(self) -> None:
        """Stop listening, and end the connections."""
        self._server.shutdown()
        self._thread.join()
        self._server.end_connections(inf)
        self._server.server_close()

    def __enter__(self) -> LocalCognitoServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them; each ends with its connection

    def __init__(
        self,
        address: tuple[str, int],
        cognito: LocalCognito,
        context: ssl.SSLContext | None,
        clock: Callable[[], float],
    ) -> None:
        self.cognito = cognito
        self.clock = clock
        self._context = context
        self._lock: Any = OwnedLock()  # a connection is ended only under it, while it is known not to be closed
        self._deadlines: dict[socket.socket, float] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        connection, peer = self.socket.accept()
        if self._context is not None:
            # The handshake is made by the first read, in the connection's own thread.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._deadlines[connection] = time.monotonic() + _TIMEOUT
        return connection, peer

    def service_actions(self) -> None:
        """End what takes too long; called several times a second."""
        # The time-out of a socket would start again with each byte.
        self.end_connections(time.monotonic())

    def end_connections(self, now: float) -> None:
        """End the connections whose deadline has passed. Their threads then close them."""
        with self._lock:
            for connection, _ in filter(lambda item: item[1] <= now, self._deadlines.items()):
                _end(connection)

    def close_request(self, request: Any) -> None:
        """Close a connection."""
        with self._lock:
            self._deadlines.pop(request, None)
        super().close_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        _log.debug("a connection from %s ended early", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer a request of the service."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MOST_BYTES:
            self._send(Answer(413 if length.isdecimal() else 411, {}, b""))
            return
        server = cast("_Server", self.server)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = server.cognito.answer(headers, self.rfile.read(int(length)), now=server.clock())
        operation, error_type = headers.get("x-amz-target", "STS"), answer.headers.get("x-amzn-ErrorType", "")
        _log.debug("%r: HTTP %d %s", operation, answer.status, error_type)
        self._send(answer)

    def do_OPTIONS(self) -> None:
        """Answer the preflight of a browser."""
        self._send(Answer(204, dict(_PREFLIGHT), b""))

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        length = {} if answer.status == 204 else {"Content-Length": str(len(answer.body))}
        for name, value in {**answer.headers, **_CORS, **length, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        """Log a message of http.server, which contains the request line, but never headers or a body."""
        _log.debug(format, *args)


def _end(connection: socket.socket) -> None:
    """End a connection, also in the middle of a TLS handshake."""
    try:
        # Not connection.shutdown(): that of a TLS socket removes what a thread may be using.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        pass  # the peer has closed it
