"""The local AWS IoT endpoint, with clients on real sockets: authentication, policies, limits, lifecycle events."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from drivers import wait_until

import mqttws
from mqttws import ConnectionClosed, ConnectionRefused, HandshakeRejected, Publish
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.endpoint_hooks import _ConnectRates, _host_of
from pubsub.aws.local.identities import Identities
from sigv4 import Credentials, presign_iot_url

REGION = "eu-west-1"
ARN = f"arn:aws:iot:{REGION}:123456789012"
KEYS = Credentials("AKIDOFALICE", "the-secret-key-of-alice")
CHAT = {
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect", "Resource": "*"},
        {"Sid": "Talk", "Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": f"{ARN}:topic/*"},
        {"Sid": "Listen", "Effect": "Allow", "Action": "iot:Subscribe", "Resource": "*"},
        {"Sid": "Secret", "Effect": "Deny", "Action": "iot:*", "Resource": f"{ARN}:topic/secret"},
        {"Sid": "Deaf", "Effect": "Deny", "Action": "iot:Receive", "Resource": f"{ARN}:topic/unheard"},
        {"Sid": "Filter", "Effect": "Deny", "Action": "iot:Subscribe", "Resource": f"{ARN}:topicfilter/secret"},
        {"Sid": "NoMallory", "Effect": "Deny", "Action": "iot:Connect", "Resource": f"{ARN}:client/mallory"},
    ],
}


def known() -> Identities:
    identities = Identities(REGION)
    identities.add_policy("chat", CHAT)
    identities.add_user("alice", KEYS, policies=["chat"])
    return identities


class Bench:
    """An endpoint and its clients; all are closed after the test."""

    def __init__(self, **options: Any) -> None:
        self.endpoint = LocalIoTEndpoint(options.pop("identities", None) or known(), **options)
        self.endpoint.start()
        self._clients: list[mqttws.Client] = []

    def set_time(self, now: list[float]) -> None:
        """Let the rates use the test's time."""
        self.endpoint._hooks._monotonic = lambda: now[0]

    def url(self, credentials: Credentials = KEYS, **options: Any) -> str:
        return str(presign_iot_url(self.endpoint.url, credentials, options.pop("region", REGION), **options))

    def client(self, client_id: str = "c", **options: Any) -> mqttws.Client:
        options = {"reconnect": False, "timeout": 10, **options}
        client = mqttws.Client(self.url, client_id=client_id, **options)
        self._clients.append(client)
        return client.open()

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.endpoint.stop()


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**options: Any) -> Bench:
        made.append(Bench(**options))
        return made[-1]

    yield make
    for each in made:
        each.close()


def rejection(url: str) -> HandshakeRejected:
    with pytest.raises(HandshakeRejected) as caught:
        mqttws.Client(url, reconnect=False, timeout=30).open()
    return caught.value


def take(client: mqttws.Client, count: int) -> list[Publish]:
    """Return the next `count` messages, or fewer if no more arrive."""
    taken: list[Publish] = []
    for message in client.messages(timeout=30):
        taken.append(message)
        if len(taken) == count:
            break
    return taken


def ended(client: mqttws.Client) -> Exception | None:
    """Wait for the end of a connection, and return its error."""
    with pytest.raises(ConnectionClosed) as caught:
        for _ in client.messages(timeout=30):
            pass
    return caught.value


def logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    """Wait until the log contains the text. The endpoint logs the end of a connection after the client can see it."""
    wait_until(lambda: text in caplog.text)


# --- authentication ---


def test_a_signed_client_connects_and_disconnects(bench: Callable[..., Bench]) -> None:
    client = bench().client()
    assert client.subscribe("a/+", 1) == 1
    client.publish("a/b", b"hello", qos=1)
    assert [message.payload for message in take(client, 1)] == [b"hello"]


