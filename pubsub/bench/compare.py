"""The comparison of two brokers under the same load: alternate runs, and ratios with their confidence intervals.

The runs are in pairs: A and B, then B and A, and so on, so that a change of the machine's speed affects both equally.
For each metric the logarithms of the ratios B / A of the rounds are averaged. The interval is the 95 % interval of
Student's t-distribution. If it contains 1, no difference is shown. A 0 in any round has no logarithm: then there is no
ratio, only both medians.
"""

from __future__ import annotations

import statistics
from math import exp, log, sqrt
from typing import Any, NamedTuple

#: The default number of rounds.
ROUNDS = 5
#: Metric -> its name in the text, and whether a higher value is better.
FIGURES: dict[str, tuple[str, bool]] = {
    "published": ("published per second", True),
    "acknowledged": ("acknowledged per second", True),
    "delivered": ("delivered per second", True),
    "lost": ("deliveries lost, %", False),
    "p50": ("latency p50, ms", False),
    "p99": ("latency p99, ms", False),
    "connecting": ("connecting p50, ms", False),
    "connected": ("connections per second", True),
    "returning": ("back p99, ms", False),
    "all_back": ("all back, s", False),
}
#: The 97.5th percentile of Student's t, by degrees of freedom from 1. For more, the last makes the interval too wide.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
)


class Ratio(NamedTuple):
    """The ratio of a metric, B / A.

    Attributes:
        ratio: The geometric mean of the rounds.
        low: The lower bound of the 95 % interval; None with one round.
        high: The upper bound.
    """

    ratio: float
    low: float | None
    high: float | None

    @property
    def shows_difference(self) -> bool:
        """Whether the interval does not contain 1."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high


def order(rounds: int) -> list[int]:
    """Return the sequence of the runs: 0 for A, 1 for B."""
    return [turn for number in range(rounds) for turn in ((0, 1) if number % 2 == 0 else (1, 0))]


def figures(document: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a run that are compared, without those that are missing."""
    rates = {
        name: document["throughput"][f"{name}_per_second"]
        for name in ("published", "acknowledged", "delivered", "connected")
    }
    messages, latency, returning = document["messages"], document["latency"], document["returning"]
    found = rates | {
        "lost": 100 * messages["lost"] / messages["expected"] if messages["expected"] else None,
        "p50": latency["p50_ms"],
        "p99": latency["p99_ms"],
        "connecting": document["connections"]["connecting"]["p50_ms"],
        "returning": returning["p99_ms"],
        "all_back": returning["all_back_seconds"],
    }
    return {name: value for name, value in found.items() if value is not None}


def ratio_of(pairs: list[tuple[float, float]]) -> Ratio:
    """Return the ratio of a metric, given a pair (A, B) for each round; at least one pair, all values above 0."""
    logarithms = [log(b / a) for a, b in pairs]
    mean = statistics.fmean(logarithms)
    if len(pairs) < 2:
        return Ratio(exp(mean), None, None)
    t = _T[min(len(pairs) - 1, len(_T)) - 1]
    half = t * statistics.stdev(logarithms) / sqrt(len(pairs))
    return Ratio(exp(mean), exp(mean - half), exp(mean + half))


def compared(runs: tuple[list[dict[str, float]], list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Compare the runs of both brokers.

    Args:
        runs: The metrics of A's runs and of B's, in the order of the rounds.

    Returns:
        Metric -> both medians, the ratio with its interval (None if a value is 0), and the better one: "A", "B", or
        "none" if no difference is shown. A metric that is 0 in all runs is omitted.
    """
    found: dict[str, dict[str, Any]] = {}
    for name, (_, more_is_better) in FIGURES.items():
        pairs = [(a[name], b[name]) for a, b in zip(*runs, strict=False) if name in a and name in b]
        if not any(a or b for a, b in pairs):
            continue
        ratio = ratio_of(pairs) if all(a and b for a, b in pairs) else None
        better = "none"
        if ratio is not None and ratio.shows_difference:
            better = "B" if (ratio.ratio > 1) is more_is_better else "A"
        found[name] = {
            "a": statistics.median(a for a, _ in pairs),
            "b": statistics.median(b for _, b in pairs),
            "rounds": len(pairs),
            **(dict.fromkeys(Ratio._fields) if ratio is None else ratio._asdict()),
            "better": better,
        }
    return found


def as_text(document: dict[str, Any]) -> str:
    """Return a comparison as text."""
    lines = [f"A  {document['url']}", f"B  {document['other_url']}", ""]
    lines.append(f"{'':<24}{'A':>12}{'B':>12}{'B / A':>9}   95 % interval")
    for name, found in document["figures"].items():
        ratio = "–" if found["ratio"] is None else f"{found['ratio']:.3f}"
        interval = "–" if found["low"] is None else f"{found['low']:.3f} to {found['high']:.3f}"
        better = "" if found["better"] == "none" else f"   {found['better']} is better"
        lines.append(f"{FIGURES[name][0]:<24}{found['a']:>12,.4g}{found['b']:>12,.4g}{ratio:>9}   {interval}{better}")
    lines += [f"{letter}: {said}" for letter, problems in document["problems"].items() for said in problems]
    return "\n".join(lines) + "\n"
