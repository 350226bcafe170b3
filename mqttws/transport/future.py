"""The futures of the blocking driver: a `concurrent.futures.Future` that costs little until somebody waits for it.

Each message that is published has one, and nearly none is ever waited for. The standard one makes a condition, its
lock and two lists when it is born, which takes several times as long as encoding the message. This one has them made
when they are first asked for: by a wait, a callback, a cancellation. Until then its outcome is stored as it is.

Of the standard class this uses the attributes `_state`, `_result`, `_exception`, and that all others are touched only
while `_condition` is held; `tests/transport/test_future.py` holds both classes to the same behaviour.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

_PENDING = "PENDING"
_FINISHED = "FINISHED"
#: Guards the step from a future without a condition to one with it.
_making = threading.Lock()


class LightFuture(Future[Any]):
    """See `concurrent.futures.Future`; made and settled by the driver."""

    # What a new one holds; no `__init__` needs to run.
    _state = _PENDING
    _result = None
    _exception = None
    _is_whole = False  # whether it has what the standard class makes at birth
    __init__ = object.__init__

    def __getattr__(self, name: str) -> Any:
        """Make what the standard class makes at birth."""
        if name not in ("_condition", "_waiters", "_done_callbacks"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        with _making:
            if not self._is_whole:
                self._waiters = []
                self._done_callbacks: list[Callable[[Future[Any]], object]] = []
                self._condition = threading.Condition()
                self._is_whole = True
        return self.__dict__[name]

    def done(self) -> bool:
        """Tell whether there is an outcome, or a cancellation."""
        return self._state not in (_PENDING, "RUNNING")

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome: return it, or raise it. See `concurrent.futures.Future.result`."""
        if self._state is _FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def settle(self, outcome: object) -> None:
        """Take an outcome: an exception to raise or a result to return. A future that was cancelled stays so."""
        with _making:
            if not self._is_whole:
                if isinstance(outcome, Exception):
                    self._exception = outcome
                elif outcome is not None:
                    self._result = outcome
                self._state = _FINISHED
                return
        if self.done() or not self.set_running_or_notify_cancel():
            return
        if isinstance(outcome, Exception):
            self.set_exception(outcome)
        else:
            self.set_result(outcome)
