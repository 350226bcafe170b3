"""mqtt5, a codec in Rust for MQTT 5: each PUBLISH has one more byte, its empty properties."""

from __future__ import annotations

import itertools
from functools import partial

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


def filters() -> list:
    return [mqtt5.TopicFilter(name, max_qos=mqtt5.QoS.AT_LEAST_ONCE) for name in work.FILTERS]


GRANTED = [mqtt5.SubAckReasonCode(qos) for qos in (0, 1, 2, 1)]
PACKETS = {
    "connect": lambda: mqtt5.ConnectPacket(work.CLIENT_ID, clean_start=True, keep_alive=60),
    "connack": lambda: mqtt5.ConnAckPacket(),
    "subscribe": lambda: mqtt5.SubscribePacket(work.PACKET_ID, filters()),
    "suback": lambda: mqtt5.SubAckPacket(work.PACKET_ID, GRANTED),
    "unsubscribe": lambda: mqtt5.UnsubscribePacket(work.PACKET_ID, work.FILTERS),
}


def encode_packet(name: str) -> float:
    """Make a packet, and encode it."""
    make = PACKETS[name]

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = make().write()
        return data

    assert type(mqtt5.read(memoryview(run(1)))[0]) is type(make())
    return nanoseconds(run)


def decode_packet(name: str) -> float:
    data, read = PACKETS[name]().write(), mqtt5.read

    def run(count: int) -> object:
        for _ in itertools.repeat(None, count):
            packet, _ = read(memoryview(data))
        return packet

    assert type(run(1)) is type(PACKETS[name]())
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
        **{f"encode_{name}": partial(encode_packet, name) for name in PACKETS},
        **{f"decode_{name}": partial(decode_packet, name) for name in PACKETS},
    }
)
