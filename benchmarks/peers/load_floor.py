"""The load for brokers: one publisher and many subscribers on plain sockets, in one process.

`deliver` keeps enough deliveries in flight that a broker is always busy, but does not drop messages of QoS 0, which
would save it work. Every delivery is counted, and a run is valid only if all arrive. `hold` measures the cost of idle
connections to a broker, at several numbers of connections.
"""

from __future__ import annotations

import os
import selectors
import time
from pathlib import Path

import workloads as work
from client_floor import Wire
from timing import main

TOPIC = "bench/load"
BATCH = 32
#: The number of simultaneous attempts: the backlog of a listener.
SIDE_BY_SIDE = 100
#: The numbers of connections at which the broker's memory is measured, half a second after the last one connected.
HELD = (250, 1_000, 2_000)
PAUSE = 0.5


def broker_cpu(pid: int) -> float:
    """Return the CPU seconds that the broker has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def broker_kib(pid: int) -> float:
    """Return the resident memory of the broker in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return float(line.split()[1])
    raise OSError("no VmRSS")


def deliver(port: int, pid: int, count: int, warm: int, subscribers: int) -> dict[str, float]:
    publisher, *wires = connect_side_by_side(port, subscribers + 1)
    for wire in wires:
        wire.subscribe(TOPIC)
    packet = work.encode_publish(TOPIC, work.MESSAGE)
    window = max(4 * BATCH, 1_000 // subscribers)
    selector = selectors.DefaultSelector()
    for wire in wires:
        selector.register(wire.socket, selectors.EVENT_READ, wire)
    wanted, sent, got, unmeasured = warm + count, 0, 0, 0  # messages; sent messages; received bytes
    size = len(packet) * subscribers  # count bytes, because a broker may divide its frames anywhere
    deadline = time.monotonic() + 120
    cpu, start = broker_cpu(pid), time.perf_counter()
    while got < wanted * size:
        while sent < wanted and sent - got // size < window:
            batch = min(BATCH, wanted - sent)
            publisher.send(packet * batch)
            sent += batch
        ready = selector.select(5)
        assert ready, f"after {got / size:,.1f} of {wanted:,} messages nothing arrived for 5 s"
        assert time.monotonic() < deadline, "it takes too long"
        for key, _ in ready:
            got += sum(map(len, key.data.payloads()))
        if not unmeasured and got >= warm * size:
            unmeasured, cpu, start = got, broker_cpu(pid), time.perf_counter()
    seconds = time.perf_counter() - start
    assert got == wanted * size, (got, wanted * size)
    deliveries = (got - unmeasured) / len(packet)
    return {"seconds": seconds, "rate": deliveries / seconds, "cpu_us": (broker_cpu(pid) - cpu) / deliveries * 1e6}


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
    main({"deliver": deliver, "hold": hold})
