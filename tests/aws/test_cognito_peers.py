"""Cognito with other implementations: moto's server with our client, botocore's client with our service."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import botocore.session
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError

from pubsub.aws.cognito import CognitoError, CognitoIdentity
from pubsub.aws.local.cognito import IdentityPool, LocalCognito
from pubsub.aws.local.cognito_server import LocalCognitoServer
from pubsub.aws.local.keyring import KeyRing

REGION = "eu-west-1"
ROLE = "arn:aws:iam::123456789012:role/guests"
MOTO_LIFE = 90.0


def botocore_client(service: str, endpoint: str, **options: Any) -> Any:
    session = botocore.session.Session()
    return session.create_client(service, region_name=REGION, endpoint_url=endpoint, **options)


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Run moto's server in a separate process, and return its URL."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    guard = threading.Timer(60, process.kill)
    guard.start()
    assert process.stdout is not None
    # Its log must be read, or it would block when the pipe is full.
    drain = threading.Thread(target=process.stdout.read)
    try:
        lines = iter(process.stdout.readline, "")
        found = next((match for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line))), None)
        guard.cancel()
        assert found, "moto's server did not start"
        drain.start()
        yield found[0]
    finally:
        guard.cancel()
        process.terminate()
        process.wait(30)
        if drain.ident is not None:
            drain.join(30)
        process.stdout.close()


@pytest.fixture(scope="module")
def pool(moto: str) -> str:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    client = botocore_client("cognito-identity", moto, **keys)
    made = client.create_identity_pool(IdentityPoolName="chat", AllowUnauthenticatedIdentities=True)
    client.close()
    return str(made["IdentityPoolId"])


def test_a_guest_of_moto(moto: str, pool: str) -> None:
    now = [time.time()]
    client = CognitoIdentity(pool, REGION, endpoint=moto, clock=lambda: now[0], random=lambda: 0.0)
    first = client.get_frozen_credentials()
    assert re.fullmatch(r"[\w-]+:[0-9a-f-]+", client.identity_id or "")
    assert first.token
    assert first.expires_at is not None
    assert 0 < (first.expires_at - datetime.now(UTC)).total_seconds() <= MOTO_LIFE
    now[0] += MOTO_LIFE * 3 / 4 - 5
    assert client.get_frozen_credentials() is first
    now[0] += 6
    second = client.get_frozen_credentials()
    assert second is not first
    assert second.expires_at is not None
    assert second.expires_at > first.expires_at


def test_a_guest_of_moto_with_a_clock_an_hour_off(moto: str, pool: str) -> None:
    for off in (-3600, 3600):
        now = [time.time() + off]
        client = CognitoIdentity(pool, endpoint=moto, clock=lambda now=now: now[0], random=lambda: 0.0)  # type: ignore[misc]
        first = client.get_frozen_credentials()
        now[0] += MOTO_LIFE / 2
        assert client.get_frozen_credentials() is first
        now[0] += MOTO_LIFE
        assert client.get_frozen_credentials() is not first


def test_a_user_of_moto(moto: str, pool: str) -> None:
    client = CognitoIdentity(pool, logins=lambda: {"accounts.google.com": "token"}, endpoint=moto)
    assert asyncio.run(client.get_frozen_credentials_async()) is client.get_frozen_credentials()


def test_the_basic_flow_of_moto(moto: str, pool: str) -> None:
    client = CognitoIdentity(pool, endpoint=moto, sts_endpoint=moto, flow="basic", role_arn=ROLE)
    credentials = client.get_frozen_credentials()
    assert credentials.access_key.startswith("ASIA")
    assert credentials.token
    assert credentials.expires_at is not None
    assert credentials.expires_at > datetime.now(UTC)
    assert client.get_frozen_credentials() is credentials


def test_a_refusal_of_moto_is_an_error(moto: str) -> None:
    client = CognitoIdentity(f"{REGION}:00000000-0000-0000-0000-000000000000", endpoint=moto)
    with pytest.raises(CognitoError, match=r"^GetId was refused \(HTTP \d+\)"):
        client.get_frozen_credentials()


# --- botocore with our service ---

LOCAL = f"{REGION}:00000000-0000-0000-0000-000000000001"


@pytest.fixture
def ring() -> KeyRing:
    return KeyRing()


@pytest.fixture
def service(ring: KeyRing) -> Iterator[str]:
    users = {"alice-token": "alice"}
    with LocalCognitoServer(
        LocalCognito([IdentityPool(LOCAL, providers={"accounts.google.com": users.get})], ring)
    ) as server:
        yield server.endpoint


@pytest.fixture
def client(service: str) -> Iterator[Any]:
    made = botocore_client("cognito-identity", service, config=Config(signature_version=UNSIGNED))
    yield made
    made.close()


@pytest.mark.parametrize("logins", [{}, {"accounts.google.com": "alice-token"}])
def test_botocore_gets_keys(logins: dict[str, str], client: Any, ring: KeyRing) -> None:
    identity = client.get_id(IdentityPoolId=LOCAL, Logins=logins)["IdentityId"]
    answer = client.get_credentials_for_identity(IdentityId=identity, Logins=logins)
    keys = answer["Credentials"]
    key = ring.find(keys["AccessKeyId"])
    assert key is not None
    assert (key.credentials.secret_key, key.credentials.token) == (keys["SecretKey"], keys["SessionToken"])
    assert key.credentials.expires_at is not None
    assert abs((keys["Expiration"] - key.credentials.expires_at).total_seconds()) < 1
    assert key.principal.identity_id == answer["IdentityId"] == identity
    assert key.principal.is_guest is (not logins)


def test_botocore_uses_the_basic_flow(client: Any, service: str, ring: KeyRing) -> None:
    identity = client.get_id(IdentityPoolId=LOCAL)["IdentityId"]
    token = client.get_open_id_token(IdentityId=identity)["Token"]
    sts = botocore_client("sts", service, config=Config(signature_version=UNSIGNED))
    try:
        answer = sts.assume_role_with_web_identity(RoleArn=ROLE, RoleSessionName="session", WebIdentityToken=token)
        with pytest.raises(ClientError) as caught:
            sts.assume_role_with_web_identity(RoleArn=ROLE, RoleSessionName="session", WebIdentityToken="forged-token")
    finally:
        sts.close()
    assert caught.value.response["Error"]["Code"] == "InvalidIdentityToken"
    key = ring.find(answer["Credentials"]["AccessKeyId"])
    assert key is not None
    assert key.principal.role_arn == ROLE


def test_botocore_understands_a_refusal(client: Any) -> None:
    with pytest.raises(client.exceptions.NotAuthorizedException, match="Invalid login token"):
        client.get_id(IdentityPoolId=LOCAL, Logins={"accounts.google.com": "forged"})
    with pytest.raises(client.exceptions.ResourceNotFoundException, match="not found"):
        client.get_credentials_for_identity(IdentityId=f"{REGION}:0")
