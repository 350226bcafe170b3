"""A device that publishes the readings of its thermometer, and receives a new interval in a message."""

from __future__ import annotations

import json
from collections.abc import Callable

import mqttws


class Device:
    """A connected thermometer.

    Args:
        url: The URL of the broker.
        name: The name of the device.
        read: Returns the temperature in degrees Celsius.
    """

    def __init__(self, url: str, name: str, read: Callable[[], float]) -> None:
        self.interval = 60.0
        self._read = read
        self._name = name
        self._client = mqttws.Client(
            url,
            client_id=name,
            on_message=self._on_message,
            will=mqttws.Message(f"devices/{name}/state", b"offline", 1, True),
        )

    def start(self) -> None:
        """Connect, and subscribe to commands."""
        self._client.open()
        self._client.subscribe(f"devices/{self._name}/interval", 1)
        self._client.publish(f"devices/{self._name}/state", b"online", qos=1, retain=True)

    def measure(self) -> None:
        """Publish one reading."""
        reading = json.dumps({"celsius": self._read()})
        self._client.publish(f"devices/{self._name}/reading", reading, qos=1)

    def stop(self) -> None:
        """Disconnect."""
        self._client.close()

    def _on_message(self, message: mqttws.Publish) -> None:
        self.interval = float(message.payload)
        self._client.publish_nowait(f"devices/{self._name}/interval/taken", message.payload, qos=1)
