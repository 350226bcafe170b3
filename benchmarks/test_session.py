"""Benchmarks of sessions: a machine of each role, without framing."""

from __future__ import annotations

import pytest
import workloads as work

from mqttws import ClientMachine, Connect, Message, Publish, ServerMachine, Session
from mqttws.protocol.events import Delivered

COUNT = 100


@pytest.fixture
def machines():
    client, server = ClientMachine(Connect("bench"), Session()), ServerMachine()
    client.start(0.0)
    server.receive_data(client.data_to_send(0.0), 0.0)
    server.accept(Session(), False, 0.0)
    client.receive_data(server.data_to_send(0.0), 0.0)
    client.events.clear()
    server.events.clear()
    return client, server


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_window_of_messages(timed, machines, qos):
    """Queue messages, exchange them and all acknowledgements, and handle the events of both ends."""
    client, server = machines
    message = Message(work.TOPIC, work.MESSAGE, qos)

    def deliver():
        delivered = finished = 0
        for _ in range(COUNT):
            last = client.publish(message)
        while data := client.data_to_send(0.0):
            server.receive_data(data, 0.0)
            for event in server.events:
                if isinstance(event, Publish):
                    server.acknowledge(event)
            delivered += len(server.events)
            server.events.clear()
            client.receive_data(server.data_to_send(0.0), 0.0)
        for event in client.events:
            finished += len(event.tokens) if isinstance(event, Delivered) else COUNT * (event.token == last)
        client.events.clear()
        return delivered, finished

    timed(deliver, (COUNT, COUNT))


def test_queueing_alone(timed):
    """Queue messages, as `publish` does before anything is encoded."""
    message = Message(work.TOPIC, work.MESSAGE)
    session = Session()

    def queue():
        for _ in range(COUNT):
            session.publish(message)
        queued = session.sender.waiting
        session.sender.clear()
        return queued

    timed(queue, COUNT)
