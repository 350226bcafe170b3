"""Iteration over a subscription: it loses nothing and ends the subscription; for threads and asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads
from scripted import Scripted

from mqttws import SubAck, Subscribe, Unsubscribe, WouldDeadlock
from mqttws.broker import Broker, Limits
from pubsub import Message, Messages, MqttOverWSProvider, PubSub, SubscriptionEnded
from pubsub.aio import Messages as AsyncMessages
from pubsub.aio import PubSub as AsyncPubSub
from pubsub.aio.iteration import Inbox as AsyncInbox
from pubsub.places import PLACES, Waiting
from pubsub.receipt import Receipt
from pubsub.sync.iteration import Inbox

Api = Threads | Loop


def take(api: Api, messages: Any) -> Message:
    """Return the next message of an iteration."""
    if isinstance(api, Threads):
        return next(messages)

    async def take() -> Message:
        return await asyncio.wait_for(anext(messages), PATIENCE)

    taken: Message = api.call(take)
    return taken


def begin(api: Api, observable: Any) -> Any:
    """Start an iteration, as `for` does."""
    return api.call(lambda: [iter(observable) if isinstance(api, Threads) else aiter(observable)])[0]


def enter(api: Api, observable: Any) -> Any:
    """Enter a `with` block."""
    return api.call(observable.__enter__ if isinstance(api, Threads) else observable.__aenter__)


def leave(api: Api, observable: Any) -> None:
    """Leave a `with` block."""
    api.call(observable.__exit__ if isinstance(api, Threads) else observable.__aexit__, None, None, None)


@pytest.mark.parametrize("iterates", [True, False])
@pytest.mark.parametrize("kind", [PubSub, AsyncPubSub])
def test_an_exception_in_the_block_does_not_wait_for_the_server(kind: type[Any], iterates: bool) -> None:
    def block(ps: Any) -> Any:
        return ps.subscribe("a") if iterates else ps.subscribe("a").subscribe(id)

    def use() -> None:
        ps = PubSub(MqttOverWSProvider(server.url, client_id="c"))
        try:
            with block(ps) as messages:
                messages.ready()
                raise LookupError
        finally:
            ps.close(timeout=0.0)

    async def use_async() -> None:
        ps = AsyncPubSub(MqttOverWSProvider(server.url, client_id="c"))
        try:
            async with block(ps) as messages:
                await messages.ready()
                raise LookupError
        finally:
            await ps.close(timeout=0.0)

    with Scripted("mqtt") as server:
        using = server.soon(use if kind is PubSub else lambda: asyncio.run(use_async()))
        end = server.accept().welcome()
        subscribing = end.receive()
        assert isinstance(subscribing, Subscribe)
        end.send(SubAck(subscribing.packet_id, [0]))
        assert isinstance(end.receive(), Unsubscribe)
        with pytest.raises(LookupError):
            using.result(PATIENCE)


def test_messages_after_the_suback_wait_for_the_first_next(api: Api, world: Any) -> None:
    observable = api.ps.subscribe("a", qos=1)
    messages = enter(api, observable)
    assert isinstance(messages, (Messages, AsyncMessages))
    assert api.call(messages.ready, PATIENCE) == {"a": 1}
    for number in range(3):
        world.broker.publish("a", b"%d" % number, qos=1)
    api.call(api.ps.publish, "b", 0, qos=1)  # all three are in transit
    assert [take(api, messages).value for _ in range(3)] == [0, 1, 2]
    leave(api, observable)
    assert messages.closed
    assert world.broker.metrics()["subscriptions/count"] == 0
    with pytest.raises((StopIteration, StopAsyncIteration)):
        take(api, messages)
    with pytest.raises(SubscriptionEnded):
        api.call(messages.ready)


def test_iterating_subscribes_immediately(api: Api, world: Any) -> None:
    messages = begin(api, api.ps.subscribe("a"))
    assert api.call(messages.ready, PATIENCE) == {"a": 0}
    world.broker.publish("a", b"1")
    assert take(api, messages).value == 1
    assert messages.topics == ("a",)
    assert repr(messages) == "<Messages ['a'] open>"


def test_an_observable_is_entered_once_at_a_time(api: Api) -> None:
    observable = api.ps.subscribe("a")
    for _ in range(2):  # entering it again afterwards is allowed
        messages = enter(api, observable)
        with pytest.raises(RuntimeError, match="already entered"):
            enter(api, observable)
        leave(api, observable)
        assert messages.closed


def test_topics_are_added_to_an_iteration(api: Api, world: Any) -> None:
    messages = begin(api, api.ps.subscribe("a"))
    api.call(messages.add, "b", qos=1)
    assert api.call(messages.ready, PATIENCE) == {"a": 0, "b": 1}
    world.broker.publish("b", b"1", qos=1)
    assert take(api, messages).topic == "b"
    api.call(messages.remove, "b")
    assert messages.topics == ("a",)
    api.call(messages.unsubscribe, PATIENCE)


def test_a_cancelled_anext_takes_nothing_and_ends_nothing(world: Any) -> None:
    async def main() -> None:
        from pubsub.aio import PubSub

        async with PubSub(world.provider()) as ps, ps.subscribe("a", qos=1) as messages:
            await messages.ready(PATIENCE)
            for number in range(20):
                for patience in (0.0, 0.001):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(anext(messages), patience)
                waiting = asyncio.create_task(anext(messages))  # type: ignore[arg-type]
                await asyncio.sleep(0)
                world.broker.publish("a", b"%d" % number, qos=1)
                await ps.publish("b", 0, qos=1)  # the message has arrived, or will soon
                waiting.cancel()
                try:
                    value = (await waiting).value
                except asyncio.CancelledError:
                    value = (await asyncio.wait_for(anext(messages), PATIENCE)).value
                assert value == number
            assert not messages.closed

    asyncio.run(main())


def test_an_interrupted_next_takes_nothing(api: Api, world: Any) -> None:
    """`peek` keeps a message until the iteration continues, so an interrupted `next` loses none."""
    inbox = Inbox()
    released: list[int] = []
    for number in range(3):
        inbox.put(Message("a", number, b""), partial(released.append, number))
    for _ in range(2):
        waiting = inbox.peek(0)
        assert waiting is not None
        assert waiting.message.value == 0
    inbox.pop(waiting)
    inbox.pop(waiting)  # again, as after an interrupt before this was recorded: no other message is removed
    assert released == [0, 0]
    inbox.close()
    waiting = inbox.peek(None)
    assert waiting is not None
    assert waiting.message.value == 1
    inbox.discard()
    assert released == [0, 0, 1, 2]
    assert inbox.peek(None) is None
    inbox.put(Message("a", 3, b""), partial(released.append, 3))
    assert released == [0, 0, 1, 2, 3]


def test_a_receipt_is_acknowledged_by_the_last_and_may_be_released_twice() -> None:
    acknowledged: list[int] = []
    receipt = Receipt(lambda: acknowledged.append(1))
    first, second = receipt.hold(), receipt.hold()
    receipt.release()
    first()
    first()
    assert acknowledged == []
    second()
    assert acknowledged == [1]


def test_discarding_the_inbox_wakes_a_waiting_thread() -> None:
    inbox = Inbox()
    for number in range(PLACES):
        inbox.put(Message("a", number, b""), None)
    threads = [threading.Thread(target=inbox.put, args=(Message("a", -1, b""), None)) for _ in range(3)]
    for thread in threads:
        thread.start()
    inbox.discard()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert inbox.is_empty


def test_the_inbox_is_bounded_in_bytes() -> None:
    assert Waiting(Message("a", 0, bytes(16_383)), None).places == 1
    assert Waiting(Message("a", 0, bytes(16_384)), None).places == 2
    assert Waiting(Message("a", 0, bytes(64_000_000)), None).places == PLACES
    inbox = Inbox()
    big = Message("a", 0, bytes(1_000_000))  # counts as 62 of the 100 places
    inbox.put(big, None)
    put = [threading.Thread(target=inbox.put, args=(big, None)) for _ in range(2)]
    for thread in put:
        thread.start()
    for _ in range(3):
        waiting = inbox.peek(PATIENCE)
        assert waiting is not None
        assert inbox._messages.qsize() <= 1
        inbox.pop(waiting)
    for thread in put:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert inbox._places.qsize() == PLACES


def test_a_coroutine_waits_for_space_in_bytes() -> None:
    async def main() -> None:
        inbox = AsyncInbox()
        big = Message("a", 0, bytes(1_000_000))
        await inbox.put(big, None)
        putting = asyncio.ensure_future(inbox.put(big, None))
        await asyncio.sleep(0)
        assert not putting.done()
        waiting = await inbox.peek(0)
        assert waiting is not None
        inbox.pop(waiting)
        await putting
        inbox.discard()

    asyncio.run(main())


def test_an_iteration_left_by_break_acknowledges_and_unsubscribes_before_the_next_call(
    make: Callable[..., Api], stack: Any
) -> None:
    """The broker sends one unacknowledged message at a time, so the second arrives after the first is acknowledged."""
    broker = stack.enter_context(Broker(limits=Limits(max_in_flight=1)))
    api = make(MqttOverWSProvider(broker.url))
    recorder = Recorder()
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, recorder)
    api.call(subscription.ready, PATIENCE)
    broker.publish("begin", b"now", retain=True)

    def begun() -> None:
        broker.publish("a", b"1", qos=1)
        broker.publish("a", b"2", qos=1)

    assert [message.value for message in api.iterate(["a", "begin"], 1, begun, qos=1)] == [1]
    recorder.wait_for_values(1, 2)
    api.call(api.ps.publish, "after", 1, qos=1)
    assert broker.metrics()["subscriptions/count"] == 1


def test_a_waiting_iteration_ends_with_its_subscription(world: Any) -> None:
    with PubSub(world.provider()) as ps:
        for end in ("unsubscribe", "close"):
            messages: Any = iter(ps.subscribe("a", qos=1))
            messages.ready(PATIENCE)
            taken: list[Any] = []
            thread = threading.Thread(target=lambda messages=messages, taken=taken: taken.extend(messages))
            thread.start()
            (messages.unsubscribe if end == "unsubscribe" else ps.close)()
            thread.join(PATIENCE)
            assert not thread.is_alive()
            assert taken == []
            assert messages.closed


def test_a_finaliser_takes_no_lock(world: Any) -> None:
    """The garbage collector may run anywhere, even while this thread holds the lock."""
    with PubSub(world.provider()) as ps:
        messages: Any = iter(ps.subscribe("a", qos=1))
        messages.ready(PATIENCE)
        cycle = [messages]
        cycle.append(cycle)  # type: ignore[arg-type]
        del messages
        with ps._runtime.lock:
            del cycle
            gc.collect()
        ps.publish("b", 1, qos=1)
        assert world.broker.metrics()["subscriptions/count"] == 0


def test_iterating_inside_a_callback_of_the_same_connection_is_refused(api: Api, world: Any) -> None:
    raised: list[str] = []
    over = threading.Event()
    if isinstance(api, Threads):

        def iterate(message: Message) -> None:
            try:
                next(iter(api.ps.subscribe("b")))
            except WouldDeadlock as error:
                raised.append(str(error))
            over.set()
    else:

        async def iterate(message: Message) -> None:  # type: ignore[misc]
            try:
                await anext(aiter(api.ps.subscribe("b")))
            except WouldDeadlock as error:
                raised.append(str(error))
            over.set()

    api.call(api.call(api.ps.subscribe("a").subscribe, iterate).ready)
    api.call(api.ps.publish, "a", 1)
    assert over.wait(PATIENCE)
    assert len(raised) == 1


def test_another_connection_can_be_iterated_over_inside_a_callback(world: Any) -> None:
    world.broker.publish("kept", b"7", retain=True)
    got: list[Any] = []
    over = threading.Event()

    def iterate(message: Message) -> None:
        got.append(next(iter(two.subscribe("kept"))).value)
        over.set()

    with PubSub(world.provider()) as one, PubSub(world.provider()) as two:
        one.subscribe("a").subscribe(iterate).ready(PATIENCE)
        one.publish("a", 1)
        assert over.wait(PATIENCE)
    assert got == [7]


def test_duplicates_are_skipped_by_their_key(api: Api, recorder: Recorder, world: Any) -> None:
    observable = api.ps.subscribe("a", dedupe=lambda message: message.value.get("id"))
    api.call(api.call(observable.subscribe, recorder).ready, PATIENCE)
    for payload in (b'{"id": 1}', b'{"id": 2}', b'{"id": 1}', b'{"no": 0}', b'{"no": 0}', b'{"id": 3}'):
        world.broker.publish("a", payload)
    recorder.wait_for_values({"id": 1}, {"id": 2}, {"no": 0}, {"no": 0}, {"id": 3})


def test_a_key_that_cannot_be_hashed_is_logged_and_ends_nothing(
    api: Api, recorder: Recorder, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    observable = api.ps.subscribe("a", dedupe=lambda message: [message.value])  # type: ignore[arg-type, return-value]
    api.call(api.call(observable.subscribe, recorder).ready, PATIENCE)
    for payload in (b"1", b"1", b"2"):
        world.broker.publish("a", payload)
    recorder.wait_for_values(1, 1, 2)
    assert "unhashable" in caplog.text


class MeetingKey:
    """A key whose second hash waits for the other thread: a look-up and an insertion in two steps would both miss."""

    def __init__(self, both: threading.Barrier) -> None:
        self._both, self._hashes = both, 0

    def __hash__(self) -> int:
        self._hashes += 1
        if self._hashes == 2:
            self._both.wait(PATIENCE)
        return 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MeetingKey)


def test_of_two_copies_that_come_at_the_same_time_one_is_skipped(world: Any) -> None:
    both, found = threading.Barrier(2), list[bool]()
    with PubSub(world.provider()) as ps:
        core = ps.subscribe("a", dedupe=lambda message: MeetingKey(both)).subscribe(next=id)._core
        threads = [
            threading.Thread(target=lambda: found.append(core._is_copy(Message("a", 1, b"1"), core._dedupe)))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(found) == [False, True]


def test_an_iteration_ends_by_its_timeout_in_a_task_that_was_cancelled_before() -> None:
    """On Python 3.11.2 `asyncio.timeout` raises CancelledError there."""

    async def wait() -> object:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await AsyncInbox().peek(0.01)

    assert asyncio.run(wait()) is None
