"""A load on a cluster whose nodes are killed in turn, and the results.

One client publishes messages of QoS 1, numbered by topic, and another receives them in a persistent session. A thread
kills a node, waits for the election, restarts the node, waits until the cluster is complete, and continues with the
next node. The `_nowait` methods of both drivers are the same, so the load is written once.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, pairwise
from math import inf
from statistics import median
from typing import Any

from cluster_nodes import Cluster, Node

import mqttws
from mqttws import MQTTError, Publish, Reconnect, SessionLost, State

#: The number of unacknowledged messages that a client sends, which is the default.
IN_FLIGHT = 100
#: The options that docs/scale.md recommends for a client of a cluster.
OPTIONS: dict[str, Any] = {
    "clean_session": False,
    "max_in_flight": IN_FLIGHT,
    "keep_alive": 30,
    "answer_timeout": 1.0,
    "connect_timeout": 1.0,
    "ack_timeout": 0.75,
    "ping_timeout": 1.0,
    "stalled": "leave",
    "reconnect": Reconnect(initial=0.1, maximum=0.3),
}
#: Seconds within which a publisher must notice that its node is gone, whatever happened to it.
NOTICE = OPTIONS["ack_timeout"] + OPTIONS["ping_timeout"]
#: Seconds without a message after which no more is expected. NATS sends again after 10 s (ack_wait).
QUIET = 25.0
#: Seconds within which a cluster must have elected a leader.
ELECTION = 30.0


@dataclass(frozen=True)
class Plan:
    """The parameters of a run.

    Attributes:
        kills: the number of kills.
        every: minimum seconds between kills; the cluster must be complete again by then.
        down: seconds until a killed node is restarted.
        rate: messages a second.
        topics: the number of topics.
    """

    kills: int = 20
    every: float = 15.0
    down: float = 5.0
    rate: int = 500
    topics: int = 10


@dataclass
class Kill:
    """The kill of a node.

    Attributes:
        node: its name.
        at: the time.
        election: seconds until the cluster reported a running leader for everything; None if it does not report it.
        own: the delay in seconds that the cluster itself causes: its election; or, if it keeps sending to a connection
            whose packets are dropped, the time after which it sends again, if that is longer.
        hit: the clients that were connected to it.
        restarted: the time at which the node was restarted.
        pause: the longest time, in seconds, without a new message that began before the node was restarted.
        returned: the longest such time that began after that, while the node returned to the cluster.
        noticed: seconds until the publisher detected it; None if it was not connected to the node.
    """

    node: str
    at: float
    election: float | None = None
    own: float = 0.0
    hit: tuple[str, ...] = ()
    restarted: float = inf
    pause: float = 0.0
    returned: float = 0.0
    noticed: float | None = None


@dataclass
class Accounts:
    """The results of a run.

    Attributes:
        acknowledged: messages with a PUBACK.
        lost: acknowledged messages that never arrived.
        disordered: messages that first arrived after a later one of their topic.
        resent: disordered messages that were sent again: by the server, which had sent them to a dead connection
            before; or by the publisher, because its connection ended before they were acknowledged.
        duplicates: duplicate messages.
        failed: messages whose future failed.
        delay: the longest time, in seconds, from `publish_nowait` to the first arrival.
        sessions_lost: reported `SessionLost` errors.
        kills: the kills.
        errors: arguments of `on_error`, by type.
    """

    acknowledged: int = 0
    lost: int = 0
    disordered: int = 0
    resent: int = 0
    duplicates: int = 0
    failed: int = 0
    delay: float = 0.0
    sessions_lost: int = 0
    kills: list[Kill] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    @property
    def pauses(self) -> list[float]:
        """Return the pause after each kill."""
        return sorted(kill.pause for kill in self.kills) or [0.0]

    @property
    def returned(self) -> float:
        """Return the longest pause after a node was restarted."""
        return max((kill.returned for kill in self.kills), default=0.0)

    @property
    def own(self) -> list[float]:
        """Return the delay of the cluster itself after each kill."""
        return sorted(kill.own for kill in self.kills) or [0.0]

    @property
    def beyond_own(self) -> float:
        """Return the longest part of a pause, in seconds, that the cluster did not cause."""
        return max((kill.pause - kill.own for kill in self.kills), default=0.0)

    def __str__(self) -> str:
        pauses, own = self.pauses, self.own
        return (
            f"acknowledged {self.acknowledged}, lost {self.lost}, out of order {self.disordered}, sent again late "
            f"{self.resent}, duplicates {self.duplicates}, failed {self.failed}, pause p50 {median(pauses):.2f} max "
            f"{pauses[-1]:.2f}, the cluster's own p50 {median(own):.2f} max {own[-1]:.2f}, beyond it "
            f"{self.beyond_own:.2f}, when a node returned {self.returned:.2f}, delay {self.delay:.2f}, sessions lost "
            f"{self.sessions_lost}"
        )


class Load:
    """Publishes, and records the received messages.

    Args:
        plan: the parameters.
        resends_after: see `Cluster`.
    """

    def __init__(self, plan: Plan, resends_after: float | None = None) -> None:
        self.plan = plan
        self._resends_after = resends_after
        self.accounts = Accounts()
        self.endpoints: dict[str, str | None] = {}
        self.states: list[tuple[float, str, State]] = []
        self._numbers: Counter[str] = Counter()
        self._sent_at: dict[tuple[str, int], float] = {}
        self._acknowledged: set[tuple[str, int]] = set()
        self._unanswered: dict[tuple[str, int], None] = {}  # in the order of their publication
        self._sent_twice: set[tuple[str, int]] = set()
        self._came: set[tuple[str, int]] = set()
        self._last: dict[str, int] = {}
        self._new_at: list[float] = []
        self._count = 0
        self._begun = 0.0
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Start the clock."""
        self._begun = time.monotonic()

    def publish_due(self, client: Any) -> None:
        """Publish the messages that are due."""
        while self._count < (time.monotonic() - self._begun) * self.plan.rate:
            topic = f"load/{self._count % self.plan.topics}"
            number, self._count = self._numbers[topic], self._count + 1
            self._numbers[topic] += 1
            with self._lock:
                self._sent_at[topic, number] = time.monotonic()
                self._unanswered[topic, number] = None
            client.publish_nowait(topic, b"%d" % number, 1).add_done_callback(partial(self._done, (topic, number)))

    def _done(self, message: tuple[str, int], future: Any) -> None:
        with self._lock:
            self._unanswered.pop(message, None)
            if future.cancelled() or future.exception() is not None:
                self.accounts.failed += 1
            else:
                self._acknowledged.add(message)

    def on_message(self, message: Publish) -> None:
        """Record a message."""
        now, topic, number = time.monotonic(), message.topic, int(message.payload)
        with self._lock:
            if (topic, number) in self._came:
                self.accounts.duplicates += 1
                return
            self._came.add((topic, number))
            self._new_at.append(now)
            delay = now - self._sent_at[topic, number]
            self.accounts.delay = max(self.accounts.delay, delay)
            if number < self._last.get(topic, -1):
                late = message.dup or (topic, number) in self._sent_twice
                late = late or (self._resends_after is not None and delay >= self._resends_after)
                self.accounts.resent += late
                self.accounts.disordered += not late
            self._last[topic] = max(number, self._last.get(topic, -1))

    def on_state(self, name: str, state: State) -> None:
        """Record the state of a client."""
        self.states.append((time.monotonic(), name, state))
        if name == "publisher" and state.name == "disrupted":
            with self._lock:  # those in flight, which are sent again
                self._sent_twice.update(islice(self._unanswered, IN_FLIGHT))
        self.endpoints[name] = state.endpoint if state.name == "connected" else None

    def on_error(self, error: MQTTError) -> None:
        """Record an error."""
        self.accounts.errors[type(error).__name__] += 1
        self.accounts.sessions_lost += isinstance(error, SessionLost)

    @property
    def complete(self) -> bool:
        """Return whether all acknowledged messages have arrived, or none has for a while."""
        with self._lock:
            if self._acknowledged <= self._came:
                return True
            return bool(self._new_at) and time.monotonic() - self._new_at[-1] > QUIET

    def close(self) -> Accounts:
        """Return the results."""
        accounts, end = self.accounts, time.monotonic()
        accounts.acknowledged, accounts.lost = len(self._acknowledged), len(self._acknowledged - self._came)
        for kill in reversed(accounts.kills):
            times = [kill.at, *(at for at in self._new_at if kill.at < at < end)]
            if kill is not accounts.kills[-1]:  # after the last one the load ends
                times.append(end)
            gaps = [(at, later - at) for at, later in pairwise(times)] or [(kill.at, end - kill.at)]
            kill.pause = max(seconds for at, seconds in gaps if at < kill.restarted)
            kill.returned = max((seconds for at, seconds in gaps if at >= kill.restarted), default=0.0)
            if "publisher" in kill.hit:
                kill.noticed = min(
                    (at - kill.at for at, name, state in self.states
                     if at > kill.at and (name, state.name) == ("publisher", "disrupted")), default=None)  # fmt: skip
            end = kill.at
        return accounts


