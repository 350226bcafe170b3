"""The tasks that wait for an outcome: each for so many seconds at most.

asyncio makes a timer for each wait, and nearly every one is cancelled again; that takes longer than the rest of a wait.
Here all waits of one length share a timer: they are kept in the order in which they began, which is that of their
deadlines, so that only the first of them has to be examined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any, Final

Future = asyncio.Future[Any]
Task = asyncio.Task[Any]
#: Who waits, and until when; or why the wait was ended.
Wait = tuple[Task | None, float]

#: The time was up.
EXPIRED: Final[Wait] = (None, 0.0)
#: It could never have ended.
HOPELESS: Final[Wait] = (None, 1.0)
#: Lengths of which no task waits and that are remembered with their timers.
IDLE_LENGTHS: Final = 8


class _NextTurn:
    """Lets all that was to be called soon have its turn: `asyncio.sleep(0)` without its coroutine."""

    def __await__(self) -> Generator[None, None, None]:
        yield


NEXT_TURN: Final = _NextTurn()


class Waits:
    """The waits of one client, in one event loop."""

    def __init__(self) -> None:
        self._by_length: dict[float, dict[Future, Wait]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}

    def clear(self) -> None:
        """Forget all of them: the event loop is another one from now on."""
        self._by_length.clear()
        self._timers.clear()

    def begin(self, future: Future, seconds: float, loop: asyncio.AbstractEventLoop) -> dict[Future, Wait]:
        """Note that the current task waits for a future, which is cancelled when the time is up.

        Returns:
            The waits of this length, from which the caller takes its own when it is over.
        """
        waits = self._by_length.get(seconds)
        if waits is None:
            waits = self._begin_length(seconds, loop)
        waits[future] = asyncio.current_task(loop), loop.time() + seconds
        return waits

    def tasks(self) -> list[tuple[Future, Task]]:
        """Return what is waited for, and by whom."""
        return [
            (future, task)
            for waits in self._by_length.values()
            for future, (task, _) in waits.items()
            if task is not None
        ]

    def end(self, future: Future) -> None:
        """End the wait for a future: it is `HOPELESS`."""
        for waits in self._by_length.values():
            if future in waits:
                waits[future] = HOPELESS
        future.cancel()

    def _begin_length(self, seconds: float, loop: asyncio.AbstractEventLoop) -> dict[Future, Wait]:
        idle = [length for length, waits in self._by_length.items() if not waits]
        if len(idle) >= IDLE_LENGTHS:
            for length in idle:
                del self._by_length[length]
                self._timers.pop(length).cancel()
        waits = self._by_length[seconds] = {}
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
            # No task waits that is not ended now; those that are still have to learn why.
            del self._by_length[seconds], self._timers[seconds]
        for future in due:
            waits[future] = EXPIRED
            future.cancel()
