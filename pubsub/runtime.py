"""What threads and asyncio do differently: a lock, futures, callbacks, clients, and the loop that takes messages.

`channel`, `subscription`, `publishing` and `core` are written once, on top of a `Runtime`. Each face of the API brings
its own: `pubsub.sync.runtime` and `pubsub.aio.runtime`. This module imports none of them.

Three rules hold for all code above it:

* The lock is taken before the lock of a client, never after it, and no code of the user runs while it is held.
* The lock is not reentrant. A signal handler that needs it while the thread it interrupts holds it gets
  `WouldDeadlock`.
* A finaliser takes no lock and runs no Python code, so that nothing can interrupt it. An iteration is watched by a weak
  reference whose callback is `deque.append`; the next verb, or a thread of ours, calls `collect`, which does the work.
"""

from __future__ import annotations

import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from mqttws import State, Waiting, WouldDeadlock

__all__ = ["DONE", "Client", "Future", "Runtime", "logger", "settle"]


logger = logging.getLogger("pubsub")


class Future(Protocol):
    """What `concurrent.futures.Future`, `asyncio.Future` and the futures of `mqttws` have in common."""

    def done(self) -> bool:
        """Return whether there is an outcome."""

    def cancel(self) -> bool:
        """Cancel it. Return whether it is cancelled."""

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""

    def exception(self) -> BaseException | None:
        """Return why it failed."""

    def result(self) -> Any:
        """Return the result, or raise the exception."""

    def set_result(self, result: Any, /) -> None:
        """Set the outcome."""

    def set_exception(self, exception: Any, /) -> None:
        """Set the outcome."""

    def add_done_callback(self, function: Callable[[Any], object], /) -> None:
        """Call a function with the future when there is an outcome."""


def settle(future: Future, error: BaseException | None = None) -> None:
    """Set the outcome of a future. One that was cancelled stays cancelled."""
    claim = getattr(future, "set_running_or_notify_cancel", None)  # with threads, another one may cancel it meanwhile
    if future.done() or (claim is not None and not claim()):
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


class Waited(Protocol):
    """What is asked of a `Channel` for whose answer something waits."""

    @property
    def stalled(self) -> str:
        """See `Channel.stalled`."""

    def check_progress(self) -> None:
        """See `Channel.check_progress`."""


def late(failure: str, seconds: float, channels: Iterable[Waited]) -> str:
    """Say that the time of a call is up, and why where messages wait that nothing has taken."""
    stalled = next((channel.stalled for channel in channels if channel.stalled), "")
    return f"{failure} within {seconds:g} s{stalled and ': '}{stalled}"


class _Done:
    """A future with the outcome None, which needs neither a lock nor an event loop."""

    def done(self) -> bool:
        return True

    def result(self, timeout: float | None = None) -> None:
        return None


#: Stands for the futures of a connection that is gone with its process or its event loop.
DONE = _Done()


class Client(Protocol):
    """What is used of `mqttws.Client` and of `mqttws.aio.Client`: the verbs that do not wait."""

    @property
    def state(self) -> State:
        """The state of the connection."""

    @property
    def pending(self) -> int:
        """How many messages are not sent or not acknowledged yet."""

    @property
    def waiting(self) -> Waiting:
        """The queue of messages that are not sent yet."""

    @property
    def stalled(self) -> str:
        """Why no answer can come before messages are taken; empty as long as everything is read."""

    @property
    def dropped(self) -> int:
        """How many messages were dropped because too many waited."""

    @property
    def expired(self) -> int:
        """How many messages were dropped because they waited for too long."""

    def publish_nowait(self, topic: str, payload: bytes, qos: int, retain: bool, *, expire_after: float | None) -> Any:
        """Publish a message. Return a future."""

    def withdraw(self, future: Any) -> bool:
        """Take back a message that has not been sent. Return whether it was."""

    def subscribe_nowait(self, topic_filters: Sequence[tuple[str, int]]) -> Any:
        """Subscribe. Return a future of the return codes."""

    def unsubscribe_nowait(self, topic_filters: Sequence[str]) -> Any:
        """Unsubscribe. Return a future."""

    def acknowledge(self, message: Any) -> None:
        """Acknowledge a message of QoS 1 or 2."""

    def give_back(self, messages: Sequence[Any], after: int = 0) -> None:
        """Have messages given once more, before all others but the first few."""

    def reconnect_now(self) -> None:
        """End the connection and make a new one."""


