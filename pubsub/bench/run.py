"""One run, in one event loop: connect, publish and measure, wait for messages in flight, close.

Nothing in it lasts longer than the plan says: connecting ends with the time-outs of the clients, measuring with the
duration, waiting with a silence (and at the latest after ten of them), closing after seconds. `interrupt` ends the
current stage: the first time the run continues with the waiting, the second time it skips that as well.
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
#: How many silences are waited for at most.
MOST_SILENCES = 10
#: Seconds between two checks of the messages in flight.
LOOK = 0.05
#: A part of a second that is shorter than this shows no rate.
SHORTEST = SECOND // 5

CONNECTING, MEASURING, WAITING, CLOSING = "connecting", "measuring", "waiting", "closing"


@dataclass(frozen=True, slots=True)
class Mark:
    """What had been counted at one moment: `now` in nanoseconds, `cpu` in seconds of this process."""

    now: int
    published: int
    acknowledged: int
    delivered: int
    cpu: float


@dataclass(frozen=True, slots=True)
class Second:
    """About a second of a run; it may have 86,400 of them.

    Attributes:
        at: Its end by plan, in seconds from the beginning of what is measured; not above 0 for the warm-up.
        published: Messages a second. So with `acknowledged` and `delivered`.
        p50: Of the latency of the messages that came in it, in nanoseconds. So with `p99` and `greatest`.
        under_way: Messages of publishers that were not settled at its end.
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
        observe: Called about once a second, with this very object.

    Attributes:
        stage: `CONNECTING`, `MEASURING`, `WAITING` or `CLOSING`.
        tally: The counts.
        fleet: The connections.
        begin: When measuring began; None: it has not.
        end: When it ended; None: it has not.
        seconds: Rates and latencies over time.
        due: The number of scheduled messages; None without a schedule.
        interrupts: How often `interrupt` was called.
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
        """Do it."""
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
        """Work as long as it takes, unless `interrupt` ends it."""
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
        """Publish for as long as is planned."""
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
        """Publish messages whenever they are due."""
        assert self._turns is not None
        following = self._turns.release(time.monotonic_ns())
        if following is not None:
            self._timer = asyncio.get_running_loop().call_at(following / SECOND, self._release)

    async def _seconds_until(self, moment: int, last: Mark, begin: int) -> Mark:
        """Wait for a moment, noting every second. Return the mark that was made at it."""
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
        """Let nothing more become due. What is due already is still sent."""
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
        """Wait for what is under way, and for what is due; no longer for the latter than a silence may last."""
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
        """Whether all that is due is sent, settled and delivered."""
        return self.tally.delivered >= self.expected and not any(
            publisher.under_way or publisher.backlog for publisher in self.fleet.publishers
        )

    async def _close(self) -> None:
        """Close everything. The retained messages are removed after the subscribers have disconnected."""
        self._stop_publishers()
        self.tally.over = True
        self.tally.take_recent()
        await self.fleet.close("s")
        if self.plan.retain:
            await self.fleet.remove_retained()
        await self.fleet.close("pc")
