"""`make explore`: explore the reference scenarios completely, find every planted fault, write docs/exploration.md.

python tests/exploration/explore.py [--seconds S] [--only TEXT] [--no-faults]

Each scenario and each fault runs in a separate process. The compiled search visits the scenarios where there is a C
compiler; without one the same takes ten times as long, and the largest scenarios more memory than most machines have.
"""

# ruff: noqa: E501  (the head of a table is one line)

from __future__ import annotations

import argparse
import logging
import platform
import resource
import sys
import time
from functools import partial
from multiprocessing import get_context
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "support")]

from exploration import Explorer, Result, Scenario, as_session, as_test  # noqa: E402  (found by the line above)
from exploration.survey import Survey, compiler  # noqa: E402
from faults import FAULTS  # noqa: E402
from hunt import Find, hunt  # noqa: E402
from picture import pictures  # noqa: E402
from planting import Fault  # noqa: E402
from reference import BEYOND, LONG, QUICK  # noqa: E402

PAGE = HERE.parents[1] / "docs" / "exploration.md"
#: A state takes 8 bytes in the order, some 8 to 14 in the set; the set grows by half, one of 256 parts after the other.
STATES_A_GIGABYTE = 40_000_000
HEAD = """# Explored states

The states that `make explore` visited, scenario by scenario, and the planted faults that it found. [Proof](proof.md) explains the
columns and the bounds, and what follows from the result. `make explore` writes this page.
"""
TAIL = """
**Next:** [proof](proof.md) for the method, [differential](differential.md) for other implementations.
"""


Task = tuple[Scenario, set[str]] | Fault


def explored(scenario: Scenario, expected: set[str], seconds: float, states: int) -> tuple[Result, str]:
    """Explore a scenario within bounds. Return what came of it, and what is wrong with that."""
    result = (Explorer if compiler() is None else Survey)(scenario, states, seconds).run()
    wrong = result.violation
    if not wrong and result.complete and set(result.found) != expected:
        wrong = f"{sorted(result.found)} happens, {sorted(expected)} was to"
    return result, wrong


def work(numbered: tuple[int, Task], seconds: float, states: int) -> tuple[int, tuple[Result, str] | Find]:
    """Explore a scenario, or look for a fault: in a process for this alone, whose memory ends with it."""
    number, task = numbered
    return number, hunt(task) if isinstance(task, Fault) else explored(*task, seconds, states)


def show(task: Task, done: tuple[Result, str] | Find, file: str) -> None:
    """Print what came of a task; and a broken promise as a test, and as a session in a file."""
    if isinstance(done, Find):
        print(f"{done.steps:3} steps in {done.scenario or 'NOTHING'}: {task.title}", flush=True)
        test, session = done.test, done.session
    else:
        result, _ = done
        print(_row(result), flush=True)
        test = session = ""
        if result.violation:
            test = as_test(result.scenario, result.trace, result.violation)
            session = "\n".join(as_session(result.scenario, result.trace)) + "\n"
    if test and file:
        path, number = Path(file), 1
        while path.exists():  # of this run or another one
            number += 1
            path = Path(file).with_stem(f"{Path(file).stem}-{number}")
        path.write_text(session)
        print(f"{test}\n\nThe same as a session: pubsub look {path}\n", flush=True)


def _row(result: Result) -> str:
    rests = f"{result.rests:,}"
    beyond = "; ".join(sorted(result.found))
    complete = "yes" if result.complete else "no"
    sizes = f"{result.states:,} | {result.edges:,} | {rests} | {result.depth} | {result.longest or ''}"
    work = f"{result.parts:,} | {result.runs:,} | {result.seconds:.1f}"
    return f"| {result.scenario.name} | {sizes} | {work} | {complete} | {beyond} |"


def _run(began: float, jobs: int) -> str:
    unit = 1e9 if sys.platform == "darwin" else 1e6  # bytes there, KiB elsewhere
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
    return f"""
One run, with {jobs} processes at a time, took {(time.monotonic() - began) / 60:.0f} minutes (Python {platform.python_version()}). The
largest process had {peak:.1f} GB of memory.
"""


def _scenarios(results: list[Result]) -> str:
    states, edges = sum(result.states for result in results), sum(result.edges for result in results)
    seconds = sum(result.seconds for result in results)
    whole = sum(result.complete for result in results)
    broken = sum(bool(result.violation) for result in results)
    promises = f"A promise is broken in {broken} of them." if broken else "No promise is broken in any of them."
    if whole + broken < len(results):
        promises += " Those that are not complete were stopped at a bound of time or memory."
    rows = "\n".join(map(_row, results))
    return f"""
## Scenarios

{states:,} states and {edges:,} edges in {len(results)} scenarios, {whole} of them complete. They took {seconds:,.0f} s together, several
at a time. {promises}

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
    """Run from the command line. Return exit status 0 if nothing is wrong and every fault is found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=0.0, help="time limit of one scenario; default: none")
    parser.add_argument("--only", default="", help="scenarios and faults with this in their names; writes nothing")
    parser.add_argument("--no-faults", action="store_true", help="plant none; writes nothing")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--gigabytes", type=float, default=5.0, help="of memory for the states, of all processes")
    parser.add_argument("--session", default="violation.jsonl", help="where the session of a violation goes")
    options = parser.parse_args()
    began = time.monotonic()
    reference = [*((scenario, set[str]()) for scenario in QUICK), *BEYOND, *((each, set[str]()) for each in LONG)]
    tasks: list[Task] = [task for task in reference if options.only in task[0].name]
    tasks += [fault for fault in FAULTS if options.only in fault.title and not options.no_faults]
    states = int(options.gigabytes / options.jobs * STATES_A_GIGABYTE)
    done: dict[int, tuple[Result, str] | Find] = {}
    logging.getLogger("mqttws.broker").setLevel(logging.CRITICAL)
    with get_context("fork").Pool(options.jobs, maxtasksperchild=1) as pool:
        do = partial(work, seconds=options.seconds, states=states)
        numbered = sorted(
            enumerate(tasks), key=lambda each: (isinstance(each[1], Fault), -each[0])
        )  # the longest first
        for number, outcome in pool.imap_unordered(do, numbered):
            done[number] = outcome
            planted = isinstance(outcome, Find)
            show(tasks[number], outcome, options.session if options.only or not planted else "")
    outcomes = [done[number] for number in range(len(tasks))]
    results = [each[0] for each in outcomes if not isinstance(each, Find)]
    finds = [(task.title, each) for task, each in zip(tasks, outcomes, strict=True) if isinstance(each, Find)]
    failures = [f"{each[0].scenario.name}: {each[1]}" for each in outcomes if not isinstance(each, Find) and each[1]]
    failures += [f"not found: {title}" for title, find in finds if not find.violation]
    found = (_scenarios(results) if results else "") + (_faults(finds) if finds else "")
    if not (options.only or options.no_faults):
        PAGE.write_text(HEAD + _run(began, options.jobs) + found + TAIL)
        for name, text in pictures().items():
            (PAGE.parent / name).write_text(text)
    print(found)
    print("\n".join(failures) or "nothing is wrong")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
