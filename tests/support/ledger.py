"""The ledger of normative statements: what each requires, the code that implements it, and the tests that verify it.

`tests/conformance/statements.toml` contains the first two; each test names its statements by a mark. This
module combines the three into `docs/conformance.md` and a page for each chapter. It is also a plugin for pytest: with
`-p ledger` a run writes the marks of all collected tests to the file that `LEDGER` names.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "conformance" / "statements.toml"
PAGE = ROOT / "docs" / "conformance.md"
FOLDER = ROOT / "docs" / "conformance"

#: Test -> the statements that it verifies.
Marks = dict[str, list[str]]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """One statement.

    Attributes:
        binds: "client", "server" or "both".
        says: what it requires, in our words.
        keeps: the code that implements it, as "module:name".
        untested: why it has no test; "" if it has one.
        printed: its id as the standard prints it, if that is a misprint.
        section: the section of the standard, if it has no id.
    """

    binds: str
    says: str
    keeps: tuple[str, ...] = ()
    untested: str = ""
    printed: str = ""
    section: str = ""


@cache
def statements() -> dict[str, Statement]:
    """Read the ledger."""
    entries = tomllib.loads(SOURCE.read_text())
    return {name: Statement(**{**entry, "keeps": tuple(entry.get("keeps", ()))}) for name, entry in entries.items()}


def find(where: str) -> object:
    """Return the object named "module:name". Raise ImportError or AttributeError if it does not exist."""
    module, _, path = where.partition(":")
    found: object = importlib.import_module(module)
    for name in path.split("."):
        found = getattr(found, name)
    return found


def marks_of(items: Iterable[pytest.Item]) -> Marks:
    """Return the statements that each test verifies."""
    marks = {item.nodeid: sorted({mark.args[0] for mark in item.iter_markers("statement")}) for item in items}
    return {test: shown for test, shown in marks.items() if shown}


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the marks, if this module is the plugin of a run that only collects."""
    path = os.environ.get("LEDGER")
    if path:
        Path(path).write_text(json.dumps(marks_of(session.items)))


