"""The components of a pool, without connections: slots, places, sizes, answers and states."""

from __future__ import annotations

from functools import partial
from itertools import count
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interrupts import interrupt
from pools import World

from mqttws import State, topic_matches
from pubsub.pool.gather import Gather, worst
from pubsub.pool.handover import Handover
from pubsub.pool.places import Place, Places
from pubsub.pool.sizing import Sizes, split
from pubsub.pool.slots import Slots

LEVELS = st.sampled_from(["a", "b", ""])
FILTERS = st.builds(
    lambda levels, last: "/".join([*levels, *last]),
    st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=3),
    st.sampled_from([[], ["#"]]),
) | st.just("#")
TOPICS = [f"{a}{b}{c}" for a in ("a", "b") for b in ("", "/a", "/b") for c in ("", "/a", "/b", "/a/b")]


class TestSlots:
    def test_a_topic_keeps_its_slot_in_each_process(self) -> None:
        slots: Slots[str] = Slots()
        assert [slots.slot(topic) for topic in ("a", "a/b", "größe")] == [0xE8B7BE43 % 4096, 28, 2441]

    def test_publishing_without_a_part_raises(self) -> None:
        with pytest.raises(LookupError):
            Slots[str]().begin(0)

    def test_a_new_part_gets_its_share_and_no_other_slot_moves(self) -> None:
        slots: Slots[int] = Slots(120)
        for part in range(3):
            slots.add(part)
        before = [slots.begin(slot) for slot in range(120)]
        for slot in range(120):
            slots.done(slot)
        slots.add(3)
        after = [slots.begin(slot) for slot in range(120)]
        assert [after.count(part) for part in range(4)] == [30] * 4
        assert {now for was, now in zip(before, after, strict=True) if was != now} == {3}

    def test_a_removed_part_s_slots_move_and_no_others(self) -> None:
        slots: Slots[int] = Slots(120)
        for part in range(4):
            slots.add(part)
        before = [slots.begin(slot) for slot in range(120)]
        for slot in range(120):
            slots.done(slot)
        assert slots.remove(1)
        after = [slots.begin(slot) for slot in range(120)]
        assert sorted(after.count(part) for part in (0, 2, 3)) == [40, 40, 40]
        assert all(was == now for was, now in zip(before, after, strict=True) if was != 1)
        assert slots.parts == (0, 2, 3)

    def test_a_slot_moves_only_without_pending_messages(self) -> None:
        slots: Slots[str] = Slots(2)
        slots.add("old")
        for _ in range(3):
            slots.begin(0)
        slots.begin(1)
        slots.add("new")
        assert not slots.remove("old")
        assert [slots.done(0), slots.done(0)] == [None, None]
        assert slots.begin(0) == "old"
        assert slots.done(1) is None
        assert slots.begin(1) == "new"
        assert slots.done(0) is None
        assert slots.done(0) == "old", "the last slot has left"
        assert slots.owned("old") == 0

    def test_the_last_part_stays(self) -> None:
        slots: Slots[str] = Slots(4)
        slots.add("a")
        slots.add("a")
        with pytest.raises(ValueError, match="last"):
            slots.remove("a")

    @given(st.lists(st.tuples(st.sampled_from(["add", "remove", "begin", "done"]), st.integers(0, 7)), max_size=80))
    def test_a_topic_is_never_on_two_parts_at_once(self, steps: list[tuple[str, int]]) -> None:
        slots: Slots[int] = Slots(8)
        slots.add(0)
        under_way: dict[int, list[int]] = {slot: [] for slot in range(8)}
        for verb, number in steps:
            if verb == "add":
                slots.add(number)
            elif verb == "remove" and number in slots.parts and len(slots.parts) > 1:
                slots.remove(number)
            elif verb == "begin":
                under_way[number].append(slots.begin(number))
            elif verb == "done" and under_way[number]:
                under_way[number].pop()
                slots.done(number)
            assert all(len(set(parts)) <= 1 for parts in under_way.values())
            assert sum(slots.owned(part) for part in range(8)) == 8


