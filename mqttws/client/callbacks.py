"""The calls that a client owes its user: futures to settle, callbacks to run, records to log. None runs under a lock.

The core, whose driver may hold one, notes the calls; the driver makes them when it holds none. Each is a function and
its two arguments, because a closure for each message costs more than the rest of what is done for it here.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable
from typing import Any, Final

# The levels of the log, as `logging` numbers them.
DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30


class Callbacks:
    """The calls that are due, in order.

    Attributes:
        due: the calls: asked for truth without a call, where that is asked for each message.
    """

    def __init__(self) -> None:
        self.due: deque[tuple[Callable[[Any, Any], object], Any, Any]] = deque()

    def add(self, function: Callable[[Any, Any], object], first: object, second: object) -> None:
        """Note a call."""
        self.due.append((function, first, second))

    def run(self) -> None:
        """Make the calls, one at a time: each may add others."""
        due = self.due
        while due:
            function, first, second = due.popleft()
            function(first, second)

    def clear(self) -> None:
        """Drop the calls."""
        self.due.clear()


def check_callback(callback: object) -> None:
    """Check that something can be called.

    Raises:
        TypeError: it cannot.
    """
    if not callable(callback):
        raise TypeError(f"the callback must be a function of a message, not {type(callback).__name__}")


def is_coroutine_function(callback: object) -> bool:
    """Return whether a callback makes a coroutine when it is called; `functools.partial` is looked through."""
    if callback is None:
        return False
    import inspect  # a program without callbacks can do without loading it

    while isinstance(callback, functools.partial):
        callback = callback.func
    if callable(callback) and not inspect.isroutine(callback):
        callback = type(callback).__call__
    return inspect.iscoroutinefunction(callback)
