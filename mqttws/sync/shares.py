"""Whether a server delivers to shared subscriptions, found out by one message."""

from __future__ import annotations

import os
from typing import Unpack

from mqttws.client.options import ClientOptions
from mqttws.client.shares import probe_of
from mqttws.errors import ConnectionClosed, SubscribeRejected
from mqttws.sync.client import Client
from mqttws.sync.network import Url


def delivers_shared(url: Url, topic: str | None = None, **options: Unpack[ClientOptions]) -> bool:
    """Return whether a server delivers to shared subscriptions. Some grant them, and deliver nothing.

    A client with a connection apart subscribes to `$share/<random>/<topic>`, publishes one message to the topic, and
    waits for it.

    Args:
        url: see `Client`.
        topic: a Topic Name that is not used otherwise; None: "mqttws/probe/" and 16 random hexadecimal digits.
        **options: see `Options`; without `on_message`, and with an unused `client_id`. The `timeout`, here 5
            seconds by default, bounds each step.

    Raises:
        MQTTError: there is no connection, or no answer.
    """
    group, topic = probe_of(topic, options, os.urandom)
    with Client(url, **options) as client:
        try:
            client.subscribe(f"$share/{group}/{topic}", 1)
            client.publish(topic, group, 1)
            return any(message.payload == group.encode() for message in client.messages(options["timeout"]))
        except (SubscribeRejected, ConnectionClosed):
            return False
