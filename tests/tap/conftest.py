"""Fixtures of the tap tests: a broker with every transport, and a tap before each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from mqttws.broker import Broker
from mqttws.tap import Tap
from mqttws.testing import Authority, Identity, mint_authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    return mint_authority()


@pytest.fixture(scope="session")
def identity(authority: Authority) -> Identity:
    return authority.issue("127.0.0.1")


@pytest.fixture
def broker(identity: Identity) -> Iterator[Broker]:
    with Broker(wss_port=0, mqtts_port=0, tls=identity.server_context()) as started:
        yield started


class Tapped:
    """A tap, and the options of a client that connects through it."""

    def __init__(self, tap: Tap, options: dict[str, Any]) -> None:
        self.tap = tap
        self.options = options


@pytest.fixture(params=["mqtt", "ws", "mqtts", "wss"])
def tapped(
    request: pytest.FixtureRequest, broker: Broker, authority: Authority, identity: Identity
) -> Iterator[Tapped]:
    url = broker.url_of(request.param)
    if request.param in ("mqtt", "ws"):
        with Tap(url) as tap:
            yield Tapped(tap, {})
    else:
        contexts = {"near_tls": identity.server_context(), "far_tls": authority.client_context()}
        with Tap(url, **contexts) as tap:
            yield Tapped(tap, {"tls": authority.client_context()})
