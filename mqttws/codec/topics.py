"""Topic Names and Topic Filters: validation, matching, and a tree for the lookup of filters by topic.

A PUBLISH carries a Topic Name. A SUBSCRIBE carries Topic Filters, which may contain the wildcards "+" (one level) and
"#" (all remaining levels, including the parent level). Both are compared character by character: nothing is normalised
or case-folded [MQTT-4.7.3-4].

Spec: §4.7
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat

from mqttws.codec.wire import LENGTHS, encode_string
from mqttws.errors import LocalProtocolError
from mqttws.hints import Final, Generic, TypeVar

T = TypeVar("T")


def check_topic(topic: str, what: str = "the Topic Name") -> bytes:
    """Check a Topic Name.

    Args:
        topic: 1 to 65,535 bytes of UTF-8 without U+0000 and without wildcards.
        what: Names the topic in an error message.

    Returns:
        The encoded name: its length in two bytes, then its UTF-8 form.

    Raises:
        LocalProtocolError: It breaks one of those rules.
        TypeError: It is not a str.

    Spec: §4.7, [MQTT-3.3.2-2], [MQTT-4.7.1-1], [MQTT-4.7.3-1] to [MQTT-4.7.3-3]
    """
    _check_is_text(topic, what)
    if is_topic(topic):
        return encode_checked(topic, what)
    if not topic:
        raise LocalProtocolError(f"{what} is empty; it needs at least one character", "MQTT-4.7.3-1")
    if "+" in topic or "#" in topic:
        raise LocalProtocolError(f"{what} {topic!r} contains a wildcard; only a Topic Filter may", "MQTT-3.3.2-2")
    return encode_checked(topic, what)


def check_topic_filter(topic_filter: str) -> bytes:
    """Check a Topic Filter.

    Args:
        topic_filter: 1 to 65,535 bytes of UTF-8 without U+0000; "+" must be a whole level, "#" the whole last level.

    Returns:
        The encoded filter: its length in two bytes, then its UTF-8 form.

    Raises:
        LocalProtocolError: It breaks one of those rules.
        TypeError: It is not a str.

    Spec: §4.7, [MQTT-4.7.1-2], [MQTT-4.7.1-3], [MQTT-4.7.3-1] to [MQTT-4.7.3-3]
    """
    _check_is_text(topic_filter, "the Topic Filter")
    if is_topic_filter(topic_filter):
        return encode_checked(topic_filter, "the Topic Filter")
    if not topic_filter:
        raise LocalProtocolError("the Topic Filter is empty; it needs at least one character", "MQTT-4.7.3-1")
    if "#" in topic_filter and ("#" in topic_filter[:-1] or topic_filter[-2:] not in ("#", "/#")):
        raise LocalProtocolError(
            f"the Topic Filter {topic_filter!r} is ill-formed: '#' must be alone in the last level", "MQTT-4.7.1-2"
        )
    if "+" in topic_filter and any("+" in level and level != "+" for level in topic_filter.split("/")):
        raise LocalProtocolError(
            f"the Topic Filter {topic_filter!r} is ill-formed: '+' must fill a whole level", "MQTT-4.7.1-3"
        )
    return encode_checked(topic_filter, "the Topic Filter")


def is_topic(text: str) -> bool:
    """Return whether text is a Topic Name. Does not check the length and surrogates. Spec: §4.7."""
    return text != "" and "+" not in text and "#" not in text and "\0" not in text


def is_topic_filter(text: str) -> bool:
    """Return whether text is a Topic Filter. Does not check the length and surrogates. Spec: §4.7."""
    if "#" in text and ("#" in text[:-1] or text[-2:] not in ("#", "/#")):
        return False
    # Doubling each "/" gives every level its own pair. Once the levels that are exactly "+" are removed, any "+" that
    # is left is ill-formed. This is one pass in C; splitting into levels is slower.
    if "+" in text and "+" in f"/{text.replace('/', '//')}/".replace("/+/", ""):
        return False
    return text != "" and "\0" not in text


def _check_is_text(topic: object, what: str) -> None:
    if not isinstance(topic, str):
        raise TypeError(f"{what} must be a str, not {type(topic).__name__}")


def encode_checked(topic: str, what: str = "the Topic Filter") -> bytes:
    """Encode a topic whose wildcards have been checked.

    Raises:
        LocalProtocolError: See `encode_string`. It names the statement of §4.7 if that section repeats a rule of
            §1.5.3.
    """
    if topic.isascii() and len(topic) < 256 and "\0" not in topic:
        return LENGTHS[len(topic)] + topic.encode()
    try:
        return encode_string(topic, what)
    except LocalProtocolError as error:
        if error.statement != "§1.5.3":
            raise
        message = error.message
    raise LocalProtocolError(message, "MQTT-4.7.3-3")


def topic_matches(topic_filter: str, topic: str) -> bool:
    """Return whether a Topic Filter matches a Topic Name.

    Args:
        topic_filter: A well-formed Topic Filter.
        topic: A well-formed Topic Name.

    Examples:
        >>> from mqttws import topic_matches
        >>> topic_matches("sensors/+/temperature", "sensors/7/temperature")
        True
        >>> topic_matches("sensors/#", "sensors")
        True
        >>> topic_matches("#", "$SYS/broker/uptime")
        False

    Spec: §4.7.1 ("a/#" matches "a"; "+" matches an empty level), [MQTT-4.7.2-1] (a filter that begins with a
    wildcard does not match a topic that begins with "$")
    """
    if topic_filter[0] in "+#" and topic[0] == "$":
        return False
    filter_levels = topic_filter.split("/")
    topic_levels = topic.split("/")
    for position, level in enumerate(filter_levels):
        if level == "#":  # matches all remaining levels, or none
            return True
        if position == len(topic_levels) or level not in ("+", topic_levels[position]):
            return False
    return len(filter_levels) == len(topic_levels)


#: The steps of a search without interruption.
_ENDLESS: Final = repeat(None)


class _Node(Generic[T]):
    """A node of the tree: its children by level, and the values of the filters that end here."""

    __slots__ = ("children", "values")

    def __init__(self) -> None:
        self.children: dict[str, _Node[T]] = {}
        self.values: dict[object, T] = {}


class TopicTree(Generic[T]):
    """A map from Topic Filters to values by key, which is looked up by Topic Name.

    The cost of a lookup depends on the depth of the topic and the number of matching branches, not on the number of
    filters. Nothing is recursive: a topic of 65,535 levels does not use the stack.

    Examples:
        >>> from mqttws import TopicTree
        >>> tree = TopicTree()
        >>> tree.set("sensors/+", "client 1", 2)
        True
        >>> tree.set("sensors/#", "client 2", 0)
        True
        >>> sorted(tree.match("sensors/7"))
        [('client 1', 2), ('client 2', 0)]
    """

    def __init__(self) -> None:
        self._root: _Node[T] = _Node()
        self._count = 0

    def __len__(self) -> int:
        """Return the number of (filter, key) pairs."""
        return self._count

    def set(self, topic_filter: str, key: object, value: T) -> bool:
        """Set the value of a key under a filter.

        Args:
            topic_filter: A well-formed Topic Filter.
            key: Any hashable object, such as a subscriber.
            value: The value.

        Returns:
            Whether the pair is new; False if its value was replaced.
        """
        node = self._root
        for level in topic_filter.split("/"):
            child = node.children.get(level)
            if child is None:
                child = node.children[level] = _Node()
            node = child
        new = key not in node.values
        node.values[key] = value
        self._count += new
        return new

    def discard(self, topic_filter: str, key: object) -> bool:
        """Remove a key of a filter, and every branch that becomes empty.

        Args:
            topic_filter: A well-formed Topic Filter.
            key: The key.

        Returns:
            Whether the filter had this key.
        """
        path = [(self._root, "")]
        for level in topic_filter.split("/"):
            child = path[-1][0].children.get(level)
            if child is None:
                return False
            path.append((child, level))
        values = path[-1][0].values
        if key not in values:
            return False
        del values[key]
        self._count -= 1
        for (parent, _), (node, level) in zip(reversed(path[:-1]), reversed(path[1:]), strict=True):
            if node.children or node.values:
                break
            del parent.children[level]
        return True

    def match(self, topic: str) -> Iterator[tuple[object, T]]:
        """Return the (key, value) pairs of every filter that matches a Topic Name. A key may occur more than once.

        Args:
            topic: A well-formed Topic Name.

        Spec: §4.7
        """
        found: list[dict[object, T]] = []
        branches = _branches(self._root, topic) if topic[:1] == "$" else [(self._root, 0)]  # usually without a call
        _visit(branches, topic.split("/"), found, _ENDLESS)
        pairs: list[tuple[object, T]] = []
        for values in found:
            pairs += values.items()
        return iter(pairs)

    def search(self, topic: str) -> Search[T]:
        """Start a lookup in steps, and return it. Filters chosen by an attacker can make one lookup long.

        Args:
            topic: A well-formed Topic Name.
        """
        return Search(self._root, topic)


class Search(Generic[T]):
    """A lookup in a `TopicTree` that can be interrupted. The tree may change between two steps.

    Attributes:
        found: The values by key of each matching filter; these are the tree's own dicts, not copies. A filter that is
            set after the search has passed its node is missing.
    """

    __slots__ = ("_branches", "_levels", "found")

    def __init__(self, root: _Node[T], topic: str) -> None:
        self.found: list[dict[object, T]] = []
        self._levels = topic.split("/")
        self._branches = _branches(root, topic)

    def advance(self, steps: int) -> bool:
        """Visit up to `steps` nodes of the tree. Return whether the search is complete."""
        return _visit(self._branches, self._levels, self.found, repeat(None, steps))


def _branches(root: _Node[T], topic: str) -> list[tuple[_Node[T], int]]:
    """Return the branches at the start of a search: nodes to visit, each with the number of levels that led to it."""
    if topic[:1] != "$":
        return [(root, 0)]
    first = root.children.get(topic.partition("/")[0])  # wildcards do not match this level [MQTT-4.7.2-1]
    return [] if first is None else [(first, 1)]


def _visit(
    branches: list[tuple[_Node[T], int]], levels: list[str], found: list[dict[object, T]], steps: Iterable[None]
) -> bool:
    """Visit nodes. Return whether no branch is left.

    The search is depth first, so that at most one branch for each level waits, whatever the filters are.

    Args:
        branches: The nodes to visit, the next one last; changed in place.
        levels: The levels of the topic.
        found: Receives the values of each filter that matches.
        steps: An item for each node that may be visited.
    """
    if not branches:
        return True
    node, depth = branches.pop()
    last = len(levels)
    for _ in steps:
        children = node.children
        if "#" in children:  # at the end of the topic, too: "a/#" matches "a"
            found.append(children["#"].values)
        if depth == last:
            found.append(node.values)
        elif (level := levels[depth]) in children:
            depth += 1
            if "+" in children:
                branches.append((children["+"], depth))
            node = children[level]
            continue
        elif "+" in children:
            depth += 1
            node = children["+"]
            continue
        if not branches:
            return True
        node, depth = branches.pop()
    branches.append((node, depth))
    return False
