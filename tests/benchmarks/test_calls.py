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
    "pubsub publish of JSON, QoS 0": (28, 28),  # 27 before Python 3.14
    "pubsub publish, QoS 1": (45, 120),
    "pubsub publish_nowait, QoS 0": (75, 75),
    "mqttws.aio publish in 64 tasks": (2_560, 2_560),
    "mqttws.aio 64 with callbacks": (560, 560),
}


def run(script: str) -> str:
    """Run a script of the benchmarks, and return its output. It must exit with 0."""
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def counted() -> dict[str, tuple[int, int]]:
    found = {}
    for line in run("calls.py").splitlines()[2:]:
        by_caller, _, in_all, _ = map(int, line[34:].split())
        found[line[:34].strip()] = by_caller, in_all
    return found


@pytest.mark.parametrize("way", MOST)
def test_the_calls_of_one_message(counted: dict[str, tuple[int, int]], way: str) -> None:
    assert counted[way][0] <= MOST[way][0]
    assert counted[way][1] <= MOST[way][1]


def test_the_calls_of_one_message_in_the_broker() -> None:
    """The script exits with 1 if there are more than its bounds."""
    assert [line.split()[:2] for line in run("broker_calls.py").splitlines()] == [["QoS", "0:"], ["QoS", "1:"]]
