"""The effect of each packet on the state of both ends, and the rules that a packet breaks in that state.

A tap sees the packets of both ends. For each end it keeps the state of the connection, using the tables of the two
machines (`HANDLERS`), and for each packet identifier in flight its step in the flows of QoS 1 and 2::

    step        packet of the publisher     packet of the receiver     next step
    (none)      PUBLISH, QoS 1                                         published 1
    (none)      PUBLISH, QoS 2                                         published 2
    published 1                             PUBACK                     (none)
    published 2                             PUBREC                     received
    received    PUBREL                                                 released
    released                                PUBCOMP                    (none)

This module does not affect what is forwarded.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mqttws.codec.connecting import ConnAck, Connect, Disconnect, PingReq, PingResp
from mqttws.codec.packet import Packet
from mqttws.codec.publishing import PubAck, PubComp, Publish, PubRec, PubRel
from mqttws.codec.subscribing import SubAck, Subscribe, UnsubAck, Unsubscribe
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.machine import CLOSED, CONNECTED, CONNECTING, NEW
from mqttws.protocol.server import ServerMachine
from mqttws.tap.record import CLIENT, OTHER_END, SERVER, Broken, Record

#: (step, packet) -> the next step; "" is the end of the flow.
STEPS: Final[dict[tuple[str, type[Packet]], str]] = {
    ("published 1", PubAck): "",
    ("published 2", PubRec): "received",
    ("received", PubRec): "received",
    ("received", PubRel): "released",
    ("released", PubRec): "received",
    ("released", PubRel): "released",
    ("released", PubComp): "",
    ("subscribe", SubAck): "",
    ("unsubscribe", UnsubAck): "",
}
#: The statement that a SUBACK or UNSUBACK without a request breaks.
_ANSWERS_NOTHING: Final = {SubAck: "MQTT-3.8.4-2", UnsubAck: "MQTT-3.10.4-4"}


class _Flow:
    """A packet identifier in flight."""

    __slots__ = ("first", "last", "step", "time", "topic_filters")

    def __init__(self, step: str, record: Record, topic_filters: int = 0) -> None:
        self.step = step
        self.first = self.last = record.number
        self.time = record.time
        self.topic_filters = topic_filters


class Ends:
    """The state of both ends of one connection, inferred from their packets.

    Attributes:
        states: "client" and "server" -> the state of that end: new, connecting, connected or closed.
        version: The Protocol Level of the CONNECT; 4 before the CONNECT.
        keep_alive: Seconds; 0 if it is disabled.
    """

    __slots__ = ("_asked", "_clean_session", "_disconnected", "_flows", "_last_sent", "keep_alive", "states", "version")

    def __init__(self) -> None:
        self.states = {CLIENT: NEW, SERVER: NEW}
        self.version = 4
        self.keep_alive = 0
        self._clean_session = False
        self._disconnected = False
        # The end that began the flow -> packet identifier -> the flow.
        self._flows: dict[str, dict[int, _Flow]] = {CLIENT: {}, SERVER: {}}
        # The CONNECT and PINGREQ packets without an answer. Bounded: a client may send PINGREQ without end.
        self._asked: deque[tuple[int, float]] = deque(maxlen=1000)
        self._last_sent = 0.0

    @property
    def waiting(self) -> list[tuple[str, int, str, int]]:
        """The unfinished flows: (the end that began it, packet identifier, step, number of the record)."""
        return [
            (end, packet_id, flow.step, flow.last)
            for end, flows in self._flows.items()
            for packet_id, flow in flows.items()
        ]

    def follow(self, record: Record, packet: Packet) -> None:
        """Update the state for a record of the layer `mqtt` with this packet; add changes and broken rules to it."""
        sender = record.sender
        connected = self.states[SERVER] is CONNECTED
        if connected and type(packet) is Publish and packet.packet_id is None and not self._disconnected:
            if sender == CLIENT:
                self._check_silence(record)
            return
        self._check_turn(record, packet)
        if sender == CLIENT:
            self._check_silence(record)
        if isinstance(packet, Publish):
            if packet.packet_id is not None:
                self._begin(record, packet.packet_id, f"published {packet.qos}", packet.dup)
        elif isinstance(packet, (PubAck, PubRec, PubComp, SubAck, UnsubAck)):
            self._go_on(record, packet.packet_id, packet, OTHER_END[sender])
        elif isinstance(packet, PubRel):
            self._go_on(record, packet.packet_id, packet, sender)
        elif isinstance(packet, (Subscribe, Unsubscribe)):
            step = "subscribe" if isinstance(packet, Subscribe) else "unsubscribe"
            self._begin(record, packet.packet_id, step, False, len(packet.topic_filters))
        elif isinstance(packet, Connect):
            self._on_connect(record, packet)
        elif isinstance(packet, ConnAck):
            self._on_connack(record, packet)
        elif isinstance(packet, PingReq):
            self._ask(record)
        elif isinstance(packet, PingResp):
            self._on_pingresp(record)
        elif isinstance(packet, Disconnect):
            self._disconnected = True
            self._move(record, CLIENT, CLOSED)

    def close(self, record: Record) -> None:
        """Update the state for the end of one direction (FIN) or of the connection (RST)."""
        self._move(record, record.sender, CLOSED)
        if record.name == "RST":
            self._move(record, OTHER_END[record.sender], CLOSED)

    # Rules.

    def _check_turn(self, record: Record, packet: Packet) -> None:
        """Check that this end may send this packet in this state, using the table of the receiving machine."""
        if self._disconnected and record.sender == CLIENT:
            _break(record, "MQTT-3.14.4-2", f"the client sent {record.name} after DISCONNECT")
            return
        if record.sender == CLIENT:
            machine: type[ClientMachine] | type[ServerMachine] = ServerMachine
            state = self.states[SERVER]
            if state is CONNECTING and type(packet) is not Connect:
                state = CONNECTED  # a client need not wait for the CONNACK [§3.1.4]
        else:
            machine, state = ClientMachine, self.states[CLIENT]
            if state is CLOSED:
                state = CONNECTED  # the server may have sent this before the end reached it
        if state is not CLOSED and (state, type(packet)) not in machine.HANDLERS:
            error = machine.violation(state, packet)
            _break(record, error.statement, error.message)

    def _check_silence(self, record: Record) -> None:
        """Check that the client kept its keep alive. Spec: [MQTT-3.1.2-23], [MQTT-3.1.2-24]."""
        silence = record.time - self._last_sent
        if self.keep_alive and silence > 1.5 * self.keep_alive:
            _break(
                record,
                "MQTT-3.1.2-23",
                f"{silence:.1f} s of silence; the keep alive is {self.keep_alive} s",
            )
        self._last_sent = record.time

    # The connection.

    def _on_connect(self, record: Record, packet: Connect) -> None:
        if self.states[SERVER] is not NEW:
            return
        self._clean_session, self.keep_alive = packet.clean_session, packet.keep_alive
        self._last_sent = record.time
        self._ask(record)
        self._move(record, CLIENT, CONNECTING)
        self._move(record, SERVER, CONNECTING)

    def _on_connack(self, record: Record, packet: ConnAck) -> None:
        if self.states[SERVER] is not CONNECTING:
            return
        if self._asked:
            self._answer(record, *self._asked.popleft())
        if packet.return_code:
            for end in (SERVER, CLIENT):
                self._move(record, end, CLOSED)
            return
        if packet.session_present and self._clean_session:
            _break(record, "MQTT-3.2.2-1", "session present is set, although the client requested a clean session")
        for end in (SERVER, CLIENT):
            if self.states[end] is CONNECTING:
                self._move(record, end, CONNECTED)

    def _on_pingresp(self, record: Record) -> None:
        if self._asked:
            self._answer(record, *self._asked.popleft())
        else:
            _break(record, "§3.13", "a PINGRESP without a PINGREQ")

    # Packet identifiers.

    def _begin(self, record: Record, packet_id: int, step: str, dup: bool, topic_filters: int = 0) -> None:
        flows = self._flows[record.sender]
        before = flows.get(packet_id)
        if before is not None and not (dup and before.step == step):
            statement = "MQTT-2.3.1-2" if record.sender == CLIENT else "MQTT-2.3.1-4"
            _break(record, statement, f"the packet identifier {packet_id} is already in flight (record {before.first})")
        flows[packet_id] = _Flow(step, record, topic_filters)
        record.add_change(record.sender, packet_id, before.step if before else "", step)

    def _go_on(self, record: Record, packet_id: int, packet: Packet, began: str) -> None:
        flows = self._flows[began]
        flow = flows.get(packet_id)
        if flow is None or (flow.step, type(packet)) not in STEPS:
            self._out_of_step(record, packet_id, packet, flow)
            if flow is None and isinstance(packet, PubRel):  # of a session older than this connection
                flows[packet_id] = _Flow("released", record)
                record.add_change(began, packet_id, "", "released")
            return
        if isinstance(packet, SubAck) and len(packet.return_codes) != flow.topic_filters:
            codes = f"{len(packet.return_codes)} return codes for {flow.topic_filters} Topic Filters"
            _break(record, "MQTT-3.8.4-5", f"a SUBACK with {codes}")
        before, flow.step = flow.step, STEPS[flow.step, type(packet)]
        self._answer(record, flow.last, flow.time)
        flow.last, flow.time = record.number, record.time
        if not flow.step:
            del flows[packet_id]
        record.add_change(began, packet_id, before, flow.step)

    def _out_of_step(self, record: Record, packet_id: int, packet: Packet, flow: _Flow | None) -> None:
        """Report an unexpected answer. An unknown identifier breaks no rule: it can result from a re-delivery."""
        statement = _ANSWERS_NOTHING.get(type(packet))
        if statement is not None:
            _break(record, statement, f"a {record.name} for {packet_id}, which was not requested")
        elif flow is not None:
            _break(record, "§4.3", f"a {record.name} for {packet_id}, which is {flow.step!r}")
        else:
            record.notes["unknown"] = f"the packet identifier {packet_id} is not in flight on this connection"

    # Additions to the record.

    def _ask(self, record: Record) -> None:
        """Record a CONNECT or a PINGREQ. They have no identifier and are answered in order."""
        self._asked.append((record.number, record.time))

    def _answer(self, record: Record, number: int, time: float) -> None:
        record.answers = number
        record.round_trip = record.time - time

    def _move(self, record: Record, end: str, state: str) -> None:
        before = self.states[end]
        if before is not state:
            self.states[end] = state
            record.add_change(end, 0, before, state)


def _break(record: Record, statement: str, message: str) -> None:
    record.broken += (Broken(statement, message),)
