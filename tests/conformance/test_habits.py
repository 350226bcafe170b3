"""Server behaviour that the standard leaves open, and that other test suites and clients rely on."""

from __future__ import annotations

from itertools import permutations

import pytest

from mqttws import Connect, Message, PubAck, PubComp, Publish, PubRec, PubRel, SubAck, Subscribe
from mqttws.broker import Limits, Refused, Verdict


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_the_suback_is_sent_before_the_retained_messages(broker, client, qos):
    for number in range(20):
        broker.publish(f"r/{number}", b"kept", qos, True)
    peer = client()
    peer.send(Subscribe(7, [("r/#", qos), ("r/3", qos)]))
    assert peer.receive() == SubAck(7, [qos, qos])
    assert sorted(message.topic for message in peer.messages(21)) == sorted([f"r/{n}" for n in range(20)] + ["r/3"])


def test_the_servers_identifiers_count_from_1_in_each_session(broker, client):
    for name in ("first", "second"):
        peer = client(name, clean_session=False)
        peer.subscribe(("a", 1))
        for number in (1, 2, 3):
            broker.publish("a", b"x", 1)
            assert peer.messages(1)[0].packet_id == number
            peer.send(PubAck(number))
        peer.send("e0 00").rest()
        resumed = client(name, clean_session=False)
        assert resumed.session_present
        broker.publish("a", b"x", 1)
        assert resumed.messages(1)[0].packet_id == 4  # the same session continues
        resumed.send("e0 00").rest()
        anew = client(name, clean_session=True)
        anew.subscribe(("a", 1))
        broker.publish("a", b"x", 1)
        assert anew.messages(1)[0].packet_id == 1
        anew.send("e0 00").rest()


def test_every_copy_of_a_qos_2_publish_gets_its_pubrec(client):
    watcher, peer = client("watcher"), client("c")
    watcher.subscribe(("a", 2))
    peer.send(Publish("a", b"x", 2, packet_id=5))
    peer.send(*[Publish("a", b"x", 2, dup=True, packet_id=5)] * 99)  # received together
    peer.expect(*[PubRec(5)] * 100)
    peer.send(PubRel(5)).expect(PubComp(5))
    assert watcher.messages(1) == [Publish("a", b"x", 2, packet_id=1)]
    watcher.quiet()


@pytest.mark.parametrize("order", list(permutations([0, 1, 2])))
@pytest.mark.parametrize("connected", [True, False])
def test_overlapping_filters_deliver_once_at_the_highest_qos_granted(broker, client, order, connected):
    filters = ["a/#", "a/+", "+/b"]
    peer = client("c", clean_session=False)
    peer.subscribe(*[(one, qos) for one, qos in zip(filters, order, strict=True)])
    if not connected:
        peer.send("e0 00").rest()
    broker.publish("a/b", b"x", 2)
    if not connected:
        peer = client("c", clean_session=False)
    assert peer.messages(1) == [Publish("a/b", b"x", 2, packet_id=1)]
    peer.quiet()


def refuse(peer, connect):
    return Refused(int(connect.client_id))


@pytest.mark.statement("MQTT-3.2.2-5")
@pytest.mark.statement("U-4")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_every_refusal_is_followed_by_a_close(start, wire, scheme, code):
    peer = wire(start(authenticator=refuse), scheme)
    assert peer.send(Connect(str(code)), "c0 00").rest() == bytes((0x20, 2, 0, code))


@pytest.mark.statement("MQTT-3.2.2-4")
@pytest.mark.statement("MQTT-3.2.2-5")
@pytest.mark.statement("MQTT-3.1.3-9")
def test_a_refusal_never_reports_a_session(start, wire, client):
    answers = [True, Refused(3)]
    broker = start(authenticator=lambda peer, connect: answers.pop(0))
    with client("c", broker, clean_session=False) as peer:
        peer.send("e0 00").rest()
    assert wire(broker).send(Connect("c", clean_session=False)).rest() == bytes.fromhex("20 02 00 03")
    long = Connect("c" * 1_025)
    assert wire(start()).send(long).rest() == bytes.fromhex("20 02 00 02")


@pytest.mark.statement("MQTT-3.3.5-2")
@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("close", [False, True])
def test_denied_messages_are_acknowledged_or_end_the_connection_and_are_never_delivered(start, client, qos, close):
    broker = start(authorizer=lambda peer, access: Verdict(access.topic != "no", close=close))
    watcher, peer = client("watcher", broker), client("c", broker)
    watcher.subscribe(("#", 0))
    peer.send(Publish("no", b"x", qos, packet_id=3 if qos else None))
    if close:
        assert peer.rest() == b""
    else:
        peer.expect(*[[], [PubAck(3)], [PubRec(3)]][qos])
        peer.quiet()
    watcher.quiet()


CONTROL = ["\u0001", "\u001f", "\u007f", "\u009f", "\ufdd0", "\uffff", "\U0001fffe"]


@pytest.mark.statement("U-5")
@pytest.mark.parametrize("character", CONTROL, ids=lambda one: f"U+{ord(one):04X}")
def test_control_characters_and_non_characters_are_refused(client, wire, character):
    bad = f"a{character}b"
    for packet in (Publish(bad), Subscribe(1, [(bad, 0)])):
        assert client().send(packet).rest() == b""
    assert wire().send(Connect(bad)).rest() == bytes.fromhex("20 02 00 02")
    assert wire().send(Connect("c", will=Message(bad))).rest() == bytes.fromhex("20 02 00 05")


@pytest.mark.statement("U-5")
def test_control_characters_can_be_allowed(start, client):
    peer = client("a\u0001b", start(limits=Limits(control_characters=True)))
    peer.subscribe(("a\u0001b", 0))
    assert peer.send(Publish("a\u0001b", b"x")).messages(1) == [Publish("a\u0001b", b"x")]


def test_a_topic_has_at_most_200_separators_by_default(client):
    deepest = "/".join(["x"] * 201)
    peer = client()
    assert peer.subscribe((deepest, 0)) == (0,)
    assert peer.send(Publish(deepest, b"x")).messages(1) == [Publish(deepest, b"x")]
    too_deep = deepest + "/x"
    for packet in (Publish(too_deep), Subscribe(1, [(too_deep, 0)]), Subscribe(1, [("+/" * 201 + "#", 0)])):
        assert client().send(packet).rest() == b""
    peer.quiet()
