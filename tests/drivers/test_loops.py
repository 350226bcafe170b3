"""The use of private attributes of asyncio's transports."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from drivers import PATIENCE

import mqttws.aio
from mqttws import Publish
from mqttws.aio.network import Pump
from mqttws.broker import Broker
from mqttws.broker.link import Link
from mqttws.protocol.frames import binary_frame
from mqttws.sockets import LONG_READ_SIZE, READ_HEAD, READ_SIZE, limit_reads


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_no_read_is_larger_than_64_kib_except_within_a_long_message(
    monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    missing: list[int] = []  # how many bytes of a long message the client lacks before each read
    sizes: dict[str, list[int]] = {"client": [], "broker": []}

    def noted(receiver: Any, name: str) -> None:
        plain = receiver.data_received

        def data_received(self: Any, data: bytes) -> None:
            assert len(data) <= self._transport.max_size
            if name == "client":
                missing.append(self._link.missing)
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
    assert max(sizes["broker"]) == READ_SIZE == 65_536
    assert LONG_READ_SIZE == 262_144
    for size, before in zip(sizes["client"], missing, strict=True):
        assert size <= (READ_SIZE if before < READ_SIZE // 2 else min(before, LONG_READ_SIZE))


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_reads_are_larger_within_a_long_message(scheme: str) -> None:
    packet = Publish("t", bytes(400_000)).encode()
    stream = packet if scheme == "mqtt" else binary_frame(packet, None)

    async def run(url: str) -> list[int]:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            pump: Any = client._network._pump
            limits = []
            short = Publish("t").encode()
            for part in (
                stream[:READ_SIZE],
                stream[READ_SIZE:-50_000],
                stream[-50_000:],
                short if scheme == "mqtt" else binary_frame(short, None),
            ):
                pump.data_received(part)
                limits.append(pump._transport.max_size)
            assert await anext(client.messages()) == Publish("t", bytes(400_000))
            return limits

    with Broker() as broker:
        assert asyncio.run(run(broker.url_of(scheme))) == [
            LONG_READ_SIZE,
            50_000,  # the rest of the message
            READ_HEAD,  # the beginning of the next one, if that is long, too
            READ_SIZE,
        ]


def test_the_transport_of_another_event_loop_is_not_changed() -> None:
    transport = asyncio.BaseTransport()
    limit_reads(transport)
    assert not hasattr(transport, "max_size")
