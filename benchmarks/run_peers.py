"""Measure this library and others: `python benchmarks/run_peers.py`, or `make bench-peers`.

All libraries get the same messages, QoS, window and server, in sessions of about the same duration (see `cases.py`).
Each measurement is a new process. Rounds are interleaved (all libraries once, then all again), so that changes of the
machine's speed affect all equally. The median of the rounds counts, and their spread is stored. A measurement in which
a message is missing fails: its reason is stored, and it has no figure.

The result is JSON: a list of runs, each with its figures and the description of the machine. `report.py` creates the
document from one or several such files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import first_message  # noqa: E402
from cases import CASES, Case  # noqa: E402
from environments import ROOT, SCRIPTS, Environments  # noqa: E402
from footprint import connecting, import_ms  # noqa: E402
from peers.timing import cpu_seconds  # noqa: E402
from results import load  # noqa: E402
from servers import background, blaster, broker, responder  # noqa: E402

#: The duration of a measurement with a number of messages, in seconds, unless its case is longer; a third of it is
#: enough. Half as many messages are the warm-up.
SECONDS = 0.8
#: Options of cases that only `blaster.py` understands, and those that it shares with the clients.
SERVER_ONLY, SERVER = {"together"}, {"together", "tls", "size"}
#: How often each process is started for the first message.
FIRST_ROUNDS = 9

_SIDES = (lambda name: name in SERVER, lambda name: name not in SERVER_ONLY)


class Bench:
    """Runs cases.

    Args:
        environments: the environments of the libraries.
        seconds: see SECONDS.
        pinned: whether client and broker run on one core each, in closed loops.
    """

    def __init__(self, environments: Environments, seconds: float, pinned: bool = False) -> None:
        self.environments = environments
        self.seconds = seconds
        self.pinned = pinned
        self.first: dict[str, dict[str, float]] = {}
        self._path = environments.directory / "paces.json"
        self.paces: dict[str, float] = json.loads(self._path.read_text()) if self._path.exists() else {}

    def measure(self, case: Case, library: str) -> dict[str, float]:
        """Measure one case with one library once.

        The number of messages is what filled the time when the case was last measured here. A measurement that is too
        short is repeated with more.
        """
        key, wanted = f"{case.name} {library}", self.seconds * case.times
        while True:
            count = max(case.least, int(self.paces.get(key, 0) * wanted))
            figures = self._run(case, library, count)
            seconds = figures.pop("seconds", wanted)
            if not case.least:
                return figures
            # At most ten times as many, because in a short measurement not everything grows with the number.
            self.paces[key] = min(count / seconds, 10 * count / wanted)
            if seconds >= wanted / 3:
                return figures

    def save(self) -> None:
        """Store the paces for the next time."""
        self._path.write_text(json.dumps(self.paces, indent=1, sort_keys=True) + "\n")

    def _run(self, case: Case, library: str, count: int) -> dict[str, float]:
        """Run one case: its server, and the measuring process."""
        environments, name = self.environments, case.run or case.name
        options = [*case.options, *([f"count={count}", f"warm={max(1, count // 2)}"] if count else [])]
        if case.kind == "import":
            return {"ms": import_ms(library, environments.interpreter(library), environments.variables)}
        if case.kind == "first":
            return self._first(library)
        if case.kind == "codec":
            return self._ask([*environments.command(library, "codec"), name, *options])
        if case.kind == "broker":
            with broker(environments, library) as server:
                load = [environments.python("floor"), str(SCRIPTS / "load_floor.py")]
                port = server.tls_port if "tls=1" in options else server.port
                return self._ask([*load, name, f"port={port}", f"pid={server.pid}", *options])
        if case.kind == "blaster":
            served, asked = ([each for each in options if chosen(each.partition("=")[0])] for chosen in _SIDES)
            with blaster(environments, *served, max(1, count // 2), count) as server:
                return self._ask([*environments.command(library, "client"), name, f"port={server.port}", *asked])
        if case.kind == "closed":
            return self._closed(case, library, name, options, count + max(1, count // 2))
        others = contextlib.ExitStack()
        # Ten thousand clients use our broker, because Mosquitto takes a minute to accept so many.
        with broker(environments, library if case.kind == "hold" else "mosquitto") as server, others:
            port = server.tcp_port if library == "gmqtt" else server.tls_port if "tls=1" in options else server.port
            if case.kind == "busy":
                others.enter_context(background(environments, server))
            if case.kind == "memory":
                return self._ask(connecting(library, environments.interpreter(library), port))
            kind = "hold" if case.kind == "hold" and (SCRIPTS / "hold_mqttws.py").exists() else "client"
            return self._ask([*environments.command(library, kind), name, f"port={port}", *options])

    def _closed(self, case: Case, library: str, name: str, options: list[str], messages: int) -> dict[str, float]:
        """Run a closed loop: a client, the broker and the responder. Add the share of a core that the broker used."""
        environments, command = self.environments, self.environments.command(library, "closed")
        with broker(environments, "mosquitto") as server, contextlib.ExitStack() as others:
            if name.startswith("request"):
                others.enter_context(responder(environments, server))
            if self.pinned:
                os.sched_setaffinity(server.pid, {1})
                command = ["taskset", "-c", "0", *command]
            port = server.port if "websocket=1" in case.options else server.tcp_port
            before = cpu_seconds(server.pid)
            figures = self._ask([*command, name, f"port={port}", *options])
            if "rate" in figures:  # the broker's CPU time for each message, times the messages of a second
                figures["broker_percent"] = 100 * (cpu_seconds(server.pid) - before) / messages * figures["rate"]
            return figures

    def _first(self, library: str) -> dict[str, float]:
        """Start processes up to their first message; those of all libraries by turns, when the first of them is due."""
        if library not in self.first:
            self.first = first_message.by_library(first_message.measure(self.environments, FIRST_ROUNDS))
        return self.first.pop(library)

    def _ask(self, command: list[str]) -> dict[str, float]:
        """Run one process and return its JSON."""
        done = subprocess.run(
            command,
            env=self.environments.variables,
            cwd=self.environments.directory,
            capture_output=True,
            text=True,
            timeout=120,
        )
        if done.returncode or not done.stdout.strip():
            raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    def run(self, cases: list[Case], libraries: list[str], rounds: int) -> dict[str, Any]:
        """Run interleaved rounds of all cases, with the given libraries or all."""
        facts, start = machine(), time.monotonic()
        figures: dict[str, dict[str, list[dict[str, float]]]] = {case.name: {} for case in cases}
        failures: dict[str, dict[str, str]] = {}
        for number in range(rounds):
            for case in cases:
                for library in case.libraries:
                    if library in self.environments.missing or (libraries and library not in libraries):
                        continue
                    began = time.monotonic()
                    try:
                        measured = self.measure(case, library)
                        figures[case.name].setdefault(library, []).append(measured)
                        shown = ", ".join(f"{name} {value:,.1f}" for name, value in measured.items())
                    except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                        failures.setdefault(case.name, {})[library] = str(error)[:200]
                        shown = f"failed: {str(error)[:100]}"
                    took = time.monotonic() - began
                    self.save()
                    print(f"{number + 1} {case.name} {library}: {shown} ({took:.1f} s)", file=sys.stderr)
        return {
            "machine": facts,
            "versions": self.environments.versions(),
            "rounds": rounds,
            "minutes": round((time.monotonic() - start) / 60, 1),
            "seconds": self.seconds,
            "times": {case.name: case.times for case in cases if case.times > 1},
            "trial": self.seconds < SECONDS,
            "missing": self.environments.missing,
            "failures": failures,
            "cases": {
                name: {library: summary(measured) for library, measured in by_library.items()}
                for name, by_library in figures.items()
                if by_library
            },
        }


def machine() -> dict[str, Any]:
    """Return the description of the machine."""
    model = "unknown"
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
    }


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Return the median, minimum and maximum of each figure, with four digits."""
    return {
        figure: {
            name: float(f"{take(values):.4g}")
            for name, take in (("median", statistics.median), ("least", min), ("greatest", max))
        }
        for figure in rounds[0]
        if (values := [each[figure] for each in rounds])
    }


