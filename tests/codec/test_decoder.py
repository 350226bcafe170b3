"""The stream decoder gives the same packets or the same fault as a plain implementation, however bytes are cut."""

from __future__ import annotations

import random
import tracemalloc
from typing import Any
from unittest import mock

import packet_strategies as some
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mqttws import (
    ConnAck,
    Connect,
    Decoder,
    MalformedPacket,
    Message,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    Publish,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    compiled,
)
from mqttws.codec import decoder as decoder_module
from mqttws.codec import shortcuts, subscribing
from mqttws.codec.memory import Memory
from mqttws.codec.packets import check_first_byte, decode
from mqttws.codec.publishing import encode_publish
from mqttws.codec.wire import decode_remaining_length, encode_remaining_length

STREAM: list[Packet] = [
    Connect("id", will=Message("w", b"gone", 1), username="u", password=b"p"),
    Publish("a/b", b"payload", 1, packet_id=7),
    PubAck(7),
    PingReq(),
    Publish("a/b", b"x" * 200),
    PubRel(300),
    Publish("a", qos=2, dup=True, retain=True, packet_id=65_535),
    Subscribe(9, [("a/#", 2), ("+", 0)]),
    SubAck(9, [2, 0x80]),
    Unsubscribe(10, ["a/#", "+"]),
    UnsubAck(10),
    ConnAck(0, session_present=True),
    PingResp(),
]
BYTES = b"".join(packet.encode() for packet in STREAM)

#: The packets, their repr (True and 1 are equal, but have another repr), and the violated statement.
Outcome = tuple[list[Packet], list[str], str | None]


def outcome(packets: list[Packet], fault: MalformedPacket | None = None) -> Outcome:
    return packets, list(map(repr, packets)), fault and fault.statement


def plain(data: bytes, maximum: int = 1 << 28) -> Outcome:
    """Decode in the plain way: packet by packet, without caches, with every check."""
    packets: list[Packet] = []
    try:
        while data:
            check_first_byte(data[0])
            header = decode_remaining_length(data, 1)
            if header is None:
                break
            length, start = header
            if start + length > maximum:
                raise MalformedPacket("too large", "§2.2.3")
            if start + length > len(data):
                break
            packets.append(decode(data[0], data[start : start + length]))
            data = data[start + length :]
    except MalformedPacket as fault:
        return outcome(packets, fault)
    return outcome(packets)


def fast(chunks: list[bytes], maximum: int = 1 << 28) -> Outcome:
    """Feed a decoder until it faults; in pure Python also one that creates packets as the compiled one does."""
    found = fed(chunks, maximum)
    if not compiled:
        with mock.patch.object(decoder_module, "BLANK", None), mock.patch.object(shortcuts, "BLANK", None):
            assert fed(chunks, maximum) == found
    return found


def fed(chunks: list[bytes], maximum: int) -> Outcome:
    decoder = Decoder(maximum)
    packets: list[Packet] = []
    for chunk in chunks:
        try:
            packets += decoder.feed(chunk)
        except MalformedPacket:
            break
    for packet in packets:  # the shortcut creates no packet that the constructor would refuse
        assert type(packet)(*packet._values()) == packet
    return outcome(packets, decoder.fault)


def test_packets_received_together() -> None:
    assert fast([BYTES]) == outcome(STREAM)


def test_split_in_two_at_every_byte() -> None:
    for cut in range(len(BYTES) + 1):
        assert fast([BYTES[:cut], BYTES[cut:]]) == outcome(STREAM)


def test_byte_by_byte_each_packet_comes_with_its_last_byte() -> None:
    decoder = Decoder()
    ends, position = {}, 0
    for packet in STREAM:
        position += len(packet.encode())
        ends[position] = packet
    for position, byte in enumerate(BYTES, 1):
        assert decoder.feed(bytes((byte,))) == ([ends[position]] if position in ends else [])


@pytest.mark.parametrize("trailing", [b"\xc0", b"\x30\x05\x00", b"\x82\xff", b"\x10\x80\x80\x80"])
@pytest.mark.parametrize("packet", STREAM, ids=lambda packet: type(packet).__name__)
def test_trailing_bytes_wait_for_the_rest_of_their_packet(packet: Packet, trailing: bytes) -> None:
    decoder = Decoder()
    assert decoder.feed(packet.encode() + trailing) == [packet]
    assert decoder.fault is None


