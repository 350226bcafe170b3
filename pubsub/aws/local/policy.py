"""The authorization of a connection by its policies, as AWS IoT documents it.

    document = PolicyDocument.parse(text, name="myIOTPolicy")
    authorizer = Authorizer(context, role=[role_policy], iot=[document])
    decision = authorizer.publish("chat/hello", retain=False)
    if not decision:
        log.warning("%s", decision.reason)      # the statement and the policy, in one line

A Deny in any policy prevails. Otherwise every *side* that applies must have a statement that allows. The sides are the
policies of the role of the credentials, and the AWS IoT policies attached to the principal:

    principal                              role       iot
    a guest of a Cognito identity pool     applies    None
    an authenticated Cognito identity      applies    applies
    an IAM user or role                    applies    None
    a client's certificate                 None       applies

At the first decision about an action, everything that depends only on the connection is computed, once: the statements
that apply to the action, the values of the variables, and the conditions. Later decisions only match the resource, and
those about the latest names are cached. Conditions on the time are evaluated each time.

There is no I/O, and a decision never raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache

from pubsub.aws.local.policy_conditions import Condition, Keys
from pubsub.aws.local.policy_document import PolicyDocument, PolicyError, Statement
from pubsub.aws.local.policy_explain import why_not
from pubsub.aws.local.policy_match import Pattern
from pubsub.aws.local.policy_variables import ConnectionContext, Thing, careful_lookup, keys_of_role

__all__ = ["Authorizer", "ConnectionContext", "Decision", "PolicyDocument", "PolicyError", "Thing"]

_KINDS = {
    "iot:Connect": "client",
    "iot:Publish": "topic",
    "iot:RetainPublish": "topic",
    "iot:Receive": "topic",
    "iot:Subscribe": "topicfilter",
}
"""The actions of MQTT -> the kind of resource that each applies to."""

_ROLE = "role"
_MOST_DECIDED = 250  # names whose decisions are remembered, for each action of a connection
_TIME_KEYS = frozenset(["aws:currenttime", "aws:epochtime"])


@dataclass(frozen=True, slots=True)
class Decision:
    """A decision and its reason. True as a condition if allowed.

    Args:
        allowed: Whether the action is allowed.
        action: The action, for example `iot:Publish`.
        resource: The ARN of the resource.
        policy: The name of the policy with the deciding statement; None if no statement allows the action.
        statement: The deciding statement: `statement 2 (Sid 'Talk')`; None as for `policy`.
        reason: One line for the developer.
    """

    allowed: bool
    action: str
    resource: str
    policy: str | None
    statement: str | None
    reason: str

    def __bool__(self) -> bool:
        return self.allowed


@dataclass(frozen=True, slots=True)
class _Rule:
    """A statement for one action, with everything computed that depends only on the connection."""

    side: str
    policy: str
    statement: Statement
    patterns: tuple[Pattern, ...]
    timed: tuple[Condition, ...]

    def applies(self, resource: str, keys_now: Callable[[str], Keys]) -> bool:
        if any(pattern.match(resource) for pattern in self.patterns) == self.statement.not_resources:
            return False
        if not self.timed:
            return True
        keys = keys_now(self.side)
        return all(condition.holds(keys, granting=self.statement.allows) for condition in self.timed)

    @property
    def named(self) -> str:
        return f"{self.statement.name} of {self.side} policy {self.policy!r}"


class _Rules:
    """The rules for one action: those that deny, and those that allow, by side."""

    def __init__(self, action: str, sides: Mapping[str, Sequence[PolicyDocument]], keys: Keys) -> None:
        self.deny: list[_Rule] = []
        self.allow: dict[str, list[_Rule]] = {side: [] for side in sides}
        self.decided: dict[str, Decision] = {}  # by name: the decisions that no time can change
        self.keys = {side: keys_of_role(keys) if side == _ROLE else keys for side in sides}
        for side, policies in sides.items():
            for policy in policies:
                for statement in policy.statements:
                    rule = (
                        _settle(side, policy, statement, action, self.keys[side]) if statement.covers(action) else None
                    )
                    if rule is not None:
                        (self.allow[side] if statement.allows else self.deny).append(rule)
        self.is_timed = any(rule.timed for rules in (self.deny, *self.allow.values()) for rule in rules)


def _settle(side: str, policy: PolicyDocument, statement: Statement, action: str, keys: Keys) -> _Rule | None:
    """Compute the rule of a statement for a connection; None if the statement can never apply to it."""
    timed = tuple(one for one in statement.conditions if one.needs & _TIME_KEYS)
    for condition in statement.conditions:
        if condition not in timed and not condition.holds(keys, granting=statement.allows):
            return None
    # Values need no check in resources that only restrict: those of a Deny, and the NotResource of an Allow.
    kind = _KINDS.get(action, "") if statement.allows != statement.not_resources else ""
    resolved = [template.pattern(careful_lookup(keys, kind, template)) for template in statement.resources]
    # A variable without a value matches nothing. In NotResource that would allow everything.
    if statement.not_resources and statement.allows and None in resolved:
        return None
    patterns = tuple(pattern for pattern in resolved if pattern is not None)
    return _Rule(side, policy.name, statement, patterns, timed)


class Authorizer:
    """The policies of one connection, compiled for it.

    Args:
        context: The attributes of the connection.
        role: The policies of the role or user; None if that side does not apply.
        iot: The AWS IoT policies attached to the principal; None if that side does not apply.
        clock: Returns the time in seconds since 1970; called only for conditions on the time.

    Raises:
        ValueError: Neither side is given, so nothing could be allowed.
    """

    def __init__(
        self,
        context: ConnectionContext,
        *,
        role: Sequence[PolicyDocument] | None = None,
        iot: Sequence[PolicyDocument] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        sides = {_ROLE: role, "IoT": iot}
        self.context = context
        self._sides = {side: tuple(policies) for side, policies in sides.items() if policies is not None}
        if not self._sides:
            raise ValueError("expected the policies of the role, the IoT policies, or both; got neither")
        self._clock = clock
        self._rules: dict[str, _Rules] = {}

    # --- the actions ---

    def connect(self) -> Decision:
        """Decide whether the client may connect, with its client id, the topic of its will and its kind of session."""
        return self._decide("iot:Connect", self.context.client_id)

    def publish(self, topic: str, *, retain: bool = False) -> Decision:
        """Decide whether the client may publish to a Topic Name. A retained message needs another permission."""
        decision = self._decide("iot:Publish", topic)
        return self._decide("iot:RetainPublish", topic) if decision and retain else decision

    def subscribe(self, topic_filter: str) -> Decision:
        """Decide whether the client may subscribe to a Topic Filter. `+` and `#` are ordinary characters here."""
        return self._decide("iot:Subscribe", topic_filter)

    def receive(self, topic: str) -> Decision:
        """Decide whether a message with a Topic Name may be delivered to the client."""
        return self._decide("iot:Receive", topic)

    # --- decisions ---

    def _decide(self, action: str, name: str) -> Decision:
        rules = self._rules_for(action)
        if rules.is_timed:
            return self._work_out(rules, action, name)
        decision = rules.decided.get(name)
        if decision is None:
            if len(rules.decided) >= _MOST_DECIDED:
                rules.decided.clear()
            decision = rules.decided[name] = self._work_out(rules, action, name)
        return decision

    def _work_out(self, rules: _Rules, action: str, name: str) -> Decision:
        resource = self.context.arn(_KINDS[action], name)

        @cache  # one time per decision, computed only if a condition needs it
        def now_once() -> datetime:
            return datetime.fromtimestamp(self._clock(), UTC)

        def keys_now(side: str) -> Keys:
            now = now_once()
            seconds = str(now.timestamp())
            return {**rules.keys[side], "aws:currenttime": (now.isoformat(),), "aws:epochtime": (seconds,)}

        for rule in rules.deny:
            if rule.applies(resource, keys_now):
                said = f"{action} on {resource!r} is denied by {rule.named}"
                return Decision(False, action, resource, rule.policy, rule.statement.name, said)
        granted = []
        for side, allowing in rules.allow.items():
            found = next((rule for rule in allowing if rule.applies(resource, keys_now)), None)
            if found is None:
                why = why_not(side, self._sides[side], action, resource, keys_now(side))
                said = f"{action} on {resource!r} is not allowed: {why}"
                return Decision(False, action, resource, None, None, said)
            granted.append(found)
        said = f"{action} on {resource!r} is allowed by " + " and ".join(rule.named for rule in granted)
        return Decision(True, action, resource, granted[-1].policy, granted[-1].statement.name, said)

    def _rules_for(self, action: str) -> _Rules:
        rules = self._rules.get(action)
        if rules is None:
            keys = dict(self.context.keys())
            if action == "iot:Connect":
                keys.update(self.context.connect_keys())
            rules = self._rules[action] = _Rules(action, self._sides, keys)
        return rules
