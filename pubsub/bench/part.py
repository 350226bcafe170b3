"""The part of a run that one process does: its clients, their load, and its counts.

A `Run` calls the methods of its parts, directly or through a pipe (`processes`), so arguments and results are data that
can be pickled. All processes of a machine share the monotonic clock, hence the start of the load is a time by it.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pubsub.bench.fleet import Connections, Describe, Fleet, MakeClient
from pubsub.bench.histogram import Histogram
from pubsub.bench.plan import SECOND, Plan, Schedule
from pubsub.bench.scenarios import Churn, storm
from pubsub.bench.system import DelaySampler, peak_memory, waited_for_processor
from pubsub.bench.workers import Tally, Turns

#: The shortest part of a second for which a rate is shown.
SHORTEST = SECOND // 5


@dataclass(frozen=True, slots=True)
class Mark:
    """The counts of a part at one time.

    Attributes:
        now: The time in nanoseconds.
        published: The number of published messages. Likewise `acknowledged`, `delivered` and `connects`.
        cpu: CPU time of this process in seconds.
        waited: Seconds for which the thread of the event loop was ready and had no processor; None if unknown.
    """

    now: int
    published: int
    acknowledged: int
    delivered: int
    connects: int
    cpu: float
    waited: float | None


class Span(NamedTuple):
    """The counts of a part at the beginning and at the end of a time."""

    first: Mark
    last: Mark

    @property
    def seconds(self) -> float:
        """The length of the time."""
        return (self.last.now - self.first.now) / SECOND

    def change(self, name: str) -> float:
        """Return by how much a count has increased; 0 if it is unknown."""
        first, last = getattr(self.first, name), getattr(self.last, name)
        return 0.0 if first is None or last is None else float(last - first)

    def rate(self, name: str) -> float:
        """Return by how much a count has increased per second."""
        return self.change(name) / self.seconds if self.seconds else 0.0


class Slice(NamedTuple):
    """About one second of the load of a part.

    Attributes:
        at: Its planned end, in nanoseconds.
        span: The counts at its beginning and its end.
        recent: The latencies of the messages delivered in it.
        under_way: The number of messages in flight at its end.
        progress: The progress of the part.
    """

    at: int
    span: Span
    recent: Histogram
    under_way: int
    progress: Progress


class Progress(NamedTuple):
    """The progress of a part. That of a run is the sum of each attribute.

    Attributes:
        made: The number of connections that were made, and so on: see `Connections`.
        published: The number of published messages, and so on: see `Tally`.
        expected: The expected number of deliveries of the published messages.
        outstanding: The number of messages that are due and not published, or not settled.
    """

    made: int = 0
    failed: int = 0
    standing: int = 0
    published: int = 0
    acknowledged: int = 0
    given_up: int = 0
    delivered: int = 0
    duplicated: int = 0
    expected: int = 0
    outstanding: int = 0


class Joined(NamedTuple):
    """The numbers of the publishers and subscribers of a part that are connected, in ascending order."""

    publishers: list[int]
    subscribers: list[int]


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a part.

    Attributes:
        tally: The counts of messages.
        connections: The counts of connections.
        progress: The final progress.
        span: The counts at the beginning and at the end of the measurement; None if it did not begin.
        due: The number of scheduled messages; None without a schedule.
        delay: By how much the event loop was late during the measurement.
        peak_memory: The maximum resident set size of the process, in bytes.
    """

    tally: Tally
    connections: Connections
    progress: Progress
    span: Span | None
    due: int | None
    delay: Histogram
    peak_memory: int


