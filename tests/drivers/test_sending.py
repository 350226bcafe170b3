"""Messages that the calling thread writes itself, and those that it leaves to the network thread."""

from __future__ import annotations

import asyncio
import math
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from drivers import PATIENCE, wait_until
from interrupts import interrupt
from scripted import End, Scripted

import mqttws.aio
from mqttws import (
    Client,
    MessageExpired,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SQLiteStore,
    SubAck,
    Subscribe,
    compiled,
)
from mqttws.broker import Broker
from mqttws.protocol.outgoing import Run, size_of
from mqttws.protocol.sending import Sender
from mqttws.sync import publishing
from mqttws.sync.network import Network


@pytest.fixture
def connected(server: Scripted) -> Iterator[tuple[Client, End]]:
    with connecting(server, max_in_flight=1) as both:
        yield both


@contextmanager
def connecting(server: Scripted, **options: Any) -> Iterator[tuple[Client, End]]:
    client = Client(server.url, client_id="c", **options)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    yield client, end
    closing = server.soon(client.close)
    end.rest()
    end.cut()
    closing.result(PATIENCE)


class Narrow(socket.socket):
    """A socket that accepts only part of the data of each `send`."""

    def __init__(self, real: socket.socket, *takes: int) -> None:
        super().__init__(fileno=real.detach())
        self._takes = list(takes)
        self.senders: list[str] = []

    def send(self, data: bytes, flags: int = 0) -> int:  # type: ignore[override]
        self.senders.append(threading.current_thread().name)
        if not self._takes:
            return super().send(data)
        most = self._takes.pop(0)
        if not most:
            raise BlockingIOError
        return super().send(data[:most])


def narrow(client: Client, *takes: int) -> Narrow:
    network = client._network
    with network.lock:
        assert network._socket is not None
        assert network._poller is not None
        network._poller.watch(network._socket, 0)
        network._watched = 0
        taking = network._socket = Narrow(network._socket, *takes)
        taking.setblocking(False)
        network.wake()
    deadline = time.monotonic() + PATIENCE
    while network.woken:
        assert time.monotonic() < deadline
        network.watch().wait(0.01)
    return taking


def test_a_message_is_written_by_the_thread_that_publishes_it(connected) -> None:
    client, end = connected
    taking = narrow(client)
    client.publish("a", b"1")
    client.publish("a", b"2", retain=True)
    assert end.receive() == Publish("a", b"1")
    assert end.receive() == Publish("a", b"2", 0, True)
    assert taking.senders == [threading.current_thread().name] * 2


def test_the_first_message_of_a_burst_is_written_directly_and_the_rest_together(connected, monkeypatch) -> None:
    monkeypatch.setattr(publishing, "BURST", PATIENCE)
    client, end = connected
    taking = narrow(client)
    seen, see = threading.Event(), client._network._drain_wake
    # The second message wakes the network thread, which runs when all are queued.
    monkeypatch.setattr(client._network, "_drain_wake", lambda: (seen.wait(PATIENCE), see()))
    futures = [client.publish_nowait("a", b"%d" % number) for number in range(5)]
    assert [future.done() for future in futures] == [True, False, False, False, False]
    seen.set()
    assert [end.receive() for _ in range(5)] == [Publish("a", b"%d" % number) for number in range(5)]
    for future in futures:
        future.result(PATIENCE)
    assert len(taking.senders) == 2


