"""What a process may lack for a moment: threads, descriptors, memory. It costs an attempt or a connection at most."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE, Blocking, States

import mqttws
import mqttws.sync.network
from mqttws import ConnectError
from mqttws.broker import Broker

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
