"""Long messages, which both drivers send in pieces: over every transport, in order, whole, also before the end."""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drivers import PATIENCE
from scripted import Scripted, connected

from mqttws import Client, Publish, Reconnect
from mqttws.broker import Broker, Limits
from mqttws.client.layers import Link
from mqttws.client.tls import TLSPipe
from mqttws.protocol.outgoing import LONG
from mqttws.sync import network
from mqttws.testing import Authority, mint_authority

Make = Callable[..., Any]
MOST = 8 * 1024 * 1024
SCHEMES = pytest.mark.parametrize("scheme", ["ws", "wss", "mqtt", "mqtts"])


@pytest.fixture(scope="module")
def authority() -> Authority:
    return mint_authority()


@pytest.fixture(scope="module")
def patient(authority: Authority) -> Iterator[Broker]:
    """A broker that accepts long messages, over every transport."""
    limits = Limits(max_packet_size=MOST, max_write_buffer=4 * MOST)
    tls = authority.issue("127.0.0.1").server_context()
    with Broker(wss_port=0, mqtts_port=0, tls=tls, limits=limits) as broker:
        yield broker


def options(authority: Authority, scheme: str) -> dict[str, Any]:
    return {"tls": authority.client_context()} if scheme in ("wss", "mqtts") else {}


@SCHEMES
def test_both_ways_in_order(make: Make, patient: Broker, authority: Authority, scheme: str) -> None:
    sizes = [5, LONG - 20, LONG, LONG + 1, 100_000, 7, 2 * LONG - 1, 2 * LONG, 3_000_001, 1, 2_000_000]
    sent = [(random.Random(size).randbytes(size), number % 3) for number, size in enumerate(sizes)]
    received: list[tuple[bytes, int]] = []
    complete = threading.Event()

    def on_message(message: Publish) -> None:
        received.append((message.payload, message.qos))
        if len(received) == len(sent):
            complete.set()

    with make(patient.url_of(scheme), on_message=on_message, **options(authority, scheme)) as client:
        client.subscribe("long", 2)
        for payload, qos in sent:
            client.publish_nowait("long", payload, qos)
        assert complete.wait(10 * PATIENCE)
    for qos in (0, 1, 2):  # the order of messages is defined for each QoS [MQTT-4.6.0-6]
        assert [each for each in received if each[1] == qos] == [each for each in sent if each[1] == qos]


@pytest.mark.parametrize("scatters", [True, False])
@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_a_blocking_client_reads_payloads_into_their_places(
    monkeypatch: pytest.MonkeyPatch, patient: Broker, scheme: str, scatters: bool
) -> None:
    filled: list[int] = []
    fill = Link.fill

    def noted(link: Link, count: int) -> bytes:
        filled.append(count)
        return fill(link, count)

    monkeypatch.setattr(Link, "fill", noted)
    monkeypatch.setattr(network, "_SCATTERS", scatters and network._SCATTERS)
    payloads = [random.Random(size).randbytes(size) for size in (2 * LONG, 3, 1_000_000, LONG - 1, 300_000, 300_000)]
    with Client(patient.url_of(scheme)) as client:
        client.subscribe("long", 1)
        messages = client.messages(10 * PATIENCE)
        for payload in payloads:
            client.publish_nowait("long", payload, 1)
        assert [next(messages).payload for _ in payloads] == payloads
    assert sum(filled) > 1_200_000


@pytest.mark.parametrize("scheme", ["wss", "mqtts"])
def test_payloads_are_decrypted_into_their_places(
    make: Make, monkeypatch: pytest.MonkeyPatch, patient: Broker, authority: Authority, scheme: str
) -> None:
    filled: list[int] = []
    read_into = TLSPipe.read_into

    def noted(pipe: TLSPipe, buffer: memoryview) -> int:
        count = read_into(pipe, buffer)
        filled.append(count)
        return count

    monkeypatch.setattr(TLSPipe, "read_into", noted)
    payloads = [random.Random(size).randbytes(size) for size in (2 * LONG, 3, 1_000_000, LONG - 1, 300_000, 300_000)]
    came: list[bytes] = []
    complete = threading.Event()

    def on_message(message: Publish) -> None:
        came.append(message.payload)
        if len(came) == len(payloads):
            complete.set()

    with make(patient.url_of(scheme), on_message=on_message, **options(authority, scheme)) as client:
        client.subscribe("long", 1)
        for payload in payloads:
            client.publish_nowait("long", payload, 1)
        assert complete.wait(10 * PATIENCE)
    assert came == payloads
    assert sum(filled) > 1_200_000


def test_an_error_within_a_long_message_keeps_no_view_of_its_memory(
    monkeypatch: pytest.MonkeyPatch, tcp_server: Scripted
) -> None:
    """The frames of the error's traceback refer to the view; a reference cycle would leave both to the collector."""
    views: list[memoryview] = []

    def broken(self: network.Network, link: Link, connection: socket.socket, buffer: memoryview) -> tuple[bytes, int]:
        views.append(buffer)
        raise ConnectionResetError

    monkeypatch.setattr(network.Network, "_read_payload", broken)
    client, end = connected(Client, tcp_server, reconnect=Reconnect(initial=0.001, maximum=0.001))
    end.send(Publish("a", bytes(2 * LONG)).encode()[:-1])
    tcp_server.accept().welcome()
    tcp_server.closing(client)
    (view,) = views
    with pytest.raises(ValueError, match="released"):
        len(view)


@SCHEMES
def test_a_message_that_is_published_before_the_end_is_sent_whole(
    make: Make, patient: Broker, authority: Authority, scheme: str
) -> None:
    payload = random.Random(9).randbytes(5_000_003)
    came: list[bytes] = []
    complete = threading.Event()

    def on_message(message: Publish) -> None:
        came.append(message.payload)
        complete.set()

    with make(patient.url_of("mqtt"), on_message=on_message) as receiver:
        receiver.subscribe("last", 1)
        sender = make(patient.url_of(scheme), **options(authority, scheme))
        sender.open()
        sender.publish_nowait("last", payload)
        sender.close(10 * PATIENCE)
        assert complete.wait(10 * PATIENCE)
    assert came == [payload]
