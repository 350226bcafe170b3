"""`pubsub bench` in a process of its own, for the tests of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

#: Seconds within which a command must have answered; a bound, not a measure.
PATIENCE = 60


def command(*words: str) -> list[str]:
    """The words to start it with; a warning is an error there, too."""
    return [sys.executable, "-W", "error", "-m", "pubsub", "bench", *words]


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        command(*words),
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def measured(*words: str) -> dict[str, Any]:
    """The document of a run that went well, and said nothing else."""
    done = bench(*words, "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return json.loads(done.stdout)  # type: ignore[no-any-return]
