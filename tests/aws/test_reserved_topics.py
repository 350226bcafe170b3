"""The reserved topics of AWS IoT, and what clients may do with them."""

from __future__ import annotations

import pytest

from pubsub.aws.limits import IoTLimits
from pubsub.aws.reserved_topics import filter_of_share, may_publish, may_subscribe, without_prefix

PUBLISH = [
    "a",
    "a/$b",
    "$aws/rules/r",
    "$aws/rules/r/a/b/c",
    "$aws/things/lamp/shadow/update",
    "$aws/things/lamp/shadow/name/n/get",
    "$aws/things/lamp/shadow/delete",
    "$aws/things/lamp/jobs/get",
    "$aws/things/lamp/jobs/start-next",
    "$aws/things/lamp/jobs/42/update",
    "$aws/things/l/jobs/42/get",
    "$aws/things/lamp/defender/metrics/json",
    "$aws/things/lamp/streams/1/get/json",
    "$aws/things/lamp/streams/1/describe/cbor",
    "$aws/certificates/create/json",
    "$aws/certificates/create-from-csr/cbor",
    "$aws/provisioning-templates/t/provision/json",
    "$aws/device_location/d/get_position_estimate",
    "$aws/commands/things/t/executions/1/response",
    "$aws/commands/things/t/executions/1/response/json",
]
NEVER_PUBLISH = [
    "$ordinary",
    "$SYS",
    "$SYS/broker",
    "$AWS/rules/r",
    "$aws",
    "$aws/",
    "$aws/rules",
    "$aws/rules/",
    "$aws/mine",
    "$aws/events/presence/connected/c",
    "$aws/things/lamp",
    "$aws/things/lamp/shadow",
    "$aws/things//shadow/get",
    "$aws/things/lamp/shadow/update/accepted",
    "$aws/things/lamp/shadow/update/delta",
    "$aws/things/lamp/shadow/name/n",
    "$aws/things/lamp/jobs/notify",
    "$aws/things/lamp/tunnels/notify",
    "$aws/things/a/b/shadow/update",
    "$aws/commands/things/t/executions/1/response/accepted",
    "$aws/certificates/create",
    "$aws/sitewise/asset-models/a",
    "$share/g/a",
]
SUBSCRIBE = [
    "#",
    "+",
    "a/#",
    "a/$b",
    "$aws/#",
    "$aws/+/presence/#",
    "$aws/events/presence/connected/+",
    "$aws/events/#",
    "$aws/events/subscriptions/subscribed/c",
    "$aws/things/lamp/shadow/update/+",
    "$aws/things/+/shadow/#",
    "$aws/things/lamp/jobs/notify-next",
    "$aws/things/lamp/tunnels/notify",
    "$aws/things/lamp/shadow/name/n/update/documents",
    "$aws/commands/+/+/executions/+/request/json",
    "$aws/sitewise/asset-models/a/assets/b/properties/c",
    "$aws/certificates/create/json/accepted",
    "$share/g/a",
]
NEVER_SUBSCRIBE = [
    "$ordinary",
    "$SYS/#",
    "$+/a",
    "$aws",
    "$aws/mine/#",
    "$aws/rules/r",
    "$aws/rules/#",
    "$aws/things/lamp",
    "$aws/things/lamp/x/#",
]


@pytest.mark.parametrize(
    ("topic", "may"), [*((each, True) for each in PUBLISH), *((each, False) for each in NEVER_PUBLISH)]
)
def test_publishing(topic: str, may: bool) -> None:
    assert may_publish(topic) is may
    said = IoTLimits().objection_to_publish(topic, 0, 1)
    assert (said is None) is may_publish(topic)
    if said is not None:
        assert "reserved" in said
    assert IoTLimits(reserved_topics=True).objection_to_publish(topic, 0, 1) is None


@pytest.mark.parametrize(
    ("topic_filter", "may"), [*((each, True) for each in SUBSCRIBE), *((each, False) for each in NEVER_SUBSCRIBE)]
)
def test_subscribing(topic_filter: str, may: bool) -> None:
    assert may_subscribe(topic_filter) is may
    said = IoTLimits().objection_to_filter(topic_filter)
    assert (said is None) is may
    assert IoTLimits(reserved_topics=True).objection_to_filter(topic_filter) is None


@pytest.mark.parametrize(
    ("topic_filter", "shared"),
    [
        ("a", None),
        ("$shared/g/a", None),
        ("$share/g/a/+", "a/+"),
        ("$share/g/#", "#"),
        ("$share/g//a", "/a"),
        ("$share", ""),
        ("$share/", ""),
        ("$share/g", ""),
        ("$share/g/", ""),
        ("$share//a", ""),
        ("$share/+/a", ""),
        ("$share/#/a", ""),
    ],
)
def test_shared_subscriptions(topic_filter: str, shared: str | None) -> None:
    assert filter_of_share(topic_filter) == shared
    said = IoTLimits().objection_to_filter(topic_filter)
    if shared == "":
        assert said is not None
        assert "malformed" in said


def test_the_measured_part_of_a_topic() -> None:
    assert without_prefix("$aws/rules/r/a/b") == "a/b"
    assert without_prefix("$share/g/a/b") == "a/b"
    assert without_prefix("a/b") == "a/b"
    limits = IoTLimits()
    deep = "/".join("12345678")
    assert limits.objection_to_filter(f"$share/g/{deep}") is None
    assert "8 slashes" in str(limits.objection_to_filter(f"$share/g/{deep}/9"))
    assert "257 bytes" in str(limits.objection_to_filter("x" * 257))
    assert "QoS 2" in str(limits.objection_to_filter("a", 2))
