"""The two halves of QoS 1 and 2 and the session: each cell of the tables in their docstrings."""

from __future__ import annotations

import gc
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mqttws.protocol.sending
from mqttws import (
    Decoder,
    LocalProtocolError,
    Message,
    Packet,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    QueueFull,
    RemoteProtocolError,
    Session,
    Subscribe,
    Unsubscribe,
    compiled,
)
from mqttws.codec.publishing import encode_publish
from mqttws.protocol.outgoing import RUN, Identifiers
from mqttws.protocol.receiving import Receiver
from mqttws.protocol.sending import Sender

ONE = Message("a", b"1", 1)
TWO = Message("a", b"2", 2)


def enqueue(sender: Sender, *messages: Message) -> list[int]:
    """Queue messages and return their tokens."""
    return [
        sender.enqueue(message)
        if message.qos
        else sender.enqueue_packet(Publish(message.topic, message.payload).encode())
        for message in messages
    ]


def drain(sender: Sender) -> list[Packet]:
    """Return all packets that may be sent."""
    packets, _ = sender.take_ready()
    return Decoder().feed(b"".join(packets))


def sent(sender: Sender, *messages: Message) -> list[Packet]:
    """Queue messages and return all packets that may be sent."""
    enqueue(sender, *messages)
    return drain(sender)


class TestIdentifiers:
    @pytest.mark.statement("MQTT-2.3.1-1")
    @pytest.mark.statement("MQTT-2.3.1-2")
    def test_each_identifier_is_allocated_once_and_then_none(self) -> None:
        identifiers = Identifiers()
        assert [identifiers.allocate() for _ in range(65_535)] == list(range(1, 65_536))
        assert identifiers.allocate() is None
        assert len(identifiers) == 65_535
        identifiers.release(777)
        assert 777 not in identifiers
        assert identifiers.allocate() == 777
        assert identifiers.allocate() is None

    @pytest.mark.statement("MQTT-2.3.1-3")
    def test_identifiers_wrap_around_and_skip_those_in_use(self) -> None:
        identifiers = Identifiers()
        for _ in range(65_535):
            identifiers.allocate()
        for packet_id in (1, 2, 4, 65_535):
            identifiers.release(packet_id)
        assert [identifiers.allocate() for _ in range(4)] == [1, 2, 4, 65_535]
        identifiers.release(3)
        identifiers.release(65_534)
        assert identifiers.allocate() == 3

    def test_a_released_identifier_is_not_allocated_next(self) -> None:
        identifiers = Identifiers()
        assert identifiers.allocate() == 1
        identifiers.release(1)
        assert identifiers.allocate() == 2

    def test_releasing_twice_does_nothing(self) -> None:
        identifiers = Identifiers()
        identifiers.release(5)
        assert len(identifiers) == 0

    @given(st.lists(st.integers(0, 20), max_size=60))
    def test_allocated_identifiers_are_unique(self, moves: list[int]) -> None:
        identifiers = Identifiers()
        used: list[int] = []
        for move in moves:
            if move < 5 and used:
                identifiers.release(used.pop(move % len(used)))
            else:
                packet_id = identifiers.allocate()
                assert packet_id is not None
                assert packet_id not in used
                used.append(packet_id)
        assert len(identifiers) == len(used)


