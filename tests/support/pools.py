"""A pool without sockets, with a simulated server whose answers may overtake messages, in a random order.

Each connection has a queue at the server, a window of messages in flight, and a channel in each direction.
`World.step` runs one random action: a request arrives, a message is sent, an answer is received, a reader takes a
message, the program acknowledges one. So every order occurs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from random import Random
from typing import Any

from mqttws import ConnectBudget, Publish, State, topic_matches
from pubsub.pool.core import PoolCore
from pubsub.pool.part import Part
from pubsub.pool.sizing import Connections
from pubsub.topics import split_share


class Link:
    """A client of the pool, with the server side of its connection."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        self.client_id: str = options["client_id"]
        self.will = options["will"]
        self.on_state: Callable[[State], object] = options["on_state"]
        self.filters: dict[str, int] = {}
        self.requests: deque[Callable[[], None]] = deque()  # in transit to the server
        self.queue: deque[Publish] = deque()  # at the server
        self.in_flight = 0
        self.batch: list[Publish] = []  # to be written after the answers of this turn
        self.way: deque[Publish | Callable[[], None]] = deque()  # in transit to the client
        self.inbox: deque[Publish] = deque()
        self.came: deque[Publish] = deque()  # received, not yet acknowledged to the server
        self.done: set[int] = set()  # acknowledged by the program
        self.received = 0
        self.pending = self.dropped = self.expired = 0
        self.is_open = False
        self.subscribed: list[str] = []

    # The methods of a client that a pool calls.

    def subscribe_nowait(self, topic_filters: Sequence[tuple[str, int]]) -> Future[list[int]]:
        answer: Future[list[int]] = Future()

        def arrive() -> None:
            self.filters.update(topic_filters)
            self.subscribed += [name for name, _ in topic_filters]
            self.answer(lambda: answer.set_result([qos for _, qos in topic_filters]))

        self.requests.append(arrive)
        return answer

    def unsubscribe_nowait(self, topic_filters: Sequence[str]) -> Future[None]:
        answer: Future[None] = Future()

        def arrive() -> None:
            for name in topic_filters:
                self.filters.pop(name, None)
            self.answer(lambda: answer.set_result(None))

        self.requests.append(arrive)
        return answer

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge in the order of arrival, as a client must."""

        def arrive() -> None:
            self.in_flight -= 1
            self.send()

        self.done.add(id(publish))
        while self.came and id(self.came[0]) in self.done:
            self.done.discard(id(self.came.popleft()))
            self.requests.append(arrive)

    def publish_nowait(
        self, topic: str, payload: bytes, qos: int, retain: bool, *, expire_after: float | None
    ) -> Future[None]:
        answer: Future[None] = Future()
        self.pending += 1

        def arrive() -> None:
            self.world.route(topic, payload)
            self.answer(done)

        def done() -> None:
            self.pending -= 1
            answer.set_result(None)

        self.requests.append(arrive)
        return answer

    def withdraw(self, future: Any) -> bool:
        return False

    # The actions.

    def choices(self) -> list[Callable[[], None]]:
        """Return the possible actions of this link."""
        if not self.is_open:
            return []
        found: list[Callable[[], None]] = []
        if self.requests:
            found.append(lambda: self.requests.popleft()())
        if self.batch:
            found.append(self._write)
        if self.way:
            found.append(self._take)
        if self.inbox:
            found.append(self._read)
        return found

    def send(self) -> None:
        """Send as many messages as the window allows. A server does so as soon as it can."""
        while self.queue and self.in_flight < self.world.window:
            self.in_flight += 1
            self.batch.append(self.queue.popleft())

    def answer(self, answer: Callable[[], None]) -> None:
        """Send an answer. It is written before the messages of the same turn."""
        self.way.append(answer)
        self._write()

    def _write(self) -> None:
        self.way.extend(self.batch)
        self.batch.clear()

    def _take(self) -> None:
        first = self.way.popleft()
        if isinstance(first, Publish):
            self.inbox.append(first)
            self.came.append(first)
            self.received += 1
        else:
            first()

    def _read(self) -> None:
        part = next(part for part in self.world.pool._parts if part.client is self)
        if self.world.pool.took(part, self.inbox[0]) is None:
            self.inbox.popleft()


class World:
    """A server, and the runtime of a pool."""

    def __init__(self, random: Random, connections: Connections, most_filters: int | None = None) -> None:
        self.random = random
        self.window = random.choice((10, 20, 100))
        self.links: list[Link] = []
        self.soon: list[Callable[[], object]] = []
        self.put: deque[Publish] = deque()
        self.delivered: dict[str, list[int]] = {}
        self.gone: list[Part] = []
        self.pool = Pool(self, connections, most_filters)

    def make(self, **options: Any) -> Link:
        self.links.append(Link(self, **options))
        return self.links[-1]

    def route(self, topic: str, payload: bytes) -> None:
        groups: dict[str, list[Link]] = {}
        for link in self.links:
            own = [name for name in link.filters if split_share(name)[0] is None]
            if link.is_open and any(topic_matches(name, topic) for name in own):
                link.queue.append(Publish(topic, payload, 1, packet_id=1))
            for name in link.filters.keys() - own:
                if link.is_open and topic_matches(split_share(name)[1], topic):
                    groups.setdefault(name, []).append(link)
        for members in groups.values():
            self.random.choice(members).queue.append(Publish(topic, payload, 1, packet_id=1))
        for link in self.links:
            link.send()

    def step(self) -> bool:
        """Run one random action. Return whether there was one."""
        choices = [choice for link in self.links for choice in link.choices()]
        if self.soon:
            choices.append(lambda: self.soon.pop(0)())  # type: ignore[func-returns-value, arg-type]
        if self.put:
            choices += [self._consume] * 2
        if not choices:
            return False
        self.random.choice(choices)()
        return True

    def settle(self) -> None:
        """Run actions until none is left."""
        for _ in range(200_000):
            if not self.step():
                return
        raise AssertionError("the simulation does not come to rest")

    def _consume(self) -> None:
        publish = self.put.popleft()
        self.delivered.setdefault(publish.topic, []).append(int(publish.payload))
        self.pool.acknowledge(publish)

    # The runtime.

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        if seconds == 0:
            self.soon.append(function)

    def new_future(self) -> Future[None]:
        return Future()


class Pool(PoolCore):
    """The pool under test, on the simulated server."""

    def __init__(self, world: World, connections: Connections, most_filters: int | None) -> None:
        self.world = world
        options = {"client_id": "name", "will": ("status", b"gone"), "publish_rate": 100.0}
        budget = ConnectBudget(1_000)
        super().__init__(world, world.make, options, connections, 12, most_filters, budget, budget)  # type: ignore[arg-type]
        self._is_open = True
        for part in self._unopened():
            self.start(part)

    def new_answer(self) -> Future[list[int]]:
        return Future()

    def start(self, part: Part) -> None:
        part.is_open = part.client.is_open = True

        def connected() -> None:
            part.client.on_state(State("connected", session_present=False))

        self.world.soon.append(connected)

    def options_of(self, part: Part) -> dict[str, object]:
        return {}

    def retire(self, part: Part) -> None:
        part.client.is_open = False
        self.world.gone.append(part)
        self.gone(part)

    def put(self, publish: Publish) -> None:
        self.world.put.append(publish)

    def end(self) -> None:
        raise AssertionError(f"the pool has ended: {self.error}")
