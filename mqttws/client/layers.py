"""The layers between a TCP socket and a `ClientConnection`: the tunnel of a proxy, then TLS. It does no I/O.

With `Link`, both drivers only move bytes between it and a socket. It also decides how a connection is closed: what to
wait for, and for how long.
"""

from __future__ import annotations

from mqttws.client.options import CLOSE_TIMEOUT
from mqttws.client.timings import Stopwatch, Timings
from mqttws.errors import ConnectError, ConnectionBroken, KeepAliveTimeout, MQTTError
from mqttws.hints import TYPE_CHECKING
from mqttws.protocol.connection import LATE_SERVER, ClientConnection, earlier
from mqttws.protocol.machine import PIECE
from mqttws.protocol.outgoing import LONG

if TYPE_CHECKING:  # a plain connection does not need them, nor ssl and h11, which they import
    from mqttws.client.proxy import Tunnel
    from mqttws.client.socks import SocksTunnel
    from mqttws.client.tls import TLSPipe

#: Seconds to wait, after DISCONNECT, for a server to close a TCP connection that has no closing handshake.
LINGER = 0.5


class Link:
    """The layers of one Network Connection of a client.

    Args:
        connection: The innermost layer; its deadline for opening includes the other layers.
        now: When the attempt began, in seconds.
        tunnel: The outermost layer; None without a proxy.
        tls: The layer in between; None without TLS.
        linger: Whether to wait for the server to close the connection after DISCONNECT. Closing a socket while
            messages still arrive resets it, and the DISCONNECT can get lost. A WebSocket has a closing handshake
            instead.

    Attributes:
        connection: The innermost layer.
        timings: How long the phases of connecting took; None before the CONNACK.
    """

    def __init__(
        self,
        connection: ClientConnection,
        now: float,
        tunnel: Tunnel | SocksTunnel | None = None,
        tls: TLSPipe | None = None,
        *,
        linger: bool = False,
    ) -> None:
        self.connection = connection
        self._tunnel = tunnel
        self._tls = tls
        self._tls_closed = False
        self._was_long = False  # whether the last plaintext was part of a long message
        self._linger = linger
        self._has_upgrade = not connection.opened
        self._received = 0  # bytes since the last `take_received`
        self._eof = False
        self.timings: Timings | None = None
        self._stopwatch: Stopwatch | None = Stopwatch(now)  # None after the CONNACK
        self._cut_at: float | None = None  # the deadline of closing; None while the connection is open
        if tunnel is not None:
            connection.lateness = "the proxy did not open the tunnel"
        elif tls is not None:
            tls.receive_data(b"")  # starts the handshake

    # Input.

    def end_phase(self, phase: str, now: float) -> None:
        """Record that a phase of connecting has ended: "lookup" or "tcp"."""
        if self._stopwatch is not None:
            self._stopwatch.end(phase, now)

    def receive_data(self, data: bytes, now: float) -> None:
        """Handle bytes from the socket. Spec: [MQTT-4.8.0-2]."""
        self._received += len(data)
        try:
            if self._tunnel is not None:
                data = self._tunnel.receive_data(data)
                if not self._tunnel.established:
                    return
                self._tunnel = None
                self.connection.lateness = LATE_SERVER
                self.end_phase("proxy", now)
            if self._tls is not None:
                self._tls.receive_data(data)
                while self._tls.readable and (data := self._decrypt(self._tls)):
                    self.connection.receive_data(data, now)
            elif data:
                self.connection.receive_data(data, now)
        except ConnectError as error:
            self._end(error, now)
            return
        except Exception as error:  # a failure in this process, such as MemoryError, ends only this connection
            self.fail("data from the server could not be processed", error, now)
            return
        if self._tls is not None and self._tls.eof:
            self.receive_eof(now)
        self._settle(now)
        if self._stopwatch is not None:
            self._time_phases(self._stopwatch, now)

    def _decrypt(self, tls: TLSPipe) -> bytes:
        """Return the next plaintext for the connection, without what was decrypted into a long message's payload."""
        buffer = self.connection.payload_buffer()
        if buffer is None:
            # After a long message another one often follows: a record has its head, and little of its payload.
            enough, self._was_long = 1 if self._was_long else LONG, False
            return tls.read(enough)
        self._was_long = True
        with buffer:  # see `Decoder.payload_buffer`
            count = tls.read_into(buffer)
        return self.connection.fill(count) if count else b""

    def payload_buffer(self) -> memoryview | None:
        """Return memory for the next bytes from the socket; see `Connection.payload_buffer`. None with TLS."""
        return self.connection.payload_buffer() if self._tls is None and self._tunnel is None else None

    def fill(self, count: int) -> bytes:
        """Record that bytes were read into the `payload_buffer`; see `Connection.fill`."""
        self._received += count - 1
        return self.connection.fill(count)

    def _time_phases(self, stopwatch: Stopwatch, now: float) -> None:
        """Record the phases of connecting that the received bytes have completed."""
        if self._tls is not None and self._tls.established:
            stopwatch.end("tls", now)
        if self._has_upgrade and self.connection.opened:
            stopwatch.end("upgrade", now)
        if self.connection.connected:
            stopwatch.end("connack", now)
            self.timings, self._stopwatch = stopwatch.timings(), None

    @property
    def missing(self) -> int:
        """How many bytes are missing from a long message of which a part has arrived; see `Machine.payload_missing`."""
        return self.connection.machine.payload_missing

    @property
    def encrypted(self) -> bool:
        """Whether the bytes from the socket are those of TLS."""
        return self._tls is not None

    def take_received(self) -> int:
        """Return the number of bytes received since the last call."""
        size, self._received = self._received, 0
        return size

    def receive_eof(self, now: float) -> None:
        """Handle EOF from the socket."""
        self._eof = True
        if self._tunnel is not None:
            self._end(ConnectError("the proxy closed the connection before it opened the tunnel"), now)
        elif not self._open:
            self._end(ConnectError("the server closed the connection during the TLS handshake"), now)
        else:
            self.connection.receive_eof(now)
        self._settle(now)

    def broke(self, error: OSError | None, now: float) -> None:
        """Handle an error of the socket."""
        reason = (error.strerror or str(error)) if error is not None else "the socket was closed"
        self._end(ConnectError(f"the connection broke: {reason}"), now)

    def fail(self, what: str, error: Exception, now: float) -> None:
        """Handle a failure of this process: end the connection.

        Args:
            what: What failed.
            error: The failure, such as a `MemoryError`.
            now: The current time in seconds.
        """
        failure = ConnectError(f"{what}: {type(error).__name__}")
        failure.__cause__ = error
        self._end(failure, now)

    def handle_timeout(self, now: float) -> None:
        """Handle the deadlines that have passed."""
        self.connection.handle_timeout(now)
        self._settle(now)

    def disconnect(self, now: float, timeout: float, *, goodbye: bool = True) -> None:
        """Start to close the connection gracefully, with or without a DISCONNECT. Queued messages stay in the session.

        Args:
            now: The current time in seconds.
            timeout: The maximum seconds for closing.
            goodbye: Whether to send DISCONNECT.
        """
        self.connection.disconnect(now, goodbye, queued=False)
        self._settle(now)
        if self._cut_at is not None:
            self._cut_at = min(self._cut_at, now + timeout)

    # Output.

    def data_to_send(self, now: float) -> bytes:
        """Return the next bytes to write to the socket. Call this again until it returns no bytes."""
        try:
            if self._tunnel is not None:
                return self._tunnel.data_to_send()
            if self._tls is not None and (self._tls.plaintext or not self._tls.established):
                return self._tls.data_to_send()
            data = self.connection.piece_to_send(now)
            self._settle(now)
            if not data and self._cut_at is not None and self._lingering:  # everything is sent
                self._cut_at = min(self._cut_at, now + LINGER)
            if self._tls is None:
                return data
            if data:
                self._tls.send(data)
            elif self.finished and not self._tls_closed:
                self._tls_closed = True
                self._tls.close()
            return self._tls.data_to_send()
        except Exception as error:  # as in `receive_data`
            self.fail("data for the server could not be prepared", error, now)
            return b""

    def has_more(self, data: bytes) -> bool:
        """Return whether another call of `data_to_send` can return more, after it has returned `data`."""
        return len(data) >= PIECE or self._cut_at is not None

    def frame_now(self, packet: bytes, now: float, qos: int = 0) -> bytes | None:
        """Return the bytes of a PUBLISH for the socket, to be written immediately; see `ClientConnection.frame_now`.

        Returns:
            The bytes; None if other data must be sent first, or if there is a tunnel or TLS.
        """
        if self._tls is not None or self._tunnel is not None:
            return None
        return self.connection.frame_now(packet, now, qos)

    def next_deadline(self) -> float | None:
        """Return the time by which `handle_timeout` and `over` must be called; None if there is no deadline."""
        deadline = self.connection.next_deadline()
        return deadline if self._cut_at is None else earlier(deadline, self._cut_at)

    def over(self, now: float, unsent: bool) -> bool:
        """Return whether to close the socket now.

        Args:
            now: The current time in seconds.
            unsent: Whether some bytes from `data_to_send` have not been written yet.
        """
        if self._cut_at is None:
            return False
        return now >= self._cut_at or (self.finished and not unsent)

    @property
    def finished(self) -> bool:
        """Whether everything was sent and the peer need not answer."""
        return self.connection.finished and not self._lingering

    @property
    def _lingering(self) -> bool:
        orderly = self.connection.closed and self.connection.error is None
        return self._linger and orderly and not self._eof

    @property
    def _open(self) -> bool:
        """Whether the tunnel and TLS are established."""
        return self._tunnel is None and (self._tls is None or self._tls.established)

    def _end(self, error: ConnectError, now: float) -> None:
        """Close immediately, without a closing handshake."""
        reason: MQTTError = error
        if self.connection.connected:
            reason = ConnectionBroken(str(error))
            reason.__cause__ = error.__cause__
        self.connection.close(reason, now)
        self._cut_at = now

    def _settle(self, now: float) -> None:
        """Set the deadline for closing the socket once the connection is closed.

        A closed connection may still have output, and the peer may answer. Without a working tunnel or TLS, or after a
        keep alive timeout, no answer can arrive, so the socket is closed immediately.
        """
        if self._cut_at is None and self.connection.closed:
            hopeless = not self._open or isinstance(self.connection.error, KeepAliveTimeout)
            self._cut_at = now if hopeless else now + CLOSE_TIMEOUT
