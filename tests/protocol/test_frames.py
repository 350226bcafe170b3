"""WebSocket frames after the handshake: literals of every form, and the fast path compared with wsproto."""

from __future__ import annotations

import random
import tracemalloc

import packet_strategies as some
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.connection import Connection as WSProto
from wsproto.connection import ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, TextMessage

from mqttws import Closed, Connect, ConnectionClosed, Decoder, Message, Publish, RemoteProtocolError
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.events import Ended, Opened
from mqttws.protocol.frames import (
    LongFrame,
    binary_frame,
    header_size,
    parse_header,
    take_masked,
    take_plain,
    take_short,
)
from mqttws.protocol.framing import MOST_PONGS, WebSocketFraming
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.masking import mask
from mqttws.protocol.outgoing import LONG
from mqttws.protocol.plain import NORMAL, Framing, FramingEvent
from mqttws.testing import Pair

KEY = b"\x37\xfa\x21\x3d"  # RFC 6455 §5.7


def opened() -> tuple[ClientWebSocket, ServerWebSocket]:
    """Return both ends after the handshake."""
    client = ClientWebSocket("h", "/", entropy=lambda count: (KEY * count)[:count])
    server = ServerWebSocket()
    server.receive_data(client.data_to_send())
    server.accept_upgrade()
    assert client.receive_data(server.data_to_send()) == [Opened()]
    return client, server


def frame(first: int, payload: bytes = b"", *, masked: bool, size: bytes | None = None) -> bytes:
    """Build a frame with any first byte and the length in any form."""
    if size is None:
        count = len(payload)
        size = (
            bytes((count,))
            if count < 126
            else b"\x7e" + count.to_bytes(2, "big")
            if count < 65_536
            else b"\x7f" + count.to_bytes(8, "big")
        )
    if not masked:
        return bytes((first,)) + size + payload
    xored = bytes(byte ^ KEY[n % 4] for n, byte in enumerate(payload))
    return bytes((first, size[0] | 0x80)) + size[1:] + KEY + xored


def gather(events: list[FramingEvent]) -> list[FramingEvent]:
    """Join consecutive bytes events, since their boundaries have no meaning."""
    joined: list[FramingEvent] = []
    for event in events:
        if isinstance(event, bytes) and joined and isinstance(joined[-1], bytes):
            joined[-1] += event
        elif event != b"":
            joined.append(event)
    return joined


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> tuple[WebSocketFraming, bool]:
    """An open framing, and whether received frames must be masked."""
    client, server = opened()
    return (client, False) if request.param == "client" else (server, True)


Side = tuple[WebSocketFraming, bool]


def naive(payload: bytes, key: bytes) -> bytes:
    return bytes(byte ^ key[n % 4] for n, byte in enumerate(payload))


