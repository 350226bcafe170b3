"""Spin verifies the model, and every explored run of the code is a run of the model."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from mqttws import compiled
from mqttws.protocol.receiving import Receiver
from mqttws.protocol.sending import Sender

sys.path.insert(0, str(Path(__file__).parent))

import refinement

pytestmark = pytest.mark.skipif(compiled, reason="the slots of compiled objects cannot be visited")


@pytest.fixture(autouse=True)
def _tool() -> None:
    if refinement.tool() is None:
        what = "Spin or a C compiler is missing: make peers"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(what)


@pytest.mark.parametrize("losses", [0, 1, 2])
@pytest.mark.parametrize("qos", [(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 1), (2, 2)])
def test_spin_verifies_the_model(qos: tuple[int, int], losses: int) -> None:
    said = refinement.verify(*qos, losses)
    assert re.search(r"errors: 0\b", said), said


def test_a_fault_in_the_model_is_detected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the record of taken messages, QoS 2 arrives twice."""
    model = tmp_path / "delivery.pml"
    source = refinement.MODEL.read_text()
    assert source.count("held[m] = TAKEN;") == 1
    model.write_text(source.replace("held[m] = TAKEN;", "held[m] = UNKNOWN;"))
    monkeypatch.setattr(refinement, "MODEL", model)
    assert "assertion violated" in refinement.verify(2, 2)


@pytest.mark.parametrize("hop", [0, 1])
@pytest.mark.parametrize("qos", [(1, 1), (1, 2), (2, 1), (2, 2)])
def test_every_explored_run_is_a_run_of_the_model(qos: tuple[int, int], hop: int, figures: dict[str, str]) -> None:
    edges, steps, failures = refinement.check(*qos, hop)
    assert not failures, "\n".join(f"{trace}: {step}" for trace, step in failures[:3])
    figures[f"refinement, QoS {qos[0]} and {qos[1]}, hop {hop + 1}"] = (
        f"{edges:,} edges are {steps:,} steps of the model"
    )


@pytest.mark.parametrize("fault", ["answers at once", "forgets a PUBREL"])
def test_a_fault_in_the_code_is_no_run_of_the_model(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if fault == "answers at once":
        receive = Receiver.receive

        def at_once(self: Receiver, publish, packet_id: int) -> bool:
            new = receive(self, publish, packet_id)
            self.acknowledge(publish)
            return new

        monkeypatch.setattr(Receiver, "receive", at_once)
        hop = 1
    else:
        resume = Sender.resume

        def forgets(self: Sender, session_present: bool):
            packets, done = resume(self, session_present)
            return [each for each in packets if "PubRel" not in repr(each)], done

        monkeypatch.setattr(Sender, "resume", forgets)
        monkeypatch.setattr(refinement.Explorer, "run", _run_without_promises)
        hop = 0
    assert refinement.check(2, 2, hop)[2]


def _run_without_promises(self) -> refinement.Explorer:
    """Return an explorer without checks at rest, since here the model must detect the fault."""
    from exploration import promises

    check, promises.check = promises.check, lambda world, state: None
    try:
        self._keep_edges = False
        return _RUN(self)
    finally:
        promises.check = check


_RUN = refinement.Explorer.run
