"""Measure the time of a message layer by layer, in one process without a socket: `python benchmarks/layers.py`.

Each line is the CPU time that a layer adds, in nanoseconds a message: the minimum of many repetitions, since
disturbances only add time. The figures of `docs/performance.md` come from here.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable

import workloads as work

from mqttws import Client, Connect, Decoder, compiled
from mqttws.client.layers import Link
from mqttws.client.options import Options
from mqttws.client.sent import HighWaterMark
from mqttws.codec.publishing import encode_publish
from mqttws.protocol.frames import binary_frame
from mqttws.sync.delivering import deliver
from mqttws.sync.future import LightFuture, Receipt
from mqttws.sync.network import Network
from mqttws.testing import Pair

COUNT = 640  # as many as fit into one read of 64 KiB
REPEATS = 60


def least(run: Callable[[], object]) -> float:
    """Return the nanoseconds a message of a function that handles COUNT messages."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.thread_time()
        run()
        best = min(best, time.thread_time() - start)
    return best / COUNT * 1e9


def repeat(call: Callable[[], object]) -> Callable[[], None]:
    """Return a function that makes COUNT calls."""

    def run() -> None:
        for _ in range(COUNT):
            call()

    return run


def sending() -> list[tuple[str, float]]:
    """Measure the path of a QoS 0 message from the caller to the bytes for the socket."""
    pair = Pair(Connect("layers")).open()
    client, sender = pair.client, pair.client.machine.session.sender
    packet = work.encode_publish(work.TOPIC, work.MESSAGE)
    data = packet * COUNT
    mark: HighWaterMark[LightFuture] = HighWaterMark()
    blocking = Client("ws://127.0.0.1/", max_queued=COUNT + 1)
    blocking._network.woken = True  # as in a burst, after the previous call

    def queue() -> None:
        for _ in range(COUNT):
            sender.enqueue_packet(packet)

    def queue_and_drop() -> None:
        queue()
        sender.clear()

    def send() -> None:
        queue()
        client.data_to_send(0.0)
        client.machine.events.clear()

    def publish() -> None:
        for _ in range(COUNT):
            blocking.publish_nowait(work.TOPIC, work.MESSAGE)
        blocking.session.sender.clear()

    encoded = least(repeat(lambda: encode_publish(work.TOPIC, work.MESSAGE)))
    queued, sent, called = least(queue_and_drop), least(send), least(publish)
    receipt = least(repeat(lambda: Receipt.make(mark, 1)))
    frame = least(lambda: binary_frame(data, b"\x01\x02\x03\x04"))
    return [
        ("check and encode it", encoded),
        ("queue it", queued),
        ("make its future", receipt),
        ("the call around these, with its lock", called - encoded - queued - receipt),
        ("join it with the others", sent - queued - frame),
        ("mask and frame it, with the others", frame),
    ]


def receiving() -> list[tuple[str, float]]:
    """Measure the path of a QoS 0 message, in one frame, from the socket's bytes to the event."""
    pair = Pair(Connect("layers")).open()
    packet = work.encode_publish(work.TOPIC, work.MESSAGE)
    frames = (bytes((0x82, len(packet))) + packet) * COUNT
    packets = packet * COUNT
    decoder = Decoder()
    decoder.feed(packet)
    network = Network(Options(on_message=lambda message: None), "ws://127.0.0.1/")
    core = network.core
    core.link = Link(pair.client, 0.0)
    pair.collect()

    def whole() -> None:
        pair.client.receive_data(frames, 0.0)
        for _ in pair.client.events():
            pass

    def machine() -> None:
        pair.client.machine.receive_data(packets, 0.0)
        pair.client.machine.events.clear()

    def whole_delivery() -> None:
        pair.client.machine.receive_data(packets, 0.0)
        core.advance(0.0)
        deliver(network)

    decoded, handled, everything = least(lambda: decoder.feed(packets)), least(machine), least(whole)
    delivered = least(whole_delivery)
    return [
        ("cut the frames", everything - handled),
        ("decode and check the packets", decoded),
        ("handle them in the machine", handled - decoded),
        ("bring them to the callback, and call it", delivered - handled),
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