class TestHeaders:
    @pytest.mark.parametrize(
        ("size", "header"),
        [
            (0, "82 00"),
            (125, "82 7d"),
            (126, "82 7e 007e"),
            (65_535, "82 7e ffff"),
            (65_536, "82 7f 0000000000010000"),
        ],
    )
    @pytest.mark.parametrize("key", [None, KEY])
    def test_both_ways(self, size: int, header: str, key: bytes | None) -> None:
        data = bytearray.fromhex(header)
        if key is not None:
            data[1] |= 0x80
            data += key
        built = binary_frame(b"\0" * size, key)
        assert built[: len(data)] == bytes(data)
        assert built[len(data) :] == (key or b"\0" * 4) * (size // 4) + (key or b"\0" * 4)[: size % 4]
        assert parse_header(b"?" + built, 1) == (len(data), size)
        assert header_size(size, key is not None) == len(data)
        for cut in range(len(data)):
            assert parse_header(built[:cut], 0) is None


def pieces_of(client: ClientWebSocket) -> list[bytes]:
    """Return what a framing sends, piece by piece."""
    return list(iter(client.next_piece, b""))


class TestLongFrame:
    @pytest.mark.parametrize("size", [65_536, 65_537, 2 * LONG - 1, 2 * LONG, 3 * LONG, 3 * LONG + 3])
    def test_the_pieces_are_one_frame(self, size: int) -> None:
        payload = random.Random(size).randbytes(size)
        long = LongFrame(b"before", payload, KEY)
        pieces = []
        while not long.complete:
            pieces.append(long.next_piece())
        assert b"".join(pieces) == b"before" + binary_frame(payload, KEY)
        assert all(LONG <= len(piece) < 2 * LONG + 20 for piece in pieces)  # a driver asks again after a large piece
        assert len(pieces) == max(1, size // LONG)

    def test_a_long_message_is_sent_in_pieces_and_in_order(self) -> None:
        client, server = opened()
        payload = random.Random(1).randbytes(3 * LONG)
        client.send(b"first")
        client.send(payload)
        client.send(b"last")
        assert client.has_output
        pieces = pieces_of(client)
        assert not client.has_output
        assert len(pieces) == 4
        assert b"".join(pieces) == b"".join(binary_frame(each, KEY) for each in (b"first", payload, b"last"))
        assert gather(server.receive_data(b"".join(pieces))) == [b"first" + payload + b"last"]

    def test_a_control_frame_is_not_sent_within_it(self) -> None:
        client, server = opened()
        payload = bytes(2 * LONG)
        client.send(payload)
        first = client.next_piece()
        client.receive_data(bytes.fromhex("89 02 68 69"))  # Ping "hi"
        client.close()
        second, after = client.next_piece(), client.next_piece()
        assert first + second == binary_frame(payload, KEY)
        assert after[:2] == bytes.fromhex("8a 82")  # Pong, masked, 2 bytes
        assert after[8:10] == bytes.fromhex("88 82")  # Close, masked, 2 bytes
        assert client.next_piece() == b""
        assert gather(server.receive_data(first + second)) == [payload]

    def test_all_at_once_is_the_same(self) -> None:
        payload = random.Random(2).randbytes(2 * LONG + 7)
        client, _ = opened()
        client.send(payload)
        client.send(payload)
        client.send(b"last")
        expected = binary_frame(payload, KEY) * 2 + binary_frame(b"last", KEY)
        assert client.data_to_send() == expected
        assert not client.has_output
        client.send(payload)
        piece = client.next_piece()
        client.send(b"last")
        assert piece + client.data_to_send() == binary_frame(payload, KEY) + binary_frame(b"last", KEY)

    @pytest.mark.parametrize(("at_once", "copies"), [(False, 1), (True, 2)])
    def test_how_many_copies_of_a_long_message_a_client_needs(self, at_once: bool, copies: int) -> None:
        # The packet, and a piece of it at a time. All at once: the packet and its pieces, then these and the result.
        size = 4 * 1024 * 1024
        pair = Pair(Connect("c")).open()
        message = Message("a/b", bytes(size))
        sent = 0
        tracemalloc.start()
        try:
            pair.client.publish(message)
            take = pair.client.data_to_send if at_once else pair.client.piece_to_send
            while data := take(0.0):
                sent += len(data)
            _, peak = tracemalloc.get_traced_memory()
            del data
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sent > size
        assert copies * size < peak < copies * size + size // 8
        assert kept < size // 8  # a message that was sent is not kept until the next one

    def test_a_client_receives_a_long_message_with_one_copy(self) -> None:
        size = 4 * 1024 * 1024
        client, server = opened()
        decoder = Decoder()
        server.send(Publish("a/b", bytes(size)).encode())
        stream = server.data_to_send()
        packets = []
        tracemalloc.start()
        try:
            for start in range(0, len(stream), LONG):
                for data in client.receive_data(stream[start : start + LONG]):
                    assert isinstance(data, bytes)
                    packets += decoder.feed(data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert packets == [Publish("a/b", bytes(size))]
        assert size < peak < size + size // 2  # the buffer at a sixteenth of the message, and that for all of it


def read_into_place(pair: Pair, stream: bytes, at_once: int) -> int:
    """Receive a stream as a driver does that reads payloads into their places. Return how many bytes were read so."""
    position = into = 0
    while position < len(stream):
        buffer = pair.client.payload_buffer()
        data = stream[position : position + at_once]
        if buffer is not None:
            with buffer:
                data = data[: len(buffer)]
                buffer[: len(data)] = data
            into += len(data)
            position += len(data)
            pair.client.receive_data(pair.client.fill(len(data)), 0.0)
        else:
            pair.client.receive_data(data, 0.0)
            position += len(data)
    return into


class TestPieces:
    """A driver that takes pieces: other output waits until a long message has been sent."""

    def test_the_next_messages_follow_it(self) -> None:
        pair = Pair(Connect("c")).open()
        payload = random.Random(3).randbytes(3 * LONG)
        pair.client.publish(Message("a", payload))
        pieces = [pair.client.piece_to_send(0.0)]
        pair.client.publish(Message("b", b"after", qos=1))
        while piece := pair.client.piece_to_send(0.0):
            pieces.append(piece)
        assert len(pieces) == 4
        pair.server.receive_data(b"".join(pieces), 0.0)
        assert [event.topic for event in pair.server.events() if isinstance(event, Publish)] == ["a", "b"]

    def test_how_much_is_missing_is_known(self) -> None:
        pair = Pair(Connect("c")).open()
        stream = binary_frame(Publish("a", bytes(3 * LONG)).encode(), None)
        assert pair.client.machine.payload_missing == 0
        pair.client.receive_data(stream[:LONG], 0.0)
        assert pair.client.machine.payload_missing == len(stream) - LONG
        pair.client.receive_data(stream[LONG:], 0.0)
        assert pair.client.machine.payload_missing == 0

    @pytest.mark.parametrize("websocket", [True, False])
    @pytest.mark.parametrize("at_once", [99, 5_000, 100_000, 1 << 30])
    def test_it_is_read_into_its_place(self, at_once: int, websocket: bool) -> None:
        pair = Pair(Connect("c"), websocket=websocket).open()
        payloads = [random.Random(size).randbytes(size) for size in (LONG, 1, 3 * LONG, LONG - 1, 2 * LONG)]
        packets = [Publish("a", payload).encode() for payload in payloads]
        stream = b"".join(binary_frame(packet, None) if websocket else packet for packet in packets)
        into = read_into_place(pair, stream, at_once)
        assert [event.payload for event in pair.client.events() if isinstance(event, Publish)] == payloads
        if at_once < LONG:  # all but what was read together with the head
            assert into >= 6 * LONG - 3 * (at_once + 2)

    def test_a_fragmented_message_is_not_read_into_its_place(self) -> None:
        pair = Pair(Connect("c")).open()
        packet = Publish("a", random.Random(4).randbytes(3 * LONG)).encode()
        halves = frame(0x02, packet[:LONG], masked=False) + frame(0x80, packet[LONG:], masked=False)
        assert read_into_place(pair, halves, 1_000) == 0
        assert [event.encode() for event in pair.client.events() if isinstance(event, Publish)] == [packet]

    def test_a_frame_within_a_packet_ends_the_memory(self) -> None:
        pair = Pair(Connect("c")).open()
        packet = Publish("a", random.Random(5).randbytes(3 * LONG)).encode()
        ping = frame(0x89, b"ping", masked=False)
        stream = binary_frame(packet[:LONG], None) + ping + binary_frame(packet[LONG:], None)
        assert read_into_place(pair, stream, 7_000) > 2 * LONG
        assert [event.encode() for event in pair.client.events() if isinstance(event, Publish)] == [packet]
        assert take_short(pair.client.data_to_send(0.0).replace(b"\x8a", b"\x82", 1)) == b"ping"

    def test_short_frames_are_read_together(self) -> None:
        pair = Pair(Connect("c")).open()
        packet = Publish("a", random.Random(6).randbytes(3 * LONG)).encode()
        parts = [packet[start : start + 4_096] for start in range(0, len(packet), 4_096)]
        stream = b"".join(binary_frame(part, None) for part in parts)
        assert read_into_place(pair, stream, 1_000) <= 4_096  # at most the last one
        assert [event.encode() for event in pair.client.events() if isinstance(event, Publish)] == [packet]

    def test_a_server_has_no_place_for_masked_bytes(self) -> None:
        pair = Pair(Connect("c")).open()
        pair.client.publish(Message("a", bytes(3 * LONG)))
        pair.server.receive_data(pair.client.piece_to_send(0.0), 0.0)
        assert pair.server.payload_buffer() is None

    def test_nothing_overtakes_it(self) -> None:
        pair = Pair(Connect("c")).open()
        packet = bytes.fromhex("30 04 00 01 61 78")
        pair.client.publish(Message("a", bytes(3 * LONG)))
        pair.client.piece_to_send(0.0)
        assert pair.client.frame_now(packet, 0.0) is None
        while pair.client.piece_to_send(0.0):
            pass
        assert pair.client.frame_now(packet, 0.0) is not None

    def test_a_long_message_is_not_framed_at_once(self) -> None:
        pair = Pair(Connect("c")).open()
        assert pair.client.frame_now(bytes(2 * LONG - 1), 0.0) is not None
        assert pair.client.frame_now(bytes(2 * LONG), 0.0) is None

    def test_the_end_of_the_connection_follows_it(self) -> None:
        pair = Pair(Connect("c")).open()
        payload = bytes(2 * LONG)
        pair.client.publish(Message("a", payload))
        sent = pair.client.piece_to_send(0.0)
        pair.client.disconnect(0.0)
        while piece := pair.client.piece_to_send(0.0):
            sent += piece
        pair.server.receive_data(sent, 0.0)
        events = list(pair.server.events())
        assert events[0] == Publish("a", payload)
        assert isinstance(events[-1], Closed)
        assert events[-1].error is None


def taken(data: bytes, position: int, masked: bool) -> tuple[int, bytes]:
    """A plain version of `take_plain` and `take_masked`: one frame after another."""
    payload = b""
    while (measured := parse_header(data, position)) is not None:
        header, size = measured
        start = position + header
        if data[position] != 0x82 or header != header_size(size, masked) or size > 65_535 or start + size > len(data):
            break
        payload += naive(data[start : start + size], data[start - 4 : start]) if masked else data[start : start + size]
        position = start + size
    return position, payload


class TestTaking:
    """Complete binary messages of one frame, split in one loop."""

    @given(
        st.booleans(),
        st.lists(
            st.tuples(
                st.sampled_from([0x82, 0x82, 0x82, 0x82, 0x02, 0x89]),
                st.one_of(st.binary(max_size=10), st.sampled_from([124, 125, 126, 127, 511, 512]).map(bytes)),
                st.integers(0, 9),
            ),
            max_size=6,
        ),
        st.integers(0, 3_000),
    )
    @example(False, [(0x82, bytes(65_535), 0), (0x82, bytes(65_536), 0)], 200_000)
    @example(True, [(0x82, bytes(65_535), 0), (0x82, bytes(65_536), 0)], 200_000)
    def test_it_agrees_with_the_plain_version(
        self, masked: bool, shapes: list[tuple[int, bytes, int]], cut: int
    ) -> None:
        # One in ten is masked wrongly, and one has a length field of two bytes.
        stream = b"".join(
            frame(
                first,
                payload,
                masked=masked != (odd == 9),
                size=b"\x7e" + len(payload).to_bytes(2, "big") if odd == 8 and len(payload) < 65_536 else None,
            )
            for first, payload, odd in shapes
        )
        stream = b"?" + stream[:cut]
        payloads: list[bytes] = []
        take = take_masked if masked else take_plain
        assert (take(stream, 1, payloads), b"".join(payloads)) == taken(stream, 1, masked)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from([0x82] * 6 + [0x02, 0x89]),
                st.sampled_from([b"", b"\x82", b"\x82\x01\x82", b"four", bytes(range(125)), bytes(126)]),
                st.one_of(st.integers(1, 6), st.sampled_from([12, 13, 14, 28, 29, 30, 61, 200])),
            ),
            max_size=4,
        ),
        st.integers(0, 300),
    )
    @example([(0x82, b"\x82\x01\x82", 61), (0x82, b"\x82", 61)], 0)
    def test_runs_of_frames_of_one_size(self, runs: list[tuple[int, bytes, int]], missing: int) -> None:
        stream = b"?" + b"".join(frame(first, payload, masked=False) * count for first, payload, count in runs)
        stream = stream[: max(1, len(stream) - missing)]
        payloads: list[bytes] = []
        assert (take_plain(stream, 1, payloads), b"".join(payloads)) == taken(stream, 1, False)

    @pytest.mark.parametrize("count", [1, 4, 12, 13, 60, 10_000])
    def test_a_run_is_taken_in_pieces_that_double(self, count: int) -> None:
        stream = binary_frame(b"\x82\x02", None) * count + frame(0x89, b"..", masked=False) * 10_000
        payloads: list[bytes] = []
        assert take_plain(stream, 0, payloads) == count * 4
        assert b"".join(payloads) == b"\x82\x02" * count
        singly = min(count, 5)
        assert len(payloads) <= singly + (count // 8).bit_length() + 1

    def test_a_length_not_in_its_shortest_form_is_left_to_the_slow_path(self) -> None:
        for masked, take in ((True, take_masked), (False, take_plain)):
            bit = 0x80 if masked else 0
            stream = bytes((0x82, bit | 126, 0, 5)) + bytes(4 if masked else 0) + b"hello"
            payloads: list[bytes] = []
            assert take(stream, 0, payloads) == 0
            assert payloads == []

    @pytest.mark.parametrize("count", [63, 64, 65, 128, 200])
    def test_many_are_unmasked_together(self, count: int) -> None:
        shapes = [(bytes((n, n + 1, 255 - n, n ^ 90)), bytes((n,)) * (n % 126)) for n in range(count)]
        stream = b"".join(binary_frame(payload, key) for key, payload in shapes)
        payloads: list[bytes] = []
        assert take_masked(stream, 0, payloads) == len(stream)
        assert b"".join(payloads) == b"".join(payload for _, payload in shapes)
        assert len(payloads) == (count + 63) // 64


@pytest.mark.parametrize(
    "stream",
    [
        b"\x82\x03abcdef",  # not masked
        b"\x82\xfe\x00\x7dkkkk" + bytes(125),  # 125 bytes, of which the length takes more than it needs
        b"\x82\xff" + (65_536).to_bytes(8, "big") + b"kkkk",  # more than 65,535 bytes
    ],
)
def test_a_frame_that_is_not_usual_is_left_to_the_plain_path(stream: bytes) -> None:
    payloads: list[bytes] = []
    assert take_masked(stream, 0, payloads) == 0
    assert payloads == []


@pytest.mark.parametrize(
    "payloads", [[b"x"], [b"x" * 125], [b"x" * 126], [b"abc", b"", b"defgh"], [b"x" * 600, b"y"], [b""]]
)
def test_a_server_takes_whole_messages_without_an_event(payloads: list[bytes]) -> None:
    _, server = opened()
    stream = b"".join(frame(0x82, payload, masked=True) for payload in payloads)
    assert server.take_whole(stream) == b"".join(payloads)
    assert not server.has_output


@pytest.mark.parametrize("position", range(1, 8))
def test_part_of_a_message_is_not_taken(position: int) -> None:
    """Nor is what follows it, until the frame is complete."""
    _, server = opened()
    stream, following = frame(0x82, b"ab", masked=True), frame(0x82, b"c", masked=True)
    assert server.take_whole(stream[:position]) is None
    events = server.receive_data(stream[:position])
    assert server.take_whole(stream[position:]) is None
    events += server.receive_data(stream[position:])
    assert gather(events) == [b"ab"]
    assert server.take_whole(following) == b"c"


def test_unusual_frames_are_not_taken() -> None:
    _, server = opened()
    usual = frame(0x82, b"c", masked=True)
    ping = frame(0x89, b"p", masked=True)
    assert server.take_whole(ping) is None
    assert server.take_whole(usual + ping) is None
    assert server.receive_data(frame(0x02, b"a", masked=True)) == [b"a"]  # the first fragment
    assert server.take_whole(usual) is None
    assert server.receive_data(frame(0x80, b"b", masked=True)) == [b"b"]
    assert server.take_whole(usual) == b"c"
    server.close()
    assert server.take_whole(usual) is None


def test_nothing_is_taken_before_the_handshake() -> None:
    assert ServerWebSocket().take_whole(frame(0x82, b"c", masked=True)) is None


@pytest.mark.parametrize("size", [1, 2, 5, 124, 125])
def test_a_short_message_is_taken_alone(size: int) -> None:
    payload = bytes(range(size))
    assert take_short(frame(0x82, payload, masked=True)) == payload


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x82\x80kkkk",  # empty
        b"\x82\x82kkkka",  # incomplete
        b"\x82\x81kkkkab",  # followed by the beginning of another frame
        b"\x82\x03abcdefg",  # not masked
        b"\x81\x81kkkka",  # a text message
        b"\x02\x81kkkka",  # a fragment
        b"\x82\xfe\x00\x7ekkkk" + bytes(126),  # longer
    ],
)
def test_anything_else_is_no_short_message(data: bytes) -> None:
    assert take_short(data) is None


