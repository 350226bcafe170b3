"""What a run needs from the operating system: descriptors, short waits, and resource usage."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys
from importlib import import_module
from typing import Any

try:
    resource: Any = import_module("resource")
except ModuleNotFoundError:  # Windows, which has no limit of open sockets that a process could raise
    resource = None

#: Descriptors for all but the connections: the standard streams, the event loop, the resolver, a plot.
SPARE = 64


def ask_for_descriptors(connections: int) -> None:
    """Raise the limit of open files as far as so many connections need.

    Raises:
        OSError: The system allows fewer; says how many, and what to do.
    """
    if resource is None:
        return
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise OSError(
            f"{connections:,} connections need {needed:,} open files, and this process may have at most {hard:,}: "
            f"raise the hard limit ('ulimit -Hn', or LimitNOFILE of systemd), or ask for at most "
            f"{max(0, hard - SPARE):,}"
        )
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    except (OSError, ValueError) as error:
        raise OSError(f"{connections:,} connections need {needed:,} open files: {error}") from None


def make_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop whose short waits are short; for `asyncio.Runner`."""
    if not hasattr(selectors, "EpollSelector"):
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(_PunctualSelector())


if hasattr(selectors, "EpollSelector"):

    class _PunctualSelector(selectors.EpollSelector):
        """Waits with a resolution of microseconds.

        `epoll_wait` knows whole milliseconds, and is given the next greater one: a message would leave up to 1 ms
        behind its schedule. `select` knows microseconds, and can wait for the descriptor of an epoll.
        """

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait for events."""
            descriptor = self.fileno()
            if timeout is not None and timeout > 0 and descriptor < 1024:
                select.select([descriptor], [], [], timeout)
                timeout = 0.0
            return super().select(timeout)


def peak_memory() -> int:
    """The greatest resident set of this process so far, in bytes; 0 where the system does not say."""
    if resource is None:
        return 0
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
