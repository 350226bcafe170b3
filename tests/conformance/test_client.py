"""The statements that bind the client, tested with a real client and a scripted server."""

from __future__ import annotations

import threading

import pytest
from scripted import Scripted
from wire import PATIENCE

from mqttws import (
    Client,
    ConnAck,
    Connect,
    ConnectError,
    Disconnect,
    KeepAliveTimeout,
    LocalProtocolError,
    Message,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reconnect,
    RemoteProtocolError,
    Session,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    compiled,
)
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection

AT_ONCE = Reconnect(initial=0.01)

#: (options, the CONNECT in hexadecimal, the statements that it verifies)
CONNECTS = [
    # no will, no user name, no password: only the client identifier follows
    ({}, "10 0d 0004 4d515454 04 02 0000 0001 63", "3.1.2-11 3.1.2-13 3.1.2-15 3.1.2-18 3.1.2-20 3.1.3-3 3.1.3-4"),
    ({"client_id": ""}, "10 0c 0004 4d515454 04 02 0000 0000", "3.1.3-3 3.1.3-7"),
    ({"clean_session": False}, "10 0d 0004 4d515454 04 00 0000 0001 63", "3.1.2-4"),
    ({"username": ""}, "10 0f 0004 4d515454 04 82 0000 0001 63 0000", "3.1.2-19 3.1.2-20"),
    ({"username": "ü"}, "10 11 0004 4d515454 04 82 0000 0001 63 0002 c3bc", "3.1.2-19 3.1.3-11"),
    (
        {"username": "u", "password": b"\x00\xff"},
        "10 14 0004 4d515454 04 c2 0000 0001 63 0001 75 0002 00ff",
        "3.1.2-21 3.1.2-22",
    ),
    ({"username": "u", "password": b""}, "10 12 0004 4d515454 04 c2 0000 0001 63 0001 75 0000", "3.1.2-21"),
    ({"will": Message("w", b"")}, "10 12 0004 4d515454 04 06 0000 0001 63 0001 77 0000", "3.1.2-9"),
    (
        {"will": Message("w", b"m", 2, True), "username": "u", "password": "p", "client_id": "\ufeffi"},
        "10 1c 0004 4d515454 04 f6 0000 0004 efbbbf69 0001 77 0001 6d 0001 75 0001 70",
        "3.1.2-9 3.1.2-14 3.1.3-1 3.1.3-10 1.5.3-3",
    ),
]


@pytest.mark.parametrize(
    ("options", "connect"),
    [
        pytest.param(*entry, marks=[pytest.mark.statement(f"MQTT-{one}") for one in shows.split()], id=entry[1])
        for *entry, shows in CONNECTS
    ],
)
def test_the_bytes_of_connect(subject, options, connect):
    tested = subject(**options)
    data = bytes.fromhex(connect)
    assert data[1] == len(data) - 2, "the literal itself must be complete"
    tested.end.expect(data).send("20 02 00 00")
    tested.opening.result(PATIENCE)


@pytest.mark.parametrize(
    ("options", "statement"),
    [
        pytest.param(*entry, marks=pytest.mark.statement(entry[1]))
        for entry in [
            ({"client_id": "", "clean_session": False}, "MQTT-3.1.3-7"),
            ({"password": "p"}, "MQTT-3.1.2-22"),
            ({"client_id": "a\0"}, "MQTT-1.5.3-2"),
            ({"client_id": "\ud800"}, "MQTT-1.5.3-1"),
            ({"username": "\0"}, "MQTT-1.5.3-2"),
        ]
    ],
)
def test_an_invalid_connect_is_refused_to_the_caller(options, statement):

    with pytest.raises(LocalProtocolError) as caught:
        Client("mqtt://127.0.0.1:1", **options)
    assert caught.value.statement == statement


@pytest.mark.statement("MQTT-3.1.0-1")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_connect_is_sent_first_and_nothing_else_before_the_connack(stack, scheme):

    server = stack.enter_context(Scripted(scheme))
    client = Client(server.url, client_id="c", keep_alive=0, timeout=PATIENCE)
    server.closing(client)
    client.publish_nowait("a", b"x", 1)
    client.subscribe_nowait("b", 1)
    opening = server.soon(client.open)
    end = server.accept()
    assert end.receive() == Connect("c", keep_alive=0)
    end.socket.settimeout(0.2)  # long enough for anything sent together with it
    with pytest.raises(TimeoutError):
        end.receive()
    end.socket.settimeout(PATIENCE)
    end.send(ConnAck())
    assert {type(end.receive()), type(end.receive())} == {Publish, Subscribe}
    opening.result(PATIENCE)


