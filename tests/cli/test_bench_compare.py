"""`pubsub bench URL --compare URL`: two brokers alternate under the same load."""

from __future__ import annotations

import json
import re

import pytest
from benching import bench
from hypothesis import given
from hypothesis import strategies as st

from mqttws.broker import Broker
from pubsub.bench.compare import Ratio, compared, order, ratio_of

POSITIVE = st.floats(0.001, 1e6)


def test_each_round_is_a_pair_and_each_broker_is_first_equally_often() -> None:
    assert order(4) == [0, 1, 1, 0, 0, 1, 1, 0]


def test_the_interval_uses_student_s_t() -> None:
    # Ratios 1.1, 1.2 and 1.3: the mean of the logarithms is 0.18000, their deviation 0.08355, t of 2 degrees 4.3027.
    ratio, low, high = ratio_of([(10.0, 11.0), (10.0, 12.0), (10.0, 13.0)])
    assert ratio == pytest.approx((1.1 * 1.2 * 1.3) ** (1 / 3))
    assert low == pytest.approx(0.97281, abs=1e-4)
    assert high == pytest.approx(1.47338, abs=1e-3)


def test_one_round_has_no_interval() -> None:
    assert ratio_of([(2.0, 3.0)]) == Ratio(pytest.approx(1.5), None, None)
    assert not ratio_of([(2.0, 3.0)]).shows_difference


@given(st.lists(st.tuples(POSITIVE, POSITIVE), min_size=1, max_size=40))
def test_the_interval_contains_the_ratio_and_inverts_with_the_brokers(pairs: list[tuple[float, float]]) -> None:
    there, back = ratio_of(pairs), ratio_of([(b, a) for a, b in pairs])
    assert there.ratio * back.ratio == pytest.approx(1.0)
    if there.low is not None and there.high is not None and back.high is not None:
        assert there.low <= there.ratio * 1.000001
        assert there.ratio <= there.high * 1.000001
        assert there.low * back.high == pytest.approx(1.0, rel=1e-3)


def test_which_is_better_depends_on_the_figure() -> None:
    rounds = range(5)
    a = [{"delivered": 100.0 + number, "p99": 10.0 + number / 10, "published": 5.0} for number in rounds]
    b = [{"delivered": 200.0 + number, "p99": 20.0 + number / 10, "published": 5.0} for number in rounds]
    found = compared((a, b))
    assert {name: each["better"] for name, each in found.items()} == {
        "published": "none", "delivered": "B", "p99": "A",
    }  # fmt: skip
    assert found["delivered"]["ratio"] == pytest.approx(1.98, abs=0.01)
    assert (found["p99"]["a"], found["p99"]["b"]) == (10.2, 20.2)


def test_a_figure_missing_in_a_run_is_omitted_from_its_round() -> None:
    found = compared(([{"p50": 1.0}, {}], [{"p50": 2.0}, {"p50": 3.0}]))
    assert found["p50"]["rounds"] == 1
    assert found["p50"]["low"] is None


def test_0_is_a_value_without_a_ratio() -> None:
    a = [{"delivered": 100.0, "lost": 0.0, "connected": 0.0}, {"delivered": 102.0, "lost": 0.0, "connected": 0.0}]
    b = [{"delivered": 100.0, "lost": 0.0, "connected": 0.0}, {"delivered": 0.0, "lost": 100.0, "connected": 0.0}]
    nothing = {"rounds": 2, "ratio": None, "low": None, "high": None, "better": "none"}
    assert compared((a, b)) == {
        "delivered": {"a": 101.0, "b": 50.0, **nothing},
        "lost": {"a": 0.0, "b": 50.0, **nothing},
    }


def published(broker: Broker) -> int:
    return broker.metrics()["publish/messages/received"]


def test_comparing_two_brokers(embedded: Broker) -> None:
    with Broker() as other:
        words = ("--rounds", "2", "--rate", "100", "--duration", "0.3")
        before = published(embedded), published(other)
        done = bench(embedded.url, "--compare", other.url, *words, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        found = json.loads(done.stdout)
        assert (found["url"], found["other_url"]) == (embedded.url, other.url)
        assert found["figures"]["delivered"]["rounds"] == 2
        assert (published(embedded) - before[0], published(other) - before[1]) == (60, 60)
        assert found["figures"]["p50"]["low"] <= found["figures"]["p50"]["ratio"]
        shown = bench(embedded.url, "--compare", other.url, *words)
    assert shown.returncode == 0
    assert "delivered per second" in shown.stdout
    assert "95 % interval" in shown.stdout


def test_a_broker_that_delivers_nothing(embedded: Broker) -> None:
    words = ("--rounds", "2", "--rate", "100", "--duration", "0.3", "--drain", "0.2")
    with Broker(authorizer=lambda peer, access: access.action != "publish") as other:
        done = bench(embedded.url, "--compare", other.url, *words, "--json")
        shown = bench(embedded.url, "--compare", other.url, *words)
    found = json.loads(done.stdout)
    assert (done.returncode, shown.returncode) == (1, 1)
    assert found["problems"] == {"A": [], "B": ["all of the 30 deliveries were lost"]}
    delivered, lost = found["figures"]["delivered"], found["figures"]["lost"]
    assert (delivered["b"], delivered["rounds"], delivered["ratio"]) == (0, 2, None)
    assert delivered["a"] > 0
    assert (lost["a"], lost["b"], lost["ratio"]) == (0, 100, None)
    assert re.search(r"^delivered per second +[\d.]+ +0 +– +–$", shown.stdout, re.MULTILINE)
    assert re.search(r"^deliveries lost, % +0 +100 +– +–$", shown.stdout, re.MULTILINE)
    assert shown.stdout.endswith("\nB: all of the 30 deliveries were lost\n")


def test_an_unreachable_broker_ends_the_comparison(embedded: Broker) -> None:
    done = bench(embedded.url, "--compare", "mqtt://127.0.0.1:1", "--duration", "0.2")
    assert done.returncode not in (0, 1)
    assert not done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--rounds", "2"], "--rounds requires --compare"),
        (["--compare", "mqtt://127.0.0.1", "--find-max"], "exclude each other"),
        (["--compare", "mqtt://127.0.0.1", "--hdr", "x"], "--compare makes several"),
        (["--compare", "ftp://127.0.0.1"], "ftp"),
        (["--compare", "ws://127.0.0.1:y"], "port"),
    ],
)
def test_invalid_options_are_refused(embedded: Broker, words: list[str], said: str) -> None:
    before = published(embedded)
    done = bench(embedded.url, "--duration", "0.2", *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert published(embedded) == before
