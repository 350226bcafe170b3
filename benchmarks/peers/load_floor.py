"""The load for brokers: publishers and subscribers on plain sockets, in one process.

    deliver    one publisher, one or more subscribers, one or more topics by turns
    many       a thousand publishers, each message in a frame of its own; one subscriber, or one for each
    deliver_qos1  one publisher and one subscriber of QoS 1
    quiet      the round trips of a client in another process that publishes little, while `deliver` keeps a broker busy
    accept     new connections
    hold       the cost of idle connections, at several numbers of connections

Enough deliveries are in flight that a broker is always busy, but does not drop messages of QoS 0, which would save it
work. Every delivery is counted, and a run is valid only if all arrive.
"""

from __future__ import annotations

import json
import os
import selectors
import ssl
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import workloads as work
from client_floor import Wire, connect
from timing import cpu_seconds, main, percentiles

BATCH = 32
#: The number of messages of QoS 1 in flight.
WINDOW_QOS1 = 500
#: The number of simultaneous attempts: the backlog of a listener.
SIDE_BY_SIDE = 100
#: The numbers of connections at which the broker's memory is measured, half a second after the last one connected.
HELD = (250, 1_000, 2_000)
PAUSE = 0.5


def broker_kib(pid: int) -> float:
    """Return the resident memory of the broker in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise OSError("no VmRSS")


class Load:
    """Messages from publishers to subscribers.

    Args:
        publishers: the connections that publish, by turns.
        frames: what they send, by turns: each contains `batch` messages.
        subscribers: the connections that receive.
        batch: see above.
        copies: how many subscribers receive each message.
        size: the size of a PUBLISH in bytes.
        window: the number of messages in flight.
    """

    def __init__(
        self, publishers: list[Wire], frames: list[bytes], subscribers: list[Wire],
        *, batch: int, copies: int, size: int, window: int,
    ) -> None:  # fmt: skip
        self.publishers, self.frames, self.batch, self.window = publishers, frames, batch, window
        self.size = size * copies  # bytes are counted, because a broker may divide its frames anywhere
        self.sent, self.got = 0, 0  # messages; bytes
        self._turn = 0
        self._selector = selectors.DefaultSelector()
        for wire in subscribers:
            self._selector.register(wire.socket, selectors.EVENT_READ, wire)

    def step(self, wanted: float) -> None:
        """Send, up to a number of messages in all, and receive."""
        while self.sent < wanted and self.sent - self.got // self.size < self.window:
            turn, self._turn = self._turn, self._turn + 1
            self.publishers[turn % len(self.publishers)].socket.sendall(self.frames[turn % len(self.frames)])
            self.sent += self.batch
        ready = self._selector.select(5)
        assert ready, f"after {self.got / self.size:,.1f} of {self.sent:,} messages nothing arrived for 5 s"
        for key, _ in ready:
            self.got += sum(map(len, key.data.payloads()))

    def run(self, pid: int, count: int, warm: int) -> dict[str, float]:
        """Measure so many messages, rounded up to whole frames.

        `load_us` is the CPU time of this process for a delivery. If it reaches that of the broker (`cpu_us`), the rate
        is limited by this process, not by the broker.
        """
        warm, count = (-(-number // self.batch) * self.batch for number in (warm, count))
        deadline = time.monotonic() + 120
        while self.got < warm * self.size:
            self.step(warm + count)
            assert time.monotonic() < deadline, "it takes too long"
        unmeasured, cpu, load, start = self.got, cpu_seconds(pid), time.process_time(), time.perf_counter()
        while self.got < (warm + count) * self.size:
            self.step(warm + count)
            assert time.monotonic() < deadline, "it takes too long"
        seconds = time.perf_counter() - start
        assert self.got == (warm + count) * self.size, (self.got, (warm + count) * self.size)
        deliveries = (self.got - unmeasured) / PACKET
        used = {"cpu_us": cpu_seconds(pid) - cpu, "load_us": time.process_time() - load}
        each = {name: spent / deliveries * 1e6 for name, spent in used.items()}
        return {"seconds": seconds, "rate": deliveries / seconds, **each}


#: The size of a PUBLISH: the topics of all cases have the same length.
PACKET = len(work.encode_publish(work.topics(1)[0], work.MESSAGE))


def delivering(port: int, subscribers: int, topics: int) -> Load:
    """Return a load from one publisher to all subscribers."""
    publisher, *wires = connect_side_by_side(port, subscribers + 1)
    for wire in wires:
        wire.subscribe("sensors/+/temperature" if topics > 1 else work.topics(1)[0])
    packets = [work.encode_publish(name, work.MESSAGE) for name in work.topics(topics)] * (BATCH if topics == 1 else 1)
    frames = [
        work.masked_frame(b"".join(packets[start : start + BATCH]), os.urandom(4))
        for start in range(0, len(packets) // BATCH * BATCH, BATCH)
    ]
    window = max(4 * BATCH, 1_000 // subscribers)
    return Load([publisher], frames, wires, batch=BATCH, copies=subscribers, size=PACKET, window=window)


def deliver(port: int, pid: int, count: int, warm: int, subscribers: int, topics: int = 1) -> dict[str, float]:
    # A broker may cache a topic only when it occurs again: three passes are the warm-up.
    return delivering(port, subscribers, topics).run(pid, count, max(warm, 3 * topics))


def many(port: int, pid: int, count: int, warm: int, publishers: int, subscribers: int) -> dict[str, float]:
    wires = connect_side_by_side(port, publishers + subscribers)
    names = work.topics(subscribers)
    for wire, name in zip(wires[publishers:], names, strict=True):
        wire.subscribe(name)
    packets = [work.encode_publish(names[number % subscribers], work.MESSAGE) for number in range(publishers)]
    frames = [work.masked_frame(packet, os.urandom(4)) for packet in packets]
    load = Load(
        wires[:publishers], frames, wires[publishers:], batch=1, copies=1, size=PACKET, window=2 * publishers
    )  # fmt: skip
    return load.run(pid, count, warm)


def deliver_qos1(port: int, pid: int, count: int, warm: int) -> dict[str, float]:
    publisher, subscriber = connect_side_by_side(port, 2)
    name = work.topics(1)[0]
    subscriber.subscribe(name, 1)
    packet = work.encode_publish(name, work.MESSAGE, 1, 1)
    head, tail, size = packet[: -2 - len(work.MESSAGE)], work.MESSAGE, len(packet)
    selector = selectors.DefaultSelector()
    for wire in (publisher, subscriber):
        selector.register(wire.socket, selectors.EVENT_READ, wire)
    wanted, sent, acknowledged, delivered, rest = warm + count, 0, 0, 0, b""
    cpu = start = 0.0
    while delivered < wanted or acknowledged < 4 * wanted:
        while sent < wanted and sent - min(delivered, acknowledged // 4) < WINDOW_QOS1:
            numbers = range(sent, min(sent + BATCH, wanted))
            packets = [head + (number % 65_535 + 1).to_bytes(2, "big") + tail for number in numbers]
            publisher.send(b"".join(packets))
            sent += len(numbers)
        ready = selector.select(5)
        assert ready, f"after {delivered:,} of {wanted:,} messages nothing arrived for 5 s"
        for key, _ in ready:
            data = b"".join(key.data.payloads())
            if key.data is publisher:
                acknowledged += len(data)
                continue
            rest += data
            whole = len(rest) // size * size
            ids = (rest[at + len(head) : at + len(head) + 2] for at in range(0, whole, size))
            answer = b"".join([b"\x40\x02" + packet_id for packet_id in ids])
            if answer:
                subscriber.send(answer)
            delivered, rest = delivered + whole // size, rest[whole:]
        if not start and delivered >= warm:
            unmeasured, cpu, start = delivered, cpu_seconds(pid), time.perf_counter()
    seconds, deliveries = time.perf_counter() - start, delivered - unmeasured
    assert delivered == wanted, (delivered, wanted)
    return {"seconds": seconds, "rate": deliveries / seconds, "cpu_us": (cpu_seconds(pid) - cpu) / deliveries * 1e6}


def quiet(port: int, pid: int, trips: int) -> dict[str, float]:
    load = delivering(port, 1, 1)
    command = [sys.executable, __file__, "probe", f"port={port}", f"trips={trips}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as probe:
        assert probe.stdout is not None
        start, deadline = time.perf_counter(), time.monotonic() + 60
        while probe.poll() is None and time.monotonic() < deadline:
            load.step(float("inf"))
        rate = load.got / PACKET / (time.perf_counter() - start)
        figures: dict[str, float] = json.loads(probe.stdout.read())
    return figures | {"rate": rate}


def probe(port: int, trips: int) -> dict[str, float]:
    wire, topic, seconds = connect(port), "bench/quiet", []
    wire.subscribe(topic)
    packet = work.encode_publish(topic, work.MESSAGE)
    for _ in range(trips):
        time.sleep(0.002)
        start = time.perf_counter()
        wire.send(packet)
        wire.answer(len(packet))
        seconds.append(time.perf_counter() - start)
    return percentiles(seconds)


def accept(port: int, pid: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    if tls:
        context = ssl.create_default_context(cafile=work.AUTHORITY)
        with ThreadPoolExecutor(8) as pool:  # a handshake waits for the broker twice
            wires = list(pool.map(lambda _: connect(port, context), range(warm)))
            cpu, start = cpu_seconds(pid), time.perf_counter()
            wires += pool.map(lambda _: connect(port, context), range(count))
    else:
        wires = connect_side_by_side(port, warm)
        cpu, start = cpu_seconds(pid), time.perf_counter()
        wires += connect_side_by_side(port, count)
    seconds = time.perf_counter() - start
    used = cpu_seconds(pid) - cpu
    for wire in wires:
        wire.socket.close()
    return {"seconds": seconds, "rate": count / seconds, "cpu_us": used / count * 1e6}


def connect_side_by_side(port: int, count: int) -> list[Wire]:
    """Open many connections, several at a time, because some brokers delay each of them."""
    wires: list[Wire] = []
    for start in range(0, count, SIDE_BY_SIDE):
        some = [Wire(port) for _ in range(min(SIDE_BY_SIDE, count - start))]
        for wire in some:
            wire.upgraded()
        for wire in some:
            wire.accepted()
        wires += some
    return wires


def hold(port: int, pid: int) -> dict[str, float]:
    wires = connect_side_by_side(port, SIDE_BY_SIDE)  # so that one-time allocations do not count
    before, start = broker_kib(pid), time.perf_counter()
    figures: dict[str, float] = {}
    held = 0
    for count in HELD:
        wires += connect_side_by_side(port, count - held)
        held = count
        if count == 1_000:
            figures["rate"] = count / (time.perf_counter() - start - PAUSE * len(figures))
        time.sleep(PAUSE)
        figures[f"kib_{count}"] = (broker_kib(pid) - before) / count
    for wire in wires:
        wire.socket.close()
    return figures


if __name__ == "__main__":
    main({case.__name__: case for case in (deliver, many, deliver_qos1, quiet, probe, accept, hold)})
