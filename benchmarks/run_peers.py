"""Run the peers and us side by side: `python benchmarks/run_peers.py`, or `make bench-peers`.

Every library gets an environment of its own below `.venv-peers/`. The same messages, QoS, window and server for all;
each measurement is a fresh process; rounds are interleaved (all libraries once, then all again), so that a change of
the machine's pace meets all alike. Of the rounds the median counts, and their spread is kept. A run that does not end
with every message in its place is no run: it fails, its reason is kept, and it has no figure.

The outcome is JSON: the figures, and the facts of the machine they hold for. `report.py` makes the document of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
SCRIPTS = HERE / "peers"
sys.path.insert(0, str(HERE))
import workloads as work  # noqa: E402

#: Environment -> what pip installs into it.
PYTHON_PEERS = {
    "paho": ["paho-mqtt>=2.1,<3"],
    "aiomqtt": ["aiomqtt>=2,<3"],
    "gmqtt": ["gmqtt"],
    "amqtt": ["amqtt>=0.11"],
    "mqttproto": ["mqttproto"],
    "mqtt5": ["mqtt5"],
    "awscrt": ["awscrt"],
    "websockets": ["websockets"],
    "mqttws": ["mqttws-pubsub"],
    "mqttws-compiled": ["mqttws-pubsub"],
    "floor": [],
}
NODE_PEERS = ["mqtt", "mqtt-packet", "aedes", "ws"]

CODECS = ["floor", "mqttws", "mqttws-compiled", "paho", "gmqtt", "amqtt", "mqtt5", "mqttpacket"]
CLIENTS = ["floor", "mqttws", "mqttws-compiled", "paho", "aiomqtt", "gmqtt", "awscrt", "mqttjs"]
OURS = ["mqttws", "mqttws-compiled"]
BROKERS = ["mqttws", "mqttws-compiled", "mosquitto", "aedes", "amqtt"]


@dataclass(frozen=True)
class Case:
    """One row of the tables.

    Attributes:
        name: of the row.
        kind: codec, client, receive, hold or broker: which script, and which server it needs.
        libraries: who takes part.
        run: the case that the script knows, where its name is another.
        options: for the script.
    """

    name: str
    kind: str
    libraries: tuple[str, ...]
    run: str = ""
    options: tuple[str, ...] = ()


def cases(scale: float) -> list[Case]:
    """List everything that is measured, in order; `scale` makes the counts smaller for a trial."""

    def count(number: int) -> str:
        return f"count={max(100, int(number * scale))}"

    codec = [Case(name, "codec", tuple(CODECS)) for name in ("encode_qos0", "encode_qos1", "decode_qos0")]
    codec += [Case("decode_stream", "codec", tuple(CODECS))]
    codec += [Case(f"encode_object_qos{qos}", "codec", tuple(OURS)) for qos in (0, 1)]
    for size in (16, 256, 4_096, 65_536, 1_048_576):
        codec += [
            Case(f"{way}_payload_{size}", "codec", tuple(OURS), f"{way}_payload", (f"size={size}",))
            for way in ("encode", "decode")
        ]
    codec += [
        Case(f"mask_{size}", "codec", (*OURS, "websockets"), "mask", (f"size={size}",)) for size in (64, 1_024, 65_536)
    ]
    codec += [
        Case(f"match_{number}", "codec", tuple(OURS), "match", (f"subscriptions={number}",))
        for number in (1, 1_000, 100_000)
    ]
    codec += [
        Case(f"publish_batch_{size}", "codec", tuple(OURS), "publish_batch", (f"size={size}",))
        for size in (1, 4, 16, 64, 256)
    ]
    waiting = ("mqttws", "mqttws-compiled", "paho")
    clients = [
        Case("publish_qos0", "client", tuple(CLIENTS), options=(count(100_000),)),
        Case("publish_qos0_asyncio", "client", tuple(OURS), options=(count(100_000),)),
        Case("publish_qos0_waiting", "client", waiting, options=(count(20_000),)),
        Case("publish_qos1", "client", tuple(CLIENTS), options=(count(30_000),)),
        Case("publish_qos1_asyncio", "client", tuple(OURS), options=(count(30_000),)),
        Case("receive", "receive", tuple(CLIENTS), options=(count(200_000),)),
        Case("receive_asyncio", "receive", tuple(OURS), options=(count(200_000),)),
        Case("echo_qos0", "client", tuple(CLIENTS), "echo", (count(2_000), "qos=0")),
        Case("echo_qos1", "client", tuple(CLIENTS), "echo", (count(200), "qos=1")),
        Case("echo_qos0_asyncio", "client", tuple(OURS), "echo_asyncio", (count(2_000), "qos=0")),
        Case("echo_qos1_asyncio", "client", tuple(OURS), "echo_asyncio", (count(200), "qos=1")),
        Case("memory", "client", tuple(name for name in CLIENTS)),
        Case("clients_10000", "hold", tuple(OURS), "hold", ("count=10000",)),
        Case("import", "import", ("mqttws", "mqttws-compiled", "paho", "aiomqtt", "gmqtt", "awscrt")),
    ]
    brokers = [
        Case("deliver_1_to_1", "broker", tuple(BROKERS), "deliver", (count(50_000), "subscribers=1")),
        Case("deliver_1_to_50", "broker", tuple(BROKERS), "deliver", (count(10_000), "subscribers=50")),
        *(
            Case(f"hold_{number}", "broker", tuple(BROKERS), "hold", (f"count={number}",))
            for number in (250, 1_000, 2_000)
        ),
    ]
    return codec + clients + brokers


class Bench:
    """The environments, the servers, and the running of cases."""

    def __init__(self, environments: Path) -> None:
        self.environments = environments
        self.missing: dict[str, str] = {}
        self.stream = environments / "stream.bin"

    def install(self) -> None:
        """Make what is not there yet; ours is made anew each time."""
        self.environments.mkdir(exist_ok=True)
        self.stream.write_bytes(b"".join(map(work.encode, work.mixed())))
        for name, packages in PYTHON_PEERS.items():
            python = self.environments / name / "bin" / "python"
            ours = name.startswith("mqttws")
            marker = self.environments / name / "installed"
            if marker.exists() and not ours:
                continue
            print(f"installing {name}", file=sys.stderr)
            if not python.exists():
                subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
            if ours:
                packages = [str(self.copy_sources())]
            if packages:
                pip = [python, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
                environment = os.environ | ({"MQTTWS_COMPILE": "1"} if name == "mqttws-compiled" else {})
                done = subprocess.run(pip, env=environment, capture_output=True, text=True)
                if done.returncode:
                    reason = (done.stderr.strip().splitlines() or [""])[-1][:200]
                    self.missing[name] = f"pip could not install it ({reason})"
                    continue
            marker.touch()
        node = self.environments / "node"
        if shutil.which("npm") is None:
            self.missing |= dict.fromkeys(("mqttjs", "mqttpacket", "aedes"), "there is no npm here")
        elif not (node / "node_modules" / "aedes").exists():
            print("installing the peers under Node", file=sys.stderr)
            node.mkdir(exist_ok=True)
            npm = ["npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund", *NODE_PEERS]
            subprocess.run(npm, cwd=node, check=True)
        if mosquitto() is None:
            self.missing["mosquitto"] = "there is no mosquitto here"

    def copy_sources(self) -> Path:
        """Copy our own sources, so that building them leaves nothing behind and takes nothing old."""
        sources = self.environments / "sources"
        shutil.rmtree(sources, ignore_errors=True)
        sources.mkdir()
        for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, sources)
        for name in ("mqttws", "sigv4", "pubsub"):
            shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
        return sources

    def versions(self) -> dict[str, str]:
        """Tell the version of everything that takes part."""
        versions = {}
        for name, packages in PYTHON_PEERS.items():
            if name in self.missing or not packages:
                continue
            package = packages[0].split(">")[0]
            code = f"from importlib.metadata import version; print(version({package!r}))"
            python = self.environments / name / "bin" / "python"
            asked = subprocess.run([python, "-c", code], capture_output=True, text=True)
            versions[name] = asked.stdout.strip()
        for name in NODE_PEERS:
            manifest = self.environments / "node" / "node_modules" / name / "package.json"
            if manifest.exists():
                versions[name] = json.loads(manifest.read_text())["version"]
        path = mosquitto()
        if path is not None:
            shown = subprocess.run([path, "-h"], capture_output=True, text=True).stdout
            versions["mosquitto"] = shown.split()[2]
        return versions

    def command(self, library: str, kind: str) -> list[str]:
        """Make the beginning of a command line."""
        script = SCRIPTS / f"{kind}_{library.removesuffix('-compiled')}"
        if script.with_suffix(".js").exists():
            return ["node", str(script.with_suffix(".js"))]
        return [str(self.environments / library / "bin" / "python"), str(script.with_suffix(".py"))]

    def environment(self) -> dict[str, str]:
        """Make what the processes see: nothing of ours but the workloads."""
        return os.environ | {
            "PYTHONPATH": os.pathsep.join((str(HERE), str(SCRIPTS))),
            "PYTHONSAFEPATH": "1",
            "NODE_PATH": str(self.environments / "node" / "node_modules"),
            "BENCH_STREAM": str(self.stream),
            "BENCH_STREAM_PACKETS": str(len(work.mixed())),
        }

    def ask(self, command: list[str]) -> dict[str, float]:
        """Run one process to its end and take its line of JSON."""
        done = subprocess.run(
            command, env=self.environment(), cwd=self.environments, capture_output=True, text=True, timeout=300
        )
        if done.returncode or not done.stdout.strip():
            raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
        figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return figures

    @contextlib.contextmanager
    def serving(self, command: list[str]) -> Iterator[tuple[int, int]]:
        """Run a server that prints its port. Gives the port and the process."""
        server = subprocess.Popen(
            command, env=self.environment(), cwd=self.environments, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line.strip().isdigit():
                raise RuntimeError("the server did not start")
            yield int(line), server.pid
        finally:
            assert server.stdin is not None
            server.stdin.close()
            try:
                server.wait(10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            server.stdout.close()

    @contextlib.contextmanager
    def broker(self, library: str) -> Iterator[tuple[int, int, int]]:
        """Run a broker. Gives its WebSocket port, its TCP port (Mosquitto only), and the process."""
        if library == "mosquitto":
            with running_mosquitto() as ports:
                yield ports
            return
        command = self.command(library, "broker")
        if library == "amqtt":
            command.append(str(free_port()))
        with self.serving(command) as (port, pid):
            yield port, 0, pid

    def measure(self, case: Case, library: str) -> dict[str, float]:
        """Run one case of one library once."""
        name = case.run or case.name
        if case.kind == "codec":
            return self.ask([*self.command(library, "codec"), name, *case.options])
        if case.kind == "import":
            return self.time_import(library)
        if case.kind == "receive":
            count = case.options[0].partition("=")[2]
            blaster = [str(self.environments / "floor" / "bin" / "python"), str(SCRIPTS / "blaster.py"), count]
            with self.serving(blaster) as (port, _):
                return self.ask([*self.command(library, "client"), name, f"port={port}", *case.options])
        if case.kind == "client":
            with self.broker("mosquitto") as (ws_port, tcp_port, _):
                port = tcp_port if library == "gmqtt" else ws_port
                return self.ask([*self.command(library, "client"), name, f"port={port}", *case.options])
        if case.kind == "hold":  # by the embedded broker: Mosquitto takes a minute to accept so many
            with self.broker(library) as (port, _, _):
                return self.ask([*self.command(library, "hold"), name, f"port={port}", *case.options])
        with self.broker(library) as (port, _, pid):
            load = [str(self.environments / "floor" / "bin" / "python"), str(SCRIPTS / "load_floor.py")]
            return self.ask([*load, name, f"port={port}", f"pid={pid}", *case.options])

    def time_import(self, library: str) -> dict[str, float]:
        """Time a fresh interpreter that imports a library, less one that imports nothing; the best of ten."""
        module = {"paho": "paho.mqtt.client", "mqttws": "pubsub", "mqttws-compiled": "pubsub", "awscrt": "awscrt.mqtt"}
        python = str(self.environments / library / "bin" / "python")

        def best(code: str) -> float:
            times = []
            for _ in range(10):
                start = time.perf_counter()
                subprocess.run([python, "-c", code], check=True, env=self.environment())
                times.append(time.perf_counter() - start)
            return min(times)

        return {"ms": (best(f"import {module.get(library, library)}") - best("pass")) * 1e3}


def free_port() -> int:
    """Find a port that is free."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def mosquitto() -> str | None:
    """Find Mosquitto."""
    return shutil.which("mosquitto") or shutil.which("/usr/sbin/mosquitto")