def test_plain_framing_passes_bytes_unchanged() -> None:
    framing = Framing()
    assert framing.opened
    assert framing.start() == [Opened()]
    assert framing.receive_data(b"x") == [b"x"]
    assert framing.take_whole(b"x") == b"x"
    framing.send(b"a")
    assert framing.data_to_send() == b"a"
    framing.send(b"a")
    framing.send(b"b")
    assert framing.data_to_send() == b"ab"
    assert framing.data_to_send() == b""
    assert framing.receive_eof() is None
    assert not framing.finished
    framing.close()
    assert framing.finished
    assert framing.data_to_send() == b""


class TestSending:
    def test_a_client_masks_and_a_server_does_not(self) -> None:
        client, server = opened()
        client.send(b"Hello")
        assert client.data_to_send() == bytes.fromhex("82 85 37fa213d 7f9f4d5158")
        server.send(b"Hello")
        assert server.data_to_send() == b"\x82\x05Hello"

    def test_each_frame_has_a_new_key(self) -> None:
        drawn: list[bytes] = []

        def entropy(count: int) -> bytes:
            drawn.append(bytes(n + len(drawn) for n in range(count))[:count] if not drawn else b"\xff" * count)
            return drawn[-1]

        client = ClientWebSocket("h", "/", entropy=entropy)
        server = ServerWebSocket()
        server.receive_data(client.data_to_send())
        server.accept_upgrade()
        client.receive_data(server.data_to_send())
        keys = []
        for _ in range(65):
            client.send(b"")
            keys.append(client.data_to_send()[2:])
        assert b"".join(keys[:64]) == drawn[0]
        assert keys[64] == b"\xff" * 4
        assert len(set(keys)) == 65

    def test_nothing_is_sent_after_the_close_frame(self, side: Side) -> None:
        framing, _ = side
        framing.close()
        assert framing.data_to_send()[0] == 0x88
        framing.send(b"late")
        framing.close()
        assert framing.data_to_send() == b""


