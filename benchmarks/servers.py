"""The servers of the cases, each in a separate process, as context managers."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from environments import SCRIPTS, Environments, mosquitto


class Server(NamedTuple):
    """A running server: its WebSocket port, its process, and its ports for plain TCP and WebSocket over TLS if any."""

    port: int
    pid: int
    tcp_port: int = 0
    tls_port: int = 0


@contextlib.contextmanager
def serving(environments: Environments, command: list[str]) -> Iterator[Server]:
    """Run a server that prints its ports, and ends at the end of its standard input."""
    server = subprocess.Popen(
        command,
        env=environments.variables,
        cwd=environments.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        ports = line.split()
        if not ports or not all(map(bytes.isdigit, ports)):
            raise RuntimeError("the server did not start")
        yield Server(int(ports[0]), server.pid, tls_port=int(ports[-1]))
    finally:
        assert server.stdin is not None
        server.stdin.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()


def blaster(environments: Environments, *options: object) -> contextlib.AbstractContextManager[Server]:
    """Run the server that answers each SUBSCRIBE with a number of messages."""
    return serving(environments, [environments.python("floor"), str(SCRIPTS / "blaster.py"), *map(str, options)])


def responder(environments: Environments, server: Server) -> contextlib.AbstractContextManager[Server]:
    """Run the process that answers requests through a broker."""
    return serving(environments, [environments.python("floor"), str(SCRIPTS / "responder.py"), str(server.tcp_port)])


def background(environments: Environments, server: Server) -> contextlib.AbstractContextManager[Server]:
    """Run the process that sends 10,000 messages a second through a broker."""
    return serving(environments, [environments.python("floor"), str(SCRIPTS / "background.py"), str(server.tcp_port)])


def broker(environments: Environments, library: str) -> contextlib.AbstractContextManager[Server]:
    """Run a broker."""
    if library == "mosquitto":
        return running_mosquitto(environments.directory / "certificates")
    if library == "nats":
        return running_nats(environments)
    command = environments.command(library, "broker")
    return serving(environments, [*command, str(free_port())] if library == "amqtt" else command)


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(command: list[str], *ports: int) -> Iterator[int]:
    """Run a server until it listens on its ports; pass its process identifier."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for port in ports:
            deadline = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    if time.monotonic() > deadline or process.poll() is not None:
                        raise RuntimeError(f"{Path(command[0]).name} did not start") from None
                    time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def running_mosquitto(certificates: Path | None = None) -> Iterator[Server]:
    """Run Mosquitto with TCP_NODELAY, and with TLS if there are certificates."""
    path = mosquitto()
    if path is None:
        raise RuntimeError("there is no mosquitto here")
    ports = ws_port, tcp_port, *tls_ports = [free_port() for _ in range(3 if certificates else 2)]
    with tempfile.TemporaryDirectory() as directory:  # the user that Mosquitto changes to cannot read other places
        lines = [
            "set_tcp_nodelay true\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000",
            f"listener {ws_port} 127.0.0.1\nprotocol websockets\nlistener {tcp_port} 127.0.0.1",
        ]
        if certificates:
            copied = shutil.copytree(certificates, f"{directory}/certificates")
            lines += [f"listener {tls_ports[0]} 127.0.0.1\nprotocol websockets"]
            lines += [f"certfile {copied}/server.crt\nkeyfile {copied}/server.key\n"]
        settings = Path(directory) / "mosquitto.conf"
        settings.write_text("\n".join(lines))
        os.chmod(directory, 0o755)
        with running([path, "-c", str(settings)], *ports) as pid:
            yield Server(ws_port, pid, tcp_port, *tls_ports)


@contextlib.contextmanager
def running_nats(environments: Environments) -> Iterator[Server]:
    """Run nats-server with JetStream, which keeps its sessions and the messages of QoS 1."""
    ws_port, mqtt_port, client_port = (free_port() for _ in range(3))
    with tempfile.TemporaryDirectory() as directory:
        settings = Path(directory) / "nats.conf"
        settings.write_text(
            f'host: 127.0.0.1\nport: {client_port}\nserver_name: bench\njetstream {{ store_dir: "{directory}" }}\n'
            f"mqtt {{ host: 127.0.0.1, port: {mqtt_port} }}\n"
            f"websocket {{ host: 127.0.0.1, port: {ws_port}, no_tls: true }}\n"
        )
        path = environments.directory / "nats" / "bin" / "nats-server"
        with running([str(path), "-c", str(settings)], client_port, ws_port, mqtt_port) as pid:
            yield Server(ws_port, pid, mqtt_port)
