"""Locks that no exception of a signal handler leaves acquired.

A lock is taken by `with`, but Python 3.14 runs signal handlers after it has called `__enter__`, and before the block in
which it would call `__exit__` (python/cpython#148874). An exception there, that of Ctrl-C for example, would leave the
lock acquired forever. No signal handler runs when a function in Python returns, so `__enter__` is one. In every version
of Python one may run at the beginning of such a function, so `__exit__` is not.
"""

from __future__ import annotations

import threading
from _thread import RLock
from operator import attrgetter


class AtomicLock(RLock):  # type: ignore[misc]  # final only for type checkers
    """An `RLock` that is taken by `with` only.

    A lock with an owner, because only such a lock shows whether an interrupted `acquire` has acquired it.
    """

    __slots__ = ()

    def __enter__(self) -> bool:  # type: ignore[override]  # called by `with` only, without arguments
        try:
            return self.acquire()
        except BaseException:
            if self._is_owned():  # type: ignore[attr-defined]
                self.release()
            raise


class Condition(threading.Condition):
    """A condition whose lock is an `AtomicLock`. The methods of the standard class are written in Python."""

    def __init__(self) -> None:
        super().__init__(AtomicLock())

    __enter__ = property(attrgetter("_lock.__enter__"))
    __exit__ = property(attrgetter("_lock.__exit__"))

    def wait(self, timeout: float | None = None) -> bool:
        """See `threading.Condition.wait`. After an exception of a signal handler the lock is acquired, as before.

        The standard method has a gap after it has released the lock; the block that called it would then fail.
        """
        acquired = self._is_owned()  # type: ignore[attr-defined]
        try:
            return super().wait(timeout)
        except BaseException:
            if acquired and not self._is_owned():  # type: ignore[attr-defined]
                self._lock.acquire()  # type: ignore[attr-defined]
            raise
