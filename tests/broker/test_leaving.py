"""The end of a connection, for any reason, frees all of its objects immediately, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from wire import PATIENCE, Wire

from mqttws import Connect, Disconnect, Publish, Session, Subscribe
from mqttws.broker import Accepted, Access, Broker, Limits, Peer, Verdict
from mqttws.broker.handler import Handler
from mqttws.broker.link import Link


def authorize(peer: Peer, access: Access) -> Verdict:
    if access.topic == "fails":
        raise RuntimeError("a fault of the program")
    return Verdict(access.topic != "denied", close=True)


#: What a client does after its CONNACK, by which its connection ends.
ENDS: dict[str, tuple[Any, ...]] = {
    "DISCONNECT": (Disconnect(),),
    "malformed": ("ff ff ff",),
    "no UTF-8": ("30 04 00 02 c3 28",),
    "a second CONNECT": (Connect("c"),),
    "too many identifiers": tuple(Publish("a", b"", 2, packet_id=number) for number in range(1, 9)),
    "too deep": (Publish("/".join("a" * 300), b""),),
    "too large": (Publish("a", bytes(200)),),
    "denied": (Publish("denied", b""),),
    "denied filter": (Subscribe(1, [("denied", 0)]),),
    "a hook fails": (Publish("fails", b""),),
}
#: What it does instead of a CONNECT that is accepted.
OPENINGS: dict[str, tuple[Any, ...]] = {
    "no CONNECT": (Publish("a", b""),),
    "MQTT 5": ("10 0d 00 04 4d 51 54 54 05 02 00 3c 00 00 00",),
    "an unknown level": ("10 0d 00 04 4d 51 54 54 09 02 00 3c 00 01 63",),
    "the authenticator fails": (Connect("fails"),),
    "the authenticator is too slow": (Connect("late"),),
}


def count() -> int:
    return sum(isinstance(each, (Session, Handler, Link)) for each in gc.get_objects())


@pytest.fixture(autouse=True)
def _unlogged() -> Iterator[None]:
    """A test runner keeps log records, and with them the errors of hooks."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.fixture(scope="module")
def strict(hurry: Callable[[Broker], None]) -> Iterator[Broker]:
    limits = Limits(max_unreleased=5, max_payload=100)

    async def authenticate(peer: Peer, connect: Connect) -> Accepted:
        if connect.client_id == "fails":
            raise RuntimeError("a fault of the program")
        if connect.client_id == "late":
            hurry(broker)
            await asyncio.sleep(3_600)
        return Accepted()

    with Broker(authenticator=authenticate, authorizer=authorize, limits=limits, sys_interval=None) as broker:
        yield broker


def leaves_nothing(end: Callable[[], None]) -> None:
    gc.collect()
    gc.disable()
    try:
        before = count()
        for _ in range(3):
            end()
        deadline = time.monotonic() + PATIENCE
        while count() > before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert count() <= before
    finally:
        gc.enable()


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("name", ENDS)
def test_after_the_connack(strict: Broker, scheme: str, name: str) -> None:
    def end() -> None:
        with Wire(strict.url_of(scheme)) as wire:
            wire.connect("c").send(*ENDS[name])
            wire.rest()

    leaves_nothing(end)


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("name", OPENINGS)
def test_before_it(strict: Broker, scheme: str, name: str) -> None:
    def end() -> None:
        with Wire(strict.url_of(scheme)) as wire:
            wire.send(*OPENINGS[name])
            wire.rest()

    leaves_nothing(end)


def test_a_take_over(strict: Broker) -> None:
    def end() -> None:
        with Wire(strict.url_of("mqtt")) as first, Wire(strict.url_of("mqtt")) as second:
            first.connect("c")
            second.connect("c")
            first.rest()

    leaves_nothing(end)
