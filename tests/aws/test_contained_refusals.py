"""A message or Topic Filter on which AWS IoT closes the connection: only that one fails, and all others succeed."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import time
from collections.abc import Iterator
from typing import Any

import pytest

import mqttws
import pubsub.aio
from pubsub import AWSIoTProvider, PublishFailed, PubSub
from pubsub.aws.errors import PublishRefused, Reason, SubscribeRefused
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import Identities
from sigv4 import Credentials

KEYS = Credentials("AKIDOFALICE", "the-secret-key-of-alice")
ARN = "arn:aws:iot:eu-west-1:123456789012"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:*", "Resource": "*"},
        {
            "Effect": "Deny",
            "Action": ["iot:Publish", "iot:Subscribe"],
            "Resource": [f"{ARN}:topic/no", f"{ARN}:topicfilter/no"],
        },
        {"Effect": "Deny", "Action": "iot:RetainPublish", "Resource": "*"},
    ],
}
#: AWS IoT accepts one CONNECT a second for each client id; here more, so that the tests are short.
LIMITS = IoTLimits(client_connect_rate=20.0)


@pytest.fixture(params=[False, True], ids=["silent", "explaining"])
def iot(request: pytest.FixtureRequest) -> Iterator[LocalIoTEndpoint]:
    identities = Identities("eu-west-1")
    identities.add_policy("p", POLICY)
    identities.add_user("alice", KEYS, policies=["p"])
    with LocalIoTEndpoint(identities, limits=LIMITS, refuse_replays=False, explain=request.param) as endpoint:
        yield endpoint


def provider_of(iot: LocalIoTEndpoint, **options: Any) -> AWSIoTProvider:
    reconnect = mqttws.Reconnect(initial=0.1, maximum=0.2)
    return AWSIoTProvider("eu-west-1", iot.url, KEYS, limits=LIMITS, reconnect=reconnect, **options)


def cuts(caplog: Any) -> int:
    """Return how often the endpoint has closed a connection because something was denied."""
    return sum("closed:" in record.getMessage() and "denied" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("client_id", ["one", None])
@pytest.mark.parametrize("retain", [False, True])
def test_only_the_denied_message_fails(iot: LocalIoTEndpoint, client_id: str | None, retain: bool, caplog: Any) -> None:
    topic = "retained" if retain else "no"
    options = {} if client_id is None else {"client_id": client_id}
    with PubSub(provider_of(iot, **options), timeout=30) as ps:
        got: queue.Queue[Any] = queue.Queue()
        ps.subscribe("good", qos=1).subscribe(next=got.put, error=got.put, close=lambda: got.put("closed")).ready()
        with pytest.raises(PublishFailed) as caught:
            ps.publish(topic, 1, qos=1, retain=retain)
        error = caught.value.errors[topic]
        assert isinstance(error, PublishRefused)
        assert error.reason is Reason.POLICY
        ps.publish("good", "still here", qos=1)
        assert got.get(timeout=30).value == "still here"
        before = cuts(caplog)
        time.sleep(0.5)
        ps.publish("good", "and still", qos=1)
        assert got.get(timeout=30).value == "and still"
        assert cuts(caplog) == before <= 4  # nothing denied is sent again


def test_only_the_denied_message_of_many_fails(iot: LocalIoTEndpoint) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        ps.connect()
        topics = [*(f"good/{number}" for number in range(20)), "no", *(f"fine/{number}" for number in range(20))]
        futures = {topic: ps.publish_nowait(topic, 1, qos=1) for topic in topics}
        for topic, future in futures.items():
            if topic == "no":
                with pytest.raises(PublishFailed):
                    future.result(30)
            else:
                future.result(30)


def test_a_denied_message_of_qos_0_affects_no_other(iot: LocalIoTEndpoint, caplog: Any) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        got: queue.Queue[Any] = queue.Queue()
        ps.subscribe("good", qos=1).subscribe(next=got.put, error=got.put, close=lambda: got.put("closed")).ready()
        with contextlib.suppress(PublishFailed):
            ps.publish("no", 1)
        ps.publish("good", "still here", qos=1)
        assert got.get(timeout=30).value == "still here"
        assert cuts(caplog) <= 1


def test_only_the_denied_filter_ends(iot: LocalIoTEndpoint) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        got: queue.Queue[Any] = queue.Queue()
        ps.subscribe("good", qos=1).subscribe(next=got.put, error=got.put, close=lambda: got.put("closed")).ready()
        errors: queue.Queue[Any] = queue.Queue()
        denied = ps.subscribe("no").subscribe(error=errors.put, close=lambda: errors.put("closed"))
        with pytest.raises(SubscribeRefused) as caught:
            denied.ready()
        assert caught.value.reason is Reason.POLICY
        assert repr(errors.get(timeout=30)) == repr(caught.value)  # a copy is raised
        assert errors.get(timeout=30) == "closed"
        ps.publish("good", "still here", qos=1)
        assert got.get(timeout=30).value == "still here"
        mixed = ps.subscribe(["better", "no", "best"], qos=1).subscribe(error=errors.put)
        assert mixed.ready() == {"better": 1, "no": 128, "best": 1}
        assert isinstance(errors.get(timeout=30), SubscribeRefused)
        assert mixed.topics == ("better", "best")


def test_with_asyncio_too(iot: LocalIoTEndpoint) -> None:
    async def main() -> None:
        async with pubsub.aio.PubSub(provider_of(iot), timeout=30) as ps:
            got: asyncio.Queue[Any] = asyncio.Queue()
            await ps.subscribe("good", qos=1).subscribe(next=got.put_nowait, error=got.put_nowait).ready()
            with pytest.raises(PublishFailed) as caught:
                await ps.publish(["good", "no"], 1, qos=1)
            assert list(caught.value.errors) == ["no"]
            assert isinstance(caught.value.errors["no"], PublishRefused)
            with pytest.raises(SubscribeRefused):
                await ps.subscribe("no").subscribe(error=id).ready()
            await ps.publish("good", 2, qos=1)
            assert {(await asyncio.wait_for(got.get(), 30)).value for _ in range(2)} == {1, 2}

    asyncio.run(main())


def test_the_reason_of_the_endpoint_is_in_the_error(iot: LocalIoTEndpoint, request: pytest.FixtureRequest) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        with pytest.raises(PublishFailed) as caught:
            ps.publish("no", 1, qos=1)
        said = str(caught.value.errors["no"])
        if "explaining" in request.node.name:
            assert "statement 2 of role policy 'p'" in said
        else:
            assert "most likely no policy allows iot:Publish" in said
