"""A packet on which the server closes the connection each time is found by sending suspects alone, and is rejected.

Each connection below is a machine with the same session. The server answers pings and closes the connection on "p".
"""

from __future__ import annotations

import pytest
from machines import NOW, client, feed, sends, take

from mqttws import (
    ClientMachine,
    ConnectionBroken,
    ConnectionClosed,
    KeepAliveTimeout,
    Message,
    MQTTError,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    RemoteProtocolError,
    Session,
    SessionTakenOver,
    StoreError,
    SubAck,
    UnsubAck,
)
from mqttws.protocol.events import Closed, Delivered, Rejected, Subscribed, Unsubscribed
from mqttws.protocol.store import MemoryStore

A = "32 06 00 01 61 00 01 31"  # PUBLISH of QoS 1 to "a", identifier 1, payload "1"
P = "32 06 00 01 70 00 02 32"  # ... to "p", identifier 2, payload "2"
B = "32 06 00 01 62 00 03 33"  # ... to "b", identifier 3, payload "3"
A_AGAIN, P_AGAIN, B_AGAIN = ("3a" + packet[2:] for packet in (A, P, B))  # with DUP
PING = "c0 00"


def connected(session: Session, present: bool = True, **options: object) -> ClientMachine:
    """Return the next connection of a session."""
    return client(session=session, present=present, reject_suspects=True, **options)


def proven(session: Session, present: bool = True, **options: object) -> ClientMachine:
    """Return the next connection of a session with suspects: it sends only a PINGREQ before its answer."""
    machine = connected(session, present, **options)
    assert sends(machine).endswith(PING)
    assert sends(machine) == ""
    feed(machine, PingResp())
    return machine


def cut(machine: ClientMachine) -> list[object]:
    """Close the connection by the server. Return the events before `Closed`."""
    machine.receive_eof(NOW)
    *events, closed = take(machine)
    assert isinstance(closed, Closed)
    return events


def cautious(session: Session) -> None:
    """End two connections of a session with the same packets unanswered, so that these are then sent alone."""
    for _ in range(2):
        machine = connected(session)
        machine.data_to_send(NOW)
        assert cut(machine) == []


def test_a_message_is_found_in_four_connections_and_the_others_keep_their_order() -> None:
    session = Session()
    tokens = [session.publish(Message(topic, payload, 1)) for topic, payload in (("a", b"1"), ("p", b"2"), ("b", b"3"))]
    first = connected(session)
    assert sends(first) == f"{A} {P} {B}"
    assert cut(first) == []
    second = connected(session)  # possibly a network failure, so everything is sent as usual
    assert sends(second) == f"{A_AGAIN} {P_AGAIN} {B_AGAIN}"
    assert cut(second) == []
    third = proven(session)
    assert sends(third) == A_AGAIN
    assert sends(third) == ""  # waits for the PINGRESP
    assert feed(third, PubAck(1)) == [Delivered([tokens[0]])]
    assert sends(third) == P_AGAIN
    assert cut(third) == []
    fourth = proven(session)
    assert sends(fourth) == P_AGAIN
    assert cut(fourth) == [Rejected(tokens[1], "p", 2)]
    fifth = proven(session)
    assert sends(fifth) == B_AGAIN
    assert feed(fifth, PubAck(3)) == [Delivered([tokens[2]])]
    assert len(session.sender) == 0
    session.publish(Message("a", b"4", 1))
    session.publish(Message("a", b"5", 1))
    assert sends(fifth) == "32 06 00 01 61 00 04 34 32 06 00 01 61 00 05 35"  # together again
    assert cut(fifth) == []
    assert sends(connected(session)) == "3a 06 00 01 61 00 04 34 3a 06 00 01 61 00 05 35"


