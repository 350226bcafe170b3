"""`Sharded` with many threads, forks and Ctrl-C."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mqttws.broker import Broker
from pubsub import ConnectionState, MqttOverWSProvider, PubSub, Sharded

PATIENCE = 30.0
ROOT = Path(__file__).resolve().parent.parent.parent

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")

PROLOGUE = """
import os, random, signal, sys, threading, time, warnings
import pubsub
from pubsub import MqttOverWSProvider, PubSub
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads

url = sys.argv[1]
"""


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(sys_interval=None) as broker:
        yield broker


def lines(program: str, broker: Broker, *, interrupted: bool = False) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PROLOGUE + program, broker.url],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    if interrupted:  # Python reports an exception of a signal handler inside a weak reference's callback on stderr
        assert "Exception ignored " in done.stderr or done.stderr == ""
    else:
        assert done.stderr == ""
    return done.stdout.splitlines()


def test_many_threads_publish_and_subscribe_during_resizing() -> None:
    """The topic of each thread is complete and in order while subscriptions and the number of connections change."""
    received: dict[str, list[Any]] = defaultdict(list)
    failures: list[BaseException] = []
    over = threading.Event()
    messages, publishers = 150, 6

    def guarded(work: Any, *arguments: Any) -> None:
        try:
            work(*arguments)
        except BaseException as error:
            failures.append(error)
            over.set()

    with Broker(sys_interval=None) as broker:
        provider = Sharded(MqttOverWSProvider(broker.url, client_id="name"), (2, 2), connect_rate=500)
        with PubSub(provider, timeout=PATIENCE) as ps:

            def publish(number: int) -> None:
                for value in range(messages):
                    ps.publish(f"t/{number}", value, qos=1)

            def toggle() -> None:
                while not over.is_set():
                    with ps.subscribe(["t/#", "other"], qos=1) as iteration:
                        iteration.ready(PATIENCE)

            def resize() -> None:
                draw = random.Random(7)
                while not over.is_set():
                    ps.resize((draw.randint(1, 3), draw.randint(1, 4)))
                    over.wait(0.05)

            topics = [f"t/{number}" for number in range(publishers)]
            ps.subscribe(topics, qos=1).subscribe(lambda message: received[message.topic].append(message.value)).ready()
            others = [threading.Thread(target=guarded, args=(work,)) for work in (toggle, resize)]
            workers = [threading.Thread(target=guarded, args=(publish, number)) for number in range(publishers)]
            for thread in [*others, *workers]:
                thread.start()
            for thread in workers:
                thread.join(PATIENCE * 2)
            over.set()
            for thread in others:
                thread.join(PATIENCE)
            deadline = time.monotonic() + PATIENCE
            while sum(map(len, received.values())) < messages * publishers and time.monotonic() < deadline:
                time.sleep(0.02)
    assert failures == []
    assert received == {topic: list(range(messages)) for topic in topics}


@needs_fork
def test_the_child_of_a_fork_opens_new_connections(broker: Broker) -> None:
    said = lines(
        """
ps = PubSub(pubsub.Sharded(MqttOverWSProvider(url), (2, 2), connect_rate=500))
got = []
ended = []
both = ps.subscribe(["t/1", "t/2"], qos=1)
both.subscribe(next=lambda m: got.append(m.value), close=lambda: ended.append(1)).ready(30)

def work():
    states = set(ps.connection_states.values())
    ps.subscribe("t/3", qos=1).subscribe(next=lambda m: got.append(m.value)).ready(30)
    ps.publish("t/3", "child", qos=1)
    while "child" not in got:
        time.sleep(0.01)
    ps.close()
    return [sorted(states), ended]

read, write = os.pipe()
child = os.fork()
if child == 0:
    signal.alarm(30)
    try:
        said = work()
    except BaseException as error:
        said = f"{type(error).__name__}: {error}"
    os.write(write, str(said).encode())
    os._exit(0)
os.close(write)
print(os.read(read, 4096).decode())
os.waitpid(child, 0)
ps.publish("t/1", "parent", qos=1)
while "parent" not in got:
    time.sleep(0.01)
ps.close()
end = time.monotonic() + 10
while len(threading.enumerate()) > 1 and time.monotonic() < end:  # threads of the pool end shortly after `close`
    time.sleep(0.01)
print(got, len(threading.enumerate()))
""",
        broker,
    )
    assert said == ["[[<ConnectionState.DISCONNECTED: 'Disconnected'>], []]", "['parent'] 1"]


@pytest.mark.parametrize("begins", [True, False])
def test_a_connection_whose_start_was_interrupted_is_made(
    broker: Broker, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if not thread.name.startswith("pubsub reader"):
            start(thread)
            return
        monkeypatch.undo()
        if begins:
            start(thread)
        raise KeyboardInterrupt

    with PubSub(Sharded(MqttOverWSProvider(broker.url), (1, 1), connect_rate=500)) as ps:
        ps.connect()
        monkeypatch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            ps.resize((3, 3))
        end = time.monotonic() + PATIENCE
        while list(ps.connection_states.values()).count(ConnectionState.CONNECTED) < 1 + 6:
            assert time.monotonic() < end, ps.connection_states
            time.sleep(0.01)
        ps.subscribe([f"t/{n}" for n in range(8)], qos=1).subscribe(next=id).ready(PATIENCE)
        for number in range(8):
            ps.publish(f"t/{number}", number, qos=1, timeout=PATIENCE)


def test_ctrl_c_at_any_time_leaves_it_usable(broker: Broker) -> None:
    """A signal handler raises a hundred times during publishing and resizing."""
    said = lines(
        """
ps = PubSub(pubsub.Sharded(MqttOverWSProvider(url), (2, 2), connect_rate=500))
got = []
ps.subscribe([f"t/{n}" for n in range(8)], qos=1).subscribe(next=lambda m: got.append(m.value)).ready(30)
interrupts = 0
armed = False

def interrupt(*_):
    global armed
    if armed:
        armed = False
        raise KeyboardInterrupt

def work():  # a function: Python 3.14 leaves the end of an `if` in a loop out of the `try` around it
    global armed
    armed = True
    signal.setitimer(signal.ITIMER_REAL, random.random() * 0.02 + 0.0005)
    for number in range(1000):
        ps.publish_nowait(f"t/{number % 8}", number, qos=1)
        if number % 50 == 0:
            ps.resize((random.randint(1, 3), random.randint(1, 3)))
            ps.flush(30)
    armed = False

signal.signal(signal.SIGALRM, interrupt)
begin = time.monotonic()
while interrupts < 100 and time.monotonic() - begin < 20:
    try:
        work()
    except KeyboardInterrupt:
        interrupts += 1
ps.publish("t/0", "after", qos=1, timeout=30)
while "after" not in got:
    time.sleep(0.01)
begin = time.monotonic()
ps.close(5)
print(interrupts > 0, time.monotonic() - begin < 8)
""",
        broker,
        interrupted=True,
    )
    assert said == ["True True"]