@pytest.mark.statement("MQTT-3.2.0-1")
@pytest.mark.parametrize("first", [Publish("a"), SubAck(1, [0]), PubAck(1), "d0 00"], ids=str)
def test_another_packet_than_connack_first_ends_the_attempt(subject, first):
    tested = subject()
    tested.end.receive()
    assert tested.end.send(first, ConnAck()).rest() == b""
    with pytest.raises(ConnectError) as caught:
        tested.opening.result(PATIENCE)
    assert isinstance(caught.value.__cause__, RemoteProtocolError)
    assert caught.value.__cause__.statement == "MQTT-3.2.0-1"


@pytest.mark.statement("U-12")
@pytest.mark.statement("MQTT-3.2.2-1")
def test_an_unrequested_session_ends_the_attempt(subject):
    tested = subject()
    tested.end.receive()
    assert tested.end.send(ConnAck(0, True)).rest() == b""
    with pytest.raises(ConnectError) as caught:
        tested.opening.result(PATIENCE)
    assert isinstance(caught.value.__cause__, RemoteProtocolError)
    assert caught.value.__cause__.statement == "MQTT-3.2.2-1"


@pytest.mark.statement("U-2")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_server_without_a_connack_times_out(subject, scheme):
    tested = subject(scheme, timeout=0.2)
    assert tested.end.receive() == Connect("c", keep_alive=0)
    assert tested.end.rest() == b""
    with pytest.raises(ConnectError, match=r"did not answer within 0\.2 s"):
        tested.opening.result(PATIENCE)


@pytest.mark.statement("U-3")
@pytest.mark.statement("MQTT-3.1.2-23")
@pytest.mark.parametrize("publishing", [False, True])
def test_a_server_without_a_pingresp_times_out_while_publishing(subject, publishing):
    tested = subject(keep_alive=1, ping_timeout=0.2)
    end = tested.welcome()
    stop = threading.Event()

    def publish():
        while publishing and not stop.wait(0.05):
            tested.client.publish_nowait("a", b"x")

    busy = tested.server.soon(publish)
    said = end.rest()
    stop.set()
    busy.result(PATIENCE)
    assert b"\xc0\x00" in said
    assert isinstance(tested.error(), KeepAliveTimeout)


@pytest.mark.statement("MQTT-3.1.2-23")
def test_pings_are_sent_while_messages_arrive(subject):
    tested = subject(keep_alive=1)
    end = tested.welcome()
    stop = threading.Event()

    def talk():
        while not stop.wait(0.05):
            end.send(Publish("a"))

    busy = tested.server.soon(talk)
    for _ in range(2):
        end.expect("c0 00").send("d0 00")
    stop.set()
    busy.result(PATIENCE)


# Publishing.


@pytest.mark.statement("MQTT-4.3.1-1")
@pytest.mark.statement("MQTT-2.3.1-5")
@pytest.mark.statement("MQTT-3.3.1-2")
def test_qos_0_has_no_identifier_and_no_dup(subject):
    tested = subject()
    end = tested.welcome()
    tested.client.publish("a", b"\x00\x01")
    end.expect("30 05 00 01 61 00 01").send("30 05 00 01 61 00 01").quiet()
    assert tested.received[0] == Publish("a", b"\x00\x01")


@pytest.mark.statement("MQTT-4.3.2-1")
@pytest.mark.statement("MQTT-2.3.1-3")
def test_qos_1_is_completed_only_by_its_puback(subject):
    tested = subject()
    end = tested.welcome()
    first, second = tested.client.publish_nowait("a", b"1", 1), tested.client.publish_nowait("a", b"2", 1)
    end.expect("32 06 00 01 61 00 01 31", "32 06 00 01 61 00 02 32")
    end.send(PubAck(2), PubAck(9)).quiet()
    assert second.result(PATIENCE) is None
    assert not first.done()
    third = tested.client.publish_nowait("a", b"3", 1)
    assert end.receive().packet_id not in (1, 0)  # 1 is still in use
    end.send(PubAck(1))
    assert first.result(PATIENCE) is None
    assert not third.done()