def test_the_missing_byte_count_never_includes_the_next_packet() -> None:
    stream = bytes.fromhex("30 80 01  0001 61") + b"x" * 125 + bytes.fromhex("c0 00")
    decoder = Decoder()
    position, reads = 0, []
    while position < len(stream):
        reads.append(decoder.missing)
        decoder.feed(stream[position : position + reads[-1]])
        position += reads[-1]
    assert reads == [2, 1, 128, 2]  # the shortest fixed header, the rest of its length, the body; the next packet
    assert decoder.missing == 2


def test_no_bytes_give_no_packets() -> None:
    decoder = Decoder()
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\x30") == []
    assert decoder.feed(b"") == []


@given(st.lists(some.packets, max_size=6), st.data())
def test_any_chunking_gives_the_same_packets(packets: list[Packet], data: st.DataObject) -> None:
    stream = b"".join(packet.encode() for packet in packets)
    chunks = some.pieces(stream, data.draw(some.cuts(len(stream))))
    assert fast(chunks) == outcome(packets)


_ALIKE = [
    Publish("a/b", b"one"),
    Publish("a/b", b"two"),
    Publish("a/b", b"three"),
    Publish("a/c", b"one"),
    Publish("a/b", b"one", retain=True),
    Publish("a/b", b"1", 1, packet_id=8),
    PubAck(9),
    Publish("a/b", b"x" * 130),
    Publish("a/b", b"y" * 130),
]


@given(st.lists(st.tuples(st.sampled_from(_ALIKE), st.integers(1, 5)), max_size=8), st.data())
@example([(_ALIKE[0], 5), (_ALIKE[1], 3), (_ALIKE[2], 3), (_ALIKE[3], 1), (_ALIKE[4], 4)], None)
@example([(_ALIKE[7], 3), (_ALIKE[8], 3)], None)
def test_runs_of_packets_that_begin_alike(runs: list[tuple[Packet, int]], data: st.DataObject | None) -> None:
    packets = [packet for packet, count in runs for _ in range(count)]
    stream = b"".join(packet.encode() for packet in packets)
    Decoder().feed(_ALIKE[0].encode() + _ALIKE[3].encode())  # caches these topics
    chunks = some.pieces(stream, data.draw(some.cuts(len(stream)))) if data else [stream]
    assert fast(chunks) == plain(stream) == outcome(packets)
    maximum = data.draw(st.integers(4, 20)) if data else 11
    assert fast(chunks, maximum) == plain(stream, maximum)


def test_a_run_that_ends_within_a_packet() -> None:
    packet = Publish("a/b", b"12345678")
    stream = packet.encode() * 6
    for cut in range(len(stream) + 1):
        assert fast([packet.encode(), stream[:cut], stream[cut:]]) == outcome([packet] * 7)


def test_a_run_of_messages_is_taken_without_packets() -> None:
    Decoder().feed(bytes.fromhex("30 04 0001 61 78") * 2)  # caches the topic "a"
    decoder = Decoder()
    assert decoder.take_run(bytes.fromhex("30 05 0001 61 6869")) == ("a", [b"hi"])
    assert decoder.take_run(bytes.fromhex("30 05 0001 61 6869") * 3) == ("a", [b"hi"] * 3)
    assert decoder.take_run(bytes.fromhex("30 03 0001 61")) == ("a", [b""])


@pytest.mark.parametrize(
    "literal",
    [
        "",
        "30 03 0001",  # incomplete
        "30 05 0001 61 68",
        "31 05 0001 61 6869",  # RETAIN
        "32 05 0001 61 0001",  # QoS 1
        "38 05 0001 61 6869",  # DUP with QoS 0, which is malformed
        "30 05 0001 61 6869 30",  # the beginning of another packet
        "30 05 0001 61 6869 c0 00",
        "30 05 0001 61 6869 30 06 0001 61 6869 6a",  # two sizes
        "30 05 0001 61 6869 30 05 0001 62 6869",  # two topics
        "30 85 00 0001 61 6869",  # the length takes more bytes than it needs
        "30 02 0001 61",  # the topic is longer than the packet
        "30 05 0001 2b 6869",  # a wildcard
        "30 05 0001 7a 6869",  # a topic that is not cached
        "30 07 0001 61 78787878",  # larger than the maximum
    ],
)
def test_anything_else_is_not_taken_and_changes_nothing(literal: str) -> None:
    Decoder().feed(bytes.fromhex("30 03 0001 61 30 03 0001 62") * 2)  # caches two topics
    data = bytes.fromhex(literal)
    decoder = Decoder(max_packet_size=8)
    assert decoder.take_run(data) is None
    assert not decoder.under_way
    assert decoder.fault is None
    assert fed([data], 8) == plain(data, 8)


