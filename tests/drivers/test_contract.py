"""The contract of both drivers, against a scripted server."""

from __future__ import annotations

import asyncio
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, States
from scripted import End, Scripted, connected

import mqttws
from mqttws import (
    ConnAck,
    Connect,
    ConnectError,
    ConnectionClosed,
    ConnectionRefused,
    Disconnect,
    Message,
    MQTTError,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    QueueFull,
    Reconnect,
    SubAck,
    Subscribe,
    SubscribeRejected,
    UnsubAck,
    Unsubscribe,
)

Make = Callable[..., Any]


def nothing_sent(client: Any, end: End) -> None:
    """Check that the client has sent nothing: the next packet is one that it is asked to send now."""
    client.publish_nowait("now", b"")
    end.expect(Publish("now", b""))


#: Reconnects without a delay.
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


# Connecting and closing.


def test_connect_contains_the_options(make: Make, server: Scripted) -> None:
    will = Message("w", b"gone", 1, True)
    client = make(server.url, client_id="me", keep_alive=7, clean_session=False, will=will, username="u", password="p")
    opening = server.soon(client.open)
    end = server.accept()
    assert end.receive() == Connect("me", False, 7, will, "u", b"p")
    end.send(ConnAck(0, True))
    opening.result(PATIENCE)
    assert client.state.name == "connected"
    assert client.state.session_present is True


def test_user_name_and_password_of_the_url(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url.replace("mqtt://", "mqtt://ada:love%2Flace@"), client_id="c")
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept()
    assert end.receive() == Connect("c", username="ada", password=b"love/lace")
    end.send(ConnAck())
    opening.result(PATIENCE)


def test_a_random_client_id_is_generated(make: Make) -> None:
    one, other = make("mqtt://127.0.0.1"), make("mqtt://127.0.0.1")
    assert one.client_id.startswith("mqttws-")
    assert len(one.client_id) == 23
    assert one.client_id != other.client_id


