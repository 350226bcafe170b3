"""Explanations of refusals: why no policy allowed a request, in one line that shows a developer what to change.

This is called only after a refusal, so it does not slow down decisions.

Of all statements that allow the action, the closest one is probably the one that was meant. Each is tried, and the
reasons why it does not apply are ranked: first a condition; then frequent mistakes (an unknown variable, the wrong kind
of resource, MQTT wildcards, another region or account); then simply another resource.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pubsub.aws.local.policy_conditions import Condition, Keys, lookup_in
from pubsub.aws.local.policy_document import PolicyDocument, Statement
from pubsub.aws.local.policy_match import Pattern, Template, Wildcard
from pubsub.aws.local.policy_variables import careful_lookup

__all__ = ["why_not"]

_OTHER_KIND = {"topic": "topicfilter", "topicfilter": "topic"}
_MOST_SHOWN = 3


def why_not(side: str, policies: Sequence[PolicyDocument], action: str, resource: str, keys: Keys) -> str:
    """Return why no statement of one side's policies allows a request.

    Args:
        side: The name of the side: `role` or `IoT`.
        policies: Its policies, possibly none.
        action: The action, for example `iot:Publish`.
        resource: The requested ARN.
        keys: The keys of the request, including the time.
    """
    if not policies:
        return f"no {side} policy is attached; attach one that allows {action}"
    found = sorted(_misses(side, policies, action, resource, keys), key=lambda miss: miss[0])
    if found:
        return found[0][1]
    names = ", ".join(repr(policy.name) for policy in policies)
    return f"no statement of {side} policy {names} allows the action {action}"


def _misses(
    side: str, policies: Sequence[PolicyDocument], action: str, resource: str, keys: Keys
) -> Iterator[tuple[int, str]]:
    """Yield, for each statement that allows the action, the rank and the description of the mismatch."""
    for policy in policies:
        for statement in policy.statements:
            if statement.allows and statement.covers(action):
                rank, why = _miss(statement, resource, keys)
                yield rank, f"{statement.name} of {side} policy {policy.name!r} {why}"


def _miss(statement: Statement, resource: str, keys: Keys) -> tuple[int, str]:
    kind = "" if statement.not_resources else resource.split(":", 5)[5].partition("/")[0]
    lookups = [careful_lookup(keys, kind, template) for template in statement.resources]
    patterns = [template.pattern(lookup) for template, lookup in zip(statement.resources, lookups, strict=True)]
    matches = any(one is not None and one.match(resource) for one in patterns)
    if None in patterns and (statement.not_resources or not matches):
        index = patterns.index(None)
        template = statement.resources[index]
        unknown = next(one.name for one in template.variables() if one.value(lookups[index]) is None)
        known = lookup_in(keys)(unknown)
        lack = "has no value here" if known is None else f"is {known!r} here, which must not be a part of a topic"
        return 1, f"names {template.source!r}, and ${{{unknown}}} {lack}"
    if matches != statement.not_resources:
        failed = next(one for one in statement.conditions if not one.holds(keys, granting=True))
        return 0, f"would, but its condition {_condition(failed, keys)}"
    if statement.not_resources:
        return 1, "allows all but some resources, and this is one of those"
    for template in statement.resources:
        slip = _slip(template, resource, keys)
        if slip is not None:
            return 1, f"names {template.source!r}: {slip}"
    shown = [repr(template.source) for template in statement.resources[:_MOST_SHOWN]]
    more = len(statement.resources) - len(shown)
    return 2, "allows only " + ", ".join(shown) + (f" and {more} more" if more else "")


def _condition(condition: Condition, keys: Keys) -> str:
    values = keys.get(condition.key, ())
    seen = f"the value here is {', '.join(map(repr, values))}" if values else "that key has no value here"
    return f"{condition.source} does not hold: {seen}"


def _slip(template: Template, resource: str, keys: Keys) -> str | None:
    """Return a description of a frequent mistake without which the resource would match, or None."""
    *head, last = resource.split(":", 5)
    kind, _, name = last.partition("/")
    other = _OTHER_KIND.get(kind)
    lookup = lookup_in(keys)
    pattern = template.pattern(lookup)
    if pattern is not None and other and pattern.match(":".join([*head, f"{other}/{name}"])):
        return f"this action applies to {kind}/, not {other}/"
    pieces = template.split(":", 5)
    tail = pieces[-1].pattern(lookup)
    if len(pieces) == 6 and tail is not None and tail.match(last):
        return "the partition, region or account is not " + ":".join(head)
    parts = template.resolve(lookup)
    if parts is not None and Pattern(tuple(_as_policy_wildcards(parts))).match(resource):
        return "'+' and '#' are not wildcards in a policy; use '*' instead"
    return None


def _as_policy_wildcards(parts: tuple[str | Wildcard, ...]) -> Iterator[str | Wildcard]:
    for part in parts:
        if isinstance(part, Wildcard):
            yield part
        else:
            yield from (Wildcard.MANY if char in "+#" else char for char in part)
