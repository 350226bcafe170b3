"""The progress of sending QoS 0 messages, as a high-water mark: they are sent in the order of their tokens.

Each call returns a future, but storing and settling all these futures would be expensive. Instead a future compares its
token with the mark when its state is read. Only a future with a waiter or a callback is stored (`watch`), by its token.

There is no lock: each change is one operation on a dictionary. Threads may watch while the owner advances. A future is
removed from the dictionary once, by `pop`, and the thread that has removed it settles it.
"""

from __future__ import annotations

from collections.abc import Callable

from mqttws.hints import Generic, TypeVar

#: The type of the futures of a driver.
F = TypeVar("F")


class HighWaterMark(Generic[F]):
    """The progress of sending a client's QoS 0 messages, over its lifetime.

    Attributes:
        token: All QoS 0 messages up to this token were sent.
        error: The reason for which no others will be sent; None while they may be.
    """

    __slots__ = ("_watched", "error", "token")

    def __init__(self) -> None:
        self.token = 0
        self.error: Exception | None = None
        self._watched: dict[int, F] = {}

    def has_outcome(self, token: int) -> bool:
        """Return whether a message has an outcome: None up to the mark, and `error` above it."""
        return token <= self.token or self.error is not None

    def watch(self, token: int, future: F) -> bool:
        """Settle a future when its message has an outcome. Return False if it already has one."""
        self._watched[token] = future
        # If the owner advanced before the future was added, it has not seen it.
        if token > self.token and self.error is None:
            return True
        return self._watched.pop(token, None) is None

    def watched(self, token: int) -> F | None:
        """Return the future that is watched for a message, or None."""
        return self._watched.get(token)

    def forget(self, token: int) -> F | None:
        """Stop watching a message. Return the future that was watched, or None."""
        return self._watched.pop(token, None)

    def find(self, future: object) -> int | None:
        """Return the token of a watched future, or None."""
        tokens = [token for token, known in list(self._watched.items()) if known is future]
        return tokens[0] if tokens else None

    def advance(self, token: int) -> list[F]:
        """Record that all messages up to a token were sent. Return the futures to settle, in order."""
        self.token = token
        watched = self._watched
        if not watched:
            return []
        tokens = sorted([each for each in list(watched) if each <= token])
        return [future for each in tokens if (future := watched.pop(each, None)) is not None]

    def fail(self, error: Exception, settle: Callable[[list[F]], object]) -> None:
        """Record that no more messages will be sent.

        If an exception of a signal handler interrupts this, it can be called again.

        Args:
            error: The reason.
            settle: A function that will settle the futures that it gets. It may get one twice.
        """
        self.error = error
        watched = self._watched
        tokens = sorted(watched)
        settle([future for each in tokens if (future := watched.get(each)) is not None])
        for each in tokens:
            watched.pop(each, None)
