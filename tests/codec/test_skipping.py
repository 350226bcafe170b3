"""The decoder that skips messages that are too large: what it reads of them, and where it continues."""

from __future__ import annotations

import pytest

from mqttws import MalformedPacket, PacketTooLarge, PingReq, PubAck, Publish
from mqttws.codec.skipping import Oversize, SkippingDecoder

#: PUBLISH of QoS 1, RETAIN, "a/b", packet identifier 7, a payload of 53 bytes: 62 bytes; 50 are allowed.
HEAD = bytes.fromhex("33 3c  0003 612f62  0007")
LARGE = HEAD + b"x" * 53
SKIPPED = Oversize(Publish("a/b", b"", 1, True, False, 7), 62)


def test_topic_and_packet_identifier_are_reported_as_soon_as_they_arrive() -> None:
    decoder = SkippingDecoder(50)
    assert decoder.feed(HEAD[:-1]) == []
    assert decoder.under_way
    assert decoder.feed(HEAD[-1:]) == [SKIPPED]
    assert decoder.under_way  # its payload has not arrived yet


def test_the_payload_is_not_buffered() -> None:
    decoder = SkippingDecoder(50)
    decoder.feed(HEAD)
    for _ in range(52):
        assert decoder.feed(b"x") == []
        assert decoder._partial == b""
    assert decoder.under_way
    assert decoder.feed(b"x" + bytes.fromhex("c0 00")) == [PingReq()]
    assert not decoder.under_way


@pytest.mark.parametrize(
    ("following", "packets"),
    [
        ("", []),
        ("c0 00", [PingReq()]),
        ("c0 00  40 02 0009  c0", [PingReq(), PubAck(9)]),
        (LARGE.hex(), [SKIPPED]),
    ],
)
def test_packets_after_it_in_the_same_read_are_decoded(following: str, packets: list[object]) -> None:
    assert SkippingDecoder(50).feed(LARGE + bytes.fromhex(following)) == [SKIPPED, *packets]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 50, 10_000])
def test_it_is_skipped_in_pieces_of_any_size(step: int) -> None:
    packets = [
        Publish("a", b"x"),
        Publish("t" * 200, bytes(300), 1, True, False, 7),
        Publish("b", bytes(2), 2, packet_id=8),
        Publish("u" * 60, b""),
        Publish("v", bytes(50)),
        PubAck(9),
    ]
    data = b"".join(packet.encode() for packet in packets)
    decoder = SkippingDecoder(50)
    got = [packet for start in range(0, len(data), step) for packet in decoder.feed(data[start : start + step])]
    assert got == [
        packets[0],
        Oversize(Publish("t" * 200, b"", 1, True, False, 7), len(packets[1].encode())),
        packets[2],
        Oversize(packets[3], len(packets[3].encode())),
        Oversize(Publish("v"), len(packets[4].encode())),
        packets[5],
    ]
    assert not decoder.under_way


def test_another_oversize_packet_is_a_fault() -> None:
    with pytest.raises(PacketTooLarge) as caught:
        SkippingDecoder(50).feed(bytes.fromhex("90 ff 01") + bytes(100))  # SUBACK of 255 bytes
    assert (caught.value.topic, caught.value.size) == (None, 258)


@pytest.mark.parametrize(
    ("head", "statement"),
    [
        ("36 3c  0003 612f62  0007", "MQTT-3.3.1-4"),  # both QoS bits
        ("32 3c  0003 612f62  0000", "MQTT-2.3.1-1"),  # packet identifier 0
        ("30 3c  0003 612f23", "MQTT-3.3.2-2"),  # "a/#"
        ("30 3c  ffff" + "61" * 58, "§2.2.3"),  # the topic is longer than the packet
    ],
)
def test_a_malformed_oversize_message_is_a_fault(head: str, statement: str) -> None:
    with pytest.raises(MalformedPacket) as caught:
        SkippingDecoder(50).feed(bytes.fromhex(head))
    assert caught.value.statement == statement


@pytest.mark.parametrize("step", [1_000, 60_000, 1_000_000])
def test_a_long_message_that_is_not_too_large_is_decoded(step: int) -> None:
    packets = [Publish("a", bytes(90_000)), Publish("b", bytes(100_000)), PubAck(9)]
    data = b"".join(packet.encode() for packet in packets)
    decoder = SkippingDecoder(95_000)
    got = [packet for start in range(0, len(data), step) for packet in decoder.feed(data[start : start + step])]
    assert got == [packets[0], Oversize(Publish("b"), 100_007), packets[2]]


def test_a_limit_that_is_lowered_while_a_long_message_arrives() -> None:
    data = Publish("a", bytes(90_000)).encode()
    decoder = SkippingDecoder(95_000)
    assert decoder.feed(data[:60_000]) == []
    decoder.max_packet_size = 50
    assert decoder.feed(data[60_000:] + PubAck(9).encode()) == [Oversize(Publish("a"), len(data)), PubAck(9)]
    assert not decoder.under_way
