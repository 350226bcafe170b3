"""A client with a store: accepted messages are sent even if its process ends; and full queues."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE, Asyncio, States

from mqttws import (
    ConnectionClosed,
    LocalProtocolError,
    MQTTError,
    QueueFull,
    Reconnect,
    SQLiteStore,
    StoreError,
    TimedOut,
)
from mqttws.broker import Broker
from mqttws.protocol.store import MemoryStore

DURABLE: dict[str, Any] = {"client_id": "c", "clean_session": False}
NOWHERE = "mqtt://127.0.0.1:1"


class Failing(MemoryStore):
    """A store whose disk can become full."""

    full = False

    def commit(self) -> None:
        if self.full and self._pending:
            raise StoreError("the disk is full")
        super().commit()


def received(make: Callable[..., Any], broker: Broker, count: int) -> list[bytes]:
    """Return the next `count` messages of the subscriber "s", which has a session at the broker."""
    client = make(broker.url, client_id="s", clean_session=False).open()
    client.subscribe("t", 2)
    messages = client.messages()
    return [next(messages).payload for _ in range(count)]


def test_what_was_published_offline_is_sent_by_the_next_process(make: Callable[..., Any], broker: Broker) -> None:
    store = MemoryStore()
    received(make, broker, 0)
    first = make(NOWHERE, store=store, **DURABLE)
    futures = [first.publish_nowait("t", b"%d" % number, 1 + number % 2) for number in range(5)]
    first.publish_nowait("t", b"of QoS 0")
    store.crash()
    assert len(store) == 5
    assert not any(future.done() for future in futures)
    second = make(broker.url, store=store, **DURABLE).open()
    second.publish("t", b"5", 2)
    assert received(make, broker, 6) == [b"%d" % number for number in range(6)]
    assert len(store) == 0


def test_messages_of_a_killed_process_are_sent(make: Callable[..., Any], broker: Broker, tmp_path: Path) -> None:
    program = (
        "import os, sys, mqttws\n"
        "client = mqttws.Client('mqtt://127.0.0.1:1', client_id='c', clean_session=False,"
        " store=mqttws.SQLiteStore(sys.argv[1]))\n"
        "for n in range(100): client.publish_nowait('t', b'%d' % n, 1 + n % 2)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    received(make, broker, 0)
    path = tmp_path / "c.db"
    assert subprocess.run([sys.executable, "-c", program, path], check=False, timeout=60).returncode == -9
    with SQLiteStore(path) as store:
        client = make(broker.url, store=store, **DURABLE)
        client.open()
        assert received(make, broker, 100) == [b"%d" % number for number in range(100)]
        client.publish("t", b"the last", 1)
        client.close()
        assert store.load(b"") == []


def test_messages_left_by_close_are_reported_and_kept(make: Callable[..., Any]) -> None:
    store = MemoryStore()
    client = make(NOWHERE, store=store, **DURABLE)
    kept = client.publish_nowait("t", b"kept", 1)
    gone = client.publish_nowait("t", b"gone")
    client.close()
    with pytest.raises(ConnectionClosed, match="the store keeps the message"):
        kept.result(30)
    with pytest.raises(ConnectionClosed) as error:
        gone.result(30)
    assert "store" not in str(error.value)
    store.crash()
    assert len(store) == 1


def test_taken_messages_and_subscriptions_survive_the_process(make: Callable[..., Any], broker: Broker) -> None:
    store = MemoryStore()
    first = make(broker.url, store=store, **DURABLE).open()
    first.subscribe([("t", 2), ("u", 1)])
    first.unsubscribe("u")
    broker.publish("t", b"1", 2)
    messages = first.messages()
    assert next(messages).payload == b"1"
    messages.close()  # acknowledges it
    assert store.load(b"s") == [(b"s\0\x01ct", b"\x02")]
    first.close()
    broker.publish("t", b"2", 2)
    second = make(broker.url, store=store, **DURABLE).open()
    messages = second.messages()
    assert next(messages).payload == b"2"
    messages.close()
    second.close()
    with Broker(sys_interval=None) as other:  # a broker without the session
        third = make(other.url, store=store, **DURABLE).open()
        third.subscribe("a", 0)  # answered after the restored subscriptions
        other.publish("t", b"3", 1)
        assert next(third.messages()).payload == b"3"


@pytest.mark.parametrize(
    "options",
    [{"client_id": "c"}, {"clean_session": False}, {"client_id": "", "clean_session": False}, {"overflow": "drop"}],
)
def test_contradictory_options_are_refused(make: Callable[..., Any], options: dict[str, Any]) -> None:
    store = None if "overflow" in options else MemoryStore()
    with pytest.raises(ValueError, match=r"a store requires a client_id|overflow is 'drop'; it must be one of block"):
        make(NOWHERE, store=store, **options)


def test_a_store_that_cannot_be_written_refuses_what_it_cannot_keep(make: Callable[..., Any]) -> None:
    store = Failing()
    client = make(NOWHERE, store=store, **DURABLE)
    store.full = True
    with pytest.raises(StoreError, match="full"):
        client.publish_nowait("t", b"x", 1)
    client.publish_nowait("t", b"x", 0)
    store.full = False
    client.publish_nowait("t", b"y", 1)
    assert [value[-1:] for _, value in store.load(b"o")] == [b"y"]


def test_a_new_client_takes_the_store_over_from_one_that_is_not_open(make: Callable[..., Any], broker: Broker) -> None:
    store = MemoryStore()
    received(make, broker, 0)
    first = make(broker.url, store=store, **DURABLE)
    future = first.publish_nowait("t", b"0", 1)
    with pytest.raises(LocalProtocolError, match="keep alive"):  # an option that is refused changes nothing
        make(broker.url, store=store, keep_alive=-1, **DURABLE)
    first.publish_nowait("t", b"1", 1)
    second = make(broker.url, store=store, **DURABLE)
    for _ in range(2):
        with pytest.raises(StoreError, match="a newer client has taken over this store with the client identifier 'c'"):
            first.publish_nowait("t", b"never", 1)
        with pytest.raises(StoreError, match="a newer client"):
            first.open()
        assert first.state.name == "disconnected"
    first.close()
    assert "the store keeps the message" in str(future.exception(PATIENCE).fate)
    second.publish_nowait("t", b"2", 2)
    second.open()
    assert received(make, broker, 3) == [b"0", b"1", b"2"]
    second.close()
    second.open()  # the same client again
    second.close()
    assert len(store) == 0


def test_an_open_client_keeps_the_store(make: Callable[..., Any], broker: Broker) -> None:
    store = MemoryStore()
    first = make(broker.url, store=store, **DURABLE).open()
    with pytest.raises(StoreError, match="another client uses this store with the client identifier 'c'"):
        make(broker.url, store=store, **DURABLE)
    make(broker.url, store=store, client_id="d", clean_session=False).open().publish("t", b"", 1)
    first.publish("t", b"", 1)
    first.close()
    second = make(broker.url, store=store, **DURABLE).open()
    with pytest.raises(StoreError, match="a newer client"):
        first.open()
    second.publish("t", b"", 1)


def test_a_closed_event_loop_keeps_no_store() -> None:
    """A client or a broker that was not closed, in an event loop that was, can use the store no more."""
    program = """
