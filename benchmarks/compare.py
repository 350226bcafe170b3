"""What became slower than the JSON that is kept: `make bench-compare`.

    python benchmarks/compare.py benchmarks/results.json new.json

Each figure is compared as a ratio to the floor of its own run (or, where the floor has no such case, to paho's or
Mosquitto's figure), so that another machine, or a slower hour of this one, does not count. A change is told when it is
larger than the spread of the rounds in both runs, and than a tenth.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from targets import MORE_IS_BETTER

#: The references, in the order of preference.
REFERENCES = ("floor", "paho", "mosquitto")
#: Changes below this share are noise whatever the rounds say.
LEAST = 0.10


def cost(results: dict[str, Any], case: str, library: str, figure: str) -> tuple[float, float] | None:
    """Return what a figure costs in units of the reference's, and how far the rounds lie apart, as a share."""
    by_library = results["cases"].get(case, {})
    own = by_library.get(library, {}).get(figure)
    for reference in REFERENCES:
        other = by_library.get(reference, {}).get(figure)
        if own and other and own["median"] and other["median"]:
            ratio = own["median"] / other["median"]
            apart = sum((each["greatest"] - each["least"]) / each["median"] / 2 for each in (own, other))
            return (1 / ratio if figure in MORE_IS_BETTER else ratio), apart
    return None


def slower(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List what became slower by more than the noise."""
    found = []
    for case, by_library in sorted(new["cases"].items()):
        for library in ("mqttws", "mqttws-compiled"):
            for figure in sorted(by_library.get(library, {})):
                before, after = (cost(results, case, library, figure) for results in (old, new))
                if before is None or after is None:
                    continue
                change = after[0] / before[0] - 1
                if change > max(LEAST, before[1] + after[1]):
                    found.append(f"{case} ({library}, {figure}): {change:+.0%} against the reference of the same run")
    return found


def main() -> None:
    """Compare two files; the exit status is 1 where something became slower."""
    old, new = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    found = slower(old, new)
    print("\n".join(found) if found else "nothing became slower by more than the noise")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
