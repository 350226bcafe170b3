"""Measure the time from the start of a process to the PUBACK of its first message, and its memory.

Each library gets the few lines that a user would write, in a separate environment. Each round starts each of them once,
so that load affects all equally. Ratios within one run count: to the time of paho, or to that of an interpreter that
does nothing. The broker is ours, in another process, for all of them.

    python benchmarks/first_message.py              creates the environments, runs 30 rounds, prints the table
    python benchmarks/first_message.py --rounds 5 --json FILE

The start of `pubsub pub` ends when it connects: with the first byte at a listener of this script. It is started in two
ways: by the script that pip writes when it installs the package, and by `python -m pubsub`. The first depends on pip:
scripts of an old one import `re`, which takes longer than a tenth of the start. So the table names the version.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from environments import Environments

#: Notifies the parent by a byte, then writes its memory in KiB and its CPU seconds, and exits without cleanup.
_TELL = """
import os, sys, time
def tell():
    cpu = time.process_time()
    os.write(1, b".")
    with open("/proc/self/status") as status:
        kib = next(line.split()[1] for line in status if line.startswith("VmRSS:"))
    os.write(1, f"{kib} {cpu}".encode())
    os._exit(0)
scheme, host, port = sys.argv[1:]
"""
_OURS = """
from mqttws import connect
client = connect(f"{scheme}://{host}:{port}/" if scheme == "ws" else f"{scheme}://{host}:{port}")
client.publish("first/message", b"x", qos=1)
tell()
"""
_PAHO = """
from paho.mqtt.client import CallbackAPIVersion, Client
client = Client(CallbackAPIVersion.VERSION2, transport="websockets" if scheme == "ws" else "tcp")
if scheme == "ws":
    client.ws_set_options(path="/")
client.connect(host, int(port))
client.loop_start()
client.publish("first/message", b"x", qos=1).wait_for_publish(10)
tell()
"""
_NOTHING = "tell()\n"

#: Case -> library, program, scheme.
PROGRAMS = {
    "pass": ("mqttws", _NOTHING, "mqtt"),
    "paho, TCP": ("paho", _PAHO, "mqtt"),
    "mqttws, TCP": ("mqttws", _OURS, "mqtt"),
    "paho, WebSocket": ("paho", _PAHO, "ws"),
    "mqttws, WebSocket": ("mqttws", _OURS, "ws"),
}
#: (description, case, the case to compare with, maximum ratio)
TARGETS = [
    ("first PUBACK over TCP", "mqttws, TCP", "paho, TCP", 0.5),
    ("first PUBACK over WebSocket", "mqttws, WebSocket", "paho, WebSocket", 0.6),
    ("start of `pubsub pub`", "pubsub pub", "pass", 2.5),
    ("start of `python -m pubsub pub`", "python -m pubsub pub", "pass", 2.5),
]


class Case:
    """The measurements of one program.

    Attributes:
        seconds: from the start of the process to the PUBACK, for each round.
        kib: resident memory at that time, for each round.
        cpu: seconds of CPU used until then, for each round; the load of the machine affects it least.
    """

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.kib: list[int] = []
        self.cpu: list[float] = []

    @property
    def ms(self) -> float:
        """Return the median time in milliseconds."""
        return statistics.median(self.seconds) * 1e3

    @property
    def mib(self) -> float:
        """Return the median memory in MiB."""
        return statistics.median(self.kib) / 1024 if self.kib else 0.0


def run_program(command: list[str], case: Case) -> None:
    """Run one of the programs, and record its measurements."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        answer = os.read(process.stdout.fileno(), 1)
        case.seconds.append(time.perf_counter() - start)
        if answer != b".":
            raise RuntimeError(f"{command[0]} ended without its message being acknowledged")
        kib, cpu = process.stdout.read().split()
        case.kib.append(int(kib))
        case.cpu.append(float(cpu))


