"""Benchmarks of the codec. `run_peers.py` runs the same cases with other libraries."""

from __future__ import annotations

import pytest
import workloads as work

from mqttws import Decoder, Publish, TopicTree
from mqttws.codec.publishing import encode_publish


@pytest.mark.parametrize("qos", [0, 1])
def test_encode(timed, qos):
    packet_id = work.PACKET_ID if qos else None
    wanted = work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    timed(lambda: encode_publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id), wanted)


@pytest.mark.parametrize("qos", [0, 1])
def test_encode_an_object(timed, qos):
    packet_id = work.PACKET_ID if qos else None
    wanted = work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    timed(lambda: Publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id).encode(), wanted)


def test_decode_one(timed):
    feed, data = Decoder().feed, work.encode_publish(work.TOPIC, work.PAYLOAD)
    timed(lambda: feed(data), [Publish(work.TOPIC, work.PAYLOAD)])


def test_decode_a_stream(timed):
    packets = work.mixed()
    chunks = list(work.chunks(b"".join(map(work.encode, packets))))
    wanted = [packet for sent in packets for packet in Decoder().feed(work.encode(sent))]

    def decode():
        decoder = Decoder()
        return [packet for chunk in chunks for packet in decoder.feed(chunk)]

    timed(decode, wanted)


@pytest.mark.parametrize("size", [256, 65_536, 1_048_576])
def test_decode_a_long_payload(timed, size):
    chunks = list(work.chunks(work.encode_publish(work.TOPIC, bytes(size))))
    decoder = Decoder()
    timed(lambda: [packet for chunk in chunks for packet in decoder.feed(chunk)], [Publish(work.TOPIC, bytes(size))])


@pytest.mark.parametrize("subscriptions", [1, 1_000, 100_000])
def test_match(timed, subscriptions):
    tree: TopicTree[int] = TopicTree()
    for number in range(subscriptions - 1):
        tree.set(f"sensors/room-{number}/+", number, 0)
    tree.set("sensors/+/temperature", "wanted", 1)
    timed(lambda: list(tree.match("sensors/here/temperature")), [("wanted", 1)])
