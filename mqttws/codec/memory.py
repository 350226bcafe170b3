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

#: The first and the largest size of the table of keys seen once, which has one byte for each slot. When half of the
#: slots may be in use, an empty table of four times the size takes its place, or finally one of the same size.
_FIRST_SLOTS: Final = 1 << 12
_MOST_SLOTS: Final = 1 << 18
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

    __slots__ = ("_held", "_marks", "_most", "_seen", "_size", "_turned_away", "table")

    def __init__(self, size: int, most: int) -> None:
        self.table: dict[K, V] = {}
        self._size = size
        self._most = most
        self._held = 0  # the length of all keys
        self._seen = bytearray()
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
        # replace each other's mark for ever: one key in seven of 10,000.
        seen = self._seen  # once: another thread may begin a new table
        if not seen:
            seen = self._seen = bytearray(_FIRST_SLOTS)
        digest, mask = hash(key), len(seen) - 1
        slot, other, mark = digest & mask, digest >> 20 & mask, digest >> 40 & 0x7F | 0x80
        if seen[slot] == mark or seen[other] == mark:
            self.table[key] = value
            self._held += len(key)
            return
        seen[other if seen[slot] else slot] = mark
        self._marks += 1
        if self._marks > len(seen) // 2:
            self._seen = bytearray(min(4 * len(seen), _MOST_SLOTS))
            self._marks = 0