class TestDataFrames:
    @pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 1_000, 65_535, 65_536, 100_000])
    @pytest.mark.statement("MQTT-6.0.0-2")
    def test_every_length(self, side: Side, size: int) -> None:
        framing, masked = side
        payload = bytes(n % 251 for n in range(size))
        assert gather(framing.receive_data(frame(0x82, payload, masked=masked))) == ([payload] if size else [])

    def test_split_at_every_byte(self) -> None:
        payload = bytes(range(200))
        for masked in (False, True):
            data = frame(0x82, payload, masked=masked) * 2
            for cut in range(len(data) + 1):
                framing = opened()[masked]
                events = framing.receive_data(data[:cut]) + framing.receive_data(data[cut:])
                assert gather(events) == [payload * 2]
            framing = opened()[masked]
            events = [event for n in range(len(data)) for event in framing.receive_data(data[n : n + 1])]
            assert gather(events) == [payload * 2]

    def test_a_payload_is_passed_on_as_it_arrives(self, side: Side) -> None:
        framing, masked = side
        data = frame(0x82, b"abcdef", masked=masked)
        assert framing.receive_data(data[:-3]) == [b"abc"]
        assert framing.receive_data(data[-3:]) == [b"def"]

    def test_messages_received_together_give_one_event(self, side: Side) -> None:
        framing, masked = side
        assert framing.receive_data(frame(0x82, b"ab", masked=masked) * 3) == [b"ababab"]

    def test_only_plain_frames_take_the_fast_path(self, side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
        framing, masked = side
        unusual: list[bytes] = []
        monkeypatch.setattr(type(framing), "_receive_unusual", lambda _self, data, *_lists: unusual.append(data))
        for size in (0, 125, 126, 65_535, 65_536):
            assert len(b"".join(framing.receive_data(frame(0x82, bytes(size), masked=masked)))) == size  # type: ignore[arg-type]
        assert unusual == []
        for odd in (frame(0x82, b"", masked=not masked), frame(0x82, b"", masked=masked, size=b"\x7e\0\0")):
            framing.receive_data(odd)
            assert unusual.pop() == odd

    def test_fragments_with_pings_and_pongs_between(self, side: Side) -> None:
        framing, masked = side
        stream = b"".join(
            (
                frame(0x82, b"0", masked=masked),
                frame(0x02, b"1", masked=masked),
                frame(0x89, b"ping", masked=masked),
                frame(0x00, b"", masked=masked),
                frame(0x8A, b"unasked", masked=masked),
                frame(0x00, b"2", masked=masked),
                frame(0x80, b"3", masked=masked),
                frame(0x02, b"", masked=masked),
                frame(0x80, b"", masked=masked),
                frame(0x82, b"4", masked=masked),
            )
        )
        for chunks in ([stream], [stream[n : n + 1] for n in range(len(stream))]):
            client, server = opened()
            framing = server if masked else client
            events = [event for chunk in chunks for event in framing.receive_data(chunk)]
            assert gather(events) == [b"01234"]
            pong = framing.data_to_send()
            assert pong == frame(0x8A, b"ping", masked=not masked) if masked else pong[0] == 0x8A

    def test_pings_of_a_peer_that_reads_nothing_take_no_more_memory(self, side: Side) -> None:
        framing, masked = side
        for number in range(MOST_PONGS + 100):
            framing.receive_data(frame(0x89, b"%d" % number, masked=masked))
        framing.send(b"data")
        for _ in range(100):
            framing.receive_data(frame(0x89, b"later", masked=masked))
        pongs = WSProto(ConnectionType.CLIENT if masked else ConnectionType.SERVER)
        pongs.receive_data(framing.data_to_send())
        events = list(pongs.events())
        assert len(events) == MOST_PONGS + 2
        assert [bytes(event.payload) for event in events[:-2]] == [
            *(b"%d" % number for number in range(MOST_PONGS - 1)),
            b"%d" % (MOST_PONGS + 99),
        ]
        assert bytes(events[-2].data) == b"data"
        assert bytes(events[-1].payload) == b"later"

    def test_a_long_fragmented_message_is_passed_on_as_it_arrives(self, side: Side) -> None:
        framing, masked = side
        total = gather(framing.receive_data(frame(0x02, b"a" * 70_000, masked=masked)[:40_000]))
        assert len(total) == 1
        assert isinstance(total[0], bytes)
        assert len(total[0]) > 39_000


#: (description, first byte, payload, length field or None)
BAD = [
    ("RSV1", 0xC2, b"x", None),
    ("RSV2", 0xA2, b"x", None),
    ("RSV3", 0x92, b"x", None),
    ("reserved data opcode", 0x83, b"x", None),
    ("reserved data opcode", 0x87, b"", None),
    ("reserved control opcode", 0x8B, b"", None),
    ("reserved control opcode", 0x8F, b"", None),
    ("continuation of nothing", 0x80, b"x", None),
    ("continuation of nothing", 0x00, b"x", None),
    ("fragmented ping", 0x09, b"", None),
    ("fragmented close", 0x08, b"", None),
    ("long ping", 0x89, b"x" * 126, None),
    ("long close", 0x88, b"\x03\xe8" + b"x" * 124, None),
    ("length in 2 bytes, not 1", 0x82, b"x" * 125, b"\x7e\0\x7d"),
    ("length in 8 bytes, not 2", 0x82, b"x" * 126, b"\x7f" + (126).to_bytes(8, "big")),
    ("length in 8 bytes, not 1", 0x82, b"x", b"\x7f" + (1).to_bytes(8, "big")),
    ("length of 64 bits", 0x82, b"", b"\x7f\x80" + bytes(7)),
    ("close code of 1 byte", 0x88, b"\x03", None),
    ("close code 1005", 0x88, b"\x03\xed", None),
    ("close code 1006", 0x88, b"\x03\xee", None),
    ("close code 999", 0x88, b"\x03\xe7", None),
    ("close reason no UTF-8", 0x88, b"\x03\xe8\xff", None),
]


@pytest.mark.parametrize(("what", "first", "payload", "size"), BAD, ids=[case[0] for case in BAD])
@pytest.mark.parametrize("split", [False, True], ids=["joined", "byte by byte"])
def test_malformed_frames_end_it(
    side: Side, what: str, first: int, payload: bytes, size: bytes | None, split: bool
) -> None:
    framing, masked = side
    good = frame(0x82, b"good", masked=masked)
    data = good + frame(first, payload, masked=masked, size=size) + good
    chunks = [data[n : n + 1] for n in range(len(data))] if split else [data]
    events = gather([event for chunk in chunks for event in framing.receive_data(chunk)])
    assert len(events) == 2, events
    assert events[0] == b"good"
    assert isinstance(events[1], Ended)
    assert isinstance(events[1].error, RemoteProtocolError)
    assert events[1].error.statement == "RFC 6455 §5"
    assert framing.finished
    assert framing.data_to_send()[0] == 0x88
    assert framing.receive_data(good) == []


def test_a_new_message_inside_a_fragmented_one_ends_it(side: Side) -> None:
    framing, masked = side
    events = framing.receive_data(frame(0x02, b"a", masked=masked) + frame(0x82, b"b", masked=masked))
    assert events[0] == b"a" or isinstance(events[0], Ended)
    assert isinstance(events[-1], Ended)
    assert isinstance(events[-1].error, RemoteProtocolError)


def test_the_wrong_masking_ends_it(side: Side) -> None:
    framing, masked = side
    (ended,) = framing.receive_data(frame(0x82, b"x", masked=not masked))
    assert isinstance(ended, Ended)
    assert isinstance(ended.error, RemoteProtocolError)
    assert "mask" in str(ended.error)


class TestText:
    @pytest.mark.parametrize("text", [b"", b"hi", "\u20ac".encode()])
    @pytest.mark.statement("MQTT-6.0.0-1")
    def test_it_is_closed_with_1003(self, side: Side, text: bytes) -> None:
        framing, masked = side
        data = (
            frame(0x82, b"before", masked=masked) + frame(0x81, text, masked=masked) + frame(0x82, b"x", masked=masked)
        )
        events = framing.receive_data(data)
        assert events[0] == b"before"
        assert isinstance(events[1], Ended)
        assert isinstance(events[1].error, RemoteProtocolError)
        assert events[1].error.statement == "MQTT-6.0.0-1"
        assert len(events) == 2
        expected = frame(0x88, (1003).to_bytes(2, "big") + b"MQTT requires binary messages", masked=not masked)
        sent = framing.data_to_send()
        assert len(sent) == len(expected)
        if masked:
            assert sent == expected
        assert framing.finished

    def test_in_fragments(self, side: Side) -> None:
        framing, masked = side
        (ended,) = framing.receive_data(frame(0x01, b"h", masked=masked))
        assert isinstance(ended, Ended)

    def test_invalid_utf_8(self, side: Side) -> None:
        framing, masked = side
        (ended,) = framing.receive_data(frame(0x81, b"\xff", masked=masked))
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, RemoteProtocolError)

    def test_while_closing(self, side: Side) -> None:
        framing, masked = side
        framing.close()
        assert not framing.finished
        assert len(framing.receive_data(frame(0x81, b"hi", masked=masked))) == 1
        assert framing.finished


