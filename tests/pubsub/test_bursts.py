"""Acknowledgements are read while messages wait, so each message of a burst can be answered; for both faces."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import mqttws
from mqttws import MQTTError, TimedOut, WouldDeadlock
from pubsub import PublishFailed

Api = Threads | Loop
#: More messages than any queue that is bounded by number holds.
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


@pytest.mark.parametrize("call", ["publish", "publish to two", "ready"])
def test_a_wait_in_an_observer_that_could_never_end_raises(make: Any, world: Any, call: str) -> None:
    """Beyond `max_inbound_bytes` nothing is read before the observer returns, not even an answer."""
    api = make(world.provider(max_inbound_bytes=20_000))
    ps, outcome = api.ps, Recorder()
    begun = time.monotonic()

    def is_stalled() -> bool:
        assert time.monotonic() < begun + PATIENCE
        return any(channel.client.stalled for channel in ps._channels.values())

    def ask() -> Any:
        if call == "ready":
            return ps.subscribe("z").subscribe(Recorder().next).ready(PATIENCE * 3)
        return ps.publish("x" if call == "publish" else ["x", "y"], 1, qos=1, timeout=PATIENCE * 3)

    if isinstance(api, Threads):

        def observe(message: Any) -> None:
            if not outcome.errors:
                while not is_stalled():
                    time.sleep(0.01)
                with pytest.raises(MQTTError) as caught:
                    ask()
                outcome.error(caught.value)

    else:

        async def observe(message: Any) -> None:  # type: ignore[misc]
            if not outcome.errors:
                while not is_stalled():
                    await asyncio.sleep(0.01)
                with pytest.raises(MQTTError) as caught:
                    await ask()
                outcome.error(caught.value)

    api.call(api.call(ps.subscribe("a").subscribe, observe).ready, PATIENCE)
    for _ in range(300):
        world.broker.publish("a", b'"' + bytes(1_000).replace(b"\0", b"x") + b'"')
    outcome.wait(lambda: outcome.errors)
    error = outcome.errors[0]
    for each in error.errors.values() if isinstance(error, PublishFailed) else [error]:
        assert isinstance(each, WouldDeadlock)
        assert "max_inbound_bytes" in str(each)
    api.call(ps.publish, "b", 1, qos=1)  # the observer has returned, and the connection works


def test_a_time_out_of_unsubscribe_names_the_messages_that_are_not_taken(make: Any, world: Any) -> None:
    api = make(world.provider(max_inbound_bytes=20_000))
    release = threading.Event()
    asynchronous = asyncio.Event()

    def observe(message: Any) -> None:
        release.wait(PATIENCE)

    async def observe_async(message: Any) -> None:
        await asynchronous.wait()

    observer = observe if isinstance(api, Threads) else observe_async
    api.call(api.call(api.ps.subscribe("a").subscribe, observer).ready, PATIENCE)
    other = api.call(api.ps.subscribe("b").subscribe, Recorder().next)
    api.call(other.ready, PATIENCE)
    for _ in range(300):
        world.broker.publish("a", b'"' + bytes(1_000).replace(b"\0", b"x") + b'"')
    end = time.monotonic() + PATIENCE
    while not any(channel.client.stalled for channel in api.ps._channels.values()):
        assert time.monotonic() < end
        time.sleep(0.01)
    with pytest.raises(TimedOut, match=r"UNSUBSCRIBE within 0\.2 s: .*max_inbound_bytes"):
        api.call(other.unsubscribe, 0.2)
    release.set()
    api.call(asynchronous.set)
