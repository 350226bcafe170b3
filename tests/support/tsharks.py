"""Run tshark, the oracle for the contents of a capture: the fields of MQTT, packet by packet."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

TSHARK = shutil.which("tshark")
#: Versions before 4.2 do not dissect MQTT in WebSockets.
_LUA = 'pcall(function() DissectorTable.get("ws.protocol"):add("mqtt", Dissector.get("mqtt")) end)\n'


def need_tshark() -> None:
    """Skip the test where tshark is missing; fail under CI."""
    if TSHARK is None:
        if os.environ.get("CI") == "true":
            pytest.fail("tshark is missing: tests/peers/install.sh installs it")
        pytest.skip("tshark is missing (on Debian: apt-get install tshark)")


def command(capture: Path, *words: str) -> list[str]:
    """Return the tshark command that prints the frames of a capture that contain MQTT."""
    assert TSHARK is not None
    script = capture.with_suffix(".lua")
    script.write_text(_LUA)
    return [TSHARK, "-X", f"lua_script:{script}", "-r", str(capture), "-Y", "mqtt", *words]


def fields(capture: Path, *names: str) -> list[list[list[str]]]:
    """Return the values of each named field, for each frame of a capture that contains MQTT."""
    words = ["-T", "fields", "-E", "separator=\x1e", "-E", "aggregator=\x1f", "-E", "occurrence=a"]
    for name in names:
        words += ["-e", name]
    done = subprocess.run(command(capture, *words), capture_output=True, timeout=600, check=True)
    rows = done.stdout.decode("utf-8", "surrogateescape").removesuffix("\n").split("\n")
    return [[cell.split("\x1f") if cell else [] for cell in row.split("\x1e")] for row in rows if row]
