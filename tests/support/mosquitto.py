"""Run Mosquitto with every kind of listener, on free ports."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from wire import PATIENCE

from mqttws.testing import Identity

LISTENERS = ("mqtt", "ws", "mqtts", "wss", "closed")


def find_mosquitto() -> str:
    """Return the path of the program. If it is missing, skip the test, or fail under CI."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")
    if program is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("Mosquitto is not installed")
    return program


class Mosquitto:
    """A Mosquitto that can be stopped and restarted with the same ports and stored sessions.

    Args:
        folder: directory for its files.
        identity: certificate of its TLS listeners.
        authority: PEM; the CA of client certificates, on the listeners that request them.
    """

    def __init__(self, folder: Path, identity: Identity, authority: bytes) -> None:
        certificate, key = identity.write(folder, "server")
        (folder / "ca.crt").write_bytes(authority)
        with ExitStack() as stack:
            servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in LISTENERS]
            ports = dict(zip(LISTENERS, (server.getsockname()[1] for server in servers), strict=True))
        lines = [
            "per_listener_settings true",
            "persistence true",
            f"persistence_location {folder}/",
            "max_queued_messages 0",
            "user root",
        ]
        for name, port in ports.items():
            lines.append(f"listener {port} 127.0.0.1")
            lines.append(f"allow_anonymous {'false' if name == 'closed' else 'true'}")
            if name.startswith("ws"):
                lines.append("protocol websockets")
            if name.endswith("s") and name != "ws":
                lines += [f"certfile {certificate}", f"keyfile {key}"]
        (folder / "mosquitto.conf").write_text("\n".join([*lines, ""]), encoding="utf-8")
        self._command = [find_mosquitto(), "-v", "-c", str(folder / "mosquitto.conf")]
        self._process: subprocess.Popen[str] | None = None
        self.ports = ports
        self.log: list[str] = []

    def url(self, scheme: str) -> str:
        """Return the URL of one of `LISTENERS`; "closed" is a plain MQTT listener that refuses every client."""
        path = "/mqtt" if scheme.startswith("ws") else ""
        return f"{'mqtt' if scheme == 'closed' else scheme}://127.0.0.1:{self.ports[scheme]}{path}"

    def start(self) -> None:
        """Start the process, and wait until it logs that it is running."""
        deadline = time.monotonic() + PATIENCE
        while not self._runs():  # at a restart, a connection of another process may have one of its ports for a moment
            self.stop()
            assert time.monotonic() < deadline, self.log

    def _runs(self) -> bool:
        """Start the process. Return whether it runs; otherwise it has ended."""
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        running, outcome = threading.Event(), threading.Event()
        self._reader = threading.Thread(target=self._read, args=(self._process, running, outcome))
        self._reader.start()
        assert outcome.wait(PATIENCE), self.log
        return running.is_set()

    def _read(self, process: subprocess.Popen[str], running: threading.Event, outcome: threading.Event) -> None:
        assert process.stderr is not None
        with process.stderr as lines:
            for line in lines:
                self.log.append(line)
                if "running" in line:
                    running.set()
                    outcome.set()
        outcome.set()

    def stop(self, *, kill: bool = False) -> None:
        """Stop the process and wait for its end. With kill=True, what it has not stored is lost."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(PATIENCE)
            self._reader.join(PATIENCE)
            self._process = None
