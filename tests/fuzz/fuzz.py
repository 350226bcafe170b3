"""Run a coverage-guided fuzzer on a target for a number of seconds. Requires the extra `fuzz`.

    python tests/fuzz/fuzz.py decoder 60

Inputs that reach new code are stored in tests/fuzz/found/TARGET, which is not in the repository. An input that violates
an invariant is written to tests/fuzz/found/crash-…; examine it and add it to the corpus. `tests/support/targets.py`
defines the invariants of each target.
"""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "support"))
with atheris.instrument_imports(include=["mqttws", "sigv4", "pubsub"]):
    from targets import TARGETS


def main() -> None:
    """Run one target; libFuzzer ends the process."""
    target, seconds = sys.argv[1], int(sys.argv[2])
    found = HERE / "found" / target
    found.mkdir(parents=True, exist_ok=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        "-max_len=2048",
        "-timeout=10",
        "-rss_limit_mb=512",
        "-print_final_stats=1",
        f"-artifact_prefix={found.parent}/{target}-",
        str(found),
        str(HERE / "corpus" / target),
    ]
    atheris.Setup(arguments, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
