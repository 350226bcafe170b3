"""A message from the server beyond `max_packet_size`: it is reported, and never makes an endless loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, States
from scripted import Scripted

from mqttws import MQTTError, PacketTooLarge, PubAck, PubComp, Publish, PubRec, PubRel, Reconnect
from mqttws.codec.skipping import Oversize, SkippingDecoder

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


def test_it_is_skipped_and_acknowledged(make: Make, server: Scripted) -> None:
    errors: list[MQTTError] = []
    client = make(server.url, client_id="c", max_packet_size=100, on_error=errors.append)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.send(Publish("first", b"1", 1, packet_id=1), Publish("large/0", bytes(1_000)))
    end.send(Publish("large/1", bytes(50_000), 1, packet_id=2), Publish("large/2", bytes(95), 2, packet_id=3))
    end.send(Publish("last", b"2", 1, packet_id=4))
    messages = client.messages(timeout=PATIENCE)
    assert next(messages).topic == "first"
    assert next(messages).topic == "last"
    messages.close()
    answers = [end.receive() for _ in range(4)]
    assert sorted(answers, key=repr) == sorted([PubAck(1), PubAck(2), PubRec(3), PubAck(4)], key=repr)
    end.send(PubRel(3)).expect(PubComp(3))
    assert [(error.topic, error.size) for error in errors if isinstance(error, PacketTooLarge)] == [
        ("large/0", 1_012),
        ("large/1", 50_015),
        ("large/2", 108),
    ]


def test_it_ends_the_client_where_the_user_says_so(make: Make, server: Scripted) -> None:
    states = States()
    client = make(server.url, client_id="c", max_packet_size=100, oversize="end", reconnect=AT_ONCE, on_state=states)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.send(Publish("large", bytes(1_000), 1, packet_id=1))
    error = states.wait("disconnected").error
    assert isinstance(error, PacketTooLarge)
    assert (error.topic, error.size) == ("large", 1_012)
    assert end.rest() == b""


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 50, 10_000])
def test_the_decoder_passes_over_a_payload_in_any_pieces(step: int) -> None:
    packets = [
        Publish("a", b"x"),
        Publish("t" * 200, bytes(300), 1, True, False, 7),
        Publish("b", bytes(2), 2, packet_id=8),
        Publish("u" * 60, b""),
        Publish("v", bytes(50)),
        PubAck(9),
    ]
    data = b"".join(packet.encode() for packet in packets)
    decoder = SkippingDecoder(50)
    got = [packet for start in range(0, len(data), step) for packet in decoder.feed(data[start : start + step])]
    assert got == [
        packets[0],
        Oversize(Publish("t" * 200, b"", 1, True, False, 7), len(packets[1].encode())),
        packets[2],
        Oversize(packets[3], len(packets[3].encode())),
        Oversize(Publish("v"), len(packets[4].encode())),
        packets[5],
    ]
    assert not decoder.under_way


def test_another_packet_that_is_too_large_is_a_fault() -> None:
    with pytest.raises(PacketTooLarge) as caught:
        SkippingDecoder(50).feed(bytes.fromhex("90 ff 01") + bytes(100))
    assert (caught.value.topic, caught.value.size) == (None, 258)