def run_pub(pubsub: list[str], case: Case) -> None:
    """Run `pubsub pub` until it connects.

    Args:
        pubsub: The start of the command line.
        case: For its measurements.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        url = f"mqtt://127.0.0.1:{listener.getsockname()[1]}"
        before, start = _cpu_of_children(), time.perf_counter()
        command = [*pubsub, "pub", url, "first/message", "x"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1)
                case.seconds.append(time.perf_counter() - start)
                process.kill()
        case.cpu.append(_cpu_of_children() - before)


def _cpu_of_children() -> float:
    """Return the CPU seconds of the processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(environments: Environments, rounds: int) -> dict[str, Case]:
    """Measure all cases, alternating."""
    broker = subprocess.Popen(
        [environments.python("mqttws"), "-P", "-c", _BROKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert broker.stdin is not None
    assert broker.stdout is not None
    with broker:
        ports = json.loads(broker.stdout.readline())
        cases: dict[str, Case] = {}
        runs: dict[str, Callable[[Case], None]] = {
            "pubsub pub": lambda case: run_pub([_pubsub(environments)], case),
            "python -m pubsub pub": lambda case: run_pub([environments.python("mqttws"), "-P", "-m", "pubsub"], case),
        }
        for name, (library, program, scheme) in PROGRAMS.items():
            command = [
                environments.python(library),
                "-P",
                "-c",
                _TELL + program,
                scheme,
                "127.0.0.1",
                str(ports[scheme]),
            ]
            runs[name] = lambda case, command=command: run_program(command, case)  # type: ignore[misc]
        for run in runs.values():  # compiles bytecode and fills caches; not counted
            run(Case())
        for _ in range(rounds):
            for name, run in runs.items():
                run(cases.setdefault(name, Case()))
        broker.stdin.close()
    return cases


_BROKER = """
import json, sys
from mqttws.broker import Broker
with Broker() as broker:
    print(json.dumps({scheme: broker.url_of(scheme).rpartition(":")[2].strip("/mqt") for scheme in ("ws", "mqtt")}))
    sys.stdout.flush()
    sys.stdin.read()
"""


def _pubsub(environments: Environments) -> str:
    return str(Path(environments.python("mqttws")).parent / "pubsub")


def script_of(environments: Environments) -> str:
    """Return the version of pip that has written the script `pubsub`, and whether that imports `re`."""
    command = [environments.python("mqttws"), "-m", "pip", "--version"]
    version = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[1]
    imports = "imports" if "import re\n" in Path(_pubsub(environments)).read_text() else "does not import"
    return f"`pubsub` is the script of pip {version}, which {imports} `re`."


def by_library(cases: dict[str, Case]) -> dict[str, dict[str, float]]:
    """Return the medians of each library; those of a process that does nothing are the floor's."""
    bare = cases["pass"]
    figures: dict[str, dict[str, float]] = {"floor": {"pub_ms": bare.ms}}
    for library in ("mqttws", "paho"):
        for scheme, short in (("TCP", "tcp"), ("WebSocket", "ws")):
            case = cases[f"{library}, {scheme}"]
            figures.setdefault(library, {}).update({f"{short}_ms": case.ms, f"{short}_mib": case.mib - bare.mib})
    figures["mqttws"]["pub_ms"] = cases["pubsub pub"].ms
    return figures


def table(cases: dict[str, Case]) -> str:
    """Return the table of the measurements, and the result of each target."""
    bare = cases["pass"]
    lines = [
        "| process | to the moment, ms | beyond `pass` | CPU, ms | resident, MiB beyond `pass` |",
        "|---|---|---|---|---|",
    ]
    for name, case in sorted(cases.items(), key=lambda item: item[1].ms):
        memory = f"{case.mib - bare.mib:.1f}" if case.kib else "-"
        cpu = f"{statistics.median(case.cpu) * 1e3:.1f}" if case.cpu else "-"
        lines.append(f"| {name} | {case.ms:.1f} | {case.ms - bare.ms:.1f} | {cpu} | {memory} |")
    lines += ["", "| target | at most | measured | by CPU |", "|---|---|---|---|"]
    for what, name, other, most in TARGETS:
        ours, theirs = cases[name], cases[other]
        by_cpu = statistics.median(ours.cpu) / statistics.median(theirs.cpu)
        lines.append(f"| {what} | {most} x {other} | {ours.ms / theirs.ms:.2f} | {by_cpu:.2f} |")
    for scheme in ("TCP", "WebSocket"):
        mine, pahos = (cases[f"{library}, {scheme}"].mib - bare.mib for library in ("mqttws", "paho"))
        lines.append(f"| memory of one connection, {scheme} | 0.75 x paho, {scheme} | {mine / pahos:.2f} | |")
    return "\n".join(lines)


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--environments", type=Path, default=Path(__file__).parent.parent / ".venv-peers")
    parser.add_argument("--json", type=Path, help="also write the medians to a file")
    arguments = parser.parse_args()
    environments = Environments(arguments.environments)
    environments.install_only("paho", "mqttws")
    if environments.missing:
        sys.exit(f"cannot be measured: {environments.missing}")
    cases = measure(environments, arguments.rounds)
    print(table(cases), script_of(environments), sep="\n\n")
    if arguments.json is not None:
        medians = {name: {"ms": round(case.ms, 2), "mib": round(case.mib, 2)} for name, case in cases.items()}
        arguments.json.write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
