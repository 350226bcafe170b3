"""Clients in separate processes: interpreter exit, signals, forks. Nothing hangs and nothing is left open."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from drivers import PATIENCE
from scripted import Scripted

import mqttws.locks
from mqttws import Disconnect, PubAck, Publish
from mqttws.broker import Broker
from pubsub import owned_lock

ROOT = Path(__file__).parents[2]
#: Seconds for a process to start and to end, on a busy machine.
LONG = 4 * PATIENCE


@pytest.fixture
def program() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that runs a script in development mode, with every warning an error."""
    running: list[subprocess.Popen[str]] = []

    def start(script: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script), *arguments]
        running.append(
            subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )
        )  # fmt: skip
        return running[-1]

    yield start
    for process in running:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # also the processes that it has forked, which hold its pipes
        process.communicate()


def outcome(process: subprocess.Popen[str], words: str = "") -> tuple[int, str, str]:
    """Write to standard input and wait for the end. Return exit code, standard output and standard error."""
    out, err = process.communicate(words, timeout=LONG)
    return process.returncode, out, err


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_interpreter_exit_with_an_open_client_sends_disconnect(program, scheme: str) -> None:
    with Scripted(scheme) as server:
        process = program(
            """
            import sys, mqttws
            client = mqttws.connect(sys.argv[1], client_id="c")
            client.publish_nowait("a", b"x")
            """,
            server.url,
        )
        end = server.accept().welcome()
        assert end.rest() == Publish("a", b"x").encode() + Disconnect().encode()
        end.cut()
        assert outcome(process) == (0, "", "")


def test_interpreter_exit_with_an_unresponsive_server(program) -> None:
    with Scripted("mqtt") as server:
        process = program(
            """
            import sys, mqttws, threading
            client = mqttws.Client(sys.argv[1], client_id="c")
            threading.Thread(target=client.open, daemon=True).start()
            input()
            client.publish_nowait("a", b"x", 1)
            """,
            server.url,
        )
        server.accept()
        code, out, _ = outcome(process, "\n")
        assert (code, out) == (0, "")


def test_closed_clients_cause_no_warnings(program, broker: Broker) -> None:
    process = program(
        """
        import asyncio, gc, sys, threading, mqttws, mqttws.aio
        for _ in range(3):
            with mqttws.connect(sys.argv[1]) as client:
                client.subscribe("a", 1)
                client.publish("a", b"x", 1)
                next(client.messages(timeout=30))
        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60.0  # the machine may be busy
            for _ in range(3):
                async with mqttws.aio.connect(sys.argv[1]) as client:
                    await client.subscribe("a", 1)
                    await client.publish("a", b"x", 1)
                    async for message in client:
                        break
        asyncio.run(main())
        gc.collect()
        print(threading.active_count())
        """,
        broker.url,
    )
    assert outcome(process) == (0, "1\n", "")


def test_an_interrupt_ends_a_wait(program) -> None:
    with Scripted("mqtt") as server:
        process = program(
            """
            import sys, mqttws
            try:
                with mqttws.connect(sys.argv[1], client_id="c") as client:
                    try:
                        client.publish("a", b"x", 1, timeout=3600)
                    finally:
                        client.close(0.05)  # it is never acknowledged
            except KeyboardInterrupt:
                print("interrupted", client.state.name)
            """,
            server.url,
        )
        end = server.accept().welcome()
        assert end.receive() == Publish("a", b"x", 1, packet_id=1)
        process.send_signal(signal.SIGINT)
        assert end.rest() == Disconnect().encode()
        end.cut()
        assert outcome(process) == (0, "interrupted disconnected\n", "")


