"""Topics on their way from one part to another: what comes through both is delivered once. No input or output.

A filter is moved in steps, and no message is lost or delivered twice by any of them::

    following   the new part is subscribing; the old one delivers. What comes through the new one is a copy, for the
                old one has the filter, too.
    holding     the new part has the filter. The old one is unsubscribing, and still delivers what the server had for
                it. What comes through the new one may be a copy or not: it is held, unacknowledged, until the old one
                delivers it, too.
    trailing    nothing more comes through the old part. What is still held is delivered, and all that comes through
                the new one, but what the old one has delivered already: the new one was slower.
    over        that has come, too.

MQTT 3.1.1 gives a message no name that both connections know. So messages are compared by the hashes of their
payloads, topic by topic, in their order; each topic has what one part is ahead of the other. Where a topic has the same
payload several times in a row, one may be delivered twice in this moment, as QoS 1 allows, and none is lost.

The same is done where a filter is given up whose topics other parts have, too: they have "subscribed" long ago.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from pubsub.pool.places import Place

__all__ = ["Handover", "Step"]

P = TypeVar("P", bound=Hashable)

#: Messages, and bytes of payloads, that may be held; beyond it the new part waits until it is over, or time is up.
MOST_HELD: Final = 10_000
MOST_HELD_BYTES: Final = 64 * 1024 * 1024
#: Hashes that are kept of one topic; and, until nothing is held, of all topics.
MOST_OF_TOPIC: Final = 1_000
MOST_HASHES: Final = 100_000


class Step(Enum):
    """How far a handover is."""

    WAITING = "waiting"
    FOLLOWING = "following"
    HOLDING = "holding"
    TRAILING = "trailing"
    OVER = "over"


class _Seen(NamedTuple):
    """A message that came through the new part alone so far."""

    key: int
    number: int  # in the order in which they came
    message: Any  # None: it is known to be a copy
    size: int


class _Topic:
    """One topic: what one of the parts has had and the other has not."""

    __slots__ = ("ahead", "behind", "last", "repeats")

    def __init__(self) -> None:
        self.ahead: deque[int] = deque(maxlen=MOST_OF_TOPIC)  # delivered by the old part alone
        self.behind: deque[_Seen] = deque()  # seen through the new part alone
        self.last: int | None = None  # delivered
        self.repeats = False  # whether a payload was delivered twice in a row


class Handover(Generic[P]):
    """One handover, of all filters that go from one part to one other, or that are given up.

    Args:
        places: The filters.
        source: The part that has them.
        target: The part that is to have them; None: they are given up.

    Attributes:
        step: How far it is.
    """

    def __init__(self, places: Sequence[Place[P]], source: P, target: P | None) -> None:
        self.places = list(places)
        self.source = source
        self.target = target
        self.step = Step.WAITING
        self._topics: dict[str, _Topic] = {}
        self._hashes = 0
        self._held = self._held_bytes = self._numbers = 0

    @property
    def is_full(self) -> bool:
        """Whether no more messages are held."""
        return self._held >= MOST_HELD or self._held_bytes >= MOST_HELD_BYTES

    @property
    def is_overdrawn(self) -> bool:
        """Whether it has followed for too long: it is to be called off."""
        return self.step is Step.FOLLOWING and self._hashes > MOST_HASHES

    def came_old(self, topic: str, payload: bytes) -> Any:
        """Note a message that the old part delivers.

        Returns:
            What was held, and is a copy of it; None for nothing.
        """
        if self.step is not Step.FOLLOWING and self.step is not Step.HOLDING:
            return None
        key, of = hash(payload), self._of(topic)
        of.repeats = of.repeats or key == of.last
        of.last = key
        position = next((at for at, seen in enumerate(of.behind) if seen.key == key), None)
        if position is None:
            of.ahead.append(key)
            self._hashes += 1
            return None
        of.ahead.clear()  # it is older than what both have had
        seen = of.behind[position]
        del of.behind[position]
        return self._let_go(seen)

    def came_new(self, topic: str, payload: bytes, retain: bool, message: Any) -> bool:
        """Note a message that came through the new part.

        Args:
            topic: Its topic.
            payload: Its payload.
            retain: Whether it answers a SUBSCRIBE, and so was not delivered by the old part.
            message: To be given back.

        Returns:
            Whether it is held; otherwise it is a copy.
        """
        holds = self.step is Step.HOLDING
        if self.step is Step.WAITING or (not retain and self.is_known(topic, payload)):
            return False
        of = self._of(topic)
        if not holds and len(of.behind) >= MOST_OF_TOPIC:
            of.behind.popleft()
            self._hashes -= 1
        self._numbers += 1
        self._hashes += 1
        key = -1 if retain else hash(payload)  # of nothing: no hash is -1
        of.behind.append(_Seen(key, self._numbers, message if holds else None, len(payload)))
        if holds:
            self._held += 1
            self._held_bytes += len(payload)
        return holds

    def is_known(self, topic: str, payload: bytes) -> bool:
        """Return whether the old part has delivered a message that has come through the new one only now."""
        of = self._topics.get(topic)
        if of is None or not of.ahead:
            return False
        key = hash(payload)
        is_known = key in of.ahead
        if is_known:
            while True:  # up to the last of that payload: what is in doubt is delivered
                of.ahead.popleft()
                if key not in of.ahead:
                    break
        elif self.step is Step.TRAILING:
            of.ahead.clear()  # the new part has come further than the old one ever did
        return is_known

    def hold(self) -> None:
        """Go on to the second step: the old part unsubscribes next."""
        self.step = Step.HOLDING

    def trail(self) -> list[Any]:
        """Go on to the third step: nothing more comes through the old part.

        Returns:
            The messages to be delivered, in the order in which they came.
        """
        self.step = Step.TRAILING
        seen = [each for of in self._topics.values() for each in of.behind if each.message is not None]
        for of in self._topics.values():
            of.behind.clear()
            if of.repeats:
                of.ahead.clear()
        self._held = self._held_bytes = 0
        return [each.message for each in sorted(seen, key=lambda each: each.number)]

    def _of(self, topic: str) -> _Topic:
        of = self._topics.get(topic)
        if of is None:
            if len(self._topics) >= MOST_HASHES:
                idle = next(iter(self._topics))
                if not self._topics[idle].behind:
                    del self._topics[idle]
            of = self._topics[topic] = _Topic()
        return of

    def _let_go(self, seen: _Seen) -> Any:
        self._hashes -= 1
        if seen.message is not None:
            self._held -= 1
            self._held_bytes -= seen.size
        return seen.message
