"""Nobody gets two copies, nobody loses one: filters on their way between connections, in every order of events."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import World

from mqttws import State
from pubsub.pool.handover import Handover, Step

TOPICS = [f"site/{number}/temp" for number in range(6)]
#: Subscribed to from the beginning to the end: each topic has one or several of them.
KEPT = ["site/0/temp", "site/1/temp", "site/2/#", "site/+/temp", "site/3/temp", "site/4/temp", "site/5/#"]
#: Come and go, and overlap with those.
TOGGLED = ["site/#", "site/0/#", "+/1/temp", "other"]

Actions = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(0, len(TOPICS) - 1)),
        st.tuples(st.just("publish"), st.integers(0, len(TOPICS) - 1)),
        st.tuples(st.just("resize"), st.tuples(st.integers(1, 3), st.integers(1, 5))),
        st.tuples(st.just("toggle"), st.integers(0, len(TOGGLED) - 1)),
        st.tuples(st.just("steps"), st.integers(1, 60)),
    ),
    max_size=120,
)


def run(seed: int, actions: list[tuple[str, object]], connections: tuple[int, int] = (2, 3)) -> World:
    """Run the actions, with what happens in between drawn, and check what was delivered."""
    random = Random(seed)
    world = World(random, connections)
    order = KEPT.copy()
    random.shuffle(order)
    for topic_filter in order:
        world.pool.subscribe_nowait([(topic_filter, 1)])
    world.settle()
    on: set[str] = set()
    published: dict[str, list[int]] = {topic: [] for topic in TOPICS}
    for number, (verb, argument) in enumerate(actions):
        if verb == "publish":
            topic = TOPICS[int(str(argument))]
            published[topic].append(number)
            world.pool.publish_nowait(topic, b"%d" % number, 1, False)
        elif verb == "resize":
            world.pool.resize(argument)  # type: ignore[arg-type]
        elif verb == "toggle":
            topic_filter = TOGGLED[int(str(argument))]
            if topic_filter in on:
                world.pool.unsubscribe_nowait([topic_filter])
            else:
                world.pool.subscribe_nowait([(topic_filter, 1)])
            on ^= {topic_filter}
        for _ in range(int(str(argument)) if verb == "steps" else random.randrange(4)):
            world.step()
    world.settle()
    assert {topic: world.delivered.get(topic, []) for topic in TOPICS} == published
    standing = sorted(name for part in world.pool._parts for name in part.client.filters)
    assert standing == sorted([*KEPT, *on]), "each filter stands on one part"
    assert not world.pool._unacknowledged
    assert world.pool.moves.is_idle
    return world


@settings(max_examples=150)
@given(st.integers(0, 2**32), Actions)
def test_each_message_is_delivered_once_and_in_order(seed: int, actions: list[tuple[str, object]]) -> None:
    run(seed, actions)


@pytest.mark.parametrize("seed", range(40))
def test_a_stream_survives_growing_and_shrinking(seed: int) -> None:
    """Long backlogs at the server, so that its answers come before what was published earlier."""
    actions: list[tuple[str, object]] = []
    for size in [(2, 5), (1, 1), (3, 4), (1, 2)]:
        for number in range(60):
            actions += [("publish", number % len(TOPICS))]
            actions += [("resize", size)] if number == 20 else []
            actions += [("toggle", number % len(TOGGLED))] if number % 15 == 0 else []
    world = run(seed, actions)
    assert len(world.pool._parts) == 3


@pytest.mark.parametrize(
    "plant",
    ["hold", "copies", "trail", "wait"],
)
def test_a_planted_fault_is_noticed(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if plant == "hold":  # what comes while both have a filter is taken for new
        monkeypatch.setattr(Handover, "came_new", lambda self, *arguments: False)
    elif plant == "copies":  # what was held is delivered, copy or not
        monkeypatch.setattr(Handover, "came_old", lambda self, *arguments: None)
    elif plant == "trail":  # the new part's late copies are not known
        monkeypatch.setattr(Handover, "is_known", lambda self, *arguments: False)
    else:  # the second step ends with the server's answer, whatever it overtook
        monkeypatch.setattr("pubsub.pool.moving.FEW", 10**9)
    noticed = 0
    for seed in range(40):
        try:
            test_a_stream_survives_growing_and_shrinking(seed)
        except AssertionError:
            noticed += 1
    assert noticed


def test_a_part_that_is_lost_while_it_gives_a_filter_away_holds_up_nothing() -> None:
    world = World(Random(1), (1, 2))
    world.pool.subscribe_nowait([("a", 1), ("b", 1)])
    world.settle()
    first, second = world.pool._receiving()
    place = world.pool.places.get("a")
    assert place is not None
    assert place.part is first
    with world.pool.lock:
        handover = world.pool.moves.add([place], first, second)
    world.pool.moves.begin()
    while handover.step is not Step.HOLDING:
        assert world.step()
    first.client.is_open = False  # its UNSUBACK will never come
    first.client.on_state(State("disrupted", ConnectionError()))
    world.pool.publish_nowait("a", b"1", 1, False)
    world.settle()
    assert world.delivered == {"a": [1]}
    assert place.part is second
    assert world.pool.moves.is_idle


def test_what_is_asked_of_a_filter_that_moves_waits_for_it() -> None:
    world = World(Random(2), (1, 2))
    world.pool.subscribe_nowait([("a", 1), ("b", 1)])
    world.settle()
    world.pool.resize((1, 1))
    answer = world.pool.unsubscribe_nowait(["a", "b"])
    again = world.pool.subscribe_nowait([("a", 1)])
    world.settle()
    assert answer.done()
    assert again.result() == [1]
    (part,) = world.pool._receiving()
    assert part.client.filters == {"a": 1}
    assert [part.index for part in world.gone] == [2]
