"""The tap on the network: every transport, byte for byte, including FIN, RST and back-pressure."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from wire import PATIENCE

import mqttws
from mqttws import ConnectError
from mqttws.broker import Broker
from mqttws.tap import Record, Tap, lines, load
from mqttws.testing import Authority, Identity


def named(records: list[Record], layer: str = "mqtt") -> list[tuple[str, str]]:
    return [(record.sender, record.name) for record in records if record.layer == layer]


def test_a_session_over_every_transport(tapped: Any) -> None:
    payload = os.urandom(300_000)
    with mqttws.connect(tapped.tap.url, client_id="c", username="u", password="bait", **tapped.options) as client:
        client.subscribe("a/#", 2)
        for qos in (0, 1, 2):
            client.publish("a/b", payload, qos=qos)
        messages = client.messages(timeout=PATIENCE)
        assert [next(messages).payload for _ in range(3)] == [payload] * 3
    # A server that has closed its socket answers a late TLS alert with RST.
    wait_until(
        lambda: len([name for _, name in named(tapped.tap.taken(), "tcp") if name in ("FIN", "RST")]) >= 2, tapped.tap
    )
    records = tapped.tap.taken()
    seen = named(records)
    assert seen[0] == ("client", "CONNECT")
    assert ("client", "DISCONNECT") in seen
    assert sorted(seen).count(("client", "PUBLISH")) == 3
    assert [record.broken for record in records if record.broken] == []
    assert not [record for record in records if record.layer == "other"]
    answered = {record.name for record in records if record.answers}
    assert {"CONNACK", "SUBACK", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP"} <= answered
    secured = next(record for record in records if record.name == "open").notes
    assert ("far_tls" in secured) == bool(tapped.options)
    if tapped.options:
        sizes = [record.notes["tls_record"] for record in records if record.name == "data"]
        assert all(5 < size <= 5 + 16_384 + 256 for size in sizes)
    shown = "\n".join(lines(records))
    assert "bait" not in shown
    assert b"bait".hex() not in shown
    again = load(lines(records, secrets=True))
    assert again.faults == []
    unlike = [(one, other) for one, other in zip(again.records, records, strict=True) if plain(one) != plain(other)]
    assert unlike == []


def plain(record: Record) -> tuple[object, ...]:
    return (
        record.number, record.layer, record.name, record.sender, record.data, record.parts, record.changes,
        record.broken, record.answers, record.hidden,
    )  # fmt: skip


def wait_until(happened: Callable[[], bool], tap: Tap) -> None:
    """Wait for records of the tap until a condition holds."""
    come = threading.Event()
    tap._on_records = lambda records, settled: come.set()
    while not happened():
        assert come.wait(PATIENCE)
        come.clear()


# Raw streams.


@contextmanager
def raw(limit: int = 1024 * 1024) -> Iterator[tuple[socket.socket, socket.socket, Tap]]:
    """Yield both ends of a connection through a tap, and the tap."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)
        with Tap(f"mqtt://127.0.0.1:{listener.getsockname()[1]}", limit=limit) as tap:
            port = int(tap.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), PATIENCE) as near:
                far, _ = listener.accept()
                with far:
                    far.settimeout(PATIENCE)
                    yield near, far, tap


