"""The publishers and subscribers of a run, and their counts, without sockets, event loops or clocks.

A payload begins with a header: the run, the publisher, the number of the message among the publisher's, and the time
from which its latency counts. Where there is a schedule that is the time at which the message was *due*, however
late it was handed over: a stall, of whichever part, counts in full for every message that it held up ("coordinated
omission"). Where there is none it is the time of the hand-over.

Memory does not grow with the messages: what is due and not sent is two numbers, and what a subscriber has had from a
publisher is a number and the gaps below it (`Flow`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from mqttws import Publish
from pubsub.bench.histogram import Histogram
from pubsub.bench.plan import HEADER, Plan, Schedule

#: How many different reasons are kept, and how much of each.
MAX_REASONS, MAX_REASON = 10, 200

_NEW, _LATE, _AGAIN = range(3)


class Publishing(Protocol):
    """What a publisher needs of a client."""

    def publish_nowait(self, topic: str, payload: bytes, qos: int, retain: bool) -> Any:
        """Publish; return a future."""


class Tally:
    """What a run has counted, of all its workers.

    Attributes:
        published: Messages handed to the clients.
        acknowledged: Of them, those that have reached the server as their QoS promises; at QoS 0, the network.
        failed: Of them, those whose client gave up.
        delivered: Messages that came to a subscriber, each counted once for each subscriber.
        duplicated: Those that came once more.
        out_of_order: Those that arrived after a later one of the same publisher.
        foreign: Received messages that are not from this run, or were retained.
        latency: From the time in the header to the subscriber.
        acknowledgement: From the same time to the acknowledgement; not at QoS 0.
        lag: From the time at which a message was due until it was handed over.
        connecting: From the first step of connecting to the CONNACK.
        recent: Latencies since `take_recent`.
        reasons: What went wrong -> how often.
        over: Whether the clients are being closed: what fails from then on counts as not acknowledged.
        measure_from: Latencies of messages that are stamped with an earlier time do not count, in nanoseconds.
    """

    def __init__(self) -> None:
        self.over = False
        self.measure_from = 0
        self.published = self.acknowledged = self.failed = 0
        self.delivered = self.duplicated = self.out_of_order = self.foreign = 0
        self.latency, self.acknowledgement = Histogram(), Histogram()
        self.lag, self.connecting, self.recent = Histogram(), Histogram(), Histogram()
        self.reasons: dict[str, int] = {}

    def take_recent(self) -> Histogram:
        """Return the latencies since the last time, and count them into all."""
        recent, self.recent = self.recent, Histogram()
        self.latency.merge(recent)
        return recent

    def blame(self, error: object) -> None:
        """Count a reason; what stands in it may be a peer's words, and is made harmless to a terminal."""
        text = str(error) or type(error).__name__
        reason = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in text[:MAX_REASON]
        )
        if reason not in self.reasons and len(self.reasons) >= MAX_REASONS:
            reason = "other reasons"
        self.reasons[reason] = self.reasons.get(reason, 0) + 1


class Publisher:
    """One publisher.

    Args:
        number: In the header of its messages, and in its topic.
        client: A client.
        tally: To count in.
        clock: Returns the time in nanoseconds.
        plan: Of the run.
        padding: What follows the header.

    Attributes:
        sequence: How many messages it has handed over.
        limit: How many it may, by now; None: as many as the window has space for.
        under_way: How many of them are not settled.
        intended: Gives the time at which a message of it is due, by its sequence; None: when it is handed over.
    """

    def __init__(
        self, number: int, client: Publishing, tally: Tally, clock: Callable[[], int], plan: Plan, padding: bytes = b""
    ) -> None:
        self.number = number
        self.sequence = self.under_way = 0
        self.limit: int | None = 0
        self.intended: Callable[[int], int] | None = None
        self._topic = plan.topic_of(number)
        self._client = client
        self._tally = tally
        self._clock = clock
        self._run = bytes.fromhex(plan.run)
        self._qos, self._retain, self._window = plan.qos, plan.retain, plan.window
        self._padding = padding

    @property
    def backlog(self) -> int:
        """How many messages are due and not handed over."""
        return 0 if self.limit is None else self.limit - self.sequence

    def step(self) -> None:
        """Publish the messages that are due, as far as the window allows."""
        while self.under_way < self._window and (self.limit is None or self.sequence < self.limit):
            now = self._clock()
            stamp = now if self.intended is None else self.intended(self.sequence)
            payload = HEADER.pack(self._run, self.number, self.sequence, stamp) + self._padding
            self.sequence += 1
            self.under_way += 1
            self._tally.published += 1
            if self.intended is not None and stamp >= self._tally.measure_from:
                self._tally.lag.record(now - stamp)
            future = self._client.publish_nowait(self._topic, payload, self._qos, self._retain)
            future.add_done_callback(partial(self._settled, stamp))

    def stop(self) -> None:
        """Hand over nothing more."""
        self.limit = self.sequence

    def _settled(self, stamp: int, future: Any) -> None:
        tally = self._tally
        self.under_way -= 1
        error = future.exception()
        if error is None:
            tally.acknowledged += 1
            if self._qos and stamp >= tally.measure_from:
                tally.acknowledgement.record(self._clock() - stamp)
            self.step()
        elif not tally.over:
            tally.failed += 1
            tally.blame(error)
            self.stop()  # its client is at its end


