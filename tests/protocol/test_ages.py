"""The age of unsent messages: which expire, what stays in memory, and the ages in a store."""

from __future__ import annotations

import time
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import Age, Closed, Connect, Decoder, Expired, Message, Packet, Publish, Sent, Session, StoreError
from mqttws.codec.publishing import encode_publish
from mqttws.protocol.ages import Ages
from mqttws.protocol.outgoing import Identifiers
from mqttws.protocol.sending import Sender
from mqttws.protocol.store import MemoryStore
from mqttws.testing import Pair

ZERO = encode_publish("a", b"0", 0, False)


def one(text: str = "1", qos: int = 1) -> Message:
    return Message("a", text.encode(), qos)


def drain(sender: Sender) -> list[Packet]:
    packets, _ = sender.take_ready()
    return Decoder().feed(b"".join(packets))


def add(sender: Sender, since: float, seconds: float, qos: int = 1) -> int:
    token = sender.enqueue(one(qos=qos)) if qos else sender.enqueue_packet(ZERO)
    sender.limit_age(token, since, seconds)
    return token


def test_without_an_age_nothing_expires_and_nothing_is_recorded() -> None:
    sender = Sender(Identifiers())
    sender.enqueue(one())
    sender.enqueue_packet(ZERO)
    assert sender.next_expiry is None
    assert sender.expire(inf) == []
    assert sender.ages is None
    assert len(drain(sender)) == 2


def test_messages_sent_before_they_expire_leave_nothing() -> None:
    """The expiry times of sent messages are dropped, not kept until they would expire."""
    ages = Ages()
    for token in range(1, 1_001):
        ages.add(token, 100.0 + token, 3_600.0)
        ages.forget(token)  # all earlier ones are sent
        assert len(ages._due) <= 10
    assert ages.next_end == 100.0 + 1_000 + 3_600.0
    ages.forget(None)
    assert (len(ages._due) <= 10, ages.next_end) == (True, None)


def test_removing_entries_one_by_one_takes_constant_time_each() -> None:
    """The first remaining entry is found directly, however many have been removed before it."""

    def leave(count: int) -> float:
        ages = Ages()
        for token in range(count):
            ages.add(token, 100.0, 3_600.0)
        begun = time.process_time()
        for token in range(count):
            ages.forget(token)
        return time.process_time() - begun

    few, many = (min(leave(count) for _ in range(3)) for count in (2_500, 40_000))
    assert many < 100 * few  # 16 times as many entries; with a scan of the removed ones the time would be 256-fold


