"""The floor: the same bytes built and split without checks and without objects other than tuples.

The bytes of the topic and the first two bytes of every short packet are computed beforehand.
"""

from __future__ import annotations

import itertools
import os

import workloads as work
from timing import main, nanoseconds

#: The first two bytes of a short PUBLISH, by the length of the rest.
HEADS, HEADS_QOS1 = ([bytes((first, length)) for length in range(128)] for first in (0x30, 0x32))


def encode(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None
    name = work.encode_publish(work.TOPIC, b"")[2:]
    payload = work.PAYLOAD

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            if packet_id is None:
                data = HEADS[len(name) + len(payload)] + name + payload
            else:
                data = HEADS_QOS1[len(name) + len(payload) + 2] + name + packet_id.to_bytes(2, "big") + payload
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    return nanoseconds(run)


def cut(data: bytes, packets: list) -> int:
    position, end = 0, len(data)
    while end - position >= 2:
        first, length, start = data[position], data[position + 1], position + 2
        if length > 127:
            if start >= end:
                break
            length, start = length - 128 + data[start] * 128, start + 1
        following = start + length
        if following > end:
            break
        if first & 0xF0 == 0x30:
            name_end = start + 2 + data[start] * 256 + data[start + 1]
            payload_start = name_end + 2 if first & 6 else name_end
            packets.append((first, data[start:name_end], data[name_end:payload_start], data[payload_start:following]))
        else:
            packets.append((first, data[start:following]))
        position = following
    return position


def decode_stream() -> float:
    packets = work.mixed()
    data = list(work.chunks(b"".join(map(work.encode, packets))))

    def run(count: int) -> list:
        for _ in range(count):
            cuts: list = []
            rest = b""
            for chunk in data:
                rest += chunk
                rest = rest[cut(rest, cuts) :]
        return cuts

    assert len(run(1)) == len(packets)
    return nanoseconds(run, len(packets))


def decode_qos0() -> float:
    data = work.encode_publish(work.TOPIC, work.PAYLOAD)

    def run(count: int) -> list:
        for _ in itertools.repeat(None, count):
            packets: list = []
            cut(data, packets)
        return packets

    assert run(1)[0][3] == work.PAYLOAD
    return nanoseconds(run)


def encode_payload(size: int) -> float:
    payload, name = bytes(size), work.encode_publish(work.TOPIC, b"")[2:]

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = b"\x30" + work.remaining_length(len(name) + len(payload)) + name + payload
        return data

    assert run(1) == work.encode_publish(work.TOPIC, payload)
    return nanoseconds(run)


def decode_payload(size: int) -> float:
    """Extract one PUBLISH that arrives in reads of 64 KiB."""
    payload = bytes(size)
    data = list(work.chunks(work.encode_publish(work.TOPIC, payload)))
    head = len(work.encode_publish(work.TOPIC, b"")) - 1 + len(work.remaining_length(size + 2 + len(work.TOPIC)))

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            whole = data[0] if len(data) == 1 else b"".join(data)
            cut = whole[head:]
        return cut

    assert run(1) == payload
    return nanoseconds(run)


def publish_batch(size: int) -> float:
    """Build `size` packets and mask them as one frame."""
    packet = work.encode_publish(work.TOPIC, work.MESSAGE)
    name, payload = packet[2 : -len(work.MESSAGE)], work.MESSAGE

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = b"".join([HEADS[len(name) + len(payload)] + name + payload for _ in range(size)])
            frame = work.masked_frame(data, os.urandom(4))
        return frame

    frame = run(1)
    key = frame[-size * len(packet) - 4 :][:4]
    assert frame == work.masked_frame(packet * size, key)
    return nanoseconds(run, size)


main(
    {
        "encode_payload": encode_payload,
        "decode_payload": decode_payload,
        "publish_batch": publish_batch,
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
    }
)
