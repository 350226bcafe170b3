"""A publisher, a broker and a subscriber with durable sessions, in one deterministic world full of faults.

The machines, sessions, router and stores are the real ones; the clock, the network and the ends of processes are not.
Everything that happens follows from a `Schedule`: what is published when, which line is cut or frozen, whose process is
killed; and its seed decides all the rest, from each delay to the byte at which a line breaks. So every run can be
replayed, and one that fails can be shrunk::

    schedule = Schedule.of(4711)
    Simulation(schedule).run()          # raises Violation
    print(shrink(schedule))             # the same failure with fewer faults; run it again as it stands there

What is promised, and checked in each run: of QoS 1 nothing that was accepted is lost, of QoS 2 everything is seen
exactly once, first copies come in the order of their publishing, no identifier in flight is given to another message,
and at rest neither sessions nor stores hold anything of a message any more.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from mqttws.broker.archive import Archive
from mqttws.broker.conversation import Conversation
from mqttws.broker.hooks import Peer
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.codec.connecting import Connect
from mqttws.codec.decoder import Decoder
from mqttws.codec.publishing import Message, PubAck, PubComp, Publish
from mqttws.errors import MQTTError, ProtocolError
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection, Connection, ServerConnection
from mqttws.protocol.events import Closed, Connected, Delivered, Subscribed
from mqttws.protocol.framing import ClientWebSocket, Framing, ServerWebSocket
from mqttws.protocol.server import ServerMachine
from mqttws.protocol.session import Session
from mqttws.protocol.store import MemoryStore

#: Seconds of the world's time: until when the schedule's actions happen, and by when it must have come to rest.
SPAN = 12.0
PATIENCE = 600.0
#: Short, so that a frozen line is noticed within the world's span. Seconds.
KEEP_ALIVE = 4
#: Who can fail.
PROCESSES = ("publisher", "broker", "subscriber")


class Violation(AssertionError):
    """A promise was broken. The message says which, and by which schedule."""


@dataclass(frozen=True)
class Action:
    """What happens from outside.

    Attributes:
        at: seconds.
        verb: "publish", "cut", "freeze" or "kill".
        subject: for "publish" the number of the message, else the process, or the client whose line it is.
        qos: of the message.
        safe: whether the publisher makes the message safe at once, and counts it as accepted from then on.
    """

    at: float
    verb: str
    subject: int | str
    qos: int = 0
    safe: bool = False


@dataclass(frozen=True)
class Schedule:
    """All that a run depends on.

    Attributes:
        seed: decides what the actions leave open.
        actions: sorted by time.
        window: how many messages may be in flight.
        websocket: whether the lines are WebSockets.
    """

    seed: int
    actions: tuple[Action, ...]
    window: int
    websocket: bool = False

    @classmethod
    def of(cls, seed: int) -> Schedule:
        """Make the schedule of a seed: 3 to 8 messages, 1 to 5 faults."""
        random = Random(seed)
        actions = [
            Action(random.random() * SPAN, "publish", number, random.choice((0, 1, 1, 2, 2, 2)), random.random() < 0.5)
            for number in range(random.randint(3, 8))
        ]
        times = sorted(action.at for action in actions)
        actions = [replace(action, at=at) for action, at in zip(actions, times, strict=True)]
        for _ in range(random.randint(1, 5)):
            verb = random.choice(("cut", "cut", "freeze", "kill", "kill"))
            subject = random.choice(PROCESSES if verb == "kill" else ("publisher", "subscriber"))
            # Most faults strike when something is under way.
            at = random.choice(times) + random.random() * 0.3 if random.random() < 0.8 else random.random() * SPAN
            actions.append(Action(at, verb, subject))
        actions.sort(key=lambda action: action.at)
        return cls(seed, tuple(actions), random.choice((1, 2, 10)), random.random() < 0.1)


class _Line:
    """A connection's two directions. What is sent arrives later, in pieces; what is cut off never arrives."""

    def __init__(self, world: Simulation, client: _Client, server: _ServerEnd) -> None:
        self.ends: dict[bool, _End | None] = {True: client.end, False: server}  # by whether it is the client's
        self.frozen = False
        self._world = world
        self._arrival = {True: 0.0, False: 0.0}  # of the last piece so far, by who is to get it
        self._cut_at: dict[bool, float] = {}  # from when on nothing arrives

    def send(self, data: bytes, to_client: bool) -> None:
        """Send bytes to one of the ends."""
        random = self._world.random
        if len(data) > 1 and random.random() < 0.3:
            middle = random.randrange(1, len(data))
            pieces: tuple[bytes, ...] = (data[:middle], data[middle:])
        else:
            pieces = (data,)
        for piece in pieces:
            self._later(partial(self._arrive, piece, to_client), to_client)

    def hang_up(self, from_client: bool) -> None:
        """Close one end; the other hears of it later, or never where the line is frozen."""
        self.ends[from_client] = None
        self._later(partial(self._arrive, b"", not from_client), not from_client)

    def cut(self) -> None:
        """Break in two: each end gets some of what is under way to it, and hears of the end at a time of its own."""
        now, random = self._world.now, self._world.random
        for to_client in (True, False):
            left = max(0.0, self._arrival[to_client] - now)
            self._cut_at[to_client] = now + random.random() * left
            self._world.at(now + left + random.choice((0.0, 0.5, 3.0)), partial(self._end, to_client))

    def _later(self, arrive: Callable[[], None], to_client: bool) -> None:
        world = self._world
        delay = world.random.random() * (0.05 if world.random.random() < 0.8 else 1.0)
        due = self._arrival[to_client] = max(self._arrival[to_client], world.now + delay)
        world.at(due, arrive)

    def _arrive(self, data: bytes, to_client: bool) -> None:
        if self.frozen or self._world.now > self._cut_at.get(to_client, self._world.now):
            return
        if not data:
            self._end(to_client)
        elif (end := self.ends[to_client]) is not None:
            end.receive(data)

    def _end(self, to_client: bool) -> None:
        end = self.ends[to_client]
        if end is not None and not self.frozen:
            self._cut_at[to_client] = -1.0
            end.hear_end()


