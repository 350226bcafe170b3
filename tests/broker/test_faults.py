"""Errors in the broker and in hooks: each closes at most one connection."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest
from wire import PATIENCE

from mqttws import Connect, Message, Publish, compiled
from mqttws.broker import Broker, Rejection
from mqttws.broker.link import Link
from mqttws.broker.notices import _BURST
from mqttws.errors import StoreError
from mqttws.protocol.store import MemoryStore

#: For faults planted in the router, which is compiled in the compiled build.
interpreted = pytest.mark.skipif(compiled, reason="faults cannot be planted in compiled code")


@interpreted
@pytest.mark.statement("MQTT-4.8.0-2")
@pytest.mark.statement("U-7")
@pytest.mark.parametrize("error", [MemoryError, OSError, AssertionError])
def test_an_error_in_the_broker_closes_only_the_connection_concerned(broker, client, monkeypatch, caplog, error):
    whole = broker._router.publish

    def publish(topic, *rest):
        if topic == "poison":
            raise error("planted")
        return whole(topic, *rest)

    monkeypatch.setattr(broker._router, "publish", publish)
    other = client("other")
    other.subscribe(("#", 0))
    assert client("c", will=Message("w", b"gone")).send(Publish("poison", b"", 1, packet_id=1)).rest() == b""
    assert other.messages(1) == [Publish("w", b"gone")]
    assert "planted" in caplog.text
    other.quiet()


@interpreted
def test_an_error_while_closing_still_closes(broker, client, monkeypatch, caplog):
    other, peer = client("other"), client("c")

    def fail(*args, **options):
        raise MemoryError("planted")

    monkeypatch.setattr(broker._registry, "detach", fail)
    monkeypatch.setattr(broker._router, "publish_run", fail)
    assert peer.send(Publish("a")).rest() == b""
    other.quiet()
    monkeypatch.undo()
    assert "closing failed" in caplog.text


def link_of(broker, client_id):
    """Return the broker's `Link` of a client."""
    (link,) = (link for link in broker._hub.admission.all if link._handler.subscriber.client_id == client_id)
    return link


@pytest.mark.parametrize(
    ("step", "store", "size"),
    [("_prepare", MemoryStore(), 1), ("_flush", MemoryStore(), 1), ("_flush", None, 1), ("_write", None, 70_000)],
)
def test_an_error_in_writing_to_one_client_affects_no_other(start, client, monkeypatch, caplog, step, store, size):
    broker = start(store=store)
    before, poor, behind, publisher = (client(name, broker=broker) for name in ("before", "poor", "behind", "pub"))
    for each in (before, poor, behind):
        each.subscribe(("t", 0))
    link, whole = link_of(broker, "poor"), getattr(Link, step)

    def fail(self, *args):
        if self is link:
            raise MemoryError("planted")
        return whole(self, *args)

    monkeypatch.setattr(Link, step, fail)
    publish = Publish("t", bytes(size))
    publisher.send(publish)
    assert before.messages(1) == behind.messages(1) == [publish]
    assert poor.rest() == b""
    publisher.quiet()
    assert "planted" in caplog.text


def test_an_error_in_writing_from_the_timer_ends_the_connection(start, client, monkeypatch, caplog):
    broker = start()
    silent = client("c", broker=broker, keep_alive=1)

    def fail(self, *args):
        raise MemoryError("planted")

    monkeypatch.setattr(Link, "_flush", fail)
    assert silent.rest() == b""
    assert "planted" in caplog.text


@pytest.mark.parametrize("error", [StoreError, MemoryError])
def test_a_commit_that_fails_once_blocks_no_client(start, client, monkeypatch, caplog, error):
    store = MemoryStore()
    broker = start(store=store)
    publisher, *peers = (client(name, broker=broker) for name in ("pub", "a", "b"))
    for each in peers:
        each.subscribe(("t", 0))
    whole = store.commit

    def commit():
        monkeypatch.setattr(store, "commit", whole)
        raise error("planted")

    monkeypatch.setattr(store, "commit", commit)
    for _ in range(2):
        publisher.send(Publish("t", b"x"))
        assert [each.messages(1) for each in peers] == [[Publish("t", b"x")]] * 2
    assert "planted" in caplog.text


