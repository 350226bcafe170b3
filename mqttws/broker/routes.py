"""Whom a Topic Name reaches, and at which QoS: the tree of the subscriptions, and a memory of what it has answered.

Programs publish to few topics, many times. So an answer is remembered until the next change of any subscription, which
empties the memory; it is bounded, by topics and by the subscribers in all of its answers taken together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from mqttws.broker.subscriber import Subscriber
from mqttws.codec.topics import TopicTree

#: How many answers are remembered, and how many subscribers they may name together.
MAX_ANSWERS = 1024
_MAX_NAMED = 65_536
#: The longest Topic Name whose answer is remembered, in characters.
MAX_LENGTH = 128


class _Subscription(NamedTuple):
    qos: int
    min_slashes: int  # of a Topic Name that it is for; see `Departures.parent_level`


class Routes:
    """The subscriptions of one broker."""

    def __init__(self) -> None:
        self._tree: TopicTree[_Subscription] = TopicTree()
        self._answers: dict[str, Mapping[Subscriber, int]] = {}
        self._named = 0

    def __len__(self) -> int:
        """Count the subscriptions."""
        return len(self._tree)

    def set(self, topic_filter: str, subscriber: Subscriber, qos: int, min_slashes: int) -> None:
        """Add a subscription, or replace it.

        Args:
            topic_filter: what it is for.
            subscriber: whose it is.
            qos: the QoS granted.
            min_slashes: how many "/" a Topic Name must hold at least.
        """
        self._forget()
        self._tree.set(topic_filter, subscriber, _Subscription(qos, min_slashes))

    def discard(self, topic_filter: str, subscriber: Subscriber) -> None:
        """Remove a subscription, if it is there."""
        self._forget()
        self._tree.discard(topic_filter, subscriber)

    def _forget(self) -> None:
        self._answers.clear()
        self._named = 0

    def find(self, topic: str) -> Mapping[Subscriber, int]:
        """Find the subscribers that a Topic Name reaches, each with the highest QoS granted. Spec: [MQTT-3.3.5-1]."""
        answer = self._answers.get(topic)
        if answer is None:
            answer = self._match(topic)
            if len(topic) <= MAX_LENGTH and len(answer) <= _MAX_NAMED:
                if len(self._answers) >= MAX_ANSWERS or self._named + len(answer) > _MAX_NAMED:
                    self._forget()
                self._answers[topic] = answer
                self._named += len(answer)
        return answer

    def _match(self, topic: str) -> Mapping[Subscriber, int]:
        slashes = topic.count("/")
        granted: dict[Subscriber, int] = {}
        for key, subscription in self._tree.match(topic):
            assert isinstance(key, Subscriber)
            if granted.get(key, -1) < subscription.qos and slashes >= subscription.min_slashes:
                granted[key] = subscription.qos
        return granted