class _End:
    """What moves the bytes of one end of a line, as a driver does."""

    def __init__(self, world: Simulation, name: str, connection: Connection[Any], from_client: bool) -> None:
        self.name = name
        self.connection = connection
        self.line: _Line | None = None
        self._world = world
        self._from_client = from_client
        self._timer = 0.0
        self._eof = False

    def receive(self, data: bytes) -> None:
        """Take bytes."""
        self.connection.receive_data(data, self._world.now)
        self.handled()

    def hear_end(self) -> None:
        """Take the end of the line."""
        self._eof = True
        self.connection.receive_eof(self._world.now)
        self.handled()

    def handled(self) -> None:
        """Act on what has happened."""
        raise NotImplementedError

    def write(self) -> None:
        """Send what there is to send; hang up when all is said."""
        line, world = self.line, self._world
        if line is None:
            return
        while data := self.connection.data_to_send(world.now):
            world.watch(self, data)
            if not self._eof:
                line.send(data, not self._from_client)
        if self.connection.finished:
            self.vanish()
            return
        deadline = self.connection.next_deadline()
        if deadline is not None and deadline != self._timer:
            self._timer = deadline
            world.at(deadline, partial(self._on_timer, deadline))

    def vanish(self) -> None:
        """Let go of the line."""
        line, self.line = self.line, None
        if line is not None:
            line.hang_up(self._from_client)

    def _on_timer(self, deadline: float) -> None:
        if deadline == self._timer and self.line is not None:
            self._timer = 0.0
            self.connection.handle_timeout(self._world.now)
            self.handled()


class _ClientEnd(_End):
    def __init__(self, client: _Client, connection: ClientConnection) -> None:
        super().__init__(client.world, client.name, connection, True)
        self._client = client

    def handled(self) -> None:
        self._client.act()


