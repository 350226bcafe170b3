"""The asyncio driver's waits: time-outs that share a timer, and messages that are written together."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
from drivers import PATIENCE

import mqttws.aio
import mqttws.aio.pump as pump_module
from mqttws import PingResp, PubAck, Publish
from mqttws.aio.network import Network, Pump
from mqttws.aio.waits import EXPIRED, HOPELESS, IDLE_LENGTHS, Waits
from mqttws.broker import Broker
from mqttws.errors import ConnectionClosed, MQTTError, TimedOut, WouldDeadlock


def scheduled(loop: asyncio.AbstractEventLoop) -> int:
    """Return the number of active timers."""
    return sum(not timer.cancelled() for timer in loop._scheduled)  # type: ignore[attr-defined]


class Clock(asyncio.SelectorEventLoop):
    """An event loop with a simulated clock."""

    now = 0.0

    def time(self) -> float:
        return self.now

    async def go_on_to(self, now: float) -> None:
        self.now = now
        for _ in range(3):  # for the timer, the futures that it cancels, and their callbacks
            await asyncio.sleep(0)


def test_waits_of_one_length_share_a_timer_and_end_in_order() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Clock)
        waits, futures, ended = Waits(), [loop.create_future() for _ in range(100)], []
        before = scheduled(loop)
        begun = [waits.begin(future, 10.0, loop, asyncio.current_task()) for future in futures]
        assert scheduled(loop) == before + 1
        for future in futures:
            future.add_done_callback(ended.append)
        del begun[0][futures[50]]  # already done, so it never times out
        late = loop.create_future()
        await loop.go_on_to(5.0)
        waits.begin(late, 10.0, loop, asyncio.current_task())
        assert scheduled(loop) == before + 1
        await loop.go_on_to(9.0)
        assert not ended
        await loop.go_on_to(10.5)
        assert ended == futures[:50] + futures[51:]
        assert begun[0][futures[0]] is EXPIRED
        assert not late.done()
        await loop.go_on_to(15.5)
        assert late.cancelled()
        assert scheduled(loop) == before
        assert not waits._by_length

    with asyncio.Runner(loop_factory=Clock) as runner:
        runner.run(run())


def test_a_wait_that_can_never_end_raises_and_affects_no_other() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        waits, hopeless, other = Waits(), loop.create_future(), loop.create_future()
        begun = waits.begin(hopeless, 10.0, loop, asyncio.current_task())
        waits.begin(other, 20.0, loop, asyncio.current_task())
        assert waits.tasks() == [(hopeless, asyncio.current_task()), (other, asyncio.current_task())]
        waits.end(hopeless)
        assert begun[hopeless] is HOPELESS
        assert hopeless.cancelled()
        assert not other.done()
        assert waits.tasks() == [(other, asyncio.current_task())]

    asyncio.run(run())


def test_a_hopeless_wait_is_not_a_cancellation_even_if_reading_resumes_before_its_task_runs() -> None:
    async def run() -> None:
        network = mqttws.aio.Client("ws://127.0.0.1:9/mqtt")._network
        future = asyncio.get_running_loop().create_future()
        waiting = asyncio.create_task(network.wait(future, PATIENCE))
        await asyncio.sleep(0)
        network._waits.end(future)  # as when the client stalls; when the task continues, it no longer does
        assert not network.core.stalled
        with pytest.raises(WouldDeadlock, match="only this task took messages"):
            await waiting

    asyncio.run(run())


def test_unused_lengths_and_their_timers_are_removed() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        waits, future, before = Waits(), loop.create_future(), scheduled(loop)
        for number in range(100):
            begun = waits.begin(future, 1_000.0 + number, loop, asyncio.current_task())
            del begun[future]
        assert scheduled(loop) <= before + IDLE_LENGTHS

    asyncio.run(run())


def test_many_lengths_in_use_are_rarely_examined() -> None:
    class Examined(dict[float, Any]):
        count = 0

        def items(self) -> Any:
            self.count += len(self)
            return super().items()

    async def run() -> None:
        loop = asyncio.get_running_loop()
        waits, before = Waits(), scheduled(loop)
        lengths = waits._by_length = Examined()
        futures = [loop.create_future() for _ in range(1_000)]
        for number, future in enumerate(futures):
            waits.begin(future, 1_000.0 + number, loop, asyncio.current_task())
        assert len(lengths) == len(futures)
        assert lengths.count <= 2 * len(futures)
        for begun in list(lengths.values()):
            begun.clear()
        for number in range(3 * len(futures)):  # those that are no longer in use are removed
            del waits.begin(futures[0], 5_000.0 + number, loop, asyncio.current_task())[futures[0]]
        assert scheduled(loop) <= before + IDLE_LENGTHS
        assert lengths.count <= 8 * len(futures)

    asyncio.run(run())


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What the pumps of clients write, one entry for each call of their transports."""
    written: list[bytes] = []
    write = Pump._write

    def counted(self: Pump, now: float) -> None:
        transport = self._transport

        class Counting:
            def __getattr__(self, name: str) -> Any:
                return getattr(transport, name)

            def write(self, data: bytes) -> None:
                written.append(data)
                assert transport is not None
                transport.write(data)

        self._transport = Counting()  # type: ignore[assignment]
        try:
            write(self, now)
        finally:
            self._transport = transport

    monkeypatch.setattr(Pump, "_write", counted)
    return written


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_many_tasks_in_one_turn_are_sent_in_two_writes(writes: list[bytes], qos: int) -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            await client.publish("t", b"", 1)
            writes.clear()
            await asyncio.gather(*(client.publish("t", b"%d" % number, qos) for number in range(64)))
            assert len(writes) <= 2 + 64 * (qos == 2)

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


