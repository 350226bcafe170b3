"""Run `pubsub bench` in a separate process, for its tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

#: Timeout of a command, in seconds.
PATIENCE = 60


def command(*words: str) -> list[str]:
    """Return the command line. Warnings are errors in that process, too."""
    return [sys.executable, "-W", "error", "-m", "pubsub", "bench", *words]


def bench(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command and return the completed process."""
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
    """Run the command, check that it succeeds without other output, and return its JSON document."""
    done = bench(*words, "--json")
    document: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    assert (done.returncode, done.stderr, document.get("problems")) == (0, "", []), done.stdout
    return document
