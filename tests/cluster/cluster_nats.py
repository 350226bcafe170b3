"""NATS with three nodes: sessions and messages are in JetStream, with three replicas each."""

from __future__ import annotations

import json
import subprocess
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cluster_nodes import Cluster, Node, free_ports, need, wait_until

PROGRAM = Path(__file__).parents[2] / ".venv-peers" / "interop" / "bin" / "nats-server"

CONFIGURATION = """
server_name: {name}
listen: "{host}:{client}"
http: "{host}:{monitor}"
jetstream {{ store_dir: "{folder}" }}
mqtt {{ listen: "{host}:{mqtt}", ack_wait: "10s", max_ack_pending: 1000{options} }}
websocket {{ listen: "{host}:{websocket}", no_tls: true }}
cluster {{ name: tested, listen: "{host}:{route}", routes: [{routes}] }}
"""


class NATS(Cluster):
    """A cluster of NATS.

    Args:
        size: the number of nodes.
        scheme: "ws" or "mqtt".
        places: the address and network namespace of each node; None for this one.
        js_api_timeout: how long a node waits for the leader of a stream, such as "500ms"; None: its default, 5 s. If
            there is none yet when a CONNECT arrives, the node refuses all others with that client identifier until
            then, also after the election.
    """

    resends_after = 10.0  # ack_wait

    def __init__(
        self,
        size: int = 3,
        scheme: str = "ws",
        places: Sequence[tuple[str, str | None]] | None = None,
        js_api_timeout: str | None = None,
    ) -> None:
        need(PROGRAM.exists(), "nats-server")
        super().__init__()
        version = subprocess.run([PROGRAM, "--version"], capture_output=True, text=True, check=True).stdout
        self.product = f"NATS {version.split()[-1].lstrip('v')}"
        kinds = ("client", "monitor", "mqtt", "websocket", "route")
        places = places or [("127.0.0.1", None)] * size
        ports = [dict(zip(kinds, free_ports(len(kinds)), strict=True)) for _ in places]
        pairs = list(zip(places, ports, strict=True))
        routes = ", ".join(f'"nats://{host}:{each["route"]}"' for (host, _), each in pairs)
        options = f', js_api_timeout: "{js_api_timeout}"' if js_api_timeout else ""
        self.monitors: dict[str, str] = {}
        for number, ((host, namespace), each) in enumerate(pairs, 1):
            name = f"n{number}"
            path = self.folder / f"{name}.conf"
            values = {"name": name, "host": host, "folder": self.folder / name, "routes": routes, "options": options}
            path.write_text(CONFIGURATION.format(**values, **each))
            url = f"ws://{host}:{each['websocket']}/mqtt" if scheme == "ws" else f"mqtt://{host}:{each['mqtt']}"
            command = [str(PROGRAM), "-c", str(path)]
            self.nodes.append(Node(name, url, command, self.folder, namespace=namespace))
            self.monitors[name] = f"{host}:{each['monitor']}"

    def settle(self) -> None:
        """Wait until each replica of each stream and session is up to date on every node."""
        super().settle()
        wait_until(self._in_order, "a replica lags, or has no leader", self)

    def leaderless(self) -> list[str]:
        """Return the names of the streams and sessions without a leader among running nodes."""
        alive = {node.name for node in self.nodes if node.running and node.name not in self.cut_off}
        return sorted({name for _, name, leader, _ in self._groups() if leader not in alive})

    def _in_order(self) -> bool:
        groups = self._groups()
        names = {name for _, name, _, _ in groups}
        led = {name for node, name, leader, up_to_date in groups if leader == node and up_to_date}
        return bool(names) and names == led

    def _groups(self) -> list[tuple[str, str, str | None, bool]]:
        """Return the replicas of every running node: node, name, leader, and whether all are up to date.

        Only the leader knows the state of its replicas.
        """
        found = []
        for node in self.nodes:
            if not node.running or node.name in self.cut_off:
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
        url = f"http://{self.monitors[name]}/jsz?accounts=true&streams=true&consumers=true&raft=true"
        with urllib.request.urlopen(url, timeout=1) as answer:
            return json.load(answer)


def _up_to_date(cluster: dict[str, Any]) -> bool:
    return all(each.get("current") and not each.get("offline") for each in cluster.get("replicas") or ())