@pytest.mark.parametrize("explain", [False, True])
def test_a_refusal_is_worded_as_by_aws(explain: bool, bench: Callable[..., Bench], caplog: Any) -> None:
    there = bench(explain=explain)
    error = rejection(there.url(Credentials(KEYS.access_key, "wrong-secret")))
    headers = dict(error.headers)
    body = json.loads(error.body)
    assert error.status == 403
    assert headers["x-amzn-errortype"] == "ForbiddenException"
    assert headers["content-type"] == "application/json"
    assert headers["x-amzn-requestid"] == body["traceId"]
    assert abs((parsedate_to_datetime(headers["date"]) - datetime.now(UTC)).total_seconds()) < 60
    logged(caplog, "403")
    lines = [record.getMessage() for record in caplog.records if "403" in record.getMessage()]
    if explain:
        assert body["reason"] == "wrong_secret"
        assert "another secret key" in body["message"]
        assert any("another secret key" in line for line in lines)
    else:
        assert body["message"] == "Forbidden"
        assert any("the signature does not match" in line for line in lines)


def test_each_mistake_is_refused_and_named(bench: Callable[..., Bench]) -> None:
    there = bench(explain=True)
    old = datetime.fromtimestamp(time.time() - 3600, UTC)
    mistakes = {
        there.endpoint.url: "unsigned",
        there.url(now=old): "clock",
        there.url(now=old, expires=60): "expired",
        there.url(region="us-east-1"): "region",
        there.url(service="s3"): "service",
        there.url(Credentials("AKIDUNKNOWN", "x")): "unknown_key",
        there.url(Credentials(KEYS.access_key, KEYS.secret_key, "a-token")): "token_unexpected",
        there.url().replace("/mqtt?", "/mqtt?more=1&"): "query_partly",
    }
    reasons = {code: json.loads(rejection(url).body)["reason"] for url, code in mistakes.items()}
    assert reasons == {code: code for code in mistakes.values()}


def test_a_replay_is_refused(bench: Callable[..., Bench]) -> None:
    now = [time.time()]
    there = bench(clock=lambda: now[0], explain=True)
    url = there.url(now=datetime.fromtimestamp(now[0], UTC))
    for client_id in ("one", "two"):  # two clients with the same keys in the same second sign the same
        with mqttws.Client(url, client_id=client_id, reconnect=False, timeout=30):
            pass
    now[0] += 3
    assert json.loads(rejection(url).body)["reason"] == "replayed"
    lenient = bench(clock=lambda: now[0], refuse_replays=False)
    url = lenient.url(now=datetime.fromtimestamp(now[0], UTC))
    for _ in range(2):
        now[0] += 3
        with mqttws.Client(url, reconnect=False, timeout=30):
            pass


def test_other_paths_are_not_served(bench: Callable[..., Bench]) -> None:
    there = bench()
    assert rejection(there.endpoint.url.replace("/mqtt", "/other")).status == 404


def test_it_runs_in_an_event_loop_too() -> None:
    async def main() -> list[bytes]:
        async with LocalIoTEndpoint() as iot:
            url = str(presign_iot_url(iot.url, iot.credentials, iot.region))
            async with mqttws.aio.connect(url, reconnect=False, timeout=30) as client:
                await client.subscribe("a", 1)
                await client.publish("a", b"x", qos=1)
                return [message.payload async for message in client.messages(timeout=0.2)]

    assert asyncio.run(main()) == [b"x"]


# --- policies ---


def test_a_client_that_may_not_connect(bench: Callable[..., Bench], caplog: Any) -> None:
    with pytest.raises(ConnectionRefused) as caught:
        bench().client("mallory")
    assert caught.value.return_code == 5
    logged(caplog, "is denied by statement 7 (Sid 'NoMallory') of role policy 'chat'")


def test_what_is_denied_ends_the_connection(bench: Callable[..., Bench], caplog: Any) -> None:
    there = bench()
    client = there.client("publisher")
    client.publish_nowait("secret", b"x", qos=0)
    ended(client)
    logged(caplog, "PUBLISH to 'secret' denied: iot:Publish")
    logged(caplog, "statement 4 (Sid 'Secret') of role policy 'chat'")
    client = there.client("subscriber")
    client.subscribe_nowait("secret")
    ended(client)
    logged(caplog, "SUBSCRIBE to 'secret' denied: iot:Subscribe")


