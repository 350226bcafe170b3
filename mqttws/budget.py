"""A rate limit for connection attempts that the clients of one process share.

When a server restarts, all its clients lose their connections at the same time, and would also reconnect at the same
time. A `ConnectBudget` schedules the attempts of all clients that share it, so that their rate is limited::

    budget = ConnectBudget(500)
    clients = [mqttws.Client(url, connect_budget=budget) for _ in range(5_000)]

An attempt reserves a time and begins then. A busy process may be late, and would then begin many attempts at once. So
the attempts that have begun are counted as well, and if there are too many, an attempt reserves another time.

Clients in different processes cannot share a budget. For them `Reconnect.spread` makes the first delay random.
"""

from __future__ import annotations

import os
import weakref
from collections import deque

from mqttws.locks import AtomicLock

__all__ = ["ConnectBudget"]

#: The fraction by which reserved times are further apart than necessary, so that an attempt may be a little late.
_STEP_MARGIN = 0.01
#: The fraction by which the periods in which attempts are counted are longer: the time between the count of an attempt
#: and its first packet varies.
_COUNT_MARGIN = 0.005
#: Seconds by which a busy process may be late and then make several attempts at once.
_LATE = 0.05

_all: weakref.WeakSet[ConnectBudget] = weakref.WeakSet()


class ConnectBudget:
    """A limit on the attempts to connect per second, for any number of clients, threads and event loops.

    At most `rate` attempts, rounded down, and `burst - 1` begin in any second; at a rate below 1, `burst` in any
    `1 / rate` seconds.

    Args:
        rate: Attempts per second, 0.000001 to 1,000,000.
        burst: How many attempts may start at the same time after a pause, 1 to 1,000,000.

    Raises:
        ValueError: `rate` or `burst` is out of range.
    """

    def __init__(self, rate: float, burst: int = 1) -> None:
        if not 1e-6 <= rate <= 1e6:
            raise ValueError(f"rate is {rate}; it must be 0.000001 to 1,000,000 attempts per second")
        if not (isinstance(burst, int) and 1 <= burst <= 1_000_000):
            raise ValueError(f"burst is {burst}; it must be an integer from 1 to 1,000,000")
        self.rate = rate
        self.burst = burst
        self._step = (1 + _STEP_MARGIN) / rate  # seconds from one reserved time to the next
        self._next = float("-inf")  # the time after all reserved ones; it may be in the past
        self._again = float("-inf")  # the latest time that `begin` has reserved
        # (number of attempts, seconds in which they may begin): for late attempts, and for all.
        late, most = max(1, int(rate * _LATE)), max(1, int(rate))
        self._limits = [
            (burst - 1 + count, seconds * (1 + _COUNT_MARGIN))
            for count, seconds in ((late, late / rate), (most, max(1.0, 1 / rate)))
        ]
        self._begun: deque[float] = deque(maxlen=self._limits[-1][0])  # when the latest attempts began
        self.renew()
        _all.add(self)

    def renew(self) -> None:
        """Replace the lock. In a forked child process, a thread that does not exist there may hold the old one."""
        self._lock = AtomicLock()

    def reserve(self, now: float) -> float:
        """Reserve the time of the next attempt.

        Args:
            now: The current time in seconds, of `time.monotonic`.

        Returns:
            The reserved time: `now`, or later.
        """
        with self._lock:  # no other lock is taken while this one is held
            turn = max(self._next, now - (self.burst - 1) * self._step)
            self._next = turn + self._step
        return max(turn, now)

    def begin(self, now: float) -> float:
        """Begin an attempt at its reserved time, unless too many have begun within the last second.

        Args:
            now: The current time in seconds, of `time.monotonic`.

        Returns:
            `now`: the attempt is counted, and must begin immediately. A later time: it is reserved for the attempt.
        """
        with self._lock:
            begun = self._begun
            full = filter(lambda limit: len(begun) >= limit[0], self._limits)
            due = [begun[-most] + seconds for most, seconds in full]
            if max(due, default=now) > now:  # the earliest possible time, even if others have reserved later ones
                self._again = max(self._again + self._step, *due)
                return self._again
            begun.append(now)
            return now

    def __repr__(self) -> str:
        return f"<ConnectBudget of {self.rate:g} attempts per second, {self.burst} at once>"


def _renew_all() -> None:
    for budget in list(_all):
        budget.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