def test_a_message_after_which_connections_end_late_is_kept_for_long() -> None:
    """A cluster without a leader closes each connection after a time-out, whatever the message is."""
    session = Session()
    token = session.publish(Message("a", b"1", 1))
    cautious(session)
    for number in range(30):
        machine = proven(session)
        assert sends(machine, NOW) == A_AGAIN
        assert machine.next_deadline() == NOW + 0.25
        machine.handle_timeout(NOW + 0.2)
        machine.handle_timeout(NOW + 0.25)
        assert machine.next_deadline() == NOW + 45  # the keep alive
        assert cut(machine) == ([] if number < 29 else [Rejected(token, "a", 2)])


def test_an_end_at_once_is_evidence_after_late_ones() -> None:
    session = Session()
    token = session.publish(Message("p", b"2", 1))
    cautious(session)
    for late, rejected in ((True, []), (False, []), (False, [Rejected(token, "p", 2)])):
        machine = proven(session)
        machine.data_to_send(NOW)
        machine.handle_timeout(NOW + (0.25 if late else 0.2))
        assert cut(machine) == rejected


def test_the_next_suspect_of_a_connection_is_timed_anew_and_the_round_trip_counts() -> None:
    session = Session()
    for topic, payload in (("a", b"1"), ("p", b"2")):
        session.publish(Message(topic, payload, 1))
    cautious(session)
    machine = connected(session)
    assert sends(machine) == PING
    feed(machine, PingResp(), now=NOW + 2)
    assert sends(machine, NOW + 2) == A_AGAIN
    assert machine.next_deadline() == NOW + 6.25
    machine.handle_timeout(NOW + 6.25)
    feed(machine, PubAck(1), now=NOW + 7)
    assert sends(machine, NOW + 7) == P_AGAIN
    feed(machine, PingResp(), now=NOW + 8)  # of no PINGREQ for the suspects
    assert sends(machine, NOW + 8) == ""
    assert machine.next_deadline() == NOW + 11.25
    assert cut(machine) == []
    machine = proven(session)
    assert sends(machine) == P_AGAIN
    assert cut(machine) == [Rejected(2, "p", 2)]


def test_one_of_qos_2_is_found_by_its_publish_and_not_by_its_pubrel() -> None:
    session = Session()
    session.publish(Message("p", b"", 2))
    session.publish(Message("a", b"", 2))
    cautious(session)
    assert sends(proven(session)) == "3c 05 00 01 70 00 01"
    machine = proven(session)
    assert sends(machine) == "3c 05 00 01 70 00 01"
    feed(machine, PubRec(1))
    assert sends(machine) == "62 02 00 01 3c 05 00 01 61 00 02"  # its PUBREL, and the next one
    assert cut(machine) == []
    machine = connected(session)
    assert sends(machine) == "62 02 00 01 c0 00"  # a PUBREL is not held back
    feed(machine, PubComp(1), PingResp())
    assert sends(machine) == "3c 05 00 01 61 00 02"
    assert cut(machine) == [Rejected(2, "a", 1)]


@pytest.mark.parametrize(
    "error",
    [
        None,
        KeepAliveTimeout("silent"),
        SessionTakenOver("taken over"),
        RemoteProtocolError("a fault", "§3"),
        StoreError("full"),
        ConnectionClosed("going away", 1001),
        ConnectionClosed("restart", 1012),
        ConnectionClosed("try again later", 1013),
    ],
    ids=repr,
)
def test_an_end_with_another_reason_proves_nothing(error: MQTTError | None) -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    for _ in range(5):
        machine = connected(session)
        assert sends(machine)[2:] == A[2:]
        machine.close(error)
        assert take(machine) == [Closed(error)]


@pytest.mark.parametrize("error", [ConnectionBroken("reset"), ConnectionClosed("", 1000), ConnectionClosed("", 1008)])
def test_an_end_by_the_server_or_the_network_is_evidence(error: MQTTError) -> None:
    session = Session()
    session.publish(Message("p", b"2", 1))
    events: list[object] = []
    for _ in range(4):
        machine = connected(session)
        feed(machine, PingResp())
        machine.data_to_send(NOW)
        machine.close(error)
        events += take(machine)
    assert [event for event in events if not isinstance(event, Closed)] == [Rejected(1, "p", 2)]


