"""What a process does beside publishing: connecting again and again (`Churn`), and a reconnect storm (`storm`)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import count, repeat

import mqttws
from pubsub.bench.fleet import CLOSE_TIMEOUT, MOST_FAILURES, Fleet
from pubsub.bench.plan import CUT, SECOND, Plan, Schedule
from pubsub.bench.system import cut_connections

#: Seconds between two checks of the connections.
LOOK = 0.02
#: Seconds without a missing connection after which those of a restarted server count as complete.
SETTLING = 1.0


class Churn:
    """Clients that connect and disconnect, again and again.

    Each connection is that of a new client, so that nothing is resumed. With a rate, each is due at a time, and the
    time of connecting counts from there.

    Args:
        plan: The plan of the run.
        index: The number of this process, from 0.
        fleet: The clients of this process.
        clock: Returns the time in nanoseconds.
    """

    def __init__(self, plan: Plan, index: int, fleet: Fleet, clock: Callable[[], int]) -> None:
        self._plan = plan
        self._index = index
        self._fleet = fleet
        self._clock = clock
        self._failures = 0  # in a row

    async def go(self, start: int) -> None:
        """Connect and disconnect until this is cancelled, or too many attempts in a row fail."""
        plan = self._plan
        dues: Iterator[int | None] = repeat(None)
        if plan.connect_rate is not None:
            schedule = Schedule(start, plan.connect_rate, plan.processes, [self._index])
            dues = map(schedule.due_at, count())
        async with asyncio.TaskGroup() as group:
            for number in range(self._index, plan.churn, plan.processes):
                group.create_task(self._work(plan.client_id("r", number), dues))

    async def _work(self, client_id: str, dues: Iterator[int | None]) -> None:
        for due in dues:
            if due is not None:
                await asyncio.sleep(max(0, due - self._clock()) / SECOND)
            try:
                await self._connect(client_id, due)
                self._failures = 0
            except (mqttws.MQTTError, OSError) as error:
                self._failures += 1
                self._fleet.failed(error)
            if self._failures >= max(1, MOST_FAILURES // self._plan.processes):
                return

    async def _connect(self, client_id: str, due: int | None) -> None:
        client, tally = self._fleet.make_client(client_id=client_id), self._fleet.tally
        began = self._clock() if due is None else due
        await client.open()
        tally.connects += 1
        if began >= tally.measure_from:
            tally.connecting.record(self._clock() - began)
            tally.add_phases(client.timings)
        await client.close(CLOSE_TIMEOUT)


async def storm(plan: Plan, fleet: Fleet) -> None:
    """Cut all connections, or wait until the server does. Return when all clients are connected again."""
    connections, loop = fleet.connections, asyncio.get_running_loop()
    if plan.storm == CUT:
        lost = connections.lost + connections.standing
        cut_connections(loop)
    else:
        lost = connections.lost + 1
    quiet = 0.0
    while quiet < (0.0 if plan.storm == CUT else SETTLING) or connections.lost < lost or connections.missing:
        await asyncio.sleep(LOOK)
        quiet = 0.0 if connections.lost < lost or connections.missing else quiet + LOOK
