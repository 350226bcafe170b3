"""Stress programs: for some seconds, rare events (collections, signals, forks, exits) occur all the time.

    python tests/support/storms.py NAME SECONDS URL [CA FILE]

Each storm uses the server at URL, in another process, and exits with code 0 if every assertion held. A watchdog ends
a process that makes no progress for `STILL` seconds, and prints all its stacks.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import mqttws
import mqttws.aio
import pubsub

#: Seconds without progress after which a storm has failed.
STILL = 30.0


class Interrupted(Exception):
    """The exception that a signal handler raises."""


class Storm:
    """The common part of all storms.

    Args:
        seconds: the duration.
        url: the URL of the server.
        ca_file: the CA file of its certificate; None without TLS.
    """

    def __init__(self, seconds: float, url: str, ca_file: str | None) -> None:
        self.end = time.monotonic() + seconds
        self.url = url
        self.options: dict[str, Any] = {"timeout": STILL}
        if ca_file is not None:
            self.options["tls"] = mqttws.tls_context(ca_file=ca_file)
        self.failures: list[str] = []
        self.steps = 0

    @property
    def goes_on(self) -> bool:
        """Return whether time is left. Each call counts as progress."""
        self.steps += 1
        faulthandler.dump_traceback_later(STILL, exit=True)
        return time.monotonic() < self.end and not self.failures

    def client(self, **options: Any) -> mqttws.Client:
        return mqttws.Client(self.url, **self.options | options)

    def provider(self) -> pubsub.MqttOverWSProvider:
        return pubsub.MqttOverWSProvider(self.url, **self.options)

    def thread(self, work: Callable[[], object]) -> threading.Thread:
        """Start a thread that repeats some work until the storm ends."""

        def run() -> None:
            try:
                while time.monotonic() < self.end and not self.failures:
                    work()
            except Exception as error:
                self.failures.append(f"{work.__name__}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def settle(self, client: mqttws.Client, futures: list[Future[Any]]) -> None:
        """Check that every accepted message is delivered, and that all counters are back to zero."""
        client.publish("end", b"", 1, timeout=STILL)
        for future in futures:
            future.result(STILL)
        client.flush(STILL)  # a message of QoS 2 may be complete after a later one of QoS 1
        sender = client.session.sender
        assert len(sender) == 0, f"{sender.waiting} wait and {sender.in_flight} are in flight"
        assert (sender._count, sender._size) == (0, 0), (sender._count, sender._size)
        assert not client._core.pending._futures
        assert not client._network.owned()


def collector(storm: Storm) -> None:
    """Run the garbage collector at every allocation; it finalises iterations that are left in cycles."""
    published: list[Future[Any]] = []
    with storm.client() as client, storm.client() as other, pubsub.PubSub(storm.provider()) as ps:
        client.subscribe("a", 1)
        gc.set_threshold(1, 50, 1_000_000)

        def publish() -> None:
            with contextlib.suppress(mqttws.QueueFull):
                future = other.publish_nowait("a", b"x", random.randrange(3))
                future.add_done_callback(lambda done: None)
                published.append(future)
                del published[:-200]

        def through_pubsub() -> None:
            iteration = iter(ps.subscribe("b", qos=1, timeout=1.0))
            ps.publish("b", {"n": 1}, qos=1)
            next(iteration, None)
            leave(iteration)

        threads = [storm.thread(publish), storm.thread(through_pubsub)]
        while storm.goes_on:
            iteration = client.messages(5.0)
            assert next(iteration, None) is not None, "nothing came for five seconds"
            leave(iteration)
        gc.set_threshold(700, 10, 10)
        for thread in threads:
            thread.join(STILL)
            assert not thread.is_alive()
        storm.settle(other, published)


def leave(iteration: object) -> None:
    """Leave an iteration to the garbage collector."""
    cycle = [iteration]
    cycle.append(cycle)


def collector_asyncio(storm: Storm) -> None:
    """Run the garbage collector at every allocation, with asyncio."""

    async def main() -> None:
        async with mqttws.aio.connect(storm.url, **storm.options) as client:
            await client.subscribe("c", 1)
            gc.set_threshold(1, 50, 1_000_000)
            while storm.goes_on:
                futures = [client.publish_nowait("c", b"x", n % 3) for n in range(3)]
                for _ in range(3):
                    iteration = client.messages(5.0)
                    await anext(iteration)
                    leave(iteration)
                    del iteration
                await asyncio.wait_for(asyncio.gather(*futures), STILL)
            gc.set_threshold(700, 10, 10)
            await client.publish("end", b"", 1)
            assert len(client.session.sender) == 0

    asyncio.run(main())


def signals(storm: Storm) -> None:
    """Interrupt the hot paths by signals, every few hundred microseconds; their handlers raise, or publish."""
    futures: list[Future[Any]] = []
    from_handlers: list[Future[Any]] = []
    taken = itertools.count()
    with storm.client(max_queued=5_000, overflow="raise", max_in_flight=1_000) as client, storm.client() as other:
        client.subscribe("own", 1)

        def handler(*_: object) -> None:
            if random.randrange(3):
                raise Interrupted
            with contextlib.suppress(mqttws.QueueFull):
                from_handlers.append(client.publish_nowait("handler", b"x", random.randrange(3)))

        def publish() -> None:
            client.publish("other", b"x", 1, timeout=STILL)
            other.publish("own", b"x", 1, timeout=STILL)
            time.sleep(0.001)

        thread = storm.thread(publish)
        iteration = client.messages(0.01)
        signal.signal(signal.SIGALRM, handler)
        while storm.goes_on:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 5e-4))
                for _ in range(50):
                    try:
                        future = client.publish_nowait("mine", b"x", random.randrange(3))
                        futures.append(future)
                        future.add_done_callback(id)
                        if not random.randrange(10):
                            client.withdraw(future) and futures.remove(future)
                        client.subscribe_nowait("own", 1)
                    except mqttws.QueueFull:
                        time.sleep(0.001)
                    for _ in range(3):
                        if next(iteration, None) is None:
                            iteration = client.messages(0.01)
                            break
                        next(taken)
            except Interrupted:
                pass
            finally:
                with contextlib.suppress(Interrupted):
                    signal.setitimer(signal.ITIMER_REAL, 0)
            if len(futures) > 2_000:
                with contextlib.suppress(Interrupted):
                    futures = [future for future in futures if not future.done()]
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        thread.join(STILL)
        assert not thread.is_alive()
        # An interrupted call may have withdrawn its message silently; even so no message may remain.
        for future in from_handlers[-1_000:]:
            future.result(STILL)
        storm.settle(client, [])


def signals_asyncio(storm: Storm) -> None:
    """Publish in signal handlers, at any point of the event loop."""

    async def main() -> None:
        from_handlers: list[Any] = []
        async with mqttws.aio.connect(storm.url, **storm.options) as client:

            def handler(*_: object) -> None:
                with contextlib.suppress(mqttws.QueueFull):
                    from_handlers.append(client.publish_nowait("handler", b"x", random.randrange(3)))

            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
            while storm.goes_on:
                futures = [client.publish_nowait("mine", b"x", n % 3) for n in range(20)]
                await client.publish("mine", b"x", 1)
                await asyncio.wait_for(asyncio.gather(*futures), STILL)
            signal.setitimer(signal.ITIMER_REAL, 0)
            await asyncio.sleep(0.01)
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            await asyncio.wait_for(asyncio.gather(*from_handlers), STILL)
            await client.publish("end", b"", 1)
            sender = client.session.sender
            assert (len(sender), sender._count, sender._size) == (0, 0, 0)

    asyncio.run(main())


def forks(storm: Storm) -> None:
    """Fork while other threads publish, through mqttws and pubsub; each child opens a client and publishes."""
    warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn about forks with threads
    client = storm.client().open()
    ps = pubsub.PubSub(storm.provider())
    ps.connect(timeout=STILL)
    gc.set_threshold(50, 5, 5)

    def publish() -> None:
        client.publish_nowait("a", b"x", 1).result(STILL)
        client.publish_nowait("a", b"x").add_done_callback(id)

    def through_pubsub() -> None:
        ps.publish("b", 1, qos=1)

    threads = [storm.thread(publish), storm.thread(publish), storm.thread(through_pubsub)]
    while storm.goes_on:
        child = os.fork()
        if child == 0:
            # Not faulthandler's timer: it would wait for the parent's thread.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            faulthandler.register(signal.SIGALRM, chain=True)
            signal.alarm(int(STILL))
            code = 1
            try:
                with contextlib.suppress(mqttws.ConnectionClosed):
                    client.publish("a", b"x", 1)
                    os._exit(2)  # on the parent's connection
                with client.open() as again:
                    again.publish("a", b"child", 1)
                with pubsub.PubSub(storm.provider()) as other:
                    other.publish("b", 2, qos=1)
                with contextlib.suppress(Exception):
                    ps.close(timeout=2)
                ps.publish("b", 2, qos=1)
                code = 0
            except BaseException as error:
                print(f"the child: {type(error).__name__}: {error}", flush=True)
            finally:
                os._exit(code)
        until = time.monotonic() + STILL + 5
        while (status := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > until:
                os.kill(child, signal.SIGKILL)
                raise AssertionError("a child stands still")
            time.sleep(0.002)
        assert os.waitstatus_to_exitcode(status[1]) == 0, "a child failed"
    for thread in threads:
        thread.join(STILL)
        assert not thread.is_alive()
    storm.settle(client, [])
    client.close()
    ps.close()


def switches(storm: Storm) -> None:
    """Switch threads as often as possible while twenty of them call all methods."""
    sys.setswitchinterval(1e-6)
    with storm.client(max_in_flight=20) as client:
        taken: list[int] = []
        lock = threading.Lock()

        def publish() -> None:
            client.publish("s", b"x" * 600, 1)
            client.publish_nowait("s", b"y").result(STILL)

        def subscribe() -> None:
            client.subscribe("s", 1)

        def withdraw() -> None:
            future = client.publish_nowait("w", b"x", 2)
            if not client.withdraw(future):
                future.result(STILL)

        def take() -> None:
            for message in itertools.islice(client.messages(0.2), 20):
                with lock:
                    taken.append(message.qos)

        def reopen() -> None:
            with storm.client() as another:
                another.publish("s", b"z", 2)

        work = [publish] * 12 + [subscribe] * 2 + [withdraw] * 2 + [take] * 2 + [reopen] * 2
        threads = [storm.thread(each) for each in work]
        before = -1
        while storm.goes_on:
            time.sleep(0.2)
            if len(taken) != before:
                before = len(taken)
        for thread in threads:
            thread.join(STILL)
            assert not thread.is_alive()
        assert taken
        storm.settle(client, [])


def exits(storm: Storm) -> None:
    """Raise SystemExit in callbacks of every kind; all messages still arrive."""
    arrived = threading.Semaphore(0)
    logging_off()

    def leave_now() -> None:
        if not random.randrange(3):
            sys.exit("of a callback")

    def on_message(message: mqttws.Publish) -> None:
        arrived.release()
        leave_now()

    def done(future: Future[Any]) -> None:
        leave_now()

    options: dict[str, Any] = {"on_message": on_message, "on_state": lambda state: leave_now()}
    with storm.client(**options) as client:
        client.subscribe("e", 2)
        while storm.goes_on:
            futures = [client.publish_nowait("e", b"x", n % 3) for n in range(30)]
            for future in futures:
                with contextlib.suppress(SystemExit):  # a future that is done calls back immediately, in this thread
                    future.add_done_callback(done)
            for future in futures:
                future.result(STILL)
            for _ in futures:
                assert arrived.acquire(timeout=STILL)
            if not random.randrange(5):
                client.reconnect_now()
                client.subscribe("e", 2)
        storm.settle(client, [])


def logging_off() -> None:
    """Silence the log of exceptions that callbacks raise on purpose."""
    import logging

    logging.disable(logging.CRITICAL)


STORMS: dict[str, Callable[[Storm], None]] = {
    "collector": collector,
    "collector_asyncio": collector_asyncio,
    "signals": signals,
    "signals_asyncio": signals_asyncio,
    "forks": forks,
    "switches": switches,
    "exits": exits,
}


def names() -> Iterator[str]:
    """Return the names of the storms that this system supports."""
    for name in STORMS:
        if not (name == "forks" and not hasattr(os, "fork")) and not (
            name.startswith("signals") and not hasattr(signal, "setitimer")
        ):
            yield name


def main(name: str, seconds: str, url: str, ca_file: str | None = None) -> None:
    """Run one storm in this process."""
    storm = Storm(float(seconds), url, ca_file)
    STORMS[name](storm)
    assert not storm.failures, storm.failures
    faulthandler.cancel_dump_traceback_later()
    print(f"{name}: {storm.steps} steps")


if __name__ == "__main__":
    main(*sys.argv[1:])