def test_without_reject_suspects_a_message_is_sent_for_ever() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    for _ in range(10):
        machine = client(session=session, present=True)
        assert sends(machine)[2:] == A[2:]
        assert cut(machine) == []


def test_messages_answered_in_between_are_not_suspects() -> None:
    session = Session()
    for number in range(5):
        session.publish(Message("a", b"", 1))
        machine = connected(session)
        machine.data_to_send(NOW)
        feed(machine, PubAck(number + 1))
        session.publish(Message("a", b"", 1))
        machine.data_to_send(NOW)
        feed(machine, PubAck(number + 1))
        assert cut(machine) == []
        session.sender.clear()
    assert not session.suspects.cautious


def test_a_late_answer_clears_a_suspect() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    session.publish(Message("p", b"2", 1))
    session.publish(Message("b", b"3", 1))
    cautious(session)
    machine = proven(session)
    assert sends(machine) == A_AGAIN
    feed(machine, PubAck(2), PubAck(1))  # late answers to packets of an earlier connection
    assert sends(machine) == B_AGAIN
    assert feed(machine, PubAck(3)) == [Delivered([3])]
    assert sends(machine) == ""
    assert not session.suspects.cautious


def test_a_reused_identifier_is_another_message() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    session.publish(Message("b", b"2", 1))
    cautious(session)
    machine = proven(session)
    machine.data_to_send(NOW)
    feed(machine, PubAck(2))
    session.identifiers.start_at(2)
    session.publish(Message("c", b"3", 1))
    feed(machine, PubAck(1))
    assert sends(machine) == "32 06 00 01 63 00 02 33"  # once, and without DUP


def test_a_connection_that_ends_before_the_pingresp_rejects_nothing() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    cautious(session)
    for _ in range(5):
        machine = connected(session)
        assert sends(machine) == PING
        assert cut(machine) == []
    machine = proven(session)
    assert sends(machine) == A_AGAIN
    assert feed(machine, PubAck(1)) == [Delivered([1])]


def test_new_messages_wait_until_the_suspects_are_answered_and_acknowledgements_do_not() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    cautious(session)
    machine = connected(session)
    session.publish(Message("new", b"", 0))
    assert not machine.may_overtake(NOW)
    assert sends(machine) == PING
    (publish,) = feed(machine, Publish("in", b"", 1, packet_id=9))
    assert isinstance(publish, Publish)
    machine.acknowledge(publish)
    assert sends(machine) == "40 02 00 09"
    feed(machine, PingResp())
    assert sends(machine) == A_AGAIN
    feed(machine, PubAck(1))
    assert sends(machine) == "30 05 00 03 6e 65 77"


def test_a_subscribe_of_several_is_split_and_its_call_gets_every_return_code() -> None:
    session = Session()
    token = session.subscribe([("a", 1), ("p", 1), ("b", 1)])
    for _ in range(2):
        machine = connected(session)
        assert sends(machine) == "82 0e 00 01 00 01 61 01 00 01 70 01 00 01 62 01"
        assert cut(machine) == []
        session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "82 06 00 01 00 01 61 01"
    assert feed(machine, SubAck(1, [1])) == []
    assert sends(machine) == "82 06 00 02 00 01 70 01"
    assert cut(machine) == []
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "82 06 00 01 00 01 70 01"
    assert cut(machine) == []  # the call still waits for the third
    assert session.subscriptions == {"a": 1}
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "82 06 00 01 00 01 62 01"
    assert feed(machine, SubAck(1, [1])) == [Subscribed(token, (("a", 1), ("p", 0x80), ("b", 1)))]
    assert session.subscriptions == {"a": 1, "b": 1}