@pytest.mark.statement("MQTT-4.3.3-1")
@pytest.mark.statement("MQTT-2.3.1-6")
@pytest.mark.statement("MQTT-4.6.0-4")
def test_qos_2_is_released_in_the_order_of_the_pubrecs_and_completed_by_pubcomp(subject):
    tested = subject()
    end = tested.welcome()
    futures = [tested.client.publish_nowait("a", b"%d" % n, 2) for n in range(1, 4)]
    end.expect(*[Publish("a", b"%d" % n, 2, packet_id=n) for n in range(1, 4)])
    end.send(PubRec(3), PubRec(1), PubRec(2)).expect(PubRel(3), PubRel(1), PubRel(2))
    end.send(PubRec(1)).expect(PubRel(1))  # a copy is answered, too
    assert not any(future.done() for future in futures)
    for n in (2, 3, 1):
        end.send(PubComp(n))
        assert futures[n - 1].result(PATIENCE) is None


@pytest.mark.statement("MQTT-4.4.0-1")
@pytest.mark.statement("MQTT-3.3.1-1")
@pytest.mark.statement("MQTT-2.3.1-3")
@pytest.mark.statement("MQTT-4.3.3-1")
@pytest.mark.statement("MQTT-4.6.0-1")
@pytest.mark.statement("MQTT-4.1.0-1")
@pytest.mark.statement("MQTT-3.1.2-4")
def test_unacknowledged_packets_are_sent_again_in_order_with_dup_and_identifiers(subject):
    tested = subject(clean_session=False, reconnect=AT_ONCE)
    end = tested.welcome()
    futures = [tested.client.publish_nowait("a", b"%d" % n, 1 + n % 2) for n in range(1, 7)]
    end.expect(*[Publish("a", b"%d" % n, 1 + n % 2, packet_id=n) for n in range(1, 7)])
    end.send(PubAck(4), PubRec(3)).expect(PubRel(3)).cut()
    again = tested.again()
    again.welcome(session_present=True)
    again.expect(PubRel(3), *[Publish("a", b"%d" % n, 1 + n % 2, dup=True, packet_id=n) for n in (1, 2, 5, 6)])
    assert [future.done() for future in futures] == [False, False, False, True, False, False]
    again.send(PubComp(3), PubAck(2), PubAck(6), PubRec(1), PubRec(5)).expect(PubRel(1), PubRel(5))
    again.send(PubComp(1), PubComp(5))
    assert [future.result(PATIENCE) for future in futures] == [None] * 6


@pytest.mark.statement("U-11")
def test_a_lost_session_is_restored(subject):
    tested = subject(clean_session=False, reconnect=AT_ONCE)
    end = tested.welcome()
    subscribing = tested.server.soon(tested.client.subscribe, [("a", 1), ("b/#", 2)])
    end.expect(Subscribe(1, [("a", 1), ("b/#", 2)])).send(SubAck(1, [1, 2]))
    assert subscribing.result(PATIENCE) == (1, 2)
    released = tested.client.publish_nowait("x", b"1", 2)
    end.receive()
    end.send(PubRec(2)).expect(PubRel(2))
    tested.client.publish_nowait("x", b"2", 1)
    end.receive()
    end.send(Publish("a", b"once", 2, packet_id=7)).expect(PubRec(7))
    end.cut()
    again = tested.again()
    again.welcome(session_present=False)
    # The subscriptions are sent again, and the message that the server had not accepted; the other message is not.
    assert {again.receive(), again.receive()} == {
        Subscribe(4, [("a", 1), ("b/#", 2)]),
        Publish("x", b"2", 1, dup=True, packet_id=3),
    }
    assert released.result(PATIENCE) is None
    # And identifier 7 belongs to a new message.
    again.send(SubAck(4, [1, 2]), Publish("a", b"another", 2, packet_id=7)).expect(PubRec(7))
    assert [message.payload for message in tested.received] == [b"once", b"another"]


# Receiving.


def stumble(message):
    raise ValueError("the application's own fault")


@pytest.mark.statement("MQTT-4.5.0-2")
@pytest.mark.statement("MQTT-3.3.4-1")
@pytest.mark.statement("MQTT-2.3.1-6")
@pytest.mark.statement("MQTT-4.3.2-2")
@pytest.mark.statement("MQTT-4.3.3-2")
@pytest.mark.parametrize("on_message", [None, stumble])
def test_every_message_is_answered_by_its_qos_even_without_a_subscription(subject, on_message):
    tested = subject(**({} if on_message is None else {"on_message": on_message}))
    end = tested.welcome()  # without a subscription
    end.send(Publish("a", b"0"), Publish("a", b"1", 1, packet_id=0x1234), Publish("a", b"2", 2, packet_id=0x4321))
    assert {end.receive(), end.receive()} == {PubAck(0x1234), PubRec(0x4321)}
    end.send(Publish("a", b"2", 2, dup=True, packet_id=0x4321)).expect(PubRec(0x4321))
    end.send(PubRel(0x4321)).expect(PubComp(0x4321))
    end.send(PubRel(0x4321), PubRel(9)).expect(PubComp(0x4321), PubComp(9))
    end.send(Publish("a", b"1", 1, dup=True, packet_id=0x1234)).expect(PubAck(0x1234))  # a new message
    if on_message is None:
        assert [message.payload for message in tested.received] == [b"0", b"1", b"2", b"1"]


