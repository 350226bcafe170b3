"""mqtt5, a codec in Rust for MQTT 5: each PUBLISH has one more byte, its empty properties."""

from __future__ import annotations

import itertools

import mqtt5
import workloads as work
from timing import main, nanoseconds


def encode(qos: int) -> float:
    level, packet_id = mqtt5.QoS(qos), work.PACKET_ID if qos else None
    packet = mqtt5.PublishPacket

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = packet(work.TOPIC, payload=work.PAYLOAD, qos=level, packet_id=packet_id).write()
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id, 5)
    return nanoseconds(run)


def decode_qos0() -> float:
    data = work.encode_publish(work.TOPIC, work.PAYLOAD, level=5)
    read = mqtt5.read

    def run(count: int) -> object:
        for _ in itertools.repeat(None, count):
            packet, _ = read(memoryview(data))
        return packet

    packet = run(1)
    assert (packet.topic, packet.payload) == (work.TOPIC, work.PAYLOAD)
    return nanoseconds(run)


def decode_stream() -> float:
    packets = work.mixed()
    data = list(work.chunks(b"".join(work.encode(packet, 5) for packet in packets)))
    read = mqtt5.read

    def run(count: int) -> list[object]:
        for _ in range(count):
            decoded = []
            rest = b""
            for chunk in data:
                view = memoryview(rest + chunk)
                position, end = 0, len(view)
                while position < end:
                    try:
                        packet, size = read(view[position:])
                    except IndexError:
                        break
                    decoded.append(packet)
                    position += size
                rest = bytes(view[position:])
        return decoded

    decoded = run(1)
    assert len(decoded) == len(packets)
    for packet, wanted in zip(decoded, packets, strict=True):
        if isinstance(wanted, work.Published):
            assert (packet.topic, packet.payload, packet.qos) == (wanted.topic, wanted.payload, wanted.qos)
    return nanoseconds(run, len(packets))


main(
    {
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
    }
)
