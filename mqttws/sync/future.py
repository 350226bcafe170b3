"""The futures of the blocking client: a `concurrent.futures.Future` that costs little until a thread waits for it.

Each published message has a future, and hardly any thread ever waits for one. The standard class creates a condition,
its lock and two lists for each, which takes several times as long as encoding the message. This class creates them on
first use: by a wait, a callback or a cancellation.

The only lock is that of the condition, so futures share nothing with each other or with a parent process. Elsewhere
atomic operations of a dictionary and a list replace a lock:

- `setdefault` of the state decides between an outcome and a cancellation.
- Settling sets the state first and looks for waiting threads second. A thread that waits, or adds a callback,
  registers first and reads the state second. So at least one of the two sees the other.
- The thread that pops a callback from the list calls it, so each callback is called once.
- The lock of a thread that waits for the result may be released twice.

The condition serves the rest: `cancel`, `exception` and the functions of `concurrent.futures`.

A message of QoS 0 gets a `Receipt`, which is neither stored nor settled: it compares its token with a `HighWaterMark`.

This class stands in for the standard one without inheriting from it, because `concurrent.futures` imports `logging`,
which takes a tenth of the time until a first message. A future names the standard class as its `__class__`, so that
`isinstance` takes it for one, and uses the standard methods that this class does not define.

It relies on the attributes `_state`, `_result`, `_exception`, `_waiters` and `_done_callbacks` of the standard
class, and on the fact that it uses the waiters only while it holds `_condition`. `tests/drivers/test_future.py` runs
the same tests on both classes.
"""

from __future__ import annotations

import sys
from _thread import allocate_lock
from collections.abc import Callable

from mqttws.client.sent import HighWaterMark
from mqttws.hints import TYPE_CHECKING, Any
from mqttws.locks import Condition
from mqttws.log import report

if TYPE_CHECKING:
    from concurrent.futures import Future

    _Base = Future[Any]
else:
    _Base = object

_PENDING = "PENDING"
_CANCELLED = "CANCELLED"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"
#: The attributes that the standard class creates for each future, in the order in which they are created here.
_PARTS = ("_waiters", "_done_callbacks", "_condition")
#: The attribute with the locks of the threads that wait for the result. `_done_callbacks` is always created with it:
#: the presence of that attribute means that the future has a waiting thread or a callback.
_SLEEPERS = "_sleepers"


def _standard() -> type[Future[Any]]:
    """Return the standard class."""
    from concurrent.futures import Future

    return Future