@pytest.mark.statement("MQTT-4.3.3-2")
@pytest.mark.statement("MQTT-4.1.0-1")
def test_a_qos_2_message_is_delivered_once_over_a_reconnect(subject):
    tested = subject(clean_session=False, reconnect=AT_ONCE)
    tested.welcome().send(Publish("a", b"x", 2, packet_id=7)).expect(PubRec(7)).cut()
    again = tested.again()
    again.welcome(session_present=True)
    again.send(Publish("a", b"x", 2, dup=True, packet_id=7)).expect(PubRec(7))
    again.send(PubRel(7)).expect(PubComp(7)).quiet()
    assert [message.payload for message in tested.received][:-1] == [b"x"]


@pytest.mark.statement("MQTT-3.1.2-6")
def test_a_clean_session_has_no_earlier_state(subject):
    tested = subject(clean_session=True, reconnect=AT_ONCE)
    tested.welcome().send(Publish("a", b"old", 2, packet_id=7)).expect(PubRec(7)).cut()
    again = tested.again()
    again.welcome(session_present=False)
    again.send(Publish("a", b"new", 2, packet_id=7)).expect(PubRec(7))
    assert [message.payload for message in tested.received] == [b"old", b"new"]


@pytest.mark.statement("MQTT-4.6.0-2")
@pytest.mark.statement("MQTT-4.6.0-3")
@pytest.mark.parametrize(("qos", "answer"), [(1, PubAck), (2, PubRec)])
def test_messages_are_answered_in_the_order_of_arrival(subject, qos, answer):
    tested = subject(manual_ack=True)
    end = tested.welcome()
    end.send(*[Publish("a", b"", qos, packet_id=n) for n in (5, 3, 9, 1)])
    while len(tested.received) < 4:
        end.send("d0 00")
    first, *others = tested.received
    for message in reversed(others):
        tested.client.acknowledge(message)
    tested.client.publish("seen", b"")  # sent after everything else that may be sent
    end.expect(Publish("seen"))
    tested.client.acknowledge(first)
    end.expect(*[answer(n) for n in (5, 3, 9, 1)])


# Requests, and the end.


@pytest.mark.statement("MQTT-2.3.1-2")
@pytest.mark.statement("MQTT-2.3.1-3")
@pytest.mark.statement("MQTT-3.8.4-2")
@pytest.mark.statement("MQTT-3.10.4-4")
def test_requests_and_messages_never_share_an_identifier(subject):
    tested = subject()
    end = tested.welcome()
    futures = [
        tested.client.publish_nowait("a", b"", 1),
        tested.client.subscribe_nowait("a", 1),
        tested.client.publish_nowait("a", b"", 2),
        tested.client.unsubscribe_nowait("b"),
    ]
    packets = [end.receive() for _ in futures]
    assert len({packet.packet_id for packet in packets}) == 4
    by_kind = {type(packet): packet.packet_id for packet in packets}
    end.send(SubAck(by_kind[Subscribe], [1]), UnsubAck(by_kind[Unsubscribe]))
    assert futures[1].result(PATIENCE) == 1
    assert futures[3].result(PATIENCE) is None
    in_use = {packet.packet_id for packet in packets if isinstance(packet, Publish)}
    for _ in range(4):
        tested.client.publish_nowait("a", b"", 1)
        packet_id = end.receive().packet_id
        assert packet_id not in in_use
        in_use.add(packet_id)


