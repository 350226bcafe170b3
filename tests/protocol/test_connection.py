"""Framing and machine together, over WebSocket and plain TCP: opening, closing, timers, close codes."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqttws import (
    AccessDenied,
    ClientConnection,
    ClientMachine,
    Connect,
    ConnectError,
    ConnectionClosed,
    ConnectionRefused,
    ConnectTimeout,
    Decoder,
    Disconnect,
    HandshakeRejected,
    KeepAliveTimeout,
    LocalProtocolError,
    MalformedPacket,
    Message,
    MQTTError,
    Packet,
    PingReq,
    Publish,
    RemoteProtocolError,
    ServerConnection,
    ServerMachine,
    Session,
    SessionTakenOver,
)
from mqttws.errors import LimitExceeded
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.events import Closed, Connected, ConnectReceived, SubscribeReceived, UpgradeRequested
from mqttws.protocol.frames import binary_frame
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.plain import Framing
from mqttws.testing import FakeClock, Pair

CONNECT = Connect("c", clean_session=False)
websocket_or_not = pytest.mark.parametrize("websocket", [True, False], ids=["websocket", "tcp"])


def last(events: list[object]) -> MQTTError | None:
    """Return the error of the last event, which must be the only `Closed`."""
    assert isinstance(events[-1], Closed)
    assert sum(isinstance(event, Closed) for event in events) == 1
    return events[-1].error


def close_code(frame: bytes) -> int | None:
    """Return the code of a close frame of a server."""
    assert frame[0] == 0x88
    return int.from_bytes(frame[2:4], "big") if frame[1] else None


class TestOpening:
    @websocket_or_not
    def test_packets_may_be_exchanged_after_the_upgrade(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket)
        assert pair.client.opened is not websocket
        pair.open()
        assert pair.client.opened

    @websocket_or_not
    def test_both_ends_report_the_opening(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket).open()
        assert pair.client_events == [Connected(False)]
        upgrade, received = pair.server_events if websocket else (None, *pair.server_events)
        assert received == ConnectReceived(CONNECT)
        assert isinstance(upgrade, UpgradeRequested) == websocket
        assert pair.client.connected
        assert not pair.client.closed
        assert not pair.client.finished

    def test_packets_that_wait_together_are_sent_in_one_message(self) -> None:
        pair = Pair(CONNECT).open()
        for payload in (b"1", b"2", b"3"):
            pair.server.publish(Message("a", payload))
        assert pair.server.data_to_send(pair.clock()) == b"\x82\x12" + b"".join(
            Publish("a", payload).encode() for payload in (b"1", b"2", b"3")
        )

    def test_events_one_by_one(self) -> None:
        pair = Pair(CONNECT, automatic=False)
        pair.server.receive_data(bytes(pair.to_server), pair.clock())
        assert isinstance(pair.server.next_event(), UpgradeRequested)
        assert pair.server.next_event() is None
        assert list(pair.server.events()) == []

    @websocket_or_not
    def test_bytes_one_by_one(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket)
        for _ in range(1_000):
            pair.deliver_to_server(1)
            pair.deliver_to_client(1)
        assert pair.client.connected
        assert pair.server.connected

    @pytest.mark.parametrize("status", [401, 403, 503])
    def test_a_rejected_upgrade(self, status: int) -> None:
        pair = Pair(CONNECT, automatic=False)
        pair.deliver_to_server()
        pair.server.reject_upgrade(status, pair.clock(), [("X-Why", "because")], b"no")
        pair.run()
        error = last(pair.client_events)
        assert isinstance(error, HandshakeRejected)
        assert (error.status, error.body) == (status, b"no")
        assert ("x-why", "because") in error.headers
        assert isinstance(last(pair.server_events), ConnectionClosed)
        assert pair.client.finished
        assert pair.server.finished

    @websocket_or_not
    def test_a_refused_connect(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket, automatic=False)
        pair.deliver_to_server()
        if websocket:
            pair.server.accept_upgrade(pair.clock())
            pair.collect()
            pair.deliver_to_client()
            pair.deliver_to_server()
        pair.server.refuse(4, pair.clock())
        pair.run()
        for events in (pair.client_events, pair.server_events):
            error = last(events)
            assert isinstance(error, ConnectionRefused)
            assert error.return_code == 4
        assert pair.client.finished
        assert pair.server.finished

    def test_a_refused_client_has_some_time_to_close(self) -> None:
        pair = Pair(CONNECT, automatic=False)
        pair.deliver_to_server()
        pair.server.accept_upgrade(pair.clock())
        pair.collect()
        pair.deliver_to_client()
        pair.deliver_to_server()
        pair.server.refuse(5, pair.clock())
        assert pair.server.next_deadline() == pair.clock() + 5
        pair.collect()
        pair.server.handle_timeout(pair.clock() + 5)
        assert pair.server.finished

    def test_a_violation_sent_before_the_connack_ends_it_on_acceptance(self) -> None:
        pair = Pair(CONNECT, automatic=False)
        pair.deliver_to_server()
        pair.server.accept_upgrade(pair.clock())
        pair.collect()
        pair.deliver_to_client()
        pair.deliver_to_server()
        pair.server.receive_data(b"\x82\x82\0\0\0\0\xe0\x00", pair.clock())
        pair.server.accept(Session(), False, pair.clock())
        assert pair.server.closed
        assert pair.server.next_deadline() == pair.clock() + 5

    def test_there_is_no_upgrade_over_tcp(self) -> None:
        pair = Pair(CONNECT, websocket=False)
        with pytest.raises(LocalProtocolError, match="plain TCP has no upgrade"):
            pair.server.accept_upgrade(0.0)
        with pytest.raises(LocalProtocolError):
            pair.server.reject_upgrade(403, 0.0)

    def test_the_server_closes_the_websocket_before_the_connack(self) -> None:
        pair = Pair(CONNECT, automatic=False)
        pair.deliver_to_server()
        pair.server.accept_upgrade(pair.clock())
        pair.server.close(ConnectionClosed("shutting down"), pair.clock())
        pair.run()
        error = last(pair.client_events)
        assert type(error) is ConnectError
        assert "before the CONNACK" in str(error)
        assert "1001" in str(error)

    def test_closing_before_anything_was_answered(self) -> None:
        pair = Pair(CONNECT, automatic=False)
        pair.client.disconnect(pair.clock())
        pair.collect()
        assert pair.client_events == [Closed(None)]
        assert pair.client.finished
        pair.deliver_to_server()
        pair.server.close(ConnectionClosed(), pair.clock())
        with pytest.raises(LocalProtocolError):  # too late
            pair.server.accept(Session(), False, pair.clock())

    def test_nothing_follows_closed(self) -> None:
        """A handshake that completes after the end, before the driver has written, starts nothing."""
        pair = Pair(CONNECT)
        pair.deliver_to_server()
        answer = bytes(pair.to_client)
        pair.client.close(ConnectionClosed("changed my mind"), pair.clock())
        pair.client.receive_data(answer, pair.clock())
        pair.collect()
        assert isinstance(last(pair.client_events), ConnectionClosed)
        server = ServerConnection(ServerMachine(), ServerWebSocket(), 0.0)
        server.close(ConnectionClosed(), 0.0)
        server.receive_data(b"GET / HTTP/1.1\r\n\r\n", 0.0)
        assert isinstance(last(list(server.events())), ConnectionClosed)


class TestACloseFrameBeforeTheConnack:
    """A client need not wait for the CONNACK before it sends messages, DISCONNECT and a close frame. Spec: §3.1.4"""

    def received(self, after: str) -> ServerConnection:
        server = ServerConnection(ServerMachine(), ServerWebSocket(), 0.0)
        server.receive_data(
            b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n",
            0.0,
        )
        server.accept_upgrade(0.0)
        data = CONNECT.encode() + bytes.fromhex(after)
        close = bytes.fromhex("88 82 00 00 00 00 03 e8")
        server.receive_data(bytes((0x82, 0x80 | len(data))) + bytes(4) + data + close, 0.0)
        return server

    @pytest.mark.parametrize(("goodbye", "error"), [("e0 00", None), ("", ConnectionClosed)])
    def test_what_came_before_it_is_handled_first(self, goodbye: str, error: type[Exception] | None) -> None:
        server = self.received("30 04 00 01 61 78" + goodbye)
        assert not server.closed
        server.accept(Session(), False, 0.0)
        *_, publish, closed = server.events()
        assert publish == Publish("a", b"x")
        assert isinstance(closed, Closed)
        assert type(closed.error) is (error or type(None))

    def test_without_anything_after_the_connect_it_ends_the_connection(self) -> None:
        assert isinstance(last(list(self.received("").events())), ConnectionClosed)

    def test_a_refusal_ends_the_connection(self) -> None:
        server = self.received("e0 00")
        server.refuse(5, 0.0)
        assert server.closed


class TestTheWrongScheme:
    @pytest.mark.parametrize("size", [1, 2, 12, 100])
    def test_a_server_of_http_that_gets_a_connect(self, size: int) -> None:
        pair = Pair(CONNECT, websocket=False)
        answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
        for start in range(0, len(answer), size):
            pair.client.receive_data(answer[start : start + size], pair.clock())
        pair.collect()
        error = last(pair.client_events)
        assert isinstance(error, MalformedPacket)
        assert "as a response of HTTP does" in str(error)
        assert "ws://" in str(error)

    def test_other_bytes_that_are_no_packet(self) -> None:
        pair = Pair(CONNECT, websocket=False)
        pair.client.receive_data(b"I am no server of HTTP\r\n", pair.clock())
        pair.collect()
        assert "the flags of PubAck are 1001" in str(last(pair.client_events))

    @pytest.mark.parametrize("begin", [b"\x20", b"\x20\x02", b"\x20\x02\x00"])
    def test_the_byte_in_the_middle_of_a_connack(self, begin: bytes) -> None:
        pair = Pair(CONNECT, websocket=False)
        for data in (begin, b"HTTP" * 20):
            pair.client.receive_data(data, pair.clock())
        pair.collect()
        assert "HTTP" not in str(last(pair.client_events))

    def test_after_the_connack(self) -> None:
        pair = Pair(CONNECT, websocket=False).open()
        pair.client.receive_data(b"HTTP/1.1 400 Bad Request\r\n", pair.clock())
        pair.collect()
        assert "the flags of PubAck are 1000" in str(last(pair.client_events))

    def test_a_server_of_plain_mqtt_that_gets_an_upgrade(self) -> None:
        pair = Pair(CONNECT)
        pair.cut()
        error = last(pair.client_events)
        assert isinstance(error, ConnectError)
        assert "before it answered the upgrade" in str(error)
        assert "mqtt://" in str(error)

    def test_a_server_of_plain_mqtt_that_closes_without_a_connack(self) -> None:
        pair = Pair(CONNECT, websocket=False)
        pair.cut()
        assert "before it answered the CONNECT" in str(last(pair.client_events))


class TestOpenTimeout:
    @websocket_or_not
    def test_a_silent_server(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket)
        assert pair.client.next_deadline() == pair.clock() + 30
        pair.client.handle_timeout(pair.clock() + 29)
        assert not pair.client.closed
        pair.client.handle_timeout(pair.clock() + 30)
        pair.collect()
        error = last(pair.client_events)
        assert type(error) is ConnectTimeout
        assert "within 30 s" in str(error)
        assert pair.client.finished

    def test_a_slow_refusal_times_out(self) -> None:
        pair = Pair(CONNECT)
        pair.client.receive_data(b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\nwai", pair.clock())
        pair.client.handle_timeout(pair.clock() + 30)
        pair.collect()
        error = last(pair.client_events)
        assert isinstance(error, HandshakeRejected)
        assert (error.status, error.body) == (503, b"wai")

    @websocket_or_not
    def test_a_silent_client(self, websocket: bool) -> None:
        server = ServerConnection(
            ServerMachine(), ServerWebSocket() if websocket else Framing(), 100.0, open_timeout=7.5
        )
        assert server.next_deadline() == 107.5
        server.handle_timeout(107.5)
        server.data_to_send(107.5)
        error = last(list(server.events()))
        assert isinstance(error, ConnectionClosed)
        assert "no CONNECT within 7.5 s" in str(error)
        assert server.finished

    @websocket_or_not
    def test_a_connect_that_is_not_answered(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket, automatic=False)
        pair.run()
        if websocket:
            pair.server.accept_upgrade(pair.clock())
            pair.run()
        assert isinstance(pair.server_events[-1], ConnectReceived)
        assert pair.server.next_deadline() == pair.clock() + 30
        pair.server.handle_timeout(pair.clock() + 30)
        pair.server.data_to_send(pair.clock() + 30)
        error = last(list(pair.server.events()))
        assert isinstance(error, ConnectionClosed)
        assert "the CONNECT was not answered within 30 s" in str(error)

    @websocket_or_not
    def test_open_within_bounds_the_answer_after_the_tcp_connection(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket)
        pair.clock.advance(10)  # out of 30 seconds for the whole opening
        pair.client.open_within(2.5, pair.clock())
        assert pair.client.next_deadline() == pair.clock() + 2.5
        pair.client.handle_timeout(pair.clock() + 2.5)
        pair.collect()
        error = last(pair.client_events)
        assert isinstance(error, ConnectTimeout)
        assert "did not answer within 2.5 s" in str(error)

    def test_open_within_does_not_extend_the_opening(self) -> None:
        pair = Pair(CONNECT)
        pair.clock.advance(29)
        pair.client.open_within(2.5, pair.clock())
        assert pair.client.next_deadline() == pair.clock() + 1
        pair.open()
        pair.client.open_within(2.5, pair.clock())  # no effect after the CONNACK
        pair.advance(5)
        assert pair.client.connected

    @websocket_or_not
    def test_the_open_timeout_ends_with_the_opening(self, websocket: bool) -> None:
        pair = Pair(Connect("c", keep_alive=0), websocket=websocket).open()
        assert pair.client.next_deadline() is None
        assert pair.server.next_deadline() is None


class TestClosing:
    @websocket_or_not
    @pytest.mark.statement("MQTT-3.14.4-1")
    def test_an_orderly_close_by_the_client(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket).open()
        pair.client.disconnect(pair.clock())
        sent = pair.client.data_to_send(pair.clock())
        if websocket:
            assert sent[0] == 0x82
            assert sent[8] == 0x88  # DISCONNECT and the close frame in one write
            assert not pair.client.finished
        else:
            assert sent == Disconnect().encode()
            assert pair.client.finished
        pair.server.receive_data(sent, pair.clock())
        pair.run()
        assert last(pair.server_events) is None
        assert last(pair.client_events) is None
        assert pair.server.finished
        assert pair.client.finished

    def test_a_peer_that_does_not_answer_the_closing_frame(self) -> None:
        pair = Pair(CONNECT).open()
        pair.client.disconnect(pair.clock())
        pair.client.data_to_send(pair.clock())
        assert pair.client.next_deadline() == pair.clock() + 5
        pair.client.handle_timeout(pair.clock() + 4)
        assert not pair.client.finished
        pair.client.handle_timeout(pair.clock() + 5)
        assert pair.client.finished
        assert pair.client.next_deadline() is None

    @websocket_or_not
    def test_the_end_of_the_stream(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket).open()
        pair.cut()
        for events, connection in ((pair.client_events, pair.client), (pair.server_events, pair.server)):
            error = last(events)
            assert type(error) is ConnectionClosed
            assert error.code is None
            assert connection.finished
            assert connection.closed
            assert not connection.connected

    def test_the_end_of_the_stream_after_a_refusal_without_a_length(self) -> None:
        pair = Pair(CONNECT)
        pair.client.receive_data(b"HTTP/1.1 404 Not Found\r\n\r\ngone", pair.clock())
        assert not pair.client.closed
        pair.cut()
        error = last(pair.client_events)
        assert isinstance(error, HandshakeRejected)
        assert error.body == b"gone"

    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (SessionTakenOver(), 4001),
            (AccessDenied(), 1008),
            (LimitExceeded(), 1008),
            (RemoteProtocolError("bad", "MQTT-3.1.0-2"), 1002),
            (KeepAliveTimeout(), 1001),
            (ConnectionClosed("shutdown"), 1001),
            (ConnectionRefused(5), 1000),
            (None, 1000),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_the_close_code_says_why(self, error: MQTTError | None, code: int) -> None:
        pair = Pair(CONNECT).open()
        pair.server.machine.close(error)
        pair.collect()
        assert close_code(bytes(pair.to_client)) == code
        pair.run()
        reported = last(pair.client_events)
        if code == 4001:
            assert isinstance(reported, SessionTakenOver)
        else:
            assert type(reported) is ConnectionClosed
        assert isinstance(reported, ConnectionClosed)
        assert reported.code == code
        assert str(code) in str(reported)

    def test_a_fault_names_its_statement_in_the_reason(self) -> None:
        pair = Pair(CONNECT).open()
        pair.to_server += b"\x82\x82\0\0\0\0\xf0\x00"
        pair.deliver_to_server()
        assert bytes(pair.to_client)[4:] == "§2.2.1".encode()
        assert isinstance(last(pair.server_events), RemoteProtocolError)

    def test_a_text_message_at_both_ends(self) -> None:
        pair = Pair(CONNECT).open()
        pair.client.receive_data(b"\x81\x02hi", pair.clock())
        pair.server.receive_data(b"\x81\x82\0\0\0\0hi", pair.clock())
        pair.collect()
        assert close_code(bytes(pair.to_client)) == 1003
        for events in (pair.client_events, pair.server_events):
            error = last(events)
            assert isinstance(error, RemoteProtocolError)
            assert error.statement == "MQTT-6.0.0-1"
        assert pair.client.finished
        assert pair.server.finished

    def test_discarding_passes_through(self) -> None:
        pair = Pair(CONNECT, automatic=False, websocket=False)
        pair.deliver_to_server()
        pair.server.accept(Session(), False, pair.clock())
        pair.run()
        pair.client.publish(Message("a", b"", 1))
        pair.run()
        (publish,) = pair.received_by_server
        pair.server.discard(publish)
        pair.server.acknowledge(publish)
        pair.run()
        assert len(pair.client_session.sender) == 1

    def test_packets_before_a_close_frame_are_reported_first(self) -> None:
        pair = Pair(CONNECT).open()
        pair.client.receive_data(b"\x82\x05" + Publish("abc").encode()[:5], pair.clock())
        pair.client.receive_data(b"\x82\x02bc\x88\x02\x03\xe9", pair.clock())
        pair.collect()
        assert pair.client_events[-2:-1] == [Publish("abc")]
        error = last(pair.client_events)
        assert isinstance(error, ConnectionClosed)
        assert error.code == 1001


class TestFramingAtOnce:
    """A message of QoS 0 that is framed directly, before everything that waits for `data_to_send`."""

    PACKET = bytes.fromhex("30 04 00 01 61 78")  # PUBLISH "x" to "a"

    @websocket_or_not
    def test_it_is_sent_immediately_and_resets_the_keep_alive(self, websocket: bool) -> None:
        pair = Pair(Connect("c", keep_alive=100), websocket=websocket).open()
        pair.clock.advance(50)
        data = pair.client.frame_now(self.PACKET, pair.clock())
        assert data is not None
        if websocket:
            assert data[:2] == b"\x82\x86"  # a complete binary message, masked, 6 bytes
            assert bytes(byte ^ data[2 + n % 4] for n, byte in enumerate(data[6:])) == self.PACKET
        else:
            assert data == self.PACKET
        pair.server.receive_data(data, pair.clock())
        assert pair.server.next_event() == Publish("a", b"x")
        pair.client.machine.receive_data(bytes.fromhex("d0 00"), pair.clock())
        assert pair.client.next_deadline() == pair.clock() + 75

    def test_it_overtakes_nothing(self) -> None:
        pair = Pair(CONNECT).open()
        pair.client.publish(Message("a", b"first"))
        assert pair.client.frame_now(self.PACKET, pair.clock()) is None
        pair.run()
        assert pair.client.frame_now(self.PACKET, pair.clock()) is not None

    def test_it_requires_a_connection(self) -> None:
        pair = Pair(CONNECT)
        assert pair.client.frame_now(self.PACKET, pair.clock()) is None
        pair.open()
        pair.client.disconnect(pair.clock())
        assert pair.client.frame_now(self.PACKET, pair.clock()) is None


class TestTimers:
    def test_the_keep_alive_works_for_an_hour(self) -> None:
        pair = Pair(Connect("c", keep_alive=10)).open()
        pair.advance(3_600)
        assert pair.client.connected
        assert pair.server.connected

    def test_a_paused_server_does_not_time_out_the_client(self) -> None:
        pair = Pair(Connect("c", keep_alive=10)).open()
        pair.server.pause_reading()
        pair.client.pause_reading()
        pair.clock.advance(100)
        pair.server.handle_timeout(pair.clock())
        pair.client.handle_timeout(pair.clock())
        assert pair.client.connected
        assert pair.server.connected
        pair.server.resume_reading(pair.clock())
        pair.client.resume_reading(pair.clock())
        pair.clock.advance(100)
        pair.server.handle_timeout(pair.clock())
        assert pair.server.closed

    def test_an_unresponsive_server_times_out(self) -> None:
        pair = Pair(Connect("c", keep_alive=10)).open()
        while not pair.client.closed:
            pair.clock.advance(0.5)
            pair.client.handle_timeout(pair.clock())
            pair.client.data_to_send(pair.clock())
        assert isinstance(pair.client.machine.error, KeepAliveTimeout)
        assert pair.clock() - 1_000 <= 11


def test_an_address_that_is_invalid_in_a_request_is_refused() -> None:
    with pytest.raises(ConnectError):
        ClientConnection(ClientMachine(CONNECT, Session()), ClientWebSocket("h", "/a b"), 0.0)


class TestHelpers:
    def test_the_clock(self) -> None:
        clock = FakeClock(5.0)
        clock.advance(1.5)
        assert clock() == 6.5
        for seconds in (-1, -math.inf, math.inf, math.nan):
            with pytest.raises(ValueError, match="must be finite, and must not be negative"):
                clock.advance(seconds)
        assert clock() == 6.5

    @pytest.mark.parametrize("seconds", [-1, -math.inf, math.inf, math.nan])
    @pytest.mark.parametrize("keep_alive", [0, 10])
    def test_a_pair_refuses_a_time_that_never_comes(self, seconds: float, keep_alive: int) -> None:
        class Bounded(FakeClock):
            def advance(self, seconds: float) -> None:
                assert self.now < 1e6, "the pair advances forever"
                super().advance(seconds)

        pair = Pair(Connect("c1", keep_alive=keep_alive), clock=Bounded()).open()
        with pytest.raises(ValueError, match=f"seconds is {seconds}; it must be finite"):
            pair.advance(seconds)
        assert pair.clock() == 1_000.0

    def test_a_pair_that_cannot_open_raises(self) -> None:
        with pytest.raises(AssertionError, match="did not connect"):
            Pair(CONNECT, automatic=False).open()

    @websocket_or_not
    def test_an_exchange_of_messages(self, websocket: bool) -> None:
        pair = Pair(CONNECT, websocket=websocket).open()
        pair.client.subscribe([("a/#", 2), ("b", 1)])
        pair.run()
        assert pair.server_session.subscriptions == pair.client_session.subscriptions == {"a/#": 2, "b": 1}
        pair.client.unsubscribe(["b", "c"])
        pair.run()
        assert pair.server_session.subscriptions == pair.client_session.subscriptions == {"a/#": 2}
        for qos in (0, 1, 2):
            pair.client.publish(Message("up", b"x", qos))
            pair.server.publish(Message("down", b"y", qos))
        pair.run()
        assert [publish.qos for publish in pair.received_by_server] == [0, 1, 2]
        assert [publish.qos for publish in pair.received_by_client] == [0, 1, 2]
        pair.cut()
        again = pair.again().open()
        assert again.client_events == [Connected(True)]
        assert again.server_session is pair.server_session

    def test_a_clean_session_is_discarded(self) -> None:
        pair = Pair(Connect("c")).open()
        pair.cut()
        again = pair.again().open()
        assert again.client_events == [Connected(False)]
        assert again.server_session is not pair.server_session


@pytest.mark.parametrize(
    ("said", "arrives"),
    [
        ("", ""),
        ("statement 2 of policy 'p' denies it", "statement 2 of policy 'p' denies it"),
        ("x" * 123, "x" * 123),
        ("x" * 124, "x" * 120 + "..."),
        ("x" * 119 + "é" * 3, "x" * 119 + "..."),  # no character is cut in two
        ("a\x1b[31mb", "a\\x1b[31mb"),  # the text of a peer is escaped for terminals
    ],
)
def test_the_reason_in_a_closing_frame_reaches_the_client(said: str, arrives: str) -> None:
    """RFC 6455 §5.5.1: a close frame may contain a reason of at most 123 bytes."""
    pair = Pair(CONNECT).open()
    pair.server.close(AccessDenied("a secret for the log", close_reason=said), pair.clock())
    pair.run()
    error = pair.client.machine.error
    assert isinstance(error, ConnectionClosed)
    assert (error.code, error.close_reason) == (1008, arrives)
    assert pickle.loads(pickle.dumps(error)).close_reason == arrives
    assert said == "" or arrives not in str(error) + repr(error)


def test_the_next_pair_has_the_same_options() -> None:
    connect = Connect("c", clean_session=False)
    pair = Pair(connect, websocket=False, automatic=False, max_filters=2)
    again = pair.again()
    assert (again.connect, again.websocket, again.automatic, again.max_filters) == (connect, False, False, 2)
    pair = Pair(connect, max_filters=2).open()
    pair.client.subscribe([(f"t/{number}", 0) for number in range(5)])
    pair.run()
    pair.cut()
    pair.server_session = None  # type: ignore[assignment] # the server has lost the session
    again = pair.again().open()
    sizes = [
        len(event.subscribe.topic_filters) for event in again.server_events if isinstance(event, SubscribeReceived)
    ]
    assert sizes == [2, 2, 1]


_RUNS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                Publish("a", b"one"),
                Publish("a", b"two"),
                Publish("a", b"three"),
                Publish("b", b"one"),
                Publish("a", b"one", retain=True),
                Publish("a", b"one", 1, packet_id=7),
                PingReq(),
                Disconnect(),
                Connect("twice"),
            ]
        ),
        st.integers(1, 3),
    ),
    max_size=5,
)


@given(_RUNS, st.booleans(), st.lists(st.integers(0, 120), max_size=4))
@example([(Publish("a", b"one"), 1)], True, [])
@example([(Publish("a", b"one"), 3)], False, [])
@example([(Publish("a", b"one"), 1), (PingReq(), 1)], True, [])
def test_a_server_receives_the_same_with_runs_and_without(
    runs: list[tuple[Packet, int]], websocket: bool, cuts: list[int]
) -> None:
    Decoder().feed(Publish("a").encode() * 2 + Publish("b").encode() * 2)  # caches the topics
    packets = [packet.encode() * count for packet, count in runs]
    stream = b"".join(binary_frame(packet, b"\x37\xfa\x21\x3d") if websocket else packet for packet in packets)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in pairwise(edges) if start < end]
    seen = []
    for in_runs in (False, True):
        pair = Pair(Connect("c", keep_alive=60), websocket=websocket).open()
        events: list[str] = []
        for chunk in chunks:
            now = pair.clock()
            if not in_runs:
                pair.server.receive_data(chunk, now)
            elif (run := pair.server.receive_run(chunk, now)) is not None:
                topic, encoded, payloads = run
                messages = [Publish(topic, payload) for payload in payloads]
                assert b"".join(message.encode() for message in messages) == encoded
                events += map(repr, messages)
            events += map(repr, pair.server.events())
            events.append(f"{pair.server.data_to_send(now)!r} {pair.server.next_deadline()}")
            pair.clock.advance(1)
        seen.append(events)
    assert seen[0] == seen[1]


def test_a_run_does_not_overtake_waiting_events() -> None:
    message = Publish("a", b"x").encode()
    Decoder().feed(message * 2)
    pair = Pair(Connect("c"), websocket=False).open()
    assert pair.server.receive_run(message, 0.0) == ("a", message, [b"x"])
    pair.server.receive_data(Publish("a", b"y").encode(), 0.0)
    assert pair.server.receive_run(message, 0.0) is None
    assert list(pair.server.events()) == [Publish("a", b"y"), Publish("a", b"x")]
