"""`explain` names each mistake of a signer; a small separate signer makes them."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sigv4 import Credentials, Explanation, explain, presign_iot_url, sign_headers, verify
from sigv4.mistakes import MISTAKES

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
KEYS = Credentials("AKIDEXAMPLE", SECRET)
TEMPORARY = Credentials("ASIAEXAMPLE", SECRET, "IQoJb3JpZ2lu/token+AAA==")
KNOWN = {keys.access_key: keys for keys in (KEYS, TEMPORARY)}
HOST = "a1b2c3-ats.iot.eu-west-1.amazonaws.com"


def hash_of(data: str | bytes) -> str:
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def chain(secret: str, *parts: str, prefix: str = "AWS4", in_hex: bool = False) -> bytes:
    key = (prefix + secret).encode()
    for part in parts:
        key = hmac.new(key, part.encode(), "sha256").digest()
        key = key.hex().encode() if in_hex else key
    return key


class Client:
    """A client with its own signer. Each attribute is right until a test changes it."""

    def __init__(self, keys: Credentials = KEYS, path: str = "/mqtt", own: tuple[tuple[str, str], ...] = ()) -> None:
        self.keys = keys
        self.secret = keys.secret_key
        self.method = "GET"
        self.path = path
        self.stamp = "20260301T120000Z"
        self.day, self.region, self.service = "20260301", "eu-west-1", "iotdevicegateway"
        self.own = list(own)
        self.sent_host = self.signed_host = HOST
        self.canonical_path = quote(path, safe="/~")
        self.payload = hash_of("")
        self.algorithm = "AWS4-HMAC-SHA256"
        self.signed_names = "host"
        self.expires: str | None = None

    @property
    def scope(self) -> str:
        return f"{self.day}/{self.region}/{self.service}/aws4_request"

    def pairs(self) -> list[tuple[str, str]]:
        auth = [
            ("X-Amz-Algorithm", self.algorithm),
            ("X-Amz-Credential", f"{self.keys.access_key}/{self.scope}"),
            ("X-Amz-Date", self.stamp),
            ("X-Amz-SignedHeaders", self.signed_names),
        ]
        if self.expires is not None:
            auth.insert(3, ("X-Amz-Expires", self.expires))
        return auth + self.own

    def query(self, safe: str = "~") -> str:
        return "&".join(f"{quote(key, safe=safe)}={quote(value, safe=safe)}" for key, value in self.pairs())

    def canonical_query(self) -> str:
        return "&".join(sorted(self.query().split("&")))

    def canonical_headers(self) -> str:
        return f"host:{self.signed_host}\n"

    def canonical_request(self) -> str:
        return "\n".join(
            (
                self.method,
                self.canonical_path,
                self.canonical_query(),
                self.canonical_headers(),
                self.signed_names,
                self.payload,
            )
        )

    def string_to_sign(self) -> str:
        return "\n".join((self.algorithm, self.stamp, self.scope, hash_of(self.canonical_request())))

    def key(self) -> bytes:
        return chain(self.secret, self.day, self.region, self.service, "aws4_request")

    def signature(self) -> str:
        return hmac.new(self.key(), self.string_to_sign().encode(), "sha256").hexdigest()

    def sent_query(self) -> str:
        return self.query()

    def target(self) -> str:
        token = "" if self.keys.token is None else "&X-Amz-Security-Token=" + quote(self.keys.token, safe="")
        return f"{self.path}?{self.sent_query()}&X-Amz-Signature={self.signature()}{token}"

    def explained(self, **options) -> Explanation:
        request = ("GET", options.pop("target", None) or self.target(), [("Host", self.sent_host)])
        options = {"lookup": KNOWN.get, "now": NOW, "region": "eu-west-1", **options}
        explanation = explain(*request, **options)
        assert bool(verify(*request, **options)) == (explanation.code == "none")
        assert str(explanation) == explanation.sentence
        assert "\n" not in explanation.sentence
        return explanation


def test_a_client_without_a_mistake_is_verified():
    for keys in (KEYS, TEMPORARY):
        client = Client(keys, "/a b/%20/mqtt", (("q", "a b"), ("e", ""), ("a", "+/")))
        assert client.explained().code == "none"


# --- mistakes that only the signature shows -------------------------------------------------------------------------


def mistake(function):
    MADE[function.__name__] = function
    return function


MADE = {}


def replaced(method, **attributes):
    """Return a class of clients with one wrong method."""
    return type("Wrong", (Client,), {method.__name__: method, **attributes})


@mistake
def token_signed():
    def canonical_query(self):
        token = "X-Amz-Security-Token=" + quote(self.keys.token, safe="")
        return "&".join(sorted([*self.query().split("&"), token]))

    return replaced(canonical_query)(TEMPORARY)


@mistake
def port_signed():
    client = Client()
    client.signed_host = HOST + ":443"
    return client


@mistake
def port_unsigned():
    client = Client()
    client.sent_host = HOST + ":8443"
    return client


@mistake
def host_case():
    client = Client()
    client.sent_host = HOST.title()
    return client


@mistake
def host_url():
    client = Client()
    client.signed_host = "wss://" + HOST
    return client


@mistake
def path_encoded_once():
    client = Client(path="/a%20b/mqtt")
    client.canonical_path = "/a%20b/mqtt"
    return client


@mistake
def path_encoded_twice():
    client = Client(path="/a%20b/mqtt")
    client.canonical_path = "/a%252520b/mqtt"
    return client


@mistake
def path_not_normalized():
    client = Client(path="/a/../mqtt")
    client.canonical_path = "/a/../mqtt"
    return client


@mistake
def path_decoded():
    client = Client(path="/%E1%88%B4")
    client.canonical_path = "/ሴ"
    return client


@mistake
def path_slash():
    client = Client()
    client.canonical_path = "/mqtt/"
    return client


@mistake
def path_missing():
    client = Client()
    client.canonical_path = "/"
    return client


@mistake
def query_unsorted():
    def canonical_query(self):
        return self.query()

    return replaced(canonical_query)(own=(("B", "1"), ("A", "2")))


@mistake
def query_lower_hex():
    def canonical_query(self):
        query = "&".join(sorted(self.query().split("&")))
        return re.sub("%..", lambda escape: escape[0].lower(), query)

    return replaced(canonical_query)()


@mistake
def query_plus():
    def canonical_query(self):
        return "&".join(sorted(self.query().split("&"))).replace("%20", "+")

    return replaced(canonical_query)(own=(("q", "a b"),))


@mistake
def query_not_encoded():
    def canonical_query(self):
        return "&".join(sorted(f"{key}={value}" for key, value in self.pairs()))

    return replaced(canonical_query)()


@mistake
def query_encoded_twice():
    def canonical_query(self):
        return "&".join(sorted(self.query().split("&"))).replace("%", "%25")

    return replaced(canonical_query)()


@mistake
def query_bare_key():
    def canonical_query(self):
        return "&".join(sorted(pair.removesuffix("=") for pair in self.query().split("&")))

    return replaced(canonical_query)(own=(("debug", ""),))


@mistake
def query_partly():
    def canonical_query(self):
        return "&".join(sorted(pair for pair in self.query().split("&") if pair.startswith("X-Amz-")))

    return replaced(canonical_query)(own=(("debug", "1"),))


@mistake
def query_unsigned():
    def canonical_query(self):
        return ""

    return replaced(canonical_query)()


@mistake
def method():
    client = Client()
    client.method = "POST"
    return client


@mistake
def payload_unsigned():
    client = Client()
    client.payload = "UNSIGNED-PAYLOAD"
    return client


@mistake
def payload_missing():
    client = Client()
    client.payload = ""
    return client


@mistake
def payload_upper_hex():
    client = Client()
    client.payload = client.payload.upper()
    return client


@mistake
def headers_end():
    def canonical_headers(self):
        return f"host:{self.signed_host}"

    return replaced(canonical_headers)()


@mistake
def header_case():
    def canonical_headers(self):
        return f"Host:{self.signed_host}\n"

    return replaced(canonical_headers)()


def keyed(*parts, **options):
    def key(self):
        return chain(self.secret, *parts, **options)

    return replaced(key)()


RIGHT = ("20260301", "eu-west-1", "iotdevicegateway", "aws4_request")


@mistake
def region_in_key():
    return keyed("20260301", "us-east-1", "iotdevicegateway", "aws4_request")


@mistake
def service_in_key():
    return keyed("20260301", "eu-west-1", "iotdata", "aws4_request")


@mistake
def day_in_key():
    return keyed("20260302", *RIGHT[1:])


@mistake
def key_order():
    return keyed("20260301", "iotdevicegateway", "eu-west-1", "aws4_request")


@mistake
def key_end():
    return keyed(*RIGHT[:3])


@mistake
def key_in_hex():
    return keyed(*RIGHT, in_hex=True)


@mistake
def key_prefix():
    return keyed(*RIGHT, prefix="")


@mistake
def secret_whitespace():
    client = Client()
    client.secret += "\n"
    return client


@mistake
def secret_escaped():
    client = Client()
    client.secret = quote(client.secret, safe="")
    return client


@mistake
def scope_in_string():
    def string_to_sign(self):
        scope = f"{self.keys.access_key}/{self.scope}"
        return "\n".join((self.algorithm, self.stamp, scope, hash_of(self.canonical_request())))

    return replaced(string_to_sign)()


@mistake
def hash_upper_hex():
    def string_to_sign(self):
        return "\n".join((self.algorithm, self.stamp, self.scope, hash_of(self.canonical_request()).upper()))

    return replaced(string_to_sign)()


@mistake
def hash_missing():
    def string_to_sign(self):
        return "\n".join((self.algorithm, self.stamp, self.scope, self.canonical_request()))

    return replaced(string_to_sign)()


@mistake
def line_ends():
    def string_to_sign(self):
        digest = hash_of(self.canonical_request().replace("\n", "\r\n"))
        return "\r\n".join((self.algorithm, self.stamp, self.scope, digest))

    return replaced(string_to_sign)()


@mistake
def wrong_secret():
    client = Client()
    client.secret = "not/the/secret"
    return client


@pytest.mark.parametrize("code", MADE)
def test_a_mistake_is_named(code):
    assert MADE[code]().explained().code == code


@pytest.mark.parametrize(
    ("code", "detail"),
    [
        ("port_signed", "port 443"),
        ("region_in_key", "us-east-1"),
        ("service_in_key", "iotdata"),
        ("day_in_key", "20260302"),
        ("method", "POST"),
    ],
)
def test_the_explanation_names_the_detail(code, detail):
    assert detail in MADE[code]().explained().sentence


# --- mistakes that need another verifier ----------------------------------------------------------------------------


def test_a_token_left_unsigned_although_required():
    assert Client(TEMPORARY).explained(sign_token=True).code == "token_unsigned"


def test_a_path_normalised_although_forbidden():
    client = Client(path="/a/../mqtt")
    client.canonical_path = "/mqtt"
    assert client.explained(normalize_path=False).code == "path_normalized"


def test_a_path_encoded_for_a_service_that_does_not_encode_it():
    assert Client(path="/a%20b").explained(double_encode=False).code == "path_encoded_twice"


def with_a_body(sent_hash: str, **headers: str) -> str:
    signed = sign_headers(
        "POST",
        "/",
        headers={"Host": HOST, **headers},
        body_hash=sent_hash,
        content_sha256=True,
        credentials=KEYS,
        region="eu-west-1",
        service="sts",
        now=NOW,
    )
    return explain("POST", "/", signed.headers, hash_of("the body"), lookup=KNOWN.get, now=NOW, services=("sts",)).code


def test_hashes_of_another_body():
    assert with_a_body(hash_of("the body")) == "none"
    assert with_a_body(hash_of("")) == "payload_empty"
    assert with_a_body("UNSIGNED-PAYLOAD") == "payload_unsigned"
    assert with_a_body(hash_of("another body")) == "payload_hash"


def test_every_row_of_the_table_is_made_in_a_test():
    made_above = {"token_unsigned", "path_normalized", "payload_empty", "payload_hash"}
    assert {mistake.code for mistake in MISTAKES} == (MADE.keys() - {"wrong_secret"}) | made_above
    assert len(MISTAKES) >= 20


# --- mistakes that the request shows --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (3600, "+1 h is a time zone's offset"),
        (-5 * 3600 + 30, "-5 h is a time zone's offset"),
        (5.5 * 3600, "+5.5 h is a time zone's offset"),
        (1000, "16 min 40 s ahead"),
        (-86_400 * 3, "3 d behind"),
    ],
)
def test_a_wrong_clock_is_named(seconds, says):
    then = NOW + timedelta(seconds=seconds)
    client = Client()
    client.stamp, client.day = f"{then:%Y%m%dT%H%M%SZ}", f"{then:%Y%m%d}"
    explanation = client.explained()
    assert explanation.code == "clock"
    assert says in explanation.sentence


def client_with(**attributes) -> Client:
    client = Client()
    for name, value in attributes.items():
        setattr(client, name, value)
    return client


@pytest.mark.parametrize(
    ("client", "code"),
    [
        (client_with(region="us-east-1"), "region"),
        (client_with(service="s3"), "service"),
        (client_with(day="20260228"), "scope_day"),
        (client_with(algorithm="AWS4-HMAC-SHA1"), "algorithm"),
        (client_with(stamp="2026-03-01T12:00:00Z"), "date"),
        (client_with(expires="0"), "expires"),
        (client_with(expires="60", stamp="20260301T115500Z"), "expired"),
        (client_with(signed_names="Host"), "signed_headers_case"),
        (client_with(signed_names="host;accept"), "signed_headers_order"),
        (client_with(signed_names="connection"), "host_unsigned"),
        (client_with(signed_names="connection;host"), "header_absent"),
        (client_with(keys=Credentials("UNKNOWN", SECRET)), "unknown_key"),
        (client_with(keys=Credentials("a" * 40, SECRET)), "keys_swapped"),
        (client_with(keys=Credentials(TEMPORARY.access_key, SECRET)), "token_missing"),
        (client_with(keys=Credentials(TEMPORARY.access_key, SECRET, "other")), "token_wrong"),
        (client_with(keys=Credentials(KEYS.access_key, SECRET, "other")), "token_unexpected"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_visible_in_the_request_is_named(client, code):
    assert client.explained().code == code


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda target: target.partition("?")[0], "unsigned"),
        (
            lambda target: target.replace("&", "&amp;").replace("?X-Amz-Algorithm", "?v=1&amp;X-Amz-Algorithm"),
            "unsigned",
        ),
        (lambda target: target.partition("?")[0] + "?" + quote(target.partition("?")[2], safe=""), "unsigned"),
        (lambda target: target.replace("%2F", "%252F"), "encoded_twice"),
        (lambda target: target.replace("X-Amz-", "x-amz-"), "name_case"),
        (lambda target: target + "&X-Amz-Date=20260301T120000Z", "duplicate"),
        (lambda target: target[:-64] + target[-64:].upper(), "signature_case"),
        (lambda target: target[:-64] + base64.b64encode(bytes(32)).decode(), "signature_base64"),
        (lambda target: target[:-2], "signature_form"),
        (lambda target: target[: target.index("&X-Amz-Signature")], "incomplete"),
    ],
)
def test_a_changed_target_is_named(change, code):
    client = Client()
    assert client.explained(target=change(client.target())).code == code


def test_html_is_recognised():
    target = Client().target()
    mangled = target.replace("?", "?v=1&").replace("&", "&amp;")
    assert "HTML" in Client().explained(target=mangled).sentence


def test_quotes_around_an_access_key_are_recognised():
    client = client_with(keys=Credentials("'AKIDEXAMPLE'", SECRET))
    assert "quotes around it" in client.explained().sentence


# --- any input ------------------------------------------------------------------------------------------------------

junk = st.text(max_size=30) | st.binary(max_size=30) | st.none() | st.integers()


@given(junk, junk, junk | st.lists(st.tuples(junk, junk), max_size=3))
@settings(max_examples=200)
def test_it_never_raises(method, target, headers):
    explanation = explain(method, target, headers, lookup=KNOWN.get, now=NOW)
    assert explanation.code != "none"
    assert explanation.sentence


@given(st.text("abc/+", max_size=10), st.sampled_from([KEYS, TEMPORARY]))
@settings(max_examples=100)
def test_a_wrong_secret_is_never_explained_as_another_mistake(more, credentials):
    wrong = Credentials(credentials.access_key, f"qX9zq{more}", credentials.token)
    url = presign_iot_url(f"wss://{HOST}/mqtt", wrong, now=NOW)
    target = "/mqtt?" + url.partition("?")[2]
    explanation = explain("GET", target, [("Host", HOST)], lookup=KNOWN.get, now=NOW)
    assert explanation.code == "wrong_secret"
    for secret in (credentials.secret_key, wrong.secret_key, credentials.token or "no token", target[-64:]):
        assert secret not in explanation.sentence


def test_headers_that_can_be_read_only_once_are_read_once():
    client = Client()
    assert explain("GET", client.target(), iter([("Host", HOST)]), lookup=KNOWN.get, now=NOW).code == "none"
