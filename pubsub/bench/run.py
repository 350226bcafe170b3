"""One run: its parts connect, publish and measure, wait for messages in flight, and close; their results are merged.

The time of each stage is bounded: connecting by the time-outs of the clients, measuring by the duration, waiting by a
silence (and at the latest after ten of them), closing by a few seconds. `interrupt` ends the current stage: the first
time the run continues with the waiting, the second time it skips that as well.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from pubsub.bench.fleet import Connections
from pubsub.bench.histogram import Histogram
from pubsub.bench.part import Joined, Part, Progress, Result, Slice, Span
from pubsub.bench.plan import SECOND, Plan
from pubsub.bench.processes import BuildPart, RemotePart
from pubsub.bench.workers import Tally

#: The maximum number of silences of the waiting stage.
MOST_SILENCES = 10
#: Seconds between two checks of the messages in flight.
LOOK = 0.05
#: Nanoseconds from the call of `measure` to the start of the load, if it has to reach several processes.
LEAD = SECOND // 10

CONNECTING, MEASURING, WAITING, CLOSING = "connecting", "measuring", "waiting", "closing"


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
        build: Makes one part of the run.
        observe: Called about once a second, with this object.

    Attributes:
        stage: `CONNECTING`, `MEASURING`, `WAITING` or `CLOSING`.
        progress: The progress, about a second old at most.
        seconds: Rates and latencies over time.
        interrupts: The number of calls of `interrupt`.
        results: The results of the parts.
        tally: The counts of messages, at the end.
        connections: The counts of connections, at the end.
        delay: By how much the event loops of the parts were late, at the end.
        own_cpu: CPU seconds of this process during the measurement, if the parts are in other processes.
    """

    def __init__(self, plan: Plan, build: BuildPart, observe: Callable[[Run], object]) -> None:
        self.plan = plan
        self.stage = CONNECTING
        self.progress = Progress()
        self.seconds: list[Second] = []
        self.interrupts = 0
        self.results: list[Result] = []
        self.tally, self.connections = Tally(), Connections()
        self.delay = Histogram()
        self.own_cpu = 0.0
        self._build = build
        self._observe = observe
        self._task: asyncio.Task[None] | None = None
        self._parts: list[Part | RemotePart] = []
        self._joined: list[Joined] = []
        self._begin = 0  # the beginning of the measurement, in nanoseconds
        self._slices: dict[int, list[Slice]] = {}  # of seconds that not all parts have emitted yet

    @property
    def spans(self) -> list[Span]:
        """The measured times of the parts that have measured something."""
        return [result.span for result in self.results if result.span is not None]

    @property
    def measured_seconds(self) -> float:
        """The seconds of the measurement; 0 if there was none."""
        return max((span.seconds for span in self.spans), default=0.0)

    @property
    def due(self) -> int | None:
        """The number of scheduled messages; None without a schedule."""
        dues = [result.due for result in self.results if result.due is not None]
        return sum(dues) if dues else None

    def rate_of(self, name: str) -> float:
        """Return a rate per second during the measurement: the sum of the parts."""
        return sum(span.rate(name) for span in self.spans)

    def interrupt(self) -> None:
        """End the current stage, unless it is closing."""
        self.interrupts += 1
        if self._task is not None:
            self._task.cancel()

    async def go(self) -> None:
        """Do the run.

        Raises:
            ProcessFailed: A process of the run has ended.
        """
        async with AsyncExitStack() as stack:
            await self._start(stack)
            try:
                await self._do(CONNECTING, self._connect())
                if (self.progress.made or self.plan.churn) and not self.interrupts:
                    await self._do(MEASURING, self._measure())
                    await self._do(WAITING, self._drain())
            finally:
                self.stage = CLOSING
                await self._close()

    async def _start(self, stack: AsyncExitStack) -> None:
        """Make the parts. Their processes end with the stack."""
        count = self.plan.processes
        if count == 1:
            self._parts = [self._build(self.plan, 0, self._take)]
            return
        for index in range(count):
            part = RemotePart(self._build, self.plan, index, self._take)
            stack.push_async_callback(part.end)
            self._parts.append(part)

    async def _call(self, name: str, *arguments: Any) -> list[Any]:
        """Call a method of all parts. Return their results."""
        return await self._call_each(name, [arguments] * len(self._parts))

    async def _call_each(self, name: str, arguments: list[tuple[Any, ...]]) -> list[Any]:
        calls = [
            asyncio.ensure_future(part.call(name, *each)) for part, each in zip(self._parts, arguments, strict=True)
        ]
        try:
            return await asyncio.gather(*calls)
        finally:  # one has failed: the others are not of use
            for call in calls:
                call.cancel()

    async def _do(self, stage: str, work: Coroutine[Any, Any, None]) -> None:
        """Do one stage, until it is complete or `interrupt` ends it."""
        self.stage = stage
        self._task = task = asyncio.create_task(work)
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=1.0)
                if stage != MEASURING and not task.done():
                    await self._look()
                    self._observe(self)
        finally:
            self._task = None
            task.cancel()
        if not task.cancelled():
            task.result()
        await self._look()

    async def _look(self, stop: bool = False) -> Progress:
        """Update the progress; see `Part.progress`."""
        found: list[Progress] = await self._call("progress", stop)
        self.progress = _sum(found)
        return self.progress

    async def _connect(self) -> None:
        self._joined = await self._call("connect")

    # Measuring.

    async def _measure(self) -> None:
        """Publish for the planned time."""
        await self._call("prepare")
        publishers = sorted(number for joined in self._joined for number in joined.publishers)
        subscribers = sorted(number for joined in self._joined for number in joined.subscribers)
        listeners = self.plan.listeners(publishers, subscribers)
        turns = {number: turn for turn, number in enumerate(publishers)}
        start = time.monotonic_ns() + (LEAD if len(self._parts) > 1 else 0)
        self._begin = start + int(self.plan.warmup * SECOND)
        cpu = time.process_time()
        each = [
            (start, len(publishers), [turns[number] for number in mine], [listeners[number] for number in mine])
            for mine, _ in self._joined
        ]
        try:
            await self._call_each("measure", each)
        finally:
            self.own_cpu = time.process_time() - cpu if len(self._parts) > 1 else 0.0

    def _take(self, part: Slice) -> None:
        """Take a second of one part. The last part completes it."""
        slices = self._slices.setdefault(part.at, [])
        slices.append(part)
        if len(slices) == len(self._parts):
            del self._slices[part.at]
            self.progress = _sum([each.progress for each in slices])
            self.seconds.append(_second(slices, self._begin))
            self._observe(self)

    # The end.

    async def _drain(self) -> None:
        """Wait for messages in flight; and for messages that are due, but for one silence at most."""
        silence = int(self.plan.drain * SECOND)
        began = changed = time.monotonic_ns()
        last = None
        while True:
            now = time.monotonic_ns()
            seen = await self._look(stop=now - began >= silence)
            if seen != last:
                last, changed = seen, now
            complete = seen.delivered >= seen.expected and not seen.outstanding
            if complete or now - changed >= silence or now - began >= MOST_SILENCES * silence:
                return
            await asyncio.sleep(LOOK)

    async def _close(self) -> None:
        """Close all connections, those of subscribers first, and merge the results."""
        await self._call("leave")
        self.results = await self._call("finish")
        self.progress = _sum([result.progress for result in self.results])
        for result in self.results:
            self.tally.merge(result.tally)
            self.connections.merge(result.connections)
            self.delay.merge(result.delay)


def _sum(found: list[Progress]) -> Progress:
    return Progress(*map(sum, zip(*found, strict=True)))


def _second(slices: list[Slice], begin: int) -> Second:
    """Merge one second of all parts."""
    recent = Histogram()
    for part in slices:
        recent.merge(part.recent)

    def rate(name: str) -> float:
        return sum(part.span.rate(name) for part in slices)

    return Second(
        at=(slices[0].at - begin) / SECOND,
        published=rate("published"),
        acknowledged=rate("acknowledged"),
        delivered=rate("delivered"),
        p50=recent.quantile(0.5),
        p99=recent.quantile(0.99),
        greatest=recent.greatest,
        under_way=sum(part.under_way for part in slices),
    )
