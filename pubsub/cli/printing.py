"""Text for standard output that a thread writes, so that a reader that waits, such as a pager, stops nothing else.

A bounded number of bytes waits for the reader. Texts beyond that are left out whole, and counted in their place.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import SimpleQueue

from pubsub.cli import Failure
from pubsub.cli.streams import LOOK, ReaderLeft, encode, output_stream, write_whole

#: The maximum number of bytes that wait.
LIMIT = 1024 * 1024


class Printer:
    """A writer of texts to standard output. Its methods belong to one thread.

    Attributes:
        on_failure: Called in the writing thread when a text cannot be written; `finish` raises the reason.
    """

    def __init__(self) -> None:
        self._stream = output_stream()
        self._waiting: SimpleQueue[bytes | None] = SimpleQueue()
        self._added = 0  # bytes, changed only by the methods
        self._written = 0  # bytes, changed only by the thread
        self._left_out = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="pubsub printing", daemon=True)
        self.on_failure: Callable[[], object] = lambda: None
        self._thread.start()

    def show(self, text: str) -> None:
        """Print a text and a line end, unless too many bytes wait."""
        data = encode(text)
        size = self._added - self._written
        if size and size + len(data) > LIMIT:
            self._left_out += 1
        elif self._failure is None:
            self._add_count()
            self._add(data)

    def finish(self, text: str | None = None) -> None:
        """Wait until all is written, or a signal raises an exception.

        Args:
            text: A last text, which is never left out.

        Raises:
            ReaderLeft: The reader has closed the pipe.
            Failure: The text cannot be written, for example because the disk is full.
        """
        self._add_count()
        if text is not None:
            self._add(encode(text))
        self._waiting.put(None)
        while self._thread.is_alive():
            self._thread.join(LOOK)
        if self._failure is not None:
            raise self._failure

    def _add_count(self) -> None:
        if self._left_out:
            self._add(encode(f"... {self._left_out:,} entries are not shown: the output was not read in time"))
            self._left_out = 0

    def _add(self, data: bytes) -> None:
        self._added += len(data)
        self._waiting.put(data)

    def _run(self) -> None:
        while (data := self._waiting.get()) is not None:
            try:
                write_whole(self._stream, data)
            except (ReaderLeft, Failure) as failure:
                self._failure = failure
                with contextlib.suppress(RuntimeError):  # the event loop is closed
                    self.on_failure()
                return
            self._written += len(data)
