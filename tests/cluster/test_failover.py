"""A short form of `make cluster`: three nodes of NATS, each killed once, with either driver; one is suspended."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from drivers import Asyncio, Blocking

import mqttws
from mqttws import KeepAliveTimeout, Reconnect, State

sys.path.insert(0, str(Path(__file__).parent))

from cluster_nats import NATS
from cluster_nodes import free_ports
from failover import Kill, Load, Plan, apart, run

#: Additional seconds for a busy machine.
LOAD = 2.0
PLAN = Plan(kills=3, every=1.0, down=1.0, rate=100, topics=5)


@pytest.fixture(scope="module")
def nats() -> Iterator[NATS]:
    cluster = NATS()
    with cluster:
        cluster.settle()
        yield cluster


@pytest.mark.parametrize("driver", ["blocking", "asyncio"])
def test_nothing_is_lost_while_each_node_is_killed(nats: NATS, driver: str, figures: dict[str, str]) -> None:
    accounts = run(driver, nats, apart(nats), PLAN)
    figures[f"{nats.product}, {driver}, each of three nodes killed once"] = str(accounts)
    assert len(accounts.kills) == 3
    assert accounts.kills[0].hit, accounts.kills
    assert (accounts.lost, accounts.failed, accounts.disordered, accounts.sessions_lost) == (0, 0, 0, 0), accounts
    assert accounts.acknowledged > 100
    assert accounts.beyond_own <= 1.0 + LOAD, accounts.kills


@pytest.mark.parametrize("driver", ["blocking", "asyncio"])
def test_an_unresponsive_node_is_replaced(nats: NATS, driver: str) -> None:
    """The kernel accepts connections for a suspended process: to clients it is a black hole."""
    states: list[tuple[float, State]] = []
    left = threading.Event()

    def on_state(state: State) -> None:
        states.append((time.monotonic(), state))
        if [each.name for _, each in states].count("connected") == 2:
            left.set()

    options: dict[str, Any] = {
        "client_id": f"silent-{driver}",
        "keep_alive": 600,
        "ack_timeout": 0.5,
        "ping_timeout": 0.5,
        "answer_timeout": 1.0,
        "reconnect": Reconnect(initial=0.1, maximum=0.5),
        "on_state": on_state,
    }
    client = (Blocking if driver == "blocking" else Asyncio)(nats.urls, **options)
    try:
        client.open()
        client.publish("silent", b"before", 1)
        # On a busy machine the first node may not have answered in time.
        node = next(node for node in nats.nodes if str(states[-1][1].endpoint) in node.url)
        try:
            node.pause()
            begun = time.monotonic()
            future = client.publish_nowait("silent", b"meanwhile", 1)
            assert left.wait(30), states
            disrupted = next((at, state) for at, state in states if state.name == "disrupted")
            assert isinstance(disrupted[1].error, KeepAliveTimeout)
            assert disrupted[0] - begun < 1.0 + LOAD
            assert str(client.state.endpoint) not in node.url
            assert future.result(30) is None
        finally:
            node.resume()
    finally:
        client.end()
    nats.settle()


@pytest.fixture
def _still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop the clock of the load."""
    monkeypatch.setattr(sys.modules[Load.__module__], "time", SimpleNamespace(monotonic=lambda: 1_000.0))


@pytest.mark.usefixtures("_still")
def test_losses_duplicates_and_disorder_are_counted() -> None:
    load = Load(Plan(topics=1))
    client = _Client()
    load.begin()
    load._begun -= 0.011  # 500 a second: messages 0 to 5
    load.publish_due(client)
    for number in (0, 1, 3, 2, 3, 5):
        load.on_message(mqttws.Publish("load/0", b"%d" % number, 1, packet_id=1))
    accounts = load.close()
    assert (accounts.acknowledged, accounts.lost, accounts.disordered, accounts.duplicates) == (6, 1, 1, 1)
    assert not load.complete


@pytest.mark.usefixtures("_still")
def test_only_what_was_in_flight_at_a_loss_may_arrive_late() -> None:
    load, states = Load(Plan(topics=1)), [State("disrupted"), State("connected")]
    load.begin()
    load._begun -= 0.203  # messages 0 to 101
    load.publish_due(_Silent())
    for state in states:
        load.on_state("publisher", state)
    for number in (101, 99, 100):
        load.on_message(mqttws.Publish("load/0", b"%d" % number, 1, packet_id=1))
    assert (load.accounts.resent, load.accounts.disordered) == (1, 1)


def test_two_clusters_never_get_the_same_port() -> None:
    ports = [free_ports(50) for _ in range(4)]
    assert len({port for each in ports for port in each}) == 200


def test_the_pauses_before_and_after_the_restart_of_a_node_are_separate() -> None:
    load, (first, second) = Load(Plan()), (Kill("n1", 10.0, restarted=15.0), Kill("n2", 30.0, restarted=35.0))
    load.accounts.kills += first, second
    load._new_at += [9.0, 10.5, 14.9, 17.0, 17.5, 19.0, 29.9, 30.1, 36.0]
    accounts = load.close()
    assert (first.pause, first.returned) == pytest.approx((4.4, 10.9))
    assert (second.pause, second.returned) == pytest.approx((5.9, 0.0))
    assert accounts.pauses == pytest.approx([4.4, 5.9])
    assert accounts.returned == pytest.approx(10.9)


class _Client:
    """A client whose messages are acknowledged without being sent."""

    def publish_nowait(self, *arguments: object) -> _Done:
        return _Done()


class _Silent:
    """A client whose messages are never acknowledged."""

    def publish_nowait(self, *arguments: object) -> _Silent:
        return self

    def add_done_callback(self, callback: object) -> None:
        """The future is never done."""


class _Done:
    def add_done_callback(self, callback: Any) -> None:
        callback(self)

    def cancelled(self) -> bool:
        return False

    def exception(self) -> None:
        return None
