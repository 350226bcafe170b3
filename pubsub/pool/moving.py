"""The sequence of handovers: one at a time, each from step to step as answers arrive.

A server's answer may overtake messages, namely those that wait, on either side, until earlier ones are acknowledged. So
when has a part received all messages that the server held for it? A part counts as *exhausted* after a round trip (an
UNSUBSCRIBE of a Topic Filter that has no subscriber) during which so few messages were in flight that the server had no
reason to hold any back. Each step ends with an exhausted part. After the first step the new part has received all
messages from before it subscribed. After the second, the old part has delivered its last message. After the third, the
new part has caught up.
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

__all__ = ["HOLD_PATIENCE", "Moves"]

#: A Topic Filter without a subscription: an UNSUBSCRIBE of it is answered, and changes nothing.
FENCE: Final = "pubsub/nobody/subscribes/to/this"
#: The time limit of a step, in seconds; and of the second step, in which a slow program still gets the old messages.
PATIENCE: Final = 10.0
HOLD_PATIENCE: Final = 60.0
#: With at most this number of messages in flight a server holds nothing back: every server allows more.
FEW: Final = 6
#: The number of such round trips in a row: a server may send one answer before messages that it has queued.
ROUNDS: Final = 2


class Ground(Protocol):
    """The interface of the pool for its handovers."""

    runtime: Runtime
    places: Places[Part]

    @property
    def lock(self) -> Any:
        """The pool's lock."""

    def deliver(self, part: Part, publish: Any, number: int) -> None:
        """Deliver a message. Requires the lock."""

    def look_over(self) -> None:
        """Start new parts, move everything away from retiring ones, and close those that have nothing left."""


class Moves:
    """The handovers of a pool. Methods that require the lock say so; the others acquire it."""

    def __init__(self, pool: Ground) -> None:
        self._pool = pool
        self._waiting: deque[Handover[Part]] = deque()
        self._active: Handover[Part] | None = None
        self._left = 0  # the number of parts that are not exhausted yet
        self._over: dict[Handover[Part], list[Callable[[], object]]] = {}  # called at the end of each handover
        self._wake: Any = None  # a future, while a reader waits for the end of a handover

    @property
    def is_idle(self) -> bool:
        """Whether there is no handover, active or waiting."""
        return self._active is None and not self._waiting

    def concerns(self, part: Part) -> bool:
        """Return whether a part is the source or the target of a handover. Requires the lock."""
        handovers = [*self._waiting, *([self._active] if self._active is not None else [])]
        return any(part in (each.source, each.target) for each in handovers)

    def add(self, places: Sequence[Place[Part]], source: Part, target: Part | None) -> Handover[Part]:
        """Queue a handover. The caller must call `begin` afterwards. Requires the lock."""
        handover = Handover(places, source, target)
        try:
            for place in places:
                place.handover = handover
        finally:  # also if a signal handler raises: a place whose handover is not queued would wait for ever
            self._waiting.append(handover)
        return handover

    def when_over(self, handover: Handover[Part], call: Callable[[], object]) -> None:
        """Call a function when a handover is over. Requires the lock."""
        self._over.setdefault(handover, []).append(call)

    def over_future(self) -> Any:
        """Return a future that is done when the active handover is over. Requires the lock."""
        if self._wake is None:
            self._wake = self._pool.runtime.new_future()
        return self._wake

    def is_known(self, topic: str, payload: bytes) -> bool:
        """Return whether the old part of a trailing handover has delivered a message before. Requires the lock."""
        active = self._active
        return active is not None and active.step is Step.TRAILING and active.is_known(topic, payload)

    def begin(self) -> None:
        """Start the next handover, if none is active."""
        with self._pool.lock:
            if self._active is not None or not self._waiting:
                return
            handover = self._active = self._waiting.popleft()
            handover.step = Step.FOLLOWING
            target, answer = handover.target, None
            if target is not None:
                wanted = [(place.topic_filter, place.qos) for place in handover.places]
                answer = target.client.subscribe_nowait(wanted)
        # First, so that the handover ends even if a signal handler interrupts the rest.
        self._pool.runtime.later(PATIENCE, partial(self._expire, handover, Step.FOLLOWING))
        if answer is None:
            self._exhaust_heirs(handover)
        else:
            answer.add_done_callback(partial(self._subscribed, handover))

    def _subscribed(self, handover: Handover[Part], answer: Any) -> None:
        if answer.cancelled() or answer.exception() is not None:
            return  # the part has ended, and with it the pool
        with self._pool.lock:
            if handover.step is not Step.FOLLOWING:
                return
            answers = list(zip(handover.places, answer.result(), strict=True))
            for place, _ in filter(lambda each: each[1] == REFUSED, answers):
                place.handover = None  # it stays where it is
                handover.places.remove(place)
        self._exhaust_heirs(handover)

    def _exhaust_heirs(self, handover: Handover[Part]) -> None:
        """Continue when the parts that are to deliver the topics have received all earlier messages."""
        with self._pool.lock:
            heirs = self._heirs(handover) if handover.target is None else {handover.target}
            self._left = len(heirs)
        step = handover.step
        for part in heirs:
            self.exhaust(part, partial(self._passed, handover, step), lambda: handover.step is not step)
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

    def exhaust(
        self, part: Part, then: Callable[[], object], is_over: Callable[[], bool], rounds: int = ROUNDS
    ) -> None:
        """Call a function when a part has received all messages that the server held for it, unless that is over.

        The sequence is: few messages in flight (`when_calm`) -> UNSUBSCRIBE -> its answer (`when_answered`) -> all
        messages processed that were received by then (`when_drained`). If too many were in flight in the meantime, the
        server may have held messages back, and the sequence starts again.
        """

        def when_calm() -> None:
            with self._pool.lock:
                if is_over():
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
            if is_over():
                return
            if in_flight > FEW:
                self.exhaust(part, then, is_over)
            elif rounds > 1:
                self.exhaust(part, then, is_over, rounds - 1)
            else:  # the server could have sent more messages before it answered, so it had none
                then()

        with self._pool.lock:
            calm = part.when_drained(when_calm, FEW)
        if calm:
            when_calm()

    def _next(self, handover: Handover[Part], step: Step) -> None:
        """Start the step that follows another one, unless that was done before."""
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
            then = partial(self._next, handover, Step.HOLDING)
            self.exhaust(handover.source, then, lambda: handover.step is not Step.HOLDING)

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
        """Handle the loss of a part's connection: the old part receives no more messages of the filters."""
        with self._pool.lock:
            active = self._active
            if active is None or active.step is not Step.HOLDING or active.source is not part:
                return
            drained = part.when_drained(partial(self._next, active, Step.HOLDING))
        if drained:
            self._next(active, Step.HOLDING)

    def call_off(self, handover: Handover[Part]) -> None:
        """Cancel a handover in its first step: the filters stay on the old part."""
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
