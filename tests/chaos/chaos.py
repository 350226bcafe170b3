"""Publisher, broker and subscriber in separate processes, with failing connections, killed at random times.

`make chaos` runs this file; `test_chaos.py` runs a smaller size. Each process reports through a pipe, so that a kill
loses no line. The reports are checked after the publisher has finished::

    QoS 1    each accepted message is taken at least once
    QoS 2    exactly once; a second time only if the subscriber was killed between taking and acknowledging
    both     first copies arrive in the order of publishing

Whether a message was accepted that was being published when the publisher was killed is unknown: it may arrive or not,
but at QoS 2 not twice.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from proxy import FaultProxy

import mqttws

HERE = Path(__file__).parent
#: Seconds without a line from any process after which the run has failed.
PATIENCE = 60.0
#: The processes import the same packages as this one.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(mqttws.__file__).parents[1])}


class Process:
    """One of the three processes, restarted after each kill.

    Args:
        chaos: is notified of each line.
        command: the command to run.
    """

    def __init__(self, chaos: Chaos, name: str) -> None:
        self.name = name
        self.lines: list[str] = []
        self.kills = 0
        self._chaos = chaos
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self, *command: str) -> None:
        """Start the process."""
        self._process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)
        self._reader = threading.Thread(target=self._read, args=(self._process,))
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._chaos.parse(self, line.rstrip("\n"))

    def end(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the process, and read the rest of its output."""
        if self._process is None or self._reader is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(30)
        self._reader.join(30)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def kill(self) -> None:
        """Kill the process."""
        self.kills += 1
        self.end()
        self.lines.append("killed")


