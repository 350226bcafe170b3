"""The PubSub API as a whole: the module-level instance, imports, leaks, secrets."""

from __future__ import annotations

import gc
import logging
import pickle
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
from drivers import wait_until
from pubsub_faces import PATIENCE, Recorder

import pubsub
from mqttws import ConnectError
from mqttws.broker import Broker, Limits
from mqttws.broker.hooks import Refused, Rejection
from pubsub import MqttOverWSProvider, PublishFailed, PubSub


@pytest.fixture
def shared() -> Iterator[None]:
    yield
    pubsub.close()
    for provider in pubsub.default().providers:
        pubsub.remove_pluggable(provider)


@pytest.mark.usefixtures("shared")
def test_the_module_level_instance(world: Any, recorder: Recorder) -> None:
    pubsub.add_pluggable(MqttOverWSProvider())
    pubsub.configure({"aws_pubsub_endpoint": world.broker.url})
    assert pubsub.connection_state == "Disconnected"
    changes: list[Any] = []
    watch = pubsub.connection_state_changes.subscribe(changes.append)
    subscription = pubsub.subscribe("myTopic").subscribe(next=recorder.next, error=recorder.error, close=recorder.close)
    subscription.ready(PATIENCE)
    pubsub.connect()
    assert pubsub.connection_state == "Connected"
    assert pubsub.connection_states == {"MqttOverWSProvider": "Connected"}
    pubsub.publish("myTopic", 1)
    pubsub.publish_nowait("myTopic", 2, qos=1).result(PATIENCE)
    recorder.wait_for_values(1, 2)
    pubsub.reauthenticate()
    world.wait(lambda: world.connections == 2)
    subscription.unsubscribe()
    assert recorder.closes == 1
    pubsub.close()
    watch.unsubscribe()
    assert changes[-1].state == "Disconnected"


def test_all_names_in_all_exist() -> None:
    assert set(pubsub.__all__) <= set(dir(pubsub))
    assert all(getattr(pubsub, name) is not None for name in pubsub.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = pubsub.nothing


@pytest.mark.parametrize("module", ["pubsub", "pubsub.providers"])
def test_importing_loads_nothing_heavy(module: str) -> None:
    code = f"import {module}, sys; print([m for m in ('asyncio', 'ssl', 'wsproto', 'h11') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_a_program_that_ends_without_closing_ends(world: Any) -> None:
    code = (
        "import pubsub, sys\n"
        "ps = pubsub.PubSub(pubsub.MqttOverWSProvider(sys.argv[1]))\n"
        "ps.subscribe('a', qos=1).subscribe(print).ready()\n"
        "ps.publish('a', 1, qos=1)\n"
    )
    subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code, world.broker.url], timeout=60, check=True)


def test_ended_subscriptions_leave_no_memory_and_no_broker_state(world: Any) -> None:
    rounds = 10_000
    with PubSub(world.provider()) as ps:
        kept = Recorder()
        ps.subscribe("kept", qos=1).subscribe(kept).ready(PATIENCE)
        threads = set(threading.enumerate())

        def make_and_end(count: int) -> None:
            for number in range(count):
                subscription = ps.subscribe(["kept", f"t/{number % 50}"]).subscribe(Recorder())
                answers = subscription._core.end()
                if number % 500 == 0:
                    for answer in answers:
                        answer.result(PATIENCE)
            ps.publish("kept", "reached", qos=1)
            kept.wait(lambda: kept.values[-1:] == ["reached"])
            kept.messages.clear()

        make_and_end(500)
        gc.collect()
        world.subscribed.clear()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        make_and_end(rounds)
        world.subscribed.clear()
        gc.collect()
        deadline = time.monotonic() + PATIENCE
        while (grown := tracemalloc.get_traced_memory()[0] - before) > 200_000 and time.monotonic() < deadline:
            time.sleep(0.01)  # the broker's thread is still reading, and its buffer counts
        tracemalloc.stop()
        assert grown <= 200_000, "at most 20 bytes a subscription, so nothing is kept for each"
        assert world.broker.metrics()["subscriptions/count"] == 1
        assert world.broker.metrics()["clients/connected"] == 1
        wait_until(lambda: set(threading.enumerate()) <= threads)
    wait_until(lambda: not [one for one in threading.enumerate() if one.name.startswith(("pubsub", "mqttws c"))])


