"""The preparation of the arguments of `pub`, `sub` and `rr`: the file of options, operands, and values like `-5`."""

from __future__ import annotations

import os
import sys

from pubsub.cli import USAGE, Failure

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from argparse import Namespace

#: Options whose value may begin with a dash, because it may be any text.
_FREE = frozenset(
    {"-F", "-I", "-P", "-T", "-U", "-e", "-i", "-m", "-t", "-u", "--format", "--message", "--password", "--topic"}
    | {"--username", "--will-payload", "--will-topic"}
)
#: The options of `pub` and `rr` that replace the message on the command line.
_SOURCES = ("message", "stdin_lines", "stdin", "file", "null")
#: Errors for a default file that is not there: HOME may be /dev/null, or that of another user.
_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)


def expand(command: str, words: list[str]) -> tuple[list[str], list[str], list[str]]:
    """Read the file of options, join values that begin with a dash, and separate the operands after `--`.

    The file contains one option with its value per line, quoted as in a shell: `-h broker.example`. It is the file of
    `-o FILE`, or else `pubsub/COMMAND` in $XDG_CONFIG_HOME or ~/.config. The command line takes precedence.

    Returns:
        The words of the file; those of the command line; and its operands after `--`, which are never options
        (POSIX, Utility Syntax Guidelines, 10).

    Raises:
        Failure: The file cannot be read, or another one is named.
    """
    line, operands = _joined(words)
    chosen, line = _chosen_file(line)
    file = chosen if chosen is not None else _default_file(command)
    found: list[str] = []
    if file is not None:
        try:
            with open(file, encoding="utf-8-sig") as opened:
                lines = opened.read().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            if chosen is not None or not isinstance(error, _NOT_THERE):
                raise Failure(f"the file of options {file!r} cannot be read: {error}", USAGE) from None
            lines = []
        for number, text in enumerate(lines, 1):
            try:
                found += _words_of(text)
            except ValueError as error:
                raise Failure(f"{file}, line {number}: {error}", USAGE) from None
    of_file, after = _joined(found)
    if _chosen_file(line)[0] is not None or _chosen_file(of_file)[0] is not None:
        raise Failure("-o is given once, and not in a file of options", USAGE)
    return of_file + after, line, operands


def prefer_server_of(line: Namespace, arguments: Namespace) -> None:
    """Replace the server by that of the command line, if it names one: the file's host, port and URL belong together.

    Args:
        line: The arguments of the command line alone.
        arguments: Those of the file and the command line together, which are changed.
    """
    of_file = arguments.words[: len(arguments.words) - len(line.words)]
    url_of_file = of_file[:1] if of_file and "://" in of_file[0] else []
    del of_file[: len(url_of_file)]
    named = bool(url_of_file) or (arguments.host, arguments.port, arguments.url) != (None, None, None)
    url = line.words[:1] if line.words and "://" in line.words[0] else []
    if named and _is_message(of_file + line.words, arguments):
        url = []
    if line.host is None and line.url is None and not url:
        return
    arguments.host, arguments.port, arguments.url = line.host, line.port, line.url
    arguments.words = url + of_file + line.words[len(url) :]


def _is_message(words: list[str], arguments: Namespace) -> bool:
    """Return whether the words after the server are the message of `pub` or `rr`, whose topic `-t` names."""
    if not hasattr(arguments, "message") or any(
        getattr(arguments, name, None) not in (None, False) for name in _SOURCES
    ):
        return False
    return len(words) == 1 and bool(arguments.topic)


def _words_of(line: str) -> list[str]:
    """Split a line as a shell does: `#` begins a comment only at the beginning of a word. Spec: POSIX XCU §2.3, 9.

    `shlex.split(line, comments=True)` ends a word there, as in `-t sensors/#`.
    """
    from io import StringIO
    from shlex import shlex  # slow to import

    text = StringIO(line)
    reader = shlex(text, posix=True)
    reader.whitespace_split = True
    reader.commenters = ""
    words: list[str] = []
    while not line[text.tell() :].lstrip(reader.whitespace).startswith("#"):
        word = reader.get_token()
        if word is None:
            break
        words.append(word)
    return words


def _chosen_file(words: list[str]) -> tuple[str | None, list[str]]:
    for position, word in enumerate(words):
        if word == "-o" and position + 1 < len(words):
            return words[position + 1], words[:position] + words[position + 2 :]
        if word.startswith("-o") and word != "-o":
            return word[2:].removeprefix("="), words[:position] + words[position + 1 :]
    return None, words


def _default_file(command: str) -> str | None:
    home = os.environ.get("XDG_CONFIG_HOME")
    if not home:
        if not os.environ.get("HOME") and sys.platform != "win32":
            return None
        home = os.path.join(os.path.expanduser("~"), ".config")
    return os.path.join(home, "pubsub", command)


def _joined(words: list[str]) -> tuple[list[str], list[str]]:
    """Join `-m` and `-5` to `-m-5`, because argparse treats an argument that begins with a dash as an option.

    Returns:
        The words before a `--`, and those after it.
    """
    joined: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--":
            return joined, list(remaining)
        if word in _FREE:
            value = next(remaining, None)
            if value is not None and value.startswith("-"):
                joined.append(f"{word}={value}" if word.startswith("--") else word + value)
                continue
            joined += [word] if value is None else [word, value]
            continue
        joined.append(word)
    return joined, []
