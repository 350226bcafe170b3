"""The parts of a pool: how they are made, the state of the pool, and the abstract methods of the pool."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from mqttws import ConnectBudget, MQTTError, Publish, State, WouldDeadlock
from pubsub.owned_lock import OwnedLock
from pubsub.pool.budgets import Both, Budget
from pubsub.pool.gather import worst
from pubsub.pool.moving import Moves
from pubsub.pool.part import Part
from pubsub.pool.places import Places
from pubsub.pool.sizing import Connections, split
from pubsub.pool.slots import Slots
from pubsub.runtime import Runtime, logger

__all__ = ["Parts"]

#: The default of `max_inbound_bytes`, as of a client.
MOST_BYTES = 64 * 1024 * 1024


class Parts(ABC):
    """The parts of a pool.

    Args:
        runtime: The runtime of the `PubSub`.
        make: Returns a new client with the given options.
        options: The options of each client.
        connections: The number of parts; see `Sharded`.
        most_connections: The maximum number of parts with "auto".
        most_filters: The maximum number of Topic Filters of a part; None: any number.
        budget: The budget for the CONNECTs of the parts that only publish.
        receiving_budget: The budget for those of the other parts, which subscribe, too; it takes turns of `budget`.
        filters: Turns for Topic Filters that connected parts subscribe to; None: no limit.

    Attributes:
        on_part: Called with the index of a part and its new state; with None instead of a state when the part was
            removed.
    """

    on_part: Callable[[int, State | None], object] | None = None

    def __init__(
        self,
        runtime: Runtime,
        make: Callable[..., Any],
        options: Mapping[str, Any],
        connections: Connections,
        most_connections: int,
        most_filters: int | None,
        budget: Budget,
        receiving_budget: Budget,
        filters: ConnectBudget | None = None,
    ) -> None:
        self.runtime = runtime
        self.places: Places[Part] = Places()
        self.moves = Moves(self)
        self.error: Exception | None = None
        self._lock: Any = OwnedLock()
        self._make = make
        self._options = options
        # The bytes of the messages in the queue, from which on the parts wait; each has its own queue before this one.
        self._most_bytes: int = options.get("max_inbound_bytes", MOST_BYTES)
        self._budgets = budget, receiving_budget
        self._filters = filters
        self._client_id = options.get("client_id") or f"pubsub-{os.urandom(8).hex()}"
        self._is_auto = connections == "auto"
        self._most_connections = most_connections
        self._most_filters = most_filters
        self._rate: float | None = options.get("publish_rate")
        self._slots: Slots[Part] = Slots()
        self._parts: list[Part] = []
        self._unacknowledged: dict[int, tuple[Part, Publish, int]] = {}
        # By Topic Filter: makes a request; and answers it if another one replaces it.
        self._deferred: dict[str, tuple[Callable[[], object], Callable[[], object] | None]] = {}
        self._is_open = self._is_closing = False
        self._calm = 0
        self._dropped = self._expired = 0  # the sums of removed parts
        self._reported = State("disconnected")
        self._states: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()
        self._is_reporting = False
        sizes = split(connections)
        for _ in range(sizes.publishing):
            self._add(True, sizes.shared, is_first=True)
        for _ in range(0 if sizes.shared else sizes.receiving):
            self._add(False, True, is_first=True)

    @property
    def lock(self) -> Any:
        """The lock of the pool; see `Runtime.lock`."""
        if self._lock.owned():
            raise WouldDeadlock(
                "this signal handler has interrupted a call of the same pool; make the call after the handler has "
                "returned"
            )
        return self._lock

    # Implemented by the subclasses.

    @abstractmethod
    def new_answer(self) -> Any:
        """Return a new future of return codes."""

    @abstractmethod
    def start(self, part: Part) -> None:
        """Connect a part, and start to take its messages."""

    @abstractmethod
    def options_of(self, part: Part) -> Mapping[str, Any]:
        """Return the options of a part's client by which its messages are taken."""

    @abstractmethod
    def retire(self, part: Part) -> None:
        """Close a part in the background, and call `gone`."""

    @abstractmethod
    def put(self, publish: Publish) -> None:
        """Add a message to the queue. Requires the lock."""

    @abstractmethod
    def end(self) -> None:
        """End the iteration over the messages."""

    @abstractmethod
    def look_over(self) -> None:
        """Start new parts, move everything away from retiring ones, and close those that have nothing left."""

    @abstractmethod
    def deliver(self, part: Part, publish: Publish, number: int) -> None:
        """Deliver a message. Requires the lock."""

    @abstractmethod
    def _on_state(self, part: Part, state: State) -> None:
        """Handle a change of state of a part."""

    @abstractmethod
    def _on_error(self, part: Part, error: MQTTError) -> None:
        """Handle an error that a part reports."""

    # The parts.

    def _receiving(self) -> list[Part]:
        return [part for part in self._parts if part.receives and not part.is_retiring]

    def _publishing(self) -> list[Part]:
        return [part for part in self._parts if part.publishes and not part.is_retiring]

    def _unopened(self) -> list[Part]:
        return [part for part in self._parts if not part.is_open]

    def _add(self, publishes: bool, receives: bool, *, is_first: bool) -> Part:
        """Return a new part, which the caller must start. Requires the lock."""
        taken = {part.index for part in self._parts}
        index = next(number for number in range(len(taken) + 1) if number not in taken)
        part = Part(index, publishes, receives, is_first)
        options = {
            **self._options,
            "client_id": f"{self._client_id}-{index}",
            "will": self._options.get("will") if index == 0 else None,  # one will for the whole pool
            "connect_budget": self._budget_of(receives),
            "on_state": partial(self._on_state, part),
            "on_error": partial(self._on_error, part),
            **self.options_of(part),
        }
        part.client = self._make(**options)
        self._parts.append(part)
        if publishes and is_first:
            self._slots.add(part)
        return part

    def _budget_of(self, receives: bool) -> Budget:
        """Return the budget of a part: that of the pool, and the option `connect_budget` if it is given."""
        given, budget = self._options.get("connect_budget"), self._budgets[receives]
        return budget if given is None else Both(given, budget)

    def gone(self, part: Part) -> None:
        """Remove a part that is closed."""
        with self.lock:
            if part not in self._parts:  # it was closed twice, as after an interrupt
                return
            self._parts.remove(part)
            self._dropped += part.client.dropped
            self._expired += part.client.expired
            self._note(None)
            if self.on_part is not None:
                self._states.append((self.on_part, (part.index, None)))
        self._report_states()

    # Their states.

    def _note(self, cause: State | None) -> None:
        """Record the state of the pool, if it has changed or a session was lost. Requires the lock."""
        whole = worst(self._state_of(part) for part in self._parts if part.counts)
        lost = cause is not None and cause.session_present is False
        if whole.name == self._reported.name and not lost:
            return
        self._reported = State(
            whole.name, whole.error, whole.delay, False if lost else whole.session_present, whole.endpoint
        )
        on_state = self._options.get("on_state")
        if on_state is not None:
            self._states.append((on_state, (self._reported,)))

    def _state_of(self, part: Part) -> State:
        is_new = part.state.name == "disconnected" and not part.stood and not self._is_closing and self.error is None
        return State("connecting") if is_new and self._is_open else part.state

    def _report_states(self) -> None:
        """Report states to the callbacks, in order. One thread at a time does this, for all."""
        while True:
            with self.lock:
                if self._is_reporting or not self._states:
                    return
                self._is_reporting = True
                call, arguments = self._states.popleft()
            try:
                call(*arguments)
            except Exception:  # a defect of this package
                logger.exception("a state of a pool could not be reported")
            finally:
                with self.lock:
                    self._is_reporting = False
