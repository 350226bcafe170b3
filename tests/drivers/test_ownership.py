"""Access to a client's core: reentrant calls, finalisers, the order of packets, and reading while calls wait."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import functools
import gc
import itertools
import pickle
import signal
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from math import inf
from typing import Any
from unittest.mock import AsyncMock
from urllib.parse import urlsplit

import pytest
from drivers import PATIENCE, Asyncio, core_of, wait_until
from generators import GENERATORS, Generating, generator_function
from interrupts import interrupt
from scripted import End, Scripted, connected

import mqttws
import mqttws.aio
from mqttws import (
    ConnectionClosed,
    MQTTError,
    PubAck,
    Publish,
    QueueFull,
    SubAck,
    Subscribe,
    SubscribeRejected,
    TimedOut,
    Unsubscribe,
    WouldDeadlock,
    compiled,
)
from mqttws.broker import Broker, Limits

Make = Callable[..., Any]

AT_ONCE = mqttws.Reconnect(initial=0.01, maximum=0.02)


def inside(network: Any, call: Callable[[], Any]) -> Any:
    """Call a function as a signal handler does that interrupts another call of the client."""
    outcome: list[Any] = []
    network.call(lambda: outcome.append(call()))
    return outcome[0]


# Reentrant calls.


def test_reentrant_nowait_calls_are_posted(server: Scripted) -> None:
    client = mqttws.Client(server.url)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    network = client._network
    futures = inside(network, lambda: [client.publish_nowait("a", b"0"), client.publish_nowait("a", b"1", 1)])
    asked = inside(network, lambda: client.subscribe_nowait("s"))
    client.publish("a", b"2")  # sent after what the same thread has posted
    end.expect(Publish("a", b"0"), Publish("a", b"1", 1, packet_id=1), Subscribe(2, [("s", 0)]), Publish("a", b"2"))
    end.send(PubAck(1), SubAck(2, [0]))
    for future in futures:
        future.result(PATIENCE)
    assert asked.result(PATIENCE) == 0
    inside(network, client.close)
    assert end.rest() == mqttws.Disconnect().encode()
    client.close()


def test_reentrant_waiting_calls_are_refused(server: Scripted) -> None:
    client = mqttws.Client(server.url)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)

    def calls() -> int:
        refused = 0
        for call in (
            lambda: client.publish("a", b"x"),
            lambda: client.publish("a", b"x", 1),
            lambda: client.subscribe("a"),
            lambda: client.unsubscribe("a"),
            lambda: next(client.messages(PATIENCE)),
            lambda: mqttws.Client.open(client),
        ):
            started = time.monotonic()
            with pytest.raises(WouldDeadlock):
                call()
            refused += time.monotonic() - started < PATIENCE / 2
        return refused

    assert inside(client._network, calls) == 6
    end.send(SubAck(1, [0]))
    client.close(0.05)


def test_a_posted_call_that_fails_fails_its_future() -> None:
    client = mqttws.Client("mqtt://127.0.0.1:1/", max_queued=1, overflow="raise")
    client.publish_nowait("a", b"1", 1)
    future = inside(client._network, lambda: client.publish_nowait("a", b"2", 1))
    client.close()
    with pytest.raises(QueueFull):
        future.result(PATIENCE)


def test_asyncio_posts_to_its_loop(tcp_server: Scripted) -> None:
    async def main() -> None:
        async with mqttws.aio.connect(tcp_server.url) as client:
            network = client._network
            future = inside(network, lambda: client.publish_nowait("a", b"1", 1))
            plain = inside(network, lambda: client.publish_nowait("a", b"2"))
            asked = inside(network, lambda: client.subscribe_nowait("s"))
            last = client.publish_nowait("a", b"3")
            await asyncio.wait_for(asyncio.gather(future, plain, last), PATIENCE)
            assert await asyncio.wait_for(asked, PATIENCE) == 0

    running = tcp_server.soon(lambda: asyncio.run(main()))
    end = tcp_server.accept().welcome()
    end.expect(Publish("a", b"1", 1, packet_id=1), Publish("a", b"2"), Subscribe(2, [("s", 0)]), Publish("a", b"3"))
    end.send(PubAck(1), SubAck(2, [0]))
    running.result(PATIENCE)


@pytest.mark.parametrize("queued", [True, False])
def test_a_signal_handler_publishes_in_the_middle_of_a_publish(tcp_server: Scripted, queued: bool) -> None:
    """The handler runs while the lock is held, before the message is left to the network thread, or is written."""
    client = mqttws.Client(tcp_server.url)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome()
    opening.result(PATIENCE)
    network = client._network
    name = "wake" if queued else "_send"
    method = getattr(network, name)
    if queued:
        network._sent_at = inf  # as in a burst

    def interrupted(*arguments: Any) -> object:
        setattr(network, name, method)
        signal.raise_signal(signal.SIGUSR1)
        assert len(network.posted) == 1
        return method(*arguments)

    futures: list[Any] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: futures.append(client.publish_nowait("a", b"handler", 1)))
    try:
        setattr(network, name, interrupted)
        futures.append(client.publish_nowait("a", b"main", 1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    end.expect(Publish("a", b"main", 1, packet_id=1), Publish("a", b"handler", 1, packet_id=2))
    end.send(PubAck(1), PubAck(2))
    for future in futures:
        future.result(PATIENCE)
    client.close()


# Finalisers.


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_finalising_an_iteration_takes_no_lock(tcp_server: Scripted, kind: str) -> None:
    """The iteration is finalised while the lock is held that an acknowledgement takes; the message is acknowledged."""
    client: Any = mqttws.Client(tcp_server.url) if kind == "blocking" else Asyncio(tcp_server.url)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome()
    opening.result(PATIENCE)
    end.send(Publish("a", b"x", 1, packet_id=7))
    gc.disable()
    try:
        if kind == "blocking":
            iteration = client.messages(PATIENCE)
            assert next(iteration).payload == b"x"
            cycle = [iteration]
            cycle.append(cycle)
            del iteration, cycle
            client._network.call(gc.collect)
        else:
            iteration = client.client.messages(PATIENCE)
            assert client.call(anext(iteration)).payload == b"x"
            cycle = [iteration]
            cycle.append(cycle)
            del iteration, cycle
            client.later_plain(client.client._network.call, gc.collect)
    finally:
        gc.enable()
    end.expect(PubAck(7))
    (client.close if kind == "blocking" else client.end)()


def test_an_interrupt_while_a_message_is_taken_loses_none(
    tcp_server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mqttws.Client(tcp_server.url)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome()
    opening.result(PATIENCE)
    end.send(Publish("a", b"1", 1, packet_id=1), Publish("a", b"2", 1, packet_id=2))
    iteration, waits = client.messages(PATIENCE), [0, 1]
    call = client._network.call

    def interrupted(function: Callable[..., object], *arguments: Any) -> None:
        call(function, *arguments)
        if waits and function == client._core.acknowledge:
            waits.pop()
            raise KeyboardInterrupt

    monkeypatch.setattr(client._network, "call", interrupted)
    assert next(iteration).payload == b"1"
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            next(iteration)
    assert next(iteration).payload == b"2"
    iteration.close()
    end.expect(PubAck(1), PubAck(2))
    client.close()


# The order of packets.


def test_packets_are_sent_in_the_order_of_the_calls(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_in_flight=2)
    for round_ in range(20):
        client.subscribe_nowait(f"s/{round_}")
        client.publish_nowait("a", b"0")
        client.publish_nowait("a", b"1", 1)
        if isinstance(client, Asyncio):
            client.later(client.client.unsubscribe_nowait, f"s/{round_}")
        else:
            client.unsubscribe_nowait(f"s/{round_}")
    kinds = []
    while len(kinds) < 80:
        packet = end.receive()
        kinds.append((type(packet), getattr(packet, "qos", 0)))
        if isinstance(packet, Publish) and packet.packet_id is not None:
            end.send(PubAck(packet.packet_id))
        elif isinstance(packet, Subscribe):
            end.send(SubAck(packet.packet_id, [0]))
        elif isinstance(packet, Unsubscribe):
            end.send(mqttws.UnsubAck(packet.packet_id))
    assert kinds == [(Subscribe, 0), (Publish, 0), (Publish, 1), (Unsubscribe, 0)] * 20


def test_the_order_of_the_calls_is_kept_while_disconnected(make: Make, server: Scripted) -> None:
    client = make(server.url)
    for call in (client.publish_nowait, client.subscribe_nowait):
        call("a")
    client.publish_nowait("b", b"", 1)
    client.subscribe_nowait("c")
    opening = server.soon(client.open)
    end = server.accept().welcome()
    end.expect(Publish("a"), Subscribe(1, [("a", 0)]), Publish("b", qos=1, packet_id=2), Subscribe(3, [("c", 0)]))
    opening.result(PATIENCE)


def test_the_order_of_the_calls_is_kept_by_a_reconnect(make: Make, server: Scripted) -> None:
    """A SUBSCRIBE without a SUBACK is sent again before the PUBLISH that was called after it."""
    client, end = connected(make, server, reconnect=AT_ONCE)
    client.publish_nowait("p", b"0", 1)
    asked = client.subscribe_nowait("a")
    client.publish_nowait("p", b"1", 1)
    end.expect(Publish("p", b"0", 1, packet_id=1), Subscribe(2, [("a", 0)]), Publish("p", b"1", 1, packet_id=3))
    end.cut()
    end = server.accept().welcome()
    end.expect(Publish("p", b"0", 1, dup=True, packet_id=1))
    subscribe = end.receive()
    assert isinstance(subscribe, Subscribe)
    assert subscribe.topic_filters == (("a", 0),)
    end.expect(Publish("p", b"1", 1, dup=True, packet_id=3))
    end.send(SubAck(subscribe.packet_id, [0]))
    assert asked.result(PATIENCE) == 0


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_client_receives_its_own_message_a_thousand_times(broker: Broker, kind: str) -> None:
    if kind == "blocking":
        with mqttws.connect(broker.url, timeout=30) as client:
            for number in range(1_000):
                client.subscribe_nowait(f"own/{number}")
                client.publish_nowait(f"own/{number}", b"%d" % number, number % 2)
            taken = [int(message.payload) for _, message in zip(range(1_000), client.messages(20), strict=False)]
    else:

        async def main() -> list[int]:
            async with mqttws.aio.connect(broker.url, timeout=30) as client:
                for number in range(1_000):
                    client.subscribe_nowait(f"own/{number}")
                    client.publish_nowait(f"own/{number}", b"%d" % number, number % 2)
                return [
                    int((await anext(messages)).payload) for messages in [client.messages(20)] for _ in range(1_000)
                ]

        taken = asyncio.run(main())
    assert sorted(taken) == list(range(1_000))


# Acknowledgements are always read.


@pytest.mark.parametrize("kind", ["callback", "iteration", "task", "coroutine"])
def test_each_message_of_a_burst_is_answered(broker: Broker, kind: str) -> None:
    """1,500 messages, many reads; each is answered, and the acknowledgement of the answer is awaited."""
    count, answered = 1_500, threading.Semaphore(0)
    with mqttws.connect(broker.url, timeout=30) as other:
        burst = lambda: [other.publish_nowait("request", b"%d" % number) for number in range(count)]  # noqa: E731
        if kind == "callback":

            def answer(message: Publish) -> None:
                client.publish("reply", message.payload, 1)
                answered.release()

            with mqttws.Client(broker.url, on_message=answer, timeout=20) as client:
                client.subscribe("request")
                burst()
                assert all(answered.acquire(timeout=30) for _ in range(count))
        elif kind == "iteration":
            with mqttws.connect(broker.url, timeout=30) as client:
                client.subscribe("request")
                burst()
                for _, message in zip(range(count), client.messages(20), strict=False):
                    client.publish("reply", message.payload, 1)
                    answered.release()
        else:

            async def run() -> None:
                async def take(message: Publish) -> None:
                    await client.publish("reply", message.payload, 1)
                    answered.release()

                options: Any = {"on_message": take} if kind == "coroutine" else {}
                async with mqttws.aio.connect(broker.url, timeout=20, **options) as client:
                    await client.subscribe("request")
                    burst()
                    if kind == "task":
                        messages = client.messages(20)
                        for _ in range(count):
                            await take(await anext(messages))
                    else:
                        assert await asyncio.to_thread(lambda: all(answered.acquire(timeout=30) for _ in range(count)))
                        answered.release(count)

            asyncio.run(run())
        assert sum(answered.acquire(timeout=0) for _ in range(count)) == (0 if kind == "callback" else count)


def test_three_thousand_retained_messages_then_a_publish(broker: Broker) -> None:
    for number in range(3_000):
        broker.publish(f"kept/{number}", b"x", retain=True)
    with mqttws.connect(broker.url, timeout=30) as client:
        client.subscribe("kept/#")
        client.publish("a", b"x", 1)
        assert sum(1 for _ in zip(range(3_000), client.messages(PATIENCE), strict=False)) == 3_000


def test_a_wait_that_could_never_end_raises(make: Make, server: Scripted) -> None:
    """Beyond the bound nothing is read; here the thread that takes the messages is the one that waits."""
    client, end = connected(make, server, max_inbound_bytes=20_000, timeout=60.0)
    server.soon(lambda: [end.send(Publish("a", bytes(1_000))) for _ in range(200)])
    iteration = client.messages(PATIENCE)
    outcome: list[BaseException] = []
    if isinstance(client, Asyncio):

        async def consume() -> None:
            inner = client.client
            messages = inner.messages(PATIENCE)
            await anext(messages)
            while not inner._core.stalled:
                await asyncio.sleep(0.01)
            await anext(messages)
            await inner.publish("b", b"x", 1)

        with pytest.raises(WouldDeadlock, match="have not been taken") as caught:
            client.call(consume())
        outcome.append(caught.value)
    else:
        next(iteration)
        wait_until(lambda: client._core.stalled)
        with pytest.raises(WouldDeadlock, match="have not been taken") as caught:
            client.publish("b", b"x", 1)
        outcome.append(caught.value)
    assert "may still be delivered" in str(outcome[0]) or "will not be" in str(outcome[0])


def flood(client: Any, server: Scripted, end: End) -> None:
    """Send more than a client buffers, and wait until it stops reading."""
    server.soon(lambda: [end.send(Publish("a", bytes(1_000))) for _ in range(200)])
    wait_until(lambda: core_of(client).stalled)


@pytest.mark.parametrize("call", ["publish", "subscribe", "unsubscribe", "flush"])
def test_a_timeout_names_messages_that_are_not_taken(make: Make, server: Scripted, call: str) -> None:
    """There is neither `on_message` nor an iteration, although another thread could start one."""
    client, end = connected(make, server, max_inbound_bytes=20_000, timeout=1.0)
    flood(client, server, end)
    if call == "flush":
        client.publish_nowait("b", b"x", 1)
    arguments = {"publish": ("b", b"x", 1), "subscribe": ("b",), "unsubscribe": ("b",), "flush": ()}[call]
    with pytest.raises(
        TimedOut, match=r"within 1(\.0)? s: reading is paused, because [\d,]+ bytes of messages .*max_inbound_bytes"
    ):
        getattr(client, call)(*arguments)


def test_a_timeout_with_a_full_queue_names_messages_that_are_not_taken(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_inbound_bytes=20_000, timeout=1.0, max_queued=1, max_in_flight=1)
    flood(client, server, end)
    client.publish_nowait("b", b"x", 1)
    wait_until(lambda: core_of(client).session.sender.in_flight == 1)
    client.publish_nowait("b", b"x", 1)
    with pytest.raises(TimedOut, match=r"(?=.*are already queued)(?=.*max_inbound_bytes)"):
        client.publish("b", b"x", 1)


def test_a_stalled_client_sends_messages_of_qos_0(tcp_server: Scripted) -> None:
    """The thread that takes the messages publishes at QoS 0, alternating with others whose messages wait."""
    client, end = connected(mqttws.Client, tcp_server, max_inbound_bytes=20_000)
    messages = client.messages(PATIENCE)
    flood(client, tcp_server, end)
    next(messages)
    for number in range(200):
        client.publish_nowait("b", b"%d" % number)
        client.publish("b", b"now")
    assert client.stalled
    messages.close()
    client.close(timeout=0.1)


def test_another_thread_of_a_stalled_client_may_wait(tcp_server: Scripted) -> None:
    """The messages may still be taken, so this is no deadlock: the wait ends as soon as they are."""
    client = mqttws.Client(tcp_server.url, max_inbound_bytes=20_000)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome()
    opening.result(PATIENCE)
    sending = tcp_server.soon(lambda: [end.send(Publish("a", bytes(1_000))) for _ in range(200)])
    messages = client.messages(PATIENCE)
    next(messages)
    wait_until(lambda: client._core.stalled)
    waiting = tcp_server.soon(lambda: client.publish("b", b"x", 1, timeout=PATIENCE))
    for _ in range(199):
        next(messages)
    sending.result(PATIENCE)
    end.expect(Publish("b", b"x", 1, packet_id=1)).send(PubAck(1))
    waiting.result(PATIENCE)
    client.close()


def test_waiting_messages_are_bounded_in_bytes(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_inbound_bytes=1_000_000)
    server.soon(lambda: [end.send(Publish("a", bytes(10_000))) for _ in range(300)])
    core = core_of(client)
    wait_until(lambda: core.stalled)
    held = sum(len(message.payload) for message in core.inbox.messages)
    assert 1_000_000 - 64 * 1024 - 300 * 400 <= held <= 1_000_000 + 64 * 1024
    assert sum(1 for _ in zip(range(300), client.messages(PATIENCE), strict=False)) == 300


@pytest.mark.parametrize("routed", [True, False])
def test_topics_of_waiting_messages_count(tcp_server: Scripted, routed: bool) -> None:
    gate = threading.Event()

    async def slow(message: Publish) -> None:
        await asyncio.to_thread(gate.wait, PATIENCE)

    options = {} if routed else {"on_message": slow}
    client, end = connected(Asyncio, tcp_server, max_inbound_bytes=1_000_000, **options)
    try:
        if routed:
            client.on("#", slow)
        sending = tcp_server.soon(lambda: [end.send(Publish("t" * 60_000)) for _ in range(200)])
        core = core_of(client)
        wait_until(lambda: core.stalled or core.received == 200)
        held = sum(len(message.topic) for message in core.calls.messages)
        # The read that exceeds the bound may also complete a message of which nearly all had arrived.
        assert 1_000_000 - 2 * 64 * 1024 <= held <= 1_000_000 + 2 * 64 * 1024
        gate.set()
        wait_until(lambda: core.received == 200)
        sending.result(PATIENCE)
    finally:
        gate.set()
        client.end()


# Callbacks of asyncio.


def test_coroutine_functions_are_awaited_in_order_and_acknowledged_after(tcp_server: Scripted) -> None:
    taken: list[bytes] = []
    states: list[str] = []

    async def main() -> None:
        go_on = asyncio.Event()

        async def on_message(message: Publish) -> None:
            await go_on.wait()
            await asyncio.sleep(0)
            taken.append(message.payload)
            if message.payload == b"1":
                raise ValueError("is reported and stops nothing")

        async def on_state(state: mqttws.State) -> None:
            await asyncio.sleep(0.01)
            states.append(state.name)

        async with mqttws.aio.connect(tcp_server.url, on_message=on_message, on_state=on_state) as client:
            with contextlib.suppress(TimeoutError):
                await client.publish("ready", b"", 1, timeout=0.2)  # the messages have arrived, unacknowledged
            go_on.set()
            await client.publish("done", b"", 1, timeout=PATIENCE)

    running = tcp_server.soon(lambda: asyncio.run(main()))
    end = tcp_server.accept().welcome()
    end.send(*[Publish("a", b"%d" % number, 1, packet_id=number + 1) for number in range(3)])
    end.expect(Publish("ready", qos=1, packet_id=1))
    rest = [end.receive() for _ in range(4)]
    assert [packet for packet in rest if isinstance(packet, PubAck)] == [PubAck(1), PubAck(2), PubAck(3)]
    end.send(PubAck(1), PubAck(2))
    running.result(PATIENCE)
    assert taken == [b"0", b"1", b"2"]
    assert states == ["connecting", "connected", "disconnected"]


class Callback:
    async def __call__(self, argument: object) -> None:
        """Do nothing."""


async def coroutine_function(argument: object) -> None:
    """Do nothing."""


@pytest.mark.parametrize("name", ["on_message", "on_state", "on_error"])
@pytest.mark.parametrize("callback", [Callback(), coroutine_function, AsyncMock()])
def test_a_coroutine_function_is_refused_by_the_blocking_client(name: str, callback: Any) -> None:
    with pytest.raises(TypeError, match=f"{name} is a coroutine function"):
        mqttws.Client("mqtt://127.0.0.1:1/", **{name: callback})


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
@pytest.mark.parametrize("name", ["on_message", "on_state", "on_error", "on", "url", "recover", "end_on"])
@pytest.mark.parametrize("callback", GENERATORS)
def test_a_generator_function_is_refused(kind: Any, name: str, callback: Any) -> None:
    """A call of it does not run its body: the message would be acknowledged, and lost."""
    url = "mqtt://127.0.0.1:1/"
    ways = {"on": lambda: kind(url).on("a", callback), "url": lambda: kind(callback)}
    way = ways.get(name, lambda: kind(url, **{name: callback}))
    with pytest.raises(TypeError, match="is a generator function"):
        way()


@types.coroutine
def awaitable_generator(argument: object = None) -> Iterator[object]:
    yield from asyncio.sleep(0).__await__()


class Constructed:
    """A call of it creates an object, and runs no generator."""

    def __init__(self, argument: object = None) -> None: ...
    def __call__(self) -> Iterator[object]:
        yield 1


def test_how_a_call_of_a_callback_runs_it() -> None:
    awaited = [coroutine_function, awaitable_generator, Callback(), functools.partial(awaitable_generator, 1)]
    others = [print, len, Constructed, Generating, functools.partial(Constructed), None, 5]
    for callback in [*awaited, *GENERATORS, *others]:
        assert mqttws.is_coroutine_function(callback) == (callback in awaited), callback
        assert mqttws.is_generator_function(callback) == (callback in GENERATORS), callback


def test_a_generator_function_that_can_be_awaited_is_a_coroutine_function(broker: Broker) -> None:
    taken: list[bytes] = []

    @types.coroutine
    def take(message: Any) -> Iterator[object]:
        yield from asyncio.sleep(0).__await__()
        taken.append(message.payload)
        done.set()

    async def main() -> None:
        async with mqttws.aio.connect(broker.url, on_message=take) as client:
            await client.subscribe("a", 1)
            await client.publish("a", b"x", 1)
            await asyncio.wait_for(done.wait(), 30)

    done = asyncio.Event()
    asyncio.run(main())
    assert taken == [b"x"]
    with pytest.raises(TypeError, match="on_message is a coroutine function"):
        mqttws.Client("mqtt://127.0.0.1:1/", on_message=take)


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
def test_a_function_that_runs_a_generator_function_is_accepted(kind: Any) -> None:
    @functools.wraps(generator_function)
    def run(argument: object = None) -> list[object]:
        return list(generator_function(argument))

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        yield

    kind("mqtt://127.0.0.1:1/", on_message=run, on_error=context()(_ignore))


def _ignore(argument: object) -> None:
    """Do nothing."""


@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_client_is_not_pickled_or_copied(kind: Any, duplicate: Any) -> None:
    with pytest.raises(TypeError, match="a Client cannot be pickled or copied; make one in each process"):
        duplicate(kind("mqtt://127.0.0.1:1/"))


def test_a_coroutine_function_as_the_url_is_refused_by_the_blocking_client() -> None:
    async def url() -> str:
        return "mqtt://127.0.0.1:1/"

    with pytest.raises(TypeError, match="url is a coroutine function, which only"):
        mqttws.Client(url)  # type: ignore[arg-type]


# Iteration in asyncio.


def test_a_cancelled_anext_loses_nothing_and_ends_nothing(tcp_server: Scripted) -> None:
    async def main() -> list[bytes]:
        taken: list[bytes] = []
        async with mqttws.aio.connect(tcp_server.url) as client:
            messages = client.messages()
            for round_ in range(6):
                waiting = asyncio.create_task(anext(messages))
                await asyncio.sleep(0.01 * (round_ % 2))
                waiting.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    taken.append((await waiting).payload)
                with contextlib.suppress(TimeoutError):
                    taken.append((await asyncio.wait_for(anext(messages), 0.01)).payload)
            client.publish_nowait("go on")
            while len(taken) < 3:
                taken.append((await asyncio.wait_for(anext(messages), PATIENCE)).payload)
        return taken

    running = tcp_server.soon(lambda: asyncio.run(main()))
    end = tcp_server.accept().welcome()
    end.expect(Publish("go on"))
    end.send(*[Publish("a", b"%d" % number) for number in range(3)])
    assert running.result(PATIENCE) == [b"0", b"1", b"2"]


def test_a_thread_that_begins_after_its_start_was_interrupted_leaves_the_client_alone(
    tcp_server: Scripted, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    started: list[threading.Thread] = []

    def interrupted(thread: threading.Thread) -> None:
        started.append(thread)
        raise KeyboardInterrupt

    client = mqttws.Client(tcp_server.url, client_id="c")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.open()
    started[0].start()
    started[0].join(PATIENCE)
    assert not started[0].is_alive()
    assert client.state.name == "disconnected"
    assert not caplog.records
    opening = tcp_server.soon(client.open)
    tcp_server.accept().welcome()
    opening.result(PATIENCE)
    client.close(timeout=0.0)


WAITS: dict[str, Callable[[mqttws.Client], object]] = {
    "publish": lambda client: client.publish("a", b"x", 1),
    "subscribe": lambda client: client.subscribe("a"),
    "messages": lambda client: next(client.messages(timeout=PATIENCE)),
    "flush": lambda client: client.flush(PATIENCE),
}


@pytest.mark.parametrize("call", WAITS)
def test_a_signal_handler_that_waits_before_the_network_thread_runs_is_refused(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It would wait for a thread that starts only after it has returned. Another thread may wait."""
    client = mqttws.Client(broker.url_of("mqtt"))
    delivered: list[str] = []

    def publish() -> None:
        client.publish("b", b"x", 1, timeout=PATIENCE)
        delivered.append("b")

    other = threading.Thread(target=publish)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if thread is client._network._runner:
            start(other)
            with pytest.raises(WouldDeadlock, match="signal handler"):
                WAITS[call](client)
            client.publish_nowait("a", b"y", 1)
        start(thread)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        client.open(PATIENCE)
    other.join(PATIENCE)
    assert delivered == ["b"]
    client.publish("a", b"x", 1, timeout=PATIENCE)
    client.close()


