"""`expire_after`: unsent messages that wait too long are dropped, counted, reported and removed from the store."""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, Asyncio

from mqttws import MessageExpired, MQTTError, QueueFull, Reconnect, SQLiteStore, compiled
from mqttws.broker import Broker
from mqttws.protocol.store import MemoryStore
from pubsub.testing import RecordingBroker

NOWHERE = "mqtt://127.0.0.1:1"
DURABLE: dict[str, Any] = {"client_id": "c", "clean_session": False}
#: No network, and no second attempt within a test.
OFFLINE: dict[str, Any] = {"retry_first": True, "reconnect": Reconnect(initial=60.0, interval=0.0)}


def hold_back(client: Any) -> None:
    """Prevent the client from sending messages of QoS 1 or 2, and so messages of QoS 0 after them."""
    inner = client.client if isinstance(client, Asyncio) else client
    inner._core.session.sender._max_in_flight = 0


def take(client: Any, count: int) -> list[bytes]:
    """Return the payloads of the next `count` messages."""
    messages = client.messages(timeout=PATIENCE)
    payloads = [next(messages).payload for _ in range(count)]
    messages.close()
    return payloads


@pytest.mark.parametrize("qos", [0, 1, 2])
@pytest.mark.parametrize("by", ["call", "option"])
def test_messages_expire_without_a_network(make: Callable[..., Any], qos: int, by: str) -> None:
    options = {"expire_after": 0.2} if by == "option" else {}
    client = make(NOWHERE, **OFFLINE, **options).open()
    late = client.publish_nowait("t", b"x", qos, **({"expire_after": 0.2} if by == "call" else {}))
    kept = client.publish_nowait("t", b"x", qos, expire_after=math.inf)
    with pytest.raises(MessageExpired, match="expire_after"):
        late.result(PATIENCE)
    assert not kept.done()
    assert client.expired == 1
    assert client.waiting.messages == 1


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_expire_while_the_window_is_full(make: Callable[..., Any], broker: Broker, qos: int) -> None:
    client = make(broker.url).open()
    subscriber = make(broker.url).open()
    subscriber.subscribe("t", 2)
    hold_back(client)
    first = client.publish_nowait("t", b"first", 1)
    with pytest.raises(MessageExpired):
        client.publish_nowait("t", b"late", qos, expire_after=0.1).result(PATIENCE)
    with pytest.raises(MessageExpired):
        client.publish("t", b"late", 1, expire_after=0.1)
    assert not first.done()
    assert client.expired == 2
    inner = client.client if isinstance(client, Asyncio) else client
    inner._core.session.sender._max_in_flight = 100
    client.publish_nowait("t", b"last", qos, expire_after=60.0).result(PATIENCE)
    assert take(subscriber, 2) == [b"first", b"last"]


def test_messages_expire_before_the_client_is_opened(make: Callable[..., Any], broker: Broker) -> None:
    client = make(broker.url, max_queued=2, overflow="raise", expire_after=0.05)
    futures = [client.publish_nowait("t", b"x", qos) for qos in (0, 1)]
    time.sleep(0.06)  # longer than expire_after
    client.publish_nowait("t", b"makes them go", 1, expire_after=60.0)  # and there is space, because they have expired
    for future in futures:
        with pytest.raises(MessageExpired):
            future.result(PATIENCE)
    assert client.waiting.messages == 1


@pytest.mark.parametrize("qos", [1, 2])
def test_a_sent_message_never_expires(make: Callable[..., Any], qos: int) -> None:
    with RecordingBroker() as broker:
        client = make(broker.url, expire_after=0.1).open()
        with broker.pause():
            future = client.publish_nowait("t", b"x", qos)
            time.sleep(0.2)
            assert not future.done()
            client.reconnect_now()
        future.result(PATIENCE)
        assert client.expired == 0
        client.close()


def test_expired_messages_are_removed_from_the_store(make: Callable[..., Any], tmp_path: Any) -> None:
    with SQLiteStore(tmp_path / "c.db") as store:
        client = make(NOWHERE, store=store, **DURABLE, **OFFLINE).open()
        late = client.publish_nowait("t", b"late", 1, expire_after=0.1)
        client.publish_nowait("t", b"kept", 2)
        with pytest.raises(MessageExpired):
            late.result(PATIENCE)
        client.close(timeout=0.1)
    with SQLiteStore(tmp_path / "c.db") as store:
        assert [value[-4:] for _, value in store.load(b"o")] == [b"kept"]


def test_the_age_survives_the_process(make: Callable[..., Any], broker: Broker) -> None:
    store, errors = MemoryStore(), queue.SimpleQueue[MQTTError]()
    first = make(NOWHERE, store=store, **DURABLE)
    first.publish_nowait("t", b"late", 1, expire_after=0.1)
    first.publish_nowait("t", b"in time", 1, expire_after=60.0)
    store.crash()
    kept = MemoryStore()  # a copy, since the first client still exists
    for key, value in store.load(b""):
        kept.put(key, value)
    time.sleep(0.15)
    subscriber = make(broker.url).open()
    subscriber.subscribe("t", 1)
    second = make(broker.url, store=kept, on_error=errors.put, **DURABLE)
    assert second.waiting.oldest >= 0.15
    second.open()
    assert take(subscriber, 1) == [b"in time"]
    error = errors.get(timeout=PATIENCE)
    assert isinstance(error, MessageExpired)
    assert "1 stored messages" in str(error)
    assert second.expired == 1


def test_waiting_counts_messages_and_bytes_and_age(make: Callable[..., Any]) -> None:
    client = make(NOWHERE, **OFFLINE)
    assert client.waiting == (0, 0, 0.0)
    client.publish_nowait("topic", b"12345", 1)
    client.open()
    client.publish_nowait("topic", b"12345")
    waiting = client.waiting
    assert (waiting.messages, waiting.size) == (2, 10 + 14)
    end = time.monotonic() + PATIENCE
    while client.waiting.oldest < 0.1 and time.monotonic() < end:
        time.sleep(0.02)
    assert 0.1 <= client.waiting.oldest < PATIENCE


def test_expired_messages_make_space_in_the_queue(make: Callable[..., Any], broker: Broker) -> None:
    client = make(broker.url, max_queued=1).open()
    hold_back(client)
    client.publish_nowait("t", b"late", 1, expire_after=0.1)
    with pytest.raises(QueueFull):
        client.publish_nowait("t", b"no space", 1)
    with pytest.raises(MessageExpired):  # it was queued, and expired itself
        client.publish("t", b"x", 1, expire_after=0.3)


def test_flush_does_not_wait_for_expired_messages(make: Callable[..., Any], broker: Broker) -> None:
    client = make(broker.url).open()
    hold_back(client)
    client.publish_nowait("t", b"late", 1, expire_after=0.1)
    client.flush(PATIENCE)


@pytest.mark.parametrize("value", [0, -1.0, math.nan])
def test_an_invalid_expire_after_is_refused(make: Callable[..., Any], value: float) -> None:
    with pytest.raises(ValueError, match="expire_after"):
        make(NOWHERE, expire_after=value)
    client = make(NOWHERE)
    for publish in (client.publish, client.publish_nowait):
        with pytest.raises(ValueError, match="expire_after"):
            publish("t", b"x", 1, expire_after=value)
        # The compiled build checks the types of arguments first, with another message.
        with pytest.raises(TypeError, match="expire_after|float or None" if compiled else "expire_after"):
            publish("t", b"x", 1, expire_after="1")
    assert client.waiting.messages == 0
