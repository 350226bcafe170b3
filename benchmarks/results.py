"""Read the JSON of `run_peers.py`, which contains complete runs with their figures, and query it.

Each run contains the medians of its rounds. Of several runs, in one file or several, the median counts again.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Run = dict[str, Any]

#: Figures for which more is better; for all others less is.
MORE_IS_BETTER = {"rate", "mib_s"}

#: Case -> the base case, for libraries without such a variant, which have only asyncio or only threads.
BASE_CASE = {
    "publish_qos0_asyncio": "publish_qos0",
    "publish_qos1_asyncio": "publish_qos1",
    "publish_qos2_asyncio": "publish_qos2",
    "publish_tls_qos0_asyncio": "publish_tls_qos0",
    "publish_tls_qos1_asyncio": "publish_tls_qos1",
    "receive_asyncio": "receive",
    "receive_tls_asyncio": "receive_tls",
    "receive_tls_single_asyncio": "receive_tls_single",
    "echo_qos0_asyncio": "echo_qos0",
    "echo_qos1_asyncio": "echo_qos1",
    "echo_busy_asyncio": "echo_busy",
}


def load(*paths: Path) -> list[Run]:
    """Read the runs of files, in order."""
    return [run for path in paths for run in json.loads(path.read_text())["runs"]]


def find(run: Run, case: str, library: str, figure: str) -> dict[str, float] | None:
    """Return the median, minimum and maximum of the rounds of a run; of the base case if there is no variant."""
    for name in (case, BASE_CASE.get(case, case)):
        found: dict[str, float] | None = run["cases"].get(name, {}).get(library, {}).get(figure)
        if found is not None:
            return found
    return None


def middle(values: Iterable[float | None]) -> float | None:
    """Return the median of the existing values; None if there are none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def median(runs: list[Run], case: str, library: str, figure: str) -> float | None:
    """Return the median of the runs' medians."""
    found = (find(run, case, library, figure) for run in runs)
    return middle(each["median"] for each in found if each is not None)