class TestSenderTable:
    """Phase x packet; see the table at the top of `delivery`."""

    @pytest.mark.statement("MQTT-4.3.2-1")
    def test_qos_1(self) -> None:
        sender = Sender(Identifiers())
        (token,) = enqueue(sender, ONE)
        assert (sender.waiting, sender.in_flight) == (1, 0)
        assert drain(sender) == [Publish("a", b"1", 1, packet_id=1)]
        assert (sender.waiting, sender.in_flight) == (0, 1)
        with pytest.raises(RemoteProtocolError, match=r"MQTT-4\.3\.2-1"):
            sender.pubrec(1)
        with pytest.raises(RemoteProtocolError, match=r"MQTT-4\.3\.3-1"):
            sender.pubcomp(1)
        assert sender.in_flight == 1
        assert sender.puback(1) == token
        assert sender.puback(1) is None
        assert len(sender) == 0

    @pytest.mark.statement("MQTT-4.3.3-1")
    @pytest.mark.statement("MQTT-2.3.1-6")
    def test_qos_2(self) -> None:
        sender = Sender(Identifiers())
        (token,) = enqueue(sender, TWO)
        assert drain(sender) == [Publish("a", b"2", 2, packet_id=1)]
        with pytest.raises(RemoteProtocolError, match="a PubAck for 1, a message of QoS 2"):
            sender.puback(1)
        with pytest.raises(RemoteProtocolError, match="a PubComp for 1 without a PubRec"):
            sender.pubcomp(1)
        assert sender.pubrec(1) == PubRel(1)
        assert sender.resume(True)[0] == [(0, PubRel(1))]  # the message itself is never sent again
        assert sender.pubrec(1) == PubRel(1)
        with pytest.raises(RemoteProtocolError, match="PubAck for 1"):
            sender.puback(1)
        assert sender.in_flight == 1
        assert sender.pubcomp(1) == token
        assert sender.pubcomp(1) is None
        assert len(sender) == 0

    def test_unknown_identifiers_complete_nothing(self) -> None:
        sender = Sender(Identifiers())
        sent(sender, ONE, TWO)
        assert sender.puback(99) is None
        assert sender.pubrec(99) == PubRel(99)
        assert sender.pubcomp(99) is None
        assert sender.in_flight == 2

    def test_an_identifier_is_released_only_by_the_last_answer(self) -> None:
        identifiers = Identifiers()
        sender = Sender(identifiers)
        sent(sender, ONE, TWO)
        sender.puback(1)
        assert 1 not in identifiers
        sender.pubrec(2)
        assert 2 in identifiers
        sender.pubcomp(2)
        assert 2 not in identifiers


class TestSenderQueue:
    def test_the_window_limits_messages_in_flight(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=2)
        first, second = sent(sender, Message("a", b"first", 1), TWO, Message("a", b"third", 1), ONE)
        assert (sender.in_flight, sender.waiting, len(sender)) == (2, 2, 4)
        sender.puback(1)
        (third,) = drain(sender)
        sender.pubrec(2)
        assert drain(sender) == []
        sender.pubcomp(2)
        (fourth,) = drain(sender)
        assert [first, second, third, fourth] == [
            Publish("a", b"first", 1, packet_id=1),
            Publish("a", b"2", 2, packet_id=2),
            Publish("a", b"third", 1, packet_id=3),
            Publish("a", b"1", 1, packet_id=4),
        ]

    def test_qos_2_has_a_smaller_part_of_the_window(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=3, max_in_flight_qos2=1)
        assert sent(sender, ONE, TWO, ONE, ONE) == [Publish("a", b"1", 1, packet_id=1)]
        assert not sender.is_ready  # an acknowledgement must arrive first, although two places are free
        sender.puback(1)
        assert sender.is_ready
        sent_then = drain(sender)
        assert sent_then == [Publish("a", b"2", 2, packet_id=2), *(Publish("a", b"1", 1, packet_id=n) for n in (3, 4))]
        assert (sender.in_flight, sender.waiting, sender.is_ready) == (3, 0, False)

    def test_a_part_that_is_larger_than_the_window_has_no_effect(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=2, max_in_flight_qos2=3)
        assert len(sent(sender, TWO, TWO, TWO)) == 2

    @pytest.mark.statement("MQTT-4.6.0-6")
    def test_qos_0_does_not_overtake(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=1)
        assert len(sent(sender, ONE, ONE, Message("a", b"0"))) == 1
        sender.puback(1)
        assert drain(sender) == [Publish("a", b"1", 1, packet_id=2), Publish("a", b"0")]

    def test_messages_wait_if_all_identifiers_are_in_use(self) -> None:
        identifiers = Identifiers()
        for _ in range(65_535):
            identifiers.allocate()
        sender = Sender(identifiers)
        assert sent(sender, ONE) == []
        identifiers.release(9)
        assert drain(sender) == [Publish("a", b"1", 1, packet_id=9)]

    def test_the_queue_is_bounded_in_messages(self) -> None:
        sender = Sender(Identifiers(), max_queued=2)
        sender.enqueue(ONE)
        sender.enqueue(ONE)
        with pytest.raises(QueueFull, match="2 messages are already queued"):
            sender.enqueue(ONE)
        assert sender.waiting == 2
        drain(sender)
        sender.enqueue(ONE)

    def test_the_queue_is_bounded_in_bytes(self) -> None:
        sender = Sender(Identifiers(), max_queued_bytes=10)
        sender.enqueue(Message("a", bytes(50), 1))  # a single message may have any size
        with pytest.raises(QueueFull, match="51 bytes are already queued"):
            sender.enqueue(ONE)
        drain(sender)
        sender.enqueue(Message("a", bytes(4), 1))
        sender.enqueue(Message("a", bytes(4), 1))
        with pytest.raises(QueueFull):
            sender.enqueue(ONE)

    def test_withdrawing_waiting_messages(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=1, max_queued_bytes=20)
        sent(sender, ONE, Message("a", bytes(15), 1), ONE)
        assert not sender.withdraw(1)  # in flight
        assert sender.withdraw(2)
        assert not sender.withdraw(2)
        sender.enqueue(Message("a", bytes(15), 1))  # its bytes have been released
        sender.puback(1)
        assert drain(sender) == [Publish("a", b"1", 1, packet_id=2)]

    def test_dropping_everything(self) -> None:
        identifiers = Identifiers()
        sender = Sender(identifiers, max_in_flight=2, max_queued_bytes=24)
        sent(sender, ONE, TWO, Message("a", bytes(19), 1))
        sender.pubrec(2)
        sender.clear()
        assert (len(sender), len(identifiers), sender.waiting) == (0, 0, 0)
        assert sender.resume(session_present=True) == ([], [])
        assert len(sent(sender, Message("a", bytes(17)), ONE)) == 2


