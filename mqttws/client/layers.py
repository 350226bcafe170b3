"""What lies between a TCP socket and a `ClientConnection`: a proxy's tunnel, then TLS. Bytes in, bytes out.

With this both drivers move the same plain bytes, and neither knows which layers there are. It also knows how a
connection ends: what may still be waited for, and for how long. Times come in as `now`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mqttws.client.options import CLOSE_TIMEOUT
from mqttws.errors import ConnectError, ConnectionBroken, KeepAliveTimeout, MQTTError
from mqttws.protocol.connection import ClientConnection, earlier
from mqttws.protocol.machine import PIECE

if TYPE_CHECKING:  # a plain connection does without them, and without ssl and h11, which they load
    from mqttws.client.proxy import Tunnel
    from mqttws.client.socks import SocksTunnel
    from mqttws.client.tls import TLSPipe

#: Seconds to wait, after DISCONNECT, for a server to close a TCP connection that has no closing handshake.
LINGER = 0.5


class Link:
    """The layers of one Network Connection of a client.

    Args:
        connection: the innermost layer; its deadline for opening covers the outer ones.
        tunnel: the outermost layer; None for none.
        tls: the layer between; None for none.
        linger: whether to leave closing to the server after DISCONNECT, which it must do [MQTT-3.14.4-2]. A socket
            that is closed while messages are still coming in is reset, and then DISCONNECT may get lost. A WebSocket
            has its own closing handshake instead.

    Attributes:
        connection: as given.
        events: what has happened on the connection, to be taken from the left.
    """

    def __init__(
        self,
        connection: ClientConnection,
        tunnel: Tunnel | SocksTunnel | None = None,
        tls: TLSPipe | None = None,
        *,
        linger: bool = False,
    ) -> None:
        self.connection = connection
        self.events = connection.event_queue
        self._tunnel = tunnel
        self._tls = tls
        self._tls_closed = False
        self._linger = linger
        self._received = 0  # bytes, since `take_received`
        self._eof = False
        self._cut_at: float | None = None  # when to wait for nothing any more; None as long as it is not closed
        if tls is not None and tunnel is None:
            tls.receive_data(b"")  # begins the handshake

    # In.

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the socket. Spec: [MQTT-4.8.0-2]."""
        self._received += len(data)
        try:
            if self._tunnel is not None:
                data = self._tunnel.receive_data(data)
                if not self._tunnel.established:
                    return
                self._tunnel = None
            if self._tls is not None:
                data = self._tls.receive_data(data)
            if data:
                self.connection.receive_data(data, now)
        except ConnectError as error:
            self._end(error, now)
            return
        except Exception as error:  # of this process, memory that ran out say: it costs this connection alone
            failure = ConnectError(f"what the server sent could not be processed: {type(error).__name__}")
            failure.__cause__ = error
            self._end(failure, now)
            return
        if self._tls is not None and self._tls.eof:
            self.receive_eof(now)
        self._settle(now)

    def take_received(self) -> int:
        """Return how many bytes have come since this was called last."""
        size, self._received = self._received, 0
        return size

    def receive_eof(self, now: float) -> None:
        """Take the news that the socket gives nothing more."""
        self._eof = True
        if self._tunnel is not None:
            self._end(ConnectError("the proxy closed the connection before it opened the tunnel"), now)
        elif not self._open:
            self._end(ConnectError("the server closed the connection during the TLS handshake"), now)
        else:
            self.connection.receive_eof(now)
        self._settle(now)

    def broke(self, error: OSError | None, now: float) -> None:
        """Take the news that the socket is broken."""
        reason = (error.strerror or str(error)) if error is not None else "the socket was closed"
        self._end(ConnectError(f"the connection broke: {reason}"), now)

    def handle_timeout(self, now: float) -> None:
        """Do what time has made due."""
        self.connection.handle_timeout(now)
        self._settle(now)

    def disconnect(self, now: float, timeout: float, *, goodbye: bool = True) -> None:
        """Begin an orderly end, which may take some seconds; with or without a DISCONNECT."""
        self.connection.disconnect(now, goodbye)
        self._settle(now)
        if self._cut_at is not None:
            self._cut_at = min(self._cut_at, now + timeout)

    # Out.

    def data_to_send(self, now: float) -> bytes:
        """Take the bytes that are to be written to the socket now. Only an empty piece means that there is no more."""
        if self._tunnel is not None:
            return self._tunnel.data_to_send()
        if self._tls is not None and not self._tls.established:
            return self._tls.data_to_send()
        data = self.connection.data_to_send(now)
        self._settle(now)
        if not data and self._cut_at is not None and self._lingering:  # all is said
            self._cut_at = min(self._cut_at, now + LINGER)
        if self._tls is None:
            return data
        if data:
            self._tls.send(data)
        elif self.finished and not self._tls_closed:
            self._tls_closed = True
            self._tls.close()
        return self._tls.data_to_send()

    def has_more(self, data: bytes) -> bool:
        """Return whether `data_to_send`, which has just given this, may have more to give before something happens."""
        return len(data) >= PIECE or self._cut_at is not None

    def frame_now(self, packet: bytes, now: float) -> bytes | None:
        """Make the bytes that carry a PUBLISH of QoS 0, to be written to the socket at once.

        Returns:
            The bytes; None where it may not overtake what waits, or where a layer between has bytes of its own.
        """
        if self._tls is not None or self._tunnel is not None:
            return None
        return self.connection.frame_now(packet, now)

    def next_deadline(self) -> float | None:
        """Tell when `handle_timeout` must be called, or `over` be asked, at the latest; None for never."""
        deadline = self.connection.next_deadline()
        return deadline if self._cut_at is None else earlier(deadline, self._cut_at)

    def over(self, now: float, unsent: bool) -> bool:
        """Tell whether the socket is to be closed now.

        Args:
            now: seconds.
            unsent: whether something of what `data_to_send` gave is not written yet.
        """
        if self._cut_at is None:
            return False
        return now >= self._cut_at or (self.finished and not unsent)

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to say and nothing to wait for."""
        return self.connection.finished and not self._lingering

    @property
    def _lingering(self) -> bool:
        orderly = self.connection.closed and self.connection.error is None
        return self._linger and orderly and not self._eof

    @property
    def _open(self) -> bool:
        """Whether bytes of the innermost layer can travel."""
        return self._tunnel is None and (self._tls is None or self._tls.established)

    def _end(self, error: ConnectError, now: float) -> None:
        """End at once: there is nobody to take leave of."""
        reason: MQTTError = error
        if self.connection.connected:
            reason = ConnectionBroken(str(error))
            reason.__cause__ = error.__cause__
        self.connection.close(reason, now)
        self._cut_at = now

    def _settle(self, now: float) -> None:
        """Once the connection is over, bound its closing; where no answer can be hoped for, end it at once."""
        if self._cut_at is None and self.connection.closed:
            hopeless = not self._open or isinstance(self.connection.error, KeepAliveTimeout)
            self._cut_at = now if hopeless else now + CLOSE_TIMEOUT
