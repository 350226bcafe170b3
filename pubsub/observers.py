"""Observers: the three functions that a subscription calls, and the forms in which they can be given.

An observer is three functions, or an object with methods named `next`, `error` and `close` (or `complete`), or, as in
Rx, `on_next`, `on_error` and `on_completed`. What is callable is such an object only if it defines `next` or `on_next`:
a `unittest.mock.Mock`, which makes each attribute when it is read, is a function. `Runtime.call` calls the functions,
and logs what they raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from inspect import getattr_static

__all__ = ["Callback", "Observer", "make_observer"]

Callback = Callable[..., object]


@dataclass(frozen=True, slots=True)
class Observer:
    """The functions to call.

    Attributes:
        next: Called with each message, or each change of state.
        error: Called with each failure, an exception. A failure alone does not end a subscription.
        close: Called once, without arguments, at the end.
        holds: Whether `next` has a second argument, a function to call once the message is consumed (None at QoS 0).
    """

    next: Callback | None = None
    error: Callback | None = None
    close: Callback | None = None
    holds: bool = False


def make_observer(
    next: object = None,
    error: Callback | None = None,
    close: Callback | None = None,
) -> Observer:
    """Return an observer, given three functions or an object.

    Raises:
        TypeError: The arguments are neither.
    """
    if any(_has(next, name) for name in ("on_next", "next")):
        if error is not None or close is not None:
            raise TypeError("pass either an observer object or functions, not both")
        return Observer(
            _method(next, "on_next", "next"),
            _method(next, "on_error", "error"),
            _method(next, "on_completed", "close", "complete"),
        )
    for name, given in (("next", next), ("error", error), ("close", close)):
        if given is not None and not callable(given):
            raise TypeError(
                f"{name} is a {type(given).__name__}; expected a function, or, as the only argument, an object with "
                "the methods next, error and close (or on_next, on_error and on_completed)"
            )
    return Observer(next, error, close)  # type: ignore[arg-type]


def _has(observer: object, name: str) -> bool:
    return hasattr(observer, name) and (not callable(observer) or getattr_static(observer, name, None) is not None)


def _method(observer: object, *names: str) -> Callback | None:
    return next((method for name in names if callable(method := getattr(observer, name, None))), None)