def test_failed_housekeeping_is_repeated(start, monkeypatch, caplog):
    broker = start(sys_interval=0.001)
    broker._router.notices._clock = lambda: 100.0  # so that no slow machine gets further lines
    done = threading.Event()
    calls = []

    def metrics():
        calls.append(None)
        if len(calls) <= 3 * _BURST:
            raise MemoryError("planted")
        done.set()
        return {}

    monkeypatch.setattr(broker._hub.status, "metrics", metrics)
    assert done.wait(PATIENCE)
    said = [record.getMessage() for record in caplog.records]
    assert said.count("the broker's housekeeping failed") == _BURST


@pytest.mark.statement("MQTT-3.1.4-5")
def test_a_connect_followed_by_garbage_is_not_accepted(start, wire):
    connected = []
    broker = start(on_connected=connected.append, authenticator=lambda peer, connect: True)
    assert wire(broker).send(Connect("c", will=Message("w")), "f0 00").rest() == b""
    assert connected == []
    assert broker.metrics()["clients/total"] == 0


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_the_result_of_a_cancelled_hook_is_ignored(start, wire, scheme):
    """The client has disconnected, and the decision of the hook comes too late."""
    begun, answered = threading.Event(), threading.Event()

    async def stubborn(*args):
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            answered.set()
            return None if scheme == "ws" else True

    hook = {"on_upgrade": stubborn} if scheme == "ws" else {"authenticator": stubborn}
    broker = start(**hook)
    peer = wire(broker, scheme, **({"upgrade": False} if scheme == "ws" else {}))
    if scheme == "ws":
        peer.socket.sendall(
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        )
    else:
        peer.send(Connect("c"))
    assert begun.wait(PATIENCE)
    broker.stop()
    assert b" 101 " not in peer.rest()
    assert answered.wait(PATIENCE)


def test_an_upgrade_hook_that_never_answers_is_not_waited_for(start, wire, hurry):
    asked = []

    async def never(peer):
        asked.append(peer.target)
        hurry(broker)
        await asyncio.Event().wait()

    broker = start(on_upgrade=never)
    assert b" 500 " in wire(broker, "ws", upgrade=False).upgrade("/", "x")
    assert asked == ["/"]


def test_a_rejection_that_is_invalid_in_http_closes_the_connection(start, wire, caplog):
    broker = start(on_upgrade=lambda peer: Rejection(403, [("bad name\n", "x")]))
    assert b" 101 " not in wire(broker, "ws", upgrade=False).upgrade("/", "x")
    wire(broker, "mqtt").connect()
    assert "closed because of an error" in caplog.text


def test_an_exception_in_the_brokers_thread_is_raised_in_the_caller(broker):
    def fail():
        raise LookupError("planted")

    with pytest.raises(LookupError, match="planted"):
        broker._call(fail)


@pytest.mark.statement("U-7")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_an_unnoticed_reset_delays_no_other_connection(wire, scheme, caplog):
    """A connection to be closed has been reset meanwhile; the others of the same turn are served."""

    async def run():
        async with Broker(sys_interval=None) as broker:
            loop = asyncio.get_running_loop()
            connect = partial(loop.run_in_executor, None, lambda name: wire(broker, scheme).connect(name))
            gone, other = await connect("gone"), await connect("other")
            await loop.run_in_executor(None, other.subscribe, ("t", 0))
            gone.reset()
            assert broker.disconnect("gone")
            assert broker.publish("t", b"x") == 1
            assert await loop.run_in_executor(None, other.messages, 1) == [Publish("t", b"x")]
            await loop.run_in_executor(None, other.close)

    asyncio.run(run())
    assert not [record for record in caplog.records if record.name == "asyncio"]
