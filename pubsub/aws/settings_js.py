"""Reading the object that a JavaScript file of settings exports, such as Amplify's `aws-exports.js`.

Nothing is executed. The reader accepts what such files contain: comments, single quotes, unquoted keys, trailing commas
and the annotations of TypeScript.

A value that is not a literal (a call, `process.env.X`, a spread) is not an error, but an `Expression` with its text. So
it is an error only if that setting is needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

__all__ = ["Expression", "JSValue", "read_exported_object"]

_DEEPEST = 50

_TOKEN = re.compile(
    r"""
      (?P<space>  \s+ | //[^\n]* | /\*.*?\*/ )
    | (?P<string> '(?:[^'\\\n]|\\.)*' | "(?:[^"\\\n]|\\.)*" | `(?:[^`\\]|\\.)*` )
    | (?P<number> 0[xX][0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)? )
    | (?P<name>   [\w$]+ )
    | (?P<punct>  \.\.\. | => | [=!]==? | [^\s\w'"`] )
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|(\r\n|.))", re.DOTALL)
_PLAIN_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f", "v": "\v", "0": "\0"}
_LITERALS: dict[str, JSValue] = {"true": True, "false": False, "null": None, "undefined": None}
_OPENING = {"{": "}", "[": "]", "(": ")"}


@dataclass(frozen=True, slots=True)
class Expression:
    """A value that would have to be evaluated.

    Args:
        text: The source text.
    """

    text: str


JSValue: TypeAlias = "str | float | bool | Expression | list[JSValue] | dict[str, JSValue] | None"


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


def read_exported_object(source: str) -> dict[str, JSValue]:
    """Read the object that a module exports.

    That is the object in `export default {…}` or `module.exports = {…}`, or the object of the variable that is named
    there, or the only object of the file.

    Args:
        source: The text of the file.

    Raises:
        ValueError: There is no such object, or the text is not JavaScript; the message contains the line.
    """
    reader = _Reader(source)
    named: dict[str, dict[str, JSValue]] = {}
    exported: str | None = None
    previous = name = ""
    while (token := reader.next()).kind != "end":
        if token.text == "{" and previous in ("=", "default"):
            found = reader.object(0)
            if previous == "default" or name == "exports":
                return found
            named[name] = found
            # `const a = {…}, b = {…}`: another declaration follows the comma.
            previous = "const" if reader.take(",") else ""
            continue
        elif token.text in _OPENING:
            reader.skip_group(token)
        elif token.kind == "name" and (previous == "default" or (previous == "=" and name == "exports")):
            exported = token.text
        elif token.kind == "name" and (previous in ("const", "let", "var") or token.text == "exports"):
            name = token.text
        previous = token.text
    if exported in named:
        return named[exported]
    if len(named) == 1:
        return next(iter(named.values()))
    seen = "no object" if not named else "the objects " + ", ".join(sorted(named)) + ", none of them exported"
    raise ValueError(f"expected one exported object, as in 'export default {{…}}'; found {seen}")


class _Reader:
    """A reader of the tokens of a text."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = list(self._scan())
        self._at = 0

    def _scan(self) -> Iterator[_Token]:
        at = 0
        while at < len(self._source):
            found = _TOKEN.match(self._source, at)
            # `/` and `*` are also punctuation, so a comment without an end would be read as punctuation.
            if found is None or (found["punct"] == "/" and self._source.startswith("/*", at)):
                what = "comment" if found else "text in quotes"
                raise ValueError(f"line {self._line(at)}: a {what} that is never closed")
            if found["space"] is None:
                yield _Token(found.lastgroup or "", found[0], at, found.end())
            at = found.end()
        yield _Token("end", "", at, at)

    def _line(self, at: int) -> int:
        return self._source.count("\n", 0, at) + 1

    def next(self) -> _Token:
        """Return the next token; at the end, the end token each time."""
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def take(self, text: str) -> bool:
        """Consume the next token if it is this punctuation. Return whether it was."""
        found = self._peek().kind == "punct" and self._peek().text == text
        if found:
            self.next()
        return found

    def _peek(self) -> _Token:
        return self._tokens[self._at]

    def skip_group(self, opening: _Token) -> None:
        """Skip all tokens up to the one that closes the bracket just consumed."""
        expected = [_OPENING[opening.text]]
        while expected:
            token = self.next()
            if token.kind == "end":
                raise ValueError(f"line {self._line(opening.start)}: {opening.text!r} is never closed")
            if token.kind == "punct" and token.text in _OPENING:
                expected.append(_OPENING[token.text])
            elif token.kind == "punct" and token.text == expected[-1]:
                expected.pop()

    def object(self, depth: int) -> dict[str, JSValue]:
        """Read an object, after its opening brace."""
        made: dict[str, JSValue] = {}
        for key in self._members("}", depth):
            if key.kind in ("string", "name", "number") and self._peek().text == ":":
                self.next()
                made[_unquoted(key.text) if key.kind == "string" else key.text] = self._value(self.next(), depth)
            else:
                self._expression(key)  # a spread, a shorthand, a method: it would have to be evaluated
        return made

    def _array(self, depth: int) -> list[JSValue]:
        return [self._value(token, depth) for token in self._members("]", depth)]

    def _members(self, closing: str, depth: int) -> Iterator[_Token]:
        """Return the first token of each member, up to the closing bracket."""
        opening = self._tokens[self._at - 1]
        if depth > _DEEPEST:
            raise ValueError(f"line {self._line(opening.start)}: nested more than {_DEEPEST} deep")
        while (token := self.next()).text != closing or token.kind != "punct":
            if token.kind == "end":
                raise ValueError(f"line {self._line(opening.start)}: {opening.text!r} is never closed")
            if token.text != ",":
                yield token

    def _value(self, token: _Token, depth: int) -> JSValue:
        start = self._at
        value: JSValue
        if token.text == "{" and token.kind == "punct":
            value = self.object(depth + 1)
        elif token.text == "[" and token.kind == "punct":
            value = self._array(depth + 1)
        elif token.kind == "string" and not (token.text[0] == "`" and "${" in token.text):
            value = _unquoted(token.text)
        elif token.kind == "number":
            value = float(int(token.text, 16)) if token.text[:2] in ("0x", "0X") else float(token.text)
        elif token.kind == "name" and token.text in _LITERALS:
            value = _LITERALS[token.text]
        else:
            return self._expression(token)
        if self._peek().kind == "punct" and self._peek().text in ",}]":
            return value
        self._at = start  # more follows: this was only the beginning of an expression
        return self._expression(token)

    def _expression(self, first: _Token) -> Expression:
        """Read an expression, up to the comma or the bracket that ends it."""
        if first.kind == "punct" and first.text in _OPENING:
            self.skip_group(first)
        while not (self._peek().kind == "punct" and self._peek().text in ",}])") and self._peek().kind != "end":
            token = self.next()
            if token.kind == "punct" and token.text in _OPENING:
                self.skip_group(token)
        return Expression(self._source[first.start : self._tokens[self._at - 1].end])


def _unquoted(text: str) -> str:
    def plain(found: re.Match[str]) -> str:
        code = found[1] or found[2] or found[3]
        if code:
            number = int(code, 16)
            if number > 0x10FFFF:
                raise ValueError(f"{found[0]!r} is not a character; the last one is \\u{{10FFFF}}")
            return chr(number)
        char = found[4]
        return "" if char in ("\n", "\r\n") else _PLAIN_ESCAPES.get(char, char)

    # A character beyond U+FFFF may be written as a surrogate pair.
    return _ESCAPE.sub(plain, text[1:-1]).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
