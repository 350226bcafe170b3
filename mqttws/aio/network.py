"""The asyncio driver's bytes: one TCP connection, its buffer, its timer.

All that it knows of the client is in its arguments. The event loop's buffer is kept empty or full, nothing in between,
so that "all is written" is known, as it is with a socket.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, cast

from mqttws.client.core import Core
from mqttws.client.layers import Link
from mqttws.sockets import acknowledge_at_once, free, read_less


class Pump(asyncio.Protocol):
    """Moves the bytes of one Network Connection.

    Args:
        link: what is between the bytes and the client.
        core: of the client.
        made: called when there is a TCP connection, with this very object.
        advance: called when something may have happened on the link.

    Attributes:
        ended: done when the TCP connection is over.
    """

    def __init__(
        self, link: Link, core: Core[Any], made: Callable[[Pump], None], advance: Callable[[float], None]
    ) -> None:
        self._link = link
        self._core = core
        self._made = made
        self._advance = advance
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._socket: Any = None
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self._reading = True
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the TCP connection."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        self._transport.set_write_buffer_limits(high=0)  # so that `_writable` tells whether all is written
        read_less(transport)
        self._socket = transport.get_extra_info("socket")
        self._made(self)
        self.move()

    def data_received(self, data: bytes) -> None:
        """Take bytes."""
        acknowledge_at_once(self._socket)
        self._link.receive_data(data, time.monotonic())
        self.move()

    def eof_received(self) -> bool:
        """Take the news that the peer sends nothing more."""
        self._link.receive_eof(time.monotonic())
        self.move()
        return True  # what is still to be written is written first

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the news that the socket is broken, or closed."""
        if not self.ended.done():
            now = time.monotonic()
            self._link.broke(exc if isinstance(exc, OSError) else None, now)
            self._advance(now)
        self.end()
        if self._transport is not None:
            free(self._transport)

    def pause_writing(self) -> None:
        """Take the news that something is not written yet."""
        self._writable = False

    def resume_writing(self) -> None:
        """Take the news that all is written."""
        self._writable = True
        self.move()

    def move(self) -> None:
        """Write, act on what has happened, and set the timer."""
        link, now = self._link, time.monotonic()
        if self._transport is None or self.ended.done():
            return
        while self._writable and (data := link.data_to_send(now)):
            self._transport.write(data)
        self._advance(now)
        if self.ended.done():  # by a callback
            return
        if link.over(now, unsent=not self._writable):
            self.end()
            return
        reading = self._core.reading
        if reading != self._reading:
            self._reading = reading
            (self._transport.resume_reading if reading else self._transport.pause_reading)()
        self._set_timer(link.next_deadline())

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
        """Be called at a deadline, or before it: then nothing is due, and the timer is set anew."""
        loop = self._loop
        if deadline is None:
            return
        when = loop.time() + deadline - time.monotonic()
        if self._timer is not None:
            if self._timer.when() <= when:
                return
            self._timer.cancel()
        self._timer = loop.call_at(when, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._link.handle_timeout(time.monotonic())
        self.move()
