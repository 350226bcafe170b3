"""Handovers, one after the other: each goes on to its next step as answers come.

A server's answer may overtake messages: those that wait, on either side, until earlier ones are acknowledged. So a part
counts as *exhausted*, all having come that the server held for it, only when a round trip (an UNSUBSCRIBE of what
nobody has subscribed to) leaves so few messages in flight that the server had no reason to hold any back. Each step
ends with that: the first where the new part has had all that is from before it; the second where the old one has
delivered the last that is for it; the third where the new one has caught up.

What is asked about a filter while it is being handed over waits until that is over.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from pubsub.pool.handover import Handover, Step
from pubsub.pool.part import Part
from pubsub.pool.places import Place, Places
from pubsub.router import REFUSED
from pubsub.runtime import Runtime, settle

__all__ = ["Moves"]

#: Nobody subscribes to this: an UNSUBSCRIBE of it is answered, and changes nothing.
FENCE: Final = "pubsub/nobody/subscribes/to/this"
#: Seconds that a step may take; and the second one, in which the old part still delivers to a program that is behind.
PATIENCE: Final = 10.0
HOLD_PATIENCE: Final = 60.0
#: Messages that a part may have in flight when nothing waits at the server: fewer than any server allows.
FEW: Final = 6
#: Round trips that must say so, one after the other: a server may write an answer before the messages of its turn.
ROUNDS: Final = 2


class Ground(Protocol):
    """What a handover needs of its pool."""

    runtime: Runtime
    places: Places[Part]

    @property
    def lock(self) -> Any:
        """The pool's lock."""

    def deliver(self, part: Part, publish: Any, number: int) -> None:
        """Pass on a message, under the lock."""

    def look_over(self) -> None:
        """Close what is not needed any more."""