def test_close_waits_after_an_interrupted_close(program) -> None:
    with Scripted("mqtt") as server:
        process = program(
            """
            import sys, mqttws
            client = mqttws.connect(sys.argv[1], client_id="c")
            future = client.publish_nowait("a", b"x", 1)
            try:
                print("published", flush=True)
                client.close(3600)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            client.close(3600)
            print(client.state.name, future.exception(0))
            """,
            server.url,
        )
        end = server.accept().welcome()
        assert end.receive() == Publish("a", b"x", 1, packet_id=1)
        assert process.stdout is not None
        assert process.stdout.readline() == "published\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        end.send(PubAck(1))
        assert end.rest() == Disconnect().encode()
        end.cut()
        assert outcome(process) == (0, "disconnected None\n", "")


def test_an_interrupt_ends_an_asyncio_iteration(program, broker: Broker) -> None:
    process = program(
        """
        import asyncio, sys, mqttws.aio
        async def main():
            asyncio.get_running_loop().slow_callback_duration = 60.0  # the machine may be busy
            async with mqttws.aio.connect(sys.argv[1]) as client:
                await client.subscribe("a")
                print("ready", flush=True)
                async for message in client:
                    pass
        try:
            asyncio.run(main())
        except KeyboardInterrupt:
            print("interrupted")
        """,
        broker.url,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert outcome(process) == (0, "interrupted\n", "")


def test_a_fork_leaves_the_connection_to_the_parent(program, broker: Broker) -> None:
    process = program(
        """
        import os, sys, warnings, mqttws
        warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about forks with threads
        with mqttws.connect(sys.argv[1]) as client:
            client.subscribe("a", 1)
            child = os.fork()
            if not child:
                try:
                    client.publish("a", b"x", 1)
                except mqttws.ConnectionClosed as error:
                    print("child:", error, flush=True)
                client.open().publish("a", b"child", 1)     # a separate connection
                client.close()
                sys.exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            print("parent:", client.state.name)
        """,
        broker.url,
    )
    code, out, err = outcome(process)
    assert (code, err) == (0, "")
    assert out == "child: the process was forked, and the connection belongs to the parent\nparent: connected\n"


@pytest.mark.parametrize("module", ["mqttws", "mqttws.aio"])
def test_a_connection_ends_with_the_parent_while_a_forked_child_goes_on(program, module: str) -> None:
    with Scripted("mqtt") as server:
        process = program(
            """
            import asyncio, importlib, inspect, os, signal, sys, warnings
            warnings.simplefilter("ignore", DeprecationWarning)

            async def main():
                opened = importlib.import_module(sys.argv[1]).Client(sys.argv[2]).open()
                if inspect.isawaitable(opened):
                    await opened
                if os.fork() == 0:
                    signal.pause()
                await asyncio.to_thread(sys.stdin.readline)
                os.kill(os.getpid(), signal.SIGKILL)

            asyncio.run(main())
            """,
            module,
            server.url,
        )
        end = server.accept().welcome()
        process.stdin.write("\n")
        process.stdin.flush()
        assert end.rest() == b""


@pytest.fixture
def remote(program) -> Iterator[str]:
    """The URL of a broker in another process."""
    process = program(
        """
        from mqttws.broker import Broker
        with Broker() as broker:
            print(broker.url, flush=True)
            input()
        """
    )
    yield process.stdout.readline().strip()
    assert outcome(process, "\n") == (0, "", "")


def test_a_client_whose_descriptors_were_closed_ends_and_can_be_opened_again(program, remote: str) -> None:
    process = program(
        """
        import concurrent.futures  # later, the client could close the descriptor of its file for one of its own
        import os, sys, logging, mqttws
        logging.disable(logging.CRITICAL)
        client = mqttws.connect(sys.argv[1])
        os.closerange(3, 100)
        try:
            client.publish("a", b"x", 1)
        except mqttws.MQTTError:
            print("failed")
        client.close()
        with client:
            client.publish("a", b"y", 1)
        print("published", flush=True)
        """,
        remote,
    )
    assert outcome(process) == (0, "failed\npublished\n", "")


def test_a_client_that_is_opened_in_a_child_forked_by_its_callback(program, remote: str) -> None:
    process = program(
        """
        import os, sys, threading, time, mqttws

        def on_message(message):
            took.append(message.payload)
            if message.payload == b"fork":
                children.append(os.fork())
                if not children[-1]:
                    client.open()
                    threading.Thread(target=use, args=(threading.current_thread(),)).start()
            if message.payload == b"end":
                over.set()

        def use(forked):
            # The thread of the parent's client returns from the callback, and ends. It is the main thread of this
            # process: on Python 3.14 with glibc 2.43 `join` and `is_alive` never return then.
            deadline = time.monotonic() + 60
            while forked in threading.enumerate() and time.monotonic() < deadline:
                time.sleep(0.001)
            client.publish("b", b"x", 1)
            client.close()
            os._exit(7 if took == [b"fork"] and forked not in threading.enumerate() else 1)

        took, children, over = [], [], threading.Event()
        client = mqttws.Client(sys.argv[1], on_message=on_message)
        with client:
            client.subscribe("a", 1)
            futures = [client.publish_nowait("a", payload, 1) for payload in ("fork", "more", "end")]
            assert over.wait(60)
            assert took == [b"fork", b"more", b"end"], took
            print(os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]))
        """,
        remote,
    )
    code, out, err = outcome(process)
    assert (code, out, err) == (0, "7\n", "")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="requires setitimer")