class Killer(threading.Thread):
    """A thread that kills each node in turn, those with clients first: where these are depends on the elections."""

    def __init__(self, cluster: Cluster, load: Load) -> None:
        super().__init__(name="killer")
        self._cluster = cluster
        self._load = load
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            left: list[Node] = []
            for _ in range(self._load.plan.kills):
                left = left or list(self._cluster.nodes)
                node = next((each for each in left if self._hit(each)), left[0])
                left.remove(node)
                self._kill(node)
        except BaseException as error:
            self.error = error

    def _hit(self, node: Node) -> tuple[str, ...]:
        """Return the clients that are connected to a node."""
        endpoint = node.url.partition("://")[2].partition("/")[0]
        return tuple(name for name, where in list(self._load.endpoints.items()) if where == endpoint)

    def _kill(self, node: Node) -> None:
        plan, kill = self._load.plan, Kill(node.name, time.monotonic())
        kill.hit = self._hit(node)
        self._load.accounts.kills.append(kill)
        self._cluster.break_node(node)
        while self._cluster.leaderless() and time.monotonic() - kill.at < ELECTION:
            time.sleep(0.02)  # another process provides no event to wait for
        kill.election = kill.own = time.monotonic() - kill.at
        if self._cluster.drops_packets and "subscriber" in kill.hit:
            kill.own = max(kill.election, self._cluster.resends_after or 0.0)
        time.sleep(max(0.0, kill.at + plan.down - time.monotonic()))
        kill.restarted = time.monotonic()
        self._cluster.mend_node(node)
        self._cluster.settle()
        time.sleep(max(0.0, kill.at + plan.every - time.monotonic()))


