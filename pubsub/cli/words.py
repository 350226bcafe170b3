"""The words of `pub`, `sub` and `rr` before they are parsed: the file of options, and values that begin with a dash."""

from __future__ import annotations

import os
import sys

from pubsub.cli import USAGE, Failure

#: Options whose value may begin with a dash, because a message is any text.
_FREE = frozenset(
    {"-F", "-I", "-P", "-T", "-U", "-e", "-i", "-m", "-t", "-u", "--format", "--message", "--password", "--topic"}
    | {"--username", "--will-payload", "--will-topic"}
)


def expand(command: str, words: list[str]) -> list[str]:
    """Return the words with those of the file of options before them, and each free value joined to its option.

    The file holds one option a line, with its value, as a shell would take it: `-h broker.example`. It is the one that
    `-o FILE` names, else `pubsub/COMMAND` below $XDG_CONFIG_HOME, or ~/.config. What stands on the command line wins.

    Raises:
        Failure: The file cannot be read.
    """
    chosen, rest = _chosen_file(words)
    file = chosen if chosen is not None else _default_file(command)
    found: list[str] = []
    if file is not None:
        try:
            with open(file, encoding="utf-8") as opened:
                lines = opened.read().splitlines()
        except FileNotFoundError:
            if chosen is not None:
                raise Failure(f"the file of options {file!r} is not there", USAGE) from None
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise Failure(f"the file of options {file!r} cannot be read: {error}", USAGE) from None
        if lines:
            import shlex
        for number, line in enumerate(lines, 1):
            try:
                found += shlex.split(line, comments=True)
            except ValueError as error:
                raise Failure(f"{file}, line {number}: {error}", USAGE) from None
    return _joined(found + rest)


def _chosen_file(words: list[str]) -> tuple[str | None, list[str]]:
    for position, word in enumerate(words):
        if word == "--":
            break
        if word == "-o" and position + 1 < len(words):
            return words[position + 1], words[:position] + words[position + 2 :]
    return None, words


def _default_file(command: str) -> str | None:
    home = os.environ.get("XDG_CONFIG_HOME")
    if not home:
        if not os.environ.get("HOME") and sys.platform != "win32":
            return None
        home = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "pubsub", command)


def _joined(words: list[str]) -> list[str]:
    """Join `-m` and `-5` to `-m-5`: argparse takes what begins with a dash for an option."""
    joined: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            return [*joined, word, *remaining]
        if word in _FREE:
            value = next(remaining, None)
            if value is not None and value.startswith("-"):
                joined.append(f"{word}={value}" if word.startswith("--") else word + value)
                continue
            joined += [word] if value is None else [word, value]
            continue
        joined.append(word)
    return joined