class TestClosing:
    @pytest.mark.parametrize(("code", "reason"), [(4001, "why"), (NORMAL, "")])
    def test_our_close_frame_is_answered(self, side: Side, code: int, reason: str) -> None:
        framing, masked = side
        framing.close(code, reason)
        sent = framing.data_to_send()
        assert sent[0] == 0x88
        if masked:
            assert sent == frame(0x88, code.to_bytes(2, "big") + reason.encode(), masked=False)
        assert not framing.finished
        assert framing.receive_data(frame(0x89, b"", masked=masked)) == []  # no longer answered
        assert gather(framing.receive_data(frame(0x82, b"late", masked=masked))) == [b"late"]
        events = framing.receive_data(frame(0x88, code.to_bytes(2, "big"), masked=masked))
        assert len(events) == 1
        assert isinstance(events[0], Ended)
        assert framing.finished
        assert framing.data_to_send() == b""

    def test_a_normal_closure_needs_no_wsproto(self, side: Side) -> None:
        framing, masked = side
        arriving = frame(0x82, b"last", masked=masked)
        assert gather(framing.receive_data(arriving[:-1])) == [b"las"]
        framing.close()
        sent = framing.data_to_send()
        if masked:  # the server's end, whose frames are not masked
            assert sent == b"\x88\x02\x03\xe8"
        else:
            assert sent[:2] == b"\x88\x82"
            assert mask(sent[6:], sent[2:6]) == b"\x03\xe8"
        assert not framing.finished
        events = framing.receive_data(arriving[-1:] + frame(0x88, b"\x03\xe8", masked=masked))
        assert events[0] == b"t"
        assert isinstance(events[1], Ended)
        assert isinstance(events[1].error, ConnectionClosed)
        assert events[1].error.code == 1000
        assert len(events) == 2
        assert framing.finished
        assert framing._ws is None
        assert framing.receive_data(b"\x82\x00") == []
        assert framing.data_to_send() == b""

    @pytest.mark.parametrize("payload", [b"", b"\x03\xe9", b"\x03\xe8bye"])
    def test_another_close_frame_after_a_normal_closure(self, side: Side, payload: bytes) -> None:
        framing, masked = side
        framing.close()
        framing.data_to_send()
        (ended,) = framing.receive_data(frame(0x88, payload, masked=masked))
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, ConnectionClosed)
        assert ended.error.code == (int.from_bytes(payload[:2], "big") or None)
        assert framing.finished
        assert framing.data_to_send() == b""

    def test_a_normal_closure_in_pieces(self, side: Side) -> None:
        framing, masked = side
        framing.close()
        framing.data_to_send()
        events = [
            each for byte in frame(0x88, b"\x03\xe8", masked=masked) for each in framing.receive_data(bytes((byte,)))
        ]
        assert [type(event) for event in events] == [Ended]
        assert framing.finished
        assert framing.data_to_send() == b""

    def test_a_close_frame_with_the_wrong_masking(self, side: Side) -> None:
        framing, masked = side
        framing.close()
        framing.data_to_send()
        (ended,) = framing.receive_data(frame(0x88, b"\x03\xe8", masked=not masked))
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, RemoteProtocolError)

    def test_a_received_close_frame_is_answered(self, side: Side) -> None:
        framing, masked = side
        data = frame(0x82, b"last", masked=masked) + frame(0x88, b"\x03\xe9bye", masked=masked)
        events = framing.receive_data(data + frame(0x82, b"never", masked=masked))
        assert events[0] == b"last"
        assert isinstance(events[1], Ended)
        assert isinstance(events[1].error, ConnectionClosed)
        assert events[1].error.code == 1001
        assert len(events) == 2
        assert framing.finished
        sent = framing.data_to_send()
        assert sent[0] == 0x88
        if masked:
            assert sent == b"\x88\x05\x03\xe9bye"
        assert framing.receive_data(b"\x82\x00") == []
        framing.close(NORMAL)
        assert framing.data_to_send() == b""

    def test_a_received_close_frame_without_a_code(self, side: Side) -> None:
        framing, masked = side
        (ended,) = framing.receive_data(frame(0x88, b"", masked=masked))
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, ConnectionClosed)
        assert ended.error.code is None
        assert len(framing.data_to_send()) == (2 if masked else 6)

    def test_a_malformed_frame_while_closing(self, side: Side) -> None:
        framing, masked = side
        framing.close()
        framing.data_to_send()
        (ended,) = framing.receive_data(frame(0x83, b"", masked=masked))
        assert isinstance(ended, Ended)
        assert framing.finished
        assert framing.data_to_send() == b""

    def test_both_ends(self) -> None:
        client, server = opened()
        client.send(b"last")
        client.close()
        events = server.receive_data(client.data_to_send())
        assert events[0] == b"last"
        assert isinstance(events[1], Ended)
        assert server.finished
        (ended,) = client.receive_data(server.data_to_send())
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, ConnectionClosed)
        assert ended.error.code == 1000
        assert client.finished


