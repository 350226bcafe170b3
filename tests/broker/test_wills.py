"""Wills: published once when a connection ends without a DISCONNECT, with the requested QoS and RETAIN."""

from __future__ import annotations

import socket

import pytest
from wire import Wire

from mqttws import Connect, Disconnect, Message, MQTTError, Publish
from mqttws.broker import Access, Limits, Peer, Verdict
from mqttws.broker.link import Link

WILL = Message("w", b"gone")


def half_close(peer: Wire) -> None:
    peer.socket.shutdown(socket.SHUT_WR)


def break_a_rule(peer: Wire) -> None:
    peer.send("f0 00")


def close_the_websocket(peer: Wire) -> None:
    peer.socket.sendall(bytes.fromhex("88 82 00 00 00 00 03 e8"))  # a close frame, 1000, and no DISCONNECT


@pytest.mark.statement("MQTT-3.1.2-8")
@pytest.mark.parametrize(
    ("scheme", "end"),
    [
        *((scheme, end) for scheme in ("mqtt", "ws") for end in (Wire.close, Wire.reset, half_close, break_a_rule)),
        ("ws", close_the_websocket),
    ],
)
def test_every_end_but_disconnect_publishes_the_will(client, scheme, end):
    watcher = client()
    watcher.subscribe(("w", 0))
    end(client("c", scheme=scheme, will=WILL))
    assert watcher.messages(1) == [Publish("w", b"gone")]


@pytest.mark.statement("MQTT-3.1.2-8")
@pytest.mark.statement("MQTT-3.1.4-2")
def test_a_take_over_publishes_the_will_of_the_old_connection(client):
    watcher = client()
    watcher.subscribe(("w", 0))
    old = client("c", will=WILL)
    client("c")
    assert watcher.messages(1) == [Publish("w", b"gone")]
    assert old.rest() == b""


@pytest.mark.statement("MQTT-3.14.4-3")
@pytest.mark.statement("MQTT-3.1.2-10")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("end", [Wire.rest, Wire.reset])
def test_disconnect_drops_the_will(client, start, scheme, end):
    gone = []
    broker = start(on_disconnected=lambda peer, error: gone.append((peer.client_id, error)))
    watcher = client("watcher", broker)
    watcher.subscribe(("w", 0))
    peer = client("c", broker, scheme, will=WILL)
    end(peer.send("e0 00"))
    client("c", broker).send("e0 00").rest()  # its CONNACK shows that the end of the first was handled
    watcher.quiet()
    assert ("c", None) in gone


@pytest.mark.statement("MQTT-3.14.4-3")
@pytest.mark.parametrize("nested", [False, True])
def test_a_disconnect_that_was_received_drops_the_will_whatever_else_ends_the_connection(client, start, nested):
    """Also if what another client had sent before its own end does, because the rest is discarded then."""
    gone: list[tuple[str, MQTTError | None]] = []

    def on_published(peer: Peer | None, message: Message) -> None:
        if message.topic == "end c":
            assert broker.disconnect("c")

    broker = start(on_published=on_published, on_disconnected=lambda peer, error: gone.append((peer.client_id, error)))
    watcher = client("watcher", broker)
    client("other", broker)
    watcher.subscribe(("w", 0))
    peer = client("c", broker, will=WILL)

    def end() -> None:
        links: dict[str, Link] = {link._handler.peer.client_id: link for link in broker._hub.admission.all}
        said = {"c": [Publish("a", b""), Disconnect()], "other": [Publish("end c", b"")]}
        for name, packets in said.items():  # they are received, and handled in a later turn
            links[name]._connection.receive_data(b"".join(packet.encode() for packet in packets), 0.0)
        assert broker.disconnect("other" if nested else "c")

    broker._call(end)
    assert peer.rest() == b""
    assert gone[0] == ("c", None)
    watcher.quiet()


@pytest.mark.statement("MQTT-3.14.1-1")
def test_a_malformed_disconnect_publishes_the_will(client):
    watcher = client()
    watcher.subscribe(("w", 0))
    for bad in ("e1 00", "ef 00", "e0 01 00"):
        client("c", will=WILL).send(bad).rest()
        assert watcher.messages(1) == [Publish("w", b"gone")]


