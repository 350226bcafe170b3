"""The interface for what threads and asyncio do differently: futures, callbacks, clients, and the loop over messages.

`channel`, `subscription`, `publishing` and `core` are written once, on top of a `Runtime`. There are two
implementations, `pubsub.sync.runtime` and `pubsub.aio.runtime`. This module imports neither.

Three rules apply to all code that uses it:

* The lock is acquired before the lock of a client, never after it, and no code of the user runs while it is held.
* The lock is not reentrant. A signal handler that needs it while the interrupted thread holds it gets `WouldDeadlock`.
* A finalizer acquires no lock and runs no Python code, so that nothing can interrupt it. An iteration is watched by a
  weak reference whose callback is `deque.append`. The next method call, or a thread of this package, calls `collect`,
  which does the work.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from mqttws import State, Waiting, WouldDeadlock, callback_name, is_generator_function
from pubsub.owned_lock import OwnedLock

__all__ = ["DONE", "Client", "Future", "Runtime", "check_seconds", "logger", "settle"]


logger = logging.getLogger("pubsub")


def check_seconds(timeout: object) -> None:
    """Check a `timeout`.

    Raises:
        TypeError, ValueError: It is not a number.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout must be int or float, not {type(timeout).__name__}")
    if timeout != timeout:
        raise ValueError("timeout is nan; it must be a number of seconds")


class Future(Protocol):
    """The common interface of `concurrent.futures.Future`, `asyncio.Future` and the futures of `mqttws`."""

    def done(self) -> bool:
        """Return whether the future has an outcome or was cancelled."""

    def cancel(self) -> bool:
        """Cancel the future. Return whether it is cancelled."""

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""

    def exception(self) -> BaseException | None:
        """Return the exception, or None."""

    def result(self) -> Any:
        """Return the result, or raise the exception."""

    def set_result(self, result: Any, /) -> None:
        """Set the result."""

    def set_exception(self, exception: Any, /) -> None:
        """Set the exception."""

    def add_done_callback(self, function: Callable[[Any], object], /) -> None:
        """Call a function with the future when there is an outcome."""


def settle(future: Future, error: BaseException | None = None) -> None:
    """Set the outcome of a future. One that was cancelled stays cancelled."""
    claim = getattr(future, "set_running_or_notify_cancel", None)  # another thread may cancel it meanwhile
    if future.done() or (claim is not None and not claim()):
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Waited(Protocol):
    """The interface of a `Channel` for a call that waits."""

    @property
    def stalled(self) -> str:
        """See `Channel.stalled`."""

    @property
    def unreachable(self) -> str:
        """See `Channel.unreachable`."""

    def check_progress(self) -> None:
        """See `Channel.check_progress`."""


def late(failure: str, seconds: float, channels: Iterable[Waited]) -> str:
    """Return the message of a time-out, with the reason if reading is paused, or there is no connection."""
    reasons = (channel.stalled or channel.unreachable for channel in channels)
    reason = next(filter(None, reasons), "")
    return f"{failure} within {seconds:g} s{reason and ': '}{reason}"


class _Done:
    """A future with the outcome None, which needs neither a lock nor an event loop."""

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> None:
        return None


#: Replaces the futures of a connection whose process or event loop no longer exists.
DONE = _Done()