def receive(source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (piece := source.recv(size - len(data))):
        data += piece
    return data


@pytest.mark.parametrize("towards", ["client", "server"])
def test_any_bytes_pass_unchanged(towards: str) -> None:
    data = os.urandom(2_000_000)
    with raw(limit=1000) as (near, far, _):
        source, target = (near, far) if towards == "server" else (far, near)
        writing = threading.Thread(target=source.sendall, args=(data,))
        writing.start()
        received = receive(target, len(data))
        writing.join(PATIENCE)
    assert hashlib.sha256(received).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_half_closed_connection_still_receives(first: str) -> None:
    with raw() as (near, far, tap):
        one, other = (near, far) if first == "client" else (far, near)
        one.sendall(b"\xc0\x00")
        one.shutdown(socket.SHUT_WR)
        assert receive(other, 3) == b"\xc0\x00"  # the end was forwarded
        other.sendall(b"\xd0\x00")
        assert receive(one, 2) == b"\xd0\x00"
        other.shutdown(socket.SHUT_WR)
        assert one.recv(1) == b""
        assert [name for _, name in named(tap.taken(), "tcp") if name == "FIN"] == ["FIN", "FIN"]


@pytest.mark.parametrize("first", ["client", "server"])
def test_a_reset_is_forwarded_as_a_reset(first: str) -> None:
    with raw() as (near, far, tap):
        one, other = (near, far) if first == "client" else (far, near)
        one.sendall(b"\xc0\x00")
        assert receive(other, 2) == b"\xc0\x00"
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.close()
        with pytest.raises(ConnectionResetError):
            other.recv(1)
        assert (first, "RST") in named(tap.taken(), "tcp")


def test_an_end_that_does_not_read_pauses_the_other() -> None:
    """The buffer is bounded: the sender's socket fills, and everything arrives once it is read."""
    with raw() as (near, far, _):
        near.setblocking(False)
        piece, sent = mqttws.Publish("a", bytes(60_000)).encode(), 0
        stuck = threading.Event()
        while not stuck.wait(0.3):
            before = sent
            try:
                while True:
                    sent += near.send(piece)
            except BlockingIOError:
                pass
            if sent == before:
                stuck.set()
        assert sent < 64 * 1024 * 1024
        assert len(receive(far, sent)) == sent


def test_a_tap_that_is_not_open_has_no_url() -> None:
    tap = Tap("mqtt://127.0.0.1:1")
    with pytest.raises(RuntimeError, match="the tap is not open"):
        _ = tap.url
    with pytest.raises(RuntimeError, match="the tap does not run in a thread"):
        tap.taken()
    with tap:
        assert tap.url.startswith("mqtt://127.0.0.1:")
    with pytest.raises(RuntimeError, match="the tap is not open"):
        _ = tap.url


def test_an_unreachable_server(closed_port: int) -> None:
    with Tap(f"mqtt://127.0.0.1:{closed_port}") as tap:
        with pytest.raises(ConnectError):
            mqttws.connect(tap.url, reconnect=False).open(PATIENCE)
        assert "no connection to" in tap.taken()[0].notes["failed"]


def test_nothing_is_sent_to_a_server_with_an_unknown_certificate(broker: Broker, identity: Identity) -> None:
    with Tap(broker.url_of("mqtts"), far_tls=ssl.create_default_context(), near_tls=identity.server_context()) as tap:
        port = int(tap.url.rpartition(":")[2])
        # The reset may come before `connect` returns.
        with pytest.raises(ConnectionResetError), socket.create_connection(("127.0.0.1", port), PATIENCE) as near:
            near.recv(1)
        assert "CERTIFICATE_VERIFY_FAILED" in tap.taken()[0].notes["failed"]


def test_closing_closes_open_connections_and_leaks_nothing(broker: Broker) -> None:
    with Tap(broker.url_of("mqtt")) as tap:
        port = int(tap.url.rpartition(":")[2])
        near = socket.create_connection(("127.0.0.1", port), PATIENCE)
        near.sendall(mqttws.Connect("c").encode())
        assert near.recv(4) == b"\x20\x02\x00\x00"
    with near, pytest.raises(ConnectionResetError):
        near.recv(1)
    assert "mqttws-tap" not in [thread.name for thread in threading.enumerate()]


def test_closing_while_clients_connect(broker: Broker) -> None:
    """Like a client that reconnects immediately; a connection being accepted is closed, too."""
    over = threading.Event()

    def come(port: int) -> None:
        while not over.is_set():
            try:
                socket.create_connection(("127.0.0.1", port), PATIENCE).close()
            except OSError:
                pass

    for _ in range(10):
        with Tap(broker.url_of("mqtt")) as tap:
            over.clear()
            coming = threading.Thread(target=come, args=(int(tap.url.rpartition(":")[2]),))
            coming.start()
        over.set()
        coming.join(PATIENCE)
        assert not coming.is_alive()


def test_stored_records_are_bounded(broker: Broker) -> None:
    with Tap(broker.url_of("mqtt"), keep=100_000) as tap, mqttws.connect(tap.url) as client:
        for _ in range(100):
            client.publish("a", bytes(5000), 1)
        records = tap.taken()
        assert sum(len(record.data) for record in records) <= 100_000
        assert tap.records.dropped > 100
        assert tap.records.get(records[-1].number) is records[-1]
        assert tap.records.get(1) is None
        assert [each.number for each in tap.records.since(records[-3].number)] == [each.number for each in records[-2:]]


def test_a_failing_viewer_does_not_stop_the_traffic(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(records: list[Record], settled: bool) -> None:
        raise RuntimeError("the viewer is broken")

    with Tap(broker.url_of("mqtt"), on_records=fail) as tap, mqttws.connect(tap.url) as client:
        client.publish("a", b"1", 1)
    assert "the viewer is broken" in caplog.text


def test_a_tls_client_requires_an_identity(broker: Broker, authority: Authority, identity: Identity) -> None:
    with Tap(broker.url_of("wss"), near_tls=identity.server_context(), far_tls=authority.client_context()) as tap:
        assert tap.url.startswith("wss://127.0.0.1:")
        with pytest.raises(mqttws.CertificateError):
            mqttws.connect(tap.url, reconnect=False).open(PATIENCE)
