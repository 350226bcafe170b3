"""The conditions of a policy's statement: `{"StringLike": {"iot:DomainName": ["*.example.com"]}}`.

A condition is parsed and checked once, with the policy, including its numbers, dates and networks. So an error message
contains its place in the policy. `holds(keys)` evaluates it for the keys of a connection. This module is independent of
actions, resources and effects, and reads no clock: the time is a key like any other.

Every operator creates a *test* of one value of the request from one value in the policy. Negation, several values,
`ForAllValues`, `ForAnyValue` and `…IfExists` are the same for all operators, and implemented once, in
`Condition.holds`.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias, TypeVar

from pubsub.aws.local.policy_match import Lookup, Template, normal_key

__all__ = ["Condition", "Keys", "lookup_in"]

Keys: TypeAlias = Mapping[str, tuple[str, ...]]
"""The keys of a request: normal key -> its values, in order. A key without values is the same as no key."""

_Test: TypeAlias = Callable[[str], bool]
_Bind: TypeAlias = Callable[[Lookup], "_Test | None"]
_Prepare: TypeAlias = Callable[[str, bool], _Bind]
_T = TypeVar("_T")

_QUALIFIERS = {"forallvalues": "all", "foranyvalue": "any"}


def lookup_in(keys: Keys) -> Lookup:
    """Return the lookup of variables in keys: the value of a variable is the first value of the key."""
    return lambda name: next(iter(keys.get(name, ())), None)


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition: an operator, a key, and values.

    Args:
        source: The operator and the key as written, for messages.
        key: The normal key.
        negated: Whether the operator is a negation, such as `StringNotEquals`.
        qualifier: "all", "any" or None.
        if_exists: Whether the condition holds if the key is absent.
        null: For the operator `Null`: whether the key must be absent; otherwise None.
        binds: For each value a function that creates its test.
        needs: The normal keys that it reads, including those of its variables.
    """

    source: str
    key: str
    negated: bool
    qualifier: str | None
    if_exists: bool
    null: tuple[bool, ...] | None
    binds: tuple[_Bind, ...]
    needs: frozenset[str]

    @classmethod
    def parse(cls, name: str, key: str, values: list[str], *, variables: bool) -> Condition:
        """Read one condition.

        Args:
            name: The operator with its prefix and suffix: `ForAnyValue:StringLikeIfExists`.
            key: The key, in any case.
            values: The values. An empty list is allowed, and matches nothing.
            variables: Whether `${…}` is a variable in them.

        Raises:
            ValueError: The operator is unknown, or a value has the wrong kind.
        """
        base = name.lower()
        before, colon, rest = base.partition(":")
        qualifier = None
        if colon:
            qualifier, base = _QUALIFIERS.get(before), rest
            if qualifier is None:
                raise ValueError(f"{name!r}: expected ForAllValues: or ForAnyValue: before the operator")
        if_exists = base.endswith("ifexists")
        base = base.removesuffix("ifexists")
        source = f"{name} {key}"
        own = frozenset([normal_key(key)])
        if base == "null":
            if qualifier or if_exists:
                raise ValueError(f"{name!r}: Null cannot be used with ForAllValues, ForAnyValue or IfExists")
            absent = tuple(_boolean(value) for value in values)
            return cls(source, normal_key(key), False, None, False, absent, (), own)
        if base not in _OPERATORS:
            raise ValueError(f"{name!r} is not a known condition operator; is it misspelt?")
        negated, prepare = _OPERATORS[base]
        binds = tuple(prepare(value, variables) for value in values)
        read = (Template.parse(value, variables=variables) for value in values)
        needs = own.union(variable.name for template in read for variable in template.variables())
        return cls(source, normal_key(key), negated, qualifier, if_exists, None, binds, needs)

    def holds(self, keys: Keys, *, granting: bool) -> bool:
        """Return whether the condition holds.

        Args:
            keys: The keys of the request.
            granting: Whether the effect of the statement is Allow. A variable without a value matches nothing. With a
                negated operator that mismatch must not be the reason why something is allowed.
        """
        present = keys.get(self.key, ())
        if self.null is not None:
            return any(absent != bool(present) for absent in self.null)
        if not present:
            if self.if_exists or self.qualifier == "all":
                return True
            return self.negated and self.qualifier is None
        lookup = lookup_in(keys)
        tests = [bind(lookup) for bind in self.binds]
        if self.negated and granting and None in tests:
            return False
        matched = [any(test is not None and test(value) for test in tests) for value in present]
        if self.qualifier == "all":
            return all(found != self.negated for found in matched)
        if self.qualifier == "any":
            return any(found != self.negated for found in matched)
        return any(matched) != self.negated


# --- the operators: from a value in the policy to a test of a value in the request ---


def _string(text: str, variables: bool) -> _Bind:
    template = Template.parse(text, wildcards=False, variables=variables)

    def bind(lookup: Lookup) -> _Test | None:
        wanted = template.text(lookup)
        return None if wanted is None else lambda value: value == wanted

    return bind


