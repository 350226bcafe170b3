"""Waiting with threads: futures that a signal cannot leave locked, and futures whose callbacks may wait.

A `concurrent.futures.Future` has a condition, whose `__enter__` is written in Python: an exception that a signal
handler raises at its end, Ctrl-C for example, leaves the lock taken, and the thread that sets the outcome waits for
ever. `Outcome`, for which pubsub waits, is made of a `SimpleQueue`, which is written in C and has no such moment.
`Promise`, for which users wait, has a condition that takes its lock in C.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from operator import attrgetter

__all__ = ["Outcome", "Promise", "slice_of"]

#: Seconds that a thread waits before it looks whether a signal has arrived.
_SLICE = 0.5


def slice_of(deadline: float | None) -> float:
    """Return how long to wait before looking again.

    A signal that arrives in the very moment in which the main thread begins to wait for a lock does not end that wait:
    Python runs its handler only when the wait is over.

    Args:
        deadline: By `time.monotonic`; None: never.
    """
    return _SLICE if deadline is None else max(0.0, min(_SLICE, deadline - time.monotonic()))


class Outcome:
    """A future that is settled once and never cancelled."""

    def __init__(self) -> None:
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_done = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether there is an outcome."""
        return self._is_done

    def set_result(self, result: None, /) -> None:
        """Settle it."""
        self._is_done = True
        self._wake.put(None)

    def set_exception(self, exception: BaseException, /) -> None:
        """Settle it with an exception that `result` raises."""
        self._error = exception
        self.set_result(None)

    def cancel(self) -> bool:
        """Return False: it cannot be cancelled."""
        return False

    def result(self, timeout: float | None = None) -> None:
        """Wait for the outcome.

        Args:
            timeout: Seconds; None: as long as it takes.

        Raises:
            TimeoutError: There was none in time.
            BaseException: The one that it was settled with.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_done:
            try:
                self._wake.get(timeout=slice_of(deadline))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline and not self._is_done:
                    raise TimeoutError from None
            else:
                self._wake.put(None)  # for the next one that waits
        if self._error is not None:
            raise self._error


class Condition(threading.Condition):
    """A condition whose `with` acquires its lock in one step, in C: see above."""

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class Promise(Future[None]):
    """The future of `publish_nowait`. Its callbacks are called where they may wait, not in the network thread.

    Args:
        notify: Calls a function soon.
        call: Calls a callback, and logs its exception.
        on_cancel: Called when it has been cancelled.
    """

    def __init__(
        self, notify: Callable[..., object], call: Callable[..., object], on_cancel: Callable[[], object]
    ) -> None:
        super().__init__()
        self._condition = Condition()
        self._notify = notify
        self._call = call
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """See `concurrent.futures.Future.cancel`. The message is taken back if it has not been sent."""
        was_cancelled = self.cancelled()
        if not super().cancel():
            return False
        if not was_cancelled:
            self._on_cancel()
        return True

    def add_done_callback(self, fn: Callable[[Future[None]], object]) -> None:
        """See `concurrent.futures.Future.add_done_callback`."""
        super().add_done_callback(fn if self.done() else partial(self._notify, self._call, fn))
