"""The ledger of statements: each is implemented by code that exists, and has a test or a reason for having none."""

from __future__ import annotations

import re
from pathlib import Path

import ledger
import pytest

import mqttws

NUMBERED = 141
UNNUMBERED = 12


@pytest.fixture(scope="module")
def marks(request: pytest.FixtureRequest) -> ledger.Marks:
    """Collect the marks of the whole suite; takes seconds unless this run has collected it already."""
    config = request.config
    whole = [Path(argument).resolve() for argument in config.args] == [ledger.ROOT / "tests"]
    if whole and not (
        config.option.keyword or config.option.markexpr or config.option.deselect or config.getoption("lf", False)
    ):
        return ledger.marks_of(request.session.items)
    return ledger.collect()


#: For links to source lines, which compiled functions do not have.
sources = pytest.mark.skipif(mqttws.compiled, reason="compiled functions have no line numbers")


def test_the_ledger_is_complete():
    entries = ledger.statements()
    assert sum(name.startswith("MQTT-") for name in entries) == NUMBERED
    assert [name for name in entries if name.startswith("U-")] == [f"U-{number}" for number in range(1, UNNUMBERED + 1)]
    for name, entry in entries.items():
        assert entry.binds in ("client", "server", "both"), name
        assert entry.says, name
        assert bool(entry.untested) != bool(entry.keeps), f"{name}: either code implements it, or it does not apply"


def test_the_named_code_exists():
    missing = []
    for name, entry in ledger.statements().items():
        for where in entry.keeps:
            try:
                ledger.find(where)
            except (ImportError, AttributeError) as error:
                missing.append(f"{name}: {where}: {error}")
    assert not missing, "\n".join(["name the code that implements it now, in statements.toml:", *missing])


def test_every_statement_named_by_a_test_exists(marks):
    known = ledger.statements()
    # A section, such as "§2.2.3", names a rule without a number; the important ones are the U-statements.
    unknown = {
        f"{test} names {statement}"
        for test, shown in marks.items()
        for statement in shown
        if statement not in known and not statement.startswith("§")
    }
    assert not unknown, "\n".join(sorted(unknown))


def test_every_statement_has_a_test_or_a_reason(marks, figures):
    entries = ledger.statements()
    tests = ledger.tests_by_statement(marks)
    uncovered = [name for name, entry in entries.items() if not entry.untested and name not in tests]
    excused = [name for name, entry in entries.items() if entry.untested]
    figures["statements covered"] = (
        f"{len(entries) - len(uncovered) - len(excused)}/{len(entries)} ({len(excused)} do not apply)"
    )
    assert not uncovered, f"no test is marked with {', '.join(uncovered)}"
    assert not [name for name in excused if name in tests], "a statement that does not apply has a test"


@sources
def test_the_pages_show_the_worst_result(marks):
    outcomes = dict.fromkeys(marks, "passed")
    tests = ledger.tests_by_statement(marks)["MQTT-1.5.3-1"]
    for outcome in ("passed", "failed"):
        outcomes[tests[-1]] = outcome
        lines = ledger.pages(outcomes, marks)[ledger.FOLDER / "1.md"].splitlines()
        assert lines[lines.index("## MQTT-1.5.3-1") + 2].endswith(f"Binds: both. Result: {outcome}.")


@sources
def test_every_link_of_the_pages_is_valid(marks):
    made = ledger.pages(dict.fromkeys(marks, "passed"), marks)
    headings = [line[3:].partition(" ")[0] for text in made.values() for line in text.splitlines() if line[:3] == "## "]
    assert sorted(headings) == sorted(ledger.statements())
    assert sum(text.count("Planted faults:") for text in made.values()) > 140
    for path, text in made.items():
        for target in re.findall(r"\]\(([^)]+)\)", text):
            file, _, line = target.partition("#L")
            found = (path.parent / file).resolve()
            assert found in made or found.is_file(), (path.name, target)
            if line:
                assert int(line) <= found.read_text("utf-8").count("\n") + 1, (path.name, target)
    lines = (ledger.ROOT / "mqttws" / "codec" / "wire.py").read_text("utf-8").splitlines()
    number = int(re.search(r"line (\d+)", ledger.code_link("mqttws.codec.wire:decode_text"))[1])
    assert lines[number - 1].startswith("def decode_text(")
