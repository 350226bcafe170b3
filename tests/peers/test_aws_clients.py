"""AWS's own clients, unmodified and in separate processes, with the local endpoint: accepted and refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import Identities
from sigv4 import Credentials

HERE = Path(__file__).parent
REGION = "eu-west-1"
HOST = "abc123-ats.iot.eu-west-1.amazonaws.com"
POOL = "eu-west-1:11111111-2222-3333-4444-555555555555"
KEYS = Credentials("AKIDOFALICE", "the-secret-key-of-alice-in-the-tests")
ARN = "arn:aws:iot:eu-west-1:123456789012"
POLICY = {
    "Version": "2012-10-17",
    "Statement": [
        {"Sid": "Come", "Effect": "Allow", "Action": "iot:Connect", "Resource": f"{ARN}:client/*"},
        {
            "Sid": "Talk",
            "Effect": "Allow",
            "Action": ["iot:Publish", "iot:Receive"],
            "Resource": f"{ARN}:topic/chat/*",
        },
        {"Sid": "Listen", "Effect": "Allow", "Action": "iot:Subscribe", "Resource": f"{ARN}:topicfilter/chat/*"},
    ],
}

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[LocalIoTEndpoint]:
    identities = Identities(REGION)
    identities.add_policy("chat", POLICY)
    identities.add_user("alice", KEYS, policies=["chat"])
    identities.add_pool(POOL, guests=["chat"])
    with LocalIoTEndpoint(identities, tls=True, mqtts_port=0, names=[HOST], explain=True) as iot:
        yield iot


@pytest.fixture(scope="module")
def ca_file(endpoint: LocalIoTEndpoint, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(endpoint.write_authority(tmp_path_factory.mktemp("ca") / "ca.pem"))


def run(*command: str, secret: str = KEYS.secret_key, **more: str) -> dict[str, Any]:
    """Run a peer and return its output."""
    environment = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "AWS_ACCESS_KEY_ID": KEYS.access_key,
        "AWS_SECRET_ACCESS_KEY": secret,
        **more,
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def port_of(url: str) -> str:
    return str(urlsplit(url).port)


@pytest.fixture(params=["v2", "v1", "amplify"])
def peer(request: pytest.FixtureRequest, endpoint: LocalIoTEndpoint, ca_file: str) -> Run:
    """Return a function that runs a client with the keys of alice on a topic."""
    port = port_of(endpoint.url)
    if request.param == "v2":
        script = str(HERE / "iot_sdk_v2.py")
        return lambda topic, **more: run(
            sys.executable, script, "localhost", port, topic, "sigv4", REGION, ca_file, **more
        )
    if request.param == "v1":
        script = str(HERE / "iot_sdk_v1.py")
        return lambda topic, **more: run(sys.executable, script, HOST, port, topic, ca_file, **more)
    amplify = amplify_command()
    return lambda topic, **more: run(*amplify, endpoint.url, REGION, topic, NODE_EXTRA_CA_CERTS=ca_file, **more)


def amplify_command() -> list[str]:
    node = shutil.which("node")
    if node is None or not (HERE / "node_modules" / "aws-amplify").is_dir():
        pytest.skip("Amplify's JavaScript client is missing: sh tests/peers/install.sh")
    return [node, str(HERE / "amplify.mjs")]


def test_each_client_subscribes_and_publishes(peer: Run) -> None:
    received = peer("chat/hello")["received"]
    assert "Hello from" in (received["msg"] if isinstance(received, dict) else received)


def test_each_client_is_refused_with_a_wrong_secret(
    peer: Run, endpoint: LocalIoTEndpoint, caplog: pytest.LogCaptureFixture
) -> None:
    assert peer("chat/hello", secret="another-secret-key")["received"] is None
    rejected = [record.getMessage() for record in caplog.records if "rejected with 403" in record.getMessage()]
    assert rejected
    assert all("another secret key for this access key" in line for line in rejected)


def test_amplify_with_an_identity_pool(endpoint: LocalIoTEndpoint, ca_file: str) -> None:
    result = run(
        *amplify_command(),
        endpoint.url,
        REGION,
        "chat/guests",
        POOL,
        endpoint.cognito_endpoint,
        NODE_EXTRA_CA_CERTS=ca_file,
    )
    assert result["received"] == {"msg": "Hello from Amplify"}


def test_a_client_certificate_of_the_sdk(endpoint: LocalIoTEndpoint, ca_file: str, tmp_path: Path) -> None:
    identity = endpoint.issue_certificate("bulb", policies=["chat"])
    certificate, key = identity.write(tmp_path, "bulb")
    port = port_of(endpoint.mqtts_url)
    script = str(HERE / "iot_sdk_v2.py")
    result = run(sys.executable, script, "localhost", port, "chat/bulb", "mtls", ca_file, str(certificate), str(key))
    assert result == {"received": "Hello from SDK v2", "granted": 1}
