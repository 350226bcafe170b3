"""Published data is escaped before it reaches a terminal, and JSON bombs are refused."""

from __future__ import annotations

import json

import pytest

from mqttws import Publish
from pubsub.cli.formats import json_line, plain_line

DEEP = b"[" * 200_000
EVIL = "\x1b[2J\x9b2K\x07\r\u202e\u2028é"


def printed(message: Publish, to_terminal: bool = True, **options: bool) -> str:
    if options.get("json"):
        return json_line(message, to_terminal=to_terminal, pretty=options.get("pretty", False)).decode()
    return plain_line(message, verbose=True, to_terminal=to_terminal, in_colour=False).decode()


@pytest.mark.parametrize("options", [{}, {"json": True}, {"json": True, "pretty": True}])
def test_nothing_reaches_a_terminal_unescaped(options):
    for message in (Publish("a" + EVIL, EVIL.encode()), Publish("a", b"\xff\x1b[2J")):
        text = printed(message, **options)
        assert all(character.isprintable() or character in "\n\t" for character in text), repr(text)


@pytest.mark.parametrize("payload", [DEEP, b'{"a":' * 100_000, b"9" * 100_000, b"NaN", b'"\\ud800"'])
def test_json_that_breaks_parsers(payload):
    for to_terminal in (False, True):
        line = printed(Publish("a", payload), to_terminal, json=True)
        shown = json.loads(line)
        assert shown["topic"] == "a"
        assert shown.get("raw", shown["payload"]).encode() == payload
        assert "\n" not in line
