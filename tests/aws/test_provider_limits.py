"""`AWSIoTProvider` and the limits of AWS IoT: refusals before sending, pacing, and the options of the provider."""

from __future__ import annotations

import asyncio
import itertools
import logging
import pickle
import queue
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

import pubsub.aio
from mqttws import ConnectionClosed, LimitExceeded, Message, PublishRejected, Reconnect, SubscribeRejected
from pubsub import AWSIoTProvider, ProviderError, PublishFailed, PubSub
from pubsub.aws.corrected_clock import CorrectedClock
from pubsub.aws.errors import BeyondLimit, PublishRefused, Reason, SubscribeRefused, explain_error
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import Identities
from pubsub.providers import aws_iot
from sigv4 import Credentials, presign_iot_url

KEYS = Credentials("AKIDOFALICE", "the-secret-key-of-alice")
HOST = "wss://abc123-ats.iot.eu-west-1.amazonaws.com/mqtt"


@pytest.fixture(scope="module")
def iot() -> Iterator[LocalIoTEndpoint]:
    with LocalIoTEndpoint() as endpoint:
        yield endpoint


def provider_of(iot: LocalIoTEndpoint, **options: Any) -> AWSIoTProvider:
    return AWSIoTProvider(iot.region, iot.url, iot.credentials, **options)


BEYOND_FILTERS = [
    ("1/2/3/4/5/6/7/8/9", 0, "8 slashes"),
    ("x" * 257, 1, "257 bytes"),
    ("ü" * 129, 0, "258 bytes"),
    ("a", 2, "QoS 2"),
    ("$mine", 0, "reserved"),
    ("$aws/mine/#", 1, "reserved"),
]


@pytest.mark.parametrize(("topic_filter", "qos", "says"), BEYOND_FILTERS)
def test_only_the_filter_beyond_a_limit_ends(iot: LocalIoTEndpoint, topic_filter: str, qos: int, says: str) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        got: queue.Queue[Any] = queue.Queue()
        ps.subscribe("good", qos=1).subscribe(next=got.put, error=got.put).ready()
        errors: queue.Queue[Any] = queue.Queue()
        refused = ps.subscribe(topic_filter, qos=qos).subscribe(error=errors.put, close=lambda: errors.put("closed"))
        with pytest.raises(BeyondLimit, match=says) as caught:
            refused.ready()
        assert caught.value.reason is Reason.LIMIT
        assert repr(errors.get(timeout=30)) == repr(caught.value)  # a copy of the error is raised
        assert errors.get(timeout=30) == "closed"
        ps.publish("good", "still here", qos=1)
        assert got.get(timeout=30).value == "still here"


@pytest.mark.parametrize(
    ("will", "says"),
    [
        (Message("a/b/c/d/e/f/g/h/i", b"x", 1), "8 slashes"),
        (("a", "x", 2), "QoS 2"),
        (Message("$aws/x", b"x", 1), "reserved"),
        (("a", "ü" * 32_767), "65,534 bytes"),
    ],
)
def test_a_will_beyond_a_limit_is_refused_before_connecting(will: Any, says: str) -> None:
    limits = IoTLimits(max_payload=65_533)
    with pytest.raises(BeyondLimit, match=f"the will cannot be published: .*{says}"):
        AWSIoTProvider(aws_pubsub_endpoint=HOST, credentials=KEYS, will=will, limits=limits)


def test_a_will_within_the_limits_is_accepted(iot: LocalIoTEndpoint) -> None:
    for options in ({"will": ("a", "x", 2), "max_qos": 1}, {"will": ("1/2/3/4/5/6/7/8", b"x", 1, True)}):
        with PubSub(provider_of(iot, **options), timeout=30) as ps:
            ps.connect()
    limits = IoTLimits(max_slashes=None)
    AWSIoTProvider(aws_pubsub_endpoint=HOST, credentials=KEYS, will=("1/2/3/4/5/6/7/8/9", "x"), limits=limits)


def test_max_qos_lowers_messages_and_subscriptions_to_what_the_limits_allow(iot: LocalIoTEndpoint) -> None:
    with PubSub(provider_of(iot, max_qos=1), timeout=30) as ps:
        got: queue.Queue[Any] = queue.Queue()
        assert ps.subscribe("lowered", qos=2).subscribe(next=got.put).ready() == {"lowered": 1}
        ps.publish("lowered", 1, qos=2)
        assert got.get(timeout=30).qos == 1
    strict = IoTLimits(max_qos=0)
    with PubSub(provider_of(iot, max_qos=1, limits=strict)) as ps, pytest.raises(BeyondLimit, match="at most QoS 0"):
        ps.publish("lowered", 1, qos=2)


