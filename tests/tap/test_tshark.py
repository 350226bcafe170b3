"""tshark and `dissect` agree on generated packets, field by field; `make agree` compares 100,000 of them."""

from __future__ import annotations

from pathlib import Path

import agreeing
import pytest
import tsharks


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
def test_every_field_of_5000_packets(tmp_path: Path, websocket: bool) -> None:
    tsharks.need_tshark()
    assert agreeing.disagreements(5000, 2026, websocket, tmp_path)[:3] == []


def test_a_disagreement_is_detected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tsharks.need_tshark()
    monkeypatch.setitem(agreeing.NAMES, "keep alive", "mqtt.ver")
    assert agreeing.disagreements(20, 1, False, tmp_path)
