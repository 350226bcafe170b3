"""Plant faults to test the tests: at least one for each statement, which the tests of the statement must catch.

    python tests/conformance/mutants.py                      all of them: `make mutants`
    python tests/conformance/mutants.py --sample 12          twelve of them, evenly spaced
    python tests/conformance/mutants.py MQTT-3.3.1-4 U-8     those of these statements

The tests are collected once. For each fault a child is forked, which changes a function in its memory and runs the
tests marked with the statement until one fails. A statement whose fault survives is not covered. Before that, the
tests run without a fault, since a test that fails anyway catches nothing.

The faults are in `faults.py`, each a small edit of the source.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
os.environ["PATIENCE"] = "3"  # shorter waits for tests that are expected to fail; see tests/support/wire.py
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(Path(__file__).parent)]

from faults import FAULTS, Fault  # noqa: E402  (found by the line above)
from planting import plant  # noqa: E402

#: Seconds that the tests of one statement may take with a fault; after that it counts as not caught.
PATIENCE = 120
#: The directories of tests that name statements, the fastest first.
DIRECTORIES = ["tests/codec", "tests/protocol", "tests/conformance", "tests/broker"]


class Runner:
    """A pytest plugin that runs the tests with planted faults."""

    def __init__(self, faults: Sequence[Fault], baseline: bool, out: Callable[[str], object]) -> None:
        self._faults = faults
        self._baseline = baseline
        self._out = out
        self.survivors: list[Fault] = []
        self.broken = 0  # tests that fail without a fault
        self._tests: dict[str, list[pytest.Item]] = {}
        self._failure = ""

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """See pytest."""
        items = sorted(session.items, key=_directory)
        for fault in self._faults:
            self._tests.setdefault(
                fault.statement,
                [item for item in items if any(m.args[0] == fault.statement for m in item.iter_markers("statement"))],
            )
        if self._baseline:
            wanted = {item.nodeid for tests in self._tests.values() for item in tests}
            found = self._in_child(None, [item for item in items if item.nodeid in wanted])
            if found is not None:
                self.broken = 1
                self._out(f"without any fault a test fails: {found}")
                return True
        for number, fault in enumerate(self._faults, 1):
            found = self._in_child(fault, self._tests[fault.statement])
            if found is None:
                self.survivors.append(fault)
            self._out(f"{number:3}/{len(self._faults)} {fault.statement:14} {found or 'SURVIVED: ' + fault.title}")
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """See pytest."""
        if report.failed and not self._failure:
            crash = getattr(report.longrepr, "reprcrash", None)
            reason = str(crash.message if crash else report.longrepr).partition("\n")[0]
            self._failure = f"{report.nodeid}: {reason[:100]}"

    def _in_child(self, fault: Fault | None, items: list[pytest.Item]) -> str | None:
        """Run tests in a child process until one fails. Return its name and error; None if none fails."""
        with tempfile.TemporaryFile() as notes:
            child = os.fork()
            if child == 0:
                self._be_child(fault, items, notes.fileno())
            _, status = os.waitpid(child, 0)
            notes.seek(0)
            said = notes.read().decode()
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
            self._out(f"the child ended with status {status}: {said}")
            return None if fault is not None else "the child did not end by itself"
        failure: str | None = json.loads(said)
        return failure

    def _be_child(self, fault: Fault | None, items: list[pytest.Item], notes: int) -> None:
        status = 1
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if fault is None:
                signal.alarm(10 * PATIENCE)
            else:
                signal.alarm(PATIENCE)
                plant(fault)
            for item, following in zip(items, [*items[1:], None], strict=True):
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if self._failure:
                    break
            os.write(notes, json.dumps(self._failure or None).encode())
            status = 0
        except BaseException as error:
            os.write(notes, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(status)


def _directory(item: pytest.Item) -> int:
    return next((n for n, folder in enumerate(DIRECTORIES) if item.nodeid.startswith(folder)), len(DIRECTORIES))


def run(faults: Sequence[Fault], *, baseline: bool, out: Callable[[str], object]) -> Runner:
    """Plant faults, one after another.

    Args:
        faults: the faults.
        baseline: whether to run the tests without a fault first.
        out: called with a line about each.
    """
    runner = Runner(faults, baseline, out)
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = folder  # do not store examples that fail with a fault
        # Without a terminal plugin its options in pyproject.toml would be unknown.
        options = ["-o", "addopts=", "--strict-markers", "--import-mode=importlib", "--benchmark-skip"]
        status = pytest.main(
            [*options, "-s", "-p", "no:cacheprovider", "-p", "no:terminal", *DIRECTORIES], plugins=[runner]
        )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
        runner.broken = 1
        out(f"the suite cannot be collected: {status!r}")
    return runner


def sample(count: int) -> list[Fault]:
    """Choose `count` faults, evenly spaced."""
    return [FAULTS[number * len(FAULTS) // count] for number in range(count)]


def main() -> int:
    """Run from the command line. Return exit status 0 if every fault is caught."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("statements", nargs="*", help="of these statements only")
    parser.add_argument("--sample", type=int, help="how many; default: all")
    parser.add_argument("--no-baseline", action="store_true", help="do not run the tests without a fault first")
    options = parser.parse_args()
    faults: Sequence[Fault] = FAULTS if options.sample is None else sample(options.sample)
    if options.statements:
        faults = [fault for fault in FAULTS if fault.statement in options.statements]
    runner = run(faults, baseline=not options.no_baseline, out=lambda line: print(line, flush=True))
    if not runner.broken:
        print(f"planted faults caught: {len(faults) - len(runner.survivors)}/{len(faults)}")
    return 1 if runner.survivors or runner.broken else 0


if __name__ == "__main__":
    sys.exit(main())
