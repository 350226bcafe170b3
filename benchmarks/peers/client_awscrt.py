"""awscrt, the C client of the AWS SDKs: MQTT 3.1.1 over WebSocket without TLS."""

from __future__ import annotations

import threading
import time

import workloads as work
from awscrt import io, mqtt
from timing import Stopwatch, main, percentiles, timed


class Connected:
    """A connection, as a context manager."""

    def __init__(self, port: int) -> None:
        bootstrap = io.ClientBootstrap(io.EventLoopGroup(1), io.DefaultHostResolver(io.EventLoopGroup(1)))
        self.connection = mqtt.Connection(
            mqtt.Client(bootstrap),
            host_name="127.0.0.1",
            port=port,
            client_id=f"bench-{time.monotonic_ns()}",
            use_websockets=True,
        )

    def __enter__(self) -> mqtt.Connection:
        self.connection.connect().result(10)
        return self.connection

    def __exit__(self, *exc_info) -> None:
        self.connection.disconnect().result(10)


def publish_qos0(port: int, count: int, warm: int) -> dict[str, float]:
    with Connected(port) as connection:

        def publish(number: int) -> None:
            for _ in range(number):
                connection.publish(work.TOPIC, work.MESSAGE, mqtt.QoS.AT_MOST_ONCE)
            connection.publish(work.TOPIC, work.MESSAGE, mqtt.QoS.AT_LEAST_ONCE)[0].result(60)

        return timed(publish, count, warm)


def publish_qos1(port: int, count: int, warm: int) -> dict[str, float]:
    with Connected(port) as connection:

        def publish(number: int) -> None:
            window = threading.Semaphore(100)
            for _ in range(number):
                assert window.acquire(timeout=10)
                future, _ = connection.publish(work.TOPIC, work.MESSAGE, mqtt.QoS.AT_LEAST_ONCE)
                future.add_done_callback(lambda done: window.release())
            for _ in range(100):
                assert window.acquire(timeout=10)

        return timed(publish, count, warm)


def receive(port: int, count: int, warm: int) -> dict[str, float]:
    done = threading.Event()
    got = end = 0
    watch = Stopwatch()

    def on_message(topic, payload, dup, qos, retain, **named) -> None:
        nonlocal got
        got += 1
        if got == end:
            assert payload == work.MESSAGE
            done.set()

    with Connected(port) as connection:
        for topic, number in ((work.WARM_TOPIC, warm), (work.TOPIC, count)):
            end = got + number
            done.clear()
            watch.start()
            connection.subscribe(topic, mqtt.QoS.AT_MOST_ONCE, on_message)[0].result(10)
            assert done.wait(60)
        return watch.stop(count)


def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    arrived = threading.Semaphore(0)
    level = mqtt.QoS(qos)
    with Connected(port) as connection:
        connection.subscribe("bench/echo", level, lambda topic, payload, **named: arrived.release())[0].result(10)
        trips = []
        for _ in range(warm + count):
            start = time.perf_counter()
            connection.publish("bench/echo", work.MESSAGE, level)
            assert arrived.acquire(timeout=10)
            trips.append(time.perf_counter() - start)
        return percentiles(trips[warm:])


main({case.__name__: case for case in (publish_qos0, publish_qos1, receive, echo)})