class _ServerEnd(_End):
    """The server's end, and the outlet of its client."""

    def __init__(self, broker: _Broker, name: str) -> None:
        framing = ServerWebSocket() if broker.world.schedule.websocket else Framing()
        connection = ServerConnection(ServerMachine(), framing, broker.world.now)
        super().__init__(broker.world, name, connection, False)
        self._broker = broker
        peer = Peer("ws" if broker.world.schedule.websocket else "mqtt", ("", 0))
        self.conversation = Conversation(broker.hub, cast(Any, self), connection, peer)

    def handled(self) -> None:
        self.conversation.take_events(self._world.now)
        self._world.check_closed("broker", self.connection.machine.error)
        self.wake()

    def wake(self) -> None:
        """See `Outlet.wake`."""
        self._broker.soon(self)

    def send(self, packet: bytes) -> bool:
        """See `Outlet.send`."""
        cast(ServerConnection, self.connection).machine.send_encoded(packet, True)
        self.wake()
        return True

    def end(self, error: MQTTError) -> None:
        """See `Outlet.end`."""
        self.connection.close(error, self._world.now)
        self.handled()

    def bring_retained(self) -> None:
        """There are none in this world."""


class _Broker:
    """The broker's process."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.store = MemoryStore()
        self.up = False
        self.boot()

    def boot(self) -> None:
        """Start the process."""
        self.up = True
        self.ends: list[_ServerEnd] = []
        self._due: list[_ServerEnd] = []
        self.router = Router(archive=Archive(self.store))
        self.registry = Registry(self.router)
        self.registry.recover(self.world.now)
        loop = SimpleNamespace(time=lambda: self.world.now)
        router = self.router
        self.hub = cast(
            Any,
            SimpleNamespace(
                loop=loop, limits=router.limits, hooks=router.hooks, figures=router.figures, router=router,
                registry=self.registry, paths=("/mqtt",), allowed_origins=(), stopping=False,
            ),
        )  # fmt: skip

    def kill(self) -> None:
        """End the process at once."""
        self.up = False
        self.store.crash()
        for end in self.ends:
            end.vanish()

    def soon(self, end: _ServerEnd) -> None:
        """Let an end write when this turn is over."""
        if not self._due:
            self.world.at(self.world.now + self.world.random.random() * 0.01, partial(self._flush, self._due))
        if end not in self._due:
            self._due.append(end)

    def _flush(self, due: list[_ServerEnd]) -> None:
        if due is not self._due or not self.up:
            return  # of a process that has ended
        self._due = []
        for end in due:
            end.connection.machine.prepare()
        self.store.commit()
        for end in due:
            end.write()


class _Client:
    """A client's process, and what its program remembers by itself."""

    def __init__(self, world: Simulation, name: str) -> None:
        self.world = world
        self.name = name
        self.store = MemoryStore()
        self.end: _ClientEnd | None = None
        self.ready = False
        self._busy_until = 0.0  # the program takes one message after the other
        self.boot()

    def boot(self) -> None:
        """Start the process."""
        self.up = True
        self.numbers: dict[int, int] = {}  # token -> number of the message
        self.session = Session(self.world.schedule.window)
        self.session.keep_in(self.store, self.name)
        if self.name == "subscriber" and not self.session.subscriptions:
            self.session.subscribe([("t/#", 2)])
        self.connect(self.session)

    def kill(self) -> None:
        """End the process at once."""
        self.up = False
        self.store.crash()
        self.session = Session()
        if self.end is not None:
            self.end.vanish()
            self.end = None

    def connect(self, session: Session) -> None:
        """Try to connect."""
        world = self.world
        if session is not self.session or not self.up:
            return  # of a process that has ended
        if not world.broker.up:
            self._connect_later()
            return
        machine = ClientMachine(Connect(self.name, False, KEEP_ALIVE), session)
        framing = ClientWebSocket("broker", "/mqtt") if world.schedule.websocket else Framing()
        connection = ClientConnection(machine, framing, world.now)
        self.end = _ClientEnd(self, connection)
        server = _ServerEnd(world.broker, self.name)
        world.broker.ends.append(server)
        self.end.line = server.line = _Line(world, self, server)
        self.act()
        server.handled()

    def _connect_later(self) -> None:
        world = self.world
        world.at(world.now + world.random.random(), partial(self.connect, self.session))

    def act(self) -> None:
        """Act on what has happened, and send."""
        end, world = self.end, self.world
        if end is None:
            return
        end.write()
        for event in end.connection.events():
            if isinstance(event, Publish):
                self._busy_until = max(self._busy_until, world.now + world.random.choice((0.0, 0.0, 0.01, 2.0)))
                world.at(self._busy_until, partial(self._take, self.session, event))
            elif isinstance(event, Delivered):
                number = self.numbers.pop(event.token, None)
                if number is not None:
                    world.accepted.add(number)
            elif isinstance(event, (Connected, Subscribed)):
                self.ready = not self.session.requests and not self.session.requests_sent
            elif isinstance(event, Closed):
                world.check_closed(self.name, event.error)
                self._connect_later()
                break
        end.write()

    def _take(self, session: Session, publish: Publish) -> None:
        """Be the program that is given a message. Taking it and making that safe is one step."""
        if session is not self.session:
            return
        self.world.seen.append((int(publish.payload), publish.qos))
        session.receiver.acknowledge(publish)
        if publish.qos == 2:
            self.store.commit()
        self.act()

    def publish(self, action: Action) -> None:
        """Be the program that publishes; while its process is down, as soon as it is up."""
        world = self.world
        if not self.up:
            world.at(world.now + 1.0, partial(self.publish, action))
            return
        number = cast(int, action.subject)
        token = self.session.publish(Message(f"t/{action.qos}", str(number), action.qos))
        self.numbers[token] = number
        world.published.append((number, action.qos))
        if action.safe and action.qos:
            self.store.commit()
            world.accepted.add(number)
        # Between the call and the network's turn the process may end.
        world.at(world.now + world.random.random() * 0.01, self.act)


