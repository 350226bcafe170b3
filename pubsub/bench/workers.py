"""The publishers and subscribers of a run, and the counts of a process, without sockets, event loops or clocks.

A payload begins with a header: the run, the publisher, the number of the message, and the time from which its latency
counts. With a schedule that is the time at which the message was *due*, even if it was published later. So a stall of
any part counts in full for every message that it delays, which avoids "coordinated omission". Without a schedule it is
the time of the call of publish.

Memory does not grow with the number of messages. Messages that are due and not sent are represented by two numbers; the
messages that a subscriber has received from a publisher by a number and the gaps below it (`Flow`).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from mqttws import Publish, Timings
from pubsub.bench.histogram import Histogram
from pubsub.bench.plan import HEADER, SECOND, Plan, Schedule
from pubsub.bench.returns import Returns

#: The maximum number of different reasons, and of characters of each.
MAX_REASONS, MAX_REASON = 10, 200

_NEW, _LATE, _AGAIN = range(3)


class Publishing(Protocol):
    """The interface of a client for a publisher."""

    def publish_nowait(self, topic: str, payload: bytes, qos: int, retain: bool) -> Any:
        """Publish; return a future."""


class Tally:
    """The counts of all workers of a process, or of a run.

    Attributes:
        published: The number of published messages.
        acknowledged: Of these, those that were delivered to the server with their QoS; at QoS 0, to the network.
        failed: Of these, those whose client gave up.
        delivered: The number of deliveries: a message counts once for each subscriber.
        duplicated: The number of repeated deliveries.
        out_of_order: The number of deliveries after a later message of the same publisher.
        foreign: The number of received messages that are not from this run, or were retained.
        latency: The time from that in the header to the delivery.
        acknowledgement: The time from that in the header to the acknowledgement; not at QoS 0.
        lag: The time from that at which a message was due to its call of publish.
        connecting: The time from the start of connecting, or from when it was due, to the CONNACK.
        phases: The phases of connecting, by their names in `mqttws.Timings`.
        connects: The number of connections of clients that connect again and again.
        returns: How lost connections came back.
        recent: The latencies since the last `take_recent`.
        reasons: The reason of a failure -> the number of its occurrences.
        over: Whether the clients are being closed. Messages that fail after that count as not acknowledged.
        measure_from: A time in nanoseconds. Latencies of messages with an earlier time in the header do not count.
    """

    def __init__(self) -> None:
        self.over = False
        self.measure_from = 0
        self.published = self.acknowledged = self.failed = 0
        self.delivered = self.duplicated = self.out_of_order = self.foreign = 0
        self.latency, self.acknowledgement = Histogram(), Histogram()
        self.lag, self.connecting, self.recent = Histogram(), Histogram(), Histogram()
        self.phases = {name: Histogram() for name in Timings.__match_args__}
        self.connects = 0
        self.returns = Returns()
        self.reasons: dict[str, int] = {}

    def add_phases(self, timings: Timings | None) -> None:
        """Count how long each phase of connecting took."""
        if timings is not None:
            for name, phase in self.phases.items():
                seconds: float | None = getattr(timings, name)
                if seconds is not None:
                    phase.record(int(seconds * SECOND))

    def merge(self, other: Tally) -> None:
        """Add the counts of another process."""
        for name, value in vars(other).items():
            mine = getattr(self, name)
            if isinstance(value, (Histogram, Returns)):
                mine.merge(value)
            elif name not in ("over", "measure_from", "reasons", "phases"):
                setattr(self, name, mine + value)
        for name, phase in other.phases.items():
            self.phases[name].merge(phase)
        for reason, count in other.reasons.items():
            self._count_reason(reason, count)

    def take_recent(self) -> Histogram:
        """Return the latencies since the last call, and add them to `latency`."""
        recent, self.recent = self.recent, Histogram()
        self.latency.merge(recent)
        return recent

    def blame(self, error: object) -> None:
        """Count the reason of a failure. It may contain text of a peer, so unprintable characters are escaped."""
        text = str(error) or type(error).__name__
        reason = "".join(
            character if character.isprintable() else character.encode("unicode_escape").decode()
            for character in text[:MAX_REASON]
        )
        self._count_reason(reason, 1)

    def _count_reason(self, reason: str, count: int) -> None:
        if reason not in self.reasons and len(self.reasons) >= MAX_REASONS:
            reason = "other reasons"
        self.reasons[reason] = self.reasons.get(reason, 0) + count


class Publisher:
    """One publisher.

    Args:
        number: Its number, in the header of its messages and in its topic.
        client: The client.
        tally: The counts.
        clock: Returns the time in nanoseconds.
        plan: The plan of the run.
        padding: The bytes after the header.

    Attributes:
        sequence: The number of messages that it has published.
        limit: The number of messages that are due so far; None: limited only by the window.
        under_way: The number of its messages in flight.
        intended: Returns the time at which one of its messages is due, by its sequence; None: when it is published.
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
        """The number of messages that are due and not published yet."""
        return 0 if self.limit is None else self.limit - self.sequence

    def step(self) -> None:
        """Publish the messages that are due, as far as the window allows."""
        written: list[Any] = []
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
            if self._qos:
                future.add_done_callback(partial(self._settled, stamp))
            else:
                written.append(future)
        if written:  # they are written in order, so the last one speaks for all: a callback for each costs more
            written[-1].add_done_callback(partial(self._written, written))

    def stop(self) -> None:
        """Publish no more messages."""
        self.limit = self.sequence

    def _written(self, futures: list[Any], last: Any) -> None:
        """Count messages of QoS 0."""
        tally = self._tally
        self.under_way -= len(futures)
        if last.exception() is None:
            tally.acknowledged += len(futures)
            self.step()
        elif not tally.over:
            for future in futures:
                error = future.exception()
                if error is None:
                    tally.acknowledged += 1
                else:
                    tally.failed += 1
                    tally.blame(error)
            self.stop()  # the client has given up

    def _settled(self, stamp: int, future: Any) -> None:
        tally = self._tally
        self.under_way -= 1
        error = future.exception()
        if error is None:
            tally.acknowledged += 1
            if stamp >= tally.measure_from:
                tally.acknowledgement.record(self._clock() - stamp)
            self.step()
        elif not tally.over:
            tally.failed += 1
            tally.blame(error)
            self.stop()  # the client has given up


