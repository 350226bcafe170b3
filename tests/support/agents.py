"""The clients of the interoperability matrix: each library runs in a separate process, behind a common interface.

`tests/peers/agent.py` describes the protocol between the processes. For Mosquitto, its command-line programs run.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections import deque
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "tests" / "peers"
#: The Python of the peers that cannot be installed in this environment.
PEERS_PYTHON = ROOT / ".venv-peers" / "interop" / "bin" / "python"
NODE_MODULES = PEERS / "node_modules"
PATIENCE = float(os.environ.get("PATIENCE", "30"))

#: topic, payload, QoS, RETAIN
Received = tuple[str, bytes, int, bool]


def need(there: object, what: str) -> None:
    """Skip the test if a peer is missing; fail instead under CI, which installs every peer."""
    if not there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is missing: make peers")


@cache
def has_module(python: Path, module: str) -> bool:
    """Return whether an interpreter can import a module."""
    return (
        python.exists()
        and subprocess.run([python, "-c", f"import {module}"], stderr=subprocess.DEVNULL, check=False).returncode == 0
    )


class Peer(Protocol):
    """One client of a library."""

    messages: queue.Queue[Received]
    lost: threading.Event

    def subscribe(self, topic_filter: str, qos: int) -> None:
        """Subscribe, and wait for the SUBACK."""

    def unsubscribe(self, topic_filter: str) -> None:
        """Unsubscribe, and wait for the UNSUBACK."""

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        """Publish, and wait for the acknowledgement if the library supports that."""

    def disconnect(self) -> None:
        """Send DISCONNECT and close."""


class Agent:
    """A process that runs clients of one library.

    Args:
        command: the command to run.
        quiet: whether to discard the log of the library.
    """

    def __init__(self, *command: str | Path, quiet: bool = False) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if quiet else None,
            env=environment,
            text=True,
            bufsize=1,
        )
        self._ids = count(1)
        self._answers: dict[int, queue.Queue[dict[str, Any]]] = {}
        self._clients: dict[str, AgentClient] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            if "id" in event:
                self._answers[event["id"]].put(event)
            elif "message" in event:
                topic, payload, qos, retain = event["message"]
                self._clients[event["client"]].messages.put((topic, base64.b64decode(payload), qos, retain))
            else:
                self._clients[event["client"]].lost.set()

    def ask(self, do: str, **arguments: Any) -> Any:
        """Send a command and return its answer."""
        assert self._process.stdin is not None
        number = next(self._ids)
        answer = self._answers[number] = queue.Queue()
        self._process.stdin.write(json.dumps({"id": number, "do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        said = answer.get(timeout=PATIENCE)
        if "error" in said:
            raise AssertionError(f"{do}: {said['error']}")
        return said["ok"]

    def connect(self, url: str, client_id: str, clean: bool, will: dict[str, Any] | None, ca: Path) -> AgentClient:
        """Create a client and connect it."""
        name = f"{client_id} {next(self._ids)}"
        client = self._clients[name] = AgentClient(self, name)
        tls = urlsplit(url).scheme in ("mqtts", "wss")
        self.ask(
            "connect", client=name, url=url, client_id=client_id, clean=clean, will=will, ca=str(ca) if tls else None
        )
        return client

    def kill(self) -> None:
        """Kill the process, so that its connections break without a DISCONNECT."""
        self._process.kill()
        self.close()

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()


class AgentClient:
    """One client in an agent's process."""

    def __init__(self, agent: Agent, name: str) -> None:
        self._agent = agent
        self._name = name
        self.messages: queue.Queue[Received] = queue.Queue()
        self.lost = threading.Event()

    def subscribe(self, topic_filter: str, qos: int) -> None:
        self._agent.ask("subscribe", client=self._name, filter=topic_filter, qos=qos)

    def unsubscribe(self, topic_filter: str) -> None:
        self._agent.ask("unsubscribe", client=self._name, filter=topic_filter)

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        encoded = base64.b64encode(payload).decode()
        self._agent.ask("publish", client=self._name, topic=topic, payload=encoded, qos=qos, retain=retain)

    def disconnect(self) -> None:
        self._agent.ask("disconnect", client=self._name)


