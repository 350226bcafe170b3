"""One connection of a pool."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mqttws import State

__all__ = ["Part"]


class Part:
    """One connection of a pool. Guarded by the pool's lock.

    Args:
        index: Its number; the lowest that is free.
        publishes: Whether messages leave through it.
        receives: Whether Topic Filters are put on it.
        is_first: Whether it was there from the beginning: then the state of the pool waits for it.

    Attributes:
        client: Makes the connection.
        state: Of the client.
        stood: Whether it has been connected.
        fails: Whether it has not been, and an attempt has failed.
        is_open: Whether it has been opened.
        is_retiring: Whether it is to be closed as soon as nothing is left on it.
        processed: How many of its messages were passed on, or left out.
        recent: How many since they were counted last.
    """

    client: Any

    def __init__(self, index: int, publishes: bool, receives: bool, is_first: bool) -> None:
        self.index = index
        self.publishes = publishes
        self.receives = receives
        self.is_first = is_first
        self.state = State("disconnected")
        self.stood = self.fails = self.is_open = self.is_retiring = self.is_closed = False
        self.processed = self.recent = 0
        self._open: dict[int, None] = {}  # messages that are not acknowledged, by their number, in order
        self._drains: list[tuple[int, int | None, Callable[[], object]]] = []

    @property
    def counts(self) -> bool:
        """Whether its state counts: one that the pool grows by does from its first connection or failure on."""
        return not self.is_closed and (self.is_first or self.stood or self.fails)

    @property
    def is_trusted(self) -> bool:
        """Whether it may be expected to stand: it has, or it was there from the beginning and has not failed."""
        return self.stood or (self.is_first and not self.fails)

    def note(self, state: State) -> bool:
        """Note its state. Return whether this is its first connection."""
        self.state = state
        is_first = state.name == "connected" and not self.stood
        if state.name == "connected":
            self.stood, self.fails = True, False
        elif state.name == "disrupted" and not self.stood:
            self.fails = True
        return is_first

    def hold(self) -> int:
        """Note that the message being processed is not acknowledged yet. Return its number, for `let_go`."""
        self._open[self.processed] = None
        return self.processed

    def let_go(self, number: int) -> None:
        """Note that a message was acknowledged."""
        self._open.pop(number, None)

    @property
    def acknowledged(self) -> int:
        """How many messages the server knows to be acknowledged: up to the first that is not. Spec: [MQTT-4.6.0-2]."""
        return next(iter(self._open), self.processed)

    def when_drained(self, call: Callable[[], object], most: int | None = None) -> bool:
        """Have a function called when all has been processed that has come by now.

        Args:
            call: The function.
            most: Messages that may be in flight then; None: any number.

        Returns:
            Whether it has been already: then the function is not called.
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
        """Return what is to be called now, outside the lock."""
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
