"""A client behind a proxy that closes idle connections: it keeps its connection, or reconnects without an error."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drivers import Asyncio, Blocking

from mqttws import MQTTError, PingReq, Reconnect, State, TakeoverSuspected
from mqttws.broker import Broker
from mqttws.broker.hooks import Peer

sys.path.insert(0, str(Path(__file__).parent))

from cluster_nginx import PROGRAM, Nginx
from cluster_nodes import need

#: Seconds without data after which nginx closes a connection; longer than the interval of the pings.
IDLE = 2
#: Seconds; the limit of each wait.
PATIENCE = 60.0


class Observed:
    """A broker behind nginx, which counts the pings; and the states and errors of its client."""

    def __init__(self) -> None:
        self.pings = 0
        self.states: list[State] = []
        self.errors: list[MQTTError] = []
        self._changed = threading.Condition()
        self.broker = Broker(on_packet=self._on_packet, sys_interval=None)

    def _on_packet(self, peer: Peer, sent: bool, packet: Any) -> None:
        with self._changed:
            self.pings += isinstance(packet, PingReq) and not sent
            self._changed.notify_all()

    def on_state(self, state: State) -> None:
        with self._changed:
            self.states.append(state)
            self._changed.notify_all()

    def count(self, name: str) -> int:
        return sum(state.name == name for state in self.states)

    def wait(self, condition: Any) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), (self.pings, self.states)


@pytest.fixture
def observed(request: pytest.FixtureRequest) -> Iterator[tuple[Observed, str]]:
    if PROGRAM is None and not request.config.getoption("--all-peers"):
        pytest.skip("nginx is missing: make cluster installs it")
    need(PROGRAM, "nginx")
    made = Observed()
    with made.broker, Nginx(made.broker.url, IDLE) as nginx:
        yield made, nginx.url


@pytest.fixture(params=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest) -> Iterator[Any]:
    clients: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        clients.append((Blocking if request.param == "blocking" else Asyncio)(url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.end()


def test_pings_keep_an_idle_connection_open(observed: tuple[Observed, str], make: Any) -> None:
    seen, url = observed
    client = make(url, client_id="idle", keep_alive=1, on_state=seen.on_state, retry_first=True, reconnect=SOON)
    client.open()
    seen.wait(lambda: seen.count("connected") == 1)
    begin = time.monotonic()
    seen.wait(lambda: time.monotonic() - begin > 3 * IDLE)  # each ping notifies the condition
    assert seen.count("connected") == 1, seen.states
    assert client.state.name == "connected"
    client.publish("a", b"", 1)


#: A number of consecutive closures above `Reconnect.takeovers`.
CLOSURES = 7
SOON = Reconnect(initial=0.05, maximum=0.2)


def test_a_connection_that_is_closed_repeatedly_is_no_take_over(observed: tuple[Observed, str], make: Any) -> None:
    seen, url = observed
    received: list[bytes] = []
    client = make(
        url,
        client_id="closed",
        clean_session=False,
        keep_alive=600,
        on_state=seen.on_state,
        on_error=seen.errors.append,
        on_message=lambda message: received.append(message.payload),
        retry_first=True,
        reconnect=SOON,
    )
    client.open()
    seen.wait(lambda: seen.count("connected") == 1)
    client.subscribe("closed/topic", 1)
    seen.wait(lambda: seen.count("connected") == 1 + CLOSURES)
    assert seen.count("disrupted") >= CLOSURES
    assert not [error for error in seen.errors if isinstance(error, TakeoverSuspected)]
    _, *again = (state for state in seen.states if state.name == "connected")
    assert all(state.session_present for state in again), seen.states
    client.publish("closed/topic", b"after", 1)
    begin = time.monotonic()
    while not received and time.monotonic() - begin < PATIENCE:
        time.sleep(0.01)
    assert received == [b"after"]
