"""Each test that asks for `make` runs once with each driver."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drivers import Asyncio, Blocking
from scripted import Scripted


@pytest.fixture(params=[Blocking, Asyncio], ids=["blocking", "asyncio"])
def driver(request: pytest.FixtureRequest) -> type[Any]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def make(driver: type[Any]) -> Iterator[Callable[..., Any]]:
    """Makes clients, and closes them in the end."""
    clients: list[Any] = []

    def maker(*arguments: Any, **options: Any) -> Any:
        clients.append(driver(*arguments, **options))
        return clients[-1]

    yield maker
    for client in clients:
        client.end()


@pytest.fixture(params=["mqtt", "ws"])
def server(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    with Scripted(request.param) as scripted:
        yield scripted


@pytest.fixture
def tcp_server() -> Iterator[Scripted]:
    with Scripted("mqtt") as scripted:
        yield scripted