class TestPlaces:
    @given(st.lists(FILTERS, unique=True, min_size=1, max_size=8), FILTERS)
    def test_overlapping_filters_are_found(self, filters: list[str], wanted: str) -> None:
        """All filters that match a topic which this one matches, and no filter that is clearly disjoint."""
        places: Places[int] = Places()
        for topic_filter in filters:
            places.add(topic_filter, 0, 1)
        found = {place.topic_filter for place in places.overlapping(wanted)}
        needed = {
            other
            for other in filters
            if other != wanted and any(topic_matches(other, topic) and topic_matches(wanted, topic) for topic in TOPICS)
        }
        assert needed <= found <= set(filters) - {wanted}

    @given(st.lists(FILTERS, unique=True, min_size=1, max_size=8))
    def test_removed_filters_leave_nothing(self, filters: list[str]) -> None:
        places: Places[int] = Places()
        added = [places.add(topic_filter, 0, 1) for topic_filter in filters]
        for place in added:
            places.move(place, 2)
            places.remove(place)
        assert len(places) == places.count(1) == places.count(2) == 0
        assert not places._root.below
        assert not places._root.here
        assert places.match("a") == []

    def test_a_shared_subscription_is_on_all_and_overlaps_nothing(self) -> None:
        places: Places[int] = Places()
        shared = places.add("$share/g/a/#", 1, None)
        places.add("a/b", 1, 1)
        assert places.shared == [shared]
        assert (places.count(1), places.count(2)) == (2, 1)
        assert [place.topic_filter for place in places.overlapping("a/+")] == ["a/b"]
        assert len(places.match("a/b")) == 2
        places.remove(shared)
        assert places.shared == []

    @pytest.mark.parametrize("part", [1, 2, None])
    @pytest.mark.parametrize("adding", [True, False])
    def test_an_interrupt_leaves_a_filter_that_can_be_removed(self, part: int | None, adding: bool) -> None:
        """Only while it is whole can it own messages, because otherwise nothing would deliver them."""
        name = "a/b/c" if part is not None else "$share/g/a/b/c"
        for step in count():
            places: Places[int] = Places()
            others = [places.add("a/#", 0, 1), places.add("a/b", 0, 1)]
            call: Any = partial(places.add, name, 1, part)
            if not adding:
                call = partial(places.remove, call())
            is_interrupted = interrupt(step, call)
            place = places.get(name)
            for each in places.match("a/b/c"):
                assert each in ([place, *others] if place is not None else others)
                assert each in [*places.on(1), *places.on(2), *places.shared]
            if place is not None:
                places.remove(place)
            assert places.get(name) is None
            assert [*places.match("a/b/c"), *places.match("a/b")] == [others[0], *others]
            assert list(places.overlapping("a/b/c")) == [others[0]]
            assert (len(places), places.count(1), places.count(2), places.shared) == (2, 2, 0, [])
            if not is_interrupted:
                break
        assert step > 3


class TestSizes:
    @pytest.mark.parametrize(
        ("connections", "sizes"),
        [
            ("auto", Sizes(1, 1)),
            (1, Sizes(1, 1, shared=True)),
            (2, Sizes(1, 1)),
            (5, Sizes(2, 3)),
            ((4, 1), Sizes(4, 1)),
        ],
    )
    def test_valid_sizes(self, connections: Any, sizes: Sizes) -> None:
        assert split(connections) == sizes

    @pytest.mark.parametrize("connections", ["many", 1.5, True, None, (1,), (1, "2")])
    def test_invalid_sizes_are_refused(self, connections: Any) -> None:
        with pytest.raises(TypeError, match="connections"):
            split(connections)

    @pytest.mark.parametrize("connections", [0, -3, (0, 1), (1, 0)])
    def test_one_must_publish_and_one_receive(self, connections: Any) -> None:
        with pytest.raises(ValueError, match="connections"):
            split(connections)


def test_answers_of_several_are_one() -> None:
    outcomes: list[Any] = []
    gather = Gather(2, lambda codes, error: outcomes.append((codes, error)))
    gather.expect(1)
    gather.give(1, 1)
    gather.give(0, 0x80)
    assert outcomes == []
    gather.give(1, 0)
    assert outcomes == [([0x80, 1], None)]
    failed = Gather(2, lambda codes, error: outcomes.append(error))
    cause = ConnectionError()
    failed.fail(cause)
    failed.fail(ConnectionError())
    assert outcomes[1:] == [cause]


def test_the_worst_state_counts() -> None:
    assert worst([State("connected"), State("reconnecting"), State("connecting")]).name == "reconnecting"
    assert worst([]).name == "disconnected"


