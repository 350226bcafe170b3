"""Measure the overhead of a tap: messages a second without and with one, in separate processes.

`python benchmarks/tap_overhead.py [SECONDS...]`: the broker, the tap and the client each run in a process, as with
`pubsub look`. Runs without and with a new tap alternate; the median of each is shown. A tap decodes behind the traffic,
so a short burst costs less than a long flood, which fills the tap's buffer.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

#: The rows, in order.
CASES = [(scheme, qos) for scheme in ("mqtt", "ws") for qos in (0, 1)]
SECONDS = (0.5, 4.0)
ROUNDS = 3


def run_broker(pipe: Connection) -> None:
    """Run a broker until the pipe ends."""
    from mqttws.broker import Broker

    with Broker() as broker:
        pipe.send({scheme: broker.url_of(scheme) for scheme in ("mqtt", "ws")})
        pipe.recv()


def run_taps(pipe: Connection, urls: dict[str, str]) -> None:
    """Run a tap before each listener until the pipe ends."""
    from mqttws.tap import Tap

    with Tap(urls["mqtt"]) as tcp, Tap(urls["ws"]) as ws:
        pipe.send({"mqtt": tcp.url, "ws": ws.url})
        pipe.recv()


def rate(url: str, qos: int, seconds: float) -> float:
    """Publish for some seconds, with at most 1,000 messages in flight. Return the messages a second."""
    import mqttws

    payload = bytes(64)
    with mqttws.connect(url) as client:
        begun, count = time.perf_counter(), 0
        while time.perf_counter() - begun < seconds:
            for _ in range(999):
                client.publish_nowait("bench/tap", payload, qos)
            client.publish("bench/tap", payload, 1)
            count += 1000
        return count / (time.perf_counter() - begun)


def process(target: Any, *arguments: Any) -> tuple[Any, Connection, dict[str, str]]:
    """Start a process that sends its URLs through a pipe."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    made = context.Process(target=target, args=(there, *arguments), daemon=True)
    made.start()
    return made, here, here.recv()


def rate_through_tap(direct: dict[str, str], scheme: str, qos: int, seconds: float) -> float:
    """Publish through a new tap. Return the messages a second."""
    taps, pipe, tapped = process(run_taps, direct)
    result = rate(tapped[scheme], qos, seconds)
    pipe.send("end")
    taps.join(30)
    return result


def main(durations: Sequence[float]) -> None:
    """Measure, and print a row for each case."""
    broker, pipe, direct = process(run_broker)
    print("| transport | QoS | seconds | without | with a tap | share left |\n| --- | --- | --- | --- | --- | --- |")
    for scheme, qos in CASES:
        for seconds in durations:
            without, through = [], []
            for _ in range(ROUNDS):
                without.append(rate(direct[scheme], qos, seconds))
                through.append(rate_through_tap(direct, scheme, qos, seconds))
            plain, shown = statistics.median(without), statistics.median(through)
            share = f"{100 * shown / plain:.0f} %"
            print(f"| {scheme} | {qos} | {seconds:g} | {plain:,.0f}/s | {shown:,.0f}/s | {share} |", flush=True)
    pipe.send("end")
    broker.join(10)


if __name__ == "__main__":
    main([float(each) for each in sys.argv[1:]] or SECONDS)