@pytest.mark.statement("MQTT-2.3.1-2")
@pytest.mark.statement("MQTT-2.3.1-3")
def test_an_identifier_is_in_use_until_the_pubcomp():
    """The machine alone: once through all identifiers, while one of QoS 1, one of QoS 2 and one request are in use."""
    machine = ClientMachine(Connect("c", keep_alive=0), Session())
    machine.start(0.0)
    machine.receive_data(ConnAck().encode(), 0.0)
    machine.publish(Message("a", b"", 2))
    machine.publish(Message("a", b"", 1))
    machine.data_to_send(0.0)
    machine.subscribe([("a", 0)])
    machine.data_to_send(0.0)
    machine.receive_data(PubRec(1).encode(), 0.0)
    assert machine.data_to_send(0.0) == PubRel(1).encode()
    seen = set()
    for _ in range(65_535 - 3):
        machine.publish(Message("a", b"", 1))
        data = machine.data_to_send(0.0)
        packet_id = int.from_bytes(data[-2:], "big")
        seen.add(packet_id)
        machine.receive_data(PubAck(packet_id).encode(), 0.0)
    assert seen == set(range(4, 65_536))
    machine.publish(Message("a", b"", 1))
    assert machine.data_to_send(0.0)[-2:] == b"\0\4"
    machine.receive_data(PubComp(1).encode(), 0.0)
    for packet_id in (*range(5, 65_536), 1):
        machine.publish(Message("a", b"", 1))
        assert machine.data_to_send(0.0)[-2:] == packet_id.to_bytes(2, "big")
        machine.receive_data(PubAck(packet_id).encode(), 0.0)


@pytest.mark.statement("MQTT-3.8.4-2")
@pytest.mark.statement("MQTT-3.8.4-5")
@pytest.mark.statement("MQTT-3.10.4-4")
@pytest.mark.parametrize(
    ("answer", "statement"),
    [(SubAck(1, [1, 1]), "MQTT-3.8.4-5"), (UnsubAck(1), "MQTT-3.10.4-4")],
    ids=str,
)
def test_an_answer_to_another_request_ends_the_connection(subject, answer, statement):
    tested = subject()
    end = tested.welcome()
    tested.client.subscribe_nowait("a", 1)
    end.expect(Subscribe(1, [("a", 1)]))
    assert end.send(answer).rest() == b""
    error = tested.error()
    assert isinstance(error, RemoteProtocolError)
    assert error.statement == statement


@pytest.mark.statement("MQTT-3.14.4-1")
@pytest.mark.statement("MQTT-3.14.4-2")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_disconnect_is_the_last_packet_and_the_connection_closes(subject, scheme):
    tested = subject(scheme)
    end = tested.welcome()
    stop = threading.Event()

    def publish():
        while not stop.is_set():
            try:
                tested.client.publish_nowait("a", b"x")
            except Exception:  # its queue is full, which is not tested here
                stop.wait(0.01)

    busy = [tested.server.soon(publish) for _ in range(3)]
    assert end.receive() == Publish("a", b"x")
    closing = tested.server.soon(tested.client.close, timeout=PATIENCE)
    said = end.rest()
    stop.set()
    closing.result(PATIENCE)
    for thread in busy:
        thread.result(PATIENCE)
    assert said.endswith(Disconnect().encode())
    assert said[:-2] == Publish("a", b"x").encode() * (len(said) // 6)
    if scheme == "ws":
        assert end.closing == (1000).to_bytes(2, "big")


@pytest.mark.statement("MQTT-4.8.0-2")
@pytest.mark.skipif(compiled, reason="faults cannot be planted in compiled code")
def test_an_error_while_processing_a_packet_ends_only_that_connection(subject, monkeypatch):
    handle = ClientConnection.receive_data

    def run_out(connection, data, now):
        if b"poison" in data:
            raise MemoryError
        handle(connection, data, now)

    monkeypatch.setattr(ClientConnection, "receive_data", run_out)
    tested, other = subject(reconnect=AT_ONCE), subject()
    end, healthy = tested.welcome(), other.welcome()
    assert end.send(Publish("poison"), Publish("after")).rest() == b""
    again = tested.again()
    again.welcome()
    again.quiet()
    healthy.quiet()
    assert "after" not in [message.topic for message in tested.received]


# The WebSocket.


@pytest.mark.statement("MQTT-6.0.0-3")
def test_the_subprotocol_is_offered(subject):
    tested = subject("ws")
    tested.welcome()
    assert b"\r\nSec-WebSocket-Protocol: mqtt\r\n" in tested.end.head + b"\r\n"


@pytest.mark.statement("MQTT-6.0.0-1")
def test_mqtt_is_sent_in_binary_frames_and_a_text_frame_ends_the_connection(subject):
    tested = subject("ws")
    end = tested.welcome()
    end.frame(Publish("a").encode(), 0x81)
    assert end.rest() == b""
    assert end.closing[:2] == (1003).to_bytes(2, "big")
    error = tested.error()
    assert isinstance(error, RemoteProtocolError)
    assert error.statement == "MQTT-6.0.0-1"
    assert tested.received == []
