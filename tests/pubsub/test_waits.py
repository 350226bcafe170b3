"""Every wait is bounded, with a server that accepts connections and sends nothing; for threads and asyncio."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from math import inf
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads
from scripted import Scripted

from mqttws import ConnectError, Reconnect, TimedOut
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider, PublishFailed, SubscriptionEnded

Api = Threads | Loop


@pytest.fixture
def mute() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"ws://127.0.0.1:{server.getsockname()[1]}/mqtt"


def test_every_wait_ends(make: Callable[..., Api], mute: str, recorder: Recorder) -> None:
    api = make(MqttOverWSProvider(mute))
    subscription = api.call(api.ps.subscribe("a").subscribe, recorder)
    with pytest.raises(TimeoutError, match=r"not answered the subscription within 0\.05 s"):
        api.call(subscription.ready, 0.05)
    with pytest.raises(TimeoutError, match=r"MqttOverWSProvider has not connected within 0\.05 s"):
        api.call(api.ps.connect, timeout=0.05)
    with pytest.raises(PublishFailed, match=r"not delivered within 0\.05 s"):
        api.call(api.ps.publish, "a", 1, timeout=0.05)
    assert api.ps.connection_state == "Connecting"
    api.call(subscription.unsubscribe, 0.05)
    assert recorder.closes == 1


def test_a_time_out_says_why_there_is_no_connection(make: Callable[..., Api]) -> None:
    with Scripted("mqtt") as server:
        at_once = Reconnect(initial=0.001, maximum=0.001)
        api = make(MqttOverWSProvider(server.url, retry_first=True, reconnect=at_once))
        subscription = api.call(api.ps.subscribe("a").subscribe)
        server.accept().cut()
        server.accept()  # the first attempt is over
        for wait in (subscription.ready, lambda timeout: api.ps.publish("a", 1, qos=1, timeout=timeout)):
            with pytest.raises((TimeoutError, PublishFailed), match=r"within 0\.05 s: the client is connecting: .+"):
                api.call(wait, 0.05)
        api.call(api.ps.close, 0.05)  # the message cannot be sent


def test_a_time_out_of_flush_names_the_seconds_of_the_call(make: Callable[..., Api]) -> None:
    with Scripted("mqtt") as server:
        api = make(MqttOverWSProvider(server.url))
        api.call(lambda: api.ps.publish_nowait("a", 1, qos=1).add_done_callback(lambda future: future.exception()))
        end = server.accept().welcome()
        end.receive()  # the PUBLISH, which is not acknowledged
        with pytest.raises(TimedOut, match=r"^not all that was published was acknowledged within 0\.05 s$"):
            api.call(api.ps.flush, 0.05)
        api.call(api.ps.close, 0.05)


def test_a_time_out_says_that_the_queue_is_full_while_there_is_no_connection(
    make: Callable[..., Api], mute: str
) -> None:
    api = make(MqttOverWSProvider(mute, max_queued=1))
    api.call(lambda: api.ps.publish_nowait("a", 1, qos=1).add_done_callback(lambda future: future.exception()))
    with pytest.raises(PublishFailed) as failed:
        api.call(api.ps.publish, "b", 1, qos=1, timeout=0.05)
    error = failed.value.errors["b"]
    assert isinstance(error, TimedOut)
    assert re.match(
        r"not delivered within 0\.05 s: the client is connecting.*; it was not sent and will not be: .+", str(error)
    )
    api.call(api.ps.close, 0.05)  # the message cannot be sent


def test_every_wait_may_be_without_end(make: Callable[..., Api], recorder: Recorder) -> None:
    with Broker() as broker:
        api = make(MqttOverWSProvider(broker.url), timeout=inf)
        api.call(api.ps.connect)
        subscription = api.call(api.ps.subscribe("a").subscribe, recorder)
        assert api.call(subscription.ready) == {"a": 0}
        api.call(api.ps.publish, "a", 1, qos=1)
        api.call(api.ps.flush)
        api.call(subscription.unsubscribe)
        api.call(api.ps.close, inf)


def test_the_default_of_every_wait(make: Callable[..., Api], mute: str) -> None:
    api = make(MqttOverWSProvider(mute), timeout=0.05)
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        api.call(api.call(api.ps.subscribe("a").subscribe).ready)


def test_closing_ends_an_attempt_and_all_that_waits_for_it(
    make: Callable[..., Api], mute: str, recorder: Recorder
) -> None:
    api = make(MqttOverWSProvider(mute))
    subscription = api.call(api.ps.subscribe("a").subscribe, recorder)
    outcome = api.call(lambda: [api.ps.publish_nowait("a", 1)])[0]
    api.call(api.ps.close, 0.05)
    assert recorder.closes == 1
    assert recorder.errors == []
    with pytest.raises(SubscriptionEnded, match="the subscription has ended before the server had answered"):
        api.call(subscription.ready, PATIENCE)
    with pytest.raises(PublishFailed):
        api.call(lambda: outcome if hasattr(outcome, "get_loop") else outcome.result(PATIENCE))


def test_the_timeout_of_an_attempt_is_an_option_of_the_provider(
    make: Callable[..., Api], mute: str, recorder: Recorder
) -> None:
    api = make(MqttOverWSProvider(mute, timeout=0.1))
    api.call(api.ps.subscribe("a").subscribe, recorder)
    recorder.wait(lambda: recorder.closes)
    [error] = recorder.errors
    assert isinstance(error, ConnectError)


def test_a_subscription_is_a_context_manager(api: Any, recorder: Recorder) -> None:
    if isinstance(api, Threads):
        with api.ps.subscribe("a").subscribe(recorder) as subscription:
            assert repr(subscription) == "<Subscription ['a'] open>"
    else:

        async def body() -> Any:
            async with api.ps.subscribe("a").subscribe(recorder) as subscription:
                assert repr(subscription) == "<Subscription ['a'] open>"
            return subscription

        subscription = api.call(body)
    assert repr(subscription) == "<Subscription ['a'] closed>"
    assert recorder.closes == 1
