"""Any bytes of a peer, in any pieces: nothing is raised, and `Closed` is reported once and last."""

from __future__ import annotations

from collections.abc import Callable

import packet_strategies as some
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqttws import ClientConnection, ClientMachine, Connect, Message, ServerConnection, ServerMachine, Session
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.events import Closed
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.testing import Pair

CONNECT = Connect("c", clean_session=False)
_HEADS = st.lists(
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\n", b"HTTP/1.1 101 X\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 C\r\n", b"\r\n", b"\n",
            b"Host: h\r\n", b"Upgrade: websocket\r\n", b"Connection: upgrade\r\n", b"Sec-WebSocket-Version: 13\r\n",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b"Sec-WebSocket-Protocol: mqtt\r\n",
            b"Content-Length: 3\r\n", b"abc", b" ",
            b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"\xff", b"\0", b"\x82\x02\xc0\x00",
        ]
    ),
    max_size=14,
).map(b"".join)  # fmt: skip
_STREAMS = st.one_of(st.binary(max_size=60), _HEADS)


def check(events: list[object]) -> None:
    closed = [position for position, event in enumerate(events) if isinstance(event, Closed)]
    assert closed in ([], [len(events) - 1])


def play(pair: Pair, deliver: Callable[[bytes, float], None], chunks: list[bytes]) -> None:
    for chunk in chunks:
        deliver(chunk, pair.clock())
        pair.collect()
    pair.cut()
    for events in (pair.client_events, pair.server_events):
        assert isinstance(events[-1], Closed)
        check(events)


@given(_STREAMS, st.data())
@example(b"\r\n\r\n", None)
@example(b"\n\n", None)
def test_any_bytes_before_the_handshake(stream: bytes, data: st.DataObject | None) -> None:
    chunks = some.pieces(stream, data.draw(some.cuts(len(stream)))) if data else [stream]
    client = ClientConnection(ClientMachine(CONNECT, Session()), ClientWebSocket("h", "/"), 0.0)
    server = ServerConnection(ServerMachine(), ServerWebSocket(), 0.0)
    for connection in (client, server):
        for chunk in chunks:
            connection.receive_data(chunk, 0.0)
            connection.data_to_send(0.0)
        connection.receive_eof(1.0)
        connection.data_to_send(1.0)
        events = list(connection.events())
        assert isinstance(events[-1], Closed)
        check(events)
        assert connection.finished


_PACKETS = st.lists(some.packets.map(lambda packet: packet.encode()), max_size=5).map(b"".join)


@given(st.one_of(st.binary(max_size=60), _PACKETS), st.booleans(), st.booleans(), st.data())
def test_any_bytes_after_the_handshake(stream: bytes, websocket: bool, to_server: bool, data: st.DataObject) -> None:
    pair = Pair(CONNECT, websocket=websocket).open()
    pair.client.publish(Message("a", b"x", 2))
    pair.server.publish(Message("a", b"x", 1))
    pair.client.subscribe([("a", 1)])
    pair.collect()
    if websocket and data.draw(st.booleans()):
        sender = pair.client if to_server else pair.server
        sender._framing.send(stream)  # also test the contents of frames
        stream = sender._framing.data_to_send()
    chunks = some.pieces(stream, data.draw(some.cuts(len(stream))))
    play(pair, (pair.server if to_server else pair.client).receive_data, chunks)


@pytest.mark.statement("MQTT-3.1.4-1")
@given(st.integers(0, 100), st.integers(0, 255))
def test_a_connect_with_any_byte_changed_is_accepted_or_closed(position: int, value: int) -> None:
    data = bytearray(Connect("id", True, 60, Message("w", b"m", 1), "user", b"password").encode())
    data[position % len(data)] = value
    machine = ServerMachine()
    machine.receive_data(bytes(data), 0.0)
    machine.receive_eof(0.0)
    error = machine.error
    sent = machine.data_to_send(0.0)
    if sent:
        statement = getattr(error, "statement", None)
        assert (sent, statement) in ((b"\x20\x02\0\1", "MQTT-3.1.2-2"), (b"\x20\x02\0\2", "MQTT-3.1.3-8"))