def test_a_denied_publish_keeps_the_connection_if_configured(bench: Callable[..., Bench]) -> None:
    client = bench(limits=IoTLimits(close_on_denial=False)).client()
    assert client.subscribe(["secret", "other"]) == (128, 0)
    client.publish("secret", b"x", qos=1)
    client.publish("other", b"y", qos=1)
    assert [message.payload for message in take(client, 1)] == [b"y"]


def test_denied_messages_are_not_received(bench: Callable[..., Bench], caplog: Any) -> None:
    client = bench().client()
    client.subscribe("#")
    client.publish("unheard", b"x", qos=1)
    client.publish("received", b"y", qos=1)
    assert [message.topic for message in take(client, 1)] == ["received"]
    logged(caplog, "delivery from 'unheard' denied: iot:Receive")


def test_retaining_requires_a_separate_permission(bench: Callable[..., Bench], caplog: Any) -> None:
    client = bench().client()
    client.publish_nowait("a", b"x", retain=True)
    ended(client)
    logged(caplog, "iot:RetainPublish")


def test_a_policy_that_is_attached_later_counts_at_the_next_connection(bench: Callable[..., Bench]) -> None:
    pool = f"{REGION}:11111111-2222-3333-4444-555555555555"
    identities = known()
    identities.add_pool(pool, guests=["chat"], users=["chat"], logins={"idp": {"token": "bob"}.get})
    there = bench(identities=identities)

    guest = CognitoIdentity(pool, endpoint=there.endpoint.cognito_endpoint)
    user = CognitoIdentity(pool, endpoint=there.endpoint.cognito_endpoint, logins={"idp": "token"})

    def connect(identity: CognitoIdentity, client_id: str) -> mqttws.Client:
        url = there.url(identity.get_frozen_credentials())
        return mqttws.Client(url, client_id=client_id, reconnect=False, timeout=30)

    with connect(guest, "guest"):
        pass
    with pytest.raises(ConnectionRefused):
        connect(user, "user").open()
    assert user.identity_id
    identities.attach_policy("chat", user.identity_id)
    there.endpoint.identities.detach_policy("chat", "unknown")
    with connect(user, "user-again"):
        pass


# --- limits, and differences from MQTT ---


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda client: client.publish_nowait("a", b"x" * (128 * 1024 + 1)), "131,073 bytes"),
        (lambda client: client.publish_nowait("a/" * 8 + "b", b""), "has 8 slashes"),
        (lambda client: client.publish_nowait("a" * 257, b""), "takes 257 bytes"),
        (lambda client: client.publish_nowait("a", b"", qos=2), "QoS 2"),
        (lambda client: client.subscribe_nowait("a/" * 8 + "b"), "has 8 slashes"),
        (lambda client: client.subscribe_nowait([f"f{n}" for n in range(9)]), "9 Topic Filters"),
    ],
)
def test_exceeding_a_limit_closes_the_connection(act: Any, said: str, bench: Callable[..., Bench], caplog: Any) -> None:
    client = bench().client()
    act(client)
    ended(client)
    logged(caplog, said)


def test_values_at_the_limits_are_accepted(bench: Callable[..., Bench]) -> None:
    client = bench().client("c" * 128)
    client.publish("a/" * 7 + "b", b"x" * 128 * 1024, qos=1)
    client.publish("$aws/rules/my_rule/" + "a/" * 7 + "b", b"x", qos=1)
    client.publish("a" * 256, b"", qos=1)
    for start in range(0, 50, 8):
        codes = client.subscribe([(f"f{n}", 2) for n in range(start, min(start + 8, 50))])
        assert set(codes) == {1}
    assert client.subscribe(["one-too-many"]) == (128,)


@pytest.mark.parametrize(("client_id", "code"), [("c" * 129, 2), ("$mine", 2)])
def test_client_ids(client_id: str, code: int, bench: Callable[..., Bench]) -> None:
    with pytest.raises(ConnectionRefused) as caught:
        bench().client(client_id)
    assert caught.value.return_code == code