def collect() -> Marks:
    """Return the statements that each test of the whole suite verifies, whichever tests run now."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "marks.json")
        arguments = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "ledger", "-p", "no:cacheprovider"]
        environment = {**os.environ, "LEDGER": str(path), "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run([*arguments, "tests"], cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"the suite cannot be collected:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
        marks: Marks = json.loads(path.read_text())
    return marks


def tests_by_statement(marks: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    """Return the tests of each statement."""
    tests: defaultdict[str, list[str]] = defaultdict(list)
    for test, shown in marks.items():
        for statement in shown:
            tests[statement].append(test)
    return dict(tests)


def pages(outcomes: Mapping[str, str], marks: Marks) -> dict[Path, str]:
    """Return the pages: one for each chapter of the standard, and an index.

    Args:
        outcomes: test -> "passed", "failed" or "skipped".
        marks: the statements that each test verifies.
    """
    tests = tests_by_statement(marks)
    ledger = statements()
    chapters: defaultdict[str, list[str]] = defaultdict(list)
    for name in ledger:
        chapters[_chapter(name)].append(name)
    made = {
        FOLDER / f"{chapter}.md": _chapter_page(chapter, names, outcomes, tests) for chapter, names in chapters.items()
    }
    tested = sum(not entry.untested for entry in ledger.values())
    misprints = [f"{name} as {entry.printed}" for name, entry in ledger.items() if entry.printed]
    lines = [
        "# Conformance to MQTT 3.1.1, statement by statement",
        "",
        "This page links to each normative statement of MQTT 3.1.1: what it requires, the code that implements it, the "
        "tests that verify it, and the planted faults that these tests catch (`make mutants`).",
        "",
        f"There are {len(ledger)} statements: the {sum(not entry.section for entry in ledger.values())} that the "
        f"standard numbers, and {sum(bool(entry.section) for entry in ledger.values())} without a number, U-1 to U-12. "
        f"{tested} have tests, {len(ledger) - tested} do not apply.",
        "",
        "| Chapter | Statements | Results |",
        "|---|---|---|",
    ]
    for chapter, names in chapters.items():
        results = Counter(_outcome(name, outcomes, tests) for name in names)
        cells = f"[{_TITLES[chapter]}](conformance/{chapter}.md) | {len(names)}"
        lines.append(f"| {cells} | {', '.join(f'{count} {result}' for result, count in results.most_common())} |")
    lines += [
        "",
        f"The standard prints {', '.join(misprints)}. `make test` writes this page from the tests that ran and from "
        "`tests/conformance/statements.toml`.",
        "",
        "**Next:** [differential](differential.md) for other implementations, [proof](proof.md) for delivery.",
        "",
    ]
    made[PAGE] = "\n".join(lines)
    return made


#: The pages, by the first number of a statement.
_TITLES = {
    "1": "1 Introduction: data representations",
    "2": "2 MQTT Control Packet format",
    "3": "3 MQTT Control Packets",
    "4": "4 Operational behavior",
    "6": "6 Using WebSocket as a network transport",
    "7": "7 Conformance",
    "U": "Rules without a number",
}


def _chapter(statement: str) -> str:
    return "U" if statement.startswith("U-") else statement.removeprefix("MQTT-")[0]


def _outcome(name: str, outcomes: Mapping[str, str], tests: Mapping[str, list[str]]) -> str:
    if statements()[name].untested:
        return "does not apply"
    return _result(outcomes.get(test, "missing") for test in tests.get(name, []))


def _chapter_page(chapter: str, names: list[str], outcomes: Mapping[str, str], tests: Mapping[str, list[str]]) -> str:
    ledger, faults = statements(), _faults()
    lines = [
        f"# {_TITLES[chapter]}",
        "",
        "The normative statements of this chapter: what each requires, the code that implements it, its tests, and the",
        "faults that are planted to check the tests.",
        "",
    ]
    for name in names:
        entry = ledger[name]
        section = f" ({entry.section})" if entry.section else ""
        lines += [
            f"## {name}{section}",
            "",
            f"{entry.says}. Binds: {entry.binds}. Result: {_outcome(name, outcomes, tests)}.",
            "",
        ]
        if entry.untested:
            lines += [f"No test: {entry.untested}.", ""]
            continue
        lines += ["Implemented by:", "", *(f"- {code_link(where)}" for where in entry.keeps), ""]
        lines += ["Tests:", "", *(f"- {link}" for link in _test_links(tests.get(name, []))), ""]
        if name in faults:
            lines += ["Planted faults:", "", *(f"- {link}" for link in faults[name]), ""]
    return "\n".join([*lines, "**Next:** [all chapters](../conformance.md).", ""])


def code_link(where: str) -> str:
    """Return a link to the file and line of "module:name"."""
    found = inspect.unwrap(find(where))  # type: ignore[arg-type]
    found = found.fget if isinstance(found, property) else found
    file = Path(inspect.getsourcefile(found) or "").resolve().relative_to(ROOT)  # type: ignore[arg-type]
    line = inspect.getsourcelines(found)[1]  # type: ignore[arg-type]
    return f"[`{where}`](../../{file}#L{line}) (line {line})"


def _test_links(tests: Iterable[str]) -> list[str]:
    counts = Counter(test.partition("[")[0] for test in sorted(tests))
    links = []
    for test, count in counts.items():
        file, _, name = test.partition("::")
        line = _lines_of(file).get(name.rpartition("::")[2], 1)
        links.append(f"[`{test.removeprefix('tests/')}`](../../{file}#L{line})" + (f" × {count}" if count > 1 else ""))
    return links


@cache
def _lines_of(file: str) -> dict[str, int]:
    """Return the line of each test in a file."""
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    return {node.name: node.lineno for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@cache
def _faults() -> dict[str, list[str]]:
    """Return links to the faults that are planted for each statement."""
    links: defaultdict[str, list[str]] = defaultdict(list)
    file = "tests/conformance/faults.py"
    spec = importlib.util.spec_from_file_location("planted_faults", ROOT / file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    lines = (ROOT / file).read_text("utf-8").splitlines()
    for fault in module.FAULTS:
        # A title that is composed at run time is in no line of the file.
        number = next((number for number, line in enumerate(lines, 1) if fault.title in line), 0)
        links[fault.statement].append(f"[{fault.title}](../../{file}{f'#L{number}' if number else ''})")
    return dict(links)


def _result(outcomes: Iterable[str]) -> str:
    seen = set(outcomes)
    for worst in ("failed", "missing", "skipped", "passed"):
        if worst in seen and (worst != "skipped" or "passed" not in seen):
            return worst
    return "no test"
