"""awscrt, the C client of the AWS SDKs: MQTT 3.1.1 over WebSocket without TLS."""

from __future__ import annotations

import threading
import time

import workloads as work
from awscrt import io, mqtt
from timing import Peak, Stopwatch, main, percentiles, timed, transferred


class Connected:
    """A connection, as a context manager."""

    def __init__(self, port: int, tls: int = 0) -> None:
        bootstrap = io.ClientBootstrap(io.EventLoopGroup(1), io.DefaultHostResolver(io.EventLoopGroup(1)))
        context = None
        if tls:
            options = io.TlsContextOptions()
            options.override_default_trust_store_from_path(None, work.AUTHORITY)
            context = io.ClientTlsContext(options)
        self.connection = mqtt.Connection(
            mqtt.Client(bootstrap, context),
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


def publish_qos0(port: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    with Connected(port, tls) as connection:

        def publish(number: int) -> None:
            for _ in range(number):
                connection.publish(work.TOPIC, work.MESSAGE, mqtt.QoS.AT_MOST_ONCE)
            connection.publish(work.TOPIC, work.MESSAGE, mqtt.QoS.AT_LEAST_ONCE)[0].result(60)

        return timed(publish, count, warm)


def publish_qos1(port: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    with Connected(port, tls) as connection:

        def publish(number: int) -> None:
            window = threading.Semaphore(100)
            for _ in range(number):
                assert window.acquire(timeout=10)
                future, _ = connection.publish(work.TOPIC, work.MESSAGE, mqtt.QoS.AT_LEAST_ONCE)
                future.add_done_callback(lambda done: window.release())
            for _ in range(100):
                assert window.acquire(timeout=10)

        return timed(publish, count, warm)


def send(port: int, count: int, warm: int, size: int, tls: int = 0) -> dict[str, float]:
    payload = work.payload(size)
    with Connected(port, tls) as connection:
        peak = Peak()

        def publish(number: int) -> None:
            for _ in range(number):
                connection.publish(work.TOPIC, payload, mqtt.QoS.AT_LEAST_ONCE)[0].result(60)

        return transferred(timed(publish, count, warm), size, peak)


def receive(port: int, count: int, warm: int, tls: int = 0, size: int = 64) -> dict[str, float]:
    expected = work.payload(size)  # made before memory and time are measured
    done = threading.Event()
    got = end = 0
    watch = Stopwatch()

    def on_message(topic, payload, dup, qos, retain, **named) -> None:
        nonlocal got
        got += 1
        if got == end:
            assert payload == expected
            done.set()

    with Connected(port, tls) as connection:
        peak = Peak()
        for topic, number in ((work.WARM_TOPIC, warm), (work.TOPIC, count)):
            end = got + number
            done.clear()
            watch.start()
            connection.subscribe(topic, mqtt.QoS.AT_MOST_ONCE, on_message)[0].result(10)
            assert done.wait(60)
        figures = watch.stop(count)
        return transferred(figures, size, peak) if size > len(work.MESSAGE) else figures


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


def reconnect(port: int, count: int, warm: int, tls: int) -> dict[str, float]:
    connected = Connected(port, tls)
    trips = []
    for _ in range(warm + count):
        start = time.perf_counter()
        with connected:
            trips.append(time.perf_counter() - start)
    return percentiles(trips[warm:])


main({case.__name__: case for case in (publish_qos0, publish_qos1, send, receive, echo, reconnect)})
