"""`Client.timings`: how long each phase of connecting takes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mqttws import Timings
from mqttws.broker import Broker, Peer
from mqttws.client.timings import Stopwatch
from mqttws.testing import mint_authority

#: URL scheme -> the phases besides "tcp" and "connack".
PHASES: dict[str, set[str]] = {"mqtt": set(), "ws": {"upgrade"}, "mqtts": {"tls"}, "wss": {"tls", "upgrade"}}
PAUSE = 0.2

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def secured() -> Iterator[tuple[Broker, Any]]:
    authority = mint_authority()
    certificate = authority.issue("localhost", "127.0.0.1")

    async def slowly(peer: Peer, connect: Any) -> bool:
        await asyncio.sleep(PAUSE)
        return True

    with Broker(
        ws_port=0, tcp_port=0, wss_port=0, mqtts_port=0, tls=certificate.server_context(), authenticator=slowly
    ) as broker:
        yield broker, authority.client_context()


@pytest.mark.parametrize("scheme", PHASES)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_the_phases_of_each_transport(make: Make, secured: tuple[Broker, Any], scheme: str, host: str) -> None:
    broker, context = secured
    options = {"tls": context} if scheme in ("mqtts", "wss") else {}
    opened = make(broker.url_of(scheme).replace("127.0.0.1", host), **options)
    client = getattr(opened, "client", opened)
    assert client.timings is None
    began = time.monotonic()
    opened.open()
    took = time.monotonic() - began
    timings = client.timings
    assert isinstance(timings, Timings)
    phases = {name: seconds for name in Timings.__match_args__ if (seconds := getattr(timings, name)) is not None}
    assert set(phases) == {"tcp", "connack"} | PHASES[scheme] | ({"lookup"} if host == "localhost" else set())
    assert all(seconds >= 0 for seconds in phases.values())
    assert phases["connack"] >= PAUSE * 0.9  # the pause of the server belongs to this phase
    assert sum(phases.values()) <= took
    opened.close()
    assert client.timings == timings


def test_phases_follow_one_another() -> None:
    stopwatch = Stopwatch(10.0)
    stopwatch.end("tcp", 11.0)
    stopwatch.end("tls", 13.0)
    stopwatch.end("tls", 14.0)
    stopwatch.end("connack", 14.5)
    assert stopwatch.timings() == Timings(tcp=1.0, tls=2.0, connack=1.5)
