"""A server that sends messages as fast as the socket accepts them, to measure the receiving of clients.

It uses WebSocket if the first bytes are an HTTP request, otherwise plain MQTT. It answers CONNECT, then one SUBSCRIBE
for each number in its command line, each with that many PUBLISH packets of QoS 0, one in each frame, built beforehand:
first those of the warm-up; then, when the client has received them and subscribes again, the timed ones. It prints its
port, serves one client after another, and ends at the end of its standard input.
"""

from __future__ import annotations

import base64
import hashlib
import socket
import sys
import threading

import workloads as work

#: The number of messages in one `send`: about 64 KiB.
BATCH = 640
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def upgraded(head: bytes) -> bytes:
    """Return the response to an upgrade request."""
    headers = dict(line.split(b":", 1) for line in head.split(b"\r\n")[1:])
    values = {name.lower(): value.strip() for name, value in headers.items()}
    accept = base64.b64encode(hashlib.sha1(values[b"sec-websocket-key"] + GUID).digest())
    protocol = values[b"sec-websocket-protocol"].split(b",")[0].strip()
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\nSec-WebSocket-Protocol: " + protocol + b"\r\n\r\n"
    )


class Peer:
    """One client, over WebSocket or TCP."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.raw = b""
        self.mqtt = b""
        self.raw = connection.recv(65_536)
        self.websocket = self.raw[:4] == b"GET "
        if self.websocket:
            self._upgrade()

    def _upgrade(self) -> None:
        while b"\r\n\r\n" not in self.raw:
            self._read()
        head, _, self.raw = self.raw.partition(b"\r\n\r\n")
        self.connection.sendall(upgraded(head))

    def _read(self) -> None:
        data = self.connection.recv(65_536)
        if not data:
            raise ConnectionError("the client is gone")
        self.raw += data

    def _read_frame(self) -> None:
        while len(self.raw) < 6:  # the shortest header and the masking key
            self._read()
        size, start = self.raw[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(self.raw[2:4], "big"), 4
        while len(self.raw) < start + 4 + size:
            self._read()
        key, body = self.raw[start : start + 4], self.raw[start + 4 : start + 4 + size]
        self.mqtt += bytes(byte ^ key[index % 4] for index, byte in enumerate(body))
        self.raw = self.raw[start + 4 + size :]

    def packet(self) -> bytes:
        """Read one packet of less than 16 KiB."""
        while (size := self._size()) is None or len(self.mqtt) < size:
            if self.websocket:
                self._read_frame()
            else:
                if not self.raw:
                    self._read()
                self.mqtt, self.raw = self.mqtt + self.raw, b""
        packet, self.mqtt = self.mqtt[:size], self.mqtt[size:]
        return packet

    def _size(self) -> int | None:
        """Return the size of the next packet; None while its length is incomplete."""
        if len(self.mqtt) < 3:
            return 2 if len(self.mqtt) == 2 and not self.mqtt[1] else None
        length = self.mqtt[1]
        return 2 + length if length < 128 else 3 + length - 128 + self.mqtt[2] * 128

    def frame(self, packet: bytes) -> bytes:
        """Return a short packet, in a frame over WebSocket."""
        return bytes((0x82, len(packet))) + packet if self.websocket else packet

    def serve(self, counts: list[int]) -> None:
        """Serve the client to its end."""
        assert self.packet()[0] == 0x10
        self.connection.sendall(self.frame(b"\x20\x02\0\0"))
        for count in counts:
            subscribe = self.packet()
            assert subscribe[0] == 0x82
            self.connection.sendall(self.frame(b"\x90\x03" + subscribe[2:4] + b"\0"))
            message = self.frame(work.encode_publish(subscribe[6:-1].decode(), work.MESSAGE))
            batch = message * BATCH
            for _ in range(count // BATCH):
                self.connection.sendall(batch)
            self.connection.sendall(message * (count % BATCH))
        while self.packet()[0] != 0xE0:  # until the client disconnects
            pass


def accept_all(listener: socket.socket, counts: list[int]) -> None:
    """Serve clients, one at a time."""
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                Peer(connection).serve(counts)
            except OSError:
                pass  # the client disconnected early; its own result counts


if __name__ == "__main__":
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=accept_all, args=(server, list(map(int, sys.argv[1:]))), daemon=True).start()
    sys.stdin.read()
