"""A network that drops all packets: how soon a client that waits for an acknowledgement detects it.

A broker runs in a network namespace, whose firewall drops all packets on request. There is no reset, and no answer.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drivers import Asyncio, Blocking, States

from mqttws import KeepAliveTimeout, MQTTError, Reconnect, TimedOut

sys.path.insert(0, str(Path(__file__).parent))

from cluster_network import Namespaces
from cluster_nodes import Node, serves

ACK_TIMEOUT, PING_TIMEOUT = 0.6, 0.8
#: Seconds; the limit of each wait.
PATIENCE = 30.0
BROKER = """
import sys, threading
from mqttws.broker import Broker
with Broker(sys.argv[1], ws_port=8080, sys_interval=None):
    threading.Event().wait()
"""


class Lateness(threading.Thread):
    """Measures the delay that a busy machine adds to each measured time."""

    def __init__(self) -> None:
        super().__init__(name="lateness")
        self.most = 0.0
        self._over = threading.Event()

    def run(self) -> None:
        due = time.monotonic() + 0.02
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self.most = max(self.most, time.monotonic() - due)
            due = time.monotonic() + 0.02

    def __enter__(self) -> Lateness:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self.join()


class Hole:
    """A broker in a namespace, which can become a black hole."""

    def __init__(self, namespaces: Namespaces, folder: Path) -> None:
        self._namespaces = namespaces
        (self._name,), (address,) = namespaces.names, namespaces.addresses
        self.url = f"ws://{address}:8080"
        self.node = Node("broker", self.url, [sys.executable, "-c", BROKER, address], folder, namespace=self._name)

    def drop(self, does: bool) -> None:
        self._namespaces.drop(self._name, does)


@pytest.fixture(scope="module")
def hole(request: pytest.FixtureRequest) -> Iterator[Hole]:
    there = os.name == "posix" and os.geteuid() == 0 and shutil.which("ip") and shutil.which("iptables")
    if not there and not request.config.getoption("--all-peers"):
        pytest.skip("network namespaces require root, ip and iptables: make cluster installs them")
    namespaces = Namespaces(1)
    namespaces.open()
    folder = Path(tempfile.mkdtemp(prefix="hole-"))
    hole = Hole(namespaces, folder)
    try:
        hole.node.start()
        deadline = time.monotonic() + PATIENCE
        while not serves(hole.url):
            assert time.monotonic() < deadline, hole.node.log
        yield hole
    finally:
        hole.node.stop()
        namespaces.close()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("driver", ["blocking", "asyncio"])
@pytest.mark.parametrize(("stalled", "within"), [("wait", ACK_TIMEOUT + PING_TIMEOUT), ("leave", ACK_TIMEOUT)])
@pytest.mark.parametrize("keep_alive", [0, 600])
def test_it_is_detected_in_time_for_any_keep_alive(
    hole: Hole, driver: str, stalled: str, within: float, keep_alive: int, figures: dict[str, str]
) -> None:
    states, errors = States(), list[MQTTError]()
    options: dict[str, Any] = {
        "client_id": "held",
        "keep_alive": keep_alive,
        "ack_timeout": ACK_TIMEOUT,
        "ping_timeout": PING_TIMEOUT,
        "connect_timeout": 0.5,
        "stalled": stalled,
        "reconnect": Reconnect(initial=0.05, maximum=0.2),
        "on_error": errors.append,
    }
    times: list[tuple[float, str]] = []

    def on_state(state: Any) -> None:
        times.append((time.monotonic(), state.name))
        states(state)

    client: Any = (Blocking if driver == "blocking" else Asyncio)(hole.url, **options, on_state=on_state)
    try:
        client.open()
        client.publish("a", b"before", 1)
        with Lateness() as lateness:
            hole.drop(True)
            try:
                begin = time.monotonic()
                future = client.publish_nowait("a", b"meanwhile", 1)
                lost = states.wait("disrupted")
            finally:
                hole.drop(False)
        detected = next(at for at, name in times if name == "disrupted") - begin
        states.wait("connected", 2)
        assert future.result(PATIENCE) is None
    finally:
        client.end()
    figures[f"a black hole, {driver}, stalled={stalled!r}, keep_alive={keep_alive}: detected after"] = (
        f"{detected:.2f} s of at most {within:.2f} s"
    )
    assert isinstance(lost.error, KeepAliveTimeout if stalled == "wait" else TimedOut), lost
    assert any(isinstance(error, TimedOut) for error in errors)
    assert within - 0.05 < detected < within + lateness.most + 0.4, (detected, lateness.most)
