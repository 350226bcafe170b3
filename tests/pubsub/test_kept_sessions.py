"""Messages of a kept session that arrive before their observer wait, unacknowledged; for threads and asyncio."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drivers import wait_until
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import mqttws
from mqttws import Publish
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider
from pubsub.channel import Channel
from pubsub.held import Held

Api = Threads | Loop
TOPICS = ("orders", "alarms")


@pytest.fixture
def broker(stack: Any) -> Broker:
    broker: Broker = stack.enter_context(Broker(sys_interval=None))
    return broker


@pytest.fixture
def start(make: Callable[..., Api], broker: Broker) -> Callable[..., Api]:
    """Return a function that starts a program: a `PubSub` whose session the broker keeps."""

    def start(**options: Any) -> Api:
        return make(MqttOverWSProvider(broker.url, client_id="gate", clean_session=False, **options))

    return start


def subscribe(api: Api, topic: str, observer: Any, qos: int = 1) -> Any:
    subscription = api.call(api.ps.subscribe(topic, qos=qos).subscribe, observer)
    api.call(subscription.ready, PATIENCE)
    return subscription


def publish(broker: Broker, values: range, qos: int = 1, topics: tuple[str, ...] = TOPICS, size: int = 0) -> None:
    with mqttws.connect(broker.url) as other:
        for value in values:
            for topic in topics:
                other.publish(topic, str(value).ljust(size), qos)


def first_life(start: Callable[..., Api], qos: int = 1) -> None:
    api = start()
    for topic in TOPICS:
        subscribe(api, topic, id, qos)
    api.call(api.ps.close)


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("first", ["an observer", "a publish"])
def test_each_observer_gets_its_held_messages_in_order(
    start: Callable[..., Api], broker: Broker, qos: int, first: str
) -> None:
    first_life(start, qos)
    publish(broker, range(5), qos)
    api = start()
    if first == "a publish":
        api.call(api.ps.publish, "hello", 1, qos=1)
    for topic in TOPICS:
        recorder = Recorder()
        subscribe(api, topic, recorder, qos)
        recorder.wait_for_values(0, 1, 2, 3, 4)
        assert {message.topic for message in recorder.messages} == {topic}
        assert {message.qos for message in recorder.messages} == {qos}
    publish(broker, range(5, 6), qos)
    recorder.wait_for_values(0, 1, 2, 3, 4, 5)


def test_a_message_taken_just_before_its_observer_comes_stays_the_last(
    broker: Broker, stack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receiving thread has taken the fifth message and has not routed it, while four wait."""

    def start() -> Threads:
        api = Threads(MqttOverWSProvider(broker.url, client_id="gate", clean_session=False))
        stack.callback(api.ps.close)
        return api

    first_life(start)
    publish(broker, range(5))
    taken, observed, handle = threading.Event(), threading.Event(), Channel.handle

    def wait_before_the_fifth(self: Channel, message: Publish) -> Iterator[Any]:
        if (message.topic, message.payload) == (TOPICS[1], b"4") and not taken.is_set():
            taken.set()
            observed.wait(PATIENCE)
        yield from handle(self, message)

    monkeypatch.setattr(Channel, "handle", wait_before_the_fifth)
    api = start()
    subscribe(api, TOPICS[0], Recorder())
    assert taken.wait(PATIENCE)
    recorder = Recorder()
    subscribe(api, TOPICS[1], recorder)
    observed.set()
    recorder.wait_for_values(0, 1, 2, 3, 4)


def test_held_messages_are_acknowledged_when_their_observer_returns(start: Callable[..., Api], broker: Broker) -> None:
    first_life(start)
    publish(broker, range(3))
    second = start()
    for topic in TOPICS:
        recorder = Recorder()
        subscribe(second, topic, recorder)
        recorder.wait_for_values(0, 1, 2)
    wait_until(lambda: [session.in_flight for session in broker.sessions() if session.client_id == "gate"] == [0])
    second.call(second.ps.close)
    third = start()
    recorder = Recorder()
    subscribe(third, "alarms", recorder)
    publish(broker, range(9, 10), topics=("alarms",))
    recorder.wait_for_values(9)


def test_messages_without_an_observer_are_delivered_to_the_next_process(
    start: Callable[..., Api], broker: Broker
) -> None:
    first_life(start)
    publish(broker, range(3))
    second = start()
    recorder = Recorder()
    subscribe(second, "orders", recorder)
    recorder.wait_for_values(0, 1, 2)
    second.call(second.ps.close)
    third = start()
    recorder = Recorder()
    subscribe(third, "alarms", recorder)
    recorder.wait_for_values(0, 1, 2)


