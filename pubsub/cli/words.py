"""The preparation of the arguments of `pub`, `sub` and `rr`: the file of options, and values that begin with a dash."""

from __future__ import annotations

import os
import sys

from pubsub.cli import USAGE, Failure

#: Options whose value may begin with a dash, because it may be any text.
_FREE = frozenset(
    {"-F", "-I", "-P", "-T", "-U", "-e", "-i", "-m", "-t", "-u", "--format", "--message", "--password", "--topic"}
    | {"--username", "--will-payload", "--will-topic"}
)


def expand(command: str, words: list[str]) -> list[str]:
    """Insert the arguments of the file of options before the others, and join values that begin with a dash.

    The file contains one option with its value per line, quoted as in a shell: `-h broker.example`. It is the file of
    `-o FILE`, or else `pubsub/COMMAND` in $XDG_CONFIG_HOME or ~/.config. The command line takes precedence.

    Raises:
        Failure: The file cannot be read.
    """
    chosen, rest = _chosen_file(words)
    file = chosen if chosen is not None else _default_file(command)
    found: list[str] = []
    if file is not None:
        try:
            with open(file, encoding="utf-8-sig") as opened:
                lines = opened.read().splitlines()
        except FileNotFoundError:
            if chosen is not None:
                raise Failure(f"the file of options {file!r} does not exist", USAGE) from None
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
    """Join `-m` and `-5` to `-m-5`, because argparse treats an argument that begins with a dash as an option."""
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
