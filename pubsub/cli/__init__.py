"""The command line: `pubsub demo`, `serve`, `sub`, `pub`, `rr`, `bench`, `passwd`, `look` and more.

The first argument selects the command: a module of the same name, imported only then, with the functions
`add_arguments(parser)` and `run(arguments) -> exit code`.

Exit codes: 0, success (also when Ctrl-C ended `sub` or `serve`); 1, failure; 2, an error in the command line; 3, no
connection; 4, the server refused the client; 27, the time was up (as in mosquitto_sub); 130, interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from typing import Any

OK, FAILED, USAGE, NO_CONNECTION, REFUSED, TIME_UP, INTERRUPTED = 0, 1, 2, 3, 4, 27, 130

#: Command -> description.
COMMANDS = {
    "demo": "a broker, two subscriptions and a few messages, all in this process",
    "serve": "run the embedded broker",
    "sub": "subscribe to topics and print what comes",
    "pub": "publish a message to topics",
    "rr": "publish a request and print the response",
    "bench": "put load on a broker, and measure its throughput and latency",
    "passwd": "add a user to the broker's file of users",
    "aws": "attach an AWS IoT policy to a Cognito identity, or show the identity of the credentials",
    "look": "show every byte between clients and a broker, or of a saved session",
    "dissect": "show packets and frames byte by byte",
    "completion": "print the completion for a shell, or the manual page",
}
#: Commands with the option `-h HOST`, as in Mosquitto's tools. Their help is `--help`.
_WITH_HOST = frozenset({"sub", "pub", "rr"})
#: Commands that only print: without a standard output they fail.
_PRINTING = frozenset({"sub", "rr", "bench", "look", "dissect", "completion", "demo"})


class Failure(Exception):
    """The failure of a command: a line for the user, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit code."""
    from pubsub.cli.streams import ReaderLeft, complain, discard_output
    from pubsub.other_distribution import check

    check()
    words = list(sys.argv[1:] if argv is None else argv)
    quiet = False
    name = words[0] if words else ""
    try:
        try:
            arguments = parse(words)
        except SystemExit:  # --help and --version have printed
            if sys.stdout is not None:
                sys.stdout.flush()
            raise
        quiet = getattr(arguments, "quiet", False) and name in _WITH_HOST
        if sys.stdout is None and name in _PRINTING:
            raise Failure("there is no standard output to write to")
        code: int = import_module(f"pubsub.cli.{name}").run(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Failure as failure:
        if not quiet:
            complain(f"pubsub {name}: {failure}")
        return failure.code
    except (ReaderLeft, BrokenPipeError):
        discard_output()
        return OK
    except OSError as error:  # of the last flush: the disk is full
        discard_output()
        complain(f"pubsub {name}: {error.strerror or error}")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def parse(words: list[str]) -> argparse.Namespace:
    """Parse a command line.

    Raises:
        SystemExit: The command line is wrong, or contains an option for help.
        Failure: The file of options cannot be read.
    """
    name = words[0] if words else ""
    if name not in _WITH_HOST:
        return make_parser(name).parse_args(words)
    from pubsub.cli.words import expand

    # Options may be between the positional arguments, as in Mosquitto's tools; argparse's subparsers reject that. So
    # only this command's parser is made, which also saves the time that the others take.
    parser = argparse.ArgumentParser(prog=f"pubsub {name}", **_settings(name))
    _add_arguments(parser, name)
    arguments = parser.parse_intermixed_args(expand(name, words[1:]))
    arguments.command = name
    return arguments


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command."""
    found = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def make_parser(*loaded: str) -> argparse.ArgumentParser:
    """Make the parser.

    Args:
        loaded: The commands whose arguments to add; the modules of the others are not imported.
    """
    parser = argparse.ArgumentParser(
        prog="pubsub",
        description="Publish and subscribe over MQTT.",
        epilog="pubsub COMMAND --help says more.",
        formatter_class=_Formatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    # Without its `prog`, argparse would format a usage line here, and import `shutil` for that.
    commands = parser.add_subparsers(prog="pubsub", dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, **_settings(name))
        if name in loaded:
            _add_arguments(command, name)
    return parser


def _settings(name: str) -> dict[str, Any]:
    """Return the arguments that `ArgumentParser` takes for a command."""
    summary = COMMANDS[name]
    return {
        "description": summary[0].upper() + summary[1:] + ".",
        "add_help": name not in _WITH_HOST,
        # An abbreviation in a script could become ambiguous in a later version.
        "allow_abbrev": False,
        "formatter_class": _Formatter,
    }


def _add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Import the module of a command, and add its arguments to its parser."""
    if name in _WITH_HOST:
        parser.add_argument("--help", action="help", help="show this help and exit")
    import_module(f"pubsub.cli.{name}").add_arguments(parser)


class _Formatter(argparse.HelpFormatter):
    """The standard formatter, but that it finds the width without `shutil`.

    argparse makes a formatter for each option that it adds, and `shutil` imports every kind of compression.
    """

    def __init__(self, prog: str, **settings: Any) -> None:
        settings.setdefault("width", _width() - 2)  # what the standard one subtracts
        super().__init__(prog, **settings)


def _width() -> int:
    """Return the number of columns of the terminal, as `shutil.get_terminal_size` does."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    try:
        return os.get_terminal_size(sys.__stdout__.fileno()).columns or 80  # type: ignore[union-attr]
    except (AttributeError, ValueError, OSError):  # there is no standard output, it is closed, or it is no terminal
        return 80


class _Version(argparse.Action):
    """The option `--version`. The version is looked up only when it is printed."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"pubsub {version('mqttws-pubsub')}")
        parser.exit(OK)
