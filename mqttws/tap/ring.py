"""A bounded buffer of the most recent records."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from mqttws.tap.record import Record

#: The approximate memory overhead of a record, in bytes.
_EACH: Final = 600


class Ring:
    """A buffer of the most recent records.

    Args:
        keep: The approximate maximum bytes of memory; at least the last record is kept.

    Attributes:
        dropped: The number of records that were dropped.
    """

    def __init__(self, keep: int = 64 * 1024 * 1024) -> None:
        self._keep = keep
        self._records: deque[Record] = deque()
        self._size = 0
        self.dropped = 0

    def add(self, records: Iterable[Record]) -> None:
        """Add records, and drop the oldest ones to make space.

        Args:
            records: The records, in the order of their numbers.
        """
        for record in records:
            self._records.append(record)
            self._size += len(record.data) + _EACH
        while self._size > self._keep and len(self._records) > 1:
            self._size -= len(self._records.popleft().data) + _EACH
            self.dropped += 1

    def since(self, number: int) -> list[Record]:
        """Return the records after one, oldest first.

        Args:
            number: The number of that record; 0 for all records.
        """
        found = []
        for record in reversed(self._records):
            if record.number <= number:
                break
            found.append(record)
        return found[::-1]

    def get(self, number: int) -> Record | None:
        """Return the record with a number, or None if it is not kept.

        Args:
            number: The number.
        """
        if not self._records:
            return None
        place = number - self._records[0].number
        if not 0 <= place < len(self._records):
            return None
        found = self._records[place]
        return found if found.number == number else next((one for one in self._records if one.number == number), None)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)
