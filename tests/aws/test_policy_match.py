"""Pattern matching, compared with a naive matcher, and its number of steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.aws.local.policy_match import Pattern, Template, Wildcard, normal_key


def nothing(name: str) -> None:
    return None


def pattern(text: str) -> Pattern:
    made = Template.parse(text).pattern(nothing)
    assert made is not None
    return made


def naive(symbols: tuple[str | Wildcard, ...], text: str) -> bool:
    """Match by the definition of the wildcards, as a recursion over both texts."""

    @cache
    def fits(i: int, j: int) -> bool:
        if i == len(symbols):
            return j == len(text)
        if symbols[i] is Wildcard.MANY:
            return fits(i + 1, j) or (j < len(text) and fits(i, j + 1))
        return j < len(text) and symbols[i] in (Wildcard.ONE, text[j]) and fits(i + 1, j + 1)

    return fits(0, 0)


@pytest.mark.parametrize(
    ("written", "text", "fits"),
    [
        ("", "", True),
        ("", "a", False),
        ("a", "a", True),
        ("a", "A", False),
        ("*", "", True),
        ("*", "a/b:c\n", True),
        ("?", "", False),
        ("?", "\n", True),
        ("?", "é", True),
        ("a*", "a", True),
        ("a*", "ba", False),
        ("*a", "ba", True),
        ("*a", "ab", False),
        ("a*b*c", "a--b--c", True),
        ("a*b*c", "a--c--b", False),
        ("a**b", "ab", True),
        ("*?", "", False),
        ("?*?", "ab", True),
        ("?a", "aa", True),
        ("a?", "ab", True),
        ("chat/+/x", "chat/+/x", True),
        ("chat/+/x", "chat/a/x", False),
        ("chat/#", "chat/a", False),
        ("a.c", "abc", False),
        ("[ab]", "a", False),
    ],
)
def test_literals_and_wildcards(written: str, text: str, fits: bool) -> None:
    assert pattern(written).match(text) is fits


CHARS = "ab/é"
SYMBOLS = st.lists(st.sampled_from([*CHARS, Wildcard.MANY, Wildcard.ONE]), max_size=12)


@st.composite
def rows_and_texts(draw: st.DrawFn) -> tuple[tuple[str | Wildcard, ...], str]:
    """Draw a row of symbols and a text that matches it, sometimes changed in one place."""
    row = tuple(draw(SYMBOLS))
    lengths = {Wildcard.MANY: (0, 4), Wildcard.ONE: (1, 1)}
    made = [
        symbol if isinstance(symbol, str) else draw(st.text(CHARS, min_size=least, max_size=most))
        for symbol in row
        for least, most in [lengths.get(symbol, (0, 0))]
    ]
    text = "".join(made)
    if draw(st.booleans()):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", *CHARS])) + text[at + draw(st.integers(0, 1)) :]
    return row, text


@given(rows_and_texts())
def test_agrees_with_the_definition(given_: tuple[tuple[str | Wildcard, ...], str]) -> None:
    row, text = given_
    assert Pattern(row).match(text) is naive(row, text)
    written = "".join(one.value if isinstance(one, Wildcard) else one for one in row)
    assert pattern(written).match(text) is naive(row, text)


@given(st.text(), st.text())
def test_a_text_without_wildcards_matches_only_itself(one: str, other: str) -> None:
    assert Pattern((one,)).match(one)
    assert Pattern((one,)).match(other) is (one == other)


class CountingText(str):
    """A string that counts how many of its characters are examined one by one."""

    steps = 0

    def __iter__(self) -> Iterator[str]:
        for char in super().__iter__():
            self.steps += 1
            yield char


@pytest.mark.parametrize(
    "written",
    [
        "*" + "a*" * 500 + "b",
        "*a" * 700 + "b",
        "*?" * 700 + "b",
        "*" * 2000 + "b",
        "a?" * 1000 + "*b",
        "*" + "a?a" * 300 + "*b",
    ],
)
@pytest.mark.parametrize("text", ["a" * 4000, "ab" * 2000, "a" * 3999 + "c"])
def test_steps_never_exceed_the_characters_of_the_text(written: str, text: str) -> None:
    counted = CountingText(text)
    pattern(written).match(counted)
    assert counted.steps <= len(text)


# --- variables ---


def values(**known: str) -> dict[str, str]:
    return {f"iot:{name}": value for name, value in known.items()}


@given(st.text(), st.text())
def test_the_value_of_a_variable_is_literal(value: str, other: str) -> None:
    made = Template.parse("x/${iot:clientid}/*").pattern(values(clientid=value).get)
    assert made is not None
    assert made.match(f"x/{value}/rest")
    assert made.match(f"x/{other}/rest") is f"x/{other}/rest".startswith(f"x/{value}/")


def test_a_star_as_client_id_is_no_wildcard() -> None:
    made = Template.parse("client/${iot:ClientId}").pattern(values(clientid="*").get)
    assert made is not None
    assert made.match("client/*")
    assert not made.match("client/other")


def test_a_client_id_that_looks_like_a_variable_is_not_read_again() -> None:
    made = Template.parse("${iot:ClientId}").text(values(clientid="${iot:ClientId}${*}").get)
    assert made == "${iot:ClientId}${*}"


def test_an_unknown_variable_gives_no_pattern() -> None:
    assert Template.parse("a/${iot:unknown}").pattern(nothing) is None
    assert Template.parse("a/${iot:unknown}").text(nothing) is None


def test_a_default_replaces_a_missing_value() -> None:
    assert Template.parse("a/${iot:unknown, 'none at all'}").text(nothing) == "a/none at all"
    assert Template.parse("a/${iot:known, 'x'}").text(values(known="").get) == "a/"


def test_escapes_are_literal_characters() -> None:
    made = pattern("${*}${?}${$}{x}")
    assert made.match("*?${x}")
    assert not made.match("abc{x}")


def test_variables_may_be_left_unread() -> None:
    assert Template.parse("${iot:ClientId}", variables=False).text(nothing) == "${iot:ClientId}"


@pytest.mark.parametrize("written", ["a/${", "${iot:ClientId", "${}", "${a b}", "${a,}", "${a, b}", "${a{b}"])
def test_a_malformed_variable_is_an_error(written: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(written))):
        Template.parse(written)


@given(st.text("a*?$ {}'x:,", max_size=12))
def test_reading_gives_a_template_or_a_value_error(written: str) -> None:
    try:
        made = Template.parse(written)
    except ValueError:
        return
    assert made.source == written


def test_keys_ignore_case_but_for_the_names_of_attributes() -> None:
    assert normal_key("IOT:ClientID") == "iot:clientid"
    written = "iot:Connection.Thing.Attributes[Floor]"
    assert normal_key(written) == "iot:connection.thing.attributes[Floor]"


def test_splitting_uses_only_literal_separators() -> None:
    pieces = Template.parse("arn:aws:iot:*:${iot:clientid}:topic/a:b").split(":", 5)
    texts = [piece.text(values(clientid="1:2").get) for piece in pieces]
    assert texts == ["arn", "aws", "iot", "*", "1:2", "topic/a:b"]