def test_an_empty_client_id_is_replaced(bench: Callable[..., Bench]) -> None:
    there = bench()
    watcher = there.client("watcher")
    watcher.subscribe("$aws/events/presence/connected/+/+", 1)
    there.client("")
    (message,) = take(watcher, 1)
    assert message.topic.startswith("$aws/events/presence/connected/$GEN/")


def test_a_message_beyond_the_rate_is_discarded_and_not_acknowledged(bench: Callable[..., Bench], caplog: Any) -> None:
    client = bench(limits=IoTLimits(publish_rate=3)).client()
    futures = [client.publish_nowait("a", b"", qos=1) for _ in range(6)]
    for future in futures[:3]:
        future.result(30)
    client.subscribe("b")  # answered after everything published before
    assert [future.done() for future in futures[3:]] == [False] * 3
    logged(caplog, "beyond the 3 messages a second")
    client.close(0)


def test_a_message_beyond_the_rate_is_delayed_if_configured(bench: Callable[..., Bench]) -> None:
    client = bench(limits=IoTLimits(publish_rate=50, publish_surplus="delay")).client()
    futures = [client.publish_nowait("a", b"", qos=1) for _ in range(70)]
    for future in futures:
        future.result(30)


def test_the_parent_level_and_retained_messages(bench: Callable[..., Bench]) -> None:
    identities = known()
    everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
    identities.add_policy("chat", everything)
    client = bench(identities=identities).client()
    client.publish("a/b", b"retained", qos=1, retain=True)
    client.subscribe(["a/#", "a/+"])
    client.publish("a", b"parent", qos=1)
    client.subscribe("a/b")
    client.publish("a/c", b"last", qos=1)
    assert [(message.topic, message.retain) for message in take(client, 2)] == [("a/b", True), ("a/c", False)]


def test_a_client_id_is_taken_over_within_the_account(bench: Callable[..., Bench]) -> None:
    identities = known()
    other = Credentials("AKIDOFBOB", "the-secret-key-of-bob")
    identities.add_user("bob", other, policies=["chat"])
    there = bench(identities=identities)
    first = there.client("same")
    with mqttws.Client(there.url(other), client_id="same", reconnect=False, timeout=30):
        assert isinstance(ended(first), mqttws.SessionTakenOver)


def test_keep_alive_is_clamped() -> None:
    limits = IoTLimits()
    assert [limits.keep_alive(asked) for asked in (0, 1, 30, 600, 1200, 65_535)] == [1200, 30, 30, 600, 1200, 1200]


def test_the_clamped_keep_alive_closes_idle_connections(bench: Callable[..., Bench]) -> None:
    there = bench(limits=IoTLimits(min_keep_alive=1, max_keep_alive=1))
    watcher = there.client("watcher", keep_alive=1)
    watcher.subscribe("$aws/events/presence/disconnected/silent", 1)
    silent = there.client("silent", keep_alive=0)  # so it never sends PINGREQ; the endpoint applies 1 s
    (message,) = take(watcher, 1)
    assert json.loads(message.payload)["disconnectReason"] == "MQTT_KEEP_ALIVE_TIMEOUT"
    assert silent.client_id == "silent"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_payload": -1},
        {"publish_surplus": "drop"},
        {"publish_rate": 0.5},
        {"min_keep_alive": 40, "max_keep_alive": 30},
        {"max_qos": 3},
    ],
)
def test_settings_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        IoTLimits(**wrong)


