"""No secret appears in a log, a repr, an error or a pickle."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import traceback
from datetime import UTC, datetime

import pytest

from sigv4 import (
    Credentials,
    IotUrlSigner,
    SigV4Error,
    explain,
    presign,
    presign_iot_url,
    sign_headers,
    verify,
)
from sigv4.claims import read_claim
from sigv4.signing import signing_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET, TOKEN = "BAITsecret", "BAITtoken"
KEYS = Credentials("AKID", SECRET, TOKEN)
HOST = "a-ats.iot.eu-west-1.amazonaws.com"
REQUEST = {"headers": {"Host": HOST}, "credentials": KEYS, "region": "eu-west-1", "service": "iotdata", "now": NOW}


def shown_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + repr(error.args)


def all_shown(thing: object) -> str:
    return f"{thing!r} {[thing]} {(thing,)}" + repr({"a": thing})


def test_the_repr_of_results_hides_their_contents():
    presigned, signed, url = (
        presign("GET", "/", **REQUEST),
        sign_headers("GET", "/", **REQUEST),
        presign_iot_url(HOST, KEYS, now=NOW),
    )
    target = "/mqtt?" + url.partition("?")[2]
    verified = verify("GET", target, {"Host": HOST}, lookup=lambda key: KEYS, now=NOW)
    assert verified
    signer = IotUrlSigner(HOST)
    signer.presign(KEYS, NOW)
    key = signing_key(SECRET, "20260301", "eu-west-1", "iotdata")
    claim = read_claim("GET", target, {"Host": HOST})
    for thing in (presigned, signed, url, verified, signer, key, claim, list(vars(signer).values())):
        text = all_shown(thing)
        for bait in (SECRET, TOKEN, presigned.signature, signed.signature, url[-80:], target[-80:]):
            assert bait not in text
    for signature in (presigned.signature, signed.signature):
        assert signature not in all_shown(verified)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_results_are_not_pickled(protocol):
    for thing in (
        presign("GET", "/", **REQUEST),
        sign_headers("GET", "/", **REQUEST),
        presign_iot_url(HOST, KEYS, now=NOW),
    ):
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(thing, protocol)
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(RuntimeError("with", thing), protocol)


BAD = [
    lambda: presign("GET", "/\ud800", **REQUEST),
    lambda: presign("GET", f"/?X-Amz-Signature={SECRET}", **REQUEST),
    lambda: presign("GET", f"/#{SECRET}", **REQUEST),
    lambda: presign("GET", f"https://x/{SECRET}", **REQUEST),
    lambda: presign("GET", "/", **{**REQUEST, "headers": {f"{SECRET} ": "", f"{SECRET} x": ""}}),
    lambda: presign("GET", "/", **{**REQUEST, "region": 3}),
    lambda: presign("GET", "/", **{**REQUEST, "credentials": (SECRET, TOKEN)}),
    lambda: presign("GET", "/", **{**REQUEST, "credentials": f"{SECRET}"}),
    lambda: presign("GET", "/", **REQUEST, body_hash=SECRET),
    lambda: presign("GET", "/", **REQUEST, expires=SECRET),
    lambda: presign("GET", "/", **{**REQUEST, "now": SECRET}),
    lambda: presign_iot_url(f"wss://{HOST}/?X-Amz-Signature={SECRET}", KEYS),
    lambda: presign_iot_url(f"wss://user:{SECRET}@{HOST}/", KEYS),
    lambda: presign_iot_url(f"wss://user:{SECRET}/@{HOST}/", KEYS),
    lambda: presign_iot_url(f"wss://user:{SECRET}?@{HOST}/", KEYS),
    lambda: presign_iot_url(f"wss://user:1/{SECRET}@{HOST}/", KEYS),
    lambda: presign_iot_url(f"wss://{SECRET}.lower/@{HOST}/", KEYS),
    lambda: presign_iot_url(f"wss://mqtt.example.com/?token={SECRET}", KEYS),
    lambda: presign_iot_url(f"https://{HOST}/{SECRET}", KEYS),
    lambda: presign_iot_url(f"wss://{HOST}:x/{SECRET}", KEYS),
    lambda: Credentials("AKID", SECRET + "\n"),
    lambda: Credentials(SECRET + "/", "x"),
    lambda: Credentials("AKID", "x", TOKEN + " x"),
]


@pytest.mark.parametrize("index", range(len(BAD)))
def test_no_error_shows_secrets(index):
    with pytest.raises((SigV4Error, TypeError, ValueError)) as caught:
        BAD[index]()
    # the traceback quotes source lines of this file, which contain names and not values
    text = shown_of(caught.value).replace("BAD[index]()", "")
    assert SECRET.lower() not in text.lower()
    assert TOKEN not in text
    assert SECRET not in repr(pickle.loads(pickle.dumps(caught.value)))


@pytest.mark.parametrize("endpoint", ["wss://user:98765/word@host/", "wss://user:98765?word@host", "98765/@host"])
def test_no_error_shows_a_number_of_a_password(endpoint):
    with pytest.raises(SigV4Error) as caught:
        presign_iot_url(endpoint, KEYS)
    assert "98765" not in shown_of(caught.value)


def test_no_refusal_shows_secrets():
    url = str(presign_iot_url(HOST, KEYS, now=NOW))
    target = "/mqtt?" + url.partition("?")[2]
    signature = target[target.index("Signature=") + 10 :][:64]
    forms = [target[:index] + other + target[index + 1 :] for index in range(len(target)) for other in "%&A"]
    forms += [target.replace("AKID", SECRET), target.replace(TOKEN, "other"), target.replace("eu-west-1", "us-east-1")]
    codes = set()
    for form in forms:
        for known in ({"AKID": KEYS}, {}, {"AKID": Credentials("AKID", "other", TOKEN)}):
            request = ("GET", form, {"Host": HOST})
            answer = verify(*request, lookup=known.get, now=NOW)
            explanation = explain(*request, lookup=known.get, now=NOW)
            for text in (repr(answer), repr(explanation), str(explanation)):
                assert SECRET not in text
                assert TOKEN not in text
                assert signature not in text
            codes.add(explanation.code)
    assert len(codes) > 10


def test_nothing_is_logged_at_debug(caplog):
    with caplog.at_level(logging.DEBUG):
        url = str(presign_iot_url(HOST, KEYS, now=NOW))
        verify("GET", "/mqtt?" + url.partition("?")[2], {"Host": HOST}, lookup=lambda key: KEYS, now=NOW)
        explain("GET", "/mqtt", {"Host": HOST}, lookup=lambda key: KEYS, now=NOW)
    assert not caplog.records


def test_only_the_standard_library_is_imported():
    code = (
        "import sys; before = set(sys.modules); import sigv4.__main__, sigv4.mistakes\n"
        "for name in sorted({name.partition('.')[0] for name in set(sys.modules) - before}): print(name)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    assert set(ran.stdout.split()) <= sys.stdlib_module_names | {"sigv4"}


def test_optional_modules_are_not_imported():
    code = "import sys; before = set(sys.modules); import sigv4; print(*sorted(set(sys.modules) - before))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True)
    loaded = set(ran.stdout.split())
    late = {
        "configparser",
        "argparse",
        "asyncio",
        "logging",
        "socket",
        "ssl",
        "urllib.parse",
        "sigv4.mistakes",
        "botocore",
    }
    assert not loaded & late
