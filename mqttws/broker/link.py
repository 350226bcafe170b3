"""One accepted transport: bytes in and out, the timer, and how much may wait. The broker's driver.

Flow control, from the inside out::

    bytes of QoS 1 and 2     wait in the session, bounded by count and bytes, while the transport is full
    bytes of QoS 0           wait in the machine while the transport is full, up to `max_write_buffer`; then dropped
    the client's requests    are not read while the transport is full: their answers would have to wait, too
    a transport that stays full without any progress for `stall_timeout` is cut off

Closing: what is to be said is written, then our half of the connection is closed, and what the client still sends is
read and thrown away for a moment. Closing outright would answer that with a reset, and a reset may overtake the
CONNACK that says why.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

from mqttws.broker.conversation import Conversation
from mqttws.broker.hooks import Peer
from mqttws.broker.hub import Hub
from mqttws.codec.publishing import Publish
from mqttws.errors import ConnectionClosed, MQTTError
from mqttws.protocol.connection import ServerConnection
from mqttws.protocol.framing import Framing
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.lenient import LenientServerWebSocket
from mqttws.protocol.server import ServerMachine
from mqttws.sockets import free, read_less

log = logging.getLogger("mqttws.broker")

#: A transport with more bytes than this waiting is full, until it has no more than the second.
_HIGH_WATER = 256 * 1024
_LOW_WATER = 64 * 1024
#: How many bytes of messages are gathered before they are written without waiting for the end of the turn.
_PIECE = 64 * 1024
#: How many pieces one connection may write in one turn of the event loop.
_PIECES_A_TURN = 16
#: How long a client may take to notice that we have closed, in seconds.
_LINGER = 2.0


class Link(asyncio.Protocol):
    """One accepted transport, and a subscriber's outlet while its client is connected.

    Args:
        hub: the broker's rooms.
        scheme: the listener's: "ws", "wss", "mqtt" or "mqtts".
        tls: the context of a TLS listener.
    """

    __slots__ = (
        "_accepted_at",
        "_connection",
        "_conversation",
        "_drained",
        "_early",
        "_ending",
        "_eof",
        "_full",
        "_handshake",
        "_holds",
        "_host",
        "_hub",
        "_linger_deadline",
        "_pending",
        "_scheme",
        "_soon",
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
        self._host: str | None = None  # set from when the link is admitted to when it leaves
        self._transport: asyncio.Transport | None = None  # that of MQTT, from the end of the TLS handshake on
        self._conversation: Conversation | None = None  # as long as there is a transport
        self._handshake: asyncio.Task[None] | None = None
        self._early = b""  # what came between the TLS handshake and our hearing of its end
        self._holds: tuple[str, ...] = ()  # why nothing is read
        self._eof = False
        self._ending = False
        self._soon = False  # whether the hub knows that there is something to write
        self._full = False
        self._pending = 0  # bytes of QoS 0 in the machine
        self._written = 0
        self._drained = 0  # of what was written, what had left us when the stall was last looked at
        self._stall_deadline: float | None = None
        self._linger_deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    # The transport's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        transport = cast(asyncio.Transport, transport)  # uvloop's are not of that class
        address = transport.get_extra_info("peername")
        host = address[0] if address else ""  # the client is gone already
        objection = self._hub.admit(self, host) if host else "it has no address any more"
        if objection is not None:
            self._hub.figures.connections_refused += 1
            log.warning("connection from %s over %s refused: %s", host, self._scheme, objection)
            transport.abort()
            return
        self._host = host
        self._accepted_at = self._hub.loop.time()
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if self._tls is None:
            self._begin(transport)
        else:
            transport.pause_reading()
            self._handshake = self._hub.loop.create_task(self._start_tls(transport, self._tls))

    async def _start_tls(self, transport: asyncio.Transport, tls: ssl.SSLContext) -> None:
        """Do the TLS handshake here, and not in the listener: connections count from the first byte."""
        try:
            secure = await self._hub.loop.start_tls(
                transport, self, tls, server_side=True, ssl_handshake_timeout=self._hub.limits.connect_timeout
            )
            if secure is None:
                raise ConnectionResetError("the client has gone")
        except (OSError, asyncio.CancelledError) as error:  # SSLError is an OSError; we cancel when the broker stops
            log.warning("connection from %s over %s: the TLS handshake failed: %s", self._host, self._scheme, error)
            transport.abort()
            self._leave()
            return
        finally:
            self._handshake = None
        self._begin(secure)
        early, self._early = self._early, b""
        if early:
            self.data_received(early)
        if self._eof:
            self.eof_received()

    def _begin(self, transport: asyncio.Transport) -> None:
        now = self._hub.loop.time()
        limits = self._hub.limits
        self._transport = transport
        transport.set_write_buffer_limits(high=_HIGH_WATER, low=_LOW_WATER)
        read_less(transport)
        peer = Peer(
            self._scheme,
            transport.get_extra_info("peername")[:2],
            transport.get_extra_info("sockname")[:2],
            transport.get_extra_info("ssl_object"),
        )
        self._connection = ServerConnection(
            ServerMachine(max_packet_size=limits.max_packet_size, packet_timeout=limits.packet_timeout),
            self._framing(),
            now,
            open_timeout=limits.connect_timeout - (now - self._accepted_at),
        )
        self._conversation = Conversation(self._hub, self, self._connection, peer)
        self._arm()

    def _framing(self) -> Framing:
        if not self._scheme.startswith("ws"):
            return Framing()
        return LenientServerWebSocket() if self._hub.router.departures.lenient_websocket else ServerWebSocket()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._transport is None:
            self._early += data
        elif not self._ending:
            self._hub.figures.bytes_received += len(data)
            self.act(lambda now: self._connection.receive_data(data, now))

    def eof_received(self) -> None:
        """See asyncio."""
        self._eof = True
        if self._transport is not None:
            self.act(lambda now: self._connection.receive_eof(now))

    def connection_lost(self, error: Exception | None) -> None:
        """See asyncio."""
        if self._transport is not None:
            self._eof = True
            self.act(lambda now: self._connection.receive_eof(now))
            # What is lost is freed at once: the two know each other, so it would wait for the garbage collector.
            free(self._transport)
            self._transport = self._conversation = None
        if self._timer is not None:
            self._timer.cancel()
        self._leave()

    def _leave(self) -> None:
        if self._host is not None:
            self._hub.leave(self, self._host)
            self._host = None

    def pause_writing(self) -> None:
        """See asyncio."""
        self._full = True
        self.hold("full")
        self._drained = self._progress()
        self._stall_deadline = self._hub.loop.time() + self._hub.limits.stall_timeout
        self._arm()

    def resume_writing(self) -> None:
        """See asyncio."""
        self._full = False
        self._stall_deadline = None
        self.release("full")
        self.wake()

    # The conversation's side.

    def act(self, action: Callable[[float], None]) -> None:
        """Do something with the connection, and all that follows from it. An error in it ends the connection.

        Args:
            action: takes the time in seconds.
        """
        self._act(action)
        if self._hub.store is None:
            self.flush()
        else:
            self.wake()  # others of this turn share its commit

    def _act(self, action: Callable[[float], None]) -> None:
        now, conversation = self._hub.loop.time(), self._conversation
        if conversation is None:  # a hook's answer that came too late
            return
        try:
            action(now)
            conversation.take_events(now)
        except Exception as error:
            try:
                conversation.fail(error, now)
                conversation.take_events(now)
            except Exception:  # nothing is left to say to this client
                log.exception("client %s: closing failed", conversation.peer)
                self.abort()

    def hold(self, reason: str) -> None:
        """Read nothing until that reason is released."""
        if not self._holds and self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()
            self._connection.pause_reading()
        if reason not in self._holds:
            self._holds += (reason,)

    def release(self, reason: str) -> None:
        """Read again, where no other reason holds."""
        self._holds = tuple(held for held in self._holds if held != reason)
        if not self._holds and self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self._connection.resume_reading(self._hub.loop.time())

    def bring_retained(self) -> None:
        """Send some of the retained messages that subscriptions bring: as many as fit now."""
        subscriber = self._conversation.subscriber if self._conversation is not None else None
        while (
            subscriber is not None
            and (subscriber.arriving or subscriber.due)
            and self._pending < _PIECE
            and not self._full
            and subscriber.session.sender.waiting < self._hub.limits.max_in_flight
        ):
            message = self._hub.router.next_retained(subscriber)
            if message is None or not self._connection.connected:
                return
            if message.qos:
                self._hub.router.enqueue(subscriber, message)
            else:
                packet = Publish(message.topic, message.payload, 0, True).encode()
                self._connection.machine.send_encoded(packet, True)
                self._pending += len(packet)

    # The router's side: `subscriber.Outlet`.

    def send(self, packets: bytes) -> bool:
        """See `Outlet.send`."""
        if self._full and self._pending >= self._hub.limits.max_write_buffer:
            return False
        self._connection.machine.send_encoded(packets, not self._full)
        self._pending += len(packets)
        if self._pending >= _PIECE and not self._full:
            self._alone(lambda: self._write(self._hub.loop.time()))
        self.wake()
        return True

    def wake(self) -> None:
        """See `Outlet.wake`."""
        if not self._soon:
            self._soon = True
            self._hub.soon(self)

    def end(self, error: MQTTError) -> None:
        """See `Outlet.end`."""
        if self._transport is None:  # in the TLS handshake, or gone
            if self._handshake is not None:
                self._handshake.cancel()
            return
        self._act(lambda now: self._connection.close(error, now))
        self.wake()  # not at once: whoever ends a connection may be in the midst of another's work

    def abort(self) -> None:
        """Drop the transport at once."""
        if self._handshake is not None:
            self._handshake.cancel()
        if self._transport is not None:
            self._transport.abort()

    # Out.

    def _alone(self, write: Callable[[], object]) -> None:
        """Do a part of the writing. An error in it ends this connection, and none of those that others work on."""
        try:
            write()
        except Exception:
            peer = self._conversation.peer if self._conversation is not None else self._host
            log.exception("client %s: dropped, since writing failed in the broker", peer)
            self.abort()

    def prepare(self) -> None:
        """Do what of the next `flush` has to be made safe."""
        self._alone(self._prepare)

    def flush(self) -> None:
        """Write what there is to write, as far as the transport takes it; close when all is said."""
        self._soon = False
        self._alone(self._flush)

    def _prepare(self) -> None:
        transport = self._transport
        if transport is not None and not (transport.is_closing() or self._ending or self._full):
            self.bring_retained()
            self._connection.machine.prepare()

    def _flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing() or self._ending:
            return
        now = self._hub.loop.time()
        for _ in range(_PIECES_A_TURN):
            if self._full and not self._connection.closed:
                break
            self.bring_retained()
            if not self._write(now):
                break
        else:
            self.wake()  # others have their turn first
        if self._connection.finished:
            self._finish(transport, now)
        self._arm()

    def _write(self, now: float) -> bool:
        """Write one piece. Returns whether there was one."""
        data = self._connection.data_to_send(now)
        self._pending = 0
        conversation = self._conversation
        if self._connection.closed and conversation is not None and conversation.subscriber is not None:
            # The store has failed.
            self._act(lambda now: None)
        if data and self._transport is not None:
            self._hub.figures.bytes_sent += len(data)
            self._written += len(data)
            self._transport.write(data)
        return bool(data)

    def _finish(self, transport: asyncio.Transport, now: float) -> None:
        """Close, in order; see the top of the module."""
        self._ending = True
        self._linger_deadline = now + _LINGER
        if self._eof or not transport.can_write_eof():
            transport.close()
            return
        try:
            transport.write_eof()
        except OSError:  # the client has reset the connection, and the event loop has not heard of it yet
            transport.abort()
            return
        if self._holds:
            transport.resume_reading()

    # Time.

    def _arm(self) -> None:
        """Let the timer go off at the next deadline, or before it."""
        deadlines = [self._stall_deadline, self._linger_deadline]
        if not self._ending:
            deadlines.append(self._connection.next_deadline())
        deadline = min((due for due in deadlines if due is not None), default=None)
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._hub.loop.call_at(deadline, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._hub.loop.time()
        if self._linger_deadline is not None and now >= self._linger_deadline:
            self.abort()
        elif self._stall_deadline is not None and now >= self._stall_deadline:
            self._look_at_stall(now)
        elif not self._ending:
            self.act(self._connection.handle_timeout)
        self._arm()

    def _progress(self) -> int:
        return self._written - (self._transport.get_write_buffer_size() if self._transport is not None else 0)

    def _look_at_stall(self, now: float) -> None:
        """Cut off a client that has read nothing; give another term to one that has read a little."""
        progress = self._progress()
        self._stall_deadline = now + self._hub.limits.stall_timeout
        if progress == self._drained:
            self.end(ConnectionClosed(f"the client read nothing for {self._hub.limits.stall_timeout:g} s"))
            self.abort()
        self._drained = progress
