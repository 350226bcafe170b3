"""The PubSub API with forks, exits, locks of the user, signal handlers and callbacks of futures."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttws import WouldDeadlock
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider, PubSub
from pubsub.sync.runtime import OwnThread

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 30.0

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

#: The start of each program below. Its argument is the URL of a broker.
PROLOGUE = """
import asyncio, os, signal, sys, threading, time, warnings
import mqttws, pubsub, pubsub.aio
from pubsub import MqttOverWSProvider, PubSub
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads

url = sys.argv[1]

def in_child(work):
    "Fork, and work in the child. Return what it printed; the child ends by itself in any case."
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            said = work()
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        os.write(write, str(said).encode()[:4000])
        os._exit(0)
    os.close(write)
    said = b""
    while piece := os.read(read, 4096):
        said += piece
    os.close(read)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return said.decode() if code == 0 else f"ended with {code}"
"""


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(sys_interval=None) as broker:
        yield broker


@pytest.fixture
def ps(broker: Broker) -> Iterator[PubSub]:
    with PubSub(MqttOverWSProvider(broker.url)) as ps:
        yield ps


def run(program: str, broker: Broker) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PROLOGUE + program, broker.url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )


def lines(program: str, broker: Broker) -> list[str]:
    done = run(program, broker)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# Forks.


@needs_fork
def test_a_pubsub_that_was_opened_before_a_fork_works_in_the_child(broker: Broker) -> None:
    said = lines(
        """
ps = PubSub(MqttOverWSProvider(url))
closes = []
subscription = ps.subscribe("a", qos=1).subscribe(close=lambda: closes.append(os.getpid()))
subscription.ready(30)
messages = iter(ps.subscribe("b"))
messages.ready(30)
future = ps.publish_nowait("a", 0, qos=1)
future.result(30)

def work():
    said = [str(ps.connection_state), subscription.closed, str(subscription.error)]
    for refused in (subscription.ready, lambda: next(messages), lambda: subscription.add("c")):
        try:
            refused()
            said.append("nothing")
        except mqttws.MQTTError as error:
            said.append(type(error).__name__)
    subscription.unsubscribe()
    ps.publish("a", 1, qos=1, timeout=30)
    with ps.subscribe("c", timeout=30) as again:
        again.ready(30)
        ps.publish("c", 2, qos=1)
        said.append(next(again).value)
    ps.close()
    ps.publish_nowait("a", 3, qos=1).result(30)
    ps.close()
    return said + closes

print(in_child(work))
print(ps.connection_state, subscription.closed, closes)
ps.publish("a", 4, qos=1, timeout=30)
ps.close()
""",
        broker,
    )
    assert said == [
        "['Disconnected', True, 'the process was forked, and the connection belongs to the parent; subscribe again', "
        "'ConnectionClosed', 'ConnectionClosed', 'SubscriptionEnded', 2]",
        "Connected False []",
    ]


@needs_fork
def test_forks_while_twenty_threads_publish_and_subscribe(broker: Broker) -> None:
    said = lines(
        """
ps = PubSub(MqttOverWSProvider(url))
ps.connect(timeout=30)
stop = threading.Event()

def keep_busy(number):
    while not stop.is_set():
        ps.publish_nowait(f"t/{number}", number, qos=1).result(30)
        with ps.subscribe(f"s/{number}") as messages:
            messages.ready(30)

threads = [threading.Thread(target=keep_busy, args=(number,)) for number in range(20)]
for thread in threads:
    thread.start()

def work():
    ps.publish("child", 1, qos=1, timeout=30)
    ps.subscribe("child").subscribe(next=id).ready(30)
    ps.close(2)
    return "works"

for _ in range(10):
    print(in_child(work))
stop.set()
for thread in threads:
    thread.join(30)
ps.close()
""",
        broker,
    )
    assert said == ["works"] * 10


@needs_fork
def test_a_pubsub_of_asyncio_that_was_opened_before_a_fork_works_in_the_child(broker: Broker) -> None:
    said = lines(
        """
loop = asyncio.new_event_loop()
ps = pubsub.aio.PubSub(MqttOverWSProvider(url))

async def begin():
    subscription = ps.subscribe("a").subscribe(next=id)
    await subscription.ready(30)
    return subscription

async def again():
    try:
        await subscription.ready(30)
    except mqttws.ConnectionClosed as error:
        print(error, flush=True)
    await ps.publish("a", 1, qos=1, timeout=30)
    await ps.close()
    return "works"

