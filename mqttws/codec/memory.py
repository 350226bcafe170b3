"""A bounded memory of what was checked lately, which a stream of new keys cannot empty.

A program publishes to few topics many times, and a peer may send a new one each time. So a key is taken in when it is
seen for the second time, and nothing is put out for it while there is room. Once full, the memory keeps what it has
through `PATIENCE` further keys, and then begins anew, so that it follows a program that has moved on to other topics.

The table itself is a plain dict, because that is what the hot loops look things up in fastest. Threads may share a
memory: each step on the dict is one operation, and two threads that offer the same key at once do no harm.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Slots of the table of keys seen once: one byte each.
_SLOTS: Final = 1 << 16
#: How many keys are turned away by a full memory before it begins anew, as a multiple of what it holds.
PATIENCE: Final = 8


class Memory(Generic[K, V]):
    """A bounded dict with admission.

    Args:
        size: how many keys it holds at the most.

    Attributes:
        table: what is remembered; to be read only.
    """

    __slots__ = ("_seen", "_size", "_turned_away", "table")

    def __init__(self, size: int) -> None:
        self.table: dict[K, V] = {}
        self._size = size
        self._seen = bytearray()
        self._turned_away = 0

    def offer(self, key: K, value: V) -> None:
        """Remember a value, if its key has been offered before and there is room."""
        if len(self.table) >= self._size:
            self._turned_away += 1
            if self._turned_away < self._size * PATIENCE:
                return
            self._turned_away = 0
            self.table.clear()
        digest = hash(key)
        slot, mark = digest & (_SLOTS - 1), digest >> 16 & 0x7F | 0x80
        if not self._seen:
            self._seen = bytearray(_SLOTS)
        if self._seen[slot] != mark:
            self._seen[slot] = mark
            return
        self.table[key] = value
