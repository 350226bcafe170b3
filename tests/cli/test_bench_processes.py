"""`pubsub bench --processes N`: the load of several processes, and one report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benching import PATIENCE, bench, command, measured
from hypothesis import given
from hypothesis import strategies as st

from mqttws.broker import Access, Broker, Peer, Users, Verdict, hash_password
from pubsub.bench.fleet import Connections
from pubsub.bench.histogram import Histogram
from pubsub.bench.plan import SHARE, Plan, Schedule
from pubsub.bench.workers import MAX_REASONS, Tally

needs_proc = pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="no /proc on this system")


# --- one schedule, exact sums ---


@given(st.integers(1, 12), st.integers(1, 5), st.floats(0.5, 5_000), st.integers(0, 2 * 10**9))
def test_the_processes_follow_one_schedule(publishers: int, processes: int, rate: float, later: int) -> None:
    """What is due in all processes is what is due in one, at the same times."""
    start, whole = 10**9, Schedule(10**9, rate, publishers)
    turns = [list(range(index, publishers, processes)) for index in range(min(processes, publishers))]
    parts = [Schedule(start, rate, publishers, each) for each in turns]
    dues = [part.due_by(start + later) for part in parts]
    assert sum(dues) == whole.due_by(start + later)
    some = min(whole.due_by(start + later), 100)
    times = sorted(part.due_at(message) for part, due in zip(parts, dues, strict=True) for message in range(due))
    assert times[:some] == [whole.due_at(message) for message in range(some)]
    for part, each in zip(parts, turns, strict=True):
        assert [part.intended(index, 3) for index in range(len(each))] == [whole.intended(turn, 3) for turn in each]


@given(st.lists(st.lists(st.integers(0, 10**11), max_size=30), min_size=1, max_size=4))
def test_the_histograms_are_merged_exactly(parts: list[list[int]]) -> None:
    merged, together = Tally(), Histogram()
    for values in parts:
        tally = Tally()
        for value in values:
            tally.latency.record(value)
            together.record(value)
        tally.delivered = len(values)
        merged.merge(tally)
    assert merged.latency.counts() == together.counts()
    assert merged.delivered == merged.latency.count == together.count
    assert (merged.latency.total, merged.latency.least, merged.latency.greatest) == (
        together.total, together.least, together.greatest,
    )  # fmt: skip


def test_reasons_and_connections_are_added() -> None:
    tally, other = Tally(), Tally()
    for number in range(MAX_REASONS):
        tally.blame(f"reason {number}")
        other.blame(f"other {number}")
    other.blame("reason 1")
    tally.merge(other)
    assert tally.reasons["reason 1"] == 1  # of `other` it was one of too many
    assert sum(tally.reasons.values()) == 2 * MAX_REASONS + 1
    one, two = Connections(), Connections()
    one.made, two.made, two.lost, two.first_error = 3, 4, 1, OSError("gone")
    one.merge(two)
    assert (one.made, one.lost, one.standing, one.first_error) == (7, 1, 6, two.first_error)


def test_listeners_of_all_processes_are_counted() -> None:
    shared = Plan(publishers=5, subscribers=2, spread=SHARE)
    assert shared.listeners([0, 1, 3], [0]) == {0: 1, 1: 0, 3: 0}
    assert Plan(publishers=2, subscribers=3).listeners([1], [0, 2]) == {1: 2}


# --- the report ---


@pytest.mark.parametrize("words", [["-q", "1"], ["-q", "0", "--share"], ["-q", "2", "--warmup", "0.5"]])
def test_every_message_of_all_processes_is_accounted_for(embedded: Broker, words: list[str]) -> None:
    found = measured(
        embedded.url, "--rate", "300", "--duration", "1", "--publishers", "4", "--subscribers", "3",
        "--connections", "2", "--processes", "2", *words,
    )  # fmt: skip
    messages = found["messages"]
    sent = 450 if "--warmup" in words else 300
    copies = 1 if "--share" in words else 3
    assert messages["due"] == messages["published"] == messages["acknowledged"] == sent
    assert messages["expected"] == messages["delivered"] == sent * copies
    assert found["latency"]["count"] == 300 * copies
    for name in ("unsent", "failed", "unacknowledged", "lost", "duplicated", "out_of_order", "foreign"):
        assert messages[name] == 0, name
    assert found["connections"]["made"] == found["connections"]["connecting"]["count"] == 9
    process = found["process"]
    assert process["processes"] == found["plan"]["processes"] == 2
    assert process["busiest_share"] < process["cpu_share"] < 2.5
    assert process["delay"]["count"] > 0
    assert sum(count for _, _, count in found["latency"]["buckets_ms"]) == 300 * copies


def test_more_processes_than_clients(embedded: Broker) -> None:
    found = measured(embedded.url, "-q", "1", "--rate", "50", "--duration", "0.5", "--processes", "3")
    assert found["messages"]["delivered"] == 25
    assert found["connections"]["made"] == 2


def test_losses_are_found_across_processes() -> None:
    received = 0

    def all_but_every_tenth(peer: Peer, access: Access) -> bool | Verdict:
        nonlocal received
        received += access.action == "receive"
        return access.action != "receive" or received % 10 != 0

    with Broker(authorizer=all_but_every_tenth) as broker:
        words = ["-q", "1", "--rate", "100", "--duration", "1", "--drain", "0.5", "--processes", "2"]
        done = bench(broker.url, *words, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, found["problems"]) == (1, ["10 deliveries were lost"])
    assert (found["messages"]["delivered"], found["messages"]["lost"]) == (90, 10)


def test_the_exports_contain_all_processes(embedded: Broker, tmp_path: Path) -> None:
    hdr, metrics = tmp_path / "log", tmp_path / "metrics"
    words = ["-q", "1", "--rate", "100", "--duration", "1", "--processes", "2", "--progress"]
    done = bench(embedded.url, *words, "--hdr", str(hdr), "--openmetrics", str(metrics))
    assert done.returncode == 0
    assert re.search(r"^ +1 s  published .* connections 2$", done.stderr, re.MULTILINE)
    assert "the busiest of 2 processes" in done.stdout
    assert hdr.read_text().count("Tag=") >= 3
    assert "pubsub_bench_latency_seconds_count 100\n" in metrics.read_text()


def test_a_search_and_a_comparison_use_them(embedded: Broker) -> None:
    words = ["--processes", "2", "--duration", "0.3", "--json"]
    done = bench(embedded.url, "--compare", embedded.url, "--rounds", "1", "--rate", "50", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["figures"]["delivered"]["rounds"] == 1
    done = bench(embedded.url, "--find-max", "--rate", "2", "--slo", "p50<0.001us", *words)
    assert done.returncode == 1
    assert {step["process"]["processes"] for step in json.loads(done.stdout)["steps"]} == {2}


def test_no_connection_at_all_is_an_error_with_its_exit_code() -> None:
    done = bench("mqtt://127.0.0.1:1", "--duration", "1", "--json", "--processes", "2")
    assert (done.returncode, json.loads(done.stdout)["connections"]["failed"]) == (3, 2)
    with Broker(authenticator=lambda peer, connect: False) as broker:
        done = bench(broker.url, "--duration", "1", "--json", "--processes", "2")
    assert done.returncode == 4


@pytest.mark.parametrize("count", ["0", "65"])
def test_an_invalid_number_is_refused(embedded: Broker, count: str) -> None:
    done = bench(embedded.url, "--processes", count)
    assert (done.returncode, done.stdout) == (2, "")
    assert "there must be 1 to 64" in done.stderr


# --- secrets, signals, and processes that die ---


def children(pid: int) -> list[int]:
    """Return the processes that are children of one, in the order of their start."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found.append(int(path.parent.name))
    return sorted(found)


