"""Futures that a signal handler cannot leave locked (`Outcome`), and futures whose callbacks may block (`Promise`).

A `concurrent.futures.Future` has a condition, whose `__enter__` is written in Python. An exception that a signal
handler raises at the end of it, Ctrl-C for example, leaves the lock taken, and the thread that sets the outcome waits
forever. `Outcome`, for internal use, is based on a `SimpleQueue`, which is written in C and cannot be interrupted
there. `Promise`, for users, has a condition whose `__enter__` releases the lock in this case.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from mqttws import to_raise
from pubsub.owned_future import OwnedFuture

__all__ = ["Outcome", "Promise", "slice_of"]

#: The longest uninterrupted wait of a thread, in seconds.
_SLICE = 0.5


def slice_of(deadline: float | None) -> float:
    """Return the seconds of one wait: the time until the deadline, but at most `_SLICE`.

    A signal that arrives just before the main thread waits for a lock does not end that wait: Python runs the handler
    only after the wait. So a long wait is cut into slices.

    Args:
        deadline: By `time.monotonic`; None for no limit.
    """
    return _SLICE if deadline is None else max(0.0, min(_SLICE, deadline - time.monotonic()))


class Outcome:
    """A future that is settled once and cannot be cancelled."""

    def __init__(self) -> None:
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._is_done = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether the future is settled."""
        return self._is_done

    def set_result(self, result: None, /) -> None:
        """Settle the future."""
        self._is_done = True
        self._wake.put(None)

    def set_exception(self, exception: BaseException, /) -> None:
        """Settle the future with an exception, which `result` raises."""
        self._error = exception
        self.set_result(None)

    def cancel(self) -> bool:
        """Return False: the future cannot be cancelled."""
        return False

    def result(self, timeout: float | None = None) -> None:
        """Wait for the outcome.

        Args:
            timeout: Seconds; None for no limit.

        Raises:
            TimeoutError: There was no outcome in time.
            BaseException: The future was settled with this exception.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._is_done:
            try:
                self._wake.get(timeout=slice_of(deadline))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline and not self._is_done:
                    raise TimeoutError from None
            else:
                self._wake.put(None)  # for the next thread that waits
        if self._error is not None:
            raise to_raise(self._error)


class Promise(OwnedFuture[None]):
    """The future of `publish_nowait`. Its callbacks may block: they are not called in the network thread.

    Args:
        notify: Calls a function soon, in another thread.
        call: Calls a callback, and logs its exception.
        on_cancel: Called when the future has been cancelled.
    """

    def __init__(
        self, notify: Callable[..., object], call: Callable[..., object], on_cancel: Callable[[], object]
    ) -> None:
        super().__init__()
        self._notify = notify
        self._call = call
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """See `concurrent.futures.Future.cancel`. The message is withdrawn if it has not been sent."""
        was_cancelled = self.cancelled()
        if not super().cancel():
            return False
        if not was_cancelled:
            self._on_cancel()
        return True

    def add_done_callback(self, fn: Callable[[Future[None]], object]) -> None:
        """See `concurrent.futures.Future.add_done_callback`."""
        super().add_done_callback(fn if self.done() else partial(self._notify, self._call, fn))
