"""Closed loops: the usual forms of publishing programs, the same for every library.

A fixed number of messages is in flight, and each completed one (QoS 0: passed to the network, otherwise fully
acknowledged) is followed by another. A script provides a class for threads, one for asyncio, or both.

    callback   threads: one thread publishes; the callback of each message releases another
    threads    threads: each of 64 publishes, and waits for the completion
    tasks      asyncio: each of 64 tasks awaits one message after another
    nowait     asyncio: a call that does not wait; the callback of each message publishes the next
    request    both: 32 requests of QoS 1 in flight; `responder.py` answers each
    paced      both: 2,000 messages of QoS 1 a second; the time to each PUBACK, and the CPU time of a message
    connect    both: the time to the CONNACK, and the CPU time to connect and to close
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, Protocol

import timing

TOPIC = "bench/closed/loop"
REQUEST, RESPONSE = "bench/request", "bench/response"
MESSAGE = b"0123456789abcdef" * 16
WINDOW = 64
REQUESTS = 32
#: Messages a second of the paced case.
PACE = 2_000
#: Timeout of each wait, in seconds.
PATIENCE = 60.0


class Client(Protocol):
    """A client with threads, connected on construction.

    Args:
        port: the port of the broker.
        websocket: whether to use WebSocket, or plain TCP.
        on_message: called for each message.
    """

    def __init__(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None: ...

    def publish(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        """Publish `MESSAGE`, and call `done` when it is complete."""

    def publish_and_wait(self, topic: str, qos: int) -> None:
        """Publish `MESSAGE`, and wait until it is complete."""

    def subscribe(self, topic: str, qos: int) -> None:
        """Subscribe, and wait for the SUBACK."""

    def close(self) -> None:
        """Disconnect."""


class AsyncClient(Protocol):
    """A client with asyncio; `publish_nowait` only if the library has such a method."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        """Connect; see `Client`."""

    async def publish(self, topic: str, qos: int) -> None:
        """Publish `MESSAGE`, and wait until it is complete."""

    def publish_nowait(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        """Publish `MESSAGE`, and call `done` in the event loop when it is complete."""

    async def subscribe(self, topic: str, qos: int) -> None:
        """Subscribe, and wait for the SUBACK."""

    async def close(self) -> None:
        """Disconnect."""


def _callback(client: Client, qos: int, number: int) -> None:
    window = threading.Semaphore(WINDOW)
    for _ in range(number):
        assert window.acquire(timeout=PATIENCE)
        client.publish(TOPIC, qos, window.release)
    for _ in range(WINDOW):
        assert window.acquire(timeout=PATIENCE)


def _threads(client: Client, qos: int, number: int) -> None:
    left = iter(range(number))

    def some() -> None:
        for _ in left:
            client.publish_and_wait(TOPIC, qos)

    threads = [threading.Thread(target=some) for _ in range(WINDOW)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _publishing(form: Callable[[Client, int, int], None], kind: type[Client]) -> Callable[..., dict[str, float]]:
    def case(port: int, count: int, warm: int, qos: int, websocket: int) -> dict[str, float]:
        client = kind(port, bool(websocket), lambda: None)

        def run(number: int) -> None:
            form(client, qos, number)
            if not qos:  # everything has arrived when this has
                client.publish_and_wait(TOPIC, 1)

        figures = timing.timed(run, count, warm)
        client.close()
        return figures

    return case


def _request(kind: type[Client]) -> Callable[..., dict[str, float]]:
    def case(port: int, count: int, warm: int, websocket: int) -> dict[str, float]:
        window = threading.Semaphore(REQUESTS)
        client = kind(port, bool(websocket), window.release)
        client.subscribe(RESPONSE, 1)

        def run(number: int) -> None:
            for _ in range(number):
                assert window.acquire(timeout=PATIENCE)
                client.publish(REQUEST, 1, lambda: None)
            for _ in range(REQUESTS):
                assert window.acquire(timeout=PATIENCE)
            window.release(REQUESTS)

        figures = timing.timed(run, count, warm)
        client.close()
        return figures

    return case


def _paced(kind: type[Client]) -> Callable[..., dict[str, float]]:
    def case(port: int, count: int, warm: int, websocket: int) -> dict[str, float]:
        client = kind(port, bool(websocket), lambda: None)
        trips: list[float] = []
        watch, start = timing.Stopwatch(), time.perf_counter()
        for number in range(warm + count):
            due = start + number / PACE
            time.sleep(max(0.0, due - time.perf_counter()))
            client.publish(TOPIC, 1, partial(_note, trips, time.perf_counter()))
        client.publish_and_wait(TOPIC, 1)
        cpu_us = watch.stop(warm + count)["cpu_us"]
        client.close()
        return timing.percentiles(trips[warm:]) | {"seconds": count / PACE, "cpu_us": cpu_us}

    return case


def _note(trips: list[float], start: float) -> None:
    trips.append(time.perf_counter() - start)


def _connect(kind: type[Client]) -> Callable[..., dict[str, float]]:
    def case(port: int, count: int, warm: int, websocket: int) -> dict[str, float]:
        trips, watch = [], timing.Stopwatch()
        for _ in range(warm + count):
            start = time.perf_counter()
            client = kind(port, bool(websocket), lambda: None)
            trips.append(time.perf_counter() - start)
            client.close()
        return timing.percentiles(trips[warm:]) | {"cpu_us": watch.stop(warm + count)["cpu_us"]}

    return case


async def _tasks(client: AsyncClient, qos: int, number: int) -> None:
    left = iter(range(number))

    async def some() -> None:
        for _ in left:
            await client.publish(TOPIC, qos)

    await asyncio.gather(*(some() for _ in range(WINDOW)))


async def _nowait(client: AsyncClient, qos: int, number: int) -> None:
    finished = asyncio.get_running_loop().create_future()
    begun, complete = WINDOW, 0

    def done() -> None:
        nonlocal begun, complete
        complete += 1
        if begun < number:
            begun += 1
            client.publish_nowait(TOPIC, qos, done)
        elif complete == number:
            finished.set_result(None)

    for _ in range(WINDOW):
        client.publish_nowait(TOPIC, qos, done)
    await asyncio.wait_for(finished, PATIENCE)


Case = Callable[..., Coroutine[Any, Any, dict[str, float]]]


def _publishing_async(
    form: Callable[[AsyncClient, int, int], Awaitable[None]], kind: Callable[[], AsyncClient]
) -> Case:
    async def case(port: int, count: int, warm: int, qos: int, websocket: int) -> dict[str, float]:
        client = kind()
        await client.open(port, bool(websocket), lambda: None)

        async def run(number: int) -> None:
            await form(client, qos, number)
            if not qos:
                await client.publish(TOPIC, 1)

        figures = await timing.atimed(run, count, warm)
        await client.close()
        return figures

    return case


def _request_async(kind: Callable[[], AsyncClient]) -> Case:
    async def case(port: int, count: int, warm: int, websocket: int) -> dict[str, float]:
        client, window = kind(), asyncio.Semaphore(0)
        await client.open(port, bool(websocket), window.release)
        await client.subscribe(RESPONSE, 1)

        async def run(number: int) -> None:
            left = iter(range(number))

            async def some() -> None:
                for _ in left:
                    await client.publish(REQUEST, 1)
                    await window.acquire()

            await asyncio.wait_for(asyncio.gather(*(some() for _ in range(REQUESTS))), PATIENCE)

        figures = await timing.atimed(run, count, warm)
        await client.close()
        return figures

    return case


def _paced_async(kind: Callable[[], AsyncClient]) -> Case:
    async def case(port: int, count: int, warm: int, websocket: int) -> dict[str, float]:
        client, trips = kind(), list[float]()
        await client.open(port, bool(websocket), lambda: None)

        async def one() -> None:
            start = time.perf_counter()
            await client.publish(TOPIC, 1)
            trips.append(time.perf_counter() - start)

        watch, start, tasks = timing.Stopwatch(), time.perf_counter(), []
        for number in range(warm + count):
            await asyncio.sleep(max(0.0, start + number / PACE - time.perf_counter()))
            tasks.append(asyncio.ensure_future(one()))
        await asyncio.wait_for(asyncio.gather(*tasks), PATIENCE)
        cpu_us = watch.stop(warm + count)["cpu_us"]
        await client.close()
        return timing.percentiles(trips[warm:]) | {"seconds": count / PACE, "cpu_us": cpu_us}

    return case


def _connect_async(kind: Callable[[], AsyncClient]) -> Case:
    async def case(port: int, count: int, warm: int, websocket: int) -> dict[str, float]:
        trips, watch = [], timing.Stopwatch()
        for _ in range(warm + count):
            client, start = kind(), time.perf_counter()
            await client.open(port, bool(websocket), lambda: None)
            trips.append(time.perf_counter() - start)
            await client.close()
        return timing.percentiles(trips[warm:]) | {"cpu_us": watch.stop(warm + count)["cpu_us"]}

    return case


def _in_loop(case: Case) -> Callable[..., dict[str, float]]:
    return lambda **options: asyncio.run(case(**options))


def main(threads: type[Client] | None = None, tasks: Callable[[], AsyncClient] | None = None) -> None:
    """Run the case named on the command line."""
    cases: dict[str, Callable[..., Any]] = {}
    if threads is not None:
        cases |= {"callback": _publishing(_callback, threads), "threads": _publishing(_threads, threads)}
        cases |= {"request": _request(threads), "paced": _paced(threads), "connect": _connect(threads)}
    if tasks is not None:
        cases |= {"tasks": _in_loop(_publishing_async(_tasks, tasks))}
        cases |= {"nowait": _in_loop(_publishing_async(_nowait, tasks))}
        cases |= {"request_asyncio": _in_loop(_request_async(tasks)), "paced_asyncio": _in_loop(_paced_async(tasks))}
        cases |= {"connect_asyncio": _in_loop(_connect_async(tasks))}
    timing.main(cases)
