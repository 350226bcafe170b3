"""The device, tested with a broker for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from device import Device


@pytest.fixture
def device(mqtt_broker) -> Iterator[Device]:
    device = Device(mqtt_broker.url, "t1", lambda: 21.5)
    device.start()
    yield device
    device.stop()


def test_it_says_that_it_is_there(device: Device, mqtt_broker) -> None:
    mqtt_broker.messages.assert_published("devices/t1/state", "online", retain=True)
    assert mqtt_broker.clients == ["t1"]


def test_it_publishes_its_readings(device: Device, mqtt_broker) -> None:
    device.measure()
    device.measure()
    readings = mqtt_broker.messages.wait_for("devices/+/reading", count=2)
    assert [reading.value for reading in readings] == [{"celsius": 21.5}] * 2


def test_it_takes_an_interval(device: Device, mqtt_broker, mqtt_client) -> None:
    mqtt_client.publish("devices/t1/interval", b"5", qos=1)
    mqtt_broker.messages.assert_published("devices/t1/interval/taken", 5)
    assert device.interval == 5


def test_it_comes_back_and_the_will_was_published(device: Device, mqtt_broker) -> None:
    mqtt_broker.disconnect("t1")
    mqtt_broker.messages.assert_published("devices/t1/state", "offline")
    mqtt_broker.wait_for_clients(1)
    device.measure()
    mqtt_broker.messages.assert_published("devices/t1/reading")
