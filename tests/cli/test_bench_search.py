"""`pubsub bench --find-max`: the highest rate at which an objective holds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from benching import bench
from hypothesis import given
from hypothesis import strategies as st

from mqttws.broker import Broker
from pubsub.bench import search
from pubsub.bench.search import PRECISION, Objective, Search, verdict
from pubsub.cli import main


def looked(limit: float, first: float) -> tuple[float, list[float]]:
    """Search with rates up to a limit passing. Return the result and the rates tried."""
    looking, tried = Search(first), list[float]()
    while (rate := looking.rate) is not None:
        tried.append(rate)
        assert len(tried) < 200
        looking.note(rate <= limit)
    return looking.best, tried


@given(st.floats(1, 9_000_000), st.floats(1, 10_000_000))
def test_the_limit_is_found_from_any_start(limit: float, first: float) -> None:
    found, tried = looked(limit, first)
    if min(tried) <= limit:
        assert found <= limit <= found * (1 + PRECISION) * 1.001
    else:
        assert not found
    assert len(set(tried)) <= 24 + 24 + 5


def test_nothing_is_found_if_nothing_passes() -> None:
    found, tried = looked(0.0, 4.0)
    assert (found, tried) == (0.0, [4.0, 4.0, 2.0, 2.0, 1.0, 1.0])


def test_the_maximum_rate_ends_the_search() -> None:
    found, tried = looked(1e9, 9_000_000.0)
    assert (found, tried) == (10_000_000.0, [9_000_000.0, 10_000_000.0])


def test_one_failure_is_not_enough() -> None:
    looking = Search(100.0)
    looking.note(False)
    assert looking.rate == 100.0
    looking.note(True)
    assert (looking.best, looking.rate) == (100.0, 200.0)
    looking.note(False)
    looking.note(False)
    assert 100.0 < (looking.rate or 0.0) < 200.0


@pytest.mark.parametrize(
    ("text", "quantile", "bound"),
    [("p99<10ms", "p99", 10.0), (" p99.9 < 1.5s ", "p99.9", 1500.0), ("p50<250us", "p50", 0.25)],
)
def test_objectives(text: str, quantile: str, bound: float) -> None:
    assert Objective.parse(text) == Objective(quantile, bound)


@pytest.mark.parametrize("text", ["", "p98<1ms", "p99>1ms", "p99<1", "p99<0ms", "p99<-1ms", "p99<1ms p50<1ms"])
def test_an_invalid_objective_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an objective"):
        Objective.parse(text)


def document(**changes: Any) -> dict[str, Any]:
    messages = {"unsent": 0, "due": 1_000, "lost": 0}
    latency = {"p50_ms": 1.0, "p90_ms": 2.0, "p99_ms": 3.0, "p99_9_ms": 4.0}
    report = {"messages": messages, "latency": latency, "acknowledgement": dict.fromkeys(latency, 9.0)}
    return report | {"problems": [], "plan": {"subscribers": 1}} | changes


@pytest.mark.parametrize(
    ("changes", "failure"),
    [
        ({}, ""),
        ({"latency": {"p99_ms": 10.0}}, "p99 is 10 ms"),
        ({"latency": {"p99_ms": None}}, "nothing arrived"),
        ({"plan": {"subscribers": 0}}, ""),
        ({"plan": {"subscribers": 0}, "acknowledgement": {"p99_ms": 11.0}}, "p99 is 11 ms"),
        ({"messages": {"unsent": 10, "due": 1_000, "lost": 0}}, ""),
        ({"messages": {"unsent": 11, "due": 1_000, "lost": 0}}, "11 of 1,000 messages were not sent in time"),
        ({"messages": {"unsent": 0, "due": 1_000, "lost": 2}}, "2 deliveries were lost"),
        ({"problems": ["2 clients gave up", "more"]}, "2 clients gave up"),
    ],
)
def test_a_run_is_judged(changes: dict[str, Any], failure: str) -> None:
    assert verdict(document(**changes), Objective("p99", 10.0)) == failure


def test_a_search_against_a_broker(
    embedded: Broker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = []

    def judge(document: dict[str, Any], objective: Objective) -> str:
        judged.append(document["plan"]["rate"])
        return verdict(document, Objective("p99", 60_000.0)) or ("too much" if judged[-1] > 70 else "")

    monkeypatch.setattr(search, "verdict", judge)
    words = ["--find-max", "--rate", "40", "--duration", "0.3", "--slo", "p99<60s", "--quiet"]
    assert main(["bench", embedded.url, *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [step["rate"] for step in found["steps"]] == judged
    assert judged[:3] == [40.0, 80.0, 80.0]
    assert 70 / (1 + PRECISION) <= found["found_per_second"] <= 70
    assert found["objective"] == "p99<60000ms"
    assert not found["interrupted"]
    assert all(step["figure_ms"] > 0 and step["throughput"]["delivered_per_second"] > 10 for step in found["steps"])


def test_an_objective_that_cannot_hold(embedded: Broker) -> None:
    done = bench(embedded.url, "--find-max", "--rate", "20", "--duration", "0.3", "--slo", "p50<0.001us")
    assert done.returncode == 1
    assert done.stdout.count("p50 is ") == 2 * 5  # 20, 10, 5, 2.5 and 1.25 a second, twice each
    assert done.stdout.endswith("no rate passed\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--slo", "p99<1ms"], "--slo requires --find-max"),
        (["--find-max", "--slo", "p99"], "is not an objective"),
        (["--find-max", "--publishers", "0"], "--find-max needs a publisher"),
        (["--find-max", "--subscribers", "0", "--duration", "0.1"], "--find-max needs a subscriber, or QoS 1 or 2"),
    ],
)
def test_invalid_options_are_refused(embedded: Broker, words: list[str], said: str) -> None:
    done = bench(embedded.url, *words)
    assert done.returncode == 2
    assert said in done.stderr


def test_an_unreachable_server_ends_the_search() -> None:
    done = bench("mqtt://127.0.0.1:1", "--find-max", "--duration", "0.3")
    assert done.returncode not in (0, 1)
    assert not done.stdout
