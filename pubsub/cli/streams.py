"""Standard input, output and error of the commands: bytes, and every way in which they can be missing or fail.

A stream may be closed before the command starts (`>&-`), full (`/dev/full`), or lose its reader while nothing is
written. Each of these is one line on standard error at the most, and an exit code; never a traceback.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import BinaryIO

from pubsub.cli import FAILED, USAGE, Failure

#: Seconds between two looks at whether the reader of standard output is still there.
LOOK = 0.5


class ReaderLeft(Exception):
    """The reader of standard output is gone: the command ends quietly, as `... | head -1` expects."""


def complain(text: str) -> None:
    """Write a line to standard error, if there is one."""
    if sys.stderr is None:  # print() would then take standard output
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # the reader has left


def show(text: str, flush: bool = False) -> None:
    """Print a line to standard output.

    Raises:
        ReaderLeft: The reader has closed the pipe.
        Failure: It cannot be written; the disk is full, say.
    """
    try:
        print(text, flush=flush)
    except BrokenPipeError:
        discard_output()
        raise ReaderLeft from None
    except OSError as error:
        discard_output()
        raise Failure(f"cannot write to standard output: {error.strerror or error}") from None


def ask_secret(prompt: str) -> str:
    """Ask for a secret at the terminal, without showing it.

    Raises:
        Failure: There is no terminal.
    """
    from getpass import GetPassWarning, getpass

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # it would be shown as it is typed
            return getpass(prompt)
    except (GetPassWarning, EOFError):
        raise Failure(f"there is no terminal to ask for the {prompt.strip(': ')} at", USAGE) from None


def standard_input() -> BinaryIO:
    """Return standard input.

    Raises:
        Failure: It is closed.
    """
    if sys.stdin is None:
        raise Failure("there is no standard input to read from", USAGE)
    return sys.stdin.buffer


class Output:
    """Standard output, as bytes, unbuffered.

    Raises:
        Failure: It is closed.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise Failure("there is no standard output to write to", FAILED)
        self._stream = sys.stdout.buffer
        self.is_terminal = sys.stdout.isatty()
        #: Whether text may be coloured. Spec: https://no-color.org
        self.in_colour = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            ReaderLeft: The reader has closed the pipe.
            Failure: They cannot be written; the disk is full, say.
        """
        try:
            self._stream.write(data)
            self._stream.flush()
        except BrokenPipeError:
            discard_output()
            raise ReaderLeft from None
        except OSError as error:
            discard_output()
            raise Failure(f"cannot write to standard output: {error.strerror or error}") from None

    def check_reader(self) -> None:
        """Notice a reader that left while there was nothing to write.

        Raises:
            ReaderLeft: The reader has closed the pipe.
        """
        try:
            from select import POLLERR, poll
        except ImportError:  # Windows: the next write notices
            return
        watch = poll()
        watch.register(self._stream.fileno(), 0)
        if any(events & POLLERR for _, events in watch.poll(0)):
            discard_output()
            raise ReaderLeft


def discard_output() -> None:
    """Discard buffered output: the interpreter flushes once more at its exit, and would report an error."""
    if sys.stdout is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
