"""The observable of changes of connection states."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pubsub.observers import Callback, Observer, make_observer
from pubsub.runtime import Runtime
from pubsub.states import ConnectionStateChange

__all__ = ["StateChanges", "Watch"]


#: Makes the calls of one observer in order; see `Runtime.new_calls`.
Calls = Callable[[Callable[[], object]], object]


class Watch:
    """The handle of an observer of connection states."""

    def __init__(self, stop: Callable[[Watch], object]) -> None:
        self._stop = stop
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether `unsubscribe` was called."""
        return self._closed

    def unsubscribe(self) -> None:
        """End the observation. A second call has no effect."""
        self._closed = True
        self._stop(self)


class StateChanges:
    """An observable of the changes of state of all connections of a `PubSub`. It does not end by itself.

    Args:
        runtime: The runtime of the `PubSub`.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._watches: dict[Watch, tuple[Observer, Calls]] = {}

    def subscribe(self, next: object = None, error: Callback | None = None, close: Callback | None = None) -> Watch:
        """Call `next` with each `ConnectionStateChange` from now on.

        Args:
            next: Called with each change; or an observer object, as the only argument. With asyncio it may be a
                coroutine function, which is awaited before the next change. Then at most 1,000 changes wait; the oldest
                ones are dropped.
            error: Not called: the observation does not fail.
            close: Called when the observation has ended.

        Returns:
            A handle; its `unsubscribe` ends the observation and calls `close`.

        Raises:
            TypeError: The arguments are not an observer.
        """
        watch = Watch(self._stop)
        observer = make_observer(next, error, close)
        for callback in observer.next, observer.close:
            self._runtime.check_callback(callback)
        self._watches[watch] = observer, self._runtime.new_calls()
        return watch

    def report(self, change: ConnectionStateChange) -> None:
        """Pass a change to the present observers."""
        watches = list(self._watches.items())
        if watches:
            self._runtime.notify(self._call, watches, change)

    def _call(self, watches: list[tuple[Watch, tuple[Observer, Calls]]], change: ConnectionStateChange) -> None:
        for watch, (observer, calls) in watches:
            calls(partial(self._pass, watch, observer, change))

    def _pass(self, watch: Watch, observer: Observer, change: ConnectionStateChange) -> object:
        """Call `next`, unless the observation has ended while the call was waiting."""
        return self._runtime.call(observer.next, change) if watch in self._watches else None

    def _stop(self, watch: Watch) -> None:
        watched = self._watches.pop(watch, None)
        if watched is not None:
            observer, calls = watched
            calls(partial(self._runtime.call, observer.close))