def test_messages_of_many_tasks_in_the_next_turns_are_sent_in_one_write_each(writes: list[bytes]) -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:

            async def some() -> None:
                for _ in range(10):
                    await client.publish("t", b"many")

            writes.clear()
            await asyncio.gather(*(some() for _ in range(64)))
            # The first task publishes a second message in the first turn, because its first one is written at once.
            assert [data.count(b"many") for data in writes] == [1, *[64] * 9, 63]
            writes.clear()
            for payload in (b"1", b"2", b"3"):  # a task alone: its first message ends the turns of many
                await client.publish("t", payload)
                assert writes[-1].endswith(payload)
            assert len(writes) == 3

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_a_message_alone_is_written_before_the_call_first_waits(writes: list[bytes], qos: int) -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            for _ in range(3):
                await asyncio.sleep(0)  # the next turn
                writes.clear()
                call = asyncio.ensure_future(client.publish("t", b"alone", qos))
                await asyncio.sleep(0)  # it runs until it waits
                assert writes[0].endswith(b"alone")
                await call

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


def test_a_call_in_another_thread_is_refused_while_a_flush_is_scheduled() -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            client.publish_nowait("t")  # schedules a flush
            assert client._network.flushing
            with ThreadPoolExecutor() as pool, pytest.raises(MQTTError, match="open in another event loop"):
                pool.submit(asyncio.run, client.publish("t", b"", 1)).result(PATIENCE)

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


@pytest.mark.parametrize("qos", [0, 1])
def test_publish_nowait_in_another_thread_is_refused_while_a_flush_is_scheduled(qos: int) -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            client.publish_nowait("t")  # schedules a flush
            pending = client.pending
            with ThreadPoolExecutor() as pool, pytest.raises(MQTTError, match="runs in another thread"):
                pool.submit(client.publish_nowait, "t", b"", qos).result(PATIENCE)
            assert client.pending == pending

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


@pytest.mark.parametrize("qos", [0, 1])
def test_a_call_in_another_loop_is_refused_while_a_flush_is_scheduled_in_a_loop_that_was_stopped(qos: int) -> None:
    loop = asyncio.new_event_loop()

    def publish_and_stop() -> None:
        client.publish_nowait("t")
        loop.stop()

    with Broker() as broker:
        client = mqttws.aio.connect(broker.url_of("mqtt"))
        loop.run_until_complete(client.open())
        loop.call_soon(publish_and_stop)
        loop.run_forever()
        assert client._network.flushing
        with pytest.raises(MQTTError, match="open in another event loop"):
            asyncio.run(client.publish("t", b"", qos))
        loop.run_until_complete(client.close())
        loop.close()


def test_ctrl_c_that_ends_the_loop_just_before_a_flush_does_not_lose_it() -> None:
    """A loop without `asyncio.run`, whose signal handler raises, and that goes on."""

    def interrupt(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code is Network._end_turn.__code__:
            sys.setprofile(None)
            raise KeyboardInterrupt

    async def publish_both() -> None:
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(client.publish("t"), client.publish("t"))

    with Broker() as broker:
        loop = asyncio.new_event_loop()
        client = mqttws.aio.connect(broker.url_of("mqtt"))
        loop.run_until_complete(client.open())
        loop.run_until_complete(asyncio.sleep(0))
        publishing = [loop.create_task(publish_both()) for _ in range(2)]
        sys.setprofile(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                loop.run_until_complete(asyncio.sleep(PATIENCE))
        finally:
            sys.setprofile(None)
        loop.run_until_complete(asyncio.gather(*publishing))
        loop.run_until_complete(client.close())
        loop.close()


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("ending", ["cancelled", "timed out"])
def test_an_unsent_message_of_qos_0_is_withdrawn(ending: str, alone: bool) -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            pump = client._network._pump
            assert pump is not None
            pump.pause_writing()  # as if the peer does not read
            kept = 0 if alone else 1
            if not alone:
                client.publish_nowait("t", b"0")  # in the same turn
            publishing = asyncio.create_task(client.publish("t", b"1", timeout=0.05))
            await asyncio.sleep(0)
            if ending == "cancelled":
                publishing.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await publishing
            else:
                with pytest.raises(TimedOut, match=r"was not sent and will not be"):
                    await publishing
            assert client.pending == kept
            pump.resume_writing()
            await client.publish("t", b"2")
            assert client.pending == 0

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


def test_a_task_waits_for_space_after_another_message_of_its_turn() -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url, max_queued=1) as client:
            client.publish_nowait("t", b"1")  # fills the queue until the end of this turn
            await client.publish("t", b"2")

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


@pytest.mark.parametrize("ending", ["closed", "lost"])
def test_messages_of_many_tasks_end_with_the_client_and_outlive_a_connection(ending: str) -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url) as client:
            pump = client._network._pump
            assert pump is not None
            pump.pause_writing()  # as if the peer does not read
            tasks = [asyncio.create_task(client.publish("t")) for _ in range(3)]
            await asyncio.sleep(0)
            if ending == "closed":
                client._network.call(client._core.give_up, None)
                assert [type(each) for each in await asyncio.gather(*tasks, return_exceptions=True)] == [
                    ConnectionClosed
                ] * 3
            else:
                client.reconnect_now()
                assert await asyncio.gather(*tasks) == [None] * 3  # the next connection sends them

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


