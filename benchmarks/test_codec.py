"""Our codec by itself: `make bench`. The same cases beside the peers are run by `run_peers.py`."""

from __future__ import annotations

import pytest
import workloads as work

from mqttws import Decoder, Publish, TopicTree
from mqttws.codec.publishing import encode_publish


@pytest.mark.parametrize("qos", [0, 1])
def test_encode(benchmark, qos):
    packet_id = work.PACKET_ID if qos else None
    wanted = work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    assert benchmark(encode_publish, work.TOPIC, work.PAYLOAD, qos, False, False, packet_id) == wanted


@pytest.mark.parametrize("qos", [0, 1])
def test_encode_an_object(benchmark, qos):
    packet_id = work.PACKET_ID if qos else None

    def encode():
        return Publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id).encode()

    assert benchmark(encode) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)


def test_decode_one(benchmark):
    feed = Decoder().feed
    assert benchmark(feed, work.encode_publish(work.TOPIC, work.PAYLOAD)) == [Publish(work.TOPIC, work.PAYLOAD)]


def test_decode_a_stream(benchmark):
    packets = work.mixed()
    chunks = list(work.chunks(b"".join(map(work.encode, packets))))

    def decode():
        decoder = Decoder()
        return [packet for chunk in chunks for packet in decoder.feed(chunk)]

    decoded = benchmark(decode)
    assert len(decoded) == len(packets)
    for packet, wanted in zip(decoded, packets, strict=True):
        if isinstance(wanted, work.Published):
            assert packet == Publish(wanted.topic, wanted.payload, wanted.qos, packet_id=wanted.packet_id)


@pytest.mark.parametrize("size", [256, 65_536, 1_048_576])
def test_decode_a_long_payload(benchmark, size):
    chunks = list(work.chunks(work.encode_publish(work.TOPIC, bytes(size))))
    decoder = Decoder()

    def decode():
        return [packet for chunk in chunks for packet in decoder.feed(chunk)]

    assert benchmark(decode) == [Publish(work.TOPIC, bytes(size))]


@pytest.mark.parametrize("subscriptions", [1, 1_000, 100_000])
def test_match(benchmark, subscriptions):
    tree: TopicTree[int] = TopicTree()
    for number in range(subscriptions - 1):
        tree.set(f"sensors/room-{number}/+", number, 0)
    tree.set("sensors/+/temperature", "wanted", 1)
    assert benchmark(lambda: list(tree.match("sensors/here/temperature"))) == [("wanted", 1)]
