"""Configuration of all tests: options, the figures printed at the end, and the option that writes pages of docs/.

A test stores a measurement in `figures`; it is printed after the results.
With `-n` the tests run in processes of pytest-xdist, and the main process merges the record of each.
"""

from __future__ import annotations

import gc
import signal
import socket
from collections.abc import Generator, Iterator
from typing import Any

import ledger
import pytest
from hypothesis import settings

# The time of an example depends on the load of the machine, so it is not a criterion.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

#: The slowest files, which start first, so that a run in several processes ends with short ones.
_FIRST = """
    exploration/test_exploration.py simulation/test_simulation.py tap/test_through.py test_docs.py
    exploration/test_refinement.py cluster/test_profiles.py hostile/test_floods.py cluster/test_failover.py
    cluster/test_proxies.py interop_matrix/test_matrix.py aws/test_a_day.py cli/test_bench_scenarios.py
    cli/test_bench_processes.py test_first_examples.py aws/test_contained_refusals.py differential/test_differential.py
    process/test_storms.py cli/test_streams.py conformance/test_mutants.py pubsub/test_sharded.py
    drivers/test_contract.py look/test_page.py cli/test_bench_shell.py cli/test_bench_faults.py cli/test_shell.py
    broker/test_foreign_clients.py plugin/test_plugin.py pubsub/test_pool_moves.py drivers/test_ownership.py
    hazards/test_at_size.py sigv4/test_oracles.py sigv4/test_verify.py pubsub/test_whole.py cli/test_commands.py
    cli/test_bench.py codec/test_topics.py hostile/test_canaries.py hostile/test_servers.py hostile/test_loris.py
    hostile/test_handshakes.py fuzz/test_targets.py hazards/test_hazards.py broker/test_turns.py
    test_examples_thermometer.py tap/test_pump.py tap/test_faults.py drivers/test_closing.py tap/test_command.py
    cli/test_bench_search.py protocol/test_model.py tap/test_tshark.py tap/test_files.py test_layers.py
"""

pytest_plugins = ["pytester"]  # for the tests of pubsub's pytest plugin, which run pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-docs",
        action="append",
        choices=["conformance", "interop", "screenshots"],
        default=[],
        help="write this page of docs/ from the results of this run",
    )

    parser.addoption(
        "--all-peers",
        action="store_true",
        help="run the interoperability matrix with every peer, not only with those that `make test` installs",
    )
    parser.addoption(
        "--full-size", action="store_true", help="run the hazards at the sizes of their list; takes minutes"
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    """Collect without the garbage collector: all that is collected stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.fixture(scope="module", autouse=True)
def _frozen() -> None:
    """Exempt the collected items, and what they have imported, from the garbage collector.

    Otherwise each garbage collection in a test would traverse ten thousand items, which takes 0.2 s. Before each file,
    because `pubsub bench` ends with `gc.unfreeze`.
    """
    if not gc.get_freeze_count():
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {f"tests/{name}": place for place, name in enumerate(_FIRST.split())}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a background job; programs under test inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[_RECORD] = _Record()
    config.pluginmanager.register(config.stash[_RECORD])


class _Record:
    """The results of this run.

    Attributes:
        figures: name -> figure.
        outcomes: test -> "passed", "failed" or "skipped".
        marks: test -> the statements of the standard that it verifies.
    """

    def __init__(self) -> None:
        self.figures: dict[str, str] = {}
        self.outcomes: dict[str, str] = {}
        self.marks: ledger.Marks = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            failed = self.outcomes.get(report.nodeid) == "failed"
            self.outcomes[report.nodeid] = "failed" if failed else report.outcome

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        output = getattr(node, "workeroutput", {})  # a worker that crashed has none
        self.figures |= output.get("figures", {})
        self.marks |= output.get("marks", {})

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.marks |= ledger.marks_of(getattr(session, "items", []))
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput |= {"figures": self.figures, "marks": self.marks}
        elif "conformance" in session.config.getoption("--write-docs"):
            self._write_conformance()

    def _write_conformance(self) -> None:
        shown = {statement for statements in self.marks.values() for statement in statements}
        missing = {name for name, entry in ledger.statements().items() if not entry.untested} - shown
        if missing:
            raise pytest.UsageError(f"docs/conformance.md is not written: this run has no test of {sorted(missing)}")
        ledger.FOLDER.mkdir(exist_ok=True)
        for path, text in ledger.pages(self.outcomes, self.marks).items():
            path.write_text(text, "utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.figures:
            terminalreporter.section("figures")
            for name, figure in sorted(self.figures.items()):
                terminalreporter.write_line(f"{name}: {figure}")


_RECORD = pytest.StashKey[_Record]()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """Return a port without a listener.

    It is reserved: the system gives it to no other socket, so that no client of this test reaches a server of another
    process, nor the reverse. A server that is started with SO_REUSEADDR, as usual, can listen there.
    """
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.fixture(scope="session")
def figures(pytestconfig: pytest.Config) -> dict[str, str]:
    """Return the figures to print at the end of the run, by name."""
    return pytestconfig.stash[_RECORD].figures