class TestSendingAlone:
    """A message of QoS 1 or 2 that the caller sends itself: it is in flight without having been queued."""

    @pytest.mark.parametrize("message", [ONE, TWO])
    def test_it_is_in_flight_from_its_beginning_and_not_before(self, message: Message) -> None:
        sender = Sender(Identifiers())
        alone = sender.next_alone(message)
        assert alone == (1, (1, "a", message.payload, message.qos, False))
        assert sender.next_alone(message) == alone  # the question changes nothing
        assert (sender.in_flight, sender.oldest, sender.tokens) == (0, None, set())
        sender.begin(*alone)
        assert (sender.in_flight, sender.oldest, sender.tokens, sender.waiting) == (1, 1, {1}, 0)
        if message.qos == 1:
            assert sender.puback(1) == 1
        else:
            assert sender.pubrec(1) == PubRel(1)
            assert sender.pubcomp(1) == 1
        assert sender.in_flight == 0

    def test_its_identifier_and_its_token_follow_the_last_ones(self) -> None:
        sender = Sender(Identifiers())
        assert sent(sender, ONE) == [Publish("a", b"1", 1, packet_id=1)]
        alone = sender.next_alone(ONE)
        assert alone is not None
        assert alone[0] == 2
        sender.begin(*alone)
        assert enqueue(sender, ONE) == [3]
        assert drain(sender) == [Publish("a", b"1", 1, packet_id=3)]

    def test_it_is_sent_again_with_dup_by_a_resumed_session(self) -> None:
        sender = Sender(Identifiers())
        alone = sender.next_alone(ONE)
        assert alone is not None
        sender.begin(*alone)
        assert sender.resume(True) == ([(1, Publish("a", b"1", 1, dup=True, packet_id=1))], [])

    def test_after_the_last_identifier_comes_the_first(self) -> None:
        identifiers = Identifiers()
        identifiers.start_at(65_535)
        sender = Sender(identifiers)
        assert [packet.packet_id for packet in sent(sender, ONE) if isinstance(packet, Publish)] == [65_535]
        alone = sender.next_alone(ONE)
        assert alone is not None
        assert alone[0] == 1

    def test_it_overtakes_no_queued_message(self) -> None:
        sender = Sender(Identifiers())
        enqueue(sender, Message("a", b"0"))
        assert sender.next_alone(ONE) is None
        drain(sender)
        assert sender.next_alone(ONE) is not None

    def test_it_does_not_exceed_the_messages_in_flight(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=2, max_in_flight_qos2=1)
        sent(sender, ONE)
        assert sender.next_alone(TWO) is None
        assert sender.next_alone(ONE) is not None
        sent(sender, ONE)
        assert sender.next_alone(ONE) is None

    def test_an_identifier_in_use_is_left_to_the_queue(self) -> None:
        identifiers = Identifiers()
        identifiers.take(1)
        identifiers.start_at(1)
        sender = Sender(identifiers)
        assert sender.next_alone(ONE) is None
        assert sent(sender, ONE) == [Publish("a", b"1", 1, packet_id=2)]


