"""gmqtt: packets are built by functions, split by its protocol and parsed by its handler, without a transport."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import gmqtt
import workloads as work
from gmqtt.mqtt.constants import MQTTv311
from gmqtt.mqtt.package import PublishPacket
from gmqtt.mqtt.protocol import MQTTProtocol
from timing import main, nanoseconds


def encode(qos: int) -> float:
    protocol = SimpleNamespace(proto_ver=MQTTv311, id_generator=SimpleNamespace(next_id=lambda: work.PACKET_ID))

    def run(count: int) -> bytes:
        for _ in itertools.repeat(None, count):
            _, data = PublishPacket.build_package(gmqtt.Message(work.TOPIC, work.PAYLOAD, qos), protocol)
        return data

    assert run(1) == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, work.PACKET_ID if qos else None)
    return nanoseconds(run)


class Reader:
    """Its protocol and handler, without a transport; packets to send are dropped."""

    def __init__(self) -> None:
        client = gmqtt.Client("bench", optimistic_acknowledgement=True)
        client._connection_state.protocol_version = MQTTv311
        handler = client._package_handler
        handler._send_command_with_mid_callback = lambda *given, **named: None
        handler._remove_message_callback = lambda mid: None
        self.got = 0
        handler.on_message = self._count
        self.protocol = MQTTProtocol.__new__(MQTTProtocol)
        self.protocol._connection = SimpleNamespace(put_package=handler)

    def _count(self, topic, payload, qos, properties) -> int:
        self.got += 1
        return 0


def decode_qos0() -> float:
    reader = Reader()
    data = work.encode_publish(work.TOPIC, work.PAYLOAD)

    def run(count: int) -> None:
        read = reader.protocol._read_packet
        for _ in itertools.repeat(None, count):
            read(data)

    run(3)
    assert reader.got == 3
    return nanoseconds(run)


def decode_stream() -> float:
    packets = work.mixed()
    data = list(work.chunks(b"".join(map(work.encode, packets))))
    reader = Reader()

    def run(count: int) -> None:
        for _ in range(count):
            rest = b""
            for chunk in data:
                rest += chunk
                rest = rest[reader.protocol._read_packet(rest) :]

    run(1)
    assert reader.got == sum(isinstance(packet, work.Published) for packet in packets), reader.got
    return nanoseconds(run, len(packets))


main(
    {
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
    }
)
