"""The instruction counts: every case runs, and cases that cost more are named."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import instructions


@pytest.mark.parametrize("case", instructions.CASES)
def test_each_case_can_be_repeated(case: str) -> None:
    step = instructions.CASES[case]()
    for _ in range(3):
        step()


@pytest.mark.parametrize(
    ("now", "named"),
    [
        ({"a": 1_000.0, "b": 200.0}, []),
        ({"a": 1_030.0, "b": 200.0}, []),  # 3 % exactly
        ({"a": 1_031.0, "b": 100.0}, ["a: 1,031 instructions, +3.1%"]),
        ({"b": 300.0}, ["b: 300 instructions, +50.0%"]),  # only some were counted
    ],
)
def test_what_costs_over_three_percent_more_is_named(now: dict[str, float], named: list[str]) -> None:
    assert instructions.compare({"instructions": {"a": 1_000.0, "b": 200.0}}, now) == named
