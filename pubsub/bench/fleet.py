"""The connections of a run: opened at the requested rate, monitored, and closed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import mqttws
from mqttws.aio import Client
from pubsub.bench.plan import ALL, HEADER, Plan
from pubsub.bench.workers import Publisher, Subscriber, Tally

#: How many connections are opened at the same time.
AT_ONCE = 100
#: After how many failures in a row the others are not tried: a silent server would be waited for again and again.
MOST_FAILURES = 100
#: Seconds that closing may take.
CLOSE_TIMEOUT = 5.0

MakeClient = Callable[..., Client]


class Connections:
    """What became of the connections.

    Attributes:
        made: How many were.
        failed: How many failed, for whatever reason.
        refused: Of those, how many the server refused.
        rejected: Subscribers whose subscription the server rejected.
        lowered: Subscribers that were granted a lower QoS than requested.
        lost: How often one ended that was not to.
        reconnected: How often one was made again.
        ended: Clients that gave up.
        first_error: Why the first one failed.
    """

    def __init__(self) -> None:
        self.made = self.failed = self.refused = self.rejected = self.lowered = 0
        self.lost = self.reconnected = self.ended = 0
        self.first_error: Exception | None = None

    @property
    def standing(self) -> int:
        """How many stand now."""
        return self.made - self.lost + self.reconnected


class Watch:
    """Counts what happens to a connection that stood: the `on_state` of one client.

    Args:
        connections: To count in.
        tally: To count reasons in.
    """

    def __init__(self, connections: Connections, tally: Tally) -> None:
        self._connections = connections
        self._tally = tally
        self._stood = self._stands = False

    def __call__(self, state: mqttws.State) -> None:
        """Take a state."""
        if state.name == "connected":
            self._connections.reconnected += self._stood
            self._stood = self._stands = True
        elif state.error is not None and self._stood:  # a client that was closed has no error
            if self._stands:
                self._stands = False
                self._connections.lost += 1
                self._tally.blame(state.error)
            self._connections.ended += state.name == "disconnected"


class Fleet:
    """The clients of a run.

    Args:
        plan: Of the run.
        make_client: Makes a client, which is not open, with the options that it is given.
        tally: To count in.
        clock: Returns the time in nanoseconds.

    Attributes:
        publishers: Those that are connected.
        subscribers: Those that are connected and have subscribed.
        connections: What became of them.
    """

    def __init__(self, plan: Plan, make_client: MakeClient, tally: Tally, clock: Callable[[], int]) -> None:
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.connections = Connections()
        self._plan = plan
        self._make_client = make_client
        self._tally = tally
        self._clock = clock
        self._clients: dict[str, list[Client]] = {"s": [], "p": [], "c": []}
        self._publishing: dict[int, Client] = {}
        self._failures = 0  # in a row
        self._padding = os.urandom(plan.size - HEADER.size)  # a server that compresses gains nothing

    async def connect(self) -> None:
        """Make all connections. One that fails is counted, and not tried again; too many in a row end it."""
        numbers = {"s": self._plan.subscribers, "p": self._plan.publishers, "c": self._plan.idle}
        jobs = enumerate((role, number) for role, count in numbers.items() for number in range(count))
        start = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, self._plan.clients)):
                group.create_task(self._work(jobs, start))

    async def _work(self, jobs: Iterator[tuple[int, tuple[str, int]]], start: float) -> None:
        """Make one connection after the other, each when it is due."""
        for index, (role, number) in jobs:
            if self._failures >= MOST_FAILURES:
                return
            if self._plan.connect_rate is not None:
                due = start + index / self._plan.connect_rate
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            try:
                await self._join(role, number)
            except (mqttws.MQTTError, OSError) as error:  # a TimeoutError is an OSError
                self._tally.blame(error)
                if self.connections.first_error is None:
                    self.connections.first_error = error

    async def _join(self, role: str, number: int) -> None:
        """Connect one client, and have it subscribe if it is to."""
        plan, connections = self._plan, self.connections
        options: dict[str, Any] = {"on_state": Watch(connections, self._tally)}
        subscriber = None
        if role == "s":
            subscriber = Subscriber(plan.heard_by(number), self._tally, self._clock, plan)
            options["on_message"] = subscriber.take
        client = self._make_client(client_id=plan.client_id(role, number), **options)
        began = self._clock()
        try:
            await client.open()
        except (mqttws.MQTTError, OSError) as error:
            connections.failed += 1
            self._failures += 1
            connections.refused += isinstance(error, (mqttws.ConnectionRefused, mqttws.HandshakeRejected))
            raise
        connections.made += 1
        self._failures = 0
        self._tally.connecting.record(self._clock() - began)
        self._clients[role].append(client)
        if subscriber is not None:
            await self._subscribe(client, plan.filters_of(number))
            self.subscribers.append(subscriber)
        elif role == "p":
            self._publishing[number] = client
            self.publishers.append(Publisher(number, client, self._tally, self._clock, plan, self._padding))

    async def _subscribe(self, client: Client, topic_filters: list[str]) -> None:
        if not topic_filters:
            return
        try:
            codes = await client.subscribe(topic_filters, self._plan.qos)
            for topic_filter, code in zip(topic_filters, codes, strict=True):
                if code == 128:
                    raise mqttws.SubscribeRejected(topic_filter)
        except (mqttws.MQTTError, OSError):
            self.connections.rejected += 1
            raise
        self.connections.lowered += min(codes) < self._plan.qos

    def listeners(self) -> dict[int, int]:
        """Publisher -> how many subscribers are to get its messages."""
        if self._plan.spread == ALL:
            return {publisher.number: len(self.subscribers) for publisher in self.publishers}
        counts = {publisher.number: 0 for publisher in self.publishers}
        for subscriber in self.subscribers:
            for number in subscriber.heard:
                if number in counts:
                    counts[number] += 1
        return counts

    async def remove_retained(self) -> None:
        """Have the server forget the retained messages of this run; what cannot be removed is counted as a reason."""
        clients = {self._plan.topic_of(number): client for number, client in self._publishing.items()}
        removals = [client.publish(topic, b"", 1, True, timeout=CLOSE_TIMEOUT) for topic, client in clients.items()]
        for outcome in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(outcome, Exception):
                self._tally.blame(f"a retained message could not be removed: {outcome}")

    async def close(self, roles: Iterable[str] = "spc") -> None:
        """Close the clients of some roles: subscribers, publishers, idle ones."""
        clients = [client for role in roles for client in self._clients[role]]
        await asyncio.gather(*(client.close(CLOSE_TIMEOUT) for client in clients), return_exceptions=True)
