"""The limits of the broker: values at each limit and beyond it, without an effect on other clients."""

from __future__ import annotations

import socket
import time
from math import inf

import pytest
from wire import PATIENCE, Wire

from mqttws import Connect, LimitExceeded, PubAck, Publish, RemoteProtocolError, SubAck, Subscribe, Unsubscribe
from mqttws.broker import Departures, Limits
from mqttws.broker.hub import _descriptors_left


@pytest.mark.parametrize("field", ["max_packet_size", "connect_timeout", "max_queued", "publish_rate", "byte_rate"])
def test_a_limit_must_be_above_0(field):
    with pytest.raises(ValueError, match=f"Limits.{field} is 0; it must be above 0"):
        Limits(**{field: 0})


def test_max_in_flight_is_at_most_65535():
    with pytest.raises(ValueError, match="65,535"):
        Limits(max_in_flight=65_536)


def test_a_packet_that_is_too_large_is_closed_from_its_header(start, client):
    broker = start(limits=Limits(max_packet_size=1000))
    client("c", broker).send(Publish("a", bytes(994)), "c0 00").expect("d0 00")  # 3 + 3 + 994 bytes: exactly the limit
    peer = client("c", broker)
    assert peer.send("30 e6 07").rest() == b""  # announces 1001 bytes, sends none of them
    peer = client("c", broker)
    assert peer.send("30 ff ff ff 7f").rest() == b""


def test_connections_are_bounded(start, wire, client):
    broker = start(limits=Limits(max_connections=3))
    peers = [client("", broker) for _ in range(3)]
    assert wire(broker).rest() == b""
    assert broker.metrics()["connections/refused"] == 1
    peers[0].send("e0 00").rest()
    peers[0].close()
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:  # until the broker has seen the end of the connection
        peer = wire(broker)
        try:
            if peer.send(Connect()).socket.recv(4):
                break
        except ConnectionError:
            pass
    else:
        pytest.fail("a client is refused although another has disconnected")
    for peer in peers[1:]:
        peer.quiet()


def test_connections_are_bounded_by_address(start, wire, client):
    broker = start(limits=Limits(max_connections_per_address=1))
    peer = client("", broker)
    assert wire(broker).rest() == b""
    other = socket.create_connection(("127.0.0.1", broker._ports["mqtt"]), PATIENCE, source_address=("127.0.0.2", 0))
    with other:
        other.sendall(Connect().encode())
        assert other.recv(4) == bytes.fromhex("20 02 00 00")
    peer.quiet()


def test_kept_sessions_are_bounded_and_clean_ones_do_not_count(start, wire, client):
    broker = start(limits=Limits(max_sessions=2))
    for client_id in ("a", "b"):
        peer = client(client_id, broker, clean_session=False)
        peer.subscribe((client_id, 1))
        peer.send("e0 00").rest()
        broker.publish(client_id, b"waits", 1)
    assert wire(broker).send(Connect("c", clean_session=False)).rest() == bytes.fromhex("20 02 00 03")
    client("clean", broker)
    assert client("a", broker, clean_session=False).session_present


def test_empty_sessions_are_evicted_the_longest_disconnected_first(start, client):
    broker = start(limits=Limits(max_sessions=4))
    for client_id in ("full", "old", "new"):
        peer = client(client_id, broker, clean_session=False)
        peer.subscribe((client_id, 1))
        peer.send("e0 00").rest()
    broker.publish("full", b"waits", 1)
    here = client("here", broker, clean_session=False)
    for client_id in ("one", "two"):
        client(client_id, broker, clean_session=False).send("e0 00").rest()
    here.quiet()
    assert broker.metrics()["clients/expired"] == 2
    assert client("full", broker, clean_session=False).session_present
    assert not client("old", broker, clean_session=False).session_present
    assert not client("new", broker, clean_session=False).session_present


def test_one_user_has_no_more_than_its_share_of_sessions(start, wire, client):
    broker = start(limits=Limits(max_sessions_per_user=2), authenticator=lambda peer, connect: True)
    keep = {"clean_session": False, "username": "greedy"}
    others = client("o", broker, clean_session=False, username="other")
    peers = [client(client_id, broker, **keep) for client_id in "ab"]
    assert wire(broker).send(Connect("c", **keep)).rest() == bytes.fromhex("20 02 00 03")
    client("d", broker, clean_session=False, username="other").quiet()
    assert client("a", broker, **keep).session_present  # the same session counts once
    peers[1].send("e0 00").rest()
    assert not client("c", broker, **keep).session_present  # the session of b, which is disconnected, was removed
    assert not client("e", broker, clean_session=True, username="greedy").session_present
    others.quiet()


