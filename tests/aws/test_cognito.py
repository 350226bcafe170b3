"""Credentials of Cognito, from the local service over HTTP, and from invalid answers."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
import ssl
import threading
import traceback
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pubsub.aws import cognito_api
from pubsub.aws.cognito import CognitoError, CognitoIdentity
from pubsub.aws.http import Response
from pubsub.aws.local.cognito import Answer, IdentityPool, LocalCognito
from pubsub.aws.local.cognito_server import LocalCognitoServer
from pubsub.aws.local.keyring import Key, KeyRing
from sigv4 import Credentials, CredentialsUnavailable, fetch, fetch_async

POOL = "eu-west-1:00000000-0000-0000-0000-000000000001"
GOOGLE = "accounts.google.com"
USERS = {"alice-token": "alice", "bob-token": "bob"}
START = 1_767_225_600.0
LIFE = 3600.0


class Clock:
    """A clock that the test sets."""

    def __init__(self, now: float = START) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Gated(LocalCognito):
    """The local service; it counts its requests, and can be blocked or made to fail."""

    def __init__(self, life: float) -> None:
        self.ring = KeyRing()
        self.asked: list[str] = []
        self.fail = False
        self.open = threading.Event()
        self.open.set()
        self.arrived = threading.Event()
        pool = IdentityPool(POOL, providers={GOOGLE: USERS.get})
        super().__init__([pool], self.ring, life=life)

    def answer(self, headers: Mapping[str, str], body: bytes, *, now: float) -> Answer:
        self.asked.append(headers.get("x-amz-target", "").rpartition(".")[2] or "STS")
        self.arrived.set()
        assert self.open.wait(30)
        if self.fail:
            broken = {"__type": "InternalErrorException", "message": "broken"}
            return Answer(500, {}, json.dumps(broken).encode())
        return super().answer(headers, body, now=now)

    def key(self, credentials: Credentials) -> Key:
        found = self.ring.find(credentials.access_key)
        assert found is not None
        return found


class Stage:
    """A service with its clock, and its clients with theirs."""

    def __init__(self, life: float) -> None:
        self.there, self.here = Clock(), Clock()
        self.service = Gated(life)
        self.server = LocalCognitoServer(self.service, clock=self.there)

    def client(self, logins: Any = None, **options: Any) -> CognitoIdentity:
        options = {"clock": self.here, "random": lambda: 0.0, "endpoint": self.server.endpoint, **options}
        return CognitoIdentity(POOL, "eu-west-1", logins, **options)

    def pass_time(self, seconds: float) -> None:
        self.there.now += seconds
        self.here.now += seconds


@pytest.fixture
def stage_of() -> Iterator[Callable[[float], Stage]]:
    stages: list[Stage] = []

    def make(life: float) -> Stage:
        stages.append(Stage(life))
        return stages[-1]

    yield make
    for stage in stages:
        stage.service.open.set()
        stage.server.close()


StageOf = Callable[[float], Stage]


@pytest.fixture
def stage(stage_of: StageOf) -> Stage:
    return stage_of(LIFE)


# --- fetching credentials ---


def test_credentials_of_a_guest(stage: Stage) -> None:
    client = stage.client()
    assert client.identity_id is None
    credentials = client.get_frozen_credentials()
    key = stage.service.key(credentials)
    assert key.credentials.secret_key == credentials.secret_key
    assert key.credentials.token == credentials.token
    assert key.credentials.expires_at == credentials.expires_at
    assert key.principal.identity_id == client.identity_id
    assert key.principal.is_guest
    assert stage.service.asked == ["GetId", "GetCredentialsForIdentity"]


def test_credentials_of_a_user(stage: Stage) -> None:
    client = stage.client({GOOGLE: "alice-token"})
    assert not stage.service.key(client.get_frozen_credentials()).principal.is_guest
    other = stage.client(lambda: {GOOGLE: "alice-token"})
    other.get_frozen_credentials()
    assert client.identity_id == other.identity_id


def test_empty_logins_mean_a_guest(stage: Stage) -> None:
    for logins in ({}, lambda: None):
        assert stage.service.key(stage.client(logins).get_frozen_credentials()).principal.is_guest


def test_credentials_by_the_basic_flow(stage: Stage) -> None:
    client = stage.client(
        flow="basic", role_arn="arn:aws:iam::123456789012:role/mine", sts_endpoint=stage.server.endpoint
    )
    credentials = client.get_frozen_credentials()
    key = stage.service.key(credentials)
    assert key.principal.role_arn == "arn:aws:iam::123456789012:role/mine"
    assert key.principal.identity_id == client.identity_id
    assert key.credentials.expires_at == credentials.expires_at
    assert stage.service.asked == ["GetId", "GetOpenIdToken", "STS"]
    assert client.get_frozen_credentials() is credentials


def test_it_implements_the_credentials_protocol(stage: Stage) -> None:
    client = stage.client()
    assert fetch(client) is client.get_frozen_credentials()
    assert asyncio.run(fetch_async(client, asyncio.to_thread)) is client.get_frozen_credentials()


def test_credentials_over_tls(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    service = Gated(LIFE)
    with LocalCognitoServer(service, context=context) as server:
        trusting = ssl.create_default_context(cafile=certificate)
        client = CognitoIdentity(POOL, endpoint=server.endpoint, context=trusting)
        assert service.key(client.get_frozen_credentials())
        with pytest.raises(CognitoError, match=r"^GetId: the certificate of 127\.0\.0\.1:\d+ is not trusted"):
            CognitoIdentity(POOL, endpoint=server.endpoint).get_frozen_credentials()


# --- caching credentials ---


@pytest.mark.parametrize(
    ("life", "random", "margin"),
    [(90, 0.0, 22.5), (90, 0.5, 33.75), (90, 0.999, 45), (3600, 0.0, 300), (3600, 0.999, 600), (1, 0.0, 0.25)],
)
def test_credentials_are_replaced_before_they_expire(
    life: float, random: float, margin: float, stage_of: StageOf
) -> None:
    stage = stage_of(life)
    client = stage.client(random=lambda: random)
    first = client.get_frozen_credentials()
    stage.pass_time(life - margin - 0.1)
    assert client.get_frozen_credentials() is first
    stage.pass_time(0.6 if random == 0.999 else 0.1)
    second = client.get_frozen_credentials()
    assert second is not first
    assert stage.service.key(second)
    assert stage.service.asked == ["GetId", "GetCredentialsForIdentity", "GetCredentialsForIdentity"]


def test_valid_credentials_are_kept_after_a_failed_refresh(stage: Stage) -> None:
    client = stage.client()
    first = client.get_frozen_credentials()
    stage.service.fail = True
    stage.pass_time(LIFE - 300)
    assert client.get_frozen_credentials() is first
    tries = len(stage.service.asked)
    assert tries == 3
    for _ in range(10):
        assert client.get_frozen_credentials() is first
    assert len(stage.service.asked) == tries, "after a failure the service is not asked for a while"
    stage.pass_time(75)
    assert client.get_frozen_credentials() is first
    assert len(stage.service.asked) == tries + 1
    stage.pass_time(225)
    with pytest.raises(CognitoError, match=r"was refused.*InternalErrorException: broken") as caught:
        client.get_frozen_credentials()
    assert (caught.value.code, caught.value.status) == ("InternalErrorException", 500)
    stage.service.fail = False
    assert client.get_frozen_credentials() is not first


def test_credentials_that_the_service_calls_expired_are_replaced(stage: Stage) -> None:
    client = stage.client()
    first = client.get_frozen_credentials()
    client.expire()
    assert client.get_frozen_credentials() is not first


@pytest.mark.parametrize("off", [-3600.0, 3600.0, -86400.0])
def test_a_wrong_local_clock_does_not_matter(off: float, stage_of: StageOf) -> None:
    stage = stage_of(90)
    stage.here.now += off
    client = stage.client()
    first = client.get_frozen_credentials()
    assert first.expires_at is not None
    assert first.expires_at.timestamp() == START + 90
    stage.pass_time(60)
    assert client.get_frozen_credentials() is first
    stage.pass_time(10)
    assert client.get_frozen_credentials() is not first


def test_credentials_are_replaced_after_the_clock_is_set_back(stage: Stage) -> None:
    stage.here.now += 3600
    client = stage.client()
    first = client.get_frozen_credentials()
    stage.here.now -= 3600
    assert client.get_frozen_credentials() is not first


def test_a_day_on_credentials_of_ninety_seconds(stage_of: StageOf) -> None:
    stage = stage_of(90)
    stage.here.now -= 3600  # an hour off at the start, corrected after half a day
    client = stage.client()
    for step in range(0, 86_400, 10):
        if step == 43_200:
            stage.here.now += 3600
        credentials = client.get_frozen_credentials()
        assert not stage.service.key(credentials).expired(stage.there.now)
        stage.pass_time(10)
    assert stage.service.asked.count("GetId") == 1
    assert len(stage.service.asked) <= 86_400 / 60 + 3


# --- signing in and out ---


def test_signing_in_and_out_changes_the_identity(stage: Stage) -> None:
    logins: dict[str, str] = {}
    client = stage.client(lambda: logins)
    identities = []
    for token in (None, "alice-token", "bob-token", "alice-token", None):
        logins.clear()
        logins.update({GOOGLE: token} if token else {})
        client.expire()
        principal = stage.service.key(client.get_frozen_credentials()).principal
        assert principal.is_guest is (token is None)
        assert principal.identity_id == client.identity_id
        identities.append(client.identity_id)
    assert identities[1] == identities[3]
    assert len(set(identities)) == 4, "a guest's identity is neither kept nor found again"


def test_an_identity_that_was_deleted_is_replaced(stage: Stage) -> None:
    client = stage.client()
    client.get_frozen_credentials()
    before = client.identity_id
    stage.service._identities.clear()
    client.expire()
    client.get_frozen_credentials()
    assert client.identity_id != before


def test_a_given_identity_is_not_replaced(stage: Stage) -> None:
    known = stage.client()
    known.get_frozen_credentials()
    client = stage.client(identity_id=known.identity_id)
    client.get_frozen_credentials()
    assert client.identity_id == known.identity_id
    stage.service._identities.clear()
    client.expire()
    with pytest.raises(CognitoError, match="not found") as caught:
        client.get_frozen_credentials()
    assert caught.value.code == "ResourceNotFoundException"


def test_an_unrelated_failure_keeps_the_identity(stage: Stage) -> None:
    client = stage.client()
    client.get_frozen_credentials()
    client.expire()
    stage.service.fail = True
    with pytest.raises(CognitoError):
        client.get_frozen_credentials()
    assert stage.service.asked.count("GetId") == 1


# --- one refresh at a time ---


def test_many_threads_make_one_refresh(stage: Stage) -> None:
    client = stage.client()
    stage.service.open.clear()
    with ThreadPoolExecutor(16) as threads:
        asked = [threads.submit(client.get_frozen_credentials) for _ in range(16)]
        assert stage.service.arrived.wait(30)
        stage.service.open.set()
        got = {id(future.result(30)) for future in asked}
    assert len(got) == 1
    assert stage.service.asked == ["GetId", "GetCredentialsForIdentity"]


def test_many_threads_share_one_failure(stage: Stage) -> None:
    client = stage.client()
    stage.service.open.clear()
    stage.service.fail = True
    started = threading.Barrier(9)

    def ask() -> CognitoError:
        started.wait(30)
        with pytest.raises(CognitoError) as caught:
            client.get_frozen_credentials()
        return caught.value

    with ThreadPoolExecutor(8) as threads:
        asked = [threads.submit(ask) for _ in range(8)]
        started.wait(30)
        assert stage.service.arrived.wait(30)
        stage.service.open.set()
        for future in asked:
            assert future.result(30).code == "InternalErrorException"
    assert len(stage.service.asked) <= 8


def test_a_caller_does_not_wait_while_credentials_are_valid(stage: Stage) -> None:
    client = stage.client()
    first = client.get_frozen_credentials()
    stage.pass_time(LIFE - 100)
    stage.service.open.clear()
    stage.service.arrived.clear()
    with ThreadPoolExecutor(1) as threads:
        leader = threads.submit(client.get_frozen_credentials)
        assert stage.service.arrived.wait(30)
        assert client.get_frozen_credentials() is first
        assert asyncio.run(client.get_frozen_credentials_async()) is first
        assert not leader.done()
        stage.service.open.set()
        second = leader.result(30)
    assert second is not first
    assert client.get_frozen_credentials() is second


async def many_tasks(client: CognitoIdentity, stage: Stage) -> None:
    async with asyncio.timeout(30):
        stage.service.open.clear()
        leader = asyncio.create_task(client.get_frozen_credentials_async())
        followers = [asyncio.create_task(client.get_frozen_credentials_async()) for _ in range(20)]
        assert await asyncio.to_thread(stage.service.arrived.wait, 10)
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        followers[3].cancel()
        stage.service.open.set()
        got = await asyncio.gather(*followers, return_exceptions=True)
    assert isinstance(got.pop(3), asyncio.CancelledError)
    assert len({id(one) for one in got}) == 1
    assert isinstance(got[0], Credentials)


async def give_alice() -> dict[str, str]:
    await asyncio.sleep(0)
    return {GOOGLE: "alice-token"}


@pytest.mark.parametrize("logins", [None, lambda: {GOOGLE: "alice-token"}, give_alice])
def test_many_tasks_make_one_refresh_and_survive_its_cancellation(logins: Any, stage: Stage) -> None:
    client = stage.client(logins)
    asyncio.run(many_tasks(client, stage))
    assert stage.service.asked == ["GetId", "GetCredentialsForIdentity"]
    again = asyncio.run(client.get_frozen_credentials_async())
    assert again is asyncio.run(client.get_frozen_credentials_async())


def test_a_failure_is_raised_in_all_tasks(stage: Stage) -> None:
    stage.service.fail = True
    client = stage.client(give_alice)
    with pytest.raises(CognitoError, match="broken"):
        asyncio.run(client.get_frozen_credentials_async())
    stage.service.fail = False
    assert asyncio.run(client.get_frozen_credentials_async())


class Quit(BaseException):
    """Ends what no handler of an `Exception` may stop."""


def test_logins_that_raise_no_exception_end_the_refresh(stage: Stage) -> None:
    fails = [True]

    async def logins() -> dict[str, str]:
        if fails:
            fails.clear()
            raise Quit
        return await give_alice()

    async def ask(client: CognitoIdentity) -> Credentials:
        async with asyncio.timeout(30):
            return await client.get_frozen_credentials_async()

    client = stage.client(logins)
    with pytest.raises(CognitoError, match="the refresh was interrupted"):
        asyncio.run(ask(client))
    assert asyncio.run(ask(client))


def test_the_end_of_a_loop_blocks_no_later_caller(stage: Stage) -> None:
    async def never() -> dict[str, str]:
        await asyncio.Event().wait()
        raise AssertionError

    client = stage.client(never)

    async def begin() -> None:
        task = asyncio.create_task(client.get_frozen_credentials_async())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not task.done()

    async def again() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.get_frozen_credentials_async(), 0.05)

    asyncio.run(begin())
    asyncio.run(again())  # makes a new request, and does not wait for the one of the closed loop


def test_a_missing_worker_thread_is_an_error(stage: Stage) -> None:
    client = stage.client()

    async def run() -> None:
        await asyncio.get_running_loop().shutdown_default_executor()
        with pytest.raises(CognitoError, match="its event loop ended"):
            await client.get_frozen_credentials_async()

    asyncio.run(run())
    assert client.get_frozen_credentials()


def test_an_interrupt_blocks_no_other_caller(stage: Stage) -> None:
    interrupt = True

    def logins() -> None:
        if interrupt:
            raise KeyboardInterrupt

    client = stage.client(logins)
    with pytest.raises(KeyboardInterrupt):
        client.get_frozen_credentials()
    interrupt = False
    assert client.get_frozen_credentials()


# --- errors ---


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"identity_pool_id": "eu-west-1_AbCdEf"}, "expected region:guid"),
        ({"region": "us-east-1"}, "region is 'us-east-1', but the identity pool"),
        ({"account_id": "12"}, "account_id is '12'; expected twelve digits"),
        ({"flow": "other"}, "flow is 'other'; expected 'enhanced' or 'basic'"),
        ({"flow": "basic"}, "the basic flow needs role_arn"),
        ({"endpoint": "cognito.local"}, "expected a URL such as https"),
        ({"sts_endpoint": "ftp://x"}, "expected a URL such as https"),
    ],
)
def test_arguments_are_checked(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        CognitoIdentity(**{"identity_pool_id": POOL, **options})


def awaitable() -> Awaitable[dict[str, str]]:
    return give_alice()


def future() -> Awaitable[dict[str, str]]:
    loop = asyncio.new_event_loop()
    loop.close()
    return loop.create_future()


def fails() -> dict[str, str]:
    raise RuntimeError("hunter2")


async def fails_later() -> dict[str, str]:
    raise RuntimeError("hunter2")


@pytest.mark.parametrize(
    ("logins", "expected"),
    [
        ({GOOGLE: ""}, "the logins are not valid: expected a str"),
        ({GOOGLE: 3}, "the logins are not valid: expected a str"),
        (awaitable, r"make it a coroutine function \(async def\)"),
        (future, "returned an awaitable"),
        (give_alice, r"make it a coroutine function \(async def\)"),
        (fails, "^the logins are not available: RuntimeError$"),
    ],
)
def test_invalid_logins_are_an_error(logins: Any, expected: str, stage: Stage) -> None:
    with pytest.raises(CognitoError, match=expected):
        stage.client(logins).get_frozen_credentials()
    assert stage.service.asked == []


def test_failing_logins_in_a_loop_are_an_error(stage: Stage) -> None:
    for logins in (fails, fails_later):
        client = stage.client(logins)
        with pytest.raises(CognitoError, match=r"^the logins are not available: RuntimeError$") as caught:
            asyncio.run(client.get_frozen_credentials_async())
        assert isinstance(caught.value.__cause__, RuntimeError)


def test_an_unreachable_service_is_an_error(stage: Stage) -> None:
    client = stage.client()
    stage.server.close()
    with pytest.raises(CognitoError, match=r"^GetId: cannot reach 127\.0\.0\.1:\d+: ") as caught:
        client.get_frozen_credentials()
    assert isinstance(caught.value, CredentialsUnavailable)
    assert (caught.value.code, caught.value.status) == ("", 0)
    stage.server = LocalCognitoServer(stage.service)


class Answers:
    """Replaces HTTP: answers by the name of the request, and records the requests."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: tuple[int, Any]) -> None:
        self.sent: list[tuple[str, dict[str, str], bytes]] = []
        self._answers = {
            "GetId": (200, {"IdentityId": "eu-west-1:1"}),
            "GetOpenIdToken": (200, {"IdentityId": "eu-west-1:1", "Token": "open-id-token"}),
            "GetCredentialsForIdentity": (200, {"IdentityId": "eu-west-1:1", "Credentials": KEYS}),
            "STS": (200, xml()),
            **answers,
        }
        self.headers: dict[str, str] = {}
        monkeypatch.setattr(cognito_api, "post", self.post)

    def post(self, url: str, headers: Mapping[str, str], body: bytes, **_: Any) -> Response:
        self.sent.append((url, dict(headers), body))
        status, given = self._answers[headers.get("X-Amz-Target", "STS").rpartition(".")[2]]
        return Response(status, self.headers, given if isinstance(given, bytes) else json.dumps(given).encode())


