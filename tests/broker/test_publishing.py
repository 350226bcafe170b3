"""PUBLISH, the QoS flows and retained messages at the server."""

from __future__ import annotations

import pytest

from mqttws import PubAck, Publish, SubAck, Subscribe


@pytest.mark.statement("MQTT-3.3.4-1")
@pytest.mark.statement("MQTT-4.3.2-2")
@pytest.mark.statement("MQTT-2.3.1-6")
def test_each_qos_has_its_answer(client):
    peer = client()
    peer.send("30 04 00 01 61 78").quiet()  # QoS 0: none
    peer.send("32 06 00 01 61 12 34 78").expect("40 02 12 34")
    peer.send("34 06 00 01 61 43 21 78").expect("50 02 43 21")
    peer.send("62 02 43 21").expect("70 02 43 21")


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_packets_received_together_are_delivered_in_order(client, scheme):
    """Messages of QoS 0 to one topic are routed in runs; any other packet ends a run."""
    watcher, peer = client(scheme=scheme), client("c", scheme=scheme)
    watcher.subscribe(("a", 0), ("b", 0))
    peer.send(
        "30 04 00 01 61 31",  # a: 1
        "30 04 00 01 61 32",  # a: 2
        "30 04 00 01 62 33",  # b: 3
        "30 03 00 01 61",  # a: nothing
        "32 06 00 01 61 00 07 34",  # a: 4, QoS 1
        "30 04 00 01 61 35",  # a: 5
        "31 04 00 01 61 36",  # a: 6, RETAIN
        "30 04 00 01 61 37",  # a: 7
        "c0 00",  # PINGREQ
        "30 04 00 01 61 38",  # a: 8
    ).expect("d0 00", "40 02 00 07")
    expected = [Publish("a", b"1"), Publish("a", b"2"), Publish("b", b"3"), Publish("a")]
    expected += [Publish("a", b"%d" % number) for number in range(4, 9)]
    assert watcher.messages(9) == expected
    late = client("late", scheme=scheme)
    late.send(Subscribe(1, [("a", 0)])).expect(SubAck(1, [0]), Publish("a", b"6", 0, True))


@pytest.mark.statement("MQTT-4.3.3-2")
def test_every_copy_of_a_qos_2_message_is_answered_and_one_delivered(client):
    watcher = client()
    watcher.subscribe(("a", 0))
    peer = client("c")
    for _ in range(5):
        peer.send(Publish("a", b"x", 2, dup=True, packet_id=7)).expect("50 02 00 07")
    peer.send("62 02 00 07", "62 02 00 07").expect("70 02 00 07", "70 02 00 07")
    peer.send("62 02 00 09").expect("70 02 00 09")  # unknown
    assert watcher.messages(1) == [Publish("a", b"x")]
    watcher.quiet()
    peer.send(Publish("a", b"y", 2, packet_id=7)).expect("50 02 00 07")  # the identifier is free again
    assert watcher.messages(1) == [Publish("a", b"y")]


@pytest.mark.statement("MQTT-4.3.3-2")
@pytest.mark.statement("MQTT-4.1.0-1")
def test_a_qos_2_message_is_delivered_once_over_a_reconnect(client):
    watcher = client()
    watcher.subscribe(("a", 0))
    with client("c", clean_session=False) as peer:
        peer.send(Publish("a", b"x", 2, packet_id=7)).expect("50 02 00 07")
    peer = client("c", clean_session=False)
    peer.send(Publish("a", b"x", 2, dup=True, packet_id=7)).expect("50 02 00 07")
    peer.send("62 02 00 07").expect("70 02 00 07")
    assert watcher.messages(1) == [Publish("a", b"x")]
    watcher.quiet()


@pytest.mark.statement("MQTT-4.3.2-2")
def test_a_qos_1_copy_after_the_puback_is_a_new_message(client):
    watcher = client()
    watcher.subscribe(("a", 0))
    peer = client("c")
    for _ in range(2):
        peer.send(Publish("a", b"x", 1, dup=True, packet_id=7)).expect("40 02 00 07")
    assert watcher.messages(2) == [Publish("a", b"x")] * 2


