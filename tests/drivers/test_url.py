"""The form of a URL, compared with a regular expression that says the same."""

from __future__ import annotations

import re
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws.client import option_types
from mqttws.client.options import CHOICES
from mqttws.client.url import _split, parse_url

FORM = re.compile(
    r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://"
    r"(?:(?P<user>[^/?#@]*)@)?"
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^/?#@:\[\]]+)(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?"
)
PIECES = st.sampled_from(
    ["ws", "WSS", "mqtt", "a+b", "1x", "://", ":/", "/", "?", "#", "@", "@@", ":", "[", "]", "[::1]", "[fe80::1.2.3.4]",
     "[g]", "host", "h.example", "0", "8883", "65536", "123456", "user", "a:b", "%40", "$aws/x", "q=1&r=2", "~", ""]
)  # fmt: skip
URLS = st.one_of(
    st.lists(PIECES, max_size=9).map("".join),
    st.tuples(*(st.sampled_from([*each, ""]) for each in (
        ("ws://", "wss://", "a://", "1://", "ws:"), ("u@", "u:p@", "@", "a@b@"),
        ("h", "[::1]", "[]", "[z]", "[::1", "a]"),
        (":1", ":65535", ":", ":x", ":123456", "1"), ("/", "?q", "/a?b", "/a#b", "#", "/@:[]"),
    ))).map("".join),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=20).map(lambda text: "ws://" + text),
)  # fmt: skip


@given(URLS)
def test_a_url_is_split_as_the_expression_says(url: str) -> None:
    match = FORM.fullmatch(url)
    expected = match and (
        match["scheme"].lower(),
        match["user"],
        match["host"],
        match["port"] or "",
        match["target"] or "",
    )
    assert _split(url) == expected


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("ws://h", ("ws", "h", 80, "h", "/", None, None)),
        ("WSS://h:444?x=1", ("wss", "h", 444, "h:444", "/?x=1", None, None)),
        ("mqtt://u%40:p%00@[::1]:1883", ("mqtt", "::1", 1883, "[::1]", "/", "u@", b"p\0")),
        ("mqtts://@h/", ("mqtts", "h", 8883, "h", "/", "", None)),
    ],
)
def test_the_parts_of_a_url(url: str, endpoint: tuple[object, ...]) -> None:
    parsed = parse_url(url)
    assert tuple(getattr(parsed, name) for name in parsed.__match_args__) == endpoint


def test_the_values_of_options_are_those_of_their_types() -> None:
    types = {"overflow": "Overflow", "oversize": "Oversize", "stalled": "Stall", "url_order": "UrlOrder"}
    types["server"] = "ServerName"
    assert {name: get_args(getattr(option_types, type_)) for name, type_ in types.items()} == CHOICES