KEYS = {"AccessKeyId": "AKID", "SecretKey": "the-secret", "SessionToken": "the-token", "Expiration": START + 90}


def xml(**changes: str | None) -> bytes:
    keys = {
        "AccessKeyId": "AKID",
        "SecretAccessKey": "the-secret",
        "SessionToken": "the-token",
        "Expiration": "2026-01-01T00:01:30Z",
        **changes,
    }
    inside = "".join(f"<{name}>{value}</{name}>" for name, value in keys.items() if value is not None)
    return f'<R xmlns="urn:x"><A><Credentials>{inside}</Credentials></A></R>'.encode()


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in KEYS.items() if key != name}


@pytest.mark.parametrize(
    ("name", "status", "given", "expected"),
    [
        ("GetId", 200, b"<html>", "GetId: the answer is not a JSON object"),
        ("GetId", 200, [], "GetId: the answer is not a JSON object"),
        ("GetId", 200, b"[" * 60_000, "GetId: the answer is not a JSON object"),
        ("GetId", 200, {}, "GetId: the answer has no IdentityId"),
        ("GetId", 200, {"IdentityId": 3}, "GetId: the answer has no IdentityId"),
        ("GetId", 502, b"<html>", "GetId was refused (HTTP 502)"),
        ("GetId", 400, {"__type": "a.b#TooManyRequestsException", "Message": "slow\ndown"},
         "GetId was refused (HTTP 400): TooManyRequestsException: slow down"),
        ("GetId", 400, {"__type": "X", "message": "m" * 1000}, "GetId was refused (HTTP 400): X: " + "m" * 300),
        ("GetCredentialsForIdentity", 200, {"IdentityId": "eu:1"}, "has no usable Credentials"),
        *(
            ("GetCredentialsForIdentity", 200, {"IdentityId": "eu:1", "Credentials": without(key)},
             f"has no usable {'Expiration' if key == 'Expiration' else 'Credentials'}")
            for key in KEYS
        ),
        ("GetCredentialsForIdentity", 200, {"IdentityId": "eu:1", "Credentials": {**KEYS, "Expiration": "soon"}},
         "has no usable Expiration"),
        ("GetCredentialsForIdentity", 200, {"IdentityId": "eu:1", "Credentials": {**KEYS, "Expiration": 1e300}},
         "has no usable Expiration"),
        ("GetCredentialsForIdentity", 200, {"IdentityId": "eu:1", "Credentials": {**KEYS, "SecretKey": "a b"}},
         "has no usable Credentials"),
        ("GetCredentialsForIdentity", 200, {"Credentials": KEYS}, "has no IdentityId"),
    ],
)  # fmt: skip
def test_invalid_answers_are_an_error(
    name: str, status: int, given: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Answers(monkeypatch, **{name: (status, given)})
    with pytest.raises(CognitoError) as caught:
        CognitoIdentity(POOL, clock=Clock()).get_frozen_credentials()
    assert str(caught.value).startswith(name)
    assert str(caught.value).endswith(expected)


@pytest.mark.parametrize(
    ("name", "status", "given", "expected"),
    [
        ("GetOpenIdToken", 200, {"IdentityId": "eu:1"}, "GetOpenIdToken: the answer has no Token"),
        ("STS", 200, b"{}", "the answer (HTTP 200) is not XML"),
        ("STS", 200, b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "the answer (HTTP 200) is not XML"),
        ("STS", 200, b'<?xml version="1.0" encoding="shift_jis"?><a/>', "the answer (HTTP 200) is not XML"),
        ("STS", 200, b'<?xml version="1.0" encoding="no-such"?><a/>', "the answer (HTTP 200) is not XML"),
        ("STS", 200, b"<a/>", "has no usable Credentials"),
        ("STS", 200, xml(Expiration=None), "has no usable Expiration"),
        ("STS", 200, xml(Expiration="soon"), "has no usable Expiration"),
        ("STS", 200, xml(SessionToken=None), "has no usable Credentials"),
        ("STS", 200, xml(SecretAccessKey=""), "has no usable Credentials"),
        ("STS", 403, b"<E><Error><Code>AccessDenied</Code><Message>Not authorized</Message></Error></E>",
         "AssumeRoleWithWebIdentity was refused (HTTP 403): AccessDenied: Not authorized"),
        ("STS", 500, b"<E/>", "AssumeRoleWithWebIdentity was refused (HTTP 500)"),
    ],
)  # fmt: skip
def test_invalid_answers_of_the_basic_flow_are_an_error(
    name: str, status: int, given: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Answers(monkeypatch, **{name: (status, given)})
    client = CognitoIdentity(POOL, flow="basic", role_arn="arn:aws:iam::123456789012:role/r", clock=Clock())
    with pytest.raises(CognitoError) as caught:
        client.get_frozen_credentials()
    assert str(caught.value).endswith(expected)


def test_an_answer_without_a_date_is_measured_by_the_local_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    answers, clock = Answers(monkeypatch), Clock()
    client = CognitoIdentity(POOL, clock=clock, random=lambda: 0.0)
    for date in ({}, {"date": "yesterday"}):
        answers.headers = date
        client.expire()
        client.get_frozen_credentials()
        before = len(answers.sent)
        client.get_frozen_credentials()
        assert len(answers.sent) == before
        clock.now += 70
        client.get_frozen_credentials()
        assert len(answers.sent) == before + 1
        clock.now -= 70


def test_a_time_of_sts_without_a_zone_is_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, STS=(200, xml(Expiration="2026-01-01T00:01:30")))
    client = CognitoIdentity(POOL, flow="basic", role_arn="arn:aws:iam::123456789012:role/r", clock=Clock())
    expires_at = client.get_frozen_credentials().expires_at
    assert expires_at is not None
    assert expires_at.timestamp() == START + 90


def test_the_error_code_may_be_in_a_header(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch, GetId=(400, {"message": "no"}))
    answers.headers = {"x-amzn-errortype": "NotAuthorizedException:http://internal"}
    with pytest.raises(CognitoError) as caught:
        CognitoIdentity(POOL).get_frozen_credentials()
    assert caught.value.code == "NotAuthorizedException"


@pytest.mark.parametrize(
    ("region", "domain"),
    [
        ("eu-west-1", "amazonaws.com"),
        ("us-gov-west-1", "amazonaws.com"),
        ("cn-north-1", "amazonaws.com.cn"),
        ("eusc-de-east-1", "amazonaws.eu"),
        ("us-iso-east-1", "c2s.ic.gov"),
        ("us-isob-east-1", "sc2s.sgov.gov"),
        ("moon-1", "amazonaws.com"),
    ],
)
def test_the_services_of_each_partition(region: str, domain: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = Answers(monkeypatch)
    role = "arn:aws:iam::123456789012:role/r"
    pool = f"{region}:0123"
    CognitoIdentity(pool, logins={GOOGLE: "t"}, account_id="123456789012", role_arn=role).get_frozen_credentials()
    CognitoIdentity(pool, region, flow="basic", role_arn=role).get_frozen_credentials()
    assert [url for url, _, _ in answers.sent] == [
        *[f"https://cognito-identity.{region}.{domain}/"] * 4,
        f"https://sts.{region}.{domain}/",
    ]
    _, headers, body = answers.sent[0]
    assert headers["Content-Type"] == "application/x-amz-json-1.1"
    assert headers["X-Amz-Target"] == "AWSCognitoIdentityService.GetId"
    assert json.loads(body) == {"IdentityPoolId": pool, "AccountId": "123456789012", "Logins": {GOOGLE: "t"}}
    assert json.loads(answers.sent[1][2]) == {
        "IdentityId": "eu-west-1:1",
        "Logins": {GOOGLE: "t"},
        "CustomRoleArn": role,
    }
    assert json.loads(answers.sent[2][2]) == {"IdentityPoolId": pool}


# --- secrets ---


def test_no_secret_is_shown_anywhere(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    texts: list[str] = []
    secrets = ["alice-token", "open-id-token", "the-secret", "the-token"]

    client = stage.client({GOOGLE: "alice-token"})
    credentials = client.get_frozen_credentials()
    secrets += [credentials.secret_key, credentials.token or ""]
    texts += [repr(client), repr(credentials), repr(stage.service.key(credentials))]

    def failing(client: CognitoIdentity) -> None:
        with pytest.raises(CognitoError) as caught:
            client.get_frozen_credentials()
        texts.extend([str(caught.value), repr(caught.value), "".join(traceback.format_exception(caught.value))])
        texts.append(pickle.dumps(caught.value).decode("latin-1"))

    stage.service.fail = True
    client.expire()
    failing(client)
    failing(stage.client({GOOGLE: "alice-token"}))
    echo = {"__type": "NotAuthorizedException", "message": "Invalid login token: alice-token!"}
    Answers(monkeypatch, GetId=(400, echo))
    failing(CognitoIdentity(POOL, logins={GOOGLE: "alice-token"}))
    assert "Invalid login token: <hidden>!" in texts[-4]
    Answers(monkeypatch, STS=(400, b"<E><Error><Code>X</Code><Message>open-id-token</Message></Error></E>"))
    failing(CognitoIdentity(POOL, flow="basic", role_arn="arn:aws:iam::123456789012:role/r"))
    Answers(
        monkeypatch, GetCredentialsForIdentity=(200, {"IdentityId": "eu:1", "Credentials": {**KEYS, "AccessKeyId": ""}})
    )
    failing(CognitoIdentity(POOL))

    assert caplog.records, "the server logs its requests, so there are records to search"
    texts.append(caplog.text)
    for text in texts:
        for secret in secrets:
            assert secret not in text
