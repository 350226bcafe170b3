"""Benchmarks of connections in memory: framing and machine without a socket."""

from __future__ import annotations

import pytest
import workloads as work

from mqttws import Connect, Message, Publish
from mqttws.testing import Pair

COUNT = 200


@pytest.fixture(params=[True, False], ids=["websocket", "tcp"])
def pair(request):
    return Pair(Connect("bench"), websocket=request.param).open()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_to_the_server_and_back(timed, pair, qos):
    """Send messages to the server, with all acknowledgements; both ends together."""
    message = Message(work.TOPIC, work.MESSAGE, qos)

    def deliver():
        pair.received_by_server.clear()
        pair.server_events.clear()
        pair.client_events.clear()
        for _ in range(COUNT):
            pair.client.publish(message)
        pair.run()
        return len(pair.received_by_server)

    timed(deliver, COUNT)
    assert {(publish.topic, publish.payload) for publish in pair.received_by_server} == {(work.TOPIC, work.MESSAGE)}


def test_publishing_alone(timed, pair):
    message = Message(work.TOPIC, work.MESSAGE)

    def publish():
        for _ in range(COUNT):
            pair.client.publish(message)
        data = pair.client.data_to_send(pair.clock())
        pair.client.machine.events.clear()
        return len(data)

    size = COUNT * len(work.encode_publish(work.TOPIC, work.MESSAGE))
    timed(publish, size + 8 if pair.websocket else size)  # the header of one frame and its masking key


def test_receiving_alone(timed, pair):
    """Receive messages in one frame each, as a broker sends them."""
    frame = work.encode_publish(work.TOPIC, work.MESSAGE)
    if pair.websocket:
        frame = bytes((0x82, len(frame))) + frame

    def receive():
        pair.client.receive_data(frame * COUNT, pair.clock())
        return list(pair.client.events())

    timed(receive, [Publish(work.TOPIC, work.MESSAGE)] * COUNT)
