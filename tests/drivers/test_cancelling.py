"""The asyncio client and its tasks: cancellations, eager tasks, and calls from other threads."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
from drivers import PATIENCE
from scripted import Scripted

import mqttws.aio
from mqttws import ConnectError, MQTTError, Publish, State
from mqttws.broker import Broker

Call = Callable[[mqttws.aio.Client], Awaitable[object]]


def flush(client: mqttws.aio.Client) -> Awaitable[None]:
    client.publish_nowait("a", b"x", 1).cancel()  # still sent, and waited for
    return client.flush(0.05)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.publish("a", b"x", 1, timeout=0.05),
        lambda client: client.publish("a", b"x", 2, timeout=0.05),
        lambda client: client.subscribe("a", timeout=0.05),
        lambda client: client.unsubscribe("a", timeout=0.05),
        flush,
    ],
    ids=["qos 1", "qos 2", "subscribe", "unsubscribe", "flush"],
)
def test_a_cancellation_is_not_lost_when_the_time_is_up_in_the_same_turn(call: Call) -> None:
    async def run(server: Scripted) -> None:
        loop = asyncio.get_running_loop()
        client = mqttws.aio.Client(server.url)
        opening = asyncio.create_task(client.open())
        end = await asyncio.to_thread(server.accept)
        await asyncio.to_thread(end.welcome)
        await opening
        task = asyncio.ensure_future(call(client))
        await asyncio.sleep(0)  # the call has begun
        loop.call_later(0.06, task.cancel)
        time.sleep(0.1)  # the loop finds both timers due in one turn, the one of the call first
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close(timeout=0)

    with Scripted("mqtt") as server:
        asyncio.run(run(server))


def test_a_time_out_after_an_earlier_cancellation_is_a_time_out() -> None:
    async def run(server: Scripted) -> None:
        client = mqttws.aio.Client(server.url)
        opening = asyncio.create_task(client.open())
        end = await asyncio.to_thread(server.accept)
        await asyncio.to_thread(end.welcome)
        await opening

        async def work() -> None:
            try:
                await asyncio.sleep(PATIENCE)
            except asyncio.CancelledError:  # cleans up before it ends
                with pytest.raises(mqttws.TimedOut):
                    await client.publish("a", b"x", 1, timeout=0.01)
                raise

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await client.close(timeout=0)

    with Scripted("mqtt") as server:
        asyncio.run(run(server))


@pytest.mark.parametrize("enters", [False, True], ids=["open", "async with"])
def test_a_client_can_be_opened_again_directly_after_a_cancelled_close(enters: bool) -> None:
    async def run(broker: Broker) -> None:
        client = await mqttws.aio.connect(broker.url)
        await client.subscribe("a", 1)

        async def close() -> None:
            async with asyncio.timeout(PATIENCE) as limit:
                limit.reschedule(asyncio.get_running_loop().time() - 1)  # at the first await
                await client.close()

        with suppress(TimeoutError):
            await close()
        if enters:
            await client.__aenter__()
        else:
            await client.open()
        await client.publish("a", b"x", 1)
        assert client.state.name == "connected"
        await client.close()

    with Broker() as broker:
        asyncio.run(run(broker))


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has introduced asyncio.eager_task_factory")
def test_callbacks_with_eager_tasks() -> None:
    async def run(broker: Broker) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        done, states, routed = asyncio.Event(), list[str](), list[bytes]()

        async def on_message(message: Publish) -> None:
            if message.payload == b"2":
                done.set()

        async def on_state(state: State) -> None:
            states.append(state.name)

        async def on_route(message: Publish) -> None:
            routed.append(message.payload)

        async with asyncio.timeout(PATIENCE):
            client = mqttws.aio.Client(broker.url, on_message=on_message, on_state=on_state)
            client.on("b", on_route)
            async with client:
                await client.subscribe(["a", "b"], 1)
                for number in range(3):
                    await client.publish("b", str(number), 1)
                    await client.publish("a", str(number), 1)
                await done.wait()
        assert routed == [b"0", b"1", b"2"]
        assert states == ["connecting", "connected", "disconnected"]

    with Broker() as broker:
        asyncio.run(run(broker))


def test_a_call_in_another_thread_is_refused() -> None:
    async def run(broker: Broker) -> None:
        async with mqttws.aio.connect(broker.url) as client:
            for call in (lambda: client.publish_nowait("a", b"x", 1), lambda: client.subscribe_nowait("a")):
                with pytest.raises(MQTTError, match="run_coroutine_threadsafe"):
                    await asyncio.to_thread(call)
            assert client.pending == 0
            await client.publish("a", b"y", 1)

    with Broker() as broker:
        asyncio.run(run(broker))


@pytest.mark.parametrize("awaits", [True, False], ids=["awaits", "returns"])
def test_a_callable_for_the_url_that_is_cancelled_costs_an_attempt(awaits: bool) -> None:
    async def run(broker: Broker) -> None:
        loop, asked, failing = asyncio.get_running_loop(), list[int](), {1, 3, 4}
        again, errors = asyncio.Event(), list[object]()

        def url() -> object:
            asked.append(1)
            answer = loop.create_future()
            if len(asked) in failing:
                answer.cancel()  # as a task that fetches a token is, if its owner cancels it
            else:
                answer.set_result(broker.url)
            return answer if awaits else answer.result()

        def on_state(state: State) -> None:
            errors.append(state.error)
            if state.name == "connected" and len(asked) == 5:
                again.set()

        soon = mqttws.Reconnect(initial=0.01, maximum=0.01)
        client = mqttws.aio.Client(url, reconnect=soon, on_state=on_state)  # type: ignore[arg-type]
        async with asyncio.timeout(PATIENCE):
            with pytest.raises(ConnectError, match="cancelled"):
                await client.open()
            async with client:
                client.reconnect_now()
                await again.wait()
                await client.publish("a", b"x", 1)
        assert sum(isinstance(error, ConnectError) for error in errors) == 3

    with Broker() as broker:
        asyncio.run(run(broker))


@pytest.mark.parametrize("option", ["recover", "end_on"])
def test_a_function_of_an_error_that_is_cancelled_counts_as_false(
    option: str, caplog: pytest.LogCaptureFixture
) -> None:
    def function(error: Exception) -> bool:
        answer = asyncio.get_running_loop().create_future()
        answer.cancel()
        return bool(answer.result())

    async def run(broker: Broker) -> None:
        again, urls = asyncio.Event(), [broker.url]

        def url() -> str:
            return urls.pop() if urls else "mqtt://127.0.0.1:1/"  # nothing listens there

        def on_state(state: State) -> None:
            if state.name == "disrupted" and isinstance(state.error, ConnectError):
                urls.append(broker.url)
            if state.name == "connected" and len(done) == 1:
                again.set()
            if state.name == "connected":
                done.append(1)

        done: list[int] = []
        soon = mqttws.Reconnect(initial=0.01, maximum=0.01)
        options: Any = {option: function}
        async with asyncio.timeout(PATIENCE):
            async with mqttws.aio.connect(url, reconnect=soon, on_state=on_state, **options) as client:
                client.reconnect_now()
                await again.wait()
                await client.publish("a", b"x", 1)

    with Broker() as broker:
        asyncio.run(run(broker))
    assert "a callback raised an exception" in caplog.text


def test_messages_are_queued_after_an_open_that_was_cancelled_twice() -> None:
    async def run(server: Scripted, broker: Broker) -> None:
        urls = [server.url]
        client = mqttws.aio.Client(lambda: urls[0], clean_session=False, client_id="c")
        opening = asyncio.create_task(client.open())
        await asyncio.to_thread(server.accept)  # never answers CONNECT
        opening.cancel()
        await asyncio.sleep(0)
        opening.cancel()  # as a cancelled scope of anyio does at each await
        with pytest.raises(asyncio.CancelledError):
            await opening
        urls[0] = broker.url
        await asyncio.sleep(0.0)
        queued = client.publish_nowait("a", b"x", 1)
        async with asyncio.timeout(PATIENCE), client:
            await queued

    with Scripted("mqtt") as server, Broker() as broker:
        asyncio.run(run(server, broker))