def test_of_several_filters_only_the_one_beyond_ends(iot: LocalIoTEndpoint) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        errors: queue.Queue[Any] = queue.Queue()
        mixed = ps.subscribe(["good", "$mine", "better"], qos=1).subscribe(error=errors.put)
        assert mixed.ready() == {"good": 1, "$mine": 128, "better": 1}
        assert mixed.topics == ("good", "better")
        assert isinstance(errors.get(timeout=30), BeyondLimit)
        mixed.add("1/2/3/4/5/6/7/8/9")
        assert isinstance(errors.get(timeout=30), BeyondLimit)
        assert mixed.topics == ("good", "better")
        assert not mixed.closed


def test_with_asyncio_too(iot: LocalIoTEndpoint) -> None:
    async def main() -> None:
        async with pubsub.aio.PubSub(provider_of(iot), timeout=30) as ps:
            got: asyncio.Queue[Any] = asyncio.Queue()
            good = ps.subscribe("good", qos=1).subscribe(next=got.put_nowait)
            await good.ready()
            for topic_filter, qos, says in BEYOND_FILTERS:
                with pytest.raises(BeyondLimit, match=says):
                    await ps.subscribe(topic_filter, qos=qos).subscribe(error=id).ready()
            for topic, qos, says in BEYOND_TOPICS:
                with pytest.raises((BeyondLimit, PublishFailed), match=says):
                    await ps.publish(topic, b"", qos=qos)
            await ps.publish("good", 1, qos=1)
            assert (await asyncio.wait_for(got.get(), 30)).value == 1

    asyncio.run(main())


BEYOND_TOPICS = [
    ("1/2/3/4/5/6/7/8/9", 0, "8 slashes"),
    ("x" * 257, 1, "257 bytes"),
    ("a", 2, "QoS 2"),
    ("$mine", 0, "reserved"),
    ("$aws/events/presence/connected/c", 1, "reserved"),
    ("$aws/things/lamp/shadow/get/accepted", 0, "reserved"),
]


@pytest.mark.parametrize(("topic", "qos", "says"), BEYOND_TOPICS)
def test_only_the_message_beyond_a_limit_fails(iot: LocalIoTEndpoint, topic: str, qos: int, says: str) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        with pytest.raises((BeyondLimit, PublishFailed), match=says):
            ps.publish(topic, b"", qos=qos)
        ps.publish(["$aws/rules/r/a", "$aws/things/lamp/shadow/update"], {}, qos=1)


def test_subscription_51_fails_and_a_freed_place_can_be_used(iot: LocalIoTEndpoint) -> None:
    with PubSub(provider_of(iot), timeout=30) as ps:
        many = ps.subscribe([f"f{number}" for number in range(49)]).subscribe(next=id)
        last = ps.subscribe("last").subscribe(next=id)
        assert len(many.ready()) == 49
        last.ready()
        with pytest.raises(BeyondLimit, match="subscription 51 of the connection; AWS IoT accepts 50"):
            ps.subscribe("one more").subscribe(error=id).ready()
        again = ps.subscribe("last").subscribe(next=id)  # the same filter counts once
        again.ready()
        last.unsubscribe()
        again.unsubscribe()
        ps.subscribe("one more").subscribe(error=id).ready()


def test_filters_beyond_one_subscribe_are_divided(iot: LocalIoTEndpoint) -> None:
    with PubSub(provider_of(iot, max_filters=100), timeout=30) as ps:
        wanted = [f"f{number}" for number in range(20)]
        assert len(ps.subscribe(wanted).subscribe(next=id).ready()) == 20


# --- pacing ---


def test_three_hundred_messages_are_acknowledged_in_three_seconds_and_none_is_throttled(caplog: Any) -> None:
    with LocalIoTEndpoint() as iot, PubSub(provider_of(iot), timeout=30) as ps:
        ps.connect()
        begin = time.monotonic()
        futures = [ps.publish_nowait("t", number, qos=1) for number in range(300)]
        for future in futures:
            future.result(30)
        assert time.monotonic() - begin > 2.4
    assert "beyond the 100 messages a second" not in caplog.text