def test_concurrent_use_by_many_threads(world: Any) -> None:
    """Eight threads subscribe, publish and end on the same filters; a ninth observer sees every message once."""
    each = 25
    with PubSub(world.provider()) as ps:
        witness = Recorder()
        ps.subscribe("#", qos=1).subscribe(witness).ready(PATIENCE)
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for turn in range(each):
                    recorder = Recorder()
                    subscription = ps.subscribe([f"t/{turn % 3}", "t/+"], qos=1).subscribe(recorder)
                    subscription.ready(PATIENCE)
                    ps.publish(f"t/{turn % 3}", [number, turn], qos=1)
                    recorder.wait(lambda turn=turn, recorder=recorder: [number, turn] in recorder.values)  # type: ignore[misc]
                    assert recorder.values.count([number, turn]) == 1
                    subscription.unsubscribe(PATIENCE)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE * 3)
        assert failures == []
        witness.wait(lambda: len(witness.messages) == 8 * each)
        assert sorted(witness.values) == sorted([number, turn] for number in range(8) for turn in range(each))
        ps.publish("end", 1, qos=1)
        assert world.broker.metrics()["subscriptions/count"] == 1


def test_a_message_is_acknowledged_when_its_last_observer_has_taken_it(stack: Any) -> None:
    """The broker sends one unacknowledged message at a time: the second arrives when both have finished the first."""
    broker = stack.enter_context(Broker(limits=Limits(max_in_flight=1)))
    entered, release = threading.Event(), threading.Event()
    seen: list[int] = []

    def hold(message: pubsub.Message) -> None:
        seen.append(message.value)
        entered.set()
        assert release.wait(PATIENCE)

    with PubSub(MqttOverWSProvider(broker.url)) as ps:
        iterator = iter(ps.subscribe(["a", "begin"], qos=1, timeout=PATIENCE))
        broker.publish("begin", b"0", retain=True)
        assert next(iterator).topic == "begin"
        ps.subscribe("a", qos=1).subscribe(hold).ready(PATIENCE)
        broker.publish("a", b"1", qos=1)
        broker.publish("a", b"2", qos=1)
        assert entered.wait(PATIENCE)
        release.set()
        assert next(iterator).value == 1
        ps.publish("x", 0, qos=1)
        assert seen == [1], "the iteration has not continued, so the first is not acknowledged"
        assert next(iterator).value == 2
        iterator.close()  # type: ignore[attr-defined]


def test_a_flood_to_a_blocked_consumer_loses_nothing(world: Any) -> None:
    with PubSub(world.provider(max_inbound_bytes=4_000)) as ps:
        iterator = iter(ps.subscribe(["a", "begin"], qos=1, timeout=PATIENCE))
        world.broker.publish("begin", b"0", retain=True)
        assert next(iterator).topic == "begin"
        for number in range(2000):
            world.broker.publish("a", b"%d" % number, qos=1)
        taken = [next(iterator).value for _ in range(2000)]
        assert taken == list(range(2000))
        iterator.close()  # type: ignore[attr-defined]


CANARIES = ("canary-password", "canary-signature", "canary-user")


@pytest.mark.parametrize(
    "hooks",
    [
        {"on_upgrade": lambda peer: Rejection(403, body=b"no")},
        {"authenticator": lambda peer, connect: Refused(5)},
        {"authorizer": lambda peer, access: False},
        {},
    ],
    ids=["upgrade", "connect", "subscribe", "granted"],
)
def test_no_secret_is_shown(stack: Any, hooks: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    broker = stack.enter_context(Broker(**hooks))
    recorder = Recorder()
    said: list[str] = []
    with caplog.at_level(logging.DEBUG):
        for url in (
            broker.url + "?X-Amz-Signature=canary-signature",
            "ws://canary-user:canary-password@127.0.0.1:1/mqtt?X-Amz-Signature=canary-signature",
            "ws://canary-user:canary-password@127.0.0.1:port/?X-Amz-Signature=canary-signature",
        ):
            provider = MqttOverWSProvider(
                url, username="canary-user", password="canary-password", headers=[("Authorization", "canary-signature")]
            )
            with PubSub(provider) as ps:
                ps.connection_state_changes.subscribe(lambda change: said.append(repr(change)))
                ps.subscribe("a").subscribe(recorder)
                try:
                    ps.publish("a", 1, qos=1)
                except PublishFailed as error:
                    said.extend(traceback.format_exception(error))
                    said.extend([repr(error), str(pickle.dumps(error))])
                said.extend([repr(ps), repr(provider), repr(ps.providers), str(provider)])
    said.extend([repr(recorder.errors), *map(str, recorder.errors), caplog.text])
    text = "\n".join(said)
    for canary in CANARIES:
        assert canary not in text


def test_a_future_made_after_the_end_fails_too() -> None:
    """The driver has ended before the channel is notified: a publish in between fails with the channel."""
    with PubSub(MqttOverWSProvider("ws://127.0.0.1:1/")) as ps:
        failures = []
        for _ in range(50):
            try:
                ps.publish_nowait("a", 1, qos=1).result(PATIENCE)
            except PublishFailed as error:
                failures.append(error.errors["a"])
        assert len(failures) == 50
        assert all(isinstance(error, ConnectError) for error in failures)
