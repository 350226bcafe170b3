"""How long messages wait to be sent: since when, and until when at most.

Tokens rise, and messages leave the queue in their order. So what is noted of those before the first that waits is of no
use any more, and all of it is dropped from the left. The time is noted for a message only where its age matters (it is
to expire, or to outlive the process); for all others it is noted at each turn for the last one that is there, which is
exact to a turn and costs a message nothing.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple


class Age(NamedTuple):
    """When a message was published, and how long it may wait.

    Attributes:
        now: when: seconds of the clock of `now`.
        wall: the same moment in seconds since 1970, for the next process.
        seconds: how long it may wait to be sent, above 0; infinity for no limit.
    """

    now: float
    wall: float
    seconds: float = inf


class Ages:
    """The ages of the messages that wait in one queue."""

    __slots__ = ("_due", "_ends", "_marks")

    def __init__(self) -> None:
        self._marks: deque[tuple[int, float]] = deque()  # a token, and when all up to it were there; both rise
        # By token, in their order: when each expires. A dict looks for its first key past all that are gone.
        self._ends: OrderedDict[int, float] = OrderedDict()
        self._due: list[tuple[float, int]] = []  # a heap of the same, and of some that are gone

    def mark(self, last: int, now: float) -> None:
        """Note that all messages up to a token wait now."""
        if not self._marks or self._marks[-1][0] < last:
            self._marks.append((last, now))

    def add(self, token: int, since: float, seconds: float) -> None:
        """Record when the last message was published, and how long it may wait; infinity for no limit."""
        self.mark(token, since)
        if seconds != inf:
            self._ends[token] = since + seconds
            heappush(self._due, (since + seconds, token))

    def forget(self, first: int | None) -> None:
        """Drop the entries of messages before the first queued one; None: of all messages."""
        marks, ends = self._marks, self._ends
        if first is None:
            marks.clear()
            ends.clear()
        else:
            while marks and marks[0][0] < first:
                marks.popleft()
            while ends and (token := next(iter(ends))) < first:
                del ends[token]
        if len(self._due) > 2 * len(ends) + 8:
            self._due = [(end, token) for token, end in ends.items()]
            heapify(self._due)

    @property
    def oldest(self) -> float | None:
        """Since when the first message has waited; None if it was queued in this turn."""
        return self._marks[0][1] if self._marks else None

    @property
    def next_end(self) -> float | None:
        """When the next message expires; None for never."""
        due = self._due
        while due and due[0][1] not in self._ends:
            heappop(due)
        return due[0][0] if due else None

    def take_over(self, now: float) -> set[int]:
        """Take the tokens of the messages that have expired; some may wait no more."""
        tokens: set[int] = set()
        while (end := self.next_end) is not None and end <= now:
            token = heappop(self._due)[1]
            del self._ends[token]
            tokens.add(token)
        return tokens

    def each(self, tokens: Iterable[int]) -> Iterator[tuple[float, float] | None]:
        """Return of each message since when it has waited, and how long it may; None if that is not known.

        Args:
            tokens: rising.
        """
        marks = iter(self._marks)
        mark = next(marks, None)
        for token in tokens:
            while mark is not None and mark[0] < token:
                mark = next(marks, None)
            since = None if mark is None else mark[1]
            yield None if since is None else (since, self._ends.get(token, inf) - since)
