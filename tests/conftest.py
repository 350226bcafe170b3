"""What every room of the tests shares: the figures printed at the end, and the switch that writes the pages.

A test that counts something worth showing puts it into `figures`; the terminal shows it behind the results.
"""

from __future__ import annotations

import signal
from collections.abc import Generator

import ledger
import pytest

_FIGURES = pytest.StashKey[dict[str, str]]()
_OUTCOMES = pytest.StashKey[dict[str, str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs",
        action="append",
        choices=["conformance", "interop"],
        default=[],
        help="write that page of docs/ by what the tests of this run showed",
    )

    parser.addoption(
        "--all-peers",
        action="store_true",
        help="try the matrix of interoperability with every peer, not only with those that `make test` installs",
    )
    parser.addoption(
        "--full-size", action="store_true", help="try the hazards in the numbers of their list: some minutes"
    )


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job; programs under test inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_FIGURES] = {}
    config.stash[_OUTCOMES] = {}


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """Name -> figure, to be printed at the end of the run."""
    return pytestconfig.stash[_FIGURES]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    outcomes = item.config.stash[_OUTCOMES]
    if report.when == "call" or report.outcome != "passed":
        outcomes[item.nodeid] = "failed" if outcomes.get(item.nodeid) == "failed" else report.outcome
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "conformance" not in session.config.getoption("--write-docs"):
        return
    marks = ledger.marks_of(session.items)
    missing = {name for name, entry in ledger.statements().items() if not entry.untested} - {
        statement for shown in marks.values() for statement in shown
    }
    if missing:
        raise pytest.UsageError(f"docs/conformance.md is not written: this run has no test of {sorted(missing)}")
    ledger.PAGE.write_text(ledger.page(session.config.stash[_OUTCOMES], marks))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash[_FIGURES]
    if figures:
        terminalreporter.section("figures")
        for name, figure in sorted(figures.items()):
            terminalreporter.write_line(f"{name}: {figure}")
