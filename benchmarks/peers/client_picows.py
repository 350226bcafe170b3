"""picows: WebSocket in C, without MQTT, whose packets are written by hand: the limit of what framing could reach."""

from __future__ import annotations

import asyncio
import ssl
import time

import workloads as work
from picows import WSListener, WSMsgType, ws_connect
from timing import Peak, Stopwatch, atimed, main, percentiles, transferred

CONNECT = b"\x10\x12\0\x04MQTT\x04\x02\0\x3c\0\x06picows"
#: The greatest frame: the largest message and its header.
LARGEST = 17 * 1024**2


class Frames(WSListener):
    """A connection that counts the messages it receives."""

    def __init__(self) -> None:
        self.messages, self.wanted, self.last = 0, 0, b""
        self.reached = asyncio.Event()
        self.answered = asyncio.Event()

    def on_ws_frame(self, transport, frame) -> None:
        """Count a message, or note an answer."""
        payload = frame.get_payload_as_bytes()
        if payload[0] & 0xF0 != 0x30:
            self.answered.set()
            return
        self.messages, self.last = self.messages + 1, payload
        if self.messages == self.wanted:
            self.reached.set()

    async def ask(self, packet: bytes) -> None:
        """Send a packet, and wait for its acknowledgement."""
        self.answered.clear()
        self.transport.send(WSMsgType.BINARY, packet)
        await self.answered.wait()

    async def subscribe(self, topic: str) -> None:
        """Subscribe with QoS 0."""
        name = topic.encode()
        body = b"\0\x01" + len(name).to_bytes(2, "big") + name + b"\0"
        await self.ask(b"\x82" + bytes((len(body),)) + body)

    async def until(self, wanted: int) -> None:
        """Wait for so many messages in all."""
        self.wanted = wanted
        if self.messages < wanted:
            self.reached.clear()
            await self.reached.wait()


async def connect(port: int, tls: int = 0) -> Frames:
    context = ssl.create_default_context(cafile=work.AUTHORITY) if tls else None
    transport, frames = await ws_connect(
        Frames,
        f"{'wss' if tls else 'ws'}://127.0.0.1:{port}/mqtt",
        ssl_context=context,
        max_frame_size=LARGEST,
        extra_headers={"Sec-WebSocket-Protocol": "mqtt"},
    )
    frames.transport = transport
    await frames.ask(CONNECT)
    return frames


async def receive(port: int, count: int, warm: int, tls: int = 0, size: int = 64) -> dict[str, float]:
    expected = work.payload(size)  # made before memory is measured
    frames = await connect(port, tls)
    peak = Peak()
    watch = Stopwatch()
    for topic, wanted in ((work.WARM_TOPIC, warm), (work.TOPIC, warm + count)):
        watch.start()
        await frames.subscribe(topic)
        await frames.until(wanted)
    figures = watch.stop(count)
    assert frames.last.endswith(expected)
    frames.transport.disconnect()
    return transferred(figures, size, peak) if size > len(work.MESSAGE) else figures


async def send(port: int, count: int, warm: int, size: int, tls: int = 0) -> dict[str, float]:
    payload = work.payload(size)
    frames = await connect(port, tls)
    peak = Peak()

    async def publish(number: int) -> None:
        for _ in range(number):
            await frames.ask(work.encode_publish(work.TOPIC, payload, 1, 1))

    figures = transferred(await atimed(publish, count, warm), size, peak)
    frames.transport.disconnect()
    return figures


async def echo(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    frames = await connect(port)
    await frames.subscribe("bench/echo")
    packet = work.encode_publish("bench/echo", work.MESSAGE)
    trips = []
    for number in range(1, warm + count + 1):
        start = time.perf_counter()
        frames.transport.send(WSMsgType.BINARY, packet)
        await frames.until(number)
        trips.append(time.perf_counter() - start)
    frames.transport.disconnect()
    return percentiles(trips[warm:])


def in_loop(case):
    return lambda **options: asyncio.run(case(**options))


main(
    {
        "receive": in_loop(receive),
        "receive_asyncio": in_loop(receive),
        "send": in_loop(send),
        "echo_asyncio": in_loop(echo),
    }
)
