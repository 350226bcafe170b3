"""Received messages of a pool: which are delivered, which are copies, and which must wait.

See `places` for the rule, and `handover` for Topic Filters that are being moved.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mqttws import Publish
from pubsub.pool.handover import Step
from pubsub.pool.part import Part
from pubsub.pool.parts import Parts
from pubsub.pool.places import Place

__all__ = ["Receiving"]

#: The decision about a message: deliver it; skip it as a copy; held by a handover; or wait for the end of a handover.
DELIVER, COPY, HELD, WAIT = range(4)


class Receiving(Parts):
    """The methods that the readers of the parts call, and acknowledging."""

    def took(self, part: Part, publish: Publish) -> Any:
        """Handle a message that a part has received.

        Returns:
            None; or a future: the reader must pass the message again when that is done.
        """
        with self.lock:
            way, copy = self._judge(part, publish)
            if way == WAIT:
                return self.moves.over_future()
            if way == DELIVER:
                self.deliver(part, publish, part.hold() if publish.qos else 0)
            part.count()
            if copy is not None:
                copy[0].let_go(copy[2])
            due = part.due()
        if way == COPY:
            part.client.acknowledge(publish)
        if copy is not None:
            copy[0].client.acknowledge(copy[1])
        for call in due:
            call()
        return None

    def deliver(self, part: Part, publish: Publish, number: int) -> None:
        """Deliver a message. Requires the lock."""
        if publish.qos:
            self._unacknowledged[id(publish)] = (part, publish, number)
        self.put(publish)

    def _judge(self, part: Part, publish: Publish) -> tuple[int, Any]:
        """Decide about a message. Requires the lock.

        Returns:
            The decision; and the held message that is a copy of this one, or None.
        """
        places = self.places.match(publish.topic)
        owner, is_shared, is_here = None, False, False
        for place in places:
            if place.is_shared:
                is_shared = True
                continue
            is_here = is_here or place.part is part
            if owner is None or place.age < owner.age:
                owner = place
        if owner is None:
            return DELIVER, None  # of a shared subscription; or without a subscriber: then the router drops it
        handover, topic, payload = owner.handover, publish.topic, publish.payload
        if owner.part is part:
            if publish.retain:
                return DELIVER, None
            if handover is None:
                return (COPY if self.moves.is_known(topic, payload) else DELIVER), None
            copy = handover.came_old(topic, payload)
            if handover.is_overdrawn:
                self.runtime.later(0.0, partial(self.moves.call_off, handover))
            return DELIVER, copy
        if handover is not None and part is self._heir(owner, places):
            holds = handover.step is Step.HOLDING
            if publish.retain and not holds:
                return DELIVER, None
            if holds and handover.is_full:
                return WAIT, None
            message = (part, publish, part.processed)
            if not handover.came_new(topic, payload, publish.retain, message):
                return COPY, None
            if publish.qos:
                part.hold()
            return HELD, None
        if publish.retain and is_here:
            # It was sent because of the SUBSCRIBE of a newer filter. The router delivers it to the new members only.
            return DELIVER, None
        return (COPY if is_here or not is_shared else DELIVER), None

    @staticmethod
    def _heir(owner: Place[Part], places: Sequence[Place[Part]]) -> Part | None:
        """Return the part that delivers the owner's messages after the handover."""
        target: Part | None = owner.handover.target
        if target is not None:
            return target
        others = [place for place in places if place is not owner and not place.is_shared]
        return min(others, key=lambda place: place.age).part if others else None

    def give_back(self, messages: Sequence[Publish], after: int = 0) -> None:
        """Return messages to the queue, at its end. Sessions are not kept, so no earlier messages are expected."""
        with self.lock:
            for publish in messages:
                self.put(publish)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message of QoS 1 or 2 through the part that has received it."""
        part, _, number = self._unacknowledged.pop(id(message), (None, None, 0))
        if part is not None:
            part.client.acknowledge(message)
            with self.lock:
                part.let_go(number)
                due = part.due()
            for call in due:
                call()