class TestOneHandover:
    """The state of a topic in each step, without a server."""

    @staticmethod
    def begun(*, holds: bool) -> Handover[str]:
        from pubsub.pool.handover import Step

        handover: Handover[str] = Handover([Place("t", 1, "old", 1)], "old", "new")
        handover.step = Step.FOLLOWING
        if holds:
            handover.hold()
        return handover

    def test_held_messages_are_dropped_by_their_copies_and_the_rest_delivered_in_order(self) -> None:
        handover = self.begun(holds=True)
        for number in range(4):
            assert handover.came_new("t", b"%d" % number, False, number)
        assert handover.came_new("u", b"x", False, "x")
        assert [handover.came_old("t", b"0"), handover.came_old("t", b"1")] == [0, 1]
        assert handover.trail() == [2, 3, "x"]

    def test_copies_on_the_slower_part_are_not_delivered(self) -> None:
        handover = self.begun(holds=True)
        for number in range(3):
            assert handover.came_old("t", b"%d" % number) is None
        assert handover.trail() == []
        assert [handover.is_known("t", b"%d" % number) for number in range(4)] == [True, True, True, False]

    def test_a_retained_message_is_held_in_its_place_and_is_no_copy(self) -> None:
        handover = self.begun(holds=True)
        handover.came_new("t", b"1", False, "live")
        handover.came_new("t", b"1", True, "retained")
        handover.came_old("t", b"1")
        assert handover.trail() == ["retained"]

    def test_repeated_payloads_are_not_lost(self) -> None:
        handover = self.begun(holds=False)
        handover.came_old("t", b"alive")
        handover.came_old("t", b"alive")
        handover.hold()
        assert handover.trail() == []
        assert not handover.is_known("t", b"alive"), "in doubt it is delivered"

    def test_held_messages_are_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handover = self.begun(holds=True)
        monkeypatch.setattr("pubsub.pool.handover.MOST_HELD_BYTES", 100)
        handover.came_new("t", bytes(99), False, 1)
        assert not handover.is_full
        handover.came_new("t", bytes(1), False, 2)
        assert handover.is_full
        handover.came_old("t", bytes(99))
        assert not handover.is_full

    def test_too_long_a_handover_is_cancelled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pubsub.pool.handover.MOST_HASHES", 10)
        handover = self.begun(holds=False)
        for number in range(11):
            handover.came_old(f"t/{number}", b"x")
        assert handover.is_overdrawn