def test_echoes_count_towards_the_pace_with_asyncio(caplog: Any) -> None:
    """Received messages count, too: 100 messages and their echoes take as long as 200."""

    async def main() -> float:
        # 20 more than the provider assumes: it may send a few before echoes arrive that a busy machine delays.
        with LocalIoTEndpoint(limits=IoTLimits(publish_rate=120)) as iot:
            async with pubsub.aio.PubSub(provider_of(iot), timeout=30) as ps:
                got: asyncio.Queue[Any] = asyncio.Queue()
                await ps.subscribe("t", qos=1).subscribe(next=got.put_nowait).ready()
                begin = time.monotonic()
                await asyncio.gather(*(ps.publish("t", number, qos=1) for number in range(100)))
                spent = time.monotonic() - begin
                values = [(await asyncio.wait_for(got.get(), 30)).value for _ in range(100)]
                assert values == list(range(100))
                return spent

    assert asyncio.run(main()) > 0.4
    assert "messages a second" not in caplog.text


@pytest.mark.parametrize("face", ["blocking", "asyncio"])
def test_throttled_messages_are_sent_again(face: str, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(aws_iot, "_RESEND_AFTER", 0.3)
    with LocalIoTEndpoint(limits=IoTLimits(publish_rate=40)) as iot:  # less than the provider assumes
        if face == "blocking":
            with PubSub(provider_of(iot), timeout=30) as ps:
                for future in [ps.publish_nowait("t", number, qos=1) for number in range(150)]:
                    future.result(30)
        else:

            async def main() -> None:
                async with pubsub.aio.PubSub(provider_of(iot), timeout=30) as ps:
                    await asyncio.gather(*(ps.publish("t", number, qos=1) for number in range(150)))

            asyncio.run(main())
    assert "beyond the 40 messages a second" in caplog.text


def test_a_rate_of_none_disables_pacing() -> None:
    made = AWSIoTProvider("eu-west-1", HOST, KEYS, limits=IoTLimits(publish_rate=None))
    assert made.client_options()["publish_rate"] is None
    assert AWSIoTProvider("eu-west-1", HOST, KEYS).client_options()["publish_rate"] == 100.0
    assert AWSIoTProvider("eu-west-1", HOST, KEYS, publish_rate=20.0).client_options()["publish_rate"] == 20.0


@pytest.mark.parametrize("reconnect", [True, Reconnect(initial=0.01, maximum=0.02)])
def test_attempts_have_a_minimum_interval(reconnect: bool | Reconnect) -> None:
    """AWS IoT accepts one CONNECT a second for each client id; here four, so that the test is short."""
    limits = IoTLimits(client_connect_rate=4.0)
    attempts: list[float] = []
    with LocalIoTEndpoint(limits=limits, refuse_replays=False) as iot:

        def credentials() -> Credentials:
            attempts.append(time.monotonic())
            return iot.credentials

        made = AWSIoTProvider(iot.region, iot.url, credentials, client_id="c", limits=limits, reconnect=reconnect)
        with PubSub(made, timeout=30) as ps:
            ps.connect()
            for _ in range(4):
                assert iot.delete_connection("c")
                ps.publish("t", 1, qos=1)  # waits for the next connection
    gaps = [later - earlier for earlier, later in itertools.pairwise(attempts)]
    assert len(gaps) == 4
    assert min(gaps) > 0.2


def test_without_reconnecting_there_is_no_interval() -> None:
    assert AWSIoTProvider("eu-west-1", HOST, KEYS, reconnect=False).client_options()["reconnect"] is False
    limits = IoTLimits(client_connect_rate=None)
    assert AWSIoTProvider("eu-west-1", HOST, KEYS, limits=limits).client_options()["reconnect"] is True
    paced = AWSIoTProvider("eu-west-1", HOST, KEYS, reconnect=Reconnect(attempts=3, interval=5.0)).client_options()
    assert paced["reconnect"] == Reconnect(attempts=3, interval=5.0)


# --- why the endpoint closed the connection ---

EMPTY = CorrectedClock()


def explained(error: Exception, **known: Any) -> Any:
    return explain_error(error, clock=EMPTY, ends=None, client_id="c", **known)


def test_a_closed_connection_is_explained_by_the_endpoint() -> None:
    said = "iot:Publish on 'topic/no' is denied by statement 2 of role policy 'p'"
    cut = explained(ConnectionClosed("x", 1008, said), last_asked=("the message to", "no"))
    assert (cut.reason, cut.code) == (Reason.POLICY, 1008)
    assert said in str(cut)
    cut = explained(ConnectionClosed("x", 1008, "the topic 'a' has 8 slashes; AWS IoT accepts at most 7"))
    assert cut.reason is Reason.LIMIT
    cut = explained(ConnectionClosed("x", 1008, "a key: " + "A" * 40))
    assert "AAAA" not in str(cut)


def test_a_closed_connection_is_explained_by_the_last_request() -> None:
    cut = explained(ConnectionClosed("x", 1008), last_asked=("the message to", "no"))
    assert cut.reason is Reason.POLICY
    assert "the message to 'no' was probably the cause" in str(cut)
    assert "the last request" in str(explained(ConnectionClosed("x", 1008)))
    assert explained(LimitExceeded("x")).reason is Reason.LIMIT
    other = ConnectionClosed("x", 1001)
    assert explained(other) is other


def test_a_refused_message_and_a_refused_filter_have_a_reason() -> None:
    refused = explained(PublishRejected("no", 12))
    assert isinstance(refused, PublishRefused)
    assert (refused.topic, refused.size, refused.reason) == ("no", 12, Reason.POLICY)
    assert "iot:Publish" in str(refused)
    cut = explained(ConnectionClosed("x", 1008, "the payload takes 200,000 bytes"))
    assert explained(PublishRejected("no", 12), last_cut=cut).reason is Reason.LIMIT
    assert "200,000" in str(explained(PublishRejected("no", 12), last_cut=cut))
    for closes in (True, False):
        denied = explained(SubscribeRejected("f/#", closes), last_cut=cut)
        assert isinstance(denied, SubscribeRefused)
        assert denied.closes is closes
        assert denied.reason is Reason.LIMIT
        assert "'f/#'" in str(denied)
    about_another = explained(ConnectionClosed("x", 1008, "iot:Publish on 'topic/other' is denied by statement 1"))
    assert "statement" not in str(explained(PublishRejected("no", 12), last_cut=about_another))
    assert "statement 1" in str(explained(PublishRejected("other", 12), last_cut=about_another))
    for error in (refused, denied, cut):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.reason) == (type(error), str(error), error.reason)
        assert explained(error) is error


