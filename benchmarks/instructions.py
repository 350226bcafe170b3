"""Count the instructions of the hot paths with valgrind's callgrind, independently of the load of the machine.

    python benchmarks/instructions.py --write benchmarks/instructions.json      count, and store the counts
    python benchmarks/instructions.py --compare benchmarks/instructions.json    count, and name cases that cost 3 % more
    python benchmarks/instructions.py --check benchmarks/instructions.json      the same; nothing with another build

Each case runs under callgrind twice, with `COUNT` and with three times as many repetitions. The difference of the
totals, divided by the difference of the repetitions, is the cost of one repetition, without the start of the
interpreter and the imports. Hashes are not random and the garbage collector is off, so counts vary by less than 1 %.
They depend on the build of Python, whose version is stored with the counts and must be the same.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
#: Repetitions of the shorter run.
COUNT = 100
#: The permitted relative increase.
TOLERANCE = 0.03

TOPIC, PAYLOAD = "sensors/room-12/temperature", b"21.4 degrees Celsius"
Step = Callable[[], object]


# The cases: each prepares its objects, and returns the step to repeat.


def _encode(make: Callable[[Any], Any]) -> Callable[[], Step]:
    def prepare() -> Step:
        import mqttws

        return make(mqttws).encode  # type: ignore[no-any-return]

    return prepare


def _decode(make: Callable[[Any], Any]) -> Callable[[], Step]:
    def prepare() -> Step:
        import mqttws

        decoder, data = mqttws.Decoder(), make(mqttws).encode()
        return lambda: decoder.feed(data)

    return prepare


def encode_publish() -> Step:
    """Topic, payload and identifier to bytes, without an object."""
    from mqttws.codec.publishing import encode_publish

    return lambda: encode_publish(TOPIC, PAYLOAD, 1, False, False, 4_711)


def encode_publish_256() -> Step:
    """The same with a payload of 256 bytes, so that the remaining length has two bytes."""
    from mqttws.codec.publishing import encode_publish

    payload = bytes(256)
    return lambda: encode_publish(TOPIC, payload, 1, False, False, 4_711)


def make_publish() -> Step:
    """The object and its bytes."""
    from mqttws import Publish

    return lambda: Publish(TOPIC, PAYLOAD, 1, packet_id=4_711).encode()


def decode_stream() -> Step:
    """Fifty packets of several kinds in one read."""
    from mqttws import Decoder, PubAck, Publish

    packets = [
        Publish(f"sensors/room-{n % 5}/temperature", PAYLOAD, n % 2, packet_id=n if n % 2 else None)
        if n % 3
        else PubAck(n)
        for n in range(1, 51)
    ]
    decoder, data = Decoder(), b"".join(packet.encode() for packet in packets)
    return lambda: decoder.feed(data)


def _opened() -> tuple[Any, Any]:
    """Return the two framings of an open WebSocket."""
    from mqttws import ClientWebSocket, ServerWebSocket

    client, server = ClientWebSocket("h", "/"), ServerWebSocket()
    server.receive_data(client.data_to_send())
    server.accept_upgrade()
    client.receive_data(server.data_to_send())
    return client, server


def frame_out() -> Step:
    """One small message, masked and framed by a client."""
    from mqttws import Publish

    client, _ = _opened()
    data = Publish(TOPIC, PAYLOAD).encode()

    def step() -> None:
        client.send(data)
        client.data_to_send()

    return step


def _frames_in(masked: bool) -> Step:
    from mqttws import Publish
    from mqttws.protocol.frames import binary_frame

    client, server = _opened()
    key = b"\x37\xfa\x21\x3d" if masked else None
    frames = [binary_frame(Publish(TOPIC, PAYLOAD + b"x" * (n % 7)).encode(), key) for n in range(20)]
    data, end = b"".join(frames), server if masked else client
    return lambda: end.receive_data(data)


def frames_in_client() -> Step:
    """Twenty frames in one read of a client."""
    return _frames_in(masked=False)


def frames_in_server() -> Step:
    """Twenty masked frames in one read of a server."""
    return _frames_in(masked=True)


def _exchange(qos: int) -> Step:
    from mqttws import Connect, Message
    from mqttws.testing import Pair

    pair = Pair(Connect("c", keep_alive=0), websocket=False).open()
    message = Message(TOPIC, PAYLOAD, qos)

    def step() -> None:
        pair.client.publish(message)
        pair.run()
        pair.client_events.clear()
        pair.server_events.clear()

    return step


def exchange_qos_0() -> Step:
    """A message from a client's machine to a server's, in memory."""
    return _exchange(0)


def exchange_qos_1() -> Step:
    """The same with its PUBACK."""
    return _exchange(1)


def exchange_qos_2() -> Step:
    """The same with PUBREC, PUBREL and PUBCOMP."""
    return _exchange(2)


def _publishing(qos: int) -> Step:
    from mqttws import Client

    client = Client("mqtt://localhost", max_queued=10_000_000)
    client._network.woken = True  # as in a burst: the network thread has been woken, and has not looked yet
    return lambda: client.publish_nowait(TOPIC, PAYLOAD, qos)


def publish_nowait_qos_0() -> Step:
    """A call of the blocking client, in a burst."""
    return _publishing(0)


def publish_nowait_qos_1() -> Step:
    """The same, with a message that will be acknowledged."""
    return _publishing(1)


class _Sink:
    """An outlet of a subscriber that accepts everything."""

    held = 0

    def send(self, packets: bytes) -> bool:
        return True

    def wake(self) -> None:
        pass

    def end(self, error: Exception) -> None:
        raise error


def _routed(subscribers: int) -> tuple[Any, Any]:
    from mqttws import Session
    from mqttws.broker.hooks import Peer
    from mqttws.broker.router import Router
    from mqttws.broker.subscriber import Subscriber

    router = Router()
    here = ("127.0.0.1", 1)
    for number in range(subscribers):
        subscriber = Subscriber(f"c{number}", Session(), None, Peer("mqtt", here, here))
        subscriber.outlet = _Sink()
        router.subscribers[subscriber.client_id] = subscriber
        router.subscribe(subscriber, [("sensors/+/temperature", 0), (f"others/{number}/#", 1)])
    return router, Peer("mqtt", here, here)


def route_to_ten() -> Step:
    """A message of QoS 0 to the connections of ten subscribers."""
    router, _ = _routed(10)
    return lambda: router.publish(TOPIC, PAYLOAD)


def route_from_client() -> Step:
    """A PUBLISH of a client, with its checks, to one subscriber."""
    from mqttws import Publish

    router, peer = _routed(1)
    publish = Publish(TOPIC, PAYLOAD)
    return lambda: router.publish_from(peer, publish)


def look_up() -> Step:
    """A topic in a tree of 1,000 filters."""
    from mqttws import TopicTree

    tree: TopicTree[int] = TopicTree()
    for number in range(1_000):
        tree.set(f"sensors/room-{number}/+", number, number)
    return lambda: list(tree.match(TOPIC))


_PACKETS: dict[str, Callable[[Any], Any]] = {
    "connect": lambda m: m.Connect("client", username="user", password=b"secret", will=m.Message("w", b"gone", 1)),
    "connack": lambda m: m.ConnAck(0, session_present=True),
    "publish_qos_0": lambda m: m.Publish(TOPIC, PAYLOAD),
    "publish_qos_1": lambda m: m.Publish(TOPIC, PAYLOAD, 1, packet_id=4_711),
    "puback": lambda m: m.PubAck(4_711),
    "subscribe": lambda m: m.Subscribe(9, [(f"sensors/{n}/#", 1) for n in range(4)]),
    "suback": lambda m: m.SubAck(9, [0, 1, 2, 0x80]),
    "unsubscribe": lambda m: m.Unsubscribe(9, [f"sensors/{n}/#" for n in range(4)]),
}
CASES: dict[str, Callable[[], Step]] = {
    **{f"encode_{name}": _encode(make) for name, make in _PACKETS.items()},
    **{f"decode_{name}": _decode(make) for name, make in _PACKETS.items()},
    **{
        case.__name__: case
        for case in (
            encode_publish, encode_publish_256, make_publish, decode_stream, frame_out, frames_in_client,
            frames_in_server, exchange_qos_0, exchange_qos_1, exchange_qos_2, publish_nowait_qos_0,
            publish_nowait_qos_1, route_to_ten, route_from_client, look_up,
        )
    },
}  # fmt: skip


def run(case: str, count: int) -> None:
    """Run a case under callgrind."""
    step = CASES[case]()
    for _ in range(50):  # fills caches, and lets the interpreter specialise the code
        step()
    gc.disable()
    for _ in range(count):
        step()


def instructions(case: str) -> float:
    """Return the number of instructions of one repetition of a case."""
    _run([sys.executable, __file__, "--run", case, "1"])  # compiles the modules, which is not to be counted
    few, many = (_total(case, count) for count in (COUNT, 3 * COUNT))
    return round((many - few) / (2 * COUNT), 1)


def _total(case: str, count: int) -> int:
    command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", sys.executable]
    output = _run([*command, __file__, "--run", case, str(count)])
    match = re.search(r"Collected : (\d+)", output)
    if match is None:
        raise RuntimeError(f"{case} cannot be counted: {output[-500:]}")
    return int(match[1])


def _run(command: list[str]) -> str:
    """Run a command, and return what it wrote to standard error."""
    variables = os.environ | {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=variables, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stderr[-500:]}")
    return done.stderr


def build() -> str:
    """Return the build of Python; only counts of the same build can be compared."""
    return f"{platform.python_implementation()} {platform.python_version()}, {platform.machine()}, {sys.version[-40:]}"


def count_all(names: list[str]) -> dict[str, float]:
    """Count cases, one on each processor."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip(names, pool.map(instructions, names), strict=True))