def test_a_time_out_names_the_whole_time_including_the_wait_for_space() -> None:
    async def run(url: str) -> None:
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url, max_queued=1) as client:
            pump = client._network._pump
            assert pump is not None
            pump.pause_writing()  # as if the peer does not read
            first = client.publish_nowait("t", b"1")
            publishing = asyncio.create_task(client.publish("t", b"2", timeout=0.4))
            await asyncio.sleep(0.2)
            assert not publishing.done()  # it waits for space
            assert client.withdraw(first)
            with pytest.raises(TimedOut, match=r"was not delivered within 0\.4 s; it was not sent and will not be"):
                await publishing
            pump.resume_writing()

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


@pytest.mark.parametrize("form", ["callback", "iteration"])
def test_an_answer_is_written_with_the_acknowledgement_in_the_turn_after_the_read(
    writes: list[bytes], form: str
) -> None:
    received: list[Publish] = []

    async def run(url: str) -> None:
        def answer(message: Publish) -> None:
            received.append(message)
            client.publish_nowait("answer", b"", 1)

        async def iterate() -> None:
            async for message in client.messages():
                answer(message)

        options: Any = {"on_message": answer} if form == "callback" else {}
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url, **options) as client:
            task = asyncio.ensure_future(iterate()) if form == "iteration" else None
            await asyncio.sleep(0)  # it waits for a message
            pump: Any = client._network._pump
            writes.clear()
            pump.data_received(Publish("t", b"1", 1, packet_id=7).encode())
            assert len(received) == (form == "callback")
            await asyncio.sleep(0)
            assert len(writes) == 1
            assert PubAck(7).encode() in writes[0]
            assert b"answer" in writes[0]
            if task is not None:
                task.cancel()

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))


def test_a_call_returns_before_the_messages_that_arrive_with_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    receive, held, order = Pump.data_received, bytearray(), list[str]()

    def hold(self: Pump, data: bytes) -> None:
        held.extend(data)
        if not held.startswith(b"\x90") or held.endswith(b"kept"):  # from the SUBACK on, until the message is complete
            data = bytes(held)
            held.clear()
            receive(self, data)

    async def run(url: str) -> None:
        options: Any = {"on_message": lambda message: order.append("message")}
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url, **options) as client:
            await client.publish("t", b"kept", 1, retain=True)
            await client.subscribe("t")
            order.append("subscribed")
            while len(order) < 2:
                await asyncio.sleep(0)

    monkeypatch.setattr(Pump, "data_received", hold)
    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))
    assert order == ["subscribed", "message"]


class Unusual(BaseException):
    """What only a signal handler raises."""


def test_an_exception_of_a_signal_handler_in_a_callback_does_not_end_the_connection() -> None:
    reported: list[Any] = []

    def interrupted(message: Publish) -> None:
        raise Unusual

    async def run(url: str) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context["exception"]))
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url, on_message=interrupted) as client:
            pump: Any = client._network._pump
            pump.data_received(Publish("t", b"1").encode())
            await client.publish("t", b"", 1)
            assert client._network._pump is pump

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))
    assert [type(error) for error in reported] == [Unusual]


def test_received_data_is_acknowledged_unless_what_is_written_does_that(monkeypatch: pytest.MonkeyPatch) -> None:
    acknowledged: list[Any] = []
    monkeypatch.setattr(pump_module, "acknowledge_at_once", acknowledged.append)

    async def run(url: str) -> None:
        options: Any = {"on_message": lambda message: None}
        async with asyncio.timeout(PATIENCE), mqttws.aio.connect(url, **options) as client:
            pump: Any = client._network._pump
            await asyncio.sleep(0)
            acknowledged.clear()
            pump.data_received(PingResp().encode())
            assert len(acknowledged) == 1  # nothing follows
            pump.data_received(Publish("t").encode())
            assert len(acknowledged) == 1  # something may follow, by the end of the next turn
            await asyncio.sleep(0)
            assert len(acknowledged) == 2
            pump.data_received(Publish("t", b"", 1, packet_id=7).encode())
            await asyncio.sleep(0)  # the PUBACK is written
            assert len(acknowledged) == 2
            await asyncio.sleep(0)
            assert len(acknowledged) == 2

    with Broker() as broker:
        asyncio.run(run(broker.url_of("mqtt")))
