"""The parts of the explored world: a client's process with its program, and the broker's process. Only the wires are
simulated.

A part handles an input completely within its process, and returns the packets sent. It is deterministic and
independent of the other parts, so the explorer runs each pair of state and input only once.

A part also checks the invariants that are visible within one process, at each step.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from math import inf
from types import SimpleNamespace
from typing import Any, cast

from exploration.meaning import Meaning, tokens_of
from mqttws.broker.endings import Endings
from mqttws.broker.handler import Handler
from mqttws.broker.hooks import Peer
from mqttws.broker.limits import Limits
from mqttws.broker.persistence import Persistence
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.codec.connecting import Connect
from mqttws.codec.decoder import Decoder
from mqttws.codec.publishing import Message, PubAck, PubComp, Publish
from mqttws.errors import MQTTError, ProtocolError
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.events import Closed, Delivered, Sent, Subscribed, Unsubscribed
from mqttws.protocol.journal import Journal
from mqttws.protocol.plain import Framing
from mqttws.protocol.server import ServerMachine
from mqttws.protocol.server_connection import ServerConnection
from mqttws.protocol.session import Session
from mqttws.protocol.store import MemoryStore

#: The time of the clock, except when a time-out expires.
NOW = 0.0
LATE = 1e6
KEEP_ALIVE = 60


class Violation(AssertionError):
    """A property was violated; the message says which."""


class Crash(BaseException):
    """The simulated end of the process."""


class Disk(MemoryStore):
    """A store that counts its commits, and can end the process directly after one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = 0  # the number of commits in this turn
        self.crash_after = 0

    def commit(self) -> None:
        """See `Store.commit`."""
        if self._pending:
            if self.crash_after < 0:
                raise Crash
            super().commit()
            self.turn += 1
            if self.turn == self.crash_after:
                raise Crash


@dataclass(frozen=True)
class Program:
    """The steps of a client's program; each may happen at any time.

    Attributes:
        client_id: its client identifier; clients with the same one take over from each other.
        steps: ("publish", topic, qos, retain), ("subscribe", filter, qos), ("unsubscribe", filter) or ("leave",).
        clean_session: the Clean Session flag.
        durable: whether its session is kept in a store.
        once: whether taking a message and committing that is one step.
        will: (topic, payload, QoS, RETAIN); None for none.
        window: the maximum number of messages in flight.
        exact: whether no message of QoS 2 may arrive twice, even after a crash.
        connects: the number of connections it makes; 0 for any number.
        core: whether the client is a whole client core, not only its machine: see `clients_core.py`.
        ordered: whether first copies must arrive in order. Not if the client subscribes while messages are in flight: a
            retained message may then arrive before the second copy of an older one, whose first went to others.
    """

    client_id: str
    steps: tuple[tuple[Any, ...], ...] = ()
    clean_session: bool = False
    durable: bool = True
    once: bool = True
    will: tuple[str, bytes, int, bool] | None = None
    window: int = 2
    exact: bool = True
    connects: int = 0
    ordered: bool = True
    core: bool = False


def check_out(store: MemoryStore | None, data: bytes) -> None:
    """Check that nothing is sent that a crash could undo."""
    if data and store is not None and store._pending:
        raise Violation(f"{len(store._pending)} changes are not safe, and {split(data)[0].hex()} leaves")


def length_of(data: bytes) -> int:
    """Return the length of the packet that begins here; one byte more than is there while it is not known yet."""
    length = shift = 0
    for place in range(1, len(data)):
        length |= (data[place] & 127) << shift
        shift += 7
        if data[place] < 128:
            return place + 1 + length
    return len(data) + 1


def split(data: bytes) -> list[bytes]:
    """Split bytes that are sent together into packets."""
    packets = []
    while data:
        length = length_of(data)
        packets.append(data[:length])
        data = data[length:]
    return packets


