"""The parameters of a run, and the time at which each of its messages is due.

With a rate, the time at which message k of the run is due depends only on k (`Schedule`). So messages that cannot be
sent in time are only counted, not stored, and get the time at which they were due when they are sent.
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

from mqttws import check_topic

#: The header of a payload: run, publisher, sequence, nanoseconds.
HEADER = struct.Struct("!4sIQq")

#: The placeholders of a topic for the number of a publisher and the id of the run.
NUMBER, RUN = "{n}", "{run}"
#: The distribution of the messages: each subscriber gets all, or the messages of each publisher go to one subscriber.
ALL, SHARE = "all", "share"
#: A reconnect storm: this command cuts all connections, or the user restarts the server.
CUT, RESTART = "cut", "restart"

SECOND = 1_000_000_000  # nanoseconds

_MIB = 1024 * 1024
MAX_SIZE = 32 * _MIB
#: The maximum bytes of payloads in flight, and of pairs of a publisher and a subscriber that are tracked.
MAX_UNDER_WAY = 1024 * _MIB
MAX_PAIRS = 1_000_000
#: The maximum number of gaps between received messages that are tracked.
MAX_GAPS = 1_000_000
MAX_CLIENTS = 100_000  # of one process
MAX_PROCESSES = 64
MAX_SECONDS = 86_400.0
MAX_RATE = 10_000_000.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters of a run.

    Attributes:
        publishers: The number of clients that publish.
        subscribers: The number of clients that subscribe.
        idle: The number of additional clients, which are connected and do nothing.
        qos: The QoS of messages and subscriptions.
        size: Bytes of a payload, at least those of the header.
        rate: Messages per second of all publishers together, above 0; None: as fast as possible.
        window: The maximum number of messages in flight of a publisher, 1 to 65,535.
        duration: Seconds to measure.
        warmup: Seconds of the same load before, which are not measured.
        drain: Seconds without a message that end the wait for messages in flight.
        topic: A Topic Name. Its level `NUMBER` is replaced by the number of the publisher, `RUN` by the id of the run.
        spread: `ALL` or `SHARE`.
        retain: Whether to publish retained messages. They are removed at the end.
        connect_rate: Connections to make per second, also of `churn`; None: as fast as possible.
        churn: The number of additional clients that connect and disconnect again and again.
        storm: `CUT` or `RESTART`: measure until all lost connections are back; None: for the whole duration.
        processes: The number of processes over which the clients are distributed, 1 to `MAX_PROCESSES`.
        run: The id of the run, 8 hexadecimal digits.

    Raises:
        ValueError: A parameter is out of its range, or contradicts another one.
        LocalProtocolError: The topic is not valid.
    """

    publishers: int = 1
    subscribers: int = 1
    idle: int = 0
    qos: int = 0
    size: int = 64
    rate: float | None = None
    window: int = 100
    duration: float = 10.0
    warmup: float = 0.0
    drain: float = 5.0
    topic: str = f"pubsub-bench/{RUN}/{NUMBER}"
    spread: str = ALL
    retain: bool = False
    connect_rate: float | None = None
    churn: int = 0
    storm: str | None = None
    processes: int = 1
    run: str = field(default_factory=lambda: os.urandom(4).hex())

    def __post_init__(self) -> None:
        if not HEADER.size <= self.size <= MAX_SIZE:
            raise ValueError(
                f"the size is {self.size:,} bytes; it must be {HEADER.size} (for the number and the time that each "
                f"message carries) to {MAX_SIZE:,}"
            )
        if not self.clients:
            raise ValueError("there is nothing to do: no publishers, no subscribers, no connections")
        if self.storm and self.clients == self.churn:
            raise ValueError("a storm needs clients that stay connected: publishers, subscribers or connections")
        if not 1 <= self.processes <= MAX_PROCESSES:
            raise ValueError(f"{self.processes:,} processes are requested; there must be 1 to {MAX_PROCESSES}")
        if self.clients > MAX_CLIENTS * self.processes:
            raise ValueError(f"{self.clients:,} connections are requested; one process makes at most {MAX_CLIENTS:,}")
        if not 1 <= self.window <= 65_535:
            raise ValueError(f"the window is {self.window:,}; it must be 1 to 65,535")
        if self.rate is not None and self.rate > MAX_RATE:
            raise ValueError(f"the rate is {self.rate:,g} messages per second; it must be at most {MAX_RATE:,.0f}")
        if self.warmup + self.duration > MAX_SECONDS:
            raise ValueError(f"warm-up and duration are longer than {MAX_SECONDS:,.0f} seconds")
        if self.publishers * self.window * self.size > MAX_UNDER_WAY:
            raise ValueError(
                f"{self.publishers:,} publishers with {self.window:,} messages of {self.size:,} bytes in flight could "
                f"need more than {MAX_UNDER_WAY // _MIB:,} MiB; use a smaller window or size"
            )
        self._check_topics()

    def _check_topics(self) -> None:
        levels = self.topic.split("/")
        if self.topic.count(NUMBER) != levels.count(NUMBER) or levels.count(NUMBER) > 1:
            raise ValueError(f"{NUMBER} must be one whole level of the topic, as in 'bench/{NUMBER}/load'")
        check_topic(self.topic_of(0))
        if self.spread == SHARE and NUMBER not in levels:
            raise ValueError(f"subscribers can share the messages only if the topic contains {NUMBER}")
        pairs = self.publishers * self.subscribers
        if self.spread == ALL and pairs > MAX_PAIRS:
            raise ValueError(
                f"{self.publishers:,} publishers to {self.subscribers:,} subscribers each are {pairs:,} pairs; at most "
                f"{MAX_PAIRS:,} are tracked. Let the subscribers share the messages, or use fewer"
            )

    @property
    def clients(self) -> int:
        """The number of connections."""
        return self.publishers + self.subscribers + self.idle + self.churn

    def topic_of(self, publisher: int) -> str:
        """Return the topic that a publisher publishes to."""
        return self.topic.replace(RUN, self.run).replace(NUMBER, str(publisher))

    @property
    def gaps(self) -> int:
        """The maximum number of gaps of a `Flow`, 1 to 256."""
        pairs = self.publishers * self.subscribers if self.spread == ALL else max(self.publishers, self.subscribers)
        return min(256, MAX_GAPS // max(1, pairs))

    def heard_by(self, subscriber: int) -> range:
        """Return the publishers whose messages a subscriber receives."""
        if self.spread == ALL:
            return range(self.publishers)
        if self.publishers >= self.subscribers:
            return range(subscriber, self.publishers, self.subscribers)
        return range(subscriber % self.publishers, subscriber % self.publishers + 1) if self.publishers else range(0)

    def filters_of(self, subscriber: int) -> list[str]:
        """Return the Topic Filters that a subscriber subscribes to."""
        if self.spread == ALL:
            return [self.topic.replace(RUN, self.run).replace(NUMBER, "+")]
        return [self.topic_of(publisher) for publisher in self.heard_by(subscriber)]

    def listeners(self, publishers: list[int], subscribers: list[int]) -> dict[int, int]:
        """Return how many of some subscribers receive the messages of each of some publishers."""
        if self.spread == ALL:
            return dict.fromkeys(publishers, len(subscribers))
        counts = dict.fromkeys(publishers, 0)
        for subscriber in subscribers:
            for number in self.heard_by(subscriber):
                if number in counts:
                    counts[number] += 1
        return counts

    def client_id(self, role: str, number: int) -> str:
        """Return a client identifier that every server must accept: at most 23 letters and digits.

        Spec: [MQTT-3.1.3-5]
        """
        return f"bench{self.run}{role}{number}"


class Schedule:
    """The times at which messages are due: message k of the run, counted from 0, k / rate seconds after the start.

    The publishers take turns: message k is published by that with turn k modulo their number. A process counts only the
    messages of its publishers.

    Args:
        start: The start in nanoseconds.
        rate: Messages per second of all publishers, above 0.
        publishers: The number of all publishers, at least 1.
        turns: The turns of the publishers of this process, in ascending order, at least one; None: all.
    """

    def __init__(self, start: int, rate: float, publishers: int, turns: Sequence[int] | None = None) -> None:
        self.start = start
        self.rate = rate
        self.publishers = publishers
        self.turns = range(publishers) if turns is None else turns

    def due_at(self, message: int) -> int:
        """Return the time at which a message of this process is due, in nanoseconds."""
        return self._time_of(self._number_of(message))

    def due_by(self, now: int) -> int:
        """Return the number of messages of this process that are due at a time."""
        if now < self.start:
            return 0
        count = int((now - self.start) * self.rate / SECOND)  # may differ from `_time_of` by one, because of rounding
        while self._time_of(count) <= now:
            count += 1
        while count and self._time_of(count - 1) > now:
            count -= 1
        rounds, rest = divmod(count, self.publishers)
        return rounds * len(self.turns) + bisect_left(self.turns, rest)

    def intended(self, index: int, sequence: int) -> int:
        """Return the time at which a publisher's message is due, in nanoseconds.

        Args:
            index: The index of the publisher among those of this process.
            sequence: The number of the message among those of the publisher, 0 for the first.
        """
        return self._time_of(sequence * self.publishers + self.turns[index])

    def _number_of(self, message: int) -> int:
        """Return the number in the run of a message of this process."""
        rounds, index = divmod(message, len(self.turns))
        return rounds * self.publishers + self.turns[index]

    def _time_of(self, number: int) -> int:
        return self.start + int(number * SECOND / self.rate)
