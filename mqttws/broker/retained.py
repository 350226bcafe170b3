"""Retained messages: the last message of each topic, found by Topic Filter without a look at all the others.

They stand in a tree with one node for each level of a topic. A filter without wildcards walks one path of it, "+"
branches over the children of one level, "#" takes all that lies below. The bounds are kept at the door: a message
beyond them is not taken, and those that are held stay. Levels are bounded beside bytes because a node takes some
300 bytes of memory, however short the text of its level is.

Spec: §3.3.1.3
"""

from __future__ import annotations

from collections.abc import Iterator

from mqttws.codec.publishing import Message


class _Node:
    __slots__ = ("children", "message")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.message: Message | None = None


class Retained:
    """The retained messages of a broker.

    Args:
        max_count: how many are held; None for any number.
        max_bytes: how many bytes of topics and payloads are held; None for any number.
        max_levels: how many levels their topics have, taken together; None for any number.

    Attributes:
        bytes: how many bytes of topics and payloads are held now.
        levels: how many levels their topics have now.
    """

    def __init__(
        self, max_count: int | None = None, max_bytes: int | None = None, max_levels: int | None = None
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._max_levels = max_levels
        self._root = _Node()
        self._by_topic: dict[str, Message] = {}
        self.bytes = 0
        self.levels = 0

    def __len__(self) -> int:
        return len(self._by_topic)

    def get(self, topic: str) -> Message | None:
        """Find the message of one topic."""
        return self._by_topic.get(topic)

    def set(self, message: Message) -> bool:
        """Take a message in the place of the one that its topic had; an empty payload only removes that one.

        Returns:
            False where a bound keeps the message out. The old one is gone even then: it is not the last any more.

        Spec: [MQTT-3.3.1-5], [MQTT-3.3.1-7], [MQTT-3.3.1-10], [MQTT-3.3.1-11]
        """
        old = self._by_topic.pop(message.topic, None)
        if old is not None:
            self.bytes -= _size(old)
            self.levels -= _levels(old)
        fits = (
            (self._max_count is None or len(self._by_topic) < self._max_count)
            and (self._max_bytes is None or self.bytes + _size(message) <= self._max_bytes)
            and (self._max_levels is None or self.levels + _levels(message) <= self._max_levels)
        )
        if message.payload and fits:
            self._by_topic[message.topic] = message
            self.bytes += _size(message)
            self.levels += _levels(message)
            node = self._root
            for level in message.topic.split("/"):
                child = node.children.get(level)
                if child is None:
                    child = node.children[level] = _Node()
                node = child
            node.message = message
        elif old is not None:
            self._remove(message.topic)
        return fits or not message.payload

    def _remove(self, topic: str) -> None:
        """Take the message out of the tree, with every branch that this leaves bare."""
        path = [self._root]
        levels = topic.split("/")
        for level in levels:
            path.append(path[-1].children[level])
        path[-1].message = None
        for parent, node, level in zip(reversed(path[:-1]), reversed(path[1:]), reversed(levels), strict=True):
            if node.children or node.message is not None:
                break
            del parent.children[level]

    def match(self, topic_filter: str) -> Iterator[Message]:
        """Yield every message whose topic matches a Topic Filter. Nothing may be set meanwhile.

        Spec: §4.7.1, [MQTT-4.7.2-1]
        """
        if "+" not in topic_filter and "#" not in topic_filter:
            message = self._by_topic.get(topic_filter)
            return iter(() if message is None else (message,))
        return self._match_wildcards(topic_filter.split("/"))

    def _match_wildcards(self, levels: list[str]) -> Iterator[Message]:
        nodes = [self._root]
        for depth, level in enumerate(levels):
            if level == "#":
                yield from self._below(nodes, skip_dollar=depth == 0)
                return
            if level == "+":
                nodes = [
                    child
                    for node in nodes
                    for name, child in node.children.items()
                    if depth > 0 or not name.startswith("$")
                ]
            else:
                nodes = [node.children[level] for node in nodes if level in node.children]
        for node in nodes:
            if node.message is not None:
                yield node.message

    @staticmethod
    def _below(nodes: list[_Node], skip_dollar: bool) -> Iterator[Message]:
        """Yield the messages of these nodes and of all below them: "a/#" matches "a"."""
        if skip_dollar:  # the root alone: it has no message of its own
            nodes = [child for node in nodes for name, child in node.children.items() if not name.startswith("$")]
        stack = nodes[::-1]
        while stack:
            node = stack.pop()
            if node.message is not None:
                yield node.message
            stack.extend(reversed(node.children.values()))


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)


def _levels(message: Message) -> int:
    return message.topic.count("/") + 1
