"""paho-mqtt, with its network thread."""

from __future__ import annotations

import threading
import time
from functools import partial

import workloads as work
from paho.mqtt import client as paho
from timing import Peak, Stopwatch, main, percentiles, timed, transferred


class Connected:
    """A connected client, as a context manager."""

    def __init__(self, port: int, tls: int = 0) -> None:
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, transport="websockets")
        if tls:
            self.client.tls_set(work.AUTHORITY)
        self.client.ws_set_options(path="/")
        self.client.max_inflight_messages_set(100)
        self._port = port
        self._ready = threading.Event()
        self._granted = threading.Event()
        self.client.on_connect = lambda *arguments: self._ready.set()
        self.client.on_subscribe = lambda *arguments: self._granted.set()

    def __enter__(self):
        self.client.connect("127.0.0.1", self._port)
        self.client.loop_start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *exc_info) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def subscribe(self, topic: str, qos: int = 0) -> None:
        """Subscribe, and wait for the SUBACK."""
        self.client.subscribe(topic, qos)
        assert self._granted.wait(10)


def publish_qos0(port: int, count: int, warm: int, tls: int = 0) -> dict[str, float]:
    with Connected(port, tls) as connected:

        def publish(number: int) -> None:
            for _ in range(number):
                connected.client.publish(work.TOPIC, work.MESSAGE)
            connected.client.publish(work.TOPIC, work.MESSAGE, 1).wait_for_publish(60)

        return timed(publish, count, warm)


def publish_qos0_waiting(port: int, count: int, warm: int) -> dict[str, float]:
    with Connected(port) as connected:

        def publish(number: int) -> None:
            for _ in range(number):
                connected.client.publish(work.TOPIC, work.MESSAGE).wait_for_publish(10)
            connected.client.publish(work.TOPIC, work.MESSAGE, 1).wait_for_publish(60)

        return timed(publish, count, warm)


def publish_acknowledged(port: int, count: int, warm: int, qos: int, tls: int = 0) -> dict[str, float]:
    with Connected(port, tls) as connected:

        def publish(number: int) -> None:
            infos = [connected.client.publish(work.TOPIC, work.MESSAGE, qos) for _ in range(number)]
            # The last one first, otherwise the thread would be woken for nearly each of them.
            infos[-1].wait_for_publish(60)
            for info in infos:
                info.wait_for_publish(60)
                assert info.is_published()

        return timed(publish, count, warm)


def send(port: int, count: int, warm: int, size: int, tls: int = 0) -> dict[str, float]:
    payload = work.payload(size)
    with Connected(port, tls) as connected:
        peak = Peak()

        def publish(number: int) -> None:
            for _ in range(number):
                info = connected.client.publish(work.TOPIC, payload, 1)
                info.wait_for_publish(15)
                # Over ws without TLS, paho does not write the rest of a frame of which the socket took only a part.
                assert info.is_published(), f"{size:,} bytes were not sent whole within 15 s"

        return transferred(timed(publish, count, warm), size, peak)


def receive(port: int, count: int, warm: int, tls: int = 0, size: int = 64) -> dict[str, float]:
    expected = work.payload(size)  # made before memory and time are measured
    done = threading.Event()
    got = end = 0
    watch = Stopwatch()

    def on_message(client, userdata, message) -> None:
        nonlocal got
        got += 1
        if got == end:
            assert message.payload == expected
            done.set()

    connected = Connected(port, tls)
    connected.client.on_message = on_message
    with connected:
        peak = Peak()
        for topic, number in ((work.WARM_TOPIC, warm), (work.TOPIC, count)):
            end = got + number
            done.clear()
            watch.start()
            connected.subscribe(topic)
            assert done.wait(60)
        figures = watch.stop(count)
        return transferred(figures, size, peak) if size > len(work.MESSAGE) else figures


def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    arrived = threading.Semaphore(0)
    connected = Connected(port)
    connected.client.on_message = lambda *arguments: arrived.release()
    with connected:
        connected.subscribe("bench/echo", qos)
        trips = []
        for _ in range(warm + count):
            start = time.perf_counter()
            connected.client.publish("bench/echo", work.MESSAGE, qos)
            assert arrived.acquire(timeout=10)
            trips.append(time.perf_counter() - start)
        return percentiles(trips[warm:])


def reconnect(port: int, count: int, warm: int, tls: int) -> dict[str, float]:
    connected = Connected(port, tls)
    trips = []
    for _ in range(warm + count):
        connected._ready.clear()
        start = time.perf_counter()
        with connected:
            trips.append(time.perf_counter() - start)
    return percentiles(trips[warm:])


main(
    {
        "publish_qos0": publish_qos0,
        "publish_qos0_waiting": publish_qos0_waiting,
        "publish_qos1": partial(publish_acknowledged, qos=1),
        "publish_qos2": partial(publish_acknowledged, qos=2),
        "receive": receive,
        "send": send,
        "echo": echo,
        "reconnect": reconnect,
    }
)
