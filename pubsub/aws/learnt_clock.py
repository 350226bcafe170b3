"""A clock that is put right by what a server's `Date` says, for machines whose own clock is wrong.

AWS refuses a signature whose date is more than five minutes off, and its refusal carries the right time.  So the
difference is learnt from that, once, and counts from then on.  The machine's own clock is not touched.

The one idea: a server that gives another time at each refusal must not make us try for ever.  So after something was
learnt, nothing more is for a while.  But several connections may share a clock, and what they had dated just before
the lesson is refused just after it: as many more attempts are worth while as there were such dates.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["LearntClock", "read_date"]

_MOST_DATED = 100


def read_date(text: str | None) -> datetime | None:
    """Read the `Date` of an HTTP response; None where there is none, or it is none."""
    try:
        read = None if text is None else parsedate_to_datetime(text)
    except ValueError:
        return None
    return read.replace(tzinfo=UTC) if read is not None and read.tzinfo is None else read


class LearntClock:
    """A clock, with an offset that is learnt.

    Args:
        clock: Gives this machine's time in seconds since 1970.
        skew: Seconds; a smaller difference is none, and nothing is learnt from it.
        pause: Seconds after something was learnt in which nothing more is.
        monotonic: Gives seconds that only go forward, for the pause.

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
        self._lock = threading.Lock()
        self._learnt_at: float | None = None
        self._dated: deque[float] = deque(maxlen=_MOST_DATED)  # when, since the last lesson
        self._overtaken = 0  # how many dates the last lesson came too late for
        self.offset = 0.0

    def now(self) -> datetime:
        """Return the time, as far as it is known."""
        return datetime.fromtimestamp(self._clock() + self.offset, UTC)

    def date(self) -> datetime:
        """Return the time for a request that is to be dated, and remember that one was."""
        with self._lock:
            self._dated.append(self._monotonic())
            return self.now()

    def off_by(self, date: datetime) -> float:
        """Return by how many seconds this clock, with what it has learnt, is ahead of a server's date."""
        return (self.now() - date).total_seconds()

    def is_off(self, date: datetime) -> bool:
        """Return whether that is more than the skew."""
        return abs(self.off_by(date)) > self._skew

    def learn(self, date: datetime) -> bool:
        """Take a server's date for the right time, where it differs by more than the skew.

        Args:
            date: That of the refusal of a request.

        Returns:
            Whether something was learnt since that request was dated: then another one is worth while.
        """
        with self._lock:
            now = self._monotonic()
            lately = self._learnt_at is not None and now - self._learnt_at < self._pause
            if not self.is_off(date):
                if lately and self._overtaken:
                    self._overtaken -= 1
                    return True
                return False
            if lately:
                return False
            self._learnt_at = now
            self.offset -= self.off_by(date)
            self._overtaken = max(0, sum(now - dated < self._pause for dated in self._dated) - 1)
            self._dated.clear()
            return True
