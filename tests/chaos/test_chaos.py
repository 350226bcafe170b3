"""Twenty kills during five thousand messages; `make chaos` does two hundred during a hundred thousand."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_nothing_is_lost_and_nothing_doubled_while_processes_are_killed(
    tmp_path: Path, figures: dict[str, str]
) -> None:
    sys.path.insert(0, str(HERE))
    try:
        spec = importlib.util.spec_from_file_location("chaos", HERE / "chaos.py")
        assert spec is not None
        assert spec.loader is not None
        chaos = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(chaos)
    finally:
        sys.path.remove(str(HERE))
    found = chaos.Chaos(5_000, 20, 4, tmp_path).run()
    assert sum(found[f"kills of the {name}"] for name in ("publisher", "broker", "subscriber")) == 20
    assert found["lines broken or frozen"] > 0
    assert found["lost"] == found["duplicates at QoS 2"] == 0
    figures["chaos"] = f"20 kills, {found['messages accepted']:,} messages accepted, none lost, none doubled at QoS 2"
