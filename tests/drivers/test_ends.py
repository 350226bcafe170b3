"""The end of connections: full sockets, unresponsive peers, the last packets, and resources that are released."""

from __future__ import annotations

import asyncio
import gc
import socket
import struct
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from drivers import PATIENCE, States, core_of, wait_until
from scripted import Scripted, connected

import mqttws
import mqttws.aio
from mqttws import (
    Connect,
    ConnectError,
    ConnectionClosed,
    Disconnect,
    KeepAliveTimeout,
    PingReq,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    QueueFull,
    Reconnect,
    State,
    SubAck,
    Subscribe,
    TimedOut,
)
from mqttws.broker import Broker
from mqttws.client.layers import Link
from mqttws.protocol.session import MAX_REQUESTED

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


def test_keep_alive_ends_a_connection_with_a_full_socket(make: Make, server: Scripted) -> None:
    """Unwritten bytes will never be written, so the driver must not wait for them."""
    states = States()
    client = make(server.url, on_state=states, keep_alive=1, ping_timeout=0.2, reconnect=AT_ONCE)
    opening = server.soon(client.open)
    server.accept().welcome()  # the server reads nothing from now on
    opening.result(PATIENCE)
    for _ in range(32):
        client.publish_nowait("a", bytes(1_000_000))
    assert isinstance(states.wait("disrupted").error, KeepAliveTimeout)
    again = server.accept().welcome()
    while not isinstance(packet := again.receive(), Publish):
        assert isinstance(packet, PingReq)
    states.wait("connected", 2)


def test_close_with_a_full_socket_respects_its_timeout(make: Make, server: Scripted) -> None:
    states = States()
    client = make(server.url, keep_alive=0, on_state=states)
    opening = server.soon(client.open)
    server.accept().welcome()
    opening.result(PATIENCE)
    futures = [client.publish_nowait("a", bytes(1_000_000), 1) for _ in range(32)]
    client.close(timeout=0.2)
    assert states.wait("disconnected") == State("disconnected")
    with pytest.raises(ConnectionClosed):
        futures[-1].result(PATIENCE)


def test_disconnect_arrives_while_messages_keep_arriving(make: Make, server: Scripted) -> None:
    """DISCONNECT arrives although the client stopped reading long before; a reset could have discarded it."""
    client = make(server.url, max_inbound_bytes=1)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.send(*[Publish("a", bytes(1_000)) for _ in range(60)])
    first = next(client.messages(timeout=PATIENCE))
    assert first.topic == "a"
    closing = server.soon(client.close)
    assert end.rest() == Disconnect().encode()
    end.cut()
    closing.result(PATIENCE)


def test_a_reset_before_the_connack_is_a_connect_error(make: Make, tcp_server: Scripted) -> None:
    client = make(tcp_server.url)
    opening = tcp_server.soon(client.open)
    tcp_server.accept().cut()  # the CONNECT is unread, so this is a reset
    with pytest.raises(ConnectError):
        opening.result(PATIENCE)


def test_reconnect_now_even_without_reconnecting(make: Make, server: Scripted) -> None:
    states = States()
    client = make(server.url, on_state=states, reconnect=False)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    client.reconnect_now()
    assert end.rest() == Disconnect().encode()
    server.accept().welcome()
    states.wait("connected", 2)
    assert "requested" in str(states.wait("disrupted").error)


@pytest.mark.parametrize("answers", [True, False])
def test_open_waits_for_the_attempt_that_reconnect_now_begins(make: Make, server: Scripted, answers: bool) -> None:
    states = States()
    client = make(server.url, on_state=states)
    opening = server.soon(client.open)
    first = server.accept()
    first.socket.recv(1)  # of its CONNECT or its upgrade request
    client.reconnect_now()
    second = server.accept()
    if answers:
        second.welcome()
        opening.result(PATIENCE)
        assert states.names == ["connecting", "connected"]
    else:
        second.cut()
        assert isinstance(opening.exception(PATIENCE), ConnectError)
        assert states.names == ["connecting", "disconnected"]
        assert client.state.name == "disconnected"


