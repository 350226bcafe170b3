"""Answer requests over a plain socket to the broker's TCP port, for every library. Prints a line when ready.

It receives messages to `bench/request` with QoS 1, acknowledges them, and publishes the payloads to `bench/response`.
"""

from __future__ import annotations

import socket
import sys
import threading

import workloads as work

REQUEST, RESPONSE = "bench/request", "bench/response"


def packets(connection: socket.socket, rest: bytearray) -> list[bytes]:
    """Read once, and return complete packets."""
    data = connection.recv(65_536)
    if not data:
        raise SystemExit
    rest += data
    found = []
    while len(rest) >= 2:
        size = 2 + rest[1] if rest[1] < 128 else 3 + rest[1] - 128 + rest[2] * 128 if len(rest) > 2 else sys.maxsize
        if len(rest) < size:
            break
        found.append(bytes(rest[:size]))
        del rest[:size]
    return found


def main(port: int) -> None:
    """Subscribe, then answer until the broker closes the connection."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(b"\x10\x15\0\x04MQTT\x04\x02\0\0\0\x09responder")
    topic = REQUEST.encode()
    connection.sendall(bytes((0x82, 5 + len(topic), 0, 1, 0, len(topic))) + topic + b"\1")
    rest, packet_id = bytearray(), 0
    while True:
        answers = []
        for packet in packets(connection, rest):
            if packet[0] == 0x90:
                print("1", flush=True)
            elif packet[0] & 0xF0 == 0x30:
                start = (2 if packet[1] < 128 else 3) + 2 + len(topic)
                packet_id = packet_id % 65_535 + 1
                answers.append(b"\x40\x02" + packet[start : start + 2])
                answers.append(work.encode_publish(RESPONSE, packet[start + 2 :], 1, packet_id))
        if answers:
            connection.sendall(b"".join(answers))


if __name__ == "__main__":
    threading.Thread(target=main, args=(int(sys.argv[1]),), daemon=True).start()
    sys.stdin.read()
