"""The token bucket: never more than the rate and the burst allow, whatever the times are."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import TokenBucket

STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 5)), max_size=60)


@given(st.floats(0.5, 50), st.floats(1, 20), STEPS)
def test_no_interval_has_more_than_the_rate_and_the_burst(
    rate: float, burst: float, steps: list[tuple[float, int]]
) -> None:
    bucket, now, taken = TokenBucket(rate, burst), 1_000.0, []
    for pause, count in steps:
        now += pause
        if bucket.take(now, count):
            taken.append((now, count))
    for index, (start, _) in enumerate(taken):
        total = 0
        for at, count in taken[index:]:
            total += count
            assert total <= burst + (at - start) * rate + 1e-6


@given(st.floats(0.5, 50), st.floats(1, 20), STEPS)
def test_when_it_says_that_tokens_are_there_they_are(rate: float, burst: float, steps: list[tuple[float, int]]) -> None:
    bucket, now = TokenBucket(rate, burst), 5.0
    for pause, count in steps:
        now += pause
        bucket.spend(now, count)
        ready = bucket.ready_at(now)
        assert ready >= now
        assert bucket.available(ready) >= min(1.0, burst) - 1e-6
        if ready > now:
            assert TokenBucket(rate, burst).ready_at(now) == now
        now = ready


def test_a_debt_is_bounded_and_time_never_goes_back() -> None:
    bucket = TokenBucket(10, 2)
    for _ in range(100):
        bucket.spend(0.0)
    assert bucket.available(0.0) == -2
    assert bucket.ready_at(0.0) == pytest.approx(0.3)
    assert not bucket.take(0.2)
    assert bucket.available(0.1) == bucket.available(0.2)
    assert bucket.take(0.31)


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1)])
def test_rates_that_are_none(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        TokenBucket(rate, burst)
