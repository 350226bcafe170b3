"""Turns to connect: AWS IoT accepts one CONNECT a second with a client id, whichever connection it is for.

So the connections of a process are paced together, by endpoints and client id: those of two `PubSub`s, and one that
replaces another that was closed. A client waits for its turn as for that of a `ConnectBudget`.

The one idea: a budget for each client id at the same endpoints, in a table of the process. It has no lock: looking up,
adding and removing an entry are single operations of a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from mqttws import ConnectBudget

__all__ = ["ConnectTurns"]

_Key = tuple[frozenset[str], str]

_budgets: dict[_Key, ConnectBudget] = {}
#: Bound of the table. The oldest entries are removed: the connections that are made with them later are not delayed.
_MOST_BUDGETS = 1_000
_STANDARD_PORTS = (443, 8883)


class ConnectTurns:
    """The turns of one client, for the option `connect_budget`.

    Args:
        endpoints: The URLs or hosts that it connects to; none where they are not known beforehand.
        client_id: Its client id.
        rate: CONNECTs a second with that client id, above 0.
        budget: The client's own option `connect_budget`, which applies, too; None for none.
    """

    def __init__(self, endpoints: Iterable[str], client_id: str, rate: float, budget: ConnectBudget | None) -> None:
        self._key = frozenset(map(_place, endpoints)), client_id
        self._rate = rate
        self._budget = budget

    def reserve(self, now: float) -> float:
        """Reserve the time of the next attempt. Return it: `now` or later."""
        turn = now if self._budget is None else self._budget.reserve(now)
        return _budget(self._key, self._rate).reserve(turn)

    def begin(self, now: float) -> float:
        """Begin the attempt whose time has come. Return `now`; or a later time, which is reserved for it instead."""
        turn = now if self._budget is None else self._budget.begin(now)
        return turn if turn > now else _budget(self._key, self._rate).begin(now)


def _budget(key: _Key, rate: float) -> ConnectBudget:
    budget = _budgets.get(key)
    if budget is None:
        budget = _budgets.setdefault(key, ConnectBudget(rate))
        for old in list(_budgets)[:-_MOST_BUDGETS]:
            _budgets.pop(old, None)
    return budget


def _place(endpoint: str) -> str:
    """Return the host, and the port unless it is one of AWS IoT's: those lead to the same service."""
    try:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        host, port = parts.hostname or "", parts.port
    except ValueError:  # it is refused when it is connected to
        return endpoint
    return host if port is None or port in _STANDARD_PORTS else f"{host}:{port}"
