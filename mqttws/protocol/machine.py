"""The base class of the protocol state machines of client and server.

A machine serves one Network Connection. It takes received bytes, and returns bytes to send and events; how the bytes
are transported does not matter. A driver calls five methods (`receive_data`, `receive_eof`, `data_to_send`,
`next_deadline`, `handle_timeout`) and passes the time to them. An error of the caller raises an exception and changes
nothing. An error of the peer ends the connection, and is reported by the last event, `Closed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable

from mqttws.codec.decoder import MAX_PACKET_SIZE, Decoder
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Message, PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.errors import ConnectionClosed, LocalProtocolError, MQTTError, RemoteProtocolError, StoreError
from mqttws.hints import TYPE_CHECKING, Any, ClassVar, Final, inf
from mqttws.protocol.events import Closed, Delivered, Event, Sent
from mqttws.protocol.session import Session

if TYPE_CHECKING:
    from mqttws.protocol.claims import Claim
    from mqttws.protocol.store import Store

#: The method as a function of a queue. Compiled code looks methods of `deque` up by their names for each call.
_append: Final = deque.append
#: The size in bytes from which a piece of output takes no further messages. It is less than that of a run
#: (`outgoing.RUN`), so that a run makes a piece: masking twice as much at once takes twice as long for each byte.
PIECE = 32 * 1024

#: The queue of a machine without events; never changed. Even an empty deque takes 760 bytes.
NO_EVENTS: Final[deque[Any]] = deque(maxlen=0)

# The states of a machine, in the order in which they can follow each other.
NEW = "new"  # nothing sent, nothing received
CONNECTING = "connecting"  # client: CONNECT sent; server: CONNECT received, not answered yet
CONNECTED = "connected"  # client: CONNACK 0 received; server: CONNACK 0 sent
CLOSED = "closed"


class Machine(ABC):
    """The base class of `ClientMachine` and `ServerMachine`.

    Args:
        max_packet_size: Bytes. A larger packet from the peer ends the connection.

    Attributes:
        state: One of the states of this module.
        error: The reason for which the connection ended; None while it is open, and after a normal end.
        events: The events that were not consumed yet, in order: remove them from the left. Read this attribute again
            after each call, because the queue is made on demand; see `trim`.
    """

    __slots__ = (
        "_decoder",
        "_last_received",
        "_last_sent",
        "_out",
        "_prepared",
        "_reading",
        "_session",
        "error",
        "events",
        "state",
    )

    #: (state, packet class) -> the name of the method that handles it. Any other pair is a protocol violation.
    HANDLERS: ClassVar[dict[tuple[str, type[Packet]], str]]

    def __init__(self, max_packet_size: int = MAX_PACKET_SIZE) -> None:
        self.state = NEW
        self.error: MQTTError | None = None
        self.events: deque[Event] = NO_EVENTS
        self._decoder = Decoder(max_packet_size)
        self._session: Session | None = None
        self._out: list[bytes] = []
        self._last_received = 0.0
        self._last_sent = 0.0
        self._reading = True
        self._prepared = False

    # The interface for drivers.

    def receive_data(self, data: bytes, now: float) -> None:
        """Handle bytes from the peer.

        Args:
            data: Received bytes, divided anywhere.
            now: The current time in seconds.
        """
        if self.state is CLOSED or not data:  # an empty WebSocket message does not count for the keep alive
            return
        self._last_received = now
        try:
            self._receive_packets(self._decoder.feed(data), now)
            if self._decoder.fault is not None:
                raise self._decoder.fault
        except RemoteProtocolError as error:
            self._remote_fault(error, data)

    def payload_buffer(self, most: int) -> memoryview | None:
        """Return memory for the next bytes from the peer; see `Decoder.payload_buffer`."""
        return self._decoder.payload_buffer(most)

    def fill(self, count: int) -> bytes:
        """Record that bytes were read into the `payload_buffer`; see `Decoder.fill`."""
        return self._decoder.fill(count)

    def receive_eof(self, now: float) -> None:
        """Handle EOF from the peer.

        Args:
            now: The current time in seconds.
        """
        self.close(self._eof_error())

    def data_to_send(self, now: float) -> bytes:
        """Return the next bytes to send, in one piece. Call this again until it returns no bytes.

        With a store, all changes are committed first; if that fails, the connection ends and nothing is sent.

        Args:
            now: The current time in seconds.
        """
        if self.state is CONNECTED and not self._prepared:
            self._send_ready()
        self._prepared = False
        if not self._out:
            return b""
        if self._session is not None and self._session.store is not None and not self._commit(self._session.store):
            return b""
        data = self._out[0] if len(self._out) == 1 else b"".join(self._out)
        self._out.clear()
        self._last_sent = now
        return data

    @property
    def payload_missing(self) -> int:
        """How many bytes are missing from a long payload of which a part has arrived; see `Decoder.payload_missing`."""
        return self._decoder.payload_missing

    @property
    def has_output(self) -> bool:
        """Whether `data_to_send` may return bytes."""
        if self._out:
            return True
        session = self._session
        return session is not None and (session.receiver.unanswered or bool(session.sender.queue))

    def prepare(self) -> None:
        """Encode the next output without returning it, so that machines that share a store can share one commit."""
        if self.state is CONNECTED and not self._prepared:
            self._send_ready()
            self._prepared = bool(self._out)

    def _commit(self, store: Claim | Store) -> bool:
        """Commit the changes that the queued bytes depend on. Return False if that fails: do not send the bytes."""
        try:
            store.commit()
        except StoreError as error:
            self._out.clear()
            self.close(error)
            return False
        return True

    @abstractmethod
    def next_deadline(self) -> float | None:
        """Return the time by which `handle_timeout` must be called; None if there is no deadline."""

    @abstractmethod
    def handle_timeout(self, now: float) -> None:
        """Handle the deadlines that have passed.

        Args:
            now: The current time in seconds.
        """

    # Both roles.

    def publish(self, message: Message) -> int:
        """Queue a message. It is sent as soon as the limit of messages in flight allows.

        Args:
            message: The Application Message.

        Returns:
            Its token. The event `Delivered` contains it; with QoS 0, the event `Sent` contains it or a higher one.

        Raises:
            QueueFull: The limit of queued messages or bytes is reached; nothing has changed.
            LocalProtocolError: The machine is not connected.

        Spec: §3.3, §4.3
        """
        self._check_state("publish", CONNECTED)
        assert self._session is not None
        return self._session.publish(message)

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge a message that its consumer has processed.

        This has no effect for QoS 0, the second time, or after the connection ended.

        Args:
            publish: The same object that was reported as an event.

        Spec: [MQTT-4.3.2-2], [MQTT-4.3.3-2]
        """
        if publish.qos and self._session is not None:
            self._session.receiver.acknowledge(publish)

    def discard(self, publish: Publish) -> None:
        """Drop a QoS 1 message without acknowledging it.

        This deviates from the standard; it is for imitating a server that does so. It has no effect for QoS 0 or 2,
        the second time, or after the connection ended.

        Args:
            publish: The same object that was reported as an event.
        """
        if publish.qos == 1 and self._session is not None:
            self._session.receiver.discard(publish)

    def pause_reading(self) -> None:
        """Record that the driver has paused reading. Until it resumes, the peer's silence is not a timeout."""
        self._reading = False

    def resume_reading(self, now: float) -> None:
        """Record that the driver has resumed reading.

        Args:
            now: The current time in seconds.
        """
        self._reading = True
        self._last_received = now

    def close(self, error: MQTTError | None = None) -> None:
        """End the connection. Only the first call has an effect.

        Args:
            error: The reason; None for a normal end.
        """
        if self.state is not CLOSED:
            if error is not None:
                release_frames(error)
            self.state = CLOSED
            self.error = error
            self.report(Closed(error))

    def report(self, event: Event) -> None:
        """Add an event to the queue.

        Args:
            event: The event.
        """
        if self.events is NO_EVENTS:
            self.events = deque()
        self.events.append(event)

    def trim(self) -> None:
        """Give up the queue of events if it is empty. Call this when the peer may be idle from now on."""
        if not self.events:
            self.events = NO_EVENTS

    @property
    def session(self) -> Session:
        """The session. A server has none before it accepts the client.

        Raises:
            LocalProtocolError: There is none yet.
        """
        if self._session is None:
            raise LocalProtocolError("there is no session before the CONNECT is accepted", "MQTT-3.1.4-4")
        return self._session

    def _receive_packets(self, packets: list[Packet], now: float) -> None:
        """Handle packets in order. The most frequent types are dispatched without the table `HANDLERS`."""
        if not packets:
            return
        events, connected = self.events, self.state is CONNECTED
        if events is NO_EVENTS:
            if len(packets) == 1 and not isinstance(packets[0], Publish):  # as the PINGREQ of an idle client
                self._receive_packet(packets[0], now)
                return
            events = self.events = deque()
        for packet in packets:
            if connected and isinstance(packet, Publish):  # it does not change the state
                if packet.packet_id is None:
                    _append(events, packet)
                else:
                    self._on_publish(packet, now)
                continue
            if not connected:
                if self.state is CLOSED:
                    return
                self._receive_packet(packet, now)
            elif isinstance(packet, PubAck):
                self._on_puback(packet, now)
            elif isinstance(packet, PubRec):
                self._on_pubrec(packet, now)
            elif isinstance(packet, PubComp):
                self._on_pubcomp(packet, now)
            else:
                self._receive_packet(packet, now)
            connected = self.state is CONNECTED

    def _receive_packet(self, packet: Packet, now: float) -> None:
        name = self.HANDLERS.get((self.state, type(packet)))
        if name is None:
            raise self.violation(self.state, packet)
        handler: Callable[[Any, float], None] = getattr(self, name)
        handler(packet, now)

    @staticmethod
    @abstractmethod
    def violation(state: str, packet: Packet) -> RemoteProtocolError:
        """Return the error for a packet that is not allowed in a state.

        Args:
            state: A state of the machine, such as `CONNECTED`.
            packet: The packet of the peer.
        """

    @abstractmethod
    def _remote_fault(self, error: RemoteProtocolError, data: bytes) -> None:
        """Close the connection because of a protocol error of the peer, in this data. Spec: [MQTT-4.8.0-1]."""

    def _eof_error(self) -> MQTTError | None:
        return ConnectionClosed()

    def _check_state(self, verb: str, state: str) -> None:
        if self.state is not state:
            raise LocalProtocolError(f"cannot {verb} while {self.state}", "MQTT-3.1.0-1")

    def _send(self, packet: Packet) -> None:
        if self.state is CONNECTED:
            self._out.append(packet.encode())

    def _send_ready(self, space: float = PIECE) -> None:
        """Send the acknowledgements that are due, and queued messages up to about `space` bytes.

        Spec: [MQTT-4.6.0-2], [MQTT-4.6.0-3], [MQTT-4.6.0-6]
        """
        session = self._session
        assert session is not None
        if session.receiver.unanswered:
            self._send_answers()
        if session.sender.queue:
            self._send_messages(space)

    def _send_answers(self) -> None:
        """Send the acknowledgements that are due."""
        assert self._session is not None
        self._out += self._session.receiver.answers()

    def _send_messages(self, space: float, before: float = inf) -> float:
        """Send queued messages before a token, up to about `space` bytes. Return how many bytes are left."""
        assert self._session is not None
        packets, sent = self._session.sender.take_ready(space, before)
        self._out += packets
        if sent is not None:
            self._note_sent(sent)
        return space if before is inf else space - sum(map(len, packets))

    def _send_requests(self, before: int) -> None:  # noqa: B027 # a server has no requests
        """Send the requests with tokens below `before`."""

    def _note_sent(self, token: int) -> None:
        """Report sent messages; extend the last event if it has not been consumed yet."""
        last = self.events[-1] if self.events else None
        if isinstance(last, Sent):
            last.token = token
        else:
            self.report(Sent(token))

    def _note_delivered(self, token: int) -> None:
        """Report an acknowledged message; extend the last event if it has not been consumed yet."""
        last = self.events[-1] if self.events else None
        if isinstance(last, Delivered):
            last.tokens.append(token)
        else:
            self.report(Delivered([token]))

    def _resume(self, session: Session, session_present: bool) -> None:
        """Resume a session at the start of a connection. Spec: [MQTT-4.4.0-1]."""
        self._session = session
        session.receiver.begin(session_present)
        packets, done = session.sender.resume(session_present)
        self._send_again(packets)
        for token in done:
            self._note_delivered(token)

    def _send_again(self, packets: list[tuple[int, PubRel | Publish]]) -> None:
        """Send again the packets that were unanswered on an earlier connection, given with their messages' tokens."""
        for token, packet in packets:
            self._send_requests(token)
            self._out.append(packet.encode())

    # The QoS flows, the same for both roles. Spec: §4.3

    def _on_publish(self, publish: Publish, now: float) -> None:
        packet_id = publish.packet_id
        assert packet_id is not None  # `_receive_packets` handles QoS 0
        assert self._session is not None
        receiver = self._session.receiver
        if receiver.receive(publish, packet_id):
            try:
                self.report(publish)
            except MemoryError:
                receiver.discard(publish)
                raise

    def _on_puback(self, packet: PubAck, now: float) -> None:
        assert self._session is not None
        token = self._session.sender.puback(packet.packet_id)
        if token is not None:
            self._note_delivered(token)

    def _on_pubrec(self, packet: PubRec, now: float) -> None:
        assert self._session is not None
        self._out.append(self._session.sender.pubrec(packet.packet_id).encode())

    def _on_pubrel(self, packet: PubRel, now: float) -> None:
        self._send(self.session.receiver.pubrel(packet.packet_id))

    def _on_pubcomp(self, packet: PubComp, now: float) -> None:
        assert self._session is not None
        token = self._session.sender.pubcomp(packet.packet_id)
        if token is not None:
            self._note_delivered(token)


def release_frames(error: BaseException | None) -> None:
    """Release the stack frames of a stored error.

    Their variables refer to the connection, which would stay in memory with its session until the garbage collector
    runs: a client could fill the memory with connections that it ends by a protocol error.

    Args:
        error: The error; also those that caused it are released.
    """
    while error is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


#: The handlers of the packets that both roles may receive when connected.
DELIVERY_HANDLERS: dict[tuple[str, type[Packet]], str] = {
    (CONNECTED, Publish): "_on_publish",
    (CONNECTED, PubAck): "_on_puback",
    (CONNECTED, PubRec): "_on_pubrec",
    (CONNECTED, PubRel): "_on_pubrel",
    (CONNECTED, PubComp): "_on_pubcomp",
}
