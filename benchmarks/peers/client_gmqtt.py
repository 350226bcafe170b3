"""gmqtt, plain TCP only. It has no in-flight window; here one of 100 is enforced by checking its store."""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial

import gmqtt
import workloads as work
from gmqtt.mqtt.constants import MQTTv311
from timing import Stopwatch, atimed, main, percentiles

logging.disable(logging.CRITICAL)


async def connect(port: int, on_message=None) -> gmqtt.Client:
    client = gmqtt.Client(f"bench-{time.monotonic_ns()}")
    client.granted = asyncio.Event()
    client.on_subscribe = lambda *given: client.granted.set()
    if on_message is not None:
        client.on_message = on_message
    await client.connect("127.0.0.1", port, version=MQTTv311)
    return client


async def wait_empty(client: gmqtt.Client) -> None:
    await client._persistent_storage.wait_empty()


async def publish_qos0(port: int, count: int, warm: int) -> dict[str, float]:
    client = await connect(port)

    async def publish(number: int) -> None:
        for done in range(number):
            client.publish(work.TOPIC, work.MESSAGE)
            if done % 100 == 99:  # it has no back-pressure, so let the loop write
                await asyncio.sleep(0)
        client.publish(work.TOPIC, work.MESSAGE, 1)
        await wait_empty(client)

    figures = await atimed(publish, count, warm)
    await client.disconnect()
    return figures


async def publish_acknowledged(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    client = await connect(port)
    stored = client._persistent_storage._messages

    async def publish(number: int) -> None:
        for _ in range(number):
            client.publish(work.TOPIC, work.MESSAGE, qos)
            while len(stored) >= 100:
                await asyncio.sleep(0)
        await wait_empty(client)

    figures = await atimed(publish, count, warm)
    await client.disconnect()
    return figures


async def receive(port: int, count: int, warm: int) -> dict[str, float]:
    done = asyncio.Event()
    got = end = 0
    watch = Stopwatch()

    def on_message(client, topic, payload, qos, properties) -> int:
        nonlocal got
        got += 1
        if got == end:
            assert payload == work.MESSAGE
            done.set()
        return 0

    client = await connect(port, on_message)
    for topic, number in ((work.WARM_TOPIC, warm), (work.TOPIC, count)):
        end = got + number
        done.clear()
        watch.start()
        client.subscribe(topic)
        await asyncio.wait_for(done.wait(), 60)
    figures = watch.stop(count)
    await client.disconnect()
    return figures


async def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    arrived = asyncio.Queue()

    def on_message(client, topic, payload, qos, properties) -> int:
        arrived.put_nowait(payload)
        return 0

    client = await connect(port, on_message)
    client.subscribe("bench/echo", qos)
    await client.granted.wait()
    trips = []
    for _ in range(warm + count):
        start = time.perf_counter()
        client.publish("bench/echo", work.MESSAGE, qos)
        await arrived.get()
        trips.append(time.perf_counter() - start)
    await client.disconnect()
    return percentiles(trips[warm:])


def in_loop(case):
    return lambda **options: asyncio.run(case(**options))


main(
    {
        **{f"publish_qos{qos}": in_loop(partial(publish_acknowledged, qos=qos)) for qos in (1, 2)},
        **{case.__name__: in_loop(case) for case in (publish_qos0, receive, echo)},
    }
)
