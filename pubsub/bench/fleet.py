"""The connections of a run: opened at the requested rate, monitored, and closed."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import mqttws
from mqttws.aio import Client
from pubsub.bench.plan import HEADER, Plan
from pubsub.bench.workers import Publisher, Subscriber, Tally
from sigv4 import CredentialsUnavailable

#: The number of connections that are opened at the same time, by all processes together.
AT_ONCE = 100
#: The number of consecutive failures after which no more attempts are made, so as not to wait for each time-out.
MOST_FAILURES = 100
#: After so many connections their objects, which live until the end, are exempted from garbage collections: these would
#: examine them again and again, and take 40 % of the time of connecting thousands.
FREEZE = 500
#: The time-out of closing, in seconds.
CLOSE_TIMEOUT = 5.0

MakeClient = Callable[..., Client]
#: Returns the failure of the command for an error of a client. It can be pickled, unlike some errors.
Describe = Callable[[Exception], Exception]


class Connections:
    """The counts of connections by outcome.

    Attributes:
        made: The number of connections that were made.
        failed: The number of failed attempts, for any reason.
        refused: Of these, those that the server refused.
        rejected: The number of subscribers whose subscription the server rejected.
        lowered: The number of subscribers that were granted a lower QoS than requested.
        lost: The number of lost connections.
        reconnected: The number of connections that were made again.
        ended: The number of clients that gave up after a loss.
        first_error: The first failure.
    """

    def __init__(self) -> None:
        self.made = self.failed = self.refused = self.rejected = self.lowered = 0
        self.lost = self.reconnected = self.ended = 0
        self.first_error: Exception | None = None

    @property
    def standing(self) -> int:
        """The number of present connections."""
        return self.made - self.lost + self.reconnected

    @property
    def missing(self) -> int:
        """The number of lost connections whose clients still try to connect again."""
        return self.lost - self.reconnected - self.ended

    def merge(self, other: Connections) -> None:
        """Add the counts of another process."""
        error = self.first_error or other.first_error
        for name, value in vars(other).items():
            if name != "first_error":
                setattr(self, name, getattr(self, name) + value)
        self.first_error = error


class Watch:
    """The callback `on_state` of one client, which counts lost and repeated connections.

    Args:
        connections: The counts of connections.
        tally: The counts of reasons and returns.
        clock: Returns the time in nanoseconds.
    """

    def __init__(self, connections: Connections, tally: Tally, clock: Callable[[], int]) -> None:
        self._connections = connections
        self._tally = tally
        self._clock = clock
        self._stood = self._stands = False
        self._lost_at = 0

    def __call__(self, state: mqttws.State) -> None:
        """Count a change of state."""
        if state.name == "connected":
            if self._stood:
                self._connections.reconnected += 1
                self._tally.returns.back(self._lost_at, self._clock())
            self._stood = self._stands = True
        elif state.name == "connecting":
            if self._stood:
                self._tally.returns.tried(self._clock())
        elif state.error is not None and self._stood:  # a client that was closed has no error
            if self._stands:
                self._stands = False
                self._lost_at = self._clock()
                self._connections.lost += 1
                self._tally.returns.lost(self._lost_at)
                self._tally.blame(state.error)
            self._connections.ended += state.name == "disconnected"


class Fleet:
    """The clients of one process of a run.

    Args:
        plan: The plan of the run.
        index: The number of the process, from 0.
        make_client: Returns a new client, which is not open, with the given options.
        describe: Returns the failure of the command for an error of a client.
        tally: The counts.
        clock: Returns the time in nanoseconds.

    Attributes:
        publishers: The connected publishers.
        subscribers: The connected subscribers, which have subscribed.
        connections: The counts of connections.
        make_client: The function.
        tally: The counts.
    """

    def __init__(
        self, plan: Plan, index: int, make_client: MakeClient, describe: Describe, tally: Tally,
        clock: Callable[[], int],
    ) -> None:  # fmt: skip
        self.publishers: list[Publisher] = []
        self.subscribers: list[Subscriber] = []
        self.connections = Connections()
        self._plan = plan
        self._index = index
        self.make_client = make_client
        self._describe = describe
        self.tally = tally
        self._clock = clock
        self._clients: dict[str, list[Client]] = {"s": [], "p": [], "c": []}
        self._publishing: dict[int, Client] = {}
        self._failures = 0  # in a row
        self._padding = os.urandom(plan.size - HEADER.size)  # random, so that compression gains nothing

    async def connect(self) -> None:
        """Make all connections. Failures are counted, and not repeated; too many in a row end this.

        The processes make them in turn: connection k of the run is made by process k modulo their number.
        """
        plan = self._plan
        numbers = {"s": plan.subscribers, "p": plan.publishers, "c": plan.idle}
        every = enumerate((role, number) for role, count in numbers.items() for number in range(count))
        jobs = islice(every, self._index, None, plan.processes)
        start = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(max(1, AT_ONCE // plan.processes), plan.clients)):
                group.create_task(self._work(jobs, start))

    async def _work(self, jobs: Iterator[tuple[int, tuple[str, int]]], start: float) -> None:
        """Make one connection after the other, each when it is due."""
        for index, (role, number) in jobs:
            if self._failures >= max(1, MOST_FAILURES // self._plan.processes):
                return
            if self._plan.connect_rate is not None:
                due = start + index / self._plan.connect_rate
                await asyncio.sleep(max(0.0, due - asyncio.get_running_loop().time()))
            try:
                await self._join(role, number)
            except (mqttws.MQTTError, OSError) as error:  # a TimeoutError is an OSError
                self._blame(error)

    def failed(self, error: Exception) -> None:
        """Count a failed attempt to connect."""
        self.connections.failed += 1
        self.connections.refused += isinstance(error, (mqttws.ConnectionRefused, mqttws.HandshakeRejected))
        self._blame(error)

    def _blame(self, error: Exception) -> None:
        self.tally.blame(error)
        if self.connections.first_error is None:
            self.connections.first_error = self._describe(error)

    async def _join(self, role: str, number: int) -> None:
        """Connect one client; subscribe if it is a subscriber."""
        plan, connections = self._plan, self.connections
        options: dict[str, Any] = {"on_state": Watch(connections, self.tally, self._clock)}
        subscriber = None
        if role == "s":
            subscriber = Subscriber(number, plan.heard_by(number), self.tally, self._clock, plan)
            options["on_message"] = subscriber.take
        client = self.make_client(client_id=plan.client_id(role, number), **options)
        began = self._clock()
        try:
            await client.open()
        except (mqttws.MQTTError, OSError, CredentialsUnavailable) as error:
            self._failures += 1
            self.failed(error)
            return
        connections.made += 1
        if connections.made % FREEZE == 0:
            gc.freeze()
        self._failures = 0
        self.tally.connecting.record(self._clock() - began)
        self.tally.add_phases(client.timings)
        self._clients[role].append(client)
        if subscriber is not None:
            await self._subscribe(client, plan.filters_of(number))
            self.subscribers.append(subscriber)
        elif role == "p":
            self._publishing[number] = client
            self.publishers.append(Publisher(number, client, self.tally, self._clock, plan, self._padding))

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

    async def remove_retained(self) -> None:
        """Remove the retained messages of this run from the server. Failures are counted."""
        clients = {self._plan.topic_of(number): client for number, client in self._publishing.items()}
        removals = [client.publish(topic, b"", 1, True, timeout=CLOSE_TIMEOUT) for topic, client in clients.items()]
        for outcome in await asyncio.gather(*removals, return_exceptions=True):
            if isinstance(outcome, Exception):
                self.tally.blame(f"a retained message could not be removed: {outcome}")

    async def close(self, roles: Iterable[str] = "spc") -> None:
        """Close the clients of some roles: subscribers, publishers, idle ones."""
        clients = [client for role in roles for client in self._clients[role]]
        await asyncio.gather(*(client.close(CLOSE_TIMEOUT) for client in clients), return_exceptions=True)