def test_messages_beyond_the_bound_wait_in_the_connection(start: Callable[..., Api], broker: Broker) -> None:
    first_life(start)
    publish(broker, range(30), size=2_000)
    api = start(hold_bytes=5_000)
    recorder = Recorder()
    subscribe(api, "orders", recorder)
    recorder.wait(lambda: len(recorder.messages) >= 3)
    api.call(api.ps.publish, "other", 1, qos=1)  # acknowledgements are still read
    late = Recorder()
    subscribe(api, "alarms", late)
    late.wait_for_values(*range(30))
    recorder.wait_for_values(*range(30))


def test_closing_while_messages_wait_for_space_does_not_hang(start: Callable[..., Api], broker: Broker) -> None:
    first_life(start)
    publish(broker, range(10), size=2_000)
    api = start(hold_bytes=1)
    api.call(api.ps.publish, "other", 1, qos=1)
    api.call(api.ps.close, PATIENCE)
    assert api.ps.connection_state == "Disconnected"


def test_messages_held_too_long_are_dropped_with_a_warning(
    start: Callable[..., Api], broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    first_life(start)
    publish(broker, range(200))
    with caplog.at_level(logging.WARNING, "pubsub"):
        api = start(hold_seconds=0.05, hold_bytes=200)
        recorder = Recorder()
        subscribe(api, "orders", recorder)
        recorder.wait_for_values(*range(200))
        publish(broker, range(200, 400))
        recorder.wait_for_values(*range(400))
    assert caplog.text.count("hold_seconds") == 1, "later messages are not held"
    assert "'alarms'" in caplog.text
    assert "hold_seconds" in caplog.text


def test_messages_of_unsubscribed_filters_are_not_held(start: Callable[..., Api], broker: Broker) -> None:
    first_life(start)
    api = start(hold_bytes=1)
    recorder, gone = Recorder(), Recorder()
    subscribe(api, "orders", recorder)
    subscription = subscribe(api, "alarms", gone)
    router = next(iter(api.ps._channels.values()))._router
    api.call(subscription.unsubscribe)
    assert router.wanted_before("alarms")
    assert not router.wanted_before("orders")
    subscribe(api, "alarms", gone)
    assert not router.wanted_before("alarms")


def test_nothing_is_held_in_a_new_session(make: Callable[..., Api], broker: Broker) -> None:
    """In a new session, a message without an observer can only belong to a filter that was unsubscribed from."""
    api = make(MqttOverWSProvider(broker.url, client_id="new", clean_session=False, hold_bytes=1))
    recorder = Recorder()
    subscribe(api, "a", recorder)
    channel = next(iter(api.ps._channels.values()))
    assert not channel._may_precede
    old = start_with_session(make, broker)
    assert next(iter(old.ps._channels.values()))._may_precede


def start_with_session(make: Callable[..., Api], broker: Broker) -> Api:
    provider = MqttOverWSProvider(broker.url, client_id="old", clean_session=False)
    first, second = make(provider), make(provider)
    first.call(first.ps.connect)
    first.call(first.ps.close)
    second.call(second.ps.connect)
    return second


def test_a_callback_may_subscribe_to_held_messages(start: Callable[..., Api], broker: Broker) -> None:
    first_life(start)
    publish(broker, range(3))
    api = start()
    recorder, over = Recorder(), threading.Event()

    def follow(message: Any) -> None:
        if not over.is_set():
            over.set()
            api.ps.subscribe("alarms", qos=1).subscribe(recorder)

    subscribe(api, "orders", follow)
    recorder.wait_for_values(0, 1, 2)


@pytest.mark.parametrize("options", [{"hold_seconds": 0}, {"hold_seconds": -1.0}, {"hold_bytes": 0}])
def test_bounds_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        MqttOverWSProvider("ws://broker.example/", **options)


def test_held_counts_bytes_and_keeps_the_order() -> None:
    held = Held(10, 5.0)
    publishes = [
        Publish("ä", b"12345678", 1, packet_id=1),
        Publish("b", b"", 1, packet_id=2),
        Publish("ä", b"", 2, packet_id=3),
    ]
    assert held.add(publishes[0])  # 2 bytes of topic, 8 of payload
    assert not held.add(publishes[1])
    assert held.claim(lambda topic: topic == "b") == []
    assert held.claim(lambda topic: topic == "ä") == [publishes[0]]
    assert all(map(held.add, publishes[1:]))
    assert held.claim(lambda topic: topic == "b") == [publishes[1]]
    assert held.add(publishes[1])
    assert held.take_all() == [publishes[2], publishes[1]]
    assert held.add(Publish("a", bytes(100), 1, packet_id=1)), "one message is accepted of any size"
    held.take_all()
    assert held.add(publishes[0])


def test_the_holding_time_begins_once() -> None:
    held = Held(10, 5.0)
    assert not held.is_over(1e9), "there was no connection yet"
    assert held.begin(100.0)
    assert not held.begin(103.0)
    assert not held.is_over(104.9)
    assert held.is_over(105.0)
    forever = Held(10, math.inf)
    assert not forever.begin(100.0)
    assert not forever.is_over(1e9)
