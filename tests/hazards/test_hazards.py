"""Hazards known from other libraries that no other directory tests; docs/reliability.md lists all of them."""

from __future__ import annotations

import asyncio
import heapq
import math
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

import mqttws
from mqttws import Connect, Decoder, Message, Publish, Reconnect, Session, SubAck, Subscribe, aio
from mqttws.broker import Broker, Limits
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.events import Subscribed

#: More than the number of await points of any call below.
POINTS = 60
#: Seconds.
STALL = 120.0
CONNACK = {False: bytes.fromhex("20 02 00 00"), True: bytes.fromhex("20 02 01 00")}


class TestCancelling:
    """A call that is cancelled at any turn of the loop leaves no identifier in use and no acknowledgement pending."""

    @staticmethod
    async def cancel_after(turns: int, call: asyncio.Task[object]) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        call.cancel()
        await asyncio.wait({call})

    @pytest.mark.parametrize("qos", [0, 1, 2])
    def test_publish(self, qos: int) -> None:
        async def run() -> None:
            async with Broker(sys_interval=None) as broker, aio.connect(broker.url) as client:
                finished = 0
                for turns in range(POINTS):
                    call = asyncio.ensure_future(client.publish("t", b"x", qos))
                    await self.cancel_after(turns, call)
                    finished += not call.cancelled()
                    await client.publish("t", b"barrier", 2, timeout=30)
                    await client.publish("t", b"barrier", 1, timeout=30)
                    assert len(client.session.sender) == 0
                    assert len(client.session.identifiers) == 0
                assert 0 < finished < POINTS  # cancelled before and after the end of the call

        asyncio.run(run())

    @pytest.mark.parametrize("verb", ["subscribe", "unsubscribe"])
    def test_requests(self, verb: str) -> None:
        async def run() -> None:
            async with Broker(sys_interval=None) as broker, aio.connect(broker.url) as client:
                for turns in range(POINTS):
                    await self.cancel_after(turns, asyncio.ensure_future(getattr(client, verb)("t")))
                    await client.unsubscribe("t", timeout=30)
                    assert len(client.session.identifiers) == 0
                    assert client.session.subscriptions == {}
                await client.subscribe("t", 1)
                await client.publish("t", b"x", 1)
                assert (await anext(client.messages())).payload == b"x"

        asyncio.run(run())

    def test_taking_messages(self) -> None:
        """A message not returned by the cancelled call goes to the next one; a returned one is acknowledged."""

        async def run() -> None:
            async with Broker(sys_interval=None) as broker, aio.connect(broker.url) as client:
                await client.subscribe("t", 2)
                got: list[bytes] = []

                async def take() -> None:
                    async for message in client.messages():
                        got.append(message.payload)

                for turns in range(POINTS):
                    broker.publish("t", b"%d" % turns, 1 + turns % 2)
                    await self.cancel_after(turns % 20, asyncio.ensure_future(take()))
                async for message in client.messages(timeout=0.5):
                    got.append(message.payload)
                assert got == [b"%d" % turns for turns in range(POINTS)]
                await client.publish("t", b"barrier", 1)
                assert broker._registry.find(client.client_id).session.sender.in_flight <= 1  # that of the barrier

        asyncio.run(run())

    def test_opening_and_closing(self) -> None:
        async def run() -> None:
            # A machine that stalls for more than the default ten seconds must not end an attempt here.
            async with Broker(limits=Limits(connect_timeout=STALL), sys_interval=None) as broker:
                for turns in range(POINTS):
                    client = aio.Client(broker.url, timeout=STALL)
                    await self.cancel_after(turns, asyncio.ensure_future(client.open()))
                    await client.close()
                    client = await aio.Client(broker.url, timeout=STALL).open()
                    await self.cancel_after(turns, asyncio.ensure_future(client.close()))
                    await client.close()
                    assert client.state.name == "disconnected"
                async with asyncio.timeout(30):
                    while any(task.get_name().startswith("mqttws ") for task in asyncio.all_tasks()):
                        await asyncio.sleep(0)

        asyncio.run(run())


#: Seconds in which attempts are counted together; in how many pieces the integral below cuts each; seconds of a piece.
STEP, FINES = 0.1, 10
FINE = STEP / FINES