def compare(kept: dict[str, Any], now: dict[str, float]) -> list[str]:
    """Return a line for each case whose cost increased by more than `TOLERANCE`."""
    before: dict[str, float] = kept["instructions"]
    return [
        f"{case}: {now[case]:,.0f} instructions, {now[case] / count - 1:+.1%}"
        for case, count in before.items()
        if case in now and now[case] > count * (1 + TOLERANCE)
    ]


def main() -> int:
    """Run the command. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path, metavar="FILE")
    what.add_argument("--compare", type=Path, metavar="FILE")
    what.add_argument("--check", type=Path, metavar="FILE", help="compare if this build of Python made the file")
    what.add_argument("--run", nargs=2, metavar=("CASE", "COUNT"), help=argparse.SUPPRESS)
    parser.add_argument("--only", nargs="+", choices=sorted(CASES), default=list(CASES), metavar="CASE")
    arguments = parser.parse_args()
    if arguments.run:
        run(arguments.run[0], int(arguments.run[1]))
        return 0
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; on Debian `apt-get install valgrind` installs it")
    if arguments.write:
        made = {"build": build(), "instructions": count_all(arguments.only)}
        arguments.write.write_text(json.dumps(made, indent=1) + "\n")
        return 0
    file = arguments.compare or arguments.check
    kept = json.loads(file.read_text())
    if kept["build"] != build():
        print(f"the counts are of {kept['build']}, and this is {build()}: they are not compared")
        return 0 if arguments.check else 1
    slower = compare(kept, count_all(arguments.only))
    print("\n".join(slower) or f"no case costs over {TOLERANCE:.0%} more")
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
