"""The delays between attempts to connect, as a pure function whose random number is an argument.

The first attempt after a loss is made immediately or, with a `spread`, after a random delay up to it. Later delays
are random, from 0 to a ceiling that doubles with each attempt ("full jitter"), so that the clients of one server spread
out. The count of attempts is reset only after a connection has lasted for a while, so the delays also grow for a server
that accepts connections and closes them immediately.

A client that was connected had the right server, credentials and certificate a moment ago. So by default no refusal
ends it: failures of servers, proxies, authorizers and clocks are usually temporary. It ends only if the server says
that another connection took over the session, because otherwise the two clients would disconnect each other endlessly.
"""

from __future__ import annotations

from mqttws.client.value import Value
from mqttws.errors import SessionTakenOver
from mqttws.hints import Protocol, inf

#: The errors that end a client after it has been connected; the default of `end_on`.
END_ON = (SessionTakenOver,)


class Turns(Protocol):
    """The interface of a `ConnectBudget`, which schedules attempts."""

    def reserve(self, now: float) -> float:
        """Reserve the time of an attempt.

        Args:
            now: The current time in seconds, of `time.monotonic`.

        Returns:
            The reserved time: `now`, or later.
        """

    def begin(self, now: float) -> float:
        """Begin the attempt that is due.

        Args:
            now: The current time in seconds, of `time.monotonic`.

        Returns:
            `now`, or a later time that is reserved for the attempt instead.
        """


class Reconnect(Value):
    """How a client reconnects.

    Attributes:
        initial: Seconds, above 0; the ceiling of the wait before the second attempt.
        maximum: Seconds; the maximum of the ceiling.
        attempts: The number of consecutive attempts before the client gives up; None: no limit.
        stable_after: Seconds, 0 or more, that a connection must last to reset the count of attempts.
        takeovers: How many connections in a row the server must close cleanly before `TakeoverSuspected` is reported,
            each within `stable_after` and without a message or request that could be the cause. A random client
            identifier is never suspected.
        interval: The minimum seconds, 0 or more, between the starts of two attempts. For servers that limit how often
            a client identifier may connect.
        spread: Seconds, 0 or more; the maximum delay before the first attempt after a loss. For fleets whose clients
            lose the same server at the same time; the clients of one process can share a `ConnectBudget` instead.
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
        # The conditions are negated so that they also refuse a NaN, for which every comparison is false.
        if not 0 < initial <= maximum:
            raise ValueError(
                f"initial is {initial} and maximum {maximum}; initial must be above 0, and at most maximum"
            )
        if attempts is not None and not attempts >= 1:
            raise ValueError(f"attempts is {attempts}; it must be at least 1, or None for no limit")
        if not takeovers >= 1:
            raise ValueError(f"takeovers is {takeovers}; it must be at least 1")
        if not stable_after >= 0:
            raise ValueError(f"stable_after is {stable_after}; it must be 0 or more seconds")
        for name, seconds in (("initial", initial), ("interval", interval), ("spread", spread)):
            if not 0 <= seconds < inf:
                raise ValueError(f"{name} is {seconds}; it must be 0 or more seconds, and finite")
        self.initial = initial
        self.maximum = maximum
        self.attempts = attempts
        self.stable_after = stable_after
        self.takeovers = takeovers
        self.interval = interval
        self.spread = spread

    def delay(self, attempt: int, random: float) -> float | None:
        """Return the delay before an attempt.

        Args:
            attempt: 0 for the first attempt after a loss, 1 for the second, and so on.
            random: A random number, uniformly distributed from 0 to 1.

        Returns:
            Seconds; None if no further attempt is to be made.

        Examples:
            >>> from mqttws import Reconnect
            >>> policy = Reconnect(initial=1.0, maximum=10.0)
            >>> [policy.delay(attempt, random=1.0) for attempt in range(6)]
            [0.0, 1.0, 2.0, 4.0, 8.0, 10.0]
        """
        if self.attempts is not None and attempt >= self.attempts:
            return None
        if attempt == 0:
            return random * self.spread
        return random * min(self.maximum, self.initial * 2.0 ** min(attempt - 1, 60))
