"""Helpers of tests/hostile: a broker in a separate process, to attack, and a client that must be served meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wire import PATIENCE, Wire

from mqttws import Connect, PingReq, PingResp, Publish

MIB = 1024 * 1024
CONNECT = Connect("hog").encode()


class Control:
    """A well-behaved client in a thread: it publishes to itself and pings, in rounds, until it is stopped."""

    def __init__(self, url: str) -> None:
        self._wire = Wire(url).connect("control")
        self._wire.subscribe(("control/#", 1))
        self._stop = threading.Event()
        self.rounds = 0
        self.slowest = 0.0
        self.fault: BaseException | None = None
        self._moved = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stop.wait(0.001):
                began = time.monotonic()
                self._wire.send(Publish("control/x", b"%d" % self.rounds), PingReq())
                got = sorted((self._wire.receive() for _ in range(2)), key=lambda packet: type(packet).__name__)
                assert got == [PingResp(), Publish("control/x", b"%d" % self.rounds)], got
                with self._moved:
                    self.rounds += 1
                    self.slowest = max(self.slowest, time.monotonic() - began)
                    self._moved.notify_all()
        except BaseException as error:
            self.fault = error
            with self._moved:
                self._moved.notify_all()

    def served(self) -> None:
        """Wait until two more rounds are done, so that at least one of them began after this call."""
        target = self.rounds + 2
        with self._moved:
            assert self._moved.wait_for(lambda: self.rounds >= target or self.fault is not None, PATIENCE), "starved"
        assert self.fault is None, self.fault

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE)
        self._wire.close()


class Victims:
    """The process of `victim.py` that forks brokers."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("victim.py")), str(other.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}, pass_fds=[other.fileno()],
            )  # fmt: skip
        self._socket.settimeout(PATIENCE)

    def start(self, options: dict[str, Any], words: int, log: int) -> int:
        """Start a broker, and return the number of its process."""
        socket.send_fds(self._socket, [json.dumps(options).encode()], [words, log])
        return int(self._socket.recv(100))

    def wait(self, process: int) -> int:
        """Return the exit code of a broker, which must end within `PATIENCE`; otherwise it is killed."""
        self._socket.send(b"%d" % process)
        try:
            return int(self._socket.recv(100))
        except TimeoutError:
            os.kill(process, signal.SIGKILL)
            return int(self._socket.recv(100))

    def stop(self) -> None:
        self._socket.close()
        assert self._process.wait(PATIENCE) == 0


class Victim:
    """The broker under attack."""

    def __init__(self, victims: Victims, log: Path, options: dict[str, Any]) -> None:
        self._victims = victims
        self._log_path = log
        self._words, other = socket.socketpair()
        self._words.settimeout(PATIENCE)
        with other, log.open("wb") as stderr:
            self._process = victims.start(options, other.fileno(), stderr.fileno())
        self._lines = self._words.makefile("r", encoding="utf-8")
        line = self._lines.readline()
        assert line, self.log()
        self.urls = {urlsplit(url).scheme: url for url in json.loads(line)}
        self.control = Control(self.urls["mqtt"])
        self.control.served()
        self.metrics()
        self._descriptors = self.descriptors()
        self.mark()

    def metrics(self) -> dict[str, int]:
        self._words.sendall(b"\n")
        figures: dict[str, int] = json.loads(self._lines.readline())
        return figures

    def log(self) -> str:
        return self._log_path.read_text(encoding="utf-8")

    def until_logged(self, text: str, count: int = 1) -> None:
        """Wait until the log contains the text `count` times."""
        end = time.monotonic() + PATIENCE
        while self.log().count(text) < count:
            assert time.monotonic() < end, (text, self.log()[-2000:])
            time.sleep(0.01)

    # Memory and descriptors.

    def _status(self, field: str) -> int:
        text = Path(f"/proc/{self._process}/status").read_text()
        match = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
        assert match is not None
        return int(match[1]) * 1024

    def mark(self) -> None:
        """Set the start of the measurement of `grown`."""
        Path(f"/proc/{self._process}/clear_refs").write_text("5")  # resets the peak
        self._resident = self._status("VmRSS")

    def grown(self) -> int:
        """Return by how many bytes the peak of memory since `mark` exceeds the memory at the mark."""
        return self._status("VmHWM") - self._resident

    def descriptors(self) -> int:
        return len(list(Path(f"/proc/{self._process}/fd").iterdir()))

    def settled(self) -> None:
        """Check that other clients are served, and wait until all descriptors are closed."""
        self.control.served()
        end = time.monotonic() + PATIENCE
        while self.descriptors() > self._descriptors:
            assert time.monotonic() < end, f"{self.descriptors()} descriptors, {self._descriptors} at the start"
            time.sleep(0.01)

    def stop(self) -> None:
        self.control.stop()
        self._lines.close()
        self._words.close()
        assert self._victims.wait(self._process) == 0, self.log()


def ended(connection: socket.socket) -> bytes:
    """Read until the peer closes or resets the connection, and return what was received."""
    data = b""
    with suppress(ConnectionResetError):
        while more := connection.recv(65536):
            data += more
    return data


def drip(connection: socket.socket, data: bytes, seconds: float = PATIENCE) -> bytes:
    """Send `data` byte by byte, repeatedly, until the peer closes, and return what was received."""
    connection.settimeout(0.02)
    answer = b""
    end = time.monotonic() + seconds
    for position in range(1_000_000):
        assert time.monotonic() < end, f"still open after {position} bytes"
        try:
            connection.sendall(data[position % len(data)].to_bytes(1, "big"))
            more = connection.recv(65536)
        except TimeoutError:
            continue
        except (ConnectionResetError, BrokenPipeError):
            return answer
        answer += more
        if not more or 0x88 in more:  # the end, or a close frame of the WebSocket
            return answer
    raise AssertionError("unreachable")