class Flow:
    """The messages that one subscriber has received from one publisher.

    Args:
        gaps: The maximum number of gaps. Beyond it the messages of the oldest gap count as lost, even if they arrive.
    """

    __slots__ = ("_gaps", "_max_gaps", "_next")

    def __init__(self, gaps: int) -> None:
        self._max_gaps = gaps
        self._next = 0
        self._gaps: list[tuple[int, int]] = []  # (start, end), end exclusive, in ascending order

    def take(self, sequence: int) -> int:
        """Record a message. Return whether it is new, new and late, or repeated."""
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
        """Remove a number from its gap. Return whether it was in one."""
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
        number: Its number.
        heard: The publishers whose messages it receives.
        tally: The counts.
        clock: Returns the time in nanoseconds.
        plan: The plan of the run.
    """

    def __init__(self, number: int, heard: range, tally: Tally, clock: Callable[[], int], plan: Plan) -> None:
        self.number = number
        self.heard = heard
        self._flows: dict[int, Flow] = {}
        self._tally = tally
        self._clock = clock
        self._run = bytes.fromhex(plan.run)
        self._gaps = plan.gaps

    def take(self, message: Publish) -> None:
        """Count a received message."""
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
    """The publishing of messages by a schedule; the publishers take turns.

    Args:
        schedule: The schedule of the run.
        publishers: The publishers of this process, in the order of their turns.
        end: A time in nanoseconds. Messages that are due then or later are not part of the run.

    Attributes:
        released: The number of messages that have become due.
    """

    def __init__(self, schedule: Schedule, publishers: Sequence[Publisher], end: int) -> None:
        self.released = 0
        self._schedule = schedule
        self._publishers = publishers
        self._end = end
        for index, publisher in enumerate(publishers):
            publisher.intended = partial(schedule.intended, index)

    def release(self, now: int) -> int | None:
        """Publish the messages that are due. Return the time of the next call in nanoseconds; None if there is none."""
        due, turns = self._schedule.due_by(min(now, self._end - 1)), len(self._publishers)
        for message in range(self.released, min(due, self.released + turns)):  # each publisher at most once
            turn = message % turns
            publisher = self._publishers[turn]
            publisher.limit = (due - turn + turns - 1) // turns
            publisher.step()
        self.released = due
        following = self._schedule.due_at(due)
        return following if following < self._end else None
