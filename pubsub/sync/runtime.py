"""The threads of a blocking `PubSub`.

Each connection has two threads: that of the client, which does the I/O, and the runner (`take_messages`), which
connects, takes one message after the other and calls `next`. So a slow callback delays later messages, never the
network. One more thread (`Notifier`) is started when it is first needed. It makes all other calls: changes of state,
refusals, callbacks of futures, and the work that finalizers have left.
"""

from __future__ import annotations

import heapq
import queue
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

import mqttws
from mqttws import WouldDeadlock
from pubsub.channel import Channel
from pubsub.owned_lock import OwnedLock
from pubsub.providers.base import Provider
from pubsub.providers.sharded import Sharded
from pubsub.runtime import Runtime, Waited, logger
from pubsub.sync.outcome import Outcome, Promise

if TYPE_CHECKING:
    from pubsub.sync.pool import Pool

__all__ = ["Notifier", "Threads", "check_thread", "outcome_of"]

#: Seconds that a call waits for the notifier to end the subscriptions of freed iterations.
COLLECT_TIMEOUT = 0.2
#: Seconds that a call waits before it checks whether its answer can still arrive.
WAIT_SLICE = 0.5


def check_thread(future: Any, channels: Iterable[Any]) -> None:
    """Check that a future has its outcome, or that it does not depend on this thread.

    Args:
        future: The future.
        channels: The channels through which the outcome arrives.

    Raises:
        WouldDeadlock: This is the network thread of a client: a handler of its log records makes the call.
    """
    if not future.done() and any(channel.client.in_network_thread for channel in channels):
        raise WouldDeadlock("the network waits for this log handler to return; use the _nowait form here")


def outcome_of(future: Any, deadline: float, channels: Iterable[Waited]) -> Any:
    """Wait for a future, and check regularly whether its outcome can still arrive.

    Args:
        future: The future.
        deadline: By `time.monotonic`.
        channels: The channels through which the outcome arrives.

    Returns:
        The result of the future.

    Raises:
        WouldDeadlock: The outcome cannot arrive before this callback returns.
        TimeoutError: The time is up.
    """
    while True:
        if not future.done():
            for channel in channels:
                channel.check_progress()
        left = deadline - time.monotonic()
        try:
            return future.result(max(0.0, min(WAIT_SLICE, left)))
        except TimeoutError:
            if future.done():
                return future.result()
            if left <= WAIT_SLICE:
                raise


class OwnThread(threading.Thread):
    """A thread of this package. An exception in a callback does not end it."""


class _Mark:
    """What `Notifier.finish` puts behind the calls that are due. Calling it has no effect."""

    def __init__(self, is_needed: Callable[[], bool]) -> None:
        self.is_needed = is_needed
        self.reached = Outcome()

    def __call__(self) -> None:
        pass


