"""HAProxy before NATS: clients have one address, and health checks select the node."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from cluster_nats import NATS
from cluster_nodes import Node, free_ports, need, serves, wait_until

PROGRAM = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")

CONFIGURATION = """
global
    maxconn 1000
defaults
    mode tcp
    timeout connect 1s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
    option redispatch
frontend clients
    bind 127.0.0.1:{port}
    default_backend nodes
backend nodes
    balance roundrobin
    option httpchk GET /healthz?js-server-only=true
    default-server check inter 500ms fall 1 rise 2 on-marked-down shutdown-sessions
{servers}
"""


class NATSBehindHAProxy(NATS):
    """A cluster of NATS with HAProxy before it."""

    def __init__(self) -> None:
        need(PROGRAM, "HAProxy")
        super().__init__()
        assert PROGRAM is not None
        version = subprocess.run([PROGRAM, "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
        self.product += f" behind HAProxy {version.partition('-')[0]}"
        self._proxy_folder = Path(tempfile.mkdtemp(prefix="haproxy-"))
        (port,) = free_ports(1)
        servers = "\n".join(
            f"    server {node.name} {node.url.split('/')[2]} port {self.monitors[node.name].partition(':')[2]}"
            for node in self.nodes
        )
        path = self._proxy_folder / "haproxy.cfg"
        path.write_text(CONFIGURATION.format(port=port, servers=servers))
        self.front = f"ws://127.0.0.1:{port}/mqtt"
        self._proxy = Node("haproxy", self.front, [PROGRAM, "-db", "-f", str(path)], self._proxy_folder)

    def start(self) -> None:
        """Start the nodes, then HAProxy."""
        super().start()
        self._proxy.start()
        wait_until(lambda: serves(self.front), "HAProxy serves no client", self)

    def stop(self) -> None:
        """End HAProxy, then the nodes."""
        try:
            self._proxy.stop()
            shutil.rmtree(self._proxy_folder, ignore_errors=True)
        finally:
            super().stop()
