"""How tasks wait: for the next turn of the event loop, and each for a future with a time limit.

asyncio creates a timer for each time limit, and cancels nearly every one, which takes longer than the rest of a wait.
Here all waits of the same length share one timer. They are stored in the order in which they began, which is the order
of their deadlines, so only the first of them has to be examined.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextvars import Context
from typing import Any, Final

Future = asyncio.Future[Any]
Task = asyncio.Task[Any]
#: The task that waits, and its deadline; or the reason why the wait was ended, one of the two below.
Wait = tuple[Task | None, float]

#: The time was up.
EXPIRED: Final[Wait] = (None, 0.0)
#: The wait could never have ended.
HOPELESS: Final[Wait] = (None, 1.0)
#: The maximum number of lengths without a waiting task that are kept, with their timers.
IDLE_LENGTHS: Final = 8


class Turn:
    """Awaiting it runs what is already scheduled, as `asyncio.sleep(0)` does.

    The event loop makes one call for all tasks that wait, where it makes one for each that sleeps. To a task this is a
    future that cannot be cancelled: a cancelled task gets its `CancelledError` in the next turn, as from a sleep.

    Args:
        loop: The event loop of the tasks.
    """

    __slots__ = ("_asyncio_future_blocking", "_loop", "_tasks")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._tasks: list[tuple[Callable[[Any], object], Context]] = []  # how to continue each of them
        self._asyncio_future_blocking = False

    def __await__(self) -> Generator[Any, None, None]:
        self._asyncio_future_blocking = True  # the task that gets this sets it to False
        yield self

    # What a task calls.

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """See `asyncio.Future.get_loop`."""
        return self._loop

    def add_done_callback(self, fn: Callable[[Any], object], /, *, context: Context) -> None:
        """See `asyncio.Future.add_done_callback`."""
        if not self._tasks:
            self._loop.call_soon(self._continue)
        self._tasks.append((fn, context))

    def cancel(self, msg: Any = None) -> bool:
        """See `asyncio.Future.cancel`."""
        return False

    def result(self) -> None:
        """See `asyncio.Future.result`."""

    def _continue(self) -> None:
        tasks: list[tuple[Callable[[Any], object], Context]] = []
        try:
            tasks, self._tasks = self._tasks, tasks
            tasks.reverse()
            while tasks:
                fn, context = tasks.pop()
                context.run(fn, self)
        except BaseException:  # a task or a signal handler ends the loop, but it may run again
            self._tasks[:0] = reversed(tasks)
            self._loop.call_soon(self._continue)
            raise


class Waits:
    """The waits of one client, in one event loop."""

    def __init__(self) -> None:
        self._by_length: dict[float, dict[Future, Wait]] = {}
        self._timers: dict[float, asyncio.TimerHandle] = {}

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
            # No wait is left that does not end now. The caller of each still holds `waits`, and reads the reason there.
            del self._by_length[seconds], self._timers[seconds]
        for future in due:
            waits[future] = EXPIRED
            future.cancel()
