"""The topics that AWS IoT reserves: those that begin with `$`, and what a client may do with each.

AWS IoT closes the connection of a client that publishes or subscribes to one for which it documents no such use. So
the provider refuses such a request before it is sent, and the local endpoint closes the connection.

    may_publish("$aws/things/lamp/shadow/update")            True
    may_publish("$aws/events/presence/connected/lamp")       False: only AWS IoT publishes there
    may_subscribe("$aws/events/presence/connected/+")        True

A Topic Filter may match more than the documented topics; it is refused only if it cannot match any of them.

Spec: "Reserved topics" and "Shared subscriptions" in the AWS IoT Core developer guide.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["filter_of_share", "may_publish", "may_subscribe", "without_prefix"]

_BASIC_INGEST = "$aws/rules/"
_SHARE = "$share/"

#: What a client may publish to; `#` stands for at least one level.
_PUBLISH = [
    template.split("/")
    for template in (
        "$aws/certificates/create/+",
        "$aws/certificates/create-from-csr/+",
        "$aws/commands/+/+/executions/+/response",
        "$aws/commands/+/+/executions/+/response/+",
        "$aws/device_location/+/get_position_estimate",
        "$aws/provisioning-templates/+/provision/+",
        "$aws/rules/#",
        "$aws/things/+/defender/metrics/+",
        "$aws/things/+/jobs/get",
        "$aws/things/+/jobs/start-next",
        "$aws/things/+/jobs/+/get",
        "$aws/things/+/jobs/+/update",
        "$aws/things/+/shadow/delete",
        "$aws/things/+/shadow/get",
        "$aws/things/+/shadow/update",
        "$aws/things/+/shadow/name/+/delete",
        "$aws/things/+/shadow/name/+/get",
        "$aws/things/+/shadow/name/+/update",
        "$aws/things/+/streams/+/describe/+",
        "$aws/things/+/streams/+/get/+",
    )
]

#: What a client may subscribe to.
_SUBSCRIBE = [
    template.split("/")
    for template in (
        "$aws/certificates/#",
        "$aws/commands/#",
        "$aws/device_location/#",
        "$aws/events/#",
        "$aws/provisioning-templates/#",
        "$aws/sitewise/#",
        "$aws/things/+/defender/#",
        "$aws/things/+/jobs/#",
        "$aws/things/+/shadow/#",
        "$aws/things/+/streams/#",
        "$aws/things/+/tunnels/#",
    )
]

#: The last level of a topic on which AWS IoT publishes an answer.
_ANSWERS = ("accepted", "rejected")


def may_publish(topic: str) -> bool:
    """Return whether a client may publish to a Topic Name, as far as reserved topics are concerned."""
    if not topic.startswith("$"):
        return True
    levels = topic.split("/")
    if levels[1:2] == ["rules"]:
        return levels[0] == "$aws" and len(levels) > 2 and bool(levels[2])
    return levels[-1] not in _ANSWERS and any(_meet(levels, template) for template in _PUBLISH)


def may_subscribe(topic_filter: str) -> bool:
    """Return whether a client may subscribe to a Topic Filter, as far as reserved topics are concerned.

    A shared subscription is not examined.
    """
    if not topic_filter.startswith("$") or topic_filter.startswith(_SHARE):
        return True
    return any(_meet(topic_filter.split("/"), template) for template in _SUBSCRIBE)


def filter_of_share(topic_filter: str) -> str | None:
    """Return the Topic Filter of a shared subscription, `$share/{ShareName}/{TopicFilter}`.

    Returns:
        "" for a malformed one; None for a Topic Filter that is not a shared subscription.
    """
    if topic_filter != _SHARE[:-1] and not topic_filter.startswith(_SHARE):
        return None
    name, _, shared = topic_filter.removeprefix(_SHARE).partition("/")
    return "" if not name or "+" in name or "#" in name else shared


def without_prefix(topic: str) -> str:
    """Return the part of a Topic Name or Filter that is measured, after `$aws/rules/<rule>/` or `$share/<name>/`."""
    if topic.startswith(_BASIC_INGEST):
        return topic.removeprefix(_BASIC_INGEST).partition("/")[2]
    return filter_of_share(topic) or topic


def _meet(levels: Sequence[str], template: Sequence[str]) -> bool:
    """Return whether some topic matches both a Topic Name or Topic Filter and a template."""
    for index, wanted in enumerate(template):
        if levels[index : index + 1] == ["#"]:
            return True
        if wanted == "#":
            return len(levels) > index
        if index >= len(levels) or not (levels[index] in (wanted, "+") or (wanted == "+" and levels[index])):
            return False
    return len(levels) == len(template)
