"""The command line: `pubsub demo`, `serve`, `sub`, `pub`, `rr`, `bench`, `passwd`, `look` and more.

The first argument selects the command: a module of the same name, imported only then, with the functions
`add_arguments(parser)` and `run(arguments) -> exit code`.

Exit codes: 0, success (also when Ctrl-C ended `sub` or `serve`); 1, failure; 2, an error in the command line; 3, no
connection; 4, the server refused the client; 27, the time was up (as in mosquitto_sub); 130, interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from argparse import Namespace
    from typing import Any

OK, FAILED, USAGE, NO_CONNECTION, REFUSED, TIME_UP, INTERRUPTED = 0, 1, 2, 3, 4, 27, 130

#: Command -> description.
COMMANDS = {
    "demo": "a broker, two subscriptions and a few messages, all in this process",
    "serve": "run the embedded broker",
    "sub": "subscribe to topics and print the messages",
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
WITH_HOST = frozenset({"sub", "pub", "rr"})
#: Commands that only print: without a standard output they fail.
_PRINTING = frozenset({"sub", "rr", "bench", "look", "dissect", "completion", "demo"})


class Failure(Exception):
    """The failure of a command: a line for the user, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Return the exit code."""
    from pubsub.cli.streams import ReaderLeft, complain, discard_output, escape_output
    from pubsub.other_distribution import check

    check()
    escape_output()
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
        quiet = getattr(arguments, "quiet", False) and name in WITH_HOST
        if sys.stdout is None and name in _PRINTING:
            raise Failure("there is no standard output to write to")
        code: int = command_module(name).run(arguments)
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


def command_module(name: str) -> Any:
    """Import the module of a command."""
    return __import__(f"pubsub.cli.{name}", fromlist=("",))  # `importlib` would delay the first message


def parse(words: list[str]) -> Namespace:
    """Parse a command line.

    Raises:
        SystemExit: The command line is wrong, or contains an option for help.
        Failure: The file of options cannot be read.
    """
    name = words[0] if words else ""
    if name not in WITH_HOST:
        from pubsub.cli.parsers import make_parser

        return make_parser(name).parse_args(words)
    from pubsub.cli.words import expand, prefer_server_of

    of_file, line, operands = expand(name, words[1:])
    arguments = _parse(name, of_file + line, operands)
    if of_file:
        prefer_server_of(_parse(name, line, operands), arguments)
    arguments.command = name
    return arguments


def _parse(name: str, words: list[str], operands: list[str]) -> Namespace:
    """Parse words of a command of `WITH_HOST`, without the operands that followed a `--`: argparse may drop it."""
    from pubsub.cli.quick import QuickParser

    quick = QuickParser()
    command_module(name).add_arguments(quick)
    arguments: Namespace | None = quick.parse(words)  # type: ignore[assignment] # it has the same attributes
    if arguments is None:
        from pubsub.cli.parsers import make_command_parser

        # Options may be between the positional arguments, as in Mosquitto's tools; argparse's subparsers reject that.
        arguments = make_command_parser(name).parse_intermixed_args(words)
    arguments.words += operands
    return arguments