def replace(run: dict[str, Any], later: dict[str, Any], prefixes: list[str]) -> None:
    """Replace cases of a run by those of a later run, and record the beginnings of their names."""
    run["cases"] |= later["cases"]
    kept = {case: reasons for case, reasons in run["failures"].items() if case not in later["cases"]}
    run["failures"] = kept | later["failures"]
    run["repeated"] = sorted({*run.get("repeated", []), *prefixes})


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1, help="the number of complete runs, one after another")
    parser.add_argument("--rounds", type=int, default=1, help="in each run")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the duration of each; below 1 for a trial")
    parser.add_argument("--only", default="", help="cases whose names begin so; several with commas between")
    parser.add_argument("--libraries", default="", help="these alone, with commas between")
    parser.add_argument("--pinned", action="store_true", help="closed loops: client and broker on one core each")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--repeat", action="store_true", help="replace these cases in each run of the results")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers")
    chosen = parser.parse_args()
    prefixes = list(filter(None, chosen.only.split(",")))
    cases = [case for case in CASES if case.name.startswith(tuple(prefixes or [""]))]
    if not cases:
        parser.error(f"no case has a name that begins with {chosen.only!r}")
    libraries = list(filter(None, chosen.libraries.split(",")))
    unknown = set(libraries).difference(*(case.libraries for case in CASES))
    if unknown:
        parser.error(f"no case has a library {', '.join(sorted(unknown))}")
    if chosen.repeat and (libraries or not prefixes):  # ratios within one run count
        parser.error("--repeat requires --only, and measures all libraries")
    runs: list[dict[str, Any]] = load(chosen.out) if chosen.repeat else []
    if chosen.repeat and not runs:
        parser.error(f"{chosen.out} has no runs")
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # ten thousand connections need as many files
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(most, 20_000)), most))
    environments = Environments(chosen.environments.absolute())
    environments.install()
    bench = Bench(environments, SECONDS * chosen.scale, chosen.pinned)
    for number in range(len(runs) or chosen.runs):
        run = bench.run(cases, libraries, chosen.rounds)
        if chosen.repeat:
            replace(runs[number], run, prefixes)
        else:
            runs.append(run)
        chosen.out.write_text(json.dumps({"runs": runs}, indent=1, sort_keys=True) + "\n")
        print(f"run {number + 1} took {run['minutes']} minutes; written to {chosen.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
