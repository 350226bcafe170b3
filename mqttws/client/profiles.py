"""What is known to break on a server, as a table; and what looks it up before anything is sent.

A rule refuses what a server answers by closing the connection or by silence, and warns, once, of what it does in
another way than the standard has it. `tests/cluster` tries each rule at the server, and finds each difference that has
no rule. The plain profile has none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from mqttws.errors import Unsupported

What = Literal["topic", "filter", "qos", "retain", "payload", "overlap"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One thing that a server does not do, or does in another way.

    Attributes:
        name: of the conversation of `tests/cluster` that shows it.
        what: it is about.
        beyond: a regular expression that finds it in a Topic Name or a Topic Filter, each of whose bytes in UTF-8 is
            one character; or the highest QoS, or the most bytes, that are accepted; None if the rule always applies.
        says: what the server does.
        refuses: whether it is refused, or warned of.
    """

    name: str
    what: What
    beyond: str | int | None
    says: str
    refuses: bool = True

    def broken_by(self, value: str | int) -> bool:
        """Return whether a topic, a Topic Filter, a QoS or a number of bytes is beyond it."""
        if isinstance(self.beyond, str):
            octets = str(value).encode("utf-8", "surrogatepass")  # what is not allowed is refused later
            return re.search(self.beyond, octets.decode("latin-1")) is not None
        return self.beyond is None or int(value) > self.beyond


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of a server.

    Attributes:
        server: its name.
        tested: the version that the rules were tried at.
        rules: see `Rule`.
        max_qos: what a message or a subscription of a higher QoS is sent with.
    """

    server: str
    tested: str
    rules: tuple[Rule, ...] = ()
    max_qos: int = 2

    def publish_rules(self, topic: str, size: int, qos: int, retain: bool) -> list[Rule]:
        """Return the rules that a message breaks."""
        values: dict[str, str | int] = {"topic": topic, "payload": size, "qos": qos}
        if retain:
            values["retain"] = topic
        return self._broken(values)

    def subscribe_rules(self, topic_filter: str, qos: int, standing: Iterable[str] = ()) -> list[Rule]:
        """Return the rules that a Topic Filter breaks, beside others that the client has."""
        values: dict[str, str | int] = {"filter": topic_filter, "qos": qos}
        if any(each != topic_filter and overlap(each, topic_filter) for each in standing):
            values["overlap"] = topic_filter
        return self._broken(values)

    def objection_to_publish(self, topic: str, size: int, qos: int, retain: bool = False) -> Unsupported | None:
        """Return why a message must not be sent, or None."""
        if not self.rules:
            return None
        return self.objection(f"the message to {topic!r}", self.publish_rules(topic, size, qos, retain))

    def objection_to_subscribe(self, topic_filter: str, qos: int = 0) -> Unsupported | None:
        """Return why a Topic Filter must not be sent, or None."""
        return self.objection(f"the Topic Filter {topic_filter!r}", self.subscribe_rules(topic_filter, qos))

    def _broken(self, values: Mapping[str, str | int]) -> list[Rule]:
        return [rule for rule in self.rules if rule.what in values and rule.broken_by(values[rule.what])]

    def objection(self, subject: str, rules: list[Rule]) -> Unsupported | None:
        """Return why a request that breaks these rules must not be sent, or None."""
        says = [rule.says for rule in rules if rule.refuses]
        return Unsupported(f"{subject} is not sent: {self.server} {'; it '.join(says)}") if says else None


_UNDELIVERED_SHARES = Rule(
    "shared", "filter", r"^\$share/", "grants shared subscriptions, and delivers nothing to them"
)

_NOT_RETAINED = Rule(
    "retained_by_wildcard",
    "filter",
    r"[+#]",
    "sends no retained messages for Topic Filters with wildcards",
    refuses=False,
)

#: What is known of each server, by the value of the option `server`.
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "plain": Profile("any server", ""),
        "mosquitto": Profile("Mosquitto", "2.0.11"),
        "nats": Profile(
            "NATS",
            "2.15.1",
            (
                Rule("space_in_topic", "topic", " ", "closes the connection over a space in a Topic Name"),
                Rule("space_in_filter", "filter", " ", "refuses a Topic Filter with a space in it"),
                Rule(
                    "large_payload",
                    "payload",
                    1024 * 1024,
                    "closes the connection over more than 1 MiB, unless its max_payload is higher",
                    refuses=False,
                ),
                Rule("overlap", "overlap", None, "sends a copy for each Topic Filter that matches", refuses=False),
                _UNDELIVERED_SHARES,
            ),
        ),
        "rabbitmq": Profile(
            "RabbitMQ",
            "3.10.8",
            (
                Rule(
                    "dot_in_topic",
                    "topic",
                    r"\.",
                    "delivers a message to 'a.b' under 'a/b'",
                    refuses=False,
                ),
                Rule("star_in_topic", "topic", r"\*", "does not deliver a message with '*' in its Topic Name"),
                _NOT_RETAINED,
                Rule("retained_elsewhere", "retain", None, "keeps a retained message on one node", refuses=False),
                _UNDELIVERED_SHARES,
            ),
            max_qos=1,
        ),
        "aws-iot": Profile(
            "AWS IoT Core",
            "as documented in 2026",
            (
                Rule("qos_2", "qos", 1, "closes the connection over QoS 2"),
                Rule("nine_levels", "topic", r"^(?!\$aws/rules/)[^/]*(/[^/]*){8}", "takes 7 slashes in a Topic Name"),
                Rule("nine_levels", "filter", r"^(?!\$)[^/]*(/[^/]*){8}", "takes 7 slashes in a Topic Filter"),
                Rule("parent_level", "filter", r"/#$", "does not match 'a' by 'a/#'", refuses=False),
                _NOT_RETAINED,
                Rule("long_topic", "topic", r"(?s)^.{257}", "takes 256 bytes of a Topic Name"),
                Rule("large_payload", "payload", 128 * 1024, "takes 128 KiB in a message"),
            ),
        ),
    }
)


def overlap(one: str, other: str) -> bool:
    """Return whether there is a topic that two Topic Filters both match. Spec: §4.7."""
    ones, others = one.split("/"), other.split("/")
    if "$" in (one[:1], other[:1]) and one[:1] != other[:1]:  # [MQTT-4.7.2-1]
        return False
    for left, right in zip(ones, others, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    missing = sorted((ones, others), key=len)[1][min(len(ones), len(others)) :]
    return missing in ([], ["#"])  # "a/#" matches "a", too
