"""The floor of brokers: forwards each frame unread to all subscribers. Prints its port.

It has no topics, and assumes that a frame contains one CONNECT, one SUBSCRIBE, or messages, as `load_floor.py` sends.
"""

from __future__ import annotations

import selectors
import socket
import sys
import threading

import workloads as work
from blaster import upgraded


class Link:
    """One connection, and the received part of a frame."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.raw = b""
        self.open = False

    def frames(self) -> list[bytes]:
        """Read once, and return the payloads of complete frames."""
        data = self.socket.recv(65_536)
        if not data:
            raise ConnectionError("the client is gone")
        self.raw += data
        if not self.open:
            if b"\r\n\r\n" not in self.raw:
                return []
            head, _, self.raw = self.raw.partition(b"\r\n\r\n")
            self.socket.sendall(upgraded(head))
            self.open = True
        found = []
        while len(self.raw) >= 6:
            size, start = self.raw[1] & 0x7F, 2
            if size == 126:
                size, start = int.from_bytes(self.raw[2:4], "big"), 4
            end = start + 4 + size
            if len(self.raw) < end:
                break
            key = int.from_bytes((self.raw[start : start + 4] * (size // 4 + 1))[:size], "little")
            found.append((int.from_bytes(self.raw[start + 4 : end], "little") ^ key).to_bytes(size, "little"))
            self.raw = self.raw[end:]
        return found


def serve(listener: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(listener, selectors.EVENT_READ)
    subscribers: dict[Link, None] = {}
    while True:
        for key, _ in selector.select():
            link: Link | None = key.data
            if link is None:
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                selector.register(connection, selectors.EVENT_READ, Link(connection))
                continue
            try:
                for data in link.frames():
                    if data[0] == 0x10:
                        link.socket.sendall(work.frame(b"\x20\x02\0\0"))
                    elif data[0] == 0x82:
                        link.socket.sendall(work.frame(b"\x90\x03" + data[2:4] + b"\0"))
                        subscribers[link] = None
                    else:
                        messages = work.frame(data)
                        for subscriber in subscribers:
                            subscriber.socket.sendall(messages)
            except OSError:
                selector.unregister(link.socket)
                link.socket.close()
                subscribers.pop(link, None)


if __name__ == "__main__":
    server = socket.create_server(("127.0.0.1", 0), backlog=128)
    print(server.getsockname()[1], flush=True)
    threading.Thread(target=serve, args=(server,), daemon=True).start()
    sys.stdin.read()
