"""Locks that no exception of a signal handler leaves acquired."""

from __future__ import annotations

import threading
from operator import attrgetter
from typing import Any


def enter(self: Any) -> None:
    """Acquire the `RLock` of an object, `_lock`; its `__enter__`. If this is interrupted, the lock is released."""
    try:
        self._lock.acquire()
    except BaseException:
        if self._lock._is_owned():
            self._lock.release()
        raise


class OwnedLock:
    """A lock that is taken by `with` only, and not again by the thread that holds it.

    It is based on an `RLock`, because the owner of such a lock is set by the same instruction that acquires it.
    Python 3.14 runs signal handlers after it has called `__enter__`, and before the block in which it would call
    `__exit__` (python/cpython#148874), but not when a function in Python returns.

    Attributes:
        owned: Returns whether this thread holds the lock.
    """

    __slots__ = ("__exit__", "_lock", "owned")

    def __init__(self) -> None:
        rlock: Any = threading.RLock()
        self._lock = rlock
        self.owned = rlock._is_owned
        self.__exit__ = rlock.__exit__

    __enter__ = enter


class Condition(threading.Condition):
    """A condition whose lock is such a lock.

    In the standard class an exception may come at the end of `__enter__`, when the lock is acquired, and at the
    beginning of `__exit__`.
    """

    __enter__ = enter  # type: ignore[assignment]
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


class Event(threading.Event):
    """An event whose condition is such a condition."""

    def __init__(self) -> None:
        super().__init__()
        self._cond = Condition()
