"""The cache of topics: admission, eviction, and that a client cannot flush it for others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mqttws.codec.memory import PATIENCE, Memory


def offer_twice(memory: Memory[int, int], *keys: int) -> None:
    for key in (*keys, *keys):
        memory.offer(key, -key)


def test_a_key_is_cached_when_it_is_seen_again() -> None:
    memory: Memory[int, int] = Memory(4)
    memory.offer(1, -1)
    assert memory.table == {}
    memory.offer(1, -1)
    assert memory.table == {1: -1}


def test_new_keys_evict_nothing() -> None:
    memory: Memory[int, int] = Memory(2)
    offer_twice(memory, 1, 2)
    for key in range(3, 3 + 2 * PATIENCE - 1):
        memory.offer(key, -key)
    assert memory.table == {1: -1, 2: -2}


def test_a_full_cache_is_cleared_after_a_while() -> None:
    memory: Memory[int, int] = Memory(2)
    offer_twice(memory, 1, 2)
    for _ in range(2 * PATIENCE + 1):
        memory.offer(9, -9)
    assert memory.table == {9: -9}


@given(st.lists(st.integers(0, 30)), st.integers(1, 5))
def test_it_is_bounded_and_right(keys: list[int], size: int) -> None:
    memory: Memory[int, int] = Memory(size)
    for key in keys:
        memory.offer(key, -key)
        assert len(memory.table) <= size
        assert all(value == -known for known, value in memory.table.items())
