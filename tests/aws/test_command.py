"""`pubsub aws` with moto's server, and `pubsub serve --aws-iot`, in separate processes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest

import mqttws
from pubsub.cli import main
from sigv4 import Credentials, presign_iot_url

REGION = "eu-west-1"
KEYS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "canary-secret-testing"}


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Run moto's server in a separate process, and return its URL."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        guard = threading.Timer(60, process.kill)
        guard.start()
        assert process.stdout is not None
        lines = iter(process.stdout.readline, "")
        found = next((match for line in lines if (match := re.search(r"http://127\.0\.0\.1:\d+", line))), None)
        guard.cancel()
        assert found, "moto's server did not start"
        drain = threading.Thread(target=process.stdout.read)
        drain.start()
        yield found[0]
        process.terminate()
        process.wait(30)
        drain.join(30)


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)


def client(service: str, endpoint: str) -> Any:
    session = botocore.session.Session()
    session.set_credentials("testing", "testing")
    return session.create_client(service, region_name=REGION, endpoint_url=endpoint)


@pytest.fixture(scope="module")
def pool(moto: str) -> str:
    cognito = client("cognito-identity", moto)
    made = cognito.create_identity_pool(IdentityPoolName="chat", AllowUnauthenticatedIdentities=True)
    cognito.close()
    return str(made["IdentityPoolId"])


@pytest.mark.usefixtures("keys")
def test_attach_policy_and_whoami(
    moto: str, pool: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    iot = client("iot", moto)
    iot.create_policy(policyName="myIOTPolicy", policyDocument='{"Version": "2012-10-17", "Statement": []}')
    config = tmp_path / "aws-exports.js"
    config.write_text(f"export default {{aws_cognito_identity_pool_id: '{pool}'}};")
    common = ["--config", str(config), "--cognito-endpoint-url", moto]
    assert main(["aws", "attach-policy", "--policy-name", "myIOTPolicy", "--endpoint-url", moto, *common]) == 0
    said = capsys.readouterr().out
    identity = said.split()[-1]
    assert said == f"attached myIOTPolicy to {identity}\n"
    assert [each["policyName"] for each in iot.list_attached_policies(target=identity)["policies"]] == ["myIOTPolicy"]
    iot.close()
    assert main(["aws", "whoami", "--identity-id", identity, *common]) == 0
    shown = capsys.readouterr().out
    assert f"identity     {identity}" in shown
    assert "of the Cognito identity pool" in shown
    assert "expires" in shown
    assert "canary" not in shown + said + caplog.text


@pytest.mark.usefixtures("keys")
def test_refusals_are_printed(moto: str, capsys: pytest.CaptureFixture[str]) -> None:
    attach = ["aws", "attach-policy", "--endpoint-url", moto, "--policy-name", "none"]
    assert main([*attach, "--identity-id", f"{REGION}:1"]) == 4
    assert "AWS IoT refused: ResourceNotFoundException" in capsys.readouterr().err
    assert main(attach) == 2
    assert "the identity is missing" in capsys.readouterr().err
    assert main([*attach, "--config", "there-is-none.js"]) == 2
    unknown = f"{REGION}:00000000-0000-0000-0000-000000000000"
    assert main(["aws", "whoami", "--identity-pool-id", unknown, "--cognito-endpoint-url", moto]) == 4
    assert "GetId was refused" in capsys.readouterr().err


@pytest.mark.usefixtures("keys")
def test_whoami_by_botocore(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aws", "whoami"]) == 0
    shown = capsys.readouterr().out
    assert "access key   testing" in shown
    assert "canary" not in shown


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize("words", [["--identity-id", f"{REGION}:1"], ["--cognito-endpoint-url", "http://127.0.0.1:1"]])
def test_whoami_ignores_no_option(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["aws", "whoami", *words]) == 2
    assert "needs its pool" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["aws", "whoami", "--region", REGION])  # which it has no use for


def test_serve_aws_iot(tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    command = [sys.executable, "-m", "pubsub", "serve", "--aws-iot", "--ws-port", "0", "--mqtts-port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [*command, "--tls-dev", "--ca-out", str(ca_file), "--explain"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process:  # fmt: skip
        guard = threading.Timer(30, process.kill)
        guard.start()
        try:
            assert process.stdout is not None
            assert process.stderr is not None
            url, mqtts = process.stdout.readline().strip(), process.stdout.readline().strip()
            assert mqtts.startswith("mqtts://127.0.0.1:")
            notes = [process.stderr.readline() for _ in range(3)]
            found = re.search(r"AWS_ACCESS_KEY_ID=(\S+) AWS_SECRET_ACCESS_KEY=(\S+)", notes[2])
            assert found
            signed = str(presign_iot_url(url, Credentials(*found.groups()), "us-east-1"))
            tls = mqttws.tls_context(ca_file=ca_file)
            with mqttws.Client(signed, tls=tls, reconnect=False, timeout=30) as connected:
                assert connected.subscribe("a", 2) == 1
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            guard.cancel()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ca-out", "ca.pem"], "--ca-out needs --tls-dev"),
        (["--mqtts-port", "0"], "--mqtts-port needs --cert or --tls-dev"),
        (["--identities", "there-is-none.toml"], "there-is-none.toml"),
    ],
)
def test_invalid_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--aws-iot", "--ws-port", "0", *options]) == 2
    assert said in capsys.readouterr().err
