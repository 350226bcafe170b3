"""Providers with several endpoints: one attempt tries all of them; after a loss the next one is used."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

from mqttws import Reconnect, Unsupported
from mqttws.broker import Broker
from mqttws.testing import mint_authority
from pubsub import AWSIoTProvider, MqttOverWSProvider, ProviderError, PublishFailed
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import ALLOW_ALL, Identities
from sigv4 import Credentials

Api = Threads | Loop
REFUSES = "ws://127.0.0.1:1/mqtt"
AT_ONCE = Reconnect(initial=0.01, maximum=0.05)


def test_a_lost_broker_is_replaced_by_the_next(make: Callable[..., Api], stack: ExitStack, recorder: Recorder) -> None:
    first, second = Broker(sys_interval=None), Broker(sys_interval=None)
    stack.enter_context(second)
    with first:
        api = make(MqttOverWSProvider([REFUSES, first.url, second.url], reconnect=AT_ONCE, client_id="c"))
        api.call(api.ps.subscribe("a").subscribe, recorder)
        api.call(api.ps.publish, "a", 1, qos=1)
        recorder.wait_for_values(1)
    api.call(api.ps.publish, "a", 2, qos=1)
    recorder.wait(lambda: len(recorder.messages) == 2)
    assert second.metrics()["clients/connected"] == 1


@pytest.mark.parametrize("waits", [False, True])
def test_a_callable_may_return_several_endpoints(
    make: Callable[..., Api], world: Any, face: type[Api], waits: bool
) -> None:
    asked: list[int] = []

    def endpoints() -> list[str]:
        asked.append(1)
        return [REFUSES, world.broker.url]

    async def endpoints_later() -> list[str]:
        await asyncio.sleep(0)
        return endpoints()

    api = make(MqttOverWSProvider(endpoints_later if waits else endpoints, reconnect=AT_ONCE))
    if waits and face is Threads:
        with pytest.raises(PublishFailed, match=r"only pubsub\.aio awaits"):
            api.call(api.ps.publish, "a", 1, qos=1)
        return
    api.call(api.ps.publish, "a", 1, qos=1)
    assert world.published == ["a"]
    assert len(asked) == 1


@pytest.mark.parametrize("answer", [None, [], [5], b"ws://x", 5])
def test_a_callable_that_returns_no_endpoint_is_an_error(make: Callable[..., Api], answer: Any) -> None:
    api = make(MqttOverWSProvider(lambda: answer))
    with pytest.raises(PublishFailed, match="aws_pubsub_endpoint returned a"):
        api.call(api.ps.publish, "a", 1, qos=1)


def test_a_list_of_endpoints_can_be_configured(make: Callable[..., Api], world: Any) -> None:
    api = make(MqttOverWSProvider())
    endpoints = [REFUSES, world.broker.url]
    api.ps.configure({"aws_pubsub_endpoint": endpoints})
    api.call(api.ps.publish, "a", 1, qos=1)
    assert world.published == ["a"]


def test_invalid_endpoints_are_refused() -> None:
    for wrong in (5, b"ws://x", {"ws://x"}):
        with pytest.raises(TypeError, match="aws_pubsub_endpoint is a str, several of them, or a callable"):
            MqttOverWSProvider(wrong)  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match="no endpoint"):
        MqttOverWSProvider([]).url()
    with pytest.raises(ProviderError, match="one of its endpoints is a int"):
        MqttOverWSProvider(["ws://x", 5]).url()  # type: ignore[list-item]
    with pytest.raises(ProviderError, match="one of its endpoints is empty"):
        AWSIoTProvider("eu-west-1", ["a.iot.eu-west-1.amazonaws.com", ""], lambda: None).client_options()  # type: ignore


def test_a_list_is_copied() -> None:
    endpoints = ["ws://a/mqtt", "ws://b/mqtt"]
    provider, same = MqttOverWSProvider(endpoints), MqttOverWSProvider(tuple(endpoints))
    endpoints.clear()
    assert provider.url() == ["ws://a/mqtt", "ws://b/mqtt"]
    assert provider.same_as(same)


def test_each_endpoint_of_aws_is_signed_for_its_region() -> None:
    hosts = [f"abc-ats.iot.{region}.amazonaws.com" for region in ("eu-west-1", "us-east-1")]
    urls = AWSIoTProvider(aws_pubsub_endpoint=hosts, credentials=Credentials("AKID", "secret")).url()
    assert [url.partition("/mqtt")[0] for url in urls] == [f"wss://{host}" for host in hosts]
    assert [region in url for url, region in zip(urls, ("%2Feu-west-1%2F", "%2Fus-east-1%2F"), strict=True)] == [
        True
    ] * 2
    assert all("X-Amz-Signature=" in url for url in urls)


def test_endpoints_with_a_certificate_must_use_the_same_tls(tmp_path: Any) -> None:
    certificate, key = mint_authority().issue("device").write(tmp_path, "device")
    made = AWSIoTProvider(aws_pubsub_endpoint=["mqtts://a:8883", "mqtts://b:8883"], certificate=certificate, key=key)
    assert made.url() == ["mqtts://a:8883", "mqtts://b:8883"]
    assert "tls" in made.client_options()
    made = AWSIoTProvider(aws_pubsub_endpoint=["mqtts://a:443", "mqtts://b:8883"], certificate=certificate, key=key)
    with pytest.raises(ProviderError, match="ALPN"):
        made.client_options()


def test_aws_fails_over_to_another_endpoint(make: Callable[..., Api], recorder: Recorder) -> None:
    keys = Credentials("AKIDOFALICE", "the-secret-key-of-alice")
    identities = Identities("eu-west-1")
    identities.add_policy("all", ALLOW_ALL)
    identities.add_user("alice", keys, policies=["all"])
    with LocalIoTEndpoint(identities) as second:
        with LocalIoTEndpoint(identities) as first:
            provider = AWSIoTProvider(
                "eu-west-1", [first.url, second.url], keys, client_id="c", reconnect=AT_ONCE, keep_alive=30
            )
            api = make(provider)
            api.call(api.ps.subscribe("a").subscribe, recorder)
            api.call(api.ps.publish, "a", 1, qos=1, timeout=PATIENCE)
            recorder.wait_for_values(1)
        api.call(api.ps.publish, "a", 2, qos=1, timeout=PATIENCE)
        recorder.wait(lambda: len(recorder.messages) == 2)


def test_the_server_profile_is_checked_before_anything_is_sent(
    make: Callable[..., Api], world: Any, recorder: Recorder
) -> None:
    api = make(world.provider(server="nats"))
    with pytest.raises(Unsupported, match="closes the connection if a Topic Name contains a space"):
        api.call(api.ps.publish, "a b", 1, qos=1)
    api.call(api.ps.subscribe(["$share/g/a", "fine"]).subscribe, recorder)
    recorder.wait(lambda: recorder.errors)
    assert "delivers nothing" in str(recorder.errors[0])
    world.wait(lambda: world.subscribed)
    assert [topic_filter for topic_filter, _ in world.subscribed] == ["fine"]
    api = make(world.provider(max_qos=1, name="lower"))
    api.call(api.ps.publish, "low", 1, qos=2)
    assert world.published == ["low"]
