"""A server that ends the connection over one message or one Topic Filter: that call alone fails, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE, States
from scripted import Scripted

import mqttws
from mqttws import (
    Connect,
    Disconnect,
    MQTTError,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PublishRejected,
    PubRec,
    PubRel,
    Reconnect,
    SQLiteStore,
    SubAck,
    Subscribe,
    SubscribeRejected,
)

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


class Picky:
    """A server that cuts the connection when a message or a Topic Filter has "poison" in its name.

    Attributes:
        taken: the payloads of the messages that it has taken, in order.
        filters: the Topic Filters that it has granted.
        connections: how many there were.
    """

    def __init__(self, server: Scripted) -> None:
        self.taken: list[bytes] = []
        self.filters: list[str] = []
        self.connections = 0
        self.lenient = False
        self.stays = False  # after a DISCONNECT
        self._server = server
        self._over = threading.Event()
        self._running = server.soon(self._run)

    def opened(self, make: Make, **options: Any) -> Any:
        """Open a client, which is closed when the test ends, however it does."""
        client = make(self._server.url, **options)
        self._server.closing(client)
        return client.open()

    def _run(self) -> None:
        while not self._over.is_set():
            end = self._server.accept()
            self.connections += 1
            end.welcome()
            try:
                self._serve(end)
            except (AssertionError, OSError):  # the client closed
                pass
            end.cut()

    def _serve(self, end: Any) -> None:
        while True:
            packet = end.receive()
            if isinstance(packet, Publish):
                if "poison" in packet.topic and not self.lenient:
                    return
                self.taken.append(packet.payload)
                if packet.qos:
                    end.send(PubAck(packet.packet_id) if packet.qos == 1 else PubRec(packet.packet_id))
            elif isinstance(packet, Subscribe):
                names = [name for name, _ in packet.topic_filters]
                if any("poison" in name for name in names) and not self.lenient:
                    return
                self.filters += names
                end.send(SubAck(packet.packet_id, [qos for _, qos in packet.topic_filters]))
            elif isinstance(packet, PubRel):
                end.send(PubComp(packet.packet_id))
            elif isinstance(packet, PingReq):
                end.send("d0 00")
            elif isinstance(packet, Disconnect):
                if not self.stays:
                    self._over.set()
                return


@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_ends_the_connection_fails_alone(make: Make, server: Scripted, qos: int) -> None:
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


def test_a_rejected_message_leaves_the_store(make: Make, server: Scripted, tmp_path: Path) -> None:
    picky = Picky(server)
    errors: list[MQTTError] = []
    with SQLiteStore(tmp_path / "store") as store:
        options = {"client_id": "c", "clean_session": False, "store": store}
        make(server.url, **options).publish_nowait("poison", b"x", 1)  # an earlier process
        client = picky.opened(make, reconnect=AT_ONCE, on_error=errors.append, **options)
        client.publish("a", b"y", 1)
        client.close()
        assert picky.taken == [b"y"]
        rejections = [error for error in errors if isinstance(error, PublishRejected)]
        assert [str(error) for error in rejections] == [str(PublishRejected("poison", 7))]
        assert store.load(b"o") == []


def test_a_topic_filter_that_ends_the_connection_fails_alone(make: Make, server: Scripted) -> None:
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


def test_a_subscription_that_is_not_allowed_any_more_is_reported(make: Make, server: Scripted) -> None:
    picky = Picky(server)
    picky.lenient = True
    errors: list[MQTTError] = []
    client = picky.opened(make, client_id="c", reconnect=AT_ONCE, on_error=errors.append)
    client.subscribe(["a", "poison", "b"])
    picky.lenient, picky.stays = False, True
    client.reconnect_now()
    client.publish("c", b"c", 1, timeout=PATIENCE)
    assert [error.topic_filter for error in errors if isinstance(error, SubscribeRejected)] == ["poison"]
    assert set(client.session.subscriptions) == {"a", "b"}
    picky.stays = False
    client.close()


@pytest.mark.parametrize("code", [1001, 1012, 4001])
def test_an_end_that_has_another_reason_is_no_evidence(make: Make, code: int) -> None:
    states = States()
    with Scripted("ws") as server:
        client = make(server.url, client_id="c", reconnect=AT_ONCE, on_state=states, end_on=())
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        future = client.publish_nowait("a", b"x", 1)
        for _ in range(6):
            assert isinstance(end.receive(), Publish)  # sent at once on each connection
            end.frame(code.to_bytes(2, "big"), 0x88)
            end.cut()
            end = server.accept().welcome()
        packet = end.receive()
        assert isinstance(packet, Publish)
        end.send(PubAck(packet.packet_id))
        assert future.result(PATIENCE) is None


def test_a_connection_that_does_not_work_anyway_accuses_no_message(make: Make, server: Scripted) -> None:
    """It is cut before the PINGREQ is answered: nothing suspected was sent, so nothing is rejected."""
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
