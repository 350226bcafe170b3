"""The limits of AWS IoT that are about a day or about a whole account, on a clock of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import jumping
import pytest

import mqttws
import mqttws.aio
from mqttws import SubscribeRejected
from pubsub.aws.limits import IoTLimits
from pubsub.aws.local.endpoint import LocalIoTEndpoint
from sigv4 import presign_iot_url

DAY = 86_400.0


class Account:
    """An endpoint whose rates are of the test's time, and its clients."""

    def __init__(self, stack: ExitStack, limits: IoTLimits) -> None:
        self._stack = stack
        self.now = 1_000.0
        self.iot = LocalIoTEndpoint(limits=limits)
        self.iot._hooks._monotonic = lambda: self.now
        stack.enter_context(self.iot)

    def client(self, client_id: str, **options: Any) -> mqttws.Client:
        def url() -> str:
            return str(presign_iot_url(self.iot.url, self.iot.credentials, self.iot.region))

        client = mqttws.Client(url, client_id=client_id, reconnect=False, timeout=30, **options)
        return self._stack.enter_context(client)


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def payloads(client: mqttws.Client, last: str) -> list[str]:
    """Take messages up to the one with that payload."""
    found: list[str] = []
    for message in client.messages(timeout=30):
        found.append(message.payload.decode())
        if found[-1] == last:
            return found
    raise AssertionError(found)


def test_the_defaults_are_those_of_aws() -> None:
    limits = IoTLimits()
    assert (limits.subscribe_rate, limits.inbound_rate, limits.outbound_rate) == (500.0, 20_000.0, 20_000.0)
    assert (limits.stored_rate, limits.websocket_life) == (10.0, DAY)


@pytest.mark.parametrize("name", ["subscribe_rate", "inbound_rate", "outbound_rate", "stored_rate", "websocket_life"])
@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_what_is_out_of_range_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        IoTLimits(**{name: value})  # type: ignore[arg-type]
    IoTLimits(**{name: None})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["client_connect_rate", "publish_rate", "byte_rate", "subscribe_rate"])
def test_a_rate_without_a_limit_is_none(name: str) -> None:
    """A `ConnectBudget`, which keeps one of them, has no infinite rate."""
    with pytest.raises(ValueError, match=f"{name} is inf; expected .* or None for no limit"):
        IoTLimits(**{name: float("inf")})  # type: ignore[arg-type]