class Chaos:
    """One run.

    Args:
        messages: the number of messages to publish.
        kills: the number of kills.
        seed: the seed of kills and of network faults.
        directory: the directory of the stores.
    """

    def __init__(self, messages: int, kills: int, seed: int, directory: Path) -> None:
        self.messages = messages
        self._directory = directory
        self._random = random.Random(seed)
        self._changed = threading.Condition()
        self._words = 0
        self._taken = 0
        self.publisher, self.broker, self.subscriber = (
            Process(self, name) for name in ("publisher", "broker", "subscriber")
        )
        # A kill is due after a number of taken messages, so that messages are always in flight.
        self._due = sorted(self._random.sample(range(1, messages), kills))
        self._seed = seed
        self._port = 0
        self.seconds = 0.0

    def parse(self, process: Process, line: str) -> None:
        """Handle a line of a process."""
        with self._changed:
            process.lines.append(line)
            self._words += 1
            self._taken += line.startswith("take")
            self._changed.notify_all()

    def _wait(self, process: Process, word: str) -> None:
        """Wait until a process has written a word."""
        with self._changed:
            assert self._changed.wait_for(lambda: word in process.lines, PATIENCE), f"{process.name} never says {word}"

    def run(self) -> Counter[str]:
        """Run it to its end, and return the figures.

        Raises:
            AssertionError: a guarantee was violated, or the run hangs.
        """
        begin = time.monotonic()
        try:
            self._start_broker()
            with FaultProxy(self._port, self._seed) as self._proxy:
                self._start_subscriber()
                self._wait(self.subscriber, "ready")
                self._start_publisher()
                self._kill_and_wait()
                faults = self._proxy.faults
        finally:
            for process in (self.publisher, self.subscriber, self.broker):
                process.end(signal.SIGTERM)
        figures = self._judge()
        figures["lines broken or frozen"] = faults
        self.seconds = time.monotonic() - begin
        return figures

    def _kill_and_wait(self) -> None:
        for threshold in self._due:
            self._until(threshold)
            victim = self._random.choice((self.publisher, self.broker, self.subscriber))
            victim.kill()
            if victim is self.broker:
                self._start_broker()
            elif victim is self.subscriber:
                self._start_subscriber()
            else:
                self._start_publisher()
        self._until(None)

    def _until(self, threshold: int | None) -> None:
        """Wait until a number of messages were taken; None: until the publisher has ended and all are taken."""
        with self._changed:
            while not (self._all_taken() if threshold is None else self._taken >= threshold):
                words = self._words
                assert self._changed.wait_for(lambda words=words: self._words != words, PATIENCE), (  # type: ignore[misc]
                    f"nothing happens any more: {[process.lines[-2:] for process in (self.publisher, self.subscriber)]}"
                )

    def _all_taken(self) -> bool:
        if "end" not in self.publisher.lines[-2:]:
            return False
        taken = {line.split()[1] for line in self.subscriber.lines if line.startswith("take")}
        return {line.split()[1] for line in self.publisher.lines if line.startswith("accepted")} <= taken

    def _start_broker(self) -> None:
        port, store = str(self._port), str(self._directory / "broker.db")
        start = len(self.broker.lines)
        self.broker.start(
            "-m", "pubsub", "serve", "--no-ws", "--tcp-port", port, "--store", store, "--max-queued", "1000000"
        )
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.broker.lines) > start, PATIENCE), "the broker does not start"
        self._port = int(self.broker.lines[-1].rpartition(":")[2])

    def _start_subscriber(self) -> None:
        url = f"mqtt://127.0.0.1:{self._proxy.port}"
        self.subscriber.start(str(HERE / "subscriber.py"), url, str(self._directory / "subscriber.db"))

    def _start_publisher(self) -> None:
        url = f"mqtt://127.0.0.1:{self._proxy.port}"
        tried = [int(line.split()[1]) for line in self.publisher.lines if line.startswith("try")]
        first = str(tried[-1] + 1 if tried else 0)
        store = str(self._directory / "publisher.db")
        self.publisher.start(str(HERE / "publisher.py"), url, store, first, str(self.messages))

    def _judge(self) -> Counter[str]:
        """Compare the accepted messages with the taken ones."""
        accepted = {int(line.split()[1]) for line in self.publisher.lines if line.startswith("accepted")}
        tried = {int(line.split()[1]) for line in self.publisher.lines if line.startswith("try")}
        takes: Counter[int] = Counter()
        excused: Counter[int] = Counter()
        firsts: dict[int, list[int]] = {1: [], 2: []}
        unfinished: int | None = None
        for line in self.subscriber.lines:
            verb, *rest = line.split()
            if verb == "take":
                unfinished = int(rest[0])
                if not takes[unfinished]:
                    firsts[int(rest[1])].append(unfinished)
                takes[unfinished] += 1
            elif verb == "done":
                unfinished = None
            elif verb == "killed" and unfinished is not None:
                excused[unfinished] += 1
                unfinished = None
        assert takes.keys() <= tried, "a message was taken that was never published"
        lost = [number for number in accepted if not takes[number]]
        assert not lost, f"accepted and lost: {lost[:10]}"
        twice = [number for number in takes if number % 2 and takes[number] > 1 + excused[number]]
        assert not twice, f"QoS 2, taken more than once: {twice[:10]}"
        for qos, numbers in firsts.items():
            assert numbers == sorted(numbers), f"QoS {qos} out of order"
        assert tried == set(range(self.messages))
        figures = Counter(
            {f"kills of the {each.name}": each.kills for each in (self.publisher, self.broker, self.subscriber)}
        )
        figures["messages accepted"] = len(accepted)
        figures["taken at QoS 1"] = sum(takes[number] for number in takes if not number % 2)
        figures["taken at QoS 2"] = sum(takes[number] for number in takes if number % 2)
        figures["lost"] = len(lost)
        figures["duplicates at QoS 2"] = len(twice)
        figures["copies at QoS 1"] = sum(takes[number] - 1 for number in takes if not number % 2)
        figures["taken again because killed before acknowledging"] = sum(excused.values())
        figures["unknown whether accepted"] = len(tried - accepted)
        return figures


def main() -> None:
    """Run with the numbers of messages and kills of the command line."""
    messages, kills, seed = (int(argument) for argument in sys.argv[1:4])
    with tempfile.TemporaryDirectory() as directory:
        chaos = Chaos(messages, kills, seed, Path(directory))
        for name, figure in chaos.run().items():
            print(f"{name}: {figure:,}")
        print(f"seed {seed}, {chaos.seconds:.0f} s")


if __name__ == "__main__":
    main()
