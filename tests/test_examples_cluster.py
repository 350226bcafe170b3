"""examples/cluster.py with two brokers in separate processes, one of which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
BROKER = """
import sys, mqttws.broker
with mqttws.broker.Broker(sys_interval=None) as broker:
    print(broker.url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def process(*command: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[str]]]:
    """Run a program. Yield the process and its lines."""
    with subprocess.Popen(
        [sys.executable, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as running:
        assert running.stdout is not None
        try:
            yield running, iter(running.stdout)
        finally:
            running.kill()


def until(lines: Iterator[str], text: str) -> list[str]:
    """Return lines until one contains a text."""
    taken = []
    for line in lines:
        taken.append(line)
        if text in line:
            return taken
    raise AssertionError(f"it ended before {text!r}: {''.join(taken)}")


def readings(lines: list[str]) -> list[int]:
    return [int(line.split()[1]) for line in lines if line.startswith("reading ")]


def test_the_readings_continue_at_another_node() -> None:
    with process("-c", BROKER) as (first, said), process("-c", BROKER) as (_, other_said):
        urls = [next(said).strip(), next(other_said).strip()]
        hosts = [url.split("/")[2] for url in urls]
        with process(str(ROOT / "examples" / "cluster.py"), *urls) as (example, lines):
            before = until(lines, "reading 5\n")
            assert f"meter: connected to {hosts[0]}\n" in before
            first.kill()
            after = until(lines, f"meter: connected to {hosts[1]}")
            after += until(lines, "reading ")
            number = max(readings(after))
            after += until(lines, f"reading {number + 20}\n")
            assert any(line.startswith(f"display: lost {hosts[0]}") for line in after)
            assert "display: the session is lost, with the messages that waited in it\n" in after
            numbers = readings(before + after)
            assert numbers == sorted(set(numbers)), "a copy was shown"
            assert numbers[-21:] == list(range(number, number + 21)), (
                "these two share no sessions, but nothing later is lost"
            )
            example.send_signal(signal.SIGINT)
            assert example.wait(10) == 0
