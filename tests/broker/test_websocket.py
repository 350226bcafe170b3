"""WebSocket at the broker: paths, subprotocols, origins, frames; and TLS on both listeners."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import nullcontext

import pytest
from drivers import wait_until
from wire import PATIENCE, Wire

import mqttws
from mqttws import Connect, Publish
from mqttws.broker import Broker, Limits, Peer, Rejection
from mqttws.broker.origin import objection_to_origin


@pytest.mark.statement("MQTT-6.0.0-4")
@pytest.mark.parametrize(
    ("offered", "chosen"),
    [("mqtt", "mqtt"), ("foo, mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1"), ("mqttv3.1,mqtt", "mqtt")],
)
def test_the_subprotocol_is_chosen(wire, offered, chosen):
    head = wire(scheme="ws", upgrade=False).upgrade("/mqtt", "127.0.0.1", subprotocol=offered)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-protocol: " + chosen.encode() in head.lower().split(b"\r\n")


@pytest.mark.parametrize("offered", ["foo", "MQTT5", ""])
def test_without_the_subprotocol_there_is_no_websocket(wire, offered):
    answer = wire(scheme="ws", upgrade=False).upgrade("/mqtt", "127.0.0.1", subprotocol=offered)
    assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(("target", "status"), [
    ("/mqtt", 101), ("/", 101), ("/mqtt?a=b", 101), ("/?x", 101),
    ("/mqtt/", 404), ("/MQTT", 404), ("/other", 404), ("/other?/mqtt", 404), ("//mqtt", 404),
])  # fmt: skip
def test_only_its_paths_are_served(wire, target, status):
    assert wire(scheme="ws", upgrade=False).upgrade(target, "127.0.0.1").startswith(b"HTTP/1.1 %d " % status)


@pytest.mark.parametrize("by_hook", [False, True], ids=["another version", "a hook"])
def test_a_426_names_the_required_protocol(start, wire, by_hook):
    """Spec: RFC 6455 §4.4, RFC 9110 §15.5.22"""
    peer = wire(start(on_upgrade=lambda peer: Rejection(426)), "ws", upgrade=False)
    if by_hook:
        answer = peer.upgrade("/mqtt", "x")
    else:
        peer.socket.sendall(
            b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = peer.rest()
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" in answer


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"], ids=["incomplete", "not answered yet"])
def test_the_bytes_of_upgrades_count_for_max_pending_bytes(start, wire, client, end):
    async def never(peer):
        if "x" in dict(peer.headers):
            await asyncio.Event().wait()

    broker = start(on_upgrade=never, limits=Limits(max_pending_bytes=100_000, connect_timeout=600))
    request = (
        b"GET /mqtt HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Sec-WebSocket-Protocol: mqtt\r\nX: "
    ).ljust(15_000, b"x")
    hogs = [wire(broker, "ws", upgrade=False) for _ in range(10)]
    wait_until(lambda: len(broker._hub.admission) == len(hogs))
    for hog in hogs:
        hog.socket.sendall(request + end)
    wait_until(lambda: len(broker._hub.admission) == 100_000 // len(request))
    client("c", broker, "ws").quiet()


def test_the_paths_are_configurable(start, wire):
    broker = start(paths=["/a", "/b"])
    assert broker.url.endswith("/a")
    assert wire(broker, "ws", upgrade=False).upgrade("/b", "x").startswith(b"HTTP/1.1 101 ")
    assert wire(broker, "ws", upgrade=False).upgrade("/mqtt", "x").startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1:3000", 101), ("http://evil.example", 403), ("null", 403), ("https://app.example", 101)],
)
def test_a_page_of_another_host_is_refused(start, wire, caplog, origin, status):
    broker = start(allowed_origins=["https://app.example"])
    peer = wire(broker, "ws", upgrade=False)
    answer = peer.upgrade("/mqtt", "127.0.0.1:8083", (f"Origin: {origin}",))
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    if status == 403:
        assert "upgrade rejected with 403" in caplog.text


@pytest.mark.parametrize(
    ("origin", "host", "local", "allowed", "fine"),
    [
        (None, "evil.example", "127.0.0.1", (), True),
        ("http://localhost", "localhost:8083", "127.0.0.1", (), True),
        ("http://LOCALHOST:3000", "localhost:8083", "127.0.0.1", (), True),
        ("http://app.localhost", "app.localhost:8083", "127.0.0.1", (), True),
        ("http://[::1]:3000", "[::1]:8083", "::1", (), True),
        ("http://localhost", "127.0.0.1:8083", "127.0.0.1", (), False),
        ("http://evil.example", "localhost:8083", "127.0.0.1", (), False),
        ("http://localhost.evil.example", "localhost:8083", "127.0.0.1", (), False),
        ("http://evil.example", "evil.example:8083", "127.0.0.1", (), False),  # DNS rebinding
        ("http://evil.example", "evil.example:8083", "127.0.0.1", ("http://evil.example",), True),
        ("http://evil.example/", "x", "127.0.0.1", ("http://evil.example",), True),
        ("https://mq.example", "mq.example", "192.0.2.1", (), True),
        ("https://mq.example.", "mq.example", "192.0.2.1", (), True),
        ("https://www.mq.example", "mq.example", "192.0.2.1", (), False),
        ("https://x", "mq.example", "192.0.2.1", ("*",), True),
        ("null", "mq.example", "192.0.2.1", (), False),
        ("null", "mq.example", "192.0.2.1", ("null",), True),
        ("file://", "mq.example", "192.0.2.1", (), False),
        ("file://", "mq.example", "192.0.2.1", ("file://",), True),
        ("", "", "192.0.2.1", (), False),
        ("http://[", "[", "192.0.2.1", (), False),
    ],
)
def test_origins(origin, host, local, allowed, fine):
    peer = Peer("ws", ("192.0.2.7", 1), (local, 8083))
    peer.headers = (("host", host), *((("origin", origin),) if origin is not None else ()))
    assert (objection_to_origin(peer, allowed) is None) is fine


def test_two_origins_are_refused():
    peer = Peer("ws", ("192.0.2.7", 1), ("192.0.2.1", 1))
    peer.headers = (("host", "a"), ("origin", "http://a"), ("origin", "http://b"))
    assert objection_to_origin(peer, ()) == "the upgrade carries more than one Origin"


@pytest.mark.statement("MQTT-6.0.0-1")
def test_a_text_message_closes_with_1003(client):
    watcher = client()
    watcher.subscribe(("#", 0))
    peer = client("c", scheme="ws")
    packet = Publish("a").encode()
    peer.socket.sendall(bytes((0x81, 0x80 | len(packet))) + bytes(4) + packet)
    opcode, payload = peer.frame()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1003)
    watcher.quiet()


@pytest.mark.statement("MQTT-6.0.0-2")
def test_packets_may_be_split_and_joined_in_every_way(client):
    watcher = client()
    watcher.subscribe(("#", 0))
    peer = client("c", scheme="ws")
    packets = Publish("a", b"1").encode() + Publish("b", b"2").encode()
    for byte in packets:  # one message for each byte
        peer.socket.sendall(b"\x82\x81" + bytes(4) + bytes((byte,)))
    peer.send(packets)  # both in one message
    for position, byte in enumerate(packets):  # one message in fragments, with pings between
        first = (0x02 if position == 0 else 0x00) | (0x80 if position == len(packets) - 1 else 0)
        peer.socket.sendall(b"\x89\x80" + bytes(4) + bytes((first, 0x81)) + bytes(4) + bytes((byte,)))
    assert watcher.messages(6) == [Publish("a", b"1"), Publish("b", b"2")] * 3
    assert peer.frame() == (10, b"")


@pytest.mark.statement("MQTT-3.14.4-1")
def test_an_orderly_end_closes_the_websocket_with_1000(client):
    peer = client("c", scheme="ws").send("e0 00")
    opcode, payload = peer.frame()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1000)
    peer.socket.sendall(bytes.fromhex("88 82 00 00 00 00 03 e8"))
    assert peer.socket.recv(100) == b""


@pytest.mark.parametrize("end", ["e0 00", "30 03 00 01 61 30 03 00 01 61 f0 00"], ids=["DISCONNECT", "a violation"])
@pytest.mark.parametrize("stored", [False, True])
def test_the_clients_close_frame_ends_the_connection(start, client, tmp_path, end, stored):
    """The best of ten, because the machine may be busy. A client that sends no close frame is closed after 5 s."""
    store = mqttws.SQLiteStore(tmp_path / "broker.db") if stored else None
    broker = start(store=store)

    def seconds(number: int) -> float:
        peer = client(f"{number}", broker, "ws")
        peer.send(end)
        while (frame := peer.frame())[0] != 8:
            pass
        begun = time.monotonic()
        peer.socket.sendall(b"\x88\x82\0\0\0\0" + frame[1][:2])
        assert peer.socket.recv(100) == b""
        return time.monotonic() - begun

    with store or nullcontext():
        assert any(seconds(number) < 4.0 for number in range(10))
        broker.stop()


def test_stopping_the_broker_closes_with_1001(start, client):
    broker = start()
    peer = client("c", broker, "ws")
    broker.stop()
    opcode, payload = peer.frame()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (8, 1001)


@pytest.mark.parametrize(
    "request_head",
    [
        b"GET /mqtt?X-Amz-Signature=5ecre7 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /mqtt?X-Amz-Signature=5ecre7 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
        b"GET /mqtt?X-Amz-Signature=5ecre7 HTTP/1.1\r\nHost: x\r\nbad header 5ecre7\r\n\r\n",
        b"GET /mqtt?5ecre7\x01 HTTP/1.1\r\n\r\n",
        b"GET /mqtt?5ecre7 HTTP/9\r\n\r\n",
        b"GET /mqtt?5ecre7 HTTP/1.1\r\nHost: x\r\nHost: 5ecre7\r\n\r\n",
        b"5ecre7\r\n\r\n",
        b"GET /mqtt HTTP/1.1\r\nHost: x\r\nX-Token: 5ecre7" + b"x" * 20_000,
    ],
)
def test_an_invalid_upgrade_is_refused_without_repeating_its_content(start, wire, caplog, request_head):
    caplog.set_level("DEBUG")
    broker = start()
    peer = wire(broker, "ws", upgrade=False)
    peer.socket.sendall(request_head)
    answer = peer.rest()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    broker.stop()
    assert b"5ecre7" not in answer
    assert "5ecre7" not in caplog.text


# TLS


@pytest.mark.parametrize("scheme", ["wss", "mqtts"])
def test_tls_on_both_listeners(start, pem, server_tls, scheme):
    seen: list[tuple[object, ...]] = []

    def connected(peer: Peer) -> None:
        subject = peer.tls.getpeercert()["subject"]
        seen.append((peer.scheme, peer.tls.selected_alpn_protocol(), subject))

    server_tls.verify_mode = ssl.CERT_REQUIRED
    server_tls.load_verify_locations(pem)
    server_tls.set_alpn_protocols(["x-amzn-mqtt-ca"])
    broker = start(wss_port=0, mqtts_port=0, tls=server_tls, on_connected=connected)
    assert [url.partition(":")[0] for url in broker.urls] == ["ws", "wss", "mqtt", "mqtts"]
    tls = mqttws.tls_context(ca_file=pem, certificate=pem, alpn=["x-amzn-mqtt-ca"])
    with mqttws.connect(broker.url_of(scheme), tls=tls) as client:
        assert client.subscribe("a", 1) == 1
        client.publish("a", bytes(500_000), 1)
        assert len(next(client.messages(timeout=PATIENCE)).payload) == 500_000
    assert seen == [(scheme, "x-amzn-mqtt-ca", ((("commonName", "device"),),))]


def test_a_failed_or_missing_tls_handshake_leaks_nothing(start, pem, server_tls, caplog):
    broker = start(mqtts_port=0, tls=server_tls, limits=Limits(connect_timeout=0.3, max_connections=2))
    url = broker.url_of("mqtts")
    for said in (b"no TLS at all", Connect().encode(), b"", bytes.fromhex("16 03 01 02 00 01")):
        with Wire(url) as peer:
            peer.socket.sendall(said)
            peer.rest()
    broker._hub.limits = Limits(max_connections=2)  # its time is enough for a handshake on a busy machine
    with mqttws.connect(url, tls=mqttws.tls_context(ca_file=pem)) as client:
        client.publish("a", b"", 1)
    broker.stop()
    assert caplog.text.count("the TLS handshake failed") == 4


def test_connections_in_their_tls_handshake_count(start, pem, server_tls):
    broker = start(mqtts_port=0, tls=server_tls, limits=Limits(max_connections=1))
    with Wire(broker.url_of("mqtts")) as idle, Wire(broker.url_of("mqtts")) as later:
        assert idle.rest() == b""  # the oldest one is closed
        broker.stop()
        assert later.rest() == b""


def test_a_connect_sent_with_the_end_of_the_tls_handshake_is_processed(start, pem, server_tls):
    """Bytes received together with the end of the handshake are not lost."""
    broker = start(mqtts_port=0, tls=server_tls)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context(cafile=pem).wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with socket.create_connection(("127.0.0.1", broker._ports["mqtts"]), PATIENCE) as raw:

        def read() -> None:
            data = raw.recv(65536)
            assert data, "the broker closed the connection"
            incoming.write(data)

        while True:
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                raw.sendall(outgoing.read())
                read()
        tls.write(Connect("c").encode())
        raw.sendall(outgoing.read())  # Finished and CONNECT together
        got = b""
        while len(got) < 4:
            try:
                got += tls.read(4)
            except ssl.SSLWantReadError:
                read()
        assert got == bytes.fromhex("20 02 00 00")


@pytest.mark.parametrize(
    "options", [{"wss_port": 0}, {"mqtts_port": 0}, {"tls": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}]
)
def test_tls_and_tls_ports_require_each_other(options):
    with pytest.raises(ValueError, match="wss_port and mqtts_port need tls, and tls needs one of them"):
        Broker(**options)
