"""The number of function calls for one message, counted in a separate process, since a profiler counts everything."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

#: Way -> the maximum number of calls of Python functions: by the caller, and in all threads.
MOST = {
    "pubsub publish, QoS 0": (25, 25),
    "pubsub publish of JSON, QoS 0": (27, 27),
    "pubsub publish, QoS 1": (30, 145),
    "pubsub publish_nowait, QoS 0": (75, 75),
}


@pytest.fixture(scope="module")
def counted() -> dict[str, tuple[int, int]]:
    done = subprocess.run(
        [sys.executable, "benchmarks/calls.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=True,
    )
    found = {}
    for line in done.stdout.splitlines()[2:]:
        by_caller, _, in_all, _ = map(int, line[34:].split())
        found[line[:34].strip()] = by_caller, in_all
    return found


@pytest.mark.parametrize("way", MOST)
def test_the_calls_of_one_message(counted: dict[str, tuple[int, int]], way: str) -> None:
    assert counted[way][0] <= MOST[way][0]
    assert counted[way][1] <= MOST[way][1]
