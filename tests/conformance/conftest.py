"""Fixtures of the conformance tests: real brokers with raw clients, and real clients with scripted servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from scripted import End, Scripted
from wire import PATIENCE, Wire

import mqttws
from mqttws.broker import Broker


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# The server under test.


@pytest.fixture
def start(stack: ExitStack) -> Callable[..., Broker]:
    """Return a function that starts a broker; it is stopped after the test."""

    def start(**options: Any) -> Broker:
        return stack.enter_context(Broker(**{"sys_interval": None, **options}))

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


# The client under test.


class Subject:
    """A real client, and the scripted server."""

    def __init__(self, server: Scripted, options: dict[str, Any]) -> None:
        self.server = server
        self.states: list[mqttws.State] = []
        self.received: list[mqttws.Publish] = []
        defaults = {"client_id": "c", "reconnect": False, "keep_alive": 0, "timeout": PATIENCE}
        self.ended = threading.Event()
        callbacks = {"on_message": self.received.append, "on_state": self._on_state}
        self.client = client = mqttws.Client(server.url, **{**defaults, **callbacks, **options})
        client.session.identifiers.start_at(1)  # in a persistent session they start at random
        server.closing(client)
        self.opening = server.soon(client.open)
        self.end: End = server.accept()

    def _on_state(self, state: mqttws.State) -> None:
        self.states.append(state)
        if state.name == "disconnected":
            self.ended.set()

    def welcome(self, session_present: bool = False) -> End:
        """Accept the client."""
        self.end.welcome(session_present)
        self.opening.result(PATIENCE)
        return self.end

    def again(self) -> End:
        """Return the client's next connection."""
        self.end = self.server.accept()
        return self.end

    def error(self) -> Exception | None:
        """Wait until the client is disconnected, and return the error."""
        assert self.ended.wait(PATIENCE)
        return next((state.error for state in self.states if state.name == "disconnected"), None)


@pytest.fixture
def subject(stack: ExitStack) -> Callable[..., Subject]:
    """Return a function that connects a client to a scripted server, by default without reconnects and pings."""

    def subject(scheme: str = "mqtt", **options: Any) -> Subject:
        return Subject(stack.enter_context(Scripted(scheme)), options)

    return subject
