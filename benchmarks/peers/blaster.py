"""A server at the other end of one client, which never makes it wait: for receiving and for publishing.

It uses WebSocket if the first bytes are an HTTP request, otherwise plain MQTT. It answers CONNECT, then one SUBSCRIBE
for each number in its command line, each with that many PUBLISH packets of QoS 0, one in each frame, built beforehand:
first those of the warm-up; then, when the client has received them and subscribes again, the timed ones. What a client
publishes with QoS 1 it acknowledges; it reads no payload. It prints its port, serves one client after another, and ends
at the end of its standard input::

    python blaster.py 5000 10000                            messages of 64 bytes, in plain TCP
    python blaster.py tls=1 5000 10000                      over TLS, as many messages in each record as fit
    python blaster.py tls=1 together=1 5000 10000           over TLS, one message in each record
    python blaster.py size=1048576 5 10                     messages of 1 MiB
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import ssl
import sys
import threading

import workloads as work

#: About the number of bytes in one `send`.
BATCH = 64 * 1024
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


class Wire:
    """The bytes of a connection, over TLS or not.

    With TLS, each `write` ends a record, but the socket gets many records at once.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext | None) -> None:
        self.socket = connection
        self._tls: ssl.SSLObject | None = None
        if context is not None:
            self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
            self._waiting(self._tls.do_handshake)
            connection.sendall(self._outgoing.read())

    def _waiting(self, call, *arguments):
        """Call a function of TLS again after each read, until it has enough ciphertext."""
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self.socket.sendall(self._outgoing.read())
                data = self._received()
                self._incoming.write(data)

    def _received(self) -> bytes:
        data = self.socket.recv(256 * 1024)
        if not data:
            raise ConnectionError("the client is gone")
        # Some clients leave Nagle's algorithm on, and wait for this before they send the end of a message.
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return data

    def read(self) -> bytes:
        """Return some bytes."""
        data = self._received() if self._tls is None else self._waiting(self._tls.read, 256 * 1024)
        if not data:
            raise ConnectionError("the client is gone")
        return data

    def write(self, *pieces: bytes) -> None:
        """Send pieces, each in records of its own."""
        if self._tls is None:
            self.socket.sendall(b"".join(pieces))
            return
        for piece in pieces:
            view = memoryview(piece)
            while view:
                view = view[self._tls.write(view) :]
        self.socket.sendall(self._outgoing.read())


class Peer:
    """One client, over WebSocket or TCP."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.raw = wire.read()  # unread bytes, from `position`
        self.position = 0
        self.left: int | None = None  # the rest of the frame; None without WebSocket
        self.mask, self.masked = b"", 0  # the masking key, and how much of the frame was read
        if self.raw[:4] == b"GET ":
            while b"\r\n\r\n" not in self.raw:
                self.raw += wire.read()
            head, _, self.raw = self.raw.partition(b"\r\n\r\n")
            wire.write(upgraded(head))
            self.left = 0

    def _bytes(self, count: int) -> bytes:
        """Read bytes as they are."""
        while len(self.raw) - self.position < count:
            self.raw, self.position = self.raw[self.position :] + self.wire.read(), 0
        self.position += count
        return self.raw[self.position - count : self.position]

    def _open_frame(self) -> None:
        while self.left == 0:
            size = self._bytes(2)[1] & 0x7F
            if size > 125:
                size = int.from_bytes(self._bytes(2 if size == 126 else 8), "big")
            self.mask, self.masked, self.left = self._bytes(4), 0, size

    def take(self, count: int) -> bytes:
        """Read bytes of MQTT, a few."""
        taken = bytearray()
        for _ in range(count):
            self._open_frame()
            byte = self._bytes(1)[0]
            if self.left is not None:
                byte ^= self.mask[self.masked & 3]
                self.masked, self.left = self.masked + 1, self.left - 1
            taken.append(byte)
        return bytes(taken)

    def skip(self, count: int) -> None:
        """Read bytes of MQTT, and forget them."""
        while count:
            self._open_frame()
            if self.position == len(self.raw):
                self.raw, self.position = self.wire.read(), 0
            some = min(count, len(self.raw) - self.position)
            if self.left is not None:
                some = min(some, self.left)
                self.masked, self.left = self.masked + some, self.left - some
            self.position, count = self.position + some, count - some

    def packet(self) -> tuple[int, bytes]:
        """Read a packet.

        Returns:
            Its first byte, and its contents; of a PUBLISH only its packet identifier.
        """
        first, length, shift = self.take(1)[0], 0, 0
        while True:
            byte = self.take(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if first & 0xF0 != 0x30:
            return first, self.take(length)
        name = int.from_bytes(self.take(2), "big")
        self.skip(name)
        packet_id = self.take(2 if first & 6 else 0)
        self.skip(length - 2 - name - len(packet_id))
        return first, packet_id

    def frame(self, packet: bytes) -> bytes:
        """Return a packet, in a frame over WebSocket."""
        return packet if self.left is None else work.frame(packet)

    def serve(self, counts: list[int], size: int, together: int) -> None:
        """Serve the client to its end."""
        left = iter(counts)
        while (packet := self.packet())[0] != 0xE0:
            first, contents = packet
            if first == 0x10:
                self.wire.write(self.frame(b"\x20\x02\0\0"))
            elif first & 0xF6 == 0x32:
                self.wire.write(self.frame(b"\x40\x02" + contents))
            elif first == 0x82:
                self.wire.write(self.frame(b"\x90\x03" + contents[:2] + b"\0"))
                topic = contents[4:-1].decode()
                self._blast(self.frame(work.encode_publish(topic, work.payload(size))), next(left, 0), together)

    def _blast(self, message: bytes, count: int, together: int) -> None:
        batch = max(1, BATCH // len(message))
        for number in range(0, count, batch):
            some = min(batch, count - number)
            self.wire.write(*([message] * some if together == 1 else [message * some]))


def accept_all(listener: socket.socket, counts: list[int], tls: int = 0, size: int = 64, together: int = 0) -> None:
    """Serve clients, one at a time."""
    context = server_context() if tls else None
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection:
            try:
                Peer(Wire(connection, context)).serve(counts, size, together)
            except OSError:
                pass  # the client disconnected early; its own result counts


def server_context() -> ssl.SSLContext:
    """Return the context of a server with the certificate of the benchmarks."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    directory = os.environ["BENCH_CERTIFICATES"]
    context.load_cert_chain(f"{directory}/server.crt", f"{directory}/server.key")
    return context


if __name__ == "__main__":
    server = socket.create_server(("127.0.0.1", 0))
    print(server.getsockname()[1], flush=True)
    options = dict(given.split("=") for given in sys.argv[1:] if "=" in given)
    counts = [int(given) for given in sys.argv[1:] if "=" not in given]
    numbers = {name: int(value) for name, value in options.items()}
    threading.Thread(target=accept_all, args=(server, counts), kwargs=numbers, daemon=True).start()
    sys.stdin.read()
