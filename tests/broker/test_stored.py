"""`Limits.stored_rate`: what was stored for a session comes at a rate once it is resumed, on a clock of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import jumping
import pytest

from mqttws import Connect, Decoder, Disconnect, Packet, PingReq, PingResp, PubAck, Publish, Subscribe
from mqttws.broker import Broker, Limits


class Peer:
    """A client that is nothing but a socket, in the broker's event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self._decoder = Decoder()
        self._packets: list[Packet] = []

    @classmethod
    async def connect(cls, broker: Broker, **fields: object) -> Peer:
        host, port = broker.url_of("mqtt").removeprefix("mqtt://").rsplit(":", 1)
        peer = cls(*await asyncio.open_connection(host, int(port)))
        peer.send(Connect("c", clean_session=False, **fields))  # type: ignore[arg-type]
        await peer.receive()
        return peer

    def send(self, *packets: Packet) -> None:
        self.writer.write(b"".join(packet.encode() for packet in packets))

    async def receive(self) -> Packet:
        while not self._packets:
            data = await self._reader.read(65536)
            assert data, "the broker closed the connection"
            self._packets.extend(self._decoder.feed(data))
        return self._packets.pop(0)

    async def waiting(self) -> list[bytes]:
        """Return the payloads of what has been sent to us by now, acknowledged."""
        found: list[bytes] = []
        for _ in range(2):  # the first answer may have left together with a message, and before it
            self.send(PingReq())
            while (packet := await self.receive()) != PingResp():
                assert isinstance(packet, Publish), packet
                found.append(packet.payload)
                if packet.packet_id is not None:
                    self.send(PubAck(packet.packet_id))
        return found

    async def leave(self) -> None:
        self.send(Disconnect())
        assert await self._reader.read() == b""
        self.writer.close()


async def stored(broker: Broker, count: int) -> None:
    """Let so many messages be stored for a session: "0", "1" and so on."""
    peer = await Peer.connect(broker)
    peer.send(Subscribe(1, [("a", 1)]))
    await peer.receive()
    await peer.leave()
    for number in range(count):
        broker.publish("a", f"{number}", qos=1)


def with_broker(test: Callable[[Broker], object], rate: float | None) -> None:
    async def body() -> None:
        limits = Limits(stored_rate=rate)
        async with Broker(ws_port=None, tcp_port=0, limits=limits, sys_interval=None) as broker:
            await test(broker)  # type: ignore[misc]

    jumping.run(body())


def test_stored_messages_come_at_the_rate_in_order() -> None:
    async def body(broker: Broker) -> None:
        await stored(broker, 40)
        peer = await Peer.connect(broker)
        loop = asyncio.get_running_loop()
        began = loop.time()
        got: list[bytes] = []
        while len(got) < 40:
            got += await peer.waiting()
            assert len(got) <= 1 + (loop.time() - began) * 10.0
            await jumping.pass_time(0.05)
        assert got == [f"{number}".encode() for number in range(40)]
        assert 3.9 <= loop.time() - began < 6
        peer.writer.close()

    with_broker(body, 10.0)


def test_newer_messages_come_after_them_and_then_at_once() -> None:
    async def body(broker: Broker) -> None:
        await stored(broker, 3)
        peer = await Peer.connect(broker)
        broker.publish("a", "newer", qos=1)
        broker.publish("a", "of QoS 0", qos=0)
        got = await peer.waiting()
        assert got in ([b"0", b"of QoS 0"], [b"of QoS 0", b"0"])  # the latter does not wait
        while len(got) < 5:
            await jumping.pass_time(0.1)
            got += await peer.waiting()
        assert [payload for payload in got if payload != b"of QoS 0"] == [b"0", b"1", b"2", b"newer"]
        await jumping.pass_time(0.1)
        for number in range(20):
            broker.publish("a", f"{number}", qos=1)
        assert len(await peer.waiting()) == 20
        peer.writer.close()

    with_broker(body, 10.0)


def test_what_was_in_flight_is_sent_again_at_once_and_counts() -> None:
    async def body(broker: Broker) -> None:
        await stored(broker, 0)
        peer = await Peer.connect(broker)
        for number in range(8):
            broker.publish("a", f"{number}", qos=1)
        for _ in range(8):
            assert isinstance(await peer.receive(), Publish)
        await peer.leave()
        broker.publish("a", "stored", qos=1)
        peer = await Peer.connect(broker)
        assert await peer.waiting() == [f"{number}".encode() for number in range(8)]
        await jumping.pass_time(0.4)
        assert await peer.waiting() == []
        await jumping.pass_time(0.5)
        assert await peer.waiting() == [b"stored"]
        peer.writer.close()

    with_broker(body, 10.0)


def test_the_rate_begins_anew_with_each_connection_and_nothing_is_lost() -> None:
    async def body(broker: Broker) -> None:
        await stored(broker, 10)
        got: list[bytes] = []
        for _ in range(4):
            peer = await Peer.connect(broker)
            before = len(got)
            for _ in range(30):
                await jumping.pass_time(0.01)
                got += await peer.waiting()
            assert len(got) - before <= 4
            await peer.leave()
            await jumping.pass_time(0.05)
        assert got == [f"{number}".encode() for number in range(10)]

    with_broker(body, 10.0)


def test_a_session_whose_pace_was_interrupted_is_not_held_back_later() -> None:
    async def body(broker: Broker) -> None:
        await stored(broker, 1)
        peer = await Peer.connect(broker)
        assert await peer.waiting() == [b"0"]
        await peer.leave()
        peer = await Peer.connect(broker)
        for number in range(20):
            broker.publish("a", f"{number}", qos=1)
        assert len(await peer.waiting()) == 20
        peer.writer.close()

    with_broker(body, 10.0)


def test_without_a_rate_they_come_at_once() -> None:
    async def body(broker: Broker) -> None:
        await stored(broker, 30)
        peer = await Peer.connect(broker)
        assert len(await peer.waiting()) == 30
        peer.writer.close()

    with_broker(body, None)


@pytest.mark.parametrize("rate", [0, -1.0])
def test_the_rate_is_above_0(rate: float) -> None:
    with pytest.raises(ValueError, match="stored_rate"):
        Limits(stored_rate=rate)
