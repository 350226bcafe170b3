"""Topic Names and Topic Filters: the tables of §4.7, and the tree, compared with matching every filter."""

from __future__ import annotations

import itertools
import re

import packet_strategies as some
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mqttws import LocalProtocolError, TopicTree, check_topic, check_topic_filter, compiled, topic_matches

#: (filter, topics that match, topics that do not)
MATCHES = [
    ("a", ["a"], ["b", "A", "a/", "/a", "aa", "a/a"]),
    ("a/b", ["a/b"], ["a", "a/b/c", "a//b", "a/b/"]),
    ("a/#", ["a", "a/", "a/b", "a/b/c", "a//"], ["b", "b/a", "aa", "/a"]),
    ("#", ["a", "/", "a/b", "/a", " "], ["$SYS", "$SYS/a", "$"]),
    ("+", ["a", " "], ["/", "a/b", "/a", "a/", "$SYS"]),
    ("+/+", ["/", "/a", "a/", "a/b"], ["a", "a/b/c", "$SYS/x"]),
    ("/+", ["/a", "/"], ["a", "a/b", "/a/b"]),
    ("+/x", ["a/x", "/x"], ["$SYS/x", "x", "a/b/x"]),
    ("a/+/c", ["a/b/c", "a//c"], ["a/c", "a/b", "a/b/d", "a/b/b/c"]),
    ("a/+", ["a/b", "a/"], ["a", "a/b/c"]),
    ("a/+/#", ["a/b", "a/b/c", "a/"], ["a", "b/a"]),
    ("+/#", ["a", "a/b", "/", "/a"], ["$SYS", "$SYS/a"]),
    ("$SYS/#", ["$SYS", "$SYS/a", "$SYS/a/b"], ["SYS/a", "$sys/a", "a"]),
    ("$SYS/+", ["$SYS/a", "$SYS/"], ["$SYS", "$SYS/a/b"]),
    ("a/$b", ["a/$b"], ["a/b"]),
    ("a/+/$c", ["a/$b/$c"], []),
    ("\u00e9", ["\u00e9"], ["e\u0301"]),  # not normalised [MQTT-4.7.3-4]
    ("\ufeffa", ["\ufeffa"], ["a"]),
]


@pytest.mark.parametrize(("topic_filter", "yes", "no"), MATCHES, ids=[case[0] for case in MATCHES])
@pytest.mark.statement("MQTT-4.7.2-1")
@pytest.mark.statement("MQTT-4.7.3-4")
def test_the_table_of_matches(topic_filter: str, yes: list[str], no: list[str]) -> None:
    tree: TopicTree[str] = TopicTree()
    tree.set(topic_filter, "key", "value")
    for topic in yes:
        assert topic_matches(topic_filter, topic), topic
        assert list(tree.match(topic)) == [("key", "value")], topic
    for topic in no:
        assert not topic_matches(topic_filter, topic), topic
        assert list(tree.match(topic)) == [], topic


#: (filter, the statement that it violates; None for a valid filter)
FILTERS = [
    *(
        (good, None)
        for good in ("a", "/", "#", "+", "a/#", "/#", "+/#", "+/+", "/+", "a/+/b", "a b", "$S/#", "//", "é")
    ),
    ("", "MQTT-4.7.3-1"),
    *((bad, "MQTT-4.7.1-2") for bad in ("a#", "#a", "#/", "#/a", "a/#/b", "##", "/##", "a/b#", "#/#", "+#", "a/#b/#")),
    *((bad, "MQTT-4.7.1-3") for bad in ("a+", "+a", "a/+b", "a+/b", "++", "a/++", "+/a+", "a+/#")),
    ("a\0", "MQTT-1.5.3-2"),
    ("\ud800", "MQTT-1.5.3-1"),
    ("a" * 65_536, "MQTT-4.7.3-3"),
]


@pytest.mark.parametrize(
    ("topic_filter", "statement"),
    [
        pytest.param(*case, marks=pytest.mark.statement(case[1]) if case[1] else [], id=repr(case[0][:12]))
        for case in FILTERS
    ],
)
def test_which_topic_filters_are_valid(topic_filter: str, statement: str | None) -> None:
    if statement is None:
        data = topic_filter.encode()
        assert check_topic_filter(topic_filter) == len(data).to_bytes(2, "big") + data
    else:
        with pytest.raises(LocalProtocolError) as caught:
            check_topic_filter(topic_filter)
        assert caught.value.statement == statement


@pytest.mark.parametrize(
    ("topic", "statement"),
    [
        *((good, None) for good in ("a", "/", "a/b", "//", "$SYS", "\ufeff", " ", "a" * 65_535)),
        ("", "MQTT-4.7.3-1"),
        *((bad, "MQTT-3.3.2-2") for bad in ("+", "#", "a/#", "a+b", "a#")),
        ("\0", "MQTT-1.5.3-2"),
        ("\udfff", "MQTT-1.5.3-1"),
        ("é" * 32_768, "MQTT-4.7.3-3"),
    ],
    ids=lambda value: repr(value)[:12],
)
@pytest.mark.statement("MQTT-4.7.1-1")
def test_which_topic_names_are_valid(topic: str, statement: str | None) -> None:
    if statement is None:
        assert check_topic(topic)[2:] == topic.encode()
    else:
        with pytest.raises(LocalProtocolError) as caught:
            check_topic(topic)
        assert caught.value.statement == statement


