"""Clusters of real servers on this machine: processes that start on free loopback ports, and end by their pids.

A `Node` is one server, which can be killed and started again, on the same ports and with what it has stored. A
`Cluster` is several of one kind, in a temporary folder that is removed with it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

import mqttws

#: Seconds that a cluster may take to come up.
PATIENCE = 120.0


def need(there: object, what: str) -> None:
    """Go on where a server is there; else skip, or fail where continuous integration promises it."""
    if not there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is missing: make cluster installs it")


def free_ports(count: int) -> list[int]:
    """Find ports that nobody uses, and that the system gives to no outgoing connection.

    The nodes of a cluster connect to each other, and a node that is down must find its ports free when it comes back.
    """
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.randrange(10_000, 32_000)  # below the usual range of outgoing connections
            with suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
        return ports


class Node:
    """One server.

    Args:
        name: in its cluster.
        url: where clients connect to it.
        command: that runs it.
        folder: for what it prints.
        environment: beside this process's.
        namespace: the network namespace that it runs in; None for this one.
    """

    def __init__(
        self,
        name: str,
        url: str,
        command: Sequence[str],
        folder: Path,
        environment: dict[str, str] | None = None,
        namespace: str | None = None,
    ) -> None:
        self.name = name
        self.url = url
        self.environment = {**os.environ, **(environment or {})}
        self._command = [*(("ip", "netns", "exec", namespace) if namespace else ()), *command]
        self._log = folder / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it. It is the leader of a process group, since some servers start others."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environment,
                start_new_session=True,
            )

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it as a power cut would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Stop it without ending it: it accepts connections, by the kernel, and is silent."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in order, and by force where that takes too long."""
        self._end(signal.SIGTERM)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        self._signal(number)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            pass
        self._signal(signal.SIGKILL)  # whatever of its group is left
        self._process.wait(20)
        self._process = None

    @property
    def log(self) -> str:
        """The end of what it printed."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


class Cluster:
    """Several nodes, from `with` until its end.

    Attributes:
        product: name and version.
        folder: temporary.
        nodes: its nodes.
        cut_off: the names of those that nobody reaches.
        resends_after: seconds after which the server sends again, on the same connection, what is not acknowledged;
            None: only on the next one.
        swallows: whether a node that is broken stays connected, as far as the others know: what it was sending is sent
            again only after those seconds.
    """

    product: str
    resends_after: float | None = None
    swallows = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.nodes: list[Node] = []
        self.cut_off: set[str] = set()

    @property
    def urls(self) -> list[str]:
        """Where clients connect to, one URL a node."""
        return [node.url for node in self.nodes]

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the nodes, and wait until each serves clients."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            wait_until(lambda node=node: serves(node.url), f"{node.name} serves no client", self)

    def stop(self) -> None:
        """End everything, and remove the folder."""
        for node in self.nodes:
            node.resume() if node.running else None
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def break_node(self, node: Node) -> None:
        """Do to a node what the cluster is to survive: kill it."""
        node.kill()

    def mend_node(self, node: Node) -> None:
        """Bring it back."""
        node.start()

    def settle(self) -> None:
        """Wait until all nodes serve clients again."""
        for node in self.nodes:
            wait_until(lambda node=node: serves(node.url), f"{node.name} does not come back", self)

    def leaderless(self) -> list[str]:
        """Name what the cluster has still to elect a leader for; empty where it does not say."""
        return []


def serves(url: str) -> bool:
    """Return whether a server takes a session that is to be kept, and a message of QoS 1 to it."""
    options = {"client_id": "ready", "reconnect": False, "timeout": 3.0, "clean_session": False}
    try:
        with mqttws.connect(url, **options) as client:
            client.subscribe("ready/#", 1, timeout=3.0)
            client.publish("ready/x", b"", 1, timeout=3.0)
        with mqttws.connect(url, **{**options, "clean_session": True}):
            return True
    except (mqttws.MQTTError, OSError):
        return False


def wait_until(condition: Callable[[], object], what: str, cluster: Cluster, seconds: float = PATIENCE) -> None:
    """Wait until something holds in other processes, which have no event to wait for."""
    deadline = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(f"{node.name}: {node.log}" for node in cluster.nodes)
        assert time.monotonic() < deadline, f"{what} after {seconds:g} s\n{logs}"
        time.sleep(0.05)
