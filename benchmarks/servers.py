"""The servers of the cases, each in a separate process, as context managers."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from environments import SCRIPTS, Environments, mosquitto


class Server(NamedTuple):
    """A running server: its WebSocket port, its plain TCP port (only Mosquitto), its process."""

    port: int
    tcp_port: int
    pid: int


@contextlib.contextmanager
def serving(environments: Environments, command: list[str]) -> Iterator[Server]:
    """Run a server that prints its port, and ends at the end of its standard input."""
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
        if not line.strip().isdigit():
            raise RuntimeError("the server did not start")
        yield Server(int(line), 0, server.pid)
    finally:
        assert server.stdin is not None
        server.stdin.close()
        try:
            server.wait(10)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()
        server.stdout.close()


def blaster(environments: Environments, *counts: int) -> contextlib.AbstractContextManager[Server]:
    """Run the server that answers each SUBSCRIBE with a number of messages."""
    return serving(environments, [environments.python("floor"), str(SCRIPTS / "blaster.py"), *map(str, counts)])


def responder(environments: Environments, server: Server) -> contextlib.AbstractContextManager[Server]:
    """Run the process that answers requests through a broker."""
    return serving(environments, [environments.python("floor"), str(SCRIPTS / "responder.py"), str(server.tcp_port)])


def broker(environments: Environments, library: str) -> contextlib.AbstractContextManager[Server]:
    """Run a broker."""
    if library == "mosquitto":
        return running_mosquitto()
    command = environments.command(library, "broker")
    return serving(environments, [*command, str(free_port())] if library == "amqtt" else command)


def free_port() -> int:
    """Return a free port."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_mosquitto() -> Iterator[Server]:
    """Run Mosquitto with TCP_NODELAY."""
    ws_port, tcp_port = free_port(), free_port()
    path = mosquitto()
    if path is None:
        raise RuntimeError("there is no mosquitto here")
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(
            f"set_tcp_nodelay true\nallow_anonymous true\nmax_queued_messages 0\nmax_inflight_messages 1000\n"
            f"listener {ws_port} 127.0.0.1\nprotocol websockets\nlistener {tcp_port} 127.0.0.1\n"
        )
        settings.flush()
        os.chmod(settings.name, 0o644)
        process = subprocess.Popen([path, "-c", settings.name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            for port in (ws_port, tcp_port):
                deadline = time.monotonic() + 10
                while True:
                    try:
                        socket.create_connection(("127.0.0.1", port), 1).close()
                        break
                    except OSError:
                        if time.monotonic() > deadline or process.poll() is not None:
                            raise RuntimeError("mosquitto did not start") from None
                        time.sleep(0.02)
            yield Server(ws_port, tcp_port, process.pid)
        finally:
            process.terminate()
            process.wait(10)
