"""Measure the gain of several connections, several processes and several brokers on this machine.

    python benchmarks/scaling.py

Publishers send QoS 0 messages of 64 bytes to brokers, and end with one QoS 1 message each, whose PUBACK stops the
clock; the sum of messages over the longest time counts. Publishers and brokers share the same cores, so the gain of a
second process depends on the number of cores, which is printed with the figures.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import workloads as work
from environments import mosquitto
from servers import running_mosquitto

from mqttws import Client

COUNT = 200_000
ROUNDS = 5


def publish(port: int, count: int, go: Any, took: Any) -> None:
    """Publish over one connection, and report the time."""
    with Client(f"ws://127.0.0.1:{port}/", max_queued=10_000_000) as client:
        go.wait(30)
        start = time.perf_counter()
        for _ in range(count):
            client.publish_nowait(work.TOPIC, work.MESSAGE)
        client.publish(work.TOPIC, work.MESSAGE, qos=1, timeout=60)
        took.put(time.perf_counter() - start)


def rate(ports: list[int], processes: bool) -> float:
    """Publish over one connection to each port, in one process or one for each. Return messages a second in total."""
    fork = multiprocessing.get_context("fork")
    go, took = fork.Barrier(len(ports)), fork.Queue()
    kind: Any = fork.Process if processes else threading.Thread
    workers = [kind(target=publish, args=(port, COUNT // len(ports), go, took)) for port in ports]
    for worker in workers:
        worker.start()
    longest = max(took.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(30)
    return COUNT / longest


def embedded(stack: ExitStack) -> int:
    """Run the embedded broker in a separate process, and return its port."""
    script = Path(__file__).parent / "peers" / "broker_mqttws.py"
    broker = subprocess.Popen([sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    stack.enter_context(broker)
    assert broker.stdin is not None
    assert broker.stdout is not None
    stack.callback(broker.stdin.close)
    return int(broker.stdout.readline())


def main() -> None:
    """Print the table."""
    with ExitStack() as stack:
        first, second = embedded(stack), embedded(stack)
        shapes = {
            "1 connection, 1 process, the embedded broker": ([first], False),
            "2 connections, 1 process, the embedded broker": ([first, first], False),
            "2 connections, 2 processes, the embedded broker": ([first, first], True),
            "2 connections, 2 processes, 2 embedded brokers": ([first, second], True),
        }
        if mosquitto() is not None:
            port = stack.enter_context(running_mosquitto()).port
            shapes |= {
                "1 connection, 1 process, Mosquitto": ([port], False),
                "2 connections, 1 process, Mosquitto": ([port, port], False),
                "2 connections, 2 processes, Mosquitto": ([port, port], True),
            }
        figures: dict[str, list[float]] = {name: [] for name in shapes}
        for _ in range(ROUNDS):
            for name, (ports, processes) in shapes.items():
                figures[name].append(rate(ports, processes))
    print(f"{os.cpu_count()} cores; thousands of QoS 0 messages of 64 bytes a second, median of {ROUNDS}")
    for name, rates in figures.items():
        print(f"  {name:52}{statistics.median(rates) / 1e3:8,.0f}")


if __name__ == "__main__":
    main()
