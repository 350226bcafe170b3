"""Measure a reconnect storm: a broker is killed and restarted, and its clients reconnect within a budget.

    python benchmarks/storm.py --clients 5000 --budget 500      real sockets, one process of clients, one broker
    python benchmarks/storm.py --nodes 3                        the same; one of three is killed, and stays down
    python benchmarks/storm.py --fleet 1000000                  simulated: no machine has so many sockets

Each broker runs in a separate process. One is killed with SIGKILL. If it is the only one, it is restarted after some
seconds on the same port; otherwise its clients connect to the others. The brokers record when each CONNECT arrives; the
clients record when each is connected again. For a broker of yours use `pubsub bench --storm`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

from mqttws import ConnectBudget, Reconnect, State
from mqttws.aio import Client
from mqttws.broker import Broker, Limits
from pubsub.bench.returns import STEPS, busiest

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from servers import free_port
from simulation.fleet import Fleet

#: Policies of a fleet, and the capacity of the cluster: name, policy, CONNECTs a second.
PLANS = (
    ("the defaults", Reconnect(), 10_000),
    ("spread=120", Reconnect(spread=120, initial=30, maximum=120), 10_000),
    ("spread=180", Reconnect(spread=180, initial=60, maximum=180), 10_000),
    ("spread=300", Reconnect(spread=300, initial=60, maximum=300), 5_000),
    ("spread=3000", Reconnect(spread=3_000, initial=600, maximum=3_000), 500),
)


class Returns:
    """The times at which clients connected since the last `clear`."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self, state: State) -> None:
        """Record a state of any client."""
        if state.name == "connected":
            self.times.append(time.monotonic())

    async def wait(self, count: int, seconds: float) -> None:
        """Wait until `count` clients are connected."""
        deadline = time.monotonic() + seconds
        while len(self.times) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"only {len(self.times)} of {count} are connected")
            await asyncio.sleep(0.05)


def start(port: int) -> subprocess.Popen[str]:
    """Start the broker's process, and wait until it listens."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    return process


async def serve(port: int) -> None:
    """Run the broker until the end of standard input, then print the arrival times of CONNECTs."""
    times: list[float] = []
    limits = Limits(
        max_connections=20_000, max_pending_per_address=20_000, max_sessions=20_000, max_sessions_per_address=None
    )
    broker = Broker(
        ws_port=None,
        tcp_port=port,
        limits=limits,
        sys_interval=None,
        authenticator=lambda peer, connect: times.append(time.monotonic()) is None,
    )
    async with broker:
        print(broker.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)
    print(json.dumps(times), flush=True)


def arrivals(broker: subprocess.Popen[str]) -> list[float]:
    """End a broker. Return the arrival times of CONNECTs."""
    assert broker.stdin is not None
    assert broker.stdout is not None
    broker.stdin.close()
    times: list[float] = json.loads(broker.stdout.readline())
    return times


async def storm(clients: int, budget: float, outage: float, nodes: int) -> dict[str, float]:
    """Kill the broker of the clients, and measure how they reconnect."""
    ports = [free_port() for _ in range(nodes)]
    brokers = {port: start(port) for port in ports}
    shared, returns = ConnectBudget(budget), Returns()
    policy = Reconnect(initial=1.0, maximum=5.0)
    begun: list[float] = []

    def urls(number: int) -> list[str]:  # called when an attempt begins
        begun.append(time.monotonic())
        first = number % nodes
        return [f"mqtt://127.0.0.1:{port}" for port in ports[first:] + ports[:first]]

    fleet = [
        Client(
            partial(urls, number),
            client_id=f"c{number}",
            reconnect=policy,
            connect_budget=shared,
            on_state=returns.note,
        )
        for number in range(clients)
    ]
    lost = len(range(0, clients, nodes))
    try:
        for client in fleet:
            await client.open(wait=False)
        await returns.wait(clients, 60 + 2 * clients / budget)
        returns.times.clear()
        begun.clear()
        brokers[ports[0]].kill()
        brokers[ports[0]].wait()
        away = time.monotonic()
        if nodes == 1:
            await asyncio.sleep(outage)
            brokers[ports[0]] = await asyncio.to_thread(start, ports[0])
            away = time.monotonic()
        await returns.wait(lost, 120)
        serving = [broker for broker in brokers.values() if broker.poll() is None]
        came = [await asyncio.to_thread(arrivals, broker) for broker in serving]
        arrived = sorted(at for times in came for at in times if at >= begun[0])
    finally:
        for broker in brokers.values():
            broker.kill()
        await asyncio.gather(*(client.close(0) for client in fleet))
    back = sorted(at - away for at in returns.times)
    return {
        "clients": clients,
        "brokers": nodes,
        "lost their connection": lost,
        "budget": budget,
        "outage": outage if nodes == 1 else 0.0,
        "attempts": len(begun),
        "attempts in the busiest second": busiest_second(begun),
        "CONNECTs in the busiest second": busiest_second(arrived),
        "half": round(back[len(back) // 2], 2),
        "p99": round(back[len(back) * 99 // 100], 2),
        "all": round(back[-1], 2),
    }


def busiest_second(times: list[float]) -> int:
    """Return the maximum number of times within one second, which begins with any tenth."""
    return busiest(Counter(int(at * STEPS) for at in times))


def plan(clients: int, outage: float) -> None:
    """Print the result of each plan as a table."""
    print("| policy | CONNECTs a second that the cluster takes | busiest second | half back | 99 % | all | refused |")
    print("|---|---|---|---|---|---|---|")
    for name, policy, capacity in PLANS:
        back = Fleet(clients, policy, capacity=capacity, outage=outage).run()
        print(
            f"| {name} | {capacity:,} | {back.peak:,} | {back.half:,.0f} s | {back.p99:,.0f} s | {back.all:,.0f} s "
            f"| {back.refused:,} |",
            flush=True,
        )


def main() -> None:
    """Read the arguments, and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--clients", type=int, default=5_000, help="real clients, each with a socket")
    parser.add_argument("--budget", type=float, default=500.0, help="CONNECTs a second of all")
    parser.add_argument("--outage", type=float, default=2.0, help="seconds for which the broker is down")
    parser.add_argument("--nodes", type=int, default=1, help="brokers, of which one is killed")
    parser.add_argument("--fleet", type=int, help="simulate so many clients instead")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
    elif arguments.fleet is not None:
        plan(arguments.fleet, arguments.outage)
    else:
        outcome = storm(arguments.clients, arguments.budget, arguments.outage, arguments.nodes)
        print(json.dumps(asyncio.run(outcome), indent=1))


if __name__ == "__main__":
    main()
