"""A server that closes the connection on one message or Topic Filter: only that call fails, and the error names it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE, States
from picky import Picky
from scripted import Scripted

import mqttws
from mqttws import (
    Connect,
    MQTTError,
    PingReq,
    PubAck,
    Publish,
    PublishRejected,
    Reconnect,
    SQLiteStore,
    Subscribe,
    SubscribeRejected,
    Unsubscribe,
    UnsubscribeRejected,
)

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


@pytest.mark.parametrize("qos", [1, 2])
def test_only_the_message_that_ends_the_connection_fails(make: Make, server: Scripted, qos: int) -> None:
    picky = Picky(server)
    client = picky.opened(make, client_id="c", reconnect=AT_ONCE)
    before = [client.publish_nowait("a", f"before {number}", 1) for number in range(3)]
    poison = client.publish_nowait("poison", b"x" * 100, qos)
    after = [client.publish_nowait("a", f"after {number}", 1 + number % 2) for number in range(3)]
    with pytest.raises(PublishRejected) as caught:
        poison.result(PATIENCE)
    assert (caught.value.topic, caught.value.size) == ("poison", 106)
    for future in (*before, *after):
        assert future.result(PATIENCE) is None
    assert list(dict.fromkeys(picky.taken)) == [
        b"before 0",
        b"before 1",
        b"before 2",
        b"after 0",
        b"after 1",
        b"after 2",
    ]
    assert picky.connections == 5
    assert client.state.name == "connected"
    client.publish("a", b"now", 1)
    client.close()


def test_two_such_messages_are_both_found(make: Make, server: Scripted) -> None:
    picky = Picky(server)
    client = picky.opened(make, client_id="c", reconnect=AT_ONCE)
    futures = [client.publish_nowait(topic, topic, 1) for topic in ("poison/1", "a", "poison/2", "b")]
    outcomes = []
    for future in futures:
        try:
            future.result(PATIENCE)
            outcomes.append("taken")
        except PublishRejected as error:
            outcomes.append(error.topic)
    assert outcomes == ["poison/1", "taken", "poison/2", "taken"]
    assert picky.taken == [b"a", b"b"]
    client.close()


def test_a_rejected_message_is_removed_from_the_store(make: Make, server: Scripted, tmp_path: Path) -> None:
    picky = Picky(server)
    errors: list[MQTTError] = []
    with SQLiteStore(tmp_path / "store") as store:
        options = {"client_id": "c", "clean_session": False, "store": store}
        make(server.url, **options).publish_nowait("poison", b"x", 1)  # as an earlier process
        client = picky.opened(make, reconnect=AT_ONCE, on_error=errors.append, **options)
        client.publish("a", b"y", 1)
        client.close()
        assert picky.taken == [b"y"]
        rejections = [error for error in errors if isinstance(error, PublishRejected)]
        assert [str(error) for error in rejections] == [str(PublishRejected("poison", 7))]
        assert store.load(b"o") == []


def test_only_the_topic_filter_that_ends_the_connection_fails(make: Make, server: Scripted) -> None:
    picky = Picky(server)
    client = picky.opened(make, client_id="c", reconnect=AT_ONCE)
    several = client.subscribe_nowait(["a", ("poison/1", 1), "b"])
    one = client.subscribe_nowait("poison/2")
    message = client.publish_nowait("c", b"c", 1)
    assert several.result(PATIENCE) == (0, 128, 0)
    with pytest.raises(SubscribeRejected, match="ended the connection") as caught:
        one.result(PATIENCE)
    assert caught.value.closes
    assert message.result(PATIENCE) is None
    assert set(picky.filters) == {"a", "b"}
    assert set(client.session.subscriptions) == {"a", "b"}
    client.close()


def test_only_the_unsubscribe_that_ends_the_connection_fails(make: Make, server: Scripted) -> None:
    picky = Picky(server)
    picky.refuses = ()
    client = picky.opened(make, client_id="c", reconnect=AT_ONCE)
    client.subscribe(["a", "poison", "b"])
    picky.refuses = (Unsubscribe,)
    several = client.unsubscribe_nowait(["a", "poison", "b"])
    message = client.publish_nowait("c", b"c", 1)
    with pytest.raises(UnsubscribeRejected, match="'poison'") as caught:
        several.result(PATIENCE)
    assert caught.value.topic_filters == ("poison",)
    assert message.result(PATIENCE) is None
    assert set(client.session.subscriptions) == {"poison"}
    assert client.state.name == "connected"
    assert picky.connections == 5
    client.close()


def test_a_subscription_that_is_no_longer_allowed_is_reported(make: Make, server: Scripted) -> None:
    picky = Picky(server)
    picky.refuses = ()
    errors: list[MQTTError] = []
    client = picky.opened(make, client_id="c", reconnect=AT_ONCE, on_error=errors.append)
    client.subscribe(["a", "poison", "b"])
    picky.refuses, picky.stays = (Subscribe,), True
    client.reconnect_now()
    client.publish("c", b"c", 1, timeout=PATIENCE)
    assert [error.topic_filter for error in errors if isinstance(error, SubscribeRejected)] == ["poison"]
    assert set(client.session.subscriptions) == {"a", "b"}
    picky.stays = False
    client.close()


@pytest.mark.parametrize("code", [1001, 1012, 4001])
def test_an_end_with_another_reason_is_no_evidence(make: Make, code: int) -> None:
    states = States()
    with Scripted("ws") as server:
        client = make(server.url, client_id="c", reconnect=AT_ONCE, on_state=states, end_on=())
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        future = client.publish_nowait("a", b"x", 1)
        for _ in range(6):
            assert isinstance(end.receive(), Publish)  # sent immediately on each connection
            end.frame(code.to_bytes(2, "big"), 0x88)
            end.cut()
            end = server.accept().welcome()
        packet = end.receive()
        assert isinstance(packet, Publish)
        end.send(PubAck(packet.packet_id))
        assert future.result(PATIENCE) is None


def test_a_connection_that_fails_anyway_rejects_no_message(make: Make, server: Scripted) -> None:
    """It is closed before the PINGREQ is answered: no suspect was sent, so nothing is rejected."""
    client = make(server.url, client_id="c", reconnect=AT_ONCE)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    future = client.publish_nowait("a", b"x", 1)
    for _ in range(2):
        assert isinstance(end.receive(), Publish)
        end.cut()
        end = server.accept().welcome()
    for _ in range(4):
        assert end.receive() == PingReq()
        end.cut()
        end = server.accept()
        assert isinstance(end.receive(), Connect)
        end.send("20 02 00 00")
    assert end.receive() == PingReq()
    end.send("d0 00")
    packet = end.receive()
    assert isinstance(packet, Publish)
    assert packet.dup
    end.send(PubAck(packet.packet_id))
    assert future.result(PATIENCE) is None
    assert isinstance(client.session, mqttws.Session)
