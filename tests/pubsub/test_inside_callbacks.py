"""Methods called in callbacks: publishing, subscribing, ending subscriptions, closing."""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Recorder

import pubsub
import pubsub.aio
from mqttws import MQTTError, WouldDeadlock
from pubsub import Message, PubSub


@pytest.fixture
def ps(stack: Any, world: Any) -> PubSub:
    return stack.enter_context(PubSub(world.provider()))


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_publishing_inside_a_callback_waits_for_the_server(ps: PubSub, recorder: Recorder, qos: int) -> None:
    ps.subscribe("answer", qos=2).subscribe(recorder).ready(PATIENCE)
    ps.subscribe("question", qos=2).subscribe(lambda m: ps.publish("answer", m.value + 1, qos=qos)).ready(PATIENCE)
    for number in range(20):
        ps.publish("question", number, qos=qos)
    recorder.wait_for_values(*range(1, 21))


def test_subscribing_inside_a_callback_and_waiting_for_the_answer(ps: PubSub, world: Any) -> None:
    inner, granted = Recorder(), []

    def subscribe(message: Message) -> None:
        granted.append(ps.subscribe("inner", qos=1).subscribe(inner).ready(PATIENCE))
        ps.publish("inner", "hello", qos=1)

    ps.subscribe("outer").subscribe(subscribe).ready(PATIENCE)
    ps.publish("outer", 1)
    inner.wait_for_values("hello")
    assert granted == [{"inner": 1}]


def test_ending_a_subscription_inside_its_own_callback(ps: PubSub, world: Any) -> None:
    recorder = Recorder()

    def once(message: Message) -> None:
        recorder.next(message)
        subscription.unsubscribe(PATIENCE)

    subscription = ps.subscribe("a").subscribe(once, recorder.error, recorder.close)
    subscription.ready(PATIENCE)
    for number in range(3):
        ps.publish("a", number, qos=1)
    recorder.wait(lambda: recorder.closes)
    ps.publish("a", 3, qos=1)
    assert recorder.values == [0]
    assert recorder.closes == 1
    assert recorder.errors == []
    assert world.broker.metrics()["subscriptions/count"] == 0


def test_closing_inside_a_callback(ps: PubSub, recorder: Recorder) -> None:
    ps.subscribe("a").subscribe(lambda message: ps.close(), recorder.error, recorder.close).ready(PATIENCE)
    ps.publish("a", 1)
    recorder.wait(lambda: recorder.closes)
    ps.close()
    assert ps.connection_state == "Disconnected"


def test_everything_inside_the_callbacks_of_errors_and_states(ps: PubSub, world: Any) -> None:
    world.forbidden.add("secret")
    reports = Recorder()
    ps.subscribe("reports", qos=1).subscribe(reports).ready(PATIENCE)
    done = threading.Event()

    def on_state(change: Any) -> None:
        if change.state == "Connected":
            ps.publish("reports", "connected again", qos=1)
            done.set()

    ps.connection_state_changes.subscribe(on_state)
    ps.subscribe("secret").subscribe(error=lambda error: ps.publish("reports", "refused", qos=1))
    reports.wait_for_values("refused")
    ps.reauthenticate()
    assert done.wait(PATIENCE)
    reports.wait_for_values("refused", "connected again")


def test_iterating_in_a_callback_is_refused(ps: PubSub) -> None:
    raised: list[BaseException] = []
    over = threading.Event()

    def iterate(message: Message) -> None:
        try:
            next(iter(ps.subscribe("b")))
        except WouldDeadlock as error:
            raised.append(error)
        over.set()

    ps.subscribe("a").subscribe(iterate).ready(PATIENCE)
    ps.publish("a", 1)
    assert over.wait(PATIENCE)
    assert len(raised) == 1