def test_disconnect_is_the_last_packet_of_close(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    closing = server.soon(client.close)
    assert end.rest() == bytes.fromhex("e0 00")
    end.cut()
    closing.result(PATIENCE)
    assert client.state == mqttws.State("disconnected")
    if end.websocket:
        assert end.closing[:2] == (1000).to_bytes(2, "big")


def test_close_twice_and_before_open(make: Make) -> None:
    client = make("mqtt://127.0.0.1")
    client.close()
    client.close()


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_refusal_is_raised_and_ends_the_client(make: Make, server: Scripted, code: int) -> None:
    states = States()
    client = make(server.url, client_id="c", on_state=states, reconnect=AT_ONCE)
    opening = server.soon(client.open)
    end = server.accept()
    end.receive()
    end.send(bytes((0x20, 2, 0, code)))
    assert end.rest() == b""
    end.cut()
    with pytest.raises(ConnectionRefused) as caught:
        opening.result(PATIENCE)
    assert caught.value.return_code == code
    assert states.names == ["connecting", "disconnected"]


def test_connecting_to_a_closed_port_is_an_error(make: Make, tcp_server: Scripted) -> None:
    client = make("mqtt://127.0.0.1:1", client_id="c")
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1"):
        client.open()
    assert client.state.name == "disconnected"


def test_a_missing_connack_is_a_timeout(make: Make, server: Scripted) -> None:
    client = make(server.url, client_id="c", timeout=0.2)
    opening = server.soon(client.open)
    end = server.accept()
    assert end.receive() == Connect("c")
    assert end.rest() == b""
    end.cut()
    with pytest.raises(ConnectError, match=r"did not answer within"):
        opening.result(PATIENCE)


def test_open_has_a_separate_timeout(make: Make, server: Scripted) -> None:
    client = make(server.url, client_id="c")
    opening = server.soon(client.open, timeout=0.2)
    server.accept()
    with pytest.raises(TimeoutError):
        opening.result(PATIENCE)
    assert client.state.name == "disconnected"


def test_open_again_after_a_failure(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url, client_id="c")
    opening = tcp_server.soon(client.open)
    tcp_server.accept().cut()
    with pytest.raises(ConnectError):
        opening.result(PATIENCE)
    opening = tcp_server.soon(client.open)
    tcp_server.accept().welcome()
    opening.result(PATIENCE)


def test_open_twice_is_an_error(make: Make, tcp_server: Scripted) -> None:
    client, _ = connected(make, tcp_server)
    with pytest.raises(MQTTError, match="already open"):
        client.open()


@pytest.mark.parametrize(
    "options",
    [{"client_id": "", "clean_session": False}, {"keep_alive": 65_536}, {"client_id": "\0"}, {"password": "p"}],
)
def test_options_are_checked_on_construction(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(mqttws.LocalProtocolError):
        make("mqtt://127.0.0.1", **options)


def test_an_invalid_url_and_an_unknown_option_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="scheme"):
        make("http://127.0.0.1/")
    with pytest.raises(TypeError):
        make("mqtt://127.0.0.1", colour="red")


# Publishing.


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publish_returns_when_it_is_acknowledged(make: Make, server: Scripted, qos: int) -> None:
    client, end = connected(make, server)
    publishing = server.soon(client.publish, "a/b", "payload", qos, True)
    packet_id = 1 if qos else None
    assert end.receive() == Publish("a/b", b"payload", qos, True, False, packet_id)
    if qos:
        assert not publishing.done()
    if qos == 1:
        end.send(PubAck(1))
    if qos == 2:
        end.send(PubRec(1)).expect(PubRel(1))
        assert not publishing.done()
        end.send(PubComp(1))
    assert publishing.result(PATIENCE) is None


def test_publish_nowait_before_open_is_sent_in_order(make: Make, server: Scripted) -> None:
    client = make(server.url, client_id="c")
    futures = [client.publish_nowait("a", str(number), number % 2) for number in range(4)]
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.expect(Publish("a", b"0"), Publish("a", b"1", 1, packet_id=1), Publish("a", b"2"))
    end.expect(Publish("a", b"3", 1, packet_id=2))
    end.send(PubAck(1), PubAck(2))
    assert [future.result(PATIENCE) for future in futures] == [None] * 4


@pytest.mark.parametrize(("topic", "qos"), [("a/#", 0), ("", 0), ("a\0", 0), ("a", 3)])
def test_an_ill_formed_publish_raises_and_sends_nothing(make: Make, server: Scripted, topic: str, qos: int) -> None:
    client, end = connected(make, server)
    with pytest.raises(mqttws.LocalProtocolError):
        client.publish(topic, b"x", qos)
    with pytest.raises(mqttws.LocalProtocolError):
        client.publish_nowait(topic, b"x", qos)
    nothing_sent(client, end)


def test_a_publish_that_times_out_unsent_is_withdrawn(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_in_flight=1)
    first = client.publish_nowait("a", b"first", 1)
    with pytest.raises(TimeoutError, match="will not be"):
        client.publish("a", b"second", 1, timeout=0.1)
    end.expect(Publish("a", b"first", 1, packet_id=1)).send(PubAck(1))
    assert first.result(PATIENCE) is None
    nothing_sent(client, end)


def test_a_publish_that_times_out_may_have_been_sent(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    with pytest.raises(TimeoutError, match="may still be delivered"):
        client.publish("a", b"x", 1, timeout=0.1)
    end.expect(Publish("a", b"x", 1, packet_id=1))


def test_a_full_queue_raises_or_waits(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_in_flight=1, max_queued=1)
    client.publish_nowait("a", b"1", 1)
    end.expect(Publish("a", b"1", 1, packet_id=1))
    client.publish_nowait("a", b"2", 1)
    with pytest.raises(QueueFull):
        client.publish_nowait("a", b"3", 1)
    waiting = server.soon(client.publish, "a", b"4", 1)
    end.send(PubAck(1)).expect(Publish("a", b"2", 1, packet_id=2))
    end.send(PubAck(2)).expect(Publish("a", b"4", 1, packet_id=3))
    end.send(PubAck(3))
    assert waiting.result(PATIENCE) is None


def test_futures_fail_when_the_client_is_closed(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    publishing = client.publish_nowait("a", b"x", 2)
    subscribing = client.subscribe_nowait("b")
    end.receive()
    end.receive()
    closing = server.soon(client.close, 0.1)
    end.rest()
    end.cut()
    closing.result(PATIENCE)
    for future in (publishing, subscribing):
        with pytest.raises(ConnectionClosed, match="closed before"):
            future.result(PATIENCE)


def test_threads_publish_while_the_client_is_closed(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    stop = threading.Event()

    def publish() -> None:
        while not stop.is_set():
            try:
                client.publish_nowait("a", b"x")
            except (MQTTError, RuntimeError):
                return

    publishing = [server.soon(publish) for _ in range(4)]
    end.receive()
    closing = server.soon(client.close)
    packets = end.packets()
    stop.set()
    end.cut()
    closing.result(PATIENCE)
    for each in publishing:
        each.result(PATIENCE)
    assert packets.pop() == Disconnect()
    assert all(packet == Publish("a", b"x") for packet in packets)


# Subscribing.


def test_subscribe_to_one(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    subscribing = server.soon(client.subscribe, "a/+", 2)
    end.expect(Subscribe(1, [("a/+", 2)])).send(SubAck(1, [1]))
    assert subscribing.result(PATIENCE) == 1


def test_subscribe_to_one_that_is_refused(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    subscribing = server.soon(client.subscribe, "a")
    end.expect(Subscribe(1, [("a", 0)])).send(SubAck(1, [128]))
    with pytest.raises(SubscribeRejected) as caught:
        subscribing.result(PATIENCE)
    assert caught.value.topic_filter == "a"


def test_subscribe_to_several_in_packets_that_the_server_takes(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_filters=2)
    subscribing = server.soon(client.subscribe, ["a", ("b", 2), "c"], 1)
    end.expect(Subscribe(1, [("a", 1), ("b", 2)]), Subscribe(2, [("c", 1)]))
    end.send(SubAck(2, [128]), SubAck(1, [1, 0]))
    assert subscribing.result(PATIENCE) == (1, 0, 128)


def test_unsubscribe(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_filters=2)
    unsubscribing = server.soon(client.unsubscribe, ["a", "b", "c"])
    end.expect(Unsubscribe(1, ["a", "b"]), Unsubscribe(2, ["c"])).send(UnsubAck(1))
    assert not unsubscribing.done()
    end.send(UnsubAck(2))
    assert unsubscribing.result(PATIENCE) is None


def test_an_ill_formed_filter_raises_and_sends_nothing(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    with pytest.raises(mqttws.LocalProtocolError):
        client.subscribe(["good", "b#"])
    with pytest.raises(mqttws.LocalProtocolError):
        client.subscribe([])
    with pytest.raises(mqttws.LocalProtocolError):
        client.unsubscribe("b#")
    nothing_sent(client, end)


def test_a_missing_suback_is_a_timeout(make: Make, server: Scripted) -> None:
    client, _ = connected(make, server, timeout=1.0)
    with pytest.raises(TimeoutError):
        client.subscribe("a")


# Receiving.


def test_messages_are_acknowledged_when_the_iteration_moves_on(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    end.send(Publish("a", b"0"), Publish("a", b"1", 1, packet_id=7), Publish("a", b"2", 2, packet_id=9))
    messages = client.messages(timeout=PATIENCE)
    assert next(messages) == Publish("a", b"0")
    assert next(messages) == Publish("a", b"1", 1, packet_id=7)
    end.send("d0 00")  # ignored; the next packet must be the PUBACK, so nothing was sent before
    assert next(messages) == Publish("a", b"2", 2, packet_id=9)
    end.expect(PubAck(7))
    messages.close()
    end.expect(PubRec(9)).send(PubRel(9)).expect(PubComp(9))


def test_the_iteration_ends_at_its_timeout(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    end.send(Publish("a", b"0"))
    assert [message.payload for message in client.messages(timeout=0.2)] == [b"0"]
    end.send(Publish("a", b"1"))
    assert [message.payload for message in client.messages(timeout=0.2)] == [b"1"]


def test_the_iteration_ends_with_the_client(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    iterating = server.soon(lambda: list(client.messages()))
    end.send(Publish("a", b"0"))
    closing = server.soon(client.close)
    end.rest()
    end.cut()
    closing.result(PATIENCE)
    assert [message.payload for message in iterating.result(PATIENCE)] in ([b"0"], [])


def test_the_iteration_raises_the_error_of_the_client(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, reconnect=False)
    iterating = server.soon(lambda: list(client.messages()))
    end.cut()
    with pytest.raises(ConnectionClosed):
        iterating.result(PATIENCE)


def test_manual_acknowledgements_keep_the_order(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, manual_ack=True)
    end.send(*(Publish("a", b"x", 1, packet_id=packet_id) for packet_id in (3, 1, 2)))
    messages = client.messages(timeout=PATIENCE)
    third, first, second = next(messages), next(messages), next(messages)
    client.acknowledge(second)
    client.acknowledge(first)
    client.acknowledge(third)
    client.acknowledge(third)
    end.expect(PubAck(3), PubAck(1), PubAck(2))
    end.send(Publish("a", b"y", 1, packet_id=4))
    client.acknowledge(next(messages))
    end.expect(PubAck(4))


def test_messages_of_a_callback_are_acknowledged(make: Make, server: Scripted) -> None:
    taken: list[Publish] = []

    def take(message: Publish) -> None:
        taken.append(message)
        raise RuntimeError("the callback's own fault")

    _, end = connected(make, server, on_message=take)
    end.send(*(Publish("a", b"x", 1, packet_id=packet_id) for packet_id in range(1, 4)))
    end.expect(PubAck(1), PubAck(2), PubAck(3))
    assert len(taken) == 3


def test_a_copy_of_a_qos_2_message_is_answered_and_not_delivered(make: Make, server: Scripted) -> None:
    taken: list[Publish] = []
    _, end = connected(make, server, on_message=taken.append)
    end.send(Publish("a", b"x", 2, packet_id=5)).expect(PubRec(5))
    end.send(Publish("a", b"x", 2, dup=True, packet_id=5)).expect(PubRec(5))
    end.send(PubRel(5)).expect(PubComp(5))
    end.send(PubRel(5)).expect(PubComp(5))
    assert len(taken) == 1


def test_a_slow_consumer_pauses_reading_and_loses_nothing(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_inbound_bytes=100_000, keep_alive=1)
    sent: list[None] = []
    stop = threading.Event()

    def send() -> None:  # no fixed number, because the buffers of TCP may hold 30 MB and more
        while not stop.is_set():
            end.send(Publish("a", bytes(10_000), packet_id=None))
            sent.append(None)
        end.send(Publish("end", b"", packet_id=None))

    sending = server.soon(send)
    try:
        # Buffered bytes are bounded, so TCP stops the sender, while pings are still sent.
        counts = [-2, -1]
        while counts[-1] != counts[-2]:
            assert len(counts) < 7, "the sender is never stopped"
            assert end.receive() == mqttws.PingReq()
            counts.append(len(sent))
    finally:
        stop.set()
    received = itertools.takewhile(lambda message: message.topic == "a", client.messages(timeout=PATIENCE))
    taken = sum(1 for _ in received)
    sending.result(PATIENCE)
    assert taken == len(sent)


# Loss of the connection.


def test_a_reconnect_restores_subscriptions_and_messages(make: Make, server: Scripted) -> None:
    states = States()
    client, end = connected(make, server, on_state=states, reconnect=AT_ONCE)
    subscribing = server.soon(client.subscribe, [("a", 1), ("b", 2)])
    end.receive()
    end.send(SubAck(1, [1, 2]))
    subscribing.result(PATIENCE)
    futures = [client.publish_nowait("t", str(number), 1 + number % 2) for number in range(3)]
    end.expect(*(Publish("t", str(n).encode(), 1 + n % 2, packet_id=2 + n) for n in range(3)))
    end.send(PubRec(3)).expect(PubRel(3))
    end.cut()
    end = server.accept().welcome(session_present=False)
    # The server has lost the session: first the filters are sent again, then unacknowledged messages, with DUP.
    end.expect(Subscribe(5, [("a", 1), ("b", 2)]))
    end.expect(Publish("t", b"0", 1, dup=True, packet_id=2), Publish("t", b"2", 1, dup=True, packet_id=4))
    end.send(SubAck(5, [1, 2]), PubAck(2), PubAck(4))
    assert [future.result(PATIENCE) for future in futures] == [None] * 3
    assert states.names == ["connecting", "connected", "disrupted", "reconnecting", "connecting", "connected"]
    assert isinstance(states.seen[2].error, ConnectionClosed)
    assert states.seen[3].delay == 0.0


def test_a_kept_session_is_resumed(make: Make, server: Scripted) -> None:
    client = make(server.url, client_id="c", clean_session=False, reconnect=AT_ONCE)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    subscribing = client.subscribe_nowait("a")
    first = end.receive()
    assert isinstance(first, Subscribe)
    end.send(SubAck(first.packet_id, [0]))
    subscribing.result(PATIENCE)
    future = client.publish_nowait("t", b"x", 2)
    packet_id = following(first.packet_id)
    end.expect(Publish("t", b"x", 2, packet_id=packet_id)).send(PubRec(packet_id)).expect(PubRel(packet_id))
    end.cut()
    end = server.accept().welcome(session_present=True)
    end.expect(PubRel(packet_id)).send(PubComp(packet_id))
    assert future.result(PATIENCE) is None
    nothing_sent(client, end)


def following(packet_id: int) -> int:
    """Return the packet identifier after another."""
    return packet_id % 65_535 + 1


def test_a_request_without_an_answer_is_repeated(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, reconnect=AT_ONCE)
    subscribing = client.subscribe_nowait("a", 1)
    end.receive()
    end.cut()
    end = server.accept().welcome()
    packet = end.receive()
    assert isinstance(packet, Subscribe)
    assert packet.topic_filters == (("a", 1),)
    end.send(SubAck(packet.packet_id, [1]))
    assert subscribing.result(PATIENCE) == 1


def test_a_refused_restored_subscription_is_reported(make: Make, server: Scripted) -> None:
    errors: list[MQTTError] = []
    there = threading.Event()
    client, end = connected(make, server, reconnect=AT_ONCE, on_error=lambda error: (errors.append(error), there.set()))
    subscribing = client.subscribe_nowait("a")
    end.receive()
    end.send(SubAck(1, [0]))
    subscribing.result(PATIENCE)
    end.cut()
    end = server.accept().welcome()
    packet = end.receive()
    assert isinstance(packet, Subscribe)
    end.send(SubAck(packet.packet_id, [128]))
    assert there.wait(PATIENCE)
    assert [str(error) for error in errors] == [str(SubscribeRejected("a"))]


def test_a_callable_url_is_called_at_each_attempt(make: Make, server: Scripted) -> None:
    asked: list[str] = []

    def url() -> str:
        asked.append(f"{server.url}?attempt={len(asked)}" if server.url.startswith("ws") else server.url)
        return asked[-1]

    client = make(url, client_id="c", reconnect=AT_ONCE)
    opening = server.soon(client.open)
    first = server.accept().welcome()
    opening.result(PATIENCE)
    first.cut()
    second = server.accept().welcome()
    assert len(asked) == 2
    if second.websocket:
        assert first.head.startswith(b"GET /mqtt?attempt=0 HTTP/1.1\r\n")
        assert second.head.startswith(b"GET /mqtt?attempt=1 HTTP/1.1\r\n")


def test_reconnect_now_makes_a_new_connection(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    client.reconnect_now()
    end.rest()
    nothing_sent(client, server.accept().welcome())


@pytest.mark.parametrize("code", [1, 2, 3, 4, 5])
def test_a_refusal_after_a_connection_ends_the_client_only_with_end_on(make: Make, server: Scripted, code: int) -> None:
    states = States()
    client, end = connected(make, server, on_state=states, reconnect=AT_ONCE, end_on=ConnectionRefused)
    waiting = client.publish_nowait("a", b"x", 1)
    end.receive()
    end.cut()
    refuse(server, code)
    with pytest.raises(ConnectionRefused):
        waiting.result(PATIENCE)
    assert isinstance(states.wait("disconnected").error, ConnectionRefused)


def refuse(server: Scripted, code: int) -> None:
    """Refuse the next CONNECT."""
    end = server.accept()
    end.receive()
    end.send(bytes((0x20, 2, 0, code)))
    assert end.rest() == b""
    end.cut()


def test_after_a_first_success_every_refusal_is_followed_by_another_attempt(make: Make, server: Scripted) -> None:
    states = States()
    client, end = connected(make, server, on_state=states, reconnect=AT_ONCE)
    waiting = client.publish_nowait("a", b"x", 1)
    end.receive()
    end.cut()
    for code in range(1, 6):
        refuse(server, code)
    server.accept().cut()
    end = server.accept().welcome()
    end.expect(Publish("a", b"x", 1, dup=True, packet_id=1)).send(PubAck(1))
    waiting.result(PATIENCE)
    reasons = [state.error for state in states.seen if state.name == "disrupted"]
    assert [getattr(reason, "return_code", None) for reason in reasons] == [None, 1, 2, 3, 4, 5, None]


def test_end_on_may_be_a_function(make: Make, server: Scripted) -> None:
    asked: list[Exception] = []
    states = States()

    def end_on(error: Exception) -> bool:
        asked.append(error)
        return isinstance(error, ConnectionRefused) and error.return_code == 5

    _, end = connected(make, server, on_state=states, reconnect=AT_ONCE, end_on=end_on)
    end.cut()
    refuse(server, 3)
    refuse(server, 5)
    assert states.wait("disconnected").error is asked[-1]
    assert [type(error) for error in asked] == [ConnectionClosed, ConnectionRefused, ConnectionRefused]


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
def test_end_on_decides_after_an_exception_in_recover(
    make: Make, server: Scripted, kind: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    def recover(error: Exception) -> bool:
        raise kind

    states = States()
    _, end = connected(make, server, on_state=states, reconnect=AT_ONCE, recover=recover, end_on=ConnectionRefused)
    end.cut()
    refuse(server, 5)
    assert isinstance(states.wait("disconnected").error, ConnectionRefused)
    assert "a callback raised an exception" in caplog.text


def test_the_client_ends_after_the_last_attempt(make: Make, server: Scripted) -> None:
    states = States()
    _, end = connected(make, server, on_state=states, reconnect=Reconnect(initial=0.001, maximum=0.001, attempts=2))
    end.cut()
    server.accept().cut()
    server.accept().cut()
    assert isinstance(states.wait("disconnected").error, ConnectError)
    assert states.names.count("reconnecting") == 2


def test_without_reconnecting_a_loss_is_the_end(make: Make, server: Scripted) -> None:
    states = States()
    client, end = connected(make, server, on_state=states, reconnect=False)
    waiting = client.publish_nowait("a", b"x", 1)
    end.receive()
    end.cut()
    with pytest.raises(ConnectionClosed):
        waiting.result(PATIENCE)
    assert states.wait("disconnected").error is not None


def test_connections_closed_immediately_are_suspected_take_overs(make: Make, server: Scripted) -> None:
    states = States()
    policy = Reconnect(initial=0.001, maximum=0.001, takeovers=3)
    _, end = connected(make, server, on_state=states, reconnect=policy)
    for _ in range(3):
        end.cut()
        end = server.accept().welcome()
    states.wait("connected", 4)
    reasons = [state.error for state in states.seen if state.name == "disrupted"]
    assert [type(reason) for reason in reasons] == [ConnectionClosed, ConnectionClosed, mqttws.TakeoverSuspected]
    assert "another client" in str(reasons[-1])


def test_a_suspected_take_over_ends_the_client_with_end_on(make: Make, server: Scripted) -> None:
    states = States()
    policy = Reconnect(initial=0.001, maximum=0.001, takeovers=2)
    _, end = connected(make, server, on_state=states, reconnect=policy, end_on={mqttws.TakeoverSuspected})
    end.cut()
    server.accept().welcome().cut()
    assert isinstance(states.wait("disconnected").error, mqttws.TakeoverSuspected)


@pytest.mark.parametrize("how", ["reset", "close code", "keep alive", "message", "random identifier"])
def test_other_ends_are_not_suspected_take_overs(make: Make, how: str) -> None:
    states = States()
    options: dict[str, Any] = {"client_id": None if how == "random identifier" else "c"}
    if how == "keep alive":
        options |= {"keep_alive": 1, "ping_timeout": 0.05}
    policy = Reconnect(initial=0.001, maximum=0.001, takeovers=2)
    with Scripted("ws") as server:
        client = make(server.url, on_state=states, reconnect=policy, end_on=(), **options)
        opening = server.soon(client.open)
        for turn in range(4):
            end = server.accept().welcome()
            states.wait("connected", turn + 1)
            if how == "reset":
                end.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if how == "message":
                client.publish_nowait("a", b"x", 1)
                end.receive()
            if how == "close code":
                end.frame((1011).to_bytes(2, "big"), 0x88)
            elif how == "keep alive":
                assert end.receive() == mqttws.PingReq()
                states.wait("disrupted", turn + 1)
            end.cut()
        opening.result(PATIENCE)
        states.wait("disrupted", 4)
    assert not [state for state in states.seen if isinstance(state.error, mqttws.TakeoverSuspected)]


def test_a_take_over_of_a_random_client_id_is_not_believed(make: Make) -> None:
    states = States()
    with Scripted("ws") as server:
        client = make(server.url, on_state=states, reconnect=AT_ONCE)
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        end.frame((4001).to_bytes(2, "big"), 0x88)
        server.accept().welcome()
        states.wait("connected", 2)


def test_a_reported_take_over_ends_the_client(make: Make) -> None:
    states = States()
    with Scripted("ws") as server:
        _, end = connected(make, server, on_state=states, reconnect=AT_ONCE)
        end.frame((4001).to_bytes(2, "big") + b"session taken over", 0x88)
        assert isinstance(states.wait("disconnected").error, mqttws.SessionTakenOver)


def test_a_malformed_packet_closes_the_connection_and_is_reported(make: Make, server: Scripted) -> None:
    states = States()
    _, end = connected(make, server, on_state=states, reconnect=AT_ONCE)
    end.send(Publish("a", b"good", 1, packet_id=1), "36 05 00 01 61 00 01")  # then both QoS bits
    end.rest()
    server.accept().welcome()
    error = states.wait("disrupted").error
    assert isinstance(error, mqttws.MalformedPacket)
    assert error.statement == "MQTT-3.3.1-4"


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", mqttws.MalformedPacket),
        (b"\x20\x02\x00\x09", mqttws.MalformedPacket),
        (b"\x90\x03\x00\x01\x00", mqttws.RemoteProtocolError),  # a SUBACK
    ],
)
def test_a_server_that_does_not_answer_with_a_connack_is_a_failed_attempt(
    make: Make, server: Scripted, answer: bytes, cause: type[Exception]
) -> None:
    asked: list[MQTTError] = []
    states = States()

    def recover(error: mqttws.ConnectError) -> bool:
        asked.append(error)
        return len(asked) == 1

    client = make(server.url, recover=recover, on_state=states)
    opening = server.soon(client.open)
    for _ in range(2):
        end = server.accept()
        assert isinstance(end.receive(), Connect)
        end.send(answer)
        end.rest()
    with pytest.raises(mqttws.ConnectError) as caught:
        opening.result(PATIENCE)
    for error in (caught.value, states.wait("disconnected").error, *asked):
        assert isinstance(error, mqttws.ConnectError)
        assert isinstance(error.__cause__, cause)
        assert str(error) == str(error.__cause__)
    assert len(asked) == 2


@pytest.mark.statement("MQTT-6.0.0-1")
def test_a_text_message_is_answered_with_1003(make: Make) -> None:
    states = States()
    with Scripted("ws") as server:
        _, end = connected(make, server, on_state=states, reconnect=False)
        end.frame(b"text", 0x81)
        assert end.rest() == b""
        assert end.closing[:2] == (1003).to_bytes(2, "big")
        error = states.wait("disconnected").error
    assert isinstance(error, mqttws.RemoteProtocolError)
    assert error.statement == "MQTT-6.0.0-1"


# Keep alive.


def test_a_server_without_pingresp_is_disconnected(make: Make, server: Scripted) -> None:
    states = States()
    _, end = connected(make, server, on_state=states, keep_alive=1, ping_timeout=0.2, reconnect=False)
    assert end.receive() == mqttws.PingReq()
    assert isinstance(states.wait("disconnected").error, mqttws.KeepAliveTimeout)


def test_a_half_open_connection_is_noticed_while_publishing(make: Make, server: Scripted) -> None:
    states = States()
    client, _ = connected(make, server, on_state=states, keep_alive=1, ping_timeout=0.2, reconnect=False)

    def publish() -> None:
        while client.state.name == "connected":
            try:
                client.publish("a", b"x", timeout=0.05)
            except (MQTTError, TimeoutError):
                pass

    publishing = server.soon(publish)
    assert isinstance(states.wait("disconnected").error, mqttws.KeepAliveTimeout)
    publishing.result(PATIENCE)


def test_answered_pings_keep_the_connection(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, keep_alive=1, ping_timeout=0.5)
    for _ in range(3):
        assert end.receive() == mqttws.PingReq()
        end.send("d0 00")
    assert client.state.name == "connected"


def test_disconnect_is_the_last_packet(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    waiting = [client.publish_nowait("a", b"x") for _ in range(100)]
    closing = server.soon(client.close)
    data = end.rest()
    end.cut()
    closing.result(PATIENCE)
    assert data == bytes.fromhex("30 04 00 01 61 78") * 100 + Disconnect().encode()
    assert all(future.result(PATIENCE) is None for future in waiting)