def client_options(load: Load, name: str, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the named client."""
    made = {
        **OPTIONS,
        "client_id": name,
        "max_queued": 200_000,
        "on_state": partial(load.on_state, name),
        "on_error": load.on_error,
        **options,
    }
    if name == "subscriber":  # it awaits no acknowledgement, so only its keep alive detects a silent network
        made |= {"on_message": load.on_message, "keep_alive": min(5, made["keep_alive"])}
    return made


def run_blocking(cluster: Cluster, urls: dict[str, Any], plan: Plan, **options: Any) -> Accounts:
    """Run the load with blocking clients.

    Args:
        cluster: the cluster whose nodes are killed.
        urls: the URLs of the clients "subscriber" and "publisher".
        plan: the parameters.
        **options: options of both clients.
    """
    load, make = Load(plan, cluster.resends_after), mqttws.Client
    killer = Killer(cluster, load)
    with ExitStack() as stack:
        subscriber = stack.enter_context(make(urls["subscriber"], **client_options(load, "subscriber", options)))
        subscriber.subscribe("load/#", 1)
        publisher = stack.enter_context(make(urls["publisher"], **client_options(load, "publisher", options)))
        load.begin()
        killer.start()
        while killer.is_alive():
            load.publish_due(publisher)
            time.sleep(0.004)
        publisher.flush(60)
        while not load.complete:
            time.sleep(0.1)
    if killer.error is not None:
        raise killer.error
    return load.close()


async def run_asyncio(cluster: Cluster, urls: dict[str, Any], plan: Plan, **options: Any) -> Accounts:
    """Run the load with asyncio clients; the arguments are those of `run_blocking`."""
    load, make = Load(plan, cluster.resends_after), mqttws.aio.Client
    killer = Killer(cluster, load)
    async with make(urls["subscriber"], **client_options(load, "subscriber", options)) as subscriber:
        await subscriber.subscribe("load/#", 1)
        async with make(urls["publisher"], **client_options(load, "publisher", options)) as publisher:
            load.begin()
            killer.start()
            while killer.is_alive():
                load.publish_due(publisher)
                await asyncio.sleep(0.004)
            await publisher.flush(60)
            while not load.complete:
                await asyncio.sleep(0.1)
    if killer.error is not None:
        raise killer.error
    return load.close()


def run(driver: str, cluster: Cluster, urls: dict[str, Any], plan: Plan, **options: Any) -> Accounts:
    """Run the load with a driver: "blocking" or "asyncio"."""
    if driver == "blocking":
        return run_blocking(cluster, urls, plan, **options)
    return asyncio.run(run_asyncio(cluster, urls, plan, **options))


def apart(cluster: Cluster) -> dict[str, Any]:
    """Return URLs so that each client connects to another node first."""
    urls = cluster.urls
    return {"subscriber": urls, "publisher": urls[1:] + urls[:1]}
