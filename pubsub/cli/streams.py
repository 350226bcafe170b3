"""Standard input, output and error of the commands, and their failures.

A stream may be closed before the command starts (`>&-`), be full (`/dev/full`), or lose its reader while nothing is
written; and its encoding may lack a character. Each of these results in at most one line on standard error and an exit
code, never in a traceback.
"""

from __future__ import annotations

import os
import sys
from io import BufferedReader, RawIOBase, TextIOWrapper

from pubsub.cli import FAILED, USAGE, Failure

TYPE_CHECKING = False  # importing `typing` for it would delay the first message
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, BinaryIO

#: Seconds between two checks whether standard output still has a reader, and of one wait for standard input.
LOOK = 0.5
#: The maximum number of bytes of standard input that are read at once.
CHUNK = 64 * 1024


def escape_output() -> None:
    """Make standard output escape the characters that its encoding lacks, as standard error does."""
    # Another handler was requested by PYTHONIOENCODING.
    if isinstance(sys.stdout, TextIOWrapper) and sys.stdout.errors in ("strict", "surrogateescape"):
        sys.stdout.reconfigure(errors="backslashreplace")


class ReaderLeft(Exception):
    """The reader of standard output has closed the pipe. The command ends quietly, as `... | head -1` expects."""


def complain(text: str) -> None:
    """Write a line to standard error, if there is one."""
    if sys.stderr is None:  # print() would then write to standard output
        return
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass  # the reader has left


def show(text: str) -> None:
    """Print a line to standard output, if there is one.

    Raises:
        ReaderLeft: The reader has closed the pipe.
        Failure: The line cannot be written, for example because the disk is full.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        write_whole(output_stream(), encode(text))
    else:  # None, or an object of a program that calls `main`
        print(text)


def may_be_coloured() -> bool:
    """Return whether text on standard output may be coloured.

    Spec: https://no-color.org
    """
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def encode(text: str) -> bytes:
    """Return a line of text in the encoding of standard output."""
    return f"{text}\n".encode(sys.stdout.encoding, sys.stdout.errors or "strict")


def output_stream() -> Any:
    """Return the stream of bytes of standard output, for `write_whole`.

    It has no buffer: the lock of a buffer would be held while the reader waits, and the interpreter takes it at exit.
    """
    sys.stdout.flush()  # what a program that calls `main` has printed
    return getattr(sys.stdout.buffer, "raw", sys.stdout.buffer)


def write_whole(stream: Any, data: bytes) -> None:
    """Write bytes to the stream of `output_stream`, and wait for the reader as long as it takes.

    Raises:
        ReaderLeft: The reader has closed the pipe.
        Failure: The bytes cannot be written, for example because the disk is full.
    """
    left = memoryview(data)
    try:
        while left:
            written = stream.write(left)  # maybe fewer: a signal has arrived, or the disk is almost full
            if written is None:  # another program has made it non-blocking
                from select import select

                select((), (stream,), (), LOOK)
            left = left[written or 0 :]
    except OSError as error:
        discard_output()
        if isinstance(error, BrokenPipeError):
            raise ReaderLeft from None
        raise Failure(f"cannot write to standard output: {error.strerror or error}") from None


def ask_secret(prompt: str) -> str:
    """Prompt for a secret at the terminal, without showing it.

    Raises:
        Failure: There is no terminal.
    """
    import warnings
    from getpass import GetPassWarning, getpass

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)  # without a terminal the input would be shown
            return getpass(prompt)
    except (GetPassWarning, EOFError):
        raise Failure(f"there is no terminal to prompt for the {prompt.strip(': ')}", USAGE) from None


def chunks_of_input() -> Iterator[bytes]:
    """Return an iterator over the bytes of standard input as they arrive.

    Raises:
        Failure: Standard input is closed.
    """
    if sys.stdin is None:
        raise Failure("there is no standard input to read from", USAGE)
    return _chunks(sys.stdin.buffer)


def input_file() -> BinaryIO:
    """Return standard input as a file whose reads wait for data, also if another program has made it non-blocking.

    Raises:
        Failure: Standard input is closed.
    """
    return BufferedReader(_Chunks(chunks_of_input()))


class _Chunks(RawIOBase):
    """A file of the bytes of an iterator."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._left = self._left or next(self._chunks, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size], self._left = self._left[:size], self._left[size:]
        return size


def lines_of_input() -> Iterator[bytes]:
    """Return an iterator over the lines of standard input as they arrive, without their ends.

    Raises:
        Failure: Standard input is closed.
    """
    return _lines(chunks_of_input())


def content_of(file: str) -> bytes:
    """Return the content of the file of `-f`.

    Raises:
        Failure: It cannot be read.
    """
    try:
        with open(file, "rb") as opened:
            return opened.read()
    except (OSError, ValueError) as error:  # a file of options may contain a NUL
        raise Failure(f"the file cannot be read: {error}", USAGE) from None


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield the bytes of a stream as they arrive.

    A signal that arrives just before a read does not end it: Python runs the handler, for example that of Ctrl-C, only
    after the read. So each read follows a wait, which is cut into slices.
    """
    try:
        from select import POLLIN, poll

        descriptor = stream.fileno()
    except (ImportError, OSError):  # Windows; or an object of a program that calls `main`
        while chunk := stream.read1(CHUNK):  # type: ignore[attr-defined]
            yield chunk
        return
    watch = poll()
    watch.register(descriptor, POLLIN)
    while True:
        while not watch.poll(LOOK * 1_000):
            pass
        try:
            chunk = os.read(descriptor, CHUNK)
        except BlockingIOError:  # it is non-blocking, and another program was faster
            continue
        if not chunk:
            return
        yield chunk


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    begun: list[bytes] = []
    for chunk in chunks:
        first, *others = chunk.split(b"\n")
        begun.append(first)
        for line in others:
            yield b"".join(begun)
            begun = [line]
    if last := b"".join(begun):
        yield last


class Output:
    """Standard output, as bytes, unbuffered.

    Raises:
        Failure: It is closed.
    """

    def __init__(self) -> None:
        if sys.stdout is None:
            raise Failure("there is no standard output to write to", FAILED)
        self._stream = output_stream()
        self.is_terminal = sys.stdout.isatty()
        self.in_colour = may_be_coloured()

    def write(self, data: bytes) -> None:
        """Write bytes.

        Raises:
            ReaderLeft: The reader has closed the pipe.
            Failure: The bytes cannot be written, for example because the disk is full.
        """
        write_whole(self._stream, data)

    def check_reader(self) -> None:
        """Check that standard output still has a reader, if nothing is written for some time.

        Raises:
            ReaderLeft: The reader has closed the pipe.
        """
        try:
            from select import POLLERR, poll
        except ImportError:  # Windows: the next write fails
            return
        watch = poll()
        watch.register(self._stream.fileno(), 0)
        if any(events & POLLERR for _, events in watch.poll(0)):
            discard_output()
            raise ReaderLeft


def discard_output() -> None:
    """Discard buffered output, because the interpreter flushes it at exit, and would report an error."""
    if sys.stdout is None:
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
