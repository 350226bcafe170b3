"""Options of providers: those of a client, checked on construction; and the guarantees of `close` and `flush`."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import mqttws
from mqttws import ConnectionRefused, LocalProtocolError, MQTTError, QueueFull, Reconnect, SQLiteStore, TimedOut
from mqttws.broker import Broker
from mqttws.broker.hooks import Refused
from pubsub import MqttOverWSProvider, PublishFailed

Api = Threads | Loop
SOON = Reconnect(initial=0.02, maximum=0.05)


def waited(future: Any) -> Any:
    return future if hasattr(future, "get_loop") else future.result(PATIENCE)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"client_id": 5}, TypeError, "client_id must be"),
        ({"headers": {"X": 1}}, TypeError, "headers must be"),
        ({"overflow": "drop"}, ValueError, "overflow is 'drop'"),
        ({"timeout": 0}, ValueError, "timeout is 0"),
        ({"keep_alive": 70_000}, LocalProtocolError, "70000|70,000"),
        ({"will": ("a/#", b"")}, LocalProtocolError, "a/#"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight"),
        ({"end_on": 5}, TypeError, "end_on"),
        ({"on_message": print}, TypeError, "no option 'on_message'"),
        ({"manual_ack": True}, TypeError, "no option 'manual_ack'"),
    ],
)
def test_options_are_checked_on_construction_of_the_provider(
    options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        MqttOverWSProvider("ws://broker.example/mqtt", **options)


def test_headers_may_come_from_an_iterator(make: Callable[..., Api], world: Any) -> None:
    api = make(world.provider(headers=iter([("X-One", "1")]), reconnect=SOON))
    for _ in range(2):
        api.call(api.ps.connect)
        api.call(api.ps.close)
    assert world.connections == 2


def test_a_refusal_at_a_reconnect_is_retried(stack: Any, make: Callable[..., Api], recorder: Recorder) -> None:
    verdict: list[Any] = [True]
    refused = threading.Event()

    def authenticate(peer: Any, connect: Any) -> Any:
        if verdict[0] is not True:
            refused.set()
        return verdict[0]

    broker = stack.enter_context(Broker(authenticator=authenticate))
    api = make(MqttOverWSProvider(broker.url, reconnect=SOON))
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, recorder)
    api.call(subscription.ready, PATIENCE)
    verdict[0] = Refused(5)
    broker.stop()
    broker.start()
    assert refused.wait(PATIENCE)
    verdict[0] = True
    api.call(api.ps.publish, "a", 1, qos=1)
    recorder.wait_for_values(1)
    assert recorder.errors == []


def test_end_on_is_an_option(stack: Any, make: Callable[..., Api], recorder: Recorder) -> None:
    verdict: list[Any] = [True]
    broker = stack.enter_context(Broker(authenticator=lambda peer, connect: verdict[0]))
    api = make(MqttOverWSProvider(broker.url, reconnect=SOON, end_on=ConnectionRefused))
    api.call(api.call(api.ps.subscribe("a").subscribe, recorder).ready, PATIENCE)
    verdict[0] = Refused(5)
    broker.stop()
    broker.start()
    recorder.wait(lambda: recorder.closes)
    assert isinstance(recorder.errors[-1], ConnectionRefused)


def test_retry_first_waits_for_the_network(
    stack: Any, make: Callable[..., Api], recorder: Recorder, closed_port: int
) -> None:
    api = make(MqttOverWSProvider(f"ws://127.0.0.1:{closed_port}/mqtt", retry_first=True, reconnect=SOON))
    subscription = api.call(api.ps.subscribe("a", qos=1).subscribe, recorder)
    with pytest.raises(TimedOut):
        api.call(subscription.ready, 0.1)
    outcome = api.call(lambda: [api.ps.publish_nowait("a", "early", qos=1)])[0]
    with pytest.raises(TimedOut):
        api.call(api.ps.connect, timeout=0.1)
    stack.enter_context(Broker(ws_port=closed_port))
    assert api.call(subscription.ready, PATIENCE) == {"a": 1}
    api.call(lambda: waited(outcome))
    recorder.wait_for_values("early")
    assert recorder.errors == []


def test_the_overflow_of_the_queue_is_an_option(make: Callable[..., Api], world: Any) -> None:
    topics = [f"t/{number}" for number in range(500)]
    waiting = make(world.provider(name="waiting", max_queued=2, max_in_flight=1))
    waiting.call(waiting.ps.publish, topics, 1, qos=1, timeout=PATIENCE)
    assert sorted(world.published) == sorted(topics)
    raising = make(world.provider(name="raising", max_queued=2, max_in_flight=1, overflow="raise"))
    with pytest.raises(PublishFailed) as failed:
        raising.call(raising.ps.publish, topics, 1, qos=1, timeout=PATIENCE)
    assert {type(error) for error in failed.value.errors.values()} == {QueueFull}


def test_on_error_may_wait(make: Callable[..., Api], stack: Any) -> None:
    errors: list[MQTTError] = []
    over = threading.Event()
    forbidden: set[str] = set()
    broker = stack.enter_context(Broker(authorizer=lambda peer, access: access.topic not in forbidden))

    def on_error(error: MQTTError) -> None:
        errors.append(error)
        if isinstance(api, Threads):
            api.ps.publish("errors", 1, qos=1)
        over.set()

    api = make(MqttOverWSProvider(broker.url, reconnect=SOON, on_error=on_error))
    subscription = api.call(api.ps.subscribe(["a", "b"]).subscribe)
    api.call(subscription.ready, PATIENCE)
    forbidden.add("a")
    api.call(api.ps.reauthenticate)
    assert over.wait(PATIENCE)
    assert isinstance(errors[0], mqttws.SubscribeRejected)
    assert errors[0].topic_filter == "a"


def test_a_store_keeps_unsent_messages_for_the_next_process(
    make: Callable[..., Api], tmp_path: Path, world: Any, closed_port: int
) -> None:
    def begin(url: str) -> tuple[Api, SQLiteStore]:
        store = SQLiteStore(tmp_path / "session")
        provider = MqttOverWSProvider(
            url, client_id="device", clean_session=False, store=store, retry_first=True, reconnect=SOON
        )
        return make(provider), store

    nowhere = f"ws://127.0.0.1:{closed_port}/mqtt"
    first, store = begin(nowhere)
    outcome = first.call(lambda: [first.ps.publish_nowait(["a", "b"], 1, qos=1)])[0]
    first.call(first.ps.close, 0.1)
    with pytest.raises(PublishFailed, match="the store keeps the message"):
        first.call(lambda: waited(outcome))
    store.close()
    second, store = begin(world.broker.url)
    second.call(second.ps.connect)
    world.wait(lambda: sorted(world.published) == ["a", "b"])
    second.call(second.ps.close)
    store.close()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_close_sends_published_messages(make: Callable[..., Api], world: Any, qos: int) -> None:
    api = make(world.provider(max_in_flight=5))

    def publish_all() -> list[Any]:
        return [api.ps.publish_nowait(f"t/{number}", number, qos=qos) for number in range(300)]

    futures = api.call(publish_all)
    api.call(api.ps.close, PATIENCE)
    # The broker may still be reading: with QoS 0 nothing says how far it is.
    world.wait(lambda: sorted(world.published) == sorted(f"t/{number}" for number in range(300)))
    for future in futures:
        assert future.done()
        assert future.exception() is None


def test_a_connection_that_cannot_send_does_not_delay_others(make: Callable[..., Api], world: Any) -> None:
    mute = socket.create_server(("127.0.0.1", 0))
    with mute:
        api = make(
            MqttOverWSProvider(f"ws://127.0.0.1:{mute.getsockname()[1]}/mqtt", name="mute"),
            world.provider(name="good", max_in_flight=2),
        )
        api.call(api.ps.connect, "good")

        def publish_all() -> list[Any]:
            return [api.ps.publish_nowait(f"t/{number}", number, qos=1) for number in range(100)]

        api.call(publish_all)
        api.call(api.ps.close, 2.0)
    assert len(world.published) == 100


def test_flush_waits_for_all_acknowledgements(api: Api, world: Any) -> None:
    api.call(lambda: [api.ps.publish_nowait(f"t/{number}", number, qos=1) for number in range(200)])
    api.call(api.ps.flush, PATIENCE)
    assert len(world.published) == 200


def test_pending_counts_unacknowledged_messages(stack: Any, make: Callable[..., Api]) -> None:
    broker = stack.enter_context(Broker())
    api = make(MqttOverWSProvider(broker.url, reconnect=Reconnect(initial=30, maximum=60)))
    assert api.ps.pending == 0
    api.call(api.ps.publish, "a", 1, qos=1)
    assert api.ps.pending == 0
    broker.stop()
    for qos in (0, 1, 2):
        api.call(lambda qos=qos: [api.ps.publish_nowait(["a", "b"], 1, qos=qos)])  # type: ignore[misc]
    assert api.ps.pending == 6
    api.call(api.ps.close, 0.1)
    assert api.ps.pending == 0


def test_timeouts_are_both_mqtt_and_builtin_errors(make: Callable[..., Api]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        api = make(MqttOverWSProvider(f"ws://127.0.0.1:{mute.getsockname()[1]}/mqtt"))
        subscription = api.call(api.ps.subscribe("a").subscribe)
        for call in (lambda: api.call(subscription.ready, 0.02), lambda: api.call(api.ps.connect, timeout=0.02)):
            with pytest.raises(TimedOut) as raised:
                call()
            assert isinstance(raised.value, TimeoutError)
            assert isinstance(raised.value, MQTTError)
        with pytest.raises(TimedOut):
            api.call(api.ps.flush, 0.02)
        api.call(api.ps.close, 0.1)


def test_a_refused_stored_message_has_the_reason_of_the_provider(
    stack: Any, make: Callable[..., Api], tmp_path: Path
) -> None:
    class Explaining(MqttOverWSProvider):
        def explain(self, error: Exception) -> Exception:
            return PermissionError("no policy") if isinstance(error, mqttws.ConnectionRefused) else error

    broker = stack.enter_context(Broker(authenticator=lambda peer, connect: Refused(5)))
    store = stack.enter_context(SQLiteStore(tmp_path / "session"))
    api = make(Explaining(broker.url, client_id="device", clean_session=False, store=store))
    outcome = api.call(lambda: [api.ps.publish_nowait("a", 1, qos=1)])[0]
    with pytest.raises(PublishFailed) as caught:
        api.call(lambda: waited(outcome))
    error = caught.value.errors["a"]
    assert str(error) == "no policy; the store keeps the message, and a client with it will send it"
    assert isinstance(error.__cause__, PermissionError)
    outcome = api.call(lambda: [api.ps.publish_nowait("a", 1, qos=0)])[0]
    with pytest.raises(PublishFailed) as caught:
        api.call(lambda: waited(outcome))
    assert isinstance(caught.value.errors["a"], PermissionError)  # QoS 0 is not stored
