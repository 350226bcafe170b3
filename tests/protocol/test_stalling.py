"""`ack_timeout`: a server that acknowledges nothing is pinged and reported, for any keep alive."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from machines import NOW, client, closing_error, feed, sends, take

from mqttws import (
    ClientMachine,
    ConnAck,
    Connect,
    KeepAliveTimeout,
    Message,
    Packet,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    Session,
    SubAck,
    UnsubAck,
)
from mqttws.protocol.events import Stalled
from mqttws.protocol.machine import CLOSED, CONNECTED, CONNECTING

SILENT = Connect("c", keep_alive=0)  # so that every ping here is one of the ack_timeout

Ask = Callable[[ClientMachine], int]
ASKED: list[tuple[Ask, Packet, str]] = [
    (lambda machine: machine.publish(Message("a", b"x", 1)), PubAck(1), "32 06 00 01 61 00 01 78"),
    (lambda machine: machine.publish(Message("a", b"x", 2)), PubRec(1), "34 06 00 01 61 00 01 78"),
    (lambda machine: machine.subscribe([("a", 0)]), SubAck(1, [0]), "82 06 00 01 00 01 61 00"),
    (lambda machine: machine.unsubscribe(["a"]), UnsubAck(1), "a2 05 00 01 00 01 61"),
]


def waiting(asked: int = 1, **options: object) -> ClientMachine:
    """Return a client with an ack_timeout of 10 s that has sent some messages of QoS 1."""
    machine = client(SILENT, ack_timeout=10.0, ping_timeout=5.0, **options)
    for _ in range(asked):
        machine.publish(Message("a", b"x", 1))
    machine.data_to_send(NOW)
    return machine


@pytest.mark.parametrize(("ask", "answer", "packet"), ASKED, ids=["PUBACK", "PUBREC", "SUBACK", "UNSUBACK"])
def test_each_type_of_acknowledgement_is_awaited(ask: Ask, answer: Packet, packet: str) -> None:
    machine = waiting(0)
    assert machine.next_deadline() is None
    ask(machine)
    assert sends(machine) == packet
    assert machine.next_deadline() == NOW + 10
    machine.handle_timeout(NOW + 9.9)
    assert (take(machine), sends(machine, NOW + 9.9)) == ([], "")
    machine.handle_timeout(NOW + 10)
    assert take(machine) == [Stalled(1, 10.0)]
    assert sends(machine, NOW + 10) == "c0 00"
    feed(machine, PingResp(), answer, now=NOW + 11)
    expected = NOW + 21 if isinstance(answer, PubRec) else None  # the PUBCOMP is due next
    assert machine.next_deadline() == expected


def test_it_is_reported_once_until_an_acknowledgement_arrives() -> None:
    machine = waiting(2)
    machine.handle_timeout(NOW + 10)
    assert feed(machine, PingResp(), now=NOW + 11) == [Stalled(2, 10.0)]
    assert machine.next_deadline() is None
    machine.handle_timeout(NOW + 50)
    assert take(machine) == []
    feed(machine, PubAck(1), now=NOW + 60)
    take(machine)
    assert machine.next_deadline() == NOW + 70
    machine.handle_timeout(NOW + 70)
    assert take(machine) == [Stalled(1, 10.0)]


def test_only_an_acknowledgement_restarts_the_timeout() -> None:
    machine = waiting(3)
    feed(machine, PubAck(2), now=NOW + 6)
    assert machine.next_deadline() == NOW + 16
    feed(machine, Publish("in"), now=NOW + 8)
    feed(machine, PubAck(2), now=NOW + 9)  # a repeated one answers nothing
    machine.publish(Message("a", b"x", 1))
    machine.data_to_send(NOW + 10)
    assert machine.next_deadline() == NOW + 16


def test_an_unanswered_ping_ends_the_connection() -> None:
    machine = waiting()
    machine.handle_timeout(NOW + 10)
    machine.data_to_send(NOW + 10)
    assert machine.next_deadline() == NOW + 15
    machine.handle_timeout(NOW + 15)
    assert machine.state is CLOSED
    assert isinstance(closing_error(take(machine)), KeepAliveTimeout)


def test_nothing_is_reported_while_reading_is_paused() -> None:
    machine = waiting()
    machine.pause_reading()
    assert machine.next_deadline() is None
    machine.handle_timeout(NOW + 100)
    assert (take(machine), sends(machine, NOW + 100)) == ([], "")
    machine.resume_reading(NOW + 100)  # the acknowledgement may be read now
    assert machine.next_deadline() == NOW + 110


def test_the_earlier_of_it_and_the_keep_alive() -> None:
    machine = client(Connect("c", keep_alive=60), ack_timeout=100.0)
    machine.publish(Message("a", b"x", 1))
    machine.data_to_send(NOW)
    assert machine.next_deadline() == NOW + 45
    machine = client(Connect("c", keep_alive=60), ack_timeout=10.0)
    machine.publish(Message("a", b"x", 1))
    machine.data_to_send(NOW)
    assert machine.next_deadline() == NOW + 10


def test_messages_of_an_earlier_connection_count_from_the_connack() -> None:
    session = Session()
    waiting(2, session=session)
    machine = client(SILENT, session, CONNECTING, ack_timeout=10.0)
    machine.handle_timeout(NOW + 50)
    assert sends(machine, NOW + 50) == ""
    feed(machine, ConnAck(0), now=NOW + 60)
    assert machine.state is CONNECTED
    assert machine.next_deadline() == NOW + 70


def test_the_answers_of_both_halves_of_qos_2_are_distinguished() -> None:
    """A PUBREC and a PUBCOMP together leave as many due as before, and yet are progress."""
    machine = waiting(0)
    for _ in range(2):
        machine.publish(Message("a", b"x", 2))
    machine.data_to_send(NOW)
    feed(machine, PubRec(1), now=NOW + 1)
    machine.data_to_send(NOW + 1)
    feed(machine, PubRec(2), PubComp(1), now=NOW + 8)
    assert machine.next_deadline() == NOW + 18


def test_without_a_time_out_nothing_is_due() -> None:
    machine = client(SILENT)
    machine.publish(Message("a", b"x", 1))
    machine.data_to_send(NOW)
    assert machine.next_deadline() is None
