"""`close` and `flush`: queued messages are sent, acknowledgements are awaited, and the rest fails with an error."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE, States, core_of, wait_until
from scripted import Scripted, connected

import mqttws.aio
from mqttws import (
    ConnectionClosed,
    Disconnect,
    MQTTError,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    Reconnect,
    SessionLost,
    SQLiteStore,
    TimedOut,
)
from mqttws.broker import Broker

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


def test_close_sends_queued_messages_as_acknowledgements_arrive(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_in_flight=2)
    futures = [client.publish_nowait("a", str(number), 1) for number in range(6)]
    closing = server.soon(client.close)
    for number in range(6):
        end.expect(Publish("a", str(number).encode(), 1, packet_id=number + 1))
        end.send(PubAck(number + 1))
    assert end.rest() == Disconnect().encode()
    end.cut()
    closing.result(PATIENCE)
    assert [future.result(0) for future in futures] == [None] * 6


def test_close_waits_for_the_end_of_qos_2_and_for_requests(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    future = client.publish_nowait("a", b"x", 2)
    subscribing = client.subscribe_nowait("b")
    end.receive()
    subscribe = end.receive()
    closing = server.soon(client.close)
    end.send(PubRec(1)).expect(PubRel(1)).send(PubComp(1))
    end.send(f"90 03 00 0{subscribe.packet_id} 00")
    assert end.rest() == Disconnect().encode()
    end.cut()
    closing.result(PATIENCE)
    assert future.result(0) is None
    assert subscribing.result(0) == 0


def test_close_ends_at_its_timeout(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_in_flight=1)
    futures = [client.publish_nowait("a", b"x", 1) for _ in range(2)]
    begun = time.monotonic()
    closing = server.soon(client.close, 0.2)
    end.receive()
    assert end.rest() == Disconnect().encode()
    end.cut()
    closing.result(PATIENCE)
    assert time.monotonic() - begun > 0.15
    for future in futures:
        with pytest.raises(ConnectionClosed, match="closed before"):
            future.result(0)


def test_every_wait_may_be_without_end(make: Make, server: Scripted) -> None:
    client = make(server.url, client_id="c", timeout=inf)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    publishing = server.soon(client.publish, "a", b"x", 1, timeout=inf)
    end.expect(Publish("a", b"x", 1, packet_id=1)).send(PubAck(1))
    publishing.result(PATIENCE)
    closing = server.soon(client.close, inf)
    end.expect(Disconnect()).cut()
    closing.result(PATIENCE)


def test_a_time_out_says_why_there_is_no_connection(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url, client_id="c", reconnect=AT_ONCE)
    client.open(wait=False)
    tcp_server.accept().cut()
    tcp_server.accept()  # the first attempt is over
    reason = "the client is connecting: .+"
    with pytest.raises(TimedOut, match=rf"not delivered within 0\.2 s: {reason}; it was not sent and will not be"):
        client.publish("a", b"x", 1, timeout=0.2)
    with pytest.raises(TimedOut, match=rf"no answer to the SUBSCRIBE within 0\.2 s: {reason}"):
        client.subscribe("a", timeout=0.2)


def test_close_survives_a_lost_connection(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, reconnect=AT_ONCE)
    future = client.publish_nowait("a", b"x", 1)
    end.receive()
    closing = server.soon(client.close)
    end.cut()
    end = server.accept().welcome()
    end.expect(Publish("a", b"x", 1, dup=True, packet_id=1)).send(PubAck(1))
    assert end.rest() == Disconnect().encode()
    end.cut()
    closing.result(PATIENCE)
    assert future.result(0) is None


def test_close_does_not_wait_for_an_attempt_after_its_timeout(make: Make, tcp_server: Scripted) -> None:
    states = States()
    policy = Reconnect(initial=1_000_000, maximum=1_000_000)
    client, end = connected(make, tcp_server, reconnect=policy, on_state=states)
    client.publish_nowait("a", b"x", 1)
    end.receive()
    end.cut()
    tcp_server.accept().cut()
    states.wait("reconnecting", 2)
    begun = time.monotonic()
    client.close(timeout=0.2)
    assert time.monotonic() - begun < PATIENCE  # the attempt is due in days
    assert client.state.name == "disconnected"


def test_publishing_during_close_does_not_delay_it(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    first = client.publish_nowait("a", b"1", 1)
    end.receive()
    closing = server.soon(client.close)
    wait_until(lambda: core_of(client).stopping)
    late = server.soon(client.publish_nowait, "a", b"2", 1).result(PATIENCE)
    end.send(PubAck(1))
    end.rest()
    end.cut()
    closing.result(PATIENCE)
    assert first.result(0) is None
    with pytest.raises(ConnectionClosed):
        late.result(0)


def test_close_may_send_the_will(make: Make) -> None:
    with Broker() as broker:
        watcher = make(broker.url).open()
        watcher.subscribe("status", 1)
        for send_will in (True, False):
            client = make(broker.url, client_id="c", will=("status", "gone", 1)).open()
            client.publish_nowait("status", "last word", 1)
            client.close(send_will=send_will)
        watcher.publish("status", "end")
        payloads = []
        for message in watcher.messages(timeout=PATIENCE):
            payloads.append(message.payload)
            if message.payload == b"end":
                break
        assert payloads == [b"last word", b"gone", b"last word", b"end"]


PIECE = 100_000  # bytes of a payload; 200 of them are beyond what the buffers of both sockets hold


@pytest.mark.parametrize("timeout", [0.0, 0.2])
def test_close_reports_messages_of_qos_0_that_did_not_leave(make: Make, tcp_server: Scripted, timeout: float) -> None:
    client, end = connected(make, tcp_server)
    futures = [client.publish_nowait("a", bytes(PIECE)) for _ in range(200)]
    client.close(timeout=timeout)
    sent = sum(future.exception(0) is None for future in futures)
    received = sum(isinstance(packet, Publish) for packet in end.packets())
    assert received <= sent <= received + 2  # a piece of those was not written when the socket was full
    assert sent < len(futures)
    assert [type(future.exception(0)) for future in futures[sent:]] == [ConnectionClosed] * (len(futures) - sent)


def test_what_did_not_leave_is_sent_on_the_connection_that_the_program_asks_for(
    make: Make, tcp_server: Scripted
) -> None:
    client, end = connected(make, tcp_server)
    futures = [client.publish_nowait("a", bytes(PIECE)) for _ in range(200)]
    wait_until(futures[0].done)
    client.reconnect_now()
    following = tcp_server.accept().welcome()
    first = sum(isinstance(packet, Publish) for packet in end.packets())
    closing = tcp_server.soon(client.close)
    second = sum(isinstance(packet, Publish) for packet in following.packets())
    following.cut()
    closing.result(PATIENCE)
    assert len(futures) - 2 <= first + second <= len(futures)
    assert 0 < first < len(futures)
    assert [future.exception(0) for future in futures] == [None] * len(futures)


def test_flush_waits_for_what_was_published_before(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, max_in_flight=1)
    futures = [client.publish_nowait("a", b"x", number % 3) for number in range(3)]
    flushing = server.soon(client.flush)
    wait_until(lambda: core_of(client).pending.flushes)
    end.expect(Publish("a", b"x"), Publish("a", b"x", 1, packet_id=1)).send(PubAck(1))
    end.expect(Publish("a", b"x", 2, packet_id=2)).send(PubRec(2)).expect(PubRel(2))
    late = client.publish_nowait("a", b"late", 1)
    assert not flushing.done()
    end.send(PubComp(2)).expect(Publish("a", b"late", 1, packet_id=3))
    flushing.result(PATIENCE)
    assert all(future.done() for future in futures)
    assert not late.done()
    with pytest.raises(TimedOut) as caught:
        client.flush(timeout=0.05)
    assert isinstance(caught.value, TimeoutError)
    end.send(PubAck(3))
    assert late.result(PATIENCE) is None
    client.flush()


def test_flush_fails_with_the_client(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, reconnect=False)
    client.publish_nowait("a", b"x", 1)
    flushing = server.soon(client.flush)
    end.receive()
    end.cut()
    with pytest.raises(ConnectionClosed):
        flushing.result(PATIENCE)


# Persistent sessions.


def test_a_kept_session_sends_again_what_close_left_unacknowledged(make: Make, server: Scripted) -> None:
    client, end = connected(make, server, clean_session=False)
    futures = [client.publish_nowait("a", b"1", 1), client.publish_nowait("a", b"2", 2)]
    one, two = end.receive(), end.receive()
    end.send(PubRec(two.packet_id)).expect(PubRel(two.packet_id))
    closing = server.soon(client.close, 0.0)
    end.rest()
    end.cut()
    closing.result(PATIENCE)
    for future in futures:
        with pytest.raises(ConnectionClosed, match="sent again when the client is opened again"):
            future.result(0)
    opening = server.soon(client.open)
    end = server.accept().welcome(session_present=True)
    opening.result(PATIENCE)
    end.expect(PubRel(two.packet_id), Publish("a", b"1", 1, dup=True, packet_id=one.packet_id))
    end.send(PubComp(two.packet_id), PubAck(one.packet_id))
    client.flush()


def test_identifiers_of_a_kept_session_start_at_random(make: Make) -> None:
    clients = [make("mqtt://127.0.0.1", client_id="c", clean_session=False) for _ in range(20)]
    assert len({client.session.identifiers.allocate() for client in clients}) > 10
    assert make("mqtt://127.0.0.1").session.identifiers.allocate() == 1


def test_a_lost_session_is_reported(make: Make, server: Scripted) -> None:
    states, errors = States(), []
    options = {"clean_session": False, "reconnect": AT_ONCE, "on_state": states, "on_error": errors.append}
    _, end = connected(make, server, **options)
    end.cut()
    end = server.accept().welcome(session_present=True)
    states.wait("connected", 2)
    end.cut()
    server.accept().welcome(session_present=False)
    assert isinstance(states.wait("connected", 3).error, SessionLost)
    assert [state.error for state in states.seen if state.name == "connected"][:2] == [None, None]
    assert [type(error) for error in errors] == [SessionLost]


# Without a network, and with a store.


def test_retry_first_retries_the_first_attempt(closed_port: int, make: Make) -> None:
    states = States()
    client = make(
        f"mqtt://127.0.0.1:{closed_port}", client_id="c", retry_first=True, reconnect=AT_ONCE, on_state=states
    ).open()
    assert client.state.name != "disconnected"
    waiting = client.publish_nowait("a", b"x", 1)
    subscribing = client.subscribe_nowait("b")
    with Broker(ws_port=None, tcp_port=closed_port):
        assert waiting.result(PATIENCE) is None
        assert subscribing.result(PATIENCE) == 0
        client.close()
    assert "disconnected" not in states.names[:-1]


def test_open_without_waiting(make: Make, tcp_server: Scripted) -> None:
    states = States()
    client = make(tcp_server.url, client_id="c", reconnect=AT_ONCE, on_state=states)
    client.open(wait=False)
    future = client.publish_nowait("a", b"x", 1)
    tcp_server.accept().cut()
    end = tcp_server.accept().welcome()
    end.expect(Publish("a", b"x", 1, packet_id=1)).send(PubAck(1))
    assert future.result(PATIENCE) is None


def test_a_cancelled_close_still_sends_disconnect(server: Scripted) -> None:
    async def main() -> None:
        client = await mqttws.aio.Client(server.url, client_id="c").open()
        publishing = client.publish_nowait("a", b"x", 1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.close(PATIENCE)
        with pytest.raises(ConnectionClosed):
            await publishing

    running = server.soon(lambda: asyncio.run(main()))
    end = server.accept().welcome()
    end.expect(Publish("a", b"x", 1, packet_id=1), Disconnect())
    running.result(PATIENCE)


def test_open_without_waiting_and_close_log_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        client = await mqttws.aio.Client("mqtt://127.0.0.1:1").open(wait=False)
        await client.close(timeout=0.0)

    asyncio.run(main())
    gc.collect()
    assert not caplog.records


def test_messages_published_after_a_failed_open_wait_for_the_next(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url, client_id="c")
    for cut in (True, False):
        opening = tcp_server.soon(client.open, PATIENCE if cut else 0.1)
        end = tcp_server.accept()
        end.receive()
        if cut:
            end.cut()
        with pytest.raises(MQTTError, match=r"CONNECT|within"):
            opening.result(PATIENCE)
    futures = [client.publish_nowait("a", b"x", 1), client.publish_nowait("a", b"y")]
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome()
    opening.result(PATIENCE)
    end.expect(Publish("a", b"x", 1, packet_id=1), Publish("a", b"y")).send(PubAck(1))
    assert [future.result(PATIENCE) for future in futures] == [None, None]


@pytest.mark.parametrize("when", ["before open", "after a failed open", "after close"])
def test_with_a_store_a_message_is_kept_in_every_state(make: Make, tmp_path: Path, when: str) -> None:
    with SQLiteStore(tmp_path / "store") as store:
        client = make("mqtt://127.0.0.1:1", client_id="c", clean_session=False, store=store)
        if when == "after a failed open":
            with pytest.raises(Exception, match="cannot connect"):
                client.open()
        elif when == "after close":
            client.close()
        client.publish_nowait("a", b"kept", 1)
        store._pending.clear()  # uncommitted changes are lost
        assert [value[-4:] for _, value in store.load(b"o")] == [b"kept"]


def test_a_request_that_is_withdrawn_ends_the_close_that_waited_for_it(make: Make, tcp_server: Scripted) -> None:
    states = States()
    policy = Reconnect(initial=1_000_000, maximum=1_000_000)
    client, end = connected(make, tcp_server, reconnect=policy, on_state=states)
    end.cut()
    tcp_server.accept().cut()
    states.wait("reconnecting", 2)
    subscribing = tcp_server.soon(client.subscribe, "a", timeout=0.3)
    wait_until(lambda: core_of(client).session.requests)
    begun = time.monotonic()
    client.close(timeout=PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 2
    with pytest.raises(MQTTError):
        subscribing.result(PATIENCE)


def test_reconnect_now_before_a_close_with_the_will_sends_no_disconnect() -> None:
    async def run(url: str) -> list[bytes]:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as watcher:
            await watcher.subscribe("status")
            client = await mqttws.aio.connect(url, client_id="c", will=("status", "gone")).open()
            client.reconnect_now()
            await client.close(send_will=True)
            await watcher.publish("status", "end")
            payloads = []
            async for message in watcher:
                payloads.append(message.payload)
                if message.payload == b"end":
                    break
            return payloads

    with Broker() as broker:
        assert asyncio.run(run(broker.url)) == [b"gone", b"end"]


def test_a_message_that_comes_during_a_close_is_delivered_when_it_is_sent_again(
    make: Make, tcp_server: Scripted
) -> None:
    got: list[bytes] = []
    options = {"client_id": "c", "clean_session": False}
    client, end = connected(make, tcp_server, on_message=lambda message: got.append(message.payload), **options)
    client.publish_nowait("a", b"", 1)
    publish = end.receive()
    closing = tcp_server.soon(client.close, PATIENCE)
    wait_until(lambda: core_of(client).stopping)
    end.send("34 09 00 01 74 00 07 64 61 74 61")  # PUBLISH, QoS 2, t, identifier 7, "data"
    end.send(PubAck(publish.packet_id))
    assert end.rest() == Disconnect().encode()
    end.cut()
    closing.result(PATIENCE)
    opening = tcp_server.soon(client.open)
    end = tcp_server.accept().welcome(session_present=True)
    opening.result(PATIENCE)
    end.send("3c 09 00 01 74 00 07 64 61 74 61")  # the same with DUP
    end.send("34 09 00 01 74 00 08 6e 65 78 74")  # identifier 8, "next"
    end.expect("50 02 00 07", "50 02 00 08")
    assert got == [b"data", b"next"]


@pytest.mark.parametrize("acknowledges", ["the client", "the program, at the end", "the program, at the beginning"])
def test_what_is_delivered_again_after_a_close_has_cancelled_a_callback(acknowledges: str) -> None:
    """A message that is not acknowledged: it would also block the acknowledgements of all later messages."""

    async def run() -> None:
        begun: list[bytes] = []
        waits, done = asyncio.Event(), asyncio.Event()

        async def on_message(message: Publish) -> None:
            begun.append(message.payload)
            if acknowledges.endswith("beginning"):
                client.acknowledge(message)
            if len(begun) == 1:
                waits.set()
                await asyncio.Event().wait()
            if acknowledges.endswith("end"):
                client.acknowledge(message)
            if message.payload == b"1":
                done.set()

        async with Broker() as broker, mqttws.aio.connect(broker.url) as publisher:
            manual_ack = acknowledges != "the client"
            options = {"client_id": "c", "clean_session": False, "on_message": on_message, "manual_ack": manual_ack}
            client = mqttws.aio.Client(broker.url, **options)
            await client.open()
            await client.subscribe("t", 2)
            await publisher.publish("t", b"0", 2)
            await asyncio.wait_for(waits.wait(), PATIENCE)
            await client.close(timeout=0.0)
            await client.open()
            await publisher.publish("t", b"1", 2)
            await asyncio.wait_for(done.wait(), PATIENCE)
            again = [] if acknowledges.endswith("beginning") else [b"0"]
            assert begun == [b"0", *again, b"1"]
            await client.close()

    asyncio.run(run())
