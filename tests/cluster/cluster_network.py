"""NATS with each node in a network namespace, so that a node can become a black hole: packets to it are dropped.

The namespaces are connected to a bridge by pairs of virtual interfaces. The firewall rules are those of the namespaces;
the rules of this machine are not changed. Several such clusters can run at the same time: each has its own network.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from contextlib import suppress

import pytest
from cluster_nats import NATS
from cluster_nodes import Node, need

#: The beginning of the addresses of networks for tests (RFC 2544). This machine is the first host of each.
NETWORKS = "198.18"


class Namespaces:
    """Network namespaces on one bridge.

    Args:
        count: the number of namespaces.
    """

    def __init__(self, count: int) -> None:
        self._word = f"{os.getpid() % 100_000}"
        self._bridge = f"cb{self._word}"
        self.names = [f"cn{self._word}-{number}" for number in range(count)]
        self._network = _free_network()
        self.addresses = [f"{self._network}.{number + 2}" for number in range(count)]

    def open(self) -> None:
        """Create the namespaces, or skip the test if this machine does not allow it."""
        need(shutil.which("ip") and shutil.which("iptables"), "ip or iptables")
        try:
            self._make()
        except (subprocess.CalledProcessError, OSError) as error:
            self.close()
            said = getattr(error, "stderr", None) or str(error)
            pytest.skip(f"no network namespace can be made here, so there is no black hole: {said.strip()}")

    def _make(self) -> None:
        _run("ip", "link", "add", self._bridge, "type", "bridge")
        _run("ip", "address", "add", f"{self._network}.1/24", "dev", self._bridge)
        _run("ip", "link", "set", self._bridge, "up")
        for number, (name, address) in enumerate(zip(self.names, self.addresses, strict=True)):
            outside, inside = f"cv{self._word}{number}", f"cw{self._word}{number}"
            _run("ip", "netns", "add", name)
            _run("ip", "link", "add", outside, "type", "veth", "peer", "name", inside)
            _run("ip", "link", "set", outside, "master", self._bridge, "up")
            _run("ip", "link", "set", inside, "netns", name)
            _run("ip", "-n", name, "address", "add", f"{address}/24", "dev", inside)
            _run("ip", "-n", name, "link", "set", inside, "up")
            _run("ip", "-n", name, "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove them."""
        for name in self.names:
            with suppress(subprocess.CalledProcessError, OSError):
                _run("ip", "netns", "delete", name)
        with suppress(subprocess.CalledProcessError, OSError):
            _run("ip", "link", "delete", self._bridge)

    def drop(self, name: str, does: bool) -> None:
        """Start or stop dropping all packets into and out of a namespace."""
        for chain in ("INPUT", "OUTPUT"):
            _run("ip", "netns", "exec", name, "iptables", "-A" if does else "-D", chain, "-j", "DROP")


def _free_network() -> str:
    """Return the first three bytes of a network that this machine has no address in."""
    used = ""
    with suppress(OSError, subprocess.CalledProcessError):  # without ip, nothing can be created in it anyway
        used = _run("ip", "-4", "-o", "address", "show")
    networks = [f"{NETWORKS}.{number}" for number in range(1, 255)]
    return random.choice([each for each in networks if f" {each}." not in used])


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class NATSInNamespaces(NATS):
    """A cluster of NATS whose nodes become black holes instead of being killed."""

    drops_packets = True

    def __init__(self) -> None:
        self._namespaces = Namespaces(3)
        self._namespaces.open()
        try:
            super().__init__(places=list(zip(self._namespaces.addresses, self._namespaces.names, strict=True)))
        except BaseException:
            self._namespaces.close()
            raise

    def stop(self) -> None:
        """End the nodes, and remove the namespaces."""
        try:
            super().stop()
        finally:
            self._namespaces.close()

    def break_node(self, node: Node) -> None:
        """Drop all packets to the node."""
        self.cut_off.add(node.name)
        self._namespaces.drop(self._namespace_of(node), True)

    def mend_node(self, node: Node) -> None:
        """Stop dropping packets to the node."""
        self._namespaces.drop(self._namespace_of(node), False)
        self.cut_off.discard(node.name)

    def _namespace_of(self, node: Node) -> str:
        return self._namespaces.names[self.nodes.index(node)]