def test_one_address_has_no_more_than_its_share_of_sessions_but_loopback(monkeypatch, start, wire, client):
    broker = start(limits=Limits(max_sessions_per_address=1))
    for client_id in "ab":
        client(client_id, broker, clean_session=False)
    monkeypatch.setattr("mqttws.broker.registry.is_loopback", lambda host: False)
    assert wire(broker).send(Connect("c", clean_session=False)).rest() == bytes.fromhex("20 02 00 03")


def test_subscriptions_are_bounded(start, client):
    peer = client("c", start(limits=Limits(max_subscriptions=2)))
    assert peer.subscribe(("a", 0), ("b", 1), ("c", 2)) == (0, 1, 0x80)
    assert peer.subscribe(("a", 2), ("c", 2)) == (2, 0x80)  # a repeated filter is no new one
    peer.send("a2 05 00 07 00 01 61").expect("b0 02 00 07")
    assert peer.subscribe(("c", 2)) == (2,)


def test_filters_in_one_subscribe_are_bounded(start, client):
    broker = start(limits=Limits(max_filters=2))
    peer = client("c", broker, clean_session=False)
    assert peer.subscribe(("a", 0), ("b", 0)) == (0, 0)
    assert peer.send(Subscribe(1, [("c", 0), ("d", 0), ("e", 0)])).rest() == b""
    assert broker.metrics()["subscriptions/count"] == 2  # none of them was accepted


@pytest.mark.parametrize(
    ("limits", "good", "bad"),
    [
        (Limits(max_topic_levels=3), "a/b/c", "a/b/c/d"),
        (Limits(), "/" * 200, "/" * 201),
        (Limits(max_topic_bytes=4), "\u00e9\u00e9", "\u00e9\u00e9a"),
        (Limits(), "a b", "a\tb"),
        (Limits(), "\u00a0", "\u009f"),
        (Limits(), "\ufffd", "\ufffe"),
        (Limits(), "\U0001fffd", "\U0001ffff"),
        (Limits(), "x", "\ufdd0"),
        (Limits(control_characters=True), "\x01\ufffe", None),
    ],
)
@pytest.mark.statement("U-5")
def test_topics_are_bounded(start, client, limits, good, bad):
    broker = start(limits=limits)
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 0))
    peer = client("c", broker)
    peer.subscribe((good, 0))
    peer.send(Publish(good))
    assert watcher.messages(1) == [Publish(good)]
    if bad is None:
        return
    assert client("c", broker).send(Publish(bad), Publish("after")).rest() == b""
    assert client("c", broker).send(Subscribe(1, [("a", 0), (bad, 0)])).rest() == b""
    watcher.quiet()
    assert broker.metrics()["subscriptions/count"] == 1


def test_the_error_names_the_bound():
    with pytest.raises(LimitExceeded, match="the Topic Name has 202 levels; the maximum here is 201"):
        Limits().check_topic("/" * 201, "the Topic Name")
    with pytest.raises(RemoteProtocolError, match=r"contains U\+0001, which is not accepted here") as caught:
        Limits().check_topic("\x01", "the Topic Name")
    assert caught.value.statement == "§1.5.3"


def test_payloads_are_bounded(start, client):
    broker = start(limits=Limits(max_payload=4))
    client("c", broker).send(Publish("a", b"1234", 1, packet_id=1)).expect(PubAck(1))
    assert client("c", broker).send(Publish("a", b"12345", 1, packet_id=1)).rest() == b""


@pytest.mark.parametrize("limits", [Limits(max_retained=2), Limits(max_retained_bytes=4)])
def test_retained_messages_are_bounded(start, client, caplog, limits):
    broker = start(limits=limits)
    watcher = client("watcher", broker)
    watcher.subscribe(("#", 0))
    for number, topic in enumerate(["a", "b", "c", "a"]):
        broker.publish(topic, b"%d" % number, retain=True)
    assert [message.payload for message in watcher.messages(4)] == [b"0", b"1", b"2", b"3"]
    figures = broker.metrics()
    assert (figures["retained messages/count"], figures["retained messages/dropped"]) == (2, 1)
    late = client("late", broker)
    late.subscribe(("#", 0))
    assert sorted((message.topic, message.payload) for message in late.messages(2)) == [("a", b"3"), ("b", b"1")]
    assert "the message to 'c' is not retained" in caplog.text


@pytest.mark.parametrize("qos", [0, 1])
def test_publishing_beyond_the_rate_waits_and_loses_nothing(start, client, qos):
    broker = start(limits=Limits(publish_rate=100))
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 0))
    peer = client("c", broker)
    began = time.monotonic()
    peer.send(*[Publish("a", b"%d" % n, qos, packet_id=n + 1 if qos else None) for n in range(130)])
    assert [int(message.payload) for message in watcher.messages(130)] == list(range(130))
    assert time.monotonic() - began >= 0.29  # a burst of 100, then one each 10 ms
    if qos:
        peer.expect(*[PubAck(n + 1) for n in range(130)])
    peer.quiet()


