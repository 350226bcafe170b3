"""A bounded cache of checked values, which a stream of new keys cannot flush.

A program publishes to few topics many times, but a peer may send a new topic each time. A key is therefore admitted
only when it is offered for the second time, and no entry is evicted to admit one. A full cache rejects new keys; after
`PATIENCE` times its size of rejected keys it is cleared, so that it adapts to a program that now uses other topics.

The table is a plain dict, because that is the fastest lookup for the hot loops. Threads may share a cache: each step
is one operation on the dict, and two threads that offer the same key at the same time do no harm.
"""

from __future__ import annotations

from mqttws.hints import Final, Generic, TypeVar

K = TypeVar("K", bound="str | bytes")
V = TypeVar("V")

#: The size of the first table of keys seen once, which has one byte for each slot. When half of the slots may be in
#: use, a new table follows, with two slots for each key that the cache can hold. The previous table is still searched.
_FIRST_SLOTS: Final = 1 << 12
#: How many keys a full cache rejects before it is cleared, as a multiple of its size.
PATIENCE: Final = 8


class Memory(Generic[K, V]):
    """A bounded dict with admission.

    Args:
        size: The maximum number of keys.
        most: The maximum length of all keys together.

    Attributes:
        table: The cached values by key; read-only for callers.
    """

    __slots__ = ("_held", "_marks", "_most", "_seen", "_seen_before", "_size", "_slots", "_turned_away", "table")

    def __init__(self, size: int, most: int) -> None:
        self.table: dict[K, V] = {}
        self._size = size
        self._most = most
        self._held = 0  # the length of all keys
        self._slots = max(_FIRST_SLOTS, 1 << (2 * size - 1).bit_length())  # the size of each later table
        self._seen = bytearray()
        self._seen_before = bytearray(1)  # the previous table; at first one without a mark
        self._marks = 0  # how many slots of `_seen` have been written
        self._turned_away = 0

    def clear(self) -> None:
        """Remove all values. A key that has been offered before is cached immediately when it is offered again."""
        self._turned_away = self._held = 0
        self.table.clear()

    def offer(self, key: K, value: V) -> None:
        """Cache a value if its key has been offered before and the cache is not full."""
        if len(self.table) >= self._size or self._held + len(key) > self._most:
            self._turned_away += 1
            if self._turned_away < self._size * PATIENCE:
                return
            self.clear()
        # A key has two slots. If only one were possible, two keys with the same slot, which are used by turns, would
        # replace each other's mark for ever: one key in seven of 10,000. For the same reason, a key whose slots are
        # both in use takes one or the other by turns.
        seen, before = self._seen, self._seen_before  # once: another thread may begin a new table
        if not seen:
            seen = self._seen = bytearray(_FIRST_SLOTS)
        digest, mask = hash(key), len(seen) - 1
        slot, other, mark = digest & mask, digest >> 20 & mask, digest >> 40 & 0x7F | 0x80
        if seen[slot] != mark and seen[other] != mark:
            mask = len(before) - 1
            if before[digest & mask] != mark and before[digest >> 20 & mask] != mark:
                seen[slot if not seen[slot] or (seen[other] and self._marks & 1) else other] = mark
                self._marks += 1
                if self._marks > len(seen) // 2:
                    self._seen_before = seen
                    self._seen = bytearray(self._slots)
                    self._marks = 0
                return
        if key not in self.table:
            self._held += len(key)
        self.table[key] = value
