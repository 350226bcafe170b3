"""An oversize message at a client: it ends the connection, or is acknowledged and skipped, as configured."""

from __future__ import annotations

import pytest
from machines import NOW, client, closing_error, feed, sends, take

from mqttws import PacketTooLarge, Publish, PubRel
from mqttws.protocol.events import Skipped
from mqttws.protocol.machine import CLOSED

# To "a/b", 100 bytes, packet identifier 7: packets of 107 and 109 bytes; the client accepts 72.
LARGE = {
    0: bytes.fromhex("30 69 0003 612f62") + bytes(100),
    1: bytes.fromhex("32 6b 0003 612f62 0007") + bytes(100),
    2: bytes.fromhex("34 6b 0003 612f62 0007") + bytes(100),
}
ANSWER = {0: "", 1: "40 02 00 07", 2: "50 02 00 07"}  # PUBACK, PUBREC


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_it_is_skipped_and_acknowledged_and_later_packets_are_processed(qos: int) -> None:
    machine = client(max_packet_size=72, skip_oversize=True)
    machine.receive_data(LARGE[qos] + Publish("after").encode(), NOW)
    assert take(machine) == [Skipped("a/b", len(LARGE[qos])), Publish("after")]
    assert sends(machine) == ANSWER[qos]


def test_a_copy_of_qos_2_is_answered_and_not_reported_again() -> None:
    machine = client(max_packet_size=72, skip_oversize=True)
    machine.receive_data(LARGE[2], NOW)
    assert sends(machine) == "50 02 00 07"
    take(machine)
    machine.receive_data(b"\x3c" + LARGE[2][1:], NOW)  # with DUP
    assert (take(machine), sends(machine)) == ([], "50 02 00 07")
    assert (feed(machine, PubRel(7)), sends(machine)) == ([], "70 02 00 07")
    machine.receive_data(LARGE[2], NOW)  # another message
    assert take(machine) == [Skipped("a/b", 109)]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_it_ends_a_connection_that_does_not_skip(qos: int) -> None:
    machine = client(max_packet_size=72)
    machine.receive_data(LARGE[qos], NOW)
    error = closing_error(take(machine))
    assert isinstance(error, PacketTooLarge)
    assert (error.topic, error.size) == ("a/b", len(LARGE[qos]))
    assert machine.state is CLOSED
    assert sends(machine) == ""