def test_with_retry_first_open_returns_although_reconnect_now_ends_its_attempt(make: Make, server: Scripted) -> None:
    client = make(server.url, retry_first=True)
    opening = server.soon(client.open)
    server.accept().socket.recv(1)
    client.reconnect_now()
    opening.result(PATIENCE)
    server.accept().welcome()
    wait_until(lambda: client.state.name == "connected")


@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_follows_reconnect_now_leaves_on_the_new_connection(
    make: Make, server: Scripted, qos: int, waits: bool
) -> None:
    client, end = connected(make, server)
    client.reconnect_now()
    publishing = server.soon(client.publish if waits else client.publish_nowait, "a", b"x", qos)
    assert end.rest() == Disconnect().encode()
    following = server.accept().welcome()
    following.expect(Publish("a", b"x", qos, packet_id=1 if qos else None))
    following.send(*[[], [PubAck(1)], [PubRec(1)]][qos])
    if qos == 2:
        following.expect(PubRel(1)).send(PubComp(1))
    publishing.result(PATIENCE)


@pytest.mark.skipif(mqttws.compiled, reason="compiled code cannot be replaced")
def test_reconnect_now_leaves_the_connection_to_the_network_thread(
    tcp_server: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception of a signal handler would leave it half changed. The network thread runs none."""
    client, end = connected(mqttws.Client, tcp_server)
    disconnect, threads = Link.disconnect, list[int]()

    def noted(*arguments: Any, **options: Any) -> None:
        threads.append(threading.get_ident())
        disconnect(*arguments, **options)

    monkeypatch.setattr(Link, "disconnect", noted)
    network_thread = client._network._identity
    client.reconnect_now()
    assert end.rest() == Disconnect().encode()
    following = tcp_server.accept().welcome()
    assert threads == [network_thread]
    client.close(timeout=0.0)
    following.cut()


@pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
def test_a_request_that_times_out_before_it_was_sent_is_withdrawn(make: Make, server: Scripted, verb: str) -> None:
    client, end = connected(make, server, reconnect=AT_ONCE)
    end.cut()
    following = server.accept()  # which does not answer yet
    for _ in range(3):
        with pytest.raises(TimedOut, match="it was not sent and will not be"):
            getattr(client, verb)("a", timeout=0.02)
    assert not client.session.requests
    future = client.subscribe_nowait("b")
    following.welcome().expect(Subscribe(1, [("b", 0)])).send(SubAck(1, [0]))
    assert future.result(PATIENCE) == 0


def test_a_request_that_times_out_after_it_was_sent_is_not_withdrawn(make: Make, server: Scripted) -> None:
    client, end = connected(make, server)
    with pytest.raises(TimedOut, match=r"no answer to the SUBSCRIBE within .* s$"):
        client.subscribe("a", timeout=0.05)
    end.expect(Subscribe(1, [("a", 0)])).send(SubAck(1, [0]))
    wait_until(lambda: client.session.subscriptions == {"a": 0})


def test_a_cancelled_subscribe_that_was_not_sent_is_withdrawn(tcp_server: Scripted) -> None:
    async def run() -> None:
        client = mqttws.aio.Client(tcp_server.url, client_id="c")
        await client.open(wait=False)
        subscribing = asyncio.create_task(client.subscribe("a"))
        while not client.session.requests:
            await asyncio.sleep(0)
        subscribing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await subscribing
        assert not client.session.requests
        await client.close(timeout=0.0)

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def test_a_request_of_several_packets_is_queued_whole_or_not_at_all(make: Make) -> None:
    client = make("mqtt://127.0.0.1:1")
    most = MAX_REQUESTED // 61_000
    with pytest.raises(QueueFull, match="requests are already queued"):
        client.subscribe_nowait(["t" * 60_000] * (most + 100))
    assert not client.session.requests
    client.subscribe_nowait(["t" * 60_000] * most)
    assert len(client.session.requests) == (most + 99) // 100


def test_reconnect_now_ends_the_wait_before_an_attempt(make: Make, server: Scripted) -> None:
    states = States()
    never = Reconnect(initial=3_600.0, maximum=3_600.0)
    client = make(server.url, on_state=states, reconnect=never)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.cut()
    server.accept().cut()  # the first attempt is immediate, the second an hour later
    attempt = 2
    while (states.wait("reconnecting", attempt).delay or 0.0) < PATIENCE:  # its delay is random
        client.reconnect_now()
        server.accept().cut()
        attempt += 1
    client.reconnect_now()
    server.accept().welcome()
    states.wait("connected", 2)


def test_delays_grow_with_each_attempt(make: Make, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    for driver in ("sync", "aio"):
        monkeypatch.setattr(f"mqttws.{driver}.network.Network.random", staticmethod(lambda: 0.5))
    states = States()
    client = make(server.url, on_state=states, reconnect=Reconnect(initial=0.01, maximum=0.05))
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.cut()
    for _ in range(5):
        server.accept().cut()
    server.accept().welcome()
    states.wait("connected", 2)
    delays = [state.delay for state in states.seen if state.name == "reconnecting"]
    assert delays == pytest.approx([0.0, 0.005, 0.01, 0.02, 0.025, 0.025])


def test_an_error_of_a_callable_url_is_retried(make: Make, server: Scripted) -> None:
    states = States()
    answers = iter([server.url, RuntimeError("no credentials today"), 7, server.url])

    def url() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    client = make(url, on_state=states, reconnect=AT_ONCE)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.cut()
    server.accept().welcome()
    states.wait("connected", 2)
    reasons = [str(state.error) for state in states.seen if state.name == "disrupted"][1:]
    assert reasons == ["no credentials today", "a URL must be a str, not int"]


def test_reconnect_now_keeps_the_interval_between_two_attempts(make: Make, server: Scripted) -> None:
    attempts: list[str] = []

    def url() -> str:
        attempts.append(server.url)
        return server.url

    client = make(url, client_id="c", reconnect=Reconnect(interval=1_000_000))
    opening = server.soon(client.open)
    server.accept().welcome()
    opening.result(PATIENCE)
    core = core_of(client)
    for _ in range(4):  # the first one ends the connection, the others come while the client waits
        client.reconnect_now()
        wait_until(lambda: core.state.name != "connected" and not core.dropped)
    assert core.state.name == "reconnecting"
    assert len(attempts) == 1


def test_recover_is_called_before_other_decisions(make: Make, server: Scripted) -> None:
    asked: list[str] = []

    def recover(error: ConnectError) -> bool:
        asked.append(str(error))
        return len(asked) == 1

    client = make(server.url, recover=recover)
    opening = server.soon(client.open)
    end = server.accept()
    end.receive()
    end.send("20 02 00 05")
    end = server.accept()
    end.receive()
    end.send("20 02 00 04")
    with pytest.raises(mqttws.ConnectionRefused, match="return code 4"):
        opening.result(PATIENCE)
    assert len(asked) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503, 520, 525, 530, 598, 599])
def test_a_refused_upgrade(make: Make, status: int) -> None:
    """At the first attempt it is raised; later it is the reason of another attempt."""
    from mqttws.broker import Rejection

    refuse = threading.Event()
    options = {"headers": (("x-reason", "of the test"),), "body": b"because"}
    with Broker(on_upgrade=lambda peer: Rejection(status, **options) if refuse.is_set() else None) as picky:
        states = States()
        client = make(picky.url, on_state=states, reconnect=AT_ONCE)
        client.open()
        refuse.set()
        with pytest.raises(mqttws.HandshakeRejected) as caught:
            make(picky.url).open()
        assert caught.value.status == status
        assert ("x-reason", "of the test") in caught.value.headers
        assert caught.value.body == b"because"
        client.reconnect_now()
        error = states.wait("disrupted", 2).error
        refuse.clear()
        states.wait("connected", 2)
        assert isinstance(error, mqttws.HandshakeRejected)
        assert error.status == status


def test_headers_and_query_are_sent_unchanged(make: Make) -> None:
    with Scripted("ws") as server:
        query = "?X-Amz-Signature=%2F%2f+%7E~&b=&&a=1;c"
        client = make(server.url + query, headers=iter([("X-Custom", "a  b"), ("x-custom", "again")]))
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        assert end.head.split(b"\r\n")[0] == b"GET /mqtt" + query.encode() + b" HTTP/1.1"
        assert b"X-Custom: a  b" in end.head
        assert b"x-custom: again" in end.head
        client.reconnect_now()
        assert b"x-custom: again" in server.accept().welcome().head  # headers of an iterator are sent at every attempt


def test_a_take_over_is_reported_and_does_not_loop(make: Make, broker: Broker) -> None:
    states = States()
    loser = make(broker.url, client_id="c", on_state=states, reconnect=AT_ONCE)
    loser.open()
    winner = make(broker.url, client_id="c", reconnect=AT_ONCE)
    winner.open()
    error = states.wait("disconnected").error
    assert isinstance(error, mqttws.SessionTakenOver)
    assert error.code == 4001
    winner.publish("a", b"x", 1)
    with pytest.raises(mqttws.SessionTakenOver):
        next(loser.messages(timeout=PATIENCE))


def test_opening_and_closing_often_leaks_nothing(make: Make, broker: Broker) -> None:
    client = make(broker.url)
    before = set(threading.enumerate())
    for _ in range(20):
        client.open()
        client.publish("a", b"x", 1)
        client.close()
    wait_until(lambda: set(threading.enumerate()) <= before)


# asyncio.


def run(coroutine: Any) -> Any:
    """Run a coroutine, and check that it leaves no task and no socket."""

    async def bounded() -> Any:
        async with asyncio.timeout(2 * PATIENCE):
            result = await coroutine
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left
        return result

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = asyncio.run(bounded(), debug=True)
        gc.collect()
    return result


def test_awaiting_opens(broker: Broker) -> None:
    async def main() -> None:
        client = await mqttws.aio.connect(broker.url)
        assert client.state.name == "connected"
        async with client:
            await client.publish("a", b"x", 1)
        assert client.state.name == "disconnected"

    run(main())


def test_the_url_is_awaited_at_each_attempt(broker: Broker) -> None:
    asked: list[int] = []

    async def url() -> str:
        await asyncio.sleep(0)
        asked.append(1)
        return broker.url

    async def main() -> None:
        async with mqttws.aio.connect(url) as client:
            client.reconnect_now()
            await client.publish("a", b"x", 1)

    run(main())
    assert len(asked) == 2


def test_a_url_coroutine_that_never_returns_times_out(broker: Broker) -> None:
    async def main() -> None:
        client = mqttws.aio.Client(lambda: asyncio.get_running_loop().create_future(), timeout=0.1)
        with pytest.raises(ConnectError, match="no URL within"):
            await client.open()

    run(main())


def test_cancelling_open_leaks_nothing(broker: Broker) -> None:
    async def main() -> None:
        client = mqttws.aio.Client(lambda: asyncio.get_running_loop().create_future())
        opening = asyncio.ensure_future(client.open())
        while client.state.name != "connecting":
            await asyncio.sleep(0)
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert client.state.name == "disconnected"

    run(main())


def test_cancelling_an_unsent_publish_withdraws_it() -> None:
    async def main(server: Scripted) -> None:
        async with mqttws.aio.Client(server.url, client_id="c", max_in_flight=1) as client:
            first = asyncio.ensure_future(client.publish("a", b"1", 1))
            second = asyncio.ensure_future(client.publish("a", b"2", 1))
            while not client.session.sender.in_flight:
                await asyncio.sleep(0)
            second.cancel()
            first.cancel()
            await asyncio.wait({first, second})
            assert client.session.sender.waiting == 0
            assert client.session.sender.in_flight == 1
            going_on.set()
            await client.close(0.05)  # the server acknowledges nothing

    going_on = threading.Event()
    with Scripted("mqtt") as server:
        running = server.soon(run, main(server))
        end = server.accept().welcome()
        assert end.receive() == Publish("a", b"1", 1, packet_id=1)
        assert going_on.wait(PATIENCE)
        assert end.rest() == Disconnect().encode()
        end.cut()
        running.result(PATIENCE)


def test_leaving_the_loop_acknowledges_before_disconnect() -> None:
    async def main(server: Scripted) -> None:
        async with mqttws.aio.Client(server.url, client_id="c") as client:
            await client.subscribe("a", 1)
            async for message in client:
                assert message.payload == b"x"
                break

    with Scripted("mqtt") as server:
        running = server.soon(run, main(server))
        end = server.accept().welcome()
        end.expect(Subscribe(1, [("a", 1)])).send(SubAck(1, [1]), Publish("a", b"x", 1, packet_id=9))
        assert end.rest() == PubAck(9).encode() + Disconnect().encode()
        end.cut()
        running.result(PATIENCE)


def test_an_event_loop_that_ends_without_close(broker: Broker) -> None:
    """Without `close`, the task is cancelled with the loop's other tasks, and the socket is closed."""

    async def main() -> None:
        client = await mqttws.aio.connect(broker.url)
        client.publish_nowait("a", b"x", 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asyncio.run(main())
        gc.collect()


@pytest.mark.parametrize("how", ["SystemExit", "the end of the main task"])
def test_a_client_whose_task_is_cancelled_sends_disconnect(how: str) -> None:
    """`asyncio.run` cancels all tasks at once. The server must not take that for a lost connection."""

    async def main(url: str) -> None:
        client = mqttws.aio.Client(url, client_id="c", will=("w", b"gone"))
        if how == "the end of the main task":
            await client.open()
            return
        async with client:
            asyncio.get_running_loop().call_soon(sys.exit, 7)  # as a handler of SIGTERM raises it
            await asyncio.Event().wait()

    def start(url: str) -> None:
        with pytest.raises(SystemExit) if how == "SystemExit" else nullcontext():
            asyncio.run(main(url))

    with Scripted("mqtt") as server:
        running = server.soon(start, server.url)
        end = server.accept()
        assert end.receive() == Connect("c", will=mqttws.Message("w", b"gone"))
        end.send("20 02 00 00")
        assert end.rest() == Disconnect().encode()
        end.cut()
        running.result(PATIENCE)


def test_cancelling_close_closes_the_connection() -> None:
    async def main(server: Scripted) -> None:
        client = await mqttws.aio.Client(server.url, client_id="c")
        closing = asyncio.ensure_future(client.close(timeout=3_600.0))
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        while client.state.name != "disconnected":
            await asyncio.sleep(0)

    with Scripted("ws") as server:
        running = server.soon(run, main(server))
        end = server.accept().welcome()
        running.result(PATIENCE)
        assert end.rest() in (b"", Disconnect().encode())


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("how", ["closed", "reset"])
def test_a_closed_connection_is_freed_without_the_garbage_collector(broker: Broker, scheme: str, how: str) -> None:
    def reset() -> None:
        (link,) = broker._hub.admission.all
        link._transport.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
        )
        link._transport.abort()

    async def run() -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(broker.url_of(scheme), reconnect=AT_ONCE) as client:
            pump = client._network._pump
            assert pump is not None
            assert pump._transport is not None
            held = [weakref.ref(pump), weakref.ref(pump._transport)]
            del pump
            gc.disable()
            client.reconnect_now() if how == "closed" else broker._hub.loop.call_soon_threadsafe(reset)
            while any(one() is not None for one in held):
                await asyncio.sleep(0)
            await client.publish("t", b"", 1)

    try:
        asyncio.run(run())
    finally:
        gc.enable()
