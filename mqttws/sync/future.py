"""The futures of the blocking driver: a `concurrent.futures.Future` that costs little until a thread waits for it.

Each message that is published has one, and nearly none is ever waited for. The standard class makes a condition, its
lock and two lists for each, which takes several times as long as encoding the message. This one makes them when they
are first asked for: by a wait, a callback, a cancellation.

There is no lock but that condition's, so that futures share nothing, neither with each other nor with a parent process.
Operations of a dictionary and a list, each atomic, take its place. `setdefault` of the state decides between an outcome
and a cancellation. A future is settled first and examined second; a thread that waits, or adds a callback, notes that
first and looks at the state second, so one of them always sees the other. A callback leaves the list by `pop`, and the
thread that has popped it calls it. The lock of a thread that waits for the result may be released twice. The condition
is for the rest: `cancel`, `exception` and the functions of `concurrent.futures`.

A message of QoS 0 gets a `Receipt`, which is neither kept nor settled: it compares its token with a `HighWaterMark`.

Of the standard class this uses the attributes `_state`, `_result`, `_exception`, `_waiters` and `_done_callbacks`, and
that the waiters are touched only while `_condition` is held; `tests/drivers/test_future.py` holds both classes to the
same behaviour.
"""

from __future__ import annotations

import threading
from _thread import allocate_lock
from collections.abc import Callable
from concurrent.futures import Future
from operator import attrgetter
from typing import Any

from mqttws.client.sent import HighWaterMark
from mqttws.log import report

_PENDING = "PENDING"
_CANCELLED = "CANCELLED"
_CANCELLED_AND_NOTIFIED = "CANCELLED_AND_NOTIFIED"
_FINISHED = "FINISHED"
#: What the standard class makes for each future, in the order in which it is made here: the condition last.
_PARTS = ("_waiters", "_done_callbacks", "_condition")
#: Where the locks are of the threads that wait for the result. Who makes that makes `_done_callbacks` next, by whose
#: presence a future is known for one that somebody looks at.
_SLEEPERS = "_sleepers"


class Condition(threading.Condition):
    """A condition whose `with` takes its lock in one step, in C.

    In the standard class `__enter__` is a function in Python: an exception that a signal handler raises at its end,
    Ctrl-C for example, leaves the lock taken for ever. Here `with` finds the methods of the lock itself.
    """

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))


class LightFuture(Future[Any]):
    """See `concurrent.futures.Future`; made and settled by the driver."""

    # What a new one holds; no `__init__` needs to run.
    _state = _PENDING
    _result = None
    _exception = None
    _has_notified = False  # whether its waiters and callbacks know of the outcome; under the condition
    __init__ = object.__init__

    def __getattr__(self, name: str) -> Any:
        """Make what the standard class makes for each future."""
        if name not in _PARTS:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._prepare_waiting()
        parts = self.__dict__
        parts.setdefault("_waiters", [])
        parts.setdefault("_done_callbacks", [])
        parts.setdefault("_condition", Condition())
        return parts[name]

    def _prepare_waiting(self) -> None:
        """Make sure that this future will be settled. Called before the first wait, and again if it is interrupted."""

    def done(self) -> bool:
        """Return whether there is an outcome, or a cancellation."""
        return self._state not in (_PENDING, "RUNNING")

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state in (_CANCELLED, _CANCELLED_AND_NOTIFIED)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the outcome: return the exception of it. See `concurrent.futures.Future.exception`."""
        return self._exception if self._state is _FINISHED else super().exception(timeout)

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the outcome: return it, or raise it. See `concurrent.futures.Future.result`."""
        if self._state is _PENDING and not self._wait(timeout):
            raise TimeoutError
        if self._state is _FINISHED and self._exception is None:
            return self._result
        return super().result(timeout)

    def _wait(self, timeout: float | None) -> bool:
        """Wait until this is done, or the time is up. Return whether it is done."""
        parts, lock = self.__dict__, allocate_lock()
        lock.acquire()
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
        """See `concurrent.futures.Future.cancel`. The message or the request is sent all the same."""
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
        """Take an outcome: an exception to raise or a result to return. Only the first counts, or a cancellation.

        Raises:
            BaseException: what a callback raised beyond `Exception`, after all callbacks have been called.
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
        """Wake the threads that wait for the result; each takes its lock out of the list itself.

        An exception of a signal handler between two steps, Ctrl-C for example, loses none: the next call wakes all.
        """
        for lock in list(self.__dict__.get(_SLEEPERS, ())):
            try:
                lock.release()
            except RuntimeError:  # it has been released
                pass

    def _notify(self) -> None:
        """Wake those that wait by the condition, once."""
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
        """Call each callback once, whichever thread comes first. An exception is reported, and stops no other."""
        callbacks = self._done_callbacks
        failure: BaseException | None = None
        while callbacks:
            try:
                callback = callbacks.pop(0)
            except IndexError:  # another thread was faster
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
        """Give futures their outcome; see `settle`."""
        failure: BaseException | None = None
        for future in futures:
            parts = future.__dict__
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
        """After a fork, in the child: fail without the condition, the waiters and the callbacks of the parent."""
        for part in (*_PARTS, _SLEEPERS):
            self.__dict__.pop(part, None)
        self.settle(error)


class Receipt(LightFuture):
    """The future of a message of QoS 0: done when it is sent.

    Attributes:
        token: of the message.
        sent: the mark of the client.
    """

    # Filled in half of the time of attributes without a slot.
    __slots__ = ("sent", "token")

    token: int
    sent: HighWaterMark[LightFuture]

    @staticmethod
    def make(sent: HighWaterMark[LightFuture], token: int) -> Receipt:
        """Make one."""
        receipt: Receipt = Receipt()
        receipt.sent = sent
        receipt.token = token
        return receipt

    def _prepare_waiting(self) -> None:
        if not self.sent.watch(self.token, self):
            self._look()

    def _look(self) -> None:
        """Settle it where the message is sent, or never will be."""
        sent = self.sent
        if self._state is _PENDING and sent.knows(self.token):
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
        """Note that the message was withdrawn: this future is never done."""
        self.sent = HighWaterMark()