class TestRuns:
    """Messages of QoS 0: runs of packets with consecutive tokens."""

    def test_a_run_is_sent_together_with_one_token(self) -> None:
        sender = Sender(Identifiers())
        assert [sender.enqueue_packet(packet) for packet in (b"one", b"two", b"three")] == [1, 2, 3]
        assert sender.waiting == len(sender) == 3
        assert sender.take_ready() == ([b"onetwothree"], 3)
        assert (sender.waiting, len(sender)) == (0, 0)
        assert sender.take_ready() == ([], None)
        assert sender.enqueue_packet(b"four") == 4
        assert sender.take_ready() == ([b"four"], 4)

    def test_a_message_of_qos_1_or_another_number_ends_a_run(self) -> None:
        sender = Sender(Identifiers())
        assert sender.enqueue_packet(b"one") == 1
        assert sender.enqueue(ONE) == 2
        assert sender.enqueue_packet(b"three") == 3
        assert sender.next_token() == 4
        assert sender.enqueue_packet(b"five") == 5
        assert sender.waiting == 4
        assert sender.take_ready() == ([b"one", bytes.fromhex("32 06 0001 61 0001 31"), b"three", b"five"], 5)

    def test_a_part_of_a_run_is_sent_if_the_size_is_limited(self) -> None:
        sender = Sender(Identifiers())
        for _ in range(4):
            sender.enqueue_packet(bytes(RUN // 2))
        assert sender.take_ready(1) == ([bytes(RUN)], 2)
        assert sender.waiting == 2
        assert sender.take_ready(RUN + 1) == ([bytes(RUN)], 4)

    def test_a_full_window_holds_back_later_runs(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=1)
        enqueue(sender, ONE, ONE)
        sender.enqueue_packet(b"three")
        assert sender.take_ready() == ([bytes.fromhex("32 06 0001 61 0001 31")], None)
        assert sender.waiting == 2

    def test_runs_are_bounded(self) -> None:
        sender = Sender(Identifiers(), max_queued=3, max_queued_bytes=10)
        sender.enqueue_packet(bytes(4))
        sender.enqueue_packet(bytes(6))
        with pytest.raises(QueueFull, match="10 bytes are already queued"):
            sender.enqueue_packet(b"x")
        assert sender.take_ready() == ([bytes(4), bytes(6)], 2)  # a run takes at most what is left in the queue
        for _ in range(3):
            sender.enqueue_packet(b"x")
        for _ in range(2):
            with pytest.raises(QueueFull, match="3 messages are already queued"):
                sender.enqueue_packet(b"x")
            with pytest.raises(QueueFull, match="3 messages are already queued"):
                sender.enqueue(ONE)
        assert sender.take_ready() == ([b"x"] * 3, 5)  # the tokens of refused messages are used for others
        sender.enqueue_packet(bytes(50))  # a single message may have any size
        with pytest.raises(QueueFull, match="50 bytes are already queued"):
            sender.enqueue_packet(b"")

    def test_withdrawing_from_a_run(self) -> None:
        sender = Sender(Identifiers(), max_queued=3)
        for packet in (b"one", b"two", b"three"):
            sender.enqueue_packet(packet)
        assert sender.withdraw(2)
        assert not sender.withdraw(2)
        assert not sender.withdraw(4)
        assert sender.waiting == 2
        assert sender.enqueue_packet(b"four") == 4
        assert sender.withdraw(4)
        assert sender.take_ready() == ([b"onethree"], 3)  # a run without a packet is gone
        assert sender.waiting == 0

    def test_dropping_the_oldest(self) -> None:
        sender = Sender(Identifiers())
        for packet in (b"one", b"two", b"three"):
            sender.enqueue_packet(packet)
        sender.enqueue(ONE)
        sender.enqueue_packet(b"five")
        assert sender.withdraw(2)
        assert [sender.drop_oldest() for _ in range(3)] == [1, 3, 4]
        assert sender.waiting == 1
        assert sender.take_ready() == ([b"five"], 5)
        assert sender.drop_oldest() is None

    @pytest.mark.parametrize("qos", [0, 1, 2])
    @pytest.mark.parametrize("how", ["withdrawn", "dropped", "sent", "cleared"])
    @pytest.mark.parametrize("topic", ["a", "\N{GRINNING FACE}"])
    def test_the_bytes_of_removed_messages_are_released(self, qos: int, how: str, topic: str) -> None:
        """Exactly as many are released: one byte more than before is refused each time."""
        size = 100 + len(topic.encode())  # the size counted for QoS 1 and 2; for a packet its whole size
        packet = encode_publish(topic, bytes(100), 0, False)
        sender = Sender(Identifiers(), max_queued=100, max_queued_bytes=2 * (size if qos else len(packet)))

        def enqueue_one(more: int = 0) -> int:
            if qos:
                return sender.enqueue(Message(topic, bytes(100 + more), qos))
            return sender.enqueue_packet(packet + bytes(more))

        for _ in range(5):
            tokens = [enqueue_one(), enqueue_one()]
            with pytest.raises(QueueFull):
                enqueue_one()
            if how == "withdrawn":
                assert sender.withdraw(tokens[1])
                assert sender.withdraw(tokens[0])
            elif how == "dropped":
                assert [sender.drop_oldest(), sender.drop_oldest()] == tokens
            elif how == "sent":
                sender.take_ready()
            else:
                sender.clear()
            assert (sender.waiting, sender._count, sender._size) == (0, 0, 0)
            enqueue_one()
            with pytest.raises(QueueFull):
                enqueue_one(1)
            sender.clear()

    def test_messages_after_a_removed_run_are_sent(self) -> None:
        sender = Sender(Identifiers())
        sender.enqueue_packet(b"one")
        sender.withdraw(1)
        sender.enqueue_packet(b"two")
        assert sender.drop_oldest() == 2
        assert sender.waiting == 0


class TestResuming:
    @pytest.mark.statement("MQTT-4.4.0-1")
    @pytest.mark.statement("MQTT-3.3.1-1")
    @pytest.mark.statement("MQTT-4.6.0-1")
    def test_in_the_original_order_with_dup_and_the_same_identifiers(self) -> None:
        identifiers = Identifiers()
        for _ in range(65_533):
            identifiers.allocate()
        for packet_id in range(1, 10):
            identifiers.release(packet_id)
        sender = Sender(identifiers)
        sent(sender, ONE, TWO, ONE, TWO)
        resent, done = sender.resume(session_present=True)
        packets = [packet for _, packet in resent]
        assert done == []
        assert packets == [
            Publish("a", b"1", 1, dup=True, packet_id=65_534),
            Publish("a", b"2", 2, dup=True, packet_id=65_535),
            Publish("a", b"1", 1, dup=True, packet_id=1),
            Publish("a", b"2", 2, dup=True, packet_id=2),
        ]
        assert sender.in_flight == 4

    @pytest.mark.statement("MQTT-4.6.0-4")
    def test_pubrels_in_the_order_of_their_pubrecs(self) -> None:
        sender = Sender(Identifiers())
        sent(sender, TWO, TWO, TWO)
        for packet_id in (3, 1):
            sender.pubrec(packet_id)
        resent, _ = sender.resume(session_present=True)
        packets = [packet for _, packet in resent]
        assert packets == [PubRel(3), PubRel(1), Publish("a", b"2", 2, dup=True, packet_id=2)]

    def test_released_messages_are_delivered_if_the_peer_lost_the_session(self) -> None:
        identifiers = Identifiers()
        sender = Sender(identifiers)
        first, _ = enqueue(sender, TWO, TWO)
        drain(sender)
        sender.pubrec(1)
        resent, done = sender.resume(session_present=False)
        packets = [packet for _, packet in resent]
        assert done == [first]
        assert packets == [Publish("a", b"2", 2, dup=True, packet_id=2)]
        assert 1 not in identifiers
        assert sender.in_flight == 1

    @pytest.mark.skipif(compiled, reason="compiled functions cannot be replaced")
    def test_without_memory_for_a_packet_no_message_is_lost_or_counts_as_sent(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object) -> bytes:
            if arguments[0] == "large":
                raise MemoryError
            return encode_publish(*arguments)  # type: ignore[arg-type]

        sender = Sender(Identifiers(), max_queued_bytes=20)
        sent(sender, TWO)
        for packet, message in ((b"one", ONE), (b"two", Message("large", b"", 1)), (b"three", None)):
            sender.enqueue_packet(packet)
            if message is not None:
                sender.enqueue(message)
        sender.withdraw(4)
        with monkeypatch.context() as patch:
            patch.setattr(mqttws.protocol.sending, "encode_publish", fail)
            with pytest.raises(MemoryError):
                sender.take_ready()
        assert (sender.waiting, sender.waiting_size, sender.in_flight) == (2, len("onethree"), 3)
        resent, _ = sender.resume(session_present=True)
        assert [packet.dup for _, packet in resent if isinstance(packet, Publish)] == [True, False, False]
        assert sender.take_ready() == ([b"one", b"three"], 6)
        assert (sender.waiting, sender.waiting_size) == (0, 0)
        resent, _ = sender.resume(session_present=True)
        assert [packet.dup for _, packet in resent if isinstance(packet, Publish)] == [True, True, True]

    def test_unsent_messages_have_no_dup(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=1)
        sent(sender, ONE, ONE)
        sender.resume(session_present=True)
        sender.puback(1)
        assert drain(sender) == [Publish("a", b"1", 1, packet_id=2)]


def one(packet_id: int, dup: bool = False) -> Publish:
    return Publish("a", b"", 1, dup=dup, packet_id=packet_id)


def two(packet_id: int, dup: bool = False) -> Publish:
    return Publish("a", b"", 2, dup=dup, packet_id=packet_id)


def take(receiver: Receiver, *publishes: Publish) -> list[bool]:
    return [receiver.receive(publish, publish.packet_id or 0) for publish in publishes]


def answers(receiver: Receiver) -> list[Packet]:
    """Return the acknowledgements that are due, decoded."""
    return Decoder().feed(b"".join(receiver.answers()))


class TestReceiver:
    @pytest.mark.statement("MQTT-4.6.0-2")
    def test_pubacks_are_in_the_order_of_arrival(self) -> None:
        receiver = Receiver()
        publishes = [one(5), one(3), one(9)]
        assert take(receiver, *publishes) == [True, True, True]
        receiver.acknowledge(publishes[2])
        receiver.acknowledge(publishes[1])
        assert answers(receiver) == []
        receiver.acknowledge(publishes[0])
        assert answers(receiver) == [PubAck(5), PubAck(3), PubAck(9)]
        assert answers(receiver) == []

    @pytest.mark.statement("MQTT-4.6.0-3")
    def test_pubrecs_are_in_the_order_of_arrival(self) -> None:
        receiver = Receiver()
        publishes = [two(5), two(3)]
        take(receiver, *publishes)
        receiver.acknowledge(publishes[1])
        assert answers(receiver) == []
        receiver.acknowledge(publishes[0])
        assert answers(receiver) == [PubRec(5), PubRec(3)]

    def test_one_qos_does_not_delay_the_other(self) -> None:
        receiver = Receiver()
        publishes = [one(1), two(2)]
        take(receiver, *publishes)
        receiver.acknowledge(publishes[1])
        assert answers(receiver) == [PubRec(2)]

    def test_acknowledging_twice_or_an_unknown_message_does_nothing(self) -> None:
        receiver = Receiver()
        first, second = one(1), two(2)
        take(receiver, first, second)
        for stranger in (one(1), two(2), two(3)):  # equal, but other objects
            receiver.acknowledge(stranger)
        assert answers(receiver) == []
        for publish in (first, first, second, second):
            receiver.acknowledge(publish)
        assert answers(receiver) == [PubAck(1), PubRec(2)]
        receiver.acknowledge(first)
        receiver.acknowledge(second)
        assert answers(receiver) == []

    @pytest.mark.statement("MQTT-4.3.2-2")
    def test_a_copy_of_qos_1_is_delivered(self) -> None:
        receiver = Receiver()
        copies = [one(1), one(1, dup=True)]
        assert take(receiver, *copies) == [True, True]
        for copy in copies:
            receiver.acknowledge(copy)
        assert answers(receiver) == [PubAck(1), PubAck(1)]

    @pytest.mark.statement("MQTT-4.3.3-2")
    def test_copies_of_qos_2_are_answered_and_not_delivered(self) -> None:
        receiver = Receiver()
        first = two(1)
        assert take(receiver, first, two(1, dup=True), two(1, dup=True)) == [True, False, False]
        assert answers(receiver) == []
        receiver.acknowledge(first)
        assert answers(receiver) == [PubRec(1)] * 3
        assert take(receiver, two(1, dup=True), two(1)) == [False, False]
        assert answers(receiver) == [PubRec(1)] * 2
        assert receiver.received == {1}
        assert receiver.pubrel(1) == PubComp(1)
        assert receiver.pubrel(1) == PubComp(1)
        assert receiver.received == frozenset()
        assert take(receiver, two(1)) == [True]

    def test_a_pubrel_before_the_pubrec_neither_blocks_nor_accumulates(self) -> None:
        receiver = Receiver()
        first, second = two(1), two(2)
        take(receiver, first, second)
        receiver.acknowledge(second)
        assert receiver.pubrel(1) == PubComp(1)
        assert answers(receiver) == [PubRec(2)]
        for _ in range(1_000):
            take(receiver, two(1))
            receiver.pubrel(1)
            assert answers(receiver) == []
        assert len(receiver._unanswered[1]) == 0

    @pytest.mark.statement("MQTT-3.1.2-4")
    def test_a_new_connection_expects_everything_unanswered_again(self) -> None:
        receiver = Receiver()
        old_one, old_two, taken = one(1), two(2), two(3)
        take(receiver, old_one, old_two, taken)
        receiver.begin(session_present=True)
        receiver.acknowledge(old_one)  # no effect any more
        receiver.acknowledge(taken)
        assert answers(receiver) == []
        # The peer sends them again. QoS 1 is a new message; QoS 2 is known, whether it was taken or not.
        assert take(receiver, one(1, dup=True), two(2, dup=True), two(3, dup=True)) == [True, False, False]
        assert answers(receiver) == []
        receiver.acknowledge(old_two)
        assert answers(receiver) == [PubRec(2), PubRec(3)]

    @pytest.mark.statement("MQTT-3.1.2-6")
    def test_a_lost_session_clears_received_identifiers(self) -> None:
        receiver = Receiver()
        take(receiver, two(2))
        receiver.begin(session_present=False)
        assert take(receiver, two(2)) == [True]

    def test_a_discarded_message_is_not_answered_and_blocks_nothing(self) -> None:
        receiver = Receiver()
        first, second, third = one(1), one(2), two(3)
        take(receiver, first, second, third)
        receiver.acknowledge(second)
        receiver.discard(first)
        receiver.discard(first)
        receiver.acknowledge(first)  # no effect any more
        assert answers(receiver) == [PubAck(2)]
        receiver.acknowledge(third)
        assert answers(receiver) == [PubRec(3)]

    def test_a_discarded_message_of_qos_2_is_delivered_when_it_is_sent_again(self) -> None:
        receiver = Receiver()
        first, second, again = two(1), two(2), two(1)
        take(receiver, first, second)
        receiver.discard(first)
        receiver.discard(first)
        receiver.acknowledge(first)  # no effect any more
        receiver.acknowledge(second)
        assert answers(receiver) == [PubRec(2)]
        receiver.begin(session_present=True)
        assert take(receiver, again) == [True]
        receiver.discard(first)  # not this one
        receiver.acknowledge(again)
        assert answers(receiver) == [PubRec(1)]

    def test_what_is_answered_and_not_released_takes_no_more_than_its_identifier(self) -> None:
        """A client may leave 65,535 identifiers unreleased; the garbage collector has nothing to examine in them."""
        receiver = Receiver()
        tracemalloc.start()
        for number in range(1, 20_001):
            publish = two(number)
            take(receiver, publish)
            receiver.acknowledge(publish)
            receiver.answers()
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert taken / 20_000 < 100
        assert not any(gc.is_tracked(each) for each in receiver._received.values())
        assert take(receiver, two(7, dup=True), two(7, dup=True)) == [False, False]
        assert answers(receiver) == [PubRec(7), PubRec(7)]
        assert answers(receiver) == []

    def test_acknowledging_costs_the_same_in_any_order(self) -> None:
        """Each acknowledgement is one look-up, also in reverse order."""
        receiver = Receiver()
        publishes = [one(n) for n in range(1, 65_536)]
        take(receiver, *publishes)

        class Unwalkable(type(receiver._unanswered[0])):  # type: ignore[misc]
            def __iter__(self) -> None:  # type: ignore[override]
                raise AssertionError("walked")

        receiver._unanswered = (Unwalkable(receiver._unanswered[0]), receiver._unanswered[1])
        for publish in reversed(publishes):
            receiver.acknowledge(publish)
        assert [answer.packet_id for answer in answers(receiver)] == list(range(1, 65_536))


class TestSession:
    def test_tokens_count_up(self) -> None:
        session = Session()
        assert [session.publish(ONE), session.subscribe([("a", 0)]), session.unsubscribe(["a"])] == [1, 2, 3]

    @pytest.mark.parametrize("topic_filters", [[], [("", 0)], [("a", 3)], [("a+", 0)]])
    def test_invalid_requests_change_nothing(self, topic_filters: list[tuple[str, int]]) -> None:
        session = Session()
        with pytest.raises(LocalProtocolError):
            session.subscribe(topic_filters)
        with pytest.raises(LocalProtocolError):
            session.unsubscribe(
                [topic_filter for topic_filter, qos in topic_filters if qos == 0 and topic_filter != "a"]
            )
        assert not session.requests

    def test_requests_and_messages_share_the_identifiers(self) -> None:
        session = Session()
        session.subscribe([("a", 1)])
        session.publish(ONE)
        session.unsubscribe(["a"])
        packet_id, request = session.next_request() or (0, None)
        assert request is not None
        assert request.packet(packet_id) == Subscribe(1, [("a", 1)])
        assert drain(session.sender) == [Publish("a", b"1", 1, packet_id=2)]
        packet_id, request = session.next_request() or (0, None)
        assert request is not None
        assert request.packet(packet_id) == Unsubscribe(3, ["a"])
        assert session.next_request() is None

    def test_requests_wait_while_all_identifiers_are_in_use(self) -> None:
        session = Session()
        for _ in range(65_535):
            session.identifiers.allocate()
        session.subscribe([("a", 1)])
        assert session.next_request() is None
        session.identifiers.release(4)
        assert session.next_request() is not None

    @pytest.mark.statement("MQTT-3.8.4-5")
    @pytest.mark.statement("MQTT-3.9.3-1")
    def test_granted_subscriptions_are_stored(self) -> None:
        session = Session()
        session.subscriptions["c"] = 0
        token = session.subscribe([("a", 2), ("b", 1), ("c", 1)])
        session.next_request()
        granted = session.suback(1, [0, 1, 0x80])
        assert granted is not None
        request, results = granted
        assert request.token == token
        assert results == (("a", 0), ("b", 1), ("c", 0x80))
        assert session.subscriptions == {"a": 2, "b": 1}  # the requested QoS, which is requested again later
        assert 1 not in session.identifiers

    def test_unexpected_answers_are_ignored(self) -> None:
        session = Session()
        session.subscribe([("a", 1)])
        session.unsubscribe(["b"])
        session.next_request()
        session.next_request()
        assert session.suback(9, [0]) is None
        with pytest.raises(RemoteProtocolError, match=r"SubAck for 2.*MQTT-3\.8\.4-2"):
            session.suback(2, [0])
        with pytest.raises(RemoteProtocolError, match=r"2 return codes for 1.*MQTT-3\.8\.4-5"):
            session.suback(1, [0, 0])
        with pytest.raises(RemoteProtocolError, match=r"UnsubAck for 1.*MQTT-3\.10\.4-4"):
            session.unsuback(1)
        assert session.unsuback(9) is None
        session.suback(1, [0])
        session.unsuback(2)

    def test_abandoning_leaves_nothing_to_send(self) -> None:
        session = Session()
        session.subscribe([("a", 1)])
        session.unsubscribe(["a"])
        session.publish(ONE)
        session.next_request()
        drain(session.sender)
        session.abandon()
        session.restore(session_present=True, max_filters=8)
        assert self.asked(session) == []
        assert (len(session.sender), len(session.identifiers)) == (0, 0)

    def asked(self, session: Session) -> list[tuple[int | None, tuple[object, ...]]]:
        asked = []
        while (ready := session.next_request()) is not None:
            asked.append((ready[1].token, ready[1].subscribe or ready[1].unsubscribe))
        return asked

    def test_unanswered_requests_are_repeated_in_order(self) -> None:
        session = Session()
        session.subscribe([("a", 1)])
        session.unsubscribe(["b"])
        session.next_request()
        session.next_request()
        session.subscribe([("c", 0)])
        for _ in range(2):  # the second loss before anything was sent on the second connection
            session.restore(session_present=True, max_filters=8)
        assert len(session.identifiers) == 0
        assert self.asked(session) == [(1, (("a", 1),)), (2, ("b",)), (3, (("c", 0),))]

    def test_a_lost_session_is_restored_in_batches_first(self) -> None:
        session = Session()
        session.subscriptions.update({f"t/{n}": n % 3 for n in range(20)})
        session.subscribe([("new", 1)])
        session.restore(session_present=False, max_filters=8)
        asked = self.asked(session)
        assert [token for token, _ in asked] == [None, None, None, 1]
        assert [len(filters) for _, filters in asked] == [8, 8, 4, 1]
        assert dict(pair for _, filters in asked[:3] for pair in filters) == session.subscriptions  # type: ignore[misc]

    def test_an_interrupted_restore_continues_if_the_server_kept_the_session(self) -> None:
        """The server created a new session on the second connection, but may not have received its SUBSCRIBEs."""
        session = Session()
        session.subscriptions.update({"a": 1, "b": 1, "c": 1})
        session.restore(session_present=False, max_filters=1)
        session.next_request()
        session.suback(1, [1])
        session.next_request()  # sent and not answered; the third is not sent
        session.restore(session_present=True, max_filters=1)
        assert self.asked(session) == [(None, (("b", 1),)), (None, (("c", 1),))]

    def test_an_interrupted_restore_restarts_if_the_session_is_lost_again(self) -> None:
        session = Session()
        session.subscriptions.update({"a": 1, "b": 1})
        for _ in range(3):
            session.restore(session_present=False, max_filters=1)
            session.next_request()
        session.restore(session_present=False, max_filters=1)
        assert self.asked(session) == [(None, (("a", 1),)), (None, (("b", 1),))]
