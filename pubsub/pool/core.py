"""The part of a pool that threads and asyncio have in common: the methods of a client that do not wait.

A pool has the interface of a client, and uses clients. Each part has a separate queue, rate limit and reconnection, as
any client has. So a part that is full or disconnected delays only its own messages. The pool determines the part for
each call, and recognizes messages that are copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mqttws import MQTTError, State, Waiting
from pubsub.pool.moving import HOLD_PATIENCE
from pubsub.pool.part import Part
from pubsub.pool.places import Place
from pubsub.pool.sizing import CALM, FULL, Connections, excess, split
from pubsub.pool.subscribing import Subscribing

__all__ = ["LOOK", "PoolCore"]

#: Seconds between two examinations of the load of a pool with "auto".
LOOK = 1.0


class PoolCore(Subscribing):
    """The base class of `Pool`."""

    @property
    def state(self) -> State:
        """The worst of the states of the parts."""
        return self._reported

    @property
    def parts(self) -> dict[int, State]:
        """The state of each part, by its number."""
        return {part.index: part.state for part in list(self._parts)}

    @property
    def pending(self) -> int:
        """The number of messages that are not sent or not acknowledged yet."""
        return sum(part.client.pending for part in list(self._parts))

    @property
    def waiting(self) -> Waiting:
        """The queues of messages that are not sent yet, combined."""
        each = [part.client.waiting for part in list(self._parts)]
        oldest = max((waiting.oldest for waiting in each), default=0.0)
        return Waiting(sum(waiting.messages for waiting in each), sum(waiting.size for waiting in each), oldest)

    @property
    def stalled(self) -> str:
        """The reason why a part reads nothing before messages are taken; an empty string while all parts read."""
        return next((reason for part in list(self._parts) if (reason := str(part.client.stalled))), "")

    @property
    def unreachable(self) -> str:
        """Why a part has no connection; an empty string while all parts have one."""
        return next((reason for part in list(self._parts) if (reason := str(part.client.unreachable))), "")

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped because the queue was full."""
        return self._dropped + sum(int(part.client.dropped) for part in list(self._parts))

    @property
    def expired(self) -> int:
        """The number of messages that expired before they were sent."""
        return self._expired + sum(int(part.client.expired) for part in list(self._parts))

    def reconnect_now(self) -> None:
        """Close each connection and make a new one, within the budget."""
        for part in list(self._parts):
            part.client.reconnect_now()

    # Publishing.

    def publish_nowait(
        self, topic: str, payload: bytes, qos: int, retain: bool, *, expire_after: float | None = None
    ) -> Any:
        """Publish a message through the part of its topic. Return a future."""
        slot, part = self.carrier(topic)
        try:
            future = part.client.publish_nowait(topic, payload, qos, retain, expire_after=expire_after)
        except BaseException:
            self.published(slot)
            raise
        future.add_done_callback(partial(self.published, slot))
        return future

    def carrier(self, topic: str) -> tuple[int, Part]:
        """Return the slot and the part of a topic. The caller must call `published` when the message is complete."""
        slot = self._slots.slot(topic)
        with self.lock:
            return slot, self._slots.begin(slot)

    def published(self, slot: int, future: Any = None) -> None:
        """Record that a message of a slot is complete, or has failed."""
        with self.lock:
            idle = self._slots.done(slot)
        if idle is not None:
            self.look_over()

    def withdraw(self, future: Any) -> bool:
        """Withdraw a message that has not been sent. Return whether it was withdrawn."""
        return any(part.client.withdraw(future) for part in list(self._parts) if part.publishes)

    # The number of parts.

    def resize(self, connections: Connections) -> None:
        """Change the number of connections, and return immediately. Filters and topics move in the background."""
        sizes = split(connections)
        with self.lock:
            self._is_auto = connections == "auto"
            publishing, receiving = self._publishing(), self._receiving()
            if not self._is_auto:
                publishing[0].receives = sizes.shared
                if not sizes.shared:
                    receiving = list(filter(lambda part: part is not publishing[0], receiving))
                for _ in range(len(publishing), sizes.publishing):
                    self._add(True, False, is_first=False)
                for _ in range(len(receiving), 0 if sizes.shared else sizes.receiving):
                    self._add(False, True, is_first=False)
                for part in receiving[0 if sizes.shared else sizes.receiving :]:
                    part.is_retiring = part is not publishing[0]
                for part in publishing[sizes.publishing :]:
                    part.is_retiring = True
        self.look_over()

    def look_over(self) -> None:
        """Start new parts, move everything away from retiring ones, and close those that have nothing left."""
        with self.lock:
            if self._is_closing or not self._is_open:
                return
            starting = self._unopened()
            for part in self._receiving():
                self._share(part)
            idle = list(filter(self._relieve, list(self._parts)))
        for part in starting:
            self.start(part)
        for part in idle:
            self._leave_shared(part)
        self.moves.begin()

    def _relieve(self, part: Part) -> bool:
        """Move everything away from a part that is retiring. Return whether to begin to close it. Requires the lock."""
        if part.is_retiring and part in self._slots.parts:
            self._slots.remove(part)
        if part.is_retiring or not part.receives:
            self._move_away(part)
        if not part.is_retiring and not part.receives and part.shared and self._is_replaced(part):
            part.client.unsubscribe_nowait(list(part.shared))
            part.shared.clear()
        if part.is_retiring and not part.is_closed and self._is_idle(part):
            part.is_closed = True
        return part.is_closed and not part.is_leaving

    def _move_away(self, part: Part) -> None:
        targets: dict[Part, list[Place[Part]]] = {}
        for place in self.places.on(part):
            if place.handover is None:
                others = [other for other in self._receiving() if other is not part]
                free = [other for other in others if not self._is_full(other, len(targets.get(other, ())))]
                if free:
                    target = min(
                        free,
                        key=lambda each: (not each.is_trusted, self.places.count(each) + len(targets.get(each, ()))),
                    )
                    targets.setdefault(target, []).append(place)
        for target, places in targets.items():
            self.moves.add(places, part, target)

    def _is_full(self, part: Part, coming: int) -> bool:
        return self._most_filters is not None and self.places.count(part) + coming >= self._most_filters

    def _is_idle(self, part: Part) -> bool:
        is_used = self.places.on(part) or self.moves.concerns(part) or self._slots.owned(part)
        return not is_used and self._is_replaced(part)

    def _leave_shared(self, part: Part) -> None:
        """Unsubscribe a part from the shared subscriptions, process what the server held for it, and close it."""
        try:
            part.is_leaving = True
            with self.lock:
                answer = part.client.unsubscribe_nowait(list(part.shared)) if part.shared and part.stood else None
            if answer is None:
                self._drain(part)
            else:
                self.runtime.later(HOLD_PATIENCE, partial(self._drain, part))  # a slow program still gets the messages
                answer.add_done_callback(partial(self._exhaust, part))
        except BaseException:
            part.is_leaving = False  # the next look repeats it, which does no harm
            raise

    def _exhaust(self, part: Part, answer: Any) -> None:
        """Close a part when it has received what the server held for it. Closing ends the session with the rest."""
        if answer.cancelled() or answer.exception() is not None:
            self._drain(part)
        else:
            self.moves.exhaust(part, partial(self._drain, part), lambda: part not in self._parts)

    def _drain(self, part: Part) -> None:
        """Close a part when the messages received so far are processed."""
        with self.lock:
            if part not in self._parts:
                return
            drained = part.when_drained(partial(self.retire, part))
        if drained:
            self.retire(part)

    def _rebalance(self, part: Part) -> None:
        """Move to a part that has just connected its share of the Topic Filters."""
        with self.lock:
            receiving = self._receiving()
            if part in receiving:
                share = -(-sum(self.places.count(each) for each in receiving) // len(receiving))
                space = share - self.places.count(part)
                for source in filter(lambda each: each is not part, receiving):
                    space -= self._give(source, part, share, space)
        self.moves.begin()

    def _give(self, source: Part, target: Part, share: int, most: int) -> int:
        """Move up to `most` Topic Filters that a part has beyond its share. Return how many. Requires the lock."""
        given = excess(source, self.places, share, lambda place: place.handover is None)[: max(0, most)]
        if given:
            self.moves.add(given, source, target)
        return len(given)

    def look(self) -> None:
        """Examine the load every `LOOK` seconds, and change the number of parts of a pool with "auto".

        This also completes what a method has begun that was interrupted, for example by Ctrl-C.
        """
        if self._is_closing or self.error is not None:
            return
        self.runtime.later(LOOK, self.look)
        if self._is_auto and self._rate is not None:
            self._size(self._rate)
        self.look_over()

    def _size(self, rate: float) -> None:
        with self.lock:
            publishing, receiving = self._publishing(), self._receiving()
            space = self._most_connections - len(self._parts)
            backlog = sum(part.client.pending > rate / 2 for part in publishing)
            loaded = filter(lambda part: part.recent > FULL * rate * LOOK, receiving)
            busy = sum(self.places.count(part) > 1 for part in loaded)
            load = sum(part.recent for part in receiving)
            for part in self._parts:
                part.recent = 0
            pending = sum(part.client.pending for part in publishing)
            connecting = any(not part.stood for part in self._parts)
            self._calm = 0 if backlog or busy or connecting else self._calm + 1
            if not connecting and (backlog or busy):
                for _ in range(min(space, -(-backlog // 2))):
                    self._add(True, False, is_first=False)
                    space -= 1
                for _ in range(min(space, busy)):
                    self._add(False, True, is_first=False)
            elif self._calm >= CALM:
                self._calm = 0
                if len(publishing) > 1 and pending < rate / 10:
                    publishing[-1].is_retiring = True
                if len(receiving) > 1 and load < FULL / 2 * rate * (len(receiving) - 1) and self._fits(receiving[:-1]):
                    receiving[-1].is_retiring = True

    def _fits(self, parts: Sequence[Part]) -> bool:
        """Return whether some of the parts have enough space for all Topic Filters."""
        return self._most_filters is None or len(self.places) <= FULL * self._most_filters * len(parts)

    # Called by the parts.

    def _on_state(self, part: Part, state: State) -> None:
        first = lost = False
        with self.lock:
            first = part.note(state)
            if first and part.publishes and not part.is_retiring:
                self._slots.add(part)
            lost = state.name == "disrupted"
            if state.name == "disconnected" and not part.is_closed and not self._is_closing and self.error is None:
                self.error = state.error or MQTTError(f"part {part.index} of the pool has ended")
            self._note(state)
            if self.on_part is not None:
                self._states.append((self.on_part, (part.index, state)))
            failed = self.error is not None
        self._report_states()
        if failed:
            self.end()
        elif lost:
            self.moves.lost(part)
            if part.is_closed:  # the server holds nothing for it any more
                self._drain(part)
        elif first and part.receives and not part.is_first:
            self._rebalance(part)