def _string_any_case(text: str, variables: bool) -> _Bind:
    template = Template.parse(text, wildcards=False, variables=variables)

    def bind(lookup: Lookup) -> _Test | None:
        wanted = template.text(lookup)
        return None if wanted is None else lambda value: value.casefold() == wanted.casefold()

    return bind


def _like(text: str, variables: bool) -> _Bind:
    template = Template.parse(text, variables=variables)

    def bind(lookup: Lookup) -> _Test | None:
        pattern = template.pattern(lookup)
        return None if pattern is None else pattern.match

    return bind


def _arn(text: str, variables: bool) -> _Bind:
    """Compare the six parts of an ARN one by one, so that no wildcard matches across a colon."""
    templates = Template.parse(text, variables=variables).split(":", 5)
    if len(templates) != 6:
        raise ValueError(f"{text!r} is not an ARN; expected arn:partition:service:region:account:resource")

    def bind(lookup: Lookup) -> _Test | None:
        patterns = [template.pattern(lookup) for template in templates]
        known = [pattern for pattern in patterns if pattern is not None]
        if len(known) != len(patterns):
            return None

        def test(value: str) -> bool:
            parts = value.split(":", 5)
            return len(parts) == 6 and all(one.match(part) for one, part in zip(known, parts, strict=True))

        return test

    return bind


def _constant(parse: Callable[[str], _T], compare: Callable[[_T, _T], bool]) -> _Prepare:
    """Return an operator whose values are parsed with the policy and contain no variables."""

    def prepare(text: str, variables: bool) -> _Bind:
        wanted = parse(text)

        def test(value: str) -> bool:
            try:
                return compare(parse(value), wanted)
            except ValueError:
                return False  # the request's value has another kind: no match, as in AWS

        return lambda lookup: test

    return prepare


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a number; expected for example 10 or 2.5")
    return number


def _date(text: str) -> float:
    """Parse a W3C date or seconds since 1970. Four digits alone are a year."""
    if re.fullmatch(r"\d{5,}(\.\d+)?", text):
        return float(text)
    short = re.fullmatch(r"\d{4}(-\d\d)?", text)
    full = text + "-01-01"[len(text) - 4 :] if short else text
    try:
        moment = datetime.fromisoformat(full)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a date; expected for example 2026-01-31T12:00:00Z, or seconds since 1970"
        ) from None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is not a boolean; expected true or false")
    return text.lower() == "true"


def _binary(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise ValueError(f"{text!r} is not base64") from None


_Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network


def _network(text: str) -> _Network:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not an address; expected for example 203.0.113.0/24 or 2001:db8::/32") from None
    # A dual-stack listener reports an IPv4 peer as ::ffff:a.b.c.d.
    if isinstance(network, ipaddress.IPv6Network) and network.prefixlen == 128:
        mapped = network.network_address.ipv4_mapped
        return network if mapped is None else ipaddress.ip_network(mapped)
    return network


def _inside(address: _Network, network: _Network) -> bool:
    if isinstance(address, ipaddress.IPv4Network) and isinstance(network, ipaddress.IPv4Network):
        return address.subnet_of(network)
    if isinstance(address, ipaddress.IPv6Network) and isinstance(network, ipaddress.IPv6Network):
        return address.subnet_of(network)
    return False


def _comparisons(kind: str, parse: Callable[[str], float]) -> dict[str, tuple[bool, _Prepare]]:
    return {
        f"{kind}equals": (False, _constant(parse, operator.eq)),
        f"{kind}notequals": (True, _constant(parse, operator.eq)),
        f"{kind}lessthan": (False, _constant(parse, operator.lt)),
        f"{kind}lessthanequals": (False, _constant(parse, operator.le)),
        f"{kind}greaterthan": (False, _constant(parse, operator.gt)),
        f"{kind}greaterthanequals": (False, _constant(parse, operator.ge)),
    }


_OPERATORS: dict[str, tuple[bool, _Prepare]] = {
    "stringequals": (False, _string),
    "stringnotequals": (True, _string),
    "stringequalsignorecase": (False, _string_any_case),
    "stringnotequalsignorecase": (True, _string_any_case),
    "stringlike": (False, _like),
    "stringnotlike": (True, _like),
    "arnequals": (False, _arn),
    "arnlike": (False, _arn),
    "arnnotequals": (True, _arn),
    "arnnotlike": (True, _arn),
    **_comparisons("numeric", _number),
    **_comparisons("date", _date),
    "bool": (False, _constant(_boolean, operator.eq)),
    "binaryequals": (False, _constant(_binary, operator.eq)),
    "ipaddress": (False, _constant(_network, _inside)),
    "notipaddress": (True, _constant(_network, _inside)),
}
"""Operator, in lower case -> whether it is a negation, and the function that parses its values."""
