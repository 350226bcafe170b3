"""Benchmarks of both drivers with the embedded broker, over loopback."""

from __future__ import annotations

import threading

import pytest
import workloads as work

from mqttws import Client
from mqttws.broker import Broker

COUNT = 500


@pytest.fixture(scope="module")
def broker():
    with Broker() as broker:
        yield broker


@pytest.mark.parametrize("qos", [0, 1])
def test_publish(timed, broker, qos):
    with Client(broker.url) as client:

        def publish():
            futures = [client.publish_nowait(work.TOPIC, work.MESSAGE, qos) for _ in range(COUNT)]
            client.publish(work.TOPIC, work.MESSAGE, 1)
            return all(future.done() for future in futures)

        timed(publish, True)


@pytest.mark.parametrize("qos", [0, 1])
def test_echo(timed, broker, qos):
    arrived = threading.Semaphore(0)
    with Client(broker.url, on_message=lambda message: arrived.release()) as client:
        client.subscribe("bench/echo", qos)

        def echo():
            client.publish_nowait("bench/echo", work.MESSAGE, qos)
            return arrived.acquire(timeout=10)

        timed(echo, True)


def test_fan_out(timed, broker):
    """Publish through the broker to ten subscribers."""
    arrived = threading.Semaphore(0)
    subscribers = [Client(broker.url, on_message=lambda message: arrived.release()) for _ in range(10)]
    try:
        for subscriber in subscribers:
            subscriber.open().subscribe("bench/fan")
        with Client(broker.url) as publisher:

            def fan_out():
                for _ in range(20):
                    publisher.publish_nowait("bench/fan", work.MESSAGE)
                return all(arrived.acquire(timeout=10) for _ in range(200))

            timed(fan_out, True)
    finally:
        for subscriber in subscribers:
            subscriber.close()
