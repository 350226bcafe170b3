"""Statements that bind the server and need longer tests: random matching, order, sizes, every transport."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wire import PATIENCE, Wire

import mqttws
from mqttws import Connect, Decoder, MalformedPacket, PubAck, Publish, Subscribe, Unsubscribe
from mqttws.broker import Broker, Limits
from mqttws.codec.wire import encode_remaining_length
from mqttws.testing import mint_authority

LEVELS = st.sampled_from(["", "a", "b", "$x", "ä"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(lambda topic: topic and topic[0] != "$")
FILTERS = st.builds(
    lambda levels, rest: "/".join([*levels, *rest]),
    st.lists(st.one_of(LEVELS, st.just("+")), min_size=1, max_size=4),
    st.sampled_from([[], ["#"]]),
).filter(bool)


def matches(topic_filter: str, topic: str) -> bool:
    """Return whether a filter matches by §4.7, with a regular expression."""
    levels = [{"+": "[^/]*"}.get(level, re.escape(level)) for level in topic_filter.split("/")]
    expression = "/".join(levels)
    if topic_filter == "#":
        expression = ".*"
    elif topic_filter.endswith("/#"):
        expression = "/".join(levels[:-1]) + "(/.*)?"
    return re.fullmatch(expression, topic, re.DOTALL) is not None


@pytest.fixture(scope="module")
def running() -> Iterator[Broker]:
    with Broker(sys_interval=None) as broker:
        yield broker


@pytest.mark.statement("MQTT-3.3.2-3")
@pytest.mark.statement("MQTT-4.5.0-1")
@pytest.mark.statement("MQTT-4.7.1-2")
@pytest.mark.statement("MQTT-4.7.1-3")
@settings(max_examples=40)
@given(topic_filters=st.lists(FILTERS, min_size=1, max_size=4), topics=st.lists(TOPICS, min_size=1, max_size=8))
def test_only_matching_messages_are_delivered(running, topic_filters, topics):
    with Wire(running.url_of("mqtt")) as peer:
        peer.connect()
        peer.subscribe(*[(topic_filter, 0) for topic_filter in topic_filters])
        peer.send(*[Publish(topic, b"%d" % number) for number, topic in enumerate(topics)])
        expected = [topic for topic in topics if any(matches(one, topic) for one in topic_filters)]
        assert [message.topic for message in peer.messages(len(expected))] == expected
        peer.quiet()


@pytest.mark.statement("MQTT-4.6.0-5")
@pytest.mark.statement("MQTT-4.6.0-6")
def test_every_topic_is_an_ordered_topic(client):
    """Three publishers, five topics and a disconnection in between: each topic keeps the order of its publisher."""
    watcher = client("watcher", clean_session=False)
    watcher.subscribe(("t/#", 1))
    publishers = [client(f"p{number}") for number in range(3)]

    def publish(numbers):
        for number in numbers:
            for publisher_id, publisher in enumerate(publishers):
                publisher.send(Publish(f"t/{number % 5}", b"%d %d" % (publisher_id, number), 1, packet_id=number + 1))
        for publisher in publishers:
            publisher.expect(*[PubAck(number + 1) for number in numbers])

    def receive(peer, count):
        for _ in range(count):
            (message,) = peer.messages(1)
            publisher_id, number = map(int, message.payload.split())
            seen.setdefault((publisher_id, message.topic), []).append(number)
            peer.send(PubAck(message.packet_id))

    seen: dict[tuple[int, str], list[int]] = {}
    publish(range(50))
    receive(watcher, 75)
    watcher.send("e0 00").rest()
    publish(range(50, 100))
    receive(client("watcher", clean_session=False), 225)
    for (_, topic), numbers in seen.items():
        assert numbers == sorted(set(numbers)), topic
        assert numbers == list(range(int(topic[-1]), 100, 5))


# Sizes.


@pytest.mark.statement("U-8")
@pytest.mark.statement("U-9")
def test_a_remaining_length_has_one_to_four_bytes():
    for length, form in [(0, "00"), (127, "7f"), (128, "80 01"), (16_384, "80 80 01"), (268_435_455, "ff ff ff 7f")]:
        assert encode_remaining_length(length) == bytes.fromhex(form)
    largest = Decoder()
    assert largest.feed(bytes.fromhex("30 ff ff ff 7f 00 01 61")) == []  # announced, and accepted so far
    assert largest.under_way
    bounded = Decoder(max_packet_size=1_000)
    with pytest.raises(MalformedPacket, match="maximum here is 1,000"):
        bounded.feed(bytes.fromhex("30 ff ff ff 7f"))


@pytest.mark.statement("U-9")
def test_a_limit_refuses_a_packet_by_its_header(start, client):
    errors = []
    broker = start(limits=Limits(max_packet_size=1_000), on_disconnected=lambda peer, error: errors.append(error))
    peer = client("c", broker)
    fits = Publish("a", bytes(994))
    assert len(fits.encode()) == 1_000
    peer.send(fits).quiet()
    assert peer.send("30 e6 07").rest() == b""  # 1,001 bytes with the header, of which three are sent
    assert "1,001" in str(errors[0])


# Every transport, for both ends.


@pytest.fixture(scope="module")
def everywhere(tmp_path_factory) -> Iterator[tuple[Broker, ssl.SSLContext]]:
    authority = mint_authority()
    identity = authority.issue("127.0.0.1")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(identity.key + identity.certificate)
    server_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_side.load_cert_chain(path)
    client_side = ssl.create_default_context(cadata=authority.certificate.decode())
    limits = Limits(max_packet_size=16 * 1024 * 1024)
    with Broker(tls=server_side, wss_port=0, mqtts_port=0, limits=limits, sys_interval=None) as broker:
        yield broker, client_side


@pytest.mark.statement("MQTT-7.1.1-1")
@pytest.mark.statement("MQTT-7.1.2-1")
@pytest.mark.statement("U-9")
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws", "wss"])
def test_every_transport_is_ordered_and_lossless_both_ways(everywhere, scheme):
    broker, tls = everywhere
    options = {"tls": tls} if scheme in ("mqtts", "wss") else {}
    payloads = [b"%d" % number * (number % 97) for number in range(1_000)] + [bytes(range(256)) * 32_768]  # 8 MiB
    with mqttws.connect(broker.url_of(scheme), client_id=f"{scheme} out", timeout=PATIENCE, **options) as client:
        client.subscribe(f"{scheme}/#", 1)
        futures = [client.publish_nowait(f"{scheme}/{number}", one, 1) for number, one in enumerate(payloads)]
        messages = client.messages(timeout=PATIENCE)
        for number, payload in enumerate(payloads):
            message = next(messages)
            assert (message.topic, message.payload) == (f"{scheme}/{number}", payload)
        for future in futures:
            future.result(PATIENCE)


@pytest.mark.statement("MQTT-3.1.3-2")
@pytest.mark.statement("MQTT-1.5.3-3")
def test_a_client_identifier_is_one_session_over_all_transports(client):
    names = ["c", "C", "\ufeffc", "é", "e\u0301"]
    for number, name in enumerate(names):
        with client(name, clean_session=False) as peer:
            assert not peer.session_present
            peer.subscribe((f"t/{number}", 1))
    publisher = client("publisher")
    publisher.send(*[Publish(f"t/{number}", b"%d" % number, 1, packet_id=number + 1) for number in range(len(names))])
    publisher.expect(*[PubAck(number + 1) for number in range(len(names))])
    for number, name in enumerate(names):
        peer = client(name, scheme="ws", clean_session=False)
        assert peer.session_present
        assert peer.messages(1) == [Publish(f"t/{number}", b"%d" % number, 1, packet_id=1)]
        peer.quiet()


@pytest.mark.statement("MQTT-4.1.0-2")
def test_a_session_does_not_expire_after_its_client_reconnects(start, client):
    broker = start(limits=Limits(session_expiry=0.05))
    while True:  # the session may have expired before its client reconnects
        client("back", broker, clean_session=False).send("e0 00").rest()
        back = client("back", broker, clean_session=False)
        if back.session_present:
            break
        back.close()
    back.subscribe(("a", 1))
    client("gone", broker, clean_session=False).send("e0 00").rest()
    while broker.metrics()["clients/total"] == 2:  # it expires after the other one
        back.quiet()
    broker.publish("a", b"x", 1)
    assert back.messages(1) == [Publish("a", b"x", 1, packet_id=1)]


@pytest.mark.statement("MQTT-4.7.2-1")
@pytest.mark.parametrize("topic_filter", ["#", "+/x", "+/#"])
def test_a_leading_wildcard_delivers_no_retained_dollar_topic(start, client, topic_filter):
    broker = start(sys_anonymous=True)
    broker.publish("$own/x", b"hidden", 0, True)
    broker.publish("own/x", b"seen", 0, True)
    peer = client("c", broker)
    peer.subscribe((topic_filter, 0))
    assert peer.messages(1) == [Publish("own/x", b"seen", 0, True)]
    peer.quiet()
    peer.subscribe(("$own/#", 0))
    assert peer.messages(1) == [Publish("$own/x", b"hidden", 0, True)]


@pytest.mark.statement("MQTT-3.8.4-3")
def test_a_subscription_is_replaced_without_a_loss_or_a_duplicate(client):
    """While a publisher sends, the same filter is subscribed repeatedly, with another QoS each time."""
    watcher, publisher = client("watcher"), client("publisher")
    watcher.subscribe(("a", 0))
    for number in range(300):
        publisher.send(Publish("a", b"%d" % number))
        if number % 3 == 0:
            watcher.send(Subscribe(number + 1, [("a", number % 2)]))
    seen = []
    while len(seen) < 300:
        packet = watcher.receive()
        if isinstance(packet, Publish):
            seen.append(int(packet.payload))
    assert seen == list(range(300))
    watcher.send(Unsubscribe(1, ["a"]))


@pytest.mark.statement("MQTT-2.2.2-1")
def test_the_flags_of_all_packets_of_a_broker(wire):
    """The low nibble of each first byte on the wire, by table 2.2."""
    peer = wire()
    peer.send(Connect("c"), Subscribe(1, [("a", 2)]), Publish("a", b"x", 2, packet_id=9), "c0 00")
    said = b""
    while len(said) < 4 + 5 + 4 + 8 + 2:  # CONNACK, SUBACK, PUBREC, PUBLISH and PINGRESP, the last ones in any order
        more = peer.socket.recv(65536)
        assert more, f"the broker closed the connection after {said.hex()}"
        said += more
    first = {said[0]}
    position = 0
    while position < len(said):
        first.add(said[position])
        position += 2 + said[position + 1]
    assert first == {0x20, 0x90, 0x34, 0x50, 0xD0}
    peer.socket.sendall(bytes.fromhex("50 02 00 01  62 02 00 09  a2 05 00 02 00 01 61"))
    said = b""
    while len(said) < 12:
        more = peer.socket.recv(65536)
        assert more, f"the broker closed the connection after {said.hex()}"
        said += more
    assert said == bytes.fromhex("62 02 00 01  70 02 00 09  b0 02 00 02")