class _Left(weakref.ref[Any]):
    """A weak reference to an iteration, with what ends its subscription once the iteration is gone."""

    __slots__ = ("end", "waker")

    end: Callable[[], object]
    waker: weakref.ref[Any]


class Runtime(ABC):
    """Threads, or an event loop.

    Args:
        timeout: Seconds; the default time-out of each call that waits.

    Attributes:
        timeout: As given.
        abandoned: Iterations that were garbage-collected, whose subscriptions must be ended.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        self.renew()

    def renew(self) -> None:
        """Begin anew. In a forked child, the old lock may be held by a thread that is not there."""
        self.abandoned: deque[_Left] = deque()
        self._iterations: set[_Left] = set()
        self._lock = threading.RLock()

    @property
    def lock(self) -> threading.RLock:
        """The lock that guards the state of a `PubSub`, of its channels and of its subscriptions.

        It is an `RLock` only because that one knows its owner. Taking it twice is refused rather than waited for.

        Raises:
            WouldDeadlock: This thread holds it already, which only a signal handler can bring about.
        """
        if self._lock._is_owned():  # type: ignore[attr-defined]
            raise WouldDeadlock(
                "this thread is inside pubsub already: a signal handler interrupted it; do this in another thread, or "
                "later"
            )
        return self._lock

    def seconds(self, timeout: float | None) -> float:
        """Return how long a wait may last."""
        return self.timeout if timeout is None else timeout

    def watch(self, iteration: Any, end: Callable[[], object]) -> None:
        """Call a function when an iteration is gone: soon, and before the next verb does anything.

        Args:
            iteration: To be referred to by nothing but its user.
            end: What to call.
        """
        left = _Left(iteration, self.abandoned.append)
        left.end = end
        left.waker = weakref.ref(iteration, self._waker())
        self._iterations.add(left)

    def collect(self) -> None:
        """End the subscriptions of iterations that are gone."""
        while self.abandoned:
            left = self.abandoned[0]
            left.end()
            self._iterations.discard(left)
            self.abandoned.popleft()  # at last: until then a verb knows that it is not done

    @abstractmethod
    def _waker(self) -> Callable[[Any], object]:
        """Return what a finaliser may call, without a lock, to have `collect` called soon."""

    @abstractmethod
    def new_client(self, provider: Any, **options: Any) -> Any:
        """Make a client that asks a provider where to connect."""

    @abstractmethod
    def new_future(self) -> Any:
        """Make a future that only pubsub waits for."""

    @abstractmethod
    def new_promise(self, on_cancel: Callable[[], object]) -> Any:
        """Make a future for the user to keep, whose callbacks may wait.

        Args:
            on_cancel: Called when the user has cancelled it.
        """

    @abstractmethod
    def start(self, channel: Any) -> Any:
        """Connect a channel and take its messages, in the background. Return the thread or the task that does."""

    @abstractmethod
    def is_current(self, runner: Any) -> bool:
        """Return whether a thread or a task that `start` returned is the one that calls."""

    @abstractmethod
    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """Call a function after some seconds. It may be called earlier or not at all if the `PubSub` is closed."""

    @abstractmethod
    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """Call a function soon, in order, where it may wait without stopping the network."""

    @abstractmethod
    def call(self, callback: Callable[..., object] | None, *arguments: object) -> Any:
        """Call a callback of the user, if there is one, and log its exception. Return its result."""

    @abstractmethod
    def check_callback(self, callback: Callable[..., object] | None) -> None:
        """Check a callback of the user, if there is one.

        Raises:
            TypeError: What it returns would have to be awaited, which only asyncio can do.
        """

    @abstractmethod
    def spawn(self, result: Any) -> None:
        """Take what a callback returned. An awaitable is awaited in a task."""

    @abstractmethod
    def is_usable(self, runner: Any) -> bool:
        """Return whether a connection can be used here: in asyncio, whether its task is one of the running event loop.

        Raises:
            MQTTError: It is in use in another event loop.
        """
