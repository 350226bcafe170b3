"""The contract of the PubSub API, with a real broker; each test runs for threads and for asyncio."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import pubsub
from mqttws import ConnectError, ConnectionRefused, LocalProtocolError, QueueFull, SubscribeRejected
from mqttws.broker import Broker
from mqttws.broker.hooks import Refused
from pubsub import ConnectionState, ConnectionStateChange, DecodeFailed, Message, MqttOverWSProvider, PublishFailed
from pubsub.channel import Channel

Api = Threads | Loop


def subscribe(api: Api, topics: Any, observer: Any, **options: Any) -> Any:
    """Subscribe, and wait for the SUBACK."""
    subscription = api.call(api.ps.subscribe(topics, **options).subscribe, observer)
    api.call(subscription.ready, PATIENCE)
    return subscription


# Messages.


def test_an_object_published_to_two_topics_arrives_on_both(api: Api, recorder: Recorder) -> None:
    subscription = subscribe(api, ["myTopic1", "myTopic2"], recorder, qos=1)
    api.call(api.ps.publish, ["myTopic1", "myTopic2"], {"msg": "Hello to all subscribers!"}, qos=1)
    recorder.wait_for_values({"msg": "Hello to all subscribers!"}, {"msg": "Hello to all subscribers!"})
    assert recorder.messages[0] == Message(
        "myTopic1",
        {"msg": "Hello to all subscribers!"},
        b'{"msg":"Hello to all subscribers!"}',
        qos=1,
        retain=False,
        dup=False,
        provider="MqttOverWSProvider",
    )
    assert recorder.messages[1].topic == "myTopic2"
    assert subscription.topics == ("myTopic1", "myTopic2")


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_qos_arrives_once(api: Api, recorder: Recorder, qos: int) -> None:
    subscribe(api, "a", recorder, qos=2)
    for number in range(3):
        api.call(api.ps.publish, "a", number, qos=qos)
    recorder.wait_for_values(0, 1, 2)
    assert {message.qos for message in recorder.messages} == {qos}


def test_publishing_needs_no_subscription(api: Api, world: Any) -> None:
    api.call(api.ps.publish, "lonely", 1, qos=1)
    assert world.published == ["lonely"]
    assert world.connections == 1


@pytest.mark.parametrize(
    ("payload", "value"),
    [
        (b'{"a": [1, null]}', {"a": [1, None]}),
        (b"21.5", 21.5),
        ("grüße".encode(), "grüße"),
        (b"", ""),
        (b"\xff\x00", b"\xff\x00"),
        (b"[" * 100_000, "[" * 100_000),
    ],
    ids=["object", "number", "text", "empty", "bytes", "nested too deeply"],
)
def test_other_payloads_arrive_as_text_or_bytes(
    api: Api, recorder: Recorder, world: Any, payload: bytes, value: Any
) -> None:
    subscribe(api, "a", recorder)
    world.broker.publish("a", payload)
    recorder.wait_for_values(value)
    assert recorder.messages[0].payload == payload
    assert recorder.errors == []


def test_a_decode_failure_is_reported_and_ends_nothing(api: Api, recorder: Recorder, world: Any) -> None:
    subscribe(api, "a", recorder, codec=pubsub.TEXT)
    world.broker.publish("a", b"\xff")
    world.broker.publish("a", b"good")
    recorder.wait_for_values("good")
    [error] = recorder.errors
    assert isinstance(error, DecodeFailed)
    assert error.message.payload == b"\xff"
    assert recorder.closes == 0


def test_a_custom_codec(api: Api, recorder: Recorder) -> None:
    class Number:
        def encode(self, value: int) -> bytes:
            return b"%d" % value

        def decode(self, payload: bytes) -> int:
            return int(payload)

    subscribe(api, "a", recorder, codec=Number())
    api.call(api.ps.publish, "a", 7, codec=Number())
    recorder.wait_for_values(7)


# Subscriptions.


def test_ready_returns_the_granted_qos(api: Api) -> None:
    subscription = api.call(api.ps.subscribe(["a", "b/#"], qos=1).subscribe)
    assert api.call(subscription.ready, PATIENCE) == {"a": 1, "b/#": 1}


def test_nothing_happens_until_the_observable_is_subscribed_to(api: Api, world: Any) -> None:
    observable = api.ps.subscribe("a")
    assert world.connections == 0
    subscription = api.call(observable.subscribe)
    api.call(subscription.ready, PATIENCE)
    assert world.connections == 1


def test_each_subscribe_of_an_observable_is_a_separate_subscription(api: Api) -> None:
    observable, first, second = api.ps.subscribe("a"), Recorder(), Recorder()
    one = api.call(observable.subscribe, first)
    two = api.call(observable.subscribe, second)
    for subscription in (one, two):
        api.call(subscription.ready, PATIENCE)
    api.call(one.unsubscribe, PATIENCE)
    api.call(api.ps.publish, "a", 1, qos=1)
    second.wait_for_values(1)
    assert (first.closes, second.closes) == (1, 0)
    assert first.messages == []
    assert one.closed
    assert not two.closed


def test_many_observers_of_one_filter_make_one_subscribe(api: Api, world: Any) -> None:
    recorders = [Recorder() for _ in range(20)]

    def subscribe_all() -> list[Any]:
        return [api.ps.subscribe("a", qos=1).subscribe(recorder) for recorder in recorders]

    subscriptions = api.call(subscribe_all)
    for subscription in subscriptions:
        assert api.call(subscription.ready, PATIENCE) == {"a": 1}
    assert world.subscribed == [("a", 1)]
    api.call(api.ps.publish, "a", 1, qos=1)
    for recorder in recorders:
        recorder.wait_for_values(1)
    for subscription in subscriptions[:-1]:
        api.call(subscription.unsubscribe, PATIENCE)
    assert world.broker.metrics()["subscriptions/count"] == 1
    api.call(api.ps.publish, "a", 2, qos=1)
    recorders[-1].wait_for_values(1, 2)
    assert all(recorder.values == [1] for recorder in recorders[:-1])


def test_overlapping_filters_give_one_call_for_each_message(api: Api, recorder: Recorder) -> None:
    subscribe(api, ["a/#", "a/+", "a/b"], recorder, qos=1)
    subscribe(api, "#", Recorder())
    api.call(api.ps.publish, "a/b", 1, qos=1)
    api.call(api.ps.publish, "a", 2, qos=1)
    recorder.wait_for_values(1, 2)


def test_retained_messages_reach_each_new_observer_once(api: Api, world: Any) -> None:
    world.broker.publish("kept/1", b"1", retain=True)
    first, second, third = Recorder(), Recorder(), Recorder()
    subscribe(api, "kept/#", first)
    first.wait_for_values(1)
    subscribe(api, "kept/#", second)
    second.wait_for_values(1)
    world.broker.publish("kept/1", b"2", retain=True)
    second.wait_for_values(1, 2)
    subscribe(api, ["kept/+", "kept/1"], third)
    third.wait_for_values(2)
    world.broker.publish("kept/1", b"3")
    for recorder, values in ((first, [1, 2, 3]), (second, [1, 2, 3]), (third, [2, 3])):
        recorder.wait_for_values(*values)
    assert [message.retain for message in first.messages] == [True, False, False]
    assert [message.retain for message in third.messages] == [True, False]


def test_a_higher_qos_is_requested_later(api: Api, world: Any) -> None:
    low, high = Recorder(), Recorder()
    subscribe(api, "a", low, qos=0)
    subscription = subscribe(api, "a", high, qos=2)
    assert api.call(subscription.ready) == {"a": 2}
    api.call(api.ps.publish, "a", 1, qos=2)
    for recorder in (low, high):
        recorder.wait_for_values(1)
        assert recorder.messages[0].qos == 2


def test_topics_are_added_and_removed(api: Api, recorder: Recorder) -> None:
    subscription = subscribe(api, "a", recorder)
    api.call(subscription.add, ["b", "c"], qos=1)
    assert api.call(subscription.ready, PATIENCE) == {"a": 0, "b": 1, "c": 1}
    api.call(subscription.remove, "a")
    assert subscription.topics == ("b", "c")
    for topic in ("a", "b", "c"):
        api.call(api.ps.publish, topic, topic, qos=1)
    recorder.wait_for_values("b", "c")
    with pytest.raises(ValueError, match="'a'"):
        subscription.remove("a")
    with pytest.raises(LocalProtocolError):
        subscription.add("a/#/b")
    api.call(subscription.remove, ["b", "c"])
    assert not subscription.closed
    api.call(subscription.add, "a")
    assert api.call(subscription.ready, PATIENCE) == {"a": 0}
    api.call(subscription.unsubscribe, PATIENCE)
    with pytest.raises(pubsub.SubscriptionEnded):
        api.call(subscription.add, "b")
    with pytest.raises(pubsub.SubscriptionEnded, match=r"^the subscription has ended; "):
        api.call(subscription.ready)


def test_close_is_called_once_however_often_it_ends(api: Api, recorder: Recorder) -> None:
    subscription = subscribe(api, "a", recorder)
    for _ in range(2):
        api.call(subscription.unsubscribe, PATIENCE)
        assert recorder.closes == 1
    api.call(api.ps.close)
    assert recorder.closes == 1
    assert recorder.errors == []


def test_closing_the_pubsub_closes_its_subscriptions_and_it_may_be_used_again(api: Api, recorder: Recorder) -> None:
    subscription = subscribe(api, "a", recorder)
    api.call(api.ps.close)
    assert recorder.closes == 1
    assert subscription.closed
    assert api.ps.connection_state == "Disconnected"
    again = Recorder()
    subscribe(api, "a", again)
    api.call(api.ps.publish, "a", 1)
    again.wait_for_values(1)
    assert recorder.messages == []


def test_unsubscribing_ends_the_subscription_at_the_server(api: Api, world: Any) -> None:
    subscription = subscribe(api, ["a", "b"], Recorder())
    assert world.broker.metrics()["subscriptions/count"] == 2
    api.call(subscription.unsubscribe, PATIENCE)
    assert world.broker.metrics()["subscriptions/count"] == 0


def test_a_refused_filter_is_an_error_and_the_others_work(api: Api, recorder: Recorder, world: Any) -> None:
    world.forbidden.add("secret")
    subscription = api.call(api.ps.subscribe(["a", "secret"], qos=1).subscribe, recorder)
    assert api.call(subscription.ready, PATIENCE) == {"a": 1, "secret": 128}
    recorder.wait(lambda: recorder.errors)
    [error] = recorder.errors
    assert isinstance(error, SubscribeRejected)
    assert error.topic_filter == "secret"
    assert subscription.topics == ("a",)
    assert recorder.closes == 0


def test_a_subscription_whose_every_filter_is_refused_ends(api: Api, recorder: Recorder, world: Any) -> None:
    world.forbidden |= {"secret", "hidden"}
    subscription = api.call(api.ps.subscribe(["secret", "hidden"]).subscribe, recorder)
    with pytest.raises(SubscribeRejected):
        api.call(subscription.ready, PATIENCE)
    recorder.wait(lambda: recorder.closes)
    assert [error.topic_filter for error in recorder.errors if isinstance(error, SubscribeRejected)] == [
        "secret",
        "hidden",
    ]
    assert subscription.closed


def test_invalid_filters_raise_without_a_connection(api: Api, world: Any) -> None:
    for topics in ("a/#/b", ["good", "a+"], ""):
        with pytest.raises(LocalProtocolError):
            api.ps.subscribe(topics)
    with pytest.raises(LocalProtocolError):
        api.ps.subscribe("a", qos=3)
    with pytest.raises(ValueError, match="no topic"):
        api.ps.subscribe([])
    with pytest.raises(TypeError):
        api.ps.subscribe([b"a"])
    assert world.connections == 0


# Iteration.


def test_iterating_is_a_subscription_that_ends_with_the_loop(api: Api, world: Any) -> None:
    world.broker.publish("begin", b"now", retain=True)

    def begun() -> None:
        for number in range(5):
            world.broker.publish(f"b/{number}", str(number), qos=1)

    taken = api.iterate(["a", "b/#", "begin"], 3, begun, qos=1)
    assert [message.value for message in taken] == [0, 1, 2]
    api.call(api.ps.publish, "after", 1, qos=1)  # the server handles packets in order, so the UNSUBSCRIBE is done
    assert world.broker.metrics()["subscriptions/count"] == 0


def test_an_iteration_ends_at_its_timeout(api: Api) -> None:
    assert api.iterate("a", 1, lambda: None, timeout=0.2) == []


def test_an_iteration_raises_the_error_that_ended_it(make: Callable[..., Api], api: Api, world: Any) -> None:
    world.forbidden.add("secret")
    with pytest.raises(SubscribeRejected):
        api.iterate("secret", 1, lambda: None)
    nowhere = make(MqttOverWSProvider("ws://127.0.0.1:1/mqtt"))
    with pytest.raises(ConnectError):
        nowhere.iterate("a", 1, lambda: None)


def test_a_slow_iteration_loses_nothing(api: Api, world: Any) -> None:
    """More messages than the inbox holds wait, in order."""
    world.broker.publish("begin", b"now", retain=True)

    def begun() -> None:
        for number in range(500):
            world.broker.publish("n", str(number), qos=1)

    taken = api.iterate(["n", "begin"], 500, begun, qos=1)
    assert [message.value for message in taken] == list(range(500))


# Publishing.


def test_every_topic_is_checked_before_anything_is_sent(api: Api, world: Any) -> None:
    for topics in (["good", "bad/#"], ["good", ""], "bad/+"):
        with pytest.raises(LocalProtocolError):
            api.call(api.ps.publish, topics, 1)
    with pytest.raises(LocalProtocolError):
        api.call(api.ps.publish, "good", 1, qos=3)
    with pytest.raises(TypeError, match="set cannot be published as JSON"):
        api.call(api.ps.publish, "good", {1})
    with pytest.raises(ValueError, match="JSON"):
        api.call(api.ps.publish, "good", float("nan"))
    assert world.connections == 0


def test_publish_failures_are_reported_for_each_topic(make: Callable[..., Api]) -> None:
    api = make(MqttOverWSProvider("ws://127.0.0.1:1/mqtt"))
    with pytest.raises(PublishFailed) as failed:
        api.call(api.ps.publish, ["a", "b"], 1)
    assert set(failed.value.errors) == {"a", "b"}
    assert all(isinstance(error, ConnectError) for error in failed.value.errors.values())
    assert "2 of 2 topics" in str(failed.value)


def test_a_full_queue_is_reported_for_the_topics_that_did_not_fit(make: Callable[..., Api], world: Any) -> None:
    api = make(world.provider(max_queued=2, max_in_flight=1))
    topics = [f"t/{number}" for number in range(3_000)]  # far more than can be sent in the meantime

    def publish_all() -> Any:
        return api.ps.publish_nowait(topics, 1, qos=1)

    with pytest.raises(PublishFailed) as failed:
        api.call(lambda: waited(publish_all()))
    assert set(failed.value.errors) < set(topics)
    assert all(isinstance(error, QueueFull) for error in failed.value.errors.values())
    assert sorted(world.published) == sorted(set(topics) - set(failed.value.errors))


def waited(future: Any) -> Any:
    return future if hasattr(future, "get_loop") else future.result(PATIENCE)


def test_publish_nowait_returns_a_future(api: Api, world: Any) -> None:
    api.call(lambda: waited(api.ps.publish_nowait(["a", "b"], 1, qos=1)))
    assert world.published == ["a", "b"]


def test_retained_messages_are_published_and_removed(api: Api, world: Any) -> None:
    api.call(api.ps.publish, "kept", {"n": 1}, retain=True, qos=1)
    first = Recorder()
    subscription = subscribe(api, "kept", first)
    first.wait_for_values({"n": 1})
    api.call(subscription.unsubscribe)
    api.call(api.ps.publish, "kept", b"", retain=True, qos=1)
    second = Recorder()
    subscribe(api, "kept", second)
    api.call(api.ps.publish, "kept", 2, qos=1)
    second.wait_for_values(2)


# Callbacks.


def test_an_exception_in_a_callback_is_logged_and_stops_nothing(
    api: Api, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    good, seen = Recorder(), []

    def bad(message: Message) -> None:
        seen.append(message.value)
        raise RuntimeError("of the user")

    api.call(api.call(api.ps.subscribe("a").subscribe, bad).ready)
    subscribe(api, "a", good)
    with caplog.at_level(logging.ERROR, "pubsub"):
        for number in range(2):
            api.call(api.ps.publish, "a", number)
        good.wait_for_values(0, 1)
    assert seen == [0, 1]
    assert "of the user" in caplog.text


def test_errors_without_an_observer_are_logged(api: Api, world: Any, caplog: pytest.LogCaptureFixture) -> None:
    world.forbidden.add("secret")
    closed = threading.Event()
    with caplog.at_level(logging.WARNING, "pubsub"):
        api.call(lambda: api.ps.subscribe("secret").subscribe(close=closed.set) and None)
        assert closed.wait(PATIENCE)
    assert "'secret'" in caplog.text


@pytest.mark.parametrize(
    "names", [("next", "error", "close"), ("next", "error", "complete"), ("on_next", "on_error", "on_completed")]
)
def test_the_three_forms_of_observers(api: Api, world: Any, names: tuple[str, str, str]) -> None:
    recorder = Recorder()
    methods = dict(zip(names, (recorder.next, recorder.error, recorder.close), strict=True))
    observer = type("Observer", (), {name: staticmethod(method) for name, method in methods.items()})()
    subscription = subscribe(api, "a", observer, codec=pubsub.TEXT)
    world.broker.publish("a", b"\xff")
    world.broker.publish("a", b"x")
    recorder.wait_for_values("x")
    assert len(recorder.errors) == 1
    api.call(subscription.unsubscribe)
    assert recorder.closes == 1


def test_an_invalid_observer_is_refused(api: Api) -> None:
    with pytest.raises(TypeError, match="next is a int"):
        api.ps.subscribe("a").subscribe(7)
    with pytest.raises(TypeError, match="not both"):
        api.ps.subscribe("a").subscribe(Recorder(), print)


# Connecting.


def test_a_failed_connection_ends_the_subscription(make: Callable[..., Api], recorder: Recorder) -> None:
    api = make(MqttOverWSProvider("ws://127.0.0.1:1/mqtt"))
    subscription = api.call(api.ps.subscribe("a").subscribe, recorder)
    with pytest.raises(ConnectError):
        api.call(subscription.ready, PATIENCE)
    recorder.wait(lambda: recorder.closes)
    [error] = recorder.errors
    assert isinstance(error, ConnectError)
    with pytest.raises(ConnectError):
        api.call(api.ps.connect)


def test_a_refused_connack_ends_the_subscription(stack: Any, make: Callable[..., Api], recorder: Recorder) -> None:
    broker = stack.enter_context(Broker(authenticator=lambda peer, connect: Refused(4)))
    api = make(MqttOverWSProvider(broker.url, username="u", password="canary-password"))
    changes: list[ConnectionStateChange] = []
    api.ps.connection_state_changes.subscribe(changes.append)
    api.call(api.ps.subscribe("a").subscribe, recorder)
    recorder.wait(lambda: recorder.closes)
    [error] = recorder.errors
    assert isinstance(error, ConnectionRefused)
    assert error.return_code == 4
    api.call(api.ps.close)
    assert [change.state for change in changes] == ["Connecting", "Disconnected"]
    reason = changes[-1].reason
    assert isinstance(reason, ConnectionRefused)
    assert reason.return_code == 4
    assert "canary" not in repr(changes) + repr(recorder.errors) + repr(api.ps) + repr(api.ps.providers)


def test_the_sequence_of_states(api: Api) -> None:
    changes: list[ConnectionStateChange] = []
    watch = api.ps.connection_state_changes.subscribe(changes.append)
    assert api.ps.connection_state is ConnectionState.DISCONNECTED
    api.call(api.ps.connect)
    assert api.ps.connection_state == "Connected"
    assert api.ps.connection_states == {"MqttOverWSProvider": "Connected"}
    api.call(api.ps.close)
    assert [(change.previous, change.state) for change in changes] == [
        ("Disconnected", "Connecting"),
        ("Connecting", "Connected"),
        ("Connected", "ConnectedPendingDisconnect"),
        ("ConnectedPendingDisconnect", "Disconnected"),
    ]
    assert {change.reason for change in changes} == {None}
    assert not watch.closed
    watch.unsubscribe()
    assert watch.closed
    api.call(api.ps.connect)
    assert len(changes) == 4


def test_the_state_is_connected_when_connect_returns(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, change = [], Channel._change

    def note(self: Channel, state: ConnectionState, error: Exception | None) -> None:
        if state is ConnectionState.CONNECTED:
            opened.append(self.opened.done())
        change(self, state, error)

    monkeypatch.setattr(Channel, "_change", note)
    api.call(api.ps.connect)
    assert opened == [False]


def test_reauthenticate_reconnects_and_keeps_subscriptions(api: Api, recorder: Recorder, world: Any) -> None:
    subscribe(api, "a", recorder, qos=1)
    api.call(api.ps.reauthenticate)
    world.wait(lambda: world.connections == 2)
    world.wait(lambda: len(world.subscribed) == 2)
    api.call(api.ps.publish, "a", 1, qos=1)
    recorder.wait_for_values(1)
    assert recorder.closes == 0
    assert recorder.errors == []
