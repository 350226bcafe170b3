"""Resource exhaustion: too many connections, subscriptions, retained topics, wills, announced lengths, tiny frames, and
messages for clients that do not read. Measured is the growth of the broker's peak memory.
"""

from __future__ import annotations

import itertools
import socket
import threading
from contextlib import suppress

import pytest
from hostile import MIB, PATIENCE, ended
from wire import octets

from mqttws import ConnAck, Connect, Message, PubAck, Publish, SubAck, Subscribe, Unsubscribe

DEEP = "/" * 199  # two hundred levels, the maximum
#: For tests that count connections: a client of another test that reconnects to a free port does not use this address.
APART = "127.0.0.3"


def rounds(data: bytes, peer: socket.socket) -> threading.Thread:
    """Send in a thread until the broker closes the connection."""

    def send() -> None:
        with suppress(OSError):
            peer.sendall(data)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_connections_beyond_the_bound(attack, dial):
    """The oldest connection without a CONNECT is closed for a new one."""
    victim = attack(limits={"max_connections": 50}, host=APART)
    connections = [dial(victim, scheme) for scheme in ("ws", "mqtt") for _ in range(200)]
    for connection in connections[:-49]:
        assert ended(connection) == b""
    assert victim.metrics()["connections/refused"] == 351
    accepted(connections[-49:])
    victim.control.served()


def test_connections_from_one_address(attack, dial):
    victim = attack(limits={"max_connections_per_address": 10}, host=APART)
    connections = [dial(victim) for _ in range(100)]
    for connection in connections[:-9]:
        assert ended(connection) == b""
    accepted(connections[-9:])


def accepted(connections: list[socket.socket]) -> None:
    """Check that each connection is still open, and is accepted."""
    for number, connection in enumerate(connections):
        connection.sendall(Connect(f"{number}").encode())
        assert connection.recv(100) == ConnAck(0).encode()


def test_more_connections_than_descriptors(attack, dial, wire):
    """The system refuses, not the broker, which serves its clients, and accepts new ones when descriptors are free."""
    victim = attack(files=64)
    connections = [dial(victim) for _ in range(150)]
    victim.control.served()
    for connection in connections:
        connection.close()
    wire(victim).connect("newcomer").quiet()


def test_many_short_connections(attack, dial):
    victim = attack()
    for _ in range(1_000):
        dial(victim).close()
    victim.control.served()
    assert victim.grown() < 16 * MIB


