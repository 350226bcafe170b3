"""The lock of a blocking client, and how other threads call functions under it, or post them to the network thread.

The lock guards the core, and no user code runs under it. No thread acquires it twice. It is an `RLock` only because the
owner of such a lock is set by the same instruction that acquires it. A signal handler or a finalizer may run in the
middle of a locked region, in its thread. A call made there finds the lock `owned`, and is posted to the network thread.

A thread that waits for a change holds no lock meanwhile, so an exception of a signal handler can interrupt the wait
anywhere. A `threading.Condition` would not do: its wait may be interrupted after it has released the lock and before
it has acquired it again.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from mqttws.client.core import Core
from mqttws.client.posted import PostedRequest, make_posted
from mqttws.codec.publishing import Message
from mqttws.errors import WouldDeadlock
from mqttws.hints import TYPE_CHECKING, Any, mypyc_attr
from mqttws.sync.future import LightFuture

if TYPE_CHECKING:
    import socket

#: The longest uninterrupted wait of a thread, in seconds: see `slice_until`.
WAIT_SLICE = 0.5


class Waiter:
    """An event for the next change. Changes count from the creation of this object, not from the call of `wait`."""

    def __init__(self, waiters: deque[threading.Lock]) -> None:
        self._waiters = waiters
        self._change = threading.Lock()
        self._change.acquire()  # used as an event: a notification releases it, once
        waiters.append(self._change)

    def wait(self, seconds: float) -> None:
        """Wait for the change, for a number of seconds at most."""
        try:
            self._change.acquire(timeout=seconds)
        finally:
            try:
                self._waiters.remove(self._change)
            except ValueError:  # the change has happened
                pass


@mypyc_attr(allow_interpreted_subclasses=True)
class Owner:
    """The lock of a client's core, and the way to wake its thread.

    Args:
        rlock: An `RLock`.
        lock: The object that takes it in a `with` statement: the `RLock` itself, or a faster one.

    Attributes:
        core: The core. The subclass creates it.
        rlock: The `RLock`.
        lock: Guards the core.
        owned: Returns whether this thread holds the lock. That is so only in a signal handler or a finalizer.
        posted: The posted calls, which are made under the lock.
        woken: Whether something was changed after the network thread has last looked at the core.
        waiting: Whether the network thread waits for a socket, or is about to. Only then a byte must wake it.
    """

    core: Core[LightFuture]

    def __init__(self, rlock: Any, lock: Any) -> None:
        self.rlock = rlock
        self.lock = lock
        self.owned: Callable[[], bool] = rlock._is_owned  # `threading` uses it, too
        self.posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.woken = self.waiting = False
        self._waiters: deque[threading.Lock] = deque()
        self._takers: deque[threading.Lock] = deque()  # the threads that wait for messages
        self._wake_in: socket.socket | None = None
        self._wake_out: socket.socket | None = None
        self._runner: threading.Thread | None = None  # the network thread; `__thread` is a word of C
        self._identity = 0  # its identifier, once it runs
        self._starter = 0  # the identifier of the thread that has started it, or is about to

    @property
    def is_current(self) -> bool:
        """Whether this is the network thread."""
        return threading.get_ident() == self._identity

    @property
    def is_starter(self) -> bool:
        """Whether it was this thread that has started the network thread for the last time."""
        return threading.get_ident() == self._starter

    def _is_starting(self) -> bool:
        """Return whether this is a signal handler or finalizer that has interrupted the start of the network thread."""
        thread = self._runner
        return thread is not None and thread.ident is None and self.is_starter

    def check_not_owned(self) -> None:
        """Check that this thread may wait for the lock, or for a thread that needs it.

        Raises:
            WouldDeadlock: This thread holds the lock, or has not started the network thread yet.
        """
        if self.owned() or (not self._identity and self._is_starting()):
            raise WouldDeadlock(
                "this signal handler or finalizer has interrupted a call of the same client, which cannot continue "
                "while this one waits; use the _nowait form here"
            )

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function under the lock, and wake the network thread. If this thread holds the lock, post the call."""
        if self.owned():
            self.post(function, *arguments)
            return
        try:
            with self.lock:
                if self.posted:
                    self.take_posted()
                function(*arguments)
                if not self.woken:
                    self.wake()
        except BaseException:
            self.wake_after_failure()
            raise

    def request(self, function: Callable[..., LightFuture], *arguments: Any) -> LightFuture:
        """Do the same as `call` for a function that returns a future.

        Returns:
            That future; or, if the call was posted, another one that gets the same outcome.
        """
        if self.owned():
            future: LightFuture = LightFuture()
            self.post(PostedRequest(future, self._settle_later, function, arguments))
            return future
        try:
            with self.lock:
                if self.posted:
                    self.take_posted()
                made: LightFuture = function(*arguments)
                if not self.woken:
                    self.wake()
        except BaseException:
            self.wake_after_failure()
            raise
        return made

    def wake_after_failure(self) -> None:
        """Wake the network thread after an exception of a call, which may be that of a signal handler.

        The call may then have changed the core, without having woken the thread.
        """
        if not self.woken:
            self._wake_up()

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Schedule a call under the lock, in the network thread. Takes no lock: for finalizers and signal handlers.

        Args:
            function: A function that may be called again if an exception of a signal handler interrupts it.
            *arguments: Its arguments.
        """
        self.posted.append((function, arguments))
        self._wake_up()

    def _wake_up(self) -> None:
        """End the wait of the network thread. Does not require the lock."""
        wake_out = self._wake_out
        if wake_out is not None:
            try:
                wake_out.send(b"\0")
            except OSError:  # full: its bytes will wake the thread; or closed: there is no thread
                pass

    def take_posted(self) -> None:
        """Make the posted calls. Requires the lock.

        Each call of a method does this first, so that it follows the calls that the same thread has posted before. A
        call is removed after it was made: if an exception of a signal handler interrupts this, it is made again.
        """
        make_posted(self.posted)

    def _settle_later(self, futures: list[LightFuture], outcome: object) -> None:
        self.core.callbacks.add(LightFuture.settle_all, futures, outcome)

    def wake(self) -> None:
        """Make the network thread look at the core before it waits again. Requires the lock."""
        if not self.woken and self._wake_out is not None:
            # In this order: an exception of a signal handler between the two causes a superfluous byte. In the other
            # order it would lose the wake-up.
            if self.waiting:
                self._wake_up()
            self.woken = True

    def send_at_once(self, packet: bytes, burst: float = 0.0) -> bool:
        """Send a PUBLISH of QoS 0 in the calling thread; see `Network.send_at_once`. Requires the lock."""
        raise NotImplementedError

    def publish_at_once(self, message: Message, burst: float = 0.0) -> tuple[int, LightFuture] | None:
        """Send a message of QoS 1 or 2 in the calling thread; see `Network.publish_at_once`. Requires the lock."""
        raise NotImplementedError

    def watch(self) -> Waiter:
        """Return an event for the next change: there is space in the queue, or the client has ended."""
        return Waiter(self._waiters)

    def watch_messages(self) -> Waiter:
        """Return an event for the next message, or for the end of the client."""
        return Waiter(self._takers)

    def notify(self, messages: bool = True) -> None:
        """Wake the threads that wait for a change.

        Args:
            messages: Whether to wake also the threads that wait for messages.
        """
        if self._waiters:
            _release_all(self._waiters)
        if messages and self._takers:
            _release_all(self._takers)


def _release_all(waiters: deque[threading.Lock]) -> None:
    while waiters:
        try:
            waiters.popleft().release()
        except IndexError:  # the last thread has stopped waiting and removed its lock
            return


def slice_until(deadline: float | None) -> float:
    """Return the seconds of one wait: the time until the deadline, but at most `WAIT_SLICE`.

    A signal that arrives just before the main thread waits for a lock does not end that wait: Python runs the handler,
    for example that of Ctrl-C, only after the wait. So a long wait is cut into slices.
    """
    return WAIT_SLICE if deadline is None else max(0.0, min(WAIT_SLICE, deadline - time.monotonic()))
