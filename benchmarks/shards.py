"""Measure `Sharded` providers within the limits of AWS IoT: filters, and QoS 1 messages a second.

    python benchmarks/shards.py --filters 5000 --rate 10000 --seconds 60 --processes 2

The local endpoint runs in a separate process and enforces the limits of AWS IoT for each connection: 100 messages a
second in both directions together, 50 subscriptions, 8 Topic Filters in a SUBSCRIBE, one CONNECT a second for each
client id; and those of the account, such as 500 Topic Filters a second. The filters and the rate are divided between
the processes of clients, each with one `Sharded` provider. The messages of each topic are numbered, so that lost,
duplicate and disordered ones are counted. Every message is published once and received once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass

from mqttws import MQTTError
from pubsub import BYTES, AWSIoTProvider, ConnectionState, Message, Sharded
from pubsub.aio import PubSub
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.errors import PublishFailed
from sigv4 import Credentials

#: The planned messages a second of a connection, out of 100.
PLANNED = 65.0
#: The planned filters of a connection, out of 50.
FILTERS = 45
#: How often a second the publisher checks how many messages are due.
TURNS = 50


@dataclass
class Outcome:
    """The measurements."""

    filters: int
    wanted_rate: int
    seconds: float
    processes: int
    publishing: int
    receiving: int
    published: int = 0
    refused: int = 0
    rate: float = 0.0
    lost: int = 0
    doubled: int = 0
    out_of_order: int = 0
    throttled: int = 0
    client_us: float = 0.0  # CPU time of each message
    endpoint_us: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    python: str = platform.python_version()


class Tally:
    """Checks the numbers of each topic on arrival.

    A message is out of order if it first arrives after a later one of its topic, a duplicate if it has arrived before,
    and lost if it never arrives.
    """

    def __init__(self, filters: int) -> None:
        self._next = [0] * filters
        self._skipped: list[set[int]] = [set() for _ in range(filters)]
        self.came = self.doubled = self.out_of_order = 0
        self.delays: list[float] = []

    def next(self, message: Message) -> None:
        """Record a message: the number of its topic, its own number, and the time of its publication."""
        topic, text, sent = message.payload.split()
        index, number = int(topic), int(text)
        expected, skipped = self._next[index], self._skipped[index]
        if number >= expected:
            if number > expected:
                skipped.update(range(expected, number))
            self._next[index] = number + 1
        elif number in skipped:
            skipped.discard(number)
            self.out_of_order += 1
        else:
            self.doubled += 1
            return
        self.came += 1
        self.delays.append(time.monotonic() - float(sent))


async def measure(name: str, endpoint: list[str], outcome: Outcome) -> None:
    """Subscribe, print a line, wait for one, publish at the rate for the time, and print the completed outcome.

    Args:
        name: The name of this client.
        endpoint: The URL and the region of the endpoint, and the two keys.
        outcome: The wanted load.
    """
    url, region, *keys = endpoint
    provider = AWSIoTProvider(region, url, Credentials(*keys), client_id=name, max_queued=100_000)
    sharded = Sharded(provider, (outcome.publishing, outcome.receiving), most_connections=1_000)
    tally = Tally(outcome.filters)
    topics = [f"{name}/{number}" for number in range(outcome.filters)]
    async with PubSub(sharded, codec=BYTES, timeout=240) as ps:
        subscription = ps.subscribe(topics, qos=1).subscribe(tally.next)
        await subscription.ready()
        await ps.connect()
        while any(state is not ConnectionState.CONNECTED for state in ps.connection_states.values()):
            await asyncio.sleep(0.1)
        print(f"{name}: {len(ps.connection_states) - 1} connections, {outcome.filters} filters", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        used, begin = time.process_time(), time.monotonic()
        await publish(ps, topics, outcome)
        try:
            await ps.flush(60)
        except MQTTError as error:
            print(error, file=sys.stderr)
        deadline = time.monotonic() + 20
        while tally.came < outcome.published and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        outcome.rate = round(tally.came / (time.monotonic() - begin))
        outcome.client_us = round(1e6 * (time.process_time() - used) / max(1, tally.came), 1)
    outcome.doubled, outcome.out_of_order = tally.doubled, tally.out_of_order
    outcome.lost = outcome.published - tally.came
    delays = sorted(tally.delays) or [0.0]
    outcome.p50_ms = round(1_000 * delays[len(delays) // 2], 1)
    outcome.p99_ms = round(1_000 * delays[len(delays) * 99 // 100], 1)
    print(json.dumps(asdict(outcome)), flush=True)


async def publish(ps: PubSub, topics: list[str], outcome: Outcome) -> None:
    """Publish at the rate for the time, to one topic after the other."""
    numbers = [0] * len(topics)
    begin = time.monotonic()
    while (elapsed := time.monotonic() - begin) < outcome.seconds:
        while outcome.published < elapsed * outcome.wanted_rate:
            index = outcome.published % len(topics)
            payload = b"%d %d %f" % (index, numbers[index], time.monotonic())
            try:
                ps.publish_nowait(topics[index], payload, qos=1).add_done_callback(lambda done: done.exception())
            except PublishFailed:  # the queue of its connection is full
                outcome.refused += 1
                break
            numbers[index] += 1
            outcome.published += 1
        await asyncio.sleep(1 / TURNS)


async def serve() -> None:
    """Run the endpoint until the end of standard input. For each line, print its CPU seconds and discarded messages."""
    async with LocalIoTEndpoint() as iot:
        keys = iot.credentials
        print(json.dumps([iot.url, iot.region, keys.access_key, keys.secret_key]), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps([time.process_time(), iot.broker.metrics()["publish/messages/denied"]]), flush=True)


class Child:
    """A process of this program that exchanges lines with this one."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        command = [sys.executable, __file__, *arguments]
        self._process = stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)

    def write(self, line: str = "") -> None:
        """Send a line."""
        print(line, file=self._process.stdin, flush=True)

    def read(self) -> str:
        """Wait for a line."""
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def ask(self) -> tuple[float, int]:
        """Ask the endpoint for the seconds of CPU time that it has used, and the number of messages it discarded."""
        self.write()
        used, discarded = json.loads(self.read())
        return used, discarded


