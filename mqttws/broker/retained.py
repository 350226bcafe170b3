"""Retained messages: the last message of each topic, found by Topic Filter without a look at all the others.

They stand in a tree with one node for each level of a topic. A filter without wildcards walks one path of it, "+"
branches over the children of one level, "#" takes all that lies below. The bounds are kept at the door: a message
beyond them is not taken, and those that are held stay. Levels are bounded beside bytes because a node takes some
300 bytes of memory, however short the text of its level is.

A walk can be long and find nothing. So it goes step by step, as its caller has time, while messages come and go. It
remembers its place at each level by the text of the child that it visited last, and children are visited in the order
of their texts: whatever is added or taken away meanwhile, nothing is visited twice, and what stays is not passed by.

Spec: §3.3.1.3
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from mqttws.codec.publishing import Message


class _Node:
    """One level of the tree.

    Attributes:
        children: by the text of their level.
        order: these texts in order, from the first walk over them on; None before.
        message: the retained one of the topic that ends here.
        number: how many messages had been set when that one was.
    """

    __slots__ = ("children", "message", "number", "order")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.order: list[str] | None = None
        self.message: Message | None = None
        self.number = 0

    def child(self, level: str) -> _Node:
        """Find a child, or make it."""
        child = self.children.get(level)
        if child is None:
            child = self.children[level] = _Node()
            if self.order is not None:
                insort(self.order, level)
        return child

    def remove(self, level: str) -> None:
        """Remove a child."""
        del self.children[level]
        if self.order is not None:
            del self.order[bisect_left(self.order, level)]

    def after(self, level: str | None, skip_dollar: bool) -> str | None:
        """Find the text of the child that comes after one, which may be gone; of the first one, for None."""
        order = self.order
        if order is None:
            order = self.order = sorted(self.children)
        position = 0 if level is None else bisect_right(order, level)
        if skip_dollar and position < len(order) and order[position].startswith("$"):
            position = bisect_left(order, "%")  # the character that follows "$"
        return order[position] if position < len(order) else None


class Retained:
    """The retained messages of a broker.

    Args:
        max_count: how many are held; None for any number.
        max_bytes: how many bytes of topics and payloads are held; None for any number.
        max_levels: how many levels their topics have, taken together; None for any number.

    Attributes:
        bytes: how many bytes of topics and payloads are held now.
        levels: how many levels their topics have now.
        number: how many messages have been set so far.
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
        self.number = 0

    def __len__(self) -> int:
        return len(self._by_topic)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._by_topic.values())

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
                node = node.child(level)
            self.number += 1
            node.message, node.number = message, self.number
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
            parent.remove(level)

    def walk(self, topic_filter: str) -> Walk:
        """Begin to look for the messages whose topics match a Topic Filter."""
        return Walk(self._root, topic_filter, self.number)

    def match(self, topic_filter: str) -> Iterator[Message]:
        """Yield every message whose topic matches a Topic Filter.

        Spec: §4.7.1, [MQTT-4.7.2-1]
        """
        walk = self.walk(topic_filter)
        while not walk.done:
            message = walk.next(1_000)
            if message is not None:
                yield message


class Walk:
    """One Topic Filter's way through the tree, depth first. It finds what was there when it began, and is still.

    What is set later is left out: who has the subscription gets it as it comes.
    """

    __slots__ = ("_levels", "_number", "_path")

    def __init__(self, root: _Node, topic_filter: str, number: int) -> None:
        self._levels = topic_filter.split("/")
        self._number = number
        #: The nodes from the root to where the walk is: each with its place in the filter, whether it has been visited,
        #: and the text of the child that was visited last.
        self._path: list[tuple[_Node, int, bool, str | None]] = [(root, 0, False, None)]

    @property
    def done(self) -> bool:
        """Whether there is nothing more to find."""
        return not self._path

    def next(self, steps: int) -> Message | None:
        """Find the next message, in so many steps at most; None where they do not suffice, or the walk is done."""
        path, levels = self._path, self._levels
        while path and steps > 0:
            steps -= 1
            node, place, visited, last = path.pop()
            if place == len(levels):
                if (message := self._message(node)) is not None:
                    return message
                continue
            level = levels[place]
            if level not in ("+", "#"):
                if level in node.children:
                    path.append((node.children[level], place + 1, False, None))
                continue
            following = node.after(last, skip_dollar=not path and not place)  # at the root: [MQTT-4.7.2-1]
            if following is not None:
                path.append((node, place, True, following))
                path.append((node.children[following], place + (level == "+"), False, None))
            if level == "#" and not visited and (message := self._message(node)) is not None:  # "a/#" matches "a"
                return message
        return None

    def _message(self, node: _Node) -> Message | None:
        return node.message if node.number <= self._number else None


def _size(message: Message) -> int:
    return len(message.topic) + len(message.payload)


def _levels(message: Message) -> int:
    return message.topic.count("/") + 1