class LightFuture(_Base):
    """See `concurrent.futures.Future`; created and settled by the client."""

    # The initial values are class attributes, so that no `__init__` needs to run.
    _state = _PENDING
    _result = None
    _exception = None
    _has_notified = False  # whether the waiters have been notified of the outcome; guarded by the condition
    __init__ = object.__init__

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The standard class. Until it is loaded, when nothing can be compared with it, this one."""
        return getattr(sys.modules.get("concurrent.futures._base"), "Future", LightFuture)

    def __getattr__(self, name: str) -> Any:
        """Create what the standard class creates for each future; take its methods that this class lacks."""
        if name not in _PARTS:
            method = getattr(_standard(), name, None)
            if method is None:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
            return method.__get__(self)
        self._prepare_waiting()
        parts = self.__dict__
        parts.setdefault("_waiters", [])
        parts.setdefault("_done_callbacks", [])
        parts.setdefault("_condition", Condition())
        return parts[name]

    def _prepare_waiting(self) -> None:
        """Make sure that this future will be settled. Called before each wait, and when a callback is added."""

    def done(self) -> bool:
        """Return whether the future has a result or an exception, or was cancelled."""
        return self._state not in (_PENDING, "RUNNING")

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state in (_CANCELLED, _CANCELLED_AND_NOTIFIED)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome, and return its exception. See `concurrent.futures.Future.exception`."""
        return self._exception if self._state is _FINISHED else _standard().exception(self, timeout)

    def __repr__(self) -> str:
        return _standard().__repr__(self)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome, and return or raise it. See `concurrent.futures.Future.result`."""
        if self._state is _PENDING and not self._wait(timeout):
            raise TimeoutError
        if self._state is _FINISHED and self._exception is None:
            return self._result
        try:
            if self._state is _FINISHED and self._exception is not None:
                raise self._exception  # without the standard class, which may just be imported
            return _standard().result(self, timeout)
        finally:
            del self  # the traceback of the exception refers to this frame: a cycle

    def _wait(self, timeout: float | None) -> bool:
        """Wait until the future is done, or the time is up. Return whether it is done."""
        parts, lock = self.__dict__, allocate_lock()
        lock.acquire()  # used as an event: `_wake_sleepers` releases it
        sleepers = parts.setdefault(_SLEEPERS, [])
        sleepers.append(lock)
        try:
            parts.setdefault("_done_callbacks", [])
            self._prepare_waiting()
            if not self.done():
                lock.acquire(timeout=-1 if timeout is None else max(0.0, timeout))
        finally:
            sleepers.remove(lock)
        return self.done()

    def cancel(self) -> bool:
        """See `concurrent.futures.Future.cancel`. The message or the request is still sent."""
        with self._condition:
            if self.__dict__.setdefault("_state", _CANCELLED) == _FINISHED:
                return False
            self._condition.notify_all()
        self._wake_sleepers()
        self._invoke_callbacks()
        return True

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """See `concurrent.futures.Future.add_done_callback`."""
        if not self.done():
            self.__dict__.setdefault("_done_callbacks", []).append(fn)
            self._prepare_waiting()
            if self.done():
                self._invoke_callbacks()
            return
        try:
            fn(self)
        except Exception:
            report(fn)

    def settle(self, outcome: object) -> None:
        """Set the outcome. Do nothing if the future has one or was cancelled.

        Args:
            outcome: An exception to raise, or a result to return.

        Raises:
            BaseException: A callback raised it, and it is not an `Exception`. All callbacks have been called.
        """
        parts = self.__dict__
        if self._state is _PENDING:
            if isinstance(outcome, Exception):
                self._exception = outcome
            elif outcome is not None:
                self._result = outcome
            parts.setdefault("_state", _FINISHED)
        if "_done_callbacks" in parts:
            self._wake_sleepers()
            if "_condition" in parts:
                self._notify()
            self._invoke_callbacks()

    def _wake_sleepers(self) -> None:
        """Wake the threads that wait for the result. Each removes its lock from the list itself.

        So if an exception of a signal handler, Ctrl-C for example, interrupts this, the next call wakes all threads.
        """
        for lock in list(self.__dict__.get(_SLEEPERS, ())):
            try:
                lock.release()
            except RuntimeError:  # already released
                pass

    def _notify(self) -> None:
        """Notify the threads that wait on the condition, and the waiters of `concurrent.futures`. Do so only once."""
        with self._condition:
            if self._has_notified:
                return
            self._has_notified = True
            if self._state == _CANCELLED:
                self._state = _CANCELLED_AND_NOTIFIED
                for waiter in self._waiters:
                    waiter.add_cancelled(self)
            elif self._state == _FINISHED:
                for waiter in self._waiters:
                    (waiter.add_result if self._exception is None else waiter.add_exception)(self)
            self._condition.notify_all()

    def _invoke_callbacks(self) -> None:
        """Call each callback once, even if several threads do this. An exception is logged; the others are called."""
        callbacks = self._done_callbacks
        failure: BaseException | None = None
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # another thread has taken the last one
                break
            try:
                callback(self)
            except Exception:
                report(callback)
            except BaseException as error:
                failure = error
        if failure is not None:
            raise failure

    @staticmethod
    def settle_all(futures: list[LightFuture], outcome: object) -> None:
        """Set the outcome of several futures; see `settle`."""
        failure: BaseException | None = None
        for future in futures:
            parts = future.__dict__
            # The fast path, for a delivered message that no thread waits for: only the state is set.
            if (
                outcome is None
                and parts.setdefault("_state", _FINISHED) is _FINISHED
                and "_done_callbacks" not in parts
            ):
                continue
            try:
                future.settle(outcome)
            except BaseException as error:
                failure = error
        if failure is not None:
            raise failure

    def fail_in_child(self, error: Exception) -> None:
        """Fail in a forked child, without the parent's condition, waiters and callbacks."""
        for part in (*_PARTS, _SLEEPERS):
            self.__dict__.pop(part, None)
        self.settle(error)


class Receipt(LightFuture):
    """The future of a message of QoS 0, which is done when the message is sent.

    Attributes:
        token: The token of the message.
        sent: The client's mark of what is sent.
    """

    # Setting a slot takes half as long as setting an attribute in `__dict__`.
    __slots__ = ("sent", "token")

    token: int
    sent: HighWaterMark[LightFuture]

    @staticmethod
    def make(sent: HighWaterMark[LightFuture], token: int) -> Receipt:
        """Return a new receipt."""
        receipt: Receipt = Receipt()
        receipt.sent = sent
        receipt.token = token
        return receipt

    def _prepare_waiting(self) -> None:
        if not self.sent.watch(self.token, self):
            self._look()

    def _look(self) -> None:
        """Settle the future if the message is sent, or never will be."""
        sent = self.sent
        if self._state is _PENDING and sent.has_outcome(self.token):
            self.settle(None if self.token <= sent.token else sent.error)

    def done(self) -> bool:
        """See `LightFuture.done`."""
        self._look()
        return super().done()

    def result(self, timeout: float | None = None) -> Any:
        """See `LightFuture.result`."""
        self._look()
        return super().result(timeout)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """See `LightFuture.exception`."""
        self._look()
        return super().exception(timeout)

    def withdrawn(self) -> None:
        """Record that the message was withdrawn: this future is never done."""
        self.sent = HighWaterMark()