def test_a_run_does_not_overtake_an_incomplete_packet_or_an_error() -> None:
    message = bytes.fromhex("30 04 0001 61 78")
    Decoder().feed(message * 2)
    decoder = Decoder()
    assert decoder.feed(b"\x30\x09\x00\x01a") == []
    assert decoder.take_run(message) is None
    assert decoder.feed(message) == [Publish("a", message)]
    assert decoder.take_run(message) == ("a", [b"x"])
    with pytest.raises(MalformedPacket):
        decoder.feed(b"\x00\x00")
    assert decoder.take_run(message) is None


@given(st.lists(st.tuples(st.sampled_from(_ALIKE), st.integers(1, 5)), max_size=3), st.integers(0, 3))
def test_a_run_that_is_taken_has_the_messages_of_the_stream(runs: list[tuple[Packet, int]], missing: int) -> None:
    stream = b"".join(packet.encode() * count for packet, count in runs)
    stream = stream[: len(stream) - missing]
    Decoder().feed(_ALIKE[0].encode() + _ALIKE[3].encode())
    run = Decoder().take_run(stream)
    if run is not None:
        topic, payloads = run
        assert outcome([Publish(topic, payload) for payload in payloads]) == plain(stream)
        assert b"".join(encode_publish(topic, payload) for payload in payloads) == stream


# Bytes that resemble packets reach more of the decoder than random bytes.
_looks_like_packets = st.lists(
    st.one_of(
        some.packets.map(lambda packet: packet.encode()),
        st.binary(max_size=6),
        st.builds(
            lambda first, length, body: bytes((first,)) + length(len(body)) + body,
            st.sampled_from([0x30, 0x31, 0x32, 0x34, 0x36, 0x38, 0x3A, 0x40, 0x50, 0x62, 0x70, 0xB0, 0x82, 0x20]),
            # The length in its shortest form and in longer forms, which the standard does not forbid.
            st.sampled_from(
                [
                    encode_remaining_length,
                    lambda length: bytes((length | 0x80, 0x00)),
                    lambda length: bytes((length | 0x80, 0x80, 0x00)),
                ]
            ),
            st.one_of(
                st.binary(max_size=8),
                st.builds(
                    lambda size, topic, rest: bytes((0, size)) + topic + rest,
                    st.integers(0, 5),
                    st.sampled_from([b"a", b"b/c", b"#", b"\xff", b"\0", b""]),
                    st.sampled_from([b"", b"\0", b"\0\0", b"\0\1", b"\0\0xyz", b"\0\1xyz"]),
                ),
            ),
        ),
    ),
    max_size=6,
).map(b"".join)


@given(_looks_like_packets, st.data())
@example(b"\x32\x03\x00\x01a", None)
@example(b"\x38\x03\x00\x01a", None)
@example(b"\x36\x05\x00\x01a\x00\x01", None)
@example(b"\x32\x05\x00\x01a\x00\x00", None)
@example(b"\x40\x02\x00\x00", None)
@example(b"\x41\x02\x00\x01", None)
@example(b"\xc0\x00\xe0\x00\xd0\x00\xc1\x00", None)
@example(b"\x30\x03\x00\x03b/c", None)  # a topic that seems to continue in the next packet
@example(b"\x32\x05\x00\x03b/c\x00\x01", None)
@example(b"\x32\x06\x00\x03b/c\x00", None)
@example(b"\x30\x04\x01\x00ab", None)
@example(b"\x3d\x06\x00\x01a\x00\x01x", None)
@example(b"\x38\x83\x00\x00\x01a", None)  # DUP with QoS 0, the length in two bytes
@example(b"\x30\x80", None)
@example(b"\x30\x80\x01", None)
@example(b"\x30\xff\xff\xff\xff", None)
def test_the_fast_loop_and_the_plain_implementation_agree_on_any_bytes(
    stream: bytes, data: st.DataObject | None
) -> None:
    Decoder().feed(Publish("a").encode() + Publish("b/c").encode())  # caches these topics
    maximum = data.draw(st.sampled_from([1 << 28, 8])) if data else 1 << 28
    chunks = some.pieces(stream, data.draw(some.cuts(len(stream)))) if data else [stream]
    assert fast(chunks, maximum) == plain(stream, maximum)


@given(st.binary(min_size=100, max_size=400), st.integers(0, 2), st.booleans(), st.booleans(), st.data())
def test_they_agree_on_lengths_of_one_byte_and_of_two(
    payload: bytes, qos: int, retain: bool, dup: bool, data: st.DataObject
) -> None:
    packet = Publish("a", payload, qos, retain, dup and qos > 0, 258 if qos else None)
    stream = packet.encode() * 2
    chunks = some.pieces(stream, data.draw(some.cuts(len(stream))))
    assert fast(chunks) == plain(stream) == outcome([packet, packet])
    for maximum in (len(packet.encode()), len(packet.encode()) - 1):
        assert fast(chunks, maximum) == plain(stream, maximum)


