"""Clusters of real servers on this machine, as processes on free loopback ports.

A `Node` is one server, which can be killed and restarted with the same ports and stored data. A `Cluster` is several
nodes of one product, in a temporary folder that is removed with it.
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

#: Seconds within which a cluster must start.
PATIENCE = 120.0


def need(there: object, what: str) -> None:
    """Skip the test if a server is missing; fail instead under CI, which installs it."""
    if not there:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(f"{what} is missing: make cluster installs it")


#: UDP sockets on the ports that this process has chosen; see `free_ports`.
_claims: list[socket.socket] = []


def free_ports(count: int) -> list[int]:
    """Return free ports that the system does not use for outgoing connections, and that no other cluster will use.

    The nodes of a cluster connect to each other, and the ports of a stopped node must be free when it is restarted. So
    each port is claimed until the end of this process, by a UDP socket with the same number: the servers use TCP only.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.randrange(10_000, 32_000)  # below the usual range of outgoing connections
        with ExitStack() as stack, suppress(OSError):
            claim = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            claim.bind(("127.0.0.1", port))
            socket.create_server(("127.0.0.1", port)).close()
            stack.pop_all()
            _claims.append(claim)
            ports.append(port)
    return ports


class Node:
    """One server.

    Args:
        name: its name in the cluster.
        url: the URL for clients.
        command: the command that runs it.
        folder: the folder of its log.
        environment: variables in addition to those of this process.
        namespace: its network namespace; None for this one.
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
        """Start the server as the leader of a process group, since some servers start other processes."""
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
        """Return whether it is running."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """Kill the process group."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Suspend the process: the kernel still accepts connections, but it does not answer."""
        self._signal(signal.SIGSTOP)
        assert self._process is not None
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)  # until it has stopped

    def resume(self) -> None:
        """Resume the process."""
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        """Terminate the process, and kill it if that takes too long."""
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
        self._signal(signal.SIGKILL)  # the rest of its group
        self._process.wait(20)
        self._process = None

    @property
    def log(self) -> str:
        """Return the end of its output."""
        return self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""


class Cluster:
    """Several nodes, which run during a `with` block.

    Attributes:
        product: name and version.
        folder: its temporary folder.
        nodes: its nodes.
        cut_off: the names of unreachable nodes.
        resends_after: seconds after which the server sends unacknowledged messages again on the same connection;
            None: only on the next one.
        drops_packets: whether the packets of a broken node are dropped. The other nodes then still regard its clients
            as connected, and send their messages again only after those seconds.
    """

    product: str
    resends_after: float | None = None
    drops_packets = False

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cluster-"))
        self.nodes: list[Node] = []
        self.cut_off: set[str] = set()

    @property
    def urls(self) -> list[str]:
        """Return the URL of each node."""
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
        """Stop everything, and remove the folder."""
        for node in self.nodes:
            node.resume() if node.running else None
            node.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def break_node(self, node: Node) -> None:
        """Break a node, here by killing it."""
        node.kill()

    def mend_node(self, node: Node) -> None:
        """Restart a node."""
        node.start()

    def settle(self) -> None:
        """Wait until all nodes serve clients again."""
        for node in self.nodes:
            wait_until(lambda node=node: serves(node.url), f"{node.name} does not serve clients again", self)

    def leaderless(self) -> list[str]:
        """Return the names of everything without a leader; empty if the product does not report it."""
        return []


def serves(url: str) -> bool:
    """Return whether a server accepts a persistent session and a message of QoS 1."""
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
    """Wait for a condition in other processes, which provide no event to wait for."""
    deadline = time.monotonic() + seconds
    while not condition():
        logs = "\n".join(f"{node.name}: {node.log}" for node in cluster.nodes)
        assert time.monotonic() < deadline, f"{what} after {seconds:g} s\n{logs}"
        time.sleep(0.05)
