"""The token bucket, and pacing of a client with a server that drops messages beyond its rate."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import (
    ClientMachine,
    ConnAck,
    Connect,
    Decoder,
    Message,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    Session,
    SubAck,
    TokenBucket,
)

STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), max_size=60)


@given(st.floats(0.5, 50), st.floats(1, 20), STEPS)
def test_no_interval_has_more_than_the_rate_and_the_burst(
    rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 1_000.0, []
    for pause, count in steps:
        now += pause
        if bucket.take(now, count):
            taken.append((now, count))
    for index, (start, _) in enumerate(taken):
        total = 0
        for at, count in taken[index:]:
            total += count
            assert total <= burst + (at - start) * rate + 1e-6


@given(st.floats(0.5, 50), st.floats(1, 20), STEPS)
def test_the_predicted_time_of_tokens_is_right(rate: float, burst: float, steps: list[tuple[float, int]]) -> None:
    bucket, now = TokenBucket(rate, burst), 5.0
    for pause, count in steps:
        now += pause
        bucket.spend(now, count)
        ready = bucket.ready_at(now)
        assert ready >= now
        assert bucket.available(ready) >= min(1.0, burst) - 1e-6
        if ready > now:
            assert TokenBucket(rate, burst).ready_at(now) == now
        now = ready


def test_a_debt_is_bounded_and_time_is_monotonic() -> None:
    bucket = TokenBucket(10, 2)
    for _ in range(100):
        bucket.spend(0.0)
    assert bucket.available(0.0) == -2
    assert bucket.ready_at(0.0) == pytest.approx(0.3)
    assert not bucket.take(0.2)
    assert bucket.available(0.1) == bucket.available(0.2)
    assert bucket.take(0.31)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_invalid_rates_are_refused(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst)


# --- pacing of a client ---


class Throttling:
    """A server that takes so many messages a second, in and out together, and drops the others without a word.

    While it is `busy` it reads nothing; what has been sent arrives when it is not any more. A `hasty` one answers the
    PINGREQ that it reads first, and everything else in the next step.
    """

    def __init__(self, machine: ClientMachine, rate: float, deaf: bool = False, hasty: bool = False) -> None:
        self.machine, self.deaf, self._hasty = machine, deaf, hasty
        self.bucket = TokenBucket(rate, rate)
        self.taken: list[Publish] = []
        self.dropped: list[Publish] = []
        self.pings = 0
        self.busy = False
        self._arrived = b""
        self._late: list[Packet] = []
        self._decoder = Decoder()

    def step(self, now: float) -> None:
        """Let the client do what is due, and answer it."""
        while True:
            if (deadline := self.machine.next_deadline()) is not None and deadline <= now:
                self.machine.handle_timeout(now)
            sent = b"".join(iter(lambda: self.machine.data_to_send(now), b""))
            self._arrived += sent
            if self.busy or not (self._arrived or self._late):
                return
            arrived, self._arrived = self._arrived, b""
            packets = self._late + self._decoder.feed(arrived)
            self._late = []
            for packet in packets:
                if self._hasty and PingReq() in packets and not isinstance(packet, PingReq):
                    self._late.append(packet)
                else:
                    self._answer(packet, now)

    def _answer(self, packet: Packet, now: float) -> None:
        if isinstance(packet, PingReq):
            self.pings += 1
            self.machine.receive_data(PingResp().encode(), now)
        elif isinstance(packet, Publish) and (not self.bucket.take(now) or self.deaf):
            self.dropped.append(packet)
        elif isinstance(packet, Publish):
            self.taken.append(packet)
            if packet.packet_id is not None:
                self.machine.receive_data(PubAck(packet.packet_id).encode(), now)

    def run(self, start: float, end: float, until: int = 10**9) -> float:
        """Advance the time from deadline to deadline. Return the time of the end."""
        now = start
        while now < end:
            self.step(now)
            if len({packet.payload for packet in self.taken}) >= until:
                break
            deadline = self.machine.next_deadline()
            now = end if deadline is None else max(deadline, now + 1e-6)
        return now


def connected(session: Session, now: float = 0.0, **options: float | None) -> ClientMachine:
    machine = ClientMachine(Connect("c", True, 0), session, **options)  # type: ignore[arg-type]
    machine.start(now)
    machine.data_to_send(now)
    machine.receive_data(ConnAck(0).encode(), now)
    return machine


def test_three_hundred_messages_take_three_seconds_and_none_is_dropped() -> None:
    session = Session()
    machine = connected(session, publish_rate=100.0, resend_after=5.0)
    for number in range(300):
        session.publish(Message("t", str(number).encode(), 1))
    server = Throttling(machine, 100)
    end = server.run(0.0, 60.0, until=300)
    assert [packet.payload for packet in server.taken] == [str(number).encode() for number in range(300)]
    assert not server.dropped
    assert 2.4 <= end <= 3.0
    assert len(session.sender) == 0
    assert machine.next_deadline() is None


def test_received_messages_and_qos_0_count() -> None:
    session = Session()
    machine = connected(session, publish_rate=100.0)
    machine.receive_data(Publish("in", b"").encode() * 30, 0.0)
    for _ in range(20):
        session.publish(Message("t", b"0", 0))
    for number in range(10):
        session.publish(Message("t", str(number).encode(), 1))
    server = Throttling(machine, 1_000)
    server.step(0.0)
    assert [packet.qos for packet in server.taken] == [0] * 20  # 30 were received; half a second allows 50
    server.run(0.0, 0.2)
    assert [packet.qos for packet in server.taken] == [0] * 20 + [1] * 10


@pytest.mark.parametrize("timed", [{"publish_rate": 2.0}, {"resend_after": 2.0}])
def test_a_timed_message_of_qos_1_is_not_sent_directly(timed: dict[str, float]) -> None:
    assert connected(Session()).may_overtake(0.0, 1)
    machine = connected(Session(), **timed)
    assert not machine.may_overtake(0.0, 1)
    assert machine.may_overtake(0.0, 0)


def test_a_message_of_qos_0_sent_directly_counts() -> None:
    session = Session()
    machine = connected(session, publish_rate=2.0)
    assert machine.may_overtake(0.0)
    session.publish(Message("t", b"", 1))
    server = Throttling(machine, 100)
    server.step(0.0)
    assert server.taken == []
    server.run(0.0, 2.0)
    assert len(server.taken) == 1


@pytest.mark.parametrize("rate", [None, 100.0])
def test_dropped_messages_are_sent_again_and_never_fill_the_window(rate: float | None) -> None:
    session = Session(max_in_flight=20)
    machine = connected(session, publish_rate=rate, resend_after=5.0)
    for number in range(200):
        session.publish(Message("t", str(number).encode(), 1))
    server = Throttling(machine, 30)  # less than the client assumes
    server.run(0.0, 200.0, until=200)
    assert {packet.payload for packet in server.taken} == {str(number).encode() for number in range(200)}
    assert server.dropped
    again = [packet for packet in server.taken if packet.dup]
    assert again
    assert len(session.sender) == 0


def test_only_overdue_messages_of_qos_1_are_sent_again() -> None:
    session = Session()
    machine = connected(session, resend_after=5.0)
    server = Throttling(machine, 1_000, deaf=True)
    session.publish(Message("t", b"1", 1))
    session.publish(Message("t", b"2", 2))
    server.step(0.0)
    session.publish(Message("t", b"3", 1))
    server.step(2.0)
    assert machine.next_deadline() == 5.0
    server.step(4.9)
    assert [(packet.payload, packet.dup) for packet in server.dropped] == [(b"1", False), (b"2", False), (b"3", False)]
    server.step(5.0)
    assert server.pings == 1
    assert machine.next_deadline() == 10.0
    server.step(9.9)
    assert len(server.dropped) == 3
    server.step(10.0)
    assert [(packet.payload, packet.dup) for packet in server.dropped[3:]] == [(b"1", True), (b"3", True)]
    assert server.dropped[3].packet_id == server.dropped[0].packet_id
    assert machine.next_deadline() == 15.0


def test_a_reused_identifier_restarts_its_timeout() -> None:
    session = Session()
    machine = connected(session, resend_after=5.0)
    session.publish(Message("t", b"1", 1))
    server = Throttling(machine, 1_000)
    server.step(0.0)
    assert machine.next_deadline() is None
    for now in (1.0, 2.0):
        session.identifiers.last = 0
        session.publish(Message("t", b"2", 1))
        server.deaf = True
        server.step(now)
        assert machine.next_deadline() == now + 5.0
        machine.receive_data(PubAck(1).encode(), now)


def test_an_identifier_that_is_used_again_takes_its_place_at_the_end() -> None:
    """And a message that was overtaken is sent again at once when it is overdue."""
    session = Session()
    machine = connected(session, resend_after=5.0)
    server = Throttling(machine, 1_000, deaf=True)
    for number in range(3):
        session.publish(Message("t", str(number).encode(), 1))
    server.step(0.0)
    machine.receive_data(PubAck(2).encode(), 1.0)
    session.identifiers.last = 1
    session.publish(Message("t", b"again 2", 1))
    server.step(4.0)
    assert server.dropped[-1].packet_id == 2
    machine.receive_data(PubAck(1).encode(), 4.0)
    session.publish(Message("t", b"later", 1))
    server.step(4.5)
    machine.receive_data(PubAck(server.dropped[-1].packet_id or 0).encode(), 4.6)
    assert machine.next_deadline() == 5.0  # that of the third message, and not the one that was sent just now
    server.step(5.0)
    assert [packet.payload for packet in server.dropped if packet.dup] == [b"2"]
    assert server.pings == 0


def test_retransmissions_on_a_new_connection_count() -> None:
    session = Session()
    server = Throttling(connected(session, publish_rate=10.0, resend_after=5.0), 1_000, deaf=True)
    for number in range(5):
        session.publish(Message("t", str(number).encode(), 1))
    server.step(0.0)
    again = Throttling(connected(session, 100.0, publish_rate=10.0, resend_after=5.0), 1_000, deaf=True)
    session.publish(Message("t", b"new", 1))
    again.step(100.0)
    assert [packet.dup for packet in again.dropped] == [True] * 5
    assert again.machine.next_deadline() == 105.0  # half a second's worth is in flight: nothing else may leave before
    again.machine.receive_data(PubAck(1).encode(), 100.0)
    again.step(100.0)
    assert len(again.dropped) == 5  # the rate is used up
    again.run(100.0, 101.0)
    assert again.dropped[-1].payload == b"new"
    assert again.machine.next_deadline() == 105.0


def test_pacing_does_not_change_pings() -> None:
    session = Session()
    machine = ClientMachine(Connect("c", True, 10), session, publish_rate=1.0, resend_after=5.0)
    machine.start(0.0)
    machine.data_to_send(0.0)
    machine.receive_data(ConnAck(0).encode(), 0.0)
    assert machine.next_deadline() == 7.5
    machine.handle_timeout(7.5)
    assert machine.data_to_send(7.5) == b"\xc0\x00"
    machine.handle_timeout(20.0)
    assert machine.error is not None


@pytest.mark.parametrize("options", [{}, {"publish_rate": math.inf}, {"publish_rate": math.inf, "resend_after": 5.0}])
def test_without_a_rate_there_is_no_pacing(options: dict[str, float]) -> None:
    session = Session()
    machine = connected(session, **options)
    for _ in range(100):
        session.publish(Message("t", b"", 1))
    server = Throttling(machine, 1_000)
    server.step(0.0)
    assert len(server.taken) == 100
    assert machine.next_deadline() is None


def test_suspects_are_sent_again_without_a_busy_timer() -> None:
    """A suspected message is sent alone; if the server throttles it, the answer never arrives."""
    session = Session()
    server = Throttling(connected(session, publish_rate=10.0, resend_after=5.0), 1_000, deaf=True)
    for number in range(3):
        session.publish(Message("t", str(number).encode(), 1))
    server.step(0.0)
    session.suspects.cautious = True
    again = Throttling(connected(session, 100.0, publish_rate=10.0, resend_after=5.0), 1_000, deaf=True)
    machine = again.machine
    again.busy = True
    again.step(100.0)
    assert machine.data_to_send(100.0) == b""  # the connection has not shown that it works
    again.busy = False
    again.step(100.0)
    assert [packet.payload for packet in again.dropped] == [b"0"]
    for now in (100.0, 101.0, 104.9):
        again.step(now)
        deadline = machine.next_deadline()
        assert deadline is not None
        assert deadline > now
    again.run(105.0, 110.1)
    assert [(packet.payload, packet.dup) for packet in again.dropped] == [(b"0", True), (b"0", True)]
    again.deaf = False
    again.run(110.1, 130.0, until=3)
    assert [packet.payload for packet in again.taken] == [b"0", b"1", b"2"]
    assert len(session.sender) == 0


def test_overdue_messages_wait_for_the_rate() -> None:
    session = Session()
    machine = connected(session, publish_rate=1.0, resend_after=5.0)
    server = Throttling(machine, 1_000, deaf=True)
    session.publish(Message("t", b"1", 1))
    server.step(0.0)
    server.step(5.0)
    assert machine.may_overtake(10.0)  # a lone message of QoS 0 takes what the rate allows
    server.step(10.0)
    assert [packet.payload for packet in server.dropped] == [b"1"]
    deadline = machine.next_deadline()
    assert deadline is not None
    assert 11.0 < deadline < 11.1
    server.step(deadline)
    assert [(packet.payload, packet.dup) for packet in server.dropped] == [(b"1", False), (b"1", True)]


def test_of_two_that_are_overdue_the_second_waits_for_the_rate() -> None:
    session = Session()
    machine = connected(session, publish_rate=4.0, resend_after=5.0)
    server = Throttling(machine, 1_000, deaf=True)
    for number in range(2):
        session.publish(Message("t", b"%d" % number, 1))
    server.step(0.0)
    server.step(5.0)
    assert machine.may_overtake(10.0)
    server.run(10.0, 10.01)
    assert [(packet.payload, packet.dup) for packet in server.dropped[2:]] == [(b"0", True)]
    server.run(10.01, 10.5)
    assert [(packet.payload, packet.dup) for packet in server.dropped[2:]] == [(b"0", True), (b"1", True)]


def test_what_is_sent_alone_counts_once_and_a_request_not_at_all() -> None:
    session = Session()
    session.subscribe([("x", 0)])
    session.publish(Message("t", b"1", 1))
    Throttling(connected(session), 1_000, deaf=True).step(0.0)
    session.suspects.cautious = True
    machine = connected(session, 100.0, publish_rate=4.0)  # a burst of two
    server = Throttling(machine, 1_000, deaf=True)
    machine.receive_data(b"\xd0\x00", 100.0)
    server.step(100.0)
    machine.receive_data(SubAck(next(iter(session.requests_sent)), [0]).encode(), 100.0)
    for _ in range(10):
        server.step(100.0)
    machine.receive_data(PubAck(1).encode() + PubAck(2).encode(), 100.0)
    for number in (2, 3):
        session.publish(Message("t", str(number).encode(), 1))
    server.step(100.0)
    assert [packet.payload for packet in server.dropped] == [b"1", b"2"]
    server.step(100.5)
    assert server.dropped[-1].payload == b"3"
    assert machine.next_deadline() is None  # nothing is sent again where that was not asked for


def test_what_a_busy_server_has_not_read_is_not_sent_again() -> None:
    session = Session()
    machine = connected(session, resend_after=5.0)
    server = Throttling(machine, 1_000)
    server.busy = True
    session.publish(Message("t", b"1", 1))
    server.step(0.0)
    for now in (5.0, 6.0, 30.0):
        server.step(now)
        assert machine.next_deadline() is None  # its answer comes first
    server.busy = False
    server.step(31.0)
    assert [packet.dup for packet in server.taken] == [False]
    assert server.pings == 1
    assert len(session.sender) == 0
    assert machine.next_deadline() is None


def test_later_pings_do_not_put_it_off() -> None:
    session = Session()
    machine = ClientMachine(Connect("c", True, 4), session, resend_after=5.0)
    machine.start(0.0)
    machine.data_to_send(0.0)
    machine.receive_data(ConnAck(0).encode(), 0.0)
    server = Throttling(machine, 1_000, deaf=True)
    session.publish(Message("t", b"1", 1))
    server.run(0.0, 8.0)
    assert server.pings == 2  # at 3 and at 6, for the keep alive
    assert len(server.dropped) == 1
    server.step(8.0)
    assert [packet.dup for packet in server.dropped] == [False, True]


def test_what_was_overtaken_waits_for_the_rate_alone() -> None:
    session = Session()
    machine = connected(session, publish_rate=4.0, resend_after=5.0)
    server = Throttling(machine, 1_000, deaf=True)
    session.publish(Message("t", b"1", 1))
    session.publish(Message("t", b"2", 1))
    server.step(0.0)
    machine.receive_data(PubAck(2).encode(), 1.0)
    for _ in range(3):
        assert machine.may_overtake(5.0)
    server.step(5.0)
    assert len(server.dropped) == 2
    deadline = machine.next_deadline()
    assert deadline is not None
    assert 5.0 < deadline < 6.0
    server.step(deadline)
    assert [(packet.payload, packet.dup) for packet in server.dropped[2:]] == [(b"1", True)]
    assert server.pings == 0


def test_an_answer_to_an_earlier_ping_does_not_count() -> None:
    session = Session()
    machine = ClientMachine(Connect("c", True, 100), session, resend_after=5.0)
    machine.start(0.0)
    machine.data_to_send(0.0)
    machine.receive_data(ConnAck(0).encode(), 0.0)
    machine.handle_timeout(75.0)
    assert machine.data_to_send(75.0) == b"\xc0\x00"  # PINGREQ, for the keep alive
    session.publish(Message("t", b"1", 1))
    machine.data_to_send(75.1)
    machine.handle_timeout(80.1)
    assert machine.data_to_send(80.1) == b"\xc0\x00"  # PINGREQ, for the message
    machine.receive_data(PingResp().encode(), 80.2)
    machine.handle_timeout(80.2)
    assert machine.data_to_send(80.2) == b""
    machine.receive_data(PingResp().encode(), 80.3)
    assert machine.next_deadline() == 85.3  # the acknowledgement may still come
    machine.handle_timeout(80.4)
    machine.handle_timeout(85.2)
    assert machine.data_to_send(85.2) == b""
    machine.handle_timeout(85.3)
    (again,) = Decoder().feed(machine.data_to_send(85.3))
    assert isinstance(again, Publish)
    assert again.dup
    machine.receive_data(PingResp().encode(), 85.4)  # to no PINGREQ
    assert machine.error is None


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=15), st.sampled_from([2.0, 3.0, 20.0]), st.booleans()
)
def test_nothing_is_dropped_or_sent_twice_however_late_the_server_reads(
    steps: list[tuple[float, bool]], rate: float, hasty: bool
) -> None:
    """Pauses of the server, each as long as it is: the messages arrive as one burst afterwards."""
    session = Session(max_queued=100_000)
    machine = connected(session, publish_rate=rate, resend_after=5.0)
    server = Throttling(machine, rate, hasty=hasty)
    now, published = 0.0, 0
    for pause, server.busy in steps:
        for _ in range(int(2 * rate)):
            session.publish(Message("t", b"%d" % published, 1))
            published += 1
        server.step(now)
        now = max(server.run(now, now + pause), now + pause)
    server.busy = False
    server.run(now, now + 3 * published / rate + 10, until=published)
    assert server.dropped == []
    assert [packet.payload for packet in server.taken] == [b"%d" % number for number in range(published)]
