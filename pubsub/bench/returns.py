"""How lost connections come back: the time of each, and the busiest second, without clients and clocks.

All processes of a machine share the monotonic clock, so the times of several can be merged. Attempts and returns are
counted in tenths of a second, so that memory does not grow with their number.
"""

from __future__ import annotations

from collections import Counter

from pubsub.bench.histogram import Histogram

#: Nanoseconds of one entry of the counts, and the entries of a second.
STEP, STEPS = 100_000_000, 10


class Returns:
    """The returns of lost connections.

    Attributes:
        times: The time from the loss of a connection until its client was connected again.
        first_lost: The time of the first loss, in nanoseconds; None if there was none.
        last_back: The time of the last return, in nanoseconds.
        attempts: The number of attempts to connect again, by their time.
        returns: The number of returns, by their time.
    """

    def __init__(self) -> None:
        self.times = Histogram()
        self.first_lost: int | None = None
        self.last_back = 0
        self.attempts: Counter[int] = Counter()
        self.returns: Counter[int] = Counter()

    def lost(self, now: int) -> None:
        """Count a loss."""
        if self.first_lost is None or now < self.first_lost:
            self.first_lost = now

    def tried(self, now: int) -> None:
        """Count an attempt of a client that was connected before."""
        self.attempts[now // STEP] += 1

    def back(self, lost_at: int, now: int) -> None:
        """Count a return."""
        self.times.record(now - lost_at)
        self.returns[now // STEP] += 1
        self.last_back = max(self.last_back, now)

    def merge(self, other: Returns) -> None:
        """Add those of another process."""
        self.times.merge(other.times)
        if other.first_lost is not None:
            self.lost(other.first_lost)
        self.last_back = max(self.last_back, other.last_back)
        self.attempts += other.attempts
        self.returns += other.returns

    @property
    def all_back(self) -> int:
        """The nanoseconds from the first loss to the last return; 0 if nothing returned."""
        return max(0, self.last_back - self.first_lost) if self.first_lost is not None else 0


def busiest(counts: Counter[int]) -> int:
    """Return the maximum count of a second, which begins with any tenth."""
    return max((sum(counts[step + more] for more in range(STEPS)) for step in list(counts)), default=0)
