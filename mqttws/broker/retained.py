"""Retained messages: the last message of each topic, looked up by Topic Filter without a scan of all messages.

The messages are stored in a tree with one node for each level of a topic. A filter without wildcards follows one path,
"+" branches over the children of one node, "#" takes the whole subtree. A message beyond a limit is not stored; stored
messages are never evicted. The number of levels is limited as well as bytes, because a node takes about 300 bytes of
memory even if the text of its level is short.

A walk can be long and find nothing. It is therefore done in steps, as its caller has time, while messages are added and
removed. Children are visited in the order of their texts, and at each level the walk keeps the text of the last child
visited. So nothing is visited twice, and nothing that stays in the tree is missed, whatever changes in between.

Spec: §3.3.1.3
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from mqttws.codec.publishing import Message
from mqttws.protocol.outgoing import size_of


class _Node:
    """A node of the tree.

    Attributes:
        children: The children by the text of their level.
        order: These texts, sorted; None until the first walk over the children.
        message: The retained message of the topic that ends here, if any.
        number: The sequence number of that message.
    """

    __slots__ = ("children", "message", "number", "order")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.order: list[str] | None = None
        self.message: Message | None = None
        self.number = 0

    def child(self, level: str) -> _Node:
        """Return a child, creating it if necessary."""
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
        """Return the text of the next child after `level`, which may have been removed; of the first child for None."""
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
        max_count: The maximum number of messages; None for no limit.
        max_bytes: The maximum bytes of topics and payloads; None for no limit.
        max_levels: The maximum number of levels of all topics together; None for no limit.

    Attributes:
        bytes: The bytes of topics and payloads.
        levels: The number of levels of all topics together.
        number: The sequence number of the last message.
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
        """Return the message of one topic, or None."""
        return self._by_topic.get(topic)

    def set(self, message: Message) -> bool:
        """Store a message in place of the one that its topic had; an empty payload only removes that one.

        Returns:
            False if a limit prevents it. The old message is removed even then, because it is no longer the last one.

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
        """Remove a message from the tree, with every branch that becomes empty."""
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
        """Start a search for the messages whose topics match a Topic Filter."""
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
    """A depth-first search of the tree. It finds the messages that existed when it started and still exist.

    Messages stored later are skipped, because the subscriber receives them as they are published; except those that
    were stored while it was away (`catch_up`).
    """

    __slots__ = ("_levels", "_number", "_path")

    def __init__(self, root: _Node, topic_filter: str, number: int) -> None:
        self._levels = topic_filter.split("/")
        self._number = number
        #: The stack of nodes from the root: each with its index in the filter, whether it has been visited, and the
        #: text of the child that was visited last.
        self._path: list[tuple[_Node, int, bool, str | None]] = [(root, 0, False, None)]

    @property
    def done(self) -> bool:
        """Whether the search is complete."""
        return not self._path

    def catch_up(self, number: int) -> None:
        """Find also the messages up to a sequence number, `Retained.number`: the subscriber has come back."""
        self._number = number

    def next(self, steps: int) -> Message | None:
        """Return the next message; None if `steps` steps are not enough, or the search is complete."""
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
    return size_of(message.topic, message.payload)


def _levels(message: Message) -> int:
    return message.topic.count("/") + 1
