"""Whose turn it is: the work that clients ask for, in slices, and the writing at the end of a turn of the event loop.

A client asks for work with every packet, and some packets ask for a thousand times more than others. So work is shared
by the time it takes, not by the bytes that ask for it: a connection does what it can within a slice, and what is left
waits in one queue, from which each turn of the event loop takes slices in turn for at most `_TURN` seconds. While
others wait there, a connection that has lately asked for little is still served at once, see `Link`.

Writing takes turns as well: a connection that has something to send says so once (`soon`), and all that have write
at the end of the turn, each in one piece. A message for a thousand subscribers, or a thousand messages for one, so cost
one write a connection. With a store they also cost one commit: all prepare, the store makes it safe, all write.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import perf_counter
from typing import Protocol

from mqttws.errors import StoreError
from mqttws.protocol.store import Store

log = logging.getLogger("mqttws.broker")

#: Seconds of one turn of the event loop that all put-off work together may take.
_TURN = 0.008
#: The shortest slice, in seconds. A shorter one would go into the changing of turns.
_SLICE = 0.000_25


class Worker(Protocol):
    """What has work to do that can be done piece by piece."""

    def work(self, until: float) -> bool:
        """Work until a moment of `time.perf_counter`, or a little longer. Returns whether there is more to do."""


class Writer(Protocol):
    """What has something to write at the end of a turn."""

    def prepare(self) -> None:
        """Do what of the next `flush` has to be made safe."""

    def flush(self) -> None:
        """Write."""


class Turns:
    """The queue of one event loop.

    Args:
        loop: that event loop.
        store: committed before anything is written; None for none.

    Attributes:
        crowded: whether work waits.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, store: Store | None) -> None:
        self._loop = loop
        self._store = store
        self._workers: deque[Worker] = deque()
        self._writers: list[Writer] = []
        self.crowded = False

    def put_off(self, worker: Worker) -> None:
        """Let a worker go on in a later turn. It asks once, until its `work` has returned False."""
        if not self._workers:
            self._loop.call_soon(self._work)
        self._workers.append(worker)
        self.crowded = True

    def _work(self) -> None:
        workers = self._workers
        part = max(_SLICE, _TURN / len(workers))
        now = perf_counter()
        end = now + _TURN
        while workers and now < end:
            worker = workers[0]
            more = worker.work(now + part)
            workers.popleft()  # not before: whoever puts work off meanwhile must not schedule this a second time
            if more:
                workers.append(worker)
            now = perf_counter()
        self.crowded = bool(workers)
        if workers:
            self._loop.call_soon(self._work)

    def soon(self, writer: Writer) -> None:
        """Let a writer write at the end of this turn. It asks once a turn."""
        if not self._writers:
            self._loop.call_soon(self._flush)
        self._writers.append(writer)

    def _flush(self) -> None:
        writers, self._writers = self._writers, []
        if self._store is not None:
            for writer in writers:
                writer.prepare()
            # Those that have something to say now commit once more themselves, and end where that fails again.
            try:
                self._store.commit()
            except StoreError as error:
                log.error("nothing is acknowledged any more: %s", error)
            except Exception:
                log.exception("committing a turn failed")
        for writer in writers:
            writer.flush()
