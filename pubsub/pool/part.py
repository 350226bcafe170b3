"""One connection of a pool, a part: its state, and how many of its messages are processed and acknowledged."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqttws import State

__all__ = ["Part"]


class Part:
    """One connection of a pool. Guarded by the pool's lock.

    Args:
        index: Its number, the lowest that is free.
        publishes: Whether messages are published through it.
        receives: Whether Topic Filters are subscribed to on it.
        is_first: Whether the pool had it from the beginning: then the state of the pool always includes its state.

    Attributes:
        client: The client, which makes the connection.
        state: The state of the client.
        stood: Whether it has been connected before.
        fails: Whether it has not been connected, and an attempt has failed.
        is_open: Whether the client has been opened.
        is_retiring: Whether it is to be closed as soon as nothing is left on it.
        is_closed: Whether it was chosen to be closed.
        is_leaving: Whether its closing has begun. An interrupt may come between the two: then the next look begins it.
        processed: The number of its messages that were delivered or skipped.
        recent: The number of those since the pool last examined its load.
        shared: The shared subscriptions that it has, each with whether the server has answered the SUBSCRIBE.
    """

    client: Any

    def __init__(self, index: int, publishes: bool, receives: bool, is_first: bool) -> None:
        self.index = index
        self.publishes = publishes
        self.receives = receives
        self.is_first = is_first
        self.state = State("disconnected")
        self.stood = self.fails = self.is_open = self.is_retiring = False
        self.is_closed = self.is_leaving = False
        self.processed = self.recent = 0
        self.shared: dict[str, bool] = {}
        self._open: dict[int, None] = {}  # the numbers of unacknowledged messages, in order
        self._drains: list[tuple[int, int | None, Callable[[], object]]] = []

    @property
    def counts(self) -> bool:
        """Whether the pool's state includes its state. For an added part that begins with its first result."""
        return not self.is_closed and (self.is_first or self.stood or self.fails)

    @property
    def is_trusted(self) -> bool:
        """Whether it can be expected to connect: it has before, or it is one of the first and has not failed."""
        return self.stood or (self.is_first and not self.fails)

    def note(self, state: State) -> bool:
        """Record its state. Return whether this is its first connection."""
        self.state = state
        is_first = state.name == "connected" and not self.stood
        if state.name == "connected":
            self.stood, self.fails = True, False
        elif state.name == "disrupted" and not self.stood:
            self.fails = True
        return is_first

    def hold(self) -> int:
        """Record that the message being processed is not acknowledged yet. Return its number, for `let_go`."""
        self._open[self.processed] = None
        return self.processed

    def let_go(self, number: int) -> None:
        """Record that a message was acknowledged."""
        self._open.pop(number, None)

    @property
    def acknowledged(self) -> int:
        """The number of messages before the first unacknowledged one: their acknowledgements were sent.

        Spec: [MQTT-4.6.0-2]
        """
        return next(iter(self._open), self.processed)

    def when_drained(self, call: Callable[[], object], most: int | None = None) -> bool:
        """Call a function when all messages received so far have been processed.

        Args:
            call: The function.
            most: The maximum number of messages in flight at that time; None: any number.

        Returns:
            Whether that is so already. Then the function is not called.
        """
        received = self.client.received
        if self._is_drained(received, most):
            return True
        self._drains.append((received, most, call))
        return False

    def count(self) -> None:
        """Count a message that was processed."""
        self.processed += 1
        self.recent += 1

    def due(self) -> list[Callable[[], object]]:
        """Return the functions that are to be called now, outside the lock."""
        if not self._drains:
            return []
        waiting, due = [], []
        for drain in self._drains:
            received, most, call = drain
            if self._is_drained(received, most):
                due.append(call)
            else:
                waiting.append(drain)
        self._drains = waiting
        return due

    def _is_drained(self, received: int, most: int | None) -> bool:
        return self.processed >= received and (most is None or self.client.received - self.acknowledged <= most)

    def __repr__(self) -> str:
        return f"<Part {self.index} {self.state.name}>"
