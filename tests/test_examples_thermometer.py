"""examples/thermometer.py under the conditions of a device: no network at boot, kills, broker restarts, a full disk."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

from small_disk import small_disk

import mqttws
from pubsub.testing import RecordingBroker

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
TOPIC = "devices/thermometer-1/celsius"


class Device:
    """A run of the program, whose output lines can be awaited."""

    def __init__(self, port: int, path: Path) -> None:
        command = [
            sys.executable,
            str(ROOT / "examples" / "thermometer.py"),
            f"mqtt://127.0.0.1:{port}",
            str(path),
            "0.02",
        ]
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.errors: list[str] = []
        assert self._process.stderr is not None
        stream = self._process.stderr
        self._reader = threading.Thread(target=lambda: self.errors.extend(stream), daemon=True)
        self._reader.start()

    def until(self, number: int) -> None:
        """Wait until `number` readings have been taken."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(f"reading {number},"):
                return
        raise AssertionError(f"the program ended: {''.join(self.errors)}")

    def end(self, number: int) -> int:
        self._process.send_signal(number)
        assert self._process.stdout is not None
        self._process.stdout.close()
        code = self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        assert self._process.stderr is not None
        self._process.stderr.close()
        return code


def numbers(broker: RecordingBroker) -> list[int]:
    return [message.value["number"] for message in broker.messages.matching(TOPIC)]


def test_every_reading_arrives_through_a_kill_and_without_network(tmp_path: Path, closed_port: int) -> None:
    port, path = closed_port, tmp_path / "readings.db"
    first = Device(port, path)  # boots without a network
    first.until(20)
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    with RecordingBroker(ws_port=None, tcp_port=port) as broker:
        second = Device(port, path)
        second.until(20)
        broker.messages.wait_for(TOPIC, 42, PATIENCE)
        assert second.end(signal.SIGKILL) == -signal.SIGKILL
    third = Device(port, path)  # the broker is down
    third.until(20)
    with RecordingBroker(ws_port=None, tcp_port=port) as again:  # and is started while it runs
        again.messages.wait_for(TOPIC, 21, PATIENCE)
        assert third.end(signal.SIGTERM) == 0
        seen = [numbers(broker), numbers(again)]
    # The readings of each run before its kill are in order and complete.
    whole = seen[0] + seen[1]
    assert set(range(21)) <= set(seen[0][:25])
    assert whole.count(20) >= 3
    assert set(range(21)) <= set(seen[1])


def test_ctrl_c_sends_pending_readings(tmp_path: Path, closed_port: int) -> None:
    with RecordingBroker(ws_port=None, tcp_port=closed_port) as broker:
        device = Device(closed_port, tmp_path / "readings.db")
        device.until(5)
        assert device.end(signal.SIGINT) == 0
        assert device.errors == []
        assert set(range(6)) <= set(numbers(broker))


def test_a_full_disk_loses_no_stored_reading(tmp_path: Path, closed_port: int) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with small_disk(folder, "8m"):
        port, path = closed_port, folder / "readings.db"
        with mqttws.SQLiteStore(path):
            pass
        rest = shutil.disk_usage(folder).free - 24 * 1024
        (folder / "ballast").write_bytes(bytes(max(0, rest)))
        device = Device(port, path)
        device.until(400)
        (folder / "ballast").unlink()
        device.until(420)  # it continues
        with RecordingBroker(ws_port=None, tcp_port=port) as broker:
            broker.messages.wait_for(TOPIC, 21, PATIENCE)
            assert device.end(signal.SIGTERM) == 0
            arrived = set(numbers(broker))
        lost = sum("not kept" in line for line in device.errors)
        assert lost > 0
        assert len([number for number in range(421) if number not in arrived]) <= lost