class TestPool:
    """The pool, without sockets."""

    def test_each_part_has_an_identifier_and_one_has_the_will(self) -> None:
        world = World(Random(1), (2, 2))
        assert [link.client_id for link in world.links] == ["name-0", "name-1", "name-2", "name-3"]
        assert [link.will for link in world.links] == [("status", b"gone"), None, None, None]

    def test_an_identifier_is_free_again_when_its_part_is_gone(self) -> None:
        world = World(Random(1), (2, 2))
        world.settle()
        world.pool.resize((1, 1))
        world.settle()
        world.pool.resize((1, 2))
        assert sorted(part.index for part in world.pool._parts) == [0, 1, 2]

    def test_the_state_is_the_worst_and_includes_new_parts_after_their_first_outcome(self) -> None:
        world = World(Random(1), (1, 1))
        assert world.pool.state.name == "disconnected"
        world.settle()
        assert world.pool.state.name == "connected"
        world.pool.resize((1, 2))
        new = world.pool._parts[-1]
        new.client.on_state(State("connecting"))
        assert world.pool.state.name == "connected"
        new.client.on_state(State("disrupted", ConnectionError("refused")))
        assert world.pool.state.name == "disrupted"
        assert world.pool.parts[new.index].name == "disrupted"
        new.client.on_state(State("connected", session_present=False))
        assert world.pool.state.name == "connected"

    def test_nothing_is_placed_on_a_part_that_cannot_connect(self) -> None:
        world = World(Random(1), (1, 2))
        refused = world.pool._parts[-1]
        world.soon.pop()  # it never connects
        refused.client.on_state(State("disrupted", ConnectionError("refused")))
        world.pool.subscribe_nowait([(f"t/{number}", 1) for number in range(10)])
        assert world.pool.places.on(refused) == []

    def test_a_full_pool_still_asks_the_server(self) -> None:
        world = World(Random(1), (1, 1), most_filters=3)
        world.pool.subscribe_nowait([(f"t/{number}", 1) for number in range(5)])
        assert len(world.pool.places) == 5

    def test_an_automatic_pool_grows_with_its_filters(self) -> None:
        world = World(Random(1), "auto", most_filters=3)
        world.pool.subscribe_nowait([(f"t/{number}", 1) for number in range(8)])
        assert [world.pool.places.count(part) for part in world.pool._receiving()] == [3, 3, 2]

    def test_overlapping_filters_are_placed_on_one_part(self) -> None:
        world = World(Random(1), (1, 3))
        world.pool.subscribe_nowait([("a/b", 1), ("c", 1), ("a/+", 1)])
        of = {name: place.part for name in ("a/b", "c", "a/+") if (place := world.pool.places.get(name))}
        assert of["a/b"] is of["a/+"] is not of["c"]

    def test_the_owner_of_a_message_gets_the_highest_requested_qos(self) -> None:
        world = World(Random(1), (1, 2), most_filters=1)
        world.pool.subscribe_nowait([("a/b", 0)])
        world.settle()
        world.pool.subscribe_nowait([("a/+", 1)])
        world.settle()
        owner = world.pool.places.get("a/b")
        assert owner is not None
        assert owner.part is not None
        assert owner.part.client.filters == {"a/b": 1}

    def test_a_shared_subscription_brings_each_message_once_over_all_parts(self) -> None:
        world = World(Random(3), (1, 3))
        answer = world.pool.subscribe_nowait([("$share/g/t/#", 1)])
        world.settle()
        assert answer.result() == [1]
        world.pool.resize((1, 4))
        world.settle()
        for number in range(200):
            world.pool.publish_nowait(f"t/{number % 5}", b"%d" % number, 1, False)
        world.settle()
        assert sorted(number for numbers in world.delivered.values() for number in numbers) == list(range(200))
        receiving = world.pool._receiving()
        assert len(receiving) == 4
        assert all(part.processed > 20 for part in receiving)
        gone = world.pool.unsubscribe_nowait(["$share/g/t/#"])
        world.settle()
        assert gone.done()
        assert all(not part.client.filters for part in receiving)

    @pytest.mark.parametrize("size", [(1, 1), (1, 2)])
    def test_the_parts_that_receive_have_the_shared_subscriptions_and_no_others(self, size: tuple[int, int]) -> None:
        world = World(Random(4), size)
        world.pool.subscribe_nowait([("$share/g/t", 1)])
        world.settle()
        for number, connections in enumerate((1, size, 1, size)):
            world.pool.resize(connections)
            world.settle()
            for part in world.pool._parts:
                assert list(part.client.filters) == (["$share/g/t"] if part.receives else [])
            world.pool.publish_nowait("t", b"%d" % number, 1, False)
            world.settle()
            assert world.delivered["t"] == list(range(number + 1))
        world.pool.resize(1)
        gone = world.pool.unsubscribe_nowait(["$share/g/t"])
        world.settle()
        assert gone.done()
        assert not any(part.client.filters or part.shared for part in world.pool._parts)

    @pytest.mark.parametrize("seed", range(20))
    def test_a_shared_subscription_always_has_a_part(self, seed: int) -> None:
        """The server drops a message while nobody has the subscription."""
        world = World(Random(seed), 1)
        world.pool.subscribe_nowait([("$share/g/t", 1)])
        world.settle()
        for size in ((1, 1), 1, (1, 1)):
            world.pool.resize(size)
            while world.step():
                assert any(link.is_open and link.filters for link in world.links)

    @pytest.mark.parametrize("seed", range(20))
    def test_closing_a_connection_loses_no_message_of_a_shared_subscription(self, seed: int) -> None:
        """Also not those that the server still holds for it, because too many are in flight."""
        world = World(Random(seed), (1, 3))
        world.pool.subscribe_nowait([("$share/g/t", 1)])
        world.settle()
        for number in range(300):
            world.pool.publish_nowait("t", b"%d" % number, 1, False)
        for _ in range(400):
            world.step()
        world.pool.resize((1, 1))
        world.settle()
        assert sorted(world.delivered["t"]) == list(range(300))
        assert len(world.gone) == 2

    @pytest.mark.parametrize("filters", [[], [("$share/g/t", 1)]])
    def test_a_connection_whose_closing_was_interrupted_is_closed(self, filters: list[tuple[str, int]]) -> None:
        for step in count():
            world = World(Random(1), (1, 2))
            world.pool.subscribe_nowait(filters)
            world.settle()
            with world.pool.lock:
                world.pool._parts[-1].is_retiring = True
            is_interrupted = interrupt(step, world.pool.look_over)
            world.settle()
            world.pool.look_over()  # as every second
            world.settle()
            assert [part.index for part in world.pool._parts] == [0, 1], step
            if not is_interrupted:
                break
        assert step > 10

    def test_a_signal_handler_inside_the_pool_is_refused(self) -> None:
        from mqttws import WouldDeadlock

        world = World(Random(1), (1, 1))
        with world.pool.lock, pytest.raises(WouldDeadlock):
            world.pool.publish_nowait("t", b"", 0, False)
