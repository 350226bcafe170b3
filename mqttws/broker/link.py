"""The driver of one accepted connection: it moves bytes, sets the timer, and controls the flow.

Work: received data is handled immediately if that takes no longer than a slice. The rest is deferred and handled piece
by piece in later iterations of the event loop (see `turns`). The size of a piece adapts to how long the previous ones
took, because 32 KiB of messages can take as long as 1 KiB of requests.

Flow control::

    QoS 1 and 2 messages     wait in the session, limited by count and bytes, while the transport is full
    QoS 0 messages           wait in the machine while the transport is full, up to `max_write_buffer`; then dropped
    the client's requests    are not read while the transport is full, or while 64 KiB of them are deferred
    a transport that stays full without any progress for `stall_timeout` is closed

Closing: the link writes the remaining output, closes its half of the connection, and reads and discards what the client
still sends for a short time. Closing both halves would answer that data with a TCP reset, and a reset can overtake the
CONNACK with the reason.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from functools import partial
from time import perf_counter
from typing import cast

from mqttws.broker.handler import Handler
from mqttws.broker.hooks import Peer, contain
from mqttws.broker.hub import Hub
from mqttws.broker.subscriber import PACKET
from mqttws.codec import compiled
from mqttws.codec.publishing import Publish
from mqttws.errors import ConnectionClosed, MQTTError
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.lenient import LenientServerWebSocket
from mqttws.protocol.machine import CLOSED, PIECE
from mqttws.protocol.pacing import TokenBucket
from mqttws.protocol.plain import Framing
from mqttws.protocol.server import ServerMachine
from mqttws.protocol.server_connection import ServerConnection
from mqttws.sockets import READ_SIZE, free, limit_reads

#: A transport is full when more bytes than the first number are queued, until at most the second number are.
_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024
#: Bytes of messages that are collected before they are written without waiting for the end of the iteration.
_PIECE = 64 * 1024
#: How many pieces one connection may write in one iteration of the event loop.
_PIECES_A_TURN = 16
#: Seconds that a client has to close its half after the broker has closed its own.
_LINGER = 2.0

#: Seconds of work for one read; the rest is deferred.
_SLICE = 0.001
#: Seconds of work for the events that remain when a connection is ended.
_LAST_SLICE = 0.02
#: The size of a piece in bytes: initial, minimum and maximum. A piece that takes longer than a slice halves the next.
_FIRST_PIECE, _LEAST_PIECE, _LONGEST_PIECE = 4 * 1024, 256, 32 * 1024
#: A client is served immediately, even while work is deferred, if it has caused little work: a burst in seconds, and
#: seconds of work per second. The work of a client that is not accepted yet is always deferred.
_LIGHT, _LIGHT_RATE = 0.002, 0.02
#: A SUBSCRIBE with more Topic Filters is not decoded at all. With fewer, `Limits.max_filters` applies.
_MAX_FILTERS = 1_000
#: How many nodes of the tree of retained messages are visited between two reads of the clock.
_STEPS = 200


#: The answer to data that is not HTTP.
_BAD_REQUEST = b"HTTP/1.1 400 \r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
#: The backlog of a link that has none; never changed. Even an empty deque takes 760 bytes.
_NO_BACKLOG: deque[bytes] = deque(maxlen=0)
#: The reason to pause reading because of `Limits.byte_rate`.
_RATE = "byte rate"


class Link(asyncio.Protocol):
    """One accepted transport, and the outlet of its subscriber while the client is connected.

    Args:
        hub: The shared state of all connections.
        scheme: The scheme of the listener: "ws", "wss", "mqtt" or "mqtts".
        tls: The context of a TLS listener.
    """

    __slots__ = (
        "_accepted_at",
        "_admitted",
        "_backlog",
        "_backlog_size",
        "_connection",
        "_drained",
        "_ending",
        "_eof",
        "_eof_passed",
        "_full",
        "_handler",
        "_handshake",
        "_holds",
        "_host",
        "_hub",
        "_linger_deadline",
        "_lost",
        "_opening_size",
        "_pace",
        "_pending",
        "_piece",
        "_queued",
        "_raw",
        "_resuming",
        "_scheme",
        "_soon",
        "_spent",
        "_spent_at",
        "_stall_deadline",
        "_timer",
        "_tls",
        "_transport",
        "_written",
    )

    def __init__(self, hub: Hub, scheme: str, tls: ssl.SSLContext | None) -> None:
        self._hub = hub
        self._scheme = scheme
        self._tls = tls
        self._host = ""
        self._admitted = False
        self._transport: asyncio.Transport | None = None  # carries MQTT; set after the TLS handshake
        self._handler: Handler | None = None  # set as long as the transport is
        self._handshake: asyncio.Task[None] | None = None
        self._raw: asyncio.Transport | None = None  # the transport below TLS, during the handshake
        self._holds: tuple[str, ...] = ()  # the reasons why reading is paused
        self._resuming = False  # whether reading over TLS was resumed in this iteration of the event loop
        self._backlog = _NO_BACKLOG  # data that was read and is not handled yet
        self._backlog_size = 0
        self._opening_size = 0  # bytes that were handled; counted until the CONNACK
        self._piece = 0  # the size of a piece in bytes; 0 before the first data
        self._queued = False  # whether work is deferred
        self._spent = _LIGHT  # seconds of work that the client has caused, less the allowance since then
        self._spent_at = 0.0
        self._eof = False
        self._eof_passed = False  # whether the connection has been given the EOF
        self._lost = False  # whether the transport is closed
        self._ending = False
        self._soon = False  # whether a flush is scheduled
        self._full = False
        self._pending = 0  # bytes of QoS 0 messages in the machine
        self._written = 0
        self._drained = 0  # how many of the written bytes had left the transport at the last stall check
        self._stall_deadline: float | None = None
        self._linger_deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        rate = hub.limits.byte_rate
        self._pace = None if rate is None else TokenBucket(rate, rate)

    # asyncio.Protocol: calls from the transport.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        transport = cast(asyncio.Transport, transport)  # uvloop's transports do not derive from this class
        address = transport.get_extra_info("peername")
        host = self._host = address[0] if address else ""  # empty if the client has disconnected already
        objection = self._hub.admit(self, host) if host else "it has already disconnected"
        if objection is not None:
            self._hub.metrics.connections_refused += 1
            text = "connection from %s over %s refused: %s"
            self._hub.notices.log("connections refused", host, text, host, self._scheme, objection)
            transport.abort()
            return
        self._admitted = True
        self._accepted_at = self._hub.now()
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is None:
            self._begin(transport)
        else:
            transport.pause_reading()
            self._raw = transport
            self._handshake = self._hub.loop.create_task(self._start_tls(transport, self._tls))

    async def _start_tls(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Do the TLS handshake here, not in the listener, so that limits apply from the first byte."""
        try:
            secure = await self._hub.loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self._hub.limits.connect_timeout
            )
            if secure is None or self._lost:
                raise ConnectionResetError("the client has disconnected")
        except (OSError, asyncio.CancelledError) as error:  # SSLError is an OSError; cancelled when the broker stops
            text = "connection from %s over %s: the TLS handshake failed: %s"
            self._hub.notices.log("TLS handshakes failed", self._host, text, self._host, self._scheme, error)
            transport.abort()
            self._leave()
            return
        finally:
            self._handshake = self._raw = None
        self._begin(secure)
        if self._backlog:  # data that arrived between the end of the handshake and this line
            self._start_work()
        if self._eof:
            self.eof_received()

    def _begin(self, transport: asyncio.Transport) -> None:
        now = self._hub.now()
        limits = self._hub.limits
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER, low=_LOW_WATER)
        limit_reads(transport)
        peer = Peer(
            self._scheme,
            transport.get_extra_info("peername")[:2],
            transport.get_extra_info("sockname")[:2],
            transport.get_extra_info("ssl_object"),
        )
        on_packet = self._hub.hooks.on_packet
        machine_class: Callable[..., ServerMachine] = ServerMachine
        if on_packet is not None and not compiled:  # a compiled machine takes no subclasses
            from mqttws.broker.watching import WatchedMachine

            machine_class = partial(WatchedMachine, partial(on_packet, peer))
        machine = machine_class(
            max_packet_size=limits.max_packet_size,
            max_connect_size=min(limits.max_connect_size, limits.max_packet_size),
            max_filters=None if limits.max_filters is None else max(limits.max_filters, _MAX_FILTERS),
            packet_timeout=limits.packet_timeout,
        )
        open_timeout = limits.connect_timeout - (now - self._accepted_at)
        self._connection = ServerConnection(machine, self._framing(), now, open_timeout=open_timeout)
        self._handler = Handler(self._hub, self, self._connection, peer)
        self._arm()

    def _framing(self) -> Framing:
        if not self._scheme.startswith("ws"):
            return Framing()
        return LenientServerWebSocket() if self._hub.router.departures.lenient_websocket else ServerWebSocket()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        hub, handler = self._hub, self._handler
        if self._ending or self._lost:
            return
        size = len(data)
        if self._pace is not None:
            self._count(self._pace, size)
        # Defer the data if it cannot be handled now (TLS handshake, a hook), is too much for one slice, must not
        # overtake other data of this client, or if other clients have deferred work.
        if handler is None or size > self._piece or self._queued or self._holds or hub.turns.crowded:
            if self._backlog is _NO_BACKLOG:
                self._backlog = deque()
            self._backlog.append(data)
            self._backlog_size += size
            if handler is not None:
                if handler.subscriber is None:
                    self._count_pending()
                self._start_work()
            return
        started, now = perf_counter(), hub.now()
        hub.metrics.bytes_received += size
        try:
            done = handler.receive_data(data, now)
            more = not done and handler.take_events(now, started + _SLICE)
        except BaseException as error:
            self._fail(handler, error, now)
            done = more = False
        if not done:
            self._answer(handler, size, more)
        spent = perf_counter() - started
        self._spent += spent
        if spent > _SLICE or size * 2 > self._piece:
            self._adapt(size, spent)

    def eof_received(self) -> bool:
        """See asyncio."""
        self._eof = True
        if self._transport is not None and not self._queued:
            self._work_now()
        # Keep the transport open if answers are still to be written, such as a CONNACK that waits for a hook.
        return (self._queued or "hook" in self._holds) and self._tls is None

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        self._eof = self._lost = True
        if self._transport is None:
            self._leave()
        elif not self._queued:  # otherwise the scheduler calls `work`, which handles the rest and then the end
            self._work_now()

    def _go(self) -> None:
        """Release a lost transport once all its data is handled.

        The link and its transport reference each other; breaking the cycle frees them without the garbage collector.
        """
        if self._transport is not None:
            free(self._transport)
            self._transport = self._handler = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._leave()

    def _leave(self) -> None:
        if self._admitted:
            self._admitted = False
            self._hub.leave(self)

    def evict(self, reason: str) -> None:
        """See `admission.Connection.evict`."""
        self._hub.metrics.connections_refused += 1
        text = "connection from %s over %s dropped: %s"
        self._hub.notices.log("connections dropped", self._host, text, self._host, self._scheme, reason)
        self._leave()
        if self._handler is not None:
            self.end(ConnectionClosed(reason))  # so that the late answer of a hook finds it closed
        self.abort()

    def pause_writing(self) -> None:
        """See asyncio."""
        self._full = True
        self.hold("full")
        self._drained = self._progress()
        self._stall_deadline = self._hub.now() + self._hub.limits.stall_timeout
        self._arm()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._full = False
        self._stall_deadline = None
        self.release("full")
        self.wake()

    # Work. `data_received` handles small data immediately. Everything else goes into `_backlog`, and `work` handles it
    # piece by piece when the scheduler (`turns`) calls it. `_queued` is True while the scheduler will.

    def _answer(self, handler: Handler, size: int, more: bool) -> None:
        """Write the answers to `size` bytes, and defer what remains: `more` is whether events do."""
        # With a store the answers wait for the end of the iteration, so that all connections share one commit;
        # without one they are written now. The client's close frame needs no answer, but it may end the connection.
        machine = self._connection.machine
        if self._hub.persistence is not None:
            self.wake()
        elif machine.state is CLOSED or self._connection.has_output:
            self.flush()
        # Before CONNACK the client's bytes count against `max_pending_bytes`; after it, work that is left over, and
        # retained messages that fit into the transport, are deferred.
        if handler.subscriber is None:
            self._count_pending(size)
        elif more or ((handler.subscriber.due or handler.subscriber.walk is not None) and self._may_send_retained()):
            self._defer()
        if machine.packet_begun is not None:  # `packet_timeout` applies from now on
            self._arm()

    def _adapt(self, size: int, spent: float) -> None:
        """Adapt the size of a piece to how long one took."""
        if spent > _SLICE:
            self._piece = max(_LEAST_PIECE, min(size, self._piece) // 2)
        elif size * 2 > self._piece and spent * 2 < _SLICE:
            self._piece = min(_LONGEST_PIECE, self._piece * 2)

    def _start_work(self) -> None:
        """Start on the backlog, or defer it."""
        if not self._piece and self._is_foreign(self._backlog[0]):
            return
        self._piece = self._piece or _FIRST_PIECE
        if self._backlog_size >= READ_SIZE:
            self.hold("backlog")
        if self._hub.turns.crowded and not self._is_light():
            self._defer()
        elif not self._queued:
            self._work_now()

    def _is_foreign(self, data: bytes) -> bool:
        """Close the connection if the first bytes are of another protocol, whose client would wait for an answer."""
        if data[0] == 0x16 and data[1:2] in (b"", b"\x03"):
            reason = "the client uses TLS, but this listener does not"
        elif self._scheme.startswith("ws") and not (data[:1].isalpha() or data[:1] in b"\r\n"):
            reason = "the client does not use HTTP, but this listener serves WebSocket"
        else:
            return False
        self._hub.metrics.connections_refused += 1
        text = "connection from %s over %s closed: %s"
        self._hub.notices.log("foreign protocols", self._host, text, self._host, self._scheme, reason)
        self._backlog = _NO_BACKLOG
        self._backlog_size = 0
        self._ending = True
        assert self._transport is not None
        if self._scheme.startswith("ws"):
            self._transport.write(_BAD_REQUEST)
        self._transport.close()
        return True

    def _is_light(self) -> bool:
        """Return whether the client has caused little work recently."""
        now = perf_counter()
        self._spent = max(0.0, self._spent - (now - self._spent_at) * _LIGHT_RATE)
        self._spent_at = now
        handler = self._handler
        return self._spent < _LIGHT and handler is not None and handler.subscriber is not None

    def _defer(self) -> None:
        if not self._queued and self._transport is not None:
            self._queued = True
            self._hub.turns.defer(self)

    def _work_now(self) -> None:
        more = True  # also after Ctrl-C: the connection could not end otherwise, and `Hub.stop` waits for that
        try:
            more = self.work(perf_counter() + _SLICE)
        finally:
            if more:
                self._hub.turns.defer(self)

    def work(self, until: float) -> bool:
        """See `turns.Worker.work`."""
        started = now = perf_counter()
        self._queued = more = True
        while more and now < until:
            more = self._work_a_piece(until)
            now = perf_counter()
        self._spent += now - started
        if self._transport is not None:
            if self._hub.persistence is None:
                self.flush()
            else:
                self.wake()
            if self._connection.machine.packet_begun is not None:  # `packet_timeout` applies from now on
                self._arm()
        self._queued = more or self._may_send_retained()
        return self._queued

    def _work_a_piece(self, until: float) -> bool:
        """Do one piece of work. Return whether there may be more that can be done now."""
        handler, connection = self._handler, self._connection
        if handler is None:
            return False
        now = self._hub.now()
        # In order: events that are waiting, then received data, then EOF. EOF must come last, because everything that
        # the client sent before it is still to be handled, a DISCONNECT in particular.
        try:
            if connection.closed:
                self._backlog = _NO_BACKLOG
                self._backlog_size = 0
                if "backlog" in self._holds:
                    self.release("backlog")
            if handler.take_events(now, until):
                return True
            if self._backlog and not self._is_held():
                self._handle_piece(now)
                handler.take_events(now, until)
                return True
            # A client may send a message and DISCONNECT without waiting for the CONNACK. If it has sent only the
            # CONNECT and has closed the connection, no hook need answer.
            waits = self._backlog or connection.machine.has_more_than_connect
            if self._eof and not self._eof_passed and not waits:
                self._eof_passed = True
                if not self._lost:
                    self.flush()  # the answers to what came before it
                connection.receive_eof(now)
                return True
        except BaseException as error:
            self._fail(handler, error, now)
            return True
        if self._lost and self._eof_passed:
            self._go()
            return False
        return not self._lost and self.send_retained(until)

    def _is_held(self) -> bool:
        """Return whether the client's data must wait. A full transport does not matter once the client is lost."""
        return any(reason != "backlog" and not (self._lost and reason == "full") for reason in self._holds)

    def _handle_piece(self, now: float) -> None:
        data = self._backlog.popleft()
        if len(data) > self._piece:
            self._backlog.appendleft(data[self._piece :])
            data = data[: self._piece]
        elif not self._backlog:
            self._backlog = _NO_BACKLOG
        self._backlog_size -= len(data)
        self._hub.metrics.bytes_received += len(data)
        started = perf_counter()
        self._connection.receive_data(data, now)
        spent = perf_counter() - started
        self._spent += spent
        self._adapt(len(data), spent)
        if "backlog" in self._holds and self._backlog_size < READ_SIZE // 2:
            self.release("backlog")
        self._count_pending(len(data))

    def _count_pending(self, handled: int = 0) -> None:
        """Count what the client has sent, unless it has its CONNACK: `handled` more bytes, and those in the backlog.

        What was handled is still held: an incomplete upgrade, its headers, the CONNECT, and what follows it.
        """
        self._opening_size += handled
        self._hub.admission.hold(self, self._backlog_size + self._opening_size)

    def _fail(self, handler: Handler, error: BaseException, now: float) -> None:
        """Close the connection because of an error in the broker or in a hook."""
        contain(error)
        try:
            handler.fail(error, now)
            handler.take_events(now)
        except BaseException as failure:  # closing gracefully is impossible
            contain(failure)
            text = "client %s: closing failed"
            self._hub.notices.log("closing failed", self._host, text, handler.peer, level=logging.ERROR, error=failure)
            self.abort()

    # `handler.Line`: calls from the handler.

    def act(self, action: Callable[[float], None]) -> None:
        """See `Line.act`."""
        self._act(action)
        self.wake()
        if self._backlog or self._lost:
            self._defer()

    def _act(self, action: Callable[[float], None]) -> None:
        now, handler = self._hub.now(), self._handler
        if handler is None:  # the answer of an async hook came after the end of the connection
            return
        try:
            action(now)
            if handler.take_events(now, perf_counter() + _SLICE):
                self._defer()
        except BaseException as error:
            self._fail(handler, error, now)

    def _count(self, pace: TokenBucket, size: int) -> None:
        """Count received or sent bytes against `byte_rate`; beyond it, pause reading until the rate is met."""
        now = self._hub.now()
        pace.spend(now, size)
        if pace.available(now) < 0 and _RATE not in self._holds:
            self.hold(_RATE)
            self._hub.loop.call_later(pace.ready_at(now, 0) - now, self._read_on, pace)

    def _read_on(self, pace: TokenBucket) -> None:
        self.release(_RATE)
        if self._transport is not None:
            self._count(pace, 0)  # more may have been written in the meantime

    def hold(self, reason: str) -> None:
        """See `Line.hold`. While a hook is asked, reading goes on, so that the end is noticed."""
        was_paused = self._is_paused
        if reason not in self._holds:
            self._holds += (reason,)
        transport = self._transport
        if self._is_paused and not was_paused and transport is not None and not transport.is_closing():
            if not self._resuming:
                transport.pause_reading()
            self._connection.pause_reading()

    def release(self, reason: str) -> None:
        """See `Line.release`."""
        was_paused = self._is_paused
        self._holds = tuple(held for held in self._holds if held != reason)
        transport = self._transport
        if was_paused and not self._is_paused and transport is not None and not transport.is_closing():
            transport.resume_reading()
            if self._tls is not None and not self._resuming:
                self._resuming = True
                self._hub.loop.call_soon(self._resumed)
            self._connection.resume_reading(self._hub.now())
            self._arm()
        if self._backlog or self._eof:
            self._defer()

    def _resumed(self) -> None:
        """Pause reading again, if it was to be paused since it was resumed.

        asyncio's TLS reads in the next iteration. If it is paused before that, it loses what the client had sent before
        it closed the connection. What it reads meanwhile goes to the backlog.
        """
        self._resuming = False
        if self._is_paused and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    @property
    def _is_paused(self) -> bool:
        """Whether reading is paused."""
        return any(reason != "hook" for reason in self._holds)

    @property
    def left(self) -> bool:
        """See `Line.left`."""
        return self._eof

    def asked(self) -> None:
        """See `Line.asked`."""
        self._hub.admission.asked(self)

    def accepted(self) -> None:
        """See `Line.accepted`."""
        self._hub.admission.accept(self)
        self._spent, self._spent_at = 0.0, perf_counter()
        self._arm()

    def send_retained(self, until: float) -> bool:
        """See `Line.send_retained`."""
        router = self._hub.router
        while self._may_send_retained():
            assert self._handler is not None
            subscriber = self._handler.subscriber
            assert subscriber is not None
            message = router.next_retained(subscriber, _STEPS)
            if message is not None and message.qos:
                router.enqueue(subscriber, message)
            elif message is not None:
                packet = Publish(message.topic, message.payload, 0, True).encode()
                self._connection.machine.send_encoded(packet, True)
                self._pending += len(packet)
            if perf_counter() >= until:
                return True
        return False

    def _may_send_retained(self) -> bool:
        """Return whether there are retained messages to send, and space for them."""
        subscriber = self._handler.subscriber if self._handler is not None else None
        return (
            subscriber is not None
            and subscriber.has_retained
            and not self._lost
            and not self._full
            and self._pending < _PIECE
            and self._connection.connected
            and subscriber.session.sender.waiting < self._hub.limits.max_in_flight
        )

    # `subscriber.Outlet`: calls from the router.

    @property
    def held(self) -> int:
        """See `Outlet.held`."""
        return self._pending + (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def send(self, packets: bytes) -> bool:
        """See `Outlet.send`."""
        size, stored = len(packets), self._hub.persistence is not None
        waits = self._full or (stored and self._pending >= _PIECE)
        if (waits and not self._may_wait(size)) or self._lost:
            return False
        self._connection.machine.send_encoded(packets, not self._full)
        self._pending += size
        # Messages are collected until they fill a piece, or the iteration ends: a system call costs more than copying.
        # With a store they wait for its end: writing commits, and the caller may have routed only a part of a message.
        if self._pending >= _PIECE and not (waits or stored):
            try:
                self._write(self._hub.now())
            except BaseException as error:
                self._drop(error)
        if not self._soon:
            self._soon = True
            self._hub.turns.soon(self)
        return True

    def _may_wait(self, size: int) -> bool:
        """Return whether packets may wait for a transport that is full, or for a commit. Count their overhead if so."""
        subscriber = self._handler.subscriber if self._handler is not None else None
        if (
            self._pending >= self._hub.limits.max_write_buffer
            or subscriber is None
            or not self._hub.router.memory.allows(subscriber, size + PACKET)
        ):
            return False
        self._pending += PACKET
        return True

    def wake(self) -> None:
        """See `Outlet.wake`."""
        if not self._soon:
            self._soon = True
            self._hub.turns.soon(self)

    def end(self, error: MQTTError) -> None:
        """See `Outlet.end`."""
        handler = self._handler
        if handler is None:  # during the TLS handshake, or after the end
            self.abort()
            return
        hub, now = self._hub, self._hub.now()
        outermost, hub.ending = not hub.ending, True
        try:
            self._connection.close(error, now)
            # What the client has sent can end other connections. What their clients have sent is discarded: it could
            # end further ones, each inside the one before. Of QoS 1 and 2 it is not acknowledged. A DISCONNECT among it
            # has closed the connection when it was received, so that no will is published.
            if not outermost or handler.take_events(now, perf_counter() + _LAST_SLICE):
                handler.cut(error, now)
                handler.take_events(now)
        except BaseException as failure:
            self._fail(handler, failure, now)
        finally:
            if outermost:
                hub.ending = False
        self.wake()  # do not write here: the caller may be handling an event of another connection
        if self._lost:
            self._defer()  # nothing else would complete a connection that waited for a hook or a rate

    def abort(self) -> None:
        """Drop the transport immediately."""
        if self._handshake is not None:
            self._handshake.cancel()  # a task that has not started never runs its handler, hence the clean-up here
            self._leave()
            assert self._raw is not None
            self._raw.abort()
        if self._transport is not None:
            self._transport.abort()

    def fileno(self) -> int:
        """See `hub.Connection.fileno`."""
        transport = self._transport or self._raw
        connection = None if transport is None else transport.get_extra_info("socket")
        return -1 if connection is None else connection.fileno()

    # Writing.

    def _drop(self, error: BaseException) -> None:
        """Drop the transport after an error while writing: it ends this connection only, whichever caused the write."""
        contain(error)
        peer = self._handler.peer if self._handler is not None else self._host
        text = "client %s: dropped because writing failed in the broker"
        self._hub.notices.log("writing failed", self._host, text, peer, level=logging.ERROR, error=error)
        self.abort()

    def prepare(self) -> None:
        """See `turns.Writer.prepare`."""
        transport = self._transport
        if transport is not None and not (transport.is_closing() or self._ending or self._full):
            try:
                self._prepare()
            except BaseException as error:
                self._drop(error)

    def _prepare(self) -> None:
        self._connection.machine.prepare()

    def flush(self) -> None:
        """Write the output, until the transport is full; close the transport once the connection is finished."""
        self._soon = False
        transport = self._transport
        if transport is None or self._ending or transport.is_closing():
            return
        try:
            self._flush(transport, self._hub.now())
        except BaseException as error:
            self._drop(error)

    def _flush(self, transport: asyncio.Transport, now: float) -> None:
        connection, machine, stored = self._connection, self._connection.machine, self._hub.persistence is not None
        if machine.state is CLOSED and self._handler is not None:
            self._hub.endings.complete(self._handler.peer.client_id)
        # Write pieces until the transport is full, nothing is left, or the share of this iteration is used up. A closed
        # connection writes even to a full transport: its last output is small, and nothing follows.
        for _ in range(_PIECES_A_TURN):
            if self._full and machine.state is not CLOSED:
                break
            size = self._write(now)
            if machine.state is CLOSED and self._handler is not None and self._handler.subscriber is not None:
                self._act(lambda now: None)  # handle the rest: the store failed, or events before the end still wait
            # Without a store a short piece is the last one. Between `prepare` and `flush`, more may have been queued.
            if not size or (size < PIECE and not stored) or not connection.has_output:
                break
        else:
            self.wake()  # the other connections write first
        if machine.state is CLOSED:
            if connection.finished:
                self._finish(transport, now)
            self._arm()
            return
        if self._timer is None:
            self._arm()
        # There may be space for retained messages now.
        subscriber = self._handler.subscriber if self._handler is not None else None
        waits = subscriber is not None and (subscriber.due or subscriber.walk is not None)
        if waits and not self._queued and self._may_send_retained():
            self._defer()

    def _write(self, now: float) -> int:
        """Write one piece. Return its size in bytes; 0 if there was none."""
        data = self._connection.piece_to_send(now)
        size = len(data)
        self._pending = 0
        if data and self._transport is not None:
            self._hub.metrics.bytes_sent += size
            self._written += size
            self._transport.write(data)
            if self._pace is not None:
                self._count(self._pace, size)
        return size

    def _finish(self, transport: asyncio.Transport, now: float) -> None:
        """Close gracefully; see the module's docstring."""
        self._ending = True
        self._linger_deadline = now + _LINGER
        if self._eof or not transport.can_write_eof():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # the client has reset the connection, and the event loop has not noticed yet
            transport.abort()
            return
        if self._holds:
            transport.resume_reading()

    # Time.

    def _arm(self) -> None:
        """Set the timer for the next deadline, unless it is set for an earlier time."""
        if self._transport is None:
            return
        deadlines = [self._stall_deadline, self._linger_deadline]
        if not self._ending:
            deadlines.append(self._connection.next_deadline())
        deadline = min((due for due in deadlines if due is not None), default=None)
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._hub.loop.call_at(deadline, self._on_timer, context=self._hub.context)

    def _on_timer(self) -> None:
        self._timer = None
        now, handler = self._hub.now(), self._handler
        if self._linger_deadline is not None and now >= self._linger_deadline:
            self.abort()
        elif self._stall_deadline is not None and now >= self._stall_deadline:
            self._check_stall(now)
        elif self._backlog and not self._holds and self._connection.connected:
            self._connection.resume_reading(now)  # restart the keep alive: the client's data is in the backlog
        elif handler is not None and not self._ending:
            self.act(handler.handle_timeout)
            self._connection.machine.trim()
        self._arm()

    def _progress(self) -> int:
        return self._written - (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def _check_stall(self, now: float) -> None:
        """Close the connection of a client that has read nothing; extend the deadline of one that has read a little."""
        progress = self._progress()
        self._stall_deadline = now + self._hub.limits.stall_timeout
        if progress == self._drained:
            self.end(ConnectionClosed(f"the client read nothing for {self._hub.limits.stall_timeout:g} s"))
            self.abort()
        self._drained = progress