@given(st.lists(some.packets, min_size=1, max_size=3), st.data())
def test_they_agree_on_packets_with_a_byte_changed(packets: list[Packet], data: st.DataObject) -> None:
    stream = bytearray(b"".join(packet.encode() for packet in packets))
    stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    chunks = some.pieces(bytes(stream), data.draw(some.cuts(len(stream))))
    assert fast(chunks) == plain(bytes(stream))


@pytest.mark.parametrize("bad", ["00 00", "f0 00", "36 05 0001 61 0001", "c0 01 00", "62 80 80 80 80"])
def test_valid_packets_before_a_malformed_one_are_returned_and_the_next_call_raises(bad: str) -> None:
    decoder = Decoder()
    good = [PubAck(1), Publish("a"), PingReq()]
    assert decoder.feed(b"".join(packet.encode() for packet in good) + bytes.fromhex(bad) + PingReq().encode()) == good
    assert decoder.fault is not None
    for _ in range(2):
        with pytest.raises(MalformedPacket) as caught:
            decoder.feed(PingReq().encode())
        assert caught.value is decoder.fault


def test_a_malformed_first_packet_raises_immediately() -> None:
    decoder = Decoder()
    with pytest.raises(MalformedPacket, match="control packet type 15 is reserved"):
        decoder.feed(b"\xf0")
    with pytest.raises(MalformedPacket):
        decoder.feed(b"")


def test_a_wrong_first_byte_is_detected_before_the_rest_arrives() -> None:
    for first in (0x00, 0xF0, 0x60, 0x80, 0xE1):
        with pytest.raises(MalformedPacket):
            Decoder().feed(bytes((first,)))


@pytest.mark.parametrize(("lenient", "reason"), [(False, "the flags of ConnAck"), (True, "continues after four bytes")])
def test_the_first_fault_of_a_fixed_header_is_reported_however_it_arrives(lenient: bool, reason: str) -> None:
    header = bytes.fromhex("21 80808080")  # flags that MQTT 3.1 ignores; a remaining length of five bytes
    for pieces in ([header], [header[:1], header[1:]], [header[at : at + 1] for at in range(5)]):
        decoder = Decoder()
        decoder.lenient = lenient
        with pytest.raises(MalformedPacket, match=reason):
            list(map(decoder.feed, pieces))


@pytest.mark.parametrize("first", range(0x10, 0x20))
def test_whether_the_flags_of_a_connect_count_depends_on_its_level(first: int) -> None:
    for connect in (Connect("c", protocol_level=3), Connect("c")):
        data = bytes((first,)) + connect.encode()[1:]
        if first == 0x10 or connect.protocol_level == 3:
            assert Decoder().feed(data) == [connect]
        else:
            with pytest.raises(MalformedPacket, match=r"the flags of Connect are.*MQTT-2\.2\.2-2"):
                Decoder().feed(data)


@pytest.mark.parametrize("make", [Subscribe, Unsubscribe])
@pytest.mark.parametrize("most", [1, 3, 1_000])
def test_a_packet_of_too_many_filters_is_not_decoded(make: type[Packet], most: int) -> None:
    def packet(count: int) -> bytes:
        filters = [f"a/{number}" for number in range(count)]
        return (Subscribe(1, [(f, 1) for f in filters]) if make is Subscribe else Unsubscribe(1, filters)).encode()

    decoder = Decoder()
    decoder.max_filters = most
    assert len(decoder.feed(packet(most))) == 1
    for split in (0, 3):
        decoder = Decoder()
        decoder.max_filters = most
        decoder.feed(packet(most + 1)[:split])
        with pytest.raises(MalformedPacket, match="Topic Filters"):
            decoder.feed(packet(most + 1)[split:])


@pytest.mark.parametrize("body", ["", "0001", "0001 0001", "0001 ffff 61", "0001 0001 61", "0001 0000 01 00"])
def test_a_malformed_subscribe_is_malformed_with_a_bound_and_leniently(body: str) -> None:
    rest = bytes.fromhex(body)
    for most, lenient in ((None, False), (1, False), (None, True), (1, True)):
        decoder = Decoder()
        decoder.max_filters, decoder.lenient = most, lenient
        with pytest.raises(MalformedPacket):
            decoder.feed(b"\x82" + bytes((len(rest),)) + rest)


