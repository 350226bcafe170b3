"""Fixtures of the broker tests: brokers and raw clients that are closed after the test."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from self_signed import self_signed
from wire import Wire

from mqttws.broker import Broker
from mqttws.broker.link import Link


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Broker]:
    """Return a function that starts a broker; it is stopped after the test."""

    def start(**options: Any) -> Broker:
        return stack.enter_context(Broker(**options))

    return start


@pytest.fixture
def broker(start: Callable[..., Broker]) -> Broker:
    return start()


@pytest.fixture
def wire(stack: ExitStack, request: pytest.FixtureRequest) -> Callable[..., Wire]:
    """Return a function that creates a raw client, by default over TCP of the fixture `broker`."""

    def wire(broker: Broker | None = None, scheme: str = "mqtt", **options: Any) -> Wire:
        broker = broker or request.getfixturevalue("broker")
        return stack.enter_context(Wire(broker.url_of(scheme), **options))

    return wire


@pytest.fixture
def client(wire: Callable[..., Wire]) -> Callable[..., Wire]:
    """Return a function that creates a raw client and connects it."""

    def client(client_id: str = "", broker: Broker | None = None, scheme: str = "mqtt", **fields: Any) -> Wire:
        return wire(broker, scheme).connect(client_id, **fields)

    return client


@pytest.fixture(scope="session")
def hurry() -> Callable[[Broker], None]:
    """Return a function for an async hook: it makes what is left of `connect_timeout` short, for each connection.

    A short one from the beginning could pass before the hook is called.
    """

    def hurry(broker: Broker) -> None:
        hub = broker._hub
        assert hub is not None
        for link in hub.admission.all:
            assert isinstance(link, Link)
            link._connection.open_within(0.05, hub.now())
            link._arm()

    return hurry


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return self_signed(tmp_path_factory.mktemp("tls") / "both.pem")


@pytest.fixture
def server_tls(pem: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    return context
