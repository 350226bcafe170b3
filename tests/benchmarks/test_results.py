"""The evaluation of benchmark results: combining runs, targets, and regressions. Nothing is timed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import compare
import pytest
import report
import run_peers
from cases import CASES, Case
from goals import TARGETS, Target, reached, share
from results import BASE_CASE, find, load, median
from run_peers import Bench


def figure(median, noise=0.0):
    return {"median": median, "least": median * (1 - noise), "greatest": median * (1 + noise)}


def run(**cases):
    """Return a run; cases are {library: {figure: median}}, or a complete figure."""
    made = {
        case: {
            library: {name: value if isinstance(value, dict) else figure(value) for name, value in figures.items()}
            for library, figures in by_library.items()
        }
        for case, by_library in cases.items()
    }
    machine = {"cpu": "c", "cores": 2, "system": "s", "python": "3", "load_average": 0.0}
    facts = {
        "machine": machine,
        "versions": {},
        "rounds": 3,
        "seconds": 0.8,
        "trial": False,
        "missing": {},
        "failures": {},
    }
    return facts | {"cases": made}


# --- several runs ---------------------------------------------------------------------------------------------------


def test_the_runs_of_several_files_are_concatenated(tmp_path):
    for name, rates in (("a", [1, 2]), ("b", [6])):
        runs = [run(receive={"paho": {"rate": rate}}) for rate in rates]
        (tmp_path / name).write_text(json.dumps({"runs": runs}))
    runs = load(tmp_path / "a", tmp_path / "b")
    assert [find(each, "receive", "paho", "rate")["median"] for each in runs] == [1, 2, 6]
    assert median(runs, "receive", "paho", "rate") == 2


def test_runs_without_the_figure_are_ignored():
    runs = [run(receive={"paho": {"rate": 4}}), run(receive={}), run()]
    assert median(runs, "receive", "paho", "rate") == 4
    assert median(runs, "receive", "mqttws", "rate") is None


def test_a_library_without_a_variant_uses_the_base_case():
    made = run(receive={"paho": {"rate": 4}, "mqttws": {"rate": 5}}, receive_asyncio={"mqttws": {"rate": 6}})
    assert find(made, "receive_asyncio", "paho", "rate")["median"] == 4
    assert find(made, "receive_asyncio", "mqttws", "rate")["median"] == 6


# --- targets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "own", "other", "ratio"),
    [("rate", 300.0, 100.0, 3.0), ("ns", 100.0, 300.0, 3.0), ("p99_us", 300.0, 100.0, 1 / 3)],
)
def test_a_ratio_is_how_many_times_better(name, own, other, ratio):
    made = run(case={"mqttws": {name: own}, "peer": {name: other}})
    target = Target("case", "mqttws", "peer", 2, name)
    assert reached(made, target) == pytest.approx(ratio)
    assert share(target, ratio) == pytest.approx(ratio / 2)


@pytest.mark.parametrize(
    ("name", "own", "met"), [("kib", 12, True), ("kib", 13, False), ("rate", 12, True), ("rate", 11, False)]
)
def test_a_bound_has_a_direction(name, own, met):
    target = Target("hold", "mqttws", "", 12, name)
    assert reached(run(hold={"mqttws": {name: own}}), target) == own
    assert (share(target, own) >= 1) is met


def test_a_target_may_compare_two_of_our_cases():
    made = run(match_1={"mqttws": {"ns": 100}}, match_100000={"mqttws": {"ns": 125}})
    assert reached(made, Target("match_100000", "mqttws", "mqttws", 0.5, "ns", "match_1")) == 0.8


def test_unmeasured_cases_have_no_ratio():
    target = Target("case", "mqttws", "peer", 2, "ns")
    assert reached(run(case={"mqttws": {"ns": 1}}), target) is None
    assert reached(run(case={"peer": {"ns": 1}}), target) is None
    assert report.verdict(target, None) == "not measured"


def test_every_target_names_a_case_that_is_run():
    cases = {case.name: case.libraries for case in CASES}
    for target in TARGETS:
        assert target.ours in cases[target.case]
        assert not target.peer or target.peer in cases[target.peer_case or BASE_CASE.get(target.case, target.case)]


def test_the_median_of_the_runs_is_used():
    runs = [run(import_={}, **{"import": {"mqttws": {"ms": 10}, "paho": {"ms": ms}}}) for ms in (20, 30, 90)]
    (line,) = [line for line in report.verdicts(runs).splitlines() if line.startswith("| import ")]
    assert "| 2.00, 3.00, 9.00 | 3.00 × |" in line
    assert line.endswith("| met |  |")


def test_a_closed_loop_shows_whether_the_broker_is_the_limit():
    figures = {"mqttws": {"rate": 9, "cpu_us": 2, "broker_percent": 99}, "gmqtt": {"rate": 8, "cpu_us": 5}}
    runs = [run(loop_tcp_nowait_qos1=figures)]
    by_figure = {
        target.figure: report.limits(runs, target)
        for target in (Target("loop_tcp_nowait_qos1", "mqttws", "gmqtt", 2, name) for name in ("rate", "cpu_us"))
    }
    assert by_figure == {"rate": "CPU 2.50 ×, broker 99 %", "cpu_us": ""}
    assert report.limits(runs, Target("loop_tcp_nowait_qos1", "mqttws", "mqttium", 2, "rate")) == ""
    (line,) = [line for line in report.verdicts(runs).splitlines() if "nowait_qos1 (rate) | mqttws | gmqtt" in line]
    assert line.endswith("| missed: 56% of the target | CPU 2.50 ×, broker 99 % |")


def test_the_document_names_missing_results():
    made = run(receive={"paho": {"rate": 4}})
    made["missing"]["mqttproto"] = "there is none"
    made["failures"] = {"receive": {"mqttws": "it stopped"}, "echo_qos0": {"mqttws": "it stopped"}}
    text = report.document([made, made], [("x.png", "a plot")])
    assert "2 complete runs of 3 interleaved rounds" in text
    assert "Not measured: mqttproto, because there is none." in text
    assert "Incomplete: mqttws in echo_qos0, receive: it stopped." in text
    assert "![a plot](benchmarks/x.png)" in text


@pytest.mark.parametrize(("failed", "cell"), [(True, "failed"), (False, "–")])
def test_a_cell_without_a_figure_says_why(failed, cell):
    made = run(publish_qos0={"awscrt": {"rate": 4_000, "cpu_us": 1}})
    made["failures"] = {"publish_qos2": {"awscrt": "it stopped"}} if failed else {}
    columns = [("publish_qos0", "QoS 0", "rate", "k"), ("publish_qos2", "QoS 2", "rate", "k")]
    assert report.table([made], columns).splitlines()[-1] == f"| awscrt (C) | 4.0 | {cell} |"


def test_the_spread_of_runs_of_one_round_is_that_between_the_runs():
    runs = [run(receive={"paho": {"rate": rate}}) | {"rounds": 1} for rate in (90, 100, 110)]
    assert report.spread(runs).startswith("Between the least and the greatest of the runs lie 20% of the median")


# --- how many messages ----------------------------------------------------------------------------------------------


class PacedBench(Bench):
    """A bench whose library handles a fixed number of messages a second."""

    def __init__(self, directory, pace):
        super().__init__(SimpleNamespace(directory=directory), seconds=1.0)
        self.pace = pace
        self.counts = []

    def _run(self, case, library, count):
        self.counts.append(count)
        return {"seconds": count / self.pace, "rate": self.pace}


def test_a_measurement_is_repeated_until_it_is_long_enough(tmp_path):
    bench = PacedBench(tmp_path, 500)
    assert bench.measure(Case("a", "client", ("b",), least=10), "b") == {"rate": 500}
    assert bench.counts == [10, 100, 500]


def test_the_pace_of_the_last_time_is_used_first(tmp_path):
    case = Case("a", "client", ("b",), least=10)
    before = PacedBench(tmp_path, 500)
    before.measure(case, "b")
    before.save()
    slower = PacedBench(tmp_path, 250)
    slower.measure(case, "b")
    slower.measure(case, "b")
    assert slower.counts == [500, 250]


# --- regressions ----------------------------------------------------------------------------------------------------


def receiving(rate, floor, noise=0.0):
    return run(receive={"mqttws": {"rate": figure(rate, noise)}, "floor": {"rate": figure(floor)}})


def test_a_slower_machine_is_no_slower_library():
    assert compare.slower([receiving(100, 400)], [receiving(50, 200)]) == []


def test_slower_relative_to_the_floor_of_its_run_is_slower():
    (found,) = compare.slower([receiving(100, 400)], [receiving(100, 800)])
    assert found.startswith("receive (mqttws, rate): +100%")


def test_changes_within_the_noise_are_not_reported():
    assert compare.slower([receiving(100, 400)], [receiving(95, 400)]) == []
    assert compare.slower([receiving(100, 400, 0.2)], [receiving(70, 400, 0.3)]) == []
    assert compare.slower([receiving(100, 400)], [receiving(70, 400)]) != []


def test_differences_between_runs_count_as_noise():
    old = [receiving(rate, 400) for rate in (60, 100, 140)]
    assert compare.slower(old, [receiving(70, 400)]) == []


def test_a_case_without_a_floor_is_compared_by_decoding():
    def matching(ns, floor):
        return run(match_1={"mqttws": {"ns": ns}}, decode_qos0={"floor": {"ns": floor}})

    assert compare.slower([matching(100, 10)], [matching(200, 20)]) == []
    assert len(compare.slower([matching(100, 10)], [matching(200, 10)])) == 1


def test_the_reference_is_in_both_files():
    old = run(receive={"mqttws": {"rate": 100}, "paho": {"rate": 10}})
    new = run(receive={"mqttws": {"rate": 100}, "paho": {"rate": 10}, "floor": {"rate": 900}})
    assert compare.reference([old, new], "receive", "rate") == ("receive", "paho", "rate")
    assert compare.slower([old], [new]) == []


def test_memory_is_compared_without_a_floor():
    def memory(kib, floor):
        return run(memory={"mqttws": {"kib": kib}, "floor": {"kib": floor}})

    assert compare.slower([memory(100, 10)], [memory(100, 5)]) == []
    assert len(compare.slower([memory(100, 10)], [memory(120, 20)])) == 1


@pytest.mark.parametrize(("after", "status"), [(100, 0), (50, 1)])
def test_the_exit_status_reports_regressions(tmp_path, monkeypatch, capsys, after, status):
    for name, rate in (("old", 100), ("new", after)):
        (tmp_path / name).write_text(json.dumps({"runs": [receiving(rate, 400)]}))
    monkeypatch.setattr("sys.argv", ["compare.py", str(tmp_path / "old"), str(tmp_path / "new")])
    with pytest.raises(SystemExit) as left:
        compare.main()
    assert left.value.code == status
    assert ("receive" in capsys.readouterr().out) == bool(status)


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("--only", "nothing"), "no case has a name that begins with 'nothing'"),
        (("--libraries", "mqttws,nobody"), "no case has a library nobody"),
        (
            ("--only", "echo", "--libraries", "mqttws", "--repeat"),
            "--repeat requires --only, and measures all libraries",
        ),
        (("--only", ",", "--repeat"), "--repeat requires --only, and measures all libraries"),
    ],
)
def test_cases_and_libraries_that_do_not_exist_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], fault: str
) -> None:
    """Otherwise the results would be replaced by ones without a figure."""
    monkeypatch.setattr(sys, "argv", ["run_peers.py", *arguments])
    with pytest.raises(SystemExit):
        run_peers.main()
    assert fault in capsys.readouterr().err


def test_results_without_a_run_are_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "results.json").write_text('{"runs": []}')
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "results.json"), str(tmp_path)])
    with pytest.raises(SystemExit):
        report.main()
    assert "there is no complete run" in capsys.readouterr().err
    assert not (tmp_path / "benchmarks.md").exists()


def test_cases_are_repeated_in_a_run() -> None:
    before = run(encode={"a": {"ns": 1.0}, "b": {"ns": 2.0}}, echo={"a": {"ns": 3.0}})
    before["failures"] = {"encode": {"c": "it ended"}, "echo": {"b": "it ended"}}
    later = run(encode={"a": {"ns": 4.0}, "c": {"ns": 5.0}})
    later["failures"] = {"encode": {"b": "it did not start"}}
    run_peers.replace(before, later, ["enc", "dec"])
    run_peers.replace(before, run(), ["top"])
    assert before["cases"] == later["cases"] | run(echo={"a": {"ns": 3.0}})["cases"]
    assert before["failures"] == {"encode": {"b": "it did not start"}, "echo": {"b": "it ended"}}
    assert "cases that begin with dec, enc, top." in "\n".join(report.facts([before]))
