"""A budget of CONNECTs that the clients of one process share.

A server that restarts loses all of its clients in one moment, and those of one process come back in one moment. A
`ConnectBudget` schedules the attempts, so that no more than so many start per second, however many clients there
are::

    budget = ConnectBudget(500)
    clients = [mqttws.Client(url, connect_budget=budget) for _ in range(5_000)]

Clients in several processes cannot share one: for them `Reconnect.spread` draws the first wait at random.
"""

from __future__ import annotations

import os
import threading
import weakref

__all__ = ["ConnectBudget"]

_all: weakref.WeakSet[ConnectBudget] = weakref.WeakSet()


class ConnectBudget:
    """Turns to connect, so many a second. May be used by any number of clients, threads and event loops.

    Args:
        rate: attempts a second, above 0.
        burst: how many may start at the same time after a pause, at least 1.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        if not rate > 0:
            raise ValueError(f"rate is {rate}; it must be above 0 attempts a second")
        if not burst >= 1:
            raise ValueError(f"burst is {burst}; it must be at least 1")
        self.rate = rate
        self.burst = burst
        self._next = float("-inf")  # when the next turn is, if no turn is left out
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Make the lock anew: in a forked child the old one may be held by a thread that is not there."""
        self._lock = threading.Lock()

    def reserve(self, now: float) -> float:
        """Reserve the next turn.

        Args:
            now: seconds, of `time.monotonic`.

        Returns:
            When it is: `now`, or later.
        """
        with self._lock:  # a leaf: nothing is called while it is held
            turn = max(self._next, now - (self.burst - 1) / self.rate)
            self._next = turn + 1 / self.rate
        return max(turn, now)

    def __repr__(self) -> str:
        return f"<ConnectBudget of {self.rate:g} attempts a second, {self.burst} at once>"


def _renew_all() -> None:
    for budget in list(_all):
        budget.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
