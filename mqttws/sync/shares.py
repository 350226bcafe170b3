"""A probe for shared subscriptions: subscribe, publish one message, and see whether it is delivered."""

from __future__ import annotations

import os

from mqttws.client.option_types import ClientOptions
from mqttws.client.shares import probe_of
from mqttws.errors import ConnectionClosed, SubscribeRejected
from mqttws.hints import Unpack
from mqttws.sync.client import Client
from mqttws.sync.network import Url


def delivers_shared(url: Url, topic: str | None = None, **options: Unpack[ClientOptions]) -> bool:
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
    with Client(url, **options) as client:
        try:
            client.subscribe(f"$share/{group}/{topic}", 1)
            client.publish(topic, group, 1)
            return any(message.payload == group.encode() for message in client.messages(options["timeout"]))
        except (SubscribeRejected, ConnectionClosed):
            return False
