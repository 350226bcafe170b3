"""Simulate a fleet of clients that lose their server at the same moment and reconnect.

The policy (`Reconnect`) and the shared budget (`ConnectBudget`) are the real ones; the clock is simulated, so that a
million clients take some seconds. The server is down for a while, and then accepts a number of CONNECTs a second; it
refuses the others, whose clients must try again::

    Fleet(1_000_000, Reconnect(spread=120, initial=5, maximum=120), capacity=10_000).run()

Clients in separate processes coordinate only by their random numbers; `shared` clients share a process, and so a
budget.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from mqttws import ConnectBudget, Reconnect, TokenBucket

__all__ = ["Fleet", "Return"]


@dataclass(frozen=True)
class Return:
    """How a fleet reconnected. Times are in seconds after the server is up again.

    Attributes:
        half: until half of the clients were connected.
        p99: until 99 % were connected.
        all: until the last client was connected.
        peak: CONNECTs in the busiest second, including refused ones.
        refused: CONNECTs that the server refused.
        vain: attempts while the server was down.
    """

    half: float
    p99: float
    all: float
    peak: int
    refused: int
    vain: int


class Fleet:
    """Clients that lose their server at time 0.

    Args:
        clients: the number of clients.
        policy: the reconnect policy of each client.
        capacity: CONNECTs a second that the server accepts; None: any number.
        outage: seconds for which the server is down.
        budget: CONNECTs a second of each process; None for no budget.
        shared: the number of clients in a process; None: all.
        seed: the seed of the random numbers.
    """

    def __init__(
        self,
        clients: int,
        policy: Reconnect,
        *,
        capacity: float | None = None,
        outage: float = 0.0,
        budget: float | None = None,
        shared: int | None = None,
        seed: int = 1,
    ) -> None:
        self._clients = clients
        self._policy = policy
        self._outage = outage
        self._server = None if capacity is None else TokenBucket(capacity, max(1.0, capacity / 10))
        self._random = Random(seed).random
        self._turns: list[Callable[[float], float]] = []
        if budget is not None:
            processes = 1 if shared is None else -(-clients // shared)
            self._turns = [ConnectBudget(budget).reserve for _ in range(processes)]

    def run(self) -> Return:
        """Run until every client is connected."""
        due = [(self._delay(0), client, 0, not self._turns) for client in range(self._clients)]
        heapq.heapify(due)
        back: list[float] = []
        in_second: dict[int, int] = {}
        refused = vain = 0
        while due:
            now, client, attempt, has_turn = due[0]
            if not has_turn:  # a turn is requested when the attempt is due, not before
                heapq.heapreplace(due, (self._turns[client % len(self._turns)](now), client, attempt, True))
                continue
            if now < self._outage:
                vain += 1
            else:
                second = int(now - self._outage)
                in_second[second] = in_second.get(second, 0) + 1
                if self._server is None or self._server.take(now):
                    back.append(now - self._outage)
                    heapq.heappop(due)
                    continue
                refused += 1
            heapq.heapreplace(due, (now + self._delay(attempt + 1), client, attempt + 1, not self._turns))
        p99, peak = back[len(back) * 99 // 100], max(in_second.values())
        return Return(back[len(back) // 2], p99, back[-1], peak, refused, vain)

    def _delay(self, attempt: int) -> float:
        delay = self._policy.delay(attempt, self._random())
        assert delay is not None, "a fleet does not give up"
        return delay