@pytest.mark.statement("MQTT-3.1.2-10")
@pytest.mark.statement("MQTT-3.1.2-12")
def test_a_will_is_published_once_and_forgotten(client):
    watcher = client()
    watcher.subscribe(("#", 0))
    client("c", clean_session=False, will=WILL).close()
    assert watcher.messages(1) == [Publish("w", b"gone")]
    client("c", clean_session=False).send("f0 00").rest()
    watcher.quiet()


@pytest.mark.statement("MQTT-3.1.2-16")
@pytest.mark.statement("MQTT-3.1.2-17")
@pytest.mark.parametrize("retain", [False, True])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_will_is_published_with_its_qos_and_retain(client, qos, retain):
    watcher = client()
    watcher.subscribe(("w", 2))
    client("c", will=Message("w", b"gone", qos, retain)).send("f0 00").rest()
    assert watcher.messages(1) == [Publish("w", b"gone", qos, packet_id=1 if qos else None)]
    late = client("late")
    late.subscribe(("w", 2))
    if retain:
        assert late.messages(1) == [Publish("w", b"gone", qos, True, packet_id=1 if qos else None)]
    else:
        late.quiet()


def test_a_will_without_a_payload_removes_the_retained_message(client):
    publisher = client()
    publisher.send(Publish("w", b"kept", 1, True, packet_id=1)).expect("40 02 00 01")
    client("c", will=Message("w", b"", 0, True)).send("f0 00").rest()
    late = client("late")
    late.subscribe(("w", 0))
    late.quiet()


@pytest.mark.parametrize(
    "will", [Message("$SYS/x"), Message("$x"), Message("a/b/c/d"), Message("a\n"), Message("a", b"12345")]
)
def test_a_will_that_may_not_be_published_is_refused_at_the_connect(start, wire, will):
    broker = start(limits=Limits(max_topic_levels=3, max_payload=4))
    assert wire(broker).send(Connect("c", will=will)).rest() == bytes.fromhex("20 02 00 05")


def test_no_will_is_published_when_the_broker_stops(start, client):
    broker = start()
    watcher = client("watcher", broker, clean_session=False)
    watcher.subscribe(("w", 1))
    client("c", broker, will=Message("w", b"gone", 1))
    broker.stop()
    assert watcher.rest() == b""
    broker.start()
    client("watcher", broker, clean_session=False).quiet()


def test_wills_that_close_other_clients_do_not_nest(start, client):
    """Each will is denied to all others, which closes them: far more than Python's recursion limit would allow."""
    denied, ended = [], []

    def authorize(peer: Peer, access: Access) -> bool | Verdict:
        denies = denied and access.action == "receive" and peer.client_id != "watcher"
        return Verdict(False, close=True) if denies else True

    broker = start(authorizer=authorize, on_disconnected=lambda peer, error: ended.append(peer.client_id))
    watcher = client("watcher", broker)
    watcher.subscribe(("gone/#", 0))
    names = [f"c{number}" for number in range(200)]
    for name in names:
        client(name, broker, clean_session=False, will=Message(f"gone/{name}")).subscribe(("gone/#", 0))
    denied.append(True)
    broker.publish("gone/now")
    topics = [message.topic for message in watcher.messages(1 + len(names))]
    assert sorted(topics) == sorted(["gone/now", *(f"gone/{name}" for name in names)])
    assert [session.client_id for session in broker.sessions() if session.connected] == ["watcher"]
    assert sorted(ended) == sorted(names)


def test_a_client_that_connects_again_is_told_of_after_the_end_of_its_last_connection(start, client):
    """Also if a take-over is not what ended it."""
    calls = []
    broker = start(
        on_connected=lambda peer: calls.append(("connected", peer.client_id)),
        on_disconnected=lambda peer, error: calls.append(("disconnected", peer.client_id)),
    )
    for _ in range(20):
        client("c", broker).close()
        client("c", broker, will=Message("w"))
    broker.stop()
    assert calls == [("connected", "c"), ("disconnected", "c")] * 40


def test_the_hook_for_the_end_of_a_connection_can_end_the_next(start, client):
    names = [f"c{number}" for number in range(300)]
    ended = []

    def on_disconnected(peer: Peer, error: MQTTError | None) -> None:
        ended.append(peer.client_id)
        broker.disconnect(f"c{len(ended)}")

    broker = start(on_disconnected=on_disconnected)
    peers = [client(name, broker) for name in names]
    assert broker.disconnect("c0")
    assert peers[-1].rest() == b""
    assert ended == names
