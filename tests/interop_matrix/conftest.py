"""Fixtures of the interoperability matrix, and the page of its results."""

from __future__ import annotations

import datetime
import platform
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import agents
import pytest
from foreign_brokers import BROKERS, SCHEMES, Running
from ledger import ROOT

from mqttws.testing import mint_authority

PAGE = ROOT / "docs" / "interop.md"

#: The peers that `make interop` installs and `make test` does not.
FAR = frozenset({"rabbitmq", "amqtt", "aiomqtt", "gmqtt"})
#: (client, broker, scheme) -> scenario -> result: "yes", "NO", or why it was not run.
Cells = dict[tuple[str, str, str], dict[str, str]]
_CELLS = pytest.StashKey[Cells]()
_VERSIONS = pytest.StashKey[dict[str, str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_CELLS] = defaultdict(dict)
    config.stash[_VERSIONS] = {}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the peers that take long to install, unless they are requested."""
    if config.getoption("--all-peers"):
        return
    here = Path(__file__).parent  # the hook receives all tests
    cells = [item for item in items if item.path.parent == here and isinstance(item, pytest.Function)]
    far = {item for item in cells if FAR & set(item.callspec.params.values())}
    config.hook.pytest_deselected(items=list(far))
    items[:] = [item for item in items if item not in far]


@pytest.fixture(scope="session")
def cells(pytestconfig: pytest.Config, figures: dict[str, str]) -> Iterator[Cells]:
    cells = pytestconfig.stash[_CELLS]
    yield cells
    outcomes = [outcome for scenarios in cells.values() for outcome in scenarios.values()]
    figures["interop cells"] = (
        f"{outcomes.count('yes')} passed of {len([o for o in outcomes if o in ('yes', 'NO')])} run"
    )


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a file with a server's key and certificates, and one with their authority."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = mint_authority()
    identity = authority.issue("127.0.0.1", "localhost")
    (folder / "both.pem").write_bytes(identity.key + identity.certificate)
    (folder / "ca.pem").write_bytes(authority.certificate)
    return folder / "both.pem", folder / "ca.pem"


@pytest.fixture(scope="session")
def broker(
    certificates: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config
) -> Iterator[Callable[[str], Running]]:
    """Return a function that starts a broker by name on first use; it runs until the end."""
    running: dict[str, Running] = {}
    with ExitStack() as stack:

        def broker(name: str) -> Running:
            if name not in running:
                start: Any = BROKERS[name]
                running[name] = stack.enter_context(start(tmp_path_factory.mktemp(name), *certificates))
                if running[name].version:
                    pytestconfig.stash[_VERSIONS][f"{name} (broker)"] = running[name].version
            return running[name]

        yield broker


@pytest.fixture(scope="session")
def agent(pytestconfig: pytest.Config) -> Iterator[Callable[[str], Any]]:
    """Return a function that starts the agent of a client library on first use."""
    running: dict[str, Any] = {}

    def agent(library: str) -> Any:
        if library not in running:
            running[library] = agents.start(library)
            if not library.startswith("mqttws"):
                pytestconfig.stash[_VERSIONS][f"{library} (client)"] = running[library].ask("version")
        return running[library]

    yield agent
    for each in running.values():
        each.close()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if "interop" in session.config.getoption("--write-docs"):
        PAGE.write_text(page(session.config.stash[_CELLS], session.config.stash[_VERSIONS]))


def page(cells: Cells, versions: dict[str, str]) -> str:
    """Return the page."""
    scenarios = max(([*tried] for tried in cells.values()), key=len, default=[])
    outcomes = [outcome for tried in cells.values() for outcome in tried.values()]
    passed, failed = outcomes.count("yes"), outcomes.count("NO")
    peers = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    lines = [
        "# Interoperability",
        "",
        "This page shows which clients and brokers work together, feature by feature. Each cell is a test of",
        f"`tests/interop_matrix`: {passed} passed, {failed} failed. A number refers to a remark below; such a cell is",
        "not tested.",
        "",
    ]
    remarks: dict[str, int] = {}
    for title, wanted in (
        ("Other clients with the embedded broker", lambda client, broker: broker == "mqttws"),
        ("mqttws clients with other brokers", lambda client, broker: broker != "mqttws"),
    ):
        lines += [f"## {title}", ""]
        lines += [
            "| Client | Broker | Transport | " + " | ".join(scenarios) + " |",
            "|---" * (3 + len(scenarios)) + "|",
        ]
        for (client, broker, scheme), tried in sorted(cells.items(), key=_order):
            if not wanted(client, broker) or (client.startswith("mqttws") and broker == "mqttws"):
                continue
            shown = []
            for scenario in scenarios:
                outcome = tried.get(scenario, "")
                if outcome not in ("yes", "NO", ""):
                    outcome = str(remarks.setdefault(outcome, len(remarks) + 1))
                shown.append({"yes": "✓", "": "–"}.get(outcome, outcome))
            lines.append("| " + " | ".join([client, broker, scheme, *shown]) + " |")
        lines.append("")
    lines += [f"{number}. {remark}" for remark, number in remarks.items()]
    lines += [
        "",
        "## Versions",
        "",
        f"{peers}; Python {platform.python_version()}, {platform.system()}. `make interop` wrote this page on "
        f"{datetime.datetime.now(datetime.UTC).date().isoformat()}.",
        "",
        "**Next:** [clients under faults](faults.md), [differential](differential.md).",
    ]
    return "\n".join(lines) + "\n"


def _order(entry: tuple[tuple[str, str, str], object]) -> tuple[str, str, int]:
    (client, broker, scheme), _ = entry
    return client, broker, SCHEMES.index(scheme)