class Simulation:
    """One world, for one run.

    Args:
        schedule: decides everything.

    Attributes:
        now: the world's time in seconds.
        accepted: the numbers of the messages that the publisher was told are safe or delivered.
        published: (number, QoS) of all that its program tried, in order.
        seen: (number, QoS) of all that the subscriber's program was given, in order.
        steps: how many things have happened.
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
        self._decoders: dict[_End, Decoder] = {}
        self._in_flight: dict[tuple[str, bool], dict[int, bytes]] = {}
        self.broker = _Broker(self)
        self.publisher = _Client(self, "publisher")
        self.subscriber = _Client(self, "subscriber")

    def at(self, due: float, action: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._count += 1
        heapq.heappush(self._events, (due, self._count, action))

    def run(self) -> Simulation:
        """Let everything happen, until the world is at rest. Returns the simulation itself.

        Raises:
            Violation: a promise was broken.
        """
        while not (self.publisher.ready and self.subscriber.ready):
            self._step()
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

    # What is watched and checked.

    def watch(self, end: _End, data: bytes) -> None:
        """Look at what an end sends: no identifier in flight may change its owner."""
        if self.schedule.websocket:
            return
        decoder = self._decoders.get(end)
        if decoder is None:
            decoder = self._decoders[end] = Decoder()
        client_sends = isinstance(end, _ClientEnd)
        for packet in decoder.feed(data):
            if isinstance(packet, Publish) and packet.packet_id is not None:
                owners = self._in_flight.setdefault((end.name, client_sends), {})
                if owners.setdefault(packet.packet_id, packet.payload) != packet.payload:
                    raise self._violation(f"identifier {packet.packet_id} is in flight, and given to another message")
            elif isinstance(packet, (PubAck, PubComp)):
                self._in_flight.get((end.name, not client_sends), {}).pop(packet.packet_id, None)

    def check_closed(self, name: str, error: MQTTError | None) -> None:
        """Look at why a connection ended: neither side may ever find a fault in the other."""
        if isinstance(error, ProtocolError):
            raise self._violation(f"the {name} found a fault in its peer: {error}")

    def _at_rest(self) -> bool:
        broker, registry = self.broker, self.broker.registry
        if not (broker.up and self.publisher.up and self.subscriber.up):
            return False
        if len(self.published) < sum(action.verb == "publish" for action in self.schedule.actions):
            return False
        sessions = [self.publisher.session, self.subscriber.session]
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
    """Run a schedule. Returns the promise that it breaks, if it breaks one."""
    try:
        Simulation(schedule).run()
    except Violation as violation:
        return violation
    return None


def shrink(schedule: Schedule) -> Schedule:
    """Find a smaller schedule that still breaks a promise: without any action that the failure does not need.

    Args:
        schedule: one that fails.
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