import asyncio, gc
from mqttws import aio
from mqttws.broker import Broker
from mqttws.protocol.store import MemoryStore

gc.disable()  # which would free them
stores, kept = (MemoryStore(), MemoryStore()), []

async def use():
    broker = Broker(store=stores[0])
    await broker.start_async()
    client = aio.Client(broker.url, client_id="c", clean_session=False, store=stores[1])
    await client.open()
    kept.extend((broker, client))

for _ in range(2):
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use())
    loop.close()

async def again():
    for old in kept[0].start_async, kept[1].open:
        try:
            await old()
        except Exception as error:
            print(type(error).__name__)

asyncio.run(again())
print(len(kept), flush=True)
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-c", f"import os\n{program}"], check=False, timeout=60, capture_output=True, text=True
    )
    assert done.stdout.split() == ["RuntimeError", "StoreError", "4"], done.stderr


def test_a_failing_store_ends_the_client_with_end_on(make: Callable[..., Any], broker: Broker) -> None:
    store = Failing()
    client = make(broker.url, store=store, end_on=StoreError, **DURABLE).open()
    subscriber = make(broker.url).open()
    subscriber.subscribe("t", 1)
    store.full = True
    with pytest.raises(MQTTError, match="full"):
        client.publish("t", b"never", 1)
    assert client.state.name == "disconnected"
    assert isinstance(client.state.error, StoreError)
    broker.publish("t", b"only")
    assert next(subscriber.messages()).payload == b"only"


