"""A received message beyond `max_packet_size` is reported, and does not cause an endless loop of reconnects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from drivers import PATIENCE, States
from scripted import Scripted

from mqttws import MQTTError, PacketTooLarge, PubAck, PubComp, Publish, PubRec, PubRel, Reconnect

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


def test_it_ends_the_client_with_end_on(make: Make, server: Scripted) -> None:
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
