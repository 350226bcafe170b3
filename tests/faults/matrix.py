"""`make faults`: run clients of several libraries under every fault of packets and bytes, and write docs/faults.md.

In each cell a program publishes 100 messages at QoS 1 and 100 at QoS 2 and receives 100 (see program.py), over TCP,
through `Faults` to the embedded broker. A second client, connected directly to the broker, receives the published
messages and publishes those for the program. A cell compares which messages arrived, how often and in which order. The
faults of a cell are stored as rules: `pubsub look URL --faults docs/faults/CELL.toml` repeats it.

    python tests/faults/matrix.py [--clients a,b] [--faults x,y] [--seconds 15] [--jobs 4]
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mqttws
from mqttws.broker import Broker
from mqttws.testing import Faults

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent
PAGE = ROOT / "docs" / "faults.md"
REPLAYS = ROOT / "docs" / "faults"
PEERS = ROOT / ".venv-peers" / "faults" / "bin" / "python"
COUNT = 100

#: Client -> the command that runs its program, without HOST and PORT.
CLIENTS: dict[str, list[str]] = {
    **{
        name: [sys.executable, str(HERE / "program.py"), name]
        for name in ("mqttws", "mqttws.aio", "paho-mqtt", "awscrt")
    },
    **{
        name: [str(PEERS), str(HERE / "program.py"), name] for name in ("aiomqtt", "gmqtt", "amqtt", "mqttium", "zmqtt")
    },
    "mqtt.js": ["node", str(HERE / "program.mjs"), "mqtt.js"],
}
#: Name of a row -> (on, conditions, kind, parameters); toxics have "stream" for `on`. Each fault happens once or a few
#: times, and then the connection works, so that the client has the time to recover.
FAULTS: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "none": ("", {"nth": 1, "on_nothing": True}, "drop", {}),
    "drop the CONNACK": ("CONNACK", {"nth": 1}, "drop", {}),
    "refuse with CONNACK 3": ("CONNACK", {"nth": 1}, "refuse", {"return_code": 3}),
    "answer with CONNACK 3 for 2 s": ("CONNECT", {"within": 2.0}, "answer", {"packet": "20020003"}),
    "CONNACK without session present": ("CONNACK", {"nth": 2}, "session_lost", {}),
    "drop the SUBACK": ("SUBACK", {"nth": 1}, "drop", {}),
    "SUBACK 0x80": ("SUBACK", {"nth": 1}, "fail_subscription", {}),
    "SUBACK with an extra return code": ("SUBACK", {"nth": 1}, "wrong_count", {"more": 1}),
    "SUBACK with an unknown identifier": ("SUBACK", {"nth": 1}, "stranger", {}),
    "drop a PUBACK": ("PUBACK", {"sender": "server", "nth": 10}, "drop", {}),
    "drop a PUBREC": ("PUBREC", {"sender": "server", "nth": 10}, "drop", {}),
    "drop a PUBCOMP": ("PUBCOMP", {"sender": "server", "nth": 10}, "drop", {}),
    "drop a PUBREL": ("PUBREL", {"sender": "client", "nth": 10}, "drop", {}),
    "drop a PUBLISH to the client": ("PUBLISH", {"sender": "server", "nth": 10}, "drop", {}),
    "drop a PUBLISH from the client": ("PUBLISH", {"sender": "client", "nth": 10}, "drop", {}),
    "PUBACK twice": ("PUBACK", {"sender": "server", "every": 10}, "duplicate", {}),
    "PUBREC twice": ("PUBREC", {"sender": "server", "every": 10}, "duplicate", {}),
    "PUBCOMP twice": ("PUBCOMP", {"sender": "server", "every": 10}, "duplicate", {}),
    "PUBLISH to the client twice": ("PUBLISH", {"sender": "server", "every": 10}, "duplicate", {}),
    "PUBACK with an unknown identifier": ("PUBACK", {"sender": "server", "nth": 10}, "stranger", {}),
    "an extra PUBACK": ("PUBACK", {"sender": "server", "nth": 10}, "inject", {"packet": "4002ea60"}),
    "PUBACK with the identifier 0": ("PUBACK", {"sender": "server", "nth": 10}, "replace", {"packet": "40020000"}),
    "PUBREC with a reserved flag": ("PUBREC", {"sender": "server", "nth": 10}, "set_flags", {"flags": 1}),
    "PUBACKs reordered": ("PUBACK", {"sender": "server", "every": 10}, "reorder", {}),
    "PUBACK held back for 2 s": ("PUBACK", {"sender": "server", "nth": 10}, "hold", {"seconds": 2.0}),
    "all acknowledgements held back for 1 s": ("PUBACK", {"sender": "server"}, "hold", {"seconds": 1.0}),
    "the 20th packet 2 s late": ("", {"sender": "server", "nth": 20}, "delay", {"seconds": 2.0}),
    "RST instead of a PUBACK": ("PUBACK", {"sender": "server", "nth": 10}, "reset", {}),
    "FIN instead of a PUBACK": ("PUBACK", {"sender": "server", "nth": 10}, "close", {}),
    "RST instead of a PUBREC": ("PUBREC", {"sender": "server", "nth": 10}, "reset", {}),
    "RST instead of a PUBCOMP": ("PUBCOMP", {"sender": "server", "nth": 10}, "reset", {}),
    "RST inside a PUBLISH to the client": ("PUBLISH", {"sender": "server", "nth": 10}, "truncate", {"size": 5}),
    "RST inside a PUBLISH from the client": ("PUBLISH", {"sender": "client", "nth": 10}, "truncate", {"size": 5}),
    "silence from the 30th packet on": ("", {"sender": "server", "nth": 30}, "silence", {}),
    "a byte of a PUBACK changed": ("PUBACK", {"sender": "server", "nth": 10}, "corrupt", {"at": 0}),
    "PUBACK with a reserved flag": ("PUBACK", {"sender": "server", "nth": 10}, "set_flags", {"flags": 2}),
    "PUBLISH with QoS 3": ("PUBLISH", {"sender": "server", "nth": 10}, "set_flags", {"flags": 6}),
    "a remaining length of five bytes": ("PUBACK", {"sender": "server", "nth": 10}, "endless_length", {}),
    "a remaining length longer than necessary": ("PUBACK", {"sender": "server", "every": 10}, "long_length", {}),
    "a remaining length that is too large": ("PUBACK", {"sender": "server", "nth": 10}, "wrong_length", {"more": 2}),
    "100 random bytes": ("PUBACK", {"sender": "server", "nth": 10}, "garbage", {"size": 100}),
    "every packet byte by byte": ("", {"sender": "server"}, "split", {"size": 1}),
    "latency": ("stream", {}, "latency", {"seconds": 0.05, "jitter": 0.05}),
    "bandwidth": ("stream", {}, "bandwidth", {"rate": 2000.0}),
    "slow_close": ("stream", {}, "slow_close", {"seconds": 1.0}),
    "timeout": ("stream", {"connection": 1}, "timeout", {"seconds": 2.0}),
    "reset_peer": ("stream", {"connection": 1}, "reset_peer", {"seconds": 0.3}),
    "slicer": ("stream", {}, "slicer", {"size": 3, "variation": 2}),
    "limit_data": ("stream", {"connection": 1}, "limit_data", {"size": 300}),
}


def add_fault(faults: Faults, row: str) -> None:
    """Add the rule of a row."""
    on, conditions, kind, parameters = FAULTS[row]
    if "on_nothing" in conditions:
        return
    doing = faults.stream("server", **conditions) if on == "stream" else faults.on(on, **conditions)
    getattr(doing, kind)(**parameters)


class Cell:
    """One client under one fault."""

    def __init__(self, client: str, row: str, seconds: float) -> None:
        self._client = client
        self._row = row
        self._seconds = seconds
        self.arrived: dict[int, list[int]] = {1: [], 2: []}
        self.got: list[int] = []
        self.done: set[tuple[int, int]] = set()
        self._ready = threading.Event()
        self.decided = ""

    def run(self) -> str:
        """Run the cell. Return a description of what is wrong; "" for nothing."""
        with Broker(ws_port=None) as broker, Faults(broker.url_of("mqtt"), seed=1) as faults:
            add_fault(faults, self._row)
            with mqttws.connect(broker.url_of("mqtt"), client_id="beside", on_message=self._take) as beside:
                beside.subscribe("up/#", 2)
                code, error = self._run_program(faults.url, beside)
            self.decided = faults.decided.to_toml()
        return self._verdict(code, error)

    def _run_program(self, url: str, beside: mqttws.Client) -> tuple[int | None, str]:
        host, _, port = url.removeprefix("mqtt://").rpartition(":")
        process = subprocess.Popen(
            [*CLIENTS[self._client], host, port], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )
        threads = [threading.Thread(target=self._listen, args=(process.stdout,), daemon=True)]
        errors: list[str] = []
        threads.append(threading.Thread(target=lambda: errors.append(process.stderr.read()), daemon=True))  # type: ignore[union-attr]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + self._seconds
        if self._ready.wait(self._seconds):
            for number in range(COUNT):
                beside.publish_nowait(f"down/{number % 3}", str(number), 1)
        try:
            code: int | None = process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        for thread in threads:
            thread.join(5)
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        return code, "".join(errors)

    def _listen(self, lines: Any) -> None:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if "got" in event:
                self.got.append(event["got"])
            elif "done" in event:
                self.done.add(tuple(event["done"]))
            else:
                self._ready.set()

    def _take(self, message: mqttws.Publish) -> None:
        self.arrived[int(message.topic[-1])].append(int(message.payload))

    def _verdict(self, code: int | None, error: str) -> str:
        words = []
        if code is None:
            words.append("hung" if self._ready.is_set() else "never subscribed")
        elif code:
            last = (error.strip().splitlines() or ["no word"])[-1]
            words.append(f"ended: {last[:60]}")
        for qos, numbers in self.arrived.items():
            lost = {number for each, number in self.done if each == qos} - set(numbers)
            if lost:
                words.append(f"QoS {qos}: {len(lost)} acknowledged and not there")
            if qos == 2 and len(numbers) > len(set(numbers)):
                words.append(f"QoS 2: {len(numbers) - len(set(numbers))} twice")
            firsts = list(dict.fromkeys(numbers))
            if firsts != sorted(firsts):
                words.append(f"QoS {qos}: out of order")
            missing = COUNT - len(set(numbers))
            if missing and not (qos == 2 and self._client == "awscrt"):
                words.append(f"QoS {qos}: {missing} not published")
        if self._ready.is_set() and len(set(self.got)) < COUNT:
            words.append(f"{COUNT - len(set(self.got))} not received")
        return "; ".join(words)


def version_of(client: str) -> str:
    """Return the version of a client's library."""
    if client == "mqtt.js":
        package = ROOT / "tests" / "peers" / "node_modules" / "mqtt" / "package.json"
        return str(json.loads(package.read_text())["version"])
    name = "mqttws-pubsub" if client.startswith("mqttws") else client
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    done = subprocess.run([CLIENTS[client][0], "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.strip()


_EXPLAINED = """\
This page shows how MQTT clients handle faults of a connection or a server: lost, repeated, delayed and damaged
packets, and broken connections. Each cell is one run over plain TCP; faults of WebSocket frames and of HTTP are not
part of this matrix. A program publishes 100 messages at QoS 1 and 100 at QoS 2, alternately, and receives 100 at QoS
1, through `mqttws.testing.Faults` and the embedded broker.

`ok` means that all messages arrived, at QoS 2 exactly once, in order, and that the program ended. A number refers to
a remark below; its rules, in `docs/faults/`, repeat the run with `pubsub look URL --faults FILE`.

A result other than `ok` is not always an error of the client. MQTT 3.1.1 sends nothing again on a connection that is
open, so every client that does not close the connection misses a dropped packet or acknowledgement. `hung` means that
the program was still waiting at the end of the run."""
_SETUP = """\
- Every client has the same set-up: a persistent session, a keep alive of 2 s, and 3 s for whatever a library lets
  time out. Each client reconnects by its own means. If it has none, the program does so, as the library's
  documentation describes (`tests/faults/program.py`). A run takes at most {seconds:g} s.
- The set-ups of mqttws, mqttws.aio, aiomqtt, mqttium, zmqtt and MQTT.js were corrected after the first run of this
  matrix, so that every client has the same time-outs and repeats a first attempt that fails. The results are those
  after the corrections. If you know a fairer set-up, change the program and run `make faults`.
- awscrt has no QoS 2. gmqtt gives a program no way to wait for an acknowledgement."""


def page(outcomes: dict[tuple[str, str], str], clients: list[str], rows: list[str], seconds: float) -> str:
    """Return the page."""
    versions = ", ".join(f"{client} {version_of(client)}" for client in clients)
    lines = [
        "# Clients under faults",
        "",
        *_EXPLAINED.splitlines(),
        "",
        "## Results",
        "",
        "| Fault | " + " | ".join(clients) + " |",
        "|---" * (len(clients) + 1) + "|",
    ]
    remarks: list[tuple[str, str, str]] = []
    for row in rows:
        cells = []
        for client in clients:
            outcome = outcomes[client, row]
            if outcome:
                remarks.append((client, row, outcome))
            cells.append(str(len(remarks)) if outcome else "ok")
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    lines += ["", "## Remarks", ""]
    for number, (client, row, outcome) in enumerate(remarks, 1):
        shown = outcome.replace("|", "\\|").replace("<", "&lt;")
        lines.append(f"{number}. {client}, {row}: {shown} ([rules](faults/{file_name(client, row)}))")
    lines += [
        "",
        "## Set-up",
        "",
        *_SETUP.format(seconds=seconds).splitlines(),
        f"- Clients: {versions}; Python {platform.python_version()}. `make faults` wrote this page on "
        f"{datetime.datetime.now(datetime.UTC).date()}.",
        "",
        "**Next:** [the tap](tap.md#breaking) to break packets of your own sessions, [interoperability](interop.md).",
    ]
    return "\n".join(lines) + "\n"


def file_name(client: str, row: str) -> str:
    """Return the file name of a cell's rules."""
    return "".join(each if each.isalnum() else "-" for each in f"{client} {row}".lower()) + ".toml"


def main() -> None:
    """Run the matrix."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", default=",".join(CLIENTS))
    parser.add_argument("--faults", default=",".join(FAULTS))
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--jobs", type=int, default=4)
    arguments = parser.parse_args()
    clients, rows = arguments.clients.split(","), arguments.faults.split(",")
    outcomes: dict[tuple[str, str], str] = {}
    replays: dict[str, str] = {}

    def run(client: str, row: str) -> None:
        cell = Cell(client, row, arguments.seconds)
        outcomes[client, row] = outcome = cell.run()
        if outcome:
            replays[file_name(client, row)] = cell.decided
        print(f"{client:12} {row:45} {outcome or 'ok'}", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for future in [pool.submit(run, client, row) for row in rows for client in clients]:
            future.result()
    shutil.rmtree(REPLAYS, ignore_errors=True)
    REPLAYS.mkdir()
    for name, rules in replays.items():
        (REPLAYS / name).write_text(rules)
    PAGE.write_text(page(outcomes, clients, rows, arguments.seconds))


if __name__ == "__main__":
    main()
