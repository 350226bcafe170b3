"""`pubsub bench --storm` and `--churn`: lost connections and how they return, connections a second, phases."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from benching import PATIENCE, bench, command, measured
from hypothesis import given
from hypothesis import strategies as st

from mqttws.broker import Broker
from mqttws.testing import mint_authority
from pubsub.bench.fleet import Fleet
from pubsub.bench.plan import Plan
from pubsub.bench.returns import STEP, STEPS, Returns, busiest
from pubsub.bench.scenarios import Churn
from pubsub.bench.workers import Tally

SECOND = 10**9

# --- returns ---


def test_the_returns_of_two_processes_are_merged() -> None:
    one, two = Returns(), Returns()
    one.lost(5 * SECOND)
    one.back(5 * SECOND, 7 * SECOND)
    two.lost(4 * SECOND)
    two.tried(6 * SECOND)
    two.back(4 * SECOND, 6 * SECOND)
    one.merge(two)
    assert (one.first_lost, one.last_back, one.all_back) == (4 * SECOND, 7 * SECOND, 3 * SECOND)
    assert (one.times.count, one.times.least, sum(one.attempts.values())) == (2, 2 * SECOND, 1)
    one.merge(Returns())  # of a process that lost nothing
    assert (one.first_lost, one.all_back) == (4 * SECOND, 3 * SECOND)


@given(st.lists(st.integers(0, 60), max_size=60))
def test_the_busiest_second_begins_with_any_tenth(tenths: list[int]) -> None:
    expected = max((sum(start <= tenth < start + STEPS for tenth in tenths) for start in range(61)), default=0)
    assert busiest(Counter(tenths)) == expected
    returns = Returns()
    for tenth in tenths:
        returns.back(0, tenth * STEP)
    assert busiest(returns.returns) == expected


# --- the storm ---


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_all_connections_are_cut_and_come_back(embedded: Broker, scheme: str, processes: str) -> None:
    found = measured(
        embedded.url_of(scheme), "--storm", "cut", "--connections", "40", "--spread", "0.5", "--processes", processes
    )
    connections, returning = found["connections"], found["returning"]
    assert (connections["lost"], connections["reconnected"], returning["missing"]) == (40, 40, 0)
    assert returning["count"] == returning["attempts"] == 40
    assert 0 < returning["p50_ms"] <= returning["max_ms"] <= 1000 * returning["all_back_seconds"] + 100
    assert 0 < returning["busiest_second"] <= 40
    assert returning["all_back_seconds"] < found["measured_seconds"] + 0.1 < 30  # not the whole duration
    assert found["reasons"] == {"the connection broke: the socket was closed": 40}
    assert found["connections"]["phases"]["connack"]["count"] == 40  # of the first connections


def test_a_budget_bounds_the_attempts_of_all_processes(embedded: Broker) -> None:
    words = ["--storm", "cut", "--connections", "30", "--connect-budget", "20", "--processes", "2"]
    found = measured(embedded.url, *words)["returning"]
    assert found["count"] == 30
    assert found["attempts_busiest_second"] <= 20 + 2 + 2  # a tenth more, and one more of each process
    assert found["all_back_seconds"] > 30 / 20 * 0.6


def test_messages_flow_again_after_a_storm(embedded: Broker) -> None:
    words = ["--storm", "cut", "--publishers", "2", "--subscribers", "2", "--rate", "100", "-q", "1", "--spread", "0.5"]
    found = measured(embedded.url, *words)
    assert found["connections"]["lost"] == found["connections"]["reconnected"] == 4
    assert found["messages"]["acknowledged"] == found["messages"]["published"] > 0


def test_a_broker_that_is_restarted(closed_port: int) -> None:
    """The command waits for the loss, then until all are back."""
    words = command(
        f"mqtt://127.0.0.1:{closed_port}", "--storm", "restart", "--connections", "20", "--progress", "--json"
    )
    with (
        Broker(ws_port=None, tcp_port=closed_port) as broker,
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process,
    ):
        guard = threading.Timer(PATIENCE, process.kill)
        guard.start()
        try:
            assert process.stderr is not None
            assert any("connections 20" in line for line in process.stderr)
            broker.stop()
            with Broker(ws_port=None, tcp_port=closed_port):
                out, _ = process.communicate(timeout=PATIENCE)
        finally:
            guard.cancel()
            process.kill()
    found = json.loads(out)
    assert (process.returncode, found["connections"]["lost"]) == (0, 20)
    assert found["returning"]["count"] == 20


def test_a_storm_that_does_not_come_or_does_not_end_is_a_failure(embedded: Broker) -> None:
    done = bench(embedded.url, "--storm", "restart", "--connections", "2", "--duration", "0.5", "--json")
    assert (done.returncode, json.loads(done.stdout)["problems"]) == (1, ["no connection was lost"])
    words = ["--storm", "cut", "--connections", "5", "--connect-budget", "10", "--duration", "0.3"]
    done = bench(embedded.url, *words, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert found["returning"]["all_back_seconds"] is None
    assert "of the lost connections were not back" in found["problems"][0]


# --- churn, and the phases ---


class Churned:
    """A client of a fleet that connects at once."""

    timings = None

    async def open(self) -> None:
        await asyncio.sleep(0)

    async def close(self, timeout: float) -> None:
        pass


@pytest.mark.parametrize("rate", [None, 50.0])
def test_each_client_of_a_process_connects_again_and_again(rate: float | None) -> None:
    plan = Plan(publishers=0, subscribers=0, churn=5, connect_rate=rate, processes=2, run="1")
    fleet, made = SimpleNamespace(tally=Tally()), Counter[str]()
    churn = Churn(plan, 1, cast(Fleet, fleet), lambda: 100 * SECOND)

    def make_client(client_id: str) -> Churned:
        made[client_id] += 1
        return Churned()

    fleet.make_client = make_client

    async def some() -> None:
        running = asyncio.create_task(churn.go(0))
        while fleet.tally.connects < 200 and not running.done():
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})

    asyncio.run(some())
    assert set(made) == {plan.client_id("r", 1), plan.client_id("r", 3)}
    assert min(made.values()) >= 99
    count, connecting = fleet.tally.connects, fleet.tally.connecting
    assert connecting.count == count
    if rate is not None:  # those of this process are due at 1/50 s, 3/50 s, 5/50 s and so on, and counted from there
        assert connecting.greatest == 100 * SECOND - SECOND // 50
        assert connecting.least == 100 * SECOND - (2 * count - 1) * SECOND // 50


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Any:
    authority, folder = mint_authority(), tmp_path_factory.mktemp("secured")
    (folder / "ca.crt").write_bytes(authority.certificate)
    context = authority.issue("localhost", "127.0.0.1").server_context()
    with Broker(wss_port=0, mqtts_port=0, tls=context) as broker:
        yield broker, str(folder / "ca.crt")


PHASES: dict[str, set[str]] = {"mqtt": set(), "ws": {"upgrade"}, "mqtts": {"tls"}, "wss": {"tls", "upgrade"}}


@pytest.mark.parametrize("scheme", PHASES)
def test_connections_a_second_and_their_phases(secured: tuple[Broker, str], scheme: str) -> None:
    broker, authority = secured
    url = broker.url_of(scheme).replace("127.0.0.1", "localhost")
    tls = ["--cafile", authority] if "tls" in PHASES[scheme] else []
    words = ["--churn", "4", "--connect-rate", "30", "--duration", "1", "--processes", "2", *tls]
    found = measured(url, *words)
    connections = found["connections"]
    assert (connections["asked"], connections["failed"], found["messages"]["published"]) == (0, 0, 0)
    assert connections["connecting"]["count"] == connections["churned"] >= 4
    # The sum of the rates of both processes, each over its own time, of which `measured_seconds` is the longer one.
    mean = connections["churned"] / found["measured_seconds"]
    assert mean * 0.99 <= found["throughput"]["connected_per_second"] < mean * 1.9
    phases = {name for name, figures in connections["phases"].items() if figures["count"]}
    assert phases == {"lookup", "tcp", "connack"} | PHASES[scheme]
    middle = sum(connections["phases"][name]["mean_ms"] for name in phases)
    assert 0 < middle <= connections["connecting"]["mean_ms"] * 1.01
    assert found["process"]["cpu_us_per_connection"] > 0


def test_the_report_shows_the_phases_and_the_storm(embedded: Broker) -> None:
    shown = bench(embedded.url, "--storm", "cut", "--connections", "3").stdout
    for line in (
        "  tcp            p50 ",
        "  upgrade        p50 ",
        "back             3, all within ",
        "back after       p50 ",
    ):
        assert f"\n{line}" in shown
    assert "\nchurn            " in bench(embedded.url, "--churn", "1", "--duration", "0.3").stdout


def test_late_connections_count_from_when_they_were_due() -> None:
    async def slowly(peer: Any, connect: Any) -> bool:
        await asyncio.sleep(0.2)
        return True

    with Broker(authenticator=slowly) as broker:  # one client makes at most five connections a second
        found = measured(broker.url, "--churn", "1", "--connect-rate", "50", "--duration", "1.5")["connections"]
    assert found["connecting"]["max_ms"] > 600
    assert found["phases"]["connack"]["p50_ms"] < found["connecting"]["max_ms"]


def test_churn_against_a_closed_port_ends_with_the_error() -> None:
    done = bench("mqtt://127.0.0.1:1", "--churn", "2", "--duration", "0.5", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout)["connections"]["failed"] > 0


def test_storms_and_churn_are_compared(embedded: Broker) -> None:
    words = ["--compare", embedded.url, "--rounds", "1", "--json"]
    found = json.loads(bench(embedded.url, "--storm", "cut", "--connections", "5", *words).stdout)
    assert {"returning", "all_back"} <= set(found["figures"])
    found = json.loads(bench(embedded.url, "--churn", "2", "--duration", "0.5", *words).stdout)
    assert {"connected", "connecting"} <= set(found["figures"])


def test_the_examples_of_the_page_run(embedded: Broker) -> None:
    """With fewer connections and for a shorter time; the restart is left out."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "bench.md").read_text(encoding="utf-8")
    examples = re.findall(r"^\$ pubsub bench (\S+) (--.*)$", page, re.MULTILINE)
    assert len(examples) == 3
    for _, words in examples:
        if "restart" not in words:
            less = ["--connections", "20"] if "--connections" in words else ["--duration", "0.3"]
            assert measured(embedded.url, *words.split(), *less)["problems"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--storm", "cut"], "there is nothing to do"),
        (["--storm", "cut", "--churn", "3"], "needs clients that stay connected"),
        (["--churn", "3", "--find-max"], "--find-max is for messages"),
        (["--storm", "rain"], "invalid choice"),
    ],
)
def test_invalid_scenarios_are_refused(embedded: Broker, words: list[str], said: str) -> None:
    done = bench(embedded.url, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
