"""Messages and requests removed without an answer: withdrawn or rejected messages, and a split SUBSCRIBE.

A client's machine finds the packet on which the server closes the connection (`suspects`), and a broker removes
messages that a client may no longer receive. These are tests of sender and session for both.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from mqttws import Message, Publish, PubRel, RemoteProtocolError, Session, Subscribe
from mqttws.codec.publishing import encode_publish
from mqttws.codec.subscribing import FAILURE
from mqttws.protocol.outgoing import Identifiers
from mqttws.protocol.sending import Sender
from mqttws.protocol.store import MemoryStore

ONE = Message("a", b"1", 1)
TWO = Message("b", b"22", 2)


def sent(sender: Sender, *messages: Message) -> list[int]:
    """Send messages of QoS 1 and 2 and return their tokens."""
    tokens = [sender.enqueue(message) for message in messages]
    sender.take_ready()
    return tokens


class TestAccounts:
    def test_the_size_counts_waiting_messages_and_those_in_flight(self) -> None:
        sender = Sender(Identifiers(), max_in_flight=2)
        sent(sender, ONE, TWO)
        assert sender.size == len("a1" + "b22")
        sender.pubrec(2)
        assert sender.size == len("a1" + "b22")  # until the PUBCOMP
        sender.enqueue(Message("ü", b"123", 1))
        assert sender.size == len("a1" + "b22") + len("ü123".encode())
        packet = encode_publish("c", b"x")
        sender.enqueue_packet(packet)
        sender.enqueue_packet(packet)
        assert sender.size == len("a1" + "b22") + len("ü123".encode()) + 2 * len(packet)
        sender.puback(1)
        sender.pubcomp(2)
        sender.take_ready()
        assert sender.size == len("ü123".encode())
        sender.puback(3)
        assert sender.size == 0

    def test_the_phases_are_counted(self) -> None:
        sender = Sender(Identifiers())
        assert sender.phases == (0, 0)
        sent(sender, ONE, TWO, TWO)
        assert sender.phases == (3, 0)
        sender.pubrec(3)
        assert sender.phases == (2, 1)


class TestRejectedMessages:
    def test_it_is_removed_and_its_identifier_is_released(self) -> None:
        identifiers = Identifiers()
        sender = Sender(identifiers)
        _, _, third = sent(sender, ONE, TWO, ONE)
        sender.reject(2)
        assert 2 not in identifiers
        assert sender.published_tokens == [1, third]
        assert [packet for _, packet in sender.resume(session_present=True)[0]] == [
            Publish("a", b"1", 1, dup=True, packet_id=1),
            Publish("a", b"1", 1, dup=True, packet_id=3),
        ]

    def test_it_is_removed_from_the_journal(self) -> None:
        session, store = Session(), MemoryStore()
        session.keep_in(store, "c")
        sent(session.sender, ONE)
        assert len(store) == 1
        session.sender.reject(1)
        assert len(store) == 0


class TestPubackForQos2:
    """A PUBACK instead of a PUBREC violates [MQTT-4.3.3-1]; some servers support only QoS 1."""

    def test_it_is_a_violation(self) -> None:
        sender = Sender(Identifiers())
        sent(sender, TWO)
        with pytest.raises(RemoteProtocolError, match=r"MQTT-4\.3\.3-1"):
            sender.puback(1)
        assert (sender.in_flight, sender.lowered) == (1, 0)

    def test_it_completes_the_message_if_accepted(self) -> None:
        identifiers = Identifiers()
        sender = Sender(identifiers)
        sender.accepts_puback = True
        one, two = sent(sender, ONE, TWO)
        assert [sender.puback(1), sender.puback(2)] == [one, two]
        assert sender.lowered == 1  # the PUBACK for QoS 1 is correct and does not count
        assert (sender.in_flight, len(identifiers)) == (0, 0)

    def test_it_is_a_violation_after_the_pubrec(self) -> None:
        sender = Sender(Identifiers())
        sender.accepts_puback = True
        sent(sender, TWO)
        assert sender.pubrec(1) == PubRel(1)
        with pytest.raises(RemoteProtocolError, match="a PubAck for 1, a message of QoS 2"):
            sender.puback(1)


class TestWithdrawing:
    @pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
    def test_only_selected_waiting_messages_stay(self, stored: bool) -> None:
        session, store = Session(max_in_flight=1), MemoryStore()
        if stored:
            session.keep_in(store, "c")
        sender = session.sender
        sent(sender, Message("secret", b"in flight", 1))
        for message in (ONE, Message("secret", b"x", 1), Message("a", b"kept", 2, True), Message("secret", b"y", 2)):
            sender.enqueue(message)
        sender.enqueue_packet(b"of QoS 0")
        queued = sender.queued()
        assert [(topic, qos, retain) for _, topic, _, qos, retain in queued] == [
            ("a", 1, False),
            ("secret", 1, False),
            ("a", 2, True),
            ("secret", 2, False),
        ]
        sender.take_out([token for token, topic, _, _, _ in queued if topic == "secret"])
        assert (sender.in_flight, sender.waiting) == (1, 3)
        assert len(store) == (3 if stored else 0)
        sender.puback(1)
        assert sender.size == len("a1" + "akept" + "of QoS 0")
        leaving = [sender.take_ready()[0], sender.puback(2), sender.take_ready()[0]]
        assert leaving == [
            [bytes.fromhex("32 06 0001 61 0002 31")],
            2,
            [bytes.fromhex("35 09 0001 61 0003 6b657074"), b"of QoS 0"],
        ]

    def test_taking_out_nothing_changes_nothing(self) -> None:
        sender = Sender(Identifiers())
        sender.enqueue(ONE)
        sender.take_out([])
        assert (sender.waiting, sender.size) == (1, 2)


class TestMessagesBeforeAToken:
    """A SUBSCRIBE is sent in order: after messages published before it, and before messages published later."""

    @pytest.mark.parametrize("before", [1, 2, 3, 4])
    def test_only_messages_published_before_it_are_sent(self, before: int) -> None:
        sender = Sender(Identifiers())
        sender.enqueue_packet(b"first")
        sender.enqueue(ONE)
        sender.enqueue_packet(b"third")
        packets = [b"first", bytes.fromhex("32 06 0001 61 0001 31"), b"third"]
        assert sender.take_ready(before=before)[0] == packets[: before - 1]
        assert sender.take_ready()[0] == packets[before - 1 :]


def begin(session: Session, *filters: str, token: bool = True) -> int | None:
    """Queue a SUBSCRIBE, split it into its parts and send these. Return its token."""
    made = session.subscribe([(topic_filter, 1) for topic_filter in filters]) if token else None
    assert session.split_request() == len(filters)
    while session.next_request() is not None:
        pass
    return made


def packets_of(session: Session) -> dict[int, object]:
    return {packet_id: request.packet(packet_id) for packet_id, request in session.requests_sent.items()}


class TestSplitRequests:
    def test_each_topic_filter_is_sent_alone_and_in_order(self) -> None:
        session = Session()
        session.subscribe([("a", 0), ("b", 2)])
        session.subscribe([("c", 1)])
        assert session.split_request() == 2
        while session.next_request() is not None:
            pass
        assert packets_of(session) == {
            1: Subscribe(1, [("a", 0)]),
            2: Subscribe(2, [("b", 2)]),
            3: Subscribe(3, [("c", 1)]),
        }

    @pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2)])
    def test_the_caller_gets_one_answer_with_all_return_codes(self, order: Sequence[int]) -> None:
        session = Session()
        token = begin(session, "a", "b", "c")
        codes = {1: 1, 2: FAILURE, 3: 0}
        answers = [session.suback(packet_id, [codes[packet_id]]) for packet_id in order]
        assert all(answer is not None and answer[0].token == token for answer in answers)
        assert [answer[1] for answer in answers if answer] == [(), (), (("a", 1), ("b", FAILURE), ("c", 0))]
        assert session.subscriptions == {"a": 1, "c": 1}
        assert len(session.identifiers) == 0

    def test_a_restored_request_has_no_caller(self) -> None:
        session = Session()
        session.subscriptions.update({"a": 1, "b": 1})
        session.restore(session_present=False, max_filters=8)
        begin(session, "a", "b", token=False)
        answers = [session.suback(packet_id, [1]) for packet_id in (1, 2)]
        assert [(answer[0].token, answer[1]) for answer in answers if answer] == [
            (None, (("a", 1),)),
            (None, (("b", 1),)),
        ]


def rejected(session: Session, packet_id: int) -> tuple[int | None, tuple[tuple[str, int], ...]]:
    request, return_codes = session.reject(packet_id)
    return request.token, return_codes


class TestRejectedRequests:
    def test_a_subscribe_is_answered_as_refused_and_not_restored(self) -> None:
        session = Session()
        session.subscriptions["poison"] = 0
        token = session.subscribe([("poison", 1)])
        session.next_request()
        assert session.unanswered() == {("subscribe", "poison")}
        assert rejected(session, 1) == (token, (("poison", FAILURE),))
        assert session.unanswered() == set()
        assert session.subscriptions == {}
        assert len(session.identifiers) == 0
        assert session.suspects.closed_over == {"poison"}

    def test_an_unsubscribe_is_answered_as_refused_and_its_subscription_stays(self) -> None:
        session = Session()
        session.subscriptions["poison"] = 1
        token = session.unsubscribe(["poison"])
        session.next_request()
        assert session.unanswered() == {("unsubscribe", "poison")}
        assert rejected(session, 1) == (token, (("poison", FAILURE),))
        assert session.unanswered() == set()
        assert session.subscriptions == {"poison": 1}
        assert len(session.identifiers) == 0
        assert session.suspects.closed_over == set()

    def test_a_part_completes_its_call_with_what_the_others_were_granted(self) -> None:
        session = Session()
        token = begin(session, "a", "poison", "c")
        session.suback(1, [1])
        assert rejected(session, 2) == (token, ())  # "c" is not answered yet
        answered = session.suback(3, [1])
        assert answered is not None
        assert (answered[0].token, answered[1]) == (token, (("a", 1), ("poison", FAILURE), ("c", 1)))

    def test_the_last_part_completes_it_immediately(self) -> None:
        session = Session()
        token = begin(session, "a", "poison")
        session.suback(1, [1])
        assert rejected(session, 2) == (token, (("a", 1), ("poison", FAILURE)))

    def test_a_granted_filter_is_no_longer_a_suspect(self) -> None:
        session = Session()
        for _ in range(2):
            session.subscribe([("a", 1)])
        session.next_request()
        session.reject(1)
        session.next_request()
        session.suback(2, [1])
        assert session.suspects.closed_over == set()
        assert session.subscriptions == {"a": 1}

    def test_unanswered_messages_and_requests(self) -> None:
        session = Session()
        session.subscribe([("a", 1), ("b", 0)])
        session.unsubscribe(["a"])
        while session.next_request() is not None:
            pass
        (token,) = sent(session.sender, ONE)
        session.sender.enqueue_packet(b"of QoS 0")
        assert session.unanswered() == {("subscribe", "a"), ("subscribe", "b"), ("unsubscribe", "a"), token}