class Owners:
    """Checks that no identifier in flight, of one session and direction, is used for another message."""

    def __init__(self) -> None:
        self.of: dict[int, bytes] = {}

    def sent(self, packet: bytes) -> None:
        """Check a packet that is sent."""
        if packet[0] >> 4 != 3:
            return
        (publish,) = Decoder().feed(packet)
        assert isinstance(publish, Publish)
        packet_id = publish.packet_id
        if packet_id is not None and self.of.setdefault(packet_id, publish.payload) != publish.payload:
            raise Violation(f"identifier {packet_id} is in flight, and given to another message")

    def received(self, packets: list[bytes]) -> None:
        """Handle received packets: a final acknowledgement frees its identifier."""
        for packet in packets:
            if packet[0] >> 4 in (4, 7):
                (answer,) = Decoder().feed(packet)
                assert isinstance(answer, (PubAck, PubComp))
                self.of.pop(answer.packet_id, None)

    def done(self, payload: bytes) -> None:
        """Handle the completion of a message."""
        self.of = {packet_id: owner for packet_id, owner in self.of.items() if owner != payload}


class Pieces:
    """Reassembles packets from received pieces."""

    def __init__(self) -> None:
        self.begun = b""

    def add(self, data: bytes) -> list[bytes]:
        """Add a piece and return the packets that it completes."""
        data = self.begun + data
        whole, self.begun = (b"", data) if length_of(data) > len(data) else (data, b"")
        return split(whole)


class Part:
    """The common base of both kinds of process.

    Attributes:
        out: the output of this turn: (client's index, 0 or 1 for its new or old wire, packets, whether it closes).
        store: what survives the process; None for nothing.
    """

    out: list[tuple[int, int, tuple[bytes, ...], bool]]
    store: Disk | None

    def run(self, verb: str, arguments: tuple[Any, ...], crash_after: int = 0) -> int:
        """Handle an input completely.

        Args:
            verb: the name of a method.
            arguments: its arguments.
            crash_after: end the process after this many commits; 0: do not; -1: directly before the first one.

        Returns:
            The number of commits.
        """
        self.out = []
        store = self.store
        if store is not None:
            store.turn, store.crash_after = 0, crash_after
        try:
            getattr(self, verb)(*arguments)
        except Crash:
            self.crash()
        return 0 if store is None else store.turn

    def crash(self) -> None:
        """End the process and restart it."""
        raise NotImplementedError

    def sessions(self) -> Sequence[Session]:
        """Return every session of the process."""
        raise NotImplementedError

    def meaning(self) -> Hashable:
        """Return a value that is equal only for parts in the same state."""
        raise NotImplementedError