@pytest.mark.parametrize(
    ("literal", "statement"),
    [
        ("30 04  0001 ff  78", "MQTT-1.5.3-1"),  # no UTF-8
        ("30 04  0001 00  78", "MQTT-1.5.3-2"),  # U+0000
        ("30 04  0001 23  78", "MQTT-3.3.2-2"),  # "#"
        ("30 03  0000  78", "MQTT-4.7.3-1"),
        ("30 05  0004 612f62", "§2.2.3"),  # its length is one byte more than the packet and the stream contain
    ],
)
def test_an_invalid_topic_is_never_cached(literal: str, statement: str) -> None:
    stream = bytes.fromhex(literal)
    topic = stream[2 : 4 + stream[3]]
    for _ in range(3):  # a valid one is cached when it is seen for the second time
        assert fast([stream]) == plain(stream) == ([], [], statement)
    assert topic not in decoder_module._TOPICS


#: For tests that observe internal calls, since compiled classes have no interpreted subclasses. The source is the same.
interpreted = pytest.mark.skipif(compiled, reason="calls inside compiled code cannot be observed")


@pytest.mark.parametrize(
    ("literal", "statement"),
    [
        ("82 07  0001  0002 61ff  01", "MQTT-1.5.3-1"),  # no UTF-8
        ("82 07  0001  0002 6100  01", "MQTT-1.5.3-2"),  # U+0000
        ("82 07  0001  0002 612b  01", "MQTT-4.7.1-3"),  # "a+"
        ("82 07  0001  0002 2361  01", "MQTT-4.7.1-2"),  # "#a"
        ("82 06  0001  0001 61  03", "MQTT-3.8.3-4"),
        ("82 06  0001  0002 61  01", "§2.2.3"),  # the QoS is the last byte of the Topic Filter
        ("82 04  0001  0001", "§2.2.3"),
        ("82 07  0001  0001 61  01  00", "§2.2.3"),
        ("82 03  0001  00", "§2.2.3"),
        ("82 06  0000  0001 61  01", "MQTT-2.3.1-1"),
        ("a2 06  0001  0002 61ff", "MQTT-1.5.3-1"),
        ("a2 06  0001  0002 612b", "MQTT-4.7.1-3"),
        ("a2 05  0001  0002 61", "§2.2.3"),
        ("a2 03  0001  00", "§2.2.3"),
        ("a2 05  0000  0001 61", "MQTT-2.3.1-1"),
    ],
)
def test_an_invalid_topic_filter_is_never_cached(literal: str, statement: str) -> None:
    stream = bytes.fromhex(literal)
    good = Subscribe(1, [("a", 1)]).encode() + Unsubscribe(1, ["a"]).encode()
    for _ in range(3):  # valid ones are cached when they are seen for the second time
        assert len(Decoder().feed(good)) == 2
        assert fast([stream]) == plain(stream) == ([], [], statement)


@pytest.mark.parametrize("length", [1, 124, 125, 126, 127, 128, 255, 256, 300, 65_535])
def test_topic_filters_of_any_length_are_decoded_when_seen_again(length: int) -> None:
    topic_filter = "x" if length == 1 else "+/é" + "x" * (length - 4)
    assert len(topic_filter.encode()) == length
    packets = [Subscribe(7, [(topic_filter, 2), ("a", 0), (topic_filter, 1)]), Unsubscribe(7, [topic_filter, "a"])]
    for _ in range(3):
        stream = b"".join(packet.encode() for packet in packets)
        assert fast([stream]) == plain(stream) == outcome(packets)


@interpreted
def test_cached_topic_filters_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    requests: Memory[bytes, tuple[str, int]] = Memory(10, 1_000)
    filters: Memory[bytes, str] = Memory(10, 1_000)
    encoded: Memory[str, bytes] = Memory(10, 1_000)
    for module, memory, table, of in (
        (shortcuts, "_REQUEST_MEMORY", "_REQUESTS", requests),
        (shortcuts, "_FILTER_MEMORY", "_FILTERS", filters),
        (subscribing, "_MEMORY", "_FILTERS", encoded),
    ):
        monkeypatch.setattr(module, memory, of)
        monkeypatch.setattr(module, table, of.table)
    names = [f"{n}/+/#" for n in range(30)] + ["x" * 130]
    for _ in range(3):
        for name in names:
            wanted = [Subscribe(1, [(name, 1)]), Unsubscribe(1, [name])]
            assert Decoder().feed(b"".join(packet.encode() for packet in wanted)) == wanted
    assert requests.table == {b"\0\5%d/+/#\1" % n: (f"{n}/+/#", 1) for n in range(10)}
    assert filters.table == {b"\0\5%d/+/#" % n: f"{n}/+/#" for n in range(10)}
    assert 0 < len(encoded.table) <= 10
    assert all(data == len(name).to_bytes(2, "big") + name.encode() for name, data in encoded.table.items())
    assert names[-1] not in encoded.table


