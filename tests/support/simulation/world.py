"""The simulation: its clock and event queue, the checks of each packet, and the checks at rest."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import cast

from mqttws.codec.decoder import Decoder
from mqttws.codec.publishing import PubAck, PubComp, Publish
from mqttws.errors import MQTTError, ProtocolError
from simulation.lines import End
from simulation.processes import BrokerProcess, ClientEnd, ClientProcess
from simulation.schedule import SPAN, Action, Schedule

#: Seconds of simulated time within which the simulation must come to rest.
PATIENCE = 600.0


class Violation(AssertionError):
    """A property was violated; the message gives it and the schedule."""


class Simulation:
    """One run of the simulation.

    Args:
        schedule: the complete input.

    Attributes:
        now: the simulated time in seconds.
        accepted: the numbers of the messages that were reported to the publisher as stored or delivered.
        published: (number, QoS) of all messages that its program tried to publish, in order.
        seen: (number, QoS) of all messages delivered to the subscriber's program, in order.
        steps: the number of events so far.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.random = Random(schedule.seed)
        self.now = 0.0
        self.accepted: set[int] = set()
        self.published: list[tuple[int, int]] = []
        self.seen: list[tuple[int, int]] = []
        self.steps = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._decoders: dict[End, Decoder] = {}
        self._in_flight: dict[tuple[str, bool], dict[int, bytes]] = {}
        self.broker = BrokerProcess(self)
        self.publisher = ClientProcess(self, "publisher")
        self.subscriber = ClientProcess(self, "subscriber")

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Schedule an event."""
        self._count += 1
        heapq.heappush(self._events, (due, self._count, action))

    def run(self) -> Simulation:
        """Run until the simulation is at rest, and return it.

        Raises:
            Violation: a property was violated.
        """
        while not (self.publisher.ready and self.subscriber.ready):
            self._step()
            if self.now > PATIENCE:
                raise self._violation("the clients do not get ready")
        begin = self.now
        for action in self.schedule.actions:
            self.at(begin + action.at, partial(self._do, action))
        while self.now < begin + SPAN + 1:
            self._step()
        while not self._at_rest():
            for _ in range(20):
                self._step()
            if self.now > begin + PATIENCE:
                raise self._violation("the world does not come to rest")
        self._check()
        return self

    def _step(self) -> None:
        due, _, action = heapq.heappop(self._events)
        self.now = max(self.now, due)
        self.steps += 1
        action()

    def _do(self, action: Action) -> None:
        if action.verb == "publish":
            self.publisher.publish(action)
            return
        process = getattr(self, cast(str, action.subject))
        if action.verb == "kill":
            if process.up:
                process.kill()
                self.at(self.now + self.random.random() * 3, process.boot)
        elif process.end is not None and process.end.line is not None:
            if action.verb == "cut":
                process.end.line.cut()
            else:
                process.end.line.frozen = True

    # Checks.

    def watch(self, end: End, data: bytes) -> None:
        """Check the packets that an end sends: no identifier in flight may be used for another message."""
        if self.schedule.websocket:
            return
        decoder = self._decoders.get(end)
        if decoder is None:
            decoder = self._decoders[end] = Decoder()
        client_sends = isinstance(end, ClientEnd)
        for packet in decoder.feed(data):
            if isinstance(packet, Publish) and packet.packet_id is not None:
                owners = self._in_flight.setdefault((end.name, client_sends), {})
                if owners.setdefault(packet.packet_id, packet.payload) != packet.payload:
                    raise self._violation(f"identifier {packet.packet_id} is in flight, and given to another message")
            elif isinstance(packet, (PubAck, PubComp)):
                self._in_flight.get((end.name, not client_sends), {}).pop(packet.packet_id, None)

    def check_closed(self, name: str, error: MQTTError | None) -> None:
        """Check why a connection ended: neither side may report a protocol error of the other."""
        if isinstance(error, ProtocolError):
            raise self._violation(f"the {name} found a fault in its peer: {error}")

    def _at_rest(self) -> bool:
        broker, registry = self.broker, self.broker.registry
        if not (broker.up and self.publisher.up and self.subscriber.up):
            return False
        if len(self.published) < sum(action.verb == "publish" for action in self.schedule.actions):
            return False
        sessions = [self.publisher.session, self.subscriber.session]
        if any(session.requests or session.requests_sent for session in sessions):  # for example lost on a frozen line
            return False
        for name in ("publisher", "subscriber"):
            known = registry.find(name)
            if known is None:
                return False
            sessions.append(known.session)
        return not any(len(session.sender) or session.receiver.received for session in sessions)

    def _check(self) -> None:
        for number, qos in self.published:
            count = self.seen.count((number, qos))
            if qos == 1 and not count and number in self.accepted:
                raise self._violation(f"message {number} of QoS 1 was accepted and is lost")
            if qos == 2 and count != 1 and (count or number in self.accepted):
                raise self._violation(f"message {number} of QoS 2 was seen {count} times")
            if qos == 0 and count > 1:
                raise self._violation(f"message {number} of QoS 0 was seen {count} times")
        for qos in (0, 1, 2):
            firsts = list(dict.fromkeys(number for number, each in self.seen if each == qos))
            if firsts != [number for number, each in self.published if each == qos and number in firsts]:
                raise self._violation(f"the messages of QoS {qos} came in the order {firsts}")
        for name, process in (("publisher", self.publisher), ("subscriber", self.subscriber)):
            known = self.broker.registry.find(name)
            assert known is not None
            if len(process.session.identifiers) or len(known.session.identifiers):
                raise self._violation(f"an identifier of the {name} leaked")
        for name, store, records in (
            ("publisher", self.publisher.store, 0),
            ("subscriber", self.subscriber.store, 1),
            ("broker", self.broker.store, 3),
        ):
            if len(store) != records:
                raise self._violation(f"the {name}'s store holds {len(store)} records, {records} would be right")

    def _violation(self, what: str) -> Violation:
        return Violation(f"{what}; at {self.now:.3f} s of Simulation({self.schedule!r})")


def fails(schedule: Schedule) -> Violation | None:
    """Run a schedule and return the violation, or None."""
    try:
        Simulation(schedule).run()
    except Violation as violation:
        return violation
    return None


def shrink(schedule: Schedule) -> Schedule:
    """Return a smaller schedule that still fails, without the actions that the failure does not need.

    Args:
        schedule: a failing schedule.
    """
    smaller = True
    while smaller:
        smaller = False
        for index in range(len(schedule.actions)):
            candidate = replace(schedule, actions=schedule.actions[:index] + schedule.actions[index + 1 :])
            if fails(candidate) is not None:
                schedule, smaller = candidate, True
                break
    return schedule
