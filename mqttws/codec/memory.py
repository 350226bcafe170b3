"""A bounded cache of checked values, which a stream of new keys cannot flush.

A program publishes to few topics many times, but a peer may send a new topic each time. A key is therefore admitted
only when it is offered for the second time, and no entry is evicted to admit one. A full cache rejects new keys; after
`PATIENCE` times its size of rejected keys it is cleared, so that it adapts to a program that now uses other topics.

The table is a plain dict, because that is the fastest lookup for the hot loops. Threads may share a cache: each step
is one operation on the dict, and two threads that offer the same key at the same time do no harm.
"""

from __future__ import annotations

from mqttws.hints import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Slots of the table of keys seen once, of one byte each.
_SLOTS: Final = 1 << 16
#: How many keys a full cache rejects before it is cleared, as a multiple of its size.
PATIENCE: Final = 8


class Memory(Generic[K, V]):
    """A bounded dict with admission.

    Args:
        size: The maximum number of keys.

    Attributes:
        table: The cached values by key; read-only for callers.
    """

    __slots__ = ("_seen", "_size", "_turned_away", "table")

    def __init__(self, size: int) -> None:
        self.table: dict[K, V] = {}
        self._size = size
        self._seen = bytearray()
        self._turned_away = 0

    def offer(self, key: K, value: V) -> None:
        """Cache a value if its key has been offered before and the cache is not full."""
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
