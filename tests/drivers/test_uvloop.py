"""The asyncio client and the broker on uvloop."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

import mqttws.aio
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
