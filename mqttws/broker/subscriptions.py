"""Subscription lookup by topic, with a bounded cache.

Programs publish to the same topics many times, so results are cached. Any change of a subscription clears the cache. It
is bounded by the number of topics and their characters, and publishing to ever new topics does not clear it (see
`mqttws.codec.memory`). Topics that match the same filters share one result; these are bounded by their subscribers.

A lookup usually takes a few steps per level of the topic. Filters chosen by an attacker (every mixture of "+" and text
at 200 levels) can make it long; then it is interrupted (`Unfinished`) and continued when there is time.

"$share/group/filter" is a shared subscription: each message goes to one member of the group. In the tree, a group takes
the place of its members.

Spec: §4.7; for shared subscriptions MQTT 5.0 §4.8.2
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mqttws.broker.subscriber import Subscriber
from mqttws.codec.memory import Memory
from mqttws.codec.topics import Search, TopicTree

#: The limits of the cache: topics, their characters, and filters and subscribers in all results together.
MAX_ANSWERS = 131_072
MAX_CHARACTERS = 4 * 1024 * 1024
_MAX_NAMED = 131_072
#: How many nodes of the tree a search visits before it is interrupted, and between two reads of the clock.
STEPS = 500

_SHARE = "$share/"


class Subscription(NamedTuple):
    """A subscription, as the tree stores it."""

    qos: int
    min_slashes: int  # the minimum number of "/" in a matching Topic Name; see `Departures.parent_level`


class Group:
    """The members of a shared subscription, which receive messages in turn."""

    __slots__ = ("members",)

    def __init__(self) -> None:
        self.members: dict[Subscriber, int] = {}  # -> granted QoS; the next member comes first

    def next(self) -> tuple[Subscriber, int]:
        """Choose the member for the next message. Disconnected members are skipped, unless all are disconnected."""
        members = self.members
        chosen = next((member for member in members if member.outlet is not None), None)
        if chosen is None:
            chosen = next((member for member, qos in members.items() if qos), next(iter(members)))
        qos = members[chosen] = members.pop(chosen)
        return chosen, qos


class Recipients(NamedTuple):
    """The recipients of a Topic Name.

    Attributes:
        subscribers: Each subscriber with the highest granted QoS. Spec: [MQTT-3.3.5-1].
        groups: The shared subscriptions; one member of each is a recipient.
        checked: Whether clients may publish to the topic; see `Subscriptions.find`.
    """

    subscribers: Mapping[Subscriber, int]
    groups: tuple[Group, ...]
    checked: bool


class Unfinished(Exception):
    """A search was interrupted; `Subscriptions.go_on` continues it."""

    def __init__(self, topic: str, search: Search[Subscription], checked: bool) -> None:
        super().__init__(topic)
        self.topic = topic
        self.search = search
        self.checked = checked


def split_share(topic_filter: str) -> tuple[str, str] | None:
    """Split a shared subscription into its group and its Topic Filter; return None for any other Topic Filter.

    The parts of an ill-formed one may be empty or contain wildcards, which `is_well_formed_share` checks.
    """
    if not topic_filter.startswith(_SHARE):
        return None
    group, _, inner = topic_filter[len(_SHARE) :].partition("/")
    return group, inner


def is_well_formed_share(group: str, inner: str) -> bool:
    """Return whether the parts of a shared subscription are well-formed. Spec: MQTT 5.0 [MQTT-4.8.2-1, -2]."""
    return bool(group) and bool(inner) and "+" not in group and "#" not in group


class Subscriptions:
    """The subscriptions of one broker.

    Attributes:
        answers: The cached results of `find` by Topic Name; read-only for callers.
    """

    def __init__(self) -> None:
        self._tree: TopicTree[Subscription] = TopicTree()
        self._groups: dict[str, Group] = {}
        self._shared = 0  # the members of all groups
        self._answers: Memory[str, Recipients] = Memory(MAX_ANSWERS, MAX_CHARACTERS)
        self.answers = self._answers.table
        self._results: dict[tuple[int, ...], Recipients] = {}  # by `checked`, the number of "/" and the nodes found
        self._named = 0
        self._finished: tuple[str, Recipients] | None = None  # the last search that was interrupted, once complete

    def __len__(self) -> int:
        """Return the number of subscriptions."""
        return len(self._tree) - len(self._groups) + self._shared

    def set(self, topic_filter: str, subscriber: Subscriber, qos: int, min_slashes: int) -> None:
        """Add a subscription, or replace it.

        Args:
            topic_filter: The Topic Filter, with its group if it is shared.
            subscriber: The subscriber.
            qos: The granted QoS.
            min_slashes: The minimum number of "/" in a matching Topic Name.
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
        """Remove a subscription, if it exists."""
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
        self._results.clear()
        self._named = 0
        self._finished = None

    def find(self, topic: str, checked: bool = False) -> Recipients:
        """Return the recipients of a Topic Name.

        Args:
            topic: The Topic Name.
            checked: Whether clients may publish to it. The result says so, too, as long as it is cached.

        Raises:
            Unfinished: The search takes long; continue it with `go_on`.
        """
        recipients = self.answers.get(topic)
        if recipients is None or (checked and not recipients.checked):
            if self._finished is not None and self._finished[0] == topic:
                return self._finished[1]
            search = self._tree.search(topic)
            if not search.advance(STEPS):
                raise Unfinished(topic, search, checked)
            recipients = self._remember(topic, search.found, checked)
        return recipients

    def go_on(self, unfinished: Unfinished) -> bool:
        """Continue a search. Return whether it is complete; then `find` returns its result, if called immediately."""
        search, topic = unfinished.search, unfinished.topic
        if not search.advance(STEPS):
            return False
        self._finished = topic, self._remember(topic, search.found, unfinished.checked)
        return True

    def _remember(self, topic: str, found: list[dict[object, Subscription]], checked: bool) -> Recipients:
        slashes = topic.count("/")
        # While no subscription changes, the identities stay those of the tree's dicts.
        nodes = (checked, slashes, *map(id, found))
        recipients = self._results.get(nodes)
        if recipients is None:
            recipients = self._collect(slashes, found, checked)
            named = len(recipients.subscribers) + len(recipients.groups) + len(nodes)
            if self._named + named > _MAX_NAMED:
                self._forget()
            self._results[nodes] = recipients
            self._named += named
        self._answers.offer(topic, recipients)
        return recipients

    @staticmethod
    def _collect(slashes: int, found: Iterable[Mapping[object, Subscription]], checked: bool) -> Recipients:
        """Collect the recipients in the values of all matching filters."""
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
        return Recipients(granted, tuple(groups), checked)
