"""Callbacks by Topic Filter: which are called, in which order, and when the message is acknowledged."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, Asyncio
from interrupts import interrupt

import mqttws.aio
from mqttws import LocalProtocolError, Publish, compiled
from mqttws.broker import Broker
from mqttws.client.routes import Routes


class Calls:
    """Records which callback was called, with which payload."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[str, bytes]] = queue.SimpleQueue()

    def to(self, name: str) -> Callable[[Publish], None]:
        return lambda message: self._calls.put((name, message.payload))

    def take(self, count: int) -> list[tuple[str, bytes]]:
        return [self._calls.get(timeout=PATIENCE) for _ in range(count)]

    def none(self) -> bool:
        return self._calls.empty()


class TestRoutes:
    def test_each_callback_once_in_the_order_of_registration(self) -> None:
        routes = Routes()
        assert not routes
        first, second = print, repr
        routes.add("a/#", second)
        routes.add("a/+", first)
        routes.add("a/b", second)
        routes.add("a/b", second)
        assert routes.takers("a/b") == [second, first]
        assert routes.takers("a/b/c") == [second]
        assert routes.takers("b") == []
        routes.remove("a/#", second)
        assert routes.takers("a/b") == [first, second]
        routes.remove("a/+", None)
        routes.remove("a/b", repr)
        routes.remove("a/b", repr)
        assert not routes
        assert routes.takers("a/b") == []
        assert len(routes._tree) == 0

    @pytest.mark.skipif(compiled, reason="compiled code cannot be traced")
    def test_an_interrupted_call_can_be_repeated(self) -> None:
        for step in itertools.count():
            routes, topic = Routes(), f"interrupted/{step}"  # of which none is cached
            was_interrupted = interrupt(step, functools.partial(routes.add, topic, print))
            routes.add(topic, print)
            assert routes.takers(topic) == [print]
            assert routes
            was_interrupted |= interrupt(step, functools.partial(routes.remove, topic, print))
            routes.remove(topic, print)
            assert routes.takers(topic) == []
            assert not routes
            assert len(routes._tree) == 0
            if not was_interrupted:
                break
        assert step > 10

    def test_a_shared_filter_matches_without_its_group(self) -> None:
        routes = Routes()
        routes.add("$share/g/a/+", print)
        routes.add("a/+", repr)
        assert routes.takers("a/b") == [print, repr]
        routes.remove("a/+", None)
        assert routes.takers("a/b") == [print]
        routes.remove("$share/g/a/+", print)
        assert routes.takers("a/b") == []

    def test_a_bound_method_can_be_removed(self) -> None:
        routes, taken = Routes(), []  # type: ignore[var-annotated]
        routes.add("a", taken.append)
        routes.remove("a", taken.append)
        assert not routes

    @pytest.mark.parametrize("topic_filter", ["", "a#", "$share/g", "$share//a", "$share/+/a", "$share/g/"])
    def test_invalid_topic_filters_are_refused(self, topic_filter: str) -> None:
        for verb in (Routes().add, Routes().remove):
            with pytest.raises(LocalProtocolError):
                verb(topic_filter, print)

    def test_wildcards_do_not_match_topics_of_the_server(self) -> None:
        routes = Routes()
        routes.add("#", print)
        assert routes.takers("$SYS/uptime") == []


def test_other_messages_go_to_on_message_in_order(make: Callable[..., Any], broker: Broker) -> None:
    calls = Calls()
    client = make(broker.url, on_message=calls.to("rest")).open()
    client.on("a/+", calls.to("a"))
    client.on("a/1", calls.to("a1"))
    client.subscribe("#", 1)
    for number, topic in enumerate(["a/1", "b", "a/2", "b"]):
        broker.publish(topic, b"%d" % number, 1)
    assert calls.take(5) == [("a", b"0"), ("a1", b"0"), ("rest", b"1"), ("a", b"2"), ("rest", b"3")]
    client.off("a/+")
    broker.publish("a/1", b"4")
    broker.publish("a/2", b"5")
    assert calls.take(2) == [("a1", b"4"), ("rest", b"5")]


def test_other_messages_go_to_the_iteration(make: Callable[..., Any], broker: Broker) -> None:
    calls = Calls()
    client = make(broker.url).open()
    client.on("a/#", calls.to("a"))
    client.subscribe("#", 2)
    for number, topic in enumerate(["b", "a", "b", "a/b"]):
        broker.publish(topic, b"%d" % number, 2)
    assert calls.take(2) == [("a", b"1"), ("a", b"3")]
    messages = client.messages(timeout=PATIENCE)
    assert [next(messages).payload for _ in range(2)] == [b"0", b"2"]
    messages.close()
    assert calls.none()


def test_messages_that_nothing_takes_do_not_block_callbacks(make: Callable[..., Any], broker: Broker) -> None:
    """Its bytes stay bounded, separately from those of messages for callbacks."""
    calls = Calls()
    client = make(broker.url, max_inbound_bytes=1_000_000).open()
    client.on("a", calls.to("a"))
    client.subscribe("#")
    inner = client.client if isinstance(client, Asyncio) else client
    for _ in range(50):
        broker.publish("b", bytes(10_000))
        broker.publish("a", b"x")
        calls.take(1)
    core = inner._core
    assert 500_000 <= core.inbox.size() <= 600_000
    assert core.calls.size() == 0
    assert core.reading