def run(filters: int, rate: int, seconds: float, processes: int) -> Outcome:
    """Measure once."""
    share_filters, share_rate = filters // processes, rate // processes
    publishing = math.ceil(share_rate / PLANNED)
    receiving = max(publishing, math.ceil(share_filters / FILTERS))
    share = Outcome(share_filters, share_rate, seconds, processes, publishing, receiving)
    with ExitStack() as stack:
        server = Child(stack, "--serve")
        endpoint = json.loads(server.read())
        clients = [Child(stack, "--client") for _ in range(processes)]
        for number, client in enumerate(clients):
            client.write(json.dumps([f"bench{number}", endpoint, asdict(share)]))
            print(client.read().strip(), file=sys.stderr)
        used, _ = server.ask()
        for client in clients:
            client.write()
        found = [Outcome(**json.loads(client.read())) for client in clients]
        total, throttled = server.ask()
    whole = Outcome(filters, rate, seconds, processes, publishing * processes, receiving * processes)
    for name in ("published", "refused", "rate", "lost", "doubled", "out_of_order"):
        setattr(whole, name, sum(getattr(each, name) for each in found))
    for name in ("p50_ms", "p99_ms"):  # the slowest process
        setattr(whole, name, max(getattr(each, name) for each in found))
    whole.throttled = throttled
    came = max(1, whole.published - whole.lost)
    whole.client_us = round(sum(each.client_us * (each.published - each.lost) for each in found) / came, 1)
    whole.endpoint_us = round(1e6 * (total - used) / came, 1)
    return whole


def main() -> None:
    """Read the arguments, measure, and print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--filters", type=int, default=5_000, help="Topic Filters, each of one topic")
    parser.add_argument("--rate", type=int, default=10_000, help="messages a second, over all topics")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to publish")
    parser.add_argument("--processes", type=int, default=1, help="processes of clients, in addition to the endpoint's")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--client", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
    elif given.client:
        name, endpoint, share = json.loads(sys.stdin.readline())
        asyncio.run(measure(name, endpoint, Outcome(**share)))
    else:
        print(json.dumps(asdict(run(given.filters, given.rate, given.seconds, given.processes)), indent=1))


if __name__ == "__main__":
    main()
