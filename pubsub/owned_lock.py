"""A lock that has an owner, and that no exception of a signal handler leaves acquired."""

from __future__ import annotations

import threading
from typing import Any


class OwnedLock:
    """A lock that is taken by `with` only, and not again by the thread that holds it.

    It is based on an `RLock`, because the owner of such a lock is set by the same instruction that acquires it.
    Python 3.14 runs signal handlers after it has called `__enter__`, and before the block in which it would call
    `__exit__` (python/cpython#148874), but not when a function in Python returns.

    Attributes:
        owned: Returns whether this thread holds the lock.
    """

    __slots__ = ("__exit__", "_rlock", "owned")

    def __init__(self) -> None:
        rlock: Any = threading.RLock()
        self._rlock = rlock
        self.owned = rlock._is_owned
        self.__exit__ = rlock.__exit__

    def __enter__(self) -> None:
        try:
            self._rlock.acquire()
        except BaseException:
            if self.owned():
                self._rlock.release()
            raise
