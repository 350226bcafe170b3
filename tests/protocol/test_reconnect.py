"""`Reconnect`: the delays between attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import Reconnect


def test_the_first_attempt_is_immediate_and_the_ceiling_doubles_up_to_the_maximum() -> None:
    policy = Reconnect(initial=1.0, maximum=60.0)
    assert [policy.delay(attempt, 1.0) for attempt in range(9)] == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [policy.delay(attempt, 0.0) for attempt in range(3)] == [0, 0, 0]
    assert policy.delay(4, 0.25) == 2.0


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True), st.floats(0.01, 10), st.floats(10, 1_000))
def test_delays_are_within_bounds_after_any_number_of_attempts(
    attempt: int, random: float, initial: float, maximum: float
) -> None:
    delay = Reconnect(initial=initial, maximum=maximum).delay(attempt, random)
    assert delay is not None
    assert 0 <= delay <= maximum


def test_spread_makes_the_first_delay_random() -> None:
    assert Reconnect(spread=20).delay(0, 0.75) == 15
    assert Reconnect(spread=20).delay(1, 0.5) == 0.5


def test_attempts_limits_the_number() -> None:
    policy = Reconnect(attempts=3)
    assert [policy.delay(attempt, 0.5) for attempt in range(5)] == [0, 0.5, 1, None, None]


@pytest.mark.parametrize(
    "options",
    [
        {"initial": 0},
        {"initial": -1},
        {"initial": 10, "maximum": 5},
        {"attempts": 0},
        {"attempts": -1},
        {"takeovers": 0},
        {"interval": -0.1},
        {"interval": float("nan")},
        {"spread": -1},
        {"spread": float("nan")},
    ],
)
def test_invalid_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"initial|attempts|takeovers|interval|spread"):
        Reconnect(**options)  # type: ignore[arg-type]