@pytest.mark.parametrize("expires", [None, 60, 86_400, 604_800])
def test_a_signature_is_valid_for_at_most_five_minutes(expires: int | None, bench: Callable[..., Bench]) -> None:
    now = [time.time()]
    there = bench(clock=lambda: now[0], explain=True, refuse_replays=False)
    url = there.url(now=datetime.fromtimestamp(now[0], UTC), expires=expires)
    life = min(expires or 300, 300)
    now[0] += life - 2
    with mqttws.Client(url, reconnect=False, timeout=30):
        pass
    now[0] += 4
    body = json.loads(rejection(url).body)
    assert body["reason"] == ("clock" if expires is None else "expired")
    if expires == 86_400:
        assert "valid for 1 d, limited to 5 min here" in body["message"]


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("[::1]:8443", "[::1]"),
        ("[2001:DB8::1]", "[2001:db8::1]"),
        ("IoT.example.com:443", "iot.example.com"),
        ("127.0.0.1:1234", "127.0.0.1"),
        ("localhost", "localhost"),
        (None, None),
    ],
)
def test_the_domain_name_is_the_host_without_its_port(host: str | None, name: str | None) -> None:
    assert _host_of(host) == name


def test_connects_with_one_client_id_have_a_rate(bench: Callable[..., Bench], caplog: Any) -> None:
    now, clock = [1_000.0], [time.time()]
    there = bench(clock=lambda: clock[0])
    there.set_time(now)
    for _ in range(3):
        there.client("same").close()
        clock[0] -= 10.0  # which the rate does not use: it can be set back
    with pytest.raises(ConnectionRefused) as caught:
        there.client("same")
    assert caught.value.return_code == 3
    logged(caplog, "the client id 'same' is beyond its 1 CONNECTs a second")
    there.client("other").close()
    now[0] += 1.01
    there.client("same").close()
    with pytest.raises(ConnectionRefused):
        there.client("same")


def test_connects_of_the_account_have_a_rate(bench: Callable[..., Bench], caplog: Any) -> None:
    now = [1_000.0]
    there = bench(limits=IoTLimits(connect_rate=3))
    there.set_time(now)
    for number in range(3):
        there.client(f"c{number}").close()
    with pytest.raises(ConnectionRefused) as caught:
        there.client("c3")
    assert caught.value.return_code == 3
    logged(caplog, "the account is beyond its 3 CONNECTs a second")
    unlimited = bench(limits=IoTLimits(connect_rate=None, client_connect_rate=None))
    unlimited.set_time(now)
    for _ in range(6):
        unlimited.client("same").close()


def test_the_record_of_connects_is_bounded() -> None:
    rates = _ConnectRates(IoTLimits(connect_rate=None))
    for number in range(10_100):
        assert rates.objection(f"c{number}", 0.0) is None
    assert len(rates._of_client) == 10_000


@pytest.mark.parametrize("topic", ["$aws/things/lamp/shadow/update", "$aws/rules/r", "$aws/rules/r/a/b"])
@pytest.mark.parametrize("qos", [0, 1])
def test_messages_for_aws_services_are_acknowledged_and_dropped(
    topic: str, qos: int, bench: Callable[..., Bench], caplog: Any
) -> None:
    there = bench()
    client = there.client()
    client.publish(topic, b"x", qos=qos)
    client.publish("after", b"y", qos=1)
    assert f"PUBLISH to {topic!r} denied: it is for a service of AWS, and there is none here" in caplog.text
    assert "not allowed for clients" not in caplog.text


@pytest.mark.parametrize(
    "topic", ["$mine", "$aws/mine", "$aws/events/presence/connected/c", "$aws/things/l/shadow/get/accepted"]
)
@pytest.mark.parametrize("verb", ["publish_nowait", "subscribe_nowait"])
def test_reserved_topics_end_the_connection(topic: str, verb: str, bench: Callable[..., Bench], caplog: Any) -> None:
    client = bench().client()
    if verb == "subscribe_nowait" and topic.startswith(("$aws/events", "$aws/things")):
        assert client.subscribe(topic) == 0
        return
    getattr(client, verb)(topic)
    ended(client)
    logged(caplog, "is reserved; AWS IoT documents no such topic")


def test_reserved_topics_are_ordinary_if_configured(bench: Callable[..., Bench]) -> None:
    client = bench(limits=IoTLimits(reserved_topics=True)).client()
    client.subscribe("$mine/+")
    client.publish("$mine/a", b"x", qos=1)
    assert [message.topic for message in take(client, 1)] == ["$mine/a"]


