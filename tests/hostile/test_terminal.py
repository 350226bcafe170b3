"""What peers publish, on its way to a user's terminal or program."""

from __future__ import annotations

import argparse
import io
import json

import pytest

from mqttws import Publish
from pubsub.cli.sub import _print, as_json

DEEP = b"[" * 200_000
EVIL = "\x1b[2J\x9b2K\x07\r\u202e\u2028é"


def printed(message: Publish, to_terminal: bool = True, **options: bool) -> str:
    out = io.BytesIO()
    arguments = argparse.Namespace(**{"json": False, "verbose": True} | options)
    _print(message, arguments, out, to_terminal)  # type: ignore[arg-type]
    return out.getvalue().decode()


@pytest.mark.parametrize("options", [{}, {"json": True}])
def test_nothing_reaches_a_terminal_unescaped(options):
    for message in (Publish("a" + EVIL, EVIL.encode()), Publish("a", b"\xff\x1b[2J")):
        text = printed(message, **options)
        assert all(character.isprintable() or character in "\n\t" for character in text), repr(text)


@pytest.mark.parametrize("payload", [DEEP, b'{"a":' * 100_000, b"9" * 100_000, b"NaN", b'"\\ud800"'])
def test_json_that_breaks_parsers(payload):
    shown = as_json(Publish("a", payload))
    assert shown["topic"] == "a"
    assert json.loads(json.dumps(shown))["topic"] == "a"
    assert printed(Publish("a", payload), json=True).startswith('{"topic": "a"')
