"""Each test that asks for `make` runs once with each driver."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drivers import Asyncio, Blocking
from scripted import Scripted

from mqttws.sync.network import Network


class Once(_thread.RLock):
    """The lock of a blocking client, which the library must never take twice, though it could."""

    taken_twice = 0

    def __enter__(self) -> bool:
        if self._is_owned():
            Once.taken_twice += 1
        return super().__enter__()


@pytest.fixture(autouse=True)
def lock_that_is_not_taken_twice(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every client of these tests has such a lock."""
    assert type(threading.RLock()) is _thread.RLock
    monkeypatch.setattr(Network, "make_lock", staticmethod(Once))
    Once.taken_twice = 0
    yield
    assert not Once.taken_twice


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
