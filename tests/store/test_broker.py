"""A broker with a store: exactly what it has acknowledged survives the end of its process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE, wait_until
from wire import Wire

from mqttws import (
    Client,
    Connect,
    ConnectError,
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
from mqttws.broker.hooks import Hooks
from mqttws.broker.persistence import Persistence
from mqttws.broker.registry import Registry
from mqttws.broker.router import Router
from mqttws.broker.subscriber import Subscriber
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
    expired = after.expire(1000.0 if expiry == 0 else 1e12)
    assert expired is None or not expired.work(inf)
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


class Recording(MemoryStore):
    """A store that keeps what each commit would leave to the next process."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[set[bytes]] = []

    def commit(self) -> None:
        super().commit()
        self.commits.append({key[:1] for key in self._safe})


@pytest.mark.statement("MQTT-4.3.3-2")
@pytest.mark.parametrize("size", [1, 70_000])
def test_no_commit_comes_between_the_copies_of_a_message_and_its_identifier(start: Start, size: int) -> None:
    """Also if the copy for a connected client is large enough to be written immediately."""
    store = Recording()
    _, client = start(store=store)
    client("away", clean_session=False).subscribe(("a", 2))
    watcher, publisher = client("watcher"), client("publisher", clean_session=False)
    watcher.subscribe(("a", 0))
    publisher.send(Publish("a", bytes(size), 2, packet_id=7))
    assert publisher.receive() == PubRec(7)
    assert watcher.messages(1) == [Publish("a", bytes(size))]
    assert any(b"o" in commit for commit in store.commits)
    assert all(b"i" in commit for commit in store.commits if b"o" in commit)


def test_messages_that_wait_for_a_commit_are_bounded(start: Start) -> None:
    broker, client = start(store=MemoryStore(), limits=Limits(max_write_buffer=100_000))
    watcher = client("watcher")
    watcher.subscribe(("a", 0))

    def publish() -> int:
        return sum(broker._router.publish("a", bytes(10_000)) for _ in range(100))

    given = broker._call(publish)
    assert 100_000 // 10_000 <= given <= 100_000 // 10_000 + 1
    assert len(watcher.messages(given)) == given
    watcher.quiet()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"m\0\x01c", b"{}"),
        (b"m\0\x01c", b"["),
        (b"m\0\x01c", b"[" * 100_000),
        (b"m\0\x01c", b'{"owner": null, "username": null, "expiry": "soon"}'),
        (b"m\0\x01c", b'{"owner": null, "username": null, "expiry": -1}'),
        (b"m\0\x01c", b'{"owner": null, "username": null, "expiry": NaN}'),
        (b"m\0\x01c", b'{"owner": null, "username": null, "expiry": 1' + b"0" * 400 + b"}"),
        (b"m\0\x01c", b'{"owner": [], "username": null, "expiry": null}'),
        (b"m\0\x01c", b'{"owner": null, "username": 1, "expiry": null}'),
        (b"m\0\x01c", b'{"owner": null, "username": "\\ud800", "expiry": null}'),
        (b"m\0\x02c", b'{"owner": null, "username": null, "expiry": null}'),
        (b"m", b'{"owner": null, "username": null, "expiry": null}'),
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