subscription = loop.run_until_complete(begin())
print(in_child(lambda: asyncio.run(again())))
loop.run_until_complete(ps.close())
loop.close()
""",
        broker,
    )
    assert said == ["the process was forked, and the connection belongs to the parent; subscribe again", "works"]


@needs_fork
def test_a_refresh_of_credentials_at_a_fork_does_not_block_the_child(broker: Broker) -> None:
    said = lines(
        """
from pubsub.aws.cognito import CognitoIdentity
from pubsub.aws.local.cognito import IdentityPool, LocalCognito
from pubsub.aws.local.cognito_server import LocalCognitoServer
from pubsub.aws.local.keyring import KeyRing

name = "eu-west-1:12345678-1234-4123-8123-123456789abc"
server = LocalCognitoServer(LocalCognito([IdentityPool(name)], KeyRing()))
entered, released = threading.Event(), threading.Event()

def logins():
    entered.set()
    released.wait(30)

identity = CognitoIdentity(name, "eu-west-1", logins, endpoint=server.endpoint)
refresh = threading.Thread(target=identity.get_frozen_credentials)
refresh.start()
entered.wait(30)

def work():
    released.set()
    return bool(identity.get_frozen_credentials().access_key)

print(in_child(work))
released.set()
refresh.join()
print(bool(identity.get_frozen_credentials().access_key))
server.close()
""",
        broker,
    )
    assert said == ["True", "True"]


# Exits and cancellations inside callbacks.


def test_sys_exit_in_callbacks_does_not_stop_delivery(ps: PubSub, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Any] = []
    came = threading.Semaphore(0)

    def leave(message: Any) -> None:
        if message.value in ("exit", "interrupt"):
            raise SystemExit(3) if message.value == "exit" else KeyboardInterrupt
        got.append(message.value)
        came.release()

    def leave_always(change: Any) -> None:
        sys.exit(4)

    ps.connection_state_changes.subscribe(leave_always)
    ps.subscribe("a", qos=1).subscribe(next=leave).ready(PATIENCE)
    with caplog.at_level(logging.ERROR, "pubsub"):
        for value in ("one", "exit", "two", "interrupt", "three"):
            ps.publish("a", value, qos=1)
        for _ in range(3):
            assert came.acquire(timeout=PATIENCE)
    assert got == ["one", "two", "three"]
    assert "SystemExit" in caplog.text
    ps.reauthenticate()
    ps.publish("a", "four", qos=1)
    assert came.acquire(timeout=PATIENCE)


def test_sys_exit_in_a_callback_on_the_user_s_thread_propagates(ps: PubSub) -> None:
    subscription = ps.subscribe("a").subscribe(close=lambda: sys.exit(5))
    subscription.ready(PATIENCE)
    with pytest.raises(SystemExit):
        subscription.unsubscribe(PATIENCE)
    assert subscription.closed
    ps.subscribe("a").subscribe(next=id).ready(PATIENCE)


def test_sys_exit_in_a_callback_ends_an_asyncio_program(broker: Broker) -> None:
    done = run(
        """
async def main():
    async with pubsub.aio.PubSub(MqttOverWSProvider(url)) as ps:
        await ps.subscribe("a").subscribe(next=lambda message: sys.exit(7), close=lambda: print("closed")).ready(30)
        await ps.publish("a", 1)
        await asyncio.sleep(30)

asyncio.run(main())
""",
        broker,
    )
    assert (done.returncode, done.stdout) == (7, "closed\n")


def test_a_cancelled_task_in_a_callback_does_not_cancel_the_connection(broker: Broker) -> None:
    said = lines(
        """
import logging
logging.disable(logging.CRITICAL)
got = asyncio.Queue()

async def next_(message):
    if message.value == 0:
        task = asyncio.ensure_future(asyncio.sleep(30))
        task.cancel()
        await task
    await got.put(message.value)

async def main():
    async with asyncio.timeout(30), pubsub.aio.PubSub(MqttOverWSProvider(url)) as ps:
        await ps.subscribe("a", qos=1).subscribe(next=next_).ready()
        for number in range(3):
            await ps.publish("a", number, qos=1)
        print(await got.get(), await got.get(), ps.connection_state)

