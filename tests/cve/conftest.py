"""What the tests share: brokers that end with the test, and raw clients of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from wire import Wire

from mqttws.broker import Broker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Broker]:
    """Start a broker; it stops with the test."""
    return lambda **options: stack.enter_context(Broker(**options))


@pytest.fixture
def wire(stack: ExitStack) -> Callable[..., Wire]:
    """Make a raw client, which says nothing yet."""
    return lambda broker, scheme="mqtt", **options: stack.enter_context(Wire(broker.url_of(scheme), **options))


@pytest.fixture
def client(wire: Callable[..., Wire]) -> Callable[..., Wire]:
    """Make a raw client, and connect it."""

    def client(broker: Broker, client_id: str = "", scheme: str = "mqtt", **fields: Any) -> Wire:
        return wire(broker, scheme).connect(client_id, **fields)

    return client
