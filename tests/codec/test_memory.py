"""The cache of topics: admission, eviction, and that a client cannot flush it for others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttws.codec.memory import _FIRST_SLOTS, PATIENCE, Memory


def offer(memory: Memory[str, int], *keys: int) -> None:
    for key in keys:
        memory.offer(str(key), key)


def offer_twice(memory: Memory[str, int], *keys: int) -> None:
    offer(memory, *keys, *keys)


def test_a_key_is_cached_when_it_is_seen_again() -> None:
    memory: Memory[str, int] = Memory(4, 100)
    offer(memory, 1)
    assert memory.table == {}
    offer(memory, 1)
    assert memory.table == {"1": 1}


def test_a_key_that_is_offered_again_is_counted_once() -> None:
    memory: Memory[str, int] = Memory(4, 2)
    offer(memory, 1, 1, 1)
    memory.offer("1", 3)
    assert memory.table == {"1": 3}
    offer_twice(memory, 2)
    assert memory.table == {"1": 3, "2": 2}


def test_new_keys_evict_nothing() -> None:
    memory: Memory[str, int] = Memory(2, 100)
    offer_twice(memory, 1, 2)
    offer(memory, *range(3, 3 + 2 * PATIENCE - 1))
    assert memory.table == {"1": 1, "2": 2}


def test_a_full_cache_is_cleared_after_a_while() -> None:
    memory: Memory[str, int] = Memory(2, 100)
    offer_twice(memory, 1, 2)
    offer(memory, *[9] * (2 * PATIENCE + 1))
    assert memory.table == {"9": 9}


def test_a_cleared_cache_is_filled_again_at_once() -> None:
    memory: Memory[str, int] = Memory(2, 2)
    offer_twice(memory, 1, 2)
    memory.clear()
    assert memory.table == {}
    offer(memory, 1, 2)
    assert memory.table == {"1": 1, "2": 2}


def test_keys_are_bounded_by_their_length_together() -> None:
    memory: Memory[str, int] = Memory(100, 10)
    offer_twice(memory, *range(100_000, 100_004))
    assert memory.table == {"100000": 100_000}
    offer(memory, *[5] * 2)
    assert memory.table == {"100000": 100_000, "5": 5}
    offer(memory, *[200_000] * (100 * PATIENCE + 1))  # cleared, and then there is space again
    offer_twice(memory, 3)
    assert memory.table == {"200000": 200_000, "3": 3}


def missing(memory: Memory[str, int], keys: range) -> list[int]:
    """Offer the keys that are not cached, and return them."""
    keys_missing = [key for key in keys if str(key) not in memory.table]
    offer(memory, *keys_missing)
    return keys_missing


def test_keys_that_are_used_by_turns_are_all_cached() -> None:
    """Two keys with the same slots do not replace each other's mark for ever."""
    memory: Memory[str, int] = Memory(16_384, 1 << 20)
    for _ in range(5):
        missing(memory, range(16_000))
    assert len(memory.table) > 15_950


def test_no_mark_is_lost_when_a_larger_table_of_marks_follows() -> None:
    memory: Memory[str, int] = Memory(131_072, 1 << 20)
    missing(memory, range(5_000))
    assert len(memory._seen_before) == _FIRST_SLOTS < len(memory._seen)
    missing(memory, range(5_000))
    assert len(memory.table) > 4_500  # of two keys with the same slots, one may still lose its mark


def test_new_keys_do_not_keep_others_out_for_ever() -> None:
    """Marks are removed before they fill the table, where each key would seem to have been seen."""
    memory: Memory[str, int] = Memory(32_768, 1 << 30)
    offer(memory, 0)
    assert len(memory._seen) == _FIRST_SLOTS
    offer(memory, *range(1, 200_000))
    assert len(memory._seen) == len(memory._seen_before) == 65_536
    assert len(memory.table) < 4_000  # a mark of one byte is that of another key, rarely
    assert max(sum(map(bool, seen)) for seen in (memory._seen, memory._seen_before)) <= 32_768
    offer_twice(memory, -1)
    assert memory.table["-1"] == -1


def test_the_table_of_marks_is_not_larger_than_the_cache_needs() -> None:
    memory: Memory[str, int] = Memory(5_000, 1 << 20)
    offer(memory, *range(20_000))
    assert len(memory._seen) == len(memory._seen_before) == 16_384


@given(st.lists(st.integers(0, 30)), st.integers(1, 5), st.integers(2, 9))
def test_it_is_bounded_and_right(keys: list[int], size: int, most: int) -> None:
    memory: Memory[str, int] = Memory(size, most)
    for key in keys:
        offer(memory, key)
        assert len(memory.table) <= size
        assert sum(map(len, memory.table)) <= most
        assert all(str(value) == known for known, value in memory.table.items())
