"""Publishers and subscribers of `pubsub bench`, with a fake client and a fake clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import LocalProtocolError, Publish, State
from pubsub.bench.fleet import Connections, Watch
from pubsub.bench.plan import HEADER, SHARE, Plan, Schedule
from pubsub.bench.system import DelaySampler
from pubsub.bench.workers import MAX_REASON, Flow, Publisher, Subscriber, Tally, Turns

MS = 1_000_000
SECOND = 1_000 * MS
RUN = "0a0b0c0d"


class Clock:
    """A clock that the test sets; it starts at one second, so that 0 is never right by chance."""

    def __init__(self) -> None:
        self.now = SECOND

    def __call__(self) -> int:
        return self.now


class Promise:
    """A future that the test settles."""

    def __init__(self) -> None:
        self._call: Callable[[Any], None] | None = None
        self._error: Exception | None = None

    def add_done_callback(self, call: Callable[[Any], None]) -> None:
        self._call = call

    def exception(self) -> Exception | None:
        return self._error

    def settle(self, error: Exception | None = None) -> None:
        self._error = error
        assert self._call is not None
        self._call(self)


class Stage:
    """A client that queues messages until the test, in the role of the server, takes them."""

    def __init__(self, **options: Any) -> None:
        self.plan = Plan(run=RUN, **({"publishers": 1, "subscribers": 1, "qos": 1} | options))
        self.clock = Clock()
        self.tally = Tally()
        self.waiting: list[tuple[bytes, Promise]] = []
        self.publishers = [
            Publisher(number, self, self.tally, self.clock, self.plan) for number in range(self.plan.publishers)
        ]
        self.subscriber = Subscriber(0, self.plan.heard_by(0), self.tally, self.clock, self.plan)

    def publish_nowait(self, topic: str, payload: bytes, qos: int, retain: bool) -> Promise:
        self.waiting.append((payload, Promise()))
        return self.waiting[-1][1]

    def serve(self) -> None:
        """Acknowledge and deliver all published messages, including those published in consequence."""
        while self.waiting:
            payload, promise = self.waiting.pop(0)
            promise.settle()
            self.subscriber.take(Publish("t", payload))

    def turns(self, seconds: float) -> Turns:
        assert self.plan.rate is not None
        schedule = Schedule(self.clock.now, self.plan.rate, len(self.publishers))
        return Turns(schedule, self.publishers, self.clock.now + int(seconds * SECOND))


def payload(sequence: int, publisher: int = 0, stamp: int = SECOND, run: str = RUN) -> bytes:
    return HEADER.pack(bytes.fromhex(run), publisher, sequence, stamp)


# --- coordinated omission ---


def test_a_stall_counts_for_every_delayed_message() -> None:
    """1,000 messages a second, and a server that stalls for one of two seconds.

    All 1,000 messages of the stall had to wait: 1,000 ms, 999 ms, 998 ms and so on. A generator that measured from the
    time of the hand-over would find only ten slow messages, the size of the window.
    """
    stage = Stage(rate=1_000.0, window=10)
    turns = stage.turns(2.0)
    for _ in range(1_000):  # the first second: each message is served immediately
        turns.release(stage.clock.now)
        stage.serve()
        stage.clock.now += MS
    for _ in range(1_000):  # the stall
        turns.release(stage.clock.now)
        stage.clock.now += MS
    assert len(stage.waiting) == 10  # the window; the other due messages take no memory
    assert stage.publishers[0].backlog == 990
    stage.serve()
    latency = stage.tally.take_recent()
    assert stage.tally.published == stage.tally.delivered == latency.count == 2_000
    assert latency.greatest == SECOND
    assert latency.total == sum(range(1, 1_001)) * MS
    assert latency.quantile(0.75) == pytest.approx(500 * MS, rel=0.005)
    assert stage.tally.acknowledgement.total == latency.total
    assert stage.tally.lag.total == sum(range(1, 991)) * MS  # all but those sent in time within the window


def test_a_stall_of_the_generator_itself_counts_too() -> None:
    stage = Stage(rate=1_000.0, window=1_000)
    turns = stage.turns(1.0)
    stage.clock.now += SECOND // 2
    assert turns.release(stage.clock.now) == stage.clock.now + MS  # the next message
    stage.serve()
    assert stage.tally.lag.count == 501
    assert stage.tally.take_recent().greatest == SECOND // 2


def test_each_time_that_a_busy_loop_misses_is_a_sample() -> None:
    clock = Clock()
    sampler = DelaySampler(clock)

    async def sampled(count: int) -> list[tuple[int, int, int]]:
        async with asyncio.timeout(30):
            while sampler.histogram.count < count:
                await asyncio.sleep(0)
        return list(sampler.histogram.buckets())

    async def main() -> None:
        sampler.start()
        for number in (1, 2, 3):
            clock.now += 10 * MS
            assert await sampled(number) == [(0, 0, number)]
        clock.now += 35 * MS
        late = [
            sum(count for least, most, count in await sampled(6) if least <= delay * MS <= most)
            for delay in (5, 15, 25)
        ]
        assert late == [1, 1, 1]
        sampler.stop()
        clock.now += 5 * MS
        sampler.take()
        assert sampler.histogram.count == 7

    asyncio.run(main())


def test_without_a_rate_latency_counts_from_the_hand_over() -> None:
    stage = Stage(window=10)
    [publisher] = stage.publishers
    publisher.limit = None
    publisher.step()
    assert publisher.under_way == 10
    stage.clock.now += SECOND
    publisher.step()  # the window is full
    publisher.stop()
    stage.serve()
    latency = stage.tally.take_recent()
    assert (latency.count, latency.least, latency.greatest) == (10, SECOND, SECOND)
    assert stage.tally.lag.count == 0


def test_the_warm_up_is_sent_and_not_measured() -> None:
    stage = Stage(rate=10.0)
    stage.tally.measure_from = stage.clock.now + SECOND
    turns = stage.turns(2.0)
    stage.clock.now += 2 * SECOND
    assert turns.release(stage.clock.now) is None
    stage.serve()
    assert (stage.tally.published, stage.tally.delivered) == (20, 20)
    assert stage.tally.take_recent().count == stage.tally.acknowledgement.count == stage.tally.lag.count == 10


# --- the schedule ---


@given(st.floats(0.01, 1e6), st.integers(0, 1_000_000), st.integers(0, 10**12))
def test_the_schedule_counts_what_it_names(rate: float, message: int, start: int) -> None:
    schedule = Schedule(start, rate, 1)
    due = schedule.due_at(message)
    assert schedule.due_by(due) >= message + 1
    assert schedule.due_by(due - 1) <= message
    assert schedule.due_by(start - 1) == 0


@given(st.integers(1, 20), st.integers(1, 300), st.integers(1, 5))
def test_the_publishers_take_turns_and_none_is_due_beyond_the_end(publishers: int, rate: int, seconds: int) -> None:
    stage = Stage(publishers=publishers, rate=float(rate), window=2_000)
    start = stage.clock.now
    turns = stage.turns(seconds)
    following: int | None = start
    while following is not None:
        stage.clock.now = following
        following = turns.release(following)
    stage.clock.now += SECOND
    assert turns.release(stage.clock.now) is None
    headers = [HEADER.unpack(payload) for payload, _ in stage.waiting]
    assert [(publisher, sequence) for _, publisher, sequence, _ in headers] == [
        (message % publishers, message // publishers) for message in range(rate * seconds)
    ]
    assert [stamp for *_, stamp in headers] == [start + int(k * 1e9 / rate) for k in range(rate * seconds)]


@given(st.integers(1, 7), st.lists(st.integers(0, 400 * MS), max_size=8))
def test_after_stalls_each_publisher_has_sent_its_messages_in_order(publishers: int, stalls: list[int]) -> None:
    stage = Stage(publishers=publishers, rate=100.0, window=1_000)
    turns = stage.turns(1.0)
    for stall in [*stalls, 2 * SECOND]:
        stage.clock.now += stall
        turns.release(stage.clock.now)
    by_publisher: dict[int, list[int]] = {number: [] for number in range(publishers)}
    for data, _ in stage.waiting:
        _, publisher, sequence, _ = HEADER.unpack(data)
        by_publisher[publisher].append(sequence)
    for number, sequences in by_publisher.items():
        assert sequences == list(range(len(range(number, 100, publishers))))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["connecting", "connected", "disconnected"], (0, 0, 0)),  # closed by the client
        (["connecting", "disconnected!"], (0, 0, 0)),  # never connected: reported by the attempt
        (["connected", "disrupted!", "reconnecting", "connecting", "connected"], (1, 1, 0)),
        (["connected", "disrupted!", "reconnecting", "disrupted!", "connected", "disrupted!"], (2, 1, 0)),
        (["connected", "disrupted!", "reconnecting", "disconnected!"], (1, 0, 1)),
        (["connected", "disconnected!"], (1, 0, 1)),
    ],
)
def test_the_outcomes_of_connections_are_counted(names: list[str], expected: tuple[int, int, int]) -> None:
    connections = Connections()
    tally, clock = Tally(), Clock()
    watch = Watch(connections, tally, clock)
    for name in names:
        clock.now += SECOND
        watch(State(name.rstrip("!"), error=OSError("gone") if name.endswith("!") else None))
    assert (connections.lost, connections.reconnected, connections.ended) == expected
    assert tally.returns.times.count == connections.reconnected
    assert connections.missing == (names[-1] == "disrupted!")


def test_an_ended_client_is_not_used_again() -> None:
    stage = Stage(window=3)
    [publisher] = stage.publishers
    publisher.limit = None
    publisher.step()
    for _, promise in list(stage.waiting):
        promise.settle(OSError("gone"))
    assert len(stage.waiting) == 3
    assert (stage.tally.published, stage.tally.failed, stage.tally.reasons) == (3, 3, {"gone": 3})


@pytest.mark.parametrize("sent", [0, 2, 3])
def test_at_qos_0_the_last_message_of_a_burst_speaks_for_all(sent: int) -> None:
    """They are written in order. If the client gives up, each counts by its future."""
    stage = Stage(window=3, qos=0)
    [publisher] = stage.publishers
    publisher.limit = 6
    publisher.step()
    promises = [promise for _, promise in stage.waiting]
    for promise in promises[sent:]:
        promise._error = OSError("gone")
    promises[-1].settle(promises[-1]._error)
    tally = stage.tally
    assert (tally.acknowledged, tally.failed) == (sent, 3 - sent)
    assert tally.reasons == ({"gone": 3 - sent} if sent < 3 else {})
    assert tally.published == (6 if sent == 3 else 3)  # the next burst, unless the client has given up
    assert tally.acknowledgement.count == 0


# --- lost, late and duplicate messages ---


def kinds(sequences: list[int], gaps: int = 1_000) -> list[int]:
    flow = Flow(gaps)
    return [flow.take(sequence) for sequence in sequences]


@pytest.mark.parametrize(
    ("sequences", "expected"),
    [
        ([0, 1, 2], [0, 0, 0]),
        ([0, 0], [0, 2]),
        ([2, 0, 1, 1], [0, 1, 1, 2]),
        ([0, 9, 5, 4, 6, 5], [0, 0, 1, 1, 1, 2]),
    ],
)
def test_lost_late_and_duplicate_numbers_are_classified(sequences: list[int], expected: list[int]) -> None:
    assert kinds(sequences) == expected


@given(st.lists(st.integers(0, 30), max_size=100))
def test_a_flow_agrees_with_a_set(sequences: list[int]) -> None:
    seen: set[int] = set()
    for sequence, kind in zip(sequences, kinds(sequences), strict=True):
        expected = 2 if sequence in seen else 1 if seen and sequence < max(seen) else 0
        assert kind == expected
        seen.add(sequence)


@given(st.lists(st.integers(0, 100), max_size=200), st.integers(1, 5))
def test_a_bounded_flow_never_hides_a_loss(sequences: list[int], gaps: int) -> None:
    flow = Flow(gaps)
    new = sum(flow.take(sequence) != 2 for sequence in sequences)
    assert new <= len(set(sequences))
    assert len(flow._gaps) <= gaps


def test_a_subscriber_counts_only_its_messages_of_this_run() -> None:
    stage = Stage(publishers=4, subscribers=2, spread=SHARE)
    tally, take = stage.tally, stage.subscriber.take
    for sequence in (0, 1, 3, 2, 2):
        take(Publish("t", payload(sequence, publisher=2)))
    assert (tally.delivered, tally.out_of_order, tally.duplicated, tally.foreign) == (4, 1, 1, 0)
    for message in (
        Publish("t", b""),
        Publish("t", payload(0)[:-1]),
        Publish("t", payload(0, run="00000000")),
        Publish("t", payload(0, publisher=1)),  # for the other subscriber
        Publish("t", payload(0, publisher=1 << 31)),
        Publish("t", payload(9), retain=True),
    ):
        take(message)
    assert (tally.delivered, tally.foreign) == (4, 6)


def test_reasons_of_a_peer_are_escaped_and_bounded() -> None:
    tally = Tally()
    tally.blame("\x1b[2J\r\u202e" + "x" * 10_000)
    for number in range(1_000):
        tally.blame(f"reason {number}")
    tally.blame(TimeoutError())
    assert all(reason.isprintable() for reason in tally.reasons)
    assert max(map(len, tally.reasons)) < 2 * MAX_REASON
    assert (len(tally.reasons), sum(tally.reasons.values())) == (11, 1_002)


# --- plans ---


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 23}, "it must be 24"),
        ({"size": 1 << 30}, "size"),
        ({"publishers": 0, "subscribers": 0}, "nothing to do"),
        ({"idle": 1_000_000}, "at most 100,000"),
        ({"window": 0}, "window"),
        ({"window": 65_536}, "window"),
        ({"duration": 1e9}, "longer"),
        ({"rate": 1e12}, "rate"),
        ({"publishers": 1_000, "size": 100_000}, "smaller window"),
        ({"publishers": 5_000, "subscribers": 5_000}, "pairs"),
        ({"topic": "a/b{n}"}, "whole level"),
        ({"topic": "{n}/{n}"}, "whole level"),
        ({"topic": "a", "spread": SHARE}, "share"),
    ],
)
def test_an_invalid_plan_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Plan(**options)


@pytest.mark.parametrize("topic", ["a/#", "+/{n}", ""])
def test_an_invalid_topic_is_refused(topic: str) -> None:
    with pytest.raises(LocalProtocolError):
        Plan(topic=topic)


def test_topics_and_filters() -> None:
    everyone = Plan(publishers=3, subscribers=2, topic="x/{n}/{run}", run=RUN)
    assert everyone.topic_of(2) == f"x/2/{RUN}"
    assert everyone.filters_of(1) == [f"x/+/{RUN}"]
    assert Plan(topic="one").filters_of(0) == ["one"]
    shared = Plan(publishers=5, subscribers=2, topic="x/{n}", spread=SHARE)
    assert [shared.filters_of(number) for number in (0, 1)] == [["x/0", "x/2", "x/4"], ["x/1", "x/3"]]
    crowded = Plan(publishers=2, subscribers=3, topic="x/{n}", spread=SHARE)
    assert [crowded.filters_of(number) for number in range(3)] == [["x/0"], ["x/1"], ["x/0"]]
    assert Plan(publishers=0, topic="x/{n}", spread=SHARE).filters_of(0) == []


def test_client_identifiers_are_valid_at_every_server() -> None:
    plan = Plan()
    assert Plan().run != plan.run
    for role in "spc":
        name = plan.client_id(role, 99_999)
        assert name.isascii()
        assert name.isalnum()
        assert len(name) <= 23