@pytest.mark.filterwarnings("ignore:.*socket")  # one that was just made is closed by its finalizer
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.skipif(compiled, reason="compiled code cannot be traced")
def test_an_interrupted_open_leaves_a_client_that_can_be_opened(broker: Broker, waits: bool) -> None:
    for step in itertools.count():
        client = mqttws.Client(broker.url_of("mqtt"), client_id="c")
        is_interrupted = interrupt(step, functools.partial(client.open, PATIENCE, wait=waits))
        if is_interrupted:
            wait_until(lambda network=client._network: network._runner is None)
            assert client.state.name == "disconnected"
            client.open(PATIENCE)
        client.publish("a", b"x", 1, timeout=PATIENCE)
        client.close()
        if not is_interrupted:
            break
    assert step > 30


def test_a_second_open_leaves_the_client_open(broker: Broker) -> None:
    with mqttws.connect(broker.url_of("mqtt")) as client:
        for waits in (True, False):
            with pytest.raises(MQTTError, match="already open"):
                client.open(wait=waits)
        client.publish("a", b"x", 1, timeout=PATIENCE)


def test_an_open_that_comes_second_leaves_the_client_to_the_thread_that_has_opened_it(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = mqttws.Client(broker.url_of("mqtt"))
    start = client._network.start

    def start_second(retries: bool) -> None:
        monkeypatch.undo()
        other = threading.Thread(target=client.open)
        other.start()
        other.join(PATIENCE)
        start(retries)

    monkeypatch.setattr(client._network, "start", start_second)
    with pytest.raises(MQTTError, match="already open"):
        client.open()
    assert client.state.name == "connected"
    client.publish("a", b"x", 1, timeout=PATIENCE)
    client.close()


# Event loops.


CALLS: dict[str, Callable[[Any], object]] = {
    "qos 0": lambda client: client.publish_nowait("a", b"x", 0),
    "qos 1": lambda client: client.publish_nowait("a", b"x", 1),
    "qos 2": lambda client: client.publish_nowait("a", b"x", 2),
    "expires": lambda client: client.publish_nowait("a", b"x", 1, expire_after=PATIENCE),
    "subscribe": lambda client: client.subscribe_nowait("a"),
    "unsubscribe": lambda client: client.unsubscribe_nowait("a"),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_call_without_an_event_loop_changes_nothing(tcp_server: Scripted, call: str) -> None:
    client = mqttws.aio.Client(tcp_server.url)
    with pytest.raises(RuntimeError, match="no running event loop"):
        CALLS[call](client)
    assert not client.session.has_incomplete(client.session.sender.next_token())

    async def use() -> None:
        async with client:
            await client.publish("a", b"once", 1)

    running = tcp_server.soon(lambda: asyncio.run(use()))
    end = tcp_server.accept().welcome()
    end.expect(Publish("a", b"once", 1, packet_id=1)).send(PubAck(1))
    assert end.rest() == b"\xe0\x00"
    running.result(PATIENCE)


def test_a_client_can_be_used_in_a_second_loop(broker: Broker) -> None:
    client = mqttws.aio.Client(broker.url)

    async def use() -> None:
        async with client:
            await client.subscribe("a")
            await client.publish("a", b"x", 1)
            assert (await anext(client.messages(PATIENCE))).payload == b"x"

    for _ in range(3):
        asyncio.run(use())


def test_a_closed_client_raises_in_a_second_loop(broker: Broker) -> None:
    client = mqttws.aio.Client(broker.url)

    async def use() -> None:
        async with client:
            await client.publish("a", b"x", 1)

    async def use_it_closed() -> None:
        for qos in range(3):
            with pytest.raises(ConnectionClosed):
                await asyncio.wait_for(client.publish_nowait("a", b"x", qos), PATIENCE)
        with pytest.raises(ConnectionClosed):
            await client.subscribe("a")
        assert [message async for message in client.messages()] == []
        await client.close()

    asyncio.run(use())
    asyncio.run(use_it_closed())
    asyncio.run(use())


def test_messages_queued_in_one_loop_are_sent_from_the_next(tcp_server: Scripted) -> None:
    client = mqttws.aio.Client(tcp_server.url)

    async def queue() -> asyncio.Future[None]:
        return client.publish_nowait("a", b"queued", 1)

    future = asyncio.run(queue())

    async def use() -> None:
        async with client:
            await client.publish("a", b"later", 1)

    running = tcp_server.soon(lambda: asyncio.run(use()))
    end = tcp_server.accept().welcome()
    end.expect(Publish("a", b"queued", 1, packet_id=1), Publish("a", b"later", 1, packet_id=2))
    end.send(PubAck(1), PubAck(2))
    running.result(PATIENCE)
    assert not future.done()  # its loop is closed, so nothing can wait for it


def test_a_client_that_is_open_in_another_loop_is_refused(tcp_server: Scripted) -> None:
    first = Asyncio(tcp_server.url)
    opening = tcp_server.soon(first.open)
    tcp_server.accept().welcome()
    opening.result(PATIENCE)

    client = first.client

    async def use() -> None:
        for verb in (
            client.open,
            client.close,
            lambda: client.publish("a"),
            lambda: client.publish_nowait("a", b"x", 1),
            lambda: client.subscribe("a"),
            lambda: client.unsubscribe("a"),
            client.flush,
            lambda: anext(client.messages()),
        ):
            with pytest.raises(MQTTError, match="open in another event loop"):
                await verb()

    asyncio.run(use())
    assert first.state.name == "connected"
    assert client.pending == 0
    first.end()


# Host names.


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_one_lookup_of_a_name_runs_at_a_time(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    go_on, lookups = threading.Event(), []

    def hang(host: str, *rest: Any, **more: Any) -> Any:
        lookups.append(threading.current_thread())
        assert go_on.wait(PATIENCE)
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    url = "mqtt://name.invalid:1/"
    try:
        if kind == "blocking":
            for _ in range(3):
                with pytest.raises(mqttws.ConnectError):
                    mqttws.connect(url, timeout=0.1)
        else:

            async def attempts() -> None:
                for _ in range(3):
                    with pytest.raises(mqttws.ConnectError):
                        await mqttws.aio.connect(url, timeout=0.1)
                await asyncio.to_thread(int)  # the loop's executor is free

            asyncio.run(attempts())
        assert len(lookups) == 1
        assert lookups[0].daemon
    finally:
        go_on.set()
    lookups[0].join(PATIENCE)
    with pytest.raises(mqttws.ConnectError, match="Name or service not known"):
        mqttws.connect(url, timeout=PATIENCE)
    assert len(lookups) == 2


def test_a_name_with_an_unreachable_first_address(
    tcp_server: Scripted, closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = urlsplit(tcp_server.url)
    port = parts.port
    targets = [("127.0.0.1", closed_port), (parts.hostname, port)]
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", each) for each in targets]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)

    async def attempt() -> None:
        async with mqttws.aio.connect(f"mqtt://a.name:{port}/"):
            pass

    running = tcp_server.soon(lambda: asyncio.run(attempt()))
    tcp_server.accept().welcome()
    running.result(PATIENCE)


# Withdrawn messages.


def test_a_withdrawn_publish_wakes_a_waiting_one(make: Make) -> None:
    """The queue is full; the publish that fills it is withdrawn, and the next one is queued in its place."""
    client = make("mqtt://127.0.0.1:1/", max_queued=1, timeout=0.2)
    core = core_of(client)
    core.running = True  # as during a reconnect
    try:
        if isinstance(client, Asyncio):

            async def both() -> None:
                first = asyncio.create_task(client.client.publish("a", b"1", 1, timeout=PATIENCE))
                await asyncio.sleep(0)
                second = asyncio.create_task(client.client.publish("a", b"2", 1, timeout=PATIENCE))
                await asyncio.sleep(0.01)
                assert core.session.sender.waiting == 1
                first.cancel()
                await asyncio.wait({first})
                for _ in range(5):
                    await asyncio.sleep(0)
                assert core.session.sender.waiting == 1
                second.cancel()
                await asyncio.wait({second})
                assert core.session.sender.waiting == 0

            client.call(both())
        else:
            first = client.publish_nowait("a", b"1", 1)
            entered = threading.Event()
            check = client._network.check_progress
            client._network.check_progress = lambda: (entered.set(), check())
            thread = threading.Thread(target=lambda: _swallow(client.publish, "a", b"2", 1, timeout=PATIENCE))
            thread.start()
            assert entered.wait(PATIENCE)
            assert client.withdraw(first)
            wait_until(lambda: core.session.sender.waiting == 1 and thread.is_alive())
    finally:
        core.running = False
        client.close()


def _swallow(call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
    with contextlib.suppress(MQTTError, TimeoutError):
        call(*arguments, **options)


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("kind", [mqttws.Client, mqttws.aio.Client])
@pytest.mark.parametrize("what", ["dropped", "full", "full in a signal handler", "refused"])
def test_a_call_that_fails_leaves_nothing_to_the_garbage_collector(kind: Any, qos: int, what: str) -> None:
    """Otherwise the collector runs in the calling thread, and can swallow the exception of a signal handler."""
    is_async = kind is mqttws.aio.Client

    async def fail(broker: Broker) -> None:
        overflow = "drop_newest" if what == "dropped" else "block"
        client = kind(broker.url if what == "refused" else "mqtt://127.0.0.1:1", max_queued=1, overflow=overflow)
        if what == "refused":
            await client.open() if is_async else client.open()
            with contextlib.suppress(SubscribeRejected):
                await client.subscribe("bb", qos) if is_async else client.subscribe("bb", qos)
            await client.close() if is_async else client.close()
            return
        client.publish_nowait("a", b"x", qos)
        network = client._network
        if what == "full in a signal handler":
            with contextlib.nullcontext() if is_async else network.lock:
                network.busy = True
                future = client.publish_nowait("a", b"x", qos)
                network.busy = False
            if is_async:
                network._take_posted()
            network.call(lambda: None)
            client._core.callbacks.run()
        else:
            try:
                future = client.publish_nowait("a", b"x", qos)
            except QueueFull:
                return
        assert isinstance(future.exception(), QueueFull)

    with Broker(limits=Limits(max_subscription_bytes=1)) as broker:
        gc.collect()
        gc.disable()
        try:
            gc.set_debug(gc.DEBUG_SAVEALL)
            asyncio.run(fail(broker))
            gc.collect()
            assert not [each for each in gc.garbage if isinstance(each, (QueueFull, SubscribeRejected))]
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()
