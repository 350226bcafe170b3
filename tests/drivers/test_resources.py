"""What a process may lack for a moment: threads, descriptors, memory. It costs an attempt or a connection at most."""

from __future__ import annotations

import errno
import os
import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from drivers import PATIENCE, Blocking, States

import mqttws
import mqttws.codec.publishing
import mqttws.protocol.sending
import mqttws.sync.network
from mqttws import ConnectError, compiled
from mqttws.broker import Broker, Limits
from mqttws.client.core import Core
from mqttws.client.pending import Pending
from mqttws.client.routes import Routes
from mqttws.codec.publishing import encode_publish
from mqttws.protocol.machine import Machine

Make = Callable[..., Any]
SOON = mqttws.Reconnect(initial=0.01, maximum=0.02)


def without_threads(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Let the start of threads fail whose name contains `name`."""
    start = threading.Thread.start

    def fail(thread: threading.Thread) -> None:
        if name in thread.name:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)


def test_a_client_that_cannot_start_a_look_up_tries_again(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = States()
    client = make(broker.url_of("mqtt").replace("127.0.0.1", "localhost"), reconnect=SOON, on_state=states)
    client.open()
    with monkeypatch.context() as patch:
        without_threads(patch, "mqttws resolving")
        client.reconnect_now()
        states.wait("disrupted", 3)
        assert any("can't start new thread" in str(state.error) for state in states.seen)
    states.wait("connected", 2)
    client.publish("a", b"x", 1, timeout=PATIENCE)


@pytest.mark.parametrize("lack", ["descriptors", "threads"])
def test_messages_published_after_an_open_without_resources_wait_for_the_next(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, lack: str
) -> None:
    client = Blocking(broker.url, client_id="c")
    with monkeypatch.context() as patch:
        if lack == "threads":
            without_threads(patch, "mqttws c")
        else:

            def fail() -> None:
                raise OSError(errno.EMFILE, "Too many open files")

            patch.setattr(mqttws.sync.network, "socket_pair", fail)
        with pytest.raises(ConnectError, match="thread" if lack == "threads" else "Too many open files"):
            client.open()
    assert client.state.name == "disconnected"
    published = client.publish_nowait("a", b"x", 1)
    assert not published.done()
    with client:
        published.result(PATIENCE)


class Exhausted:
    """A socket whose next read fails for want of memory. Equal to every socket."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def recv(self, size: int) -> bytes:
        raise MemoryError

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def test_a_wait_without_memory_costs_nothing(broker: Broker) -> None:
    states = States()
    with Blocking(broker.url, on_state=states) as client:
        network: Any = client._network
        poller, lacks = network._poller, [True, True, False]

        class Poller:
            def wait(self, seconds: float | None) -> Any:
                if lacks and lacks.pop(0):
                    raise MemoryError
                return poller.wait(seconds)

            def __getattr__(self, name: str) -> Any:
                return getattr(poller, name)

        with network.lock:
            network._poller = Poller()
        for _ in range(3):
            client.publish("a", b"x", 1, timeout=PATIENCE)
        assert not lacks
        assert states.names == ["connecting", "connected"]


def test_a_read_without_memory_costs_a_connection_and_not_the_client(broker: Broker) -> None:
    states = States()
    with Blocking(broker.url, reconnect=SOON, on_state=states) as client:
        network: Any = client._network
        with network.lock:
            network._socket = Exhausted(network._socket)
        client.publish("a", b"x", 1, timeout=PATIENCE)
        assert os.strerror(errno.ENOMEM) in str(states.wait("disrupted").error)


class Lack:
    """A lack of memory: a function that fails for some calls.

    Args:
        function: The function.
        times: The number of calls that fail.
        fails: Whether a call with these arguments is one of them.
    """

    def __init__(self, function: Callable[..., Any], times: int, fails: Callable[..., bool] = lambda *_: True) -> None:
        self.function, self.left, self.fails = function, times, fails

    def __get__(self, instance: object, owner: type) -> Callable[..., Any]:
        return partial(self, instance)

    def __call__(self, *arguments: Any) -> Any:
        if self.left and self.fails(*arguments):
            self.left -= 1
            raise MemoryError
        return self.function(*arguments)


def without_memory_for(payload: bytes, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the encoding of messages with a payload fail, which are queued as in a burst."""
    monkeypatch.setattr(mqttws.sync.network.Network, "publish_at_once", lambda *_: None)
    lack = Lack(encode_publish, times, lambda topic, given, *rest: given == payload)
    for module in (mqttws.protocol.sending, mqttws.codec.publishing):
        monkeypatch.setattr(module, "encode_publish", lack)


LARGE = bytes(200)  # too long for the shortcut of `Publish.encode`

interpreted = pytest.mark.skipif(compiled, reason="compiled functions cannot be replaced")


@interpreted
@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_without_memory_for_its_packet_is_sent_on_the_next_connection(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    states = States()
    client = make(broker.url, reconnect=SOON, on_state=states)
    with monkeypatch.context() as patch:
        client.open()
        without_memory_for(b"large", 1, patch)
        futures = [client.publish_nowait("a", payload, qos) for payload in (b"1", b"large", b"2")]
        for future in futures:
            future.result(PATIENCE)
    error = states.wait("disrupted").error
    assert str(error) == "data for the server could not be prepared: MemoryError"
    assert isinstance(error, mqttws.ConnectionBroken)
    assert isinstance(error.__cause__, MemoryError)


@interpreted
@pytest.mark.parametrize("waits", [False, True])
def test_a_lone_message_without_memory_for_its_packet_is_not_published(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    with mqttws.connect(broker.url) as client:
        publish = client.publish if waits else client.publish_nowait
        monkeypatch.setattr(mqttws.sync.network, "encode_publish", Lack(encode_publish, 1))
        with pytest.raises(MemoryError):
            publish("a", b"1", 1)
        assert len(client.session.sender) == len(client.session.identifiers) == 0
        client.publish("a", b"2", 1, timeout=PATIENCE)


@interpreted
def test_a_message_that_never_gets_memory_fails_alone(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = make(broker.url, reconnect=SOON)
    with monkeypatch.context() as patch:
        client.open()
        without_memory_for(LARGE, 1_000, patch)
        large, small = client.publish_nowait("a", LARGE, 1), client.publish_nowait("a", b"small", 1)
        with pytest.raises(mqttws.PublishRejected, match="the connection ended twice when the message of 201 bytes"):
            large.result(PATIENCE)
        small.result(PATIENCE)
    client.publish("a", LARGE, 1, timeout=PATIENCE)


@interpreted
@pytest.mark.parametrize("event", ["delivered", "answered", "note_sent"])
def test_an_event_without_memory_costs_its_call_and_a_connection(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch, event: str
) -> None:
    states = States()
    client = make(broker.url, reconnect=SOON, on_state=states)
    with monkeypatch.context() as patch:
        patch.setattr(Pending, event, Lack(getattr(Pending, event), 1))
        if event == "answered":
            future = client.subscribe_nowait("kept", 1)
        else:
            future = client.publish_nowait("a", b"x", int(event == "delivered"))
        client.open()
        with pytest.raises(mqttws.ConnectionBroken, match="an event could not be handled: MemoryError"):
            future.result(PATIENCE)
        states.wait("connected", 2)
    assert str(states.wait("disrupted").error) == "an event could not be handled: MemoryError"
    client.subscribe("kept", 1)
    client.publish("kept", b"after", 1, timeout=PATIENCE)
    assert next(client.messages(PATIENCE)).payload == b"after"


@interpreted
@pytest.mark.parametrize("window", [1, 100])
def test_a_lack_of_memory_for_a_packet_loses_no_message_before_it(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    """The messages of QoS 0 before it were removed from the queue, and not sent; others wait."""
    states = States()
    client = make(broker.url, reconnect=SOON, on_state=states, max_in_flight=window)
    with monkeypatch.context() as patch:
        without_memory_for(b"large", 1, patch)
        subscribed = client.subscribe_nowait("a", 1)
        payloads = [b"small", b"large", b"other"]
        futures = [client.publish_nowait("a", payload, qos) for payload, qos in zip(payloads, (0, 1, 1), strict=True)]
        client.open()
        for future in (subscribed, *futures):
            future.result(PATIENCE)
        states.wait("disrupted")
        messages = client.messages(PATIENCE)
        assert sorted(next(messages).payload for _ in payloads) == sorted(payloads)


@interpreted
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_whose_outcome_cannot_be_reported_fails(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch, qos: int
) -> None:
    """It has left the session, so no later connection reports it. Messages that wait do not change that."""
    client = make(broker.url, reconnect=SOON, max_in_flight=1)
    name = "_note_delivered" if qos else "_note_sent"
    with monkeypatch.context() as patch:
        patch.setattr(Machine, name, Lack(getattr(Machine, name), 1))
        lost, *others = [client.publish_nowait("a", b"x", each) for each in (qos, 1, 1)]
        client.open()
        with pytest.raises(mqttws.ConnectionBroken, match=r"could not be (processed|prepared): MemoryError"):
            lost.result(PATIENCE)
        for future in others:
            future.result(PATIENCE)
    client.flush(PATIENCE)


@interpreted
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize("qos", [1, 2])
def test_a_message_that_cannot_be_queued_is_not_lost(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch, qos: int, times: int
) -> None:
    """The event is handled again; if that fails, too, the server sends the message again."""
    states, came = States(), queue.Queue[bytes]()
    client = make(broker.url, reconnect=SOON, client_id="c", clean_session=False, on_state=states)
    client.on("a", lambda message: came.put(message.payload))
    client.open()
    client.subscribe("a", qos)
    with monkeypatch.context() as patch:
        patch.setattr(Routes, "takers", Lack(Routes.takers, times))
        with mqttws.Client(broker.url) as other:
            other.publish("a", b"1", qos, timeout=PATIENCE)
            states.wait("connected", 2)
            other.publish("a", b"2", qos, timeout=PATIENCE)
        before = list(iter(lambda: came.get(timeout=PATIENCE), b"2"))
    assert before == [b"1"] if qos == 2 else set(before) == {b"1"}  # one of QoS 1 may be delivered twice


@interpreted
def test_events_that_can_never_be_handled_end_only_connections(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = States()
    client = make(broker.url, reconnect=SOON, on_state=states)
    client.open()
    with monkeypatch.context() as patch:
        patch.setattr(Core, "advance", Lack(Core.advance, 1 << 60))
        client.reconnect_now()
        assert str(states.wait("disrupted", 2).error) == "an event could not be handled: MemoryError"
    client.publish("a", b"x", 1, timeout=PATIENCE)


@interpreted
def test_an_attempt_that_fails_for_want_of_memory_is_followed_by_another(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = 10.0 * PATIENCE  # neither end closes a connection that the other has abandoned
    states = States()
    with Broker(limits=Limits(connect_timeout=never)) as broker:
        client = make(broker.url, reconnect=SOON, on_state=states, timeout=never)
        client.open()
        with monkeypatch.context() as patch:
            for name in ("begin_attempt", "establish"):
                patch.setattr(Core, name, Lack(getattr(Core, name), 1))
            client.reconnect_now()
            states.wait("connected", 2)
        client.publish("a", b"x", 1, timeout=PATIENCE)
        client.close()
