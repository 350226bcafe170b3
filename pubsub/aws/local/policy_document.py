"""Policy documents, as JSON or a dict: parsing and validation.

All mistakes that do not depend on a connection are found here, and reported with their place: `policy 'chat', statement
2 (Sid 'Talk'): …`. For the decisions see `policy.Authorizer`.

A parsed document needs no further check: its wildcards, variables, numbers and dates are parsed, too. So compiling it
for a connection cannot fail.

Spec: "IAM JSON policy elements" in the IAM user guide, which AWS IoT policies follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pubsub.aws.local.policy_conditions import Condition
from pubsub.aws.local.policy_match import Pattern, Template

__all__ = ["PolicyDocument", "PolicyError", "Statement"]

_CURRENT_VERSION = "2012-10-17"
_VERSIONS = (_CURRENT_VERSION, "2008-10-17")
_DOCUMENT_ELEMENTS = {"Version", "Id", "Statement"}
_STATEMENT_ELEMENTS = {"Sid", "Effect", "Action", "NotAction", "Resource", "NotResource", "Condition"}


class PolicyError(ValueError):
    """A policy document is not valid. The message contains the place, what was found and what was expected."""


@dataclass(frozen=True, slots=True)
class Statement:
    """One statement of a policy.

    Args:
        name: Its name in messages: `statement 2` or `statement 2 (Sid 'Talk')`; the first is 1.
        allows: Whether its Effect is Allow.
        actions: Patterns of actions, in lower case.
        not_actions: Whether it applies to all actions except these.
        resources: The resources, as written.
        not_resources: Whether it applies to all resources except these.
        conditions: The conditions, all of which must hold.
    """

    name: str
    allows: bool
    actions: tuple[Pattern, ...]
    not_actions: bool
    resources: tuple[Template, ...]
    not_resources: bool
    conditions: tuple[Condition, ...]

    def covers(self, action: str) -> bool:
        """Return whether the statement applies to an action, regardless of case."""
        lowered = action.lower()
        return any(pattern.match(lowered) for pattern in self.actions) != self.not_actions


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """A parsed policy document.

    Args:
        name: Its name in messages.
        statements: The statements, in order.
    """

    name: str
    statements: tuple[Statement, ...]

    @classmethod
    def parse(
        cls, source: str | bytes | Mapping[str, Any], *, name: str = "policy", most: int | None = None
    ) -> PolicyDocument:
        """Read a policy document.

        Args:
            source: JSON, or the same as a dict.
            name: Its name in messages.
            most: The maximum number of characters without white space (AWS IoT: 2,048); None for no limit.

        Raises:
            PolicyError: This is not a policy document.
        """
        where = f"policy {name!r}"
        document = _load(source, where)
        _check_elements(document, _DOCUMENT_ELEMENTS, where)
        if most is not None:
            size = sum(not char.isspace() for char in _text_of(source))
            if size > most:
                raise PolicyError(
                    f"{where}: it has {size} characters without white space, but at most {most} are allowed; "
                    "shorten it with wildcards, or split it into two policies"
                )
        # The default is the older version, which has no variables.
        version = document.get("Version", "2008-10-17")
        if version not in _VERSIONS:
            raise PolicyError(
                f"{where}: Version is {version!r}; expected {_CURRENT_VERSION!r} (the version of the policy "
                "language, not of your policy)"
            )
        given = document.get("Statement")
        listed = [given] if isinstance(given, Mapping) else given
        if not isinstance(listed, list) or not listed:
            raise PolicyError(f"{where}: Statement is {_seen(given)}; expected an object or a list of them")
        read = _StatementReader(where, variables=version == _CURRENT_VERSION)
        return cls(name, tuple(read(index, one) for index, one in enumerate(listed, 1)))


class _StatementReader:
    """A reader of the statements of one document, which checks that their Sids differ."""

    def __init__(self, where: str, *, variables: bool) -> None:
        self._document = where
        self._variables = variables
        self._sids: set[str] = set()

    def __call__(self, index: int, given: object) -> Statement:
        name = f"statement {index}"
        where = f"{self._document}, {name}"
        if not isinstance(given, Mapping):
            raise PolicyError(f"{where}: it is {_seen(given)}; expected an object")
        sid = given.get("Sid", "")
        if not isinstance(sid, str):
            raise PolicyError(f"{where}: Sid is {_seen(sid)}; expected text")
        if sid:
            if sid in self._sids:
                raise PolicyError(f"{where}: Sid {sid!r} occurs twice in this policy; rename one of them")
            self._sids.add(sid)
            name = f"statement {index} (Sid {sid!r})"
            where = f"{self._document}, {name}"
        for principal in ("Principal", "NotPrincipal"):
            if principal in given:
                raise PolicyError(
                    f"{where}: it has {principal}, which only resource policies have; remove it: this policy applies "
                    "to the principals that it is attached to"
                )
        _check_elements(given, _STATEMENT_ELEMENTS, where)
        effect = given.get("Effect")
        if effect not in ("Allow", "Deny"):
            raise PolicyError(f"{where}: Effect is {_seen(effect)}; expected 'Allow' or 'Deny'")
        not_actions, actions = _one_of(given, "Action", where)
        not_resources, resources = _one_of(given, "Resource", where)
        return Statement(
            name=name,
            allows=effect == "Allow",
            actions=tuple(_read_action(text, where) for text in actions),
            not_actions=not_actions,
            resources=tuple(self._read_resource(text, where) for text in resources),
            not_resources=not_resources,
            conditions=self._read_conditions(given.get("Condition", {}), where),
        )

    def _read_resource(self, text: str, where: str) -> Template:
        if text != "*" and not text.startswith("arn:"):
            raise PolicyError(
                f"{where}: Resource {text!r} is not an ARN; expected '*' or for example "
                "'arn:aws:iot:eu-west-1:123456789012:topic/chat/*'"
            )
        try:
            return Template.parse(text, variables=self._variables)
        except ValueError as fault:
            raise PolicyError(f"{where}: Resource {fault}") from None

    def _read_conditions(self, given: object, where: str) -> tuple[Condition, ...]:
        if not isinstance(given, Mapping):
            raise PolicyError(f"{where}: Condition is {_seen(given)}; expected an object")
        conditions = []
        for operator, keys in given.items():
            if not isinstance(keys, Mapping):
                raise PolicyError(
                    f"{where}: Condition {operator!r} is {_seen(keys)}; expected an object of keys and values"
                )
            for key, value in keys.items():
                if not f"{operator}{key}".isprintable():  # messages contain both without escaping
                    raise PolicyError(f"{where}: Condition {operator!r} {key!r}: expected visible characters")
                values = [_condition_value(one, f"{operator} {key}", where) for one in _listed(value)]
                try:
                    conditions.append(Condition.parse(operator, key, values, variables=self._variables))
                except ValueError as fault:
                    raise PolicyError(f"{where}: Condition {operator} {key}: {fault}") from None
        return tuple(conditions)


# --- helper functions ---


def _load(source: str | bytes | Mapping[str, Any], where: str) -> Mapping[str, Any]:
    if isinstance(source, Mapping):
        return source

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise PolicyError(f"{where}: {twice!r} occurs twice in one object; the first would be ignored")
        return made

    try:
        document = json.loads(source, object_pairs_hook=once)
    except RecursionError:
        raise PolicyError(f"{where}: it is nested too deeply to be a policy") from None
    except PolicyError:
        raise
    except ValueError as fault:  # not JSON, or not UTF-8
        raise PolicyError(f"{where}: it is not JSON: {fault}") from None
    if not isinstance(document, dict):
        raise PolicyError(f"{where}: it is {_seen(document)}; expected an object with Version and Statement")
    return document


def _text_of(source: str | bytes | Mapping[str, Any]) -> str:
    if isinstance(source, bytes):
        return source.decode()
    return source if isinstance(source, str) else json.dumps(source, ensure_ascii=False)


def _check_elements(given: Mapping[str, Any], known: set[str], where: str) -> None:
    for element in given:
        if element not in known:
            close = next((name for name in known if name.lower() == str(element).lower()), None)
            hint = f"write {close!r}" if close else "expected only " + ", ".join(sorted(known))
            raise PolicyError(f"{where}: it has an unknown element {element!r}; {hint}")


def _one_of(given: Mapping[str, Any], element: str, where: str) -> tuple[bool, list[str]]:
    """Return whether the Not form is used, and the texts. Exactly one of the two forms must be present."""
    negated = f"Not{element}"
    if (element in given) == (negated in given):
        seen = "both" if element in given else "neither"
        raise PolicyError(f"{where}: it has {seen} of {element} and {negated}; expected one of them")
    name = element if element in given else negated
    texts = _listed(given[name])
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise PolicyError(f"{where}: {name} is {_seen(given[name])}; expected text or a list of texts")
    return name == negated, texts


def _read_action(text: str, where: str) -> Pattern:
    service, colon, action = text.partition(":")
    formed = text == "*" or (service and colon and action)
    if not formed or "${" in text or any(map(str.isspace, text)):
        raise PolicyError(f"{where}: Action {text!r} is not an action; expected for example 'iot:Publish' or '*'")
    parts = Template.parse(text.lower(), variables=False).resolve(lambda name: None)
    return Pattern(parts or ())


def _condition_value(value: object, name: str, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise PolicyError(f"{where}: Condition {name}: a value is {_seen(value)}; expected text")


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _seen(value: object) -> str:
    if value is None:
        return "missing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
