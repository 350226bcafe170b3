"""Whether a server delivers to shared subscriptions, found out by one message."""

from __future__ import annotations

import os
from typing import Unpack

from mqttws.aio.client import Client
from mqttws.aio.network import Url
from mqttws.client.options import ClientOptions
from mqttws.client.shares import probe_of
from mqttws.errors import ConnectionClosed, SubscribeRejected


async def delivers_shared(url: Url, topic: str | None = None, **options: Unpack[ClientOptions]) -> bool:
    """Return whether a server delivers to shared subscriptions; see `mqttws.delivers_shared`."""
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
