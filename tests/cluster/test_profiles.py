"""Server profiles, tested with the servers: each difference has a rule, and each rule has a difference."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import mqttws
import mqttws.aio

sys.path.insert(0, str(Path(__file__).parent))

from behaviours import BEHAVIOURS, REFERENCE, differences, known, observe
from cluster_servers import SERVERS


@pytest.mark.parametrize("server", sorted(SERVERS))
def test_each_difference_has_a_rule_and_each_rule_shows_one(server: str, request: pytest.FixtureRequest) -> None:
    if server == "rabbitmq" and not request.config.getoption("--all-peers"):
        pytest.skip("RabbitMQ is for make cluster, and for pytest --all-peers")
    with SERVERS[server]() as (version, url, other):
        found = observe(url, other, known(server))
        shares = mqttws.delivers_shared(url)
    seen = differences(found)
    expected = known(server) & set(found)
    assert seen == expected, (version, {name: found[name] for name in seen ^ expected})
    assert shares is (found["shared"] == REFERENCE["shared"])


def test_the_exchanges_are_those_of_the_table() -> None:
    assert set(REFERENCE) <= set(BEHAVIOURS)
    assert all(known(server) <= set(BEHAVIOURS) for server in SERVERS)
    assert set(SERVERS) == set(mqttws.PROFILES)


def test_a_difference_is_found() -> None:
    found: dict[str, Any] = {"overlap": "2 copies", "shared": "delivered once", "will": "delivered"}
    assert differences(found) == {"overlap"}
