"""Moving filters between connections of a pool: no message is lost or duplicated, in any order of events."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pools import World

from mqttws import State
from pubsub.pool.handover import Handover, Step

TOPICS = [f"site/{number}/temp" for number in range(6)]
#: Subscribed during the whole test; each topic matches one or several of them.
KEPT = ["site/0/temp", "site/1/temp", "site/2/#", "site/+/temp", "site/3/temp", "site/4/temp", "site/5/#"]
#: Subscribed and unsubscribed during the test; they overlap with those.
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
    """Run the actions, with random events in between, and check the deliveries."""
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
    assert standing == sorted([*KEPT, *on]), "each filter is on one part"
    assert not world.pool._unacknowledged
    assert world.pool.moves.is_idle
    return world


@settings(max_examples=150)
@given(st.integers(0, 2**32), Actions)
def test_each_message_is_delivered_once_and_in_order(seed: int, actions: list[tuple[str, object]]) -> None:
    run(seed, actions)


@pytest.mark.parametrize("seed", range(40))
def test_a_stream_survives_growing_and_shrinking(seed: int) -> None:
    """Long backlogs at the server, so that its answers arrive before messages published earlier."""
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
def test_a_planted_fault_is_detected(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if plant == "hold":  # a message that arrives while both have the filter is delivered immediately
        monkeypatch.setattr(Handover, "came_new", lambda self, *arguments: False)
    elif plant == "copies":  # held messages are delivered even if they are copies
        monkeypatch.setattr(Handover, "came_old", lambda self, *arguments: None)
    elif plant == "trail":  # late copies on the new part are not recognised
        monkeypatch.setattr(Handover, "is_known", lambda self, *arguments: False)
    else:  # the second step ends with the server's answer, even if it overtook messages
        monkeypatch.setattr("pubsub.pool.moving.FEW", 10**9)
    noticed = 0
    for seed in range(40):
        try:
            test_a_stream_survives_growing_and_shrinking(seed)
        except AssertionError:
            noticed += 1
    assert noticed


def test_losing_the_old_part_during_a_move_blocks_nothing() -> None:
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
    first.client.is_open = False  # its UNSUBACK never arrives
    first.client.on_state(State("disrupted", ConnectionError()))
    world.pool.publish_nowait("a", b"1", 1, False)
    world.settle()
    assert world.delivered == {"a": [1]}
    assert place.part is second
    assert world.pool.moves.is_idle


def test_requests_for_a_moving_filter_wait_for_the_move() -> None:
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


def removing(seed: int) -> World:
    """Return a world in which "a/b" is being removed. A younger filter on the other part matches its topics, too."""
    world = World(Random(seed), (1, 2), most_filters=1)
    for topic_filter in ("a/b", "a/+"):
        world.pool.subscribe_nowait([(topic_filter, 1)])
        world.settle()
    world.pool.unsubscribe_nowait(["a/b"])
    place = world.pool.places.get("a/b")
    assert place is not None
    assert place.handover.target is None
    return world


@pytest.mark.parametrize("seed", range(5))
def test_a_filter_that_is_subscribed_again_during_its_removal_is_answered_by_the_server(seed: int) -> None:
    world = removing(seed)
    answer = world.pool.subscribe_nowait([("a/b", 1)])
    while not answer.done():
        assert world.step()
    assert sum(link.subscribed.count("a/b") for link in world.links) == 2
    world.settle()
    assert answer.result() == [1]


@pytest.mark.parametrize("last", ["subscribe", "unsubscribe"])
def test_a_request_that_is_replaced_during_a_removal_is_answered(last: str) -> None:
    world = removing(1)
    pool, is_wanted = world.pool, last == "subscribe"
    answer = pool.subscribe_nowait([("a/b", 1), ("c", 1)])
    again = pool.subscribe_nowait([("a/b", 0)]) if is_wanted else pool.unsubscribe_nowait(["a/b"])
    world.settle()
    assert answer.result() == [1, 1]
    assert again.done()
    standing = sorted(name for part in pool._parts for name in part.client.filters)
    assert standing == (["a/+", "a/b", "c"] if is_wanted else ["a/+", "c"])
