"""A rate limit for connection attempts that the clients of one process share.

When a server restarts, all its clients lose their connections at the same time, and would also reconnect at the same
time. A `ConnectBudget` schedules the attempts of all clients that share it, so that their rate is limited::

    budget = ConnectBudget(500)
    clients = [mqttws.Client(url, connect_budget=budget) for _ in range(5_000)]

Clients in different processes cannot share a budget. For them `Reconnect.spread` makes the first delay random.
"""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["ConnectBudget"]

_all: weakref.WeakSet[ConnectBudget] = weakref.WeakSet()


class ConnectBudget:
    """A limit on the attempts to connect per second, for any number of clients, threads and event loops.

    Args:
        rate: Attempts per second, above 0.
        burst: How many attempts may start at the same time after a pause, at least 1.

    Raises:
        ValueError: `rate` or `burst` is out of range.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        if not rate > 0:
            raise ValueError(f"rate is {rate}; it must be above 0 attempts per second")
        if not burst >= 1:
            raise ValueError(f"burst is {burst}; it must be at least 1")
        self.rate = rate
        self.burst = burst
        self._next = float("-inf")  # the time after all reserved ones; it may be in the past
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Replace the lock. In a forked child process, a thread that does not exist there may hold the old one."""
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Reserve the time of the next attempt.

        Args:
            now: The current time in seconds, of `time.monotonic`.

        Returns:
            The reserved time: `now`, or later.
        """
        with self._lock:  # no other lock is taken while this one is held
            turn = max(self._next, now - (self.burst - 1) / self.rate)
            self._next = turn + 1 / self.rate
        return max(turn, now)

    def __repr__(self) -> str:
        return f"<ConnectBudget of {self.rate:g} attempts per second, {self.burst} at once>"


def _renew_all() -> None:
    for budget in list(_all):
        budget.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