@contextlib.contextmanager
def running_mosquitto() -> Iterator[tuple[int, int, int]]:
    """Run Mosquitto with TCP_NODELAY. Gives its WebSocket port, its TCP port and the process."""
    ws_port, tcp_port = free_port(), free_port()
    path = mosquitto()
    if path is None:
        raise RuntimeError("there is no mosquitto here")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(
            f"set_tcp_nodelay true\nallow_anonymous true\nmax_queued_messages 0\n"
            f"listener {ws_port} 127.0.0.1\nprotocol websockets\nlistener {tcp_port} 127.0.0.1\n"
        )
        settings.flush()
        os.chmod(settings.name, 0o644)
        broker = subprocess.Popen([path, "-c", settings.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for port in (ws_port, tcp_port):
                deadline = time.monotonic() + 10
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port), 1).close()
                        break
                    except OSError:
                        if time.monotonic() > deadline or broker.poll() is not None:
                            raise RuntimeError("mosquitto did not start") from None
                        time.sleep(0.02)
            yield ws_port, tcp_port, broker.pid
        finally:
            broker.terminate()
            broker.wait(10)


def machine() -> dict[str, Any]:
    """Collect what the figures depend on."""
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
        "load_average": os.getloadavg()[0],
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def summary(rounds: list[dict[str, float]]) -> dict[str, Any]:
    """Take the median of each figure, with the least and the greatest."""
    return {
        figure: {
            "median": statistics.median(values),
            "least": min(values),
            "greatest": max(values),
            "rounds": len(values),
        }
        for figure in rounds[0]
        if (values := [each[figure] for each in rounds])
    }


