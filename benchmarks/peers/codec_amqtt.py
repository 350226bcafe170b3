"""amqtt: its packets are read by coroutines; here from its buffer reader, driven without an event loop."""

from __future__ import annotations

import itertools

import workloads as work
from amqtt.adapters import BufferReader
from amqtt.mqtt import packet_class
from amqtt.mqtt.packet import MQTTFixedHeader
from amqtt.mqtt.publish import PublishPacket
from timing import main, nanoseconds


def encode(qos: int) -> float:
    packet_id = work.PACKET_ID if qos else None

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            data = PublishPacket.build(work.TOPIC, work.PAYLOAD, packet_id, False, qos, False).to_bytes()
        return bytes(data)

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, packet_id)
    return nanoseconds(run)


async def read_packet(reader: BufferReader) -> object:
    header = await MQTTFixedHeader.from_stream(reader)
    return await packet_class(header).from_stream(reader, fixed_header=header)


def complete(coroutine) -> object:
    """Run a coroutine that never waits."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waited")


def decode_qos0() -> float:
    data = work.encode_publish(work.TOPIC, work.PAYLOAD)

    def run(count: int) -> object:
        for _ in itertools.repeat(None, count):
            packet = complete(read_packet(BufferReader(data)))
        return packet

    packet = run(1)
    assert (packet.topic_name, packet.data) == (work.TOPIC, work.PAYLOAD)
    return nanoseconds(run)


def decode_stream() -> float:
    packets = work.mixed()
    data = b"".join(map(work.encode, packets))

    async def read_all() -> int:
        reader = BufferReader(data)
        for _ in packets:
            await read_packet(reader)
        return len(await reader.read(1))

    def run(count: int) -> None:
        for _ in range(count):
            assert complete(read_all()) == 0

    run(1)
    return nanoseconds(run, len(packets))


main(
    {
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
    }
)
