"""mqttws: `encode_publish`, which its clients use, and `Publish(...).encode()`, which users of the codec write."""

from __future__ import annotations

import itertools
import random

import workloads as work
from timing import main, nanoseconds

from mqttws import Connect, Decoder, Message, Publish, TopicTree
from mqttws.codec.publishing import encode_publish
from mqttws.protocol import frames
from mqttws.testing import Pair


def encode(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = encode_publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id)
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    return nanoseconds(run)


def encode_object(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = Publish(work.TOPIC, work.PAYLOAD, qos, False, False, packet_id).encode()
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    return nanoseconds(run)


def decode_qos0() -> float:
    data = work.encode_publish(work.TOPIC, work.PAYLOAD)
    decoder = Decoder()

    def run(count: int) -> list:
        feed = decoder.feed
        for _ in itertools.repeat(None, count):
            packets = feed(data)
        return packets

    assert run(1) == [Publish(work.TOPIC, work.PAYLOAD)]
    return nanoseconds(run)


def decode_stream() -> float:
    packets = work.mixed()
    data = list(work.chunks(b"".join(map(work.encode, packets))))

    def run(count: int) -> list:
        for _ in range(count):
            decoder = Decoder()
            decoded = []
            for chunk in data:
                decoded += decoder.feed(chunk)
        return decoded

    decoded = run(1)
    assert len(decoded) == len(packets)
    for packet, wanted in zip(decoded, packets, strict=True):
        if isinstance(wanted, work.Published):
            assert packet == Publish(wanted.topic, wanted.payload, wanted.qos, packet_id=wanted.packet_id)
    return nanoseconds(run, len(packets))


def decode_payload(size: int) -> float:
    """Decode one PUBLISH with a payload of `size` bytes, which arrives in reads of 64 KiB."""
    payload = bytes(size)
    data = list(work.chunks(work.encode_publish(work.TOPIC, payload)))
    decoder = Decoder()

    def run(count: int) -> list:
        for _ in itertools.repeat(None, count):
            for chunk in data:
                packets = decoder.feed(chunk)
        return packets

    assert run(2) == [Publish(work.TOPIC, payload)]
    return nanoseconds(run)


def encode_payload(size: int) -> float:
    payload = bytes(size)

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = encode_publish(work.TOPIC, payload)
        return data

    assert run(1) == work.encode_publish(work.TOPIC, payload)
    return nanoseconds(run)


def mask(size: int) -> float:
    """Mask a payload of `size` bytes, as a WebSocket client must."""
    payload = random.Random(size).randbytes(size)

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            masked = frames.mask(payload, work.MASKING_KEY)
        return masked

    assert run(1) == work.mask(payload, work.MASKING_KEY)
    return nanoseconds(run)


def match(subscriptions: int, depth: int = 3) -> float:
    """Find the one matching subscription among `subscriptions`, all of `depth` levels."""
    tree: TopicTree[int] = TopicTree()
    levels = "level/" * (depth - 2)
    for number in range(subscriptions - 1):
        tree.set(f"{levels}room-{number}/+", number, 0)
    tree.set(f"{levels}+/temperature", "wanted", 1)

    def run(count: int) -> list:
        for _ in itertools.repeat(None, count):
            found = list(tree.match(f"{levels}here/temperature"))
        return found

    assert run(1) == [("wanted", 1)]
    return nanoseconds(run)


def publish_batch(size: int) -> float:
    """Publish `size` messages in one WebSocket message, in memory. Return nanoseconds for each."""
    pair = Pair(Connect("bench")).open()
    message = Message(work.TOPIC, work.MESSAGE)

    def run(count: int) -> bytes:
        client = pair.client
        for _ in itertools.repeat(None, count):
            for _ in range(size):
                client.publish(message)
            data = client.data_to_send(0.0)
            client.machine.events.clear()
        return data

    assert len(run(1)) > size * len(work.MESSAGE)
    return nanoseconds(run, size)


main(
    {
        "mask": mask,
        "match": match,
        "publish_batch": publish_batch,
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "encode_object_qos0": lambda: encode_object(0),
        "encode_object_qos1": lambda: encode_object(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
        "decode_payload": decode_payload,
        "encode_payload": encode_payload,
    }
)
