"""A handover: Topic Filters move from one part to another, and each message is delivered once. No I/O.

It has four steps. No message is lost or delivered twice in any of them::

    following   The new part is subscribing, and the old part delivers. A message that arrives through the new part is
                a copy, because the old part still has the filter.
    holding     The new part has the filter. The old part is unsubscribing, and still delivers what the server had for
                it. A message that arrives through the new part may be a copy or not: it is held, unacknowledged, until
                the old part delivers it, too.
    trailing    No more messages arrive through the old part. The held messages are delivered, and so are all that
                arrive through the new part, except those that the old part has delivered: the new part was slower.
    over        The new part has received those, too.

In MQTT 3.1.1 a message has no identifier that is the same on both connections. So messages are compared by the hashes
of their payloads, per topic, in order. For each topic this module stores the hashes that only one of the two parts has
received. If a topic has the same payload several times in a row, one of them may be delivered twice during a handover,
as QoS 1 allows; none is lost.

The same is done if a filter is removed and its topics match filters of other parts: those have "subscribed" before.
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

#: The maximum number, and bytes of payloads, of held messages. Beyond it the reader of the new part waits for the end.
MOST_HELD: Final = 10_000
MOST_HELD_BYTES: Final = 64 * 1024 * 1024
#: The maximum number of hashes of one topic; and, while following, of all topics.
MOST_OF_TOPIC: Final = 1_000
MOST_HASHES: Final = 100_000


class Step(Enum):
    """The steps of a handover."""

    WAITING = "waiting"
    FOLLOWING = "following"
    HOLDING = "holding"
    TRAILING = "trailing"
    OVER = "over"


class _Seen(NamedTuple):
    """A message that only the new part has received so far."""

    key: int  # the hash of its payload
    number: int  # in order of arrival
    message: Any  # None: it is a copy
    size: int


class _Topic:
    """The messages of one topic that only one of the two parts has received."""

    __slots__ = ("ahead", "behind", "last", "repeats")

    def __init__(self) -> None:
        self.ahead: deque[int] = deque(maxlen=MOST_OF_TOPIC)  # hashes of what only the old part has delivered
        self.behind: deque[_Seen] = deque()  # what only the new part has received
        self.last: int | None = None  # the hash of the last delivered message
        self.repeats = False  # whether the same payload was delivered twice in a row


class Handover(Generic[P]):
    """One handover of Topic Filters from one part to another, or their removal.

    Args:
        places: The filters.
        source: The old part.
        target: The new part; None: the filters are removed.

    Attributes:
        step: The present step.
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
        """Whether no more messages can be held."""
        return self._held >= MOST_HELD or self._held_bytes >= MOST_HELD_BYTES

    @property
    def is_overdrawn(self) -> bool:
        """Whether there are too many hashes while following, so that the handover must be called off."""
        return self.step is Step.FOLLOWING and self._hashes > MOST_HASHES

    def came_old(self, topic: str, payload: bytes) -> Any:
        """Record a message that the old part delivers.

        Returns:
            The held message that is a copy of it; None if there is none.
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
        of.ahead.clear()  # these messages are older than one that both parts have received
        seen = of.behind[position]
        del of.behind[position]
        return self._let_go(seen)

    def came_new(self, topic: str, payload: bytes, retain: bool, message: Any) -> bool:
        """Record a message that arrived through the new part.

        Args:
            topic: Its topic.
            payload: Its payload.
            retain: Whether it is a retained message, sent because of the SUBSCRIBE: the old part has not delivered it.
            message: The object that `came_old` or `trail` returns if the message is held.

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
        key = -1 if retain else hash(payload)  # no hash is -1
        of.behind.append(_Seen(key, self._numbers, message if holds else None, len(payload)))
        if holds:
            self._held += 1
            self._held_bytes += len(payload)
        return holds

    def is_known(self, topic: str, payload: bytes) -> bool:
        """Return whether the old part has delivered a message before that now arrived through the new one."""
        of = self._topics.get(topic)
        if of is None or not of.ahead:
            return False
        key = hash(payload)
        is_known = key in of.ahead
        if is_known:
            while True:  # remove all up to the last one with this payload: in case of doubt a message is delivered
                of.ahead.popleft()
                if key not in of.ahead:
                    break
        elif self.step is Step.TRAILING:
            of.ahead.clear()  # this message is later than all that the old part has delivered
        return is_known

    def hold(self) -> None:
        """Start the second step: the old part unsubscribes next."""
        self.step = Step.HOLDING

    def trail(self) -> list[Any]:
        """Start the third step: no more messages arrive through the old part.

        Returns:
            The held messages, which are to be delivered, in order of arrival.
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
