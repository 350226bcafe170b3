"""Both builds: what the compiled one compiles, and that the classes of users inherit from it as from Python."""

from __future__ import annotations

import asyncio
import weakref
from types import FunctionType
from typing import Any

import pytest

import mqttws
import mqttws.aio
from mqttws.aio.delivering import deliver as asyncio_deliver
from mqttws.aio.owner import Owner as AsyncioOwner
from mqttws.aio.publishing import Publisher as AsyncioPublisher
from mqttws.broker.handler import Handler
from mqttws.broker.router import Router
from mqttws.client.core import Core
from mqttws.sync.delivering import deliver
from mqttws.sync.owner import Owner
from mqttws.sync.publishing import Publisher

CLIENTS = [mqttws.Client, mqttws.aio.Client]


@pytest.mark.parametrize(
    "function",
    [
        Publisher.publish_nowait, AsyncioPublisher.publish_nowait, Owner.call, AsyncioOwner.call, deliver,
        asyncio_deliver, Core.advance, Handler.take_events, Router.publish_run,
    ],
)  # fmt: skip
def test_the_hot_functions_are_compiled(function: Any) -> None:
    assert isinstance(function, FunctionType) != mqttws.compiled


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_is_an_ordinary_class(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A subclass overrides methods, and a client has attributes, replaced methods and weak references."""

    class Mine(client):  # type: ignore[misc]
        def publish_nowait(self, topic: str, *arguments: Any, **options: Any) -> Any:
            return super().publish_nowait(f"mine/{topic}", *arguments, **options)

    mine = Mine("mqtt://127.0.0.1:1")
    mine.colour = "green"
    assert weakref.ref(mine)() is mine
    assert "colour" in vars(mine)
    monkeypatch.setattr(mine, "publish", "replaced")
    assert mine.publish == "replaced"


def test_a_method_of_a_subclass_is_called_by_the_compiled_one() -> None:
    client = mqttws.Client("mqtt://127.0.0.1:1")
    woken: list[None] = []
    client._network.wake = lambda: woken.append(None)  # type: ignore[method-assign]
    client.publish_nowait("a", b"1", 1)
    client._network.call(lambda: None)
    assert len(woken) == 2


def burst(client: Any) -> None:
    """Put a client that was not opened into the state in which `publish_nowait` only queues."""
    client._network.woken = client._network.flushing = True


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("overflow", "dropped"), [("drop_oldest", 0), ("drop_newest", 1)])
def test_in_a_burst_too_a_full_queue_drops_a_message(client: Any, overflow: str, dropped: int) -> None:
    async def publish() -> None:
        mine = client("mqtt://127.0.0.1:1", max_queued=1, overflow=overflow)
        burst(mine)
        futures = [mine.publish_nowait("a", b"1"), mine.publish_nowait("a", b"2")]
        mine._core.callbacks.run()
        assert [future.done() for future in futures] == [number == dropped for number in range(2)]
        assert isinstance(futures[dropped].exception(), mqttws.QueueFull)
        assert mine.dropped == 1

    asyncio.run(publish())


@pytest.mark.parametrize("client", CLIENTS)
def test_in_a_burst_too_a_message_fails_after_the_end(client: Any) -> None:
    async def publish() -> None:
        mine = client("mqtt://127.0.0.1:1")
        mine._core.give_up(mqttws.ConnectError("no server"))
        burst(mine)
        future = mine.publish_nowait("a", b"1")
        assert future.done()
        assert isinstance(future.exception(), mqttws.ConnectError)
        assert mine.pending == 0

    asyncio.run(publish())