@pytest.mark.statement("MQTT-3.3.1-3")
@pytest.mark.statement("MQTT-4.3.1-1")
def test_dup_is_not_passed_on(client):
    watcher = client()
    watcher.subscribe(("a", 2))
    client("c").send(Publish("a", b"1", 1, dup=True, packet_id=1), Publish("a", b"2", 2, dup=True, packet_id=2))
    assert watcher.messages(2) == [Publish("a", b"1", 1, packet_id=1), Publish("a", b"2", 2, packet_id=2)]


@pytest.mark.statement("MQTT-3.3.1-5")
@pytest.mark.statement("MQTT-3.3.1-6")
@pytest.mark.statement("MQTT-3.3.1-8")
@pytest.mark.statement("MQTT-3.3.1-9")
@pytest.mark.parametrize("published", [0, 1, 2])
@pytest.mark.parametrize("granted", [0, 1, 2])
def test_a_retained_message_reaches_existing_and_later_subscribers(client, published, granted):
    early = client("early")
    early.subscribe(("a", granted))
    client("c").send(Publish("a", b"x", published, True, packet_id=1 if published else None))
    qos = min(published, granted)
    packet_id = 1 if qos else None
    assert early.messages(1) == [Publish("a", b"x", qos, False, packet_id=packet_id)]
    late = client("late")
    late.send(Subscribe(1, [("a", granted)]))
    late.expect(SubAck(1, [granted]), Publish("a", b"x", qos, True, packet_id=packet_id))


@pytest.mark.statement("MQTT-3.3.1-7")
@pytest.mark.statement("MQTT-3.3.1-12")
def test_the_last_retained_message_counts_and_others_do_not(client):
    peer = client("c")
    peer.send(Publish("a", b"1", 1, True, packet_id=1), Publish("a", b"2", 0, True), Publish("a", b"3", 0, False))
    peer.send(Publish("a", b"4", 1, False, packet_id=2))
    peer.expect(PubAck(1), PubAck(2))
    peer.subscribe(("a", 1))
    assert peer.messages(1) == [Publish("a", b"2", 0, True)]
    peer.quiet()


@pytest.mark.statement("MQTT-3.3.1-10")
@pytest.mark.statement("MQTT-3.3.1-11")
def test_an_empty_retained_message_removes_and_is_not_kept(broker, client):
    peer = client("c")
    peer.send(Publish("a", b"1", 1, True, packet_id=1)).expect(PubAck(1))
    assert broker.metrics()["retained messages/count"] == 1
    watcher = client("watcher")
    watcher.subscribe(("#", 0))
    watcher.messages(1)
    peer.send(Publish("a", b"", 0, True), Publish("never", b"", 0, True))
    assert watcher.messages(2) == [Publish("a", b""), Publish("never", b"")]
    assert broker.metrics()["retained messages/count"] == 0
    late = client("late")
    late.subscribe(("#", 0))
    late.quiet()


@pytest.mark.statement("MQTT-3.1.2-7")
@pytest.mark.parametrize("clean_session", [False, True])
def test_retained_messages_survive_sessions(client, clean_session):
    with client("c", clean_session=clean_session) as peer:
        peer.send(Publish("a", b"1", 1, True, packet_id=1)).expect(PubAck(1))
        assert peer.send("e0 00").rest() == b""
    client("c", clean_session=True).close()
    late = client("late")
    late.subscribe(("a", 0))
    assert late.messages(1) == [Publish("a", b"1", 0, True)]


