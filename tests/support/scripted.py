"""A scripted server: the test gives, byte for byte, its answers to a real client.

The client under test runs in another thread, so that the script reads from top to bottom::

    with Scripted("mqtt") as server:
        client = Client(server.url, client_id="c")
        opening = server.soon(client.open)
        end = server.accept()
        assert end.receive() == Connect("c")
        end.send("20 02 00 00")
        opening.result(PATIENCE)
"""

from __future__ import annotations

import base64
import hashlib
import os
import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

from wire import PATIENCE, octets

from mqttws import Connect, Decoder, Packet

T = TypeVar("T")

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
#: The address of the servers: on Linux another one for each process. A client of another process that reconnects to a
#: closed port would otherwise reach the server that gets this port next.
_PID = os.getpid()
HOST = f"127.{128 + (_PID >> 16)}.{_PID >> 8 & 255}.{_PID & 255}" if sys.platform == "linux" else "127.0.0.1"


class End:
    """The server side of one connection."""

    def __init__(self, connection: socket.socket, websocket: bool) -> None:
        self.socket = connection
        self.socket.settimeout(PATIENCE)
        self.websocket = websocket
        self.closing = b""  # the payload of the client's close frame
        self._raw = b""
        self._decoder = Decoder()
        self._packets: deque[Packet] = deque()
        self.head = b""
        if websocket:
            self._upgrade()

    def _upgrade(self) -> None:
        while b"\r\n\r\n" not in self._raw:
            data = self._recv()
            assert data, "the client closed the connection before its upgrade request was complete"
            self._raw += data
        self.head, _, self._raw = self._raw.partition(b"\r\n\r\n")
        lines = self.head.split(b"\r\n")
        (key,) = [line.partition(b":")[2].strip() for line in lines if line.lower().startswith(b"sec-websocket-key:")]
        accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
        self.socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
        )

    def send(self, *items: bytes | str | Packet) -> End:
        """Send bytes, hex digits and packets together, over WebSocket in one message."""
        data = octets(*items)
        return self.frame(data) if self.websocket else self._send(data)

    def frame(self, payload: bytes, first: int = 0x82) -> End:
        """Send a WebSocket frame; with a first byte of 0x82 it is a complete binary message."""
        size = len(payload)
        length = bytes((size,)) if size < 126 else struct.pack("!BH", 126, size)
        return self._send(bytes((first,)) + length + payload)

    def _send(self, data: bytes) -> End:
        self.socket.sendall(data)
        return self

    def receive(self) -> Packet:
        """Return the client's next packet."""
        while not self._packets:
            data = self._read()
            assert data, "the client closed the connection"
            self._packets.extend(self._decoder.feed(data))
        return self._packets.popleft()

    def expect(self, *items: bytes | str | Packet) -> End:
        """Check that the client sends exactly these bytes next."""
        expected = octets(*items)
        got = b""
        while len(got) < len(expected):
            got += self.receive().encode()
        assert got == expected, (got.hex(" "), expected.hex(" "))
        return self

    def welcome(self, session_present: bool = False) -> End:
        """Receive any CONNECT and accept it."""
        packet = self.receive()
        assert isinstance(packet, Connect), packet
        return self.send("20 02 01 00" if session_present else "20 02 00 00")

    def rest(self) -> bytes:
        """Return all MQTT bytes until the client closes, including packets not yet received by the test."""
        data = b"".join(packet.encode() for packet in self._packets) + bytes(self._decoder._partial)
        payload = self._decoder._payload
        if payload is not None:
            data += payload.take()[: payload._end]
        self._packets.clear()
        deadline = time.monotonic() + PATIENCE
        while more := self._read():
            data += more
            assert time.monotonic() < deadline, "the client does not close"
        return data

    def packets(self) -> list[Packet]:
        """Return every packet until the client closes, including one that was partly received before."""
        deadline = time.monotonic() + PATIENCE
        while more := self._read():
            self._packets.extend(self._decoder.feed(more))
            assert time.monotonic() < deadline, "the client does not close"
        packets = list(self._packets)
        self._packets.clear()
        return packets

    def quiet(self) -> None:
        """Check that the client has sent nothing else: the next packet is its answer to a message of QoS 1."""
        self.send("32 0a 00 05 71 75 69 65 74 7f ff 21").expect("40 02 7f ff")

    def _recv(self) -> bytes:
        try:
            return self.socket.recv(65536)
        except ConnectionResetError:
            return b""

    def _read(self) -> bytes:
        """Return the next MQTT bytes; b"" at the end."""
        if not self.websocket:
            return self._recv()
        while True:
            if not self._fill(2):
                return b""
            opcode, size = self._raw[0] & 15, self._raw[1] & 127
            start = 2 + (2 if size == 126 else 8 if size == 127 else 0)
            assert self._fill(start + 4)
            if size > 125:
                size = int.from_bytes(self._raw[2:start], "big")
            assert self._fill(start + 4 + size)
            key, masked = self._raw[start : start + 4], self._raw[start + 4 : start + 4 + size]
            self._raw = self._raw[start + 4 + size :]
            payload = bytes(byte ^ key[position % 4] for position, byte in enumerate(masked))
            if opcode == 8:
                self.closing = payload
                self.frame(payload, 0x88)
                return b""
            if opcode in (0, 2) and payload:
                return payload

    def _fill(self, size: int) -> bool:
        while len(self._raw) < size:
            data = self._recv()
            if not data:
                return False
            self._raw += data
        return True

    def cut(self) -> None:
        """Close the connection without a DISCONNECT or a close frame."""
        self.socket.close()


class Scripted:
    """A listener for scripts.

    Args:
        scheme: "mqtt" or "ws".
    """

    def __init__(self, scheme: str = "mqtt") -> None:
        self._stack = ExitStack()
        self._websocket = scheme == "ws"
        self._listener = self._stack.enter_context(socket.create_server((HOST, 0)))
        self._listener.settimeout(PATIENCE)
        self._threads = self._stack.enter_context(ThreadPoolExecutor())
        self.url = f"{scheme}://{HOST}:{self._listener.getsockname()[1]}" + ("/mqtt" if scheme == "ws" else "")

    def soon(self, call: Callable[..., T], *arguments: Any, **options: Any) -> Future[T]:
        """Call a function in another thread, because it waits for the script to continue."""
        return self._threads.submit(call, *arguments, **options)

    def closing(self, client: Any) -> None:
        """Close a client when the script ends."""
        self._stack.callback(client.close, timeout=1.0)

    def accept(self) -> End:
        """Wait for the next connection and return it."""
        connection, _ = self._listener.accept()
        self._stack.enter_context(connection)
        return End(connection, self._websocket)

    def __enter__(self) -> Scripted:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()


def connected(make: Callable[..., Any], server: Scripted, **options: Any) -> tuple[Any, End]:
    """Create a client and connect it to the server. Return the client and the server side of its connection."""
    client = make(server.url, **{"client_id": "c", **options})
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    return client, end