def test_a_callback_of_a_shared_subscription(make: Callable[..., Any], broker: Broker) -> None:
    calls = Calls()
    client = make(broker.url).open()
    client.on("$share/g/a/+", calls.to("shared"))
    client.subscribe("$share/g/a/+", 1)
    broker.publish("a/1", b"x", 1)
    assert calls.take(1) == [("shared", b"x")]


def test_a_message_is_acknowledged_when_all_callbacks_have_returned(make: Callable[..., Any]) -> None:
    with Broker(sys_interval=None) as broker:
        go, began = threading.Event(), threading.Event()
        client = make(broker.url, client_id="c", clean_session=False).open()

        def first(message: Publish) -> None:
            raise RuntimeError("reported, and stops nothing")

        def second(message: Publish) -> None:
            began.set()
            go.wait(PATIENCE)

        logging.getLogger("mqttws").setLevel(logging.CRITICAL)
        try:
            client.on("a", first)
            client.on("a", second)
            client.subscribe("a", 1)
            broker.publish("a", b"x", 1)
            assert began.wait(PATIENCE)
            receiver = client.session.receiver
            assert len(receiver._untaken) == 1
            go.set()
            client.publish("after", b"", 1)
            assert not receiver._untaken
        finally:
            logging.getLogger("mqttws").setLevel(logging.NOTSET)


def test_a_callback_may_remove_itself_and_add_others(make: Callable[..., Any], broker: Broker) -> None:
    calls, inner = Calls(), None
    client = make(broker.url).open()
    inner = client.client if isinstance(client, Asyncio) else client
    second = calls.to("second")

    def first(message: Publish) -> None:
        inner.off("a", first)
        inner.on("a", second)
        calls.to("first")(message)

    client.on("a", first)
    client.subscribe("a")
    for number in range(3):
        broker.publish("a", b"%d" % number)
    assert calls.take(3) == [("first", b"0"), ("second", b"1"), ("second", b"2")]


def test_messages_of_a_removed_callback_go_to_the_iteration(make: Callable[..., Any], broker: Broker) -> None:
    began, go = threading.Event(), threading.Event()
    client = make(broker.url).open()
    inner = client.client if isinstance(client, Asyncio) else client

    def callback(message: Publish) -> None:
        inner.off("a")
        began.set()

    client.on("a", callback)
    client.subscribe("a", 1)
    for number in range(3):
        broker.publish("a", b"%d" % number, 1)
    assert began.wait(PATIENCE)
    go.set()
    messages = client.messages(timeout=PATIENCE)
    assert [next(messages).payload for _ in range(2)] == [b"1", b"2"]
    messages.close()


def test_a_callback_that_is_not_callable_is_refused(make: Callable[..., Any]) -> None:
    client = make("mqtt://127.0.0.1:1")
    with pytest.raises(TypeError, match="function"):
        client.on("a", "print")
    with pytest.raises(LocalProtocolError):
        client.on("a#", print)


def test_a_coroutine_function_is_refused_by_the_blocking_client() -> None:
    async def callback(message: Publish) -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        mqttws.Client("mqtt://127.0.0.1:1").on("a", callback)


def test_coroutine_functions_are_awaited_in_sequence(broker: Broker) -> None:
    async def main() -> list[str]:
        seen: list[str] = []
        done = asyncio.Event()

        async def first(message: Publish) -> None:
            seen.append(f"first {message.payload.decode()}")
            await asyncio.sleep(0.01)
            seen.append(f"end of first {message.payload.decode()}")

        async def second(message: Publish) -> None:
            await asyncio.sleep(0)
            seen.append(f"second {message.payload.decode()}")

        def last(message: Publish) -> None:
            seen.append(f"last {message.payload.decode()}")
            if message.payload == b"1":
                done.set()

        async with mqttws.aio.connect(broker.url) as client:
            client.on("a", first)
            client.on("a", second)
            client.on("a", last)
            await client.subscribe("a", 1)
            await client.publish("a", "0", 1)
            await client.publish("a", "1", 1)
            await asyncio.wait_for(done.wait(), PATIENCE)
        return seen

    assert asyncio.run(main()) == [
        f"{step} {number}" for number in (0, 1) for step in ("first", "end of first", "second", "last")
    ]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_keeps_the_callbacks(broker: Broker) -> None:
    with mqttws.Client(broker.url) as client:
        client.on("a", lambda message: client.publish_nowait("answers", message.payload, 1))
        listener = mqttws.connect(broker.url)
        listener.subscribe("answers", 1)
        child = os.fork()
        if child == 0:
            try:
                with client:
                    client.subscribe("a", 1)
                    client.publish("a", b"from the child", 1)
                    client.flush(PATIENCE)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert next(listener.messages(timeout=PATIENCE)).payload == b"from the child"
        listener.close()
