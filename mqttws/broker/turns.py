"""Scheduling of the broker's work: clients in time slices, and writes at the end of an iteration of the event loop.

Some packets cause a thousand times more work than others. Work is therefore shared by the time it takes, not by bytes:
a connection does what it can within a slice, and the rest waits in one queue. Each iteration of the event loop works on
this queue, slice by slice, for at most `_TURN` seconds. A connection that has caused little work recently is served
immediately even while others wait; see `Link`.

Writes are collected: a connection with output calls `soon` once, and all of them write at the end of the iteration,
each once. A message for a thousand subscribers, or a thousand messages for one subscriber, then cost one write per
connection. With a store they also cost one commit: all connections prepare, the store commits, all connections write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import perf_counter
from typing import Protocol

from mqttws.broker.notices import Notices
from mqttws.broker.persistence import Persistence
from mqttws.errors import StoreError

#: Seconds of one iteration of the event loop that all deferred work together may take.
_TURN = 0.008
#: The shortest slice in seconds. With a shorter one, switching would take most of the time.
_SLICE = 0.000_25


class Worker(Protocol):
    """An object with work that can be done in pieces."""

    def work(self, until: float) -> bool:
        """Work until the time `until` of `time.perf_counter`, or a little longer. Return whether there is more."""


class Writer(Protocol):
    """An object with output to write at the end of an iteration."""

    def prepare(self) -> None:
        """Make the state changes of the next `flush` that must be committed before it."""

    def flush(self) -> None:
        """Write."""


class Turns:
    """The scheduler of one event loop.

    Args:
        loop: The event loop.
        persistence: Its store is committed before anything is written; None if there is none.
        notices: The rate-limited log.

    Attributes:
        crowded: Whether deferred work waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, persistence: Persistence | None, notices: Notices) -> None:
        self._loop = loop
        self._persistence = persistence
        self._notices = notices
        self._workers: deque[Worker] = deque()
        self._writers: list[Writer] = []
        self.crowded = False

    def defer(self, worker: Worker) -> None:
        """Call the worker's `work` in later iterations until it returns False. Do not call this again before that."""
        if not self._workers:
            self._loop.call_soon(self._work)
        self._workers.append(worker)
        self.crowded = True

    def _work(self) -> None:
        workers = self._workers
        part = max(_SLICE, _TURN / len(workers))
        now = perf_counter()
        end = now + _TURN
        try:
            while workers and now < end:
                worker = workers[0]
                more = worker.work(now + part)
                workers.popleft()  # only now: an empty queue would make a `defer` during `work` schedule `_work` again
                if more:
                    workers.append(worker)
                now = perf_counter()
        finally:  # also after Ctrl-C: connections could not end otherwise, and `Hub.stop` waits for them
            self.crowded = bool(workers)
            if workers:
                self._loop.call_soon(self._work)

    def soon(self, writer: Writer) -> None:
        """Call the writer's `prepare` and `flush` at the end of this iteration. Call this once per iteration."""
        if not self._writers:
            self._loop.call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        if self._persistence is not None:
            for writer in writers:
                writer.prepare()
            # If this fails, each connection with output commits again in `flush` and closes if that fails, too.
            self.commit()
        for writer in writers:
            writer.flush()

    def commit(self) -> None:
        """Commit to the store, if there is one. A failure is logged, and the changes wait for the next commit."""
        if self._persistence is None:
            return
        try:
            self._persistence.commit()
        except StoreError as error:
            text = "messages are no longer acknowledged: %s"
            self._notices.log("the store failed", "", text, error, level=logging.ERROR)
        except Exception as error:
            text = "committing to the store failed"
            self._notices.log("the store failed", "", text, level=logging.ERROR, error=error)
