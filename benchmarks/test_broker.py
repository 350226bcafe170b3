"""Benchmarks of the broker: its router alone, and the whole broker over loopback with hand-written clients."""

from __future__ import annotations

import pytest
import workloads as work
from wire import Wire

from mqttws import Connect
from mqttws.broker import Accepted, Broker, Peer
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router

COUNT = 100


class Outlet:
    """An outlet that counts packets."""

    def __init__(self) -> None:
        self.count = 0

    def send(self, packet: bytes) -> bool:
        """Count a packet."""
        self.count += 1
        return True

    def wake(self) -> None:
        """Do nothing."""

    def end(self, error: Exception) -> None:
        """Fail."""
        raise error


@pytest.mark.parametrize("subscribers", [1, 50, 1_000])
def test_route(timed, subscribers):
    """Route one message to several subscribers, up to the bytes for their outlets."""
    router = Router()
    registry = Registry(router)
    outlets = [Outlet() for _ in range(subscribers)]
    for number, outlet in enumerate(outlets):
        peer = Peer("mqtt", ("127.0.0.1", number))
        peer.client_id = str(number)
        subscriber, _ = registry.attach(peer, Connect(str(number)), Accepted(), outlet)
        router.subscribe(subscriber, [("sensors/+/temperature", 0)])
    timed(lambda: router.publish(work.TOPIC, work.MESSAGE), subscribers)
    assert len({outlet.count for outlet in outlets}) == 1


@pytest.fixture(scope="module")
def broker():
    with Broker(tcp_port=0) as broker:
        yield broker


@pytest.mark.parametrize("subscribers", [1, 50])
@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_deliver(timed, broker, scheme, subscribers):
    """Deliver messages that arrive together to all subscribers."""
    url = broker.url_of(scheme)
    wires = [Wire(url).connect(f"subscriber-{number}") for number in range(subscribers)]
    with Wire(url).connect("publisher") as publisher:
        for wire in wires:
            wire.subscribe((work.TOPIC, 0))
        data = work.encode_publish(work.TOPIC, work.MESSAGE) * COUNT

        def deliver():
            publisher.send(data)
            return [len(wire.messages(COUNT)) for wire in wires]

        timed(deliver, [COUNT] * subscribers)
    for wire in wires:
        wire.close()
