"""NATS with three nodes: sessions and messages in JetStream, on three replicas each."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster_nodes import Cluster, Node, free_ports, need, wait_until

PROGRAM = Path(__file__).parents[2] / ".venv-peers" / "interop" / "bin" / "nats-server"

CONFIGURATION = """
server_name: {name}
listen: "127.0.0.1:{client}"
http: "127.0.0.1:{monitor}"
jetstream {{ store_dir: "{folder}" }}
mqtt {{ listen: "127.0.0.1:{mqtt}", ack_wait: "10s", max_ack_pending: 1000 }}
websocket {{ listen: "127.0.0.1:{websocket}", no_tls: true }}
cluster {{ name: tested, listen: "127.0.0.1:{route}", routes: [{routes}] }}
"""


class NATS(Cluster):
    """A cluster of NATS.

    Args:
        size: how many nodes.
        scheme: "ws" or "mqtt".
    """

    resends_after = 10.0  # ack_wait

    def __init__(self, size: int = 3, scheme: str = "ws") -> None:
        need(PROGRAM.exists(), "nats-server")
        super().__init__()
        version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
        self.product = f"NATS {version.split()[-1].lstrip('v')}"
        kinds = ("client", "monitor", "mqtt", "websocket", "route")
        ports = [dict(zip(kinds, free_ports(len(kinds)), strict=True)) for _ in range(size)]
        routes = ", ".join(f'"nats://127.0.0.1:{each["route"]}"' for each in ports)
        self.monitors: dict[str, int] = {}
        for number, each in enumerate(ports, 1):
            name = f"n{number}"
            path = self.folder / f"{name}.conf"
            path.write_text(CONFIGURATION.format(name=name, folder=self.folder / name, routes=routes, **each))
            url = f"ws://127.0.0.1:{each['websocket']}/mqtt" if scheme == "ws" else f"mqtt://127.0.0.1:{each['mqtt']}"
            self.nodes.append(Node(name, url, [str(PROGRAM), "-c", str(path)], self.folder))
            self.monitors[name] = each["monitor"]

    def settle(self) -> None:
        """Wait until each replica of each stream and session is up to date on every node."""
        super().settle()
        wait_until(self._in_order, "a replica lags, or has no leader", self)

    def leaderless(self) -> list[str]:
        """Name the streams and sessions that no living node leads."""
        alive = {node.name for node in self.nodes if node.running}
        return sorted({name for _, name, leader, _ in self._groups() if leader not in alive})

    def _in_order(self) -> bool:
        groups = self._groups()
        names = {name for _, name, _, _ in groups}
        led = {name for node, name, leader, up_to_date in groups if leader == node and up_to_date}
        return bool(names) and names == led

    def _groups(self) -> list[tuple[str, str, str | None, bool]]:
        """Ask every living node for what it has a replica of: node, name, leader, and whether all are up to date.

        Only the leader knows how far its replicas are.
        """
        found = []
        for node in self.nodes:
            if not node.running:
                continue
            with suppress(OSError, ValueError):
                said = self._ask(node.name)
                found.append((node.name, "meta", said["meta_cluster"].get("leader"), _up_to_date(said["meta_cluster"])))
                for account in said.get("account_details", []):
                    for stream in account.get("stream_detail", []):
                        for group in (stream, *(stream.get("consumer_detail") or ())):
                            cluster = group.get("cluster") or {}
                            name = f"{stream['name']} {group['name']}"
                            found.append((node.name, name, cluster.get("leader"), _up_to_date(cluster)))
        return found

    def _ask(self, name: str) -> Any:
        url = f"http://127.0.0.1:{self.monitors[name]}/jsz?accounts=true&streams=true&consumers=true&raft=true"
        with urllib.request.urlopen(url, timeout=1) as answer:
            return json.load(answer)


def _up_to_date(cluster: dict[str, Any]) -> bool:
    return all(each.get("current") and not each.get("offline") for each in cluster.get("replicas") or ())