@pytest.mark.parametrize("levels", [1, 200])
def test_subscriptions(victim, join, levels):
    """A hundred thousand Topic Filters of one client, a hundred in each packet."""
    hog = join(victim, "hog")
    refused = 0
    for start in range(0, 100_000 // levels, 100):
        filters = [(f"{DEEP[: levels - 1]}{number}", 1) for number in range(start, start + 100)]
        refused += hog.subscribe(*filters).count(0x80)
    assert refused == 100_000 // levels - (1_000 if levels == 1 else 50)
    assert victim.grown() < 16 * MIB
    assert len(victim.log().splitlines()) < 120


def test_one_packet_full_of_subscriptions(victim, join):
    hog = join(victim, "hog")
    for refused in (0, 1_000):
        codes = hog.subscribe(*((f"{refused + number:x}", 0) for number in range(1_000)))
        assert (len(codes), codes.count(0x80)) == (1_000, refused)
    assert hog.send(Subscribe(1, [(f"{number:x}", 0) for number in range(100_000)])).rest() == b""
    assert victim.grown() < 16 * MIB
    assert len(victim.log().splitlines()) < 120


def test_subscribing_and_unsubscribing_leaves_nothing(victim, join):
    hog = join(victim, "hog")
    bare = victim.metrics()["subscriptions/count"]
    for number in range(300):
        filters = [f"{number}/{level}/+/#" for level in range(100)]
        hog.subscribe(*((topic_filter, 0) for topic_filter in filters))
        hog.send(Unsubscribe(2, filters)).expect("b0 02 00 02")
    assert victim.metrics()["subscriptions/count"] == bare
    assert victim.grown() < 16 * MIB


def test_wildcards_in_all_combinations(victim, join):
    """Two thousand filters that match one topic of ten levels: their number bounds the cost of a message."""
    hog = join(victim, "hog")
    levels = [f"{'+' if number >> bit & 1 else 'a'}" for number in range(512) for bit in range(9)]
    filters = ["/".join(levels[start : start + 9]) + "/#" for start in range(0, len(levels), 9)]
    assert set(hog.subscribe(*((topic_filter, 0) for topic_filter in filters))) == {0}
    topic = "/".join("a" * 9)
    hog.send(*(Publish(topic, b"%d" % number) for number in range(500)))
    assert [message.payload for message in hog.messages(500)] == [b"%d" % number for number in range(500)]
    assert victim.grown() < 32 * MIB


@pytest.mark.parametrize("topic", ["/" * 65_535, "a/" * 32_767, "+/" * 32_767 + "#", "/" * 201])
@pytest.mark.parametrize("how", ["publish", "subscribe", "will"])
def test_too_deep_topics(victim, join, wire, topic, how):
    length = len(topic).to_bytes(2, "big")
    if how == "publish":
        body = length + topic.encode()
        peer = join(victim)
        peer.send(b"\x30" + _length(len(body)) + body)
    elif how == "subscribe":
        join(victim).send(Subscribe(1, [(topic, 0)]))
        peer = join(victim).send(Subscribe(1, [(topic, 0)]))
    elif "+" in topic:
        pytest.skip("a Topic Name holds no wildcards")
    else:
        peer = wire(victim).send(Connect("c", will=Message(topic, b"x")))
        if len(topic) < 60_000:  # otherwise its CONNECT exceeds the maximum
            assert peer.receive().encode() == b"\x20\x02\x00\x05"
    assert peer.rest() == b""
    assert victim.grown() < 16 * MIB
    assert len(victim.log()) < 600_000  # the topic is logged, but not often


def _length(number: int) -> bytes:
    out = bytearray()
    while True:
        number, low = number >> 7, number & 0x7F
        out.append(low | (0x80 if number else 0))
        if not number:
            return bytes(out)


@pytest.mark.parametrize("depth", ["", DEEP])
def test_retained_topics(victim, join, depth):
    hog = join(victim, "hog")
    for start in range(0, 20_000, 1000):
        hog.send(*(Publish(f"{number}{depth}"[:20_000], b"x", retain=True) for number in range(start, start + 1000)))
    # A SUBACK, unlike a PINGRESP, follows only when the messages before it have been handled.
    hog.send(Subscribe(1, [("none", 0)])).expect(SubAck(1, (0,)))
    figures = victim.metrics()
    assert figures["retained messages/count"] == (500 if depth else 10_000)
    assert figures["retained messages/dropped"] == 20_000 - figures["retained messages/count"]
    assert victim.grown() < (64 if depth else 32) * MIB
    assert 20 <= victim.log().count("is not retained") < 40  # 20 at first, then one now and then


def test_retained_bytes(attack, join):
    victim = attack(limits={"max_retained_bytes": 4 * MIB})
    hog = join(victim, "hog")
    for number in range(100):
        hog.send(Publish(f"{number}", bytes(MIB // 2), retain=True))
    hog.quiet()
    assert victim.metrics()["retained messages/bytes"] <= 4 * MIB
    assert victim.grown() < 16 * MIB


def test_retained_messages_requested_many_times_together(victim, join):
    """Twenty thousand SUBSCRIBEs together, each for 2 MiB: messages are sent only as fast as the client reads."""
    for number in range(32):
        join(victim, "owner").send(Publish(f"big/{number}", bytes(64 * 1024), 1, True, packet_id=1)).expect(PubAck(1))
    victim.mark()
    hog = join(victim, "hog")
    sender = rounds(octets(*(Subscribe(1, [("big/#", 0)]) for _ in range(20_000))), hog.socket)
    victim.control.served()
    victim.control.served()
    assert victim.grown() < 24 * MIB
    hog.close()
    sender.join()


def test_wills(attack, wire):
    """As many wills as connections; when all are closed, the retained wills stay within the limits."""
    victim = attack(limits={"max_connections": 101, "max_retained_bytes": 4 * MIB})
    hogs = [
        wire(victim).connect(f"{number}", will=Message(f"w/{number}", bytes(60 * 1024), 0, True))
        for number in range(100)
    ]
    for hog in hogs:
        hog.reset()
    victim.until_logged("over mqtt: closed", 100)
    assert victim.metrics()["retained messages/bytes"] <= 4 * MIB
    assert victim.grown() < 48 * MIB


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
@pytest.mark.parametrize(
    "announcement",
    ["10 ff ff ff 7f", "30 ff ff ff 7f", "32 80 80 40", "82 ff ff ff 7f", "30 ff ff ff ff 7f", "30 ff ff ff ff"],
)
def test_lengths_beyond_the_bound_are_refused_from_the_header(victim, join, wire, scheme, announcement):
    peer = wire(victim, scheme) if announcement.startswith("10") else join(victim, scheme=scheme)
    assert peer.send(announcement).rest() == b""
    assert victim.grown() < 8 * MIB


def test_lengths_announced_and_never_sent(attack, join):
    victim = attack(limits={"packet_timeout": 1.0})
    hogs = [join(victim, f"{number}") for number in range(200)]
    for hog in hogs:
        hog.send("30 f0 ff 3f 00 01 61")  # almost 1 MiB
    victim.control.served()
    assert victim.grown() < 16 * MIB  # no memory is reserved for announced bytes
    for hog in hogs:
        assert hog.rest() == b""


def test_a_websocket_frame_of_an_absurd_length(victim, join):
    for size in (1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1):
        hog = join(victim, scheme="ws")
        hog.socket.sendall(b"\x82\xff" + size.to_bytes(8, "big") + bytes(4) + b"\x30\xff\xff\xff\x7f")
        assert hog.rest() == b""
    assert victim.grown() < 8 * MIB


def test_a_million_empty_frames(victim, join):
    hog = join(victim, scheme="ws")
    sender = rounds(b"\x82\x80\0\0\0\0" * 1_000_000, hog.socket)
    victim.control.served()
    sender.join()
    hog.quiet()
    assert victim.grown() < 16 * MIB


def test_a_million_frames_of_one_byte(victim, join):
    hog = join(victim, scheme="ws")
    frames = b"\x82\x81\0\0\0\0\xc0\x82\x81\0\0\0\0\x00" * 500_000
    sender = rounds(frames, hog.socket)
    victim.control.served()
    got = 0
    while got < 500_000:
        got += len(hog.frame()[1]) // 2
    assert got == 500_000
    sender.join()
    assert victim.grown() < 32 * MIB


def test_pings_of_the_websocket_whose_answers_are_not_read(attack, join):
    victim = attack(limits={"stall_timeout": 1.0})
    hog = join(victim, scheme="ws")
    sender = rounds((b"\x89\xfd\0\0\0\0" + bytes(125)) * 100_000, hog.socket)
    victim.control.served()
    victim.until_logged("the client read nothing for 1 s")
    sender.join()
    assert victim.grown() < 16 * MIB


def test_pings_of_mqtt_whose_answers_are_not_read(attack, join):
    victim = attack(limits={"stall_timeout": 1.0})
    hog = join(victim)
    hog.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sender = rounds(b"\xc0\0" * 8_000_000, hog.socket)
    victim.control.served()
    victim.until_logged("the client read nothing for 1 s")
    sender.join()
    assert victim.grown() < 32 * MIB


def join_deaf(join, victim, qos: int, scheme: str) -> None:
    """Subscribe as a client that reads nothing after the SUBACK."""
    hog = join(victim, f"{scheme} {qos}", scheme)
    hog.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    hog.subscribe(("flood", qos))


def publish_flood(join, victim, qos: int, count: int) -> None:
    publisher = join(victim, "publisher")
    for number in range(count):
        publisher.send(Publish("flood", bytes(128 * 1024), qos, packet_id=number + 1 if qos else None))
        if qos:
            publisher.expect(PubAck(number + 1))
    publisher.quiet()
    victim.control.served()


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_messages_for_a_subscriber_that_never_reads_are_dropped(attack, join, qos, scheme):
    victim = attack(limits={"stall_timeout": 2 * PATIENCE, "max_queued_bytes": 4 * MIB})
    join_deaf(join, victim, qos, scheme)
    publish_flood(join, victim, qos, 500)
    assert victim.metrics()["publish/messages/dropped"] > 300
    assert victim.grown() < 40 * MIB


def test_subscribers_that_never_read_are_disconnected(attack, join):
    victim = attack(limits={"stall_timeout": 1.0, "max_queued_bytes": 4 * MIB})
    for qos, scheme in itertools.product((0, 1), ("ws", "mqtt")):
        join_deaf(join, victim, qos, scheme)
    publish_flood(join, victim, 1, 100)
    victim.until_logged("the client read nothing for 1 s", 4)


def test_many_abandoned_sessions(attack, wire):
    victim = attack(limits={"max_sessions": 500})
    codes = []
    for number in range(700):
        peer = wire(victim).send(Connect(f"{number}", clean_session=False))
        codes.append(peer.receive().return_code)
        peer.close()
    assert codes == [0] * 700  # the oldest sessions were removed
    assert victim.metrics()["clients/disconnected"] <= 500
    assert victim.grown() < 16 * MIB


def test_identifiers_that_are_never_released(victim, join):
    """More packet identifiers of QoS 2 than allowed, without a PUBREL."""
    hog = join(victim, "hog")
    for start in range(1, 10_001, 1_000):
        some = range(start, start + 1_000)
        hog.send(*(Publish("a", b"", 2, packet_id=number) for number in some))
        for number in some:
            assert hog.receive().packet_id == number
    hog.send(*(Publish("a", b"", 2, packet_id=number) for number in range(10_001, 20_001)))
    hog.rest()
    assert victim.grown() < 8 * MIB
    assert "has not released" in victim.log()


def test_messages_of_a_few_bytes(victim, join):
    """A hundred thousand PUBLISHes of five bytes from each of ten clients; other clients are served in turn."""
    hogs = [join(victim, f"{number}") for number in range(10)]
    senders = [rounds(b"\x30\x03\x00\x01a" * 100_000, hog.socket) for hog in hogs]
    for _ in range(5):
        victim.control.served()
    for sender in senders:
        sender.join()
    for hog in hogs:
        hog.quiet()
    print(f"slowest answer meanwhile: {victim.control.slowest:.3f} s")
    assert victim.grown() < 64 * MIB


def test_requests_that_are_refused_do_not_fill_the_log(victim, join):
    hog = join(victim, "hog")
    hog.send(*(Publish("$SYS/x", b"") for _ in range(20_000)))
    for _ in range(50):
        assert set(hog.subscribe(*(("$SYS/#", 0) for _ in range(100)))) == {0x80}
    assert len(victim.log().splitlines()) < 120
    victim.until_logged("were suppressed: requests refused")


def test_text_of_a_client_is_escaped_in_the_log(attack, wire, join):
    """An escape sequence that clears a terminal, a line end and a right-to-left mark. (`attack` checks the log.)"""
    victim = attack(limits={"control_characters": True})
    evil = "\x1b[2J\r\nINFO all is well\u202e\x07\x9b"
    wire(victim).connect(evil, username=evil)
    hog = join(victim, "hog")
    hog.send(Publish("$" + evil, b""), Subscribe(1, [("$SYS" + evil, 0)]))
    hog.receive()
    wire(victim).send(Connect("c", will=Message("$" + evil, b"")))
    wire(victim, "ws", upgrade=False).upgrade("/\x1b[2J", "a")
    wire(victim, "ws", upgrade=False).upgrade("/mqtt", "a", ("Origin: \x1b[2J",))
    wire(victim, "ws", upgrade=False).upgrade("/mqtt", "a", ("Origin: http://\x9b2J.example",))
    wire(victim, "ws", upgrade=False).upgrade("/mqtt", "a", ("Sec-WebSocket-Extensions: \x9b2J; \x9b2J",))
    wire(victim, "ws", upgrade=False).upgrade("/mqtt", "a", subprotocol="\x9b2J")
    victim.until_logged("client 'c' at")
    assert "\\x1b[2J" in victim.log()
