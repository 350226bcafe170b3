"""Policy documents: what is accepted, and the error for each fault."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.aws.local.policy import PolicyDocument, PolicyError

GOOD: dict[str, Any] = {
    "Version": "2012-10-17",
    "Id": "mine",
    "Statement": [
        {"Sid": "Talk", "Effect": "Allow", "Action": ["iot:Publish", "iot:Receive"], "Resource": "*"},
        {
            "Effect": "Deny",
            "NotAction": "iot:Connect",
            "NotResource": ["arn:aws:iot:*:*:topic/${iot:ClientId}"],
            "Condition": {"Bool": {"aws:SecureTransport": False}, "NumericLessThan": {"x:y": 3}},
        },
    ],
}


def edited(**changes: Any) -> dict[str, Any]:
    document = copy.deepcopy(GOOD)
    document["Statement"][0].update(changes)
    return document


@pytest.mark.parametrize("source", [GOOD, json.dumps(GOOD), json.dumps(GOOD).encode()])
def test_reads_text_bytes_and_mappings(source: Any) -> None:
    document = PolicyDocument.parse(source, name="mine")
    assert document.name == "mine"
    talk, rest = document.statements
    assert talk.name == "statement 1 (Sid 'Talk')"
    assert talk.allows
    assert talk.covers("iot:publish")
    assert not talk.covers("iot:Connect")
    assert rest.name == "statement 2"
    assert not rest.allows
    assert rest.covers("iot:publish")
    assert not rest.covers("IOT:connect")
    assert [condition.source for condition in rest.conditions] == [
        "Bool aws:SecureTransport",
        "NumericLessThan x:y",
    ]


def test_one_statement_needs_no_list() -> None:
    document = PolicyDocument.parse({**GOOD, "Statement": GOOD["Statement"][0]})
    assert len(document.statements) == 1


@pytest.mark.parametrize("text", ["iot:*", "iot:Pub*", "iot:Publis?", "*", "IOT:PUBLISH", "*:Publish"])
def test_actions_have_wildcards_and_no_case(text: str) -> None:
    assert PolicyDocument.parse(edited(Action=text)).statements[0].covers("iot:Publish")


def test_an_older_version_reads_no_variables() -> None:
    for version in ({"Version": "2008-10-17"}, {}):
        document = {**version, "Statement": GOOD["Statement"][1]}
        [statement] = PolicyDocument.parse(document).statements
        [resource] = statement.resources
        assert resource.variables() == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{", "policy 'p': it is not JSON"),
        (b"\xff", "policy 'p': it is not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", "policy 'p': it is []; expected an object"),
        ('{"Version": "2012-10-17", "Version": "2012-10-17"}', "'Version' occurs twice"),
        ({**GOOD, "version": "1"}, "an unknown element 'version'; write 'Version'"),
        ({**GOOD, "Zork": "1"}, "an unknown element 'Zork'; expected only Id, Statement, Version"),
        ({**GOOD, "Version": "2023-01-01"}, "Version is '2023-01-01'; expected '2012-10-17'"),
        ({**GOOD, "Version": ["2012-10-17"]}, "Version is ['2012-10-17']; expected '2012-10-17'"),
        ({**GOOD, "Statement": []}, "Statement is []"),
        ({"Version": "2012-10-17"}, "Statement is missing"),
        ({**GOOD, "Statement": ["x"]}, "policy 'p', statement 1: it is 'x'; expected an object"),
        ({**GOOD, "Statement": GOOD["Statement"][:1] * 2}, "statement 2: Sid 'Talk' occurs twice"),
        (edited(Sid=3), "statement 1: Sid is 3"),
        (edited(Effect="allow"), "policy 'p', statement 1 (Sid 'Talk'): Effect is 'allow'"),
        (edited(Principal="*"), "it has Principal, which only resource policies have"),
        (edited(resource="*"), "an unknown element 'resource'; write 'Resource'"),
        (edited(NotAction="*"), "it has both of Action and NotAction"),
        (edited(Action=[]), "Action is []"),
        (edited(Action=[3]), "Action is [3]"),
        (edited(Action="Publish"), "Action 'Publish' is not an action"),
        (edited(Action="iot: Publish"), "Action 'iot: Publish' is not an action"),
        (edited(Action="iot:${x}"), "Action 'iot:${x}' is not an action"),
        (edited(Resource="topic/a"), "Resource 'topic/a' is not an ARN"),
        (edited(Resource="arn:aws:${a \x1b}"), r"contains '${a \x1b}', which is not a variable"),
        (edited(Resource="arn:aws:iot:::topic/${x"), "never closes it"),
        (edited(Condition=[]), "Condition is []"),
        (edited(Condition={"Bool": 1}), "Condition 'Bool' is 1"),
        (edited(Condition={"StringEqual": {"a:b": "c"}}), "'StringEqual' is not a known condition operator"),
        (edited(Condition={"Any:StringEquals": {"a:b": "c"}}), "expected ForAllValues: or ForAnyValue:"),
        (edited(Condition={"NullIfExists": {"a:b": "true"}}), "Null cannot be used with"),
        (edited(Condition={"Null": {"a:b": "maybe"}}), "Null a:b: 'maybe' is not a boolean"),
        (edited(Condition={"Bool": {"a:b": "yes"}}), "'yes' is not a boolean"),
        (edited(Condition={"Bool": {"a:b": None}}), "a value is missing"),
        (edited(Condition={"Bool": {"a:b": [{}]}}), "a value is {}"),
        (edited(Condition={"NumericEquals": {"a:b": "x"}}), "'x' is not a number"),
        (edited(Condition={"NumericEquals": {"a:b": "inf"}}), "'inf' is not a number"),
        (edited(Condition={"DateLessThan": {"a:b": "soon"}}), "'soon' is not a date"),
        (edited(Condition={"IpAddress": {"a:b": "10.0.0.0/40"}}), "'10.0.0.0/40' is not an address"),
        (edited(Condition={"ArnLike": {"a:b": "topic/x"}}), "'topic/x' is not an ARN"),
        (edited(Condition={"BinaryEquals": {"a:b": "?"}}), "'?' is not base64"),
        (edited(Condition={"StringLike": {"a:b": "${"}}), "never closes it"),
    ],
)
def test_errors_name_the_place(source: Any, expected: str) -> None:
    with pytest.raises(PolicyError) as caught:
        PolicyDocument.parse(source, name="p")
    assert expected in str(caught.value)
    assert str(caught.value).startswith("policy 'p'")


def test_a_statement_without_action_is_an_error() -> None:
    document = edited()
    del document["Statement"][0]["Action"]
    with pytest.raises(PolicyError, match="neither of Action and NotAction"):
        PolicyDocument.parse(document)


def test_the_size_excludes_white_space() -> None:
    text = json.dumps(GOOD, indent=8)
    size = sum(not char.isspace() for char in text)
    assert PolicyDocument.parse(text, most=size)
    assert PolicyDocument.parse(GOOD, most=size)
    with pytest.raises(PolicyError, match=f"it has {size} characters without white space, but at most {size - 1}"):
        PolicyDocument.parse(text.encode(), most=size - 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["Sid", "Effect", "Action", "Resource", "Condition", "NotAction"]))
def test_any_element_is_read_or_refused_as_a_policy_error(value: Any, element: str) -> None:
    try:
        PolicyDocument.parse(edited(**{element: value}))
    except PolicyError as fault:
        assert "\n" not in str(fault)  # noqa: PT017 - the fault is not certain