def test_a_temporarily_failing_store_delays_messages(make: Callable[..., Any], broker: Broker) -> None:
    states = States()
    store = Failing()
    client = make(broker.url, store=store, on_state=states, reconnect=Reconnect(initial=0.01, maximum=0.02), **DURABLE)
    client.open()
    subscriber = make(broker.url).open()
    subscriber.subscribe("t", 1)
    store.full = True
    with pytest.raises(TimedOut):
        client.publish("t", b"held up", 1, timeout=0.1)
    assert isinstance(states.wait("disrupted", 2).error, StoreError)
    store.full = False
    assert next(subscriber.messages(timeout=PATIENCE)).payload == b"held up"


def test_withdrawn_messages_are_not_in_the_next_process(make: Callable[..., Any]) -> None:
    store = Failing()
    client = make(NOWHERE, store=store, **DURABLE)
    core = (client.client if isinstance(client, Asyncio) else client)._core
    client.publish_nowait("t", b"x", 1)
    client.publish_nowait("t", b"y", 1)
    assert core.pending.withdraw(1)
    store.crash()
    assert len(store) == 1
    store.full = True
    assert not core.pending.withdraw(2)  # it can no longer be withdrawn
    store.crash()
    assert len(store) == 1


def publish_ten(client: Any) -> tuple[list[Any], int]:
    """Publish ten messages. Return the futures of the accepted ones, and the number of refused ones."""
    futures, refused = [], 0
    for number in range(10):
        try:
            futures.append(client.publish_nowait("t", b"%d" % number, 1))
        except QueueFull:
            refused += 1
    return futures, refused


@pytest.mark.parametrize("bound", [{"max_queued": 4}, {"max_queued_bytes": 8}], ids=["count", "bytes"])
@pytest.mark.parametrize(
    ("overflow", "refused", "failed", "sent"),
    [
        ("block", 6, [], [0, 1, 2, 3]),
        ("raise", 6, [], [0, 1, 2, 3]),
        ("drop_newest", 0, [4, 5, 6, 7, 8, 9], [0, 1, 2, 3]),
        ("drop_oldest", 0, [0, 1, 2, 3, 4, 5], [6, 7, 8, 9]),
    ],
)
@pytest.mark.parametrize("durable", [False, True])
def test_the_overflow_of_a_full_queue(
    make: Callable[..., Any],
    broker: Broker,
    bound: dict[str, int],
    overflow: str,
    refused: int,
    failed: list[int],
    sent: list[int],
    durable: bool,
) -> None:
    received(make, broker, 0)
    options = {"store": MemoryStore(), **DURABLE} if durable else {}
    client = make(broker.url, overflow=overflow, **bound, **options)
    futures, count = publish_ten(client)
    assert count == refused
    inner = client.client if isinstance(client, Asyncio) else client
    assert inner.dropped == len(failed)
    for number in failed:
        with pytest.raises(QueueFull):
            futures[number].result(30)
    client.open()
    assert received(make, broker, len(sent)) == [b"%d" % number for number in sent]
    if durable:
        assert len(options["store"]) <= len(sent)


def test_which_calls_may_wait_for_space(make: Callable[..., Any], broker: Broker) -> None:
    for overflow, error in (("block", TimeoutError), ("raise", QueueFull)):
        client = make(broker.url, overflow=overflow, max_queued=1).open()
        (client.client if isinstance(client, Asyncio) else client)._core.session.sender._max_in_flight = 0
        client.publish_nowait("t", b"1", 1)
        with pytest.raises(error):
            client.publish("t", b"2", 1, timeout=0.1)