def test_an_awaitable_of_a_callback_is_closed_and_reported(
    ps: PubSub, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """A lambda hides the coroutine function, so it is not refused; a coroutine that is only dropped is a warning."""

    async def handle(*arguments: object) -> None: ...

    made: list[Any] = []
    closed = threading.Event()

    def hidden(*arguments: object) -> Any:
        made.append(handle(*arguments))
        return made[-1]

    def hidden_at_the_end() -> Any:
        closed.set()
        return hidden()

    subscription = ps.subscribe("a").subscribe(next=hidden, close=hidden_at_the_end)
    subscription.ready(PATIENCE)
    ps.subscribe("a").subscribe(recorder).ready(PATIENCE)
    ps.publish("a", 1, qos=1)
    recorder.wait_for_values(1)
    subscription.unsubscribe(PATIENCE)
    assert closed.wait(PATIENCE)
    ps.close()
    assert [inspect.getcoroutinestate(each) for each in made] == [inspect.CORO_CLOSED] * 2
    assert caplog.text.count("the callback returned a coroutine, which only pubsub.aio awaits") == 2


class Remote:
    """A proxy: any attribute is a method of a remote object."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.called.append(name)


def test_a_proxy_as_the_result_of_a_callback_is_not_called(
    ps: PubSub, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    remote = Remote()
    ps.subscribe("a").subscribe(next=lambda message: remote).ready(PATIENCE)
    ps.subscribe("a").subscribe(recorder).ready(PATIENCE)
    ps.publish("a", 1, qos=1)
    recorder.wait_for_values(1)
    ps.close()
    assert remote.called == []
    assert caplog.text == ""


def test_a_slow_callback_does_not_block_the_network(ps: PubSub) -> None:
    """While a callback blocks, another thread publishes at QoS 2, which needs the network in both directions."""
    entered, release = threading.Event(), threading.Event()

    def hold(message: Message) -> None:
        entered.set()
        release.wait(PATIENCE)

    ps.subscribe("a").subscribe(hold).ready(PATIENCE)
    ps.publish("a", 1)
    assert entered.wait(PATIENCE)
    ps.publish("b", 2, qos=2, timeout=PATIENCE)
    release.set()


def test_a_pubsub_is_usable_after_close_while_a_callback_is_still_running(ps: PubSub, world: Any) -> None:
    entered, release, outcomes = threading.Event(), threading.Event(), Recorder()

    def hold(message: Message) -> None:
        entered.set()
        release.wait(PATIENCE)
        try:
            ps.publish("late", 1, qos=1, timeout=PATIENCE)
        except MQTTError as error:
            outcomes.error(error)

    handle = ps.subscribe("a", qos=1).subscribe(hold)
    handle.ready(PATIENCE)
    ps.publish("a", 1, qos=1)
    assert entered.wait(PATIENCE)
    ps.close(timeout=0.1)
    assert handle.closed
    assert ps.connection_state == "Disconnected"
    ps.publish("b", 2, qos=1, timeout=PATIENCE)
    assert world.published == ["a", "b"]
    ps.close()
    release.set()
    outcomes.wait(lambda: outcomes.errors)  # the callback of a closed connection makes no new one
    assert world.connections == 2
    assert not ps._aside or ps._aside.pop().runner.join(PATIENCE) is None


def test_a_subscription_in_close_connects_again(ps: PubSub, world: Any) -> None:
    again = Recorder()

    def on_close() -> None:
        if not subscriptions:
            subscriptions.append(ps.subscribe("b").subscribe(again))

    subscriptions: list[Any] = []
    subscription = ps.subscribe("a").subscribe(close=on_close)
    subscription.ready(PATIENCE)
    subscription.unsubscribe(PATIENCE)
    subscriptions[0].ready(PATIENCE)
    ps.publish("b", 1)
    again.wait_for_values(1)


# asyncio: the same with coroutine functions.


def run(main: Callable[[pubsub.aio.PubSub], Any], world: Any) -> None:
    async def body() -> None:
        async with asyncio.timeout(PATIENCE), pubsub.aio.PubSub(world.provider()) as ps:
            await main(ps)

    asyncio.run(body(), debug=True)


def test_coroutine_functions_are_awaited_in_order(world: Any) -> None:
    async def main(ps: pubsub.aio.PubSub) -> None:
        seen: list[str] = []
        over = asyncio.Event()

        async def callback(message: Message) -> None:
            seen.append(f"begin {message.value}")
            await ps.publish("echo", message.value, qos=2)
            seen.append(f"end {message.value}")
            if message.value == 2:
                over.set()

        await ps.subscribe("a", qos=1).subscribe(callback).ready()
        for number in range(3):
            ps.publish_nowait("a", number, qos=1)
        await over.wait()
        assert seen == ["begin 0", "end 0", "begin 1", "end 1", "begin 2", "end 2"]
        assert world.published.count("echo") == 3

    run(main, world)


def test_a_cancelled_future_in_a_callback_stops_nothing(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    async def main(ps: pubsub.aio.PubSub) -> None:
        seen: list[Any] = []
        over = asyncio.Event()
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()

        def callback(message: Message) -> None:
            seen.append(message.value)
            if message.value == 0:
                cancelled.result()
            over.set()

        await ps.subscribe("a", qos=1).subscribe(callback).ready()
        for number in range(2):
            await ps.publish("a", number, qos=1)
        await over.wait()
        assert seen == [0, 1]
        assert ps.connection_state == "Connected"

    run(main, world)
    assert "a callback raised an exception" in caplog.text


def test_every_callback_may_be_a_coroutine_function(world: Any, caplog: pytest.LogCaptureFixture) -> None:
    world.forbidden.add("secret")

    async def main(ps: pubsub.aio.PubSub) -> None:
        reports: asyncio.Queue[str] = asyncio.Queue()

        async def on_error(error: Exception) -> None:
            await reports.put(type(error).__name__)
            raise RuntimeError("of the user")

        async def on_close() -> None:
            await ps.publish("b", 1, qos=1)
            await reports.put("closed")

        async def on_state(change: pubsub.ConnectionStateChange) -> None:
            await reports.put(change.state)

        ps.connection_state_changes.subscribe(on_state)
        ps.subscribe("secret").subscribe(None, on_error, on_close)
        assert [await reports.get() for _ in range(4)] == ["Connecting", "Connected", "SubscribeRejected", "closed"]

    run(main, world)
    assert "of the user" in caplog.text


def test_a_coroutine_function_is_awaited_before_the_next_change_of_state(world: Any) -> None:
    async def main(ps: pubsub.aio.PubSub) -> None:
        calls, go_on, closed = list[str](), asyncio.Event(), asyncio.Event()

        async def changed(change: pubsub.ConnectionStateChange) -> None:
            calls.append(f"begin {change.state}")
            await go_on.wait()
            calls.append(f"end {change.state}")
            if change.state == "Connected":
                watch.unsubscribe()
                calls.append("unsubscribed")

        async def close() -> None:
            calls.append("close")
            closed.set()

        watch = ps.connection_state_changes.subscribe(changed, close=close)
        await ps.connect()
        ps.reauthenticate()  # the changes after "Connected" are waiting when the observation ends
        await ps.publish("a", 1, qos=1)
        assert calls == ["begin Connecting"]
        go_on.set()
        await closed.wait()
        states = ["Connecting", "Connected"]
        assert calls == [f"{step} {state}" for state in states for step in ("begin", "end")] + ["unsubscribed", "close"]

    run(main, world)


def test_changes_of_state_that_wait_for_a_coroutine_function_are_bounded(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pubsub.aio.calls.MAX_CALLS", 3)

    async def main(ps: pubsub.aio.PubSub) -> None:
        states, go_on = list[str](), asyncio.Event()

        async def changed(change: pubsub.ConnectionStateChange) -> None:
            states.append(change.state)
            await go_on.wait()

        ps.connection_state_changes.subscribe(changed)
        for _ in range(2):
            await ps.connect()
            await ps.close(timeout=0)
        assert states == ["Connecting"]
        assert len(ps._runtime.spawned) == 1
        go_on.set()
        await ps.close()  # waits for the callbacks
        assert states == ["Connecting", "Connected", "ConnectedPendingDisconnect", "Disconnected"]

    run(main, world)
    assert "a callback does not return; the oldest call that waits for it was dropped" in caplog.text


def test_an_observer_of_states_is_called_in_the_event_loop_after_one_that_has_ended(world: Any) -> None:
    ps, states, entered = pubsub.aio.PubSub(world.provider()), list[str](), asyncio.Event()

    async def changed(change: pubsub.ConnectionStateChange) -> None:
        states.append(change.state)
        entered.set()
        if len(states) == 1:
            await asyncio.Event().wait()

    async def first() -> None:
        await ps.connect(timeout=PATIENCE)
        async with asyncio.timeout(PATIENCE):
            await entered.wait()
        await ps.close(timeout=0)

    async def second() -> None:
        await ps.connect(timeout=PATIENCE)
        await ps.close(PATIENCE)

    ps.connection_state_changes.subscribe(changed)
    asyncio.run(first())
    asyncio.run(second())
    assert states[1:] == ["Connecting", "Connected", "ConnectedPendingDisconnect", "Disconnected"]


def test_subscribing_ending_and_closing_inside_coroutines(world: Any) -> None:
    async def main(ps: pubsub.aio.PubSub) -> None:
        over = asyncio.Event()

        async def inner(message: Message) -> None:
            await ps.close()
            over.set()

        async def outer(message: Message) -> None:
            assert await ps.subscribe("inner", qos=1).subscribe(inner).ready() == {"inner": 1}
            await subscription.unsubscribe()
            await ps.publish("inner", 1)

        subscription = ps.subscribe("outer").subscribe(outer)
        await subscription.ready()
        await ps.publish("outer", 1)
        await over.wait()
        assert ps.connection_state == "Disconnected"

    run(main, world)


def test_a_cancelled_publish_does_not_break_the_connection(world: Any) -> None:
    async def main(ps: pubsub.aio.PubSub) -> None:
        recorder = Recorder()
        await ps.subscribe("a", qos=2).subscribe(recorder).ready()
        for _ in range(20):
            task = asyncio.ensure_future(ps.publish("a", 0, qos=2))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        await ps.publish("a", 1, qos=2)
        async with asyncio.timeout(PATIENCE):
            while 1 not in recorder.values:
                await asyncio.sleep(0.001)

    run(main, world)


# Event loops.


@pytest.mark.parametrize("closes", [True, False])
def test_a_pubsub_can_be_used_in_several_event_loops_in_turn(world: Any, closes: bool) -> None:
    ps = pubsub.aio.PubSub(world.provider())
    closed: list[int] = []

    async def use(number: int) -> Any:
        recorder = Recorder()
        subscription = ps.subscribe("a", qos=1).subscribe(recorder.next, close=lambda: closed.append(number))
        assert await subscription.ready(PATIENCE) == {"a": 1}
        await ps.publish("a", number, qos=1)
        await ps.publish(["a", "b"], number, qos=1)
        async with asyncio.timeout(PATIENCE):
            while recorder.values != [number, number]:
                await asyncio.sleep(0.001)
        if closes:
            await ps.close()
        return subscription

    for number in range(3):
        subscription = asyncio.run(use(number))
        assert subscription.closed
        assert ps.connection_state == "Disconnected"
    assert closed == [0, 1, 2]


def test_using_a_pubsub_in_two_event_loops_raises(world: Any) -> None:
    async def main() -> None:
        async with pubsub.aio.PubSub(world.provider()) as ps:
            await ps.publish("a", 1, qos=1)

            def elsewhere() -> None:
                with pytest.raises(MQTTError, match="another event loop"):
                    asyncio.run(ps.publish("a", 1))
                with pytest.raises(MQTTError, match="another event loop"):
                    asyncio.run(ps.publish(["a", "b"], 1))

                async def subscribe() -> None:
                    ps.subscribe("a").subscribe(print)

                with pytest.raises(MQTTError, match="another event loop"):
                    asyncio.run(subscribe())

            await asyncio.to_thread(elsewhere)
            await ps.publish("a", 1, qos=1)

    asyncio.run(main())


@pytest.mark.parametrize(
    "call", ["add", "remove", "unsubscribe", "unsubscribe_iteration", "aclose", "close", "remove_pluggable"]
)
def test_ending_something_in_another_event_loop_raises_and_changes_nothing(world: Any, call: str) -> None:
    async def main() -> None:
        recorder = Recorder()
        async with asyncio.timeout(PATIENCE), pubsub.aio.PubSub(world.provider()) as ps:
            subscription = ps.subscribe(["a", "b"], qos=1).subscribe(recorder)
            messages = aiter(ps.subscribe("a", qos=1))
            await subscription.ready()
            await messages.ready()
            await ps.publish("a", 1, qos=1)
            assert (await anext(messages)).value == 1
            await ps.publish("a", 2, qos=1)
            calls: dict[str, Callable[[], Any]] = {
                "add": lambda: subscription.add("c"),
                "remove": lambda: subscription.remove("a"),
                "unsubscribe": subscription.unsubscribe,
                "unsubscribe_iteration": messages.unsubscribe,
                "aclose": messages.aclose,
                "close": ps.close,
                "remove_pluggable": lambda: ps.remove_pluggable(ps.providers[0]),
            }

            async def elsewhere() -> None:
                result = calls[call]()
                if result is not None:
                    await result

            with pytest.raises(MQTTError, match="in use in another event loop"):
                await asyncio.to_thread(asyncio.run, elsewhere())
            assert subscription.topics == ("a", "b")
            assert not subscription.closed
            assert not messages.closed
            assert recorder.closes == 0
            assert len(ps.providers) == 1
            assert ps.connection_state == "Connected"
            await ps.publish("a", 3, qos=1)
            assert [(await anext(messages)).value for _ in range(2)] == [2, 3]
            while recorder.values != [1, 2, 3]:
                await asyncio.sleep(0.001)
            assert await subscription.ready() == {"a": 1, "b": 1}
            await messages.unsubscribe()
            await subscription.unsubscribe()
            assert recorder.closes == 1

    asyncio.run(main())


@pytest.mark.parametrize("how", ["late", "cancelled"])
def test_a_pubsub_is_usable_directly_after_a_close_that_has_not_finished(world: Any, how: str) -> None:
    async def main() -> None:
        entered = asyncio.Event()

        async def hold(message: Message) -> None:
            entered.set()
            try:
                await asyncio.sleep(PATIENCE)
            finally:
                await asyncio.sleep(0.01)  # cleans up when it is cancelled

        async with asyncio.timeout(PATIENCE):
            ps = pubsub.aio.PubSub(world.provider())
            await ps.subscribe("a", qos=1).subscribe(hold).ready()
            await ps.publish("a", 1, qos=1)
            await entered.wait()
            if how == "late":
                await ps.close(timeout=0.01)
            else:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.01):
                        await ps.close()
            await ps.publish("b", 2, qos=1)
            await ps.close()
            while len(asyncio.all_tasks()) > 1:  # the callback that was cancelled ends, and so does its connection
                await asyncio.sleep(0.001)
        assert world.published == ["a", "b"]
        assert not ps._aside

    asyncio.run(main())


def test_a_pubsub_is_usable_after_a_close_that_was_cancelled_at_any_step(world: Any) -> None:
    async def main() -> None:
        ps = pubsub.aio.PubSub(world.provider())
        for steps in range(12):
            await ps.subscribe("a", qos=1).subscribe(lambda message: None).ready(PATIENCE)
            closing = asyncio.ensure_future(ps.close())
            for _ in range(steps):
                await asyncio.sleep(0)
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
            await ps.publish("a", 1, qos=1, timeout=PATIENCE)
        await ps.close()
        async with asyncio.timeout(PATIENCE):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.001)

    asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python 3.12 has introduced asyncio.eager_task_factory")
def test_subscribing_in_a_callback_of_a_state_with_eager_tasks(world: Any) -> None:
    async def main() -> list[int]:
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        got, done = list[int](), asyncio.Event()

        async def take(message: Message) -> None:
            got.append(message.value)
            if len(got) == 3:
                done.set()

        def changed(change: pubsub.ConnectionStateChange) -> None:
            if change.state == "Connecting":
                ps.subscribe("a", qos=1).subscribe(take)

        async with asyncio.timeout(PATIENCE), pubsub.aio.PubSub(world.provider()) as ps:
            ps.connection_state_changes.subscribe(changed)
            await ps.connect()
            for number in range(3):
                await ps.publish("a", number, qos=1)
            await done.wait()
        return got

    assert asyncio.run(main()) == [0, 1, 2]


@pytest.mark.parametrize("call", ["publish", "connect", "flush", "ready"])
def test_a_log_handler_that_waits_in_the_thread_that_connects_is_refused_immediately(
    ps: PubSub, request: pytest.FixtureRequest, call: str
) -> None:
    """The client could not connect before the handler has returned."""
    calls: dict[str, Callable[[], object]] = {
        "publish": lambda: ps.publish("a", 1, timeout=10 * PATIENCE),
        "connect": lambda: ps.connect(timeout=10 * PATIENCE),
        "flush": lambda: ps.flush(10 * PATIENCE),
        "ready": lambda: ps.subscribe("a").subscribe(lambda message: None).ready(10 * PATIENCE),
    }
    raised: list[BaseException] = []

    def emit(record: logging.LogRecord) -> None:
        if record.getMessage().endswith(": connecting") and not raised:
            try:
                calls[call]()
            except MQTTError as error:
                raised.append(error)

    logger, handler = logging.getLogger("mqttws"), logging.Handler()
    handler.emit = emit  # type: ignore[method-assign]
    handler.addFilter(lambda record: record.name == "mqttws")  # without the broker's records
    logger.addHandler(handler)
    request.addfinalizer(lambda: logger.removeHandler(handler))
    request.addfinalizer(lambda: logger.setLevel(logging.NOTSET))
    logger.setLevel(logging.DEBUG)
    ps.connect(timeout=PATIENCE)  # it would time out
    (error,) = raised
    if isinstance(error, pubsub.PublishFailed):
        (error,) = error.errors.values()
    assert isinstance(error, WouldDeadlock)
    assert "log handler" in str(error)
