"""Measure a `Sharded` provider within the limits of AWS IoT: filters, and QoS 1 messages a second.

    python benchmarks/shards.py --filters 5000 --rate 10000 --seconds 60

The local endpoint runs in a separate process and enforces the limits of AWS IoT for each connection: 100 messages a
second in both directions together, 50 subscriptions, 8 Topic Filters in a SUBSCRIBE, one CONNECT a second for each
client id. The messages of each topic are numbered, so that lost, duplicate and disordered ones are counted. Every
message is published once and received once.
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
from collections.abc import Callable
from dataclasses import asdict, dataclass

from mqttws import MQTTError
from pubsub import BYTES, AWSIoTProvider, Message, Sharded
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


async def measure(
    url: str, region: str, credentials: Credentials, outcome: Outcome, look: Callable[[], tuple[float, int]]
) -> None:
    """Subscribe, publish at the given rate and duration, wait for the rest, and fill in the outcome.

    Args:
        url: the URL of the endpoint.
        region: the region of the endpoint.
        credentials: the credentials.
        outcome: contains the parameters, and is filled in.
        look: returns the CPU seconds used by the endpoint, and the number of discarded messages.
    """
    provider = AWSIoTProvider(region, url, credentials, client_id="bench", max_queued=100_000)
    sharded = Sharded(provider, (outcome.publishing, outcome.receiving), most_connections=1_000, connect_rate=50)
    tally = Tally(outcome.filters)
    topics = [f"bench/{number}" for number in range(outcome.filters)]
    async with PubSub(sharded, codec=BYTES, timeout=120) as ps:
        subscription = ps.subscribe(topics, qos=1).subscribe(tally.next)
        await subscription.ready(120)
        await ps.connect(timeout=120)
        print(f"{len(ps.connection_states) - 1} connections, {outcome.filters} filters", file=sys.stderr)
        numbers = [0] * outcome.filters
        used, endpoint_used = time.process_time(), look()[0]
        begin = time.monotonic()
        while (elapsed := time.monotonic() - begin) < outcome.seconds:
            while outcome.published < elapsed * outcome.wanted_rate:
                index = outcome.published % outcome.filters
                payload = b"%d %d %f" % (index, numbers[index], time.monotonic())
                try:
                    ps.publish_nowait(topics[index], payload, qos=1).add_done_callback(lambda done: done.exception())
                except PublishFailed:  # its connection's queue is full
                    outcome.refused += 1
                    break
                numbers[index] += 1
                outcome.published += 1
            await asyncio.sleep(1 / TURNS)
        try:
            await ps.flush(60)
        except MQTTError as error:
            print(error, file=sys.stderr)
        deadline = time.monotonic() + 20
        while tally.came < outcome.published and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        outcome.rate = round(tally.came / (time.monotonic() - begin))
        endpoint_total, outcome.throttled = look()
        outcome.client_us = round(1e6 * (time.process_time() - used) / max(1, tally.came), 1)
        outcome.endpoint_us = round(1e6 * (endpoint_total - endpoint_used) / max(1, tally.came), 1)
    outcome.doubled, outcome.out_of_order = tally.doubled, tally.out_of_order
    outcome.lost = outcome.published - tally.came
    delays = sorted(tally.delays) or [0.0]
    outcome.p50_ms = round(1_000 * delays[len(delays) // 2], 1)
    outcome.p99_ms = round(1_000 * delays[len(delays) * 99 // 100], 1)


async def serve() -> None:
    """Run the endpoint until the end of standard input. For each line, print its CPU seconds and discarded messages."""
    async with LocalIoTEndpoint() as iot:
        keys = iot.credentials
        print(json.dumps([iot.url, iot.region, keys.access_key, keys.secret_key]), flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            print(json.dumps([time.process_time(), iot.broker.metrics()["publish/messages/denied"]]), flush=True)


def run(filters: int, rate: int, seconds: float) -> Outcome:
    """Measure once."""
    publishing = math.ceil(rate / PLANNED)
    receiving = max(math.ceil(rate / PLANNED), math.ceil(filters / FILTERS))
    outcome = Outcome(filters, rate, seconds, publishing, receiving)
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            url, region, access_key, secret_key = json.loads(server.stdout.readline())

            def look() -> tuple[float, int]:
                print(file=server.stdin, flush=True)
                used, discarded = json.loads(server.stdout.readline())
                return used, discarded

            asyncio.run(measure(url, region, Credentials(access_key, secret_key), outcome, look))
        finally:
            server.kill()
    return outcome


def main() -> None:
    """Read the arguments, measure, and print the outcome as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--filters", type=int, default=5_000, help="Topic Filters, each of one topic")
    parser.add_argument("--rate", type=int, default=10_000, help="messages a second, over all topics")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to publish")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        asyncio.run(serve())
    else:
        print(json.dumps(asdict(run(arguments.filters, arguments.rate, arguments.seconds)), indent=1))


if __name__ == "__main__":
    main()
