"""The simulated processes of the broker and of two clients. A crash loses memory, but not stored data."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from mqttws.broker.endings import Endings
from mqttws.broker.handler import Handler
from mqttws.broker.hooks import Peer
from mqttws.broker.persistence import Persistence
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Message, Publish
from mqttws.errors import MQTTError
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.events import Closed, Connected, Delivered, Sent, Subscribed
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.plain import Framing
from mqttws.protocol.server import ServerMachine
from mqttws.protocol.server_connection import ServerConnection
from mqttws.protocol.session import Session
from mqttws.protocol.store import MemoryStore
from simulation.lines import End, Line
from simulation.schedule import Action

if TYPE_CHECKING:
    from simulation.world import Simulation

#: Seconds; short, so that a frozen line is noticed within the simulated time.
KEEP_ALIVE = 4


class ClientEnd(End):
    """The client's end."""

    def __init__(self, client: ClientProcess, connection: ClientConnection) -> None:
        super().__init__(client.world, client.name, connection, True)
        self._client = client

    def handled(self) -> None:
        """See `End.handled`."""
        self._client.act()


class ServerEnd(End):
    """The server's end, and the outlet of its client."""

    def __init__(self, broker: BrokerProcess, name: str) -> None:
        framing = ServerWebSocket() if broker.world.schedule.websocket else Framing()
        connection = ServerConnection(ServerMachine(), framing, broker.world.now)
        super().__init__(broker.world, name, connection, False)
        self._broker = broker
        peer = Peer("ws" if broker.world.schedule.websocket else "mqtt", ("", 0))
        self.handler = Handler(broker.hub, cast(Any, self), connection, peer)

    def handled(self) -> None:
        """See `End.handled`."""
        self.handler.take_events(self._world.now)
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

    @property
    def held(self) -> int:
        """See `Outlet.held`."""
        return 0

    left = False  # see `Line.left`

    def accepted(self) -> None:
        """Do nothing: every client of this simulation is accepted."""

    def send_retained(self, until: float) -> bool:
        """Do nothing: this simulation has no retained messages."""
        return False


class BrokerProcess:
    """The broker's process."""

    def __init__(self, world: Simulation) -> None:
        self.world = world
        self.store = MemoryStore()
        self.up = False
        self.boot()

    def boot(self) -> None:
        """Start the process."""
        self.up = True
        self.ends: list[ServerEnd] = []
        self._due: list[ServerEnd] = []
        self.router = Router(persistence=Persistence(self.store))
        self.registry = Registry(self.router)
        self.registry.recover(self.world.now)
        loop = SimpleNamespace(time=lambda: self.world.now)
        router = self.router
        self.hub = cast(
            Any,
            SimpleNamespace(
                loop=loop, now=loop.time, limits=router.limits, hooks=router.hooks, metrics=router.metrics,
                router=router, registry=self.registry, paths=("/mqtt",), allowed_origins=(), stopping=False,
                notices=router.notices, endings=Endings(router, cast(Any, SimpleNamespace(defer=id))),
            ),
        )  # fmt: skip

    def kill(self) -> None:
        """Kill the process."""
        self.up = False
        self.store.crash()
        for end in self.ends:
            end.vanish()

    def soon(self, end: ServerEnd) -> None:
        """Let an end write at the end of this turn."""
        if not self._due:
            self.world.at(self.world.now + self.world.random.random() * 0.01, partial(self._flush, self._due))
        if end not in self._due:
            self._due.append(end)

    def _flush(self, due: list[ServerEnd]) -> None:
        if due is not self._due or not self.up:
            return  # the process has ended since
        self._due = []
        self.hub.endings.complete_all()
        for end in due:
            end.connection.machine.prepare()
        self.store.commit()
        for end in due:
            end.write()


class ClientProcess:
    """A client's process, and what its program remembers."""

    def __init__(self, world: Simulation, name: str) -> None:
        self.world = world
        self.name = name
        self.store = MemoryStore()
        self.end: ClientEnd | None = None
        self.ready = False
        self._busy_until = 0.0  # the program takes one message after another
        self.boot()

    def boot(self) -> None:
        """Start the process."""
        self.up = True
        # Token -> number of the message, for QoS 1 and 2 and for QoS 0.
        self.numbers: dict[int, int] = {}
        self.unacknowledged: dict[int, int] = {}
        self.session = Session(self.world.schedule.window)
        self.session.keep_in(self.store, self.name)
        if self.name == "subscriber" and not self.session.subscriptions:
            self.session.subscribe([("t/#", 2)])
        self.connect(self.session)

    def kill(self) -> None:
        """Kill the process."""
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
            return  # the process has ended since
        if not world.broker.up:
            self._connect_later()
            return
        machine = ClientMachine(Connect(self.name, False, KEEP_ALIVE), session)
        framing = ClientWebSocket("broker", "/mqtt") if world.schedule.websocket else Framing()
        connection = ClientConnection(machine, framing, world.now)
        self.end = ClientEnd(self, connection)
        server = ServerEnd(world.broker, self.name)
        world.broker.ends.append(server)
        self.end.line = server.line = Line(world, self.end, server)
        self.act()
        server.handled()

    def _connect_later(self) -> None:
        world = self.world
        world.at(world.now + world.random.random(), partial(self.connect, self.session))

    def act(self) -> None:
        """Handle the events and send."""
        end, world = self.end, self.world
        if end is None:
            return
        end.write()
        for event in end.connection.events():
            if isinstance(event, Publish):
                self._busy_until = max(self._busy_until, world.now + world.random.choice((0.0, 0.0, 0.01, 2.0)))
                world.at(self._busy_until, partial(self._take, self.session, event))
            elif isinstance(event, Delivered):
                world.accepted.update(self.numbers.pop(token) for token in event.tokens if token in self.numbers)
            elif isinstance(event, Sent):
                sent = [token for token in self.unacknowledged if token <= event.token]
                world.accepted.update(self.unacknowledged.pop(token) for token in sent)
            elif isinstance(event, (Connected, Subscribed)):
                self.ready = not self.session.requests and not self.session.requests_sent
            elif isinstance(event, Closed):
                world.check_closed(self.name, event.error)
                self._connect_later()
                break
        end.write()

    def _take(self, session: Session, publish: Publish) -> None:
        """Take a message as the program does. Taking and storing it is one step."""
        if session is not self.session:
            return
        self.world.seen.append((int(publish.payload), publish.qos))
        session.receiver.acknowledge(publish)
        if publish.qos == 2:
            self.store.commit()
        self.act()

    def publish(self, action: Action) -> None:
        """Publish as the program does; if its process is down, as soon as it is up."""
        world = self.world
        if not self.up:
            world.at(world.now + 1.0, partial(self.publish, action))
            return
        number = cast(int, action.subject)
        token = self.session.publish(Message(f"t/{action.qos}", str(number), action.qos))
        (self.numbers if action.qos else self.unacknowledged)[token] = number
        world.published.append((number, action.qos))
        if action.safe and action.qos:
            self.store.commit()
            world.accepted.add(number)
        # The process may end between the call and the network's turn.
        world.at(world.now + world.random.random() * 0.01, self.act)