def test_topic_filters_of_the_account_have_a_rate(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    account = Account(stack, IoTLimits(subscribe_rate=5.0))
    first, second = account.client("first"), account.client("second")
    assert first.subscribe([f"a/{number}" for number in range(3)]) == (0, 0, 0)
    codes = second.subscribe_nowait([(f"b/{number}", 0) for number in range(3)]).result(timeout=30)
    assert codes == (0, 0, 0x80)  # all clients count together, each Topic Filter by itself
    assert "beyond the 5 Topic Filters a second of the account" in caplog.text
    account.now += 0.2
    assert first.subscribe("a/3") == 0
    with pytest.raises(SubscribeRejected):
        first.subscribe("a/4")
    account.now += 60.0
    assert first.subscribe([f"c/{number}" for number in range(5)]) == (0,) * 5
    with pytest.raises(SubscribeRejected):
        second.subscribe("c/5")


def test_messages_that_an_account_publishes_have_a_rate(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    account = Account(stack, IoTLimits(inbound_rate=4.0))
    reader, *writers = (account.client(name) for name in ("reader", "first", "second"))
    reader.subscribe("a")
    for number in range(4):
        writers[number % 2].publish("a", f"{number}", qos=1)
    beyond = [writer.publish_nowait("a", "beyond", qos=1) for writer in writers]
    for writer in writers:
        writer.subscribe("b")  # answered after the messages were handled
    assert not any(future.done() for future in beyond)
    account.now += 1.0
    reader.publish("a", "last", qos=1)
    assert payloads(reader, "last") == ["0", "1", "2", "3", "last"]
    assert "beyond the 4 messages a second of the account, and discarded" in caplog.text
    for writer in writers:
        writer.close(timeout=0.01)  # an answer would never come


def test_messages_that_an_account_receives_have_a_rate(stack: ExitStack, caplog: pytest.LogCaptureFixture) -> None:
    account = Account(stack, IoTLimits(outbound_rate=4.0))
    writer, *readers = (account.client(name) for name in ("writer", "first", "second"))
    for reader in readers:
        reader.subscribe("a", 1)
    for number in range(3):
        writer.publish("a", f"{number}", qos=1)  # acknowledged, whether or not it is delivered
    account.now += 1.0
    writer.publish("a", "last", qos=1)
    assert [payloads(reader, "last") for reader in readers] == [["0", "1", "last"]] * 2
    assert "beyond the 4 messages a second of the account" in caplog.text


def test_stored_messages_come_ten_a_second() -> None:
    async def body() -> None:
        async with LocalIoTEndpoint(limits=IoTLimits(publish_rate=None)) as iot:

            def client(client_id: str, **options: Any) -> mqttws.aio.Client:
                def url() -> str:
                    return str(presign_iot_url(iot.url, iot.credentials, iot.region))

                return mqttws.aio.Client(url, client_id=client_id, reconnect=False, keep_alive=1200, **options)

            loop = asyncio.get_running_loop()
            async with client("reader", clean_session=False) as reader:
                await reader.subscribe("a", 1)
            async with client("writer") as writer:
                for number in range(30):
                    await writer.publish("a", f"{number}", qos=1)
                came: list[float] = []
                reader = client("reader", clean_session=False, on_message=lambda message: came.append(loop.time()))
                async with reader:
                    began = loop.time()
                    while len(came) < 30:
                        await jumping.pass_time(0.02)
                        await reader.publish("b", b"", qos=1)  # what came before its answer has been handled
        for number, at in enumerate(came):
            assert number / 10 - 0.05 <= at - began < number / 10 + 1.0

    jumping.run(body())


def test_a_websocket_connection_ends_after_24_hours() -> None:
    async def body() -> None:
        async with LocalIoTEndpoint(limits=IoTLimits(publish_rate=None)) as iot:

            def client(client_id: str, **options: Any) -> mqttws.aio.Client:
                def url() -> str:
                    return str(presign_iot_url(iot.url, iot.credentials, iot.region))

                return mqttws.aio.Client(url, client_id=client_id, keep_alive=1200, **options)

            lost: asyncio.Queue[str] = asyncio.Queue()
            events: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
            loop = asyncio.get_running_loop()
            async with client(
                "old",
                on_state=lambda state: lost.put_nowait(f"{state.error!r}") if state.name == "disrupted" else None,
            ) as old:
                began = loop.time()
                while loop.time() - began < DAY - 700:  # it is not silent
                    await old.publish("a", b"", qos=1)
                    await jumping.pass_time(600.0)
                assert lost.empty()
                async with client(
                    "watcher", on_message=lambda message: events.put_nowait(json.loads(message.payload))
                ) as watcher:
                    await watcher.subscribe("$aws/events/presence/disconnected/old", 1)
                    await jumping.pass_time(began + DAY + 1 - loop.time())
                    assert "ConnectionClosed" in await asyncio.wait_for(lost.get(), 30)
                    event = await asyncio.wait_for(events.get(), 30)
                    assert event["disconnectReason"] == "WEBSOCKET_TTL_EXPIRATION"
                    assert event["clientInitiatedDisconnect"] is False
                    await old.publish("a", b"", qos=1)  # it has connected again
                    await jumping.pass_time(600.0)
                    await watcher.publish("a", b"", qos=1)  # the younger connection stands
                    assert lost.empty()

    jumping.run(body())


def test_a_connection_that_has_ended_leaves_no_timer_behind() -> None:
    async def body() -> None:
        async with LocalIoTEndpoint(limits=IoTLimits(websocket_life=100.0)) as iot:

            def url() -> str:
                return str(presign_iot_url(iot.url, iot.credentials, iot.region))

            async with mqttws.aio.Client(url, client_id="name", reconnect=False):
                pass
            await jumping.pass_time(60.0)
            async with mqttws.aio.Client(url, client_id="name", reconnect=False) as second:
                await jumping.pass_time(50.0)
                await second.publish("a", b"", qos=1)  # the end of the first connection's 100 seconds is not its own

    jumping.run(body())
