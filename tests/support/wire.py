"""A raw client of a broker: it sends the bytes that the test gives, and returns what it receives."""

from __future__ import annotations

import os
import socket
import struct
import time
from collections import deque
from types import TracebackType
from urllib.parse import urlsplit

from mqttws import Connect, Decoder, Packet, PingReq, PingResp, Publish, SubAck, Subscribe

#: Timeout of each answer, in seconds. Runs that are expected to fail can lower it.
PATIENCE = float(os.environ.get("PATIENCE", "30"))


def octets(*items: bytes | str | Packet) -> bytes:
    """Join bytes, hex digits and packets."""
    return b"".join(
        item if isinstance(item, bytes) else bytes.fromhex(item) if isinstance(item, str) else item.encode()
        for item in items
    )


class Wire:
    """A raw client of a broker.

    Args:
        url: of a listener without TLS.
        headers: additional header lines of the WebSocket upgrade request.
        upgrade: whether to do the WebSocket upgrade immediately.
    """

    def __init__(self, url: str, headers: tuple[str, ...] = (), upgrade: bool = True) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self.socket = socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._decoder = Decoder()
        self._packets: deque[Packet] = deque()
        self._raw = b""  # bytes of WebSocket frames not parsed yet
        self.websocket = parts.scheme == "ws"
        self.head = b""
        if self.websocket and upgrade:
            self.head = self.upgrade(parts.path or "/", parts.netloc, headers)
            assert b" 101 " in self.head, self.head

    def upgrade(self, target: str, host: str, headers: tuple[str, ...] = (), subprotocol: str = "mqtt") -> bytes:
        """Request the upgrade. Return the head of the response, or the whole response if it is a refusal."""
        lines = [
            f"GET {target} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
            f"Sec-WebSocket-Protocol: {subprotocol}",
            *headers,
        ]
        self.socket.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            data = self.socket.recv(65536)
            if not data:
                return answer
            answer += data
        head, _, self._raw = answer.partition(b"\r\n\r\n")
        if b" 101 " in head:
            return head
        return answer + self.rest()

    # Sending.

    def send(self, *items: bytes | str | Packet) -> Wire:
        """Send bytes, hex digits and packets together, over WebSocket in one message."""
        data = octets(*items)
        if self.websocket:
            size = len(data)
            length = bytes((0x80 | size,)) if size < 126 else struct.pack("!BH", 0xFE, size)
            data = b"\x82" + length + bytes(4) + data  # masked with zeros
        self.socket.sendall(data)
        return self

    def connect(self, client_id: str = "", **fields: object) -> Wire:
        """Connect and check for CONNACK 0."""
        self.send(Connect(client_id, **fields))  # type: ignore[arg-type]
        answer = self.receive()
        assert type(answer).__name__ == "ConnAck", answer
        assert answer.return_code == 0, answer
        self.session_present = answer.session_present
        return self

    def subscribe(self, *topic_filters: tuple[str, int], packet_id: int = 1) -> tuple[int, ...]:
        """Subscribe and return the return codes of the SUBACK."""
        self.send(Subscribe(packet_id, topic_filters))
        answer = self.receive()
        assert isinstance(answer, SubAck), answer
        assert answer.packet_id == packet_id
        return answer.return_codes

    # Receiving.

    def receive(self) -> Packet:
        """Return the next packet."""
        while not self._packets:
            data = self._read()
            assert data, "the broker closed the connection"
            self._packets.extend(self._decoder.feed(data))
        return self._packets.popleft()

    def expect(self, *items: bytes | str | Packet) -> None:
        """Check that the broker sends exactly these bytes next."""
        expected = octets(*items)
        got = b""
        while len(got) < len(expected):
            got += self.receive().encode()
        assert got == expected, (got.hex(" "), expected.hex(" "))

    def messages(self, count: int) -> list[Publish]:
        """Return the next `count` packets, which must be PUBLISH packets."""
        packets = [self.receive() for _ in range(count)]
        assert all(isinstance(packet, Publish) for packet in packets), packets
        return packets  # type: ignore[return-value]

    def quiet(self) -> None:
        """Check that the broker has sent nothing else before now."""
        self.send(PingReq())
        assert self.receive() == PingResp()

    def rest(self) -> bytes:
        """Return all bytes until the broker closes, including packets not yet received by the test."""
        data = b"".join(packet.encode() for packet in self._packets)
        self._packets.clear()
        deadline = time.monotonic() + PATIENCE
        while more := self._read():
            data += more
            assert time.monotonic() < deadline, "the broker does not close the connection"
        return data

    def _read(self) -> bytes:
        """Return the next MQTT bytes; b"" at the end of the connection or at a close frame."""
        if not self.websocket or b" 101 " not in self.head:
            try:
                return self.socket.recv(65536)
            except ConnectionResetError:
                return b""
        while True:
            opcode, payload = self.frame()
            if opcode != 2 or payload:
                return payload if opcode == 2 else b""

    def frame(self) -> tuple[int, bytes]:
        """Return opcode and payload of the next WebSocket frame; 8 and b"" if the connection ends without one."""
        if not self._fill(2):
            return 8, b""
        opcode, size = self._raw[0] & 15, self._raw[1]
        header = 2 + (2 if size == 126 else 8 if size == 127 else 0)
        self._fill(header)
        if size > 125:
            size = int.from_bytes(self._raw[2:header], "big")
        self._fill(header + size)
        payload, self._raw = self._raw[header : header + size], self._raw[header + size :]
        return opcode, payload

    def _fill(self, size: int) -> bool:
        while len(self._raw) < size:
            data = self.socket.recv(65536)
            if not data:
                return False
            self._raw += data
        return True

    # Closing.

    def reset(self) -> None:
        """Close the connection with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def close(self) -> None:
        """Close the socket without a DISCONNECT or a close frame."""
        self.socket.close()

    def __enter__(self) -> Wire:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