@pytest.mark.parametrize("echo", [False, True])
def test_bytes_beyond_the_rate_are_delayed_without_loss(echo: bool, bench: Callable[..., Bench]) -> None:
    """Of 256 KiB in, or of 128 KiB in and 128 KiB out, 100,000 bytes are the burst and the rest takes 1.6 s."""
    client = bench(limits=IoTLimits(byte_rate=100_000)).client()
    if echo:
        client.subscribe("a", 1)
    begin = time.monotonic()
    count = 2 if echo else 4
    for future in [client.publish_nowait("a", b"x" * 64 * 1024, qos=1) for _ in range(count)]:
        future.result(30)
    if echo:
        assert len(take(client, count)) == count
        client.publish("b", b"", qos=1)  # read only when the echoes no longer exceed the rate
    assert time.monotonic() - begin > 1.2


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize(
    ("act", "said"),
    [
        (lambda client: client.publish_nowait("secret", b"x"), "statement 4 (Sid 'Secret') of role policy 'chat'"),
        (lambda client: client.subscribe_nowait("secret"), "statement 6 (Sid 'Filter') of role policy 'chat'"),
        (lambda client: client.publish_nowait("a/" * 8 + "b", b""), "has 8 slashes"),
        (lambda client: client.publish_nowait("a", b"x" * (128 * 1024 + 1)), "131,073 bytes"),
        (lambda client: client.subscribe_nowait([f"f{n}" for n in range(9)]), "9 Topic Filters"),
    ],
)
def test_a_closed_connection_is_explained_on_request(
    explain: bool, act: Any, said: str, bench: Callable[..., Bench]
) -> None:
    client = bench(explain=explain).client()
    act(client)
    error = ended(client)
    assert isinstance(error, ConnectionClosed)
    assert error.code == 1008
    assert (said in error.close_reason) is explain
    assert explain or error.close_reason == ""
    assert "123456789012" not in error.close_reason


def test_shared_subscriptions(bench: Callable[..., Bench], caplog: Any) -> None:
    """`$share/{ShareName}/{TopicFilter}`: each message goes to one of the group; the policy names the whole filter."""
    identities = known()
    statements = [
        {
            "Effect": "Allow",
            "Action": ["iot:Connect", "iot:Publish", "iot:RetainPublish", "iot:Receive"],
            "Resource": "*",
        },
        {"Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}:topicfilter/$share/workers/*"},
    ]
    identities.add_policy("chat", {"Version": "2012-10-17", "Statement": statements})
    there = bench(identities=identities)
    publisher = there.client("publisher")
    publisher.publish("plant/0", b"retained", qos=1, retain=True)
    workers = [there.client(f"worker-{number}") for number in range(2)]
    deep = "$share/workers/" + "/".join("12345678")
    assert [worker.subscribe(["$share/workers/plant/#", deep], 1) for worker in workers] == [(1, 1)] * 2
    for number in range(1, 7):
        publisher.publish(f"plant/{number}", b"x", qos=1)
    shares = [[message.topic for message in take(worker, 3)] for worker in workers]
    assert sorted(shares[0] + shares[1]) == [f"plant/{number}" for number in range(1, 7)]  # and no retained message
    workers[1].close()
    publisher.publish("plant/7", b"x", qos=1)
    assert [message.topic for message in take(workers[0], 1)] == ["plant/7"]
    workers[0].subscribe_nowait("$share/others/plant/#")
    ended(workers[0])
    logged(caplog, "iot:Subscribe on 'arn:aws:iot:eu-west-1:123456789012:topicfilter/$share/others/plant/#'")


