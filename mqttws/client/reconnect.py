"""When to try again: a pure function, with the random number as an argument.

The first attempt after a loss is made at once, or, where there is a `spread`, after a wait drawn evenly from 0 to it.
From then on the wait is drawn evenly from 0 to a ceiling that doubles from attempt to attempt ("full jitter"), so that
clients which lost the same server spread out. Attempts are counted on until a connection has stood for a while: a
server that accepts and closes at once is met with growing waits.

A client that has been connected was right about its server, its credentials and its certificate a moment ago. So no
refusal ends it by default: servers, proxies, authorizers and clocks are out of order for a while, and come back. What
ends it is the server's word that another connection took the session over, since the two would fight for it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from mqttws.client.value import Value
from mqttws.errors import SessionTakenOver

#: What ends a client that has been connected, unless `end_on` says otherwise.
END_ON = (SessionTakenOver,)


@runtime_checkable
class Turns(Protocol):
    """What gives each attempt its turn: a `ConnectBudget`."""

    def reserve(self, now: float) -> float:
        """Reserve the next turn. Return when it is, `now` or later."""


class Reconnect(Value):
    """How a client reconnects.

    Attributes:
        initial: seconds, above 0; the ceiling of the wait before the second attempt.
        maximum: seconds; the ceiling never grows beyond.
        attempts: how many attempts are made in a row before giving up; None: no limit.
        stable_after: seconds a connection must last for the count to begin anew.
        takeovers: how many connections in a row the server must have closed in order, each within `stable_after` of
            accepting it and without a message or request that could be the cause, before `TakeoverSuspected` is
            reported as the reason. A client identifier made at random is never suspected.
        interval: seconds, 0 or more, from the beginning of one attempt to that of the next, at least. For servers that
            bound how often a client identifier may connect.
        spread: seconds, 0 or more; the ceiling of the wait before the first attempt after a loss, which is drawn evenly
            like all others. For fleets whose clients lose the same server in the same moment; the clients of one
            process can share a `ConnectBudget` instead.
    """

    __slots__ = __match_args__ = (
        "initial", "maximum", "attempts", "stable_after", "takeovers", "interval", "spread",
    )  # fmt: skip

    def __init__(
        self,
        initial: float = 1.0,
        maximum: float = 60.0,
        attempts: int | None = None,
        stable_after: float = 10.0,
        takeovers: int = 5,
        interval: float = 0.0,
        spread: float = 0.0,
    ) -> None:
        if initial <= 0 or maximum < initial:
            raise ValueError(f"0 < initial <= maximum does not hold: initial={initial}, maximum={maximum}")
        if attempts is not None and attempts < 1:
            raise ValueError(f"attempts is {attempts}; it must be at least 1, or None for no limit")
        if not interval >= 0:
            raise ValueError(f"interval is {interval}; it must be 0 or more seconds")
        if not spread >= 0:
            raise ValueError(f"spread is {spread}; it must be 0 or more seconds")
        if takeovers < 1:
            raise ValueError(f"takeovers is {takeovers}; it must be at least 1")
        self.initial = initial
        self.maximum = maximum
        self.attempts = attempts
        self.stable_after = stable_after
        self.takeovers = takeovers
        self.interval = interval
        self.spread = spread

    def delay(self, attempt: int, random: float) -> float | None:
        """Return how long to wait before an attempt.

        Args:
            attempt: 0 for the first after a loss, 1 for the second, and so on.
            random: evenly distributed, 0 up to 1.

        Returns:
            Seconds; None where no further attempt is to be made.
        """
        if self.attempts is not None and attempt >= self.attempts:
            return None
        if attempt == 0:
            return random * self.spread
        return random * min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 60))
