"""The router: subscriptions of members and the packets they need; literal cases, then against a plain model."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import Publish, topic_matches
from pubsub import router as router_module
from pubsub.router import REFUSED, Router


def live(topic: str, payload: bytes = b"x") -> Publish:
    return Publish(topic, payload)


def retained(topic: str, payload: bytes = b"x") -> Publish:
    return Publish(topic, payload, 0, True)


def asked(router: Router[str], member: str, wanted: dict[str, int]) -> Any:
    """Join, and return the request to send."""
    request = router.join(member, wanted)
    if request is not None:
        request.is_watched = True
    return request


def joined(router: Router[str], member: str, **filters: int) -> None:
    """Join, and grant the request."""
    wanted = {name.replace("_", "/"): qos for name, qos in filters.items()}
    request = asked(router, member, wanted)
    if request is not None:
        router.answered(request, [qos for _, qos in request.wanted])


def test_the_first_member_subscribes_and_the_last_one_unsubscribes() -> None:
    router: Router[str] = Router()
    request = asked(router, "A", {"a": 1, "b": 0})
    assert request is not None
    assert request.wanted == [("a", 1), ("b", 0)]
    joined(router, "B", a=1)
    assert router.leave("A", ["a", "b"]) == ["b"]
    assert router.leave("B", ["a"]) == ["a"]
    assert router.topic_filters == {}
    assert router.members() == set()


def test_members_that_join_before_the_answer_share_one_subscribe() -> None:
    router: Router[str] = Router()
    request = asked(router, "A", {"a": 1})
    assert request is not None
    assert asked(router, "B", {"a": 0}) is None
    assert asked(router, "C", {"a": 1}) is None
    outcomes = router.answered(request, [1])
    assert sorted(outcomes) == [("A", "a", 1), ("B", "a", 1), ("C", "a", 1)]


def test_a_member_that_joins_after_a_retained_message_needs_another_subscribe() -> None:
    router: Router[str] = Router()
    assert asked(router, "A", {"a": 1}) is not None
    assert router.route(retained("a")) == ["A"]
    assert asked(router, "B", {"a": 1}) is not None


def test_a_higher_qos_needs_a_subscribe_and_a_lower_one_does_not() -> None:
    router: Router[str] = Router()
    asked(router, "A", {"a": 1})
    request = asked(router, "B", {"a": 2})
    assert request is not None
    assert request.wanted == [("a", 2)]
    router.answered(request, [2])
    request = asked(router, "C", {"a": 0})
    assert request is not None
    assert request.wanted == [("a", 2)], "a SUBSCRIBE at a lower QoS would replace the higher one"


def test_only_the_answer_to_the_last_subscribe_counts() -> None:
    router: Router[str] = Router()
    first = asked(router, "A", {"a": 0})
    second = asked(router, "B", {"a": 1})
    assert first is not None
    assert second is not None
    assert router.answered(first, [0]) == []
    assert sorted(router.answered(second, [1])) == [("A", "a", 1), ("B", "a", 1)]


def test_an_answer_for_members_that_have_left_is_ignored() -> None:
    router: Router[str] = Router()
    first = asked(router, "A", {"a": 0})
    assert first is not None
    router.leave("A", ["a"])
    second = asked(router, "B", {"a": 0})
    assert second is not None, "the filter was unsubscribed from, so the unanswered SUBSCRIBE does not count"
    assert router.answered(first, [REFUSED]) == []
    assert router.answered(second, [0]) == [("B", "a", 0)]


def test_a_refused_filter_is_removed() -> None:
    router: Router[str] = Router()
    request = asked(router, "A", {"a": 0, "b": 0})
    assert request is not None
    assert router.answered(request, [REFUSED, 0]) == [("A", "a", REFUSED), ("A", "b", 0)]
    assert router.topic_filters == {"b": 0}
    assert router.route(live("a")) == []
    assert router.leave("A", ["a", "b"]) == ["b"], "a refused filter needs no UNSUBSCRIBE"
    joined(router, "A", b=0)
    assert router.refused("b") == [("A", "b", REFUSED)]
    assert router.refused("b") == []


def test_overlapping_filters_of_a_member_give_one_delivery() -> None:
    router: Router[str] = Router()
    request = asked(router, "A", {"a/#": 0, "a/+": 0, "a/b": 0})
    assert request is not None
    joined(router, "B", a_b=0)
    assert sorted(router.route(live("a/b"))) == ["A", "B"]
    assert router.route(live("a")) == ["A"]


def test_retained_messages_reach_each_new_member_once() -> None:
    router: Router[str] = Router()
    joined(router, "A", a=0)
    assert router.route(retained("a")) == ["A"]
    joined(router, "B", a=0)
    assert router.route(retained("a")) == ["B"]
    joined(router, "C", a=0)
    assert sorted(router.route(live("a"))) == ["A", "B", "C"]
    assert router.route(retained("a")) == [], "the live message was the first of its topic for C"


def test_a_retained_message_that_comes_once_for_each_overlapping_filter_arrives_once() -> None:
    router: Router[str] = Router()
    asked(router, "A", {"a/#": 0, "a/b": 0})
    assert router.route(retained("a/b")) == ["A"]
    assert router.route(retained("a/b")) == []


def test_a_retained_message_is_not_repeated_after_a_live_one() -> None:
    router: Router[str] = Router()
    joined(router, "A", a=0)
    router.route(retained("a", b"kept"))
    router.route(live("a", b"passing"))
    joined(router, "B", a=0)
    assert router.route(retained("a", b"kept")) == ["B"]


def test_an_added_filter_brings_only_its_retained_messages() -> None:
    router: Router[str] = Router()
    joined(router, "A", a=0)
    router.route(retained("a"))
    joined(router, "A", b=0)
    joined(router, "B", a=0, b=0)
    assert sorted(router.route(retained("a"))) == ["B"]
    assert sorted(router.route(retained("b"))) == ["A", "B"]


def test_after_a_lost_session_new_retained_messages_are_delivered() -> None:
    router: Router[str] = Router()
    joined(router, "A", a=0, b=0)
    router.route(retained("a", b"1"))
    router.route(retained("b", b"1"))
    router.session_lost()
    assert router.route(retained("a", b"1")) == []
    assert router.route(retained("b", b"2")) == ["A"]
    assert router.route(retained("b", b"2")) == []


def test_the_memory_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(router_module, "MOST_TOPICS", 3)
    router: Router[str] = Router()
    asked(router, "A", {"#": 0})
    for number in range(10):
        assert router.route(retained(f"t/{number}")) == ["A"], "every message is for the only member"
    assert len(router._last) == 3
    joined(router, "B", **{"#": 0})
    assert router.route(retained("t/0")) == ["B"], "A had it, although that is no longer stored"
    assert router.route(retained("t/9")) == ["B"]
    router.session_lost()
    assert sorted(router.route(retained("t/1"))) == ["A", "B"], "a message that may be new is delivered"


FILTERS = ["a", "a/b", "a/#", "a/+", "+/b", "#", "$SYS/x"]
TOPICS = ["a", "a/b", "a/c", "b/b", "c", "$SYS/x"]
MEMBERS = ["A", "B", "C"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("join"), st.sampled_from(MEMBERS), st.lists(st.sampled_from(FILTERS), min_size=1)),
            st.tuples(st.just("leave"), st.sampled_from(MEMBERS), st.lists(st.sampled_from(FILTERS), min_size=1)),
            st.tuples(st.just("live"), st.sampled_from(TOPICS)),
            st.tuples(st.just("retained"), st.sampled_from(TOPICS)),
        ),
        max_size=40,
    )
)
def test_against_a_plain_model(steps: list[tuple[object, ...]]) -> None:
    """The model stores, for each member and filter, every topic routed since the member joined the filter."""
    router: Router[str] = Router()
    wanted: dict[str, dict[str, set[str]]] = defaultdict(dict)
    on_server: set[str] = set()
    for step in steps:
        match step:
            case ("join", str(member), list(filters)):
                request = asked(router, member, dict.fromkeys(filters, 1))
                for topic_filter in filters:
                    wanted[member].setdefault(topic_filter, set())
                if request is not None:
                    on_server |= {topic_filter for topic_filter, _ in request.wanted}
                    router.answered(request, [1] * len(request.wanted))
            case ("leave", str(member), list(filters)):
                for topic_filter in filters:
                    wanted[member].pop(topic_filter, None)
                on_server -= set(router.leave(member, filters))
            case (kind, str(topic)):
                had_by = {
                    member: [had for topic_filter, had in filters.items() if topic_matches(topic_filter, topic)]
                    for member, filters in wanted.items()
                }
                expected = {
                    member
                    for member, hads in had_by.items()
                    if hads and (kind == "live" or not any(topic in had for had in hads))
                }
                routed = router.route(live(topic) if kind == "live" else retained(topic))
                assert sorted(routed) == sorted(expected)
                for filters in wanted.values():
                    for had in filters.values():
                        if any(hads for hads in had_by.values()):
                            had.add(topic)
        in_use = {topic_filter for filters in wanted.values() for topic_filter in filters}
        assert set(router.topic_filters) == in_use == on_server
