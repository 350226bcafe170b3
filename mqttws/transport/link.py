"""What lies between a TCP socket and a `ClientConnection`: a proxy's tunnel, then TLS. Bytes in, bytes out.

With this both drivers move the same plain bytes, and neither knows which layers there are. Times come in as `now`.
"""

from __future__ import annotations

from mqttws.errors import ConnectError, ConnectionClosed, MQTTError
from mqttws.protocol.connection import ClientConnection
from mqttws.transport.proxy import Tunnel
from mqttws.transport.tls import TLSPipe


class Link:
    """The layers of one Network Connection of a client.

    Args:
        connection: the innermost layer; its deadline for opening covers the outer ones.
        tunnel: the outermost layer; None for none.
        tls: the layer between; None for none.
    """

    def __init__(self, connection: ClientConnection, tunnel: Tunnel | None = None, tls: TLSPipe | None = None) -> None:
        self.connection = connection
        self._tunnel = tunnel
        self._tls = tls
        self._tls_closed = False
        if tls is not None and tunnel is None:
            tls.receive_data(b"")  # begins the handshake

    @property
    def finished(self) -> bool:
        """Whether the socket is to be closed, once `data_to_send` is written."""
        return self.connection.finished

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the socket."""
        try:
            if self._tunnel is not None:
                data = self._tunnel.receive_data(data)
                if not self._tunnel.established:
                    return
                self._tunnel = None
            if self._tls is not None:
                data = self._tls.receive_data(data)
        except ConnectError as error:
            self._fail(error, now)
            return
        if data:
            self.connection.receive_data(data, now)
        if self._tls is not None and self._tls.eof:
            self.connection.receive_eof(now)

    def receive_eof(self, now: float) -> None:
        """Take the news that the socket gives nothing more."""
        self.connection.receive_eof(now)

    def fail(self, error: MQTTError, now: float) -> None:
        """Take the news that the socket is broken."""
        self.connection.close(error, now)
        self.connection.receive_eof(now)

    def _fail(self, error: ConnectError, now: float) -> None:
        established = self.connection.connected
        self.fail(ConnectionClosed(str(error)) if established else error, now)

    def data_to_send(self, now: float) -> bytes:
        """Take the bytes that are to be written to the socket now. Only an empty piece means that there is no more."""
        if self._tunnel is not None:
            return self._tunnel.data_to_send()
        if self._tls is None:
            return self.connection.data_to_send(now)
        if self._tls.established:
            data = self.connection.data_to_send(now)
            if data:
                self._tls.send(data)
            elif self.finished and not self._tls_closed:
                self._tls_closed = True
                self._tls.close()
        return self._tls.data_to_send()
