"""More than one connection can carry: 120 Topic Filters and 300 messages per second within the limits of AWS IoT.

AWS IoT accepts 50 subscriptions and 100 messages per second of one connection. `Sharded` uses several connections like
one: see docs/scale.md.

Usage: python examples/shards.py; it uses the local endpoint, which enforces the limits of AWS IoT.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter

from pubsub import AWSIoTProvider, Message, Sharded
from pubsub.aio import PubSub
from pubsub.aws.local.endpoint import LocalIoTEndpoint

SENSORS = 120
ROUNDS = 5


async def main() -> None:
    """Publish and receive, and add connections in the meantime."""
    async with LocalIoTEndpoint() as iot:
        provider = AWSIoTProvider(iot.region, iot.url, iot.credentials, client_id="plant")
        async with PubSub(Sharded(provider, connections=(4, 4))) as ps:
            received: Counter[str] = Counter()
            complete = asyncio.Event()

            def note(message: Message) -> None:
                received[message.topic] += 1
                if received.total() == SENSORS * ROUNDS:
                    complete.set()

            topics = [f"plant/sensor/{number}" for number in range(SENSORS)]
            await ps.subscribe(topics, qos=1).subscribe(note, error=print).ready()
            print(f"connections: {len(ps.connection_states) - 1}, state: {ps.connection_state}")

            begin = time.monotonic()
            for number in range(ROUNDS):
                if number == ROUNDS // 2:
                    ps.resize((5, 6))  # Topic Filters move to the new connections while messages arrive
                futures = [ps.publish_nowait(topic, {"n": number}, qos=1) for topic in topics]
                await asyncio.gather(*futures)
            await asyncio.wait_for(complete.wait(), 30)
            rate = SENSORS * ROUNDS / (time.monotonic() - begin)
            print(f"more than one connection takes: {rate > 100}")
            print(f"each message once: {set(received.values()) == {ROUNDS}}")


if __name__ == "__main__":
    asyncio.run(main())
