"""`$share/<group>/<filter>`: identified by its whole name, matched by its filter; for threads and asyncio."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

import mqttws
from mqttws import LocalProtocolError, Publish
from pubsub import MqttOverWSProvider
from pubsub.router import Router
from pubsub.topics import split_share

Api = Threads | Loop


class Server:
    """A server that grants and records every subscription, and publishes for the test."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.url = f"mqtt://127.0.0.1:{self._listener.getsockname()[1]}"
        self.subscribed: list[tuple[tuple[str, int], ...]] = []
        self.unsubscribed: list[tuple[str, ...]] = []
        self.acknowledged = threading.Event()
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._connection, _ = self._listener.accept()
        except OSError:
            return
        self._connection.settimeout(PATIENCE)
        decoder = mqttws.Decoder()
        while data := self._connection.recv(4096):
            for packet in decoder.feed(data):
                match packet:
                    case mqttws.Connect():
                        self.send(mqttws.ConnAck(0, False))
                    case mqttws.Subscribe():
                        self.subscribed.append(tuple(packet.topic_filters))
                        self.send(mqttws.SubAck(packet.packet_id, [qos for _, qos in packet.topic_filters]))
                    case mqttws.Unsubscribe():
                        self.unsubscribed.append(tuple(packet.topic_filters))
                        self.send(mqttws.UnsubAck(packet.packet_id))
                    case mqttws.PubAck():
                        self.acknowledged.set()
        self._connection.close()

    def send(self, packet: mqttws.Packet) -> None:
        assert self._connection is not None
        self._connection.sendall(packet.encode())

    def close(self) -> None:
        self._listener.close()
        self._thread.join(PATIENCE)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def test_messages_have_their_own_topic(make: Callable[..., Api], server: Server) -> None:
    api = make(MqttOverWSProvider(server.url))
    recorder = Recorder()
    subscription = api.call(api.ps.subscribe("$share/workers/plant/+", qos=1).subscribe, recorder)
    assert api.call(subscription.ready, PATIENCE) == {"$share/workers/plant/+": 1}
    server.send(Publish("plant/7", b"20", 1, packet_id=1))
    recorder.wait_for_values(20)
    assert recorder.messages[0].topic == "plant/7"
    assert server.acknowledged.wait(PATIENCE)
    assert subscription.topics == ("$share/workers/plant/+",)
    api.call(subscription.unsubscribe, PATIENCE)
    assert server.subscribed == [(("$share/workers/plant/+", 1),)]
    assert server.unsubscribed == [("$share/workers/plant/+",)]
    api.call(api.ps.close)


def test_a_shared_and_a_plain_filter_are_separate() -> None:
    router: Router[str] = Router()
    request = router.join("A", {"$share/g/a/+": 1, "a/b": 1, "$share/h/a/+": 1})
    assert request is not None
    assert [name for name, _ in request.wanted] == ["$share/g/a/+", "a/b", "$share/h/a/+"]
    router.join("B", {"$share/g/a/+": 1})
    assert sorted(router.route(Publish("a/b", b"x"))) == ["A", "B"], "each once"
    assert router.leave("A", ["$share/g/a/+"]) == []
    assert router.leave("A", ["$share/h/a/+"]) == ["$share/h/a/+"]
    assert sorted(router.route(Publish("a/b", b"x"))) == ["A", "B"]
    assert router.leave("A", ["a/b"]) == ["a/b"]
    assert router.route(Publish("a/b", b"x")) == ["B"]
    assert router.leave("B", ["$share/g/a/+"]) == ["$share/g/a/+"]
    assert router.route(Publish("a/b", b"x")) == []


def test_retained_messages_are_only_for_plain_filters() -> None:
    router: Router[str] = Router()
    router.join("A", {"$share/g/a": 1})
    router.join("B", {"a": 1})
    assert router.route(Publish("a", b"x", 0, True)) == ["B"]
    assert sorted(router.route(Publish("a", b"x"))) == ["A", "B"]


@pytest.mark.parametrize(
    "topic_filter",
    ["$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", "$share/g/a/#/b", "$share/g/a+"],
)
def test_malformed_shared_filters_are_refused(api: Api, world: Any, topic_filter: str) -> None:
    with pytest.raises(LocalProtocolError) as refused:
        api.ps.subscribe(["a", topic_filter])
    named = (repr(topic_filter), repr(topic_filter.removeprefix("$share/g/")))
    assert any(name in str(refused.value) for name in named)
    assert world.connections == 0


def test_ordinary_filters_are_not_split() -> None:
    for topic_filter in ("$share", "$shared/g/a", "share/g/a", "a/$share/g/a", "#", "$SYS/#"):
        assert split_share(topic_filter) == (None, topic_filter)
    assert split_share("$share/g//") == ("g", "/")
    assert split_share("$share/g/#") == ("g", "#")