def words_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""


def workers(pid: int) -> list[int]:
    """Return the processes with a part of the load: not the resource tracker of multiprocessing."""
    return [child for child in children(pid) if "spawn_main" in words_of(child)]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + PATIENCE / 3  # before the guard of `running` kills them
    while any(words_of(pid) for pid in pids):
        assert time.monotonic() < deadline, "a process is left"
        time.sleep(0.02)


@contextmanager
def running(*words: str, ready: str = "delivered", **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run the command in a process group, until it has printed a line that contains a text."""
    with subprocess.Popen(
        command(*words, "--processes", "2", "--progress", "--json"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
        start_new_session=True,
    ) as process:
        guard = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        guard.start()
        try:
            assert process.stderr is not None
            assert any(ready in line for line in process.stderr)
            yield process
        finally:
            guard.cancel()
            process.kill()


LONG = ("-q", "1", "--rate", "100", "--duration", "1000")


@needs_proc
def test_no_secret_is_on_a_command_line_and_the_password_works() -> None:
    with (
        Broker(authenticator=Users({"ada": hash_password("c4n4ry")})) as broker,
        running(broker.url, "-u", "ada", *LONG, PUBSUB_PASSWORD="c4n4ry") as process,
    ):
        pids = children(process.pid)
        assert len(workers(process.pid)) == 2
        for pid in pids:
            assert "c4n4ry" not in words_of(pid)
            assert broker.url not in words_of(pid)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out)["messages"]["delivered"] > 0


@needs_proc
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stage_in_all_processes(embedded: Broker, number: signal.Signals, group: bool) -> None:
    """A terminal sends Ctrl-C to the whole group, `kill` to the command only."""
    with running(embedded.url, *LONG) as process:
        pids = children(process.pid)
        (os.killpg if group else os.kill)(process.pid, number)
        out, err = process.communicate(timeout=PATIENCE)
        wait_until_gone(pids)
    found = json.loads(out)
    assert (process.returncode, found["interrupted"]) == (0, True)
    assert found["messages"]["due"] == found["messages"]["delivered"] > 0
    assert "Traceback" not in err


@needs_proc
def test_a_second_ctrl_c_ends_the_wait() -> None:
    def censor(peer: Peer, access: Access) -> bool | Verdict:
        return access.action != "receive"

    with (
        Broker(authorizer=censor) as broker,
        running(broker.url, "--rate", "50", "--duration", "0.3", "--drain", "1000", ready="waiting: 15") as process,
    ):
        pids = children(process.pid)
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=PATIENCE)
        wait_until_gone(pids)
    assert (process.returncode, json.loads(out)["messages"]["lost"]) == (1, 15)  # nothing arrived


@needs_proc
def test_a_process_that_is_killed_ends_the_run_with_a_message(embedded: Broker) -> None:
    with running(embedded.url, *LONG) as process:
        pids = children(process.pid)
        os.kill(workers(process.pid)[1], signal.SIGKILL)
        out, err = process.communicate(timeout=PATIENCE)
        wait_until_gone(pids)
    assert (process.returncode, out) == (1, "")
    assert err.splitlines()[-1] == "pubsub bench: process 2 of 2 was killed by SIGKILL; the run is not valid"
    assert "Traceback" not in err


@needs_proc
def test_a_stopped_process_is_killed_at_the_end(embedded: Broker) -> None:
    """One process dies, and the other one does not answer: the command does not wait for it for long."""
    with running(embedded.url, *LONG) as process:
        pids, (first, second) = children(process.pid), workers(process.pid)
        os.kill(first, signal.SIGSTOP)
        os.kill(second, signal.SIGKILL)
        _, err = process.communicate(timeout=PATIENCE)
        wait_until_gone(pids)
    assert process.returncode == 1
    assert "process 2 of 2 was killed" in err


@needs_proc
def test_the_processes_exit_if_the_command_is_killed(embedded: Broker) -> None:
    with running(embedded.url, *LONG) as process:
        pids = children(process.pid)
        process.kill()
        process.wait(PATIENCE)
        wait_until_gone(pids)


def test_a_fault_in_a_process_is_reported(tmp_path: Path) -> None:
    program = (
        "import asyncio\n"
        "from pubsub.bench.plan import Plan\n"
        "from pubsub.bench.processes import ProcessFailed, RemotePart\n"
        "import builder\n"
        "async def main():\n"
        "    part = RemotePart(builder.build, Plan(processes=2), 1, print)\n"
        "    for name in ('connect', 'connect'):\n"
        "        try: await part.call(name)\n"
        "        except ProcessFailed as error: print(error)\n"
        "    await part.end()\n"
        "if __name__ == '__main__': asyncio.run(main())\n"
    )
    (tmp_path / "builder.py").write_text("def build(plan, index, emit):\n    raise ValueError('no such file')\n")
    script = tmp_path / "script.py"
    script.write_text(program)
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["process 2 of 2: no such file"] * 2