@pytest.mark.statement("MQTT-3.3.1-6")
@pytest.mark.parametrize("qos", [0, 1])
def test_a_subscription_delivers_a_thousand_retained_messages(broker, client, qos):
    for number in range(1000):
        broker.publish(f"r/{number}", b"old", qos, True)
        broker.publish(f"r/{number}", b"%d" % number, qos, True)
    peer = client()
    peer.subscribe(("r/+", 1), ("#", 0))
    seen: list[tuple[str, bytes]] = []
    for _ in range(2000):
        message = peer.receive()
        assert isinstance(message, Publish)
        assert message.retain
        seen.append((message.topic, message.payload))
        if message.packet_id:
            peer.send(PubAck(message.packet_id))
    assert sorted(seen) == sorted([(f"r/{number}", b"%d" % number) for number in range(1000)] * 2)
    peer.quiet()


def test_a_replaced_retained_message_is_skipped(broker, client):
    for number in range(500):
        broker.publish(f"r/{number}", b"old", 1, True)
    peer = client()
    peer.subscribe(("r/#", 1))
    first = peer.messages(100)  # the window is full; the others wait
    broker.publish("r/499", b"new", 1, True)
    payloads: list[bytes] = []
    peer.send(*[PubAck(message.packet_id) for message in first])
    while len(payloads) < 400:
        message = peer.receive()
        peer.send(PubAck(message.packet_id))
        if message.topic == "r/499":
            payloads.append(message.payload)
        else:
            payloads.append(b"")
    assert payloads.count(b"new") == 1
    assert b"old" not in payloads
    peer.quiet()  # the old message does not arrive last, either


@pytest.mark.statement("MQTT-4.6.0-6")
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_one_publisher_stay_in_order(client, qos):
    watcher = client()
    watcher.subscribe(("a", 2))
    publisher = client("publisher")
    count = 2000
    identifiers = [number % 1000 + 1 if qos else None for number in range(count)]
    publisher.send(*[Publish("a", b"%d" % n, qos, packet_id=identifiers[n]) for n in range(count // 2)])
    if qos == 2:
        publisher.send(*[b"\x62\x02" + n.to_bytes(2, "big") for n in range(1, 1001)])
    publisher.send(*[Publish("a", b"%d" % n, qos, packet_id=identifiers[n]) for n in range(count // 2, count)])
    seen = []
    while len(seen) < count:
        packet = watcher.receive()
        if isinstance(packet, Publish):
            seen.append(int(packet.payload))
            if packet.qos:
                watcher.send((b"\x40\x02" if qos == 1 else b"\x50\x02") + packet.packet_id.to_bytes(2, "big"))
        else:  # PUBREL
            watcher.send(b"\x70\x02" + packet.packet_id.to_bytes(2, "big"))
    assert seen == list(range(count))


@pytest.mark.statement("MQTT-4.5.0-1")
def test_an_accepted_message_reaches_every_session(start, client):
    broker = start()
    watchers = [client(f"c{number}", broker, clean_session=number % 2 == 0) for number in range(20)]
    for number, watcher in enumerate(watchers):
        watcher.subscribe((["a", "+", "#"][number % 3], 1))
    for watcher in watchers[1::4]:
        watcher.close()
    publisher = client("publisher", broker)
    publisher.send(Publish("a", b"x", 1, packet_id=1)).expect(PubAck(1))
    for number, watcher in enumerate(watchers):
        if number % 4 == 1:
            watcher = client(f"c{number}", broker, clean_session=False)
        packets = watcher.messages(1)
        assert packets[0].payload == b"x"


def test_the_publisher_is_a_subscriber_too(client):
    peer = client()
    peer.subscribe(("a", 1))
    peer.send(Publish("a", b"x", 1, packet_id=5))
    assert {peer.receive(), peer.receive()} == {PubAck(5), Publish("a", b"x", 1, packet_id=1)}


def test_a_qos_0_message_does_not_overtake_one_of_qos_1_that_may_go(client):
    watcher = client()
    watcher.subscribe(("a", 1))
    client("c").send(Publish("a", b"1", 1, packet_id=1), Publish("a", b"2"))
    assert [message.payload for message in watcher.messages(2)] == [b"1", b"2"]
