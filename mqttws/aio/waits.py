"""Waits with a time limit: each task waits for one future, for a number of seconds at most.

asyncio creates a timer for each such wait, and cancels nearly every one, which takes longer than the rest of a wait.
Here all waits of the same length share one timer. They are stored in the order in which they began, which is the order
of their deadlines, so only the first of them has to be examined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from math import inf
from typing import Any, Final

Future = asyncio.Future[Any]
Task = asyncio.Task[Any]
#: The task that waits, and its deadline; or the reason why the wait was ended, one of the two below.
Wait = tuple[Task | None, float]

#: The time was up.
EXPIRED: Final[Wait] = (None, 0.0)
#: The wait could never have ended.
HOPELESS: Final[Wait] = (None, 1.0)
#: The maximum number of lengths without a waiting task that are kept, with their timers, beyond the number of lengths
#: that were in use when idle ones were last removed.
IDLE_LENGTHS: Final = 8


class _NextTurn:
    """Awaiting it runs what is already scheduled, as `asyncio.sleep(0)` does, but without a coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        yield


NEXT_TURN: Final = _NextTurn()


class Waits:
    """The waits of one client, in one event loop."""

    def __init__(self) -> None:
        self._by_length: dict[float, dict[Future, Wait]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}
        self._most_lengths = IDLE_LENGTHS  # with so many, the idle ones are removed before another is added

    def clear(self) -> None:
        """Forget all waits, because the client is used in another event loop from now on."""
        self._by_length.clear()
        self._timers.clear()

    def begin(
        self, future: Future, seconds: float, loop: asyncio.AbstractEventLoop, task: Task | None
    ) -> dict[Future, Wait]:
        """Register that a task waits for a future, which is cancelled when the time is up.

        Returns:
            The waits of this length, from which the caller removes this one when it is over.
        """
        waits = self._by_length.get(seconds)
        if waits is None:
            waits = self._begin_length(seconds, loop)
        waits[future] = task, loop.time() + seconds
        return waits

    def tasks(self) -> list[tuple[Future, Task]]:
        """Return the futures that are waited for, each with the task that waits."""
        return [
            (future, task)
            for waits in self._by_length.values()
            for future, (task, _) in waits.items()
            if task is not None
        ]

    def end(self, future: Future) -> None:
        """End the wait for a future with the reason `HOPELESS`."""
        for waits in self._by_length.values():
            if future in waits:
                waits[future] = HOPELESS
        future.cancel()

    def _begin_length(self, seconds: float, loop: asyncio.AbstractEventLoop) -> dict[Future, Wait]:
        if len(self._by_length) >= self._most_lengths:
            for length in [length for length, waits in self._by_length.items() if not waits]:
                del self._by_length[length]
                if length in self._timers:
                    self._timers.pop(length).cancel()
            # More than twice as many as now: so each length is examined a constant number of times on average, also if
            # all are in use because each wait has a length of its own.
            self._most_lengths = 2 * len(self._by_length) + IDLE_LENGTHS
        waits = self._by_length[seconds] = {}
        if seconds != inf:  # the loop would keep the timer, and with it the client, until it ends itself
            self._timers[seconds] = loop.call_later(seconds, self._expire, seconds, loop)
        return waits

    def _expire(self, seconds: float, loop: asyncio.AbstractEventLoop) -> None:
        """End the waits of a length whose time is up, and set the timer for the next one."""
        now, due = loop.time(), list[Future]()
        waits = self._by_length[seconds]
        for future, (task, deadline) in waits.items():
            if task is not None:
                if deadline > now:
                    self._timers[seconds] = loop.call_at(deadline, self._expire, seconds, loop)
                    break
                due.append(future)
        else:
            # No wait is left that does not end now. The caller of each still holds `waits`, and reads the reason there.
            del self._by_length[seconds], self._timers[seconds]
        for future in due:
            waits[future] = EXPIRED
            future.cancel()