def test_an_unsubscribe_is_rejected_and_the_other_filters_of_its_call_are_done() -> None:
    session = Session()
    session.subscriptions.update({"a": 1, "p": 1, "b": 0})
    token = session.unsubscribe(["a", "p", "b"])
    for _ in range(2):
        machine = connected(session)
        assert sends(machine) == "a2 0b 00 01 00 01 61 00 01 70 00 01 62"
        assert cut(machine) == []
        session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "a2 05 00 01 00 01 61"
    assert feed(machine, UnsubAck(1)) == []
    assert sends(machine) == "a2 05 00 02 00 01 70"
    assert cut(machine) == []
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "a2 05 00 01 00 01 70"
    assert cut(machine) == []  # the call still waits for the third
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "a2 05 00 01 00 01 62"
    assert feed(machine, UnsubAck(1)) == [Unsubscribed(token, (("a", 0), ("p", 0x80), ("b", 0)))]
    assert session.subscriptions == {"p": 1}  # as at the server
    assert sends(machine) == ""
    assert not session.suspects.cautious


def test_a_subscribe_and_an_unsubscribe_of_one_filter_are_separate_suspects() -> None:
    """The server accepts the SUBSCRIBE at the second attempt, and never the UNSUBSCRIBE."""
    session = Session()
    subscribing, unsubscribing = session.subscribe([("p", 0)]), session.unsubscribe(["p"])
    cautious(session)
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "82 06 00 01 00 01 70 00"
    assert cut(machine) == []
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "82 06 00 01 00 01 70 00"
    assert feed(machine, SubAck(1, [0])) == [Subscribed(subscribing, (("p", 0),))]
    assert sends(machine) == "a2 05 00 02 00 01 70"
    assert cut(machine) == []
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "a2 05 00 01 00 01 70"
    assert cut(machine) == [Unsubscribed(unsubscribing, (("p", 0x80),))]
    assert session.suspects.closed_over == set()


def test_only_the_suspect_of_restored_subscriptions_is_rejected() -> None:
    """The server has lost the session, and its policy has changed: the other subscriptions are restored."""
    session = Session()
    session.subscriptions.update({"a": 1, "p": 1, "b": 0})
    for _ in range(2):
        machine = connected(session, present=False)
        assert sends(machine) == "82 0e 00 01 00 01 61 01 00 01 70 01 00 01 62 00"
        assert cut(machine) == []
        session.identifiers.start_at(1)
    for rejected in ([], [Subscribed(None, (("p", 0x80),))]):
        machine = proven(session, present=False)
        assert sends(machine) == "82 06 00 01 00 01 61 01"
        assert feed(machine, SubAck(1, [1])) == [Subscribed(None, (("a", 1),))]
        assert sends(machine) == "82 06 00 02 00 01 70 01"
        assert cut(machine) == rejected
        session.identifiers.start_at(1)
    machine = proven(session, present=False)
    assert sends(machine) == "82 0a 00 01 00 01 61 01 00 01 62 00"  # neither is a suspect, so together again
    assert feed(machine, SubAck(1, [1, 0])) == [Subscribed(None, (("a", 1), ("b", 0)))]
    assert session.subscriptions == {"a": 1, "b": 0}


def test_a_rejected_filter_that_is_granted_later_is_no_suspect() -> None:
    session = Session()
    session.subscribe([("p", 0)])
    cautious(session)
    for _ in range(2):
        machine = proven(session)
        machine.data_to_send(NOW)
        events = cut(machine)
    assert events == [Subscribed(1, (("p", 0x80),))]
    assert session.suspects.closed_over == {"p"}
    session.subscribe([("p", 0)])
    session.identifiers.start_at(1)
    machine = proven(session)
    assert sends(machine) == "82 06 00 01 00 01 70 00"
    assert feed(machine, SubAck(1, [0])) == [Subscribed(2, (("p", 0),))]
    assert session.suspects.closed_over == set()


