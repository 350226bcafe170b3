"""Combining the answers of several parts into one answer, and their states into one state. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from mqttws import State
from pubsub.owned_lock import OwnedLock

__all__ = ["Gather", "settle_with", "worst"]

#: The states of a client, the best first.
_RANKS = {"connected": 0, "connecting": 1, "reconnecting": 2, "disrupted": 3, "disconnected": 4}


class Gather:
    """The combined answer of several parts to one SUBSCRIBE or UNSUBSCRIBE of a pool.

    Args:
        count: The number of Topic Filters.
        settle: Called once with their return codes, in order, or with the error of a part that has ended.
    """

    def __init__(self, count: int, settle: Callable[[list[int], BaseException | None], object]) -> None:
        self._codes = [0] * count
        self._left = count
        self._settle = settle
        self._lock: Any = OwnedLock()  # a leaf: nothing is called while it is held

    def expect(self, more: int) -> None:
        """Expect a number of further answers, because several parts have the same Topic Filter."""
        with self._lock:
            self._left += more

    def give(self, index: int, code: int) -> None:
        """Add the answer for one Topic Filter. Of several answers the highest counts, so a refusal prevails."""
        with self._lock:
            self._codes[index] = max(self._codes[index], code)
            self._left -= 1
            over = self._left == 0
        if over:
            self._settle(self._codes, None)

    def fail(self, error: BaseException) -> None:
        """Fail, because a part has ended and will not answer."""
        with self._lock:
            over, self._left = self._left <= 0, -1
        if not over:
            self._settle([], error)


def worst(states: Iterable[State]) -> State:
    """Return the worst of several states; "disconnected" without any."""
    return max(states, key=lambda state: _RANKS[state.name], default=State("disconnected"))


def settle_with(future: Any) -> Callable[[list[int], BaseException | None], object]:
    """Return a function that settles a future, unless it was cancelled."""

    def settle(codes: list[int], error: BaseException | None) -> None:
        claim = getattr(future, "set_running_or_notify_cancel", None)
        if future.done() or (claim is not None and not claim()):
            return
        if error is None:
            future.set_result(codes)
        else:
            future.set_exception(error)

    return settle
