"""The floor: hand-written frames on a plain socket, without checks or state: the limit of pure Python.

Packets are sent in groups of 64, each group in one masked frame.
"""

from __future__ import annotations

import base64
import os
import socket
import ssl
import time

import workloads as work
from timing import Stopwatch, main, percentiles, timed


class Wire:
    """A socket, with the handshakes of WebSocket and MQTT in three steps, so that many can run side by side."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1")
        key = base64.b64encode(os.urandom(16)).decode()
        self.socket.sendall(
            f"GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n".encode()
        )
        self.rest = b""

    def upgraded(self) -> None:
        """Read the response to the upgrade, and send CONNECT."""
        while b"\r\n\r\n" not in self.rest:
            self.rest += self._read()
        self.rest = self.rest.partition(b"\r\n\r\n")[2]
        client_id = f"floor-{time.monotonic_ns()}".encode()
        body = b"\0\x04MQTT\x04\x02\0\x3c" + len(client_id).to_bytes(2, "big") + client_id
        self.send(b"\x10" + work.remaining_length(len(body)) + body)

    def _read(self) -> bytes:
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the server closed the connection")
        return data

    def accepted(self) -> None:
        """Read the CONNACK."""
        assert self.answer(4)[:4] == b"\x20\x02\0\0"

    def send(self, data: bytes) -> None:
        """Send bytes in one frame."""
        self.socket.sendall(work.masked_frame(data, os.urandom(4)))

    def payloads(self) -> list[bytes]:
        """Read until a frame is complete, and return the payloads of complete frames."""
        while True:
            self.rest += self._read()
            data, position, end, payloads = self.rest, 0, len(self.rest), []
            while end - position >= 2:
                size, start = data[position + 1], position + 2
                if size > 125:
                    extended = 2 if size == 126 else 8
                    size, start = int.from_bytes(data[start : start + extended], "big"), start + extended
                if start + size > end:
                    break
                payloads.append(data[start : start + size])
                position = start + size
            self.rest = data[position:]
            if payloads:
                return payloads

    def answer(self, size: int) -> bytes:
        """Read at least `size` bytes of MQTT, since some brokers put a packet into several frames."""
        data = b""
        while len(data) < size:
            data += b"".join(self.payloads())
        return data

    def subscribe(self, topic: str, qos: int = 0) -> bytes:
        """Subscribe, and return the bytes after the SUBACK."""
        name = topic.encode()
        body = b"\0\x01" + len(name).to_bytes(2, "big") + name + bytes((qos,))
        self.send(b"\x82" + bytes((len(body),)) + body)
        answer = self.answer(5)
        assert answer[0] == 0x90
        return answer[5:]


def connect(port: int, tls: ssl.SSLContext | None = None) -> Wire:
    """Open one connection."""
    wire = Wire(port, tls)
    wire.upgraded()
    wire.accepted()
    return wire


def publish(port: int, count: int, warm: int, qos: int, together: int = 64) -> dict[str, float]:
    wire = connect(port)
    return timed(lambda number: publish_some(wire, number, qos, together), count, warm)


def publish_some(wire: Wire, count: int, qos: int, together: int) -> None:
    name = work.encode_publish(work.TOPIC, b"")[2:]
    head = bytes((0x30 | qos << 1, len(name) + len(work.MESSAGE) + (2 if qos else 0)))
    payload = work.MESSAGE
    acknowledged = sent = 0
    while sent < count or acknowledged < (count if qos else 0):
        batch = min(100 - (sent - acknowledged) if qos else together, count - sent)
        if qos:
            numbers = range(sent, sent + batch)
            packets = [head + name + (number % 65_535 + 1).to_bytes(2, "big") + payload for number in numbers]
        else:
            packets = [head + name + payload for _ in range(batch)]
        if packets:
            wire.send(b"".join(packets))
        sent += batch
        if qos:
            acknowledged += sum(map(len, wire.payloads())) // 4
    if not qos:
        wire.send(work.encode_publish(work.TOPIC, payload, 1, 1))
        assert wire.payloads()[0][0] == 0x40


def receive(port: int, count: int, warm: int) -> dict[str, float]:
    wire = connect(port)
    watch = Stopwatch()
    skip = 4 + len(work.TOPIC)
    size = skip + len(work.MESSAGE)
    for topic, wanted in ((work.WARM_TOPIC, warm), (work.TOPIC, count)):
        watch.start()
        got = len(wire.subscribe(topic)) // size
        while got < wanted:
            for packet in wire.payloads():
                payload = packet[skip:]
                got += 1
    assert payload == work.MESSAGE
    return watch.stop(count)


def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    """Publish a message when the one before it has come back.

    With QoS 1 each trip includes the PUBACK of the message received before, because every client sends one for each
    trip. It shares the frame of the PUBLISH. Sent between two trips, it would not be measured, and it would wake the
    broker early for the next message.
    """
    wire = connect(port)
    wire.subscribe("bench/echo", qos)
    trips = []
    acknowledgement = b""
    for number in range(1, warm + count + 1):
        start = time.perf_counter()
        packet = work.encode_publish("bench/echo", work.MESSAGE, qos, number % 65_535 + 1 if qos else None)
        wire.send(acknowledgement + packet)
        while True:
            arrived = [packet for packet in wire.payloads() if packet[0] & 0xF0 == 0x30]
            if arrived:
                break
        trips.append(time.perf_counter() - start)
        if qos:
            acknowledgement = b"\x40\x02" + arrived[0][14:16]
    return percentiles(trips[warm:])


if __name__ == "__main__":
    main(
        {
            "publish_qos0": lambda port, count, warm: publish(port, count, warm, 0),
            "publish_qos0_waiting": lambda port, count, warm: publish(port, count, warm, 0, together=1),
            "publish_qos1": lambda port, count, warm: publish(port, count, warm, 1),
            "receive": receive,
            "echo": echo,
        }
    )
