"""Several threads or tasks share an iteration: each message goes to one of them, and every message is acknowledged."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from pubsub_faces import PATIENCE

import mqttws
import mqttws.aio
import pubsub.aio
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider, PubSub

#: More than a broker sends without acknowledgements.
MANY = 300
PAYLOADS = [b"%d" % number for number in range(MANY)]
TAKERS = 4


def take_in_threads(broker: Broker, messages: Iterable[Any]) -> list[bytes]:
    """Publish while threads iterate. Return what they took."""
    taken: list[bytes] = []
    came = {payload: threading.Event() for payload in PAYLOADS}
    over = came[PAYLOADS[-1]]

    def work() -> None:
        for message in messages:
            taken.append(message.payload)
            came[message.payload].set()
            if not over.is_set():  # hold the message until another thread has the next one
                came[PAYLOADS[int(message.payload) + 1]].wait(PATIENCE)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(TAKERS)]
    for thread in threads:
        thread.start()
    for payload in PAYLOADS:
        broker.publish("a", payload, 1)
    over.wait(PATIENCE)
    messages.close()  # type: ignore[attr-defined]
    return taken


async def take_in_tasks(broker: Broker, messages: AsyncIterator[Any]) -> list[bytes]:
    """Publish while tasks iterate. Return what they took."""
    taken: list[bytes] = []
    over = asyncio.Event()

    async def work() -> None:
        async for message in messages:
            taken.append(message.payload)
            if len(taken) >= MANY:
                over.set()
            await asyncio.sleep(0)  # others take messages meanwhile

    tasks = [asyncio.create_task(work()) for _ in range(TAKERS)]
    for payload in PAYLOADS:
        broker.publish("a", payload, 1)
        await asyncio.sleep(0)
    try:
        async with asyncio.timeout(PATIENCE):
            await over.wait()
    except TimeoutError:
        pass
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return taken


def test_threads_share_an_iteration_of_a_client() -> None:
    with Broker() as broker, mqttws.connect(broker.url) as client:
        client.subscribe("a", 1)
        taken = take_in_threads(broker, client.messages())
    assert sorted(taken) == sorted(PAYLOADS)


def test_threads_share_an_iteration_of_a_pubsub() -> None:
    with Broker() as broker, PubSub(MqttOverWSProvider(broker.url)) as ps, ps.subscribe("a", qos=1) as messages:
        messages.ready(PATIENCE)
        taken = take_in_threads(broker, messages)
    assert sorted(taken) == sorted(PAYLOADS)


def test_tasks_share_an_iteration_of_a_client() -> None:
    async def main() -> list[bytes]:
        async with Broker() as broker, mqttws.aio.connect(broker.url) as client:
            await client.subscribe("a", 1)
            return await take_in_tasks(broker, client.messages())

    assert sorted(asyncio.run(main())) == sorted(PAYLOADS)


def test_tasks_share_an_iteration_of_a_pubsub() -> None:
    async def main() -> list[bytes]:
        async with (
            Broker() as broker,
            pubsub.aio.PubSub(MqttOverWSProvider(broker.url)) as ps,
            ps.subscribe("a", qos=1) as messages,
        ):
            await messages.ready(PATIENCE)
            return await take_in_tasks(broker, messages)

    assert sorted(asyncio.run(main())) == sorted(PAYLOADS)


@pytest.mark.parametrize("ends", ["subscription", "connection"])
def test_all_threads_that_share_an_iteration_end_with_it(ends: str) -> None:
    with Broker() as broker, PubSub(MqttOverWSProvider(broker.url)) as ps:
        messages = iter(ps.subscribe("a", qos=1))
        messages.ready(PATIENCE)
        threads = [threading.Thread(target=list, args=(messages,), daemon=True) for _ in range(TAKERS)]
        for thread in threads:
            thread.start()
        messages.unsubscribe() if ends == "subscription" else ps.close()
        for thread in threads:
            thread.join(PATIENCE)
        assert not any(thread.is_alive() for thread in threads)
