"""Both machines: every state x every packet, the QoS flows, requests, keep alive, and the end of a connection."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from machines import NOW, client, closing_error, feed, sends, server, take

from mqttws import (
    ConnAck,
    Connect,
    ConnectError,
    ConnectionClosed,
    ConnectionRefused,
    Disconnect,
    KeepAliveTimeout,
    LocalProtocolError,
    MalformedPacket,
    Message,
    Packet,
    PingReq,
    PingResp,
    ProtocolError,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    QueueFull,
    RemoteProtocolError,
    ServerMachine,
    Session,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    compiled,
)
from mqttws.errors import LimitExceeded
from mqttws.protocol.events import (
    Closed,
    Connected,
    Delivered,
    Sent,
    Subscribed,
    SubscribeReceived,
    Unsubscribed,
    UnsubscribeReceived,
)
from mqttws.protocol.machine import CLOSED, CONNECTED, CONNECTING, NEW, NO_EVENTS, PIECE, Machine
from mqttws.protocol.outgoing import RUN
from mqttws.protocol.server import MAX_AHEAD
from mqttws.protocol.session import MAX_REQUESTED

PACKETS: list[Packet] = [
    Connect("other"),
    ConnAck(0),
    Publish("a"),
    Publish("a", qos=1, packet_id=1),
    Publish("a", qos=2, packet_id=1),
    PubAck(1),
    PubRec(1),
    PubRel(1),
    PubComp(1),
    Subscribe(1, [("a", 0)]),
    SubAck(1, [0]),
    Unsubscribe(1, ["a"]),
    UnsubAck(1),
    PingReq(),
    PingResp(),
    Disconnect(),
]
IDS = [f"{type(packet).__name__}{getattr(packet, 'qos', '')}" for packet in PACKETS]


class TestEveryStateWithEveryPacket:
    """§3 and §4.8: a packet that is not in the tables of `client` and `server` ends the connection."""

    @pytest.mark.parametrize("packet", PACKETS, ids=IDS)
    @pytest.mark.parametrize("state", [NEW, CONNECTING, CONNECTED, CLOSED])
    @pytest.mark.statement("MQTT-4.8.0-1")
    def test_client(self, state: str, packet: Packet) -> None:
        machine = client(state=state)
        if state is CONNECTED:
            machine.subscribe([("a", 0)])
            machine.data_to_send(NOW)
            if isinstance(packet, UnsubAck):
                machine = client(state=state)
                machine.unsubscribe(["a"])
                machine.data_to_send(NOW)
        events = feed(machine, packet)
        if state is CLOSED:
            assert events == []
            return
        allowed: dict[str, tuple[type[Packet], ...]] = {
            NEW: (),
            CONNECTING: (ConnAck,),
            CONNECTED: (Publish, PubAck, PubRec, PubRel, PubComp, SubAck, UnsubAck, PingResp),
        }
        if isinstance(packet, allowed[state]):
            assert machine.state is CONNECTED
            assert not any(isinstance(event, Closed) for event in events)
            return
        error = closing_error(events)
        assert len(events) == 1
        assert type(error) is RemoteProtocolError
        expected = {NEW: "MQTT-3.1.0-1", CONNECTING: "MQTT-3.2.0-1"}.get(
            state, "§3.2" if isinstance(packet, ConnAck) else "§2.2.1"
        )
        assert error.statement == expected
        assert type(packet).__name__ in str(error)
        assert machine.state is CLOSED
        assert machine.error is error
        assert sends(machine) == ""

    @pytest.mark.parametrize("packet", PACKETS, ids=IDS)
    @pytest.mark.parametrize("state", [NEW, CONNECTING, CONNECTED, CLOSED])
    @pytest.mark.statement("MQTT-3.1.0-1")
    @pytest.mark.statement("MQTT-3.1.0-2")
    def test_server(self, state: str, packet: Packet) -> None:
        machine = server(state=state)
        events = feed(machine, packet)
        if state is CLOSED:
            assert events == []
            return
        if state is CONNECTING:  # held, and checked once the CONNECT is answered
            assert events == []
            machine.accept(Session(), False, NOW)
            events = take(machine)
            assert machine.data_to_send(NOW).startswith(ConnAck().encode())
        allowed: tuple[type[Packet], ...] = (
            (Connect,)
            if state is NEW
            else (Publish, PubAck, PubRec, PubRel, PubComp, Subscribe, Unsubscribe, PingReq, Disconnect)
        )
        if isinstance(packet, Disconnect) and state is not NEW:
            assert events == [Closed(None)]
            return
        if isinstance(packet, allowed):
            assert machine.state in (CONNECTING, CONNECTED)
            return
        error = closing_error(events)
        assert len(events) == 1
        assert type(error) is RemoteProtocolError
        assert error.statement == (
            "MQTT-3.1.0-1" if state is NEW else "MQTT-3.1.0-2" if isinstance(packet, Connect) else "§2.2.1"
        )

    @pytest.mark.parametrize("role", [client, server])
    @pytest.mark.parametrize("bad", ["00 00", "36 05 0001 61 0001", "30 ff ff ff ff", "62 02 0000"])
    @pytest.mark.parametrize("state", [CONNECTING, CONNECTED])
    def test_valid_packets_before_malformed_bytes_are_reported_first(self, role, bad: str, state: str) -> None:  # type: ignore[no-untyped-def]
        machine = role(state=state)
        good = ConnAck().encode() if role is client and state is CONNECTING else Publish("a").encode()
        machine.receive_data(good + bytes.fromhex(bad), NOW)
        if role is server and state is CONNECTING:  # packets before the answer are checked after it
            assert take(machine) == []
            machine.accept(Session(), False, NOW)
        events = take(machine)
        assert isinstance(closing_error(events), MalformedPacket)
        assert len(events) == 2
        machine.receive_data(b"more", NOW)
        machine.receive_eof(NOW)
        machine.close(ConnectionClosed())
        assert take(machine) == []

    @pytest.mark.parametrize("verb", ["publish", "subscribe", "unsubscribe", "start"])
    @pytest.mark.parametrize("state", [NEW, CONNECTING, CONNECTED, CLOSED])
    def test_methods_of_a_client_in_the_wrong_state_raise_and_change_nothing(self, verb: str, state: str) -> None:
        machine = client(state=state)
        argument = {"publish": Message("a"), "subscribe": [("a", 0)], "unsubscribe": ["a"], "start": NOW}[verb]
        if state is (NEW if verb == "start" else CONNECTED):
            getattr(machine, verb)(argument)
            return
        with pytest.raises(LocalProtocolError, match=f"cannot {verb} while {state}"):
            getattr(machine, verb)(argument)
        assert machine.state is state
        assert take(machine) == []
        assert machine.data_to_send(NOW) == b""

    @pytest.mark.parametrize("state", [NEW, CONNECTING, CONNECTED, CLOSED])
    def test_methods_of_a_server_in_the_wrong_state_raise_and_change_nothing(self, state: str) -> None:
        for verb, arguments, right in (
            ("accept", (Session(), False, NOW), CONNECTING),
            ("refuse", (5,), CONNECTING),
            ("publish", (Message("a"),), CONNECTED),
        ):
            machine = server(state=state)
            if state is right:
                getattr(machine, verb)(*arguments)
                continue
            with pytest.raises(LocalProtocolError):
                getattr(machine, verb)(*arguments)
            assert machine.state is state
            assert machine.data_to_send(NOW) == b""


class TestClientConnecting:
    @pytest.mark.statement("MQTT-3.1.0-1")
    def test_connect_is_sent_first_and_alone(self) -> None:
        session = Session()
        session.publish(Message("a", b"x", 1))
        session.subscribe([("a", 1)])
        machine = client(session=session, state=CONNECTING)
        assert sends(machine) == ""
        assert feed(machine, ConnAck()) == [Connected(False)]
        assert sends(machine) == "32 06 00 01 61 00 01 78 82 06 00 02 00 01 61 01"  # in the order of the calls

    @pytest.mark.parametrize("code", range(1, 6))
    def test_a_refused_connect_ends_the_connection(self, code: int) -> None:
        machine = client(state=CONNECTING)
        error = closing_error(feed(machine, ConnAck(code)))
        assert isinstance(error, ConnectionRefused)
        assert error.return_code == code
        assert f"return code {code}" in str(error)

    @pytest.mark.statement("MQTT-3.2.2-1")
    def test_a_queue_of_events_is_given_up_only_if_it_is_empty(self) -> None:
        machine = client()
        machine.receive_data(bytes.fromhex("30 04 0001 61 78"), NOW)
        machine.trim()
        assert machine.events.popleft() == Publish("a", b"x")
        machine.trim()
        assert machine.events is NO_EVENTS
        machine.receive_data(bytes.fromhex("30 04 0001 61 79"), NOW)
        assert machine.events.popleft() == Publish("a", b"y")
        assert not NO_EVENTS

    def test_session_present_after_a_clean_session_is_a_violation(self) -> None:
        machine = client(Connect("c"), state=CONNECTING)
        error = closing_error(feed(machine, ConnAck(0, True)))
        assert isinstance(error, RemoteProtocolError)
        assert error.statement == "MQTT-3.2.2-1"

    def test_the_stream_ends_before_the_answer(self) -> None:
        machine = client(state=CONNECTING)
        machine.receive_eof(NOW)
        assert isinstance(closing_error(take(machine)), ConnectError)

    def test_the_stream_ends_later(self) -> None:
        for machine in (client(), server()):
            machine.receive_eof(NOW)
            assert type(closing_error(take(machine))) is ConnectionClosed

    def test_disconnecting_before_the_answer_sends_nothing(self) -> None:
        machine = client(state=CONNECTING)
        machine.disconnect()
        assert take(machine) == [Closed(None)]
        assert sends(machine) == ""

    def test_an_oversize_packet(self) -> None:
        machine = client(max_packet_size=10)
        machine.receive_data(b"\x30\x09\x00\x01a", NOW)  # without waiting for the rest
        assert isinstance(closing_error(take(machine)), RemoteProtocolError)
        machine = client(max_packet_size=10)
        machine.receive_data(b"\x20\x09", NOW)
        assert isinstance(closing_error(take(machine)), MalformedPacket)


class TestServerConnecting:
    @pytest.mark.statement("MQTT-3.1.4-4")
    @pytest.mark.statement("MQTT-3.2.0-1")
    @pytest.mark.statement("MQTT-3.2.2-2")
    def test_connack_is_sent_first(self) -> None:
        session = Session()
        session.publish(Message("a", b"x", 1))
        machine = server(session=session, state=CONNECTING)
        feed(machine, Subscribe(7, [("a", 0)]), PingReq())
        machine.accept(session, True, NOW)
        assert take(machine) == [SubscribeReceived(Subscribe(7, [("a", 0)]))]
        machine.suback(7, [0])
        assert sends(machine) == "20 02 01 00 d0 00 90 03 00 07 00 32 06 00 01 61 00 01 78"

    @pytest.mark.parametrize(
        ("connect", "answer"),
        [
            ("10 0c 0004 4d515454 05 02 003c 0000", "20 03 00 84 00"),
            ("10 0c 0004 4d515454 06 02 003c 0000", "20 02 00 01"),
            ("10 0c 0004 4d515454 04 00 003c 0000", "20 02 00 02"),
            ("10 0c 0004 4d515454 04 03 003c 0000", ""),
            ("10 0c 0004 6d717474 04 02 003c 0000", ""),
            ("10 0d 0004 4d515454 04 02 003c 0001 ff", ""),
        ],
    )
    @pytest.mark.statement("MQTT-3.1.2-2")
    @pytest.mark.statement("MQTT-3.1.3-8")
    @pytest.mark.statement("MQTT-3.1.4-1")
    def test_a_malformed_connect(self, connect: str, answer: str) -> None:
        machine = server(state=NEW)
        machine.receive_data(bytes.fromhex(connect), NOW)
        assert isinstance(closing_error(take(machine)), MalformedPacket)
        assert sends(machine) == answer

    @pytest.mark.statement("MQTT-3.1.4-5")
    @pytest.mark.statement("MQTT-3.2.2-4")
    @pytest.mark.parametrize("code", range(1, 6))
    def test_refusing_drops_later_packets(self, code: int) -> None:
        machine = server(state=CONNECTING)
        feed(machine, Publish("a"))
        machine.refuse(code)
        error = closing_error(take(machine))
        assert isinstance(error, ConnectionRefused)
        assert error.return_code == code
        assert sends(machine) == f"20 02 00 0{code}"

    @pytest.mark.parametrize("code", [-1, 0, 6])
    def test_there_are_five_return_codes_of_a_refusal(self, code: int) -> None:
        machine = server(state=CONNECTING)
        with pytest.raises(LocalProtocolError, match="return code"):
            machine.refuse(code)
        assert machine.state is CONNECTING
        assert sends(machine) == ""

    @pytest.mark.statement("MQTT-3.2.2-1")
    def test_a_clean_session_is_never_present(self) -> None:
        machine = server(Connect("c"), state=CONNECTING)
        with pytest.raises(LocalProtocolError, match="must not be set for a clean session"):
            machine.accept(Session(), True, NOW)
        machine.accept(Session(), False, NOW)

    def test_held_packets_end_with_a_disconnect(self) -> None:
        machine = server(state=CONNECTING)
        feed(machine, Publish("a"), Disconnect(), Publish("b"))
        machine.accept(Session(), False, NOW)
        assert take(machine) == [Publish("a"), Closed(None)]

    def test_held_packets_are_bounded(self) -> None:
        machine = server(state=CONNECTING)
        packet = Publish("a", bytes(MAX_AHEAD // 4))
        assert feed(machine, packet, packet, packet) == []
        assert isinstance(closing_error(feed(machine, packet)), LimitExceeded)
        with pytest.raises(LocalProtocolError):
            machine.accept(Session(), False, NOW)

    @pytest.mark.parametrize("first", ["f0 00", "00", "80 06 0001 0001 61 00", "60 02 0001"])
    def test_garbage_after_the_connect_is_not_held_until_the_answer(self, first: str) -> None:
        """A reserved type, or flags that the type does not allow, are visible in the first byte."""
        machine = server(state=CONNECTING)
        machine.receive_data(bytes.fromhex(first), NOW)
        assert isinstance(closing_error(take(machine)), MalformedPacket)
        assert sends(machine) == ""
        with pytest.raises(LocalProtocolError):
            machine.accept(Session(), False, NOW)

    def test_flags_that_mqtt_3_1_allows_are_held_for_its_clients(self) -> None:
        """In MQTT 3.1 the lower bits of a SUBSCRIBE other than the QoS are unused: 8a has DUP, 82 has not."""
        machine = server(Connect("c", protocol_level=3), state=CONNECTING)
        machine.receive_data(bytes.fromhex("8a 06 0001 0001 61 00"), NOW)
        machine.accept(Session(), False, NOW)
        assert take(machine) == [SubscribeReceived(Subscribe(1, [("a", 0)]))]

    def test_mqtt_3_1_has_no_empty_client_identifiers(self) -> None:
        """3.1.1 has. Here the name is "MQIsdp", the level 3, and the Client Identifier 00 00: CONNACK 2."""
        machine = server(state=NEW)
        machine.receive_data(bytes.fromhex("10 0e 0006 4d5149736470 03 02 003c 0000"), NOW)
        assert sends(machine) == "20 02 00 02"
        error = closing_error(take(machine))
        assert isinstance(error, RemoteProtocolError)
        assert error.statement == "MQTT-3.1.3-8"

    def test_there_is_no_session_before_the_answer(self) -> None:
        machine = server(state=CONNECTING)
        with pytest.raises(LocalProtocolError, match="no session"):
            _ = machine.session
        machine.acknowledge(Publish("a", qos=1, packet_id=1))  # no effect before a session exists
        machine.suback(1, [0])
        machine.unsuback(1)
        machine.send_encoded(Publish("a").encode(), in_turn=True)
        assert sends(machine) == ""

    def test_a_server_sends_encoded_packets_in_order(self) -> None:
        machine = server()
        machine.publish(Message("first"))
        machine.send_encoded(Publish("a").encode(), in_turn=False)
        machine.send_encoded(Publish("b").encode(), in_turn=True)
        machine.send_encoded(Publish("c").encode(), in_turn=True)
        wire = machine.data_to_send(NOW)
        assert [packet.topic for packet in decoded(wire)] == ["a", "first", "b", "c"]  # type: ignore[attr-defined]


def decoded(data: bytes) -> list[Packet]:
    from mqttws import Decoder

    return Decoder().feed(data)


@pytest.mark.parametrize("role", [client, server])
class TestFlows:
    """§4.3 and §4.6 in literals, the same for both roles."""

    def test_qos_0(self, role) -> None:  # type: ignore[no-untyped-def]
        machine = role()
        token = machine.publish(Message("a", b"x", retain=True))
        assert take(machine) == []
        assert sends(machine) == "31 04 00 01 61 78"
        assert take(machine) == [Sent(token)]
        assert feed(machine, Publish("b", b"y")) == [Publish("b", b"y")]
        machine.acknowledge(Publish("b", b"y"))
        assert sends(machine) == ""

    @pytest.mark.statement("MQTT-4.3.2-1")
    @pytest.mark.statement("MQTT-3.3.4-1")
    def test_qos_1(self, role) -> None:  # type: ignore[no-untyped-def]
        machine = role()
        token = machine.publish(Message("a", b"x", 1))
        assert sends(machine) == "32 06 00 01 61 00 01 78"
        assert take(machine) == []
        assert feed(machine, PubAck(1)) == [Delivered([token])]
        assert feed(machine, PubAck(1)) == []
        (publish,) = feed(machine, Publish("b", b"y", 1, packet_id=0x1234))
        assert sends(machine) == ""  # until its consumer has taken it
        machine.acknowledge(publish)
        assert sends(machine) == "40 02 12 34"

    @pytest.mark.statement("MQTT-4.3.3-1")
    @pytest.mark.statement("MQTT-4.3.3-2")
    @pytest.mark.statement("MQTT-3.3.4-1")
    def test_qos_2(self, role) -> None:  # type: ignore[no-untyped-def]
        machine = role()
        token = machine.publish(Message("a", b"x", 2))
        assert sends(machine) == "34 06 00 01 61 00 01 78"
        assert feed(machine, PubRec(1)) == []
        assert sends(machine) == "62 02 00 01"
        assert feed(machine, PubRec(1)) == []
        assert sends(machine) == "62 02 00 01"
        assert feed(machine, PubComp(1)) == [Delivered([token])]
        assert feed(machine, PubComp(1)) == []
        publish = Publish("b", b"y", 2, packet_id=0x1234)
        (delivered,) = feed(machine, publish, publish)
        machine.acknowledge(delivered)
        assert sends(machine) == "50 02 12 34 50 02 12 34"
        assert feed(machine, PubRel(0x1234), PubRel(0x1234)) == []
        assert sends(machine) == "70 02 12 34 70 02 12 34"
        assert len(feed(machine, publish)) == 1

    @pytest.mark.parametrize(
        ("message", "answer", "statement"),
        [
            (Message("a", b"", 1), PubRec(1), "MQTT-4.3.2-1"),
            (Message("a", b"", 1), PubComp(1), "MQTT-4.3.3-1"),
            (Message("a", b"", 2), PubAck(1), "MQTT-4.3.3-1"),
            (Message("a", b"", 2), PubComp(1), "MQTT-4.3.3-1"),
        ],
    )
    def test_an_answer_of_the_wrong_type_is_a_violation(
        self, role, message: Message, answer: Packet, statement: str
    ) -> None:  # type: ignore[no-untyped-def]
        machine = role()
        machine.publish(message)
        machine.data_to_send(NOW)
        error = closing_error(feed(machine, answer))
        assert isinstance(error, ProtocolError)
        assert error.statement == statement

    def test_discarding(self, role) -> None:  # type: ignore[no-untyped-def]
        machine = role()
        published = [Publish("b", b"", 1, packet_id=7), Publish("b", b"", 1, packet_id=8), Publish("b")]
        first, second, zero = feed(machine, *published)
        machine.discard(zero)
        machine.acknowledge(second)
        machine.discard(first)
        assert sends(machine) == "40 02 00 08"
        ServerMachine().discard(Publish("b", b"", 1, packet_id=7))  # no effect before a session exists

    @pytest.mark.statement("MQTT-4.4.0-1")
    def test_resumption(self, role) -> None:  # type: ignore[no-untyped-def]
        session = Session(max_in_flight=3)
        machine = role(session=session)
        for payload, qos in ((b"1", 2), (b"2", 1), (b"3", 2), (b"4", 1)):
            machine.publish(Message("a", payload, qos))
        machine.data_to_send(NOW)
        feed(machine, PubRec(3), PubRec(1))
        machine.receive_eof(NOW)
        again = self.reconnect(role, session, present=True)
        assert again[0].state is CONNECTED
        assert again[1].hex(" ") == "62 02 00 03 62 02 00 01 3a 06 00 01 61 00 02 32"
        assert feed(again[0], PubAck(2), PubComp(3), PubComp(1)) == [Delivered([2, 3, 1])]
        assert sends(again[0]) == "32 06 00 01 61 00 04 34"

    def reconnect(self, role, session: Session, present: bool) -> tuple[Machine, bytes, list[object]]:  # type: ignore[no-untyped-def]
        """Start the next connection. Return its machine, the packets after CONNECT or CONNACK, and its events."""
        machine = role(session=session, state=CONNECTING)
        if role is client:
            events = feed(machine, ConnAck(0, present))
            return machine, machine.data_to_send(NOW), events
        machine.accept(session, present, NOW)
        return machine, machine.data_to_send(NOW)[4:], take(machine)

    def test_a_lost_session(self, role) -> None:  # type: ignore[no-untyped-def]
        session = Session()
        machine = role(session=session)
        machine.publish(Message("a", b"1", 2))
        machine.publish(Message("a", b"2", 2))
        machine.data_to_send(NOW)
        feed(machine, PubRec(1))
        machine.receive_eof(NOW)
        _, wire, events = self.reconnect(role, session, present=False)
        assert wire.hex(" ") == "3c 06 00 01 61 00 02 32"
        assert Delivered([1]) in events  # counts as delivered, because the peer had accepted it

    def test_messages_taken_after_the_end_are_answered_on_the_next_connection(self, role) -> None:  # type: ignore[no-untyped-def]
        session = Session()
        old = role(session=session)
        (publish,) = feed(old, Publish("a", b"", 2, packet_id=9))
        old.close(ConnectionClosed())
        new, _, _ = self.reconnect(role, session, present=True)
        assert feed(new, Publish("a", b"", 2, dup=True, packet_id=9)) == []
        old.acknowledge(publish)  # by a caller that only has the old connection
        assert sends(old) == ""
        assert sends(new) == "50 02 00 09"

    def test_many_waiting_messages_are_sent_in_pieces_and_in_order(self, role) -> None:  # type: ignore[no-untyped-def]
        machine = role()
        count = 40
        for number in range(count):
            machine.publish(Message(f"t/{number}", bytes(20_000)))
        pieces = []
        while data := machine.data_to_send(NOW):
            pieces.append(data)
        assert len(pieces) > 1
        assert all(len(piece) < PIECE + RUN for piece in pieces)
        topics = [packet.topic for packet in decoded(b"".join(pieces))]  # type: ignore[attr-defined]
        assert topics == [f"t/{number}" for number in range(count)]


class TestClientRequests:
    @pytest.mark.statement("MQTT-3.8.4-2")
    def test_subscribe_and_unsubscribe(self) -> None:
        machine = client()
        first = machine.subscribe([("a/#", 1), ("b", 2)])
        second = machine.unsubscribe(["a/#"])
        assert sends(machine) == "82 0c 00 01 00 03 61 2f 23 01 00 01 62 02 a2 07 00 02 00 03 61 2f 23"
        assert feed(machine, SubAck(1, [1, 0x80])) == [Subscribed(first, (("a/#", 1), ("b", 0x80)))]
        assert machine.session.subscriptions == {"a/#": 1}
        assert feed(machine, UnsubAck(2)) == [Unsubscribed(second, (("a/#", 0),))]
        assert machine.session.subscriptions == {}

    @pytest.mark.parametrize(
        ("answer", "statement"),
        [
            (SubAck(2, [0]), "MQTT-3.8.4-2"),
            (SubAck(1, [0, 0]), "MQTT-3.8.4-5"),
            (UnsubAck(1), "MQTT-3.10.4-4"),
            (UnsubAck(2), "MQTT-3.10.4-4"),
        ],
    )
    def test_answers_to_another_request_are_a_violation(self, answer: Packet, statement: str) -> None:
        machine = client()
        machine.subscribe([("a", 0)])
        machine.publish(Message("a", b"", 1))
        machine.data_to_send(NOW)
        error = closing_error(feed(machine, answer))
        assert isinstance(error, RemoteProtocolError)
        assert error.statement == statement

    @pytest.mark.parametrize("answer", [SubAck(7, [0]), UnsubAck(7), PubAck(7)])
    def test_unexpected_answers_are_ignored(self, answer: Packet) -> None:
        machine = client()
        token = machine.subscribe([("a", 0)])
        machine.data_to_send(NOW)
        assert feed(machine, answer) == []
        assert feed(machine, SubAck(1, [0]), SubAck(1, [0])) == [Subscribed(token, (("a", 0),))]

    def test_a_subscribe_waits_for_the_messages_before_it(self) -> None:
        """One message may be in flight: the second delays the SUBSCRIBE, which delays the third."""
        machine = client(session=Session(max_in_flight=1))
        machine.publish(Message("a", b"1", 1))
        machine.publish(Message("a", b"2", 1))
        machine.subscribe([("b", 0)])
        machine.publish(Message("a", b"3"))
        assert sends(machine) == "32 06 00 01 61 00 01 31"
        feed(machine, PubAck(1))
        assert sends(machine) == "32 06 00 01 61 00 02 32 82 06 00 03 00 01 62 00 30 04 00 01 61 33"

    def test_a_subscribe_and_later_messages_wait_for_an_identifier(self) -> None:
        """All 65,535 identifiers are in flight; 00 07 is released."""
        session = Session(max_in_flight=65_535, max_queued=65_535)
        for _ in range(65_535):
            session.publish(Message("a", b"", 1))
        machine = client(session=session)
        while machine.data_to_send(NOW):
            pass
        machine.subscribe([("b", 0)])
        machine.publish(Message("a", b"3"))
        assert sends(machine) == ""
        feed(machine, PubAck(7))
        assert sends(machine) == "82 06 00 07 00 01 62 00 30 04 00 01 61 33"

    def test_invalid_requests_change_nothing(self) -> None:
        machine = client()
        for verb, argument in (
            ("subscribe", [("a#", 0)]),
            ("subscribe", []),
            ("unsubscribe", []),
            ("unsubscribe", [""]),
        ):
            with pytest.raises(LocalProtocolError):
                getattr(machine, verb)(argument)
        assert sends(machine) == ""

    def test_a_lost_session_is_restored_without_a_token(self) -> None:
        session = Session()
        session.subscriptions.update({"a": 1, "b": 2, "c": 0})
        machine = client(session=session, max_filters=2)
        assert sends(machine) == "82 0a 00 01 00 01 61 01 00 01 62 02 82 06 00 02 00 01 63 00"
        assert feed(machine, SubAck(1, [1, 0x80])) == [Subscribed(None, (("a", 1), ("b", 0x80)))]
        assert session.subscriptions == {"a": 1, "c": 0}

    def test_a_kept_session_is_not_restored(self) -> None:
        session = Session()
        session.subscriptions["a"] = 1
        assert sends(client(session=session, present=True)) == ""


class TestServerRequests:
    @pytest.mark.statement("MQTT-2.3.1-7")
    @pytest.mark.statement("MQTT-3.10.4-4")
    def test_requests_are_reported_and_answered(self) -> None:
        machine = server()
        subscribe, unsubscribe = Subscribe(0x1234, [("a", 1), ("b", 0)]), Unsubscribe(0x4321, ["a"])
        assert feed(machine, subscribe, unsubscribe) == [SubscribeReceived(subscribe), UnsubscribeReceived(unsubscribe)]
        machine.suback(0x1234, [1, 0x80])
        machine.unsuback(0x4321)
        assert sends(machine) == "90 04 12 34 01 80 b0 02 43 21"

    @pytest.mark.statement("MQTT-3.12.4-1")
    def test_each_ping_is_answered(self) -> None:
        machine = server()
        assert feed(machine, PingReq(), PingReq(), PingReq()) == []
        assert sends(machine) == "d0 00 d0 00 d0 00"


class TestClientKeepAlive:
    """Keep alive of 60 s: a ping after 45 s; after 15.5 s more without a byte the connection is closed."""

    def test_silence_causes_a_ping_and_then_a_timeout(self) -> None:
        machine = client()
        assert machine.next_deadline() == NOW + 45
        machine.handle_timeout(NOW + 44.9)
        assert sends(machine) == ""
        machine.handle_timeout(NOW + 45)
        assert sends(machine, NOW + 45) == "c0 00"
        assert machine.next_deadline() == NOW + 45 + 15.5
        machine.handle_timeout(NOW + 60.4)
        assert machine.state is CONNECTED
        machine.handle_timeout(NOW + 60.5)
        error = closing_error(take(machine))
        assert isinstance(error, KeepAliveTimeout)
        assert "silent for 60.5 s" in str(error)
        assert machine.next_deadline() is None
        machine.handle_timeout(NOW + 1_000)
        assert take(machine) == []

    @pytest.mark.statement("MQTT-3.1.2-23")
    def test_the_answer_restarts_the_keep_alive(self) -> None:
        machine = client()
        gaps, last = [], NOW
        for _ in range(100):
            now = machine.next_deadline()
            assert now is not None
            machine.handle_timeout(now)
            assert sends(machine, now) == "c0 00"
            gaps.append(now - last)
            last = now
            assert feed(machine, PingResp(), now=now + 1) == []
        assert max(gaps) <= 60

    @pytest.mark.statement("MQTT-3.1.2-23")
    def test_pings_are_sent_while_messages_are_received(self) -> None:
        machine = client()
        feed(machine, Publish("a"), now=NOW + 40)
        assert machine.next_deadline() == NOW + 45
        machine.handle_timeout(NOW + 45)
        assert sends(machine, NOW + 45) == "c0 00"

    def test_a_half_open_connection_is_detected_while_messages_are_sent(self) -> None:
        machine = client()
        now = NOW
        while machine.state is CONNECTED:
            now += 1
            machine.publish(Message("a"))
            machine.data_to_send(now)
            machine.handle_timeout(now)
        assert isinstance(closing_error(take(machine)), KeepAliveTimeout)
        assert NOW + 60 < now < NOW + 63

    def test_any_received_byte_counts(self) -> None:
        machine = client()
        machine.handle_timeout(NOW + 45)
        machine.data_to_send(NOW + 45)
        machine.receive_data(b"\x30", NOW + 60)
        machine.handle_timeout(NOW + 61)
        assert machine.state is CONNECTED
        assert machine.next_deadline() == NOW + 75.5
        machine.handle_timeout(NOW + 75.5)
        assert machine.state is CLOSED

    def test_a_second_ping_does_not_extend_the_timeout(self) -> None:
        machine = client(ping_timeout=100)
        machine.handle_timeout(NOW + 45)
        machine.data_to_send(NOW + 45)
        machine.handle_timeout(NOW + 90)
        assert sends(machine, NOW + 90) == "c0 00"
        assert machine.next_deadline() == NOW + 135
        machine.handle_timeout(NOW + 145)
        assert machine.state is CLOSED

    def test_while_reading_is_paused_silence_proves_nothing(self) -> None:
        machine = client()
        machine.handle_timeout(NOW + 45)
        machine.data_to_send(NOW + 45)
        machine.pause_reading()
        assert machine.next_deadline() == NOW + 90
        machine.handle_timeout(NOW + 90)  # pings are still sent
        assert sends(machine, NOW + 90) == "c0 00"
        assert machine.state is CONNECTED
        machine.resume_reading(NOW + 100)
        assert machine.next_deadline() == NOW + 115.5
        machine.handle_timeout(NOW + 115.5)
        assert machine.state is CLOSED

    def test_0_disables_it(self) -> None:
        machine = client(Connect("c", keep_alive=0))
        assert machine.next_deadline() is None
        machine.handle_timeout(NOW + 1e9)
        assert machine.state is CONNECTED
        assert sends(machine) == ""

    def test_nothing_is_due_before_the_connack(self) -> None:
        assert client(state=CONNECTING).next_deadline() is None

    def test_the_ping_timeout_is_bounded_for_a_long_keep_alive(self) -> None:
        machine = client(Connect("c", keep_alive=65_535))
        machine.handle_timeout(NOW + 65_535 * 0.75)
        machine.data_to_send(NOW + 65_535 * 0.75)
        assert machine.next_deadline() == NOW + 65_535 * 0.75 + 20


class TestServerKeepAlive:
    @pytest.mark.statement("MQTT-3.1.2-24")
    @pytest.mark.parametrize("keep_alive", [1, 2, 60, 65_535])
    def test_the_timeout_is_one_and_a_half_keep_alives(self, keep_alive: int) -> None:
        machine = server(Connect("c", keep_alive=keep_alive))
        assert machine.next_deadline() == NOW + keep_alive * 1.5
        feed(machine, PingReq(), now=NOW + 1)
        assert machine.next_deadline() == NOW + 1 + keep_alive * 1.5
        machine.handle_timeout(NOW + keep_alive * 1.5)
        assert machine.state is CONNECTED
        machine.handle_timeout(NOW + 1 + keep_alive * 1.5)
        assert isinstance(closing_error(take(machine)), KeepAliveTimeout)
        assert machine.next_deadline() is None

    def test_0_disables_it(self) -> None:
        machine = server(Connect("c", keep_alive=0))
        assert machine.next_deadline() is None
        machine.handle_timeout(1e9)
        assert machine.state is CONNECTED

    @pytest.mark.parametrize(("override", "deadline"), [(10, NOW + 15), (0, None)])
    def test_a_server_may_enforce_another(self, override: int, deadline: float | None) -> None:
        machine = server(state=CONNECTING)
        machine.accept(Session(), False, NOW, keep_alive=override)
        assert machine.next_deadline() == deadline

    def test_while_reading_is_paused_silence_proves_nothing(self) -> None:
        machine = server()
        machine.pause_reading()
        assert machine.next_deadline() is None
        machine.resume_reading(NOW + 500)
        assert machine.next_deadline() == NOW + 590

    def test_it_starts_when_the_connect_is_accepted(self) -> None:
        machine = server(state=CONNECTING)
        assert machine.next_deadline() is None
        machine.accept(Session(), False, NOW + 500)
        assert machine.next_deadline() == NOW + 590


class TestPacketTimeout:
    """A server may bound the time from the first byte of a packet to its last."""

    def dripping(self) -> ServerMachine:
        machine = ServerMachine(packet_timeout=20)
        feed(machine, Connect("c", keep_alive=0))
        machine.accept(Session(), False, NOW)
        return machine

    def test_an_incomplete_packet_times_out(self) -> None:
        machine = self.dripping()
        assert machine.next_deadline() is None
        for second, byte in enumerate(Publish("a", bytes(100)).encode()[:20]):
            machine.receive_data(bytes((byte,)), NOW + second)
        assert machine.next_deadline() == NOW + 20
        machine.handle_timeout(NOW + 19.9)
        assert machine.state is CONNECTED
        machine.handle_timeout(NOW + 20)
        error = closing_error(take(machine))
        assert isinstance(error, LimitExceeded)
        assert "not complete 20 s after its first byte" in str(error)

    def test_it_restarts_with_each_packet(self) -> None:
        machine = self.dripping()
        data = PingReq().encode()
        for second in range(100):
            machine.receive_data(data[1:] + data[:1] if second else data[:1], NOW + second)
            assert machine.next_deadline() == NOW + second + 20
        machine.receive_data(data[1:], NOW + 100)
        assert machine.next_deadline() is None

    def test_while_reading_is_paused_it_does_not_run(self) -> None:
        machine = self.dripping()
        machine.receive_data(b"\x30", NOW)
        machine.pause_reading()
        assert machine.next_deadline() is None
        machine.handle_timeout(NOW + 100)
        assert machine.state is CONNECTED
        machine.resume_reading(NOW + 100)
        assert machine.next_deadline() == NOW + 120

    def test_the_earlier_of_it_and_the_keep_alive(self) -> None:
        machine = ServerMachine(packet_timeout=20)
        feed(machine, Connect("c", keep_alive=10))
        machine.accept(Session(), False, NOW)
        machine.receive_data(b"\x30", NOW)
        assert machine.next_deadline() == NOW + 15
        machine.receive_data(b"\x7f", NOW + 10)
        assert machine.next_deadline() == NOW + 20

    def test_without_it_a_packet_may_take_any_time(self) -> None:
        machine = server(Connect("c", keep_alive=0))
        machine.receive_data(b"\x30", NOW)
        assert machine.next_deadline() is None
        machine.handle_timeout(NOW + 1e9)
        assert machine.state is CONNECTED


class TestEnds:
    @pytest.mark.statement("MQTT-3.14.4-2")
    def test_disconnect_is_the_last_packet(self) -> None:
        machine = client()
        machine.publish(Message("a", b"x"))
        machine.subscribe([("a", 0)])
        (publish, late) = feed(machine, Publish("b", qos=1, packet_id=5), Publish("b", qos=1, packet_id=6))
        machine.acknowledge(publish)  # type: ignore[arg-type]
        machine.disconnect()
        machine.acknowledge(late)  # type: ignore[arg-type]
        machine.disconnect()
        assert take(machine)[-1] == Closed(None)
        assert sends(machine) == "30 04 00 01 61 78 82 06 00 01 00 01 61 00 40 02 00 05 e0 00"
        assert sends(machine) == ""

    def test_without_a_disconnect_the_server_publishes_the_will(self) -> None:
        """Packets that may be sent are still sent."""
        machine = client()
        machine.publish(Message("a", b"x"))
        machine.disconnect(goodbye=False)
        assert sends(machine) == "30 04 00 01 61 78"
        assert take(machine) == [Sent(1), Closed(None)]

    def test_disconnect_sends_everything_that_may_be_sent(self) -> None:
        machine = client()
        for _ in range(30):
            machine.publish(Message("a", bytes(20_000)))
        machine.disconnect()
        packets = decoded(machine.data_to_send(NOW))
        assert len(packets) == 31
        assert packets[-1] == Disconnect()

    @pytest.mark.parametrize("answers", [True, False])
    def test_a_disconnect_without_the_queue_sends_only_acknowledgements(self, answers: bool) -> None:
        """What is queued stays in the session, for the next connection."""
        session = Session()
        machine = client(session=session)
        if answers:
            (publish,) = feed(machine, Publish("b", qos=1, packet_id=5))
            machine.acknowledge(publish)  # type: ignore[arg-type]
        machine.publish(Message("a", b"x"))
        machine.disconnect(queued=False)
        assert sends(machine) == ("40 02 00 05 e0 00" if answers else "e0 00")
        assert take(machine) == [Closed(None)]
        assert sends(client(session=session)) == "30 04 00 01 61 78"

    def test_what_follows_a_connect_waits_until_it_is_answered(self) -> None:
        machine = server(state=NEW)
        feed(machine, Connect("c"))
        assert not machine.has_more_than_connect
        machine.receive_data(bytes.fromhex("30 04 00 01 61 78"), NOW)
        assert machine.has_more_than_connect
        machine.accept(Session(), False, NOW)
        assert not machine.has_more_than_connect
        assert take(machine) == [Publish("a", b"x")]

    @pytest.mark.parametrize(("level", "answer"), [(3, "90 04 00 07 01 00"), (4, "90 04 00 07 01 80")])
    def test_mqtt_3_1_has_no_return_code_for_a_failure(self, level: int, answer: str) -> None:
        machine = server(Connect("c", protocol_level=level))
        machine.suback(7, [1, 0x80])
        assert sends(machine) == answer

    @pytest.mark.statement("MQTT-3.14.4-3")
    def test_a_disconnect_is_distinguished_from_a_loss(self) -> None:
        machine = server()
        assert feed(machine, Publish("a"), Disconnect(), Publish("b")) == [Publish("a"), Closed(None)]
        assert machine.error is None
        machine = server()
        machine.receive_eof(NOW)
        assert type(machine.error) is ConnectionClosed


def test_an_idle_client_has_no_queue_of_requests_and_no_suspects() -> None:
    """Ten thousand connections in a process are idle at most times, and even an empty deque takes 760 bytes."""
    session = Session()
    machine = client(session=session)
    assert session.requests is Session().requests
    assert session._suspects is None
    machine.subscribe([("a", 0)])
    assert len(session.requests) + len(session.requests_sent) == 1
    sends(machine)
    assert take(machine) == []
    feed(machine, SubAck(1, [0]))
    assert session._suspects is None
    assert not Session().requests


def test_a_request_is_withdrawn_unless_it_was_sent() -> None:
    session = Session()
    first, second = session.subscribe([("a", 0)]), session.unsubscribe(["b"])
    third = session.subscribe([("c", 1)])
    assert session.withdraw_request(second)
    assert not session.withdraw_request(second)
    machine = client(session=session)
    assert decoded(machine.data_to_send(NOW)) == [Subscribe(1, [("a", 0)]), Subscribe(2, [("c", 1)])]
    assert not session.withdraw_request(first)
    assert feed(machine, SubAck(1, [0]), SubAck(2, [1])) == [
        Subscribed(first, (("a", 0),)),
        Subscribed(third, (("c", 1),)),
    ]
    assert not session.has_incomplete(session.sender.next_token())


def test_unanswered_requests_are_bounded_in_bytes() -> None:
    session, big = Session(), [("t" * 60_000, 0)] * 100
    tokens = [session.subscribe(big) for _ in range(MAX_REQUESTED // 6_100_000)]
    for call in (lambda: session.subscribe(big), lambda: session.unsubscribe([topic for topic, _ in big])):
        with pytest.raises(QueueFull, match="requests are already queued"):
            call()
        assert len(session.requests) == len(tokens)
    assert session.withdraw_request(tokens.pop())
    tokens.append(session.subscribe(big))
    machine = client(session=session)
    for packet_id in range(1, len(tokens) + 1):  # an answer makes space, and sending does not
        machine.data_to_send(NOW)
        assert packet_id in session.requests_sent
        with pytest.raises(QueueFull):
            session.subscribe(big)
        feed(machine, SubAck(packet_id, [0] * 100))
        session.subscribe(big)
    session.abandon()
    for _ in tokens:
        session.subscribe(big)
    with pytest.raises(QueueFull):
        session.subscribe(big)


def test_one_request_of_any_size_is_queued() -> None:
    session = Session()
    session.subscribe([("t" * 60_000, 0)] * 1_200)
    with pytest.raises(QueueFull):
        session.subscribe([("a", 0)])


@pytest.mark.skipif(compiled, reason="a compiled attribute takes only a deque")
def test_a_message_that_could_not_be_reported_is_reported_when_it_is_sent_again() -> None:
    class Full(deque[Any]):
        def append(self, event: object) -> None:
            raise MemoryError

    session, publish = Session(), Publish("a", b"x", 2, packet_id=1)
    machine = client(session=session)
    machine.events = Full()
    with pytest.raises(MemoryError):
        machine.receive_data(publish.encode(), NOW)
    assert session.receiver.received == frozenset()


def test_a_server_that_reads_no_answers_loses_the_connection() -> None:
    """Each packet identifier is owed two answers at most. More would only fill the memory."""
    machine = client()
    releases = PubRel(7).encode() * 65_535
    for _ in range(2):
        machine.receive_data(releases, NOW)
        assert machine.state is CONNECTED
    machine.receive_data(PubRel(7).encode(), NOW)
    assert machine.state is CLOSED
    assert isinstance(closing_error(take(machine)), ConnectionClosed)
    assert "131,071 packets wait" in str(machine.error)


def test_answers_to_messages_that_were_taken_count_before_they_are_encoded() -> None:
    machine = client()
    message = Publish("a", b"", 1, packet_id=1)
    for _ in range(4):
        for publish in feed(machine, *[message] * 32_768):
            if isinstance(publish, Publish):
                machine.session.receiver.acknowledge(publish)
    assert machine.state is CLOSED
