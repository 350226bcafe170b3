"""Acknowledgements are read whatever waits to be taken: each message of a burst may be answered; both faces."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Threads

import mqttws

Api = Threads | Loop
#: More than wait in any queue that is bounded by their number.
MANY = 1_500


def flood(world: Any, qos: int) -> None:
    with mqttws.connect(world.broker.url, max_queued=MANY) as other:
        futures = [other.publish_nowait("request", str(number), qos) for number in range(MANY)]
        for future in futures:
            future.result(PATIENCE)


@pytest.mark.parametrize("qos", [0, 1])
def test_an_observer_answers_each_message_of_a_burst(api: Api, world: Any, qos: int) -> None:
    answered: list[Any] = []
    over = threading.Event()

    def note(message: Any) -> None:
        answered.append(message.value)
        if len(answered) == MANY:
            over.set()

    if isinstance(api, Threads):

        def answer(message: Any) -> None:
            api.ps.publish("reply", message.value, qos=1, timeout=PATIENCE)
            note(message)
    else:

        async def answer(message: Any) -> None:  # type: ignore[misc]
            await api.ps.publish("reply", message.value, qos=1, timeout=PATIENCE)
            note(message)

    api.call(api.call(api.ps.subscribe("request", qos=qos).subscribe, answer).ready, PATIENCE)
    flood(world, qos)
    assert over.wait(PATIENCE * 2), len(answered)
    assert answered == list(range(MANY))
    assert world.published.count("reply") == MANY


def test_an_iteration_answers_each_message_of_a_burst(api: Api, world: Any) -> None:
    answered: list[Any] = []
    if isinstance(api, Threads):
        with api.ps.subscribe("request", qos=1, timeout=PATIENCE) as messages:
            messages.ready(PATIENCE)
            flood(world, 1)
            for message in messages:
                api.ps.publish("reply", message.value, qos=2, timeout=PATIENCE)
                answered.append(message.value)
                if len(answered) == MANY:
                    break
    else:

        async def answer() -> None:
            async with api.ps.subscribe("request", qos=1, timeout=PATIENCE) as messages:
                await messages.ready(PATIENCE)
                await asyncio.to_thread(flood, world, 1)
                async for message in messages:
                    await api.ps.publish("reply", message.value, qos=2, timeout=PATIENCE)
                    answered.append(message.value)
                    if len(answered) == MANY:
                        break

        api.call(answer)
    assert answered == list(range(MANY))


def test_an_observer_subscribes_and_unsubscribes_in_a_burst(api: Api, world: Any) -> None:
    done: list[int] = []
    over = threading.Event()
    if isinstance(api, Threads):

        def follow(message: Any) -> None:
            if len(done) < 30:
                subscription = api.ps.subscribe(f"reply/{message.value}", qos=1).subscribe()
                subscription.ready(PATIENCE)
                subscription.unsubscribe(PATIENCE)
                done.append(message.value)
            elif message.value == MANY - 1:
                over.set()
    else:

        async def follow(message: Any) -> None:  # type: ignore[misc]
            if len(done) < 30:
                subscription = api.ps.subscribe(f"reply/{message.value}", qos=1).subscribe()
                await subscription.ready(PATIENCE)
                await subscription.unsubscribe(PATIENCE)
                done.append(message.value)
            elif message.value == MANY - 1:
                over.set()

    api.call(api.call(api.ps.subscribe("request").subscribe, follow).ready, PATIENCE)
    flood(world, 0)
    assert over.wait(PATIENCE * 2)
    assert done == list(range(30))


def test_many_retained_messages_and_a_publish(api: Api, world: Any) -> None:
    for number in range(3_000):
        world.broker.publish(f"kept/{number}", b"1", retain=True)
    release = threading.Event()
    got: list[str] = []
    over = threading.Event()

    def take(message: Any) -> None:
        if isinstance(api, Threads):
            release.wait(PATIENCE)
        got.append(message.topic)
        if len(got) == 3_000:
            over.set()

    api.call(api.call(api.ps.subscribe("kept/#").subscribe, take).ready, PATIENCE)
    api.call(api.ps.publish, "other", 1, qos=1, timeout=PATIENCE)
    release.set()
    assert over.wait(PATIENCE)
    assert len(set(got)) == 3_000