def test_a_filter_that_the_endpoint_refuses_ends_with_a_reason() -> None:
    identities = Identities("eu-west-1")
    deny = {
        "Effect": "Deny",
        "Action": "iot:Subscribe",
        "Resource": "arn:aws:iot:eu-west-1:123456789012:topicfilter/no",
    }
    everything = {"Effect": "Allow", "Action": "iot:*", "Resource": "*"}
    identities.add_policy("p", {"Version": "2012-10-17", "Statement": [everything, deny]})
    identities.add_user("u", KEYS, policies=["p"])
    with (
        LocalIoTEndpoint(identities, limits=IoTLimits(close_on_denial=False)) as iot,
        PubSub(AWSIoTProvider("eu-west-1", iot.url, KEYS), timeout=30) as ps,
    ):
        with pytest.raises(SubscribeRefused) as caught:
            ps.subscribe("no").subscribe(error=id).ready()
        assert caught.value.reason is Reason.POLICY


# --- options ---


@pytest.mark.parametrize(
    ("asked", "taken"), [(0, 1200), (1, 30), (29, 30), (30, 30), (60, 60), (1200, 1200), (1201, 1200), (65_535, 1200)]
)
def test_the_keep_alive_is_clamped_with_a_warning(asked: int, taken: int, caplog: Any) -> None:
    made = AWSIoTProvider("eu-west-1", HOST, KEYS, keep_alive=asked)
    assert made.client_options()["keep_alive"] == taken
    assert (f"keep_alive is {asked}" in caplog.text) is (asked != taken)
    assert (f"{taken} is used" in caplog.text) is (asked != taken)


def test_the_default_keep_alive_is_that_of_the_client() -> None:
    assert "keep_alive" not in AWSIoTProvider("eu-west-1", HOST, KEYS).client_options()


