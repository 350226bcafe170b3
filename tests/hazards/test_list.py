"""The list of hazards in docs/reliability.md is complete, and each test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = re.findall(
    r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$",
    (ROOT / "docs" / "reliability.md").read_text().partition("## Hazards")[2],
    re.M,
)


def test_the_list_is_complete() -> None:
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 41))
    assert len({hazard for _, hazard, _ in ROWS}) == 40


@pytest.mark.parametrize(("hazard", "shown"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_the_tests_of_a_row_exist(hazard: str, shown: str) -> None:
    named = re.findall(r"`([\w/]+\.py)::(\w+)`", shown)
    assert named or shown.startswith("not tested: "), f"{hazard}: neither a test nor a reason"
    for path, name in named:
        text = (ROOT / "tests" / path).read_text()
        assert re.search(rf"(def {name}\(|^{name} = |class {name}\b)", text, re.M), f"{path} has no {name}"