class Notifier:
    """A thread that calls functions in order. It is started with the first call, and ends with `finish`.

    Args:
        collect: Called after each function.
    """

    def __init__(self, collect: Callable[[], object]) -> None:
        # A `SimpleQueue` is reentrant: finalizers and signal handlers may call its `put`.
        self.calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._collect = collect
        self._timers: list[tuple[float, int, Callable[[], object]]] = []  # a heap, used only in the thread
        self._numbers = count()
        self._lock: Any = OwnedLock()
        self._thread: threading.Thread | None = None

    @property
    def is_current(self) -> bool:
        """Whether the caller runs in the thread of the notifier."""
        return self._thread is threading.current_thread()

    def put(self, call: Callable[[], object]) -> None:
        """Call a function soon."""
        self.calls.put(call)
        if self._thread is None:
            self.begin()

    def begin(self) -> None:
        """Start the thread, if it is not running."""
        thread = OwnThread(target=self._run, name="pubsub notifier", daemon=True)
        try:
            with self._lock:  # no function is called in this block, so no signal handler runs in it
                if self._thread is None:
                    self._thread = thread
            if self._thread is thread:
                thread.start()
        except BaseException as error:  # such as that of Ctrl-C; other threads already rely on this thread
            with self._lock:
                is_lost = self._thread is thread and thread.ident is None
                if is_lost:
                    self._thread = None
            if is_lost and not isinstance(error, RuntimeError):  # that of a process that has no threads left
                self.begin()
            raise

    def put_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call a function after some seconds; never, if `finish` ends the thread before."""
        due = time.monotonic() + seconds
        self.put(lambda: heapq.heappush(self._timers, (due, next(self._numbers), call)))

    def finish(self, timeout: float, is_needed: Callable[[], bool]) -> None:
        """Make all calls that are due, then end the thread if it is not needed. Wait, unless this is that thread.

        Args:
            timeout: Seconds.
            is_needed: Called in the thread after those calls. Returns whether there may be timers that still count, or
                finalizers that rely on the thread.
        """
        thread = self._thread
        if thread is None:
            return
        deadline = time.monotonic() + timeout
        mark = _Mark(is_needed)
        self.put(mark)
        # `join` raises a RuntimeError if the thread is not started, or an interrupt of `start` blocks its first step.
        if thread is not threading.current_thread() and thread.is_alive():
            try:
                mark.reached.result(timeout)
            except TimeoutError:  # it is busy with a slow callback of the user
                return
            if self._thread is not thread:
                thread.join(min(max(0.0, deadline - time.monotonic()), threading.TIMEOUT_MAX))

    def _run(self) -> None:
        with self._lock:
            if self._thread is not threading.current_thread():  # `begin` was interrupted, and has started another one
                return
        while True:
            try:
                call = self.calls.get(timeout=self._seconds_left())
            except queue.Empty:
                if self._seconds_left():
                    continue
                call = heapq.heappop(self._timers)[2]
            try:
                call()
                self._collect()
            except BaseException:  # a defect of this package
                logger.exception("a call of the notifier raised an exception")
            if isinstance(call, _Mark) and self._ends(call):
                return
            del call  # while this waits, it does not hold a subscription that has ended

    def _ends(self, mark: _Mark) -> bool:
        """Return whether the thread ends at a mark."""
        with self._lock:
            self._thread = None  # first: a call that is put from now on starts a thread, and one put before is seen
            # In this order: what needs the thread exists before it puts a call.
            is_over = self.calls.empty() and not mark.is_needed()
            if is_over:
                self._timers.clear()
            else:
                self._thread = threading.current_thread()
        mark.reached.set_result(None)
        return is_over

    def _seconds_left(self) -> float | None:
        """Return the seconds until the next timer, a minute at most: Python refuses very long time-outs."""
        return max(0.0, min(60.0, self._timers[0][0] - time.monotonic())) if self._timers else None


class Threads(Runtime):
    """The runtime of `pubsub.PubSub`."""

    def renew(self) -> None:
        """See `Runtime.renew`."""
        super().renew()
        self.notifier = Notifier(super().collect)

    def collect(self) -> None:
        """See `Runtime.collect`. Only the notifier does the work, because no signal handler interrupts it."""
        if not self.abandoned or self.notifier.is_current or self._lock.owned():
            return
        collected = Outcome()
        self.notifier.put(partial(collected.set_result, None))
        try:
            collected.result(COLLECT_TIMEOUT)
        except TimeoutError:  # the notifier is busy with a slow callback of the user
            pass

    def _waker(self) -> Callable[[Any], object]:
        self.notifier.begin()
        return self.notifier.calls.put

    def new_client(self, provider: Provider, **options: Any) -> mqttws.Client | Pool:
        """See `Runtime.new_client`."""

        def make(**options: Any) -> mqttws.Client:
            return mqttws.Client(provider.url, **provider.with_turns(options))

        if not isinstance(provider, Sharded):
            return make(**options)
        from pubsub.sync.pool import Pool  # most programs need no pool

        most = provider.max_subscriptions
        budgets = provider.budget, provider.receiving_budget, provider.filters
        return Pool(self, make, options, provider.connections, provider.most_connections, most, *budgets)

    def new_future(self) -> Outcome:
        """See `Runtime.new_future`."""
        return Outcome()

    def new_promise(self, on_cancel: Callable[[], object]) -> Promise:
        """See `Runtime.new_promise`."""
        return Promise(self.notify, self.call, on_cancel)

    def start(self, channel: Channel) -> threading.Thread:
        """See `Runtime.start`."""
        thread = OwnThread(target=take_messages, args=(channel,), name=f"pubsub {channel.provider.name}", daemon=True)
        thread.start()
        return thread

    def is_current(self, runner: threading.Thread) -> bool:
        """See `Runtime.is_current`."""
        return runner is threading.current_thread()

    def later(self, seconds: float, function: Callable[[], object]) -> None:
        """See `Runtime.later`."""
        self.notifier.put_later(seconds, function)

    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """See `Runtime.notify`."""
        self.notifier.put(partial(function, *arguments))

    def call(self, callback: Callable[..., object] | None, *arguments: object) -> Any:
        """See `Runtime.call`.

        `SystemExit` and `KeyboardInterrupt` end a thread of the user, as they should, but not a thread of this package.
        """
        if callback is None:
            return None
        try:
            return self.accept(callback(*arguments))
        except Exception:
            logger.exception("a callback raised an exception: %s", mqttws.callback_name(callback))
        except BaseException as error:
            if not isinstance(threading.current_thread(), OwnThread):
                raise
            text = "a callback raised %s, which does not end its thread: %s"
            logger.exception(text, type(error).__name__, mqttws.callback_name(callback))
        return None

    def check_callback(self, callback: Callable[..., object] | None) -> None:
        """See `Runtime.check_callback`."""
        super().check_callback(callback)
        if mqttws.is_coroutine_function(callback):
            raise TypeError(f"{mqttws.callback_name(callback)} is a coroutine function, which only pubsub.aio awaits")

    def accept(self, result: Any) -> Any:
        """See `Runtime.accept`. A function that is not a coroutine function may return the coroutine of one."""
        if hasattr(type(result), "__await__"):  # of the type, because a proxy or a mock may have any attribute
            if isinstance(result, Coroutine):
                result.close()  # prevents the warning about a coroutine that was never awaited
            raise TypeError(f"the callback returned a {type(result).__name__}, which only pubsub.aio awaits")
        return result

    def spawn(self, result: Any) -> None:
        """See `Runtime.spawn`. With threads a result has no effect."""

    def new_calls(self) -> Callable[[Callable[[], object]], object]:
        """See `Runtime.new_calls`. With threads a call is over when it returns."""
        return lambda call: call()

    def log_failure(self, future: Any) -> None:
        """See `Runtime.log_failure`."""

    def is_usable(self, runner: Any) -> bool:
        """See `Runtime.is_usable`."""
        return True


def take_messages(channel: Channel) -> None:
    """Connect, deliver messages to the subscriptions, and end the channel when the client has ended."""
    client: Any = channel.client
    try:
        if channel.may_open():
            client.open()
        if channel.is_closing:
            client.close()
        for publish in client.messages():
            for step in channel.handle(publish):
                if isinstance(step, Outcome):  # a future of the channel, not the result of a callback
                    step.result()
    except BaseException as error:  # a defect must not make callers wait forever
        channel.failed(error if isinstance(error, Exception) else RuntimeError(f"the thread was ended by {error!r}"))
    finally:
        client.close()
        channel.ended()
