"""Which part a topic is published through. No input or output.

A topic falls into one of a fixed number of slots by its hash, and each slot belongs to one part: so the table is
bounded, however many topics there are, and all messages of a topic leave through one connection, in order.

The one idea: a slot is moved only while none of its messages is on its way. Until then it stays where it is, so that
what is published later cannot overtake what was published before. Adding a part moves slots to it alone, removing one
moves only what it had.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar
from zlib import crc32

__all__ = ["Slots"]

P = TypeVar("P", bound=Hashable)

#: How many slots there are: enough for some hundred parts to have nearly equal shares.
COUNT = 4096


class Slots(Generic[P]):
    """The table of slots.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int = COUNT) -> None:
        self._count = count
        self._owner: list[P] = []  # by slot: through which messages leave now
        self._wanted: list[P] = []  # by slot: through which they are to leave as soon as it is idle
        self._pending = [0] * count
        self._owned: dict[P, int] = {}  # how many slots each part owns, those that wait to leave it included
        self._parts: list[P] = []

    @property
    def parts(self) -> tuple[P, ...]:
        """The parts that slots are given to."""
        return tuple(self._parts)

    def owned(self, part: P) -> int:
        """Return how many slots a part owns."""
        return self._owned.get(part, 0)

    def slot(self, topic: str) -> int:
        """Return the slot of a topic, the same in each process."""
        return crc32(topic.encode()) % self._count

    def begin(self, slot: int) -> P:
        """Note that a message of a slot is about to be published. Return through which part.

        Raises:
            LookupError: There is no part.
        """
        if not self._owner:
            raise LookupError("there is no part to publish through")
        self._pending[slot] += 1
        return self._owner[slot]

    def done(self, slot: int) -> P | None:
        """Note that a message is complete, or has failed. Return the part that has no slot any more by that."""
        self._pending[slot] -= 1
        return self._settle(slot)

    def add(self, part: P) -> None:
        """Give a part its share of the slots."""
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
            ValueError: It is the only one.
        """
        if self._parts == [part]:
            raise ValueError("the last part cannot be removed")
        if part in self._parts:
            self._parts.remove(part)
            self._share(None)
        return self.owned(part) == 0

    def _share(self, newcomer: P | None) -> None:
        """Move to a newcomer what the others have too much of; or to the others what is left by one that is gone."""
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
        """Move a slot where it is wanted, if it is idle."""
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
