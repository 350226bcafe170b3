"""Let a coverage-guided fuzzer loose on a target, for so many seconds. Needs the extra `fuzz`.

    python tests/fuzz/fuzz.py decoder 60

New inputs that reach new code are gathered beside the seeds in tests/fuzz/found/TARGET, which is not kept in the
repository; an input that breaks an invariant is written to tests/fuzz/found/crash-…, to be examined, and then kept in
the corpus for ever. What a target promises is said in `tests/support/targets.py`.
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