class Client(Protocol):
    """The common interface of `mqttws.Client` and `mqttws.aio.Client`: the methods that do not wait."""

    @property
    def state(self) -> State:
        """The state of the connection."""

    @property
    def pending(self) -> int:
        """The number of messages that are not sent or not acknowledged yet."""

    @property
    def waiting(self) -> Waiting:
        """The queue of messages that are not sent yet."""

    @property
    def stalled(self) -> str:
        """The reason why nothing is read before messages are taken; an empty string while the client reads."""

    @property
    def unreachable(self) -> str:
        """Why there is no connection; an empty string while there is one."""

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped because the queue was full."""

    @property
    def expired(self) -> int:
        """The number of messages that expired before they were sent."""

    def publish_nowait(self, topic: str, payload: bytes, qos: int, retain: bool, *, expire_after: float | None) -> Any:
        """Publish a message. Return a future."""

    def withdraw(self, future: Any) -> bool:
        """Withdraw a message that has not been sent. Return whether it was withdrawn."""

    def subscribe_nowait(self, topic_filters: Sequence[tuple[str, int]]) -> Any:
        """Subscribe. Return a future of the return codes."""

    def unsubscribe_nowait(self, topic_filters: Sequence[str]) -> Any:
        """Unsubscribe. Return a future."""

    def acknowledge(self, message: Any) -> None:
        """Acknowledge a message of QoS 1 or 2."""

    def give_back(self, messages: Sequence[Any], after: int = 0) -> None:
        """Return messages to the inbox, before all others except the first `after`."""

    def reconnect_now(self) -> None:
        """Close the connection and make a new one."""


class _Left(weakref.ref[Any]):
    """A weak reference to an iteration, with the function that ends its subscription once the iteration is freed."""

    __slots__ = ("end", "waker")

    end: Callable[[], object]
    waker: weakref.ref[Any]


class Runtime(ABC):
    """The interface of a runtime: threads or an event loop.

    Args:
        timeout: Seconds; the default time-out of each call that waits.

    Attributes:
        timeout: The default time-out, in seconds.
        abandoned: The iterations that were freed and whose subscriptions must still be ended.
    """

    def __init__(self, timeout: float) -> None:
        check_seconds(timeout)
        self.timeout = timeout
        self.renew()

    def renew(self) -> None:
        """Create all state. Also called in a forked child, where a missing thread may hold the old lock."""
        self.abandoned: deque[_Left] = deque()
        self._iterations: set[_Left] = set()
        self._lock: Any = OwnedLock()

    @property
    def lock(self) -> Any:
        """The lock that guards the state of a `PubSub`, of its channels and of its subscriptions.

        Raises:
            WouldDeadlock: This thread holds the lock already, which is possible only in a signal handler.
        """
        if self._lock.owned():
            raise WouldDeadlock(
                "this signal handler has interrupted a call of the same PubSub; make the call in another thread, or "
                "after the handler has returned"
            )
        return self._lock

    def seconds(self, timeout: float | None, default: float | None = None) -> float:
        """Return the time-out of a call: the argument; for None the `default`, or else that of the `PubSub`.

        Raises:
            TypeError, ValueError: The argument is not a number.
        """
        if timeout is None:
            return self.timeout if default is None else default
        check_seconds(timeout)
        return timeout

    def watch(self, iteration: Any, end: Callable[[], object]) -> None:
        """Call a function after an iteration is freed: soon, and before the next method call does anything.

        Args:
            iteration: The iteration. Only the user may hold a reference to it.
            end: The function.
        """
        left = _Left(iteration, self.abandoned.append)
        left.end = end
        left.waker = weakref.ref(iteration, self._waker())
        self._iterations.add(left)

    def collect(self) -> None:
        """End the subscriptions of the iterations that were freed."""
        while self.abandoned:
            left = self.abandoned[0]
            left.end()
            self._iterations.discard(left)
            self.abandoned.popleft()  # last: until then other calls see that there is work to do

    @abstractmethod
    def _waker(self) -> Callable[[Any], object]:
        """Return a function for finalizers, which takes no lock and causes `collect` to be called soon."""

    @abstractmethod
    def new_client(self, provider: Any, **options: Any) -> Any:
        """Return a new client, which gets its URL from a provider."""

    @abstractmethod
    def new_future(self) -> Any:
        """Return a new future for internal use."""

    @abstractmethod
    def new_promise(self, on_cancel: Callable[[], object]) -> Any:
        """Return a new future for the user. Its callbacks may block.

        Args:
            on_cancel: Called when the user has cancelled the future.
        """

    @abstractmethod
    def start(self, channel: Any) -> Any:
        """Connect a channel and take its messages, in the background. Return the thread or the task that does."""

    @abstractmethod
    def is_current(self, runner: Any) -> bool:
        """Return whether the caller runs in a thread or task that `start` has returned."""

    @abstractmethod
    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call a function after some seconds. If the `PubSub` is closed, call it earlier or not at all."""

    @abstractmethod
    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function soon, in the order of these calls, in a thread or task where it may block."""

    @abstractmethod
    def call(self, callback: Callable[..., object] | None, *arguments: object) -> Any:
        """Call a callback of the user, if there is one. Return its result; log its exception."""

    def check_callback(self, callback: Callable[..., object] | None) -> None:
        """Check a callback of the user, if there is one.

        Raises:
            TypeError: The callback is a generator function; or a coroutine function, and this is not asyncio.
        """
        if is_generator_function(callback):
            raise TypeError(f"{callback_name(callback)} is a generator function: a call of it would not run its body")

    @abstractmethod
    def accept(self, result: Any) -> Any:
        """Return the result of a callback.

        Raises:
            TypeError: It is awaitable, and this is not asyncio.
        """

    @abstractmethod
    def spawn(self, result: Any) -> object:
        """Await the result of a callback in a task, if it is awaitable."""

    @abstractmethod
    def new_calls(self) -> Callable[[Callable[[], object]], object]:
        """Return a function that makes calls in order: one after what the earlier one has returned is awaited."""

    @abstractmethod
    def log_failure(self, future: Any) -> None:
        """Log the failure of a message whose future no user gets. Does nothing with threads.

        asyncio itself would log it, as an exception that was never retrieved.
        """

    @abstractmethod
    def is_usable(self, runner: Any) -> bool:
        """Return whether a connection can be used here. With asyncio its task must belong to the running event loop.

        Raises:
            MQTTError: The connection is in use in another event loop.
        """
