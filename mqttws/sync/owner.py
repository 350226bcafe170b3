"""How other threads reach what the network thread of a blocking client owns: under a lock, or by a post.

The lock guards the core, and no user code runs under it. No thread takes it twice: it is an `RLock` only because such a
lock knows its owner from the very instruction that takes it. A signal handler or a finalizer may run in the middle of a
locked region, in its thread; a call made there finds the lock `owned`, and is posted to the network thread instead.

A thread that waits for a change holds nothing meanwhile. So the exception of a signal handler in the middle of its wait
leaves nothing behind; the wait of a `threading.Condition` may be interrupted after it has released the lock.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mqttws.client.callbacks import Callbacks
from mqttws.errors import ConnectionClosed, WouldDeadlock
from mqttws.sync.future import LightFuture

if TYPE_CHECKING:
    import socket

#: Seconds that a thread waits before it looks whether a signal has arrived.
WAIT_SLICE = 0.5


class Waiter:
    """A thread that waits for a change: it watches from the moment at which this is made."""

    def __init__(self, waiters: deque[threading.Lock]) -> None:
        self._waiters = waiters
        self._change = threading.Lock()
        self._change.acquire()  # used as an event: a notification releases it, once
        waiters.append(self._change)

    def wait(self, seconds: float) -> None:
        """Wait for the change."""
        try:
            self._change.acquire(timeout=seconds)
        finally:
            try:
                self._waiters.remove(self._change)
            except ValueError:  # the change has happened
                pass


class Owner:
    """The lock of a client's core, and the way to wake its thread.

    Attributes:
        lock: guards the core.
        owned: returns whether this thread holds the lock: then a signal handler or a finalizer is what runs.
        posted: what the thread is to call under the lock.
        woken: whether the thread is about to look what there is to do.
    """

    #: The factory of the lock; a test uses one that reports a second acquisition by the same thread.
    make_lock = staticmethod(threading.RLock)

    def __init__(self) -> None:
        self.lock = self.make_lock()
        self.owned: Callable[[], bool] = self.lock._is_owned  # type: ignore[attr-defined] # `threading` uses it, too
        self.posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.woken = False
        self._waiters: deque[threading.Lock] = deque()
        self._takers: deque[threading.Lock] = deque()  # those that wait for messages
        self._wake_in: socket.socket | None = None
        self._wake_out: socket.socket | None = None
        self._identity = 0  # of the thread

    @property
    def callbacks(self) -> Callbacks:
        """What is to be called outside the lock."""
        raise NotImplementedError

    @property
    def is_current(self) -> bool:
        """Whether this is the network thread."""
        return threading.get_ident() == self._identity

    def check_not_owned(self) -> None:
        """Check that this thread may wait for the lock, or for what another thread does under it.

        Raises:
            WouldDeadlock: it holds the lock.
        """
        if self.owned():
            raise WouldDeadlock(
                "this signal handler or finalizer has interrupted a call of the same client, which it would wait for; "
                "use the _nowait form here"
            )

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call under the lock, and have the thread look what there is to do; or post it, where the lock is owned."""
        if self.owned():
            self.post(function, *arguments)
            return
        with self.lock:
            if self.posted:
                self.take_posted()
            function(*arguments)
            self.wake()

    def request(self, function: Callable[..., LightFuture], *arguments: Any) -> LightFuture:
        """Do as `call` does with what makes a future. Return that future, or one that follows it."""
        if self.owned():
            future: LightFuture = LightFuture()
            self.post(self._follow, future, function, arguments)
            return future
        with self.lock:
            if self.posted:
                self.take_posted()
            made: LightFuture = function(*arguments)
            self.wake()
        return made

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Have the thread call under the lock, soon. It takes no lock: finalisers and signal handlers may post."""
        self.posted.append((function, arguments))
        self._wake_up()

    def _wake_up(self) -> None:
        """End the thread's wait, without the lock."""
        wake_out = self._wake_out
        if wake_out is not None:
            try:
                wake_out.send(b"\0")
            except OSError:  # it is full: the thread will look; or closed: there is none
                pass

    def take_posted(self) -> None:
        """Call what was posted. Under the lock. A call that this thread makes must come after those that it posted."""
        posted = self.posted
        while posted:
            function, arguments = posted.popleft()
            function(*arguments)

    def _follow(self, future: LightFuture, function: Callable[..., LightFuture], arguments: tuple[Any, ...]) -> None:
        """Let the future of a posted call follow the one that the call makes."""
        callbacks = self.callbacks
        try:
            made = function(*arguments)
        except Exception as error:
            callbacks.add(LightFuture.settle_all, [future], error)
            return

        def copy(done: Any) -> None:
            outcome = done.exception() if not done.cancelled() else ConnectionClosed("it was cancelled")
            callbacks.add(LightFuture.settle_all, [future], outcome if outcome is not None else done.result())

        made.add_done_callback(copy)

    def wake(self) -> None:
        """Make the thread look again, unless this is it. Under the lock."""
        if not self.woken and self._wake_out is not None and threading.get_ident() != self._identity:
            # In this order: an exception of a signal handler between the two costs a byte, not a wake-up.
            try:
                self._wake_out.send(b"\0")
            except BlockingIOError:  # it is full of bytes that will wake the thread
                pass
            self.woken = True

    def watch(self) -> Waiter:
        """Return an event for the next change: there is more space in the queue, or the client has ended."""
        return Waiter(self._waiters)

    def watch_messages(self) -> Waiter:
        """Watch for the next message, or for the end of the client."""
        return Waiter(self._takers)

    def notify(self, messages: bool = True) -> None:
        """Wake the threads that wait for a change.

        Args:
            messages: whether to wake those that wait for messages, too.
        """
        if self._waiters:
            _release_all(self._waiters)
        if messages and self._takers:
            _release_all(self._takers)


def _release_all(waiters: deque[threading.Lock]) -> None:
    while waiters:
        try:
            waiters.popleft().release()
        except IndexError:  # its thread has given up
            return


def slice_until(deadline: float | None) -> float:
    """Return how long to wait before looking again.

    A signal that arrives at the very moment at which the main thread begins to wait for a lock does not end that wait:
    Python runs its handler, Ctrl-C's say, only when the wait is over.
    """
    return WAIT_SLICE if deadline is None else max(0.0, min(WAIT_SLICE, deadline - time.monotonic()))
