"""Where the time of a message goes, layer by layer, in one process without a socket: `python benchmarks/layers.py`.

Each line is what a layer adds, in nanoseconds a message: the least of many repetitions, since all that disturbs makes
it more. The figures of `docs/performance.md` come from here.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import workloads as work

from mqttws import Connect, Decoder, Message, compiled
from mqttws.codec.publishing import encode_publish
from mqttws.protocol.frames import binary_frame
from mqttws.testing import Pair
from mqttws.transport.future import LightFuture

COUNT = 640  # as many as fit into one read of 64 KiB
REPEATS = 60


def least(run: Callable[[], object]) -> float:
    """Time something that handles COUNT messages; nanoseconds a message."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best / COUNT * 1e9


def sending() -> list[tuple[str, float]]:
    """Measure the way of a QoS 0 message from the caller to the bytes for the socket."""
    pair = Pair(Connect("layers")).open()
    client, session = pair.client, pair.client.machine.session
    message = Message(work.TOPIC, work.MESSAGE)
    data = b"".join(work.encode_publish(work.TOPIC, work.MESSAGE) for _ in range(COUNT))

    def repeat(call: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            for _ in range(COUNT):
                call()

        return run

    def queue() -> None:
        for _ in range(COUNT):
            session.publish(message)

    def queue_and_drop() -> None:
        queue()
        session.sender.clear()

    def send() -> None:
        queue()
        client.data_to_send(0.0)
        client.machine.events.clear()

    future = repeat(lambda: LightFuture().settle(None))
    queued, sent = least(queue_and_drop), least(send)
    frame = least(lambda: binary_frame(data, b"\x01\x02\x03\x04"))
    encode = least(repeat(lambda: encode_publish(work.TOPIC, work.MESSAGE)))
    return [
        ("make and check the message", least(repeat(lambda: Message(work.TOPIC, work.MESSAGE)))),
        ("take its place in the queue", queued),
        ("make its future and settle it", least(future)),
        ("choose, encode, tell", sent - queued - frame),
        ("  of which encoding", encode),
        ("mask and frame, together with the others", frame),
    ]


def receiving() -> list[tuple[str, float]]:
    """Measure the way of a QoS 0 message, in a frame of its own, from the socket's bytes to the event."""
    pair = Pair(Connect("layers")).open()
    packet = work.encode_publish(work.TOPIC, work.MESSAGE)
    frames = (bytes((0x82, len(packet))) + packet) * COUNT
    packets = packet * COUNT
    decoder = Decoder()
    decoder.feed(packet)

    def whole() -> None:
        pair.client.receive_data(frames, 0.0)
        for _ in pair.client.events():
            pass

    def machine() -> None:
        pair.client.machine.receive_data(packets, 0.0)
        pair.client.machine.events.clear()

    decoded, handled, everything = least(lambda: decoder.feed(packets)), least(machine), least(whole)
    return [
        ("cut the frames", everything - handled),
        ("decode and check the packets", decoded),
        ("handle them in the machine", handled - decoded),
    ]


def main() -> None:
    """Print both tables."""
    gc.disable()
    print("compiled" if compiled else "pure Python")
    for title, lines in (("sending", sending()), ("receiving", receiving())):
        print(title)
        for name, figure in lines:
            print(f"  {name:45}{figure:8,.0f} ns")


if __name__ == "__main__":
    main()
