"""The input and output of an asyncio client: one TCP connection, its write buffer and its timer.

The high-water mark of the transport is 0. So the transport pauses writing as soon as its buffer holds a byte, and
resumes when the buffer is empty: `_writable` means that everything is written.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from mqttws.client.attempt import Attempt
from mqttws.client.core import Core
from mqttws.log import report
from mqttws.protocol.connection import earlier
from mqttws.sockets import READ_HEAD, READ_SIZE, acknowledge_at_once, free, limit_reads, read_size


class Owner(Protocol):
    """The owner of a `Pump`: the network of a client.

    Attributes:
        core: The core of the client.
        busy: Whether a call is changing the core.
    """

    core: Core[asyncio.Future[Any]]
    busy: bool

    def change_core(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that changes the core."""

    def established(self, pump: Pump) -> None:
        """Use a new TCP connection."""

    def run_callbacks(self, received: bool = False) -> None:
        """Settle futures, run callbacks, and wake the tasks that wait."""


class Pump(asyncio.Protocol):
    """The asyncio protocol of one Network Connection.

    Args:
        attempt: The attempt that the TCP connection belongs to.
        network: The network of the client.

    Attributes:
        attempt: The attempt.
        ended: A future that is done when the TCP connection has ended.
    """

    def __init__(self, attempt: Attempt, network: Owner) -> None:
        self.attempt = attempt
        self._link = attempt.link
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket: Any = None
        self._is_parents = False  # whether the connection is that of the parent, and this is a forked child
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it fires, by the clock of the core
        self._writable = True
        self._reading = True
        self._unacknowledged = False  # whether received data is still to be acknowledged by TCP
        self._read_size = READ_SIZE
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to use the TCP connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports have another class
        self._transport.set_write_buffer_limits(high=0)
        limit_reads(transport)
        self._socket = transport.get_extra_info("socket")
        try:
            self._network.established(self)
        except Exception as error:
            self._network.change_core(self._fail, error)
        self.move()

    def data_received(self, data: bytes) -> None:
        """Handle received bytes."""
        # While more of a long message follows, the next read acknowledges both.
        self._unacknowledged = len(data) < self._read_size or self._link.missing <= len(data)
        self._receive(self._link.receive_data, data)
        if len(data) < READ_HEAD and self._read_size == READ_SIZE:
            return
        size = read_size(self._link.missing, self._link.encrypted, self._read_size)
        if size != self._read_size and self._transport is not None:
            self._read_size = size
            limit_reads(self._transport, size)

    def acknowledge(self) -> None:
        """Make TCP acknowledge received data, unless data that was written since has done so."""
        if self._unacknowledged:
            self._unacknowledged = False
            acknowledge_at_once(self._socket)

    def eof_received(self) -> bool:
        """Handle EOF."""
        self._receive(self._link.receive_eof)
        return True  # keep the transport open: output is still to be written

    def forget_parent(self) -> None:
        """Close this copy of the socket, in a forked child. The connection ends when the parent closes its own.

        The transport still has the number of the descriptor, and the selector is the parent's. So /dev/null takes the
        place of the socket.
        """
        self._is_parents = True
        connection = self._socket
        if connection is not None and connection.fileno() >= 0:
            null = os.open(os.devnull, os.O_RDWR)
            try:
                os.dup2(null, connection.fileno(), inheritable=False)
            finally:
                os.close(null)

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the TCP connection."""
        if self._is_parents:
            return
        if not self.ended.done():
            network, now = self._network, time.monotonic()
            network.busy = True
            try:
                self._link.broke(exc if isinstance(exc, OSError) else None, now)
                network.core.advance(now)
            except Exception as error:
                self._fail(error)
            finally:
                network.busy = False
            network.run_callbacks()
        self.end()
        if self._transport is not None:
            free(self._transport)

    def pause_writing(self) -> None:
        """Stop writing until the transport's buffer is empty."""
        self._writable = False

    def resume_writing(self) -> None:
        """Continue to write."""
        self._writable = True
        self.move()

    def _receive(self, take: Callable[..., None], *arguments: object) -> None:
        """Pass input to the link, then move."""
        network = self._network
        network.busy = True
        try:
            take(*arguments, time.monotonic())
        except Exception as error:
            self._fail(error)
        finally:
            network.busy = False
        self.move(received=True)

    def move(self, received: bool = False) -> None:
        """Write, handle events, and set the timer.

        Args:
            received: See `Network.run_callbacks`.
        """
        link, network, now = self._link, self._network, time.monotonic()
        if self._transport is None or self.ended.done() or network.busy:
            return
        network.busy = True
        try:
            if network.core.dropped:  # before writing: what is queued leaves on the new connection
                network.core.disconnect(now)
            self._write(now)
            if network.core.stopping and network.core.disconnect(now):
                self._write(now)
            network.core.pass_time(now)
            network.core.advance(now)
        except Exception as error:
            self._fail(error)
        finally:
            network.busy = False
        network.run_callbacks(received)
        if self.ended.done():  # by a callback, or a failure
            return
        if link.over(now, unsent=not self._writable):
            self.end()
            return
        reading = network.core.reading
        if reading != self._reading:
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()
        self._set_timer(earlier(link.next_deadline(), network.core.deadline))

    def _write(self, now: float) -> None:
        assert self._transport is not None
        link, more = self._link, True
        while more and self._writable and (data := link.data_to_send(now)):
            self._transport.write(data)
            self._unacknowledged = False
            more = link.has_more(data)

    def _fail(self, error: Exception) -> None:
        """End the connection, and not the client, after a lack of memory or because of a defect of this package."""
        report(self.move)
        self._network.core.failed(error, time.monotonic())
        self.end()

    def end(self) -> None:
        """Close the socket."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            (self._transport.close if self._writable else self._transport.abort)()
        if not self.ended.done():
            self.ended.set_result(None)

    def _set_timer(self, deadline: float | None) -> None:
        """Set the timer, unless it is set to an earlier time: then `_on_timer` finds nothing due, and sets it again.

        So the timer is not cancelled and created with each packet that defers the deadline.
        """
        if deadline is None:
            return
        if self._timer is not None:
            if self._due <= deadline:
                return
            self._timer.cancel()
        self._due = deadline
        self._timer = self._loop.call_later(deadline - time.monotonic(), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._receive(self._link.handle_timeout)
