"""A sans-IO MQTT connection: a framing (WebSocket or TCP) and a protocol state machine behind one interface.

A driver does the following, for either role and any transport::

    write connection.data_to_send(now)          after every call of another method
    close the transport                         when connection.finished, after writing
    call connection.handle_timeout(now)         at connection.next_deadline()
    call connection.receive_data(data, now)     for received bytes; receive_eof(now) at EOF
    handle each of connection.events()

A connection object serves one Network Connection and cannot be reused. Its last event is `Closed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from mqttws.codec.publishing import Message, Publish
from mqttws.errors import (
    AccessDenied,
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    LimitExceeded,
    MQTTError,
    ProtocolError,
    SessionTakenOver,
)
from mqttws.hints import Final, Generic, TypeVar
from mqttws.protocol import plain as ws
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.events import Ended, Event, Opened
from mqttws.protocol.machine import CLOSED, CONNECTED, Machine
from mqttws.protocol.outgoing import LONG
from mqttws.protocol.plain import Framing, FramingEvent

#: A payload that continues in further frames is read into its place if so many bytes of the current frame are left.
_LEAST: Final = 32 * 1024
#: What has not happened in time, unless a proxy has not opened its tunnel yet.
LATE_SERVER: Final = "the server did not answer"

M = TypeVar("M", bound=Machine)


class Connection(ABC, Generic[M]):
    """The base class of the connections of both roles.

    Args:
        machine: A new state machine.
        framing: A new framing.
        now: The current time in seconds, of any monotonic clock.
        open_timeout: Seconds within which a client must receive the CONNACK, or a server answer the CONNECT.
        close_timeout: Seconds to wait for the peer during the closing handshake.

    Attributes:
        machine: The state machine.
        lateness: At a client: what has not happened if the time for opening ends now, for the error.
    """

    __slots__ = (
        "_close_deadline",
        "_close_timeout",
        "_closing",
        "_eof",
        "_framing",
        "_open_deadline",
        "_open_timeout",
        "lateness",
        "machine",
    )

    def __init__(
        self, machine: M, framing: Framing, now: float, *, open_timeout: float = 30.0, close_timeout: float = 5.0
    ) -> None:
        self.machine = machine
        self._framing = framing
        self._open_timeout = open_timeout
        self.lateness = LATE_SERVER
        self._open_deadline: float | None = now + open_timeout
        self._close_timeout = close_timeout
        self._close_deadline: float | None = None
        self._closing = False
        self._eof = False
        self._apply(framing.start(), now)

    # The interface.

    def receive_data(self, data: bytes, now: float) -> None:
        """Handle bytes from the peer.

        Args:
            data: Received bytes, divided anywhere.
            now: The current time in seconds.
        """
        self._apply(self._framing.receive_data(data), now)

    def payload_buffer(self) -> memoryview | None:
        """Return memory for the next bytes from the peer, if they belong to the payload of a long message.

        A driver that reads into it, instead of passing the bytes to `receive_data`, needs no copy of them. Use it in a
        `with` statement; `Decoder.payload_buffer` says why.

        Returns:
            The memory, at least one byte; None if the next bytes are something else, or if their frame ends within the
            payload and soon: one read of many short frames, and a copy, take less time than many short reads.
        """
        left = self._framing.payload_left
        if left < _LEAST and left < self.machine.payload_missing:
            return None
        return self.machine.payload_buffer(left)

    def fill(self, count: int) -> bytes:
        """Record that bytes from the peer were written into the `payload_buffer`.

        Args:
            count: The number of bytes, 1 or more.

        Returns:
            The last of them, which is not recorded: pass it to `receive_data`, which returns the events.
        """
        self._framing.pass_payload(count - 1)
        return self.machine.fill(count)

    def open_within(self, seconds: float, now: float) -> None:
        """Set the deadline for opening, unless it is earlier already.

        Args:
            seconds: Seconds from now, 0 or more.
            now: The current time in seconds.
        """
        if self._open_deadline is not None and now + seconds < self._open_deadline:
            self._open_timeout, self._open_deadline = seconds, now + seconds

    def receive_eof(self, now: float) -> None:
        """Handle EOF from the peer.

        Args:
            now: The current time in seconds.
        """
        self._eof = True
        ended = self._framing.receive_eof()
        if ended is not None:
            self._apply([ended], now)
        else:
            self.machine.receive_eof(now)
            self._settle(now)

    def data_to_send(self, now: float) -> bytes:
        """Return the bytes to send now, in one piece; empty if there are none.

        Args:
            now: The current time in seconds.
        """
        framing = self._framing
        before = framing.data_to_send() if framing.long is not None else b""  # the rest, if a piece was taken
        data = self.piece_to_send(now)
        if framing.long is not None:
            data = b"".join([data, framing.data_to_send()])
        return before + data if before else data

    def piece_to_send(self, now: float) -> bytes:
        """Return the next bytes to send; empty if there are none. Call this again until it returns no bytes.

        A driver that uses this instead of `data_to_send` needs no copy of a long message: a WebSocket masks one piece
        of it after another.

        Args:
            now: The current time in seconds.
        """
        framing = self._framing
        if framing.long is not None:
            return framing.next_piece()
        if framing.opened:
            data = self.machine.data_to_send(now)
            if data:
                framing.send(data)
            del data  # it may be long, and is copied below
        if self.machine.state is CLOSED and not self._closing:
            self._closing = True
            framing.close(*_close_code(self.machine.error))
        # `send` may have set it; for mypyc, which compiles this, `framing.long` is still None.
        return framing.data_to_send() if self._framing.long is None else framing.next_piece()

    def events(self) -> Iterator[Event]:
        """Yield the events in order, including those that occur during the iteration."""
        machine = self.machine
        while machine.events:
            yield machine.events.popleft()

    def next_event(self) -> Event | None:
        """Return the next event, or None."""
        events = self.machine.events
        return events.popleft() if events else None

    def next_deadline(self) -> float | None:
        """Return the time by which `handle_timeout` must be called; None if there is no deadline."""
        deadline = self.machine.next_deadline()
        if self._open_deadline is None and self._close_deadline is None:
            return deadline
        return earlier(earlier(self._open_deadline, self._close_deadline), deadline)

    def handle_timeout(self, now: float) -> None:
        """Handle the deadlines that have passed.

        Args:
            now: The current time in seconds.
        """
        if self._open_deadline is not None and now >= self._open_deadline:
            self._open_deadline = None
            self._time_out()
        elif self._close_deadline is not None and now >= self._close_deadline:
            self._eof = True
            self._close_deadline = None
        else:
            self.machine.handle_timeout(now)
        self._settle(now)

    # Both roles.

    @property
    def error(self) -> MQTTError | None:
        """The reason for which the connection ended; None while it is open, and after a normal end."""
        return self.machine.error

    @property
    def opened(self) -> bool:
        """Whether MQTT packets may be exchanged: over a WebSocket, after the upgrade."""
        return self._framing.opened

    @property
    def connected(self) -> bool:
        """Whether the CONNECT was accepted and the connection has not ended since."""
        return self.machine.state is CONNECTED

    @property
    def closed(self) -> bool:
        """Whether the connection has ended. Until it is `finished`, there may still be bytes to exchange."""
        return self.machine.state is CLOSED

    @property
    def finished(self) -> bool:
        """Whether to close the transport, after writing `data_to_send`."""
        return self.machine.state is CLOSED and (self._eof or self._framing.finished)

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` may return bytes, or the close frame has not been requested yet."""
        machine = self.machine
        return machine.has_output or self._framing.has_output or (machine.state is CLOSED and not self._closing)

    def publish(self, message: Message) -> int:
        """Send a message; see `Machine.publish`."""
        return self.machine.publish(message)

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge a message that its consumer has processed; see `Machine.acknowledge`."""
        self.machine.acknowledge(publish)

    def discard(self, publish: Publish) -> None:
        """Drop a message without acknowledging it; see `Machine.discard`."""
        self.machine.discard(publish)

    def pause_reading(self) -> None:
        """Record that reading is paused; see `Machine.pause_reading`."""
        self.machine.pause_reading()

    def resume_reading(self, now: float) -> None:
        """Record that reading is resumed.

        Args:
            now: The current time in seconds.
        """
        self.machine.resume_reading(now)

    def close(self, error: MQTTError, now: float) -> None:
        """Close the connection for a local reason: a timeout, a session takeover, a shutdown.

        Args:
            error: The reason, which the event `Closed` contains.
            now: The current time in seconds.
        """
        self.machine.close(error)
        self._settle(now)

    def _apply(self, happened: list[FramingEvent], now: float) -> None:
        machine = self.machine
        for event in happened:
            if machine.state is CLOSED:  # `Closed` is the last event
                break
            if isinstance(event, bytes):
                machine.receive_data(event, now)
            elif isinstance(event, Opened):
                self._on_opened(now)
            elif isinstance(event, Ended):
                self._on_ended(event.error)
            else:
                machine.report(event)
        self._settle(now)

    def _settle(self, now: float) -> None:
        """Stop or start the timers for opening and closing, according to the machine's state."""
        if self._open_deadline is not None and self._is_open():
            self._open_deadline = None
        if self.machine.state is CLOSED and self._close_deadline is None and not self.finished:
            self._close_deadline = now + self._close_timeout

    @abstractmethod
    def _is_open(self) -> bool:
        """Return whether the opening is complete or has failed."""

    @abstractmethod
    def _time_out(self) -> None:
        """End the connection because the opening took too long."""

    def _on_opened(self, now: float) -> None:
        """Handle the event that MQTT packets may be exchanged."""

    @abstractmethod
    def _on_ended(self, error: MQTTError) -> None:
        """Handle the end of the framing."""


