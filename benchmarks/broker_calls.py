"""Count the calls of Python functions for a message in the broker, from the publisher's socket to the subscriber's.

    python benchmarks/broker_calls.py [--list]

The broker, a publisher and a subscriber on plain sockets share one thread; `sys.setprofile` counts the calls from the
first byte of a PUBLISH that the broker reads to the end of the event loop's turn in which it writes. Calls of the event
loop count, those of this script do not. Unlike a time, a count is the same on every machine.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections import Counter
from types import FrameType
from urllib.parse import urlsplit

from mqttws import Connect, Publish, Subscribe
from mqttws.broker import Broker

#: The maximum number of calls, by QoS of the PUBLISH and of the subscription.
MOST = {0: 38, 1: 86}
_TURNS = 50


async def client(broker: Broker, client_id: str, *packets: bytes) -> socket.socket:
    """Connect over plain TCP, send some packets, and read the answers."""
    connection = socket.create_connection(("127.0.0.1", urlsplit(broker.url_of("mqtt")).port or 0))
    connection.setblocking(False)
    for packet in (Connect(client_id).encode(), *packets):
        connection.send(packet)
        await asyncio.get_running_loop().sock_recv(connection, 65_536)
    return connection


async def count(qos: int) -> Counter[str]:
    """Return the calls for one message, by file and function."""
    async with Broker(ws_port=None, sys_interval=None) as broker:
        subscriber = await client(broker, "subscriber", Subscribe(1, [("sensors/+/temperature", qos)]).encode())
        publisher = await client(broker, "publisher")
        packet = Publish("sensors/1/temperature", b"21.5", qos, packet_id=1 if qos else None).encode()
        for _ in range(3):  # fill the caches
            publisher.send(packet)
            for _ in range(_TURNS):
                await asyncio.sleep(0.000_1)
        calls: Counter[str] = Counter()

        def profile(frame: FrameType, event: str, argument: object) -> None:
            if event == "call" and frame.f_code.co_filename not in (__file__, asyncio.tasks.__file__):
                calls[f"{frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_code.co_qualname}"] += 1

        subscriber.recv(65_536)
        publisher.send(packet)
        sys.setprofile(profile)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        sys.setprofile(None)
        assert subscriber.recv(65_536)
        idle: Counter[str] = Counter()
        moving, calls = calls, idle
        sys.setprofile(profile)
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        sys.setprofile(None)
        subscriber.close()
        publisher.close()
        return moving - idle


def main() -> None:
    """Print the counts; exit with 1 if one exceeds its bound."""
    over = False
    for qos in MOST:
        calls = asyncio.run(count(qos))
        print(f"QoS {qos}: {calls.total()} calls (at most {MOST[qos]})")
        if "--list" in sys.argv:
            for name, number in calls.most_common():
                print(f"{number:6} {name}")
        over = over or calls.total() > MOST[qos]
    sys.exit(int(over))


if __name__ == "__main__":
    main()