class ClientPart(Part):
    """A client's process, and what its program remembers.

    Attributes:
        position: the number of steps the program has done; this and the following survive a crash of the process.
        seen: (payload, QoS, topic) of all messages that the program has taken, in order.
        accepted: the payloads of the program's messages that were acknowledged.
        open: token -> payload of the messages that the process is responsible for.
        asked: token -> the step of each SUBSCRIBE and UNSUBSCRIBE without an answer; if the process ends before,
            the program repeats it.
        names: token -> payload of all messages; a store drops the payload of a message that the peer owns.
    """

    def __init__(self, index: int, program: Program) -> None:
        self.index = index
        self.program = program
        self.store = Disk() if program.durable else None
        self.position = 0
        self.seen: list[tuple[bytes, int, str]] = []
        self.accepted: set[bytes] = set()
        self.published: list[tuple[bytes, int]] = []
        self.names: dict[int, bytes] = {}
        self.connects = 0
        self.boot()

    def boot(self) -> None:
        """Start the process."""
        self.session = Session(self.program.window)
        self.connection: ClientConnection | None = None
        self.inbox: list[Publish] = []
        self.owners = Owners()
        self.open: dict[int, bytes] = {}
        self.sent: dict[int, bytes] = {}
        self.asked: dict[int, int] = {}
        if self.store is not None:
            self.session.keep_in(self.store, self.program.client_id)
            for (token, _, payload, _, _), _, packet_id, _ in Journal(self.store, self.program.client_id).outgoing():
                self.open[token] = payload or self.names[token]
                if packet_id:
                    self.owners.of[packet_id] = self.open[token]

    def sessions(self) -> Sequence[Session]:
        """See `Part.sessions`."""
        return (self.session,)

    def meaning(self) -> Hashable:
        """See `Part.meaning`."""
        client_id = self.program.client_id
        tokens = tokens_of(self.session, self.store, client_id, [*self.open, *self.sent, *self.asked])
        walk = Meaning({client_id: tokens})
        walk._client = client_id
        rank = {token: place for place, token in enumerate(tokens)}
        return (
            self.index,
            walk.of(self.session),
            walk.of(self.connection),
            walk.of(self.inbox),
            walk.of(self.store),
            self.position,
            self.seen_once(),
            tuple(sorted(self.accepted)),
            tuple(self.published),
            tuple((rank[token], payload) for token, payload in self.open.items()),
            tuple((rank[token], payload) for token, payload in self.sent.items()),
            tuple((rank[token], step) for token, step in self.asked.items()),
            tuple((rank[token], payload) for token, payload in self.names.items() if token in rank),
            tuple(sorted(self.owners.of.items())),
            b"" if self.connection is None else self.pieces.begun,
            self.connects,
        )

    def seen_once(self) -> Hashable:
        """Give what the promises ask of the messages taken: which there are, and whether one of QoS 0 or 2 came twice.

        Their order has been checked as they were taken, and a second copy of QoS 1 changes nothing.
        """
        return tuple(
            sorted((*each, min(count, 1 if each[1] == 1 else 2)) for each, count in Counter(self.seen).items())
        )

    def inputs(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return the possible actions of the program."""
        inputs: list[tuple[str, tuple[Any, ...]]] = []
        if self.inbox:
            inputs.append(("take", ()))
        if self.position < len(self.program.steps):
            step = self.program.steps[self.position]
            if step[0] != "leave" or (self.connection is not None and self.connection.connected):
                inputs.append(("step", ()))
        return inputs

    @property
    def over(self) -> bool:
        """Return whether the program makes no more connections."""
        steps, connects = self.program.steps, self.program.connects
        left = bool(steps) and steps[-1][0] == "leave" and self.position == len(steps)
        return left or (connects > 0 and self.connects == connects)

    # The inputs.

    def connect(self) -> None:
        """Start a connection."""
        program = self.program
        if program.connects:
            self.connects += 1
        will = None if program.will is None else Message(*program.will)
        connect = Connect(program.client_id, program.clean_session, KEEP_ALIVE, will)
        self.connection = ClientConnection(ClientMachine(connect, self.session), Framing(), NOW)
        self.pieces = Pieces()
        self._act()

    def deliver(self, data: bytes) -> None:
        """Handle received bytes."""
        assert self.connection is not None
        self.owners.received(self.pieces.add(data))
        self.connection.receive_data(data, NOW)
        self._act()

    def end(self) -> None:
        """Handle the end of the connection."""
        assert self.connection is not None
        self.connection.receive_eof(NOW)
        self._act()

    def time_out(self) -> None:
        """Let the Keep Alive time-out expire."""
        connection = self.connection
        assert connection is not None
        late = LATE
        while self.connection is connection:
            connection.handle_timeout(late)
            self._act()
            late += LATE
            if late > 9 * LATE:
                raise Violation("the client does not notice that its peer is silent")

    def step(self) -> None:
        """Do the next step of the program."""
        verb, *arguments = self.program.steps[self.position]
        self.position += 1
        if verb == "publish":
            topic, qos, retain, *rest = arguments
            payload = rest[0] if rest else b"%d-%d" % (self.index, self.position)
            token = self.session.publish(Message(topic, payload, qos, retain))
            (self.open if qos else self.sent)[token] = self.names[token] = payload
            self.published.append((payload, qos))
        elif verb == "subscribe":
            self.asked[self.session.subscribe([tuple(arguments)])] = self.position - 1
        elif verb == "unsubscribe":
            self.asked[self.session.unsubscribe(arguments)] = self.position - 1
        else:
            assert self.connection is not None
            self.connection.disconnect(NOW)
        self._act()

    def take(self) -> None:
        """Let the program take the next message."""
        publish = self.inbox.pop(0)
        self._check_taken(publish)
        self.seen.append((publish.payload, publish.qos, publish.topic))
        self.session.receiver.acknowledge(publish)
        if self.store is not None and publish.qos == 2 and self.program.once:
            self.store.commit()
        self._act()

    def _check_taken(self, publish: Publish) -> None:
        """Check that QoS 2 arrives once, and that first copies arrive in order, for each publisher, topic and QoS."""
        name = publish.payload.decode()
        publisher, _, number = name.partition("-")
        for payload, qos, _ in self.seen:
            if payload == publish.payload:
                if qos != 1 and self.program.exact and not publish.retain:
                    raise Violation(f"message {name} of QoS {qos} is seen twice")
                return
        if not self.program.ordered:
            return
        for payload, qos, topic in self.seen:
            before, _, other = payload.decode().partition("-")
            if (before, qos, topic) == (publisher, publish.qos, publish.topic) and int(other) > int(number):
                raise Violation(f"message {name} of QoS {qos} comes after {payload.decode()}")

    def crash(self) -> None:
        """See `Part.crash`."""
        if self.connection is not None:
            self.out.append((self.index, 0, (), True))
        if self.store is not None:
            self.store.crash()
            self.store.crash_after = 0
        self.position = min([self.position, *self.asked.values()])
        self.boot()

    def _act(self) -> None:
        """Handle the events and send."""
        connection = self.connection
        if connection is None:
            return
        packets: list[bytes] = []
        closed: Closed | None = None
        try:
            while True:
                for event in connection.events():
                    if isinstance(event, Publish):
                        self.inbox.append(event)
                    elif isinstance(event, Delivered):
                        self._delivered(event.tokens)
                    elif isinstance(event, Sent):
                        for token in [token for token in self.sent if token <= event.token]:
                            del self.sent[token]
                    elif isinstance(event, (Subscribed, Unsubscribed)):
                        self.asked.pop(event.token or 0, None)
                    elif isinstance(event, Closed):
                        closed = event
                data = connection.data_to_send(NOW)
                if not data:
                    break
                check_out(self.store, data)
                for packet in split(data):
                    self.owners.sent(packet)
                    packets.append(packet)
        except Crash:
            if packets:
                self.out.append((self.index, 0, tuple(packets), False))
            raise
        if closed is not None and isinstance(closed.error, ProtocolError):
            raise Violation(f"client {self.index} found a fault in its peer: {closed.error}")
        finished = connection.finished
        if finished:
            self.connection = None
        if packets or finished:
            self.out.append((self.index, 0, tuple(packets), finished))
        if self.session.sender.in_flight > self.program.window:
            raise Violation(f"{self.session.sender.in_flight} messages are in flight, {self.program.window} may be")

    def _delivered(self, tokens: list[int]) -> None:
        for token in tokens:
            if token not in self.open:
                raise Violation(f"token {token} is delivered, which nothing waits for")
            payload = self.open.pop(token)
            self.accepted.add(payload)
            self.owners.done(payload)


class _Clock:
    def time(self) -> float:
        return NOW


_CLOCK = _Clock()


class _Turns:
    """The scheduler: the broker's part does the deferred work at the end of each input."""

    def defer(self, work: object) -> None:
        """See `Turns.defer`."""


class Hub(SimpleNamespace):
    """The part of the broker's hub that a handler uses."""


class End:
    """The broker's end of a wire, and the outlet of its client."""

    def __init__(self, broker: BrokerPart, index: int, slot: int) -> None:
        self.index = index
        self.slot = slot
        self.broker = broker
        self.pieces = Pieces()
        self.connection = ServerConnection(ServerMachine(), Framing(), NOW)
        peer = Peer("mqtt", ("", 0))
        self.handler = Handler(cast(Any, broker.hub), cast(Any, self), self.connection, peer)

    def act(self) -> None:
        """Handle the events."""
        self.handler.take_events(NOW)
        error = self.connection.machine.error
        if isinstance(error, ProtocolError):
            raise Violation(f"the broker found a fault in client {self.index}: {error}")
        self.wake()

    def wake(self) -> None:
        """See `Outlet.wake`."""
        if self not in self.broker.due:
            self.broker.due.append(self)

    def send(self, packets: bytes) -> bool:
        """See `Outlet.send`."""
        self.connection.machine.send_encoded(packets, True)
        self.wake()
        return True

    def end(self, error: MQTTError) -> None:
        """See `Outlet.end`."""
        self.connection.close(error, NOW)
        self.act()

    @property
    def held(self) -> int:
        """See `Outlet.held`."""
        return 0

    left = False  # see `Line.left`

    def accepted(self) -> None:
        """See `Line.accepted`."""

    def send_retained(self, until: float) -> bool:
        """Send the retained messages of a new subscription."""
        subscriber = self.handler.subscriber
        router = self.broker.router
        while subscriber is not None and (message := router.next_retained(subscriber)) is not None:
            if message.qos:
                router.enqueue(subscriber, message)
            else:
                packet = Publish(message.topic, message.payload, 0, True).encode()
                self.connection.machine.send_encoded(packet, True)
        return False


class BrokerPart(Part):
    """The broker's process.

    Args:
        durable: whether it has a store.
        window: the maximum number of messages in flight to one client.
        expiry: seconds for which it keeps sessions of disconnected clients; None for ever.
    """

    def __init__(self, durable: bool = True, window: int = 2, expiry: float | None = None) -> None:
        self.store = Disk() if durable else None
        self.limits = Limits(max_in_flight=window, session_expiry=expiry)
        self.boot()

    def boot(self) -> None:
        """Start the process."""
        self.ends: dict[tuple[int, int], End] = {}
        self.due: list[End] = []
        self.owners: dict[str, Owners] = {}
        persistence = None if self.store is None else Persistence(self.store)
        self.router = router = Router(self.limits, persistence=persistence)
        self.registry = Registry(router)
        self.registry.recover(NOW)
        self.hub = Hub(
            loop=_CLOCK, now=_CLOCK.time, limits=router.limits, hooks=router.hooks, metrics=router.metrics,
            router=router, registry=self.registry, paths=("/mqtt",), allowed_origins=(), stopping=False,
            notices=router.notices, endings=Endings(router, cast(Any, _Turns())),
        )  # fmt: skip

    def sessions(self) -> Sequence[Session]:
        """See `Part.sessions`."""
        return [subscriber.session for subscriber in self.registry._subscribers.values()]

    def meaning(self) -> Hashable:
        """See `Part.meaning`."""
        known = self.registry._subscribers
        tokens = {name: tokens_of(each.session, self.store, name, []) for name, each in known.items()}
        walk = Meaning(tokens)
        return (
            tuple((name, walk.of(known[name])) for name in sorted(known)),
            tuple((key, walk.of(self.ends[key])) for key in sorted(self.ends)),
            walk.of(self.registry),
            walk.of(self.router),
            walk.of(self.store),
            tuple((name, tuple(sorted(owners.of.items()))) for name, owners in sorted(self.owners.items())),
        )

    # The inputs.

    def open(self, index: int) -> None:
        """Accept a connection; if the previous one is still open, it becomes the old one."""
        before = self.ends.pop((index, 0), None)
        if before is not None:
            before.slot = 1
            self.ends[index, 1] = before
        self.ends[index, 0] = End(self, index, 0)

    def deliver(self, index: int, slot: int, data: bytes) -> None:
        """Handle received bytes."""
        end = self.ends[index, slot]
        self._owners(end).received(end.pieces.add(data))
        end.connection.receive_data(data, NOW)
        end.act()
        self._flush()

    def end(self, index: int, slot: int) -> None:
        """Handle the end of a connection."""
        end = self.ends[index, slot]
        end.connection.receive_eof(NOW)
        end.act()
        self._flush()

    def time_out(self, index: int, slot: int) -> None:
        """Let the Keep Alive time-out expire."""
        end = self.ends[index, slot]
        end.connection.handle_timeout(LATE)
        end.connection.handle_timeout(2 * LATE)
        end.act()
        self._flush()

    def expire(self) -> None:
        """Expire the sessions of disconnected clients."""
        expiry = self.registry.expire(LATE)
        if expiry is not None:
            assert not expiry.work(inf)
        for name in [name for name in self.owners if self.registry.find(name) is None]:
            del self.owners[name]
        if self.store is not None:
            self.store.commit()

    def crash(self) -> None:
        """See `Part.crash`."""
        for index, slot in self.ends:
            self.out.append((index, slot, (), True))
        if self.store is not None:
            self.store.crash()
            self.store.crash_after = 0
        self.boot()

    def _owners(self, end: End) -> Owners:
        return self.owners.setdefault(end.handler.peer.client_id, Owners())

    def _flush(self) -> None:
        """End the turn, as the hub does."""
        self.hub.endings.complete_all()
        due, self.due = self.due, []
        if self.store is not None:
            for end in due:
                end.connection.machine.prepare()
            self.store.commit()
        for end in due:
            packets: list[bytes] = []
            try:
                while data := end.connection.data_to_send(NOW):
                    check_out(self.store, data)
                    for packet in split(data):
                        if packet[0] >> 4 == 2 and not packet[2]:  # a new session
                            self.owners[end.handler.peer.client_id] = Owners()
                        self._owners(end).sent(packet)
                        packets.append(packet)
            finally:
                finished = end.connection.finished
                if packets or finished:
                    self.out.append((end.index, end.slot, tuple(packets), finished))
            if finished:
                self.ends.pop((end.index, end.slot), None)
        self.due.clear()
