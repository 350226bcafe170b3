"""What became slower than the JSON that is kept: `make bench-compare`.

    python benchmarks/compare.py benchmarks/results.json new.json

Each figure of ours is compared as a ratio to the floor of its own run, so that another machine, or a slower hour of
this one, does not count: to the floor in the same case, else to a peer that is no library of ours in the same case,
else to the floor's decoding. Memory is compared as it is. A change is told when it is larger than a tenth and than
the noise: how far the rounds of a run, and the runs, lie apart, in both files together.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from results import MORE_IS_BETTER, Run, find, load

#: Whose figure: (case, library, its name).
Figure = tuple[str, str, str]
#: Changes below this share are noise whatever the rounds say.
LEAST = 0.10


def reference(runs: list[Run], case: str, figure: str) -> Figure | None:
    """Choose a figure that tells the pace of each of the runs; None: the case's does not depend on it, or none does."""
    if figure.startswith("kib"):
        return None
    same_case = ((case, library, figure) for library in ("floor", "paho", "mosquitto"))
    for pace in (*same_case, ("decode_qos0", "floor", "ns")):
        if all(find(run, *pace) is not None for run in runs):
            return pace
    return None


def cost(run: Run, figure: Figure, pace: Figure | None) -> tuple[float, float] | None:
    """Return what a figure costs in units of another, and how far the rounds lie off their middle, as a share."""
    own = find(run, *figure)
    if own is None:
        return None
    value, noise = _less_is_better(own["median"], figure[2]), _half_width(own)
    if pace is not None and (other := find(run, *pace)) is not None:
        value /= _less_is_better(other["median"], pace[2])
        noise += _half_width(other)
    return value, noise


def _less_is_better(value: float, figure: str) -> float:
    return 1 / value if figure in MORE_IS_BETTER else value


def _half_width(figure: dict[str, float]) -> float:
    return (figure["greatest"] - figure["least"]) / figure["median"] / 2


def cost_of_all(runs: list[Run], figure: Figure, pace: Figure | None) -> tuple[float, float] | None:
    """Return the same of several runs: the middle, and the noise within the runs or between them, the greater one."""
    found = [each for run in runs if (each := cost(run, figure, pace)) is not None]
    if not found:
        return None
    costs = [each[0] for each in found]
    median, within = statistics.median(costs), statistics.median(each[1] for each in found)
    return median, max(within, (max(costs) - min(costs)) / median / 2)


def slower(old: list[Run], new: list[Run]) -> list[str]:
    """List what became slower by more than the noise."""
    figures = sorted(
        {
            (case, library, figure)
            for run in new
            for case, by_library in run["cases"].items()
            for library, known in by_library.items()
            if library.startswith("mqttws")
            for figure in known
        }
    )
    found = []
    for case, library, figure in figures:
        pace = reference(old + new, case, figure)
        before, after = (cost_of_all(runs, (case, library, figure), pace) for runs in (old, new))
        if before is None or after is None:
            continue
        change, noise = after[0] / before[0] - 1, before[1] + after[1]
        if change > max(LEAST, noise):
            found.append(f"{case} ({library}, {figure}): {change:+.0%}, noise {noise:.0%}")
    return found


def main() -> None:
    """Compare two files; the exit status is 1 where something became slower."""
    old, new = (load(Path(name)) for name in sys.argv[1:3])
    found = slower(old, new)
    print("\n".join(found) if found else "nothing became slower by more than the noise")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
