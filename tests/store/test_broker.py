"""A broker with a store: exactly what it has acknowledged survives the end of its process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from drivers import wait_until
from wire import Wire

from mqttws import (
    Connect,
    MQTTError,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SQLiteStore,
    StoreError,
    UnsubAck,
    Unsubscribe,
)
from mqttws.broker import Accepted, Access, Broker, Limits, Peer, Verdict
from mqttws.broker.persistence import Persistence
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.protocol.store import MemoryStore


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


class Silent:
    """An outlet that discards packets."""

    held = 0

    def send(self, packets: bytes) -> bool:
        return True

    def wake(self) -> None:
        pass

    def end(self, error: MQTTError) -> None:
        pass


def killed(store: MemoryStore) -> MemoryStore:
    """Return a copy of a store as the next process finds it."""
    survivor = MemoryStore()
    for key, value in store._safe.items():
        survivor.put(key, value)
    survivor.commit()
    return survivor


Start = Callable[..., tuple[Broker, Callable[..., Wire]]]


@pytest.fixture
def start(stack: ExitStack) -> Start:
    """Return a function that starts a broker, and one that creates its clients."""

    def start(**options: Any) -> tuple[Broker, Callable[..., Wire]]:
        broker = stack.enter_context(Broker(sys_interval=None, **options))

        def client(client_id: str, scheme: str = "mqtt", **fields: Any) -> Wire:
            return stack.enter_context(Wire(broker.url_of(scheme))).connect(client_id, **fields)

        return broker, client

    return start


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_sessions_queues_subscriptions_and_retained_messages_survive_the_process(start: Start, scheme: str) -> None:
    store = MemoryStore()
    _, client = start(store=store)
    away = client("away", scheme, clean_session=False)
    away.subscribe(("a/#", 2), ("b", 1))
    away.close()
    publisher = client("publisher", scheme, clean_session=True)
    publisher.send(
        Publish("a/1", b"one", 1, packet_id=1),
        Publish("a/2", b"two", 2, packet_id=2),
        Publish("b", b"kept", 1, True, packet_id=3),
        Publish("gone", b"kept", 1, True, packet_id=4),
        Publish("gone", b"", 1, True, packet_id=5),
    )
    acknowledged = [publisher.receive() for _ in range(5)]  # in order for each QoS [MQTT-4.6.0-2], [MQTT-4.6.0-3]
    assert [each for each in acknowledged if each != PubRec(2)] == [PubAck(1), PubAck(3), PubAck(4), PubAck(5)]
    store = killed(store)
    second, client = start(store=store)
    assert second.metrics()["clients/total"] == 1
    assert second.metrics()["subscriptions/count"] == 2
    assert second.metrics()["retained messages/count"] == 1
    away = client("away", scheme, clean_session=False)
    assert away.session_present
    assert [(message.payload, message.qos) for message in away.messages(3)] == [(b"one", 1), (b"two", 2), (b"kept", 1)]
    fresh = client("fresh", scheme)
    fresh.subscribe(("#", 1))
    assert [(message.topic, message.retain) for message in fresh.messages(1)] == [("b", True)]
    live = client("live", scheme)
    live.send(Publish("a/3", b"live", 1, packet_id=1)).expect(PubAck(1))
    assert away.messages(1)[0].payload == b"live"


def test_phases_and_identifiers_survive_the_process(start: Start) -> None:
    store = MemoryStore()
    _, client = start(store=store)
    peer = client("c", clean_session=False)
    peer.subscribe(("a", 2))
    peer.send(Publish("x", b"", 2, packet_id=77)).expect(PubRec(77))
    publisher = client("publisher")
    publisher.send(*[Publish("a", b"%d" % n, 1 + n % 2, packet_id=n) for n in range(1, 6)])
    assert [message.packet_id for message in peer.messages(5)] == [1, 2, 3, 4, 5]
    peer.send(PubAck(2), PubRec(3)).expect(PubRel(3))
    store = killed(store)
    _, client = start(store=store)
    peer = client("c", clean_session=False)
    assert [peer.receive() for _ in range(4)] == [
        PubRel(3),
        Publish("a", b"1", 2, False, True, 1),
        Publish("a", b"4", 1, False, True, 4),
        Publish("a", b"5", 2, False, True, 5),
    ]
    peer.subscribe(("x", 2))
    peer.send(Publish("x", b"copy", 2, False, True, 77)).expect(PubRec(77))
    peer.send(PubRel(77)).expect(PubComp(77))
    peer.quiet()
    peer.send(Publish("x", b"new", 2, packet_id=77)).expect(PubRec(77), Publish("x", b"new", 2, packet_id=6))


def test_ended_sessions_leave_nothing(start: Start) -> None:
    store = MemoryStore()
    broker, client = start(store=store, limits=Limits(session_expiry=0.05))
    for name in ("expires", "cleaned"):
        peer = client(name, clean_session=False)
        peer.subscribe(("a", 2), ("b", 2))
        peer.send(Unsubscribe(2, ["b"])).expect(UnsubAck(2))
        broker.publish("a", b"x", 2)
        peer.messages(1)
        peer.close()
    client("cleaned", clean_session=True).send("e0 00").rest()
    while broker.metrics()["clients/total"]:
        pass
    assert len(store) == 0
    second, _ = start(store=killed(store))
    assert second.metrics()["clients/total"] == 0


@pytest.mark.parametrize(("expiry", "kept"), [(0.0, False), (None, True)])
def test_a_killed_process_does_not_change_the_expiry_of_sessions(expiry: float | None, kept: bool) -> None:
    """Neither 0 nor None: the session of a client that was connected when the process was killed."""
    store = MemoryStore()
    before = Registry(Router(Limits(session_expiry=None), persistence=Persistence(store)))
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    before.attach(peer, Connect("c", clean_session=False), Accepted(session_expiry=expiry), Silent())
    store.commit()
    after = Registry(Router(persistence=Persistence(killed(store))))
    after.recover(1000.0)
    assert after.find("c") is not None
    after.expire(1000.0 if expiry == 0 else 1e12)
    assert (after.find("c") is not None) is kept


def test_the_filters_of_a_stored_session_are_counted_and_released() -> None:
    store = MemoryStore()
    before = Router(persistence=Persistence(store))
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    subscriber, _ = Registry(before).attach(peer, Connect("c", clean_session=False), Accepted(), Silent())
    before.subscribe(subscriber, [("a/b/c", 0), ("d/+", 1), ("$share/g/e", 0)])
    store.commit()
    router = Router(persistence=Persistence(killed(store)))
    registry = Registry(router)
    registry.recover(0.0)
    known = registry.find("c")
    assert known is not None
    assert (known.levels, known.filter_bytes) == (subscriber.levels, subscriber.filter_bytes) == (8, 18)
    router.unsubscribe(known, ["a/b/c", "d/+", "$share/g/e"])
    assert (known.levels, known.filter_bytes) == (0, 0)


def test_sessions_expire_after_a_restart(start: Start) -> None:
    store = MemoryStore()
    _, client = start(store=store, limits=Limits(session_expiry=0.05))
    client("c", clean_session=False)
    store = killed(store)
    assert len(store) > 0
    start(store=store)
    wait_until(lambda: len(store) == 0)


def test_owner_and_user_name_are_kept(start: Start) -> None:
    store = MemoryStore()
    asked: list[str | None] = []

    def authorize(peer: Peer, access: Access) -> Verdict:
        if access.action == "receive":
            asked.append(peer.username)
        return Verdict(True)

    options: dict[str, Any] = {"authenticator": lambda peer, connect: Accepted(), "authorizer": authorize}
    _, client = start(store=store, **options)
    client("c", clean_session=False, username="ann").subscribe(("a", 1))
    second, client = start(store=killed(store), **options)
    second.publish("a", b"x", 1)
    assert asked == []  # for a client not seen by this process, the authorizer is called when it reconnects
    with pytest.raises(AssertionError):
        client("c", clean_session=False, username="bob")
    back = client("c", clean_session=False, username="ann")
    assert back.session_present
    assert [message.payload for message in back.messages(1)] == [b"x"]
    assert asked == ["ann"]


class Failing(MemoryStore):
    """A store whose disk can become full."""

    full = False

    def commit(self) -> None:
        if self.full:
            raise StoreError("the disk is full")
        super().commit()


def test_nothing_is_acknowledged_that_is_not_stored(start: Start) -> None:
    store = Failing()
    broker, client = start(store=store)
    away = client("away", clean_session=False)
    away.subscribe(("a", 1))
    publisher = client("publisher")
    store.full = True
    publisher.send(Publish("a", b"x", 1, packet_id=1))
    assert publisher.rest() == b""
    assert away.rest() == b""
    with pytest.raises(StoreError, match="full"):
        broker.publish("a", b"y", 1)
    store.full = False
    again = client("away", clean_session=False)
    assert [message.payload for message in again.messages(2)] == [b"x", b"y"]  # at least once, in order


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"m\0\x01c", b"{}"),
        (b"m\0\x01c", b"["),
        (b"m\0\x01c", b"[" * 100_000),
        (b"m\0\x01c", b'{"owner": null, "username": null, "expiry": "soon"}'),
        (b"r#", b"\0"),
        (b"ra", b""),
        (b"ra", b"\x07"),
    ],
)
def test_a_store_of_another_program_is_refused(key: bytes, value: bytes) -> None:
    store = MemoryStore()
    store.put(key, value)
    with pytest.raises(StoreError, match="cannot be read"), Broker(store=store):
        pass


def test_a_killed_broker_keeps_its_state(tmp_path: Path, stack: ExitStack) -> None:
    """`pubsub serve --store` survives a kill of its process, and a second process with the same file is refused."""
    path = tmp_path / "broker.db"

    def serve() -> tuple[subprocess.Popen[str], str]:
        command = [sys.executable, "-m", "pubsub", "serve", "--no-ws", "--tcp-port", "0", "--store", str(path)]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    process, url = serve()
    with Wire(url).connect("c", clean_session=False) as peer:
        peer.subscribe(("a", 1))
    with Wire(url).connect("p") as publisher:
        publisher.send(*[Publish("a", b"%d" % n, 1, packet_id=n) for n in range(1, 51)])
        publisher.expect(*[PubAck(n) for n in range(1, 51)])
    command = [sys.executable, "-m", "pubsub", "serve", "--tcp-port", "0", "--no-ws", "--store", str(path)]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert "one process at a time" in refused.stderr
    assert "Traceback" not in refused.stderr
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    process, url = serve()
    with Wire(url).connect("c", clean_session=False) as peer:
        assert peer.session_present
        assert [message.payload for message in peer.messages(50)] == [b"%d" % n for n in range(1, 51)]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not Path(f"{path}-wal").exists()  # it was closed in order
    SQLiteStore(path).close()


def test_aws_iot_has_no_store(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pubsub", "serve", "--aws-iot", "--store", str(tmp_path / "x.db")]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 2
    assert "--store is for the plain broker" in refused.stderr
