"""The histogram of `pubsub bench`: the accuracy of its quantiles, and merging without loss."""

from __future__ import annotations

import sys
from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.bench.histogram import LARGEST, RELATIVE_ERROR, Histogram

#: Equal probability for every magnitude; of uniform nanoseconds most would be hours.
VALUES = st.integers(0, 45).flatmap(lambda bits: st.integers((1 << bits) >> 1, (2 << bits) - 1))
LISTS = st.lists(VALUES, min_size=1, max_size=200)


def of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize(
    ("value", "least", "greatest"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (255, 255, 255),  # the last value with its own bucket
        (256, 256, 257),
        (511, 510, 511),
        (512, 512, 515),
        (1_000_000, 999_424, 1_003_519),
        (LARGEST, LARGEST - (1 << 38) + 1, LARGEST),
    ],
)
def test_which_values_share_a_bucket(value: int, least: int, greatest: int) -> None:
    assert list(of([value]).buckets()) == [(least, greatest, 1)]


def test_the_buckets_cover_everything_once() -> None:
    """The value after each bucket is in the next bucket, so no value is in none or in two."""
    value, buckets = 0, 0
    while value <= LARGEST:
        [(least, greatest, _)] = of([value]).buckets()
        assert least == value
        assert (greatest - least) <= least * 2 * RELATIVE_ERROR
        value, buckets = greatest + 1, buckets + 1
    assert value == LARGEST + 1
    assert buckets == 5_120


@given(LISTS, st.one_of(st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 1.0]), st.floats(0, 1)))
def test_quantiles_have_the_documented_accuracy(values: list[int], part: float) -> None:
    exact = sorted(values)[max(1, ceil(part * len(values))) - 1]
    found = of(values).quantile(part)
    assert abs(Fraction(found) - exact) <= Fraction(RELATIVE_ERROR) * exact


@given(LISTS)
def test_count_minimum_maximum_and_mean_are_exact(values: list[int]) -> None:
    histogram = of(values)
    assert histogram.count == len(values) == sum(count for _, _, count in histogram.buckets())
    assert (histogram.least, histogram.greatest, histogram.total) == (min(values), max(values), sum(values))
    assert histogram.mean() == sum(values) / len(values)
    assert histogram.quantile(1) == max(values)


@given(LISTS, st.lists(VALUES, max_size=50))
def test_merging_equals_counting_all(ones: list[int], others: list[int]) -> None:
    for first, second in ((ones, others), (others, ones)):
        merged = of(first)
        merged.merge(of(second))
        whole = of(ones + others)
        assert list(merged.buckets()) == list(whole.buckets())
        for name in ("count", "total", "least", "greatest"):
            assert getattr(merged, name) == getattr(whole, name)


def test_values_out_of_range_count_at_its_ends() -> None:
    histogram = of([-5, LARGEST + 1, 1 << 80])
    assert (histogram.least, histogram.greatest, histogram.count) == (0, LARGEST, 3)


def test_an_empty_histogram_has_no_quantiles() -> None:
    histogram = Histogram()
    assert (histogram.quantile(0.5), histogram.mean(), list(histogram.buckets())) == (0, 0.0, [])


@pytest.mark.parametrize("part", [-0.1, 1.1, float("nan")])
def test_an_invalid_quantile_is_refused(part: float) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        of([1]).quantile(part)


def test_memory_does_not_grow() -> None:
    histogram = Histogram()
    before = sys.getsizeof(histogram._counts)
    for bits in range(60):
        histogram.record(1 << bits)
    assert sys.getsizeof(histogram._counts) == before
    assert not hasattr(histogram, "__dict__")