class TestExpiring:
    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_a_waiting_message_expires_on_time(self, qos: int) -> None:
        sender = Sender(Identifiers())
        token = add(sender, 100.0, 10.0, qos)
        assert sender.next_expiry == 110.0
        assert sender.expire(109.99) == []
        assert sender.expire(110.0) == [token]
        assert (sender.waiting, sender.waiting_size, sender.next_expiry) == (0, 0, None)
        assert drain(sender) == []
        assert sender.expire(inf) == []

    @pytest.mark.parametrize("qos", [1, 2])
    def test_a_sent_message_does_not_expire(self, qos: int) -> None:
        """Otherwise QoS 1 would not be at least once, since it may not have arrived."""
        sender = Sender(Identifiers())
        add(sender, 0.0, 1.0, qos)
        assert len(drain(sender)) == 1
        assert sender.next_expiry is None
        assert sender.expire(1_000.0) == []
        assert sender.in_flight == 1
        assert [packet.dup for _, packet in sender.resume(True)[0] if isinstance(packet, Publish)] == [True]

    def test_each_message_has_its_own_expiry_and_the_others_keep_their_order(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=10)
        first = add(sender, 0.0, 30.0)
        sender.enqueue(one("for ever"))
        third = add(sender, 2.0, 5.0, 0)
        sender.enqueue_packet(encode_publish("b", b"kept", 0, False))
        fifth = add(sender, 4.0, 3.0, 2)
        assert (sender.next_expiry, sender.waiting) == (7.0, 5)
        assert sender.expire(7.0) == [third, fifth]
        assert sender.next_expiry == 30.0
        assert sender.expire(29.0) == []
        assert sender.expire(31.0) == [first]
        assert drain(sender) == [Publish("a", b"for ever", 1, packet_id=1), Publish("b", b"kept")]

    def test_expired_messages_make_space_by_count_and_by_bytes(self) -> None:
        sender = Sender(Identifiers(), max_queued=2, max_queued_bytes=1000)
        token = sender.enqueue(Message("a", bytes(900), 1))
        sender.limit_age(token, 0.0, 1.0)
        add(sender, 0.0, 1.0, 0)
        assert sender.expire(1.0) == [1, 2]
        sender.enqueue(Message("a", bytes(999), 1))
        assert sender.waiting_size == 1000

    def test_withdrawn_messages_are_not_reported(self) -> None:
        sender = Sender(Identifiers())
        tokens = [add(sender, float(number), 10.0) for number in range(4)]
        assert sender.withdraw(tokens[2])
        assert sender.drop_oldest() == tokens[0]
        assert sender.expire(20.0) == [tokens[1], tokens[3]]

    def test_sent_and_expired_messages_leave_nothing(self) -> None:
        """A day of messages that are sent immediately, each with an expiry of an hour, and of messages that expire."""
        sender = Sender(Identifiers())
        for number in range(1_000):
            add(sender, float(number), 3_600.0, number % 2)
            for packet in drain(sender):
                if isinstance(packet, Publish) and packet.packet_id is not None:
                    sender.puback(packet.packet_id)
            add(sender, float(number), 0.5, 0)
            assert len(sender.expire(number + 0.5)) == 1
        assert sender.waiting == 0
        assert not sender.queue
        ages = sender.ages
        assert ages is not None
        assert len(ages._due) + len(ages._ends) + len(ages._marks) < 30

    def test_empty_runs_are_removed(self) -> None:
        sender = Sender(Identifiers())
        for _ in range(100):
            sender.withdraw(sender.enqueue_packet(ZERO))
        assert not sender.queue
        first, second, third = (sender.enqueue_packet(ZERO) for _ in range(3))
        assert sender.withdraw(second)
        assert sender.first_waiting == first
        assert sender.withdraw(first)
        assert sender.first_waiting == third  # and with it the age of the oldest
        assert sender.take_ready() == ([ZERO], third)

    @given(
        st.lists(
            st.tuples(st.sampled_from([0, 1, 2]), st.integers(1, 20), st.sampled_from("ewsp")), min_size=1, max_size=40
        )
    )
    def test_it_agrees_with_a_plain_list(self, steps: list[tuple[int, int, str]]) -> None:
        """Compared with a plain list of (token, end): expired messages, sent messages and counters."""
        sender = Sender(Identifiers(), max_in_flight=3)
        model: list[tuple[int, int, int]] = []  # token, end, QoS
        for now, (qos, seconds, then) in enumerate(steps):
            model.append((add(sender, float(now), float(seconds), qos), now + seconds, qos))
            if then == "e":
                due = [token for token, end, _ in model if end <= now]
                assert sorted(sender.expire(float(now))) == due
                model = [entry for entry in model if entry[0] not in due]
            elif then == "w":
                assert sender.withdraw(model.pop(len(model) // 2)[0])
            elif then == "s":
                sender.take_ready()
                while model and (model[0][2] == 0 or sender.published_tokens.count(model[0][0])):
                    model.pop(0)
            assert sender.waiting == len(model)
            assert sender.first_waiting == (model[0][0] if model else None)


class TestTheOldest:
    def test_the_oldest_is_known_by_turn(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=1)
        assert (sender.since(), sender.next_expiry) == (None, None)
        sender.enqueue(one())
        sender.enqueue_packet(ZERO)
        assert sender.since() is None  # it was added in this turn
        sender.pass_time(5.0)
        sender.enqueue(one())
        sender.pass_time(6.0)
        sender.pass_time(7.0)
        assert sender.since() == 5.0
        drain(sender)
        assert sender.since() == 6.0
        sender.puback(1)
        drain(sender)
        assert sender.since() is None
        sender.pass_time(8.0)
        assert (sender.waiting, sender.since()) == (0, None)

    def test_waiting_bytes_include_a_growing_run(self) -> None:
        sender = Sender(Identifiers())
        sender.enqueue(one())
        sender.enqueue_packet(ZERO)
        assert (sender.waiting, sender.waiting_size) == (2, 2 + len(ZERO))

    def test_each_age_by_the_mark_that_covers_it(self) -> None:
        ages = Ages()
        ages.mark(2, 1.0)
        ages.add(3, 4.0, 10.0)
        ages.mark(3, 9.0)  # no new message
        assert list(ages.each([1, 2, 3, 4])) == [(1.0, inf), (1.0, inf), (4.0, 10.0), None]


class TestTheMachine:
    def test_an_expired_message_is_not_sent(self) -> None:
        session = Session(max_in_flight=1)
        pair = Pair(Connect("c", keep_alive=0), client_session=session).open()
        now = pair.clock()
        pair.client.publish(one("first"))
        pair.client.data_to_send(now)
        token = pair.client.publish(one("second"))
        session.limit_age(token, Age(now, 0.0, 2.0))
        assert pair.client.next_deadline() == now + 2.0
        pair.client.handle_timeout(now + 1.9)
        assert list(pair.client.events()) == []
        pair.client.handle_timeout(now + 2.0)
        assert list(pair.client.events()) == [Expired([token])]
        assert pair.client.next_deadline() is None

    def test_an_expired_message_is_not_sent_if_the_timer_is_late(self) -> None:
        session = Session()
        pair = Pair(Connect("c"), client_session=session).open()
        token = pair.client.publish(Message("a", b"x"))
        session.limit_age(token, Age(pair.clock(), 0.0, 2.0))
        assert pair.client.data_to_send(pair.clock() + 3.0) == b""
        assert list(pair.client.events()) == [Expired([token])]

    def test_a_message_in_time_is_sent(self) -> None:
        session = Session()
        pair = Pair(Connect("c"), client_session=session).open()
        token = pair.client.publish(Message("a", b"x"))
        session.limit_age(token, Age(pair.clock(), 0.0, 2.0))
        pair.run()
        assert pair.client_events[-1] == Sent(token)
        assert not any(isinstance(event, (Expired, Closed)) for event in pair.client_events)


class TestTheStore:
    def kept(self, store: MemoryStore, now: float, wall: float) -> Session:
        session = Session()
        session.keep_in(store, "c", now, wall)
        return session

    def test_the_record_byte_for_byte(self) -> None:
        store = MemoryStore()
        session = self.kept(store, 100.0, 1_000.0)
        session.limit_age(session.publish(Message("a", b"xy", 1, True)), Age(102.0, 1_002.0, 60.0))
        head = bytes.fromhex("00 0d 0000 0000000000000000 0001")
        published, seconds = bytes.fromhex("408f500000000000"), bytes.fromhex("404e000000000000")  # 1002.0, 60.0
        assert store.load(b"o")[0][1] == head + published + seconds + b"axy"
        drain(session.sender)
        assert store.load(b"o")[0][1] == bytes.fromhex("01 05 0001 0000000000000000 0001") + b"axy"

    def test_the_age_grows_while_no_process_runs(self) -> None:
        store = MemoryStore()
        session = self.kept(store, 100.0, 1_000.0)
        for qos, seconds in ((1, 60.0), (2, 600.0), (1, inf)):
            session.limit_age(session.publish(one(qos=qos)), Age(100.0, 1_000.0, seconds))
        store.commit()
        store.crash()
        again = self.kept(store, 7.0, 1_050.0)
        assert again.sender.since() == 7.0 - 50.0
        assert again.sender.next_expiry == 17.0
        assert again.sender.expire(17.0) == [1]
        assert len(store) == 2
        store.commit()
        third = self.kept(store, 0.0, 5_000.0)
        assert third.sender.expire(0.0) == [2]
        assert (third.sender.waiting, third.sender.next_expiry) == (1, None)

    def test_a_sent_message_does_not_expire_in_the_next_process(self) -> None:
        store = MemoryStore()
        session = self.kept(store, 0.0, 1_000.0)
        session.limit_age(session.publish(one()), Age(0.0, 1_000.0, 1.0))
        drain(session.sender)
        again = self.kept(store, 0.0, 9_000.0)
        assert again.sender.expire(0.0) == []
        assert len(again.sender.resume(True)[0]) == 1

    def test_setting_the_clock_updates_all_waiting_messages(self) -> None:
        """A device without a battery-backed clock starts in 1970, measures, and then gets the time from the network."""
        store = MemoryStore()
        session = self.kept(store, 10.0, 10.0)
        session.limit_age(session.publish(one()), Age(20.0, 20.0, 3_600.0))
        session.sender.enqueue_packet(ZERO)
        wall = 1_800_000_000.0
        session.limit_age(session.publish(one()), Age(30.0, wall, 3_600.0))
        again = self.kept(store, 5.0, wall + 100.0)
        assert again.sender.since() == 5.0 - 110.0
        assert again.sender.expire(5.0) == []
        assert again.sender.expire(5.0 + 3_600.0 - 110.0) == [1]

    def test_a_message_with_a_future_time_counts_as_new(self) -> None:
        store = MemoryStore()
        session = self.kept(store, 0.0, 5_000.0)
        session.limit_age(session.publish(one()), Age(0.0, 5_000.0, 60.0))
        again = self.kept(store, 7.0, 1_000.0)  # the clock was set back
        assert (again.sender.since(), again.sender.next_expiry) == (7.0, 67.0)

    @pytest.mark.parametrize(
        "age", ["7ff8000000000000 404e000000000000", "408f500000000000 bff0000000000000", "408f500000000000"]
    )
    def test_an_invalid_age_is_refused(self, age: str) -> None:
        store = MemoryStore()
        store.put(b"o\0\x01c" + bytes(7) + b"\x01", bytes.fromhex("00 09 0000 0000000000000000 0001" + age))
        with pytest.raises(StoreError, match="cannot be read"):
            self.kept(store, 0.0, 0.0)

    def test_ages_without_a_journal_are_not_shared(self) -> None:
        session = Session()
        session.sender.note_ages()
        session.limit_age(session.publish(one()), Age(0.0, 0.0))
        assert (session.sender.next_expiry, session.sender.since()) == (None, 0.0)
