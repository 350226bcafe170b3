"""paho-mqtt: its codec is part of its client, so the client is run with its socket replaced by memory.

Encoding ends when the packet would be queued. Decoding is reading and handling; acknowledgements are not created.
"""

from __future__ import annotations

import itertools

import workloads as work
from paho.mqtt import client as paho
from timing import main, nanoseconds


class Memory(paho.Client):
    """A client that reads from bytes and discards output."""

    def __init__(self) -> None:
        super().__init__(paho.CallbackAPIVersion.VERSION2)
        self._sock = self
        self._state = paho._ConnectionState.MQTT_CS_CONNECTED
        self.sent = b""
        self.got = 0
        self._data = memoryview(b"")
        self.on_message = self._count

    def _count(self, client, userdata, message) -> None:
        self.got += 1

    def _packet_queue(self, command, packet, mid, qos, info=None):
        self.sent = packet
        return paho.MQTT_ERR_SUCCESS

    def _send_nothing(self, mid):
        return paho.MQTT_ERR_SUCCESS

    _send_puback = _send_pubrec = _send_pubrel = _send_pubcomp = _send_nothing

    def _sock_recv(self, size):
        data = self._data[:size]
        self._data = self._data[size:]
        if not data:
            raise BlockingIOError
        return data.tobytes()

    def read(self, data: bytes) -> None:
        """Read all packets of some data."""
        self._data = memoryview(data)
        while self._data:
            assert self._packet_read() in (paho.MQTT_ERR_SUCCESS, paho.MQTT_ERR_AGAIN)

    def close(self) -> None:
        """Do nothing, as the replacement of a socket."""


def encode(qos: int) -> float:
    client = Memory()
    mid = work.PACKET_ID if qos else 0

    def run(count: int) -> None:
        send = client._send_publish
        for _ in itertools.repeat(None, count):
            send(mid, work.TOPIC.encode(), work.PAYLOAD, qos)

    run(1)
    assert client.sent == work.encode_publish(work.TOPIC, work.PAYLOAD, qos, mid or None)
    return nanoseconds(run)


def decode_qos0() -> float:
    client = Memory()
    data = work.encode_publish(work.TOPIC, work.PAYLOAD)

    def run(count: int) -> None:
        read = client.read
        for _ in itertools.repeat(None, count):
            read(data)

    run(3)
    assert client.got == 3
    return nanoseconds(run)


def decode_stream() -> float:
    packets = work.mixed()
    data = list(work.chunks(b"".join(map(work.encode, packets))))
    client = Memory()

    def run(count: int) -> None:
        for _ in range(count):
            client._in_messages.clear()
            for chunk in data:
                client.read(chunk)

    run(1)
    released = sum(1 for p in packets if isinstance(p, work.Published) and p.qos < 2)
    assert client.got == released, (client.got, released)
    return nanoseconds(run, len(packets))


main(
    {
        "encode_qos0": lambda: encode(0),
        "encode_qos1": lambda: encode(1),
        "decode_qos0": decode_qos0,
        "decode_stream": decode_stream,
    }
)