def test_requests_and_messages_keep_the_order_of_their_calls() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    subscribing = session.subscribe([("x", 0)])
    session.publish(Message("b", b"3", 1))
    unsubscribing = session.unsubscribe(["x"])
    cautious(session)
    session.identifiers.start_at(2)
    machine = proven(session)
    assert sends(machine) == A_AGAIN
    assert feed(machine, PubAck(1)) == [Delivered([1])]
    assert sends(machine) == "82 06 00 02 00 01 78 00"
    assert feed(machine, SubAck(2, [0])) == [Subscribed(subscribing, (("x", 0),))]
    assert sends(machine) == B_AGAIN
    assert feed(machine, PubAck(3)) == [Delivered([3])]
    assert sends(machine) == "a2 05 00 03 00 01 78"
    assert feed(machine, UnsubAck(3)) == [Unsubscribed(unsubscribing, (("x", 0),))]


def test_new_requests_are_not_suspects() -> None:
    session = Session()
    session.publish(Message("a", b"1", 1))
    cautious(session)
    machine = proven(session)
    session.subscribe([("x", 0), ("y", 0)])
    assert sends(machine) == A_AGAIN
    feed(machine, PubAck(1))
    assert sends(machine) == "82 0a 00 02 00 01 78 00 00 01 79 00"
    assert not session.suspects.cautious


def test_a_request_that_was_sent_on_an_earlier_connection_is_not_withdrawn() -> None:
    """The server may have it: its answer was lost with the connection."""
    session = Session()
    session.subscribe([("a", 0)])
    sent = session.subscribe([("b", 0)])
    cautious(session)
    machine = proven(session)
    assert len(sends(machine)) > 0
    assert not session.withdraw_request(sent)
    for _ in range(2):
        (packet_id,) = session.requests_sent
        assert [type(event) for event in feed(machine, SubAck(packet_id, [0]))] == [Subscribed]
        sends(machine)
    assert sends(machine) == ""
    session.subscribe([("c", 0)])
    session.subscribe([("d", 0)])
    machine.data_to_send(NOW)
    while session.requests:
        (packet_id,) = session.requests_sent
        feed(machine, SubAck(packet_id, [0]))
        assert len(sends(machine)) > 0
    assert [request.subscribe for request in session.requests_sent.values()][-1] == (("d", 0),)


def test_a_part_of_a_request_that_was_sent_is_not_withdrawn() -> None:
    session = Session()
    token = session.subscribe([("a", 0), ("b", 0)])
    cautious(session)
    machine = proven(session)
    sends(machine)
    assert len(session.requests) == 1
    assert not session.withdraw_request(token)
    assert len(session.requests) == 1


def test_a_subscribe_without_a_free_identifier_waits_for_one() -> None:
    """All 65,535 identifiers are in flight, and the server has lost the subscription, which is restored first."""
    session = Session(max_in_flight=65_535, max_queued=65_535)
    for _ in range(65_535):
        session.publish(Message("a", b"", 1))
    session.subscriptions["x"] = 0
    session.sender.take_ready()
    session.suspects.cautious = True
    machine = connected(session, present=False)
    assert sends(machine) == PING
    feed(machine, PingResp())
    assert sends(machine) == "3a 05 00 01 61 00 01"
    feed(machine, PubAck(1))
    assert sends(machine) == "82 06 00 01 00 01 78 00"


class Disk(MemoryStore):
    """A store that can be full."""

    full = False

    def commit(self) -> None:
        if self.full:
            raise StoreError("no space left on device")
        super().commit()


@pytest.mark.parametrize("full", [False, True])
def test_rejected_messages_are_removed_from_the_store_if_it_is_writable(full: bool) -> None:
    store = Disk()
    session = Session()
    session.keep_in(store, "c")
    session.publish(Message("p", b"2", 1))
    session.publish(Message("b", b"3", 1))
    cautious(session)
    machine = proven(session)
    assert sends(machine) == "3a 06 00 01 70 00 01 32"
    assert cut(machine) == []
    machine = proven(session)
    assert sends(machine) == "3a 06 00 01 70 00 01 32"
    store.full = full
    assert cut(machine) == [Rejected(1, "p", 2)]
    store.crash()  # uncommitted changes are lost
    assert len(store) == (2 if full else 1)
