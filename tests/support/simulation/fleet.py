"""A fleet of clients that lose their server in one moment, and how they come back: when each connects is all there is.

The policy is the real one (`Reconnect`), and so is a shared budget (`ConnectBudget`); the clock is not, so that a
million clients take some seconds. The server is down for a while, and then takes so many CONNECTs a second; what is
beyond that it refuses, which costs the client another attempt::

    Fleet(1_000_000, Reconnect(spread=120, initial=5, maximum=120), capacity=10_000).run()

Where clients are in processes of their own, each has no more than its own random numbers; `shared` is how many of them
share a process, and so a budget.
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
    """How a fleet came back. Seconds are counted from the moment in which the server is up again.

    Attributes:
        half: seconds until half of the clients were connected.
        p99: until 99 % were.
        all: until the last was.
        peak: CONNECTs in the busiest second, refused ones included.
        refused: CONNECTs that the server refused.
        vain: attempts while it was down.
    """

    half: float
    p99: float
    all: float
    peak: int
    refused: int
    vain: int


class Fleet:
    """Clients that lose their server at the time 0.

    Args:
        clients: how many.
        policy: how each reconnects.
        capacity: CONNECTs a second that the server takes; None: any number.
        outage: seconds for which the server is down.
        budget: CONNECTs a second of each process; None for no budget.
        shared: how many clients share a process; None: all.
        seed: of the random numbers.
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
        """Let all come back."""
        due = [(self._delay(0), client, 0, not self._turns) for client in range(self._clients)]
        heapq.heapify(due)
        back: list[float] = []
        in_second: dict[int, int] = {}
        refused = vain = 0
        while due:
            now, client, attempt, has_turn = due[0]
            if not has_turn:  # a turn is asked for when the attempt is due, not before
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
