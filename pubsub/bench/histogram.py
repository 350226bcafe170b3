"""A histogram of durations in constant memory, whose quantiles have a known relative error.

The buckets are log-linear, as in HdrHistogram: each power of two is divided into 128 equal parts. A value below 256
has a separate bucket. Any other value is identified by its eight leading bits, so that the width of a bucket is at most
1/128 of its values, and its middle differs from them by at most 1/256 (`RELATIVE_ERROR`). The count, the minimum, the
maximum and the sum are exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

#: The number of leading bits that identify a value.
_BITS = 8
_HALF = 1 << (_BITS - 1)
#: The largest value, 19.5 hours in nanoseconds; larger ones are counted as this.
LARGEST = (1 << 46) - 1
#: The maximum relative error of a quantile.
RELATIVE_ERROR = 1 / (1 << _BITS)


def _bucket_of(value: int) -> int:
    """Return the number of the bucket of a value, 0 to `LARGEST`."""
    shift = value.bit_length() - _BITS
    return value if shift <= 0 else shift * _HALF + (value >> shift)


def _bounds_of(bucket: int) -> tuple[int, int]:
    """Return the least and the greatest value of a bucket."""
    if bucket < 2 * _HALF:
        return bucket, bucket
    shift, rest = divmod(bucket, _HALF)
    least = (rest + _HALF) << (shift - 1)
    return least, least + (1 << (shift - 1)) - 1


_BUCKETS = _bucket_of(LARGEST) + 1


class Histogram:
    """A histogram of values from 0 to `LARGEST`, usually nanoseconds.

    Attributes:
        count: The number of values.
        total: Their sum.
        least: The minimum; 0 without values.
        greatest: The maximum; 0 without values.
    """

    __slots__ = ("_counts", "count", "greatest", "least", "total")

    def __init__(self) -> None:
        self._counts = [0] * _BUCKETS
        self.count = self.total = self.least = self.greatest = 0

    def record(self, value: int) -> None:
        """Count a value. One below 0 counts as 0, one above `LARGEST` as `LARGEST`."""
        if value < 0:
            value = 0
        elif value > LARGEST:
            value = LARGEST
        shift = value.bit_length() - _BITS
        self._counts[value if shift <= 0 else shift * _HALF + (value >> shift)] += 1
        if value > self.greatest:
            self.greatest = value
        if value < self.least or not self.count:
            self.least = value
        self.count += 1
        self.total += value

    def merge(self, other: Histogram) -> None:
        """Add the values of another histogram."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.greatest = max(self.greatest, other.greatest)
        self.count += other.count
        self.total += other.total
        for bucket, count in enumerate(other._counts):
            if count:
                self._counts[bucket] += count

    def mean(self) -> float:
        """Return the exact mean; 0 without values."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, part: float) -> int:
        """Return the value at a rank.

        Args:
            part: 0 to 1; 0.99 means the smallest value that 99 % of all values do not exceed.

        Returns:
            That value, with a relative error of at most `RELATIVE_ERROR`; 0 if there is no value.

        Raises:
            ValueError: `part` is out of its range.
        """
        if not 0 <= part <= 1:
            raise ValueError(f"part is {part}; it must be 0 to 1")
        rank = max(1, ceil(part * self.count))
        if rank >= self.count:
            return self.greatest
        for least, greatest, count in self.buckets():
            rank -= count
            if rank <= 0:
                return min(max((least + greatest) // 2, self.least), self.greatest)
        return 0

    def counts(self) -> list[int]:
        """Return the number of values of each bucket, up to the last that is not empty."""
        last = _bucket_of(self.greatest) + 1 if self.count else 0
        return self._counts[:last]

    def buckets(self) -> Iterator[tuple[int, int, int]]:
        """Yield each bucket that is not empty, in ascending order: its least value, its greatest value, its count."""
        for bucket, count in enumerate(self._counts):
            if count:
                yield *_bounds_of(bucket), count
