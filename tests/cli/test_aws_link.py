"""`--aws` of pub, sub, bench and look, with the local endpoint: a new signature each time, and reasons of refusals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mqttws
from pubsub.aws import settings
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from pubsub.aws.local.identities import Identities
from pubsub.cli import main
from sigv4 import Credentials

PATIENCE = 30.0


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalIoTEndpoint]:
    """An endpoint, with the keys of its only user in the environment."""
    with LocalIoTEndpoint() as endpoint:
        put_keys(monkeypatch, endpoint.credentials)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        yield endpoint


def put_keys(monkeypatch: pytest.MonkeyPatch, credentials: Credentials, secret: str | None = None) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", credentials.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", credentials.secret_key if secret is None else secret)
    monkeypatch.delenv("AWS_SESSION_TOKEN", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)


def options(endpoint: LocalIoTEndpoint) -> list[str]:
    return ["--aws", "--region", endpoint.region]


@contextmanager
def looking(url: str, *words: str) -> Iterator[tuple[str, subprocess.Popen[str], list[str]]]:
    """Run `pubsub look` in a separate process. Return the URL to connect to, the process and its output lines."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pubsub", "look", url, *words],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    guard = threading.Timer(PATIENCE, process.kill)
    guard.start()
    lines: list[str] = []
    assert process.stdout is not None
    assert process.stderr is not None
    stdout, stderr = process.stdout, process.stderr
    reader = threading.Thread(target=lambda: lines.extend(stdout), daemon=True)
    try:
        announced = ""
        while not (found := re.search(r"wss?://127\.0\.0\.1:\d+\S*", announced)):
            announced = stderr.readline()
            assert announced, "look has ended"
        reader.start()
        yield found[0], process, lines
    finally:
        guard.cancel()
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
        if reader.ident is not None:
            reader.join(PATIENCE)
        stdout.close()
        stderr.close()


def wait_for(lines: list[str], text: str) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for line in list(lines):
            if text in line:
                return line
        time.sleep(0.02)
    raise AssertionError(f"{text!r} is not among {lines}")


