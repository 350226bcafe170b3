"""Comparison with two other signers over thousands of generated requests: botocore in Python, and awscrt in C."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta, timezone
from unittest import mock
from urllib.parse import parse_qs, quote, urlencode

import botocore.auth
import pytest
from awscrt import auth, http
from botocore.awsrequest import AWSRequest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sigv4 import UNSIGNED_PAYLOAD, Credentials, presign, sign_headers
from sigv4.presigning import NEVER_SIGNED

MANY = settings(max_examples=400)

# --- requests, including unusual ones -------------------------------------------------------------------------------

AWKWARD = [
    "",
    ".",
    "..",
    "...",
    "a b",
    "ü",
    "ሴ",
    "+",
    "~",
    "%20",
    "%2F",
    "a%2fb",
    "%C3%BC",
    "*",
    "a=b",
    ":",
    "@",
    "'",
    "(!)",
]
word = st.one_of(st.sampled_from(AWKWARD), st.text("abzAZ09-._~ +/=:;,@!$*()'üé€😀", max_size=6))
plain_word = word.map(lambda text: text.replace("/", "").replace("?", ""))
paths = st.lists(plain_word, max_size=5).map(lambda parts: "/" + "/".join(parts))
escaped = st.binary(max_size=3).map(lambda data: "".join(f"%{byte:02X}" for byte in data))
lower_escaped = escaped.map(str.lower)
query_words = st.one_of(word, escaped, lower_escaped).map(lambda text: re.sub(r"[&=?#]|%(?![0-9A-Fa-f]{2})", "", text))
pair = st.one_of(st.tuples(query_words, query_words).map("=".join), query_words)
queries = st.lists(pair, max_size=6).map("&".join)

names = st.sampled_from(["X-Custom", "Accept", "x-amz-meta-a", "X-AMZ-META-B", "Content-Type", "My-Header1", "Origin"])
values = st.text("ab ,;=\"' \t09/*üé", max_size=12)
extra_headers = st.lists(st.tuples(names, values), max_size=5)
hosts = st.sampled_from(
    ["example.com", "a-ats.iot.eu-west-1.amazonaws.com", "localhost:8883", "[::1]:443", "Mixed.Case.example"]
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"])
secrets = st.text("abcXYZ019+/=", min_size=1, max_size=48)
tokens = st.none() | st.text("abcXYZ019+/=", min_size=1, max_size=80)
access_keys = st.text("ABCXYZ0189", min_size=1, max_size=24)
times = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(
    lambda time: time.replace(tzinfo=UTC, microsecond=0)
)
zones = st.integers(-12, 14)
regions = st.sampled_from(["us-east-1", "eu-west-1", "cn-north-1", "us-gov-west-1"])
services = st.sampled_from(["iotdevicegateway", "iotdata", "sts", "execute-api"])
bodies = st.binary(max_size=40)
expiries = st.none() | st.integers(1, 604_800)

requests = st.fixed_dictionaries(
    {
        "method": methods,
        "target": st.tuples(paths, queries).map(lambda both: "?".join(both) if both[1] else both[0]),
        "headers": st.tuples(hosts, extra_headers).map(lambda both: [("Host", both[0]), *both[1]]),
        "body": bodies,
        "credentials": st.builds(Credentials, access_keys, secrets, tokens),
        "region": regions,
        "service": services,
        "now": times,
        "sign_token": st.booleans(),
        "normalize_path": st.booleans(),
        "double_encode": st.booleans(),
    }
)


def signature_of(text: str) -> str:
    return re.search(r"Signature=([0-9a-f]{64})", text)[1]


# --- awscrt ---------------------------------------------------------------------------------------------------------


def crt_takes(request) -> bool:
    return ":/" not in request["target"]  # awscrt parses a scheme there, and refuses the target


def crt_signs(request, *, in_query: bool, expires=None) -> http.HttpRequest:
    kind = auth.AwsSignatureType
    credentials = request["credentials"]
    config = auth.AwsSigningConfig(
        signature_type=kind.HTTP_REQUEST_QUERY_PARAMS if in_query else kind.HTTP_REQUEST_HEADERS,
        credentials_provider=auth.AwsCredentialsProvider.new_static(
            credentials.access_key, credentials.secret_key, credentials.token
        ),
        region=request["region"],
        service=request["service"],
        date=request["now"],
        use_double_uri_encode=request["double_encode"],
        should_normalize_uri_path=request["normalize_path"],
        expiration_in_seconds=expires,
        omit_session_token=not request["sign_token"],
        signed_body_value=_hash(request["body"]),
    )
    wire = http.HttpRequest(request["method"], request["target"], http.HttpHeaders(request["headers"]))
    return auth.aws_sign_request(wire, config).result(30)


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@given(requests.filter(crt_takes), expiries)
@MANY
def test_query_and_header_signatures_agree_with_awscrt(request, expires):
    """Both in one test, because generating a request costs more than signing it."""
    agree_in_the_query_with_awscrt(request, expires)
    agree_in_the_headers_with_awscrt(request)


def agree_in_the_query_with_awscrt(request, expires):
    theirs = crt_signs(request, in_query=True, expires=expires)
    ours = presign(**request, expires=expires)
    assert ours.signature == signature_of(theirs.path)
    if request["credentials"].token is not None and not request["sign_token"]:
        token = ours.target.rpartition("&")[2]
        assert token.startswith("X-Amz-Security-Token=")
        assert token in theirs.path.split("&")


def agree_in_the_headers_with_awscrt(request):
    theirs = dict(crt_signs(request, in_query=False).headers)
    ours = sign_headers(**request)
    assert ours.authorization == theirs["Authorization"]
    assert dict(ours.headers)["X-Amz-Date"] == theirs["X-Amz-Date"]
    assert dict(ours.headers).get("X-Amz-Security-Token") == theirs.get("X-Amz-Security-Token")


# --- botocore -------------------------------------------------------------------------------------------------------


class Frozen:
    """Credentials as botocore has them, with an empty token for none."""

    def __init__(self, credentials: Credentials) -> None:
        self.access_key = credentials.access_key
        self.secret_key = credentials.secret_key
        self.token = credentials.token


def botocore_signs(signer_class, request, target: str, **options) -> AWSRequest:
    headers = dict(request["headers"])
    wire = AWSRequest(request["method"], f"https://x{target}", headers=headers, data=request["body"])
    signer = signer_class(Frozen(request["credentials"]), request["service"], request["region"], **options)
    naive = request["now"].replace(tzinfo=None)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=naive):
        signer.add_auth(wire)
    return wire


def as_botocore_takes_it(request) -> dict:
    """Adapt a request: botocore does not join repeated headers, and always normalises and signs the token."""
    once = {name.lower(): (name, value) for name, value in request["headers"]}
    return {
        **request,
        "headers": list(once.values()),
        "sign_token": True,
        "normalize_path": True,
        "double_encode": True,
    }


@given(requests, st.integers(1, 604_800))
@MANY
def test_query_header_and_s3_signatures_agree_with_botocore(request, expires):
    agree_in_the_headers_with_botocore(request)
    agree_for_s3_with_botocore(request, expires)
    agree_in_the_query_with_botocore(request, expires)


def agree_in_the_query_with_botocore(request, expires):
    request = {**as_botocore_takes_it(request), "body": b""}
    # botocore takes the query as pairs with unique keys, reads '+' as a space, and reorders them
    pairs = {}
    for pair in request["target"].partition("?")[2].split("&"):
        key, _, value = pair.partition("=")
        if pair:
            pairs.setdefault(key.replace("+", "%2B"), value.replace("+", "%2B"))
    path = request["target"].partition("?")[0]
    query = "&".join(f"{key}={value}" for key, value in pairs.items())
    once = {key: values[0] for key, values in parse_qs(query, keep_blank_values=True, errors="surrogateescape").items()}
    query = urlencode(once, quote_via=quote, safe="-_.~", errors="surrogateescape")
    assume(_is_utf8(once))  # botocore writes what is not UTF-8 as a replacement character
    request["target"] = f"{path}?{query}"
    theirs = botocore_signs(botocore.auth.SigV4QueryAuth, request, request["target"], expires=expires)
    assert presign(**request, expires=expires).signature == signature_of(theirs.url)


def _is_utf8(pairs: dict) -> bool:
    return not any("\ud800" <= char <= "\udfff" for pair in pairs.items() for char in "".join(pair))


def agree_in_the_headers_with_botocore(request):
    request = as_botocore_takes_it(request)
    ours = sign_headers(**request)
    # botocore signs a query unchanged, so it gets the canonical spelling
    query = ours.canonical_request.split("\n")[2]
    path = request["target"].partition("?")[0]
    theirs = botocore_signs(botocore.auth.SigV4Auth, request, f"{path}?{query}")
    assert ours.authorization == theirs.headers["Authorization"]


def agree_for_s3_with_botocore(request, expires):
    request = {**as_botocore_takes_it(request), "body": b"", "normalize_path": False, "double_encode": False}
    request["target"] = request["target"].partition("?")[0]
    request["service"] = "s3"
    theirs = botocore_signs(botocore.auth.S3SigV4QueryAuth, request, request["target"], expires=expires)
    ours = presign(**request, expires=expires, body_hash=UNSIGNED_PAYLOAD)
    assert ours.signature == signature_of(theirs.url)


# --- cases that the oracles do not cover ----------------------------------------------------------------------------


@given(requests, zones)
@settings(max_examples=100)
def test_the_time_zone_of_now_makes_no_difference(request, hours):
    elsewhere = {**request, "now": request["now"].astimezone(timezone(timedelta(hours=hours)))}
    assert presign(**elsewhere).target == presign(**request).target


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_of_a_query_has_one_spelling(byte):
    """RFC 3986 §2.3: an escape of an unreserved character is needless; §2.1: hexadecimal digits are upper case."""
    keys = {"headers": [("Host", "h")], "credentials": Credentials("A", "s"), "region": "us-east-1", "service": "iot"}
    wanted = quote(bytes([byte]), safe="-._~")
    for spelled in (f"%{byte:02X}", f"%{byte:02x}"):
        signed = presign("GET", f"/?k={spelled}", now=datetime(2020, 1, 1, tzinfo=UTC), **keys)
        assert signed.canonical_request.split("\n")[2].endswith(f"&k={wanted}")


@pytest.mark.parametrize("in_query", [True, False])
def test_the_c_library_signs_connection_and_so_do_we_on_demand(in_query):
    request = {
        "method": "GET",
        "target": "/mqtt",
        "headers": [("Host", "h"), ("Connection", "Upgrade"), ("Upgrade", "websocket")],
        "body": b"",
        "credentials": Credentials("A", "s", "t"),
        "region": "eu-west-1",
        "service": "iotdevicegateway",
        "now": datetime(2020, 1, 1, tzinfo=UTC),
        "sign_token": False,
        "normalize_path": True,
        "double_encode": True,
    }
    theirs = crt_signs(request, in_query=in_query)
    ours = (presign if in_query else sign_headers)(**request, also_sign=["Connection"])
    assert ours.canonical_request.split("\n")[-2].split(";")[0] == "connection"
    assert ours.signature == signature_of(theirs.path if in_query else dict(theirs.headers)["Authorization"])


@pytest.mark.parametrize("name", sorted(NEVER_SIGNED - {"authorization"}))
def test_headers_that_change_on_the_way_are_not_signed(name):
    def signed(*more):
        return presign(
            "GET",
            "/",
            headers=[("Host", "h"), *more],
            credentials=Credentials("A", "s"),
            region="us-east-1",
            service="iot",
            now=datetime(2020, 1, 1, tzinfo=UTC),
        ).signature

    assert signed((name.title(), "value")) == signed()
    assert signed(("Origin", "value")) != signed()