def test_the_network_thread_is_woken_only_while_it_waits(connected) -> None:
    client, end = connected
    network, busy, go = client._network, threading.Event(), threading.Event()

    def occupy(future: object) -> None:
        busy.set()
        assert go.wait(PATIENCE)

    client.publish_nowait("a", b"1", 1).add_done_callback(occupy)
    assert end.receive() == Publish("a", b"1", 1, packet_id=1)
    end.send(PubAck(1))
    assert busy.wait(PATIENCE)
    with network.lock:
        waking = network._wake_out = Narrow(network._wake_out)
        waking.setblocking(False)
    future = client.subscribe_nowait("b")
    assert not waking.senders
    go.set()
    assert end.receive() == Subscribe(2, (("b", 0),))  # the thread finds it before it waits
    end.send(SubAck(2, (0,)))
    future.result(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not network.waiting:
        assert time.monotonic() < deadline
        network.watch().wait(0.01)
    client.subscribe_nowait("c")
    assert end.receive() == Subscribe(3, (("c", 0),))
    assert len(waking.senders) == 1
    end.send(SubAck(3, (0,)))


def test_queued_messages_are_not_overtaken(connected) -> None:
    client, end = connected
    first, second = (client.publish_nowait("a", payload, 1) for payload in (b"1", b"2"))
    last = client.publish_nowait("a", b"3")
    assert end.receive() == Publish("a", b"1", 1, packet_id=1)
    end.send(PubAck(1))
    assert end.receive() == Publish("a", b"2", 1, packet_id=2)
    assert end.receive() == Publish("a", b"3")
    first.result(PATIENCE)
    last.result(PATIENCE)
    end.send(PubAck(2))
    second.result(PATIENCE)


def test_the_network_thread_writes_the_rest_of_a_partial_write(connected) -> None:
    client, end = connected
    narrow(client, 3)
    client.publish("a", b"1")
    client.publish("a", b"2")
    assert end.receive() == Publish("a", b"1")
    assert end.receive() == Publish("a", b"2")


def test_a_full_socket_leaves_the_message_to_the_network_thread(connected) -> None:
    client, end = connected
    taking = narrow(client, 0)
    client.publish("a", b"1")
    assert end.receive() == Publish("a", b"1")
    assert taking.senders[0] != taking.senders[1]


def test_a_broken_socket_is_detected(server) -> None:
    client = Client(server.url, client_id="c", reconnect=False)
    opening = server.soon(client.open)
    server.accept().welcome()
    opening.result(PATIENCE)
    taking = narrow(client)
    taking.send = raises(BrokenPipeError(32, "Broken pipe"))  # type: ignore[method-assign]
    future = client.publish_nowait("a", b"1")
    with pytest.raises(Exception, match="Broken pipe"):
        client.publish("a", b"2", qos=1, timeout=PATIENCE)
    client.close()
    assert future.done()


def raises(error: Exception) -> Callable[..., Any]:
    def call(*arguments: object) -> None:
        raise error

    return call


@pytest.mark.parametrize("takes", [(), (4,), (0,)])
def test_an_interrupted_write_neither_loses_nor_repeats_a_byte(connected, monkeypatch, takes) -> None:
    """Ctrl-C arrives after the socket has accepted the bytes, and before the thread has recorded that."""
    client, end = connected
    narrow(client, *takes)
    note, interrupts = Network._note_sending, [KeyboardInterrupt()]

    def interrupted(network: Network) -> None:
        if interrupts and network._sending is not None:
            raise interrupts.pop()
        note(network)

    monkeypatch.setattr(Network, "_note_sending", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.publish("a", b"interrupted")
    client.publish("a", b"next")
    received = [end.receive()]
    if received[0] == Publish("a", b"interrupted"):
        received.append(end.receive())
    assert received[-1] == Publish("a", b"next")
    assert (len(received) == 1) == (takes == (0,))  # sent if the socket accepted any of it
    end.send(Publish("a", b"still in step", 1, packet_id=5))
    with client._network.lock:
        client._network.wake()
    assert next(client.messages(PATIENCE)).payload == b"still in step"


def wakings(client: Client) -> Narrow:
    """Return the socket through which the network thread is woken, once the thread waits."""
    network = client._network
    with network.lock:
        assert network._wake_out is not None
        waking = network._wake_out = Narrow(network._wake_out)
        waking.setblocking(False)
    wait_until(lambda: network.waiting and not network.woken)
    return waking


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("waits", [False, True])
def test_a_lone_acknowledged_message_is_written_by_the_thread_that_publishes_it(connected, server, qos, waits) -> None:
    client, end = connected
    taking, waking = narrow(client), wakings(client)
    publish = client.publish if waits else client.publish_nowait
    names: list[str] = []

    def call() -> Any:
        names.append(threading.current_thread().name)
        return publish("a", b"1", qos, True)

    publishing = server.soon(call)
    assert end.receive() == Publish("a", b"1", qos, True, packet_id=1)
    if qos == 2:
        end.send(PubRec(1)).expect(PubRel(1)).send(PubComp(1))
    else:
        end.send(PubAck(1))
    future = publishing.result(PATIENCE)
    if not waits:
        future.result(PATIENCE)
    assert taking.senders[0] == names[0]
    assert not waking.senders
    assert len(client.session.sender) == len(client.session.identifiers) == 0


@pytest.mark.parametrize("options", [{"ack_timeout": PATIENCE}, {"resend_after": PATIENCE}, {"publish_rate": 100.0}])
def test_a_message_that_a_timer_watches_is_left_to_the_network_thread(server, options) -> None:
    with connecting(server, **options) as (client, end):
        taking = narrow(client)
        future = client.publish_nowait("a", b"1", 1)
        assert end.receive() == Publish("a", b"1", 1, packet_id=1)
        end.send(PubAck(1))
        future.result(PATIENCE)
        assert set(taking.senders) == {"mqttws c"}


def test_a_stored_message_is_left_to_the_network_thread(server, tmp_path) -> None:
    store = SQLiteStore(tmp_path / "store")
    with connecting(server, clean_session=False, store=store) as (client, end):
        taking = narrow(client)
        publishing = server.soon(lambda: client.publish("a", b"1", 1))
        packet = end.receive()
        assert isinstance(packet, Publish)
        assert packet.packet_id is not None
        end.send(PubAck(packet.packet_id))
        publishing.result(PATIENCE)
        assert set(taking.senders) == {"mqttws c"}
    store.close()


@pytest.mark.parametrize("takes", [(3,), (0,), (0, 3), (3, 0, 3)])
def test_the_network_thread_writes_the_rest_of_an_acknowledged_message(connected, takes) -> None:
    client, end = connected
    narrow(client, *takes)
    futures = [client.publish_nowait("a", b"%d" % number, 1) for number in (1, 2)]
    for number, future in enumerate(futures, 1):
        assert end.receive() == Publish("a", b"%d" % number, 1, packet_id=number)
        end.send(PubAck(number))
        future.result(PATIENCE)
    assert len(client.session.sender) == len(client.session.identifiers) == 0


@pytest.mark.skipif(compiled, reason="no signal handler runs in the middle of compiled code")
@pytest.mark.parametrize("takes", [(), (3,), (0,)])
def test_an_interrupt_of_an_acknowledged_message_leaves_it_whole_or_unpublished(connected, takes) -> None:
    """Neither half a packet, nor a message in flight that is never sent, nor an identifier that stays in use."""
    client, end = connected
    network, session = client._network, client.session
    step = published = direct = 0
    while True:
        wait_until(lambda: network.waiting and not network.woken)
        taking = narrow(client, *takes)
        network._sent_at = 0.0  # not a burst
        was_interrupted = interrupt(step, lambda: client.publish_nowait("interrupted", b"1", 1))
        direct += threading.current_thread().name in taking.senders
        last = client.publish_nowait("last", b"2", 1)
        while True:
            packet = end.receive()
            assert isinstance(packet, Publish)
            assert not packet.dup
            assert packet.packet_id is not None
            end.send(PubAck(packet.packet_id))
            if packet.topic == "last":
                break
            published += 1
        last.result(PATIENCE)
        assert (len(session.sender), session.sender._count, len(session.identifiers)) == (0, 0, 0)
        assert not client._core.pending._futures
        if not was_interrupted:
            break
        step += 1
    assert step > 10
    assert 0 < published <= step
    assert 0 < direct < step


@pytest.mark.skipif(compiled, reason="no signal handler runs in the middle of compiled code")
@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("takes", [(3,), (0,)])
def test_the_network_thread_finishes_an_interrupted_write_without_another_call(server, qos, takes) -> None:
    with connecting(server, keep_alive=0) as (client, _):
        network, step, was_interrupted = client._network, 0, True
        while was_interrupted:
            wait_until(lambda: network.waiting and not network.woken)
            narrow(client, *takes)
            wait_until(lambda: network.waiting and not network.woken)
            network._sent_at = 0.0  # not a burst
            was_interrupted = interrupt(step, lambda: client.publish_nowait("a", b"1", qos))
            wait_until(lambda: network._sending is None and not network._unsent)
            step += 1
        assert step > 10
        client.close(0)  # nothing is ever acknowledged


@pytest.mark.parametrize("kind", [Client, mqttws.aio.Client])
def test_only_its_own_client_can_withdraw_a_message(kind) -> None:
    async def main() -> None:
        one, other = kind("ws://127.0.0.1:1/"), kind("ws://127.0.0.1:1/")
        mine, theirs = one.publish_nowait("a", b"1"), other.publish_nowait("a", b"1")
        assert not one.withdraw(theirs)
        assert one.session.sender.waiting == other.session.sender.waiting == 1
        assert one.withdraw(mine)
        assert not one.withdraw(mine)
        assert not mine.done()
        assert one.session.sender.waiting == 0

    asyncio.run(main())


def test_a_written_message_is_not_kept() -> None:
    payload = bytes(768 * 1024)
    with Broker(sys_interval=None) as broker, Client(broker.url) as client:
        client.publish("a/b", b"x", qos=1)
        tracemalloc.start()
        try:
            client.publish("a/b", payload, qos=1)
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert kept < len(payload) // 2


@pytest.mark.skipif(compiled, reason="a compiled method cannot be replaced")
@pytest.mark.parametrize("withdrawn", [True, False])
def test_a_withdrawal_that_a_signal_handler_interrupts_leaves_a_future_only_with_its_message(
    monkeypatch: pytest.MonkeyPatch, withdrawn: bool
) -> None:
    client = Client("mqtt://127.0.0.1:1", client_id="c")
    future = client.publish_nowait("a", b"x", 1)
    pending = client._core.pending

    def interrupted(sender: Sender, token: int) -> bool:
        if withdrawn:
            assert withdraw(sender, token)
        raise KeyboardInterrupt

    withdraw = Sender.withdraw
    with monkeypatch.context() as patch:
        patch.setattr(Sender, "withdraw", interrupted)
        with pytest.raises(KeyboardInterrupt):
            client.withdraw(future)
    assert len(pending._futures) == len(pending.sender) == (0 if withdrawn else 1)


@pytest.mark.skipif(compiled, reason="compiled code is not traced")
@pytest.mark.parametrize("qos", [0, 1])
def test_an_interrupted_call_that_drops_a_message_leaves_no_future_without_its_outcome(qos: int) -> None:
    step, more = 0, True
    while more:
        client = Client("mqtt://127.0.0.1:1", client_id="c", max_queued=2, overflow="drop_oldest")
        dropped, kept = (client.publish_nowait("a", b"x", qos) for _ in range(2))
        more = interrupt(step, partial(client.publish_nowait, "a", b"y", qos))
        client._core.callbacks.run()
        sender = client._core.pending.sender
        assert dropped.done() or sender.first_waiting == 1
        assert not kept.done()
        assert len(sender) <= 2
        step += 1
    assert step > 10


def counted(sender: Sender) -> tuple[int, int]:
    """Return how many messages are queued, and their bytes."""
    sizes = []
    for entry in sender.queue:
        sizes += [*filter(None, map(len, entry.packets))] if isinstance(entry, Run) else [size_of(entry[1], entry[2])]
    return len(sizes), sum(sizes)


@pytest.mark.skipif(compiled, reason="compiled code is not traced")
@pytest.mark.parametrize("position", range(4))
def test_an_interrupted_withdrawal_leaves_the_counters_right(position: int) -> None:
    step, more, results = 0, True, set()
    while more:
        client = Client("mqtt://127.0.0.1:1", client_id="c")
        futures = [client.publish_nowait("a", b"x" * qos, qos) for qos in (1, 0, 0, 2)]
        more = interrupt(step, partial(client.withdraw, futures[position]))
        sender = client._core.pending.sender
        assert (sender.waiting, sender.waiting_size) == counted(sender)
        results.add(sender.waiting)
        step += 1
    assert step > 10
    assert results == {3, 4}


@pytest.mark.skipif(compiled, reason="compiled code is not traced")
def test_an_interrupted_expiry_leaves_no_future_without_its_outcome() -> None:
    """Each message expires once, and none is taken for that of an earlier process."""
    step, more, results, errors = 0, True, set(), []
    while more:
        client = Client("mqtt://127.0.0.1:1", client_id="c", expire_after=60.0, on_error=errors.append)
        late = [client.publish_nowait("a", b"x", qos) for qos in (1, 0, 0, 2)]
        kept = client.publish_nowait("a", b"x", 1, expire_after=math.inf)
        expire = partial(client._network.call, client._core.pass_time, time.monotonic() + 61.0)
        more = interrupt(step, expire)
        sender = client._core.pending.sender
        assert (sender.waiting, sender.waiting_size) == counted(sender)
        results.add((sender.waiting, len(client._core.callbacks.due)))
        expire()
        client._core.callbacks.run()
        assert all(isinstance(future.exception(timeout=0), MessageExpired) for future in late)
        assert not kept.done()
        assert (sender.waiting, errors) == (1, [])
        assert client.expired == 4 or (
            more and client.expired == 0
        )  # only the statistics may miss the interrupted call
        step += 1
    assert step > 10
    assert {(5, 0), (5, 1), (1, 1)} <= results


@pytest.mark.skipif(compiled, reason="no signal handler runs in the middle of compiled code")
@pytest.mark.parametrize("call", ["publish_nowait, QoS 0", "publish_nowait, QoS 1", "publish", "subscribe_nowait"])
def test_what_an_interrupted_call_has_queued_is_sent_without_another_call(call: str) -> None:
    with Broker(sys_interval=None) as broker, Client(broker.url, keep_alive=0) as client:
        network, session = client._network, client.session
        make: Callable[[], object] = {
            "publish_nowait, QoS 0": partial(client.publish_nowait, "a", b"1"),
            "publish_nowait, QoS 1": partial(client.publish_nowait, "a", b"1", 1),
            "publish": partial(client.publish, "a", b"1", 1),
            "subscribe_nowait": partial(client.subscribe_nowait, "b"),
        }[call]
        sender, step, more, queued = session.sender, 0, True, 0
        while more:
            wait_until(lambda: network.waiting and not network.woken)
            network._sent_at = time.monotonic() + 60.0  # as in a burst, so that the message is queued
            last = sender._last_token
            more = interrupt(step, make)
            wait_until(lambda: not sender.queue and not session.requests)
            queued += more and sender._last_token > last
            step += 1
        assert queued > 3
