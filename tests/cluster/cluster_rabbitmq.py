"""RabbitMQ with three nodes, with and without mirrored session queues.

The nodes are `n1@localhost` to `n3@localhost`. Erlang's port mapper runs as a child process on a free port.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from cluster_nodes import Cluster, Node, free_ports, need, wait_until

HOME = Path("/usr/lib/rabbitmq")

CONFIGURATION = """
listeners.tcp.1 = 127.0.0.1:{amqp}
mqtt.listeners.tcp.default = 127.0.0.1:{mqtt}
mqtt.allow_anonymous = true
mqtt.default_user = guest
mqtt.default_pass = guest
web_mqtt.tcp.ip = 127.0.0.1
web_mqtt.tcp.port = {web}
web_mqtt.ws_path = /ws
cluster_formation.peer_discovery_backend = classic_config
{peers}
cluster_formation.randomized_startup_delay_range.min = 0
cluster_formation.randomized_startup_delay_range.max = 1
cluster_partition_handling = pause_minority
"""


class RabbitMQ(Cluster):
    """A cluster of RabbitMQ.

    Args:
        mirrored: whether each session's queue has a mirror on every node.
        size: the number of nodes.
        scheme: "ws" or "mqtt".
    """

    def __init__(self, mirrored: bool, size: int = 3, scheme: str = "ws") -> None:
        need((HOME / "bin" / "rabbitmq-server").exists(), "RabbitMQ")
        super().__init__()
        (library,) = (HOME / "lib").glob("rabbitmq_server-*")
        self.product = f"RabbitMQ {library.name.partition('-')[2]}"
        self._mirrored = mirrored
        mapper, *ports = free_ports(1 + 4 * size)
        cookie = self.folder / ".erlang.cookie"
        cookie.write_text("a-cluster-under-test")
        cookie.chmod(0o400)
        (self.folder / "plugins").write_text("[rabbitmq_mqtt,rabbitmq_web_mqtt].\n")
        names = [f"n{number}@localhost" for number in range(1, size + 1)]
        peers = "\n".join(f"cluster_formation.classic_config.nodes.{i} = {name}" for i, name in enumerate(names, 1))
        self._environment = {
            "HOME": str(self.folder),
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.folder / "plugins"),
        }
        self._mapper = Node("epmd", "", ["epmd", "-port", str(mapper), "-address", "127.0.0.1"], self.folder)
        for name in names:
            amqp, mqtt, web, distribution = (ports.pop() for _ in range(4))
            short = name.partition("@")[0]
            configuration = self.folder / f"{short}.conf"
            configuration.write_text(CONFIGURATION.format(amqp=amqp, mqtt=mqtt, web=web, peers=peers))
            url = f"ws://127.0.0.1:{web}/ws" if scheme == "ws" else f"mqtt://127.0.0.1:{mqtt}"
            environment = {
                **self._environment,
                "RABBITMQ_NODENAME": name,
                "RABBITMQ_NODE_PORT": str(amqp),
                "RABBITMQ_DIST_PORT": str(distribution),
                "RABBITMQ_CONFIG_FILE": str(configuration),
                "RABBITMQ_MNESIA_BASE": str(self.folder / short),
                "RABBITMQ_LOG_BASE": str(self.folder / short),
                "RABBITMQ_LOGS": str(self.folder / f"{short}.log"),
                "RABBITMQ_PID_FILE": str(self.folder / f"{short}.pid"),
            }
            (self.folder / short).mkdir()
            self.nodes.append(Node(short, url, [str(HOME / "bin" / "rabbitmq-server")], self.folder, environment))

    def start(self) -> None:
        """Start the port mapper and the nodes, and set the policy."""
        self._mapper.start()
        super().start()
        wait_until(lambda: len(self._running()) == len(self.nodes), "the nodes are no cluster", self)
        if self._mirrored:
            policy = "ha", "^mqtt-subscription-", '{"ha-mode":"all","ha-sync-mode":"automatic"}'
            wait_until(lambda: self._control("set_policy", *policy), "the policy is not set", self)

    def stop(self) -> None:
        """Stop the nodes, then the port mapper."""
        try:
            super().stop()
        finally:
            self._mapper.kill()

    def settle(self) -> None:
        """Wait until all nodes serve clients, and every queue has its mirrors."""
        super().settle()
        wait_until(lambda: len(self._running()) == len(self.nodes), "the nodes are no cluster", self)
        if self._mirrored:
            wait_until(self._synchronised, "a mirror is not synchronised", self)

    def _synchronised(self) -> bool:
        said = self._control("list_queues", "--quiet", "name", "synchronised_slave_pids")
        return all(line.count("<") >= len(self.nodes) - 1 for line in said.splitlines() if "mqtt-subscription-" in line)

    def _running(self) -> list[str]:
        """Ask each running node which nodes run, and return the shortest answer."""
        answers: list[list[str]] = []
        for node in self.nodes:
            said = self._control("eval", "rabbit_nodes:all_running().", node=node) if node.running else ""
            answers.append(said.strip(" []\n").split(",") if "@" in said else [])
        return min(answers, key=len)

    def _control(self, *arguments: str, node: Any = None) -> str:
        node = node or next(each for each in self.nodes if each.running)
        command = [str(HOME / "bin" / "rabbitmqctl"), "-n", f"{node.name}@localhost", *arguments]
        environment = {**os.environ, **self._environment}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):  # a node that starts may not answer
            return ""
        return done.stdout