def full_jitter(down: float) -> list[float]:
    """Return the expected number of attempts of one client in each step of the clock, by the policy's definition.

    Attempt 0 is immediate, attempt k follows after k waits; wait j is uniform between 0 and c_j, that is 1 s, 2 s,
    4 s ... 60 s. So its density is f_k(t) = (F_k-1(t) - F_k-1(t - c_k)) / c_k. After a successful attempt a client
    makes no other, so F_k-1 counts only up to `down`. Attempt 0 is not counted.
    """
    points, last = round((down + 60) / FINE), round(down / FINE)
    expected = [0.0] * (points // FINES)
    before, ceiling = [1.0] * (points + 1), 1.0
    while before[last] > 1e-6:
        width = round(ceiling / FINE)
        density = [
            (before[min(at, last)] - (before[min(at - width, last)] if at >= width else 0.0)) / ceiling
            for at in range(points + 1)
        ]
        before = [0.0]
        for at in range(points):
            share = (density[at] + density[at + 1]) / 2 * FINE
            before.append(before[-1] + share)
            expected[at // FINES] += share
        ceiling = min(60.0, 2 * ceiling)
    return expected


class TestStorm:
    @pytest.mark.parametrize("down", [0.5, 5.0, 60.0])
    def test_the_reconnects_of_a_thousand_clients_are_spread(self, down: float) -> None:
        """The policy with a simulated clock: all clients lose the server at once, and it returns after a while.

        The expected counts follow from the distribution. Clients draw independently, so a count around m has a
        variance of at most 1.25 m: a client makes a second attempt in the same step with a probability of at most
        STEP / 1 s. Five standard deviations are allowed.
        """
        clients, random, policy = 1_000, Random(1), Reconnect()
        attempts: Counter[int] = Counter()
        due = [(0.0, client, 0) for client in range(clients)]
        back = 0.0
        while due:
            now, client, attempt = heapq.heappop(due)
            delay = policy.delay(attempt, random.random())
            assert delay is not None
            now += delay
            if attempt:
                attempts[int(now / STEP)] += 1
            else:
                assert delay == 0.0
            if attempt and now >= down:
                back = max(back, now)
            else:
                heapq.heappush(due, (now, client, attempt + 1))
        assert back <= down + 60  # no client waits longer than the maximum
        expected = [clients * share for share in full_jitter(down)]
        # The density of attempt k is at most 1/c_k; beyond the maximum that of all is at most e/60.
        assert max(expected) <= clients * STEP * (sum(0.5**k for k in range(6)) + math.e / 60)
        wanted = seen = 0.0
        for step, mean in enumerate(expected):  # steps with small expected counts are combined
            wanted, seen = wanted + mean, seen + attempts[step]
            if wanted >= 30 or step == len(expected) - 1:
                assert abs(seen - wanted) <= 5 * math.sqrt(1.25 * max(wanted, 30)), f"{seen} until {step * STEP:.1f} s"
                wanted = seen = 0.0

    def test_a_server_that_accepts_and_closes_is_not_asked_faster(self) -> None:
        with Broker(sys_interval=None, authenticator=lambda peer, connect: True) as broker:
            states: list[mqttws.State] = []
            policy = Reconnect(initial=0.01, takeovers=5)
            client = mqttws.Client(broker.url_of("mqtt"), client_id="c", on_state=states.append, reconnect=policy)
            client.open()
            while sum(state.name == "reconnecting" for state in states) < 8:
                broker.disconnect("c")
            client.close()
            reasons = [type(state.error) for state in states if state.name == "disrupted"]
            assert reasons[4:8] == [mqttws.TakeoverSuspected] * 4
            waits = [state.delay for state in states if state.delay is not None]
            assert all(wait <= 0.01 * 2 ** (number - 1) for number, wait in enumerate(waits))
            assert max(waits[4:]) > max(waits[:2])

    def test_ten_thousand_failed_connections_queue_one_subscribe(self) -> None:
        session = Session()
        session.subscribe([("t", 1)])
        for number in range(10_000):
            machine = ClientMachine(Connect("c", clean_session=False), session)
            machine.start(0.0)
            machine.receive_data(CONNACK[False], 0.0) if number % 2 else None
            machine.data_to_send(0.0)
            machine.receive_eof(0.0)
        machine = ClientMachine(Connect("c", clean_session=False), session)
        machine.start(0.0)
        machine.data_to_send(0.0)
        machine.receive_data(CONNACK[True], 0.0)
        (subscribe,) = Decoder().feed(machine.data_to_send(0.0))
        assert isinstance(subscribe, Subscribe)
        machine.receive_data(SubAck(subscribe.packet_id, [1]).encode(), 0.0)
        assert any(isinstance(event, Subscribed) for event in machine.events)
        assert len(session.identifiers) == 0


def test_when_all_identifiers_are_in_flight_the_next_message_waits_for_one() -> None:
    session = Session(max_in_flight=65_535, max_queued=65_536)
    for _ in range(65_536):
        session.publish(Message("t", b"", 1))
    packets, _ = session.sender.take_ready()
    in_flight = [packet.packet_id for packet in Decoder().feed(b"".join(packets)) if isinstance(packet, Publish)]
    assert in_flight == list(range(1, 65_536))
    assert session.sender.waiting == 1
    session.sender.puback(4711)
    assert session.sender.take_ready() == ([Publish("t", b"", 1, packet_id=4711).encode()], None)


def test_a_million_messages_over_the_wrap_share_no_identifier() -> None:
    session = Session(max_in_flight=100)
    sender, random, message = session.sender, Random(1), Message("t", b"", 1)
    in_flight: list[int] = []
    for _ in range(1_000_000):
        session.publish(message)
        (packet,), _ = sender.take_ready()
        packet_id = int.from_bytes(packet[5:7], "big")  # 32 05 00 01 't' and then the identifier
        assert packet_id not in in_flight
        in_flight.append(packet_id)
        if len(in_flight) == 100:
            assert sender.puback(in_flight.pop(random.randrange(100))) is not None
    assert len(session.identifiers) == 99


def run_program(program: str, url: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a program with a timeout, and return its output."""
    environment = {"PYTHONPATH": str(Path(mqttws.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-c", program, url], timeout=30, capture_output=True, text=True, check=False, env=environment
    )


class TestProcesses:
    def test_a_fork_with_a_live_client(self) -> None:
        """The child may exit, or use another client; the parent's connection is not affected."""
        program = (
            "import os, sys, mqttws\n"
            "client = mqttws.connect(sys.argv[1])\n"
            "pid = os.fork()\n"
            "if not pid:\n"
            "    assert client.state.name == 'disconnected'\n"
            "    mqttws.connect(sys.argv[1]).publish('t', b'child', 1)\n"
            "    sys.exit(0)\n"
            "assert os.waitpid(pid, 0)[1] == 0\n"
            "client.publish('t', b'parent', 1)\n"
            "print('whole')\n"
        )
        with Broker(sys_interval=None) as broker:
            done = run_program(program, broker.url)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "whole\n"

    @pytest.mark.parametrize("how", ["pass", "sys.exit(0)", "client.publish_nowait('t', b'x', 1)"])
    def test_interpreter_exit_without_a_close(self, how: str) -> None:
        program = f"import sys, mqttws\nclient = mqttws.connect(sys.argv[1])\n{how}\n"
        with Broker(sys_interval=None) as broker:
            done = run_program(program, broker.url)
        assert (done.returncode, done.stderr) == (0, "")

    def test_ctrl_c_while_publishing(self) -> None:
        program = (
            "import os, signal, sys, threading, mqttws\n"
            "with mqttws.connect(sys.argv[1]) as client:\n"
            "    client.session.sender._max_in_flight = 0  # nothing is acknowledged\n"
            f"    threading.Timer(0.3, os.kill, (os.getpid(), {int(signal.SIGINT)})).start()\n"
            "    try:\n"
            "        client.publish('t', b'x', 1, timeout=25)\n"
            "    except KeyboardInterrupt:\n"
            "        print('interrupted')\n"
        )
        with Broker(sys_interval=None) as broker:
            done = run_program(program, broker.url)
        assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr


def test_half_open_is_noticed_within_keep_alive_and_a_second_whatever_is_published() -> None:
    """With a simulated clock, for every keep alive: the last byte arrived at 0, and messages are sent all the time."""
    for keep_alive in (*range(1, 61), 120, 600, 1200, 65_535):
        machine = ClientMachine(Connect("c", keep_alive=keep_alive), Session())
        machine.start(0.0)
        machine.receive_data(CONNACK[False], 0.0)
        now = 0.0
        while machine.state == "connected":
            machine.publish(Message("t", b"x"))
            machine.data_to_send(now)
            deadline = machine.next_deadline()
            assert deadline is not None
            now = min(deadline, now + keep_alive / 100)
            machine.handle_timeout(now)
        assert now <= keep_alive + 1
        assert isinstance(machine.error, mqttws.KeepAliveTimeout)
