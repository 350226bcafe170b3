"""`give_back`: returned messages are delivered again, in order, before all others; in both drivers."""

from __future__ import annotations

import asyncio
import threading

import mqttws
import mqttws.aio
from mqttws.broker import Broker

PATIENCE = 30.0


def test_messages_given_back_are_first_and_wake_an_iteration() -> None:
    with Broker() as broker, mqttws.connect(broker.url, manual_ack=True) as client:
        client.subscribe("a", 1)
        for number in range(4):
            client.publish("a", str(number), 1)
        messages = client.messages(timeout=PATIENCE)
        first, second, third = next(messages), next(messages), next(messages)
        client.give_back([first, second])
        client.give_back([third], after=2)  # as if taken just before the two were given back
        assert [next(messages) for _ in range(3)] == [first, second, third]
        assert next(messages).payload == b"3"
        waiting = threading.Thread(target=next, args=(messages,))
        waiting.start()
        client.give_back([third])
        waiting.join(PATIENCE)
        assert not waiting.is_alive()


def test_messages_given_back_are_first_and_wake_an_asyncio_iteration() -> None:
    async def main() -> None:
        async with mqttws.aio.connect(broker.url, manual_ack=True) as client:
            await client.subscribe("a", 1)
            for number in range(4):
                await client.publish("a", str(number), 1)
            messages = client.messages(timeout=PATIENCE)
            first, second, third = [await anext(messages) for _ in range(3)]
            client.give_back([first, second])
            client.give_back([third], after=2)
            assert [await anext(messages) for _ in range(3)] == [first, second, third]
            assert (await anext(messages)).payload == b"3"
            waiting = asyncio.ensure_future(anext(messages))
            await asyncio.sleep(0)
            client.give_back([third])
            assert await waiting is third

    with Broker() as broker:
        asyncio.run(main())