class Moves:
    """The handovers of a pool. What takes the lock itself says nothing; what is called under it says so."""

    def __init__(self, pool: Ground) -> None:
        self._pool = pool
        self._waiting: deque[Handover[Part]] = deque()
        self._active: Handover[Part] | None = None
        self._left = 0  # parts that are not exhausted yet
        self._over: dict[Handover[Part], list[Callable[[], object]]] = {}  # what is to be called at the end
        self._wake: Any = None  # a future, while a reader waits for the end of a handover

    @property
    def is_idle(self) -> bool:
        """Whether nothing is moving or waits to."""
        return self._active is None and not self._waiting

    def concerns(self, part: Part) -> bool:
        """Return whether a part takes part in one, under the lock."""
        handovers = [*self._waiting, *([self._active] if self._active is not None else [])]
        return any(part in (each.source, each.target) for each in handovers)

    def add(self, places: Sequence[Place[Part]], source: Part, target: Part | None) -> Handover[Part]:
        """Queue one, under the lock. `begin` must follow."""
        handover = Handover(places, source, target)
        for place in places:
            place.handover = handover
        self._waiting.append(handover)
        return handover

    def when_over(self, handover: Handover[Part], call: Callable[[], object]) -> None:
        """Have a function called when one is over, under the lock."""
        self._over.setdefault(handover, []).append(call)

    def over_future(self) -> Any:
        """Return a future that is done when the active one is over, under the lock."""
        if self._wake is None:
            self._wake = self._pool.runtime.new_future()
        return self._wake

    def is_known(self, topic: str, payload: bytes) -> bool:
        """Return whether a message was delivered by the part that had its topic before, under the lock."""
        active = self._active
        return active is not None and active.step is Step.TRAILING and active.is_known(topic, payload)

    def begin(self) -> None:
        """Begin the next one, if none is under way."""
        with self._pool.lock:
            if self._active is not None or not self._waiting:
                return
            handover = self._active = self._waiting.popleft()
            handover.step = Step.FOLLOWING
            target, answer = handover.target, None
            if target is not None:
                wanted = [(place.topic_filter, place.qos) for place in handover.places]
                answer = target.client.subscribe_nowait(wanted)
        if answer is None:
            self._exhaust_heirs(handover)
        else:
            answer.add_done_callback(partial(self._subscribed, handover))
        self._pool.runtime.later(PATIENCE, partial(self._expire, handover, Step.FOLLOWING))

    def _subscribed(self, handover: Handover[Part], answer: Any) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the part has ended for good, and with it the pool
        with self._pool.lock:
            if handover.step is not Step.FOLLOWING:
                return
            for place, code in zip(list(handover.places), answer.result(), strict=True):
                if code == REFUSED:
                    place.handover = None  # it stays where it is
                    handover.places.remove(place)
        self._exhaust_heirs(handover)

    def _exhaust_heirs(self, handover: Handover[Part]) -> None:
        """Go on when all that is to deliver the topics has had what is from before now."""
        with self._pool.lock:
            heirs = self._heirs(handover) if handover.target is None else {handover.target}
            self._left = len(heirs)
        step = handover.step
        for part in heirs:
            self._exhaust(handover, part, partial(self._passed, handover, step))
        if not heirs:
            self._next(handover, step)

    def _heirs(self, handover: Handover[Part]) -> set[Part]:
        return {
            other.part
            for place in handover.places
            for other in self._pool.places.overlapping(place.topic_filter)
            if other.part is not None and other.part is not handover.source
        }

    def _passed(self, handover: Handover[Part], step: Step) -> None:
        with self._pool.lock:
            self._left -= handover.step is step
            is_next = self._left == 0
        if is_next:
            self._next(handover, step)

    def _exhaust(self, handover: Handover[Part], part: Part, then: Callable[[], object], rounds: int = ROUNDS) -> None:
        """Call a function when all has come through a part that the server held for it, if that is of use then."""
        step = handover.step

        def when_calm() -> None:
            with self._pool.lock:
                if handover.step is not step:
                    return
                answer = part.client.unsubscribe_nowait([FENCE])
                acknowledged = part.acknowledged
            answer.add_done_callback(partial(when_answered, acknowledged))

        def when_answered(acknowledged: int, answer: Any) -> None:
            if answer.cancelled() or answer.exception() is not None:
                return
            with self._pool.lock:
                in_flight = part.client.received - acknowledged
                drained = part.when_drained(partial(when_drained, in_flight))
            if drained:
                when_drained(in_flight)

        def when_drained(in_flight: int) -> None:
            if handover.step is not step:
                return
            if in_flight > FEW:
                self._exhaust(handover, part, then)
            elif rounds > 1:
                self._exhaust(handover, part, then, rounds - 1)
            else:  # the window was open when the server answered, and nothing waited for it
                then()

        with self._pool.lock:
            calm = part.when_drained(when_calm, FEW)
        if calm:
            when_calm()

    def _next(self, handover: Handover[Part], step: Step) -> None:
        """Go on from a step, unless that was done."""
        if handover.step is not step:
            return
        if step is Step.FOLLOWING:
            self._hold(handover)
        elif step is Step.HOLDING:
            self._trail(handover)
        elif step is Step.TRAILING:
            self._finish(handover)

    def _hold(self, handover: Handover[Part]) -> None:
        with self._pool.lock:
            if handover.step is not Step.FOLLOWING:
                return
            handover.hold()
            filters = [place.topic_filter for place in handover.places]
            answer = handover.source.client.unsubscribe_nowait(filters) if filters else None
        if answer is None:
            self._trail(handover)
            return
        answer.add_done_callback(partial(self._unsubscribed, handover))
        self._pool.runtime.later(HOLD_PATIENCE, partial(self._expire, handover, Step.HOLDING))

    def _unsubscribed(self, handover: Handover[Part], answer: Any) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return
        if handover.step is Step.HOLDING:
            self._exhaust(handover, handover.source, partial(self._next, handover, Step.HOLDING))

    def _trail(self, handover: Handover[Part]) -> None:
        pool = self._pool
        with pool.lock:
            if handover.step is not Step.HOLDING:
                return
            for part, publish, number in handover.trail():
                pool.deliver(part, publish, number)
            for place in handover.places:
                place.handover = None
                if handover.target is None:
                    pool.places.remove(place)
                else:
                    pool.places.move(place, handover.target)
            wake, self._wake = self._wake, None
            calls = self._over.pop(handover, [])
        if wake is not None:
            settle(wake)
        for call in calls:
            call()
        self._exhaust_heirs(handover)
        pool.runtime.later(PATIENCE, partial(self._expire, handover, Step.TRAILING))

    def lost(self, part: Part) -> None:
        """Note that a part has lost its connection: nothing more comes through it of what it was unsubscribing."""
        with self._pool.lock:
            active = self._active
            if active is None or active.step is not Step.HOLDING or active.source is not part:
                return
            drained = part.when_drained(partial(self._next, active, Step.HOLDING))
        if drained:
            self._next(active, Step.HOLDING)

    def call_off(self, handover: Handover[Part]) -> None:
        """Leave its filters where they are, if it has not gone further than to follow."""
        with self._pool.lock:
            if handover.step is not Step.FOLLOWING or handover.target is None:
                return
            for place in handover.places:
                place.handover = None
            filters = [place.topic_filter for place in handover.places]
            if filters:
                handover.target.client.unsubscribe_nowait(filters)
        self._finish(handover)

    def _expire(self, handover: Handover[Part], step: Step) -> None:
        if handover.step is step is Step.FOLLOWING and handover.target is not None:
            self.call_off(handover)
        else:
            self._next(handover, step)  # a part without a connection, or one that is stuck, must not block others

    def _finish(self, handover: Handover[Part]) -> None:
        with self._pool.lock:
            if handover.step is Step.OVER:
                return
            handover.step = Step.OVER
            self._active = None
            calls = self._over.pop(handover, [])
            wake, self._wake = self._wake, None
        if wake is not None:
            settle(wake)
        for call in calls:
            call()
        self.begin()
        self._pool.look_over()
