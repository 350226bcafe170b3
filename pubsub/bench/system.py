"""The requirements of a run on the operating system: file descriptors, precise waits, and memory usage."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
from importlib import import_module
from typing import Any

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
    """Return an event loop with precise timers, for `asyncio.Runner`."""
    if not hasattr(selectors, "EpollSelector"):
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(_PunctualSelector())


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
