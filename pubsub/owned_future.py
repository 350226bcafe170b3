"""Futures that no exception of a signal handler leaves locked."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Generic, TypeVar

from pubsub.owned_lock import Condition

T = TypeVar("T")


class OwnedFuture(Future[T], Generic[T]):
    """A `concurrent.futures.Future` with a condition of `pubsub.owned_lock`.

    With the standard condition, an exception in a thread that waits may leave the lock acquired, and the thread that
    sets the outcome would wait for it forever.
    """

    def __init__(self) -> None:
        super().__init__()
        self._condition = Condition()