class Flow:
    """What one subscriber has had from one publisher.

    Args:
        gaps: How many are remembered. Beyond, what was missing longest counts as lost, even if it comes yet.
    """

    __slots__ = ("_gaps", "_max_gaps", "_next")

    def __init__(self, gaps: int) -> None:
        self._max_gaps = gaps
        self._next = 0
        self._gaps: list[tuple[int, int]] = []  # from, to (exclusive): jumped over, rising

    def take(self, sequence: int) -> int:
        """Note a message. Return whether it is new, new and late, or here again."""
        if sequence == self._next:
            self._next += 1
            return _NEW
        if sequence > self._next:
            self._gaps.append((self._next, sequence))
            self._next = sequence + 1
            self._forget()
            return _NEW
        return _LATE if self._fill(sequence) else _AGAIN

    def _fill(self, sequence: int) -> bool:
        """Take a number out of the gap that it is in. Return whether it is in one."""
        index = bisect_right(self._gaps, sequence, key=lambda gap: gap[0]) - 1
        if index < 0 or sequence >= self._gaps[index][1]:
            return False
        start, end = self._gaps[index]
        rests = [(start, sequence), (sequence + 1, end)]
        self._gaps[index : index + 1] = [rest for rest in rests if rest[0] < rest[1]]
        self._forget()
        return True

    def _forget(self) -> None:
        if len(self._gaps) > self._max_gaps:
            del self._gaps[0]


class Subscriber:
    """One subscriber.

    Args:
        heard: The publishers whose messages it is to get.
        tally: To count in.
        clock: Returns the time in nanoseconds.
        plan: Of the run.
    """

    def __init__(self, heard: range, tally: Tally, clock: Callable[[], int], plan: Plan) -> None:
        self.heard = heard
        self._flows: dict[int, Flow] = {}
        self._tally = tally
        self._clock = clock
        self._run = bytes.fromhex(plan.run)
        self._gaps = plan.gaps

    def take(self, message: Publish) -> None:
        """Take a message."""
        tally, payload = self._tally, message.payload
        if len(payload) < HEADER.size or message.retain:  # a retained one was published before this subscription
            tally.foreign += 1
            return
        run, publisher, sequence, stamp = HEADER.unpack_from(payload)
        flow = self._flows.get(publisher)
        if run != self._run or (flow is None and publisher not in self.heard):
            tally.foreign += 1
            return
        if flow is None:
            flow = self._flows[publisher] = Flow(self._gaps)
        kind = flow.take(sequence)
        if kind == _AGAIN:
            tally.duplicated += 1
            return
        if kind == _LATE:
            tally.out_of_order += 1
        tally.delivered += 1
        if stamp >= tally.measure_from:
            tally.recent.record(self._clock() - stamp)


class Turns:
    """Lets publishers hand over what a schedule says is due.

    Args:
        schedule: Of the run.
        publishers: In turn.
        end: Nanoseconds; what is due from then on is not part of the run.

    Attributes:
        released: How many messages have become due.
    """

    def __init__(self, schedule: Schedule, publishers: Sequence[Publisher], end: int) -> None:
        self.released = 0
        self._schedule = schedule
        self._publishers = publishers
        self._end = end
        for turn, publisher in enumerate(publishers):
            publisher.intended = partial(schedule.intended, turn)

    def release(self, now: int) -> int | None:
        """Publish the messages that are due. Return the time in nanoseconds of the next call; None: no more."""
        due, turns = self._schedule.due_by(min(now, self._end - 1)), len(self._publishers)
        for message in range(self.released, min(due, self.released + turns)):  # each publisher at most once
            turn = message % turns
            publisher = self._publishers[turn]
            publisher.limit = (due - turn + turns - 1) // turns
            publisher.step()
        self.released = due
        following = self._schedule.due_at(due)
        return following if following < self._end else None