asyncio.run(main())
""",
        broker,
    )
    assert said == ["1 2 Connected"]


# Locks of the user.


def test_a_lock_of_the_user_around_publish_and_in_callbacks(ps: PubSub) -> None:
    """A thread that holds the lock waits for an acknowledgement, while a callback waits for the lock.

    So no callback may run in the thread that reads the acknowledgement.
    """
    lock = threading.Lock()
    taken: list[str] = []

    def take(what: str) -> None:
        with lock:
            taken.append(what)

    ps.subscribe("a", qos=1).subscribe(next=lambda message: take("next")).ready(PATIENCE)
    ps.connection_state_changes.subscribe(lambda change: take("state"))
    for _ in range(20):
        with lock:
            future = ps.publish_nowait("a", 1, qos=1)
            future.add_done_callback(lambda future: take("future"))
            ps.publish("a", 2, qos=1, timeout=PATIENCE)
            ps.publish(["a", "b"], 2, qos=2, timeout=PATIENCE)
            ps.subscribe("c").subscribe(next=id).ready(PATIENCE)
    ps.close()
    assert taken.count("future") == 20
    assert taken.count("next") <= 60


def test_the_callback_of_a_future_may_wait_for_the_network(ps: PubSub, broker: Broker) -> None:
    ps.connect()
    over = threading.Event()
    raised: list[BaseException] = []

    def publish_more(future: Any) -> None:
        try:
            future.result(0)
            ps.publish(["a", "b"], 2, qos=2, timeout=PATIENCE)
        except BaseException as error:
            raised.append(error)
        over.set()

    ps.publish_nowait("a", 1, qos=1).add_done_callback(publish_more)
    assert over.wait(PATIENCE)
    assert raised == []
    done = ps.publish_nowait("a", 1, qos=1)
    done.result(PATIENCE)
    called: list[Any] = []
    done.add_done_callback(called.append)
    assert called == [done], "the callback of a finished future is called immediately, as in concurrent.futures"


# Signal handlers.


def test_a_signal_handler_gets_an_error_instead_of_a_deadlock(ps: PubSub) -> None:
    """A handler that runs while its thread holds the lock gets an error; publishing takes no lock of pubsub."""
    ps.connect()
    with ps._runtime.lock:
        with pytest.raises(WouldDeadlock):
            ps.subscribe("a").subscribe(next=id)
        with pytest.raises(WouldDeadlock):
            ps.close()
        ps.publish("a", 1, qos=1, timeout=PATIENCE)
        ps.publish_nowait(["a", "b"], 1, qos=1).result(PATIENCE)
    ps.subscribe("a").subscribe(next=id).ready(PATIENCE)


def test_an_exception_of_a_signal_handler_propagates(ps: PubSub, monkeypatch: Any) -> None:
    class Stop(Exception):
        pass

    def interrupted(*arguments: Any, **options: Any) -> None:
        raise Stop

    ps.connect()
    channel = next(iter(ps._channels.values()))
    monkeypatch.setattr(channel.client, "publish", interrupted)
    monkeypatch.setattr(channel.client, "publish_nowait", interrupted)
    for topics in ("a", ["a", "b"]):
        for publish in (ps.publish, ps.publish_nowait):
            with pytest.raises(Stop):
                publish(topics, 1)


@pytest.mark.parametrize("begins", [True, False])
def test_an_interrupted_first_call_leaves_no_connection(ps: PubSub, monkeypatch: Any, begins: bool) -> None:
    """Otherwise a client that nobody closes would stay connected, and be taken over by the next one."""
    start, channels = ps._runtime.start, []

    def interrupted(channel: Any) -> None:
        monkeypatch.undo()
        channels.append((channel, start(channel) if begins else None))
        raise KeyboardInterrupt

    monkeypatch.setattr(ps._runtime, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ps.publish("a", 1)
    channel, runner = channels[0]
    if begins:
        runner.join(PATIENCE)
        assert not runner.is_alive()
    assert channel.client.timings is None  # it has not connected
    ps.close(PATIENCE)
    ps.publish("a", 1, qos=1, timeout=PATIENCE)


@pytest.mark.parametrize("step", ["before", "after"])
def test_an_interrupted_subscribe_does_not_block_later_ones(ps: PubSub, monkeypatch: Any, step: str) -> None:
    """Later subscriptions to the filter do not wait for an answer that never arrives; earlier ones get messages."""
    came = threading.Event()
    ps.subscribe("a", qos=1).subscribe(next=lambda message: came.set()).ready(PATIENCE)
    client = next(iter(ps._channels.values())).client
    subscribe = client.subscribe_nowait

    def interrupted(wanted: Any) -> Any:
        monkeypatch.undo()
        if step == "after":
            subscribe(wanted)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "subscribe_nowait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ps.subscribe(["a", "b"], qos=2).subscribe(next=id)
    for topics in ("a", "b", ["a", "b"]):
        subscription = ps.subscribe(topics, qos=1).subscribe(next=id)
        assert set(subscription.ready(PATIENCE)) == set(topics)
    ps.publish("a", 1, qos=1)
    ps.publish("b", 1, qos=1)
    assert len(ps._channels["MqttOverWSProvider"].members()) == 4
    assert came.wait(PATIENCE)


def test_thousands_of_interrupts_do_not_affect_other_threads(broker: Broker) -> None:
    """A handler raises at any instruction of the main thread, thousands of times.

    Meanwhile two other threads publish and one observer gets every message: no lock stays held, no message stays
    unacknowledged, and no iteration blocks the others.
    """
    [said] = lines(
        """