def test_a_region_that_contradicts_the_host_is_warned_about_once(caplog: Any) -> None:
    made = AWSIoTProvider("us-east-1", HOST, KEYS)
    made.configure({"aws_project_region": "eu-west-1"})
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "'us-east-1', but the endpoint's host is in 'eu-west-1'" in warnings[0].getMessage()
    caplog.clear()
    AWSIoTProvider("eu-west-1", HOST, KEYS)
    AWSIoTProvider("us-east-1", "wss://iot.example.com/mqtt", KEYS)  # a custom domain contains no region
    AWSIoTProvider("us-east-1", HOST, certificate="c.pem")  # nothing is signed
    AWSIoTProvider(None, HOST, KEYS)
    assert caplog.records == []
    later = AWSIoTProvider(None, None, KEYS)
    later.configure({"aws_pubsub_region": "us-east-1", "aws_pubsub_endpoint": HOST})
    assert "'eu-west-1'" in caplog.text


def test_providers_are_equal_only_if_all_options_are() -> None:
    def made(**options: Any) -> AWSIoTProvider:
        return AWSIoTProvider("eu-west-1", HOST, KEYS, **options)

    assert made().same_as(made())
    assert made(limits=IoTLimits()).same_as(made())
    assert made(limits=IoTLimits(max_payload=10)).same_as(made(limits=IoTLimits(max_payload=10)))
    for other in ({"limits": IoTLimits(max_payload=10)}, {"skew": 10.0}, {"clock": lambda: 0.0}, {"expires": 60}):
        assert not made(**other).same_as(made())
        assert not made().same_as(made(**other))


# --- a URL signed elsewhere ---


class Backend:
    """Signs URLs, and counts the calls."""

    def __init__(self, iot: LocalIoTEndpoint) -> None:
        self.iot = iot
        self.asked = 0

    def sign(self) -> str:
        self.asked += 1
        return presign_iot_url(self.iot.url, self.iot.credentials, self.iot.region, datetime.now(UTC))

    async def sign_async(self) -> str:
        await asyncio.sleep(0)
        return self.sign()


def test_a_signing_callable_is_called_at_each_attempt() -> None:
    with LocalIoTEndpoint(refuse_replays=False) as iot:
        backend = Backend(iot)
        made = AWSIoTProvider(aws_pubsub_endpoint=backend.sign)
        with PubSub(made, timeout=30) as ps:
            got: queue.Queue[Any] = queue.Queue()
            ps.subscribe("a", qos=1).subscribe(next=got.put).ready()
            assert backend.asked == 1
            iot.delete_connection(next(iter(iot._hooks._connected)))
            ps.publish("a", 1, qos=1)
            assert got.get(timeout=30).value == 1
            assert backend.asked == 2
        assert "X-Amz" not in repr(made)


@pytest.mark.parametrize("form", ["sign", "sign_async"])
def test_a_signing_coroutine_is_awaited_with_asyncio(form: str) -> None:
    with LocalIoTEndpoint() as iot:
        backend = Backend(iot)

        async def main() -> None:
            async with pubsub.aio.PubSub(AWSIoTProvider(aws_pubsub_endpoint=getattr(backend, form)), timeout=30) as ps:
                await ps.publish("a", 1, qos=1)

        asyncio.run(main())
        assert backend.asked == 1


def test_invalid_signing_callables_are_refused() -> None:
    with pytest.raises(ProviderError, match="credentials and an aws_pubsub_endpoint that signs are given"):
        AWSIoTProvider(aws_pubsub_endpoint=lambda: HOST, credentials=KEYS)
    with pytest.raises(ProviderError, match="returned a NoneType; expected a URL"):
        AWSIoTProvider(aws_pubsub_endpoint=lambda: None).url()  # type: ignore[arg-type, return-value]

    async def sign() -> str:
        return HOST

    with pytest.raises(ProviderError, match=r"only pubsub\.aio awaits"):
        AWSIoTProvider(aws_pubsub_endpoint=sign).url()


def test_a_refused_url_is_not_shown() -> None:
    with LocalIoTEndpoint() as iot:
        wrong = presign_iot_url(iot.url, Credentials("AKIDX", "canary", "canary-token"), iot.region)
        with PubSub(AWSIoTProvider(aws_pubsub_endpoint=lambda: wrong), timeout=30) as ps:
            with pytest.raises(Exception, match="signature was not accepted") as caught:
                ps.connect()
            assert "canary" not in repr(caught.value) + str(caught.value)
            assert "X-Amz-Signature" not in repr(caught.value) + str(caught.value)
