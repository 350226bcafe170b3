"""`verify` accepts exactly the requests that the signers sign, and never raises for any request."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from unittest import mock
from urllib.parse import unquote_to_bytes, urlsplit

import botocore.auth
import pytest
from awscrt import auth, http
from AWSIoTPythonSDK.core.protocol.connection.cores import SigV4Core
from botocore.awsrequest import AWSRequest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigv4 import Credentials, Rejected, Verified, presign, presign_iot_url, sign_headers, verify

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
KEYS = Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
TEMPORARY = Credentials("ASIAEXAMPLE", "another/secret", "IQoJb3JpZ2lu/token+AAA==")
KNOWN = {keys.access_key: keys for keys in (KEYS, TEMPORARY)}
HOST = "a1b2c3-ats.iot.eu-west-1.amazonaws.com"
ENDPOINT = f"wss://{HOST}/mqtt"


def judge(target, *, method="GET", headers=(("Host", HOST),), **options):
    return verify(method, target, headers, **{"lookup": KNOWN.get, "now": NOW, "region": "eu-west-1", **options})


def target_of(url: str) -> str:
    split = urlsplit(str(url))
    return f"{split.path}?{split.query}"


def iot_target(credentials=KEYS, **options) -> str:
    return target_of(presign_iot_url(ENDPOINT, credentials, **{"now": NOW, **options}))


# --- accepted ---------------------------------------------------------------------------------------------------------


def test_a_verified_request_has_its_principal_scope_and_expiry():
    answer = judge(iot_target(TEMPORARY, expires=60))
    assert answer
    assert isinstance(answer, Verified)
    assert answer.access_key == "ASIAEXAMPLE"
    assert (answer.region, answer.service) == ("eu-west-1", "iotdevicegateway")
    assert (answer.date, answer.valid_until) == (NOW, NOW + timedelta(seconds=60))
    assert answer.signed_headers == ("host",)
    assert len(answer.fingerprint) == 64
    assert answer.fingerprint not in iot_target(TEMPORARY, expires=60)


def test_the_sdk_v2_signs_connection_and_host():
    config = auth.AwsSigningConfig(
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_QUERY_PARAMS,
        credentials_provider=auth.AwsCredentialsProvider.new_static(
            TEMPORARY.access_key, TEMPORARY.secret_key, TEMPORARY.token
        ),
        region="eu-west-1",
        service="iotdevicegateway",
        date=NOW,
        omit_session_token=True,
    )
    headers = [
        ("Host", HOST),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "mqtt"),
    ]
    signed = auth.aws_sign_request(http.HttpRequest("GET", "/mqtt", http.HttpHeaders(headers)), config).result(30)
    answer = judge(signed.path, headers=headers)
    assert isinstance(answer, Verified)
    assert answer.signed_headers == ("connection", "host")


def test_the_sdk_v1_signs_iotdata_for_a_day():
    class Core(SigV4Core):
        def _createAmazonDate(self):
            return ["20260301", "20260301T120000Z"]

    core = Core()
    core.setIAMCredentials(TEMPORARY.access_key, TEMPORARY.secret_key, TEMPORARY.token)
    target = target_of(core.createWebsocketEndpoint(HOST, 443, "eu-west-1", "GET", "iotdata", "/mqtt"))
    for later in (0, 3600, 86_400):
        assert judge(target, now=NOW + timedelta(seconds=later))
    assert judge(target, now=NOW + timedelta(seconds=86_401)).code == "expired"


def test_the_token_is_found_anywhere_in_the_query():
    path, _, query = iot_target(TEMPORARY).partition("?")
    pairs = query.split("&")
    token = pairs.pop()
    assert token.startswith("X-Amz-Security-Token=")
    for place in range(len(pairs) + 1):
        assert judge(path + "?" + "&".join([*pairs[:place], token, *pairs[place:]]))


def test_headers_and_targets_may_be_bytes():
    assert verify(
        b"GET", iot_target().encode(), [(b"host", HOST.encode())], lookup=KNOWN.get, now=NOW, region="eu-west-1"
    )
    assert judge(iot_target(), headers={"HOST": f"  {HOST} "})


@pytest.mark.parametrize("sign_token", [True, False])
@pytest.mark.parametrize("content_sha256", [True, False])
def test_signed_headers_are_verified_with_the_bodys_hash(sign_token, content_sha256):
    body, options = b'{"a": 1}', {"services": ("sts",)}
    signed = sign_headers(
        "POST",
        "/a%20b/../c d?q=+&ü",
        headers=[("Host", "sts.example"), ("X-Custom", "a  b"), ("x-custom", "c"), ("Connection", "close")],
        body=body,
        credentials=TEMPORARY,
        region="eu-west-1",
        service="sts",
        now=NOW,
        sign_token=sign_token,
        content_sha256=content_sha256,
    )
    body_hash = signed.canonical_request.rpartition("\n")[2]
    request = {"method": "POST", "headers": signed.headers, **options}
    assert judge("/a%20b/../c d?q=+&ü", body_hash=body_hash, **request)
    assert judge("/a%20b/../c d?q=+&ü", **request).code == "signature"
    without = [pair for pair in signed.headers if pair[0] != "X-Custom"]
    assert judge("/a%20b/../c d?q=+&ü", body_hash=body_hash, **{**request, "headers": without}).code == "signature"


def test_botocore_sends_a_space_as_plus_and_signs_it_as_an_escape():
    wire = AWSRequest("GET", f"https://{HOST}/mqtt", params={"a": "b c", "d": "e+f"})
    signer = botocore.auth.SigV4QueryAuth(KEYS, "iotdata", "eu-west-1", expires=60)
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        signer.add_auth(wire)
    sent = wire.prepare().url.replace("%20", "+")
    assert "a=b+c" in sent
    assert "d=e%2Bf" in sent
    assert judge(target_of(sent))
    assert judge(target_of(sent.replace("+", "%20")))
    assert not judge(target_of(sent.replace("a=b+c", "a=b%2Bc")))
    assert judge(target_of(sent.replace("d=e%2Bf", "d=e+f"))).code == "signature"


def test_botocore_with_headers_sends_a_space_as_plus_too():
    wire = AWSRequest("GET", f"https://{HOST}/mqtt", params={"a b": "c d"})
    with mock.patch.object(botocore.auth, "get_current_datetime", return_value=NOW.replace(tzinfo=None)):
        botocore.auth.SigV4Auth(KEYS, "iotdata", "eu-west-1").add_auth(wire)
    prepared = wire.prepare()
    target = target_of(prepared.url)
    assert target == "/mqtt?a+b=c+d"
    headers = [("Host", HOST), *((name, _text(value)) for name, value in prepared.headers.items())]
    assert judge(target, headers=headers)
    assert not judge(target.replace("c+d", "c%2Bd"), headers=headers)


def _text(value: str | bytes) -> str:
    return value if isinstance(value, str) else value.decode()


def test_the_c_library_signs_plus_as_a_plus_sign_and_is_accepted():
    config = auth.AwsSigningConfig(
        signature_type=auth.AwsSignatureType.HTTP_REQUEST_HEADERS,
        credentials_provider=auth.AwsCredentialsProvider.new_static(KEYS.access_key, KEYS.secret_key),
        region="eu-west-1",
        service="iotdata",
        date=NOW,
    )
    request = http.HttpRequest("GET", "/mqtt?a=b+c", http.HttpHeaders([("Host", HOST)]))
    signed = auth.aws_sign_request(request, config).result(30)
    assert judge(signed.path, headers=list(signed.headers))


def test_a_token_that_was_not_encoded_is_refused_with_that_reason():
    target = iot_target(TEMPORARY).replace("%2B", "+")
    assert "+AAA" in target
    answer = judge(target)
    assert answer.code == "token_wrong"
    assert "%2B" in answer.reason


@given(
    st.sampled_from([KEYS, TEMPORARY]),
    st.text("ab/.%+ é~&=?", max_size=12).map(lambda text: "/" + text),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.none() | st.integers(1, 604_800),
    st.integers(-300, 300),
)
@settings(max_examples=300)
def test_everything_that_presign_signs_is_accepted(
    credentials, target, sign_token, normalize_path, double_encode, expires, late
):
    how = {"sign_token": sign_token, "normalize_path": normalize_path, "double_encode": double_encode}
    signed = presign(
        "GET",
        target,
        headers=[("Host", HOST), ("Origin", " a  b ")],
        credentials=credentials,
        region="eu-west-1",
        service="iotdata",
        now=NOW,
        expires=expires,
        **how,
    )
    now = NOW + timedelta(seconds=min(late, expires or late))
    assert judge(signed.target, headers=[("Host", HOST), ("origin", "a b")], now=now, **how)


# --- every change of one character ----------------------------------------------------------------------------------
#
# The rule: a changed target is accepted if and only if it has the same meaning. The meaning is computed here in another
# way than in `sigv4`.


def meaning(target: str):
    if target[:1] != "/" or "#" in target:
        return None
    path, _, query = target.partition("?")
    segments: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            segments = segments[:-1]
        elif segment not in ("", "."):
            segments.append(segment)
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return (
        segments,
        path.endswith("/"),
        sorted((unquote_to_bytes(key), unquote_to_bytes(value)) for key, _, value in pairs),
    )


def changes_of(target: str):
    """Yield every deletion, doubling and swap of neighbours, and replacements and insertions of special characters."""
    telling = "0aAzZ/%&=.+~-_ ?#;:ü\0"
    for index, char in enumerate(target):
        yield target[:index] + target[index + 1 :]
        yield target[:index] + char + target[index:]
        yield target[:index] + char.swapcase() + target[index + 1 :]
        for other in telling:
            yield target[:index] + other + target[index + 1 :]
            yield target[:index] + other + target[index:]


SIGNED = {
    "long-term": iot_target(),
    "temporary": iot_target(TEMPORARY),
    "expiring": iot_target(TEMPORARY, expires=60, service="iotdata"),
    "with a query": target_of(presign_iot_url(ENDPOINT + "/?b=1&a=%2F&a&%C3%BC=+", TEMPORARY, now=NOW)),
}


@pytest.mark.parametrize("target", SIGNED.values(), ids=SIGNED.keys())
def test_every_change_of_one_character_is_refused_unless_it_means_the_same(target):
    same, tried, let_in = meaning(target), 0, 0
    assert judge(target)
    for changed in changes_of(target):
        if changed != target:
            tried += 1
            answer = bool(judge(changed))
            assert answer == (meaning(changed) == same), changed
            let_in += answer
    assert tried > 10_000
    assert 0 < let_in < 100  # lower-case escapes, empty pairs, doubled slashes


@pytest.mark.parametrize(
    ("spelling", "let_in"),
    [
        (lambda target: target.replace("%2F", "%2f"), True),
        (lambda target: target.replace("%2F", "/"), True),
        (lambda target: target.replace("host", "%68ost"), True),
        (lambda target: target.replace("?", "?&").replace("&", "&&"), True),
        (lambda target: "?".join((target.split("?")[0], "&".join(reversed(target.split("?")[1].split("&"))))), True),
        (lambda target: "/." + target, True),
        (lambda target: "/x/.." + target, True),
        (lambda target: target.replace("/mqtt", "/%6Dqtt"), False),
        (lambda target: target.replace("/mqtt", "/mqtt/"), False),
        (lambda target: target.replace("X-Amz-Date", "x-amz-date"), False),
        (lambda target: target[: target.index("Signature=")] + target[target.index("Signature=") :].upper(), False),
        (lambda target: target.replace("%2F", "%252F"), False),
    ],
)
def test_the_rule_in_examples(spelling, let_in):
    changed = spelling(SIGNED["long-term"])
    assert changed != SIGNED["long-term"]
    assert bool(judge(changed)) is let_in


def test_a_random_flip_of_any_signed_thing_is_refused():
    rng = random.Random(4)
    headers = {"Host": HOST, "Origin": "https://app.example", "X-Amz-Meta": "value"}
    signed = sign_headers(
        "GET", "/mqtt", headers=headers, credentials=TEMPORARY, region="eu-west-1", service="iotdata", now=NOW
    )
    for _ in range(2_000):
        changed = list(signed.headers)
        index = rng.randrange(len(changed))
        name, value = changed[index]
        at = rng.randrange(len(value))
        flipped = chr(ord(value[at]) ^ rng.choice((1, 2, 4)))
        changed[index] = (name, value[:at] + flipped + value[at + 1 :])
        if changed[index][1].split() != value.split():
            assert not judge("/mqtt", headers=changed)


# --- refusals and their reasons -------------------------------------------------------------------------------------


def refusal(target=None, **options) -> str:
    answer = judge(iot_target() if target is None else target, **options)
    assert isinstance(answer, Rejected)
    assert not answer
    assert answer.reason
    return answer.code


def edited(old: str, new: str, credentials=KEYS, **options) -> str:
    target = iot_target(credentials, **options)
    assert old in target
    return target.replace(old, new)


def test_a_clock_beyond_the_skew():
    for seconds in (-300, 300):
        assert judge(iot_target(), now=NOW + timedelta(seconds=seconds))
    assert refusal(now=NOW - timedelta(seconds=301)) == "clock"
    assert refusal(now=NOW + timedelta(seconds=301)) == "clock"
    assert refusal(now=NOW + timedelta(seconds=11), skew=10) == "clock"
    assert "1 h 0 min" not in judge(iot_target(), now=NOW - timedelta(hours=1)).reason
    assert "1 h ahead of the server's clock" in judge(iot_target(), now=NOW - timedelta(hours=1)).reason
    assert "1 d 1 h 1 min 1 s behind" in judge(iot_target(), now=NOW + timedelta(seconds=90_061)).reason


@pytest.mark.parametrize("skew", [math.inf, 1e300, 1e12])
def test_a_skew_beyond_the_calendar(skew):
    end = datetime.max.replace(tzinfo=UTC)
    for year in (1, 2026, 9999):
        answer = judge(iot_target(), now=datetime(year, 6, 1, tzinfo=UTC), skew=skew)
        assert answer
        assert answer.valid_until == end
        limited = judge(iot_target(), now=NOW + timedelta(seconds=300), skew=skew, longest=300)
        assert limited.valid_until == NOW + timedelta(seconds=300)
    assert judge(iot_target(), skew=300, longest=math.inf).valid_until == NOW + timedelta(seconds=300)
    assert refusal(iot_target(expires=60), now=NOW + timedelta(seconds=61), skew=skew) == "expired"


def test_an_expired_request():
    target = iot_target(expires=60)
    assert judge(target, now=NOW + timedelta(seconds=60))
    assert refusal(target, now=NOW + timedelta(seconds=61)) == "expired"
    assert refusal(target, now=NOW - timedelta(seconds=301)) == "clock"


def test_another_region_or_service():
    assert refusal(region="us-east-1") == "region"
    assert refusal(iot_target(service="s3")) == "service"
    assert judge(iot_target(service="s3"), services=None, region=None)


def test_unknown_or_expired_keys():
    assert refusal(lookup={}.get) == "unknown_key"
    assert refusal(lookup={}.__getitem__) == "unknown_key"
    ended = Credentials(KEYS.access_key, KEYS.secret_key, expires_at=NOW)
    assert refusal(lookup=lambda key: ended) == "credentials_expired"
    alive = Credentials(KEYS.access_key, KEYS.secret_key, expires_at=NOW + timedelta(seconds=1))
    assert judge(iot_target(), lookup=lambda key: alive)


def test_wrong_tokens():
    token = TEMPORARY.token
    assert refusal(iot_target(Credentials(TEMPORARY.access_key, TEMPORARY.secret_key))) == "token_missing"
    wrong = Credentials(TEMPORARY.access_key, TEMPORARY.secret_key, token[::-1])
    assert refusal(iot_target(wrong)) == "token_wrong"
    assert refusal(iot_target(Credentials(KEYS.access_key, KEYS.secret_key, token))) == "token_unexpected"


def test_another_secret_method_host_or_path():
    assert refusal(iot_target(Credentials(KEYS.access_key, "wrong"))) == "signature"
    assert refusal(method="POST") == "signature"
    assert refusal(headers=[("Host", "b" + HOST)]) == "signature"
    assert refusal(headers=[("Host", HOST + ":443")]) == "signature"
    assert refusal(edited("/mqtt?", "/other?")) == "signature"


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256", "X-Amz-Algorithm=AWS4-HMAC-SHA1", "algorithm"),
        ("X-Amz-Algorithm=AWS4-HMAC-SHA256&", "", "incomplete"),
        ("&X-Amz-SignedHeaders=host", "", "incomplete"),
        ("&X-Amz-Signature=", "&Signature=", "incomplete"),
        ("X-Amz-Date=", "x-amz-date=", "name_case"),
        ("&X-Amz-Date=", "&X-Amz-Date=20260301T120000Z&X-Amz-Date=", "duplicate"),
        ("&X-Amz-Date=", "&X-Amz-Date=x&X%2DAmz-Date=", "duplicate"),
        ("X-Amz-Date=20260301T", "X-Amz-Date=20260231T", "date"),
        ("X-Amz-Date=20260301T", "X-Amz-Date=2026-03-01T", "date"),
        ("X-Amz-Date=20260301T1", "X-Amz-Date=20260301T٣", "date"),
        ("%2F20260301%2F", "%2F20260228%2F", "scope_day"),
        ("aws4_request", "aws4_requests", "terminator"),
        ("%2Faws4_request", "", "credential"),
        ("%2Fiotdevicegateway%2F", "%2F%2F", "credential"),
        ("%2F", "%252F", "encoded_twice"),
        ("SignedHeaders=host", "SignedHeaders=origin", "host_unsigned"),
        ("SignedHeaders=host", "SignedHeaders=", "host_unsigned"),
        ("SignedHeaders=host", "SignedHeaders=Host", "signed_headers_case"),
        ("SignedHeaders=host", "SignedHeaders=host%3Bhost", "signed_headers_order"),
        ("SignedHeaders=host", "SignedHeaders=host%3Baccept", "signed_headers_order"),
        ("SignedHeaders=host", "SignedHeaders=host%3Borigin", "header_absent"),
        ("&X-Amz-SignedHeaders", "&X-Amz-Expires=0&X-Amz-SignedHeaders", "expires"),
        ("&X-Amz-SignedHeaders", "&X-Amz-Expires=604801&X-Amz-SignedHeaders", "expires"),
        ("&X-Amz-SignedHeaders", "&X-Amz-Expires=1e3&X-Amz-SignedHeaders", "expires"),
        ("/mqtt?", "mqtt?", "malformed"),
        ("/mqtt?", "/mqtt#?", "malformed"),
    ],
)
def test_malformed_parameters(old, new, code):
    assert refusal(edited(old, new)) == code


def test_a_malformed_signature():
    target = iot_target()
    start = target[:-64]
    assert refusal(start + target[-64:].upper()) == "signature_case"
    assert refusal(start + "A" * 43 + "=") == "signature_base64"
    assert refusal(target[:-1]) == "signature_form"
    assert refusal(start + "٣" * 64) == "signature_form"


def test_a_request_without_a_signature_or_with_two():
    assert refusal("/mqtt") == "unsigned"
    assert refusal("/mqtt?a=b") == "unsigned"
    assert refusal("/mqtt?X-Amz-Security-Token=abc") == "unsigned"
    assert refusal("/mqtt", headers=[("Host", HOST), ("Authorization", "Basic abc")]) == "unsigned"
    signed = sign_headers(
        "GET",
        "/mqtt",
        headers={"Host": HOST},
        credentials=KEYS,
        region="eu-west-1",
        service="iotdata",
        now=NOW,
    )
    assert judge("/mqtt", headers=signed.headers)
    assert refusal(headers=signed.headers) == "two_signatures"
    for broken in ("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA256 Credential", "AWS4-HMAC-SHA256 Credential=a, Other=b"):
        assert refusal("/mqtt", headers={"Host": HOST, "Authorization": broken}) == "malformed"
    twice = signed.authorization.replace("Credential=", "Credential=a, Credential=")
    assert refusal("/mqtt", headers={"Host": HOST, "Authorization": twice}) == "duplicate"
    doubled = [*signed.headers, signed.headers[-1]]
    assert refusal("/mqtt", headers=doubled) == "malformed"
    assert refusal("/mqtt", headers=[*signed.headers, ("X-Amz-Added", "1")]) == "header_unsigned"
    assert refusal("/mqtt", headers=[*signed.headers, ("X-Amz-Date", "1")]) == "date"


def test_two_hosts_are_refused():
    assert refusal(headers=[("Host", HOST), ("Host", "attacker.net")]) == "signature"


# --- any input ------------------------------------------------------------------------------------------------------

junk_text = st.text(max_size=40) | st.text("X-Amzignature=&%/?;:20Z", max_size=60)
wire_text = junk_text | st.binary(max_size=40)
parameter = st.sampled_from(
    [pair.partition("=")[0] for pair in SIGNED["expiring"].partition("?")[2].split("&")] + ["x-amz-date", "a", ""]
)
good_values = [pair.partition("=")[2] for pair in SIGNED["expiring"].partition("?")[2].split("&")]
junk_queries = st.lists(st.tuples(parameter, st.sampled_from(good_values) | junk_text).map("=".join), max_size=9).map(
    lambda pairs: "/mqtt?" + "&".join(pairs)
)
token_names = st.text("abcdefgXYZ-", min_size=1, max_size=10) | st.sampled_from(["Authorization", "Host", "X-Amz-Date"])
junk_headers = st.lists(st.tuples(token_names, junk_text | st.just("AWS4-HMAC-SHA256 Credential=a/b")), max_size=4)


@given(wire_text, wire_text | junk_queries, junk_headers | st.lists(st.tuples(wire_text, wire_text), max_size=3))
@settings(max_examples=800)
def test_no_request_causes_an_exception_or_an_internal_error(method, target, headers):
    answer = judge(target, method=method, headers=headers)
    assert isinstance(answer, Rejected)
    assert answer.code != "setup"  # refused for a reason, not by an internal error


anything = st.one_of(
    st.none(),
    st.integers(),
    st.floats(),
    junk_text,
    st.binary(),
    st.lists(st.integers()),
    st.just(object),
    st.booleans(),
)


@given(anything, anything, anything, anything, anything, anything, anything, anything, anything)
@settings(max_examples=300)
def test_no_argument_causes_an_exception(method, target, headers, body_hash, lookup, now, skew, services, region):
    assert not verify(
        method, target, headers, body_hash, lookup=lookup, now=now, skew=skew, services=services, region=region
    )


@pytest.mark.parametrize(
    "setup",
    [
        {"now": NOW.replace(tzinfo=None)},
        {"lookup": lambda key: 1 / 0},
        {"lookup": lambda key: "secret"},
        {"lookup": None},
        {"skew": "300"},
        *({name: value} for name in ("skew", "longest") for value in (math.nan, -1, -math.inf)),
        {"services": 1},
    ],
)
@pytest.mark.parametrize("expires", [None, 60])
def test_a_misconfigured_verifier_refuses_everything_and_says_so(setup, expires):
    assert refusal(iot_target(expires=expires), **setup) == "setup"


def test_a_misconfigured_time_is_named():
    assert "skew is nan; it must be 0 or more seconds" in judge(iot_target(), skew=math.nan).reason


@pytest.mark.parametrize("year", ["0001", "9999"])
def test_the_ends_of_the_calendar(year):
    target = iot_target(expires=604_800).replace("20260301", f"{year}0101")
    assert refusal(target) in ("clock", "expired")
