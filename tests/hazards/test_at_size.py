"""Hazards that occur only at scale. `--full-size` runs them at the sizes of the list; the default sizes are smaller."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11
import pytest
from drivers import Asyncio, Blocking, States
from hypothesis import given, settings
from hypothesis import strategies as st
from pubsub_faces import Recorder
from scripted import Scripted
from wire import PATIENCE, Wire

import mqttws
from mqttws import Connect, ConnectError, MQTTError, PingReq, PubAck, Publish, QueueFull, Reconnect, Session, aio
from mqttws.broker import Broker, Limits
from mqttws.client.url import parse_url
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.client_handshake import ClientWebSocket
from pubsub import MqttOverWSProvider, PubSub

MIB = 1024 * 1024
#: Seconds for operations that are repeated thousands of times.
LONG = 60.0


@pytest.fixture
def size(pytestconfig: pytest.Config) -> Callable[[int, int], int]:
    """Return a function that chooses between the default size and the full size."""
    return lambda some, all_of_them: all_of_them if pytestconfig.getoption("--full-size") else some


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture(params=[Blocking, Asyncio], ids=["blocking", "asyncio"])
def make(request: pytest.FixtureRequest, stack: ExitStack) -> Callable[..., Any]:
    def make(*arguments: Any, **options: Any) -> Any:
        client = request.param(*arguments, **options)
        stack.callback(client.end)
        return client

    return make


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_hundred_of_a_hundred_half_open_links_are_noticed_while_publishing() -> None:
    """1: the server has vanished: it reads nothing, sends nothing and closes nothing."""

    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"MQTT")
        writer.write(bytes.fromhex("20 02 00 00"))
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        ends.append(writer)

    async def be_a_client(port: int) -> Exception | None:
        async with aio.connect(f"mqtt://127.0.0.1:{port}", keep_alive=1, ping_timeout=1, reconnect=False) as client:
            while client.state.name == "connected":
                client.publish_nowait("t", bytes(1000)).add_done_callback(lambda future: future.exception())
                await asyncio.sleep(0.05)
            return client.state.error

    async def run() -> list[Exception | None]:
        async with (
            await asyncio.start_server(swallow, "127.0.0.1", 0, backlog=200) as server,
            asyncio.timeout(PATIENCE),
        ):
            port = server.sockets[0].getsockname()[1]
            errors = await asyncio.gather(*(be_a_client(port) for _ in range(100)))
            for writer in ends:
                writer.transport.abort()
        return errors

    ends: list[asyncio.StreamWriter] = []
    assert [type(error) for error in asyncio.run(run())] == [mqttws.KeepAliveTimeout] * 100


def test_a_long_download_over_a_slow_line_is_a_sign_of_life() -> None:
    """2: 16 MiB at 20 KiB/s with a keep alive of 2 s: no PINGRESP can arrive for a quarter of an hour."""
    machine = ClientMachine(Connect("c", keep_alive=2), Session())
    machine.start(0.0)
    machine.receive_data(bytes.fromhex("20 02 00 00"), 0.0)
    now, pings, packet = 0.0, 0, Publish("t", bytes(16 * MIB)).encode()
    for start in range(0, len(packet), 10 * 1024):
        end = now + 0.5
        while (deadline := machine.next_deadline()) is not None and deadline <= end:
            now = deadline
            machine.handle_timeout(now)
            pings += machine.data_to_send(now).count(PingReq().encode())
        now = end
        machine.receive_data(packet[start : start + 10 * 1024], now)
        assert machine.state == "connected"
    assert pings > now / 3
    assert len(next(event for event in machine.events if isinstance(event, Publish)).payload) == 16 * MIB


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_all_clients_reconnect_after_a_restart_of_the_broker(size: Callable[[int, int], int], scheme: str) -> None:
    """3: many clients at the same time, each with a session, and every message for all of them."""
    count = size(100, 1_000)

    async def run() -> None:
        async with Broker(sys_interval=None) as broker, asyncio.timeout(LONG), asyncio.TaskGroup() as group:
            clients = [
                aio.Client(
                    broker.url_of(scheme), client_id=f"{n}", clean_session=False, reconnect=Reconnect(initial=0.2)
                )
                for n in range(count)
            ]
            await asyncio.gather(*(client.open() for client in clients))
            await asyncio.gather(*(client.subscribe("t", 1) for client in clients))
            await broker.stop_async()
            while any(client.state.name == "connected" for client in clients):
                await asyncio.sleep(0.01)
            await broker.start_async()
            publishing = [group.create_task(client.publish(f"from/{n}", b"x", 1)) for n, client in enumerate(clients)]
            await asyncio.wait(publishing)
            broker.publish("t", b"all", 1)
            got = await asyncio.gather(*(anext(client.messages()) for client in clients))
            assert [message.payload for message in got] == [b"all"] * count
            await asyncio.gather(*(client.close() for client in clients))

    asyncio.run(run())


@pytest.mark.parametrize("face", ["mqttws", "mqttws.aio", "pubsub"])
def test_a_callback_that_always_raises(stack: ExitStack, caplog: pytest.LogCaptureFixture, face: str) -> None:
    """9: ten thousand messages, all acknowledged; other callbacks are called for each."""
    count, recorder = 10_000, Recorder()
    caplog.set_level(logging.CRITICAL + 1)  # do not log ten thousand tracebacks

    def bad(message: Any) -> None:
        recorder.next(message)
        raise RuntimeError("of the user")

    broker = stack.enter_context(Broker(sys_interval=None))
    good = recorder
    if face == "pubsub":
        ps, good = stack.enter_context(PubSub(MqttOverWSProvider(broker.url, client_id="c"))), Recorder()
        for callback in (bad, good):
            ps.subscribe("t", qos=1).subscribe(callback).ready(PATIENCE)
    else:
        client = {"mqttws": Blocking, "mqttws.aio": Asyncio}[face](broker.url, client_id="c", on_message=bad)
        stack.callback(client.end)
        client.open().subscribe("t", 1)
    publisher = stack.enter_context(mqttws.connect(broker.url, max_in_flight=1_000))
    for number in range(count):
        publisher.publish_nowait("t", b"%d" % number, 1)
        if number % 1_000 == 999:  # as many as the broker queues for a client
            publisher.publish("t", b"0", 1)
            good.wait(lambda number=number: len(good.messages) == number + 1 + (number + 1) // 1_000)
    assert len(recorder.messages) == len(good.messages) == count + 10
    session = broker._registry.find("c").session
    with Wire(broker.url_of("mqtt")).connect("other") as other:
        publisher.publish("t", b"0", 1)
        good.wait(lambda: len(good.messages) == count + 11)
        other.quiet()
    assert len(session.sender) <= 1  # the last one may be in flight


def test_publishing_and_waiting_inside_callbacks_of_eight_threads(
    stack: ExitStack, size: Callable[[int, int], int]
) -> None:
    """10: for each message of eight threads the callback publishes an answer and waits for it."""
    each = size(2_000, 100_000) // 8
    faulthandler.dump_traceback_later(each, exit=True)  # prints all stacks on a deadlock
    stack.callback(faulthandler.cancel_dump_traceback_later)
    broker = stack.enter_context(Broker(limits=Limits(max_queued=8 * each + 100), sys_interval=None))
    answers, over = itertools.count(1), threading.Event()

    def answer(message: Publish) -> None:
        client.publish("answer", message.payload, 1)
        if next(answers) == 8 * each:
            over.set()

    client = stack.enter_context(mqttws.connect(broker.url, on_message=answer, timeout=PATIENCE))
    client.subscribe("question", 1)

    def ask() -> None:
        for number in range(each):
            client.publish("question", b"%d" % number, 1)

    with ThreadPoolExecutor(8) as threads:
        for asking in [threads.submit(ask) for _ in range(8)]:
            asking.result()
    assert over.wait(LONG)


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("face", [mqttws.Client, aio.Client])
def test_the_broker_is_killed_during_qos_2(stack: ExitStack, face: Any, reconnect: bool) -> None:
    """11: every future fails; or, if the broker is restarted, every one completes."""

    def start(**ports: int) -> tuple[subprocess.Popen[str], str]:
        program = (
            "import json, sys\nfrom mqttws.broker import Broker\n"
            "with Broker(sys_interval=None, **json.loads(sys.argv[1])) as broker:\n"
            "    print(broker.url, flush=True)\n    sys.stdin.read()\n"
        )
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-c", program, json.dumps(ports)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "PYTHONPATH": str(Path(mqttws.__file__).parents[1])},
            )
        )  # fmt: skip
        stack.callback(process.kill)
        assert process.stdout is not None
        return process, process.stdout.readline().strip()

    async def publish() -> list[type[Any]]:
        client = face(url, client_id="c", clean_session=False, reconnect=policy, max_in_flight=20)
        await client.open() if face is aio.Client else client.open()
        futures = []
        for number in range(1_000):
            futures.append(client.publish_nowait("t", bytes(1_000), 2))
            if number == 100:
                futures[-1].add_done_callback(lambda _: process.kill())
        if reconnect:
            await asyncio.to_thread(process.wait)
            deadline = time.monotonic() + PATIENCE
            while not start(ws_port=urlsplit(url).port)[1]:  # a connection of another process may have its port
                assert time.monotonic() < deadline
        if face is aio.Client:
            await asyncio.wait(futures, timeout=LONG)
            outcomes = [future.exception() for future in futures]
            await client.close()
        else:
            outcomes = [future.exception(LONG) for future in futures]
            client.close()
        return [type(outcome) for outcome in outcomes]

    process, url = start()
    policy = Reconnect(initial=0.05, maximum=0.2) if reconnect else False
    outcomes = asyncio.run(publish())
    done = outcomes.count(type(None))
    if reconnect:
        assert done == 1_000
    else:
        assert 101 <= done < 1_000
        assert len(set(outcomes[-1_000 + done :])) == 1  # all others failed with the same error
        assert issubclass(outcomes[-1], MQTTError)


@pytest.mark.parametrize("overflow", ["block", "raise", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("face", [mqttws.Client, aio.Client])
def test_publishing_offline_without_end(size: Callable[[int, int], int], face: Any, overflow: str) -> None:
    """12: memory is bounded, and the outcome of each message is reported and counted."""
    count, limit = size(20_000, 1_000_000), 1_000

    async def publish() -> None:
        client = face("mqtt://127.0.0.1:1", client_id="c", overflow=overflow, max_queued=limit)
        payload = bytes(1_000)
        refused = failed = 0

        def count_failure(future: Any) -> None:
            nonlocal failed
            failed += isinstance(future.exception(), QueueFull)

        before = resident()
        for number in range(count):
            try:
                client.publish_nowait("t", payload + b"%d" % number, 1).add_done_callback(count_failure)
            except QueueFull:
                refused += 1
            if number % 1_000 == 0:
                await asyncio.sleep(0)
        assert resident() - before < 16 * MIB
        await asyncio.sleep(0)
        dropped = count - limit if overflow.startswith("drop") else 0
        assert (client.dropped, failed, refused) == (dropped, dropped, count - limit - dropped)
        kept = [int(payload[1_000:]) for _, _, payload, _, _ in client.session.sender.queue]
        assert kept == list(range(count)[-limit:] if overflow == "drop_oldest" else range(limit))
        await client.close() if face is aio.Client else client.close()

    asyncio.run(publish())


def test_a_burst_for_a_slow_consumer(
    make: Callable[..., Any], stack: ExitStack, size: Callable[[int, int], int]
) -> None:
    """13: nothing is lost, memory does not grow, and the connection stays open."""
    count, payload, states = size(4_000, 10_000), bytes(10_000), States()
    server = stack.enter_context(Scripted("mqtt"))
    client = make(server.url, on_state=states, max_inbound_bytes=100_000, keep_alive=60, timeout=LONG)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.socket.settimeout(LONG)
    before = resident()

    def send() -> None:
        for number in range(count):
            end.send(Publish("t", payload + b"%d" % number, 1, packet_id=number + 1))

    sending = server.soon(send)
    took = threading.Event()
    for number, message in zip(range(count), client.messages(timeout=LONG), strict=False):
        assert message.payload[10_000:] == b"%d" % number
        took.wait(0.0001)
    sending.result(LONG)
    assert resident() - before < 16 * MIB
    client.publish("t", b"still here")
    sent, still = [end.receive() for _ in range(count)], Publish("t", b"still here")
    while still not in sent:
        sent.append(end.receive())
    sent.remove(still)  # it may leave before the last acknowledgements
    assert sent == [PubAck(number + 1) for number in range(len(sent))]
    assert states.names == ["connecting", "connected"]


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_a_slow_reader_gets_all_messages_in_order(stack: ExitStack, scheme: str) -> None:
    """14: five thousand messages of QoS 1, within the default limits of a broker."""
    broker = stack.enter_context(Broker(sys_interval=None))
    reader = stack.enter_context(Wire(broker.url_of(scheme))).connect("reader")
    reader.subscribe(("t", 1))
    with mqttws.connect(broker.url_of(scheme)) as publisher:
        futures = [publisher.publish_nowait("t", b"%d" % number + bytes(1_000), 1) for number in range(5_000)]
        assert [future.result(LONG) for future in futures] == [None] * 5_000
    for number in range(5_000):
        message = reader.receive()
        assert message.payload == b"%d" % number + bytes(1_000)
        reader.send(PubAck(message.packet_id))
    assert broker.metrics()["publish/messages/dropped"] == 0


def test_pings_are_answered_while_a_callback_blocks(stack: ExitStack) -> None:
    """25: WebSocket pings and PINGRESPs are handled without waiting for the callback."""
    server = stack.enter_context(Scripted("ws"))
    held, release = threading.Event(), threading.Event()

    def hold(message: Any) -> None:
        held.set()
        release.wait(PATIENCE)

    ps = stack.enter_context(PubSub(MqttOverWSProvider(server.url)))
    stack.callback(release.set)
    subscription = ps.subscribe("t").subscribe(hold)
    end = server.accept().welcome()
    end.receive()
    end.send("90 03 00 01 00")
    subscription.ready(PATIENCE)
    end.send(Publish("t", b"1"))
    assert held.wait(PATIENCE)
    for number in range(5):
        end.frame(b"ping %d" % number, 0x89)
        head = end.socket.recv(2, socket.MSG_WAITALL)
        assert head == bytes((0x8A, 0x80 | 6))
        masked = end.socket.recv(10, socket.MSG_WAITALL)
        assert bytes(byte ^ masked[at % 4] for at, byte in enumerate(masked[4:])) == b"ping %d" % number
    assert not release.is_set()
    end.cut()


RANGES = (0x21, 0x7E), (0x20, 0x7F), (0, 0x17F)


def text(but: str = "") -> st.SearchStrategy[str]:
    """Return a strategy for text without the given characters."""
    allowed = [st.characters(min_codepoint=a, max_codepoint=z, exclude_characters=but) for a, z in RANGES]
    return st.one_of(*(st.text(characters, max_size=20) for characters in allowed))


ANY, HOSTS = text(), text(but="/?#@:[]")  # these characters end a host in a URL
HEADERS = st.lists(st.tuples(ANY, ANY), max_size=3)


@settings(max_examples=1_000)
@given(host=HOSTS, path=ANY, query=ANY, headers=HEADERS)
def test_no_argument_can_inject_into_a_request(
    host: str, path: str, query: str, headers: list[tuple[str, str]]
) -> None:
    """37: any text in the URL and the headers is refused, or is sent in its intended place."""
    try:
        endpoint = parse_url(f"ws://{host}/{path}?{query}")
        sent = ClientWebSocket(endpoint.host_header, endpoint.target, headers).data_to_send()
    except (ValueError, ConnectError):
        return
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(sent)
    request = parser.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.http_version) == (b"GET", b"1.1")
    assert request.target.decode() == f"/{path}?{query}".partition("#")[0]
    assert isinstance(parser.next_event(), h11.EndOfMessage)
    assert parser.trailing_data == (b"", False)
    got = [(name, value) for name, value in request.headers]
    ours = {b"host", b"upgrade", b"connection"}
    ours |= {b"sec-websocket-" + name for name in (b"version", b"key", b"protocol")}
    assert {name for name, _ in got} >= ours
    assert (b"host", host.encode()) in got
    wanted = sorted((name.lower().encode(), value.encode()) for name, value in headers)
    assert sorted(pair for pair in got if pair[0] not in ours) == wanted
