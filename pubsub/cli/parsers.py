"""The argparse parsers of the commands, for their help, errors and completion, and for all but plain command lines."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import Any, NoReturn

from pubsub.cli import COMMANDS, OK, WITH_HOST, command_module
from pubsub.cli.streams import show


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parser of each command, or of each verb of a command; none if it has no verbs."""
    found = (action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(next(found, {}))


def make_parser(*loaded: str) -> argparse.ArgumentParser:
    """Make the parser.

    Args:
        loaded: The commands whose arguments to add; the modules of the others are not imported.
    """
    parser = Parser(
        prog="pubsub",
        description="Publish and subscribe over MQTT.",
        epilog="Run pubsub COMMAND --help for the options of a command.",
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


def make_command_parser(name: str) -> argparse.ArgumentParser:
    """Make the parser of one command, for the arguments after the command."""
    parser = Parser(prog=f"pubsub {name}", **_settings(name))
    _add_arguments(parser, name)
    return parser


def _settings(name: str) -> dict[str, Any]:
    """Return the arguments that `ArgumentParser` takes for a command."""
    summary = COMMANDS[name]
    return {
        "description": summary[0].upper() + summary[1:] + ".",
        "add_help": name not in WITH_HOST,
        # An abbreviation in a script could become ambiguous in a later version.
        "allow_abbrev": False,
        "formatter_class": _Formatter,
    }


def _add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Import the module of a command, and add its arguments to its parser."""
    if name in WITH_HOST:
        parser.add_argument("--help", action="help", help="show this help and exit")
    command_module(name).add_arguments(parser)


#: The user information of a URL, in the text of an error.
_USER_INFORMATION = re.compile(r"[^\s'\"]*:[^\s'\"]*@")


class Parser(argparse.ArgumentParser):
    """A parser that shows no password, reports that its help cannot be written, and takes "--" as an option's value."""

    def error(self, message: str) -> NoReturn:
        """Report an error in the command line, which it may quote."""
        super().error(_USER_INFORMATION.sub("...@", message))

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        """Return the value of an option. Before Python 3.13 the standard parser removes it if it is "--"."""
        if action.option_strings and action.nargs is None and arg_strings == ["--"]:
            value = self._get_value(action, "--")
            self._check_value(action, value)
            return value
        return super()._get_values(action, arg_strings)

    def print_help(self, file: Any = None) -> None:
        """Print the help to standard output."""
        if file is None and sys.stdout is not None:
            show(self.format_help().removesuffix("\n"))
        else:
            super().print_help(file)


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

        show(f"pubsub {version('mqttws-pubsub')}")
        parser.exit(OK)


class Refuse(argparse.Action):
    """An option that is not supported. The help does not show it.

    Args:
        reasons: Option -> reason, for the error.
        **settings: The arguments of `argparse.Action`.
    """

    def __init__(self, reasons: dict[str, str], **settings: Any) -> None:
        super().__init__(**settings, help=argparse.SUPPRESS)  # argparse compares the object, not its text
        self._reasons = reasons

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, values: object, option: Any = None) -> None:
        """Report the error."""
        parser.error(f"{option}: {self._reasons[option]}")
