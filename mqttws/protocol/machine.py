"""What the client's and the server's machine share: bytes in, packets handled, bytes and events out.

A machine serves one Network Connection and knows nothing of how its bytes travel. It is driven by five verbs
(`receive_data`, `receive_eof`, `data_to_send`, `next_deadline`, `handle_timeout`) and learns the time from their
argument. A fault of the caller raises and changes nothing; a fault of the peer ends the machine, and arrives as
the last event, `Closed`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Any, ClassVar

from mqttws.codec.decoder import MAX_PACKET_SIZE, Decoder
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import Message, PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.errors import ConnectionClosed, LocalProtocolError, MQTTError, RemoteProtocolError, StoreError
from mqttws.protocol.events import Closed, Delivered, Event, Sent
from mqttws.protocol.session import Session
from mqttws.protocol.store import Store

#: How many bytes of messages one piece takes up before the rest waits for the next. Less than a run (`outgoing.RUN`),
#: so that a run is a piece: masking twice as much at a time takes twice as long for each byte.
PIECE = 32 * 1024

# The states of a machine, in the order in which they can follow each other.
NEW = "new"  # nothing sent, nothing received
CONNECTING = "connecting"  # CONNECT sent; at a server: received and not answered
CONNECTED = "connected"  # CONNACK 0 received; at a server: sent
CLOSED = "closed"


class Machine(ABC):
    """The common part; see `ClientMachine` and `ServerMachine`.

    Args:
        max_packet_size: bytes; a larger packet from the peer is a fault.
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

    #: (state, packet class) -> the name of the method that handles it. What is missing is a protocol violation.
    HANDLERS: ClassVar[dict[tuple[str, type[Packet]], str]]

    def __init__(self, max_packet_size: int = MAX_PACKET_SIZE) -> None:
        self.state = NEW
        self.error: MQTTError | None = None
        self.events: deque[Event] = deque()
        self._decoder = Decoder(max_packet_size)
        self._session: Session | None = None
        self._out: list[bytes] = []
        self._last_received = 0.0
        self._last_sent = 0.0
        self._reading = True
        self._prepared = False

    # The verbs.

    def receive_data(self, data: bytes, now: float) -> None:
        """Take bytes from the peer."""
        if self.state is CLOSED or not data:  # an empty WebSocket message does not count for the keep alive
            return
        self._last_received = now
        try:
            self._receive_packets(self._decoder.feed(data), now)
            if self._decoder.fault is not None:
                raise self._decoder.fault
        except RemoteProtocolError as error:
            self._remote_fault(error)

    def receive_eof(self, now: float) -> None:
        """Handle EOF from the peer."""
        self.close(self._eof_error())

    def data_to_send(self, now: float) -> bytes:
        """Return the next bytes to send, in one piece. Only an empty result means that there are no more."""
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
    def has_output(self) -> bool:
        """Whether `data_to_send` may have something to give."""
        if self._out:
            return True
        session = self._session
        return session is not None and (session.receiver.unanswered or session.sender.waiting > 0)

    def prepare(self) -> None:
        """Do everything of the next `data_to_send` except returning its bytes, so that machines can share a commit."""
        if self.state is CONNECTED and not self._prepared:
            self._send_ready()
            self._prepared = bool(self._out)

    def _commit(self, store: Store) -> bool:
        """Commit what the waiting bytes acknowledge. Return False if that fails and they must not be sent."""
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
        """Handle the deadlines that have passed."""

    # Both roles.

    def publish(self, message: Message) -> int:
        """Send a message, as soon as the connection and the window allow.

        Returns:
            Its token, which `Delivered` brings back; with QoS 0 `Sent`, or a later one in its place.

        Raises:
            QueueFull: too many messages wait already; nothing has changed.
            LocalProtocolError: the connection is not there.
        """
        self._check_state("publish", CONNECTED)
        assert self._session is not None
        return self._session.publish(message)

    def acknowledge(self, publish: Publish) -> None:
        """Note that a message has been taken by its consumer. With QoS 0, a second time, or too late: no effect.

        Args:
            publish: the very object that arrived as an event.
        """
        if publish.qos and self._session is not None:
            self._session.receiver.acknowledge(publish)

    def discard(self, publish: Publish) -> None:
        """Drop a message without acknowledging it. With QoS 0 or 2, a second time, or too late: no effect.

        This departs from the standard; it is for a server that stands in for one that does.

        Args:
            publish: the very object that arrived as an event.
        """
        if publish.qos == 1 and self._session is not None:
            self._session.receiver.discard(publish)

    def pause_reading(self) -> None:
        """Record that the driver has paused reading. Until it resumes, silence of the peer is not a time-out."""
        self._reading = False

    def resume_reading(self, now: float) -> None:
        """Record that the driver has resumed reading."""
        self._reading = True
        self._last_received = now

    def close(self, error: MQTTError | None = None) -> None:
        """End the machine. Only the first call counts."""
        if self.state is not CLOSED:
            self.state = CLOSED
            self.error = error
            self.events.append(Closed(error))

    @property
    def session(self) -> Session:
        """The session; there is none at a server before the client is accepted."""
        if self._session is None:
            raise LocalProtocolError("there is no session before the CONNECT is accepted", "MQTT-3.1.4-4")
        return self._session

    def _receive_packets(self, packets: list[Packet], now: float) -> None:
        """Handle packets in order; what nearly all of them are goes the short way."""
        events = self.events
        for packet in packets:
            if self.state is not CONNECTED:
                if self.state is CLOSED:
                    return
                self._receive_packet(packet, now)
            elif isinstance(packet, Publish) and packet.packet_id is None:
                events.append(packet)
            elif isinstance(packet, PubAck):
                self._on_puback(packet, now)
            elif isinstance(packet, PubRec):
                self._on_pubrec(packet, now)
            elif isinstance(packet, PubComp):
                self._on_pubcomp(packet, now)
            else:
                self._receive_packet(packet, now)

    def _receive_packet(self, packet: Packet, now: float) -> None:
        name = self.HANDLERS.get((self.state, type(packet)))
        if name is None:
            raise self.violation(self.state, packet)
        handler: Callable[[Any, float], None] = getattr(self, name)
        handler(packet, now)

    @staticmethod
    @abstractmethod
    def violation(state: str, packet: Packet) -> RemoteProtocolError:
        """Return the error for a packet that is not allowed in a state."""

    def _remote_fault(self, error: RemoteProtocolError) -> None:
        """Close because of a fault of the peer. Spec: [MQTT-4.8.0-1]."""
        self.close(error)

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
        self._send_answers()
        if session.sender.waiting:
            self._send_messages(space)

    def _send_answers(self) -> None:
        """Send the acknowledgements that are due."""
        assert self._session is not None
        for answer in self._session.receiver.answers():
            self._out.append(answer.encode())

    def _send_messages(self, space: float, before: float = inf) -> float:
        """Send queued messages before a token, up to about `space` bytes. Return how many bytes are left."""
        assert self._session is not None
        packets, sent = self._session.sender.take_ready(space, before)
        self._out += packets
        if sent is not None:
            self._note_sent(sent)
        return space if before is inf else space - sum(map(len, packets))

    def _send_requests(self, before: int) -> None:  # noqa: B027 # nothing to do at a server
        """Send the requests that were made before a token. A server has none."""

    def _note_sent(self, token: int) -> None:
        """Report sent messages; extend the last event if it has not been consumed yet."""
        last = self.events[-1] if self.events else None
        if isinstance(last, Sent):
            last.token = token
        else:
            self.events.append(Sent(token))

    def _note_delivered(self, token: int) -> None:
        """Report an acknowledged message; extend the last event if it has not been consumed yet."""
        last = self.events[-1] if self.events else None
        if isinstance(last, Delivered):
            last.tokens.append(token)
        else:
            self.events.append(Delivered([token]))

    def _resume(self, session: Session, session_present: bool) -> None:
        """Resume a session at the start of a connection. Spec: [MQTT-4.4.0-1]."""
        self._session = session
        session.receiver.begin(session_present)
        packets, done = session.sender.resume(session_present)
        self._send_again(packets)
        for token in done:
            self._note_delivered(token)

    def _send_again(self, packets: list[tuple[int, PubRel | Publish]]) -> None:
        """Send again what an earlier connection had left unanswered, each packet after the token of its message."""
        for token, packet in packets:
            self._send_requests(token)
            self._out.append(packet.encode())

    # The QoS flows, the same for both roles. Spec: §4.3

    def _on_publish(self, publish: Publish, now: float) -> None:
        packet_id = publish.packet_id
        assert packet_id is not None  # QoS 0 has gone the short way
        if self.session.receiver.receive(publish, packet_id):
            self.events.append(publish)

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


#: What a connected machine of either role understands.
DELIVERY_HANDLERS: dict[tuple[str, type[Packet]], str] = {
    (CONNECTED, Publish): "_on_publish",
    (CONNECTED, PubAck): "_on_puback",
    (CONNECTED, PubRec): "_on_pubrec",
    (CONNECTED, PubRel): "_on_pubrel",
    (CONNECTED, PubComp): "_on_pubcomp",
}
