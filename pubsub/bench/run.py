"""One run, in one event loop: connect, publish and measure, wait for messages in flight, close.

The time of each stage is bounded: connecting by the time-outs of the clients, measuring by the duration, waiting by a
silence (and at the latest after ten of them), closing by a few seconds. `interrupt` ends the current stage: the first
time the run continues with the waiting, the second time it skips that as well.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from pubsub.bench.fleet import Fleet, MakeClient
from pubsub.bench.histogram import Histogram
from pubsub.bench.plan import Plan, Schedule
from pubsub.bench.workers import Tally, Turns

SECOND = 1_000_000_000
#: The maximum number of silences of the waiting stage.
MOST_SILENCES = 10
#: Seconds between two checks of the messages in flight.
LOOK = 0.05
#: The shortest part of a second for which a rate is shown.
SHORTEST = SECOND // 5

CONNECTING, MEASURING, WAITING, CLOSING = "connecting", "measuring", "waiting", "closing"


@dataclass(frozen=True, slots=True)
class Mark:
    """The counts at one time: `now` in nanoseconds, `cpu` in seconds of this process."""

    now: int
    published: int
    acknowledged: int
    delivered: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Second:
    """About one second of a run; a run has at most 86,400.

    Attributes:
        at: Its planned end, in seconds from the beginning of the measurement; at most 0 in the warm-up.
        published: Published messages per second. Likewise `acknowledged` and `delivered`.
        p50: The median latency of the messages delivered in it, in nanoseconds. Likewise `p99` and `greatest`.
        under_way: The number of messages in flight at its end.
    """

    at: float
    published: float
    acknowledged: float
    delivered: float
    p50: int
    p99: int
    greatest: int
    under_way: int


class Run:
    """One run.

    Args:
        plan: The plan.
        make_client: See `Fleet`.
        observe: Called about once a second, with this object.

    Attributes:
        stage: `CONNECTING`, `MEASURING`, `WAITING` or `CLOSING`.
        tally: The counts.
        fleet: The connections.
        begin: The counts at the beginning of the measurement, or None.
        end: The counts at its end, or None.
        seconds: Rates and latencies over time.
        due: The number of scheduled messages; None without a schedule.
        interrupts: The number of calls of `interrupt`.
    """

    def __init__(self, plan: Plan, make_client: MakeClient, observe: Callable[[Run], object]) -> None:
        self.plan = plan
        self.stage = CONNECTING
        self.tally = Tally()
        self.fleet = Fleet(plan, make_client, self.tally, time.monotonic_ns)
        self.begin: Mark | None = None
        self.end: Mark | None = None
        self.seconds: list[Second] = []
        self.due: int | None = None
        self.interrupts = 0
        self._observe = observe
        self._task: asyncio.Task[None] | None = None
        self._turns: Turns | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def expected(self) -> int:
        """The expected number of deliveries of the published messages."""
        listeners = self.fleet.listeners()
        return sum(publisher.sequence * listeners[publisher.number] for publisher in self.fleet.publishers)

    def interrupt(self) -> None:
        """End the current stage, unless it is closing."""
        self.interrupts += 1
        if self._task is not None:
            self._task.cancel()

    async def go(self) -> None:
        """Do the run."""
        try:
            await self._do(CONNECTING, self.fleet.connect())
            if self.fleet.connections.made and not self.interrupts:
                gc.collect()
                gc.freeze()  # objects that live until the end need not be examined by each collection
                try:
                    await self._do(MEASURING, self._measure())
                finally:
                    self._halt()
                    gc.unfreeze()
                await self._do(WAITING, self._drain())
        finally:
            self.stage = CLOSING
            await self._close()

    async def _do(self, stage: str, work: Coroutine[Any, Any, None]) -> None:
        """Do one stage, until it is complete or `interrupt` ends it."""
        self.stage = stage
        self._task = task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=1.0)
                if stage != MEASURING and not task.done():
                    self._observe(self)
        finally:
            self._task = None
            task.cancel()
        if not task.cancelled():
            task.result()

    # Measuring.

    async def _measure(self) -> None:
        """Publish for the planned time."""
        start = time.monotonic_ns()
        begin = start + int(self.plan.warmup * SECOND)
        end = begin + int(self.plan.duration * SECOND)
        self.tally.measure_from = begin
        if self.plan.rate is None:
            for publisher in self.fleet.publishers:
                publisher.limit = None
                publisher.step()
        elif self.fleet.publishers:
            self._turns = Turns(Schedule(start, self.plan.rate, len(self.fleet.publishers)), self.fleet.publishers, end)
            self._release()
        last = self._mark()
        if self.plan.warmup:
            last = await self._seconds_until(begin, last, begin)
        self.begin = last
        await self._seconds_until(end, last, begin)

    def _release(self) -> None:
        """Publish the messages that are due, and set the timer for the next ones."""
        assert self._turns is not None
        following = self._turns.release(time.monotonic_ns())
        if following is not None:
            self._timer = asyncio.get_running_loop().call_at(following / SECOND, self._release)

    async def _seconds_until(self, moment: int, last: Mark, begin: int) -> Mark:
        """Wait until a time, and record each second. Return the counts at that time."""
        tick = last.now
        while tick < moment:
            tick = min(tick + SECOND, moment)
            await asyncio.sleep((tick - time.monotonic_ns()) / SECOND)
            mark, recent = self._mark(), self.tally.take_recent()
            if mark.now - last.now >= SHORTEST:
                self.seconds.append(self._second(last, mark, recent, (tick - begin) / SECOND))
                self._observe(self)
                last = mark
        return self._mark()

    def _mark(self) -> Mark:
        tally = self.tally
        return Mark(time.monotonic_ns(), tally.published, tally.acknowledged, tally.delivered, time.process_time())

    def _second(self, last: Mark, mark: Mark, recent: Histogram, at: float) -> Second:
        seconds = (mark.now - last.now) / SECOND
        return Second(
            at=at,
            published=(mark.published - last.published) / seconds,
            acknowledged=(mark.acknowledged - last.acknowledged) / seconds,
            delivered=(mark.delivered - last.delivered) / seconds,
            p50=recent.quantile(0.5),
            p99=recent.quantile(0.99),
            greatest=recent.greatest,
            under_way=sum(publisher.under_way for publisher in self.fleet.publishers),
        )

    def _halt(self) -> None:
        """End the schedule. Messages that are due already are still sent."""
        if self.begin is not None:
            self.end = self._mark()
        if self._timer is not None:
            self._timer.cancel()
        if self._turns is not None:
            self.due = self._turns.released
        else:
            self._stop_publishers()

    def _stop_publishers(self) -> None:
        for publisher in self.fleet.publishers:
            publisher.stop()

    # The end.

    async def _drain(self) -> None:
        """Wait for messages in flight; and for messages that are due, but for one silence at most."""
        silence = int(self.plan.drain * SECOND)
        began = changed = time.monotonic_ns()
        last = None
        while True:
            now, seen = time.monotonic_ns(), self._settled()
            if now - began >= silence:
                self._stop_publishers()
            if seen != last:
                last, changed = seen, now
            if self._complete or now - changed >= silence or now - began >= MOST_SILENCES * silence:
                return
            await asyncio.sleep(LOOK)

    def _settled(self) -> tuple[int, ...]:
        tally = self.tally
        return tally.published, tally.acknowledged, tally.failed, tally.delivered, tally.duplicated

    @property
    def _complete(self) -> bool:
        """Whether all messages that are due are sent, settled and delivered."""
        return self.tally.delivered >= self.expected and not any(
            publisher.under_way or publisher.backlog for publisher in self.fleet.publishers
        )

    async def _close(self) -> None:
        """Close all connections. Remove the retained messages after the subscribers have disconnected."""
        self._stop_publishers()
        self.tally.over = True
        self.tally.take_recent()
        await self.fleet.close("s")
        if self.plan.retain:
            await self.fleet.remove_retained()
        await self.fleet.close("pc")
