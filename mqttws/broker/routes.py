"""Whom a Topic Name reaches, and at which QoS: the tree of the subscriptions, and a memory of what it has answered.

Programs publish to few topics, many times. So an answer is remembered until the next change of any subscription, which
empties the memory; it is bounded, by topics, their characters, and the subscribers in all of its answers taken
together.

To find an answer takes a few steps for each level of the topic, unless somebody has chosen filters with care: every
mixture of "+" and text at 200 levels. Then it is interrupted (`Unfinished`), and goes on when there is time for it.

"$share/group/filter" is a shared subscription: of all that have it, one gets each message. A group that has members
stands in the tree in the place of its members.

Spec: §4.7; for shared subscriptions MQTT 5.0 §4.8.2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mqttws.broker.subscriber import Subscriber
from mqttws.codec.topics import Search, TopicTree

#: How many answers are remembered, and how many characters of topics and subscribers they may have together.
MAX_ANSWERS = 1024
MAX_CHARACTERS = 256 * 1024
_MAX_NAMED = 65_536
#: Nodes of the tree that are looked at before a search is interrupted, and between two looks at the clock.
STEPS = 500

_SHARE = "$share/"


class Subscription(NamedTuple):
    """What the tree holds of one subscription."""

    qos: int
    min_slashes: int  # of a Topic Name that it is for; see `Departures.parent_level`


class Group:
    """Those who share a subscription: the one who has waited longest gets the next message."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: dict[Subscriber, int] = {}  # -> QoS granted; the one to be next comes first

    def next(self) -> tuple[Subscriber, int]:
        """Choose who gets a message: those who are away are passed by, unless all are."""
        members = self.members
        chosen = next((member for member in members if member.outlet is not None), None)
        if chosen is None:
            chosen = next((member for member, qos in members.items() if qos), next(iter(members)))
        qos = members[chosen] = members.pop(chosen)
        return chosen, qos


class Route(NamedTuple):
    """Whom a Topic Name reaches.

    Attributes:
        subscribers: each with the highest QoS granted. Spec: [MQTT-3.3.5-1]
        groups: of each, one member.
    """

    subscribers: Mapping[Subscriber, int]
    groups: tuple[Group, ...]


class Unfinished(Exception):
    """A search that was interrupted; `Routes.go_on` takes it up again."""

    def __init__(self, topic: str, search: Search[Subscription]) -> None:
        super().__init__(topic)
        self.topic = topic
        self.search = search


def split_share(topic_filter: str) -> tuple[str, str] | None:
    """Take a shared subscription's name apart: the group and the Topic Filter in it; None where it is no such name.

    The parts of an ill-formed one may be empty or hold wildcards, which `is_well_formed_share` finds.
    """
    if not topic_filter.startswith(_SHARE):
        return None
    group, _, inner = topic_filter[len(_SHARE) :].partition("/")
    return group, inner


def is_well_formed_share(group: str, inner: str) -> bool:
    """Tell whether the parts of a shared subscription's name are well-formed. Spec: MQTT 5.0 [MQTT-4.8.2-1, -2]."""
    return bool(group) and bool(inner) and "+" not in group and "#" not in group


class Routes:
    """The subscriptions of one broker."""

    def __init__(self) -> None:
        self._tree: TopicTree[Subscription] = TopicTree()
        self._groups: dict[str, Group] = {}
        self._shared = 0  # members of all groups
        self._answers: dict[str, Route] = {}
        self._named = 0
        self._characters = 0

    def __len__(self) -> int:
        """Count the subscriptions."""
        return len(self._tree) - len(self._groups) + self._shared

    def set(self, topic_filter: str, subscriber: Subscriber, qos: int, min_slashes: int) -> None:
        """Add a subscription, or replace it.

        Args:
            topic_filter: what it is for; with its group, where it is shared.
            subscriber: whose it is.
            qos: the QoS granted.
            min_slashes: how many "/" a Topic Name must hold at least.
        """
        self._forget()
        share = split_share(topic_filter)
        if share is None:
            self._tree.set(topic_filter, subscriber, Subscription(qos, min_slashes))
            return
        group = self._groups.get(topic_filter)
        if group is None:
            group = self._groups[topic_filter] = Group()
            self._tree.set(share[1], group, Subscription(2, min_slashes))
        self._shared += subscriber not in group.members
        group.members[subscriber] = qos

    def discard(self, topic_filter: str, subscriber: Subscriber) -> None:
        """Remove a subscription, if it is there."""
        self._forget()
        share = split_share(topic_filter)
        if share is None:
            self._tree.discard(topic_filter, subscriber)
            return
        group = self._groups.get(topic_filter)
        if group is not None and group.members.pop(subscriber, None) is not None:
            self._shared -= 1
            if not group.members:
                del self._groups[topic_filter]
                self._tree.discard(share[1], group)

    def _forget(self) -> None:
        self._answers.clear()
        self._named = self._characters = 0

    def find(self, topic: str) -> Route:
        """Find whom a Topic Name reaches.

        Raises:
            Unfinished: that takes long.
        """
        route = self._answers.get(topic)
        if route is None:
            search = self._tree.search(topic)
            if not search.advance(STEPS):
                raise Unfinished(topic, search)
            route = self._remember(topic, search.found)
        return route

    def go_on(self, unfinished: Unfinished) -> bool:
        """Take some more steps of a search. Returns whether it is over: then `find` knows, if asked at once."""
        if not unfinished.search.advance(STEPS):
            return False
        self._remember(unfinished.topic, unfinished.search.found)
        return True

    def _remember(self, topic: str, found: Iterable[Mapping[object, Subscription]]) -> Route:
        slashes = topic.count("/")
        granted: dict[Subscriber, int] = {}
        groups: list[Group] = []
        for values in found:
            for key, (qos, min_slashes) in values.items():
                if slashes >= min_slashes:
                    if isinstance(key, Subscriber):
                        if granted.get(key, -1) < qos:
                            granted[key] = qos
                    else:
                        assert isinstance(key, Group)
                        groups.append(key)
        named = len(granted) + len(groups)
        if (
            len(self._answers) >= MAX_ANSWERS
            or self._named + named > _MAX_NAMED
            or self._characters + len(topic) > MAX_CHARACTERS
        ):
            self._forget()
        route = self._answers[topic] = Route(granted, tuple(groups))
        self._named += named
        self._characters += len(topic)
        return route
