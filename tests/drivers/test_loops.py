"""The use of private attributes of asyncio's transports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from drivers import PATIENCE

import mqttws.aio
from mqttws.aio.network import Pump
from mqttws.broker import Broker
from mqttws.broker.link import Link
from mqttws.sockets import READ_SIZE, limit_reads


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_no_read_is_larger_than_64_kib(monkeypatch: pytest.MonkeyPatch, scheme: str) -> None:
    sizes: dict[str, list[int]] = {"client": [], "broker": []}

    def noted(receiver: Any, name: str) -> None:
        plain = receiver.data_received

        def data_received(self: Any, data: bytes) -> None:
            sizes[name].append(len(data))
            plain(self, data)

        monkeypatch.setattr(receiver, "data_received", data_received)

    noted(Pump, "client")
    noted(Link, "broker")

    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            await client.subscribe("t", 1)
            for _ in range(4):
                await client.publish("t", bytes(1_000_000), 1)
            messages = client.messages()
            for _ in range(4):
                await anext(messages)

    with Broker() as broker:
        asyncio.run(run(broker.url_of(scheme)))
    for name in sizes:
        assert sum(sizes[name]) > 4_000_000
        assert max(sizes[name]) == READ_SIZE == 65_536, name


def test_the_transport_of_another_event_loop_is_not_changed() -> None:
    transport = asyncio.BaseTransport()
    limit_reads(transport)
    assert not hasattr(transport, "max_size")
