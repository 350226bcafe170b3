"""SUBSCRIBE and UNSUBSCRIBE, and the deliveries that follow."""

from __future__ import annotations

from itertools import permutations

import pytest

from mqttws import Publish, SubAck, Subscribe, UnsubAck, Unsubscribe
from mqttws.broker import Verdict


@pytest.mark.statement("MQTT-3.8.4-1")
@pytest.mark.statement("MQTT-3.8.4-2")
@pytest.mark.statement("MQTT-2.3.1-7")
@pytest.mark.statement("MQTT-3.10.4-4")
def test_pipelined_requests_are_answered_each_by_its_identifier(client):
    peer = client()
    identifiers = [(number * 7919) % 65535 + 1 for number in range(100)]
    peer.send(*[Subscribe(identifier, [(f"t/{identifier}", 1)]) for identifier in identifiers])
    peer.expect(*[SubAck(identifier, [1]) for identifier in identifiers])
    peer.send(*[Unsubscribe(identifier, [f"t/{identifier}"]) for identifier in identifiers])
    peer.expect(*[UnsubAck(identifier) for identifier in identifiers])


@pytest.mark.statement("MQTT-3.8.4-5")
@pytest.mark.statement("MQTT-3.9.3-1")
def test_suback_has_a_return_code_for_each_filter_in_order(start, client):
    broker = start(authorizer=lambda peer, access: Verdict(not access.topic.startswith("no"), max_qos=1))
    peer = client("c", broker)
    wanted = [(f"{'no' if number % 3 == 0 else 'yes'}/{number}", number % 4 % 3) for number in range(100)]
    codes = peer.subscribe(*wanted)
    assert codes == tuple(0x80 if topic.startswith("no") else min(qos, 1) for topic, qos in wanted)


@pytest.mark.statement("MQTT-3.8.4-1")
def test_a_fully_refused_subscribe_is_answered(start, client):
    peer = client("c", start(authorizer=lambda peer, access: False))
    assert peer.subscribe(("a", 0), ("b", 1)) == (0x80, 0x80)


@pytest.mark.statement("MQTT-3.8.4-6")
@pytest.mark.parametrize("granted", [0, 1, 2])
@pytest.mark.parametrize("published", [0, 1, 2])
def test_the_lower_qos_of_published_and_granted_is_delivered(client, published, granted):
    peer = client()
    peer.subscribe(("a", granted))
    publisher = client("publisher")
    publisher.send(Publish("a", b"x", published, packet_id=9 if published else None))
    qos = min(published, granted)
    assert peer.messages(1) == [Publish("a", b"x", qos, packet_id=1 if qos else None)]


@pytest.mark.statement("MQTT-3.3.5-1")
@pytest.mark.parametrize("order", list(permutations([("a/#", 0), ("a/+", 1), ("a/b", 2)])))
def test_overlapping_subscriptions_give_one_copy_at_the_highest_qos(client, order):
    peer = client()
    for topic_filter in order:
        peer.subscribe(topic_filter)
    client("publisher").send(Publish("a/b", b"x", 2, packet_id=1))
    assert peer.messages(1) == [Publish("a/b", b"x", 2, packet_id=1)]
    peer.quiet()


@pytest.mark.statement("MQTT-3.8.4-3")
def test_the_same_filter_again_replaces_the_subscription(client):
    peer = client()
    publisher = client("publisher")
    assert peer.subscribe(("a", 2)) == (2,)
    assert peer.subscribe(("a", 0)) == (0,)
    publisher.send(Publish("a", b"1", 2, packet_id=1)).expect("50 02 00 01")
    assert peer.messages(1) == [Publish("a", b"1")]
    assert peer.subscribe(("a", 1)) == (1,)
    publisher.send(Publish("a", b"2", 2, packet_id=2)).expect("50 02 00 02")
    assert peer.messages(1) == [Publish("a", b"2", 1, packet_id=1)]


@pytest.mark.statement("MQTT-3.8.4-3")
@pytest.mark.statement("MQTT-3.3.1-8")
def test_each_subscribe_delivers_the_retained_message_again(client):
    publisher = client("publisher")
    publisher.send(Publish("a", b"kept", 1, True, packet_id=1)).expect("40 02 00 01")
    peer = client()
    peer.send(Subscribe(1, [("a", 0)]), Subscribe(2, [("a", 0)]))
    kept = Publish("a", b"kept", 0, True)
    peer.expect(SubAck(1, [0]), kept, SubAck(2, [0]), kept)


@pytest.mark.statement("MQTT-3.8.4-4")
@pytest.mark.statement("MQTT-3.8.4-3")
def test_a_filter_that_a_packet_repeats_delivers_the_retained_message_each_time(client):
    """A SUBSCRIBE with several filters acts like several SUBSCRIBEs, and each sends the retained messages again."""
    publisher = client("publisher")
    publisher.send(Publish("a", b"kept", 2, True, packet_id=1)).expect("50 02 00 01")
    publisher.send(Publish("b", b"other", 0, True))
    peer = client()
    assert peer.subscribe(("a", 0), ("b", 0), ("a", 1), ("a", 0)) == (0, 0, 1, 0)
    messages = peer.messages(4)
    assert sorted((message.topic, message.qos) for message in messages) == [("a", 0), ("a", 0), ("a", 1), ("b", 0)]
    peer.quiet()