@pytest.mark.parametrize("codes", [[0], [1, 2, 0x80], [2] * 16, [0, 0x80] * 9], ids=len)
def test_return_codes_from_the_cache(codes: list[int]) -> None:
    packet = SubAck(7, codes)
    for _ in range(3):
        assert fast([packet.encode()]) == plain(packet.encode()) == outcome([packet])
        for wrong in (3, 0x7F, 0xFF):
            data = packet.encode()[:-1] + bytes((wrong,))
            assert fast([data]) == plain(data)
            assert fast([data])[2] == "MQTT-3.9.3-2"


@interpreted
def test_cached_return_codes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Memory[bytes, tuple[int, ...]] = Memory(10, 100)
    monkeypatch.setattr(shortcuts, "_CODES_MEMORY", memory)
    monkeypatch.setattr(shortcuts, "_CODES", memory.table)
    packets = [SubAck(1, [1] * count) for count in range(1, 30)]
    for _ in range(3):
        for packet in packets:
            assert Decoder().feed(packet.encode()) == [packet]
    assert memory.table == {bytes([1] * count): (1,) * count for count in range(1, 11)}


class TestSizeLimit:
    LIMIT = 100

    def test_the_largest_allowed_packet(self) -> None:
        packet = Publish("a", b"x" * (self.LIMIT - 2 - 3))
        assert len(packet.encode()) == self.LIMIT
        assert fast([packet.encode()], self.LIMIT) == outcome([packet])
        assert fast([packet.encode()[:1], packet.encode()[1:]], self.LIMIT) == outcome([packet])

    @pytest.mark.parametrize("size", [LIMIT - 1, 128, 16_384, 268_435_455])
    def test_an_oversize_packet_is_refused_from_its_header(self, size: int) -> None:
        decoder = Decoder(self.LIMIT)
        header = b"\x30" + encode_remaining_length(size)
        assert decoder.feed(header[:1]) == []
        with pytest.raises(MalformedPacket, match=f"bytes; the maximum here is {self.LIMIT}") as caught:
            decoder.feed(header[1:])
        assert caught.value.statement == "§2.2.3"
        assert len(decoder._partial) == 0

    def test_a_complete_oversize_packet_is_refused(self) -> None:
        data = PingReq().encode() + Publish("a", b"x" * self.LIMIT).encode()
        assert fast([data], self.LIMIT) == ([PingReq()], ["PingReq()"], "§2.2.3")

    def test_an_oversize_body_is_never_buffered(self) -> None:
        decoder = Decoder(self.LIMIT)
        with pytest.raises(MalformedPacket):
            decoder.feed(b"\x30\xff\x7f" + bytes(10_000))
        assert len(decoder._partial) == 0


def counting() -> Any:
    """Return a decoder that counts the bytes passed to the loop, and its calls."""

    class Counting(Decoder):
        def __init__(self) -> None:
            super().__init__()
            self.rounds = 0
            self.walked = 0
            self.kept = 0

        def _cut(self, data: bytes, packets: list[Packet]) -> None:
            self.rounds += 1
            self.walked += len(data)
            super()._cut(data, packets)

        def _keep(self, data: bytes | bytearray, packets: list[Packet]) -> None:
            self.kept += len(data)
            super()._keep(data, packets)

    return Counting()


@interpreted
class TestCost:
    def test_a_mebibyte_byte_by_byte_is_processed_once(self) -> None:
        decoder = counting()
        packet = Publish("a", bytes(1 << 20))
        data = packet.encode()
        packets = []
        for position in range(len(data)):
            packets += decoder.feed(data[position : position + 1])
        assert packets == [packet]
        assert decoder.rounds <= 6  # one for each byte of the header, and one for the packet
        assert decoder.walked <= len(data) + 20

    def test_many_small_packets_received_together_are_copied_once(self) -> None:
        decoder = counting()
        data = Publish("a", b"x").encode() * 50_000 + b"\x30"
        assert len(decoder.feed(data)) == 50_000
        assert decoder.rounds == 1
        assert decoder.kept == 1

    def test_pieces_that_never_end_where_packets_do(self) -> None:
        decoder = counting()
        data = Publish("a", b"x" * 50).encode() * 1_000
        count = 0
        for position in range(0, len(data), 37):
            count += len(decoder.feed(data[position : position + 37]))
        assert count == 1_000
        assert decoder.walked <= 3 * len(data)


