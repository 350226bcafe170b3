"""The requirements of a run on the operating system: file descriptors, precise waits, and memory usage."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
import weakref
from collections.abc import Callable
from importlib import import_module
from typing import Any

from pubsub.bench.histogram import Histogram

try:
    resource: Any = import_module("resource")
except ModuleNotFoundError:  # Windows, where a process has no limit of open sockets to raise
    resource = None

#: Descriptors besides those of connections: the standard streams, the event loop, the resolver, a plot.
SPARE = 64


def ask_for_descriptors(connections: int) -> None:
    """Raise the limit of open files, if a number of connections needs that.

    Raises:
        OSError: The system allows fewer. The message contains the limit and the remedy.
    """
    if resource is None:
        return
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(
            f"{connections:,} connections need {needed:,} open files, but this process may have at most {hard:,}: "
            f"raise the hard limit ('ulimit -Hn', or LimitNOFILE of systemd), or use at most "
            f"{max(0, hard - SPARE):,} connections"
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        raise OSError(f"{connections:,} connections need {needed:,} open files: {error}") from None


def make_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop with precise timers whose connections can be cut, for `asyncio.Runner`."""
    return _Loop(_PunctualSelector()) if hasattr(selectors, "EpollSelector") else _Loop()


def cut_connections(loop: asyncio.AbstractEventLoop) -> None:
    """Close all connections that were made with a loop of `make_loop`, without a word to their peers."""
    assert isinstance(loop, _Loop)
    for transport in list(loop.transports):
        transport.abort()


class _Loop(asyncio.ProactorEventLoop if sys.platform == "win32" else asyncio.SelectorEventLoop):  # type: ignore[misc]
    """The event loop of the system, which keeps a list of its connections.

    Attributes:
        transports: The transports of the connections.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.transports: weakref.WeakSet[Any] = weakref.WeakSet()

    async def create_connection(self, *arguments: Any, **options: Any) -> Any:
        """See `asyncio.loop.create_connection`."""
        made = await super().create_connection(*arguments, **options)
        self.transports.add(made[0])
        return made

    async def create_unix_connection(self, *arguments: Any, **options: Any) -> Any:
        """See `asyncio.loop.create_unix_connection`."""
        made = await super().create_unix_connection(*arguments, **options)
        self.transports.add(made[0])
        return made


if hasattr(selectors, "EpollSelector"):

    class _PunctualSelector(selectors.EpollSelector):
        """A selector whose time-outs have a resolution of microseconds.

        The time-out of `epoll_wait` is in whole milliseconds, rounded up, so a message would be sent up to 1 ms late.
        `select` has microseconds, and can wait for the descriptor of an epoll.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait for events."""
            descriptor = self.fileno()
            if timeout is not None and timeout > 0 and descriptor < 1024:
                select.select([descriptor], [], [], timeout)
                timeout = 0.0
            return super().select(timeout)


def peak_memory() -> int:
    """Return the maximum resident set size of this process so far, in bytes; 0 if unknown."""
    if resource is None:
        return 0
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def waited_for_processor() -> float | None:
    """Return the seconds for which this thread was ready to run and had no processor; None if unknown.

    It is the main thread of a process, which runs the event loop. Linux counts this in `/proc/self/schedstat`.
    """
    try:
        with open("/proc/self/schedstat") as file:
            return int(file.read().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


class DelaySampler:
    """Measures by how much the event loop is late: a timer is due every `PERIOD`, and runs later.

    If the loop is busy for longer, each time that was due meanwhile counts, so that a long pause counts in full.

    Args:
        clock: Returns the time in nanoseconds.

    Attributes:
        histogram: The delays in nanoseconds.
    """

    #: Nanoseconds between two samples.
    PERIOD = 10_000_000

    def __init__(self, clock: Callable[[], int]) -> None:
        self.histogram = Histogram()
        self._clock = clock
        self._due = 0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start to measure."""
        self._due = self._clock() + self.PERIOD
        self._set_timer()

    def stop(self) -> None:
        """Stop to measure."""
        if self._timer is not None:
            self._timer.cancel()

    def take(self) -> None:
        """Record the samples that are due."""
        now = self._clock()
        while self._due <= now:
            self.histogram.record(now - self._due)
            self._due += self.PERIOD

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(loop.time() + (self._due - self._clock()) / 1e9, self._sample)

    def _sample(self) -> None:
        self.take()
        self._set_timer()
