"""The asyncio client and the broker on uvloop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from drivers import PATIENCE

import mqttws.aio
from mqttws import Publish
from mqttws.broker import Broker


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("which", [0, 1], ids=["ws", "mqtt"])
def test_it_connects_publishes_and_receives(host: str, which: int) -> None:
    async def main(url: str) -> list[bytes]:
        async with mqttws.aio.connect(url.replace("127.0.0.1", host)) as client:
            await client.subscribe("a", 1)
            for qos in (0, 1, 2):
                await client.publish("a", b"%d" % qos, qos)
            payloads = []
            async for message in client.messages(timeout=30):
                payloads.append(message.payload)
                if len(payloads) == 3:
                    return payloads
        return []

    async def with_its_own_broker() -> list[bytes]:
        async with Broker() as broker:
            return await main(broker.urls[which])

    with Broker() as broker, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(main(broker.urls[which])) == [b"0", b"1", b"2"]
        assert runner.run(with_its_own_broker()) == [b"0", b"1", b"2"]


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_an_exception_that_ends_the_loop_does_not_end_the_connection(
    factory: Callable[[], asyncio.AbstractEventLoop], error: type[BaseException]
) -> None:
    def end(message: Publish) -> None:
        raise error

    async def until_received(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as publisher:
            await publisher.publish("a")  # of another client, so that the message arrives alone
            await asyncio.Event().wait()

    with Broker() as broker, asyncio.Runner(loop_factory=factory) as runner:
        options: Any = {"on_message": end}
        client = mqttws.aio.connect(broker.url, **options)
        runner.run(client.open())
        runner.run(client.subscribe("a"))
        pump = client._network._pump
        with pytest.raises(error):
            runner.run(until_received(broker.url))
        assert client._network._pump is pump is not None
        runner.run(client.publish("b", b"", 1))
        runner.run(client.close())
