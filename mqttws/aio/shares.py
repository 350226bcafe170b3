"""A probe for shared subscriptions: subscribe, publish one message, and see whether it is delivered."""

from __future__ import annotations

import os
from typing import Unpack

from mqttws.aio.client import Client
from mqttws.aio.network import Url
from mqttws.client.option_types import ClientOptions
from mqttws.client.shares import probe_of
from mqttws.errors import ConnectionClosed, SubscribeRejected


async def delivers_shared(url: Url, topic: str | None = None, **options: Unpack[ClientOptions]) -> bool:
    """Return whether a server delivers to shared subscriptions. Some servers grant them, but deliver nothing.

    A separate client subscribes to `$share/<random>/<topic>`, publishes one message to the topic, and waits for it.

    Args:
        url: See `Client`.
        topic: A Topic Name that is not used otherwise; None: "mqttws/probe/" and 16 random hexadecimal digits.
        **options: See `Options`; without `on_message`, and with an unused `client_id`. The `timeout`, here 5
            seconds by default, bounds each step.

    Returns:
        Whether the message was delivered.

    Raises:
        MQTTError: There is no connection, or no answer.
    """
    group, topic = probe_of(topic, options, os.urandom)
    async with Client(url, **options) as client:
        try:
            await client.subscribe(f"$share/{group}/{topic}", 1)
            await client.publish(topic, group, 1)
            async for message in client.messages(options["timeout"]):
                if message.payload == group.encode():
                    return True
        except (SubscribeRejected, ConnectionClosed):
            pass
    return False
