"""mqttws: the blocking client, and the asyncio client (cases that end in asyncio), on uvloop if it is installed."""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

import workloads as work
from timing import Peak, Stopwatch, atimed, main, percentiles, timed, transferred

from mqttws import Client, aio, tls_context

UNBOUNDED = 10_000_000


def settings(port: int, tls: int, options: dict) -> dict:
    if tls:
        return {"url": f"wss://127.0.0.1:{port}/", "tls": tls_context(ca_file=work.AUTHORITY), **options}
    return {"url": f"ws://127.0.0.1:{port}/", **options}


def connect(port: int, tls: int = 0, **options):
    return Client(**settings(port, tls, {"max_queued": UNBOUNDED, **options}))


def publish_qos0(port: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    with connect(port, tls) as client:

        def publish(number: int) -> None:
            for _ in range(number):
                client.publish_nowait(work.TOPIC, work.MESSAGE)
            client.publish(work.TOPIC, work.MESSAGE, qos=1)

        return timed(publish, count, warm)


def publish_qos0_waiting(port: int, count: int, warm: int) -> dict[str, float]:
    with connect(port) as client:

        def publish(number: int) -> None:
            for _ in range(number):
                client.publish(work.TOPIC, work.MESSAGE)
            client.publish(work.TOPIC, work.MESSAGE, qos=1)

        return timed(publish, count, warm)


def publish_acknowledged(port: int, count: int, warm: int, qos: int, tls: int = 0) -> dict[str, float]:
    with connect(port, tls, max_in_flight=100, max_in_flight_qos2=100) as client:

        def publish(number: int) -> None:
            futures = [client.publish_nowait(work.TOPIC, work.MESSAGE, qos=qos) for _ in range(number)]
            futures[-1].result(60)  # the last one first, otherwise the thread would be woken for nearly each of them
            for future in futures:
                future.result(60)

        return timed(publish, count, warm)


def receive(port: int, count: int, warm: int, tls: int = 0, size: int = 64) -> dict[str, float]:
    expected = work.payload(size)  # made before memory and time are measured
    done = threading.Event()
    got = end = 0
    watch = Stopwatch()

    def on_message(message) -> None:
        nonlocal got
        got += 1
        if got == end:
            assert message.payload == expected
            done.set()

    with connect(port, tls, on_message=on_message) as client:
        peak = Peak()
        for topic, number in ((work.WARM_TOPIC, warm), (work.TOPIC, count)):
            end = got + number
            done.clear()
            watch.start()
            client.subscribe(topic)
            assert done.wait(60)
        figures = watch.stop(count)
        return transferred(figures, size, peak) if size > len(work.MESSAGE) else figures


def send(port: int, count: int, warm: int, size: int, tls: int = 0) -> dict[str, float]:
    payload = work.payload(size)
    with connect(port, tls) as client:
        peak = Peak()

        def publish(number: int) -> None:
            for _ in range(number):
                client.publish(work.TOPIC, payload, qos=1)

        return transferred(timed(publish, count, warm), size, peak)


def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    arrived = threading.Semaphore(0)
    with connect(port, on_message=lambda message: arrived.release()) as client:
        client.subscribe("bench/echo", qos)
        trips = []
        for _ in range(warm + count):
            start = time.perf_counter()
            client.publish_nowait("bench/echo", work.MESSAGE, qos)
            assert arrived.acquire(timeout=10)
            trips.append(time.perf_counter() - start)
        return percentiles(trips[warm:])


def reconnect(port: int, count: int, warm: int, tls: int) -> dict[str, float]:
    client = connect(port, tls)
    trips = []
    for _ in range(warm + count):
        start = time.perf_counter()
        client.open()
        trips.append(time.perf_counter() - start)
        client.close()
    return percentiles(trips[warm:])


def aconnect(port: int, tls: int = 0, **options):
    return aio.Client(**settings(port, tls, {"max_queued": UNBOUNDED, **options}))


async def apublish_qos0(port: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    async with aconnect(port, tls) as client:

        async def publish(number: int) -> None:
            for done in range(number):
                client.publish_nowait(work.TOPIC, work.MESSAGE)
                if done % 100 == 99:  # let the loop write, as with every client without a thread
                    await asyncio.sleep(0)
            await client.publish(work.TOPIC, work.MESSAGE, qos=1)

        return await atimed(publish, count, warm)


async def apublish_acknowledged(port: int, count: int, warm: int, qos: int, tls: int = 0) -> dict[str, float]:
    async with aconnect(port, tls, max_in_flight=100, max_in_flight_qos2=100) as client:

        async def publish(number: int) -> None:
            futures = []
            for done in range(number):
                futures.append(client.publish_nowait(work.TOPIC, work.MESSAGE, qos=qos))
                if done % 100 == 99:
                    await asyncio.sleep(0)
            await futures[-1]  # the last one first, otherwise the task would be woken for nearly each of them
            for future in futures:
                await future

        return await atimed(publish, count, warm)


async def areceive(port: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    async with aconnect(port, tls) as client:
        await client.subscribe(work.WARM_TOPIC)
        got = 0
        watch = Stopwatch()
        async for message in client:
            got += 1
            if got == warm:
                watch.start()
                await client.subscribe(work.TOPIC)
            if got == warm + count:
                assert message.payload == work.MESSAGE
                break
        return watch.stop(count)


async def aecho(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    async with aconnect(port) as client:
        await client.subscribe("bench/echo", qos)
        messages = client.messages()
        trips = []
        for _ in range(warm + count):
            start = time.perf_counter()
            client.publish_nowait("bench/echo", work.MESSAGE, qos)
            await anext(messages)
            trips.append(time.perf_counter() - start)
        await messages.aclose()
        return percentiles(trips[warm:])


def in_loop(case):
    try:
        from uvloop import run
    except ImportError:
        from asyncio import run
    return lambda **options: run(case(**options))


main(
    {
        "publish_qos0": publish_qos0,
        "publish_qos0_waiting": publish_qos0_waiting,
        "publish_qos1": partial(publish_acknowledged, qos=1),
        "publish_qos2": partial(publish_acknowledged, qos=2),
        "receive": receive,
        "send": send,
        "echo": echo,
        "reconnect": reconnect,
        "publish_qos0_asyncio": in_loop(apublish_qos0),
        "publish_qos1_asyncio": in_loop(partial(apublish_acknowledged, qos=1)),
        "publish_qos2_asyncio": in_loop(partial(apublish_acknowledged, qos=2)),
        "receive_asyncio": in_loop(areceive),
        "echo_asyncio": in_loop(aecho),
    }
)
