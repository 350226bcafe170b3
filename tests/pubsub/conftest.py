"""Fixtures of the tests of the PubSub API: a broker that records requests, and `PubSub` for threads and asyncio."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from pubsub_faces import FACES, PATIENCE, Loop, Recorder, Threads

from mqttws.broker import Broker
from mqttws.broker.hooks import Access, Peer, Verdict
from pubsub import MqttOverWSProvider


class World:
    """A broker, and the requests of its clients."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._changed = threading.Condition()
        self.subscribed: list[tuple[str, int]] = []
        self.published: list[str] = []
        self.connections = 0
        self.forbidden: set[str] = set()
        self.broker = self.start()

    def start(self, **options: Any) -> Broker:
        return self._stack.enter_context(
            Broker(authorizer=self._authorize, on_connected=self._connected, sys_interval=None, **options)
        )

    def provider(self, **options: Any) -> MqttOverWSProvider:
        return MqttOverWSProvider(self.broker.url, **options)

    def wait(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE)

    def _authorize(self, peer: Peer, access: Access) -> bool | Verdict:
        with self._changed:
            if access.action == "subscribe":
                self.subscribed.append((access.topic, access.qos))
            elif access.action == "publish":
                self.published.append(access.topic)
            self._changed.notify_all()
        return access.topic not in self.forbidden

    def _connected(self, peer: Peer) -> None:
        with self._changed:
            self.connections += 1
            self._changed.notify_all()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def world(stack: ExitStack) -> World:
    return World(stack)


@pytest.fixture(params=FACES, ids=lambda face: face.__name__)
def face(request: pytest.FixtureRequest) -> type[Threads] | type[Loop]:
    kind: type[Threads] | type[Loop] = request.param
    return kind


@pytest.fixture
def make(stack: ExitStack, face: type[Threads] | type[Loop]) -> Callable[..., Threads | Loop]:
    """Return a function that creates a `PubSub` of the face under test; it is closed after the test."""

    def make(*providers: Any, **options: Any) -> Threads | Loop:
        made = face(*providers, **options)
        stack.callback(made.end)
        return made

    return make


@pytest.fixture
def api(world: World, make: Callable[..., Threads | Loop]) -> Threads | Loop:
    """Return a `PubSub` of the face under test, with one provider for the broker."""
    return make(world.provider())


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
