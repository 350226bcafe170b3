"""aiomqtt, based on paho-mqtt, in the last version before the codec in Rust."""

from __future__ import annotations

import asyncio
import time

import aiomqtt
import workloads as work
from timing import Stopwatch, atimed, main, percentiles


def connect(port: int) -> aiomqtt.Client:
    return aiomqtt.Client("127.0.0.1", port, transport="websockets", websocket_path="/", max_inflight_messages=100)


async def publish_qos0(port: int, count: int, warm: int) -> dict[str, float]:
    async with connect(port) as client:

        async def publish(number: int) -> None:
            for _ in range(number):
                await client.publish(work.TOPIC, work.MESSAGE)
            await client.publish(work.TOPIC, work.MESSAGE, 1)

        return await atimed(publish, count, warm)


async def publish_qos1(port: int, count: int, warm: int) -> dict[str, float]:
    async with connect(port) as client:

        async def publish(number: int) -> None:
            left = iter(range(number))

            async def some() -> None:
                for _ in left:
                    await client.publish(work.TOPIC, work.MESSAGE, 1)

            await asyncio.gather(*(some() for _ in range(100)))

        return await atimed(publish, count, warm)


async def receive(port: int, count: int, warm: int) -> dict[str, float]:
    async with connect(port) as client:
        await client.subscribe(work.WARM_TOPIC)
        got = 0
        watch = Stopwatch()
        async for message in client.messages:
            got += 1
            if got == warm:
                watch.start()
                await client.subscribe(work.TOPIC)
            if got == warm + count:
                assert message.payload == work.MESSAGE
                break
        return watch.stop(count)


async def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    async with connect(port) as client:
        await client.subscribe("bench/echo", qos)
        messages = aiter(client.messages)
        trips = []
        for _ in range(warm + count):
            start = time.perf_counter()
            sent = asyncio.ensure_future(client.publish("bench/echo", work.MESSAGE, qos))
            await anext(messages)
            trips.append(time.perf_counter() - start)
            await sent
        return percentiles(trips[warm:])


def in_loop(case):
    return lambda **options: asyncio.run(case(**options))


main({case.__name__: in_loop(case) for case in (publish_qos0, publish_qos1, receive, echo)})
