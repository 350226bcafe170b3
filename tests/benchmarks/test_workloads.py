"""The workloads of the benchmarks contain what they should: checked by decoding them."""

from __future__ import annotations

import pytest
import workloads as work

from mqttws import Decoder, PubAck, Publish
from mqttws.protocol.frames import binary_frame


def test_a_mixed_stream_contains_its_packets():
    sent = work.mixed(2_000)
    decoder = Decoder()
    stream = b"".join(map(work.encode, sent))
    decoded = [packet for chunk in work.chunks(stream, 1_000) for packet in decoder.feed(chunk)]
    assert len(decoded) == len(sent)
    for packet, wanted in zip(decoded, sent, strict=True):
        assert packet.encode() == work.encode(wanted)
        if isinstance(wanted, work.Published):
            assert packet == Publish(wanted.topic, wanted.payload, wanted.qos, packet_id=wanted.packet_id)
    assert {type(packet) for packet in decoded} > {Publish, PubAck}


@pytest.mark.parametrize("size", [0, 100, 127, 128, 16_383, 16_384, 100_000])
def test_the_floor_encodes_as_we_do(size):
    payload = bytes(size)
    assert work.encode_publish("a/b", payload, 1, 7) == Publish("a/b", payload, 1, packet_id=7).encode()


@pytest.mark.parametrize("size", [1, 125, 126, 1_000, 65_535])
def test_the_floor_masks_as_we_do(size):
    data = bytes(number % 251 for number in range(size))
    assert work.masked_frame(data, b"\x37\xfa\x21\x3d") == binary_frame(data, b"\x37\xfa\x21\x3d")
