"""`make explore`: the reference set to its last states, and every planted fault; writes docs/exploration.md.

python tests/exploration/explore.py [--seconds S] [--only TEXT] [--no-faults]
"""

# ruff: noqa: E501  (the head of a table is a line)

from __future__ import annotations

import argparse
import logging
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from exploration import Explorer, Result, Scenario, as_test  # noqa: E402  (found by the line above)
from faults import FAULTS  # noqa: E402
from hunt import Find, hunt  # noqa: E402
from picture import pictures  # noqa: E402
from reference import BEYOND, LONG, QUICK  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "exploration.md"
HEAD = """# Explored states

The states that `make explore` visited, scenario by scenario, and the planted faults that it found. [Proof](proof.md) explains the
columns and the bounds, and what follows from the result. `make explore` writes this page.
"""
TAIL = """
**Next:** [proof](proof.md) for the method, [differential](differential.md) for other implementations.
"""


def explored(scenarios: list[tuple[Scenario, set[str]]], seconds: float) -> Iterator[tuple[Result, str]]:
    """Explore each. Yields what came of it, and what is wrong with that."""
    for scenario, expected in scenarios:
        result = Explorer(scenario, seconds=seconds).run()
        wrong = result.violation
        if not wrong and set(result.found) != expected:
            wrong = f"{sorted(result.found)} happens, {sorted(expected)} was to"
        yield result, wrong
        print(_row(result), flush=True)
        if result.violation:
            print(as_test(scenario, result.trace, result.violation), flush=True)


def _row(result: Result) -> str:
    rests = f"{result.rests:,}"
    beyond = "; ".join(sorted(result.found))
    complete = "yes" if result.complete else "no"
    sizes = f"{result.states:,} | {result.edges:,} | {rests} | {result.depth} | {result.longest or ''}"
    work = f"{result.parts:,} | {result.runs:,} | {result.seconds:.1f}"
    return f"| {result.scenario.name} | {sizes} | {work} | {complete} | {beyond} |"


def _scenarios(results: list[Result]) -> str:
    states, edges = sum(result.states for result in results), sum(result.edges for result in results)
    seconds = sum(result.seconds for result in results)
    whole = sum(result.complete for result in results)
    rows = "\n".join(map(_row, results))
    return f"""
## Scenarios

{states:,} states and {edges:,} edges in {len(results)} scenarios, {whole} of them complete, in {seconds:,.0f} s on one core
(Python {platform.python_version()}). No promise is broken in any of them.

| scenario | states | edges | rests | depth | longest run without faults | process states | code runs | s | complete | reached, and not promised |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---|
{rows}
"""


def _faults(finds: list[tuple[str, Find]]) -> str:
    found = sum(bool(find.violation) for _, find in finds)
    rows = "\n".join(
        f"| {title} | {find.scenario or 'not found'} | {find.violation.replace('|', '/')} | {find.steps or ''} "
        f"| {find.states:,} |"
        for title, find in finds
    )
    return f"""
## Planted faults

{found} of {len(finds)} are found, each with the smallest bounds that show it and a shortest trace.

| fault | smallest bounds | violation | steps | states visited |
|---|---|---|---:|---:|
{rows}
"""


def main() -> int:
    """Explore. Return the exit status: 0 if nothing is wrong and every fault is found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.0, help="for one scenario at most; default: no bound")
    parser.add_argument("--only", default="", help="scenarios and faults with this in their names; writes nothing")
    parser.add_argument("--no-faults", action="store_true", help="plant none; writes nothing")
    options = parser.parse_args()
    logging.getLogger("mqttws.broker").setLevel(logging.CRITICAL)
    reference = [*((scenario, set[str]()) for scenario in QUICK), *BEYOND, *((each, set[str]()) for each in LONG)]
    chosen = [(scenario, expected) for scenario, expected in reference if options.only in scenario.name]
    results, failures = [], []
    for result, wrong in explored(chosen, options.seconds):
        results.append(result)
        failures += [f"{result.scenario.name}: {wrong}"] if wrong else []
    finds = []
    for fault in [] if options.no_faults else FAULTS:
        if options.only in fault.title:
            finds.append((fault.title, hunt(fault)))
            print(f"{finds[-1][1].steps:3} steps in {finds[-1][1].scenario or 'NOTHING'}: {fault.title}", flush=True)
            if options.only:
                print(finds[-1][1].test)
    failures += [f"not found: {title}" for title, find in finds if not find.violation]
    found = (_scenarios(results) if results else "") + (_faults(finds) if finds else "")
    if not (options.only or options.no_faults):
        PAGE.write_text(HEAD + found + TAIL)
        for name, text in pictures().items():
            (PAGE.parent / name).write_text(text)
    print(found)
    print("\n".join(failures) or "nothing is wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
