"""The table of the connections (parts) of a pool through which topics are published. No I/O.

The hash of a topic selects one of a fixed number of slots, and each slot belongs to one part. So the table is bounded,
however many topics there are, and all messages of a topic are sent through one connection, in order.

A slot is moved only while none of its messages is in flight, so that no message can overtake an earlier one. Adding a
part moves slots only to it; removing a part moves only its slots.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar
from zlib import crc32

__all__ = ["Slots"]

P = TypeVar("P", bound=Hashable)

#: The number of slots: enough for a few hundred parts to have nearly equal shares.
COUNT = 4096


class Slots(Generic[P]):
    """The table of slots.

    Args:
        count: The number of slots.
    """

    def __init__(self, count: int = COUNT) -> None:
        self._count = count
        self._owner: list[P] = []  # by slot: the part that its messages are sent through
        self._wanted: list[P] = []  # by slot: the part that it is moved to as soon as it is idle
        self._pending = [0] * count  # by slot: its messages in flight
        self._owned: dict[P, int] = {}  # the number of slots of each part, including those that are to be moved away
        self._parts: list[P] = []

    @property
    def parts(self) -> tuple[P, ...]:
        """The parts that get slots."""
        return tuple(self._parts)

    def owned(self, part: P) -> int:
        """Return the number of slots of a part."""
        return self._owned.get(part, 0)

    def slot(self, topic: str) -> int:
        """Return the slot of a topic, the same in each process."""
        return crc32(topic.encode()) % self._count

    def begin(self, slot: int) -> P:
        """Record that a message of a slot is about to be published. Return the part to publish it through.

        Raises:
            LookupError: There is no part.
        """
        if not self._owner:
            raise LookupError("there is no part to publish through")
        self._pending[slot] += 1
        return self._owner[slot]

    def done(self, slot: int) -> P | None:
        """Record that a message is complete, or has failed. Return the part that lost its last slot now, if any."""
        self._pending[slot] -= 1
        return self._settle(slot)

    def add(self, part: P) -> None:
        """Add a part, and assign its share of the slots to it."""
        if part in self._parts:
            return
        self._parts.append(part)
        if not self._owner:
            self._owner = [part] * self._count
            self._wanted = list(self._owner)
            self._owned = {part: self._count}
            return
        self._owned.setdefault(part, 0)
        self._share(part)

    def remove(self, part: P) -> bool:
        """Move the slots of a part to the others. Return whether it has none left; otherwise `done` reports it later.

        Raises:
            ValueError: It is the only part.
        """
        if self._parts == [part]:
            raise ValueError("the last part cannot be removed")
        if part in self._parts:
            self._parts.remove(part)
            self._share(None)
        return self.owned(part) == 0

    def _share(self, newcomer: P | None) -> None:
        """Assign slots so that all parts have equal shares.

        Args:
            newcomer: The part that was added; None: a part was removed.
        """
        counts = dict.fromkeys(self._parts, 0)
        homeless = []
        for slot, part in enumerate(self._wanted):
            if part in counts:
                counts[part] += 1
            else:
                homeless.append(slot)
        if newcomer is not None:
            share = self._count // len(self._parts)
            for slot, part in enumerate(self._wanted):
                if counts[newcomer] + len(homeless) >= share:
                    break
                if part in counts and part != newcomer and counts[part] > share:
                    counts[part] -= 1
                    homeless.append(slot)
        for slot in homeless:
            taker = newcomer if newcomer is not None else min(self._parts, key=counts.__getitem__)
            counts[taker] += 1
            self._wanted[slot] = taker
            self._settle(slot)

    def _settle(self, slot: int) -> P | None:
        """Move a slot to the part that is to have it, if it is idle."""
        owner, wanted = self._owner[slot], self._wanted[slot]
        if owner == wanted or self._pending[slot]:
            return None
        self._owner[slot] = wanted
        self._owned[wanted] = self._owned.get(wanted, 0) + 1
        self._owned[owner] -= 1
        if self._owned[owner] or owner in self._parts:
            return None
        del self._owned[owner]
        return owner
