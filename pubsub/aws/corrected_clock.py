"""A clock that is corrected by the `Date` of a server, for machines whose clock is wrong.

AWS refuses a signature whose date is off by more than five minutes, and its refusal contains the correct time. The
difference is stored and applied from then on. The machine's clock is not changed.

A server that returns another time with each refusal must not cause endless attempts, so the offset is not changed again
for some time. But connections can share a clock, and requests that were dated just before the correction are refused
just after it. So the number of further attempts that are allowed is the number of such requests.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from pubsub.owned_lock import OwnedLock

__all__ = ["CorrectedClock", "read_date"]

_MOST_DATED = 100


def read_date(text: str | None) -> datetime | None:
    """Return the `Date` of an HTTP response; None if it is missing or not valid."""
    try:
        read = None if text is None else parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # OverflowError: a number beyond those of C
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read


class CorrectedClock:
    """A clock with an offset that is determined from the `Date` of a server.

    Args:
        clock: Returns this machine's time in seconds since 1970.
        skew: Seconds; smaller differences are ignored.
        pause: Seconds after a correction in which the offset is not changed again.
        monotonic: Returns a monotonic time in seconds, for the pause.

    Attributes:
        offset: Seconds to add to this machine's time.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.time,
        *,
        skew: float = 300.0,
        pause: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._skew = skew
        self._pause = pause
        self._monotonic = monotonic
        self._lock: Any = OwnedLock()
        self._corrected_at: float | None = None
        self._dated: deque[float] = deque(maxlen=_MOST_DATED)  # the times of `date` since the last correction
        self._overtaken = 0  # the number of requests that were dated just before the last correction
        self.offset = 0.0

    def now(self) -> datetime:
        """Return the corrected time."""
        return datetime.fromtimestamp(self._clock() + self.offset, UTC)

    def date(self) -> datetime:
        """Return the time for the date of a request, and record that a request was dated."""
        with self._lock:
            self._dated.append(self._monotonic())
            return self.now()

    def off_by(self, date: datetime) -> float:
        """Return the seconds by which this clock, as corrected, is ahead of a server's date."""
        return (self.now() - date).total_seconds()

    def is_off(self, date: datetime) -> bool:
        """Return whether that is more than the skew."""
        return abs(self.off_by(date)) > self._skew

    def correct(self, date: datetime) -> bool:
        """Correct the offset by a server's date, if it differs by more than the skew.

        Args:
            date: The date of the refusal of a request.

        Returns:
            Whether the offset has changed since that request was dated, so that another attempt is worthwhile.
        """
        with self._lock:
            now = self._monotonic()
            lately = self._corrected_at is not None and now - self._corrected_at < self._pause
            if not self.is_off(date):
                if lately and self._overtaken:
                    self._overtaken -= 1
                    return True
                return False
            if lately:
                return False
            self._corrected_at = now
            self.offset -= self.off_by(date)
            self._overtaken = max(0, sum(now - dated < self._pause for dated in self._dated) - 1)
            self._dated.clear()
            return True