@given(some.topic_filters)
def test_the_strategy_makes_valid_filters(topic_filter: str) -> None:
    check_topic_filter(topic_filter)


def by_expression(topic_filter: str) -> re.Pattern[str]:
    """Return a regular expression for the whole name that is equivalent to §4.7.1."""
    if topic_filter == "#":
        return re.compile(r"(?!\$).*", re.S)
    head, tail = (topic_filter[:-2], "(/.*)?") if topic_filter.endswith("/#") else (topic_filter, "")
    levels = "/".join("[^/]*" if level == "+" else re.escape(level) for level in head.split("/"))
    guard = r"(?!\$)" if topic_filter[0] == "+" else ""
    return re.compile(guard + levels + tail, re.S)


@given(some.topic_filters, some.topics)
def test_matching_agrees_with_the_regular_expression(topic_filter: str, topic: str) -> None:
    assert topic_matches(topic_filter, topic) == (by_expression(topic_filter).fullmatch(topic) is not None)


@given(st.lists(some.topic_filters, max_size=12), st.lists(some.topics, min_size=1, max_size=5))
def test_the_tree_finds_what_matches(topic_filters: list[str], topics: list[str]) -> None:
    tree: TopicTree[int] = TopicTree()
    for number, topic_filter in enumerate(topic_filters):
        assert tree.set(topic_filter, number, number)
    assert len(tree) == len(topic_filters)
    for topic in topics:
        found = sorted(value for _, value in tree.match(topic))
        assert found == [n for n, topic_filter in enumerate(topic_filters) if topic_matches(topic_filter, topic)]


_FEW = st.sampled_from(["a", "a/b", "a/+", "a/#", "#", "+", "a/b/c", "b", "b/", "/"])


class TreeAgainstDict(RuleBasedStateMachine):
    """After any sequence of `set` and `discard`, the tree equals a dict, and has no superfluous node."""

    def __init__(self) -> None:
        super().__init__()
        self.tree: TopicTree[int] = TopicTree()
        self.model: dict[tuple[str, str], int] = {}

    @rule(topic_filter=_FEW, key=st.sampled_from("xyz"), value=st.integers())
    def set(self, topic_filter: str, key: str, value: int) -> None:
        assert self.tree.set(topic_filter, key, value) == ((topic_filter, key) not in self.model)
        self.model[topic_filter, key] = value

    @rule(topic_filter=_FEW, key=st.sampled_from("xyz"))
    def discard(self, topic_filter: str, key: str) -> None:
        assert self.tree.discard(topic_filter, key) == ((topic_filter, key) in self.model)
        self.model.pop((topic_filter, key), None)

    @invariant()
    def equal(self) -> None:
        assert len(self.tree) == len(self.model)
        for topic in ("a", "a/b", "a/b/c", "b", "/", "b/", "c"):
            expected = [(key, value) for (f, key), value in self.model.items() if topic_matches(f, topic)]
            assert sorted(self.tree.match(topic)) == sorted(expected)  # type: ignore[type-var]
        if not self.model:
            assert not self.tree._root.children


TestTreeAgainstDict = TreeAgainstDict.TestCase


def test_a_topic_of_very_many_levels_needs_no_stack() -> None:
    tree: TopicTree[int] = TopicTree()
    deep = "/" * 65_535
    tree.set(deep, "key", 1)
    tree.set("#", "all", 2)
    assert dict(tree.match(deep)) == {"key": 1, "all": 2}
    assert topic_matches("/#", deep)
    assert tree.discard(deep, "key")
    assert len(tree) == 1


def test_a_look_up_of_many_branches_goes_on_in_steps() -> None:
    """Each "+" beside a level "a" doubles the nodes: 1 + 2 + 4 + 8 are visited, two in each step."""
    tree: TopicTree[str] = TopicTree()
    topic_filters = ["/".join(levels) for levels in itertools.product("a+", repeat=3)]
    for topic_filter in topic_filters:
        tree.set(topic_filter, "key", topic_filter)
    search = tree.search("a/a/a")
    looked = [search.advance(2) for _ in range(8)]
    assert looked == [False] * 7 + [True]
    assert sorted(value for values in search.found for value in values.values()) == sorted(topic_filters)
    assert search.advance(2)  # a finished search finds nothing twice
    assert len(search.found) == len(topic_filters)


@pytest.mark.skipif(compiled, reason="compiled code bypasses the counting subclass of dict")
def test_a_look_up_does_not_depend_on_the_number_of_filters() -> None:
    """Counted in dictionary look-ups, not in seconds: one for each level and each branch that matches."""
    tree: TopicTree[int] = TopicTree()
    for number in range(1_000):
        tree.set(f"a/{number}/+", number, number)
    asked = 0

    class Watched(dict):  # type: ignore[type-arg]
        def __contains__(self, key: object) -> bool:
            nonlocal asked
            asked += 1
            return super().__contains__(key)

        def get(self, key: object, default: object = None) -> object:
            nonlocal asked
            asked += 1
            return super().get(key, default)

    node = tree._root.children["a"]
    node.children = Watched(node.children)
    assert list(tree.match("a/500/x")) == [(500, 500)]
    assert asked == 3  # the level itself, "+", "#"
