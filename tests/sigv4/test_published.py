"""The signatures that AWS publishes in its documentation and in its test suite of Signature Version 4."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sigv4 import UNSIGNED_PAYLOAD, Credentials, presign, sign_headers
from sigv4.signing import signing_key, string_to_sign

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
THEN = datetime(2015, 8, 30, 12, 36, tzinfo=UTC)
HOST = ("Host", "example.amazonaws.com")
TOKEN = (
    "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthA"
    "x7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9"
    "q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
)
VANILLA = "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"

SUITE = [
    ("vanilla", "GET", "/", [HOST], b"", VANILLA),
    (
        "vanilla-query-order-key-case",
        "GET",
        "/?Param2=value2&Param1=value1",
        [HOST],
        b"",
        "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
    ),
    (
        "vanilla-empty-query-key",
        "GET",
        "/?Param1=value1",
        [HOST],
        b"",
        "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
    ),
    (
        "header-key-duplicate",
        "GET",
        "/",
        [HOST, ("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")],
        b"",
        "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
    ),
    (
        "header-value-order",
        "GET",
        "/",
        [HOST, *(("My-Header1", f"value{number}") for number in (4, 1, 3, 2))],
        b"",
        "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
    ),
    (
        "header-value-trim",
        "GET",
        "/",
        [HOST, ("My-Header1", " value1"), ("My-Header2", ' "a   b   c"')],
        b"",
        "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
    ),
    (
        "unreserved",
        "GET",
        "/-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
        [HOST],
        b"",
        "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
    ),
    ("utf8", "GET", "/ሴ", [HOST], b"", "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85"),
    (
        "vanilla-utf8-query",
        "GET",
        "/?ሴ=bar",
        [HOST],
        b"",
        "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
    ),
    ("relative", "GET", "/example/..", [HOST], b"", VANILLA),
    ("relative-relative", "GET", "/example1/example2/../..", [HOST], b"", VANILLA),
    ("slash", "GET", "//", [HOST], b"", VANILLA),
    ("slash-dot-slash", "GET", "/./", [HOST], b"", VANILLA),
    (
        "slash-pointless-dot",
        "GET",
        "/./example",
        [HOST],
        b"",
        "ef75d96142cf21edca26f06005da7988e4f8dc83a165a80865db7089db637ec5",
    ),
    (
        "slashes",
        "GET",
        "//example//",
        [HOST],
        b"",
        "9a624bd73a37c9a373b5312afbebe7a714a789de108f0bdfe846570885f57e84",
    ),
    (
        "space",
        "GET",
        "/example space/",
        [HOST],
        b"",
        "652487583200325589f1fba4c7e578f72c47cb61beeca81406b39ddec1366741",
    ),
    (
        "post-vanilla",
        "POST",
        "/",
        [HOST],
        b"",
        "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
    ),
    (
        "post-x-www-form-urlencoded",
        "POST",
        "/",
        [("Content-Type", "application/x-www-form-urlencoded"), HOST],
        b"Param1=value1",
        "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
    ),
]


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "signature"), [case[1:] for case in SUITE], ids=[case[0] for case in SUITE]
)
def test_the_suite_of_aws(method, target, headers, body, signature):
    signed = sign_headers(
        method,
        target,
        headers=headers,
        body=body,
        credentials=Credentials("AKIDEXAMPLE", SECRET),
        region="us-east-1",
        service="service",
        now=THEN,
    )
    assert signed.signature == signature


@pytest.mark.parametrize(
    ("sign_token", "signature"),
    [
        (True, "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"),
        (False, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
    ],
    ids=["post-sts-header-before", "post-sts-header-after"],
)
def test_the_suite_of_aws_with_a_token(sign_token, signature):
    signed = sign_headers(
        "POST",
        "/",
        headers=[HOST],
        credentials=Credentials("AKIDEXAMPLE", SECRET, TOKEN),
        region="us-east-1",
        service="service",
        now=THEN,
        sign_token=sign_token,
    )
    assert signed.signature == signature
    assert ("X-Amz-Security-Token", TOKEN) in signed.headers


def test_the_worked_example_of_the_general_reference_stage_by_stage():
    signed = sign_headers(
        "GET",
        "/?Action=ListUsers&Version=2010-05-08",
        headers={"Host": "iam.amazonaws.com", "Content-Type": "application/x-www-form-urlencoded; charset=utf-8"},
        credentials=Credentials("AKIDEXAMPLE", SECRET),
        region="us-east-1",
        service="iam",
        now=THEN,
    )
    assert signed.canonical_request == (
        "GET\n"
        "/\n"
        "Action=ListUsers&Version=2010-05-08\n"
        "content-type:application/x-www-form-urlencoded; charset=utf-8\n"
        "host:iam.amazonaws.com\n"
        "x-amz-date:20150830T123600Z\n"
        "\n"
        "content-type;host;x-amz-date\n"
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )
    assert signed.string_to_sign == (
        "AWS4-HMAC-SHA256\n"
        "20150830T123600Z\n"
        "20150830/us-east-1/iam/aws4_request\n"
        "f536975d06c0309214f805bb90ccff089219ecd68b2577efef23edd43b7e1a59"
    )
    assert signed.authorization == (
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/iam/aws4_request, "
        "SignedHeaders=content-type;host;x-amz-date, "
        "Signature=5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7"
    )


def test_the_presigned_url_of_the_documentation_of_s3():
    signed = presign(
        "GET",
        "/test.txt",
        headers=[("Host", "examplebucket.s3.amazonaws.com")],
        credentials=Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        region="us-east-1",
        service="s3",
        now=datetime(2013, 5, 24, tzinfo=UTC),
        body_hash=UNSIGNED_PAYLOAD,
        expires=86_400,
        normalize_path=False,
        double_encode=False,
    )
    assert signed.target == (
        "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_the_signed_headers_of_the_documentation_of_s3():
    signed = sign_headers(
        "GET",
        "/test.txt",
        headers={"Host": "examplebucket.s3.amazonaws.com", "Range": "bytes=0-9"},
        credentials=Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        region="us-east-1",
        service="s3",
        now=datetime(2013, 5, 24, tzinfo=UTC),
        content_sha256=True,
    )
    assert signed.signature == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_the_inner_stages_are_the_published_ones():
    key = signing_key(SECRET, "20150830", "us-east-1", "iam")
    assert key.sign("") == _hmac("c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9")
    key = signing_key("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "20120215", "us-east-1", "iam")
    assert key.sign("") == _hmac("f4780e2d9f65fa895f9c67b32ce1baf0b0d8a43505a000a1a9e090d414db404d")
    assert string_to_sign("20150830T123600Z", key.scope, b"").endswith(
        "\n20120215/us-east-1/iam/aws4_request\ne3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    )


def _hmac(key: str) -> str:
    import hmac

    return hmac.digest(bytes.fromhex(key), b"", "sha256").hex()