def earlier(one: float | None, other: float | None) -> float | None:
    """Return the earlier of two times; None means never."""
    if one is None:
        return other
    if other is None or one < other:
        return one
    return other


def _close_code(error: MQTTError | None) -> tuple[int, str]:
    """Return the WebSocket close code for an error, and the reason to send with it. Spec: RFC 6455 §7.4."""
    if isinstance(error, SessionTakenOver):
        return ws.TAKEN_OVER, "session taken over"
    if isinstance(error, (AccessDenied, LimitExceeded)):
        return ws.POLICY_VIOLATION, _fitting(error.close_reason)
    if isinstance(error, ProtocolError):
        return ws.PROTOCOL_ERROR, error.statement
    if error is None or isinstance(error, ConnectError):
        return ws.NORMAL, ""
    return ws.GOING_AWAY, ""


def _fitting(reason: str) -> str:
    """Truncate a reason to fit a close frame, which holds 125 bytes including the code. Spec: RFC 6455 §5.5."""
    encoded = reason.encode()
    if len(encoded) <= ws.MOST_REASON:
        return reason
    return encoded[: ws.MOST_REASON - 3].decode(errors="ignore") + "..."


class ClientConnection(Connection[ClientMachine]):
    """A client's connection. The first `data_to_send` returns the upgrade request or the CONNECT.

    It waits for the server's close frame only after a normal end. After an error it is `finished` immediately, so that
    the client can reconnect without delay.

    Args:
        machine: A new `ClientMachine`.
        framing: A new `ClientWebSocket`, or a new `Framing` for TCP.
        now: The current time in seconds, of any monotonic clock.
        open_timeout: Seconds within which the CONNACK must be received, including the upgrade.
        close_timeout: Seconds to wait for the server during the closing handshake.
    """

    __slots__ = ()

    @property
    def finished(self) -> bool:
        """Whether to close the transport, after writing `data_to_send`; after an error without waiting for the peer."""
        return super().finished or self.machine.error is not None

    def subscribe(self, topic_filters: list[tuple[str, int]]) -> int:
        """Send SUBSCRIBE.

        Args:
            topic_filters: Pairs of a Topic Filter and the requested QoS (0 to 2), at least one.

        Returns:
            A token, which `Subscribed` contains.

        Raises:
            LocalProtocolError: A Topic Filter is not valid, or there is no connection.

        Spec: §3.8
        """
        return self.machine.subscribe(topic_filters)

    def unsubscribe(self, topic_filters: list[str]) -> int:
        """Send UNSUBSCRIBE.

        Args:
            topic_filters: Topic Filters, at least one.

        Returns:
            A token, which `Unsubscribed` contains.

        Raises:
            LocalProtocolError: A Topic Filter is not valid, or there is no connection.

        Spec: §3.10
        """
        return self.machine.unsubscribe(topic_filters)

    def frame_now(self, packet: bytes, now: float, qos: int = 0) -> bytes | None:
        """Frame a PUBLISH that the caller writes before everything that `data_to_send` returns next.

        Args:
            packet: The whole PUBLISH.
            now: The current time in seconds.
            qos: Its QoS.

        Returns:
            The bytes to write; None if the message would overtake others, must not be sent now, or is long: then it is
            sent in pieces.
        """
        if self._framing.long is not None or len(packet) >= 2 * LONG or not self.machine.may_overtake(now, qos):
            return None
        return self._framing.frame(packet)

    def disconnect(self, now: float, goodbye: bool = True, queued: bool = True) -> None:
        """Send everything that may be sent now, then DISCONNECT, and close the connection.

        Args:
            now: The current time in seconds.
            goodbye: Whether to send DISCONNECT. Without it the server publishes the Will Message.
            queued: Whether to send queued messages and requests first. Acknowledgements are sent in any case.

        Spec: §3.14, [MQTT-3.14.4-1], [MQTT-3.14.4-2], [MQTT-3.1.2-8]
        """
        self.machine.disconnect(goodbye, queued)
        self._settle(now)

    def _is_open(self) -> bool:
        return self.machine.state in (CONNECTED, CLOSED)

    def _time_out(self) -> None:
        refusal = self._framing.receive_eof()  # report a refusal even if its body is incomplete
        self.machine.close(
            refusal.error if refusal else ConnectTimeout(f"{self.lateness} within {self._open_timeout:.3g} s")
        )

    def _on_opened(self, now: float) -> None:
        self.machine.start(now)

    def _on_ended(self, error: MQTTError) -> None:
        if isinstance(error, ConnectionClosed):
            if error.code == ws.TAKEN_OVER:
                error = SessionTakenOver("another connection with this client identifier took over", error.code)
            elif self.machine.state is not CONNECTED:
                error = ConnectError(f"before the CONNACK, {error}")
        self.machine.close(error)