@pytest.mark.statement("MQTT-3.8.4-4")
@pytest.mark.statement("MQTT-3.10.4-6")
def test_several_filters_in_one_packet_act_like_several_packets(client):
    peer = client()
    assert peer.subscribe(("a", 0), ("b", 1), ("a", 1)) == (0, 1, 1)
    publisher = client("publisher")
    publisher.send(Publish("a", b"1", 1, packet_id=1), Publish("b", b"2", 1, packet_id=2))
    assert [(message.topic, message.qos) for message in peer.messages(2)] == [("a", 1), ("b", 1)]
    peer.send(Unsubscribe(3, ["a", "b", "c"]))
    peer.expect(UnsubAck(3))
    publisher.expect("40 02 00 01", "40 02 00 02")
    publisher.send(Publish("a", b"1", 1, packet_id=1), Publish("b", b"2", 1, packet_id=2))
    publisher.expect("40 02 00 01", "40 02 00 02")
    peer.quiet()


@pytest.mark.statement("MQTT-3.10.4-1")
@pytest.mark.statement("MQTT-3.10.4-5")
def test_unsubscribe_removes_only_the_identical_filter(client):
    peer = client()
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    peer.subscribe(("a/b", 0), (composed, 0))
    peer.send(Unsubscribe(1, ["a/+", "a/#", "A/b", "a/b/", decomposed]))
    peer.expect(UnsubAck(1))
    client("publisher").send(Publish("a/b", b"1"), Publish(composed, b"2"), Publish(decomposed, b"3"))
    assert [message.payload for message in peer.messages(2)] == [b"1", b"2"]
    peer.quiet()


@pytest.mark.statement("MQTT-3.10.4-2")
def test_nothing_new_is_delivered_after_an_unsuback(client):
    peer = client()
    publisher = client("publisher")
    for number in range(1, 200):
        peer.subscribe(("a", 0))
        peer.send(Unsubscribe(number, ["a"]))
        peer.expect(UnsubAck(number))
        publisher.send(Publish("a", b"x", 1, packet_id=1)).expect("40 02 00 01")
    peer.quiet()


@pytest.mark.statement("MQTT-3.10.4-3")
def test_started_deliveries_are_completed_after_an_unsubscribe(client):
    peer = client("c", clean_session=False)
    peer.subscribe(("a", 2))
    client("publisher").send(Publish("a", b"x", 2, packet_id=1))
    assert peer.messages(1) == [Publish("a", b"x", 2, packet_id=1)]
    peer.send(Unsubscribe(1, ["a"]))
    peer.expect(UnsubAck(1))
    peer.close()
    peer = client("c", clean_session=False)
    assert peer.messages(1) == [Publish("a", b"x", 2, False, True, 1)]
    peer.send("50 02 00 01").expect("62 02 00 01")
    peer.send("70 02 00 01").quiet()


@pytest.mark.statement("MQTT-4.7.2-1")
def test_a_leading_wildcard_does_not_match_dollar_topics(start, client):
    broker = start(sys_anonymous=True)
    peer = client("c", broker)
    peer.subscribe(("#", 0), ("+/broker/version", 0), ("+/#", 0), ("+/x", 0))
    broker.publish("$own/x", b"1")
    broker.publish("$SYS/broker/version", b"2")
    peer.quiet()
    peer.subscribe(("$own/#", 0))
    assert broker.publish("$own/x", b"3") == 1
    assert peer.messages(1) == [Publish("$own/x", b"3")]


@pytest.mark.statement("MQTT-4.7.3-4")
@pytest.mark.statement("MQTT-1.5.3-3")
def test_topics_are_not_normalised(client):
    peer = client()
    topics = ["a/b", "a//b", "/a/b", "a/b/", "A/b", "\u00e9", "e\u0301", "\ufeffa/b"]
    publisher = client("publisher")
    for topic in topics:
        peer.subscribe((topic, 0))
        publisher.send(*[Publish(other, other.encode()) for other in topics])
        assert [message.topic for message in peer.messages(1)] == [topic]
        publisher.send(Publish("x", b"", 1, packet_id=1)).expect("40 02 00 01")
        peer.quiet()
        peer.send(Unsubscribe(1, [topic]))
        peer.expect(UnsubAck(1))


@pytest.mark.statement("U-6")
def test_clients_do_not_reach_each_other_through_dollar_topics(client):
    peer = client()
    peer.subscribe(("$x/y", 0))
    publisher = client("publisher")
    publisher.send(Publish("$x/y", b"1", 1, packet_id=1), Publish("$SYS/broker/version", b"2", 2, packet_id=2))
    publisher.expect("40 02 00 01", "50 02 00 02")
    peer.quiet()


@pytest.mark.statement("MQTT-3.10.4-2")
def test_an_unsubscribe_drops_pending_retained_messages(start, client):
    broker = start()
    for number in range(3000):
        broker.publish(f"r/{number}", b"x", 1, True)
    peer = client("c", broker)
    peer.subscribe(("r/#", 1))
    first = peer.messages(100)  # the window is full now, and the rest waits
    peer.send(Unsubscribe(2, ["r/#"]))
    rest = []
    while not isinstance(packet := peer.receive(), UnsubAck):
        rest.append(packet)
    for message in first + rest:
        peer.send(b"\x40\x02" + message.packet_id.to_bytes(2, "big"))
    seen = len(first + rest)
    while True:  # only what was in the session's queue before is delivered
        peer.send("c0 00")
        packets = []
        while type(packet := peer.receive()).__name__ != "PingResp":
            packets.append(packet)
            peer.send(b"\x40\x02" + packet.packet_id.to_bytes(2, "big"))
        seen += len(packets)
        if not packets:
            break
    assert seen <= 300