import logging, random
logging.disable(logging.CRITICAL)
random.seed(7)

class Interrupt(Exception):
    pass

def interrupt(*_):
    if armed:
        raise Interrupt

armed = False
signal.signal(signal.SIGALRM, interrupt)
sys.unraisablehook = lambda unraisable: None  # where CPython itself is interrupted in a weak reference's callback
ps = PubSub(MqttOverWSProvider(url), timeout=30)
got, published, failures = [0], [0, 0], []
stop = threading.Event()

def publish(number):
    try:
        while not stop.is_set():
            ps.publish("w", number, qos=1)
            published[number] += 1
    except BaseException as error:
        failures.append(error)

def observe(message):
    got[0] += 1

ps.subscribe("w", qos=1).subscribe(next=observe).ready(30)
threads = [threading.Thread(target=publish, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()

def subscribe_and_end():
    subscription = ps.subscribe("a").subscribe(next=id)
    subscription.ready(30)
    subscription.unsubscribe(10)

def iterate():
    with ps.subscribe("b", qos=1, timeout=30) as messages:
        messages.ready(30)
        ps.publish("b", 1, qos=1)
        next(messages)

def leave_an_iteration():
    next(iter(ps.subscribe("b", qos=1, timeout=0.001)), None)

calls = [
    lambda: ps.publish("a", 1, qos=1),
    lambda: ps.publish("a", 1),
    lambda: ps.publish(["a", "c"], 1, qos=1),
    lambda: ps.publish_nowait("a", 1, qos=1).result(30),
    lambda: repr(ps),
    subscribe_and_end,
    iterate,
    leave_an_iteration,
]
interrupts, end = 0, time.monotonic() + 4
while time.monotonic() < end and not failures:
    signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 2e-3))
    try:
        armed = True
        random.choice(calls)()
        armed = False
    except (Interrupt, RuntimeError):  # threading.Condition.wait itself raises a RuntimeError when it is interrupted
        interrupts += 1
    finally:
        armed = False
signal.setitimer(signal.ITIMER_REAL, 0)
before = sum(published)
deadline = time.monotonic() + 20
while sum(published) < before + 20 and time.monotonic() < deadline:
    time.sleep(0.01)
stop.set()
for thread in threads:
    thread.join(25)
while got[0] < sum(published) and time.monotonic() < deadline:
    time.sleep(0.01)
ps.publish("end", 1, qos=1)
print(interrupts > 100, sum(published) >= before + 20, got[0] - sum(published), failures, flush=True)
ps.close()
""",
        broker,
    )
    assert said == "True True 0 []"


def test_a_notifier_whose_start_was_interrupted_can_be_finished(ps: PubSub) -> None:
    """An interrupt of `Thread.start` may leave the lock of its event held: the thread then has its identifier only."""
    thread = OwnThread()
    thread._ident = 1  # type: ignore[attr-defined]
    ps._runtime.notifier._thread = thread
    ps.close()


@pytest.mark.parametrize("begins", [True, False])
def test_a_notifier_whose_start_was_interrupted_calls_back(ps: PubSub, monkeypatch: Any, begins: bool) -> None:
    start, called = threading.Thread.start, threading.Event()

    def interrupted(thread: threading.Thread) -> None:
        monkeypatch.undo()
        if begins:
            start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ps._runtime.notify(called.set)
    assert called.wait(PATIENCE)
    again = threading.Event()
    ps._runtime.later(0.01, again.set)
    assert again.wait(PATIENCE)


def test_a_signal_handler_may_use_the_shared_pubsub_while_it_is_being_made(monkeypatch: pytest.MonkeyPatch) -> None:
    from pubsub import shared

    made: list[PubSub] = []

    class Interrupted(PubSub):
        """Its constructor is interrupted by a handler that needs the same object."""

        def __init__(self) -> None:
            super().__init__()
            if not made:
                made.append(self)
                made.append(shared.default())

    monkeypatch.setattr(shared, "PubSub", Interrupted)
    monkeypatch.setattr(shared, "_shared", {})
    calling = threading.Thread(target=lambda: made.append(shared.default()), daemon=True)
    calling.start()
    calling.join(PATIENCE)
    assert not calling.is_alive()
    assert made[1] is made[2] is shared.default()