def test_bytes_beyond_the_rate_wait_and_none_is_lost(start, client):
    broker = start(limits=Limits(byte_rate=100_000))
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 0))
    peer = client("c", broker)
    began = time.monotonic()
    peer.send(*[Publish("a", b"%05d" % n + bytes(9_995)) for n in range(16)])
    assert [int(message.payload[:5]) for message in watcher.messages(16)] == list(range(16))
    assert time.monotonic() - began >= 0.2  # the last are read when the rate allows, after a burst of 100,000 bytes
    peer.send(Publish("a", b"00016", 1, packet_id=1))
    peer.expect(PubAck(1))


def test_outgoing_bytes_count_towards_the_rate(start, client):
    broker = start(limits=Limits(byte_rate=100_000))
    reader = client("reader", broker)
    reader.subscribe(("a", 0))
    other = client("c", broker)
    began = time.monotonic()
    other.send(*[Publish("a", bytes(10_000)) for _ in range(16)])
    assert len(reader.messages(16)) == 16  # outgoing messages are not delayed
    reader.send(Publish("b", b"", 1, packet_id=1))
    reader.expect(PubAck(1))
    assert time.monotonic() - began >= 0.5  # 60,000 bytes beyond the rate of a second


def test_a_rate_limited_client_that_is_taken_over_is_freed(start, client):
    broker = start(limits=Limits(byte_rate=10_000))
    peer = client("c", broker)
    peer.send(Publish("a", bytes(9_000)), Publish("a", bytes(9_000)))
    client("c", broker)  # the take-over ends the first connection
    assert broker.metrics()["clients/connected"] == 1


def test_rate_limited_messages_are_processed_after_the_client_disconnects(start, client):
    broker = start(limits=Limits(publish_rate=1))
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 0))
    peer = client("c", broker)
    peer.send(*[Publish("a", b"%d" % n) for n in range(5)])
    watcher.messages(1)
    client("c", broker)  # the take-over ends the first connection
    assert [message.payload for message in watcher.messages(4)] == [b"1", b"2", b"3", b"4"]


def fill(watcher: Wire, publisher: Wire, qos: int, count: int) -> None:
    """Publish more than the buffers of the watcher's connection hold."""
    payload = bytes(60_000)
    for number in range(count):
        publisher.send(Publish("a", payload, qos, packet_id=number + 1 if qos else None))
        if qos:
            publisher.expect(PubAck(number + 1))


def test_qos_0_messages_for_a_slow_reader_are_dropped_and_counted(start, client):
    broker = start(limits=Limits(max_write_buffer=500_000))
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 0))
    other = client("other", broker)
    other.subscribe(("b", 0))
    publisher = client("publisher", broker)
    fill(watcher, publisher, 0, 400)  # 24 MB
    publisher.send(Publish("b", b"x"))
    assert other.messages(1) == [Publish("b", b"x")]
    dropped = broker.metrics()["publish/messages/dropped"]
    assert dropped > 0
    assert len(watcher.messages(400 - dropped)) == 400 - dropped
    watcher.quiet()
    publisher.send(Publish("a", b"again"))
    assert watcher.messages(1) == [Publish("a", b"again")]


def test_qos_1_messages_for_a_slow_reader_wait(start, client):
    broker = start(limits=Limits(max_queued_bytes=100_000_000))
    watcher = client("watcher", broker)
    watcher.subscribe(("a", 1))
    publisher = client("publisher", broker)
    fill(watcher, publisher, 1, 400)
    assert broker.metrics()["publish/messages/dropped"] == 0
    for number in range(400):
        message = watcher.receive()
        assert message.packet_id == number % 65535 + 1
        watcher.send(PubAck(message.packet_id))


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_client_that_reads_nothing_is_disconnected(start, client, scheme):
    ended = []
    broker = start(limits=Limits(stall_timeout=0.3), on_disconnected=lambda peer, error: ended.append(str(error)))
    stuck = client("stuck", broker, scheme)
    stuck.subscribe(("a", 0))
    publisher = client("publisher", broker)
    deadline = time.monotonic() + PATIENCE
    while not ended and time.monotonic() < deadline:
        publisher.send(Publish("a", bytes(60_000)))
        publisher.quiet()
    assert ended == ["the client read nothing for 0.3 s"]


def forever(function, *arguments):
    while True:
        function(*arguments)


def test_reading_is_paused_for_a_client_that_never_reads(start, client):
    broker = start(limits=Limits(stall_timeout=0.3))
    other = client("other", broker)
    stuck = client("stuck", broker)
    broker.publish("a", bytes(200_000), retain=True)
    stuck.socket.settimeout(PATIENCE)
    request = Subscribe(1, [("a", 0)]).encode() * 100
    with pytest.raises(ConnectionError):
        forever(stuck.socket.sendall, request)  # each 800 bytes request 20 MB
    other.quiet()