def main() -> None:
    """Run all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the counts; under 1 for a trial")
    parser.add_argument("--only", default="", help="cases whose names begin so")
    parser.add_argument("--out", type=Path, default=HERE / "results.json")
    parser.add_argument("--environments", type=Path, default=ROOT / ".venv-peers")
    chosen = parser.parse_args()
    bench = Bench(chosen.environments.absolute())
    bench.install()
    wanted = [case for case in cases(chosen.scale) if case.name.startswith(chosen.only)]
    facts = machine()
    figures: dict[str, dict[str, list[dict[str, float]]]] = {case.name: {} for case in wanted}
    failures: dict[str, dict[str, str]] = {}
    for number in range(chosen.rounds):
        for case in wanted:
            for library in case.libraries:
                if library in bench.missing:
                    continue
                try:
                    measured = bench.measure(case, library)
                except (RuntimeError, subprocess.TimeoutExpired) as error:
                    failures.setdefault(case.name, {})[library] = str(error)[:200]
                    print(f"{number + 1} {case.name} {library}: failed: {str(error)[:100]}", file=sys.stderr)
                    continue
                figures[case.name].setdefault(library, []).append(measured)
                shown = ", ".join(f"{name} {value:,.1f}" for name, value in measured.items())
                print(f"{number + 1} {case.name} {library}: {shown}", file=sys.stderr)
    outcome = {
        "machine": facts,
        "versions": bench.versions(),
        "rounds": chosen.rounds,
        "scale": chosen.scale,
        "missing": bench.missing,
        "failures": failures,
        "cases": {
            name: {library: summary(rounds) for library, rounds in by_library.items()}
            for name, by_library in figures.items()
        },
    }
    chosen.out.write_text(json.dumps(outcome, indent=1, sort_keys=True) + "\n")
    print(f"written to {chosen.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