class Part:
    """The part of a run in this process.

    Args:
        plan: The plan of the whole run.
        index: The number of this part, from 0.
        make_client: See `Fleet`.
        describe: See `Fleet`.
        emit: Called with a `Slice` about once a second of the load.
    """

    def __init__(
        self, plan: Plan, index: int, make_client: MakeClient, describe: Describe, emit: Callable[[Slice], object]
    ) -> None:
        self.plan = plan
        self._index = index
        self.tally = Tally()
        self.fleet = Fleet(plan, index, make_client, describe, self.tally, time.monotonic_ns)
        self._emit = emit
        self._begin: Mark | None = None
        self._span: Span | None = None
        self._due: int | None = None
        self._listeners: list[int] = []
        self._turns: Turns | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._delay = DelaySampler(time.monotonic_ns)

    async def call(self, name: str, *arguments: Any) -> Any:
        """Call a method by its name."""
        return await getattr(self, name)(*arguments)

    async def connect(self) -> Joined:
        """Make the connections."""
        await self.fleet.connect()
        self.fleet.publishers.sort(key=lambda publisher: publisher.number)
        numbers = [publisher.number for publisher in self.fleet.publishers]
        return Joined(numbers, sorted(subscriber.number for subscriber in self.fleet.subscribers))

    async def prepare(self) -> None:
        """Exempt the objects that live until the end from garbage collections."""
        gc.collect()
        gc.freeze()

    async def measure(self, start: int, publishers: int, turns: list[int], listeners: list[int]) -> None:
        """Publish for the planned time.

        Args:
            start: The time of the start, in nanoseconds.
            publishers: The number of publishers of all parts.
            turns: The turns of those of this part, in the order of their numbers.
            listeners: The numbers of subscribers of each.
        """
        self._listeners = listeners
        begin = start + int(self.plan.warmup * SECOND)
        end = begin + int(self.plan.duration * SECOND)
        self.tally.measure_from = begin  # before the start: messages of other parts may arrive while this one is late
        await asyncio.sleep((start - time.monotonic_ns()) / SECOND)
        churn = asyncio.create_task(Churn(self.plan, self._index, self.fleet, time.monotonic_ns).go(start))
        try:
            last = self._mark()  # before the first message, which counts
            if self.plan.rate is None:
                for publisher in self.fleet.publishers:
                    publisher.limit = None
                    publisher.step()
            elif self.fleet.publishers:
                schedule = Schedule(start, self.plan.rate, publishers, turns)
                self._turns = Turns(schedule, self.fleet.publishers, end)
                self._release()
            if self.plan.warmup:
                last = await self._seconds_until(start, begin, last)
            self._begin = last
            self._delay.start()
            await self._measure_until(begin, end, last)
        finally:
            self._halt()
            churn.cancel()
            await asyncio.wait({churn})
            if not churn.cancelled():
                churn.result()

    async def _measure_until(self, begin: int, end: int, last: Mark) -> None:
        """Measure until the end, or until the storm is over."""
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(self._seconds_until(begin, end, last))]
        if self.plan.storm:
            tasks.append(asyncio.create_task(storm(self.plan, self.fleet)))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    def _release(self) -> None:
        """Publish the messages that are due, and set the timer for the next ones."""
        assert self._turns is not None
        following = self._turns.release(time.monotonic_ns())
        if following is not None:
            self._timer = asyncio.get_running_loop().call_at(following / SECOND, self._release)

    async def _seconds_until(self, tick: int, moment: int, last: Mark) -> Mark:
        """Wait from one time until another, and emit each second. Return the counts at that time."""
        while tick < moment:
            tick = min(tick + SECOND, moment)
            await asyncio.sleep((tick - time.monotonic_ns()) / SECOND)
            mark, recent = self._mark(), self.tally.take_recent()
            if mark.now - last.now >= SHORTEST:
                under_way = sum(publisher.under_way for publisher in self.fleet.publishers)
                self._emit(Slice(tick, Span(last, mark), recent, under_way, await self.progress()))
                last = mark
        return self._mark()

    def _mark(self) -> Mark:
        tally = self.tally
        return Mark(
            time.monotonic_ns(), tally.published, tally.acknowledged, tally.delivered, tally.connects,
            time.process_time(), waited_for_processor(),
        )  # fmt: skip

    def _halt(self) -> None:
        """End the schedule. Messages that are due already are still sent."""
        if self._begin is not None:
            self._span = Span(self._begin, self._mark())
        self._delay.stop()
        if self._timer is not None:
            self._timer.cancel()
        if self._turns is not None:
            self._due = self._turns.released
        else:
            self._stop_publishers()

    def _stop_publishers(self) -> None:
        for publisher in self.fleet.publishers:
            publisher.stop()

    async def progress(self, stop: bool = False) -> Progress:
        """Return the progress.

        Args:
            stop: Whether to publish no more messages, not even those that are due.
        """
        if stop:
            self._stop_publishers()
        tally, connections, publishers = self.tally, self.fleet.connections, self.fleet.publishers
        return Progress(
            connections.made,
            connections.failed,
            connections.standing,
            tally.published,
            tally.acknowledged,
            tally.failed,
            tally.delivered,
            tally.duplicated,
            sum(each.sequence * count for each, count in zip(publishers, self._listeners, strict=False)),
            sum(each.under_way + each.backlog for each in publishers),
        )

    async def leave(self) -> None:
        """Publish no more messages, and close the connections of the subscribers."""
        gc.unfreeze()
        self._stop_publishers()
        self.tally.over = True
        self.tally.take_recent()
        await self.fleet.close("s")

    async def finish(self) -> Result:
        """Close the other connections. Return the result."""
        if self.plan.retain:
            await self.fleet.remove_retained()
        await self.fleet.close("pc")
        return Result(
            self.tally, self.fleet.connections, await self.progress(), self._span, self._due,
            self._delay.histogram, peak_memory(),
        )  # fmt: skip
