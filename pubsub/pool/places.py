"""Which connection (part) of a pool subscribes to each Topic Filter, and which one delivers a message. No I/O.

A message arrives once through each part that has a matching filter. The rule: of all matching filters, the oldest owns
the message. It is delivered if it arrives through the part of its owner; otherwise it is a copy. A new filter never
becomes the owner of messages that another one owned, so nothing changes for messages in flight. If an owner is removed
or moved, there is a handover (see `handover`).

Overlapping filters are put on the same part if it has space, because copies count against the rate limits of a server.

`$share/<group>/<filter>` is subscribed to on every part. The server sends each message to one member of the group, so
each part gets its share, and none is a copy.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, Generic, TypeVar

from mqttws import TopicTree
from pubsub.topics import split_share

__all__ = ["Place", "Places"]

P = TypeVar("P", bound=Hashable)


class Place(Generic[P]):
    """A Topic Filter in use.

    Attributes:
        topic_filter: The Topic Filter as subscribed to.
        matched: The filter with which topics are matched.
        is_shared: Whether this is a shared subscription.
        qos: The requested QoS.
        part: The part; None for a shared subscription, which all parts have.
        age: A number; the lower, the older.
        handover: The `Handover` that moves it now, or None.
    """

    __slots__ = ("age", "handover", "is_shared", "matched", "part", "qos", "topic_filter")

    def __init__(self, topic_filter: str, qos: int, part: P | None, age: int) -> None:
        group, self.matched = split_share(topic_filter)
        self.is_shared = group is not None
        self.topic_filter = topic_filter
        self.qos = qos
        self.part = part
        self.age = age
        self.handover: Any = None

    def __repr__(self) -> str:
        return f"<Place {self.topic_filter!r} on {self.part}>"


class _Level(Generic[P]):
    """A node of the tree of Topic Filters, for overlaps."""

    __slots__ = ("below", "here")

    def __init__(self) -> None:
        self.below: dict[str, _Level[P]] = {}
        self.here: dict[str, Place[P]] = {}


class Places(Generic[P]):
    """The Topic Filters of a pool."""

    def __init__(self) -> None:
        self._by_filter: dict[str, Place[P]] = {}
        self._tree: TopicTree[Place[P]] = TopicTree()
        self._root: _Level[P] = _Level()
        self._on: dict[P, dict[str, Place[P]]] = {}
        self._shared: dict[str, Place[P]] = {}
        self._age = 0

    def __len__(self) -> int:
        return len(self._by_filter)

    def get(self, topic_filter: str) -> Place[P] | None:
        """Return the place of a filter, if it is in use."""
        return self._by_filter.get(topic_filter)

    @property
    def shared(self) -> list[Place[P]]:
        """The shared subscriptions, which each part has."""
        return list(self._shared.values())

    def on(self, part: P) -> list[Place[P]]:
        """Return the filters of a part without shared subscriptions, the oldest first."""
        return list(self._on.get(part, {}).values())

    def count(self, part: P) -> int:
        """Return the number of filters of a part, including shared subscriptions."""
        return len(self._on.get(part, ())) + len(self._shared)

    # An exception of a signal handler, such as that of Ctrl-C, may interrupt `add` and `remove` anywhere. Only a filter
    # in `_tree` can own a message. So it is the last to be added to and the first to be removed from; and `remove`
    # removes what is there.

    def add(self, topic_filter: str, qos: int, part: P | None) -> Place[P]:
        """Add a filter that is not in use. It is younger than all others."""
        self._age += 1
        place = self._by_filter[topic_filter] = Place(topic_filter, qos, part, self._age)
        if part is None:
            self._shared[topic_filter] = place
        else:
            self._on.setdefault(part, {})[topic_filter] = place
            level = self._root
            for word in place.matched.split("/"):
                level = level.below.setdefault(word, _Level())
            level.here[topic_filter] = place
        self._tree.set(place.matched, topic_filter, place)
        return place

    def remove(self, place: Place[P]) -> None:
        """Remove a filter."""
        self._tree.discard(place.matched, place.topic_filter)
        if place.part is None:
            self._shared.pop(place.topic_filter, None)
        else:
            self._leave(place)
            words = place.matched.split("/")
            path = [self._root]
            for word in words:
                path.append(path[-1].below.get(word) or _Level())
            path[-1].here.pop(place.topic_filter, None)
            for level, word, below in zip(reversed(path[:-1]), reversed(words), reversed(path[1:]), strict=True):
                if below.here or below.below:
                    break
                level.below.pop(word, None)
        self._by_filter.pop(place.topic_filter, None)

    def move(self, place: Place[P], part: P) -> None:
        """Record that another part has a filter now."""
        self._leave(place)
        place.part = part
        self._on.setdefault(part, {})[place.topic_filter] = place

    def _leave(self, place: Place[P]) -> None:
        assert place.part is not None
        on = self._on.get(place.part, {})
        on.pop(place.topic_filter, None)
        if not on:
            self._on.pop(place.part, None)

    def match(self, topic: str) -> list[Place[P]]:
        """Return the filters that match a topic, including shared subscriptions, in any order."""
        return [place for _, place in self._tree.match(topic)]

    def overlapping(self, topic_filter: str) -> Iterator[Place[P]]:
        """Yield the other filters, without shared subscriptions, that match some topic which this one matches."""
        words = split_share(topic_filter)[1].split("/")
        for place in _overlaps(self._root, words, 0):
            if place.topic_filter != topic_filter:
                yield place


def _overlaps(level: _Level[P], words: list[str], depth: int) -> Iterator[Place[P]]:
    if depth == len(words):
        yield from level.here.values()
        if "#" in level.below:  # "a" and "a/#"
            yield from level.below["#"].here.values()
        return
    word = words[depth]
    if word == "#":
        yield from _all(level)
        return
    if "#" in level.below:
        yield from level.below["#"].here.values()
    others = [other for other in level.below if other != "#"] if word == "+" else (word, "+")
    for other in others:
        if other in level.below:
            yield from _overlaps(level.below[other], words, depth + 1)


def _all(level: _Level[P]) -> Iterator[Place[P]]:
    yield from level.here.values()
    for below in level.below.values():
        yield from _all(below)
