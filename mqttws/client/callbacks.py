"""A queue of calls to make outside the driver's lock: settling futures, running callbacks, and logging.

The driver may hold its lock while it calls the core, so the core only queues such calls. The driver makes them after it
has released the lock. Each entry is a function and its two arguments, because creating a closure for each message would
take longer than everything else that is done for it here.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Coroutine
from types import BuiltinFunctionType, FunctionType, MethodType

from mqttws.hints import Any, Final

# The levels of the log, as `logging` numbers them.
DEBUG: Final = 10
INFO: Final = 20
WARNING: Final = 30

#: The flags of code that a call does not run: of generators, coroutines, `types.coroutine`, asynchronous generators.
_NOT_RUN: Final = 0x20 | 0x80 | 0x100 | 0x200


class Callbacks:
    """The queued calls, in order.

    Args:
        settle: The function that settles futures; see `Driver.settle`.

    Attributes:
        due: The queue. It is public so that hot paths can test whether it is empty without a method call.
    """

    def __init__(self, settle: Callable[[Any, Any], object]) -> None:
        self._settle = settle
        self.due: deque[tuple[Callable[[Any, Any], object], Any, Any]] = deque()

    def add(self, function: Callable[[Any, Any], object], first: object, second: object) -> None:
        """Queue a call."""
        self.due.append((function, first, second))

    def run(self) -> None:
        """Make the calls in order, including those that they add.

        An exception of a signal handler can interrupt this. Then the next call settles the same futures again, which
        has no further effect, so that none is left without its outcome. A callback of the user is not called twice.
        """
        due = self.due
        while due:
            try:
                call = due[0]
            except IndexError:  # a signal handler has run the queue
                return
            if call[0] is not self._settle:
                function, first, second = due.popleft()
                function(first, second)
                continue
            self._settle(call[1], call[2])
            try:
                due.remove(call)  # compares it with the first entry, which is the same object
            except ValueError:  # the callback of a future has run the queue
                pass

    def clear(self) -> None:
        """Drop the calls."""
        self.due.clear()


def check_callback(callback: object, name: str = "the callback", *, awaited: bool) -> None:
    """Check that a call of a callback runs it.

    Args:
        callback: The callback.
        name: Its name in the error message.
        awaited: Whether the client awaits what it returns.

    Raises:
        TypeError: It is not callable; it is a coroutine function, and not awaited; or it is a generator function.
    """
    if not callable(callback):
        raise TypeError(f"{name} must be a function of a message, not {type(callback).__name__}")
    if not awaited and is_coroutine_function(callback):
        raise TypeError(f"{name} is a coroutine function, which only mqttws.aio.Client awaits")
    if is_generator_function(callback):
        raise TypeError(f"{name} is a generator function: a call of it would not run its body")


def callback_name(callback: Any) -> str:
    """Return the qualified name of a callback, for logs and errors; that of the type for an object without a name.

    Its repr is not shown there: that of a bound method contains that of its object, and that of a `functools.partial`
    the arguments. Both can contain secrets.

    Args:
        callback: The callback.

    Examples:
        >>> import functools, mqttws
        >>> mqttws.callback_name(functools.partial(functools.reduce, token="secret"))
        '_functools.reduce'
    """
    while isinstance(callback, functools.partial):
        callback = callback.func
    try:
        return f"{callback.__module__ or 'builtins'}.{callback.__qualname__}"
    except Exception:  # it has no name; the `__getattr__` of an object may raise anything
        return f"{type(callback).__module__}.{type(callback).__qualname__}"


def accepted(result: object) -> object:
    """Return what a callback has returned to a client that does not await it.

    A function that is no coroutine function may return the coroutine of one; then nothing of that has run.

    Raises:
        TypeError: It is awaitable.
    """
    if hasattr(type(result), "__await__"):  # of the type, because a proxy or a mock may have any attribute
        if isinstance(result, Coroutine):
            result.close()  # prevents the warning about a coroutine that was never awaited
        raise TypeError(f"the callback returned a {type(result).__name__}, which is not awaited here")
    return result


def is_coroutine_function(callback: object) -> bool:
    """Return whether a callback must be awaited to run.

    It is a function defined by `async def`, or a generator function with `types.coroutine`; or an object whose
    `__call__` is; or a `functools.partial` of one of these.

    Args:
        callback: The callback, or None.
    """
    if callback is None or _is_plain(callback):
        return False
    import inspect

    function = _unwrapped(callback)
    # An object can be marked itself, as an `AsyncMock` is.
    marked = inspect.iscoroutinefunction(callback) or inspect.iscoroutinefunction(function)
    return marked or _is_awaitable_generator(function)


def is_generator_function(callback: object) -> bool:
    """Return whether a callback returns a generator, synchronous or asynchronous, so that a call does not run its body.

    Args:
        callback: The callback, or None. The result is False for a generator function with `types.coroutine`, which is
            awaited.
    """
    if callback is None or _is_plain(callback):
        return False
    import contextlib
    import inspect

    function = _unwrapped(callback)
    if _is_awaitable_generator(function):
        return False
    if getattr(function, "__globals__", None) is contextlib.__dict__:  # what `contextmanager` returns: it only calls it
        function = inspect.unwrap(function)  # type: ignore[arg-type]
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _is_plain(callback: object) -> bool:
    """Return whether a callback is a function or a method without any marks, which a call runs.

    Nearly all callbacks are. For them `inspect` is not imported, which takes as long as to import the client.
    """
    while type(callback) is functools.partial and not callback.__dict__:
        callback = callback.func
    function = callback.__func__ if type(callback) is MethodType else callback
    if type(function) is not FunctionType:
        return type(function) is BuiltinFunctionType  # also a method, such as `append` of a list
    return not function.__dict__ and not function.__code__.co_flags & _NOT_RUN


def _is_awaitable_generator(function: Any) -> bool:
    """Return whether a function is a generator function with `types.coroutine`."""
    import inspect

    if not inspect.isgeneratorfunction(function):
        return False
    flags: int = function.__code__.co_flags
    return flags & inspect.CO_ITERABLE_COROUTINE != 0


def _unwrapped(callback: object) -> object:
    """Return the function that a call of a callback runs."""
    import inspect

    while isinstance(callback, functools.partial):
        callback = callback.func
    if callable(callback) and not inspect.isroutine(callback):
        callback = type(callback).__call__
    return callback
