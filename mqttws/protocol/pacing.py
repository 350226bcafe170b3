"""A rate kept by a token bucket, with the time as an argument."""

from __future__ import annotations

__all__ = ["TokenBucket"]


class TokenBucket:
    """Tokens that come at a fixed rate, up to a bound; whatever is limited takes one for each of its steps.

    Args:
        rate: tokens a second, above 0.
        burst: how many tokens there are at most, above 0; there are as many in the beginning.
    """

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        if not (rate > 0 and burst > 0):
            raise ValueError(f"rate is {rate} and burst {burst}; both must be above 0")
        self.rate = rate
        self.burst = burst
        self._tokens = burst
        self._at: float | None = None  # when they were counted; None: never

    def available(self, now: float) -> float:
        """Return how many tokens there are; below 0 where more were spent than there were.

        Args:
            now: seconds, of any clock that does not go back.
        """
        if self._at is not None and now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now if self._at is None else max(self._at, now)
        return self._tokens

    def take(self, now: float, count: float = 1.0) -> bool:
        """Take tokens if there are that many. Return whether there were."""
        if self.available(now) < count:
            return False
        self._tokens -= count
        return True

    def spend(self, now: float, count: float = 1.0) -> None:
        """Take tokens whether they are there or not; what is missing, at most `burst`, has to come first."""
        self._tokens = max(-self.burst, self.available(now) - count)

    def ready_at(self, now: float, count: float = 1.0) -> float:
        """Return when there will be so many tokens, at most `burst`, if none are taken until then."""
        missing = min(count, self.burst) - self.available(now)
        return now if missing <= 0 else now + missing / self.rate