# The fast path compared with wsproto.

_FRAMES = st.one_of(
    st.tuples(st.just(0x82), st.binary(max_size=10)),
    st.tuples(st.just(0x82), st.integers(120, 135).map(bytes)),
    st.tuples(st.just(0x82), st.integers(500, 520).map(bytes)),
    st.tuples(st.just(0x82), st.sampled_from([65_535, 65_536]).map(bytes)),
    st.tuples(st.sampled_from([0x02, 0x00, 0x80, 0x89, 0x8A]), st.binary(max_size=10)),
    st.tuples(st.sampled_from([0x81, 0x01, 0x88, 0xC2, 0x83]), st.binary(max_size=4)),
)


def outcome_of_wsproto(server: bool, chunks: list[bytes]) -> tuple[bytes, list[bytes], str | None]:
    """Return how wsproto alone processes a stream: the MQTT bytes, the pings to answer, and the end.

    The pieces are the same: text whose first piece is well-formed and whose second is not ends as text or as
    ill-formed, depending on the boundary.
    """
    ws = WSProto(ConnectionType.SERVER if server else ConnectionType.CLIENT)
    payload, pings = b"", []
    for chunk in chunks:
        ws.receive_data(chunk)
        for event in ws.events():
            if isinstance(event, BytesMessage):
                payload += bytes(event.data)
            elif isinstance(event, Ping):
                pings.append(bytes(event.payload))
            elif isinstance(event, TextMessage):
                return payload, pings, "text"
            elif isinstance(event, CloseConnection):
                return payload, pings, "closed" if ws.state is ConnectionState.REMOTE_CLOSING else "malformed"
    return payload, pings, None


