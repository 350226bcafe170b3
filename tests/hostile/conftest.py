"""Fixtures of the hostile tests: brokers to attack, and attackers that are closed after the test.

Each attack ends in a close or refusal, within bounded memory, with every descriptor closed and every other client
served. The last two are checked after every test.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hostile import Victim, Victims
from wire import PATIENCE, Wire

from mqttws.testing import mint_authority


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the certificate and the key of a server at 127.0.0.1."""
    identity = mint_authority().issue("127.0.0.1")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(identity.key + identity.certificate)
    return path


@pytest.fixture(scope="session")
def victims() -> Iterator[Victims]:
    """The process that forks the brokers."""
    victims = Victims()
    yield victims
    victims.stop()


@pytest.fixture
def attack(tmp_path: Path, stack: ExitStack, victims: Victims) -> Iterator[Callable[..., Victim]]:
    """Return a function that starts a broker to attack; at the end of the test it must have settled."""
    attacked: list[Victim] = []

    def start(**options: Any) -> Victim:
        victim = Victim(victims, tmp_path / f"broker{len(attacked)}.log", options)
        attacked.append(victim)
        return victim

    yield start
    try:
        stack.close()  # close the attackers
        for victim in attacked:
            victim.settled()
            log = victim.log()
            assert "Traceback" not in log, log[-3000:]
            assert all(character.isprintable() or character == "\n" for character in log)
    finally:
        for victim in attacked:
            victim.stop()


@pytest.fixture
def victim(attack: Callable[..., Victim]) -> Victim:
    """A broker with the default limits."""
    return attack()


@pytest.fixture
def wire(stack: ExitStack) -> Callable[..., Wire]:
    """Return a function that creates a raw client, closed after the test."""

    def wire(victim: Victim, scheme: str = "mqtt", **options: Any) -> Wire:
        return stack.enter_context(Wire(victim.urls[scheme], **options))

    return wire


@pytest.fixture
def dial(stack: ExitStack) -> Callable[..., socket.socket]:
    """Return a function that opens a TCP connection, closed after the test."""

    def dial(victim: Victim, scheme: str = "mqtt") -> socket.socket:
        parts = urlsplit(victim.urls[scheme])
        return stack.enter_context(socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE))

    return dial


@pytest.fixture
def join(wire: Callable[..., Wire]) -> Callable[..., Wire]:
    """Return a function that creates a raw client and connects it over MQTT."""

    def join(victim: Victim, client_id: str = "", scheme: str = "mqtt", **fields: Any) -> Wire:
        return wire(victim, scheme).connect(client_id, **fields)

    return join
