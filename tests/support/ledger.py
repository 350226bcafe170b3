"""The ledger of statements: what the standard demands, the code that keeps it, and the tests that show it.

`tests/conformance/statements.toml` holds the first two; the tests name their statements themselves, by a mark. This
module brings the three together, and makes `docs/conformance.md` of them. It is also a plugin of pytest: with
`-p ledger` a run writes the marks of all that it collected to the file that `LEDGER` names.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "conformance" / "statements.toml"
PAGE = ROOT / "docs" / "conformance.md"

#: Test -> the statements that it shows.
Marks = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement.

    Attributes:
        binds: "client", "server" or "both".
        says: what it demands, in our own words.
        keeps: the code that keeps it, as "module:name".
        untested: why it has no test; "" where it has.
        printed: its id as the standard prints it, where that is a misprint.
        section: where it stands, if it has no id.
    """

    binds: str
    says: str
    keeps: tuple[str, ...] = ()
    untested: str = ""
    printed: str = ""
    section: str = ""


def statements() -> dict[str, Statement]:
    """Read the ledger."""
    entries = tomllib.loads(SOURCE.read_text())
    return {name: Statement(**{**entry, "keeps": tuple(entry.get("keeps", ()))}) for name, entry in entries.items()}


def find(where: str) -> object:
    """Find code by "module:name". Raises ImportError or AttributeError where there is none."""
    module, _, path = where.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def marks_of(items: Iterable[pytest.Item]) -> Marks:
    """List the statements that each test shows."""
    marks = {item.nodeid: sorted({mark.args[0] for mark in item.iter_markers("statement")}) for item in items}
    return {test: shown for test, shown in marks.items() if shown}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the marks, where this module is the plugin of a run that only collects."""
    path = os.environ.get("LEDGER")
    if path:
        Path(path).write_text(json.dumps(marks_of(session.items)))


def collect() -> Marks:
    """List the statements that each test of the whole suite shows, whatever part of it runs now."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "marks.json")
        arguments = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "ledger", "-p", "no:cacheprovider"]
        environment = {**os.environ, "LEDGER": str(path), "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run([*arguments, "tests"], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"the suite cannot be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        marks: Marks = json.loads(path.read_text())
    return marks


def tests_by_statement(marks: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Turn the marks around: statement -> its tests."""
    tests: defaultdict[str, list[str]] = defaultdict(list)
    for test, shown in marks.items():
        for statement in shown:
            tests[statement].append(test)
    return dict(tests)


def page(outcomes: Mapping[str, str], marks: Marks) -> str:
    """Make the page.

    Args:
        outcomes: test -> "passed", "failed" or "skipped".
        marks: the statements that each of them shows.
    """
    tests = tests_by_statement(marks)
    ledger = statements()
    tested = sum(not entry.untested for entry in ledger.values())
    lines = [
        "# Conformance to MQTT 3.1.1, statement by statement",
        "",
        "Made by `make test` out of `tests/conformance/statements.toml` and of the tests that ran; not to be edited.",
        "",
        f"{len(ledger)} statements: the {sum(not entry.section for entry in ledger.values())} that the standard "
        f"numbers and {sum(bool(entry.section) for entry in ledger.values())} that it does not (U-1 to U-12). "
        f"{tested} have tests, {len(ledger) - tested} do not apply. The tests are tested, too: for each statement a "
        "fault is planted, which they must catch (`make mutants`).",
        "",
        "| Statement | Binds | Demands | Kept by | Tests | Result |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in ledger.items():
        shown = tests.get(name, [])
        cells = [
            f"{name} ({entry.section})" if entry.section else name + (" (*)" if entry.printed else ""),
            entry.binds,
            entry.says,
            "<br>".join(f"`{where}`" for where in entry.keeps) or "–",
            entry.untested or _test_cell(shown),
            "does not apply" if entry.untested else _result(outcomes.get(test, "missing") for test in shown),
        ]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    misprints = [f"{name} as {entry.printed}" for name, entry in ledger.items() if entry.printed]
    return "\n".join([*lines, "", f"(*) The standard prints {', '.join(misprints)}.", ""])


def _test_cell(tests: list[str]) -> str:
    counts: defaultdict[str, int] = defaultdict(int)
    for test in sorted(tests):
        counts[test.partition("[")[0]] += 1
    return "<br>".join(
        f"`{test.removeprefix('tests/')}`" + (f" × {count}" if count > 1 else "") for test, count in counts.items()
    )


def _result(outcomes: Iterable[str]) -> str:
    seen = set(outcomes)
    for worst in ("failed", "missing", "skipped", "passed"):
        if worst in seen and (worst != "skipped" or "passed" not in seen):
            return worst
    return "no test"