class MosquittoAgent:
    """Mosquitto's programs, one process for each operation."""

    def __init__(self) -> None:
        self._clients: list[MosquittoClient] = []

    def ask(self, do: str) -> str:
        """Return the version."""
        assert do == "version"
        said = subprocess.run(["mosquitto_sub", "--version"], capture_output=True, text=True, check=False).stdout
        return said.split()[2]

    def connect(self, url: str, client_id: str, clean: bool, will: dict[str, Any] | None, ca: Path) -> MosquittoClient:
        """Store the connection options; each program connects by itself."""
        client = MosquittoClient(url, client_id, clean, will, ca)
        self._clients.append(client)
        return client

    def kill(self) -> None:
        """Kill all processes."""
        for client in self._clients:
            client.kill()

    close = kill


class MosquittoClient:
    """One client, made of several processes."""

    def __init__(self, url: str, client_id: str, clean: bool, will: dict[str, Any] | None, ca: Path) -> None:
        parts = urlsplit(url)
        self._where = ["-h", str(parts.hostname), "-p", str(parts.port), "-V", "mqttv311"]
        if parts.scheme == "mqtts":
            self._where += ["--cafile", str(ca)]
        self._who = ["-i", client_id] + ([] if clean else ["-c"])
        self._will = will
        self.messages: queue.Queue[Received] = queue.Queue()
        self.lost = threading.Event()
        self._subscriber: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._said: deque[str] = deque(maxlen=20)
        if will:  # the will must be registered before the first operation
            self.subscribe("mosquitto/waits", 0)
        elif not clean:
            self.subscribe("mosquitto/session", 1)

    def subscribe(self, topic_filter: str, qos: int) -> None:
        if self._subscriber is not None:
            self.disconnect()
        # One line for each message: its payload in hexadecimal. Another line reports the SUBACK.
        arguments = ["-t", topic_filter, "-q", str(qos), "-d", "-F", "message %q %r %x %t"]
        if self._will:
            arguments += ["--will-topic", self._will["topic"], "--will-qos", str(self._will["qos"])]
            arguments += ["--will-payload", base64.b64decode(self._will["payload"]).decode()]
            arguments += ["--will-retain"] if self._will["retain"] else []
        subscribed = threading.Event()
        process = self._subscriber = subprocess.Popen(
            ["stdbuf", "-oL", "mosquitto_sub", *self._where, *self._who, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        reader = threading.Thread(target=self._read, args=(process, subscribed), daemon=True)
        self._readers.append(reader)
        reader.start()
        assert subscribed.wait(PATIENCE), f"no SUBACK: {list(self._said)}"

    def _read(self, process: subprocess.Popen[str], subscribed: threading.Event) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._said.append(line)
                if line.startswith("message "):
                    _, qos, retain, payload, topic = line.rstrip("\n").split(" ", 4)
                    self.messages.put((topic, bytes.fromhex(payload), int(qos), retain == "1"))
                elif line.startswith("Subscribed ("):
                    subscribed.set()

    def publish(self, topic: str, payload: bytes, qos: int = 0, retain: bool = False) -> None:
        arguments = ["-t", topic, "-q", str(qos), *(["-r"] if retain else []), *(["-s"] if payload else ["-n"])]
        subprocess.run(["mosquitto_pub", *self._where, *arguments], input=payload, timeout=PATIENCE, check=True)

    def disconnect(self) -> None:
        if self._subscriber is not None:
            self._subscriber.terminate()  # mosquitto_sub then sends DISCONNECT
            try:
                self._subscriber.wait(10)
            except subprocess.TimeoutExpired:
                # Rarely it does not end: its signal handler sends the packet, which is not safe in whatever the signal
                # interrupted.
                self._subscriber.kill()
            self._end()

    def kill(self) -> None:
        if self._subscriber is not None:
            self._subscriber.kill()
            self._end()

    def _end(self) -> None:
        assert self._subscriber is not None
        self._subscriber.wait(PATIENCE)
        self._subscriber = None
        for reader in self._readers:
            reader.join()


def start(library: str) -> Agent | MosquittoAgent:
    """Start the process of a library, or skip the test if it is missing."""
    if library == "mosquitto":
        need(shutil.which("mosquitto_sub") and shutil.which("stdbuf"), "Mosquitto's clients")
        return MosquittoAgent()
    if library == "mqtt.js":
        need(shutil.which("node") and (NODE_MODULES / "mqtt").exists(), "MQTT.js")
        return Agent("node", PEERS / "agent.mjs")
    if library in ("aiomqtt", "gmqtt"):
        need(has_module(PEERS_PYTHON, library), library)
        return Agent(PEERS_PYTHON, PEERS / "agent.py", library)
    return Agent(sys.executable, PEERS / "agent.py", library)
