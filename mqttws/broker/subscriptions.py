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

from collections.abc import Iterable, Iterator, Mapping
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
#: How many disconnected members of a group are offered a message that the authorizer denies to the connected ones.
_ABSENT = 16


class Subscription(NamedTuple):
    """A subscription, as the tree stores it."""

    qos: int
    min_slashes: int  # the minimum number of "/" in a matching Topic Name; see `Departures.parent_level`


class Group:
    """The members of a shared subscription, which receive messages in turn.

    Members that were found disconnected are kept apart, so that a choice does not look at them again and again.
    """

    __slots__ = ("_absent", "_deaf", "_members")

    def __init__(self) -> None:
        # -> granted QoS; the next member comes first
        self._members: dict[Subscriber, int] = {}
        self._absent: dict[Subscriber, int] = {}  # the disconnected ones for which messages are queued
        self._deaf: dict[Subscriber, int] = {}  # those for which none is: of QoS 0

    def __len__(self) -> int:
        return len(self._members) + len(self._absent) + len(self._deaf)

    def set(self, subscriber: Subscriber, qos: int) -> bool:
        """Add a member, or set its QoS. Return whether it is a new one."""
        is_new = self.discard(subscriber) is None
        self._members[subscriber] = qos
        return is_new

    def discard(self, subscriber: Subscriber) -> int | None:
        """Remove a member. Return its QoS; None if it is not a member."""
        for members in (self._members, self._absent, self._deaf):
            qos = members.pop(subscriber, None)
            if qos is not None:
                return qos
        return None

    def come_back(self, subscriber: Subscriber) -> None:
        """Record that a member has connected again."""
        if subscriber not in self._members and (qos := self.discard(subscriber)) is not None:
            self._members[subscriber] = qos

    def next(self) -> tuple[Subscriber, int] | None:
        """Choose the member for the next message. Disconnected members are skipped, unless all are disconnected.

        Returns:
            The member and its granted QoS; None if the last one has left while messages are being delivered.
        """
        while self._members:
            chosen = next(iter(self._members))
            qos = self._members.pop(chosen)
            if chosen.outlet is not None:
                self._members[chosen] = qos
                return chosen, qos
            (self._absent if qos else self._deaf)[chosen] = qos
        members = self._absent or self._deaf
        return _rotate(members) if members else None

    def choices(self) -> Iterator[tuple[Subscriber, int]]:
        """Yield members for the next message, the preferred one first: each connected one, then a few of the others."""
        seen = set()
        while (choice := self.next()) is not None and choice[0].outlet is not None and choice[0] not in seen:
            seen.add(choice[0])
            yield choice
        for _ in range(min(len(self._absent), _ABSENT)):
            if self._absent:
                yield _rotate(self._absent)


def _rotate(members: dict[Subscriber, int]) -> tuple[Subscriber, int]:
    """Return the first member, and move it to the end."""
    chosen = next(iter(members))
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

    def __init__(self, topic: str, search: Search[Subscription], checked: bool, version: int) -> None:
        super().__init__(topic)
        self.topic = topic
        self.search = search
        self.checked = checked
        self.version = version  # of the subscriptions when the search began


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
        self._version = 0  # the number of changes
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
        self._change()
        share = split_share(topic_filter)
        if share is None:
            self._tree.set(topic_filter, subscriber, Subscription(qos, min_slashes))
            return
        group = self._groups.get(topic_filter)
        if group is None:
            group = self._groups[topic_filter] = Group()
            self._tree.set(share[1], group, Subscription(2, min_slashes))
        self._shared += group.set(subscriber, qos)

    def discard(self, topic_filter: str, subscriber: Subscriber) -> None:
        """Remove a subscription, if it exists."""
        self._change()
        share = split_share(topic_filter)
        if share is None:
            self._tree.discard(topic_filter, subscriber)
            return
        group = self._groups.get(topic_filter)
        if group is not None and group.discard(subscriber) is not None:
            self._shared -= 1
            if not len(group):
                del self._groups[topic_filter]
                self._tree.discard(share[1], group)

    def come_back(self, topic_filter: str, subscriber: Subscriber) -> None:
        """Record that a subscriber has connected again. Only a shared subscription needs to know."""
        group = self._groups.get(topic_filter)
        if group is not None:
            group.come_back(subscriber)

    def _change(self) -> None:
        self._version += 1
        self._forget()

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
            finished, self._finished = self._finished, None
            if finished is not None and finished[0] == topic:
                return finished[1]
            search = self._tree.search(topic)
            if not search.advance(STEPS):
                raise Unfinished(topic, search, checked, self._version)
            recipients = self._remember(topic, search.found, checked)
        return recipients

    def go_on(self, unfinished: Unfinished) -> bool:
        """Continue a search. Return whether it is complete; then `find` returns its result, if called immediately."""
        search, topic = unfinished.search, unfinished.topic
        if not search.advance(STEPS):
            return False
        if unfinished.version == self._version:
            recipients = self._remember(topic, search.found, unfinished.checked)
        else:  # it can lack a filter that was set meanwhile, which later messages must not miss
            recipients = self._collect(topic.count("/"), search.found, unfinished.checked)
        self._finished = topic, recipients
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
