"""Callbacks that call methods of their client. In the blocking client, waiting in one works or raises an error."""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import pytest
from drivers import PATIENCE, Blocking, States, wait_until
from scripted import Scripted, connected

import mqttws.aio
import mqttws.sync.network as network_module
from mqttws import ConnectionClosed, Message, MQTTError, PubAck, Publish, QueueFull, Reconnect, State, WouldDeadlock
from mqttws.broker import Broker
from mqttws.client.callbacks import accepted
from mqttws.client.core import CALLBACK_SLICE

Make = Callable[..., Any]
AT_ONCE = Reconnect(initial=0.001, maximum=0.001)


@pytest.fixture(autouse=True)
def _watchdog() -> Iterator[None]:
    """Print the stacks of all threads on a deadlock."""
    faulthandler.dump_traceback_later(4 * PATIENCE, exit=False)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def blocking() -> Iterator[Make]:
    clients: list[Blocking] = []

    def make(*arguments: Any, **options: Any) -> Blocking:
        clients.append(Blocking(*arguments, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close(timeout=1.0)


class Outcome:
    """Runs a call once, in a callback, and stores its result or exception."""

    def __init__(self) -> None:
        self._there = threading.Event()
        self.value: Any = None

    def run(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> None:
        if not self._there.is_set():
            try:
                self.value = call(*arguments, **options)
            except BaseException as error:
                self.value = error
            self._there.set()

    def wait(self) -> Any:
        assert self._there.wait(PATIENCE)
        return self.value


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_waiting_inside_on_message(blocking: Make, broker: Broker, scheme: str) -> None:
    outcome = Outcome()

    def on_message(message: Publish) -> None:
        if message.topic == "start":
            outcome.run(conversation)

    def conversation() -> list[Any]:
        return [
            client.subscribe("b/#", 2),
            *[client.publish("b/x", b"%d" % qos, qos) for qos in (0, 1, 2)],
            client.unsubscribe("b/#"),
        ]

    client = blocking(broker.url_of(scheme), on_message=on_message)
    client.open()
    client.subscribe("start", 1)
    client.publish("start", b"", 1)
    assert outcome.wait() == [2, None, None, None, None]


@pytest.mark.parametrize("name", ["connecting", "connected", "disrupted", "reconnecting"])
def test_waiting_inside_on_state(blocking: Make, name: str) -> None:
    """In every state, the waiting call establishes the connection itself."""
    outcome = Outcome()
    counts: dict[str, int] = {}

    def on_state(state: State) -> None:
        counts[state.name] = counts.get(state.name, 0) + 1
        if state.name == name:
            outcome.run(client.publish, "a", b"x", 1, timeout=PATIENCE)

    with Scripted("mqtt") as server:
        client = blocking(server.url, on_state=on_state, reconnect=AT_ONCE)
        opening = server.soon(client.open)
        end = server.accept().welcome()
        if name in ("connecting", "connected"):
            end.expect(Publish("a", b"x", 1, packet_id=1)).send(PubAck(1))
            opening.result(PATIENCE)
        else:
            opening.result(PATIENCE)
            end.cut()
            end = server.accept().welcome()
            end.expect(Publish("a", b"x", 1, packet_id=1)).send(PubAck(1))
        assert outcome.wait() is None


def test_states_are_reported_in_order_while_a_callback_waits(blocking: Make) -> None:
    states = States()

    def on_state(state: State) -> None:
        states(state)
        if state.name == "disrupted":
            client.publish("a", b"x", 1, timeout=PATIENCE)

    with Scripted("mqtt") as server:
        client = blocking(server.url, on_state=on_state, reconnect=AT_ONCE)
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        end.cut()
        server.accept().welcome().expect(Publish("a", b"x", 1, packet_id=1)).send(PubAck(1))
        states.wait("connected", 2)
    assert states.names[:6] == ["connecting", "connected", "disrupted", "reconnecting", "connecting", "connected"]


def test_waiting_that_could_never_end_raises(blocking: Make, broker: Broker) -> None:
    in_url, at_the_end, flooded, iterated = Outcome(), Outcome(), Outcome(), Outcome()
    sent = threading.Event()

    def url() -> str:
        in_url.run(client.publish, "a", b"x", 1)
        return broker.url

    def on_state(state: State) -> None:
        if state.name == "disconnected":
            at_the_end.run(client.publish, "a", b"x", 1)

    def on_message(message: Publish) -> None:
        iterated.run(client.messages)
        assert sent.wait(PATIENCE)
        flooded.run(client.publish, "a", b"x", 1)

    client = blocking(url, on_state=on_state, on_message=on_message, max_inbound_bytes=5_000)
    client.open()
    assert isinstance(in_url.wait(), WouldDeadlock)
    client.subscribe("flood")
    with mqttws.connect(broker.url) as other:
        for _ in range(100):
            other.publish_nowait("flood", bytes(2_000))  # many reads; the PUBACK is not in the first
        other.publish("flood", b"", 1)
    sent.set()
    assert isinstance(flooded.wait(), WouldDeadlock)
    assert isinstance(iterated.wait(), MQTTError)
    client.close()
    assert isinstance(at_the_end.wait(), ConnectionClosed)


def test_callbacks_wait_while_many_threads_publish(blocking: Make, broker: Broker) -> None:
    """The callback of each message subscribes, publishes, unsubscribes and waits; other threads publish meanwhile."""
    echoes: list[bytes] = []
    complete = threading.Event()

    def on_message(message: Publish) -> None:
        client.subscribe(f"side/{len(echoes)}", 1)
        client.publish("echo", message.payload, 1 + len(echoes) % 2)
        client.unsubscribe(f"side/{len(echoes)}")
        echoes.append(message.payload)
        if len(echoes) == 100:
            complete.set()

    client = blocking(broker.url, on_message=on_message)
    client.open()
    client.subscribe("in", 1)
    failures: list[Exception] = []

    def work(number: int) -> None:
        try:
            for index in range(25):
                client.publish("in", b"%d %d" % (number, index), 1)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * PATIENCE)
    assert complete.wait(PATIENCE)
    assert not failures
    for number in range(4):  # the messages of each thread are in order
        mine = [echo for echo in echoes if echo.startswith(b"%d " % number)]
        assert mine == [b"%d %d" % (number, index) for index in range(25)]


def test_close_in_a_callback_acknowledges_its_message_first(blocking: Make) -> None:
    with Scripted("mqtt") as server:
        client = blocking(server.url, on_message=lambda message: client.close())
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        end.send(Publish("a", b"x", 1, packet_id=7), Publish("a", b"y", 1, packet_id=8))
        assert end.rest() == PubAck(7).encode() + bytes.fromhex("e000")


def test_the_network_is_handled_between_slow_callbacks(make: Make, server: Scripted) -> None:
    """The acknowledgement of the first message is written before the second callback, which the client waits for."""
    acknowledged, outcome = threading.Event(), Outcome()

    def on_message(message: Publish) -> None:
        if message.packet_id == 1:
            end = time.monotonic() + CALLBACK_SLICE
            while time.monotonic() <= end:
                pass
        else:
            outcome.run(acknowledged.wait, PATIENCE)

    _, end = connected(make, server, on_message=on_message)
    end.send(Publish("a", b"x", 1, packet_id=1), Publish("a", b"y", 1, packet_id=2))
    assert end.receive() == PubAck(1)
    acknowledged.set()
    assert outcome.wait() is True


def test_a_slice_of_callbacks_is_short() -> None:
    assert CALLBACK_SLICE <= 0.05


def test_a_wait_in_a_callback_ends_when_the_client_is_closed(blocking: Make) -> None:
    outcome, waiting = Outcome(), threading.Event()

    def on_message(message: Publish) -> None:
        waiting.set()
        outcome.run(client.publish, "a", b"x", 1, timeout=PATIENCE)

    with Scripted("mqtt") as server:
        client = blocking(server.url, on_message=on_message)
        opening = server.soon(client.open)
        end = server.accept().welcome()
        opening.result(PATIENCE)
        end.send(Publish("a"))
        assert waiting.wait(PATIENCE)
        end.receive()
        closing = server.soon(client.close, 0.1)
        assert end.rest() == bytes.fromhex("e000")
        end.cut()
        closing.result(PATIENCE)
    assert isinstance(outcome.wait(), ConnectionClosed)


def test_a_callback_that_raises_is_reported_and_stops_nothing(
    make: Make, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(argument: Any) -> None:
        raise RuntimeError("of the user's own")

    client = make(broker.url, on_message=fail, on_state=fail)
    client.open()
    client.subscribe("a", 1)
    for _ in range(3):
        client.publish("a", b"x", 1)
    client.publish("a", b"x", 2)
    client.close()
    raised = [record for record in caplog.records if "a callback raised an exception" in record.message]
    assert len(raised) >= 3


@dataclass
class Device:
    """An object whose repr contains a secret."""

    password: str

    def fail(self, *arguments: Any, token: str = "") -> NoReturn:
        raise RuntimeError("of the user's own")

    __call__ = fail


@pytest.mark.parametrize(
    ("callback", "name"),
    [
        (Device("s3cret").fail, "Device.fail"),
        (functools.partial(Device("").fail, token="s3cret"), "Device.fail"),
        (functools.partial(functools.partial(Device("s3cret"), token="s3cret")), "Device"),
    ],
    ids=["a method", "a partial", "an object"],
)
def test_a_callback_that_raises_is_logged_by_its_name(
    make: Make, broker: Broker, closed_port: int, caplog: pytest.LogCaptureFixture, callback: Any, name: str
) -> None:
    """The repr of a bound method has that of its object, and that of a partial its arguments."""
    client = make(broker.url, on_message=callback, on_state=callback).open()
    client.on("b", callback)
    client.subscribe(["a", "b"], 1)
    for topic in "ab":
        client.publish(topic, b"x", 1)
        wait_until(lambda: broker.sessions()[0].in_flight == 0)
    if isinstance(client, Blocking):
        client.publish_nowait("a").add_done_callback(callback)
    client.close()
    with pytest.raises(mqttws.ConnectError):
        make(f"mqtt://127.0.0.1:{closed_port}", recover=callback).open()
    logged = [record.getMessage() for record in caplog.records if "callback raised" in record.getMessage()]
    assert all(line.endswith(f"{__name__}.{name}") for line in logged), logged
    assert len(logged) >= 5
    assert "s3cret" not in caplog.text
    assert "of the user's own" in caplog.text, "the traceback is in the log"


def test_a_callback_of_a_future_in_asyncio_is_logged_by_its_name(
    broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with mqttws.aio.connect(broker.url) as client:
            client.publish_nowait("a").add_done_callback(functools.partial(Device("").fail, token="s3cret"))
            await client.publish("a", qos=1)

    asyncio.run(main())
    assert [record.getMessage().splitlines()[0] for record in caplog.records if record.name == "asyncio"] == [
        f"Exception in callback {__name__}.Device.fail"
    ]
    assert "s3cret" not in caplog.text


def test_a_coroutine_that_a_blocking_client_does_not_await_is_reported(
    blocking: Make, broker: Broker, closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A lambda is no coroutine function, but may return the coroutine of one, of which nothing has run."""
    begun: list[object] = []

    async def handle(argument: object) -> bool:
        begun.append(argument)
        return True

    client = blocking(
        broker.url, on_message=lambda message: handle(message), on_state=lambda state: handle(state)
    ).open()
    client.on("b", lambda message: handle(message))
    client.subscribe(["a", "b"], 1)
    for topic in "ab":
        client.publish(topic, b"x", 1)
    wait_until(lambda: broker.sessions()[0].in_flight == 0)  # as after an exception, the messages are acknowledged
    client.close()
    with pytest.raises(mqttws.ConnectError):  # and a coroutine is no reason for another attempt
        blocking(f"mqtt://127.0.0.1:{closed_port}", recover=lambda error: handle(error)).open()
    records = [record for record in caplog.records if "a callback raised an exception" in record.getMessage()]
    assert len(records) >= 5
    for record in records:
        assert record.levelno == logging.ERROR
        assert record.exc_info
        assert str(record.exc_info[1]) == "the callback returned a coroutine, which is not awaited here"
    assert not begun


def test_a_proxy_as_the_result_of_a_callback_is_not_called() -> None:
    called: list[str] = []

    class Remote:
        """Any attribute is a method of a remote object."""

        def __getattr__(self, name: str) -> Any:
            return lambda *arguments: called.append(name)

    remote = Remote()
    assert accepted(remote) is remote
    assert not called


def test_a_name_is_found_for_every_callback() -> None:
    class Odd:
        def __getattr__(self, name: str) -> NoReturn:
            raise RuntimeError(name)

        def __call__(self, argument: object) -> None: ...

    for callback, name in (
        (queue.Queue().put, "queue.Queue.put"),
        ([].append, "builtins.list.append"),
        (Odd(), f"{__name__}.{Odd.__qualname__}"),
        (print, "builtins.print"),
        (Device, f"{__name__}.Device"),
    ):
        assert mqttws.callback_name(callback) == name


@pytest.mark.parametrize("awaits", [False, True])
def test_a_cancelled_future_in_a_callback_stops_nothing(
    broker: Broker, caplog: pytest.LogCaptureFixture, awaits: bool
) -> None:
    taken: list[bytes] = []

    async def main() -> None:
        cancelled = asyncio.get_running_loop().create_future()
        cancelled.cancel()

        def ask(argument: Any) -> None:
            if isinstance(argument, Publish):
                taken.append(argument.payload)
            cancelled.result()

        async def wait(argument: Any) -> None:
            if isinstance(argument, Publish):
                taken.append(argument.payload)
            await cancelled

        callback = wait if awaits else ask
        async with mqttws.aio.connect(broker.url, on_message=callback, on_state=callback) as client:
            await client.subscribe("a", 2)
            for qos in range(3):
                await client.publish("a", b"%d" % qos, qos)
            while len(taken) < 3:
                await asyncio.sleep(0.001)
            await asyncio.wait_for(_nothing_in_flight(client, broker), PATIENCE)
            assert client.state.name == "connected"

    asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE))
    assert taken == [b"0", b"1", b"2"]
    assert caplog.text.count("a callback raised an exception") >= 4


async def _nothing_in_flight(client: mqttws.aio.Client, broker: Broker) -> None:
    """Wait until the broker has no message that the client has not acknowledged."""
    while any(session.in_flight for session in broker.sessions() if session.client_id == client.client_id):
        await asyncio.sleep(0.001)


@pytest.fixture
def handle() -> Iterator[Callable[[Callable[[logging.LogRecord], None]], None]]:
    """Handle each record of the driver's log by a function."""
    logger = logging.getLogger("mqttws")
    handlers: list[logging.Handler] = []

    def handle(emit: Callable[[logging.LogRecord], None]) -> None:
        handler = logging.Handler()
        handler.emit = emit  # type: ignore[method-assign]
        handler.addFilter(lambda record: record.name == "mqttws")  # without the broker's records
        handlers.append(handler)
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)

    yield handle
    logger.setLevel(logging.NOTSET)
    for handler in handlers:
        logger.removeHandler(handler)


def test_a_log_handler_can_publish_the_log(blocking: Make, broker: Broker, handle) -> None:
    """The driver calls the handler, and must not hold its lock then."""
    with mqttws.connect(broker.url) as watcher:
        watcher.subscribe("log", 1)
        client = blocking(broker.url)

        def emit(record: logging.LogRecord) -> None:
            if record.getMessage().startswith(client.client_id):  # a client of another test may still be closing
                client.publish_nowait("log", record.getMessage(), 1)

        handle(emit)
        client.open()
        payloads = [next(watcher.messages(timeout=PATIENCE)).payload for _ in range(2)]
    assert payloads == [f"{client.client_id}: {name}".encode() for name in ("connecting", "connected")]


def test_a_log_handler_that_raises_stops_nothing(make: Make, broker: Broker, handle) -> None:
    def emit(record: logging.LogRecord) -> None:
        raise OSError("no space left on device")

    handle(emit)
    client = make(broker.url, on_message=lambda message: 1 / 0)
    client.open()
    client.subscribe("a", 1)
    client.publish("a", b"x", 1)
    client.publish("a", b"y", 2)
    assert client.state.name == "connected"


def test_space_in_the_queue_wakes_a_waiting_publish(make: Make) -> None:
    with Scripted("mqtt") as server:
        client = make(server.url, client_id="c", max_queued=1)
        client.publish_nowait("a", b"0", 1)
        with pytest.raises(QueueFull):
            client.publish_nowait("a", b"1", 1)
        opening = server.soon(client.open)
        end = server.accept()
        end.receive()
        waiting = [server.soon(client.publish, "a", b"%d" % number) for number in (1, 2)]
        end.send("20 02 00 00")
        opening.result(PATIENCE)
        for each in waiting:
            each.result(PATIENCE)
        assert client.session.sender.waiting == 0


def test_on_message_and_iteration_exclude_each_other(make: Make, broker: Broker) -> None:
    client = make(broker.url, on_message=print)
    client.open()
    with pytest.raises(MQTTError, match="on_message receives the messages"):
        next(client.messages())


def test_waiting_on_a_client_that_is_not_open(make: Make) -> None:
    client = make("mqtt://127.0.0.1:1")
    for call in (lambda: client.publish("a"), lambda: client.subscribe("a"), lambda: client.unsubscribe("a")):
        with pytest.raises(MQTTError, match="not open"):
            call()
    with pytest.raises(MQTTError, match="not open"):
        next(client.messages())


def test_calls_on_a_closed_client(make: Make, broker: Broker) -> None:
    client = make(broker.url)
    client.open()
    client.close()
    with pytest.raises(ConnectionClosed, match="was closed"):
        client.publish("a", b"x", 1, timeout=PATIENCE)
    with pytest.raises(ConnectionClosed, match="was closed"):
        client.subscribe("a", timeout=PATIENCE)
    with pytest.raises(ConnectionClosed, match="was closed"):
        client.publish_nowait("a").result(PATIENCE)
    assert list(client.messages()) == []
    client.open()
    client.publish("a", b"x", 1)


def test_futures_can_be_watched_and_cancelled(make: Make, broker: Broker) -> None:
    client = make(broker.url)
    called = threading.Event()
    future = client.publish_nowait("a", b"x", 1)
    future.add_done_callback(lambda done: called.set())
    cancelled = client.publish_nowait("a", b"y", 1)
    cancelled.cancel()
    client.open()
    assert called.wait(PATIENCE)
    assert future.result(PATIENCE) is None
    assert cancelled.cancelled()
    assert client.session.sender.in_flight <= 1


def test_a_will_is_a_message() -> None:
    with pytest.raises(mqttws.LocalProtocolError):
        Blocking("mqtt://127.0.0.1", will=Message("a/#"))


def test_a_blocking_client_acknowledges_received_data_after_the_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    over = threading.Event()

    def acknowledge(connection: object) -> None:
        events.append("acknowledged")
        if "called" in events:
            over.set()

    monkeypatch.setattr(network_module, "acknowledge_at_once", acknowledge)
    with Broker() as broker, mqttws.connect(broker.url_of("mqtt")) as client:
        events.clear()
        client.publish_nowait("t", b"", 1).add_done_callback(lambda future: events.append("called"))
        assert over.wait(PATIENCE)
        assert events == ["called", "acknowledged"]


def test_a_callback_that_waits_for_the_server_acknowledges_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a server that waits for it before it sends more would let the callback wait."""
    events: list[str] = []
    over = threading.Event()
    monkeypatch.setattr(network_module, "acknowledge_at_once", lambda connection: events.append("acknowledged"))

    def called(future: object) -> None:
        events.append("called")
        client.publish("t", b"", 1)
        events.append("returned")
        over.set()

    with Broker() as broker, mqttws.connect(broker.url_of("mqtt")) as client:
        events.clear()
        client.publish_nowait("t", b"", 1).add_done_callback(called)
        assert over.wait(PATIENCE)
        assert events[:4] == ["called", "acknowledged", "acknowledged", "returned"]
