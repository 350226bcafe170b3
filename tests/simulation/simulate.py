"""`make simulate`: run a range of seeds on every core, shrink and print failures, and print a summary.

python tests/simulation/simulate.py 1000000 [FIRST_SEED]
"""

from __future__ import annotations

import logging
import multiprocessing
import sys
import time
from collections import Counter

from simulation import Schedule, Simulation, Violation, fails, shrink

#: The number of seeds of one task.
BATCH = 500


def run(first: int) -> tuple[Counter[str], list[str]]:
    """Run a batch. Return the counts of events, and each failure, shrunk."""
    logging.getLogger("mqttws.broker").setLevel(logging.CRITICAL)
    figures: Counter[str] = Counter()
    failures = []
    for seed in range(first, first + BATCH):
        schedule = Schedule.of(seed)
        figures["schedules"] += 1
        figures["faults"] += sum(action.verb != "publish" for action in schedule.actions)
        try:
            simulation = Simulation(schedule).run()
        except Violation:
            failures.append(f"seed {seed}: {fails(shrink(schedule))}")
        else:
            figures["messages"] += len(simulation.seen)
            figures["steps"] += simulation.steps
    return figures, failures


def main() -> int:
    """Run all batches. Return the exit status."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    begin = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    figures: Counter[str] = Counter()
    failed = 0
    started = time.monotonic()
    with multiprocessing.Pool() as pool:
        for batch, failures in pool.imap_unordered(run, range(begin, begin + count, BATCH)):
            figures += batch
            failed += len(failures)
            for failure in failures:
                print(failure, flush=True)
            if figures["schedules"] % 50_000 == 0:
                print(f"{figures['schedules']:,} schedules, {failed} failures", file=sys.stderr, flush=True)
    happened = ", ".join(f"{number:,} {name}" for name, number in figures.items())
    print(f"{happened}; {failed} failures; seeds from {begin:,}; {time.monotonic() - started:,.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
