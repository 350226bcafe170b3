"""What a client has to call: futures to settle, callbacks to run, records to log. None of it under a lock.

The core, which may hold one, notes the calls; the driver makes them when it holds none. Each is a function and its two
arguments, since a closure for each message costs more than the rest of what is done for it here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

logger = logging.getLogger("mqttws")


class Calls:
    """The calls that are due, in order."""

    def __init__(self) -> None:
        self._due: deque[tuple[Callable[[Any, Any], object], Any, Any]] = deque()

    def __bool__(self) -> bool:
        return bool(self._due)

    def add(self, function: Callable[[Any, Any], object], first: object, second: object) -> None:
        """Note a call."""
        self._due.append((function, first, second))

    def log(self, level: int, message: str, *arguments: object) -> None:
        """Note a record for the log: a handler may use the very client that it tells of."""
        self._due.append((_emit, level, (message, *arguments)))

    def run(self) -> None:
        """Make the calls, one at a time: each may bring the next ones about itself."""
        due = self._due
        while due:
            function, first, second = due.popleft()
            function(first, second)

    def clear(self) -> None:
        """Drop the calls."""
        self._due.clear()


def _emit(level: int, message: tuple[Any, ...], *, exc_info: bool = False) -> None:
    """Log. A handler that raises is at fault itself, and there is nobody else to tell."""
    try:
        logger.log(level, *message, exc_info=exc_info)
    except Exception:
        pass


def report(callback: Callable[[Any], object]) -> None:
    """Log the exception that a callback has raised, from where it is caught."""
    _emit(logging.ERROR, ("a callback raised an exception: %r", callback), exc_info=True)


def guarded(callback: Callable[[Any], object], argument: object) -> None:
    """Call back; an exception is logged, and never stops the network."""
    try:
        callback(argument)
    except Exception:
        report(callback)