def outcome_of_ours(server: bool, chunks: list[bytes]) -> tuple[bytes, list[bytes], str | None]:
    framing = opened()[server]
    events: list[FramingEvent] = []
    for chunk in chunks:
        events += framing.receive_data(chunk)
    sent = framing.data_to_send()
    pongs, position = [], 0
    while position < len(sent) and sent[position] == 0x8A:
        measured = parse_header(sent, position)
        assert measured is not None
        header, size = measured
        data = sent[position + header : position + header + size]
        pongs.append(data if server else mask(data, sent[position + header - 4 : position + header]))
        position += header + size
    end = None
    if events and isinstance(events[-1], Ended):
        error = events.pop().error
        assert sent[position] == 0x88
        if isinstance(error, ConnectionClosed):
            end = "closed"
        else:
            assert isinstance(error, RemoteProtocolError)
            end = "text" if error.statement == "MQTT-6.0.0-1" else "malformed"
    assert all(isinstance(event, bytes) for event in events)
    return b"".join(event for event in events if isinstance(event, bytes)), pongs, end


@settings(max_examples=300)
@given(st.booleans(), st.lists(_FRAMES, max_size=6), st.data())
def test_the_fast_path_agrees_with_wsproto(server: bool, shapes: list[tuple[int, bytes]], data: st.DataObject) -> None:
    stream = bytearray(b"".join(frame(first, payload, masked=server) for first, payload in shapes))
    if stream and data.draw(st.booleans()):
        headers = st.integers(0, min(len(stream) - 1, 40))
        stream[data.draw(headers)] = data.draw(st.integers(0, 255))
        stream += bytes(14)  # the fast path checks complete headers; wsproto may check the first bytes
    chunks = some.pieces(bytes(stream), data.draw(some.cuts(len(stream))))
    assert outcome_of_ours(server, chunks) == outcome_of_wsproto(server, chunks)
