"""The routing table of one connection: which subscriptions get a message, and which packets they need. No I/O.

`Router` counts the members of each Topic Filter. It determines the SUBSCRIBE and UNSUBSCRIBE packets to send, and the
members that a message is delivered to. It does not depend on codecs, callbacks or clients; a member is any hashable
object.

Three rules need an explanation:

*Retained messages.* The server sends them in answer to a SUBSCRIBE. So a member that joins a Topic Filter which is
already subscribed to causes another SUBSCRIBE, and the server sends all its retained messages again, for all members.
Each member must get them once. The rule: a message with the RETAIN flag is delivered to a member only if it is the
first message of its topic since the member joined. Each call of `join` gets a number. For each topic the router stores
the last number at the time of its last message: a member with a higher number has not had a message on it. A server
that has lost the session gets every SUBSCRIBE again. Its retained messages are delivered if they are new, that is if
the payload differs from that of the last message.

*One SUBSCRIBE.* Members that join a Topic Filter while its SUBSCRIBE is unanswered share that packet, unless a retained
message has arrived in the meantime. A higher QoS than before is requested again; a lower one changes nothing.

*Shared subscriptions.* For the server `$share/<group>/<filter>` is one Topic Filter, and members are counted for the
whole name. A message has its ordinary topic, which is matched with `<filter>`. There are no retained messages.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from mqttws import Publish, TopicTree
from pubsub.topics import split_share

__all__ = ["REFUSED", "Outcome", "Request", "Router"]

M = TypeVar("M", bound=Hashable)

#: The return code of a SUBACK that refuses a Topic Filter. Spec: §3.9.3
REFUSED = 0x80
#: The number of topics with a stored last message. Beyond it the oldest is removed. A retained message on a topic
#: without a stored message is delivered only to members that joined after the last messages of all removed topics.
MOST_TOPICS = 20_000
#: The number of Topic Filters that are stored after their last member has left; see `Router.wanted_before`.
MOST_LEFT = 1_000


class _Filter(Generic[M]):
    """A Topic Filter in use: the requested QoS, its members with their numbers, and its last SUBSCRIBE."""

    __slots__ = ("is_shared", "matched", "members", "qos", "request", "topic_filter")

    def __init__(self, topic_filter: str, qos: int) -> None:
        group, self.matched = split_share(topic_filter)
        self.is_shared = group is not None
        self.topic_filter = topic_filter
        self.qos = qos
        self.members: dict[M, int] = {}
        self.request: Request[M] | None = None


class Request(Generic[M]):
    """A SUBSCRIBE to send.

    Attributes:
        wanted: (Topic Filter, QoS) pairs.
        is_watched: Whether the channel handles the answer. The channel sets this in the end. So a request that was not
            sent because of an interrupt is not shared with other members.
        is_answered: Whether the answer was handled.
    """

    __slots__ = ("_entries", "is_answered", "is_watched", "retained", "wanted")

    def __init__(self, entries: Sequence[_Filter[M]], retained: int) -> None:
        self._entries = entries
        self.wanted = [(entry.topic_filter, entry.qos) for entry in entries]
        self.retained = retained
        self.is_watched = self.is_answered = False

    @property
    def is_open(self) -> bool:
        """Whether the answer is still expected."""
        return self.is_watched and not self.is_answered


class Outcome(NamedTuple, Generic[M]):
    """The server's answer for a member's Topic Filter: the granted QoS, or `REFUSED`."""

    member: M
    topic_filter: str
    return_code: int


class _Last(NamedTuple):
    """The last message of a topic: the last number of a join, the number of the session, the hash of the payload."""

    joined: int
    session: int
    payload: int


class Router(Generic[M]):
    """The members of one connection."""

    def __init__(self) -> None:
        self._filters: dict[str, _Filter[M]] = {}
        self._tree: TopicTree[_Filter[M]] = TopicTree()
        self._left: OrderedDict[str, None] = OrderedDict()  # the Topic Filters that were unsubscribed, the oldest first
        self._left_tree: TopicTree[None] = TopicTree()
        self._joined = 0  # calls of `join` so far
        self._retained = 0  # retained messages so far
        self._session = 0  # sessions that the server has lost
        self._last: dict[str, _Last] = {}  # by topic, the least recent one first
        self._forgotten = 0  # members up to this number may have had a message on a topic that was removed from `_last`

    @property
    def topic_filters(self) -> dict[str, int]:
        """The Topic Filters in use, each with the requested QoS."""
        return {entry.topic_filter: entry.qos for entry in self._filters.values()}

    def members(self) -> set[M]:
        """Return all members."""
        return {member for entry in self._filters.values() for member in entry.members}

    def join(self, member: M, wanted: Mapping[str, int]) -> Request[M] | None:
        """Add a member to Topic Filters, each at a QoS.

        Returns:
            The SUBSCRIBE to send; None if unanswered ones are enough.
        """
        self._joined += 1
        to_send = []
        for topic_filter, qos in wanted.items():
            entry = self._filters.get(topic_filter)
            if entry is None:
                entry = self._filters[topic_filter] = _Filter(topic_filter, qos)
                self._tree.set(entry.matched, topic_filter, entry)
                self._remember_left(topic_filter, False)
            # An unanswered SUBSCRIBE serves this member, too. But if a retained message has arrived since, others may
            # have, which were sent for that SUBSCRIBE before this member joined; then it needs another one.
            pending = entry.request
            if not (pending and pending.is_open and pending.retained == self._retained) or qos > entry.qos:
                entry.qos = max(qos, entry.qos)
                to_send.append(entry)
            entry.members.setdefault(member, self._joined)
        return self._request(to_send)

    def unwatched(self) -> Request[M] | None:
        """Return a SUBSCRIBE of all Topic Filters whose last SUBSCRIBE is not watched; None if there are none."""
        entries = [
            entry for entry in self._filters.values() if entry.request is not None and not entry.request.is_watched
        ]
        return self._request(entries)

    def _request(self, entries: Sequence[_Filter[M]]) -> Request[M] | None:
        if not entries:
            return None
        request = Request(entries, self._retained)
        for entry in entries:
            entry.request = request
        return request

    def leave(self, member: M, topic_filters: Iterable[str]) -> list[str]:
        """Remove a member from Topic Filters.

        Returns:
            The Topic Filters without members now, to be unsubscribed from.
        """
        unused = []
        for topic_filter in topic_filters:
            entry = self._filters.get(topic_filter)
            if entry is None or member not in entry.members:
                continue
            del entry.members[member]
            if not entry.members:
                self._remove(entry)
                self._remember_left(topic_filter, True)
                unused.append(topic_filter)
        return unused

    def _remove(self, entry: _Filter[M]) -> None:
        del self._filters[entry.topic_filter]
        self._tree.discard(entry.matched, entry.topic_filter)
        entry.request = None  # which refers to the entry: a reference cycle

    def _remember_left(self, topic_filter: str, left: bool) -> None:
        """Store or remove a Topic Filter that has been unsubscribed from."""
        if left:
            self._left[topic_filter] = None
            self._left_tree.set(split_share(topic_filter)[1], topic_filter, None)
            if len(self._left) > MOST_LEFT:
                self._remember_left(next(iter(self._left)), False)
        elif topic_filter in self._left:
            del self._left[topic_filter]
            self._left_tree.discard(split_share(topic_filter)[1], topic_filter)

    def is_wanted(self, topic: str) -> bool:
        """Return whether a topic matches a Topic Filter with members."""
        return any(True for _ in self._tree.match(topic))

    def wanted_before(self, topic: str) -> bool:
        """Return whether a topic matches a Topic Filter that this program has unsubscribed from."""
        return any(True for _ in self._left_tree.match(topic))

    def answered(self, request: Request[M], return_codes: Sequence[int]) -> list[Outcome[M]]:
        """Handle the answer to a SUBSCRIBE. Remove the Topic Filters that the server refused.

        Returns:
            The outcome for each member of each Topic Filter for which no later SUBSCRIBE was sent.
        """
        request.is_answered = True
        outcomes = []
        for entry, return_code in zip(request._entries, return_codes, strict=True):
            if self._filters.get(entry.topic_filter) is entry and entry.request is request:
                outcomes += self._settle(entry, return_code)
        return outcomes

    def refused(self, topic_filter: str) -> list[Outcome[M]]:
        """Remove a Topic Filter that the server no longer grants."""
        entry = self._filters.get(topic_filter)
        return self._settle(entry, REFUSED) if entry is not None else []

    def _settle(self, entry: _Filter[M], return_code: int) -> list[Outcome[M]]:
        if return_code == REFUSED:
            self._remove(entry)
        return [Outcome(member, entry.topic_filter, return_code) for member in entry.members]

    def session_lost(self) -> None:
        """Record that the server has started a new session. The client sends every SUBSCRIBE again."""
        self._session += 1
        self._forgotten = 0

    def route(self, publish: Publish) -> list[M]:
        """Return the members that get a message: each once, however many of its Topic Filters match."""
        matches: dict[M, int] = {}
        for _, entry in self._tree.match(publish.topic):
            if entry.is_shared and publish.retain:
                continue
            for member, joined in entry.members.items():
                matches[member] = min(joined, matches.get(member, joined))
        if not matches:
            return []
        last = self._last.pop(publish.topic, None)
        now = self._last[publish.topic] = _Last(self._joined, self._session, hash(publish.payload))
        if publish.retain:
            self._retained += 1
            takers = [member for member, joined in matches.items() if self._is_first(joined, last, now)]
        else:
            takers = list(matches)
        if len(self._last) > MOST_TOPICS:
            self._forget_oldest()
        return takers

    def _is_first(self, joined: int, last: _Last | None, now: _Last) -> bool:
        """Return whether a retained message is the first of its topic for a member, or new after a lost session.

        Args:
            joined: The number of the member.
            last: The last message of the topic, if stored.
            now: This message.
        """
        if last is None:  # the server sends it for the newest member, which cannot have had the topic before
            return joined > self._forgotten or joined == self._joined
        return joined > last.joined or (last.session != now.session and last.payload != now.payload)

    def _forget_oldest(self) -> None:
        oldest = self._last.pop(next(iter(self._last)))
        if oldest.session == self._session:
            self._forgotten = max(self._forgotten, oldest.joined)