@pytest.mark.parametrize("piece", [1 << 16, 1 << 24])
def test_a_long_payload_is_copied_once(piece: int) -> None:
    data = Publish("a", bytes(1 << 20)).encode()
    pieces = [data[start : start + piece] for start in range(0, len(data), piece)]
    decoder = Decoder()
    tracemalloc.start()
    try:
        packets = [packet for chunk in pieces for packet in decoder.feed(chunk)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [type(packet) for packet in packets] == [Publish]
    assert peak < 1.2 * len(data)
    assert all(type(packet.payload) is bytes for packet in packets if isinstance(packet, Publish))


_LONG = decoder_module._LONG


@pytest.mark.parametrize(
    ("head", "size"),
    [
        ("0001 61", _LONG - 4),  # kept as a whole
        ("0001 61", _LONG - 3),
        ("0001 61", 5 * _LONG),
        ("0000", 40_000),  # an empty topic
        ("0001 23", 40_000),  # "#"
        ("0001 ff", 40_000),
        ("9c40" + "61" * 40_000, 0),  # the whole body is the topic
        ("9c40" + "61" * 40_000, 1),
        ("ffff" + "61" * 40_000, 0),  # a topic longer than the packet
    ],
)
@pytest.mark.parametrize("first", [0x30, 0x31, 0x32, 0x3D, 0x36, 0x38])
@pytest.mark.parametrize("packet_id", ["0001", "0000"])
def test_a_long_publish_cut_anywhere(head: str, size: int, first: int, packet_id: str) -> None:
    body = bytes.fromhex(head) + (bytes.fromhex(packet_id) if first & 6 else b"") + random.Random(size).randbytes(size)
    stream = bytes((first,)) + encode_remaining_length(len(body)) + body + PingReq().encode()
    expected = plain(stream)
    start = len(stream) - len(body) - 2
    for cut in (1, 2, start, start + 1, start + 2, start + 3, start + 4, start + 5, start + 6, len(stream) - 2):
        assert fast([stream[:cut], stream[cut:]]) == expected
        first_cut, second_cut = sorted((start, cut))
        pieces = [stream[:first_cut], stream[first_cut:second_cut], stream[second_cut:-1], stream[-1:]]
        assert fast(pieces) == expected
    assert fast([stream[at : at + 1000] for at in range(0, len(stream), 1000)]) == expected


def read_into(decoder: Decoder, stream: bytes, at_once: int) -> tuple[Outcome, int]:
    """Decode a stream, reading payloads into their memory. Return the outcome, and the bytes that were read so."""
    packets: list[Packet] = []
    position = into = 0
    try:
        while position < len(stream):
            buffer = decoder.payload_buffer(at_once)
            data = stream[position : position + at_once]
            if buffer is not None:
                with buffer:
                    assert 0 < len(buffer) <= decoder.payload_missing
                    assert len(buffer) <= 16 * position
                    data = data[: len(buffer)]
                    buffer[: len(data)] = data
                into += len(data)
            position += len(data)
            packets += decoder.feed(data if buffer is None else decoder.fill(len(data)))
        decoder.feed(b"")
    except MalformedPacket as fault:
        return outcome(packets, fault), into
    return outcome(packets), into


_READ_INTO = decoder_module._READ_INTO


@pytest.mark.parametrize("at_once", [99, 5_000, 1 << 20])
@pytest.mark.parametrize("first", [0x30, 0x31, 0x32, 0x3D])
def test_a_long_payload_is_read_into_its_memory(at_once: int, first: int) -> None:
    packets = [
        Publish("a", random.Random(size).randbytes(size), first >> 1 & 3, bool(first & 1), bool(first & 8), packet_id)
        for packet_id in ([7] if first & 6 else [None])
        for size in (_READ_INTO - 1, _READ_INTO, 3, 4 * _READ_INTO + 1)
    ]
    stream = b"".join(packet.encode() for packet in packets)
    got, into = read_into(Decoder(), stream, at_once)
    assert got == outcome(list(packets))
    if at_once < _READ_INTO:
        assert 5 * _READ_INTO + 1 >= into >= 5 * _READ_INTO + 1 - 2 * at_once


@pytest.mark.parametrize(
    ("head", "statement"), [("0000", "MQTT-4.7.3-1"), ("0001 23", "MQTT-3.3.2-2"), ("0001 ff", "MQTT-1.5.3-1")]
)
def test_a_long_publish_with_a_wrong_topic_that_is_read_into_memory(head: str, statement: str) -> None:
    body = bytes.fromhex(head) + bytes(2 * _READ_INTO)
    good, bad = Publish("a", bytes(2 * _READ_INTO)).encode(), b"\x30" + encode_remaining_length(len(body)) + body
    assert read_into(Decoder(), good + bad, 1_000)[0] == plain(good + bad)
    assert read_into(Decoder(), bad, 1_000)[0] == ([], [], statement)


def test_only_a_long_payload_has_memory_to_read_into() -> None:
    decoder = Decoder()
    assert decoder.payload_buffer(10) is None
    decoder.feed(Publish("a", bytes(_READ_INTO - 1)).encode()[:-1])
    assert decoder.payload_buffer(10) is None
    decoder.feed(b"\0" + Publish("a", bytes(_READ_INTO)).encode()[:-1])
    assert decoder.payload_missing == 1
    assert bytes(decoder.payload_buffer(10) or b"") == b"\0"
    decoder.feed(b"\0")
    assert decoder.payload_buffer(10) is None


def test_a_long_publish_is_read_exactly() -> None:
    """Reading what is missing never reads beyond the packet, and needs few reads."""
    packet = Publish("a/b", bytes(50_000), 1, packet_id=9)
    stream = packet.encode() + PingReq().encode()
    decoder = Decoder()
    position, reads, packets = 0, [], []
    while not packets:
        reads.append(decoder.missing)
        packets += decoder.feed(stream[position : position + reads[-1]])
        position += reads[-1]
    assert packets == [packet]
    assert position == len(stream) - 2
    # The shortest fixed header, and the rest of it; the topic's length and a packet identifier; the topic; the payload.
    assert reads == [2, 1, 1, 4, 3, 50_000]


def test_a_limit_that_is_lowered_counts_for_a_long_publish_that_has_begun() -> None:
    stream = Publish("a", bytes(50_000)).encode()
    decoder = Decoder()
    assert decoder.feed(stream[:40_000]) == []
    decoder.max_packet_size = 45_000
    with pytest.raises(MalformedPacket, match="the maximum here is 45,000"):
        decoder.feed(stream[40_000:])
    with pytest.raises(MalformedPacket, match="the maximum here is 45,000"):
        decoder.feed(b"")


def test_an_announced_payload_takes_no_memory() -> None:
    """Space is made for 16 times what has arrived."""
    stream = Publish("a", bytes(1 << 20)).encode()
    decoder = Decoder()
    tracemalloc.start()
    try:
        assert decoder.feed(stream[:1000]) == []
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000


def test_results_are_copies_of_the_input() -> None:
    stream = bytearray(Publish("a/b", b"payload").encode())
    decoder = Decoder()
    (publish,) = decoder.feed(bytes(stream))
    assert isinstance(publish, Publish)
    assert type(publish.payload) is bytes
    assert type(publish.topic) is str
    (publish,) = [*decoder.feed(bytes(stream[:3])), *decoder.feed(bytes(stream[3:]))]
    assert isinstance(publish, Publish)
    assert type(publish.payload) is bytes


@interpreted
def test_cached_topics_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Memory[bytes, tuple[str, bytes]] = Memory(100, 10_000)
    monkeypatch.setattr(decoder_module, "_MEMORY", memory)
    monkeypatch.setattr(decoder_module, "_TOPICS", memory.table)
    names = [f"{random.Random(n).random()}/{n}" for n in range(300)]
    for name in [*names, *names, *names[-5:], "grüß", "grüß", "x" * 127, "x" * 127]:
        (publish,) = Decoder().feed(Publish(name).encode())
        assert isinstance(publish, Publish)
        assert publish.topic == name
    assert len(memory.table) == 100
    assert b"\0\177" + b"x" * 127 not in memory.table
    for key, (name, encoded) in memory.table.items():
        assert key == encoded == len(name.encode()).to_bytes(2, "big") + name.encode()


def test_packets_with_one_cached_topic_share_its_bytes() -> None:
    """Packets that wait together would take more memory otherwise, and decoding them more time."""
    one, other = Publish("shared/name"), Publish("shared/another")
    acknowledged = Publish("shared/name", b"1", 1, packet_id=7)
    stream = b"".join(each.encode() for each in (one, one, other, acknowledged, one, one, one, one))
    for _ in range(3):  # it is cached when it is seen for the second time
        packets = Decoder().feed(stream)
    names = [each._name for each in packets if isinstance(each, Publish) and each.topic == "shared/name"]
    assert len(names) == 7
    assert names[0] == b"\0\x0bshared/name"
    assert all(name is names[0] for name in names)
