"""Two budgets of CONNECTs combined into one. No I/O."""

from __future__ import annotations

from typing import Protocol

from mqttws import ConnectBudget

__all__ = ["Both", "Budget"]


class Turns(Protocol):
    """The interface of a `ConnectBudget`."""

    def reserve(self, now: float) -> float:
        """Reserve the time of an attempt. Return it: `now` or later."""

    def begin(self, now: float) -> float:
        """Begin the attempt that is due. Return `now`, or a later time that is reserved for it instead."""


class Both:
    """A budget that allows a CONNECT when two others do, for the option `connect_budget`.

    Args:
        first: A budget that other connections use, too.
        second: The other budget.
    """

    def __init__(self, first: Turns, second: Turns) -> None:
        self._first = first
        self._second = second

    def reserve(self, now: float) -> float:
        """Reserve the time of the next attempt. Return it: `now` or later."""
        return self._second.reserve(self._first.reserve(now))

    def begin(self, now: float) -> float:
        """Begin an attempt at its reserved time. Return `now`; or a later time, which is reserved for it instead."""
        turn = self._second.begin(now)
        return turn if turn > now else self._first.begin(now)


Budget = ConnectBudget | Both
