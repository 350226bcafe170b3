"""The contract tests of the drivers pass through a tap, which records exactly the bytes that the servers receive."""

from __future__ import annotations

import os
import re
import subprocess
import sys

from ledger import ROOT


def test_the_contract_of_the_drivers_passes_through_a_tap() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "through_tap",
        "-p",
        "no:cacheprovider",
        "tests/drivers/test_contract.py",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "support")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-20_000:]
    found = re.search(r"through a tap: (\d+) taps, (\d+) connections, ([\d,]+) bytes", done.stdout)
    assert found, done.stdout[-500:]
    assert int(found[1]) > 150
    assert int(found[2]) > 150
