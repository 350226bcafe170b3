"""`AWSIoTProvider` with the blocking and the asyncio `PubSub`, with the local endpoint, and its bytes on the wire."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import queue
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from self_signed import encrypt

import pubsub.aio
from mqttws import ConnectionClosed, ConnectionRefused, HandshakeRejected, LimitExceeded, MQTTError
from mqttws.broker import Broker, Peer
from mqttws.testing import mint_authority
from pubsub import AWSIoTProvider, MqttOverWSProvider, ProviderError, PubSub
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.corrected_clock import CorrectedClock, read_date
from pubsub.aws.custom_auth import CustomAuthorizer
from pubsub.aws.endpoint_url import alpn_for, unsigned_url
from pubsub.aws.errors import AWSIoTError, BeyondLimit, ConnectRefused, Reason, UpgradeRefused
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.authorizers import AuthorizerGrant, AuthorizerRequest, LocalAuthorizer
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import ALLOW_ALL, Identities
from sigv4 import Credentials

POOL = "eu-west-1:11111111-2222-3333-4444-555555555555"
KEYS = Credentials("AKIDOFALICE", "the-secret-key-of-alice")
TOKEN = "a+token/with=signs"
REGION = "eu-west-1"


@pytest.fixture(scope="module")
def signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.fixture(scope="module")
def endpoint(signing_key: rsa.RSAPrivateKey) -> Iterator[LocalIoTEndpoint]:
    identities = Identities(REGION)
    identities.add_policy("all", ALLOW_ALL)
    identities.add_policy("nothing", {"Version": "2012-10-17", "Statement": [
        {"Effect": "Deny", "Action": "*", "Resource": "*"}]})  # fmt: skip
    identities.add_user("alice", KEYS, policies=["all"])
    identities.add_user("mallory", Credentials("AKIDOFMALLORY", "secret"), policies=["nothing"])
    identities.add_pool(POOL, guests=["all"])
    pem = signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def decide(token: str, request: Any) -> AuthorizerGrant | None:
        return AuthorizerGrant("carol", identities.documents(["all"])) if token == TOKEN else None

    identities.add_authorizer(LocalAuthorizer("signed", decide, token_key="MyToken", public_key=pem))
    with LocalIoTEndpoint(identities, tls=True, mqtts_port=0, explain=True) as iot:
        yield iot


@pytest.fixture(scope="module")
def ca_file(endpoint: LocalIoTEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return endpoint.write_authority(tmp_path_factory.mktemp("ca") / "ca.pem")


def provider(endpoint: LocalIoTEndpoint, ca_file: Path, **options: Any) -> AWSIoTProvider:
    options = {"aws_pubsub_endpoint": endpoint.url, "aws_pubsub_region": REGION, **options}
    return AWSIoTProvider(ca_file=ca_file, **options)


def round_trip(made: AWSIoTProvider) -> None:
    with PubSub(made, timeout=30) as ps:
        received: queue.Queue[Any] = queue.Queue()
        subscription = ps.subscribe("chat/+", qos=1).subscribe(next=received.put)
        assert subscription.ready() == {"chat/+": 1}
        ps.publish("chat/a", {"msg": "hello"}, qos=1)
        assert received.get(timeout=30).value == {"msg": "hello"}


def failure(made: AWSIoTProvider) -> Exception:
    """Return the error that ended a subscription."""
    with PubSub(made, timeout=30) as ps:
        errors: queue.Queue[Exception] = queue.Queue()
        closed = threading.Event()
        ps.subscribe("a").subscribe(next=print, error=errors.put, close=closed.set)
        error = errors.get(timeout=30)
        assert closed.wait(30)
        return error


# --- credentials ---


def test_static_credentials(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    round_trip(provider(endpoint, ca_file, credentials=KEYS))


def test_credentials_by_a_callable_and_by_botocore(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    class Botocore:
        def get_frozen_credentials(self) -> Credentials:
            return KEYS

    round_trip(provider(endpoint, ca_file, credentials=lambda: KEYS))
    round_trip(provider(endpoint, ca_file, credentials=Botocore()))


@pytest.mark.parametrize("source", ["static", "cognito", "awaitable"])
def test_credentials_with_asyncio(source: str, endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    async def fetch() -> Credentials:
        await asyncio.sleep(0)
        return KEYS

    credentials: Any = {
        "static": KEYS,
        "awaitable": fetch,
        "cognito": CognitoIdentity(POOL, endpoint=endpoint.cognito_endpoint, context=endpoint.client_context()),
    }[source]

    async def main() -> Any:
        async with pubsub.aio.PubSub(provider(endpoint, ca_file, credentials=credentials), timeout=30) as ps:
            received: asyncio.Queue[Any] = asyncio.Queue()
            await ps.subscribe("a", qos=1).subscribe(next=received.put_nowait).ready(timeout=30)
            await ps.publish("a", 42, qos=1)
            return (await received.get()).value

    assert asyncio.run(asyncio.wait_for(main(), 30)) == 42


def test_the_configured_identity_pool_is_used(endpoint: LocalIoTEndpoint, tmp_path: Path) -> None:
    plain = Identities(REGION)
    plain.add_policy("all", ALLOW_ALL)
    plain.add_pool(POOL, guests=["all"])
    exports = tmp_path / "aws-exports.js"
    with LocalIoTEndpoint(plain) as iot, PubSub(timeout=30) as ps:
        exports.write_text(
            f"export default {{ aws_project_region: '{REGION}', aws_cognito_identity_pool_id: '{POOL}',\n"
            f"  aws_pubsub_region: '{REGION}', aws_pubsub_endpoint: '{iot.url}' }};\n"
        )
        ps.configure({"aws_cognito_identity_endpoint": iot.cognito_endpoint})
        ps.configure(exports)
        assert [type(each) for each in ps.providers] == [AWSIoTProvider]
        ps.publish("a", {"msg": "by a guest"}, qos=1)


def test_pubsubs_with_one_provider_have_one_identity_of_the_same_pool() -> None:
    made = AWSIoTProvider(logins={"issuer.example": "token"})
    pubsubs = [PubSub(made) for _ in range(3)]
    for ps, pool in zip(pubsubs, (POOL, POOL, POOL.replace("1111", "2222")), strict=True):
        ps.configure({"aws_pubsub_endpoint": f"wss://{REGION}.example/mqtt", "aws_pubsub_region": REGION})
        ps.configure({"aws_cognito_identity_pool_id": pool})
    one, two, other = [ps.providers[0]._source() for ps in pubsubs]  # type: ignore[attr-defined]
    assert one is two
    assert one is not other
    assert isinstance(other, CognitoIdentity)


def test_arguments_override_the_configuration() -> None:
    ps = PubSub()
    settings = {"aws_pubsub_region": "r", "aws_pubsub_endpoint": "ws://h/mqtt", "aws_cognito_identity_pool_id": POOL}
    ps.configure(settings)
    own = AWSIoTProvider(credentials=KEYS)
    ps.add_pluggable(own)
    assert [each.same_as(own) for each in ps.providers] == [True]
    ps = PubSub()
    ps.configure(settings)
    ps.add_pluggable(MqttOverWSProvider("ws://h"))
    assert [each.name for each in ps.providers] == ["MqttOverWSProvider"]


def test_missing_options_are_named() -> None:
    host = "wss://abc-ats.iot.eu-west-1.amazonaws.com/mqtt"
    for options, said in (
        ({"credentials": KEYS}, "no endpoint"),
        ({"aws_pubsub_endpoint": "wss://iot.example.com/mqtt", "credentials": KEYS}, "aws_pubsub_region"),
        ({"aws_pubsub_endpoint": host}, "no credentials"),
        ({"aws_pubsub_endpoint": host, "certificate": "there-is-none.pem"}, "cannot be used"),
        ({"aws_pubsub_endpoint": host, "credentials": KEYS, "ca_file": "x", "key": "x"}, "a key needs the certificate"),
        ({"aws_pubsub_endpoint": "http://h", "credentials": KEYS}, "wss://"),
    ):
        with pytest.raises(ProviderError, match=said):
            AWSIoTProvider(**options).client_options()  # type: ignore[arg-type]
    with pytest.raises(ProviderError, match="credentials and certificate are given"):
        AWSIoTProvider(credentials=KEYS, certificate="c.pem")


# --- errors ---


def test_a_wrong_clock_is_corrected_after_a_403(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    for off in (-3600, 7200):
        round_trip(provider(endpoint, ca_file, credentials=KEYS, clock=lambda off=off: time.time() + off))


def test_the_clock_is_corrected_at_most_once_an_interval() -> None:
    now, steady = [0.0], [0.0]
    clock = CorrectedClock(lambda: now[0], monotonic=lambda: steady[0])
    hour = datetime.fromtimestamp(3600, UTC)
    assert not clock.correct(datetime.fromtimestamp(300, UTC))
    assert clock.correct(hour)
    assert clock.now() == hour
    assert not clock.correct(hour + timedelta(hours=1))  # a server that reports another time at each request
    steady[0] += 61
    assert clock.correct(hour + timedelta(hours=1))
    assert clock.offset == 7200


def test_a_request_signed_just_before_a_correction_is_retried() -> None:
    now, steady = [0.0], [0.0]
    clock = CorrectedClock(lambda: now[0], monotonic=lambda: steady[0])
    clock.date()  # long ago
    steady[0] += 100
    for _ in range(3):  # for three connections
        clock.date()
    hour = datetime.fromtimestamp(3600, UTC)
    assert [clock.correct(hour) for _ in range(4)] == [True, True, True, False]
    clock.date()
    steady[0] += 100
    assert not clock.correct(hour)


@pytest.mark.parametrize(
    "text",
    [
        *(None, "", "yesterday", "Mon, 99 Nov 2026 20:12:45 GMT"),
        *(f"Mon, 23 Nov {'9' * 14} 20:12:45 GMT", f"Mon, 23 Nov 2026 20:12:45 +{'9' * 20}"),
    ],
)
def test_invalid_dates_are_ignored(text: str | None) -> None:
    assert read_date(text) is None
    assert read_date("Mon, 23 Nov 2026 20:12:45 -0000") == datetime(2026, 11, 23, 20, 12, 45, tzinfo=UTC)


def test_a_wrong_secret_is_explained(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    error = failure(provider(endpoint, ca_file, credentials=Credentials(KEYS.access_key, "wrong")))
    assert isinstance(error, UpgradeRefused)
    assert isinstance(error, HandshakeRejected)
    assert (error.reason, error.status) == (Reason.SIGNATURE, 403)
    assert "another secret key" in str(error)
    assert error.request_id


def test_a_denied_policy_is_explained(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    error = failure(provider(endpoint, ca_file, credentials=Credentials("AKIDOFMALLORY", "secret"), client_id="me"))
    assert isinstance(error, ConnectRefused)
    assert isinstance(error, ConnectionRefused)
    assert (error.reason, error.return_code) == (Reason.POLICY, 5)
    assert "iot:Connect for the client id 'me'" in str(error)


def test_a_limit_is_reported_before_anything_is_sent(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    with PubSub(provider(endpoint, ca_file, credentials=KEYS), timeout=30) as ps:
        for topic, message, qos in (("a", "x" * 131_072, 0), ("/" * 8, "", 0), ("a" * 257, "", 0), ("a", "", 2)):
            with pytest.raises(BeyondLimit) as caught:
                ps.publish(["fine", topic], message, qos=qos)
            assert caught.value.reason is Reason.LIMIT


def test_expired_credentials_are_fetched_again(endpoint: LocalIoTEndpoint, ca_file: Path) -> None:
    ring = endpoint.identities.ring
    principal = ring.find(KEYS.access_key)
    assert principal is not None
    old = ring.mint(principal.principal, now=time.time() - 7200, life=3600)

    class Source:
        def __init__(self) -> None:
            self.held = Credentials(old.access_key, old.secret_key, old.token)  # without an expiration

        def get_frozen_credentials(self) -> Credentials:
            return self.held

        def expire(self) -> None:
            self.held = KEYS

    round_trip(provider(endpoint, ca_file, credentials=Source()))
    error = failure(provider(endpoint, ca_file, credentials=Credentials(old.access_key, old.secret_key, old.token)))
    assert isinstance(error, AWSIoTError)
    assert error.reason is Reason.EXPIRED_TOKEN


def refusal(body: dict[str, Any] | bytes = b"", status: int = 403, **headers: str) -> HandshakeRejected:
    given = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return HandshakeRejected(status, given, body if isinstance(body, bytes) else json.dumps(body).encode())


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (refusal({"message": "Forbidden"}, x_amzn_errortype="ForbiddenException:"), Reason.SIGNATURE),
        (refusal({"message": "The security token included in the request is expired"}), Reason.EXPIRED_TOKEN),
        (refusal(date="Thu, 01 Jan 1970 02:00:00 GMT"), Reason.CLOCK),
        (refusal(b"\xff"), Reason.SIGNATURE),
        (refusal(b"[]"), Reason.SIGNATURE),
        (refusal(status=429), Reason.LIMIT),
        (ConnectionRefused(2), Reason.LIMIT),
        (ConnectionRefused(5), Reason.POLICY),
        (ConnectionClosed("closed", 1008), Reason.POLICY),
        (LimitExceeded(), Reason.LIMIT),
    ],
)
def test_reasons_of_aws_itself(error: Exception, reason: Reason) -> None:
    made = AWSIoTProvider(credentials=KEYS, clock=lambda: 0.0)
    meant = made.explain(error)
    assert isinstance(meant, AWSIoTError)
    assert meant.reason is reason
    assert made.explain(meant) is meant
    copy = pickle.loads(pickle.dumps(meant))
    assert (type(copy), copy.reason, str(copy)) == (type(meant), reason, str(meant))


def test_secrets_that_a_server_repeats_are_redacted() -> None:
    secret = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
    for body in ({"message": f"you sent {secret}"}, {"message": f"you sent {secret}", "reason": "signature"}):
        assert secret not in str(AWSIoTProvider(credentials=KEYS).explain(refusal(body)))


def test_unrelated_errors_are_not_changed() -> None:
    made = AWSIoTProvider(credentials=KEYS, clock=lambda: 0.0)
    for error in (refusal(status=500), ConnectionRefused(3), ValueError("x")):
        assert made.explain(error) is error
        assert not made.recover(error)
    # The date of a proxy that refuses says nothing about the clock of AWS.
    assert not made.recover(refusal(date="Thu, 01 Jan 1970 02:00:00 GMT"))
    assert made.recover(refusal(date="Thu, 01 Jan 1970 02:00:00 GMT", x_amzn_requestid="1"))


# --- custom authorizers and certificates ---


@pytest.mark.parametrize("via", ["headers", "query", "username"])
def test_a_custom_authorizer(
    via: Any, endpoint: LocalIoTEndpoint, ca_file: Path, signing_key: rsa.RSAPrivateKey
) -> None:
    signature = base64.b64encode(signing_key.sign(TOKEN.encode(), padding.PKCS1v15(), SHA256())).decode()
    given = {"name": "signed", "token_key": "MyToken", "via": via, "username": "user"}
    right = CustomAuthorizer(token=lambda: TOKEN, signature=signature, **given)  # type: ignore[arg-type]
    round_trip(provider(endpoint, ca_file, custom_authorizer=right))
    for wrong in (
        CustomAuthorizer(token="another", signature=signature, **given),  # type: ignore[arg-type]
        CustomAuthorizer(token=TOKEN, signature="AAAA", **given),  # type: ignore[arg-type]
        CustomAuthorizer(token=TOKEN, **given),  # type: ignore[arg-type]
        CustomAuthorizer(signature=signature, **given),  # type: ignore[arg-type]
        CustomAuthorizer(token=TOKEN, signature=signature, **{**given, "name": "unknown"}),  # type: ignore[arg-type]
    ):
        error = failure(provider(endpoint, ca_file, custom_authorizer=wrong))
        assert isinstance(error, ConnectRefused)


@pytest.mark.parametrize("signature", ["", "%", "A", "AAAA", "\xe9", "\u20ac"])
def test_any_signature_that_is_not_right_is_refused(signature: str, signing_key: rsa.RSAPrivateKey) -> None:
    """Also one that is not Base64, or not ASCII: clients send it."""
    pem = signing_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    authorizer = LocalAuthorizer("a", lambda token, request: None, public_key=pem)
    parameters = {"token": TOKEN, "x-amz-customauthorizer-signature": signature}
    answer = authorizer.answer(AuthorizerRequest("a", parameters, "", b"", "c"))
    assert answer == "custom authorizer 'a': the token's signature was not made with its private key"


@pytest.fixture
def recorded() -> Iterator[tuple[Broker, list[Peer], Any]]:
    """A broker that records the requests of its clients, and its authority."""
    authority = mint_authority()
    context = authority.issue("127.0.0.1").server_context(client_authority=authority.certificate)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.set_alpn_protocols(["x-amzn-mqtt-ca", "mqtt"])
    peers: list[Peer] = []

    def authenticate(peer: Peer, connect: Any) -> bool:
        peer.context = connect
        peers.append(peer)
        return True

    with Broker(
        ws_port=None, tcp_port=None, wss_port=0, mqtts_port=0, tls=context, authenticator=authenticate
    ) as broker:
        yield broker, peers, authority


def test_custom_authorizers_on_the_wire(recorded: tuple[Broker, list[Peer], Any], tmp_path: Path) -> None:
    broker, peers, authority = recorded
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    for via in ("headers", "query", "username"):
        custom = CustomAuthorizer("demo", "to+ken", "Key", "si+g=", via, username="u", password="p")  # type: ignore[arg-type]
        made = AWSIoTProvider(aws_pubsub_endpoint=broker.url, custom_authorizer=custom, ca_file=tmp_path / "ca.pem")
        with PubSub(made, timeout=30) as ps:
            ps.publish("a", 1, qos=1)
    by_headers, by_query, by_username = peers
    assert by_headers.header("x-amz-customauthorizer-name") == "demo"
    assert by_headers.header("x-amz-customauthorizer-signature") == "si+g="
    assert by_headers.header("key") == "to+ken"
    assert by_query.target == (
        "/mqtt?x-amz-customauthorizer-name=demo&Key=to%2Bken&x-amz-customauthorizer-signature=si%2Bg%3D"
    )
    assert by_username.context.username == (
        "u?x-amz-customauthorizer-name=demo&Key=to%2Bken&x-amz-customauthorizer-signature=si%2Bg%3D"
    )
    assert [(peer.context.username or "").partition("?")[0] for peer in peers] == ["u"] * 3
    assert [peer.context.password for peer in peers] == [b"p"] * 3


@pytest.mark.parametrize("via", ["headers", "query", "username"])
def test_the_token_of_a_custom_authorizer_is_fetched_once_an_attempt_and_never_in_the_event_loop(
    via: Any, recorded: tuple[Broker, list[Peer], Any], tmp_path: Path
) -> None:
    broker, peers, authority = recorded
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    threads: list[threading.Thread] = []

    def token() -> str:
        threads.append(threading.current_thread())
        return f"no-{len(threads)}."

    made = AWSIoTProvider(
        aws_pubsub_endpoint=broker.url,
        custom_authorizer=CustomAuthorizer("demo", token, via=via),
        ca_file=tmp_path / "ca.pem",
        limits=IoTLimits(client_connect_rate=None),
    )

    async def run() -> None:
        async with pubsub.aio.PubSub(made, timeout=30) as ps:
            await ps.connect()
            assert len(threads) == 1
            ps.reauthenticate()
            await ps.publish("a", 1, qos=1)

    asyncio.run(run())
    assert len(threads) == len(peers) == 2
    assert threading.current_thread() not in threads
    seen = [f"{peer.header('token')} {peer.target} {peer.context.username}" for peer in peers]
    assert [number in text for number, text in zip(("no-1.", "no-2."), seen, strict=True)] == [True, True]


@pytest.mark.parametrize("face", ["threads", "asyncio"])
def test_attempts_at_the_same_time_send_different_tokens_of_a_custom_authorizer(face: str) -> None:
    tokens, both, sent = iter(["one", "two"]), threading.Barrier(2, timeout=30), list[tuple[Any, str]]()
    custom = CustomAuthorizer("demo", lambda: next(tokens), via="headers", username="u")
    made = AWSIoTProvider(aws_pubsub_endpoint="wss://a.example/mqtt", custom_authorizer=custom)
    headers = made.client_options()["headers"]

    def attempt() -> None:
        url = made.url()
        both.wait()
        sent.append((url, dict(headers)["token"]))

    async def attempt_async() -> None:
        url: Any = await made.url_async()  # type: ignore[misc] # an awaitable, because a token is fetched
        await asyncio.to_thread(both.wait)
        sent.append((url, dict(headers)["token"]))

    async def run() -> None:
        await asyncio.gather(attempt_async(), attempt_async())

    if face == "asyncio":
        asyncio.run(run())
    else:
        threads = [threading.Thread(target=attempt) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
    assert sorted(sent) == [("wss://u@a.example/mqtt", "one"), ("wss://u@a.example/mqtt", "two")]
    assert "token" not in dict(headers)  # of no attempt


def test_the_token_of_a_custom_authorizer_is_the_same_for_all_endpoints_of_an_attempt() -> None:
    tokens = iter(["one", "two"])
    endpoints = ["wss://a.example/mqtt", "wss://b.example/mqtt"]
    custom = CustomAuthorizer(token=lambda: next(tokens), via="query")
    made = AWSIoTProvider(aws_pubsub_endpoint=endpoints, custom_authorizer=custom)
    made.client_options()
    assert made.url() == [f"{endpoint}?token=one" for endpoint in endpoints]


@pytest.mark.parametrize(
    ("endpoint", "url", "alpn"),
    [
        ("WSS://iot.example/Mqtt", "mqtts://iot.example", None),
        ("WSS://iot.example:443/mqtt", "mqtts://iot.example:443", "x-amzn-mqtt-ca"),
        ("MQTTS://iot.example:443", "mqtts://iot.example:443", "x-amzn-mqtt-ca"),
    ],
)
def test_a_scheme_may_be_in_upper_case(endpoint: str, url: str, alpn: str | None) -> None:
    """RFC 3986, 3.1: schemes are case-insensitive."""
    assert unsigned_url(endpoint, None) == url
    assert alpn_for(unsigned_url(endpoint, None), "certificate") == alpn
    assert alpn_for(endpoint, "certificate") == (alpn if endpoint.startswith("MQTTS") else None)


@pytest.mark.parametrize("alpn", [None, "x-amzn-mqtt-ca"])
def test_a_client_certificate_on_the_wire(
    alpn: str | None, recorded: tuple[Broker, list[Peer], Any], tmp_path: Path
) -> None:
    broker, peers, authority = recorded
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    certificate, key = authority.issue(common_name="bulb", identity_for="client").write(tmp_path, "bulb")
    made = AWSIoTProvider(
        aws_pubsub_endpoint=broker.url_of("mqtts"), certificate=certificate, key=key, ca_file=tmp_path / "ca.pem",
        alpn=alpn,
    )  # fmt: skip
    with PubSub(made, timeout=30) as ps:
        ps.publish("a", 1, qos=1)
    (peer,) = peers
    assert peer.tls is not None
    assert peer.tls.selected_alpn_protocol() == alpn
    assert dict(pair for rdn in peer.tls.getpeercert()["subject"] for pair in rdn)["commonName"] == "bulb"  # type: ignore[index,misc]


def test_a_key_may_be_encrypted(tmp_path: Path) -> None:
    authority = mint_authority()
    certificate, key = authority.issue(common_name="bulb", identity_for="client").write(tmp_path, "bulb")
    encrypt(key, b"hunter2")
    files: dict[str, Any] = {"aws_pubsub_endpoint": "a.example", "certificate": certificate, "key": key}
    with pytest.raises(ProviderError, match="the private key is encrypted, and there is no key_password"):
        AWSIoTProvider(**files).client_options()
    with pytest.raises(ProviderError, match="cannot be used"):
        AWSIoTProvider(**files, key_password="other").client_options()
    made = AWSIoTProvider(**files, key_password="hunter2")
    assert isinstance(made.client_options()["tls"], ssl.SSLContext)
    assert "hunter2" not in repr(made)


def test_the_url_with_a_certificate() -> None:
    host = "abc-ats.iot.eu-west-1.amazonaws.com"
    for endpoint_, url, alpn in (
        (host, f"mqtts://{host}", None),
        (f"wss://{host}/mqtt", f"mqtts://{host}", None),
        (f"mqtts://{host}:443", f"mqtts://{host}:443", "x-amzn-mqtt-ca"),
        (f"mqtts://{host}:8883", f"mqtts://{host}:8883", None),
    ):
        made = AWSIoTProvider(aws_pubsub_endpoint=endpoint_, certificate="c.pem")
        assert made.url() == url
        assert made._alpn("certificate") == alpn
    custom = CustomAuthorizer("demo", "t", via="username")
    made = AWSIoTProvider(aws_pubsub_endpoint=f"mqtts://{host}:443", custom_authorizer=custom)
    assert made._alpn("custom_authorizer") == "mqtt"
    assert urlsplit(made.url()).hostname == host


def test_a_registered_certificate_at_the_endpoint(endpoint: LocalIoTEndpoint, ca_file: Path, tmp_path: Path) -> None:
    endpoint.identities.add_policy("thing", {"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Action": "iot:Connect",
         "Resource": "arn:aws:iot:eu-west-1:123456789012:client/${iot:Connection.Thing.ThingName}",
         "Condition": {"Bool": {"iot:Connection.Thing.IsAttached": "true"}}},
        {"Effect": "Allow", "Action": ["iot:Publish", "iot:Subscribe", "iot:Receive"],
         "Resource": "arn:aws:iot:eu-west-1:123456789012:topic*/${iot:Certificate.Subject.CommonName}/*"},
    ]})  # fmt: skip
    endpoint.identities.add_thing("lamp", attributes={"room": "kitchen"})
    certificate, key = endpoint.issue_certificate("bulb", policies=["thing"], thing="lamp").write(tmp_path, "bulb")
    given = {"certificate": certificate, "key": key, "aws_pubsub_endpoint": endpoint.mqtts_url}
    with PubSub(provider(endpoint, ca_file, client_id="lamp", **given), timeout=30) as ps:
        assert ps.subscribe("bulb/#", qos=1).subscribe(next=print).ready() == {"bulb/#": 1}
        ps.publish("bulb/on", 1, qos=1)
    assert isinstance(failure(provider(endpoint, ca_file, client_id="other", **given)), ConnectRefused)
    stranger = mint_authority().issue(common_name="bulb", identity_for="client").write(tmp_path, "stranger")
    with (
        PubSub(
            provider(endpoint, ca_file, **{**given, "certificate": stranger[0], "key": stranger[1]}, reconnect=False),
            timeout=10,
        ) as ps,
        pytest.raises(Exception, match="publishing failed"),
    ):
        ps.publish("bulb/on", 1, qos=1)


def test_a_certificate_of_another_authority_is_trusted_once_it_is_registered(
    endpoint: LocalIoTEndpoint, ca_file: Path, tmp_path: Path
) -> None:
    """Also while the endpoint runs, as with RegisterCertificateWithoutCA."""
    device = mint_authority("factory").issue(common_name="device", identity_for="client")
    certificate, key = device.write(tmp_path, "device")
    given = {"certificate": certificate, "key": key, "aws_pubsub_endpoint": endpoint.mqtts_url}
    with PubSub(provider(endpoint, ca_file, **given, reconnect=False), timeout=30) as ps:
        with pytest.raises(MQTTError):
            ps.connect()
        for _ in range(2):  # a second registration is no error
            endpoint.identities.add_certificate(device.certificate, policies=["all"])
        ps.connect()
        ps.publish("a", 1, qos=1)
