"""Measure the import time of each face of the packages, module by module, and write docs/imports.md.

    python benchmarks/import_times.py docs/imports.md

Each face is imported by several new interpreters with `-X importtime`; the shortest time of each module counts, without
its own imports. The sum is the time on an idle machine.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNS = 12
#: The number of modules listed for each face.
NAMED = 12
#: Face -> its import statement.
FACES = {
    "A blocking client": "from mqttws import connect",
    "... over WebSocket": "from mqttws import connect, ClientWebSocket",
    "An asyncio client": "from mqttws.aio import connect",
    "PubSub": "from pubsub import MqttOverWSProvider, PubSub",
    "Packets alone": "from mqttws import Decoder, Publish",
    "The broker": "from mqttws.broker import Broker",
    "Signing a URL": "from sigv4 import presign_iot_url",
    "The command line": "import pubsub.cli.pub",
}
_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")


def times_of(statement: str, runs: int = RUNS) -> dict[str, int]:
    """Return the time of each module that a statement imports in addition to Python's own, in microseconds."""
    best: dict[str, int] = {}
    _run(statement)  # compiles bytecode
    for _ in range(runs):
        for module, time in _run(statement).items():
            best[module] = min(time, best.get(module, time))
    bare = _run("pass")
    return {module: time for module, time in best.items() if module not in bare}


def _run(statement: str) -> dict[str, int]:
    command = [sys.executable, "-X", "importtime", "-c", statement]
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=True)
    return {match[2]: int(match[1]) for match in map(_LINE.match, done.stderr.splitlines()) if match}


def _share(times: dict[str, int], *packages: str) -> float:
    return sum(time for module, time in times.items() if module.split(".")[0] in packages) / 1e3


def page() -> str:
    """Measure, and return the page."""
    faces = {face: (statement, times_of(statement)) for face, statement in FACES.items()}
    version = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [
        "# Import times",
        "",
        "This page shows how long a program waits for its imports: milliseconds, each module at its best of "
        f"{RUNS} new processes, {version} on {platform.machine()}. `python benchmarks/import_times.py docs/imports.md` "
        "writes it. `tests/test_imports.py` checks which modules each face must not import.",
        "",
        "| face | statement | modules | ms | of these ours | wsproto and h11 |",
        "|---|---|---|---|---|---|",
    ]
    for face, (statement, times) in faces.items():
        total, ours = sum(times.values()) / 1e3, _share(times, "mqttws", "pubsub", "sigv4")
        theirs = _share(times, "wsproto", "h11")
        lines.append(f"| {face} | `{statement}` | {len(times)} | {total:.1f} | {ours:.1f} | {theirs:.1f} |")
    lines += ["", "The modules that take longest, each without what it imports in turn:", ""]
    for face, (_, times) in faces.items():
        longest = sorted(times.items(), key=lambda item: -item[1])[:NAMED]
        lines.append(f"- {face}: " + ", ".join(f"`{module}` {time / 1e3:.1f}" for module, time in longest))
    lines += ["", "**Next:** [performance](performance.md#until-the-first-message), the time until a first message."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
