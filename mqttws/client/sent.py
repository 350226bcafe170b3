"""Which messages of QoS 0 are sent: a high-water mark, because they are sent in the order of their tokens.

So no future is kept here and settled for each message, though each caller gets one: it compares its token with the
mark when it is asked. Only a future with a waiter or a callback is kept (`watch`), by its token.

There is no lock: each change is one operation on a dictionary. Threads may watch while the owner advances; a future
leaves the dictionary once, by `pop`, and the thread that has popped it settles it.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

F = TypeVar("F")


class HighWaterMark(Generic[F]):
    """The progress of sending a client's QoS 0 messages, over its lifetime.

    Attributes:
        token: all messages of QoS 0 up to this token are sent.
        error: why none of the others will be; None while they may be.
    """

    __slots__ = ("_watched", "error", "token")

    def __init__(self) -> None:
        self.token = 0
        self.error: Exception | None = None
        self._watched: dict[int, F] = {}

    def knows(self, token: int) -> bool:
        """Return whether a message has an outcome: `error` where its token is above the mark, otherwise None."""
        return token <= self.token or self.error is not None

    def watch(self, token: int, future: F) -> bool:
        """Settle a future when its message has an outcome. Return False if it already has one."""
        self._watched[token] = future
        # The owner may have advanced just before, and then does not look again.
        return not (self.knows(token) and self._watched.pop(token, None) is not None)

    def forget(self, token: int) -> F | None:
        """Stop watching. Return the future that was watched."""
        return self._watched.pop(token, None)

    def find(self, future: object) -> int | None:
        """Return the token of a watched future, or None."""
        return next((token for token, known in list(self._watched.items()) if known is future), None)

    def advance(self, token: int) -> list[F]:
        """Note that all messages up to a token are sent. Return the futures to settle, in order."""
        self.token = token
        watched = self._watched
        if not watched:
            return []
        tokens = sorted([each for each in list(watched) if each <= token])
        return [future for each in tokens if (future := watched.pop(each, None)) is not None]

    def fail(self, error: Exception) -> list[F]:
        """Note that nothing more will be sent. Return the futures to settle."""
        self.error = error
        watched = self._watched
        return [future for each in sorted(watched) if (future := watched.pop(each, None)) is not None]


@runtime_checkable
class Receipt(Protocol):
    """The future of a QoS 0 message. Each driver has its own class.

    Attributes:
        token: of the message.
        sent: the mark of its client.
    """

    token: int
    sent: HighWaterMark[Any]

    def withdrawn(self) -> None:
        """Note that the message was withdrawn: this future is never done."""
