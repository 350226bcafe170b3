"""`discard`: drop a message of QoS 1 without an answer, for local replacements of servers that do so."""

from __future__ import annotations

import mqttws
from mqttws import ClientConnection, Connect, Publish, ServerConnection
from mqttws.protocol.receiving import Receiver
from mqttws.testing import Pair


def test_a_discarded_message_is_not_answered_and_blocks_nothing() -> None:
    receiver = Receiver()
    first, second, third = (Publish("a", b"", 1, packet_id=number) for number in (1, 2, 3))
    for publish in (first, second, third):
        assert receiver.receive(publish, publish.packet_id or 0)
    receiver.acknowledge(first)
    receiver.discard(second)
    receiver.discard(second)
    receiver.acknowledge(third)
    assert receiver.answers() == [b"\x40\x02\x00\x01", b"\x40\x02\x00\x03"]
    receiver.acknowledge(second)
    assert receiver.answers() == []


def test_the_client_keeps_what_the_server_discards() -> None:
    pair = Pair(Connect("c"), automatic=False)
    assert isinstance(pair.client, ClientConnection)
    assert isinstance(pair.server, ServerConnection)
    pair.run()
    pair.server.accept_upgrade(pair.clock())
    pair.run()
    pair.server.discard(Publish("a"))  # QoS 0 has no answer anyway
    pair.server.accept(pair.server_session, False, pair.clock())
    pair.run()
    pair.client.publish(mqttws.Message("a", b"", 1))
    pair.run()
    publish = next(event for event in pair.server_events if type(event) is Publish)
    pair.server.discard(publish)
    pair.run()
    assert pair.client_session.sender.in_flight == 1
