"""The examples run unchanged, with the embedded broker, and print what they should."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

SAYS = {
    "threads": ["answer: {'sum': 6}", "done", "retained: {'unit': '°C'}"],
    "event_loop": ["answer: {'sum': 0}", "answer: {'sum': 2}", "answer: {'sum': 4}", "retained: {'unit': '°C'}"],
    "shards": [
        "connections: 8, state: Connected",
        "more than one connection takes: True",
        "each message once: True",
    ],
    "rx": ["attic: 24.5 °C", "hall: 20 °C", "attic: 23 °C"],
}


@pytest.mark.parametrize("name", SAYS)
def test_each_example_runs(name: str) -> None:
    if name == "rx" and importlib.util.find_spec("reactivex") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("reactivex is not installed")
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", f"examples/{name}.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    end = 0
    for text in SAYS[name]:  # in this order; the end of a line may follow what another thread prints
        begin = done.stdout.find(text, end)
        assert begin >= 0, (text, done.stdout)
        end = begin + len(text)
    if name == "threads":  # another thread reports the states: these lines may be anywhere
        assert "connection: Connected" in done.stdout


PAGE = (ROOT / "docs" / "pubsub.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "block", re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE), ids=lambda block: block[:30]
)
def test_each_block_of_the_page_runs_unchanged(block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-W", "error", "-c", block],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
