"""`ConnectBudget`: a rate limit for CONNECTs, shared by clients, for first attempts and for reconnects."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, core_of, wait_until
from hypothesis import given
from hypothesis import strategies as st
from scripted import Scripted

import mqttws.aio
from mqttws import Client, ConnectBudget, ConnectionClosed, TimedOut
from mqttws.broker import Broker
from mqttws.broker.hooks import Peer

Make = Callable[..., Any]


class TestTurns:
    def test_turns_have_equal_distances(self) -> None:
        budget = ConnectBudget(10)
        assert [budget.reserve(100.0) for _ in range(4)] == pytest.approx([100.0, 100.101, 100.202, 100.303])

    def test_unused_turns_expire(self) -> None:
        budget = ConnectBudget(10)
        budget.reserve(100.0)
        assert budget.reserve(200.0) == 200.0
        assert budget.reserve(200.0) == pytest.approx(200.101)

    def test_a_burst_is_immediate_and_delays_later_turns(self) -> None:
        budget = ConnectBudget(10, burst=3)
        turns = [budget.reserve(100.0) for _ in range(5)]
        assert turns == pytest.approx([100.0, 100.0, 100.0, 100.101, 100.202])

    @given(
        rate=st.floats(0.5, 200),
        burst=st.integers(1, 20),
        clients=st.integers(1, 400),
        pauses=st.lists(st.floats(0, 3), max_size=60),
    )
    def test_no_second_has_more_attempts_however_late_they_are(
        self, rate: float, burst: int, clients: int, pauses: list[float]
    ) -> None:
        """A process that is busy for a while begins then what was due meanwhile, in one moment."""
        budget, now, begun = ConnectBudget(rate, burst), 1_000.0, []
        turns = [budget.reserve(now) for _ in range(clients)]
        for pause in [*pauses, *[0.25] * 10]:
            now += pause
            due, turns = [turn for turn in turns if turn <= now], [turn for turn in turns if turn > now]
            again = [budget.begin(now) for _ in due]
            begun += [turn for turn in again if turn == now]
            turns += [turn for turn in again if turn > now]
        most = max(1, math.floor(rate)) + burst - 1
        for begin in begun:
            assert sum(begin <= at < begin + max(1.0, 1 / rate) for at in begun) <= most
        while turns:  # and each gets its turn
            now = max(now, min(turns))
            turns.remove(min(turns))
            if (turn := budget.begin(now)) > now:
                turns.append(turn)

    @given(
        rate=st.floats(0.5, 1_000),
        burst=st.integers(1, 20),
        asks=st.lists(st.floats(0, 5), min_size=1, max_size=60),
    )
    def test_no_second_has_more_than_the_rate_and_the_burst(self, rate: float, burst: int, asks: list[float]) -> None:
        budget, now, turns = ConnectBudget(rate, burst), 1_000.0, []
        for pause in asks:
            now += pause
            turns.append(budget.reserve(now))
            assert turns[-1] >= now
        assert turns == sorted(turns)
        for begin in turns:
            assert sum(begin <= turn < begin + 1 for turn in turns) <= math.floor(rate + burst + 1e-6)

    def test_each_thread_gets_another_turn(self) -> None:
        budget, turns = ConnectBudget(1_000), []
        threads = [
            threading.Thread(target=lambda: turns.extend(budget.reserve(5.0) for _ in range(500))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        assert len({round(turn * 1_000) for turn in turns}) == 2_000

    @pytest.mark.parametrize("rate", [0, -1, math.nan, math.inf, 1e30, 1e-320])
    def test_an_invalid_rate_is_refused(self, rate: float) -> None:
        with pytest.raises(ValueError, match="rate is"):
            ConnectBudget(rate)

    @pytest.mark.parametrize("burst", [0, math.nan, math.inf, 10**30, 2.5])
    def test_an_invalid_burst_is_refused(self, burst: int) -> None:
        with pytest.raises(ValueError, match="burst is"):
            ConnectBudget(1, burst)


class Recorded(ConnectBudget):
    """A budget that records the turns it has given."""

    def __init__(self, rate: float) -> None:
        super().__init__(rate)
        self.turns: list[float] = []

    def reserve(self, now: float) -> float:
        self.turns.append(super().reserve(now))
        return self.turns[-1]


def test_clients_that_share_a_budget_connect_in_turns(make: Make) -> None:
    """Both at first, and after the server has closed all connections at the same time."""
    begun: list[float] = []
    connections = 0
    changed = threading.Condition()

    def connected(peer: Peer) -> None:
        nonlocal connections
        with changed:
            connections += 1
            changed.notify_all()

    budget = Recorded(20)
    with Broker(on_connected=connected, sys_interval=None) as broker:

        def url() -> str:
            begun.append(time.monotonic())
            return broker.url_of("mqtt")

        clients = [make(url, client_id=f"c{i}", connect_budget=budget) for i in range(8)]
        for client in clients:
            client.open(wait=False)
        with changed:
            assert changed.wait_for(lambda: connections == 8, PATIENCE)
        for i in range(8):
            broker.disconnect(f"c{i}")
        with changed:
            assert changed.wait_for(lambda: connections == 16, PATIENCE)
        for client in clients:
            client.close()
    assert len(budget.turns) == len(begun) == 16, "each attempt has one turn"
    assert all(at >= turn for at, turn in zip(sorted(begun), sorted(budget.turns), strict=True))
    assert min(after - turn for turn, after in zip(budget.turns, budget.turns[1:], strict=False)) > 0.049


def test_a_client_that_waits_for_a_turn_can_be_closed(make: Make) -> None:
    budget = ConnectBudget(0.001)
    budget.reserve(time.monotonic())
    client = make("mqtt://127.0.0.1:1", connect_budget=budget)
    client.open(wait=False)
    begin = time.monotonic()
    client.close(0.2)
    assert time.monotonic() - begin < PATIENCE / 2


class Later(ConnectBudget):
    """A budget whose turns come a number of seconds later."""

    def __init__(self, seconds: float) -> None:
        super().__init__(1)
        self.seconds = seconds

    def reserve(self, now: float) -> float:
        return now + self.seconds


def test_the_wait_for_a_turn_is_no_part_of_the_attempt(make: Make, broker: Broker) -> None:
    client = make(broker.url, connect_budget=Later(2.2), timeout=1)  # without a budget, `open` ends after two seconds
    client.open()
    assert client.state.name == "connected"


def test_an_open_ends_although_the_callable_for_the_url_does_not(broker: Broker) -> None:
    """With a `connect_budget` the wait for a turn has no limit, and the attempt has one."""
    hangs = threading.Event()

    def url() -> str:
        hangs.wait(PATIENCE)
        return broker.url

    client = Client(url, connect_budget=Later(0.2), timeout=0.2)
    try:
        with pytest.raises(TimedOut, match="there was no connection"):
            client.open()
    finally:
        hangs.set()


def test_no_timer_of_the_event_loop_keeps_a_closed_client() -> None:
    async def run() -> None:
        async with Broker() as broker:
            client = mqttws.aio.Client(broker.url, connect_budget=ConnectBudget(1_000))
            await client.open()
            await client.publish("t", qos=1, timeout=math.inf)
            await client.close()
            timers = asyncio.get_running_loop()._scheduled  # type: ignore[attr-defined]
            assert math.inf not in [timer.when() for timer in timers]

    asyncio.run(run())


def test_a_turn_that_comes_too_late_for_open_is_named(make: Make) -> None:
    client = make("mqtt://127.0.0.1:1", connect_budget=Later(1_000))
    with pytest.raises(TimedOut, match="the client is disconnected, and waits for its turn"):
        client.open(timeout=0.05)


def test_open_ends_when_a_client_that_waits_for_its_turn_is_closed(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url, connect_budget=Later(1_000))
    opening = tcp_server.soon(client.open)
    wait_until(lambda: core_of(client).unreachable.endswith("(connect_budget)"))
    client.close(timeout=0.0)
    with pytest.raises(ConnectionClosed):
        opening.result(PATIENCE)


def test_an_object_without_turns_is_refused(make: Make) -> None:
    with pytest.raises(TypeError, match="connect_budget"):
        make("mqtt://127.0.0.1:1", connect_budget=500)


class Given(ConnectBudget):
    """A budget that gives predefined turns."""

    def __init__(self, *turns: float) -> None:
        super().__init__(1)
        self.left = list(turns)

    def reserve(self, now: float) -> float:
        return self.left.pop(0)


class TestTheCore:
    """When a due attempt may start."""

    def core(self, budget: ConnectBudget | None) -> Any:
        return Client("mqtt://127.0.0.1:1", connect_budget=budget)._core

    def test_without_a_budget_the_attempt_starts_immediately(self) -> None:
        assert self.core(None).turn(5.0) == 5.0

    def test_each_attempt_waits_for_a_turn(self) -> None:
        core = self.core(Given(11.0, 12.0))
        assert [core.turn(10.0), core.turn(10.5), core.turn(11.0)] == [11.0, 11.0, 11.0]
        assert core.turn(11.5) == 12.0

    def test_where_too_many_have_begun_it_waits_as_long_and_as_often_as_that_is_so(self) -> None:
        budget = Given(11.0, 30.0)
        core = self.core(budget)
        assert core.turn(10.0) == 11.0
        budget.begin(11.5)  # another client
        again = core.turn(12.0)
        assert 12.5 <= again < 12.6
        budget.begin(12.55)
        later = core.turn(again + 0.1)
        assert 13.55 <= later < 13.7
        assert core.turn(later) == later
        assert core.turn(23.0) == 30.0
