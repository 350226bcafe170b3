"""Planted faults: each statement has one, each fits the code, and a sample is caught here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ledger
import pytest

import mqttws

HERE = Path(__file__).parent
#: The number of faults planted in each run of the suite; `make mutants` plants all of them.
SAMPLE = 12

pytestmark = pytest.mark.skipif(mqttws.compiled, reason="a fault is an edit of the source; this is the compiled build")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(HERE / "mutants.py"), *arguments], capture_output=True, text=True, timeout=600
    )


def test_every_statement_has_a_fault_and_every_fault_fits():
    code = """
import sys
sys.path[:0] = sys.argv[1:]
from faults import FAULTS
from planting import misfits
misfits(FAULTS)
print("planted", *sorted({fault.statement for fault in FAULTS}), flush=True)
"""
    folders = [str(HERE), str(HERE.parent / "support")]
    done = subprocess.run([sys.executable, "-c", code, *folders], capture_output=True, text=True, timeout=120)
    *stale, planted = done.stdout.splitlines()
    assert not stale, "\n".join(stale)
    assert not done.stderr
    wanted = {name for name, entry in ledger.statements().items() if not entry.untested}
    assert set(planted.split()[1:]) == wanted


def test_a_sample_of_the_faults_is_caught(figures):
    done = run("--sample", str(SAMPLE), "--no-baseline")
    last = done.stdout.splitlines()[-1]
    figures["planted faults caught (a sample; make mutants plants all)"] = last.rpartition(": ")[2]
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_fault_without_an_effect_is_reported():
    """A fault without an effect survives."""
    code = f"""
import sys
sys.path.insert(0, {str(HERE)!r})
import mutants
from faults import Fault
harmless = Fault("U-8", "none", (("mqttws.codec.wire:decode_remaining_length", "length = 0", "length = 0 * 1"),))
sys.exit(len(mutants.run([harmless], baseline=True, out=print).survivors))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "SURVIVED" in done.stdout
