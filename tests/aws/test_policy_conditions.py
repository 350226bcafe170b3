"""Policy conditions: each operator, each qualifier, and absent keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.aws.local.policy_conditions import Condition


def holds(name: str, written: list[str], seen: list[str], *, granting: bool = True, **others: str) -> bool:
    keys = {"a:key": tuple(seen)} | {f"a:{key}": (value,) for key, value in others.items()}
    return Condition.parse(name, "A:Key", written, variables=True).holds(keys, granting=granting)


ARN = "arn:aws:iot:eu-west-1:123456789012:topic/chat/x"


@pytest.mark.parametrize(
    ("name", "written", "seen", "expected"),
    [
        ("StringEquals", ["a"], "a", True),
        ("StringEquals", ["a"], "A", False),
        ("StringEquals", ["b", "a"], "a", True),
        ("StringEquals", ["*"], "a", False),
        ("StringEquals", ["${*}"], "*", True),
        ("stringequals", ["a"], "a", True),
        ("StringNotEquals", ["a"], "b", True),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringEqualsIgnoreCase", ["Straße"], "STRASSE", True),
        ("StringNotEqualsIgnoreCase", ["a"], "A", False),
        ("StringLike", ["a*z"], "abcz", True),
        ("StringLike", ["a${*}z"], "abcz", False),
        ("StringNotLike", ["a*"], "b", True),
        ("StringNotLike", ["a*"], "ab", False),
        ("NumericEquals", ["1.0"], "1", True),
        ("NumericEquals", ["1"], "one", False),
        ("NumericNotEquals", ["1"], "2", True),
        ("NumericLessThan", ["10"], "9", True),
        ("NumericLessThan", ["10"], "10", False),
        ("NumericLessThanEquals", ["10"], "10", True),
        ("NumericGreaterThan", ["10"], "10.5", True),
        ("NumericGreaterThan", ["10"], "10", False),
        ("NumericGreaterThanEquals", ["10"], "10", True),
        ("DateEquals", ["2026-01-31T12:00:00Z"], "2026-01-31T13:00:00+01:00", True),
        ("DateEquals", ["1769860800"], "2026-01-31T12:00:00Z", True),
        ("DateNotEquals", ["2026-01-31"], "2026-01-31T00:00:01Z", True),
        ("DateLessThan", ["2026-02"], "2026-01-31T23:59:59Z", True),
        ("DateLessThan", ["2026"], "2025-12-31T23:59:59Z", True),
        ("DateLessThan", ["2026"], "2026-01-01T00:00:00Z", False),
        ("DateLessThanEquals", ["2026-01-01"], "2026-01-01T00:00:00Z", True),
        ("DateGreaterThan", ["2026-01-31"], "2026-01-31T00:00:00.5Z", True),
        ("DateGreaterThanEquals", ["2026-01-31T12:00:00"], "2026-01-31T12:00:00Z", True),
        ("Bool", ["true"], "true", True),
        ("Bool", ["TRUE"], "true", True),
        ("Bool", ["true"], "false", False),
        ("Bool", ["true"], "perhaps", False),
        ("BinaryEquals", ["aGVsbG8="], "aGVsbG8=", True),
        ("BinaryEquals", ["aGVsbG8="], "aGVsbA==", False),
        ("IpAddress", ["203.0.113.0/24"], "203.0.113.9", True),
        ("IpAddress", ["203.0.113.0/24"], "203.0.114.9", False),
        ("IpAddress", ["203.0.113.9"], "203.0.113.9", True),
        ("IpAddress", ["203.0.113.0/24"], "::ffff:203.0.113.9", True),
        ("IpAddress", ["203.0.113.0/24"], "2001:db8::1", False),
        ("IpAddress", ["2001:db8::/32"], "2001:db8:1::1", True),
        ("IpAddress", ["10.0.0.0/8", "2001:db8::/32"], "10.1.1.1", True),
        ("IpAddress", ["10.0.0.0/8"], "nowhere", False),
        ("NotIpAddress", ["10.0.0.0/8"], "10.1.1.1", False),
        ("NotIpAddress", ["10.0.0.0/8"], "11.1.1.1", True),
        ("ArnEquals", [ARN], ARN, True),
        ("ArnEquals", ["arn:aws:iot:*:*:topic/chat/?"], ARN, True),
        ("ArnLike", ["arn:*:topic/chat/x:*:*:*"], ARN, False),
        ("ArnLike", ["arn:aws:iot:*:*:topic/*"], "arn:aws:iot:eu-west-1:1:2:topic/x", False),
        ("ArnLike", ["arn:aws:iot:*:*:topic/*"], "topic/x", False),
        ("ArnNotEquals", [ARN], ARN, False),
        ("ArnNotLike", ["arn:aws:iot:us-*:*:*"], ARN, True),
        ("Null", ["true"], "a", False),
        ("Null", ["false"], "a", True),
    ],
)
def test_operators(name: str, written: list[str], seen: str, expected: bool) -> None:
    assert holds(name, written, [seen]) is expected


POSITIVE = ["StringEquals", "StringLike", "StringEqualsIgnoreCase"]
NEGATIVE = ["StringNotEquals", "StringNotLike", "StringNotEqualsIgnoreCase"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, False) for name in [*POSITIVE, "Bool", "NumericEquals", "DateLessThan", "IpAddress"]),
        *((name, True) for name in [*NEGATIVE, "NumericNotEquals", "NotIpAddress"]),
        *((f"{name}IfExists", True) for name in [*POSITIVE, *NEGATIVE, "Bool", "IpAddress"]),
        *((f"ForAllValues:{name}", True) for name in [*POSITIVE, *NEGATIVE]),
        *((f"ForAnyValue:{name}", False) for name in [*POSITIVE, *NEGATIVE]),
        ("ForAnyValue:StringEqualsIfExists", True),
    ],
)
def test_an_absent_key(name: str, expected: bool) -> None:
    written = {"Bool": "true", "Nume": "1", "Date": "2026-01-01", "IpAd": "10.0.0.0/8", "NotI": "10.0.0.0/8"}
    assert holds(name, [written.get(name[:4], "a")], []) is expected


def test_null_and_an_absent_key() -> None:
    assert holds("Null", ["true"], [])
    assert not holds("Null", ["false"], [])


@given(st.sets(st.sampled_from("abc")), st.lists(st.sampled_from("abcd"), min_size=1, max_size=4))
def test_qualifiers_for_several_values(written: set[str], seen: list[str]) -> None:
    values = sorted(written)
    inside = [value in written for value in seen]
    assert holds("ForAllValues:StringEquals", values, seen) is all(inside)
    assert holds("ForAnyValue:StringEquals", values, seen) is any(inside)
    assert holds("ForAllValues:StringNotEquals", values, seen) is not any(inside)
    assert holds("ForAnyValue:StringNotEquals", values, seen) is not all(inside)
    assert holds("StringEquals", values, seen) is any(inside)
    assert holds("StringNotEquals", values, seen) is not any(inside)


def test_variables_are_literal_in_values() -> None:
    assert holds("StringLike", ["x-${a:who}"], ["x-*"], who="*")
    assert not holds("StringLike", ["x-${a:who}"], ["x-y"], who="*")
    assert holds("ArnLike", ["arn:aws:iot:*:*:topic/${a:who}"], ["arn:aws:iot:r:1:topic/a:b"], who="a:b")


def test_an_unknown_variable_never_matches() -> None:
    for name in ("StringEquals", "StringLike", "StringEqualsIgnoreCase"):
        assert not holds(name, ["${a:who}"], ["${a:who}"])
        assert not holds(name, ["${a:who}"], [""])
    assert not holds("ArnEquals", ["arn:aws:iot:r:1:${a:who}"], ["arn:aws:iot:r:1:x"])


@pytest.mark.parametrize("name", ["StringNotEquals", "ForAllValues:StringNotLike", "ForAnyValue:StringNotLike"])
def test_an_unknown_variable_grants_nothing_by_not_matching(name: str) -> None:
    assert not holds(name, ["${a:who}"], ["x"], granting=True)
    assert holds(name, ["${a:who}"], ["x"], granting=False)


def test_the_keys_that_a_condition_reads() -> None:
    made = Condition.parse("StringEquals", "aws:CurrentTime", ["${aws:EpochTime}"], variables=True)
    assert made.needs == {"aws:currenttime", "aws:epochtime"}
