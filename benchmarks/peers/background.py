"""Send 10,000 messages a second from one connection to another, through the broker's TCP port: a background load.

It prints a line when the first messages arrive, and ends at the end of its standard input.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

import workloads as work

TOPIC = "bench/background"
#: Messages for each tick of a millisecond.
TOGETHER, TICK = 10, 0.001


def connect(port: int, client_id: bytes) -> socket.socket:
    """Connect over plain TCP."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    body = b"\0\x04MQTT\x04\x02\0\0" + len(client_id).to_bytes(2, "big") + client_id
    connection.sendall(bytes((0x10, len(body))) + body)
    assert connection.recv(4, socket.MSG_WAITALL) == b"\x20\x02\0\0"
    return connection


def receive(connection: socket.socket) -> None:
    """Read until the broker closes the connection."""
    connection.recv(1)
    print("1", flush=True)
    while connection.recv(65_536):
        pass


def publish(connection: socket.socket) -> None:
    """Publish until the broker closes the connection; ticks that were missed are made up for."""
    messages = work.encode_publish(TOPIC, work.MESSAGE) * TOGETHER
    due = time.perf_counter()
    while True:
        connection.sendall(messages)
        due += TICK
        time.sleep(max(0.0, due - time.perf_counter()))


def main(port: int) -> None:
    """Subscribe in one thread, publish in another."""
    subscriber = connect(port, b"background-subscriber")
    topic = TOPIC.encode()
    subscriber.sendall(bytes((0x82, 5 + len(topic), 0, 1, 0, len(topic))) + topic + b"\0")
    assert subscriber.recv(5, socket.MSG_WAITALL)[0] == 0x90
    threading.Thread(target=receive, args=(subscriber,), daemon=True).start()
    threading.Thread(target=publish, args=(connect(port, b"background-publisher"),), daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]))