def test_a_guest_of_an_identity_pool(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pool = "eu-west-1:11111111-2222-3333-4444-555555555555"
    identities = Identities("eu-west-1")
    identities.add_policy("all", {"Statement": [{"Effect": "Allow", "Action": "iot:*", "Resource": "*"}]})
    identities.add_pool(pool, guests=["all"])
    with LocalIoTEndpoint(identities) as endpoint:
        # Amplify's file does not contain the address of the service, which is that of AWS.
        read = settings.read_settings
        local = {"aws_cognito_identity_endpoint": endpoint.cognito_endpoint}
        monkeypatch.setattr(settings, "read_settings", lambda path: read(path) | local)
        exports = tmp_path / "aws-exports.js"
        exports.write_text(f"export default {{aws_cognito_identity_pool_id: '{pool}'}};")
        publish = ["pub", endpoint.url, "--aws", "--region", "eu-west-1", "-q", "1", "-t", "a", "-m", "x"]
        assert main([*publish, "--cognito", str(exports)]) == 0


def test_credentials_of_a_profile(keys: LocalIoTEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    file, credentials = tmp_path / "credentials", keys.credentials
    file.write_text(
        f"[device]\naws_access_key_id = {credentials.access_key}\naws_secret_access_key = {credentials.secret_key}\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    publish = ["pub", keys.url, *options(keys), "-q", "1", "-t", "a", "-m", "x"]
    assert main([*publish, "--profile", "device"]) == 0
    assert main([*publish, "--profile", "missing"]) == 4
    assert main(publish) == 4  # without a default profile
    assert main([*publish, "--cognito", str(tmp_path / "none.js")]) == 2


def test_pub_and_sub(keys: LocalIoTEndpoint, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert main(["pub", keys.url, *options(keys), "-q", "1", "-r", "-t", "kept", "-m", "signed"]) == 0
    assert main(["sub", keys.url, *options(keys), "-t", "kept", "-C", "1", "-W", "10"]) == 0
    assert capsysbinary.readouterr().out == b"signed\n"


def test_bench(keys: LocalIoTEndpoint, capsys: pytest.CaptureFixture[str]) -> None:
    load = ["--publishers", "2", "--subscribers", "2", "--rate", "50", "--duration", "0.5", "--warmup", "0.1"]
    assert main(["bench", keys.url, *options(keys), "-q", "1", *load]) == 0
    shown = capsys.readouterr()
    assert "Signature" not in shown.out + shown.err


@pytest.mark.parametrize("command", ["pub", "sub", "bench"])
def test_a_refusal_and_its_reason(
    keys: LocalIoTEndpoint, command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put_keys(monkeypatch, keys.credentials, secret="not-the-right-one")
    words = {
        "pub": ["-t", "a", "-m", "x"],
        "sub": ["-t", "a", "-W", "5"],
        "bench": ["--publishers", "1", "--subscribers", "1", "--duration", "0.2", "--warmup", "0.1"],
    }
    assert main([command, keys.url, *options(keys), *words[command]]) == 4
    shown = capsys.readouterr().err
    assert "the signature was not accepted" in shown
    assert "not-the-right-one" not in shown


def test_look_signs_each_connection_of_unaware_clients(keys: LocalIoTEndpoint) -> None:
    with looking(keys.url, *options(keys)) as (url, process, lines):
        assert "X-Amz" not in url
        for number in range(2):  # a signed URL is accepted once
            with mqttws.connect(url, client_id=f"c{number}", reconnect=False) as client:
                client.publish("a/b", b"x", qos=1)
        wait_for(lines, "PUBACK")
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE) == 0
    shown = "".join(lines)
    assert "X-Amz-Signature" not in shown
    assert keys.credentials.secret_key not in shown


def test_look_shows_why_aws_refuses(keys: LocalIoTEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    put_keys(monkeypatch, keys.credentials, secret="not-the-right-one")
    with looking(keys.url, *options(keys)) as (url, _, lines):
        with pytest.raises(mqttws.HandshakeRejected):
            mqttws.connect(url, reconnect=False)
        assert "the signature was not accepted" in wait_for(lines, "! #1")


def test_look_without_credentials(keys: LocalIoTEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with looking(keys.url, *options(keys)) as (url, _, lines):
        with pytest.raises(mqttws.ConnectError):
            mqttws.connect(url, reconnect=False)
        wait_for(lines, "there is no URL")


def test_look_with_fault_rules(keys: LocalIoTEndpoint, tmp_path: Path) -> None:
    rules = tmp_path / "rules.toml"
    rules.write_text('[[rule]]\non = "PUBACK"\nnth = 1\ndo = "reset"\n')
    with looking(keys.url, *options(keys), "--faults", str(rules)) as (url, _, lines):
        with mqttws.connect(url, client_id="c") as client:
            client.publish("a", b"x", qos=1)  # sent again over a new connection with a new signature
        wait_for(lines, "#2")


def test_host_and_port_of_the_endpoint(keys: LocalIoTEndpoint, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with LocalIoTEndpoint(tls=True) as endpoint:
        put_keys(monkeypatch, endpoint.credentials)
        authority = str(endpoint.write_authority(tmp_path / "ca.pem"))
        port = endpoint.url.rpartition(":")[2].partition("/")[0]
        words = ["-h", "127.0.0.1", "-p", port, "--cafile", authority, "-t", "a", "-m", "x", "-q", "1"]
        assert main(["pub", *words, *options(endpoint)]) == 0


def test_an_endpoint_of_ipv6(keys: LocalIoTEndpoint, closed_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pub", "-h", "::1", "-p", str(closed_port), "-t", "a", "-m", "x", *options(keys)]) == 3
    assert f"::1:{closed_port}" in capsys.readouterr().err


def test_the_user_name_of_the_environment_is_for_other_servers(
    keys: LocalIoTEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_USERNAME", "alice")
    monkeypatch.setenv("PUBSUB_PASSWORD", "x")
    assert main(["pub", keys.url, "a", "x", "-q", "1", *options(keys)]) == 0
    assert main(["pub", keys.url, "a", "x", "-q", "1", "-u", "bob", *options(keys)]) == 2


@pytest.mark.parametrize("words", [["-P", "x"], ["--ask-password"], ["-u", "bob", "-P", "x"]])
@pytest.mark.parametrize("command", [["pub", "-t", "a", "-m", "x"], ["sub", "-t", "a"], ["bench", "--duration", "1"]])
def test_a_signature_replaces_a_password(
    keys: LocalIoTEndpoint, command: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command[0], keys.url, *command[1:], *options(keys), *words]) == 2
    assert "omit user name and password" in capsys.readouterr().err


@pytest.mark.parametrize("way", ["pub", "bench", "whoami"])
def test_cognito_that_does_not_answer(
    way: str, closed_port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody refused anything: a script may try again later."""
    pool = "eu-west-1:12345678-1234-1234-1234-123456789012"
    endpoint = f"http://127.0.0.1:{closed_port}/"
    if way == "whoami":
        assert main(["aws", "whoami", "--identity-pool-id", pool, "--cognito-endpoint-url", endpoint]) == 3
    else:
        from pubsub.aws.cognito_api import CognitoAPI

        monkeypatch.setattr(CognitoAPI, "get_id", lambda self, logins: self._post("GetId", endpoint, {}, b""))
        exports = tmp_path / "aws-exports.js"
        exports.write_text(f'const awsmobile = {{"aws_cognito_identity_pool_id": "{pool}"}}; export default awsmobile;')
        words = {"pub": ["t", "m"], "bench": ["--publishers", "1", "--duration", "1"]}[way]
        url = "wss://abc-ats.iot.eu-west-1.amazonaws.com/mqtt"
        assert main([way, url, *words, "--aws", "--cognito", str(exports), "--timeout", "5"]) == 3
    assert "cannot reach 127.0.0.1" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["bench"], ["look"]])
@pytest.mark.parametrize("option", ["--region", "--profile", "--cognito"])
def test_options_without_an_effect_are_refused(
    command: list[str], option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "ws://127.0.0.1:1/mqtt", option, "x"]) == 2
    assert f"{option} requires --aws" in capsys.readouterr().err


def test_aws_with_a_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(tmp_path / "a.jsonl"), "--aws"]) == 2
    assert "--aws is for a broker's URL" in capsys.readouterr().err
