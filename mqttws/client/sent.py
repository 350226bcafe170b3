"""Which messages of QoS 0 are handed to the network: a number, since they go in the order of their tokens.

So no message needs a future that is kept here and settled one by one, though each caller gets one: it asks, when it
is asked itself. Only who wants to be told (`watch`) is noted, and found again by its token.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

F = TypeVar("F")


class Handover(Generic[F]):
    """The messages of QoS 0 of a client, from its opening, or before it, to its end.

    Attributes:
        sent: the token up to which all are handed over.
        error: why none of the others ever will be; None while they may be.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.error: Exception | None = None
        self._lock = threading.Lock()
        # Whom to tell, in the order of their tokens.
        self._tokens: list[int] = []
        self._futures: list[F] = []

    def knows(self, token: int) -> bool:
        """Tell whether there is an outcome: it is `error` where the token is above `sent`, else None."""
        return token <= self.sent or self.error is not None

    def watch(self, token: int, future: F) -> None:
        """Tell a future when there is an outcome. Who calls this asks `knows` once more behind it."""
        with self._lock:
            tokens = self._tokens
            if not tokens or token > tokens[-1]:
                tokens.append(token)
                self._futures.append(future)
            else:
                position = bisect_left(tokens, token)
                tokens.insert(position, token)
                self._futures.insert(position, future)

    def forget(self, token: int) -> F | None:
        """Take back what `watch` was told of a token. Returns the future, if there is one."""
        with self._lock:
            position = bisect_left(self._tokens, token)
            if self._tokens[position : position + 1] != [token]:
                return None
            del self._tokens[position]
            return self._futures.pop(position)

    def find(self, future: object) -> int | None:
        """Tell the token that a future was to be told of; None where it was to be told of none."""
        with self._lock:
            pairs = zip(self._tokens, self._futures, strict=True)
            return next((token for token, known in pairs if known is future), None)

    def advance(self, token: int) -> list[F]:
        """Note that all up to a token are handed over. Returns whom to tell."""
        self.sent = token
        return self._take(token) if self._tokens else []

    def fail(self, error: Exception) -> list[F]:
        """Note that nothing more will be handed over. Returns whom to tell."""
        self.error = error
        return self._take(None)

    def _take(self, token: int | None) -> list[F]:
        with self._lock:
            end = len(self._tokens) if token is None else bisect_right(self._tokens, token)
            futures = self._futures[:end]
            del self._tokens[:end], self._futures[:end]
            return futures


@runtime_checkable
class Asking(Protocol):
    """A future that asks: each driver has one of its kind.

    Attributes:
        token: of the message.
        handover: knows whether it is handed over.
    """

    token: int
    handover: Handover[Any]

    def withdrawn(self) -> None:
        """Note that the message will not be handed over: then nobody ever settles this future."""
