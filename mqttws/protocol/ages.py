"""The ages of queued messages: since when each has waited to be sent, and when it expires.

Tokens increase, and messages leave the queue in token order, so entries for tokens below the first queued one are
obsolete and are dropped from the left. A time is recorded for a single message only if its age matters: if the message
can expire, or a store keeps it. For all others, each turn records the time for the last token in the queue. That is
exact to one turn and costs nothing per message.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from mqttws.codec.packet import Value
from mqttws.hints import inf


class Age(Value):
    """When a message was published, and how long it may wait.

    Attributes:
        now: When it was published, in seconds of the clock of `now`.
        wall: The same moment in seconds since 1970, for a later process.
        seconds: How many seconds it may wait to be sent, above 0; infinity for no limit.
    """

    __slots__ = ("now", "seconds", "wall")
    __match_args__ = ("now", "wall", "seconds")

    def __init__(self, now: float, wall: float, seconds: float = inf) -> None:
        self.now = now
        self.wall = wall
        self.seconds = seconds


class Ages:
    """The ages of the messages in one queue."""

    __slots__ = ("_due", "_ends", "_marks")

    def __init__(self) -> None:
        # (token, time): all messages up to the token had been queued by that time. Both values increase.
        self._marks: deque[tuple[int, float]] = deque()
        # Token -> expiry time, in token order. A plain dict would scan all deleted entries to find its first key.
        self._ends: OrderedDict[int, float] = OrderedDict()
        # A heap of (expiry time, token) with the same entries, and some that `_ends` no longer contains.
        self._due: list[tuple[float, int]] = []

    def mark(self, last: int, now: float) -> None:
        """Record that all messages up to the token `last` are queued now."""
        if not self._marks or self._marks[-1][0] < last:
            self._marks.append((last, now))

    def add(self, token: int, since: float, seconds: float) -> None:
        """Record since when the last queued message has waited, and how many seconds it may; infinity: no limit."""
        self.mark(token, since)
        if seconds != inf:
            self._ends[token] = since + seconds
            heappush(self._due, (since + seconds, token))

    def forget(self, first: int | None) -> None:
        """Drop the entries of all messages before the token `first`, which is the first queued; None: drop all."""
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
        """The time since which the first message has waited; None if it was queued in this turn."""
        return self._marks[0][1] if self._marks else None

    @property
    def next_end(self) -> float | None:
        """The time at which the next message expires; None if none does."""
        due = self._due
        while due and due[0][1] not in self._ends:
            heappop(due)
        return due[0][0] if due else None

    def expired(self, now: float) -> set[int]:
        """Return the tokens of expired messages. Some of these may have left the queue already."""
        end = self.next_end
        if end is None or end > now:
            return set()
        return {token for token, end in self._ends.items() if end <= now}

    def drop(self, tokens: Iterable[int]) -> None:
        """Drop the expiry times of messages that have left the queue."""
        for token in tokens:
            self._ends.pop(token, None)

    def each(self, tokens: Iterable[int]) -> Iterator[tuple[float, float] | None]:
        """Yield since when each message has waited, and how many seconds it may; None if that is unknown.

        Args:
            tokens: The tokens of queued messages, in increasing order.
        """
        marks = iter(self._marks)
        mark = next(marks, None)
        for token in tokens:
            while mark is not None and mark[0] < token:
                mark = next(marks, None)
            since = None if mark is None else mark[1]
            yield None if since is None else (since, self._ends.get(token, inf) - since)
