"""Sessions: stored state while the client is disconnected, retransmission, take-over and expiry."""

from __future__ import annotations

from itertools import product

import pytest

from mqttws import PubAck, Publish, PubRec, PubRel
from mqttws.broker import Accepted, Limits


@pytest.mark.statement("MQTT-3.1.2-4")
@pytest.mark.statement("MQTT-3.1.2-5")
@pytest.mark.statement("MQTT-3.2.2-2")
@pytest.mark.parametrize("orderly", [True, False])
def test_a_session_keeps_subscriptions_and_messages(client, orderly):
    peer = client("c", clean_session=False)
    peer.subscribe(("a", 2))
    if orderly:
        peer.send("e0 00").rest()
    else:
        peer.reset()
    publisher = client("publisher")
    publisher.send(*[Publish("a", b"%d" % n, n % 3, packet_id=n if n % 3 else None) for n in range(9)])
    assert {publisher.receive() for _ in range(6)} == {PubAck(1), PubAck(4), PubAck(7), PubRec(2), PubRec(5), PubRec(8)}
    peer = client("c", clean_session=False)
    assert peer.session_present
    kept = peer.messages(6)
    assert [(message.payload, message.qos) for message in kept] == [(b"%d" % n, n % 3) for n in range(9) if n % 3]
    peer.quiet()
    publisher.send(Publish("a", b"live"))
    assert peer.messages(1)[0].payload == b"live"


@pytest.mark.statement("MQTT-3.1.2-6")
def test_a_clean_session_discards_the_old_one_and_ends_with_its_connection(client):
    with client("c", clean_session=False) as peer:
        peer.subscribe(("a", 1))
    publisher = client("publisher")
    publisher.send(Publish("a", b"1", 1, packet_id=1)).expect(PubAck(1))
    with client("c", clean_session=True) as peer:
        peer.quiet()
        peer.subscribe(("b", 1))
        peer.send("e0 00").rest()
    publisher.send(Publish("a", b"2", 1, packet_id=1), Publish("b", b"3", 1, packet_id=2))
    publisher.expect(PubAck(1), PubAck(2))
    peer = client("c", clean_session=False)
    assert not peer.session_present
    peer.quiet()


@pytest.mark.statement("MQTT-3.3.1-1")
@pytest.mark.statement("MQTT-4.4.0-1")
@pytest.mark.statement("MQTT-2.3.1-3")
@pytest.mark.statement("MQTT-4.1.0-1")
def test_unacknowledged_messages_are_sent_again_with_their_identifiers(client):
    peer = client("c", clean_session=False)
    peer.subscribe(("a", 2))
    publisher = client("publisher")
    publisher.send(*[Publish("a", b"%d" % n, 1 + n % 2, packet_id=n) for n in range(1, 6)])
    first = peer.messages(5)
    assert [message.packet_id for message in first] == [1, 2, 3, 4, 5]  # the broker counts from 1 in each session
    assert [message.qos for message in first] == [2, 1, 2, 1, 2]
    peer.send(PubAck(2), "50 02 00 03").expect(PubRel(3))
    peer.reset()
    peer = client("c", clean_session=False)
    again = [peer.receive() for _ in range(4)]
    assert again == [
        PubRel(3),
        Publish("a", b"1", 2, False, True, 1),
        Publish("a", b"4", 1, False, True, 4),
        Publish("a", b"5", 2, False, True, 5),
    ]
    peer.quiet()


@pytest.mark.statement("U-10")
@pytest.mark.statement("MQTT-2.3.1-4")
def test_identifiers_are_not_used_twice_and_nothing_is_sent_again_on_a_live_connection(start, client):
    broker = start(limits=Limits(max_in_flight=65_535, max_queued=70_000))
    peer = client("c", broker)
    peer.subscribe(("a", 1))
    publisher = client("publisher", broker)
    for _ in range(164):
        publisher.send(*[Publish("a", b"", 1, packet_id=n) for n in range(1, 401)])
        publisher.expect(*[PubAck(n) for n in range(1, 401)])
    messages = peer.messages(65_535)
    assert {message.packet_id for message in messages} == set(range(1, 65_536))
    peer.quiet()
    peer.send(PubAck(4711))
    assert peer.messages(1)[0].packet_id == 4711
    peer.quiet()


