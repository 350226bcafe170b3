"""Posted calls and queued callbacks that an exception of a signal handler interrupts, wherever CPython may raise it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from interrupts import interrupt

import mqttws
import mqttws.aio
from mqttws import ConnectionClosed, MQTTError, Publish, compiled
from mqttws.broker import Broker


def queued(client: Any, topic: str) -> int:
    """Return how many messages with a topic wait to be sent."""
    return sum(entry[1] == topic for entry in client._core.session.sender.queue if isinstance(entry, tuple))


def inside(client: Any, call: Callable[[], Any]) -> Any:
    """Call a function as a signal handler does that interrupts another call of the client."""
    outcome: list[Any] = []
    client._network.call(lambda: outcome.append(call()))
    return outcome[0]


def in_steps(kind: Any, attempt: Callable[[Any, int], bool]) -> None:
    """Make an attempt with a new client for each step, until there are no more steps."""

    async def run() -> None:
        step = 0
        while attempt(kind("mqtt://127.0.0.1:1", max_queued=3, overflow="raise"), step):
            step += 1
        assert step > 3 or compiled  # no signal handler runs in the middle of compiled code

    asyncio.run(run())


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_an_interrupt_loses_no_posted_call(kind: Any) -> None:
    """An acknowledgement that is lost would delay all later ones; a message given back would be lost."""
    message = Publish("a", b"", 1, packet_id=1)

    def attempt(client: Any, step: int) -> bool:
        calls: list[int] = []
        network, inbox = client._network, client._core.inbox
        for number in range(3):
            network.post(calls.append, number)
        network.post(network.give_back, [message, message], 0)
        was_interrupted = interrupt(step, lambda: network.call(calls.append, 3))
        network.call(calls.append, 4)
        assert [each for each in dict.fromkeys(calls) if each != 3] == [0, 1, 2, 4]
        assert list(inbox.messages) == [message, message]
        return was_interrupted

    in_steps(kind, attempt)


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_an_interrupted_posted_publish_has_an_outcome_and_is_not_repeated(kind: Any) -> None:
    fates = set()

    def attempt(client: Any, step: int) -> bool:
        topic, other = f"posted/{step}", f"other/{step}"  # of which none is cached: their check can be interrupted
        future = inside(client, lambda: client.publish_nowait(topic, b"1", 1))
        was_interrupted = interrupt(step, lambda: client.publish_nowait(other, b"2", 1))
        client._network.call(lambda: None)
        client._core.callbacks.run()
        fates.add((future.done(), queued(client, topic)))
        if future.done():
            assert type(future.exception()) is MQTTError
            assert "interrupted" in str(future.exception())
        else:
            assert queued(client, topic) == 1
        assert queued(client, topic) <= 1
        return was_interrupted

    in_steps(kind, attempt)
    assert compiled or {(False, 1), (True, 0), (True, 1)} <= fates


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_an_interrupt_leaves_no_future_without_its_outcome(kind: Any) -> None:
    def attempt(client: Any, step: int) -> bool:
        future = client.publish_nowait("a", b"1", 1)
        core = client._core
        core.pending.fail_all(MQTTError("over"))
        was_interrupted = interrupt(step, core.callbacks.run)
        core.callbacks.run()
        assert future.done()
        assert str(future.exception()) == "over"
        return was_interrupted

    in_steps(kind, attempt)


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_an_interrupted_end_can_be_repeated_and_leaves_no_future_without_its_outcome(kind: Any) -> None:
    def attempt(client: Any, step: int) -> bool:
        network, core, called = client._network, client._core, list[Any]()
        futures = [client.publish_nowait("a", b"1", qos) for qos in (0, 1, 2)]
        futures += [client.subscribe_nowait("a"), network.request(core.pending.flush)]
        futures[0].add_done_callback(called.append)
        was_interrupted = interrupt(step, lambda: network.call(core.give_up, None))
        network.call(core.give_up, None)
        core.callbacks.run()
        assert all(future.done() for future in futures)
        assert [type(future.exception()) for future in futures] == [ConnectionClosed] * 5
        assert kind is mqttws.aio.Client or called == futures[:1]  # a callback of asyncio is called in its next turn
        assert core.state.name == "disconnected"
        assert not core.session.has_incomplete(core.session.sender.next_token())
        return was_interrupted

    in_steps(kind, attempt)


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_a_posted_call_that_fails_is_made_once(kind: Any) -> None:
    calls: list[str] = []

    def fail() -> None:
        calls.append("fail")
        raise ZeroDivisionError

    async def run() -> None:
        client = kind("mqtt://127.0.0.1:1")
        client._network.post(fail)
        client._network.post(calls.append, "next")
        with pytest.raises(ZeroDivisionError):
            client._network.call(calls.append, "last")
        client._network.call(calls.append, "last")
        assert calls == ["fail", "next", "last"]

    asyncio.run(run())


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
@pytest.mark.parametrize("after", [0, 2, 9])
def test_an_interrupt_gives_no_message_back_twice(kind: Any, after: int) -> None:
    waiting, returned = [Publish("a"), Publish("b"), Publish("c")], [Publish("x"), Publish("y"), Publish("z")]

    def attempt(client: Any, step: int) -> bool:
        client._core.inbox.messages.extend(waiting)
        inside(client, lambda: client.give_back(returned, after))
        was_interrupted = interrupt(step, lambda: client._network.call(len, ()))
        client._network.call(len, ())
        assert list(client._core.inbox.messages) == [*waiting[:after], *returned, *waiting[after:]]
        return was_interrupted

    in_steps(kind, attempt)
    assert [message.topic for message in returned] == ["x", "y", "z"]


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("is_deleted", [False, True])
def test_an_interrupt_of_an_iteration_loses_no_message(is_late: bool, is_deleted: bool) -> None:
    """The messages are there when the iteration asks for them, or come when it begins to wait."""
    messages = [Publish("a"), Publish("b", b"", 1, packet_id=1), Publish("c")]

    def attempt(client: Any, step: int) -> bool:
        network, core = client._network, client._core
        core.running, core.reading = True, False
        watch = network.watch_messages

        def fill() -> Any:
            core.inbox.messages.extend(messages)
            network.watch_messages = watch
            return watch()

        network.watch_messages = fill
        if not is_late:
            fill()
        iteration, got = client.messages(1.0), []

        def take() -> None:
            for _ in range(2):
                got.append(next(iteration))

        was_interrupted = interrupt(step, take)
        if is_deleted:
            del iteration
            network.call(len, ())
            iteration = client.messages(1.0)
        got += [next(iteration) for _ in messages[len(got) :]]
        assert got == messages
        assert not core.inbox.messages
        core.running = False
        return was_interrupted

    in_steps(mqttws.Client, attempt)


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_a_signal_handler_that_publishes_between_posted_calls_is_no_error(kind: Any) -> None:
    """It may run after the check whether a call is left, and before that call is read."""

    def attempt(client: Any, step: int) -> bool:
        calls: list[int] = []
        network, futures = client._network, []
        for number in range(2):
            network.post(calls.append, number)
        core = client._core
        core.callbacks.add(lambda *_: None, None, None)
        core.callbacks.add(lambda *_: None, None, None)

        def publish() -> None:
            futures.append(client.publish_nowait(f"handler/{step}", b"x", 1))

        def interrupted() -> None:
            network.call(calls.append, 2)
            core.callbacks.run()

        was_interrupted = interrupt(step, interrupted, publish)
        network.call(calls.append, 3)
        assert calls == [0, 1, 2, 3]
        assert not core.callbacks.due
        assert (queued(client, f"handler/{step}"), len(futures)) == (was_interrupted, was_interrupted)
        return was_interrupted

    in_steps(kind, attempt)


#: The methods of a core that change what a publish changes, too, or that iterate over it.
CHANGES = [
    *("begin", "begin_attempt", "make_attempt", "establish", "advance"),
    *("pass_time", "stop", "disconnect", "lost", "give_up"),
]


@pytest.mark.skipif(compiled, reason="compiled methods cannot be replaced")
@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_the_core_changes_only_while_a_signal_handler_would_post_its_call(kind: str) -> None:
    made = set()

    def watched(client: Any, name: str) -> Callable[..., Any]:
        method, network = getattr(client._core, name), client._network

        def check(*arguments: Any) -> Any:
            made.add(name)
            assert network.busy if kind == "asyncio" else network.owned(), name
            return method(*arguments)

        return check

    def watch(client: Any) -> None:
        for name in CHANGES:
            setattr(client._core, name, watched(client, name))

    policy = mqttws.Reconnect(initial=0.01, interval=0.0)

    async def main(url: str) -> None:
        client = mqttws.aio.Client(url, client_id="c", reconnect=policy)
        watch(client)
        async with client:
            await client.publish("a", b"x", 1)
            client.reconnect_now()
            await client.publish("a", b"x", 1)

    with Broker(sys_interval=None) as broker:
        if kind == "asyncio":
            asyncio.run(main(broker.url))
        else:
            client = mqttws.Client(broker.url, client_id="c", reconnect=policy)
            watch(client)
            with client:
                client.publish("a", b"x", 1)
                client.reconnect_now()
                client.publish("a", b"x", 1)
    assert made == set(CHANGES)