@pytest.mark.parametrize(
    ("rlock", "take"),
    [
        ("client._network.rlock", "with client._network.lock: pass"),
        ("client._network.rlock", "client.publish_nowait('a')"),
        ("atomic", "with atomic: pass"),
        ("conditions[0]._lock", "with conditions[0]: pass"),
        ("lock.__exit__.__self__", "with lock: pass"),
        ("conditions[1]._lock", "with conditions[1]: pass"),
        ("event._cond._lock", "event.set()"),
        ("future._condition._lock", "future.done()"),
    ],
    ids=[
        "client",
        "publish_nowait",
        "AtomicLock",
        "Condition",
        "OwnedLock",
        "pubsub's Condition",
        "Event",
        "OwnedFuture",
    ],
)
def test_no_exception_of_a_signal_handler_leaves_a_lock_acquired(
    program: Callable[..., subprocess.Popen[str]], rlock: str, take: str
) -> None:
    process = program(
        f"""
        import random, signal, mqttws.locks
        from pubsub import owned_future, owned_lock

        class Interrupt(Exception):
            pass

        def interrupt(*_):
            if armed:
                raise Interrupt

        def work():
            while True:
                {take}

        client = mqttws.Client("mqtt://127.0.0.1", max_queued=10_000_000, max_queued_bytes=2**30)
        atomic, lock, event = mqttws.locks.AtomicLock(), owned_lock.OwnedLock(), owned_lock.Event()
        conditions, future = (mqttws.locks.Condition(), owned_lock.Condition()), owned_future.OwnedFuture()
        client._network.woken = True  # as in a burst
        armed, rlock, acquired = False, {rlock}, 0
        signal.signal(signal.SIGALRM, interrupt)
        for _ in range(1_000):
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, random.uniform(2e-5, 5e-4))
                work()
            except Interrupt:
                armed = False
            acquired += rlock._is_owned()
        print(acquired)
        """
    )
    assert outcome(process) == (0, "0\n", "")


@pytest.mark.parametrize("kind", [mqttws.locks.Condition, owned_lock.Condition])
def test_an_exception_of_a_signal_handler_in_a_wait_leaves_the_lock_acquired(kind: Any) -> None:
    """So the exception leaves the `with` block of the condition, which releases the lock."""

    def interrupt(frame: object, event: str, argument: Any) -> None:
        if event == "c_return" and argument.__name__ == "_release_save":  # between this and the `try` of the method
            sys.setprofile(None)
            raise KeyboardInterrupt

    condition = kind()

    def wait() -> None:
        with condition:
            sys.setprofile(interrupt)
            condition.wait(1)

    with pytest.raises(KeyboardInterrupt):
        wait()
    assert not condition._lock._is_owned()
    with pytest.raises(RuntimeError, match="un-acquired"):
        condition.wait(1)
    assert not condition._lock._is_owned()
