"""`python -m sigv4`, in a separate process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sigv4.__main__ import main

SECRET, TOKEN = "BAITsecret", "BAIT/token"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
ENDPOINT = "wss://a-ats.iot.eu-west-1.amazonaws.com"


@pytest.fixture
def sigv4(tmp_path):
    def run(*arguments, keys=KEYS, stdin=""):
        environ = {"HOME": str(tmp_path), "PATH": "", **keys}
        command = [sys.executable, "-m", "sigv4", *arguments]
        return subprocess.run(command, input=stdin, env=environ, capture_output=True, text=True, timeout=60)

    return run


def test_presign_and_verify_and_explain(sigv4):
    signed = sigv4("presign", ENDPOINT, "--expires", "600")
    assert signed.returncode == 0
    assert signed.stdout.startswith(f"{ENDPOINT}/mqtt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F")
    assert signed.stdout.endswith("&X-Amz-Security-Token=BAIT%2Ftoken\n")
    verified = sigv4("verify", stdin=signed.stdout)
    assert (verified.returncode, verified.stdout.split(",")[0]) == (0, "verified: signed by AKIDEXAMPLE")
    assert sigv4("explain", signed.stdout.strip()).returncode == 0


def test_a_refusal_is_named_without_a_secret(sigv4):
    url = sigv4("presign", ENDPOINT).stdout
    rejected = sigv4("verify", stdin=url, keys={**KEYS, "AWS_SECRET_ACCESS_KEY": "BAITother"})
    assert rejected.returncode == 1
    assert rejected.stdout.startswith("rejected: the signature does not match")
    explained = sigv4("explain", stdin=url.replace("/mqtt?", "/mqtt/?"))
    assert explained.returncode == 1
    assert "with or without a final '/'" in explained.stdout
    late = sigv4("explain", "--at", "20990101T000000Z", stdin=url)
    assert "clock" in late.stdout
    for ran in (rejected, explained, late):
        assert "BAIT" not in ran.stdout + ran.stderr


def test_other_services_by_https(sigv4):
    arguments = ("presign", "https://sts.eu-west-1.amazonaws.com/?Action=GetCallerIdentity", "--region", "eu-west-1")
    signed = sigv4(*arguments, "--service", "sts")
    assert sigv4("verify", stdin=signed.stdout).returncode == 0
    assert "&X-Amz-Security-Token=BAIT%2Ftoken&X-Amz-SignedHeaders" in signed.stdout
    missing = sigv4(*arguments)
    assert missing.returncode == 2
    assert "give --region and --service" in missing.stderr
    s3 = sigv4(
        "presign", "https://b.s3.amazonaws.com/a%20b//c", "--service", "s3", "--region", "eu-west-1", "--method", "PUT"
    )
    assert sigv4("verify", "--service", "s3", "--method", "PUT", stdin=s3.stdout).returncode == 0
    assert sigv4("verify", "--service", "s3", stdin=s3.stdout).returncode == 1


@pytest.mark.parametrize("command", ["verify", "explain"])
def test_a_url_that_names_s3_is_judged_by_its_rules(sigv4, command):
    https = ("presign", "https://b.s3.amazonaws.com/a%20b//c", "--region", "eu-west-1", "--service")
    s3, other = sigv4(*https, "s3").stdout, sigv4(*https, "execute-api").stdout
    for url in (s3, other):
        assert sigv4(command, stdin=url).returncode == 0
    assert sigv4(command, "--service", "s3", stdin=s3).returncode == 0
    for service, url, named in (("execute-api", s3, "s3"), ("s3", other, "execute-api")):
        contradicting = sigv4(command, "--service", service, stdin=url)
        assert contradicting.returncode == 1
        assert f"expected a signature for the service {service}, got one for '{named}'" in contradicting.stdout
    unreadable = sigv4(command, stdin=s3.replace("%2Fs3%2F", "%2F"))
    assert unreadable.returncode == 1
    assert "expected a credential of five parts" in unreadable.stdout


def test_a_scheme_in_upper_case_is_the_same_scheme(sigv4):
    """Spec: RFC 3986 §3.1."""
    signed = sigv4("presign", ENDPOINT.replace("wss", "WSS"))
    assert signed.returncode == 0
    assert sigv4("verify", stdin=signed.stdout.replace("wss:", "WSS:")).returncode == 0
    words = ("presign", "HTTPS://sts.eu-west-1.amazonaws.com:443/", "--region", "eu-west-1", "--service", "sts")
    assert sigv4("verify", stdin=sigv4(*words).stdout).returncode == 0


@pytest.mark.parametrize("scheme", ["https://", "wss://", ""])
@pytest.mark.parametrize("command", ["presign", "verify", "explain"])
def test_a_host_with_a_user_name_is_refused(sigv4, command, scheme):
    """An HTTP client does not send it in the Host header."""
    ran = sigv4(command, f"{scheme}user:BAIT@sts.eu-west-1.amazonaws.com/", "--region", "eu-west-1", "--service", "sts")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "expected a host without a user name" in ran.stderr
    assert "BAIT" not in ran.stderr


def test_a_profile(sigv4, tmp_path):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[work]\naws_access_key_id=WORK\naws_secret_access_key=s\n")
    assert "Credential=WORK%2F" in sigv4("presign", ENDPOINT, "--profile", "work").stdout
    assert "Credential=WORK%2F" in sigv4("presign", ENDPOINT, "--profile", "work", "--botocore").stdout
    other = sigv4("presign", ENDPOINT, "--profile", "home")
    assert other.returncode == 2
    assert "has no section [home] among work" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "keys", "says"),
    [
        (("presign", "wss://mqtt.example.com"), KEYS, "does not name its region"),
        (("presign", ENDPOINT), {}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY not set"),
        (
            ("presign", ENDPOINT),
            {**KEYS, "AWS_SECRET_ACCESS_KEY": SECRET + "\n"},
            "secret_key: expected printable text",
        ),
        (("presign", ENDPOINT, "--method", "POST"), KEYS, "opened with GET, not with POST"),
        (("presign", ENDPOINT, "--expires", "0"), KEYS, "expires: expected 1 to 604800"),
        (("presign",), KEYS, "required: url"),
        (("verify", "--at", "yesterday"), KEYS, "'yesterday' is not a time of the form YYYYMMDDTHHMMSSZ"),
        (("verify", "--skew", "-5"), KEYS, "'-5' is not a number of seconds"),
        (("verify", "x", "--skew", "9" * 20), KEYS, "is not a number of seconds, 0 to 999,999,999"),
        (("presign", ENDPOINT, "--secret-key", "x"), KEYS, "unrecognized arguments"),
    ],
)
def test_invalid_arguments_are_refused(sigv4, arguments, keys, says):
    ran = sigv4(*arguments, keys=keys)
    assert ran.returncode == 2
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "BAIT" not in ran.stdout + ran.stderr


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("redirected", "code", "says"),
    [
        ('verify "$url" >/dev/full', 2, "No space left on device"),
        ("verify <&-", 2, "there is no standard input"),
        ('verify "$url" | true; exit ${PIPESTATUS[0]}', 0, ""),
    ],
)
def test_streams_that_are_closed_or_full_are_no_traceback(redirected, code, says):
    if "/dev/full" in redirected and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    script = f"url=$({sys.executable} -m sigv4 presign {ENDPOINT}); {sys.executable} -m sigv4 {redirected}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, **KEYS}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    assert says in done.stderr
    assert done.stderr.count("\n") == (code != 0)


@pytest.mark.skipif(os.name != "posix", reason="needs a shell")
@pytest.mark.parametrize(
    ("words", "redirected", "says"),
    [
        (["presign", ENDPOINT], ">&-", b"sigv4: there is no standard output to write to\n"),
        (["presign", ""], "2>&-", b""),
        (["presign", ENDPOINT], ">&- 2>&-", b""),
    ],
)
def test_a_closed_stream_fails_and_its_lines_go_nowhere_else(words, redirected, says):
    done = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirected}', "sh", sys.executable, "-m", "sigv4", *words],
        env={**os.environ, **KEYS}, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (2, b"", says)


def test_an_interrupt_is_no_traceback(monkeypatch):
    class Interrupted:
        def read(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", Interrupted())
    assert main(["verify"]) == 130
