"""Plain command lines are parsed without argparse, and with the same result."""

from __future__ import annotations

import argparse
import contextlib
import io
from importlib import import_module

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.cli.parsers import make_command_parser
from pubsub.cli.quick import QuickParser

COMMANDS = ("pub", "sub", "rr")


def quick_parser(command: str) -> QuickParser:
    parser = QuickParser()
    import_module(f"pubsub.cli.{command}").add_arguments(parser)
    return parser


def by_argparse(command: str, words: list[str]) -> dict[str, object] | None:
    """Return the arguments; None for an error."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            return vars(make_command_parser(command).parse_intermixed_args(words))
        except SystemExit:
            return None


OPTIONS = {
    command: [option for action in make_command_parser(command)._actions for option in action.option_strings]
    for command in COMMANDS
}
VALUES = st.sampled_from(
    ["", "-", "--", "-1", "a", "a b", "a/b", "0", "1", "3", "1.5", "0.5", "nan", "inf", "x: y", "tlsv1.2", "mqttv311"]
)


@st.composite
def command_lines(draw: st.DrawFn) -> tuple[str, list[str]]:
    command = draw(st.sampled_from(COMMANDS))
    option = st.sampled_from(OPTIONS[command])
    joined = st.builds("{}={}".format, option, VALUES) | st.builds("{}{}".format, option, VALUES)
    pieces = st.tuples(option, VALUES) | st.tuples(option) | st.tuples(VALUES) | st.tuples(VALUES) | st.tuples(joined)
    return command, [word for piece in draw(st.lists(pieces, max_size=4)) for word in piece]


@given(command_lines())
def test_the_result_is_that_of_argparse(line: tuple[str, list[str]]) -> None:
    command, words = line
    quick = quick_parser(command).parse(words)
    if quick is not None:
        assert vars(quick) == by_argparse(command, words)


def _plain(command: str) -> list[list[str]]:
    """Return a command line for each option that argparse accepts with a valid value."""
    lines = []
    for action in make_command_parser(command)._actions:
        if action.help == argparse.SUPPRESS or action.dest in ("help", "words"):
            continue
        values = [()] if action.nargs == 0 else [("1",), ("x: y",), ("tlsv1.3",), ("311",)]
        lines += [
            ["before", option, *value, "after"]
            for option in action.option_strings
            for value in values
            if by_argparse(command, [option, *value]) is not None
        ]
    return lines


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_parsed_without_argparse(command: str) -> None:
    lines = _plain(command)
    assert len({line[1] for line in lines}) == len(set(OPTIONS[command]) - HARD)
    for line in lines:
        quick = quick_parser(command).parse(line)
        assert quick is not None, line
        assert vars(quick) == by_argparse(command, line)


#: `--help`, and the options of Mosquitto's tools that are refused.
HARD = {"--help", "-D", "--property", "-x", "--tls-engine", "--tls-engine-kpass-sha1", "--keyform"}


@pytest.mark.parametrize(
    "words",
    [
        ["--help"], ["-q"], ["-q", "3"], ["-q1"], ["--qos=1"], ["--nonsense"], ["-m", "a", "-n"], ["--", "-m"],
        ["-m", "-5"], ["-D", "publish"], ["--tls-version", "1.1"], ["-dr"], ["-p", "65536"],
    ],
)  # fmt: skip
def test_all_others_are_left_to_argparse(words: list[str]) -> None:
    assert quick_parser("pub").parse(["a", *words]) is None


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_shows_no_refused_option(command: str) -> None:
    shown = make_command_parser(command).format_help()
    assert argparse.SUPPRESS not in shown
    assert "--tls-engine" not in shown
