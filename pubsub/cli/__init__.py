"""The command line: `pubsub demo`, `serve`, `sub`, `pub`, `bench`, `passwd`, `dissect`, `aws`.

This room parses the first word and hands over; each command is a module of its own, loaded when it is called, with
`add_arguments(parser)` and `run(arguments) -> exit code`.

Exit codes: 0, done (also when Ctrl-C ended `sub` or `serve`); 1, it failed on the way; 2, the command line is wrong;
3, no connection; 4, the server refused the client; 27, the time was up (as mosquitto_sub has it); 130, interrupted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

OK, FAILED, USAGE, NO_CONNECTION, REFUSED, TIME_UP, INTERRUPTED = 0, 1, 2, 3, 4, 27, 130

#: Command -> what it does.
COMMANDS = {
    "demo": "a broker, two subscriptions and a few messages, all in this process",
    "serve": "run the embedded broker",
    "sub": "subscribe to topics and print what comes",
    "pub": "publish a message to topics",
    "bench": "put load on a broker, and measure what it does with it",
    "passwd": "add a user to the broker's file of users",
    "aws": "attach an AWS IoT policy to a Cognito identity, or tell who the credentials are of",
    "dissect": "show an MQTT packet byte by byte",
}


class Failure(Exception):
    """What ends a command: a line for the user, and the exit code."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="pubsub", description="Publish and subscribe over MQTT.", epilog="pubsub COMMAND --help says more."
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if words[:1] == [name]:  # only the one that is called is loaded
            import_module(f"pubsub.cli.{name}").add_arguments(command)
    arguments = parser.parse_args(words)
    try:
        code: int = import_module(f"pubsub.cli.{arguments.command}").run(arguments)
        sys.stdout.flush()
        return code
    except Failure as failure:
        print(f"pubsub {arguments.command}: {failure}", file=sys.stderr)
        return failure.code
    except BrokenPipeError:  # whoever read our output has left
        sys.stderr.close()
        return OK
    except KeyboardInterrupt:
        return INTERRUPTED