def test_departures_no_parent_level(start, client):
    broker = start(departures=Departures(parent_level=False))
    broker.publish("a", b"kept", retain=True)
    broker.publish("a/b", b"kept", retain=True)
    peer = client("c", broker)
    peer.subscribe(("a/#", 0))
    assert peer.messages(1) == [Publish("a/b", b"kept", 0, True)]
    broker.publish("a", b"live")
    broker.publish("a/b", b"live")
    assert peer.messages(1) == [Publish("a/b", b"live")]
    peer.subscribe(("#", 0))
    assert {message.topic for message in peer.messages(2)} == {"a", "a/b"}


def test_departures_no_retained_messages_for_wildcards(start, client):
    broker = start(departures=Departures(retained_for_wildcards=False))
    broker.publish("a", b"kept", retain=True)
    peer = client("c", broker)
    peer.subscribe(("#", 0), ("+", 0))
    peer.quiet()
    peer.send(Subscribe(1, [("a", 0)]))
    peer.expect(SubAck(1, [0]), Publish("a", b"kept", 0, True))


def test_departures_dollar_topics(start, client):
    broker = start(departures=Departures(dollar_topics=True))
    peer = client("c", broker)
    peer.subscribe(("$aws/#", 0))
    peer.send(Publish("$aws/x", b"1"), Publish("$SYS/broker/version", b"2"))
    assert peer.messages(1) == [Publish("$aws/x", b"1")]
    assert broker.metrics()["publish/messages/denied"] == 1


@pytest.mark.parametrize("names", [["a", "b", "c"], ["a/b/c/d"]])
def test_filters_in_one_unsubscribe_are_bounded(start, client, names):
    broker = start(limits=Limits(max_filters=2, max_topic_levels=3))
    peer = client("c", broker, clean_session=False)
    assert peer.subscribe(("a", 0), ("b", 0)) == (0, 0)
    assert peer.send(Unsubscribe(1, names)).rest() == b""
    assert broker.metrics()["subscriptions/count"] == 2  # none of them was removed


def test_the_overhead_of_packets_for_a_slow_reader_counts(start, client):
    """A packet of 6 bytes takes ten times as much memory while it waits."""
    broker = start(limits=Limits(max_write_buffer=100_000))
    watcher = client("watcher", broker)
    watcher.subscribe(("b", 0))
    (link,) = broker._hub.admission.all

    def waiting() -> int:
        link._full = True  # as if the client did not read
        try:
            return sum(broker._router.publish("b", b"x") for _ in range(10_000))
        finally:
            link._full = False
            link.wake()

    assert broker._call(waiting) == 100_000 // (6 + 50) + 1
    assert len(watcher.messages(100_000 // 56 + 1)) == 100_000 // 56 + 1


def test_user_names_of_kept_sessions_count_as_memory(start, wire, client):
    broker = start(limits=Limits(max_session_bytes=100_000, max_sessions_per_address=None))
    names = ["u" * 40_000, "v" * 40_000]
    for number, name in enumerate(names):
        client(f"c{number}", broker, clean_session=False, username=name).send("e0 00").rest()
    third = wire(broker).send(Connect("c2", clean_session=False, username="w" * 60_000))
    assert third.rest() == bytes.fromhex("20 02 00 03")
    client("c3", broker, clean_session=True, username="w" * 60_000).quiet()  # its name is not kept
    client("c0", broker, clean_session=False, username=names[0]).quiet()


def test_a_packet_that_was_read_with_much_other_data_must_be_completed_in_time(start, client):
    """Beyond a slice, data is handled later; the time counts nevertheless."""
    broker = start(limits=Limits(packet_timeout=0.2))
    peer = client("c", broker, keep_alive=65_535)
    began = time.monotonic()
    peer.send("30 a0 8d 06 00 01 61", bytes(50_000))  # a PUBLISH of 100,000 bytes, half of it
    assert peer.rest() == b""
    assert time.monotonic() - began < PATIENCE / 2


def test_connections_are_bounded_by_the_descriptors_of_the_process(start, client, wire, monkeypatch):
    monkeypatch.setattr("mqttws.broker.hub._descriptors_left", lambda: 2)
    broker = start()
    client("a", broker)
    silent = wire(broker)
    client("b", broker)
    assert silent.rest() == b""
    assert wire(broker).rest() == b""  # both are accepted, and stay


def test_the_descriptors_that_are_left_are_counted():
    resource = pytest.importorskip("resource")
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = _descriptors_left()
    if most == resource.RLIM_INFINITY:
        assert before == inf
        return
    with socket.socket(), socket.socket():
        assert _descriptors_left() <= before - 2
    assert 1 <= before < most
