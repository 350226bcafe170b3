"""Run the brokers of the interoperability matrix: Mosquitto, RabbitMQ, aedes and amqtt, each in separate processes.

Each listens only on the loopback interface, on free ports, for all four transports, and is stopped after the test.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agents import NODE_MODULES, PATIENCE, PEERS, PEERS_PYTHON, has_module, need

from mqttws.broker import Broker, Limits

SCHEMES = ("mqtt", "mqtts", "ws", "wss")
MOSQUITTO = shutil.which("mosquitto") or ("/usr/sbin/mosquitto" if os.access("/usr/sbin/mosquitto", os.X_OK) else None)
RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: Seconds. RabbitMQ starts slowly.
SLOW = 300.0


@dataclass(frozen=True)
class Running:
    """A running broker."""

    version: str
    urls: dict[str, str]
    ca: Path


def free_ports(count: int) -> list[int]:
    """Return free ports, chosen by the system."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(ports: list[int], process: subprocess.Popen[bytes], log: Path, patience: float = PATIENCE) -> None:
    """Wait until all these ports accept connections."""
    deadline = time.monotonic() + patience
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert process.poll() is None, f"it ended: {log.read_text()[-2000:]}"
                assert time.monotonic() < deadline, f"it does not listen: {log.read_text()[-2000:]}"
                time.sleep(0.05)  # another process gives no event to wait for


def urls(ports: dict[str, int], path: str) -> dict[str, str]:
    """Return the URLs of the listeners."""
    return {
        scheme: f"{scheme}://127.0.0.1:{port}{path if scheme.startswith('ws') else ''}"
        for scheme, port in ports.items()
    }


@contextmanager
def run(command: list[str], log: Path, environment: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program during the block. It ends when its standard input closes, or is terminated."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=out,
            env={**os.environ, **(environment or {})},
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        process.terminate()
        try:
            process.wait(SLOW)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


@contextmanager
def embedded(folder: Path, pem: Path, ca: Path) -> Iterator[Running]:
    """Run the embedded broker."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(pem)
    limits = Limits(max_packet_size=2 * 1024 * 1024)
    with Broker(tls=tls, wss_port=0, mqtts_port=0, limits=limits, sys_interval=None) as broker:
        yield Running("", {scheme: broker.url_of(scheme) for scheme in SCHEMES}, ca)


@contextmanager
def mosquitto(folder: Path, pem: Path, ca: Path) -> Iterator[Running]:
    """Run Mosquitto."""
    need(MOSQUITTO, "Mosquitto")
    assert MOSQUITTO is not None
    ports = dict(zip(SCHEMES, free_ports(4), strict=True))
    lines = ["allow_anonymous true", "persistence false", "max_queued_messages 10000"]
    for scheme, port in ports.items():
        lines += [f"listener {port} 127.0.0.1", f"protocol {'websockets' if scheme.startswith('ws') else 'mqtt'}"]
        lines += [f"certfile {pem}", f"keyfile {pem}"] if scheme in ("mqtts", "wss") else []
    configuration = folder / "mosquitto.conf"
    configuration.write_text("\n".join([*lines, *(["user root"] if os.geteuid() == 0 else []), ""]))
    version = subprocess.run([MOSQUITTO, "-h"], capture_output=True, text=True, check=False).stdout.split()[2]
    log = folder / "mosquitto.log"
    with run([MOSQUITTO, "-c", str(configuration)], log) as process:
        wait_for(list(ports.values()), process, log)
        yield Running(version, urls(ports, "/mqtt"), ca)


@contextmanager
def aedes(folder: Path, pem: Path, ca: Path) -> Iterator[Running]:
    """Run aedes."""
    need(shutil.which("node") and (NODE_MODULES / "aedes").exists(), "aedes")
    with run(["node", str(PEERS / "aedes.mjs"), str(pem)], folder / "aedes.log") as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        version = said.pop("version")
        yield Running(version, urls(said, "/mqtt"), ca)


@contextmanager
def amqtt(folder: Path, pem: Path, ca: Path) -> Iterator[Running]:
    """Run amqtt."""
    need(has_module(PEERS_PYTHON, "amqtt"), "amqtt")
    ports = dict(zip(SCHEMES, free_ports(4), strict=True))
    arguments = [str(pem), *(f"{scheme}={port}" for scheme, port in ports.items())]
    log = folder / "amqtt.log"
    with run([str(PEERS_PYTHON), str(PEERS / "amqtt_broker.py"), *arguments], log) as process:
        wait_for(list(ports.values()), process, log)
        assert process.stdout is not None
        yield Running(json.loads(process.stdout.readline())["version"], urls(ports, "/mqtt"), ca)


@contextmanager
def rabbitmq(folder: Path, pem: Path, ca: Path) -> Iterator[Running]:
    """Run RabbitMQ with its MQTT and Web MQTT plugins."""
    need(RABBITMQ.exists(), "RabbitMQ")
    *each, amqp, distribution, mapper = free_ports(7)
    ports = dict(zip(SCHEMES, each, strict=True))
    (folder / "rabbitmq.conf").write_text(
        f"""
listeners.tcp.1 = 127.0.0.1:{amqp}
ssl_options.cacertfile = {ca}
ssl_options.certfile = {pem}
ssl_options.keyfile = {pem}
mqtt.listeners.tcp.1 = 127.0.0.1:{ports["mqtt"]}
mqtt.listeners.ssl.1 = 127.0.0.1:{ports["mqtts"]}
mqtt.allow_anonymous = true
mqtt.default_user = guest
mqtt.default_pass = guest
mqtt.subscription_ttl = 600000
web_mqtt.tcp.listener = 127.0.0.1:{ports["ws"]}
web_mqtt.ssl.listener = 127.0.0.1:{ports["wss"]}
web_mqtt.ssl.cacertfile = {ca}
web_mqtt.ssl.certfile = {pem}
web_mqtt.ssl.keyfile = {pem}
"""
    )
    (folder / "plugins").write_text("[rabbitmq_mqtt,rabbitmq_web_mqtt].\n")
    environment = {
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"interop{os.getpid()}@localhost",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_LOGS": str(folder / "rabbitmq.log"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        "RABBITMQ_DIST_PORT": str(distribution),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
    }
    log = folder / "rabbitmq.out"
    (folder / "rabbitmq.log").touch()
    try:
        with run([str(RABBITMQ)], log, environment) as process:
            wait_for(list(ports.values()), process, folder / "rabbitmq.log", SLOW)
            yield Running(_rabbitmq_version(), urls(ports, "/ws"), ca)
    finally:  # the port mapper of Erlang is a separate daemon
        subprocess.run(
            ["epmd", "-port", str(mapper), "-kill"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False
        )


def _rabbitmq_version() -> str:
    (home,) = Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*")
    return home.name.partition("-")[2]


BROKERS: dict[str, Callable[[Path, Path, Path], object]] = {
    "mqttws": embedded,
    "mosquitto": mosquitto,
    "rabbitmq": rabbitmq,
    "aedes": aedes,
    "amqtt": amqtt,
}
