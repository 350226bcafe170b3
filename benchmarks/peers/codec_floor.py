"""The floor: the same bytes built and cut without any check and without any object but a tuple."""

from __future__ import annotations

import itertools

import workloads as work
from timing import main, nanoseconds


def encode(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None
    name = work.encode_publish(work.TOPIC, b"")[2:]
    payload = work.PAYLOAD

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            if packet_id is None:
                data = b"".join((bytes((0x30, len(name) + len(payload))), name, payload))
            else:
                head = bytes((0x32, len(name) + len(payload) + 2))
                data = b"".join((head, name, packet_id.to_bytes(2, "big"), payload))
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


main(
    {
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
    }
)
