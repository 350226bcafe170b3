"""WebSocket messages of every shape, at both ends: packet and message boundaries are independent.

A tunnel between a real client and a real broker puts the bytes of both into messages of another shape.
"""

from __future__ import annotations

import asyncio

import pytest
from reshaper import SHAPES, Reshaper, packets
from wire import PATIENCE

import mqttws
from mqttws import Publish, aio

MESSAGES = [(f"t/{number}", bytes(range(number % 200)), number % 3) for number in range(60)]
MESSAGES.append(("t/long", bytes(range(256)) * 8, 2))


@pytest.fixture(params=SHAPES)
def tunnel(request, broker, stack):
    return stack.enter_context(Reshaper(broker.url, request.param))


def check(received: list[Publish], tunnel: Reshaper) -> None:
    assert [(one.topic, one.payload, one.qos) for one in received] == MESSAGES
    assert tunnel.frames
    if tunnel.shape == "one_byte_a_fragment_and_pings_between":
        assert tunnel.pongs > 1_000  # every ping was answered, between fragments


@pytest.mark.statement("MQTT-6.0.0-2")
def test_the_blocking_client_and_the_broker_accept_every_shape(tunnel):
    with mqttws.connect(tunnel.url, client_id="c", timeout=PATIENCE) as client:
        assert client.subscribe("t/#", 2) == 2
        messages = client.messages(timeout=PATIENCE)
        received = []
        # One after another, because the broker may choose the order of messages of different QoS.
        for message in MESSAGES:
            client.publish(*message)
            received.append(next(messages))
        client.unsubscribe("t/#")
    check(received, tunnel)


@pytest.mark.statement("MQTT-6.0.0-2")
def test_the_asyncio_client_and_the_broker_accept_every_shape(tunnel):
    async def converse() -> list[Publish]:
        async with aio.connect(tunnel.url, client_id="c", timeout=PATIENCE) as client:
            assert await client.subscribe("t/#", 2) == 2
            for message in MESSAGES[:-1:3]:  # QoS 0, without waiting
                client.publish_nowait(*message)
            received = [await anext(messages) for messages in [client.messages()] for _ in MESSAGES[:-1:3]]
            await client.unsubscribe("t/#")
        return received

    received = asyncio.run(asyncio.wait_for(converse(), PATIENCE))
    assert [(one.topic, one.payload, one.qos) for one in received] == MESSAGES[:-1:3]


def test_the_tunnel_cuts_packets_as_they_are():
    data = [Publish("a", bytes(size)).encode() for size in (0, 1, 122, 130, 20_000)]
    for cut in range(len(data[0] + data[1] + data[2])):
        whole, rest = packets(b"".join(data)[:cut])
        assert b"".join(whole) + rest == b"".join(data)[:cut]
        assert whole == data[: len(whole)]
    assert packets(b"".join(data)) == (data, b"")