@pytest.mark.statement("MQTT-3.1.4-2")
@pytest.mark.statement("MQTT-3.1.3-2")
@pytest.mark.parametrize(("old", "new"), list(product(["mqtt", "ws"], repeat=2)))
def test_a_second_client_of_the_same_identifier_takes_the_session_over(client, old, new):
    first = client("c", scheme=old, clean_session=False)
    first.subscribe(("a", 1))
    second = client("c", scheme=new, clean_session=False)
    assert second.session_present
    assert first.rest() == b""
    client("publisher").send(Publish("a", b"x", 1, packet_id=1))
    assert second.messages(1) == [Publish("a", b"x", 1, packet_id=1)]


def test_a_take_over_sends_a_close_code(client):
    first = client("c", scheme="ws")
    client("c")
    opcode, payload = first.frame()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 4001)


@pytest.mark.statement("MQTT-3.1.4-2")
def test_two_hundred_take_overs_in_a_row(broker, client):
    peers = [client("c", clean_session=False) for _ in range(200)]
    for peer in peers[:-1]:
        assert peer.rest() == b""
    peers[-1].quiet()
    assert broker.metrics()["clients/connected"] == 1


def test_a_clean_session_that_is_taken_over_ends(client):
    first = client("c", clean_session=True)
    first.subscribe(("a", 0))
    second = client("c", clean_session=False)
    assert not second.session_present
    client("publisher").send(Publish("a", b"x", 1, packet_id=1)).expect(PubAck(1))
    second.quiet()


@pytest.mark.statement("MQTT-3.2.2-3")
@pytest.mark.statement("MQTT-4.1.0-2")
def test_sessions_expire_while_their_clients_are_away_and_never_before(start, client):
    broker = start(limits=Limits(session_expiry=0.05))
    stays = client("stays", broker, clean_session=False)
    stays.subscribe(("a", 1))
    client("goes", broker, clean_session=False).close()
    while broker.metrics()["clients/total"] == 2:  # the broker checks its sessions once a second
        stays.quiet()
    assert broker.metrics()["clients/expired"] == 1
    assert not client("goes", broker, clean_session=False).session_present
    broker.publish("a", b"x", 1)
    assert stays.messages(1)[0].payload == b"x"


def test_a_session_that_has_expired_is_not_resumed_even_before_it_is_swept(start, client):
    broker = start(limits=Limits(session_expiry=1e-9))
    client("c", broker, clean_session=False).send("e0 00").rest()
    assert not client("c", broker, clean_session=False).session_present


def test_the_queue_of_a_disconnected_client_is_bounded_and_drops_the_newest(start, client, caplog):
    broker = start(limits=Limits(max_queued=3))
    with client("c", broker, clean_session=False) as peer:
        peer.subscribe(("a", 1))
        peer.send("e0 00").rest()
    for number in range(10):
        broker.publish("a", b"%d" % number, 1)
    assert broker.metrics()["publish/messages/dropped"] == 7
    assert len([record for record in caplog.records if "dropped" in record.message]) == 1
    peer = client("c", broker, clean_session=False)
    assert [message.payload for message in peer.messages(3)] == [b"0", b"1", b"2"]
    peer.quiet()


def test_the_queue_is_bounded_by_bytes_too(start, client):
    broker = start(limits=Limits(max_queued_bytes=1000))
    with client("c", broker, clean_session=False) as peer:
        peer.subscribe(("a", 1))
        peer.send("e0 00").rest()
    for _ in range(10):
        broker.publish("a", bytes(300), 1)
    assert broker.metrics()["publish/messages/dropped"] == 7


def test_a_restarted_broker_keeps_its_sessions(start, client):
    broker = start()
    url = broker.url
    peer = client("c", broker, clean_session=False)
    peer.subscribe(("a", 1))
    broker.stop()
    assert peer.rest() == b""
    broker.start()
    assert broker.url == url
    assert client("c", broker, clean_session=False).session_present


@pytest.mark.parametrize("limits", [Limits(max_sessions=1), Limits(max_sessions=1, session_expiry=None)])
def test_a_session_with_an_expiry_of_0_ends_with_its_connection(start, client, limits):
    """0 is a duration, not the absence of one. The session ends immediately, so nothing is routed to it."""
    broker = start(authenticator=lambda peer, connect: Accepted(session_expiry=0.0), limits=limits)
    for client_id in ("c", "c", "d"):
        peer = client(client_id, broker, clean_session=False)
        assert not peer.session_present
        peer.subscribe(("a", 1))
        peer.send("e0 00").rest()
        assert broker.publish("a", b"x", 1) == 0
        assert broker.metrics()["clients/total"] == 0
        assert broker.metrics()["clients/expired"] == 0
