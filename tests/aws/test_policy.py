"""Policy decisions: AWS's documented examples, comparison with a naive reference, and the explanation of each."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.aws.local.policy import Authorizer, ConnectionContext, PolicyDocument, Thing

REGION = "us-east-1"
ACCOUNT = "123456789012"
ROOT = f"arn:aws:iot:{REGION}:{ACCOUNT}:"
HERE = ConnectionContext(client_id="device1", region=REGION, account_id=ACCOUNT, source_ip="198.51.100.7")


def allow(action: str | list[str], resource: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": resource, **more}


def deny(action: str | list[str], resource: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    return {**allow(action, resource, **more), "Effect": "Deny"}


def policy(*statements: dict[str, Any], name: str = "p") -> PolicyDocument:
    return PolicyDocument.parse({"Version": "2012-10-17", "Statement": list(statements)}, name=name)


def iot(*statements: dict[str, Any], at: ConnectionContext = HERE) -> Authorizer:
    return Authorizer(at, iot=[policy(*statements)])


# --- the actions and their resources ---


def test_each_action_has_its_kind_of_resource() -> None:
    may = iot(allow(["iot:*"]))
    assert may.connect().resource == ROOT + "client/device1"
    assert may.publish("a/b").resource == ROOT + "topic/a/b"
    assert may.receive("a/b").resource == ROOT + "topic/a/b"
    assert may.subscribe("a/+").resource == ROOT + "topicfilter/a/+"
    assert may.publish("a/b", retain=True).action == "iot:RetainPublish"
    assert may.publish("a/b").action == "iot:Publish"


def test_the_partition_is_part_of_the_resource() -> None:
    at = replace(HERE, partition="aws-cn", region="cn-north-1")
    assert iot(allow("iot:Publish"), at=at).publish("a").resource == f"arn:aws-cn:iot:cn-north-1:{ACCOUNT}:topic/a"


def test_retaining_requires_publish_and_retain_publish() -> None:
    topic = ROOT + "topic/a"
    assert not iot(allow("iot:Publish", topic)).publish("a", retain=True)
    assert not iot(allow("iot:RetainPublish", topic)).publish("a", retain=True)
    both = iot(allow(["iot:Publish", "iot:RetainPublish"], topic))
    assert both.publish("a", retain=True)
    assert iot(allow("iot:Publish", topic)).publish("a")


def test_mqtt_wildcards_are_literal_in_a_policy() -> None:
    may = iot(allow("iot:Subscribe", ROOT + "topicfilter/chat/+/x"))
    assert may.subscribe("chat/+/x")
    assert not may.subscribe("chat/a/x")
    may = iot(allow(["iot:Subscribe", "iot:Publish"], [ROOT + "topicfilter/chat/*", ROOT + "topic/chat/?"]))
    assert may.subscribe("chat/#")
    assert may.subscribe("chat/+/x")
    assert may.publish("chat/x")
    assert not may.publish("chat/xy")
    assert not may.subscribe("#")


def test_nothing_is_allowed_without_a_statement() -> None:
    may = iot(allow("iot:Connect"))
    assert may.connect()
    assert not may.publish("a")


def test_a_deny_prevails_in_any_position() -> None:
    wide, narrow = allow("iot:*"), deny("iot:Publish", ROOT + "topic/admin/*")
    for order in ((wide, narrow), (narrow, wide)):
        may = iot(*order)
        assert may.publish("chat")
        assert not may.publish("admin/x")
        assert may.receive("admin/x")


def test_not_action_and_not_resource() -> None:
    may = iot(
        {"Effect": "Allow", "NotAction": "iot:Connect", "Resource": "*"},
        {"Effect": "Deny", "Action": "iot:Publish", "NotResource": ROOT + "topic/${iot:ClientId}/*"},
    )
    assert not may.connect()
    assert may.publish("device1/x")
    assert not may.publish("device2/x")
    assert may.subscribe("device2/x")


# --- IoT policies and role policies ---

GUEST = replace(HERE, identity_id="us-east-1:guest", authenticated_by=("unauthenticated",))


def test_an_authenticated_identity_needs_both_policies() -> None:
    yes, no = [policy(allow("iot:Publish"))], [policy(allow("iot:Connect"))]
    for role, attached, allowed in ((yes, yes, True), (yes, no, False), (no, yes, False), (no, no, False)):
        assert bool(Authorizer(HERE, role=role, iot=attached).publish("a")) is allowed
    assert not Authorizer(HERE, role=yes, iot=[]).publish("a")
    assert not Authorizer(HERE, role=[], iot=yes).publish("a")


def test_a_guest_needs_only_the_role_policy() -> None:
    assert Authorizer(GUEST, role=[policy(allow("iot:Publish"))]).publish("a")


def test_a_deny_of_either_policy_prevails() -> None:
    wide, narrow = policy(allow("iot:*"), name="wide"), policy(deny("iot:Publish"), name="narrow")
    for role, attached in (([wide, narrow], [wide]), ([wide], [wide, narrow])):
        decision = Authorizer(HERE, role=role, iot=attached).publish("a")
        assert not decision
        assert decision.policy == "narrow"


def test_at_least_one_kind_of_policy_is_required() -> None:
    with pytest.raises(ValueError, match="got neither"):
        Authorizer(HERE)


# --- variables ---

THING = Thing(name="device1", type_name="bulb", attributes={"Floor": "3", "odd": "*"})
FULL = replace(
    HERE,
    thing=THING,
    domain_name="iot.example.com",
    identity_id="us-east-1:0000",
    identity_pool_id="us-east-1:pool",
    certificate={
        "CertificateId": "abc",
        "Subject.CommonName": ["first", "second"],
        "Subject.Organization": "A*B",
        "Subject.Country": ["1", "2", "3", "4", "5", "6"],
        "SerialNumber": "77",
    },
    extra={"aws:PrincipalArn": "arn:aws:sts::1:assumed-role/r/s"},
)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("iot:ClientId", "device1"),
        ("IOT:CLIENTID", "device1"),
        ("iot:DomainName", "iot.example.com"),
        ("iot:SourceIp", "198.51.100.7"),
        ("aws:SourceIp", "198.51.100.7"),
        ("iot:Connection.Thing.ThingName", "device1"),
        ("iot:Connection.Thing.ThingTypeName", "bulb"),
        ("iot:Connection.Thing.IsAttached", "true"),
        ("iot:Connection.Thing.Attributes[Floor]", "3"),
        ("iot:connection.thing.attributes[Floor]", "3"),
        ("iot:Connection.Thing.Attributes[odd]", "*"),
        ("cognito-identity.amazonaws.com:sub", "us-east-1:0000"),
        ("cognito-identity.amazonaws.com:aud", "us-east-1:pool"),
        ("iot:CertificateId", "abc"),
        ("iot:Certificate.Subject.CommonName", "first"),
        ("iot:Certificate.Subject.CommonName.0", "first"),
        ("iot:Certificate.Subject.CommonName.1", "second"),
        ("iot:Certificate.Subject.Country.4", "5"),
        ("iot:Certificate.SerialNumber", "77"),
        ("aws:PrincipalArn", "arn:aws:sts::1:assumed-role/r/s"),
        ("*", "*"),
        ("?", "?"),
        ("$", "$"),
        ("iot:Nothing, 'else'", "else"),
    ],
)
def test_a_variable_stands_for_its_value_and_nothing_else(variable: str, value: str) -> None:
    may = iot(allow("iot:Publish", ROOT + "topic/a/${" + variable + "}/b"), at=FULL)
    assert may.publish(f"a/{value}/b")
    assert not may.publish("a/x/b")
    assert not may.publish("a/${" + variable + "}/b")


@pytest.mark.parametrize(
    "variable",
    [
        "iot:Nothing",
        "iot:Connection.Thing.Attributes[floor]",
        "iot:Certificate.Subject.CommonName.2",
        "iot:Certificate.Subject.Country.5",
        "iot:Certificate.Subject.Organization",
        "aws:username",
    ],
)
def test_a_variable_without_a_value_never_matches(variable: str) -> None:
    written = ROOT + "topic/a/${" + variable + "}"
    may = iot(allow("iot:Publish", written), at=FULL)
    for topic in ("a/", "a/x", "a/${" + variable + "}"):
        assert not may.publish(topic)
    assert f"${{{variable.lower()}" in may.publish("a/").reason.lower()
    all_but = {"Action": "iot:Publish", "NotResource": written}
    assert not iot({"Effect": "Allow", **all_but}, at=FULL).publish("b")
    assert not iot(allow("iot:*"), {"Effect": "Deny", **all_but}, at=FULL).publish("b")


@pytest.mark.parametrize("key", ["ThingName", "ThingTypeName", "Attributes[Floor]"], ids=["name", "type", "attribute"])
def test_without_an_attached_thing_its_variables_have_no_value(key: str) -> None:
    value = {"ThingName": "device1", "ThingTypeName": "bulb", "Attributes[Floor]": "3"}[key]
    written = ROOT + "topic/${iot:Connection.Thing." + key + "}"
    away = replace(FULL, thing=replace(FULL.thing, attached=False))
    assert iot(allow("iot:Publish", written), at=FULL).publish(value)
    assert not iot(allow("iot:Publish", written)).publish(value)
    assert not iot(allow("iot:Publish", written), at=away).publish(value)
    assert not Authorizer(FULL, role=[policy(allow("iot:Publish", written))]).publish(value)
    condition = {"Condition": {"StringEquals": {f"iot:Connection.Thing.{key}": value}}}
    assert iot(allow("iot:Publish", **condition), at=FULL).publish("a")
    assert not iot(allow("iot:Publish", **condition), at=away).publish("a")
    assert not Authorizer(FULL, role=[policy(allow("iot:Publish", **condition))]).publish("a")


def test_a_condition_can_test_for_an_attached_thing() -> None:
    def asks(value: str) -> dict[str, Any]:
        return allow("iot:Connect", Condition={"Bool": {"iot:Connection.Thing.IsAttached": value}})

    away = replace(FULL, thing=replace(FULL.thing, attached=False))
    for at, attached in ((FULL, True), (away, False), (HERE, False)):
        assert bool(iot(asks("true"), at=at).connect()) is attached
        assert bool(iot(asks("false"), at=at).connect()) is not attached


@pytest.mark.parametrize("char", "+#/*?$")
@pytest.mark.parametrize("variable", ["iot:ClientId", "iot:Connection.Thing.ThingName"])
def test_a_client_id_never_widens_a_resource(char: str, variable: str) -> None:
    name = f"a{char}b"
    at = replace(FULL, client_id=name, thing=replace(FULL.thing, name=name))
    for kind, action, ask in (
        ("topic", "iot:Publish", Authorizer.publish),
        ("topic", "iot:Receive", Authorizer.receive),
        ("topicfilter", "iot:Subscribe", Authorizer.subscribe),
    ):
        for template in ("to/${%s}", "${%s}/of", "${%s}*", "to/${%s}/#", "x${%s}"):
            written = template % variable
            asked = template.replace("*", "/more").replace("${%s}", name)
            resource = f"{ROOT}{kind}/{written}"
            refused = ask(iot(allow(action, resource), at=at), asked)
            assert not refused, (template, action)
            assert "must not be a part of a topic" in refused.reason
            assert ask(
                iot(allow(action, resource), at=replace(at, client_id="ab", thing=replace(at.thing, name="ab"))),
                template.replace("${%s}", "ab").replace("*", "/more"),
            )
            # What is denied stays denied, also by a Deny with NotResource.
            assert not ask(iot(allow("iot:*"), deny(action, resource), at=at), asked)
            spared = {"Effect": "Deny", "Action": action, "NotResource": resource}
            assert not ask(iot(allow("iot:*"), spared, at=at), asked)
    # As a whole topic it is just that topic; in a Topic Filter its wildcards would still be wildcards of MQTT.
    whole = "${" + variable + "}"
    assert iot(allow("iot:Publish", f"{ROOT}topic/{whole}"), at=at).publish(name)
    assert bool(iot(allow("iot:Subscribe", f"{ROOT}topicfilter/{whole}"), at=at).subscribe(name)) is (char not in "+#")
    assert iot(allow("iot:Connect", f"{ROOT}client/{whole}"), at=at).connect()


def test_an_attribute_may_be_a_path_but_no_wildcard_of_mqtt() -> None:
    written = ROOT + "topicfilter/${iot:Connection.Thing.Attributes[place]}/#"
    for place, allowed in (("house/kitchen", True), ("house/+", False), ("#", False)):
        at = replace(FULL, thing=replace(FULL.thing, attributes={"place": place}))
        assert bool(iot(allow("iot:Subscribe", written), at=at).subscribe(f"{place}/#")) is allowed


@given(st.text(max_size=6), st.text(max_size=6))
def test_a_client_id_never_reaches_another_clients_topics(client_id: str, other: str) -> None:
    at = replace(HERE, client_id=client_id)
    may = iot(allow(["iot:Publish", "iot:Connect"], [ROOT + "topic/${iot:ClientId}", ROOT + "client/*"]), at=at)
    assert may.connect()
    assert may.publish(client_id)
    assert bool(may.publish(other)) is (client_id == other)


# --- conditions: the examples of the developer guide ---


def connecting(*statements: dict[str, Any], persistent: bool, will: str | None) -> bool:
    return bool(iot(*statements, at=replace(HERE, persistent=persistent, will_topic=will)).connect())


def attributes(operator: str, *names: str) -> dict[str, Any]:
    return {"Condition": {operator: {"iot:ConnectAttributes": list(names)}}}


ALL, ANY = "ForAllValues:StringEquals", "ForAnyValue:StringEquals"
PERSISTENT, WILL = "PersistentConnect", "LastWill"


@pytest.mark.parametrize(
    ("statements", "clean", "persistent", "will", "both"),
    [
        ([allow("iot:Connect", **attributes(ALL, PERSISTENT))], True, True, False, False),
        ([allow("iot:Connect", **attributes("ForAllValues:StringNotEquals", PERSISTENT))], True, False, True, False),
        ([allow("iot:Connect"), deny("iot:Connect", **attributes(ANY, PERSISTENT))], True, False, True, False),
        ([allow("iot:Connect", **attributes(ALL, PERSISTENT, WILL))], True, True, True, True),
        ([allow("iot:Connect", **attributes(ALL, WILL))], True, False, True, False),
        ([allow("iot:Connect", **attributes(ALL))], True, False, False, False),
        ([allow("iot:Connect", **attributes(ANY, PERSISTENT))], False, True, False, True),
        (
            [
                allow("iot:Connect", **attributes(ALL, PERSISTENT, WILL)),
                deny("iot:Connect", **attributes(ALL, PERSISTENT)),
                deny("iot:Connect", **attributes(ALL, WILL)),
                deny("iot:Connect", **attributes(ALL)),
            ],
            False,
            False,
            False,
            True,
        ),
        ([allow("iot:Connect")], True, True, True, True),
    ],
)
def test_connect_attributes(
    statements: list[dict[str, Any]], clean: bool, persistent: bool, will: bool, both: bool
) -> None:
    assert connecting(*statements, persistent=False, will=None) is clean
    assert connecting(*statements, persistent=True, will=None) is persistent
    assert connecting(*statements, persistent=False, will="w") is will
    assert connecting(*statements, persistent=True, will="w") is both


def test_the_topic_of_the_will() -> None:
    condition = {"ArnEquals": {"iot:LastWillTopic": ROOT + "topic/my/lastwill/topicName"}}
    statement = allow("iot:Connect", Condition=condition)
    assert connecting(statement, persistent=True, will="my/lastwill/topicName")
    assert not connecting(statement, persistent=True, will="other")
    assert not connecting(statement, persistent=True, will=None)


def test_the_keys_of_the_connect_are_absent_elsewhere() -> None:
    at = replace(HERE, persistent=True, will_topic="w")
    may = iot(allow("iot:*", Condition={"Null": {"iot:ConnectAttributes": "true"}}), at=at)
    assert not may.connect()
    assert may.publish("a")


def test_the_peers_address() -> None:
    statement = allow("iot:Connect", Condition={"IpAddress": {"aws:SourceIp": ["198.51.100.0/24"]}})
    assert iot(statement).connect()
    assert not iot(statement, at=replace(HERE, source_ip="203.0.113.1")).connect()
    assert not iot(statement, at=replace(HERE, source_ip=None)).connect()


def test_an_attached_thing() -> None:
    statement = allow(
        "iot:Connect",
        ROOT + "client/${iot:Connection.Thing.ThingName}",
        Condition={"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}},
    )
    assert iot(statement, at=FULL).connect()
    assert not iot(statement, at=replace(HERE, thing=replace(THING, attached=False))).connect()
    assert not iot(statement).connect()


def test_every_value_of_a_certificates_attribute() -> None:
    statement = allow("iot:Connect", Condition={ANY: {"iot:Certificate.Subject.CommonName.List": ["second", "third"]}})
    assert iot(statement, at=FULL).connect()
    assert not iot(statement).connect()
    present = allow("iot:Connect", Condition={ANY: {"iot:Certificate.AvailableKeys": "iot:Certificate.SerialNumber"}})
    assert iot(present, at=FULL).connect()
    assert not iot(present).connect()


def test_the_guests_of_a_pool() -> None:
    statement = allow(
        "iot:Connect",
        Condition={
            "StringEquals": {"cognito-identity.amazonaws.com:aud": "us-east-1:pool"},
            "ForAnyValue:StringLike": {"cognito-identity.amazonaws.com:amr": "unauthenticated"},
        },
    )
    assert iot(statement, at=replace(GUEST, identity_pool_id="us-east-1:pool")).connect()
    assert not iot(statement, at=replace(GUEST, identity_pool_id="us-east-1:other")).connect()
    assert not iot(statement, at=replace(FULL, authenticated_by=("authenticated", "graph.facebook.com"))).connect()


def test_the_time_is_read_at_each_decision() -> None:
    now = [0.0]
    document = policy(
        allow("iot:*", Condition={"DateLessThan": {"aws:CurrentTime": "2026-01-01T00:00:00Z"}}),
        deny("iot:*", Condition={"NumericLessThan": {"aws:EpochTime": "100"}}),
    )
    may = Authorizer(HERE, iot=[document], clock=lambda: now[0])
    assert not may.publish("a")
    now[0] = 100.0
    assert may.publish("a")
    now[0] = 1767225599.5
    assert may.publish("a")
    now[0] = 1767225600.0
    assert not may.publish("a")


def test_the_clock_is_not_read_without_a_time_condition() -> None:
    def clock() -> float:
        raise AssertionError("read")

    assert Authorizer(HERE, iot=[policy(allow("iot:*"))], clock=clock).publish("a")


# --- the reference: each decision computed from the documents alone, by regular expressions ---

TOPICS = st.lists(st.sampled_from(["a", "b", "c/d", "+", "#", "device1"]), min_size=1, max_size=3).map("/".join)
PATTERNS = st.lists(
    st.sampled_from(["a", "b", "/", "*", "?", "+", "#", "c/d", "${iot:ClientId}", "${iot:Nope}", "${*}"]), max_size=4
).map("".join)
RESOURCES = st.one_of(
    st.just("*"),
    PATTERNS.map(lambda text: f"{ROOT}topic/{text}"),
    PATTERNS.map(lambda text: f"{ROOT}topicfilter/{text}"),
)
ACTIONS = st.sampled_from(["iot:Publish", "iot:Subscribe", "iot:Receive", "iot:*", "*", "iot:RetainPublish"])
STATEMENTS = st.builds(
    lambda effect, not_action, actions, not_resource, resources, condition: {
        "Effect": effect,
        ("NotAction" if not_action else "Action"): actions,
        ("NotResource" if not_resource else "Resource"): resources,
        **condition,
    },
    st.sampled_from(["Allow", "Allow", "Deny"]),
    st.booleans(),
    st.lists(ACTIONS, min_size=1, max_size=2),
    st.booleans(),
    st.lists(RESOURCES, min_size=1, max_size=3),
    st.sampled_from([{}, {}, {"Condition": {"StringEquals": {"iot:ClientId": ["device1"]}}}]),
)
SIDES = st.none() | st.lists(st.lists(STATEMENTS, min_size=1, max_size=3), max_size=2)


def reference_pattern(text: str, client_id: str, widens: bool = False) -> str | None:
    if "${iot:Nope}" in text:
        return None
    if widens and "${iot:ClientId}" in text:
        kind, _, name = text.rpartition(":")[2].partition("/")
        whole = name == "${iot:ClientId}"
        forbidden = "+#/*?$" if not whole else "+#" if kind == "topicfilter" else ""
        if any(char in client_id for char in forbidden):
            return None
    named = {"*": ".*", "?": ".", "${iot:ClientId}": re.escape(client_id), "${*}": re.escape("*")}
    tokens = re.split(r"(\$\{[^}]*\}|[*?])", text)
    return "".join(named.get(token, re.escape(token)) for token in tokens)


def reference(sides: list[list[list[dict[str, Any]]]], action: str, resource: str, client_id: str) -> bool:
    def applies(statement: dict[str, Any]) -> bool:
        listed = statement.get("Action") or statement["NotAction"]
        named = any(re.fullmatch(reference_pattern(text, "") or "", action) for text in listed)
        if named == ("NotAction" in statement):
            return False
        if "Condition" in statement and client_id != "device1":
            return False
        grants = statement["Effect"] == "Allow"
        patterns = [reference_pattern(text, client_id, grants) for text in statement.get("Resource", [])]
        if any(text is not None and re.fullmatch(text, resource, re.DOTALL) for text in patterns):
            return True
        spared = [reference_pattern(text, client_id, not grants) for text in statement.get("NotResource", [])]
        if not spared or (None in spared and statement["Effect"] == "Allow"):
            return False
        return not any(text is not None and re.fullmatch(text, resource, re.DOTALL) for text in spared)

    applying = [[one["Effect"] for doc in side for one in doc if applies(one)] for side in sides]
    return all("Deny" not in effects and "Allow" in effects for effects in applying) and not any(
        "Deny" in effects for effects in applying
    )


@given(SIDES, SIDES, st.lists(TOPICS, min_size=1, max_size=4), st.sampled_from(["device1", "*", "a/b", "", "+", "#"]))
def test_decisions_equal_those_of_the_reference(
    role: list[Any] | None, attached: list[Any] | None, topics: list[str], client_id: str
) -> None:
    if role is None and attached is None:
        role = []
    at = replace(HERE, client_id=client_id)
    made = {
        side: None if given_ is None else [policy(*statements) for statements in given_]
        for side, given_ in (("role", role), ("iot", attached))
    }
    may = Authorizer(at, role=made["role"], iot=made["iot"])
    sides = [given_ for given_ in (role, attached) if given_ is not None]
    for topic in topics:
        for decision in (may.publish(topic), may.subscribe(topic), may.receive(topic)):
            expected = reference(sides, decision.action, decision.resource, client_id)
            assert decision.allowed is expected, decision.reason
            assert "\n" not in decision.reason
        # A second evaluation gives the same decision.
        assert may.publish(topic) == may.publish(topic)


# --- the explanation for the developer ---


@pytest.mark.parametrize(
    ("statements", "ends"),
    [
        ([deny("iot:*", Sid="No")], "is denied by statement 1 (Sid 'No') of IoT policy 'p'"),
        ([allow("iot:Connect")], "no statement of IoT policy 'p' allows the action iot:Publish"),
        (
            [allow("iot:Publish", [ROOT + "topic/b", ROOT + "topic/c"])],
            f"statement 1 of IoT policy 'p' allows only '{ROOT}topic/b', '{ROOT}topic/c'",
        ),
        (
            [allow("iot:Publish", [ROOT + f"topic/{i}" for i in range(5)])],
            f"allows only '{ROOT}topic/0', '{ROOT}topic/1', '{ROOT}topic/2' and 2 more",
        ),
        (
            [allow("iot:Publish", ROOT + "topic/b"), allow("iot:Publish", ROOT + "topicfilter/a/*")],
            f"statement 2 of IoT policy 'p' names '{ROOT}topicfilter/a/*': this action applies to topic/, "
            "not topicfilter/",
        ),
        (
            [allow("iot:Publish", ROOT + "topic/a/#")],
            f"names '{ROOT}topic/a/#': '+' and '#' are not wildcards in a policy; use '*' instead",
        ),
        (
            [allow("iot:Publish", "arn:aws:iot:eu-west-1:123456789012:topic/a/x")],
            "the partition, region or account is not arn:aws:iot:us-east-1:123456789012",
        ),
        (
            [allow("iot:Publish", ROOT + "topic/${iot:Connection.Thing.ThingName}/x")],
            "and ${iot:connection.thing.thingname} has no value here",
        ),
        (
            [allow("iot:Publish", Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})],
            "statement 1 of IoT policy 'p' would, but its condition IpAddress aws:SourceIp does not hold: the "
            "value here is '198.51.100.7'",
        ),
        (
            [allow("iot:Publish", Condition={"StringEquals": {"aws:username": "me"}})],
            "its condition StringEquals aws:username does not hold: that key has no value here",
        ),
        (
            [{"Effect": "Allow", "Action": "iot:Publish", "NotResource": ROOT + "topic/a/*"}],
            "statement 1 of IoT policy 'p' allows all but some resources, and this is one of those",
        ),
        (
            [{"Effect": "Allow", "Action": "iot:Publish", "NotResource": ROOT + "topic/${iot:Nope}"}],
            f"names '{ROOT}topic/${{iot:Nope}}', and ${{iot:nope}} has no value here",
        ),
    ],
)
def test_a_refusal_describes_what_to_change(statements: list[dict[str, Any]], ends: str) -> None:
    decision = iot(*statements).publish("a/x")
    assert not decision
    assert decision.reason.startswith(f"iot:Publish on '{ROOT}topic/a/x' is ")
    assert decision.reason.endswith(ends)


def test_a_refusal_names_a_time_condition() -> None:
    condition = {"DateLessThan": {"aws:CurrentTime": "2000-01-01"}}
    may = Authorizer(HERE, iot=[policy(allow("iot:*", Condition=condition))], clock=lambda: 2e9)
    assert may.publish("a").reason.endswith(
        "its condition DateLessThan aws:CurrentTime does not hold: the value here is '2033-05-18T03:33:20+00:00'"
    )


def test_a_subscription_to_a_topic_resource_is_explained() -> None:
    decision = iot(allow(["iot:Subscribe", "iot:Receive"], ROOT + "topic/chat/*")).subscribe("chat/#")
    assert decision.reason.endswith("this action applies to topicfilter/, not topic/")


def test_a_missing_policy_is_explained() -> None:
    decision = Authorizer(HERE, role=[policy(allow("iot:*"))], iot=[]).publish("a")
    assert decision.reason.endswith("no IoT policy is attached; attach one that allows iot:Publish")


def test_an_allowed_decision_names_its_statements() -> None:
    role, attached = policy(allow("iot:*"), name="role"), policy(allow("iot:*", Sid="All"), name="mine")
    decision = Authorizer(HERE, role=[role], iot=[attached]).publish("a")
    assert decision.reason.endswith(
        "is allowed by statement 1 of role policy 'role' and statement 1 (Sid 'All') of IoT policy 'mine'"
    )
    assert (decision.policy, decision.statement) == ("mine", "statement 1 (Sid 'All')")


def test_a_reason_is_one_line_for_any_topic() -> None:
    decision = iot(allow("iot:Connect")).publish("a\nb\u2028c\x1b[2J")
    assert decision.reason.isprintable()
