"""Find regressions against stored results: `make bench-compare`.

    python benchmarks/compare.py benchmarks/results.json new.json

Each figure is compared as a ratio to the floor of its own run, so that the speed of the machine does not matter: to the
floor in the same case, otherwise to another library in the same case, otherwise to the floor's decoding. Memory is
compared directly. A change is reported if it is larger than 10 % and than the noise, which is the spread of the rounds
of a run and of the runs, in both files together.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

from results import MORE_IS_BETTER, Run, find, load

#: The key of a figure: (case, library, its name).
Figure = tuple[str, str, str]
#: Smaller changes are always noise.
LEAST = 0.10


def reference(runs: list[Run], case: str, figure: str) -> Figure | None:
    """Return a figure of each run to compare with; None if the case does not depend on speed, or there is none."""
    if figure.startswith("kib"):
        return None
    same_case = ((case, library, figure) for library in ("floor", "paho", "mosquitto"))
    for pace in (*same_case, ("decode_qos0", "floor", "ns")):
        if all(find(run, *pace) is not None for run in runs):
            return pace
    return None


def cost(run: Run, figure: Figure, pace: Figure | None) -> tuple[float, float] | None:
    """Return the cost of a figure in units of another, and the relative deviation of the rounds."""
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
    """Return the same for several runs: the median, and the greater of the noise within and between the runs."""
    found = [each for run in runs if (each := cost(run, figure, pace)) is not None]
    if not found:
        return None
    costs = [each[0] for each in found]
    median, within = statistics.median(costs), statistics.median(each[1] for each in found)
    return median, max(within, (max(costs) - min(costs)) / median / 2)


def slower(old: list[Run], new: list[Run]) -> list[str]:
    """Return the regressions beyond the noise."""
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
    """Compare two files; exit with 1 if there is a regression."""
    old, new = (load(Path(name)) for name in sys.argv[1:3])
    found = slower(old, new)
    print("\n".join(found) if found else "nothing became slower by more than the noise")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
