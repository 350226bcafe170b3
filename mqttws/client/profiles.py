"""Profiles of servers: tables of their limits and of their deviations from the standard.

A client with a profile rejects requests that its server answers by closing the connection or not at all, and logs a
warning, once, of other deviations. `tests/cluster` checks each rule with the server itself, and detects deviations that
have no rule. The profile "plain" has no rules.
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
    """One limit of a server, or one deviation from the standard.

    Attributes:
        name: The name of the scenario of `tests/cluster` that demonstrates it.
        what: The property of a message or subscription to which the rule applies.
        beyond: A regular expression that matches the Topic Names or Topic Filters concerned, with one character for
            each byte of UTF-8; or the highest QoS or number of bytes accepted; None if the rule always applies.
        says: What the server does, as the predicate of a sentence.
        refuses: Whether to reject the request; otherwise a warning is logged.
    """

    name: str
    what: What
    beyond: str | int | None
    says: str
    refuses: bool = True

    def broken_by(self, value: str | int) -> bool:
        """Return whether the rule applies to a value.

        Args:
            value: A Topic Name, a Topic Filter, a QoS, or a number of bytes, according to `what`.
        """
        if isinstance(self.beyond, str):
            octets = str(value).encode("utf-8", "surrogatepass")  # lone surrogates are rejected later
            return re.search(self.beyond, octets.decode("latin-1")) is not None
        return self.beyond is None or int(value) > self.beyond


@dataclass(frozen=True, slots=True)
class Profile:
    """The limits and deviations of one server.

    Attributes:
        server: The name of the server.
        tested: The version with which the rules were tested.
        rules: The rules.
        max_qos: The maximum QoS; messages and subscriptions with a higher one are sent with this.
    """

    server: str
    tested: str
    rules: tuple[Rule, ...] = ()
    max_qos: int = 2

    def publish_rules(self, topic: str, size: int, qos: int, retain: bool) -> list[Rule]:
        """Return the rules that a message breaks.

        Args:
            topic: Its Topic Name.
            size: The size of its payload in bytes.
            qos: 0, 1 or 2.
            retain: Its RETAIN flag.
        """
        values: dict[str, str | int] = {"topic": topic, "payload": size, "qos": qos}
        if retain:
            values["retain"] = topic
        return self._broken(values)

    def subscribe_rules(self, topic_filter: str, qos: int, standing: Iterable[str] = ()) -> list[Rule]:
        """Return the rules that a subscription breaks.

        Args:
            topic_filter: Its Topic Filter.
            qos: The requested QoS, 0, 1 or 2.
            standing: The Topic Filters of the client's other subscriptions.
        """
        values: dict[str, str | int] = {"filter": topic_filter, "qos": qos}
        if any(each != topic_filter and overlap(each, topic_filter) for each in standing):
            values["overlap"] = topic_filter
        return self._broken(values)

    def objection_to_publish(self, topic: str, size: int, qos: int, retain: bool = False) -> Unsupported | None:
        """Return the error for a message that must not be sent, or None.

        Args:
            topic: Its Topic Name.
            size: The size of its payload in bytes.
            qos: 0, 1 or 2.
            retain: Its RETAIN flag.

        Examples:
            >>> from mqttws import PROFILES
            >>> print(PROFILES["aws-iot"].objection_to_publish("a/b", 5, qos=2))
            the message to 'a/b' is not sent: AWS IoT Core closes the connection if the QoS is 2
        """
        if not self.rules:
            return None
        return self.objection(f"the message to {topic!r}", self.publish_rules(topic, size, qos, retain))

    def objection_to_subscribe(self, topic_filter: str, qos: int = 0) -> Unsupported | None:
        """Return the error for a subscription that must not be requested, or None.

        Args:
            topic_filter: Its Topic Filter.
            qos: The requested QoS, 0, 1 or 2.
        """
        return self.objection(f"the Topic Filter {topic_filter!r}", self.subscribe_rules(topic_filter, qos))

    def _broken(self, values: Mapping[str, str | int]) -> list[Rule]:
        return [rule for rule in self.rules if rule.what in values and rule.broken_by(values[rule.what])]

    def objection(self, subject: str, rules: list[Rule]) -> Unsupported | None:
        """Return the error for a request that breaks rules, or None if they only cause warnings.

        Args:
            subject: A description of the request, for the error message.
            rules: The rules that it breaks.
        """
        says = [rule.says for rule in rules if rule.refuses]
        return Unsupported(f"{subject} is not sent: {self.server} {'; it '.join(says)}") if says else None


_UNDELIVERED_SHARES = Rule(
    "shared", "filter", r"^\$share/", "grants shared subscriptions, but delivers nothing to them"
)

_NOT_RETAINED = Rule(
    "retained_by_wildcard",
    "filter",
    r"[+#]",
    "sends no retained messages for Topic Filters with wildcards",
    refuses=False,
)

#: AWS IoT measures a Topic Name without `$aws/rules/<rule>/`. With `?+` the search never tries it with that prefix.
_AFTER_BASIC_INGEST = r"^(?:\$aws/rules/[^/]*(?:/|\Z))?+"

#: The profiles, by the value of the option `server`.
PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "plain": Profile("any server", ""),
        "mosquitto": Profile("Mosquitto", "2.0.11"),
        "nats": Profile(
            "NATS",
            "2.15.1",
            (
                Rule("space_in_topic", "topic", " ", "closes the connection if a Topic Name contains a space"),
                Rule("space_in_filter", "filter", " ", "refuses a Topic Filter that contains a space"),
                Rule(
                    "large_payload",
                    "payload",
                    1024 * 1024,
                    "closes the connection if a payload has more than 1 MiB, unless its max_payload is higher",
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
                Rule("retained_elsewhere", "retain", None, "keeps a retained message on one node only", refuses=False),
                _UNDELIVERED_SHARES,
            ),
            max_qos=1,
        ),
        "aws-iot": Profile(
            "AWS IoT Core",
            "as documented in 2026",
            (
                Rule("qos_2", "qos", 1, "closes the connection if the QoS is 2"),
                Rule(
                    "nine_levels",
                    "topic",
                    _AFTER_BASIC_INGEST + r"[^/]*(/[^/]*){8}",
                    "accepts at most 7 slashes in a Topic Name, after the prefix of Basic Ingest",
                ),
                Rule(
                    "nine_levels", "filter", r"^(?!\$)[^/]*(/[^/]*){8}", "accepts at most 7 slashes in a Topic Filter"
                ),
                Rule("parent_level", "filter", r"/#$", "does not match 'a' by 'a/#'", refuses=False),
                _NOT_RETAINED,
                Rule(
                    "long_topic",
                    "topic",
                    _AFTER_BASIC_INGEST + r"(?s:.{257})",
                    "accepts at most 256 bytes in a Topic Name, after the prefix of Basic Ingest",
                ),
                Rule("large_payload", "payload", 128 * 1024, "accepts at most 128 KiB in a message"),
            ),
        ),
    }
)


def overlap(one: str, other: str) -> bool:
    """Return whether there is a topic that both Topic Filters match. Spec: §4.7."""
    ones, others = one.split("/"), other.split("/")
    if "$" in (one[:1], other[:1]) and one[:1] != other[:1]:  # [MQTT-4.7.2-1]
        return False
    for left, right in zip(ones, others, strict=False):
        if "#" in (left, right):
            return True
        if left != right and "+" not in (left, right):
            return False
    missing = sorted((ones, others), key=len)[1][min(len(ones), len(others)) :]
    return missing in ([], ["#"])  # "a/#" also matches "a"
