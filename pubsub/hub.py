"""Who listens to what on one connection: pure bookkeeping, without input or output.

`Hub` counts who uses each Topic Filter, says what has to be subscribed to and unsubscribed from, and tells which
members a message is for. It knows neither codecs nor callbacks nor drivers; a member is any hashable object.

Two decisions need an idea:

*Retained messages.* The server sends them in answer to a SUBSCRIBE, so a member that joins a filter which stands
already makes us SUBSCRIBE again, and all that is retained comes again. Each member is to have it once. The rule: a
message with the RETAIN flag reaches a member only as the first message of its topic since the member joined. Each
joining gets a number, and for each topic the latest number at its last message is remembered: whoever joined later
has not had it. A server that has lost the session gets every SUBSCRIBE again, and its retained messages pass
to all who have the topic only where they are news: where the payload is another one than the last.

*One SUBSCRIBE.* Members that join a filter while its SUBSCRIBE is unanswered, and no retained message has
come meanwhile, share it. A higher QoS than asked for so far is asked for anew; a lower one changes nothing.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from mqttws import Publish, TopicTree

__all__ = ["REFUSED", "Hub", "Request"]

M = TypeVar("M", bound=Hashable)

#: The return code of a SUBACK that refuses a Topic Filter. Spec: §3.9.3
REFUSED = 0x80
#: How many topics the last message is remembered of. Beyond, the oldest is forgotten, and a retained message on a
#: forgotten topic passes only to those who joined after all that was forgotten.
MOST_TOPICS = 20_000


class _Filter(Generic[M]):
    """A Topic Filter that stands: the QoS asked for, its members, and the last SUBSCRIBE for it."""

    __slots__ = ("members", "qos", "request", "topic_filter")

    def __init__(self, topic_filter: str, qos: int) -> None:
        self.topic_filter = topic_filter
        self.qos = qos
        self.members: set[M] = set()
        self.request: Request[M] | None = None


class Request(Generic[M]):
    """A SUBSCRIBE that has to be sent.

    Attributes:
        wanted: (Topic Filter, QoS) pairs.
    """

    __slots__ = ("_entries", "answered", "retained", "wanted")

    def __init__(self, entries: Sequence[_Filter[M]], retained: int) -> None:
        self._entries = entries
        self.wanted = [(entry.topic_filter, entry.qos) for entry in entries]
        self.retained = retained
        self.answered = False


class Outcome(NamedTuple, Generic[M]):
    """What the server said to a member's Topic Filter: the QoS granted, or `REFUSED`."""

    member: M
    topic_filter: str
    return_code: int


class _Last(NamedTuple):
    """The last message of a topic: how many had joined by then, on which session, and the hash of its payload."""

    joined: int
    session: int
    payload: int


class Hub(Generic[M]):
    """The members of one connection."""

    def __init__(self) -> None:
        self._filters: dict[str, _Filter[M]] = {}
        self._tree: TopicTree[int] = TopicTree()
        self._joined = 0  # joinings so far
        self._retained = 0  # retained messages so far
        self._session = 0  # sessions that the server has lost
        self._last: dict[str, _Last] = {}  # by topic, the one least recently seen first
        self._forgotten = 0  # who joined up to this number may have had a topic that is remembered no more

    @property
    def topic_filters(self) -> dict[str, int]:
        """The Topic Filters in use, each with the QoS asked for."""
        return {entry.topic_filter: entry.qos for entry in self._filters.values()}

    def members(self) -> set[M]:
        """All who listen to anything."""
        return set().union(*(entry.members for entry in self._filters.values()))

    def join(self, member: M, wanted: Mapping[str, int]) -> Request[M] | None:
        """Let a member listen to Topic Filters, each at a QoS.

        Returns:
            The SUBSCRIBE to send; None where one that is unanswered yet serves.
        """
        self._joined += 1
        to_send = []
        for topic_filter, qos in wanted.items():
            entry = self._filters.get(topic_filter)
            if entry is None:
                entry = self._filters[topic_filter] = _Filter(topic_filter, qos)
            pending = entry.request
            shared = pending is not None and not pending.answered and pending.retained == self._retained
            if not shared or qos > entry.qos:
                entry.qos = max(qos, entry.qos)
                to_send.append(entry)
            if member not in entry.members:
                entry.members.add(member)
                self._tree.set(topic_filter, member, self._joined)
        if not to_send:
            return None
        request = Request(to_send, self._retained)
        for entry in to_send:
            entry.request = request
        return request

    def leave(self, member: M, topic_filters: Iterable[str]) -> list[str]:
        """Let a member no longer listen to Topic Filters.

        Returns:
            Those that nobody listens to any more: to unsubscribe from.
        """
        unused = []
        for topic_filter in topic_filters:
            entry = self._filters.get(topic_filter)
            if entry is None or member not in entry.members:
                continue
            entry.members.discard(member)
            self._tree.discard(topic_filter, member)
            if not entry.members:
                del self._filters[topic_filter]
                unused.append(topic_filter)
        return unused

    def answered(self, request: Request[M], return_codes: Sequence[int]) -> list[Outcome[M]]:
        """Take the answer to a SUBSCRIBE. What it refuses stands no more.

        Returns:
            The outcome for each member of each Topic Filter that this answer is the last word on.
        """
        request.answered = True
        outcomes = []
        for entry, return_code in zip(request._entries, return_codes, strict=True):
            if self._filters.get(entry.topic_filter) is entry and entry.request is request:
                outcomes += self._settle(entry, return_code)
        return outcomes

    def refused(self, topic_filter: str) -> list[Outcome[M]]:
        """Take the news that the server no longer grants a Topic Filter."""
        entry = self._filters.get(topic_filter)
        return self._settle(entry, REFUSED) if entry is not None else []

    def _settle(self, entry: _Filter[M], return_code: int) -> list[Outcome[M]]:
        if return_code == REFUSED:
            del self._filters[entry.topic_filter]
            for member in entry.members:
                self._tree.discard(entry.topic_filter, member)
        return [Outcome(member, entry.topic_filter, return_code) for member in entry.members]

    def session_lost(self) -> None:
        """Note that the server began a new session: it is sent every SUBSCRIBE again."""
        self._session += 1
        self._forgotten = 0

    def route(self, publish: Publish) -> list[M]:
        """Tell who gets a message: each member once, however many of its Topic Filters match."""
        matches: dict[M, int] = {}
        for key, joined in self._tree.match(publish.topic):
            member: M = key  # type: ignore[assignment]
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
        """Tell whether a retained message is the first of its topic for a member, or news after a lost session."""
        if last is None:  # all that comes is for the newest member: it cannot have had what is forgotten
            return joined > self._forgotten or joined == self._joined
        return joined > last.joined or (last.session != now.session and last.payload != now.payload)

    def _forget_oldest(self) -> None:
        oldest = self._last.pop(next(iter(self._last)))
        if oldest.session == self._session:
            self._forgotten = max(self._forgotten, oldest.joined)
