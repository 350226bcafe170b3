"""Published vulnerabilities of clients and libraries: the same input is harmless here."""

from __future__ import annotations

import hmac
import ssl
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest

import mqttws
from mqttws import Connect, MalformedPacket, PingReq, PingResp, RemoteProtocolError
from mqttws.broker import users
from mqttws.client.tls import tls_context
from mqttws.testing import Pair
from pubsub.aws.local.policy import Authorizer, ConnectionContext, PolicyDocument


def test_cve_2024_10525_libmosquitto_a_suback_without_codes_is_read_beyond_its_end():
    pair = Pair(Connect("c")).open()
    pair.client.machine.receive_data(bytes.fromhex("90 02 00 01"), 0.0)
    assert isinstance(pair.client.machine.error, MalformedPacket)


def test_cve_2016_10523_mqtt_packet_a_crafted_packet_ends_the_process():
    """Any packet that cannot be decoded is an error of the connection."""
    for crafted in ("f0 00", "00 00", "36 05 00 01 61 00 01", "30 00", "90 01 00"):
        pair = Pair(Connect("c")).open()
        pair.client.machine.receive_data(bytes.fromhex(crafted), 0.0)
        assert isinstance(pair.client.machine.error, RemoteProtocolError)


def test_cve_2019_11777_paho_java_the_name_of_the_host_is_not_verified():
    context = tls_context()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_cve_2018_1000518_websockets_a_small_compressed_message_becomes_a_large_one(start, wire):
    """Compression is never negotiated, and a compressed frame (RSV1 set: C2) closes the connection."""
    broker = start()
    peer = wire(broker, "ws", headers=("Sec-WebSocket-Extensions: permessage-deflate",))
    assert b"extensions" not in peer.head.lower()
    peer.socket.sendall(b"\xc2\x82\0\0\0\0\x4b\x04")
    opcode, payload = peer.frame()
    assert (opcode, payload[:2]) == (8, b"\x03\xea")  # 1002, a protocol error


def test_cve_2016_10542_ws_a_message_has_no_bound(start, wire):
    """A frame of 2**62 bytes is announced: no memory is reserved, and its bytes are processed as they arrive."""
    peer = wire(start(), "ws")
    peer.socket.sendall(b"\x82\xff" + (1 << 62).to_bytes(8, "big") + bytes(4) + b"\x30\xff\xff\xff\x7f")
    assert peer.frame()[0] == 8


def test_cve_2024_37890_ws_a_request_of_many_headers_ends_the_process(start, wire):
    answer = wire(start(), "ws", upgrade=False).upgrade("/mqtt", "127.0.0.1", ("X: 1",) * 2_000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_cve_2021_33880_websockets_the_time_of_an_answer_tells_how_much_of_a_password_is_right(monkeypatch):
    compared = []
    monkeypatch.setattr(hmac, "compare_digest", lambda one, other: compared.append((one, other)) or one == other)
    file = users.Users({"ann": users.hash_password("right")})
    assert file.check("ann", b"right")
    assert not file.check("ann", b"righx")
    assert not file.check("unknown", b"right")
    assert len(compared) == 3


@pytest.mark.parametrize("ending", [b"\r\n", b"xx", b"\n\n"])
def test_cve_2025_43859_h11_the_end_of_a_chunk_may_be_anything(start, wire, ending):
    """A proxy may see another request there. The minimum version of h11 is strict, and an upgrade has no body."""
    assert tuple(map(int, version("h11").split(".")[:2])) >= (0, 16)
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert "h11>=0.16,<1" in project["dependencies"]
    peer = wire(start(), "ws", upgrade=False)
    peer.socket.sendall(
        b"GET /mqtt HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc" + ending + b"0\r\n\r\n"
    )
    assert peer.rest().startswith(b"HTTP/1.1 400 ")


def test_cve_2026_44248_netty_a_part_of_a_message_beyond_the_bound_is_gathered_before_it_is_refused():
    """There the properties of MQTT 5, before the bound was applied. Here the fixed header is refused."""
    decoder = mqttws.Decoder(max_packet_size=1_000)
    with pytest.raises(MalformedPacket, match="maximum here is 1,000"):
        decoder.feed(bytes.fromhex("82 e9 07"))


def test_cve_2026_59881_aiohttp_the_client_takes_compressed_frames_that_were_not_negotiated():
    pair = Pair(Connect("c")).open()
    pair.client.receive_data(bytes.fromhex("c2 04 4b 04 00 00"), 0.0)
    assert isinstance(pair.client.machine.error, RemoteProtocolError)


def test_cve_2026_54274_aiohttp_a_frame_that_never_ends_is_gathered(start, wire):
    """The bound was checked when the frame was complete. Here a packet is answered before the rest of 1 GiB arrives."""
    peer = wire(start(), "ws")
    peer.connect("c")
    peer.socket.sendall(b"\x82\xff" + (1 << 30).to_bytes(8, "big") + bytes(4) + PingReq().encode())
    assert peer.receive() == PingResp()
    peer.socket.sendall(bytes.fromhex("30 ff ff ff 7f"))  # a packet of which nothing is buffered
    assert peer.frame()[0] == 8


def test_cve_2026_34525_aiohttp_of_two_hosts_a_proxy_and_the_server_choose_different_ones(start, wire):
    answer = wire(start(), "ws", upgrade=False).upgrade("/mqtt", "127.0.0.1", ("Host: other.example",))
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_cve_2025_58367_deepdiff_names_of_attributes_reach_an_object(start, wire, caplog):
    """Class pollution: "__class__" in a path was resolved. Here such names, and format strings, are only text."""
    broker = start(authorizer=lambda peer, access: not access.topic.startswith("{denied"))
    peer = wire(broker).connect("__class__", username="__globals__")
    for topic in ("__class__/__init__", "__class__.__init__.__globals__", "__proto__", "constructor/prototype"):
        assert peer.subscribe((topic, 0)) == (0,)
        broker.publish(topic, b"x", retain=True)
        assert peer.messages(1)[0].topic == topic
    denied = "{denied.__class__.__mro__} %s %(x)s %n"
    assert peer.subscribe((denied, 0)) == (0x80,)
    assert f"SUBSCRIBE to {denied!r} denied" in caplog.text


@pytest.mark.parametrize(
    "variable", ["iot:__class__", "iot:ClientId.__class__", "__class__", "iot:Connection.Thing.__dict__"]
)
def test_cve_2025_58367_deepdiff_names_of_attributes_reach_an_object_in_a_rule(variable):
    """A variable of that name has no value, and allows nothing."""
    arn = "arn:aws:iot:eu-west-1:123456789012:topic/"

    def may(*statements):
        document = PolicyDocument.parse({"Version": "2012-10-17", "Statement": list(statements)}, name="p")
        return Authorizer(
            ConnectionContext(client_id="c", region="eu-west-1", account_id="123456789012"), iot=[document]
        ).publish("a/str")

    def statement(effect, resource):
        return {"Effect": effect, "Action": "iot:Publish", "Resource": resource}

    assert may(statement("Allow", "*"))
    assert not may(statement("Allow", f"{arn}a/${{{variable}}}"))