class Unreadable(MemoryStore):
    """A store that cannot be read at some later time."""

    def __init__(self) -> None:
        super().__init__()
        self.reads_left = inf

    def load(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        self.reads_left -= 1
        if self.reads_left == -1:
            raise StoreError("the disk failed")
        return super().load(prefix)


def test_a_session_that_could_not_be_read_does_not_exist(start: Start) -> None:
    """[MQTT-3.2.2-3]: the first attempt of a client has no effect."""
    store = Unreadable()
    broker, client = start(store=store)
    store.reads_left = 0
    with pytest.raises(AssertionError, match="closed the connection"):
        client("c", clean_session=False)
    assert broker.sessions() == []
    peer = client("c", clean_session=False)
    assert not peer.session_present
    peer.subscribe(("t", 1))
    second, _ = start(store=killed(store))
    assert [session.subscriptions for session in second.sessions()] == [{"t": 1}]


def test_a_client_of_the_broker_that_uses_its_store_is_refused(start: Start) -> None:
    store = MemoryStore()
    options: dict[str, Any] = {"client_id": "c", "clean_session": False, "store": store}
    broker, client = start(store=store)
    refused = Client(broker.url_of("mqtt"), **options | {"client_id": "d"})
    with pytest.raises(ConnectError):
        refused.open()
    assert broker.sessions() == []
    client("c", clean_session=False).subscribe(("t", 1))
    with pytest.raises(StoreError, match="a broker uses this store with the client identifier 'c'"):
        Client(broker.url, **options)
    broker.stop()
    with pytest.raises(StoreError, match="a broker uses this store"):
        Client(broker.url, **options)
    broker.start()
    assert [session.client_id for session in broker.sessions()] == ["c"]


def test_one_broker_at_a_time_uses_a_store(start: Start) -> None:
    store = MemoryStore()
    first, _ = start(store=store)
    second = Broker(sys_interval=None, store=store)
    with pytest.raises(StoreError, match="another broker uses this store; close that first"):
        second.start()
    first.stop()
    first.start()
    first.stop()
    with second:
        second.publish("t", b"x", retain=True)
        with pytest.raises(StoreError, match="a newer broker has taken over this store"):
            first.start()
    with pytest.raises(StoreError, match="a newer broker has taken over this store"):
        first.start()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_may_use_its_copy_of_a_store(start: Start) -> None:
    store = MemoryStore()
    _, client = start(store=store)
    client("c", clean_session=False).subscribe(("t", 1))
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        with Broker(sys_interval=None, store=store) as broker:
            answers.put([session.client_id for session in broker.sessions()])
        os._exit(0)

    process = context.Process(target=child)
    process.start()
    process.join(PATIENCE)
    assert process.exitcode == 0
    assert answers.get() == ["c"]


def test_a_session_ends_without_reading_the_store(start: Start) -> None:
    store = Unreadable()
    broker, client = start(store=store)
    peer = client("c", clean_session=False)
    peer.subscribe(("t", 2))
    peer.send(Publish("t", b"x", 2, packet_id=7)).expect(PubRec(7), Publish("t", b"x", 2, packet_id=1))
    peer.send("e0 00").rest()
    broker.publish("t", b"y", 1)
    store.reads_left = 0
    client("c", clean_session=True).send("e0 00").rest()
    store.reads_left = inf
    store.commit()
    assert len(store) == 0
    assert not client("c", clean_session=False).session_present


@pytest.mark.parametrize("reads", range(9))
def test_a_start_that_fails_can_be_repeated(reads: int) -> None:
    store = Unreadable()
    before = Registry(Router(persistence=Persistence(store)))
    for name in "ab":
        peer = Peer("mqtt", ("127.0.0.1", 1))
        peer.client_id = name
        subscriber, _ = before.attach(peer, Connect(name, clean_session=False), Accepted(), Silent())
        before._router.subscribe(subscriber, [("t", 1)])
    before._router.publish("r", b"x", 0, True)
    store.commit()
    store.reads_left = reads
    router = Router(persistence=Persistence(store))
    registry = Registry(router)
    if reads < 8:  # the retained messages, the sessions, and three kinds of records for each of two
        with pytest.raises(StoreError):
            registry.recover(0.0)
        assert (len(registry), len(router.retained), router.subscriptions) == (0, 0, 0)
    store.reads_left = inf
    registry.recover(0.0)
    assert (len(registry), len(router.retained), router.subscriptions) == (2, 1, 2)
    assert router.publish("t", b"once", 1) == 2


def test_retained_messages_that_cannot_be_stored_end_the_connection(start: Start) -> None:
    """Nothing acknowledges a message of QoS 0, so that the changes would fill the memory."""
    store = Failing()
    broker, client = start(store=store)
    peer = client("c")
    peer.send(Publish("t", b"1", retain=True))
    peer.quiet()
    store.full = True
    peer.send(Publish("u", b"1", retain=True))
    with pytest.raises(StoreError):
        broker.publish("v", b"1", retain=True)
    assert peer.send(Publish("w", b"1", retain=True)).rest() == b""
    known = len(store._pending)
    for number in range(10):
        with pytest.raises(StoreError):
            broker.publish(f"x/{number}", b"1", retain=True)
    assert len(store._pending) == known
    store.full = False
    client("c").send(Publish("w", b"1", retain=True)).quiet()
    assert {message.topic for message in broker.retained()} >= {"t", "w"}


def test_a_deletion_of_nothing_is_not_stored() -> None:
    store = MemoryStore()
    router = Router(persistence=Persistence(store))
    router.publish("t", b"", 0, True)
    assert not store._pending


def test_a_retained_message_of_the_program_below_sys_is_found_also_after_a_restart(start: Start) -> None:
    store = MemoryStore()
    for number in range(2):
        broker, client = start(store=store, sys_anonymous=True)
        if not number:
            broker.publish("$SYS/app/version", b"7", retain=True)
        peer = client("c")
        peer.subscribe(("$SYS/app/#", 0))
        assert peer.messages(1) == [Publish("$SYS/app/version", b"7", retain=True)]
        broker.stop()


@pytest.mark.parametrize("fails", [True, False])
def test_stored_messages_are_sent_only_after_the_authorizer_has_permitted_them(start: Start, fails: bool) -> None:
    """If it fails, the connection ends, and the messages stay for the next one."""
    store = MemoryStore()
    broker, client = start(store=store)
    peer = client("c", clean_session=False)
    peer.subscribe(("t/#", 1))
    peer.send("e0 00").rest()
    for number in range(20):
        broker.publish(f"t/{number % 2}", b"%d" % number, 1)
    broker.stop()
    asked: list[str] = []

    def authorizer(peer: Peer, access: Access) -> bool:
        if access.action == "receive":
            asked.append(access.topic)
            if fails and len(asked) == 5:
                raise ConnectionError("the database is not up")
        return access.topic != "t/1"

    broker, client = start(store=store, authorizer=authorizer)
    peer = client("c", clean_session=False)
    if fails:
        assert peer.rest() == b""
        peer = client("c", clean_session=False)
    assert [message.payload for message in peer.messages(10)] == [b"%d" % number for number in range(0, 20, 2)]
    assert len(asked) == (5 + 18 if fails else 20)  # two had been denied, and withdrawn
    broker.publish("t/0", b"new", 1)
    assert peer.messages(1)[0].payload == b"new"


def test_a_review_leaves_time_for_others() -> None:
    store = MemoryStore()
    before = Registry(Router(persistence=Persistence(store)))
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    connect = Connect("c", clean_session=False)
    subscriber, _ = before.attach(peer, connect, Accepted(), Silent())
    before._router.subscribe(subscriber, [("t", 1)])
    before.detach(subscriber, 0.0, will=False)
    for number in range(5):
        before._router.publish("t", b"%d" % number, 1)
    store.commit()
    router = Router(hooks=Hooks(authorizer=lambda peer, access: True), persistence=Persistence(killed(store)))
    registry = Registry(router)
    registry.recover(0.0)
    subscriber, present = registry.attach(peer, connect, Accepted(), Silent())
    assert present
    review = router.review(subscriber)
    assert review is not None
    assert [review.work(0.0) for _ in range(6)] == [True] * 5 + [False]
    assert (review.complete, subscriber.known, subscriber.session.sender.waiting) == (True, True, 5)
    assert router.review(subscriber) is None


def reviewed(messages: int, authorizer: Any) -> tuple[Router, Registry, Subscriber]:
    """Return a broker's parts after a restart, with a client that has come back to its stored messages."""
    store = MemoryStore()
    before = Registry(Router(persistence=Persistence(store)))
    peer = Peer("mqtt", ("127.0.0.1", 1))
    peer.client_id = "c"
    connect = Connect("c", clean_session=False)
    subscriber, _ = before.attach(peer, connect, Accepted(), Silent())
    before._router.subscribe(subscriber, [("#", 1)])
    before.detach(subscriber, 0.0, will=False)
    for number in range(messages):
        before._router.publish("t", b"%d" % number, 1)
    store.commit()
    router = Router(hooks=Hooks(authorizer=authorizer), persistence=Persistence(killed(store)))
    registry = Registry(router)
    registry.recover(0.0)
    return router, registry, registry.attach(peer, connect, Accepted(), Silent())[0]


def test_new_messages_are_authorized_while_stored_ones_are_reviewed() -> None:
    router, _, subscriber = reviewed(3, lambda peer, access: access.topic != "secret")
    review = router.review(subscriber)
    assert review is not None
    assert review.work(0.0)
    assert router.publish("secret", b"x", 1) == 0
    assert router.publish("t", b"new", 1) == 1


def test_a_review_ends_with_its_connection() -> None:
    asked: list[str] = []
    router, registry, subscriber = reviewed(5, lambda peer, access: asked.append(access.topic) or True)
    review = router.review(subscriber)
    assert review is not None
    assert review.work(0.0)
    registry.detach(subscriber, 0.0, will=False)
    registry.attach(subscriber.peer, Connect("c", clean_session=False), Accepted(), Silent())
    assert not review.work(inf)
    assert (len(asked), review.complete, subscriber.known) == (1, False, False)
    again = router.review(subscriber)
    assert again is not None
    assert not again.work(inf)
    assert (len(asked), again.complete, subscriber.known) == (6, True, True)


def test_an_expiry_ends_with_the_broker(start: Start) -> None:
    store = MemoryStore()
    broker, client = start(store=store, limits=Limits(session_expiry=1_000.0))
    client("c", clean_session=False).send("e0 00").rest()
    hub = broker._hub
    assert hub is not None
    hub._expiry = broker._registry.expire(1e12)
    hub.stopping = True
    assert not hub.work(inf)
    assert len(broker.sessions()) == 1
    hub.stopping = False
    assert not hub.work(inf)
    assert len(broker.sessions()) == 0
