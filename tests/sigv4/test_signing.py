"""The signers: refused arguments, accepted forms of arguments, and bounded caches."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta, timezone

import pytest
from botocore.credentials import ReadOnlyCredentials
from hypothesis import given
from hypothesis import strategies as st

from sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Credentials, SigningError, presign, sign_headers, verify
from sigv4.canonical import canonical_query, canonical_uri, header_name, merged_query, query_pairs
from sigv4.signing import KEYS_CACHED, amz_date, signing_key

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEYS = Credentials("AKID", "secret")
USUAL = {
    "headers": [("Host", "example.com")],
    "credentials": KEYS,
    "region": "us-east-1",
    "service": "iotdevicegateway",
    "now": NOW,
}


@pytest.mark.parametrize("sign", [presign, sign_headers])
@pytest.mark.parametrize(
    ("method", "target", "options", "says"),
    [
        ("", "/", {}, "method: expected an HTTP method"),
        ("G T", "/", {}, "method: expected an HTTP method"),
        ("GET\n", "/", {}, "method: expected an HTTP method"),
        (None, "/", {}, "method: expected an HTTP method"),
        ("GET", "https://example.com/", {}, "not a URL"),
        ("GET", "mqtt", {}, "a leading '/'"),
        ("GET", "/a#b", {}, "fragment"),
        ("GET", "/a\r\nX: y", {}, "no line break"),
        ("GET", "/a?\0", {}, "no NUL"),
        ("GET", None, {}, "expected str or bytes, got NoneType"),
        ("GET", "/\ud800", {}, "lone surrogate at index"),
        ("GET", "/?\ud800", {}, "lone surrogate at index"),
        ("GET", "/", {"headers": []}, "expected a Host header"),
        ("GET", "/", {"headers": [("Host", " ")]}, "one Host header"),
        ("GET", "/", {"headers": [("Host", "a"), ("host", "b")]}, "one Host header"),
        ("GET", "/", {"headers": [("Host", "a"), ("X Y", "b")]}, "expected header names of"),
        ("GET", "/", {"headers": [("Host", "a"), ("", "b")]}, "expected header names of"),
        ("GET", "/", {"headers": [("Host", "a"), ("X", 3)]}, "expected str or bytes, got int"),
        ("GET", "/", {"body": "text"}, "body: expected bytes, got str"),
        ("GET", "/", {"body_hash": "xyz"}, "body_hash: expected 64"),
        ("GET", "/", {"body": b"a", "body_hash": EMPTY_SHA256}, "either body or body_hash"),
        ("GET", "/", {"region": "us east"}, "region: expected letters"),
        ("GET", "/", {"service": ""}, "service: expected letters"),
        ("GET", "/", {"now": datetime(2026, 1, 1)}, "now: expected an aware datetime"),
    ],
)
def test_invalid_requests_are_refused(sign, method, target, options, says):
    with pytest.raises(SigningError, match=says):
        sign(method, target, **{**USUAL, **options})


@pytest.mark.parametrize("name", ["X-Amz-Signature", "X-Amz-Security-Token", "X%2DAmz-Date", "X-Amz-%45xpires"])
def test_a_signed_target_is_refused(name):
    with pytest.raises(SigningError, match="a query not yet signed"):
        presign("GET", f"/?{name}=1", **USUAL)


def test_equivalent_forms_of_headers_and_targets():
    one = presign("GET", "/ü?ü", **USUAL)
    for headers in ({"host": "example.com"}, [(b"HOST", b" example.com ")], iter([("Host", "example.com")])):
        assert presign("GET", "/ü?ü".encode(), **{**USUAL, "headers": headers}).target == one.target


def test_bytes_that_are_no_utf8_are_signed_unchanged():
    signed = presign("GET", b"/\xff?\xff=%FE", **USUAL)
    assert signed.canonical_request.split("\n")[1] == "/%FF"
    assert "&%FF=%FE" in signed.target or "?%FF=%FE" in signed.target


def test_other_types_of_credentials_are_accepted():
    class Provider:
        def get_frozen_credentials(self):
            return KEYS

    for credentials in (ReadOnlyCredentials("AKID", "secret", None), Provider()):
        assert (
            presign("GET", "/", **{**USUAL, "credentials": credentials}).target == presign("GET", "/", **USUAL).target
        )


def test_a_request_can_be_signed_again():
    first = sign_headers(
        "GET", "/", **{**USUAL, "credentials": Credentials("AKID", "secret", "token")}, content_sha256=True
    )
    again = sign_headers("GET", "/", **{**USUAL, "headers": first.headers})
    assert again.authorization == sign_headers("GET", "/", **USUAL, content_sha256=True).authorization
    assert [name for name, _ in again.headers] == ["Host", "X-Amz-Date", "X-Amz-Content-Sha256", "Authorization"]


@pytest.mark.parametrize("payload", [{}, {"body": b"1"}, {"body_hash": UNSIGNED_PAYLOAD}])
@pytest.mark.parametrize("name", ["X-Amz-Content-Sha256", b"x-amz-content-sha256"])
def test_a_given_hash_of_the_payload_is_replaced_and_sent(name, payload):
    """So a header that S3 requires is not lost, and the hash is always the one that is signed."""
    headers = [("Host", "b.s3.amazonaws.com"), (name, UNSIGNED_PAYLOAD)]
    signed = sign_headers("PUT", "/", **{**USUAL, "headers": headers}, **payload)
    without = sign_headers("PUT", "/", **{**USUAL, "headers": headers[:1]}, **payload, content_sha256=True)
    assert signed.headers == without.headers
    hashes = [value for name, value in signed.headers if name == "X-Amz-Content-Sha256"]
    assert hashes == [signed.canonical_request.rpartition("\n")[2]]


def test_the_target_keeps_its_path_and_gets_a_canonical_query():
    target = presign("GET", "/a b//%2f?b=%2f&a&&c=+&=v", **USUAL).target
    assert target.startswith("/a b//%2f?=v&X-Amz-Algorithm=")
    assert "&a=&b=%2F&c=%2B&X-Amz-Signature=" in target


encoded_words = st.text("AXaz-.09%", max_size=3).map(lambda text: text.replace("%", "%41"))
encoded_pairs = st.lists(st.tuples(encoded_words, encoded_words), min_size=1, max_size=6)


@given(encoded_pairs, encoded_pairs)
def test_pairs_are_merged_into_a_query_in_the_order_of_all_pairs(ours, others):
    assert merged_query(canonical_query(ours), others) == canonical_query(ours + others)


@given(st.text("a.~/%é \n", max_size=6), st.booleans(), st.booleans())
def test_a_path_is_signed_in_its_canonical_form(path, normalize, double_encode):
    if "\n" in path:
        with pytest.raises(SigningError):
            presign("GET", f"/{path}", **USUAL, normalize_path=normalize, double_encode=double_encode)
    else:
        signed = presign("GET", f"/{path}", **USUAL, normalize_path=normalize, double_encode=double_encode)
        assert signed.canonical_request.split("\n")[1] == canonical_uri(f"/{path}", normalize, double_encode)
        assert signed.target.partition("?")[0] == f"/{path}"


def test_the_names_of_the_signed_headers_are_encoded():
    headers = [("Host", "example.com"), ("a&b", "1"), ("c%2F", "2")]
    signed = presign("GET", "/?z=1", **{**USUAL, "headers": headers})
    assert "&X-Amz-SignedHeaders=a%26b%3Bc%252f%3Bhost&" in signed.target
    assert verify("GET", signed.target, headers, lookup={"AKID": KEYS}.get, now=NOW)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("", "/"),
        ("/", "/"),
        ("//", "/"),
        ("/a/./b/../c//", "/a/c/"),
        ("/..", "/"),
        ("/a/..", "/"),
        ("/...", "/..."),
        ("/a%20b", "/a%2520b"),
        ("/a~b", "/a~b"),
        ("/ü", "/%C3%BC"),
    ],
)
def test_a_path_in_its_canonical_form(path, uri):
    assert canonical_uri(path) == uri


def test_a_query_in_its_encoded_pairs():
    assert query_pairs("b=%41&a&&=&%zz=%&c=a=b&é=+") == [
        ("b", "A"),
        ("a", ""),
        ("", ""),
        ("%25zz", "%25"),
        ("c", "a%3Db"),
        ("%C3%A9", "%2B"),
    ]


def test_the_caches_of_keys_and_names_are_bounded():
    for number in range(KEYS_CACHED * 3):
        signing_key(f"secret{number}", "20260301", "us-east-1", "iot")
        header_name(f"X-Header-{number}")
    assert signing_key.cache_info().currsize == KEYS_CACHED
    assert header_name.cache_info().currsize <= header_name.cache_info().maxsize


def test_threads_share_the_signers():
    expected = {number: presign("GET", f"/{number}", **USUAL).target for number in range(8)}
    signing_key.cache_clear()
    wrong = []

    def sign(number):
        for _ in range(300):
            if presign("GET", f"/{number}", **USUAL).target != expected[number]:
                wrong.append(number)

    threads = [threading.Thread(target=sign, args=(number,)) for number in expected]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong


@pytest.mark.parametrize("sign", [presign, sign_headers])
@pytest.mark.parametrize(
    ("also_sign", "says"),
    [
        (["authorization"], "carries the signature"),
        (["Connection"], "headers that are given, got 'connection'"),
        (["no name"], "names of letters"),
        ("connection", "a list of names"),
    ],
)
def test_invalid_additional_headers_are_refused(sign, also_sign, says):
    headers = [("Host", "h"), ("Authorization", "secret")]
    with pytest.raises(SigningError, match=says) as caught:
        sign("GET", "/", **{**USUAL, "headers": headers}, also_sign=also_sign)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("sign", [presign, sign_headers])
def test_an_additional_header_is_signed(sign):
    def signature(connection, **options):
        headers = [("Host", "h"), ("Connection", connection)]
        return sign("GET", "/", **{**USUAL, "headers": headers}, **options).signature

    assert signature("a") == signature("b")
    assert signature("a", also_sign={"connection"}) != signature("b", also_sign={"connection"})
    assert signature("a", also_sign={"Connection"}) == signature(" a ", also_sign={"CONNECTION"})


@given(st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)), st.integers(-1_439, 1_439))
def test_a_date_is_formatted_in_utc(time, minutes):
    now = time.replace(tzinfo=timezone(timedelta(minutes=minutes)))
    utc = now.astimezone(UTC)
    stamp = f"{utc.year:04}{utc.month:02}{utc.day:02}T{utc.hour:02}{utc.minute:02}{utc.second:02}Z"
    assert amz_date(now) == amz_date(utc) == stamp
