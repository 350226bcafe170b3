"""The tap as a network program: it listens, connects to the server, and forwards bytes both ways, with asyncio.

Each connection has two ends: `near`, towards the client, and `far`, towards the server. Bytes from one end are written
to the other unchanged, and then decoded into records (see `backlog`). While one end is full, the other is not read. FIN
is forwarded as FIN, separately for each direction, and RST as RST. A `Line`, if there is one, controls the forwarding.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import ssl
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import suppress
from itertools import count
from typing import Any, Final, Protocol, Self, TypeVar

from mqttws.client.tls import tls_context
from mqttws.client.url import Endpoint, parse_url
from mqttws.protocol.frames import binary_frame
from mqttws.sockets import acknowledge_at_once, limit_reads
from mqttws.tap.backlog import Backlog
from mqttws.tap.reader import LIMIT, SessionReader
from mqttws.tap.record import CLIENT, SERVER, Record
from mqttws.tap.retarget import Retarget
from mqttws.tap.ring import Ring
from mqttws.tap.tls import Piece, TLSLayer

T = TypeVar("T")

logger = logging.getLogger("mqttws.tap")

#: Seconds to connect to the server, including TLS.
CONNECT_TIMEOUT: Final = 30.0
#: Iterations of the event loop from asyncio's accept to `connection_made`.
_ACCEPTING: Final = 3
#: Seconds to wait for sockets that have been reset.
CLOSE_TIMEOUT: Final = 5.0
#: How many bytes may wait for one end before reading from the other is paused.
_HIGH_WATER: Final = 256 * 1024
_LINGER_0: Final = struct.pack("ii", 1, 0)

#: (action, end, bytes). The action is "send", "fin", "rst", "pause" (stop reading from that end) or "resume".
Action = tuple[str, str, bytes]


class Line(Protocol):
    """The interface of an object that controls one connection, instead of forwarding. It is sans-IO."""

    def receive_data(self, sender: str, data: bytes, records: list[Record], now: float) -> None:
        """Handle data from an end.

        Args:
            sender: "client" or "server".
            data: One piece, as it was read, after TLS.
            records: The records that it completes.
            now: The current time in seconds since the epoch.
        """

    def receive_end(self, sender: str, reset: bool, now: float) -> None:
        """Handle the end of a direction.

        Args:
            sender: "client" or "server".
            reset: Whether it ended by RST; otherwise by FIN.
            now: The current time in seconds since the epoch.
        """

    def actions(self, now: float) -> Iterable[Action]:
        """Return the actions to perform now.

        Args:
            now: The current time in seconds since the epoch.
        """

    def next_deadline(self) -> float | None:
        """Return the time at which to call `actions` again; None if only after further data."""


class Tap:
    """A tap for one server: `async with Tap(url) as tap`, or, in a thread, `with Tap(url) as tap`.

    Args:
        url: The URL of the server; see `parse_url`.
        on_records: Called in the event loop's thread with the records of each piece, and whether no unit is incomplete.
        keep: Bytes of memory for records, and as many for data that is not decoded yet.
        near_tls: The context for clients, with a certificate; None: clients connect without TLS.
        far_tls: The context for a server with TLS; None trusts the system's authorities.
        host: The address to listen on.
        port: The port to listen on; 0 for any free port.
        limit: The bytes of one unit that are kept.
        make_line: (number of the connection, its reader) -> its `Line`; None forwards everything.
        fresh_url: Returns, directly or when awaited, a URL of the same server for each connection, such as one that is
            signed anew. Its target and Host replace those of the client's upgrade request; the records show what the
            client sent.
        share: Another tap, whose numbering and records this one shares; None for separate ones.

    Raises:
        ValueError: The URL is not valid.
    """

    def __init__(
        self,
        url: str,
        *,
        on_records: Callable[[list[Record], bool], None] | None = None,
        keep: int = 64 * 1024 * 1024,
        near_tls: ssl.SSLContext | None = None,
        far_tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        limit: int = LIMIT,
        make_line: Callable[[int, SessionReader], Line] | None = None,
        fresh_url: Callable[[], str | Awaitable[str]] | None = None,
        share: Tap | None = None,
    ) -> None:
        self._fresh_url = fresh_url
        self._endpoint = parse_url(url)
        self._on_records = on_records
        self.near_tls = near_tls
        self.far_tls = tls_context() if self._endpoint.tls and far_tls is None else far_tls
        self._host = host
        self._port = port
        self._limit = limit
        self.make_line = make_line
        self._numbers: Iterator[int] = count(1) if share is None else share._numbers
        self._connections: Iterator[int] = count(1) if share is None else share._connections
        self._pairs: set[_Pair] = set()
        self._left = asyncio.Event()  # set by each connection that ends
        self.closed = False
        self._server: asyncio.Server | None = None
        self._thread: tuple[asyncio.AbstractEventLoop, threading.Thread] | None = None
        self._clock = time.time() - time.monotonic()
        self.backlog = Backlog(keep)
        self.records: Ring = Ring(keep) if share is None else share.records

    @property
    def endpoint(self) -> Endpoint:
        """The server."""
        return self._endpoint

    @property
    def url(self) -> str:
        """The URL for clients. It has the path and the query of the server's URL, which can be a credential.

        Raises:
            RuntimeError: The tap is not open.
        """
        if self._server is None or not self._server.sockets:
            raise RuntimeError("the tap is not open; use it in a `with` or `async with` statement")
        host, port = self._server.sockets[0].getsockname()[:2]
        secure = self.near_tls is not None
        scheme = ("wss" if secure else "ws") if self._endpoint.websocket else ("mqtts" if secure else "mqtt")
        target = self._endpoint.target if self._endpoint.websocket else ""
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{target}"

    async def open(self) -> Self:
        """Start to listen. Call this once.

        Returns:
            The tap itself.

        Raises:
            OSError: The address or the port is not available.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Pair(self).near, self._host, self._port)
        return self

    async def close(self) -> None:
        """Stop listening, and reset every connection."""
        self.closed = True
        if self._server is not None:
            loop = asyncio.get_running_loop()
            with suppress(NotImplementedError):  # Windows
                for listener in self._server.sockets:
                    loop.remove_reader(listener.fileno())
            for _ in range(_ACCEPTING):  # let accepted sockets become pairs: a closed server would leave them open
                await asyncio.sleep(0)
            self._server.close()
        for pair in list(self._pairs):
            pair.cut()
        self.backlog.finish()
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT):
                while self._pairs:
                    self._left.clear()
                    await self._left.wait()
        if self._server is not None:
            await self._server.wait_closed()
        self.backlog.finish()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    # Use without an event loop of the caller: the tap starts one in a thread.

    def __enter__(self) -> Self:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="mqttws-tap", daemon=True)
        thread.start()
        self._thread = loop, thread
        try:
            self.run(self.open)
        except BaseException:
            self._end_thread()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.run(self.close)
        self._end_thread()

    def run(self, function: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine function in the tap's thread and return its result.

        Args:
            function: A function without parameters that returns a coroutine.

        Raises:
            RuntimeError: The tap does not run in a thread.
        """
        if self._thread is None:
            raise RuntimeError("the tap does not run in a thread; use it in a `with` statement")
        return asyncio.run_coroutine_threadsafe(function(), self._thread[0]).result()

    def taken(self) -> list[Record]:
        """Return the kept records. Call this from another thread than the tap's."""

        async def take() -> list[Record]:
            self.backlog.finish()
            return list(self.records)

        return self.run(take)

    def has(self, connection: int) -> bool:
        """Return whether a connection is open.

        Args:
            connection: Its number.
        """
        return any(pair.number == connection for pair in self._pairs)

    def inject(self, connection: int, sender: str, data: bytes, *, framed: bool = False) -> None:
        """Send bytes as if an end had sent them. Call this in the event loop's thread.

        Args:
            connection: The number of an open connection.
            sender: "client" or "server".
            data: A packet; with `framed`, a whole frame.
            framed: Whether to send the bytes unchanged; if False, a packet in a WebSocket gets a frame.

        Raises:
            ValueError: There is no such connection or end, it is closed, or its last unit is incomplete.
        """
        pair = next((pair for pair in self._pairs if pair.number == connection), None)
        if pair is None or sender not in (CLIENT, SERVER):
            raise ValueError(f"connection {connection} has no open end {sender!r}")
        pair.inject(sender, data, framed)

    def _end_thread(self) -> None:
        assert self._thread is not None
        (loop, thread), self._thread = self._thread, None
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

    # Called by the pairs.

    async def find_server(self) -> tuple[Endpoint, Retarget | None]:
        """Return the endpoint to connect to, and the object that changes the client's upgrade request, if needed.

        Raises:
            Exception: `fresh_url` raised it, or returned an invalid URL.
        """
        if self._fresh_url is None:
            return self._endpoint, None
        url = self._fresh_url()
        endpoint = parse_url(await url if inspect.isawaitable(url) else url)
        return endpoint, Retarget(endpoint)

    def begin(self, pair: _Pair) -> tuple[SessionReader, Line | None]:
        """Register a new connection. Return its reader, and its line if there is one.

        Args:
            pair: The connection.
        """
        self._pairs.add(pair)
        reader = SessionReader(next(self._connections), self._numbers, self._limit)
        return reader, self.make_line(reader.connection, reader) if self.make_line else None

    def end(self, pair: _Pair) -> None:
        """Remove a connection that has ended.

        Args:
            pair: The connection.
        """
        self._pairs.discard(pair)
        self._left.set()

    def show(self, records: list[Record], settled: bool) -> None:
        """Keep records, and pass them to `on_records`.

        Args:
            records: The records.
            settled: Whether no unit of their connection is incomplete.
        """
        self.records.add(records)
        if self._on_records is not None:
            try:
                self._on_records(records, settled)
            except Exception:
                logger.exception("on_records raised an exception; the bytes are still forwarded")

    def now(self) -> float:
        """Return seconds since the epoch, from a monotonic clock."""
        return self._clock + time.monotonic()


class _End(asyncio.Protocol):
    """One side of a connection: a socket, with or without TLS.

    Args:
        pair: The connection.
        side: Its peer: "client" for the near end, "server" for the far end.
    """

    def __init__(self, pair: _Pair, side: str) -> None:
        self._pair = pair
        self.side = side
        self.transport: asyncio.Transport | None = None
        self.tls: TLSLayer | None = None
        self.retarget: Retarget | None = None  # changes the first head that is sent to it
        self.gone = False  # whether the socket is closed
        self.ended = False  # whether the peer has sent FIN
        self._paused = 0  # the number of reasons not to read
        self._fin = False  # whether FIN was sent to the peer

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        limit_reads(transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._pair.made(self)

    def data_received(self, data: bytes) -> None:
        if self.side == SERVER and self.transport is not None:
            acknowledge_at_once(self.transport.get_extra_info("socket"))
        if self.tls is None:
            self._pair.received(self, data, None)
            return
        was_established = self.tls.established
        try:
            pieces = self.tls.receive_data(data)
        except ssl.SSLError as error:
            self.flush()
            self._pair.broke(self, f"TLS failed: {error.reason or error}")
            return
        self.flush()
        if self.tls.established and not was_established:
            self._pair.secured(self)
        for piece in pieces:
            self._pair.received(self, piece.data, piece)
        if self.tls.eof:
            self.eof_received()

    def eof_received(self) -> bool:
        if not self.ended:
            self.ended = True
            self._pair.finished(self)
        return True  # the other direction stays open

    def pause_writing(self) -> None:
        self._pair.other(self).pause()

    def resume_writing(self) -> None:
        self._pair.other(self).resume()

    def connection_lost(self, error: Exception | None) -> None:
        self.gone = True
        self._pair.lost(self, error)

    # Called by the pair.

    def send(self, data: bytes) -> None:
        """Write to the socket, unless it is closing or FIN was sent."""
        if self.transport is None or self.gone or self._fin or self.transport.is_closing():
            return
        if self.retarget is not None:
            data = self.retarget.feed(data)
        self._write(data)

    def _write(self, data: bytes) -> None:
        assert self.transport is not None
        if self.tls is not None:
            self.tls.send(data)
            data = self.tls.data_to_send()
        self.transport.write(data)

    def flush(self) -> None:
        assert self.tls is not None
        data = self.tls.data_to_send()
        if data and self.transport is not None and not self.gone:
            self.transport.write(data)

    def finish(self) -> None:
        """Send FIN after the waiting data."""
        if self.transport is None or self.gone or self._fin or self.transport.is_closing():
            return
        if self.retarget is not None:
            self._write(self.retarget.rest())
        if self.tls is not None:
            self.tls.close()
            self.flush()
        self._fin = True
        if self.transport.can_write_eof():
            try:
                self.transport.write_eof()
            except OSError:  # the socket was reset, which the event loop has not reported yet
                pass

    def reset(self) -> None:
        """Send RST."""
        if self.transport is None or self.gone:
            return
        connection = self.transport.get_extra_info("socket")
        if connection is not None:
            try:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
            except OSError:  # it is closed already
                pass
        self.transport.abort()

    def close(self) -> None:
        """Close the socket once the waiting data is written."""
        if self.transport is not None:
            self.transport.close()

    def pause(self) -> None:
        """Pause reading until `resume` has been called as often as `pause`."""
        self._paused += 1
        if self._paused == 1 and self.transport is not None and not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        """Undo one `pause`."""
        self._paused -= 1
        if self._paused == 0 and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()


class _Pair:
    """One connection through the tap."""

    def __init__(self, tap: Tap) -> None:
        self._tap = tap
        self.near = _End(self, CLIENT)
        self.far = _End(self, SERVER)
        self._reader, self._line = tap.begin(self)
        self._dialing: asyncio.Task[None] | None = None
        self._secured: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._fins: set[str] = set()  # the ends that were sent FIN
        self._over = False

    @property
    def number(self) -> int:
        """The number of the connection."""
        return self._reader.connection

    def inject(self, sender: str, data: bytes, framed: bool) -> None:
        """Send bytes as if an end had sent them; see `Tap.inject`."""
        end = self._end_of(sender)
        if self._over or self._reader.under_way(sender):
            raise ValueError(f"the {sender} is closing, or its last unit is incomplete")
        if self._reader.upgrade is not None and not framed:
            data = binary_frame(data, os.urandom(4) if sender == CLIENT else None)
        self.received(end, data, None)

    def other(self, end: _End) -> _End:
        """Return the other end."""
        return self.far if end is self.near else self.near

    def _end_of(self, side: str) -> _End:
        return self.near if side == CLIENT else self.far

    # Opening.

    def made(self, end: _End) -> None:
        """Handle an open socket: of the near end, connect to the server."""
        if self._tap.closed:
            self.cut()
        elif end is self.near:
            loop = asyncio.get_running_loop()
            # Do not read until the server is connected. Python 3.11.2 ignores a pause in `connection_made` itself.
            loop.call_soon(end.pause)
            self._dialing = loop.create_task(self._dial())

    async def _dial(self) -> None:
        """Connect to the server, then start reading from the client."""
        endpoint = self._tap.endpoint
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                try:
                    endpoint, self.far.retarget = await self._tap.find_server()
                except Exception as error:  # code of the user
                    raise OSError(f"there is no URL: {error}") from None
                await loop.create_connection(lambda: self.far, endpoint.host, endpoint.port)
                if endpoint.tls:
                    assert self._tap.far_tls is not None
                    self._secured = loop.create_future()
                    self.far.tls = TLSLayer(self._tap.far_tls, endpoint.host)
                    self.far.flush()
                    await self._secured
        except (OSError, TimeoutError) as error:
            self._show(self._reader.opened(self._tap.now(), failed=f"no connection to {endpoint}: {error}"))
            logger.warning("no connection to %s: %s", endpoint, error)
            self.cut()
            return
        notes = {"server": str(endpoint)}
        if self.far.tls is not None:
            notes["far_tls"] = self.far.tls.describe()
        assert self.near.transport is not None
        peer = self.near.transport.get_extra_info("peername")
        if peer is not None:
            notes["client"] = f"{peer[0]}:{peer[1]}"
        self._show(self._reader.opened(self._tap.now(), **notes))
        if self._tap.near_tls is not None:
            self.near.tls = TLSLayer(self._tap.near_tls)
        self.near.resume()

    def secured(self, end: _End) -> None:
        """Handle the end of a TLS handshake."""
        if end is self.far and self._secured is not None and not self._secured.done():
            self._secured.set_result(None)

    # Moving bytes.

    def received(self, end: _End, data: bytes, piece: Piece | None) -> None:
        """Forward data and decode it; with a line, decode it first, because the line decides by the records."""
        now = self._tap.now()
        if self._line is None:
            self.other(end).send(data)
            self._tap.backlog.add(len(data), self._reading(end.side, data, now, piece))
            return
        for _ in self._reading(end.side, data, now, piece, self._line):
            pass

    def _reading(
        self, side: str, data: bytes, now: float, piece: Piece | None, line: Line | None = None
    ) -> Iterator[None]:
        """Decode a piece and show its records; with a line, after it has acted on them."""
        try:
            yield from self._reader.reading(side, data, now)
        except Exception:
            logger.exception("a record could not be made; the bytes are still forwarded")
        records = self._reader.taken()
        if piece is not None and records:
            records[0].notes["tls_record"] = piece.size
        if line is not None:
            line.receive_data(side, data, records, now)
            self._act()
        self._show(records)

    def _read_end(self, side: str, now: float, reset: bool = False) -> None:
        """Record the end of a direction, after the data before it has been decoded."""

        def reading() -> Iterator[None]:
            self._show(self._reader.receive_end(side, now, reset))
            yield

        self._tap.backlog.add(0, reading())

    def finished(self, end: _End) -> None:
        """Handle EOF from an end, and forward it."""
        now = self._tap.now()
        if self._dialing is not None and not self._dialing.done():
            self._fail(f"the {end.side} closed the connection during the TLS handshake")
            return
        self._read_end(end.side, now)
        if self._line is not None:
            self._line.receive_end(end.side, False, now)
            self._act()
        else:
            self._finish_end(self.other(end))

    def broke(self, end: _End, why: str) -> None:
        """Handle a TLS error of an end."""
        if end is self.far and self._secured is not None and not self._secured.done():
            self._fail(why)
            return
        logger.warning("connection %d: %s: %s", self._reader.connection, end.side, why)
        self.cut()

    def _fail(self, why: str) -> None:
        if self._secured is not None and not self._secured.done():
            self._secured.set_exception(OSError(why))
        else:
            self.cut()

    def lost(self, end: _End, error: Exception | None) -> None:
        """Handle the loss of a socket; after an error, reset the other one."""
        other = self.other(end)
        if self._secured is not None and not self._secured.done():
            self._secured.set_exception(error or OSError("the connection was closed"))
        if not self._over and error is not None:
            self._over = True
            now = self._tap.now()
            self._read_end(end.side, now, reset=True)
            if self._line is not None:
                self._line.receive_end(end.side, True, now)
                self._act()
            other.reset()
        if (end.gone or end.transport is None) and (other.gone or other.transport is None):
            self._finish()

    def cut(self) -> None:
        """Reset both ends."""
        self._over = True
        if self._dialing is not None and not self._dialing.done() and self._dialing is not asyncio.current_task():
            self._dialing.cancel()
        for end in (self.near, self.far):
            end.reset()

    def _finish(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._dialing is not None and self._dialing is not asyncio.current_task():
            self._dialing.cancel()
        self._tap.end(self)

    def _finish_end(self, end: _End) -> None:
        """Send FIN to an end. After FIN was sent to both ends, close the sockets."""
        end.finish()
        self._fins.add(end.side)
        if len(self._fins) == 2:
            self._over = True
            self.near.close()
            self.far.close()

    def _show(self, records: list[Record]) -> None:
        if records:
            settled = not (self._reader.under_way(CLIENT) or self._reader.under_way(SERVER))
            self._tap.show(records, settled)

    # With a line.

    def _act(self) -> None:
        """Perform the line's actions, and set a timer for its next deadline."""
        assert self._line is not None
        for what, side, data in self._line.actions(self._tap.now()):
            self._do(what, self._end_of(side), data)
        self._arm()

    def _do(self, what: str, end: _End, data: bytes) -> None:
        if what == "send":
            end.send(data)
        elif what == "fin":
            self._finish_end(end)
        elif what == "rst":
            self._over = True
            end.reset()
        elif what == "pause":
            end.pause()
        else:
            end.resume()

    def _arm(self) -> None:
        assert self._line is not None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        deadline = self._line.next_deadline()
        if deadline is not None:
            delay = max(0.0, deadline - self._tap.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._act)
