"""The asyncio version of `threads.py`: `await`, coroutine functions as callbacks, `async for`.

Usage: python examples/event_loop.py [URL]; without a URL it uses the embedded broker.
"""

from __future__ import annotations

import asyncio
import sys

import mqttws
from pubsub import Message, MqttOverWSProvider
from pubsub.aio import PubSub


async def main(url: str) -> None:
    """Publish questions and answers, and read a retained message."""
    async with PubSub(MqttOverWSProvider(url)) as ps:

        async def on_question(message: Message) -> None:
            await ps.publish("demo/answer", {"sum": sum(message.value)}, qos=1)

        async def ask() -> None:
            for number in range(3):
                await ps.publish("demo/question", [number, number], qos=1)

        await ps.subscribe("demo/question", qos=1).subscribe(on_question, error=print).ready()
        answers = ps.subscribe("demo/answer", qos=1, timeout=5)
        received: asyncio.Queue[Message] = asyncio.Queue()
        async with answers.subscribe(received.put) as subscription:
            await subscription.ready()
            await ask()
            for _ in range(3):
                print("answer:", (await received.get()).value)

        await ps.publish("demo/config", {"unit": "°C"}, retain=True, qos=1)
        async for message in ps.subscribe("demo/config", timeout=5):
            print("retained:" if message.retain else "live:", message.value)
            break


async def embedded() -> None:
    """Run the example with the embedded broker."""
    async with mqttws.broker.Broker() as broker:
        await main(broker.url)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]) if len(sys.argv) > 1 else embedded())
