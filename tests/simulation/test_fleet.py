"""A reconnect storm: clients that lose their server at the same moment reconnect within the budget, and in time."""

from __future__ import annotations

import pytest
from simulation.fleet import Fleet

from mqttws import Reconnect


@pytest.mark.parametrize("outage", [0.0, 3.0, 8.0])
def test_five_thousand_clients_of_one_process_keep_its_budget_and_reconnect_in_time(outage: float) -> None:
    back = Fleet(5_000, Reconnect(initial=1.0, maximum=10.0), outage=outage, budget=500.0).run()
    assert back.peak <= 501
    assert back.all < 30
    assert back.p99 <= back.all
    assert back.refused == 0


@pytest.mark.parametrize("outage", [0.0, 5.0])
def test_five_thousand_processes_spread_their_attempts(outage: float) -> None:
    """They share only the policy, with full jitter."""
    back = Fleet(5_000, Reconnect(spread=20.0, initial=10.0, maximum=20.0), capacity=500.0, outage=outage).run()
    assert back.all < 30
    assert back.refused < 500


def test_without_a_spread_all_attempts_are_in_the_first_second() -> None:
    back = Fleet(5_000, Reconnect(), capacity=500.0).run()
    assert back.peak >= 5_000
    assert back.refused >= 4_400


def test_a_budget_for_each_process_adds_up() -> None:
    back = Fleet(2_000, Reconnect(), budget=10.0, shared=100).run()
    assert 190 <= back.peak <= 220
    assert back.all == pytest.approx(9.9, abs=0.1)


def test_a_run_depends_only_on_its_seed() -> None:
    policy = Reconnect(spread=5.0)
    assert Fleet(500, policy, capacity=50.0).run() == Fleet(500, policy, capacity=50.0).run()
    assert Fleet(500, policy, capacity=50.0).run() != Fleet(500, policy, capacity=50.0, seed=2).run()
