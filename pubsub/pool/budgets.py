"""Two budgets of CONNECTs combined into one. No I/O."""

from __future__ import annotations

from mqttws import ConnectBudget, Turns

__all__ = ["Both", "Budget"]


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
