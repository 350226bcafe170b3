"""Publishing and subscriptions across a lost connection; for threads and asyncio."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from picky import Picky
from pubsub_faces import PATIENCE, Loop, Recorder, Threads
from scripted import Scripted

from mqttws import (
    ConnectError,
    HandshakeRejected,
    Reconnect,
    SessionTakenOver,
    TimedOut,
    Unsubscribe,
    UnsubscribeRejected,
)
from mqttws.broker import Broker
from mqttws.broker.hooks import Peer, Rejection
from pubsub import ConnectionStateChange, MqttOverWSProvider, NotConnected, PublishFailed

Api = Threads | Loop
SOON = Reconnect(initial=0.02, maximum=0.05)


class Watcher(Recorder):
    """A recorder of connection states."""

    changes: list[ConnectionStateChange]

    def __init__(self, api: Api) -> None:
        super().__init__()
        api.ps.connection_state_changes.subscribe(self.next)

    def wait_for(self, *states: str) -> None:
        """Wait until these states have been reported in this order, with any others in between."""

        def come() -> bool:
            left = iter(self.messages)
            return all(any(change.state == state for change in left) for state in states)  # type: ignore[attr-defined]

        self.wait(come)


def subscribe(api: Api, topics: Any, observer: Any, **options: Any) -> Any:
    subscription = api.call(api.ps.subscribe(topics, **options).subscribe, observer)
    api.call(subscription.ready, PATIENCE)
    return subscription


def waited(future: Any) -> Any:
    return future if hasattr(future, "get_loop") else future.result(PATIENCE)


def test_a_restarted_broker_loses_no_subscription(
    closed_port: int, stack: Any, make: Callable[..., Api], recorder: Recorder
) -> None:
    broker = Broker(ws_port=closed_port)
    broker.start()
    stack.callback(lambda: broker.stop())
    url = broker.url
    api = make(MqttOverWSProvider(url, reconnect=SOON))
    watcher = Watcher(api)
    subscription = subscribe(api, ["a", "b/#"], recorder, qos=1)
    broker.stop()
    watcher.wait_for("Connected", "ConnectionDisrupted", "ConnectionDisruptedPendingNetwork")
    outcome = api.call(lambda: [api.ps.publish_nowait(["a", "b/c"], "offline", qos=1)])
    broker = Broker(ws_port=closed_port)
    broker.start()
    watcher.wait_for("Connected", "ConnectionDisrupted", "Connected")
    api.call(lambda: waited(outcome[0]))
    api.call(api.ps.publish, "a", "online", qos=1)
    recorder.wait(lambda: "online" in recorder.values)
    assert recorder.closes == 0
    assert recorder.errors == []
    assert not subscription.closed
    api.call(subscription.unsubscribe, PATIENCE)
    assert broker.metrics()["subscriptions/count"] == 0
    reasons = [change.reason for change in watcher.messages]  # type: ignore[attr-defined]
    assert any(isinstance(reason, ConnectError) for reason in reasons)


def test_offline_raise_fails_immediately(stack: Any, make: Callable[..., Api]) -> None:
    with Broker() as broker:
        api = make(MqttOverWSProvider(broker.url, offline="raise", reconnect=Reconnect(initial=30, maximum=60)))
        watcher = Watcher(api)
        api.call(api.ps.publish, "a", 1, qos=1)
    watcher.wait_for("ConnectionDisrupted")
    for publish in (api.ps.publish, api.ps.publish_nowait):
        with pytest.raises(PublishFailed) as failed:
            api.call(publish, ["a", "b"], 1)
        assert all(isinstance(error, NotConnected) for error in failed.value.errors.values())
        assert len(failed.value.errors) == 2


def test_offline_queue_times_out_and_withdraws_the_message(
    closed_port: int, stack: Any, make: Callable[..., Api]
) -> None:
    broker = Broker(ws_port=closed_port)
    broker.start()
    stack.callback(lambda: broker.stop())
    url = broker.url
    api = make(MqttOverWSProvider(url, reconnect=Reconnect(initial=30, maximum=60)))
    watcher = Watcher(api)
    api.call(api.ps.connect)
    broker.stop()
    watcher.wait_for("ConnectionDisrupted")
    with pytest.raises(PublishFailed) as failed:
        api.call(api.ps.publish, ["a", "b"], "taken back", qos=1, timeout=0.05)
    assert set(failed.value.errors) == {"a", "b"}
    for error in failed.value.errors.values():
        assert isinstance(error, TimeoutError)
        assert "will not be" in str(error)
    cancelled = api.call(lambda: [api.ps.publish_nowait("a", "cancelled", qos=1)])[0]
    api.call(cancelled.cancel)
    kept = api.call(lambda: [api.ps.publish_nowait("a", "kept", qos=1)])[0]
    published: list[str] = []
    broker = Broker(ws_port=closed_port, authorizer=lambda peer, access: published.append(access.topic) is None)
    broker.start()
    api.call(api.ps.reauthenticate)
    api.call(lambda: waited(kept))
    assert published == ["a"]


def test_ending_a_subscription_while_offline_does_not_wait(make: Callable[..., Api], recorder: Recorder) -> None:
    with Broker() as broker:
        api = make(MqttOverWSProvider(broker.url, reconnect=Reconnect(initial=30, maximum=60)))
        watcher = Watcher(api)
        subscription = subscribe(api, "a", recorder)
    watcher.wait_for("ConnectionDisrupted")
    api.call(subscription.unsubscribe)
    assert recorder.closes == 1
    api.call(api.ps.close, 0.05)


def test_filters_unsubscribed_offline_are_not_restored(closed_port: int, stack: Any, make: Callable[..., Api]) -> None:
    broker = Broker(ws_port=closed_port)
    broker.start()
    stack.callback(lambda: broker.stop())
    url = broker.url
    api = make(MqttOverWSProvider(url, reconnect=SOON))
    watcher = Watcher(api)
    gone, kept = Recorder(), Recorder()
    ended = subscribe(api, "gone", gone)
    subscribe(api, "kept", kept)
    broker.stop()
    watcher.wait_for("ConnectionDisrupted")
    api.call(ended.unsubscribe)
    broker = Broker(ws_port=closed_port)
    broker.start()
    watcher.wait_for("ConnectionDisrupted", "Connected")
    api.call(api.ps.publish, ["gone", "kept"], 1, qos=1)
    kept.wait_for_values(1)
    assert gone.messages == []
    assert broker.metrics()["subscriptions/count"] == 1


def test_new_retained_messages_arrive_after_a_lost_session(
    closed_port: int, stack: Any, make: Callable[..., Api], recorder: Recorder
) -> None:
    broker = Broker(ws_port=closed_port)
    broker.start()
    stack.callback(lambda: broker.stop())
    url = broker.url
    for topic in ("same", "changed"):
        broker.publish(topic, b"1", retain=True)
    api = make(MqttOverWSProvider(url, reconnect=SOON))
    subscribe(api, ["same", "changed"], recorder)
    recorder.wait(lambda: len(recorder.messages) == 2)
    broker.stop()
    ready = threading.Event()
    broker = Broker(ws_port=closed_port, on_upgrade=lambda peer: None if ready.is_set() else Rejection(503))
    broker.start()
    broker.publish("same", b"1", retain=True)
    broker.publish("changed", b"2", retain=True)
    ready.set()
    recorder.wait(lambda: len(recorder.messages) >= 3)
    api.call(api.ps.publish, "same", 3, qos=1)
    recorder.wait(lambda: recorder.messages[-1].value == 3)
    assert [(message.topic, message.value) for message in recorder.messages[2:]] == [("changed", 2), ("same", 3)]


def test_a_refused_restored_subscription_is_an_error(
    stack: Any, make: Callable[..., Api], world: Any, recorder: Recorder
) -> None:
    api = make(world.provider(reconnect=SOON))
    subscription = subscribe(api, ["a", "b"], recorder)
    world.forbidden.add("a")
    api.call(api.ps.reauthenticate)
    recorder.wait(lambda: recorder.errors)
    assert "'a'" in str(recorder.errors[0])
    assert subscription.topics == ("b",)
    api.call(api.ps.publish, "b", 1, qos=1)
    recorder.wait_for_values(1)


def test_a_take_over_is_named_and_does_not_loop(world: Any, make: Callable[..., Api]) -> None:
    first, second = Recorder(), Recorder()
    one, two = (make(world.provider(client_id="the-same", reconnect=SOON)) for _ in range(2))
    subscribe(one, "a", first)
    subscribe(two, "a", second)
    first.wait(lambda: first.closes)
    [error] = first.errors
    assert isinstance(error, SessionTakenOver)
    assert one.ps.connection_state == "Disconnected"
    two.call(two.ps.publish, "a", 1, qos=1)
    second.wait_for_values(1)
    assert world.connections == 2
    assert second.errors == []


def test_calls_while_connecting_make_no_second_connection(world: Any, make: Callable[..., Api]) -> None:
    api = make(world.provider())

    def ask_much() -> list[Any]:
        subscriptions = [api.ps.subscribe(f"t/{number}").subscribe() for number in range(50)]
        for number in range(50):
            api.ps.publish_nowait(f"t/{number}", number)
        return subscriptions

    for subscription in api.call(ask_much):
        api.call(subscription.ready, PATIENCE)
    assert world.broker.metrics()["connections/accepted"] == 1


class Learning(MqttOverWSProvider):
    """A provider that learns once from a 403 what to send."""

    learnt = ""
    asked = 0

    def url(self) -> str:
        return super().url() + self.learnt

    def recover(self, error: Exception) -> bool:
        self.asked += 1
        if isinstance(error, HandshakeRejected) and error.status == 403 and not self.learnt:
            self.learnt = "?offset=3600"
            return True
        return False

    def explain(self, error: Exception) -> Exception:
        return PermissionError("the clock is off") if isinstance(error, HandshakeRejected) else error


def upgrade(peer: Peer) -> Rejection | None:
    return None if "offset=3600" in (peer.target or "") else Rejection(403)


def test_a_provider_learns_from_a_refusal_and_tries_again_once(
    stack: Any, make: Callable[..., Api], recorder: Recorder
) -> None:
    broker = stack.enter_context(Broker(on_upgrade=upgrade))
    api = make(Learning(broker.url))
    [provider] = api.ps.providers
    outcome = api.call(lambda: [api.ps.publish_nowait("a", 1, qos=1)])
    api.call(lambda: waited(outcome[0]))
    assert provider.asked == 1
    subscribe(api, "a", recorder)
    assert recorder.errors == []


def test_a_provider_that_cannot_learn_more_explains(stack: Any, make: Callable[..., Api], recorder: Recorder) -> None:
    broker = stack.enter_context(Broker(on_upgrade=lambda peer: Rejection(403)))
    api = make(Learning(broker.url))
    [provider] = api.ps.providers
    watcher = Watcher(api)
    api.call(api.ps.subscribe("a").subscribe, recorder)
    recorder.wait(lambda: recorder.closes)
    assert [str(error) for error in recorder.errors] == ["the clock is off"]
    assert provider.asked == 2
    with pytest.raises(PublishFailed) as failed:
        api.call(api.ps.publish, "a", 1)
    assert isinstance(failed.value.errors["a"], PermissionError)
    api.call(api.ps.close)
    assert "the clock is off" in [str(change.reason) for change in watcher.messages]  # type: ignore[attr-defined]


def test_a_provider_whose_recover_raises_is_logged(
    stack: Any, make: Callable[..., Api], caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MqttOverWSProvider):
        def recover(self, error: Exception) -> bool:
            raise RuntimeError("of the provider")

    api = make(Broken("ws://127.0.0.1:1/mqtt"))
    with caplog.at_level(logging.ERROR), pytest.raises(ConnectError):
        api.call(api.ps.connect)
    assert "of the provider" in caplog.text


@pytest.mark.parametrize("waits", [True, False])
def test_an_unsubscribe_that_ends_the_connection_is_abandoned_and_named(
    stack: Any, make: Callable[..., Api], recorder: Recorder, caplog: pytest.LogCaptureFixture, waits: bool
) -> None:
    server = stack.enter_context(Scripted("ws"))
    picky = Picky(server)
    picky.refuses = ()
    api = make(MqttOverWSProvider(server.url, client_id="c", reconnect=SOON))
    subscription = subscribe(api, "poison", recorder)
    picky.refuses = (Unsubscribe,)
    with pytest.raises(UnsubscribeRejected if waits else TimedOut, match="'poison'" if waits else "within 0 s"):
        api.call(subscription.unsubscribe, PATIENCE if waits else 0.0)
    assert subscription.closed
    api.call(api.ps.publish, "a", 1, qos=1)  # everything else works
    assert [record.getMessage() for record in caplog.records if "UNSUBSCRIBE" in record.getMessage()]
