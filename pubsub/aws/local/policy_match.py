"""Pattern matching for the texts of a policy: literals, the wildcards `*` and `?`, and variables `${…}`.

A text is parsed once into a `Template`. With the values of a connection a template becomes a `Pattern`, whose method
`match` tests a text. This module is independent of actions, resources and conditions.

A pattern is a nondeterministic automaton: a sequence of symbols, with a state between any two. The set of the states
that are possible after the characters read so far is one integer, with a bit for each state. Each character changes the
whole set with a few bit operations. So the time of a match is proportional to the length of the text for every pattern:
there is no backtracking.

The value of a variable is always literal: a client id of `*` is the character `*`. `+` and `#` have no special meaning,
as in AWS's policies.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

__all__ = ["Lookup", "Pattern", "Template", "Variable", "Wildcard", "normal_key"]

Lookup: TypeAlias = Callable[[str], str | None]
"""Returns the value of a variable by its normal key, or None if this connection has none."""

_ESCAPES = {"*": "*", "?": "?", "$": "$"}
_VARIABLE = re.compile(r"\s*(?P<name>[^\s,'{}]+)\s*(?:,\s*'(?P<default>[^']*)'\s*)?")


class Wildcard(enum.Enum):
    """The two wildcards of a policy."""

    MANY = "*"
    ONE = "?"


class Variable(NamedTuple):
    """`${name}` or `${name, 'default'}`; `name` is the normal key."""

    name: str
    default: str | None

    def value(self, lookup: Lookup) -> str | None:
        """Return the value or the default; None if there is neither."""
        found = lookup(self.name)
        return self.default if found is None else found


Part: TypeAlias = str | Wildcard | Variable


def normal_key(name: str) -> str:
    """Return the form of a key in which keys are compared.

    The names of keys are case-insensitive. The name of a thing's attribute, in brackets, is case-sensitive.

    Args:
        name: The key, for example `iot:ClientId` or `iot:Connection.Thing.Attributes[Floor]`.
    """
    head, bracket, attribute = name.partition("[")
    return head.lower() + bracket + attribute


class Pattern:
    """A pattern of literals and wildcards.

    Args:
        parts: Literal texts and wildcards, in order.
    """

    __slots__ = ("_accept", "_any", "_literal", "_loops", "_masks", "_prefix")

    def __init__(self, parts: tuple[str | Wildcard, ...]) -> None:
        text = "".join(part for part in parts if isinstance(part, str))
        wild = [part for part in parts if isinstance(part, Wildcard)]
        self._literal = None if wild else text
        self._prefix = text if wild == [Wildcard.MANY] and parts[-1] is Wildcard.MANY else None
        self._masks: dict[str, int] = {}
        self._any = self._loops = 0
        place = 1
        for symbol in _symbols(parts):
            if symbol is Wildcard.MANY:
                self._loops |= place
                continue
            if symbol is Wildcard.ONE:
                self._any |= place
            else:
                self._masks[symbol] = self._masks.get(symbol, 0) | place
            place <<= 1
        self._accept = place
        for char in self._masks:
            self._masks[char] |= self._any

    def match(self, text: str) -> bool:
        """Return whether the pattern matches the whole text. Takes at most one step for each character."""
        if self._literal is not None:
            return text == self._literal
        if self._prefix is not None:
            return text.startswith(self._prefix)
        masks, fits_any, loops = self._masks, self._any, self._loops
        places = 1
        for char in text:
            # A state advances if its symbol matches this character; the state of a `*` may also stay.
            places = (places & masks.get(char, fits_any)) << 1 | places & loops
            if not places:
                return False
        return bool(places & self._accept)


def _symbols(parts: tuple[str | Wildcard, ...]) -> Iterator[str | Wildcard]:
    for part in parts:
        if isinstance(part, str):
            yield from part
        else:
            yield part


class Template:
    """A parsed text of a policy: literals, wildcards and variables.

    Args:
        parts: The parts of the text, in order.
        source: The text as written, for messages.
    """

    __slots__ = ("parts", "source")

    def __init__(self, parts: tuple[Part, ...], source: str) -> None:
        self.parts = parts
        self.source = source

    @classmethod
    def parse(cls, source: str, *, wildcards: bool = True, variables: bool = True) -> Template:
        """Read a text of a policy.

        Args:
            source: The text.
            wildcards: Whether `*` and `?` are wildcards; otherwise they are literals.
            variables: Whether `${…}` is a variable; in a policy of a version before 2012-10-17 it is literal.

        Raises:
            ValueError: A `${` is not closed, or does not contain the name of a variable.
        """
        parts: list[Part] = []
        at = 0
        while at < len(source):
            if variables and source.startswith("${", at):
                end = source.find("}", at)
                if end < 0:
                    raise ValueError(f"{source!r} opens a variable with '${{' and never closes it; add '}}'")
                parts.append(_read_variable(source[at + 2 : end], source))
                at = end + 1
            else:
                char = source[at]
                parts.append(Wildcard(char) if wildcards and char in "*?" else char)
                at += 1
        return cls(_joined(parts), source)

    def variables(self) -> list[Variable]:
        """Return the variables of the text."""
        return [part for part in self.parts if isinstance(part, Variable)]

    def split(self, separator: str, count: int) -> list[Template]:
        """Split the template at the first `count` separators (one character each) that are literals."""
        pieces: list[list[Part]] = [[]]
        for part in self.parts:
            if not isinstance(part, str):
                pieces[-1].append(part)
                continue
            texts = part.split(separator, count - len(pieces) + 1)
            pieces[-1].append(texts[0])
            pieces.extend([text] for text in texts[1:])
        return [Template(_joined(piece), self.source) for piece in pieces]

    def resolve(self, lookup: Lookup) -> tuple[str | Wildcard, ...] | None:
        """Replace the variables by their values, as literals.

        Returns:
            The parts; None if a variable has no value: such a text matches nothing.
        """
        resolved: list[str | Wildcard] = []
        for part in self.parts:
            if isinstance(part, Variable):
                value = part.value(lookup)
                if value is None:
                    return None
                resolved.append(value)
            else:
                resolved.append(part)
        return tuple(resolved)

    def pattern(self, lookup: Lookup) -> Pattern | None:
        """Return the pattern for these values; None if a variable has no value."""
        parts = self.resolve(lookup)
        return None if parts is None else Pattern(parts)

    def text(self, lookup: Lookup) -> str | None:
        """Return the text for these values, with wildcards as written; None if a variable has no value."""
        parts = self.resolve(lookup)
        if parts is None:
            return None
        return "".join(part.value if isinstance(part, Wildcard) else part for part in parts)


def _read_variable(inside: str, source: str) -> Part:
    if inside in _ESCAPES:
        return _ESCAPES[inside]
    found = _VARIABLE.fullmatch(inside)
    if found is None:
        raise ValueError(
            f"{source!r} contains {f'${{{inside}}}'!r}, which is not a variable; expected ${{name}}, "
            "${name, 'default'}, or one of ${*} ${?} ${$}"
        )
    return Variable(normal_key(found["name"]), found["default"])


def _joined(parts: list[Part]) -> tuple[Part, ...]:
    """Join adjacent literals, and omit the second of two adjacent `*`."""
    joined: list[Part] = []
    for part in parts:
        last = joined[-1] if joined else None
        if isinstance(part, str) and isinstance(last, str):
            joined[-1] = last + part
        elif part != "" and not (part is Wildcard.MANY and last is Wildcard.MANY):
            joined.append(part)
    return tuple(joined)
