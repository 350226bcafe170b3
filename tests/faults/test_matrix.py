"""The fault matrix: each row is a valid rule, our clients recover, and the verdicts of cells are right."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mqttws.testing import Faults
from mqttws.testing.faults.toxics import TOXICS

sys.path.insert(0, str(Path(__file__).parent))

import matrix


def test_every_row_is_a_rule() -> None:
    for row in matrix.FAULTS:
        matrix.add_fault(Faults("mqtt://127.0.0.1"), row)
    kinds = {(on, kind) for on, _, kind, _ in matrix.FAULTS.values() if on != "stream"}
    assert len(kinds) >= 25
    assert {kind for on, _, kind, _ in matrix.FAULTS.values() if on == "stream"} == TOXICS.keys()
    assert len({matrix.file_name("x", row) for row in matrix.FAULTS}) == len(matrix.FAULTS)


@pytest.mark.parametrize("row", ["none", "RST instead of a PUBACK", "a remaining length of five bytes"])
def test_our_client_recovers(row: str) -> None:
    assert matrix.Cell("mqttws", row, 30.0).run() == ""


@pytest.mark.parametrize(
    ("arrived", "done", "received", "code", "verdict"),
    [
        ({}, [], 100, 0, ""),
        ({1: range(99)}, [(1, 99)], 100, 0, "QoS 1: 1 acknowledged and not there; QoS 1: 1 not published"),
        ({2: [0, *range(100)]}, [], 100, 0, "QoS 2: 1 twice"),
        ({1: [*range(100), 5]}, [], 100, 0, ""),
        ({1: [1, 0, *range(2, 100)]}, [], 100, 0, "QoS 1: out of order"),
        ({}, [], 98, None, "hung; 2 not received"),
        ({}, [], 100, 1, "ended: ValueError: x"),
    ],
)
def test_the_verdict_of_a_cell(
    arrived: dict[int, Any], done: list[tuple[int, int]], received: int, code: int | None, verdict: str
) -> None:
    cell = matrix.Cell("mqttws", "none", 1.0)
    cell.arrived = {qos: list(arrived.get(qos, range(100))) for qos in (1, 2)}
    cell.done = set(done)
    cell.got = list(range(received))
    cell._ready.set()
    assert cell._verdict(code, "Traceback\nValueError: x\n") == verdict


def test_the_page_counts_its_remarks() -> None:
    outcomes = {("mqttws", "none"): "", ("mqttws", "latency"): "hung | <b>"}
    page = matrix.page(outcomes, ["mqttws"], ["none", "latency"], 12.0)
    assert "| none | ok |" in page
    assert "| latency | 1 |" in page
    assert "1. mqttws, latency: hung \\| &lt;b> ([rules](faults/mqttws-latency.toml))" in page
