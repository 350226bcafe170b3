"""Fixtures of the driver tests. Each test that uses `make` runs once with each driver."""

from __future__ import annotations

import _thread
import threading
from collections.abc import Iterator

import pytest
from drivers import broker as broker
from drivers import driver as driver
from drivers import make as make
from scripted import Scripted

from mqttws.locks import AtomicLock
from mqttws.sync.network import Network


class Once(AtomicLock):
    """A lock that counts reentrant use: a client's lock is reentrant, but the library must never need that."""

    taken_twice = 0

    def __enter__(self) -> bool:
        if self._is_owned():
            Once.taken_twice += 1
        return super().__enter__()


@pytest.fixture(autouse=True)
def no_reentrant_locking(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give every client a counting lock, and check that none was taken twice by one thread."""
    assert type(threading.RLock()) is _thread.RLock
    monkeypatch.setattr(Network, "make_lock", staticmethod(Once))
    Once.taken_twice = 0
    yield
    assert not Once.taken_twice


@pytest.fixture(params=["mqtt", "ws"])
def server(request: pytest.FixtureRequest) -> Iterator[Scripted]:
    with Scripted(request.param) as scripted:
        yield scripted


@pytest.fixture
def tcp_server() -> Iterator[Scripted]:
    with Scripted("mqtt") as scripted:
        yield scripted
