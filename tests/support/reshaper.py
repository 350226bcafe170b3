"""A WebSocket tunnel that changes how MQTT bytes are divided into messages and frames, in both directions.

The handshake passes unchanged. After it, the MQTT bytes of both sides are taken out of their frames and put into
others, in one of the `SHAPES`; control frames pass unchanged.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

from wire import PATIENCE

#: The first byte of a frame: FIN and the opcode.
BINARY, CONTINUATION, FIN, PING, PONG = 2, 0, 0x80, 9, 10


def packets(data: bytes) -> tuple[list[bytes], bytes]:
    """Split MQTT bytes into packets. Return the complete packets and the rest."""
    whole = []
    while len(data) >= 2:
        length = size = 0
        for size in range(1, min(len(data), 5)):
            length |= (data[size] & 127) << 7 * (size - 1)
            if data[size] < 128:
                break
        else:
            break
        if len(data) < 1 + size + length:
            break
        whole.append(data[: 1 + size + length])
        data = data[1 + size + length :]
    return whole, data


#: Seconds without a byte after which the packets gathered so far are sent.
PAUSE = 0.005

# A shape: the packets gathered since the last call -> frames, as (first byte, payload).
Frames = Iterator[tuple[int, bytes]]


def one_packet_a_message(whole: list[bytes]) -> Frames:
    for packet in whole:
        yield FIN | BINARY, packet


def one_byte_a_message(whole: list[bytes]) -> Frames:
    for packet in whole:
        for byte in packet:
            yield FIN | BINARY, bytes((byte,))


def one_byte_a_fragment_and_pings_between(whole: list[bytes]) -> Frames:
    for packet in whole:
        yield BINARY, packet[:1]
        for byte in packet[1:]:
            yield FIN | PING, b"between"
            yield CONTINUATION, bytes((byte,))
        yield FIN | CONTINUATION, b""


def everything_merged(whole: list[bytes]) -> Frames:
    if whole:
        yield FIN | BINARY, b"".join(whole)


def across_the_packets_ends(whole: list[bytes]) -> Frames:
    """Make each message from the end of one packet and the start of the next, separated by empty messages."""
    data, cuts = b"".join(whole), [0]
    position = 0
    for packet in whole:
        cuts.append(position + len(packet) // 2)
        position += len(packet)
    for start, end in zip(cuts, [*cuts[1:], len(data)], strict=True):
        yield FIN | BINARY, data[start:end]
        yield FIN | BINARY, b""


SHAPES: dict[str, Callable[[list[bytes]], Frames]] = {
    shape.__name__: shape
    for shape in (
        one_packet_a_message,
        one_byte_a_message,
        one_byte_a_fragment_and_pings_between,
        everything_merged,
        across_the_packets_ends,
    )
}


class Reshaper:
    """The tunnel, for any number of connections.

    Args:
        url: the URL of the WebSocket server.
        shape: one of `SHAPES`.
        gather: the number of packets to gather before they are reshaped; a pause ends the gathering.

    Attributes:
        shape: the name of the shape.
        frames: the number of frames sent, in both directions.
        pongs: the number of pongs received for the tunnel's pings.
    """

    def __init__(self, url: str, shape: str, gather: int = 8) -> None:
        parts = urlsplit(url)
        self._server = (parts.hostname, parts.port)
        self.shape = shape
        self._gather = gather
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._threads: list[threading.Thread] = []
        self.frames = 0
        self.pongs = 0
        port = self._listener.getsockname()[1]
        self.url = urlunsplit(parts._replace(netloc=f"127.0.0.1:{port}"))
        self._spawn(self._accept)

    def _spawn(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # the listener was closed
                return
            server = socket.create_connection(self._server, timeout=PATIENCE)
            self._sockets += [client, server]
            for one in (client, server):
                one.settimeout(None)
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._spawn(self._carry, client, server, True)
            self._spawn(self._carry, server, client, False)

    def _carry(self, source: socket.socket, target: socket.socket, masked: bool) -> None:
        try:
            data = b""
            while b"\r\n\r\n" not in data:
                data += self._read(source)
            head, _, data = data.partition(b"\r\n\r\n")
            target.sendall(head + b"\r\n\r\n")
            self._reshape(source, target, data, masked)
        except (OSError, EOFError):
            pass
        finally:
            try:
                target.shutdown(socket.SHUT_WR)
            except OSError:
                pass

    @staticmethod
    def _read(source: socket.socket) -> bytes:
        data = source.recv(65536)
        if not data:
            raise EOFError
        return data

    def _reshape(self, source: socket.socket, target: socket.socket, data: bytes, masked: bool) -> None:
        mqtt, waiting, closing = b"", [], b""
        while True:
            while frame := _parse(data):
                first, payload, data = frame
                if first & 15 in (BINARY, CONTINUATION):
                    mqtt += payload
                elif first & 15 == PONG:
                    self.pongs += 1
                elif first & 15 != PING:
                    closing = _frame(first, payload, masked)  # sent after everything received before it
            whole, mqtt = packets(mqtt)
            waiting += whole
            if not closing and len(waiting) < self._gather:
                source.settimeout(PAUSE if waiting else None)
                try:
                    data += self._read(source)
                    continue
                except TimeoutError:
                    pass
            self._send(target, waiting, masked)
            waiting = []
            if closing:
                target.sendall(closing)
                return

    def _send(self, target: socket.socket, whole: list[bytes], masked: bool) -> None:
        frames = [_frame(first, payload, masked) for first, payload in SHAPES[self.shape](whole)]
        self.frames += len(frames)
        target.sendall(b"".join(frames))

    def close(self) -> None:
        """Cut every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(PATIENCE)
        for each in self._sockets:
            each.close()

    def __enter__(self) -> Reshaper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _frame(first: int, payload: bytes, masked: bool) -> bytes:
    size, mask = len(payload), 0x80 if masked else 0
    if size < 126:
        header = bytes((first, mask | size))
    elif size < 65_536:
        header = struct.pack("!BBH", first, mask | 126, size)
    else:
        header = struct.pack("!BBQ", first, mask | 127, size)
    if not masked:
        return header + payload
    key = os.urandom(4)
    return header + key + _masked(payload, key)


def _masked(payload: bytes, key: bytes) -> bytes:
    keys = (key * (len(payload) // 4 + 1))[: len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(keys, "big")).to_bytes(len(payload), "big")


def _parse(data: bytes) -> tuple[int, bytes, bytes] | None:
    """Parse a frame. Return its first byte, its payload and the rest; None if it is incomplete."""
    if len(data) < 2:
        return None
    size, start = data[1] & 127, 2
    if size > 125:
        start += 2 if size == 126 else 8
        size = int.from_bytes(data[2:start], "big")
    key = b""
    if data[1] & 0x80:
        key = data[start : start + 4]
        start += 4
    if len(data) < start + size:
        return None
    payload = data[start : start + size]
    return data[0], _masked(payload, key) if key else payload, data[start + size :]