def test_a_connection_is_deleted(bench: Callable[..., Bench]) -> None:
    there = bench()
    watcher = there.client("watcher")
    watcher.subscribe(["$aws/events/presence/disconnected/+", "will"], 1)
    for prevent_will in (False, True):
        will = mqttws.Message("will", b"gone", 1)
        victim = there.client(f"victim-{prevent_will}", clean_session=False, will=will)
        assert there.endpoint.delete_connection(victim.client_id, prevent_will=prevent_will, clean_session=prevent_will)
        ended(victim)
        messages = take(watcher, 1 if prevent_will else 2)
        assert sorted(message.topic for message in messages) == sorted(
            [f"$aws/events/presence/disconnected/{victim.client_id}", *([] if prevent_will else ["will"])]
        )
        (event,) = [json.loads(message.payload) for message in messages if message.topic != "will"]
        assert event["disconnectReason"] == "API_INITIATED_DISCONNECT"
        assert event["clientInitiatedDisconnect"] is False
        again = there.client(victim.client_id, clean_session=False)
        assert again.state.session_present is not prevent_will
    assert not there.endpoint.delete_connection("unknown")


# --- lifecycle messages ---


def test_presence(bench: Callable[..., Bench]) -> None:
    there = bench()
    watcher = there.client("watcher")
    watcher.subscribe("$aws/events/presence/#", 1)
    there.client("visitor").close()
    connected, disconnected = take(watcher, 2)
    assert connected.topic == "$aws/events/presence/connected/visitor"
    assert disconnected.topic == "$aws/events/presence/disconnected/visitor"
    arrival, farewell = json.loads(connected.payload), json.loads(disconnected.payload)
    assert arrival["clientId"] == "visitor"
    assert arrival["eventType"] == "connected"
    assert arrival["principalIdentifier"] == "alice"
    assert arrival["ipAddress"] == "127.0.0.1"
    assert farewell["clientInitiatedDisconnect"] is True
    assert farewell["disconnectReason"] == "CLIENT_INITIATED_DISCONNECT"
    assert arrival["sessionIdentifier"] == farewell["sessionIdentifier"]
    assert arrival["versionNumber"] == farewell["versionNumber"]
    assert abs(arrival["timestamp"] / 1000 - time.time()) < 60
    first, second = there.client("twin"), there.client("twin")
    reasons = [json.loads(message.payload).get("disconnectReason") for message in take(watcher, 3)]
    assert sorted(reasons, key=str) == ["DUPLICATE_CLIENTID", None, None]
    assert first.client_id == second.client_id
    there.client("denied").publish_nowait("secret")
    reasons = [json.loads(message.payload).get("disconnectReason") for message in take(watcher, 2)]
    assert reasons == [None, "AUTH_ERROR"]


def test_presence_events_can_be_disabled(bench: Callable[..., Bench]) -> None:
    there = bench(limits=IoTLimits(lifecycle_events=False))
    watcher = there.client("watcher")
    watcher.subscribe("#")
    watcher.subscribe("$aws/events/presence/#")
    there.client("visitor").close()
    watcher.publish("end", b"", qos=1)
    assert [message.topic for message in take(watcher, 1)] == ["end"]


def test_on_ipv6_with_a_pool_and_a_condition_on_the_domain_name() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 loopback here")
    pool = f"{REGION}:11111111-2222-3333-4444-555555555555"
    identities = Identities(REGION)
    here = {"StringEquals": {"iot:DomainName": "[::1]"}}
    statement = {"Effect": "Allow", "Action": "iot:*", "Resource": "*", "Condition": here}
    identities.add_policy("here", {"Version": "2012-10-17", "Statement": [statement]})
    identities.add_pool(pool, guests=["here"])
    with LocalIoTEndpoint(identities, host="::1") as iot:
        assert iot.cognito_endpoint.startswith("http://[::1]:")
        keys = CognitoIdentity(pool, endpoint=iot.cognito_endpoint).get_frozen_credentials()
        with mqttws.Client(str(presign_iot_url(iot.url, keys, REGION)), reconnect=False, timeout=30) as client:
            client.publish("a", b"", qos=1)


def test_closing_it_leaves_nothing_running() -> None:
    before = set(threading.enumerate())
    for _ in range(2):
        with LocalIoTEndpoint() as iot:
            url = str(presign_iot_url(iot.url, iot.credentials, iot.region))
            with mqttws.Client(url, reconnect=False, timeout=30):
                pass
    wait_until(lambda: set(threading.enumerate()) <= before)
