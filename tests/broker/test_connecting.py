"""CONNECT and CONNACK at the server. Literals are bytes on the wire."""

from __future__ import annotations

import string
import time

import pytest
from drivers import wait_until
from hypothesis import example, given
from hypothesis import strategies as st
from wire import PATIENCE, Wire

from mqttws import ConnAck, Connect, Message, PingReq, Publish, Subscribe
from mqttws.broker import Broker, Limits, Refused

#                 type len  "MQTT"           level flags keep alive  client id "c"
CONNECT = bytes.fromhex("10 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 63")


@pytest.mark.statement("MQTT-3.1.4-4")
@pytest.mark.statement("MQTT-3.2.0-1")
@pytest.mark.statement("MQTT-3.2.2-3")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_a_valid_connect_is_answered_first_by_connack_0(wire, scheme):
    # CONNECT, PINGREQ and SUBSCRIBE in one piece
    peer = wire(scheme=scheme).send(CONNECT, "c0 00", "82 06 00 01 00 01 61 00")
    peer.expect("20 02 00 00", "d0 00", "90 03 00 01 00")


@pytest.mark.statement("MQTT-3.1.0-1")
@pytest.mark.parametrize(
    "first",
    [
        "30 03 00 01 61",  # PUBLISH
        "40 02 00 01",  # PUBACK
        "82 06 00 01 00 01 61 00",  # SUBSCRIBE
        "a2 05 00 01 00 01 61",  # UNSUBSCRIBE
        "c0 00",  # PINGREQ
        "e0 00",  # DISCONNECT
        "20 02 00 00",  # CONNACK
    ],
)
def test_anything_before_connect_is_closed_without_an_answer(wire, first):
    assert wire().send(first, CONNECT).rest() == b""


@pytest.mark.statement("MQTT-3.1.0-2")
@pytest.mark.statement("MQTT-3.1.2-8")
@pytest.mark.parametrize("pipelined", [True, False])
def test_a_second_connect_ends_the_connection_and_publishes_the_will(client, wire, pipelined):
    watcher = client()
    watcher.subscribe(("w", 0))
    connect = Connect("c", will=Message("w", b"gone"))
    peer = wire()
    if pipelined:
        assert peer.send(connect, connect).rest() == ConnAck(0).encode()
    else:
        assert peer.connect("c", will=connect.will).send(connect).rest() == b""
    assert watcher.messages(1) == [Publish("w", b"gone")]


@pytest.mark.statement("MQTT-3.1.2-1")
@pytest.mark.parametrize("name", ["00 04 6d 71 74 74", "00 00", "00 05 4d 51 54 54 58", "00 03 4d 51 54"])
def test_another_protocol_is_never_served(wire, name):
    rest = bytes.fromhex(name + "04 02 00 3c 00 01 63")
    assert wire().send(bytes((0x10, len(rest))), rest).rest() == b""


@pytest.mark.statement("MQTT-3.1.2-2")
@pytest.mark.statement("MQTT-3.2.2-5")
@pytest.mark.parametrize("level", [0, 1, 2, 3, 6, 255])
def test_another_protocol_level_gets_return_code_1(wire, level):
    connect = bytearray(CONNECT)
    connect[8] = level
    assert wire().send(bytes(connect), "c0 00").rest() == bytes.fromhex("20 02 00 01")


def test_a_client_of_mqtt_5_gets_a_connack_of_mqtt_5(wire):
    """CONNACK of MQTT 5: flags 0, reason code 0x84 (Unsupported Protocol Version), no properties."""
    #                  len "MQTT"         level, flags, keep alive, no properties, len "c"
    connect = "10 0e 00 04 4d 51 54 54 05 02 00 3c 00 00 01 63"
    assert wire().send(connect).rest() == bytes.fromhex("20 03 00 84 00")


MQTT_3_1 = "00 06 4d 51 49 73 64 70 03"  # len "MQIsdp", level


@pytest.mark.parametrize("first", ["10", "11", "18", "1f"])
@pytest.mark.parametrize("flags", ["02", "03"])
def test_bits_that_mqtt_3_1_does_not_use_are_ignored(wire, first, flags):
    peer = wire().send(first, "0f", MQTT_3_1, flags, "00 3c 00 01 63")
    peer.expect("20 02 00 00")
    peer.send("c1 00").expect("d0 00")  # PINGREQ
    peer.send("8b 06 00 01 00 01 61 fd").expect("90 03 00 01 01")  # SUBSCRIBE with DUP, RETAIN and bits beside the QoS
    peer.send("34 06 00 01 61 00 02 78").expect("50 02 00 02", "32 06 00 01 61 00 01 78")
    peer.send("4f 02 00 01")  # PUBACK
    peer.send("6a 02 00 02").expect("70 02 00 02")  # PUBREL with DUP
    peer.send("aa 05 00 03 00 01 61").expect("b0 02 00 03")  # UNSUBSCRIBE with DUP
    assert peer.send("e1 00").rest() == b""  # DISCONNECT


def test_mqtt_3_1_1_uses_these_bits(wire):
    """The same first bytes are malformed at level 4."""
    for malformed in ("c1 00", "8b 06 00 01 00 01 61 01", "6a 02 00 02", "82 06 00 01 00 01 61 fd"):
        peer = wire().connect("c")
        assert peer.send(malformed).rest() == b""


def test_the_byte_of_session_present_is_reserved_in_mqtt_3_1(wire):
    for _ in range(2):
        peer = wire().send("10 0f", MQTT_3_1, "00 00 3c 00 01 63")
        peer.expect("20 02 00 00")
        peer.send("e0 00").rest()
    assert wire().send("10 0d 00 04 4d 51 54 54 04 00 00 3c 00 01 63").receive() == ConnAck(0, True)


@pytest.mark.parametrize("flags", ["00", "02"])
def test_mqtt_3_1_has_no_empty_client_identifier(wire, flags):
    assert wire().send("10 0e", MQTT_3_1, flags, "00 3c 00 00").rest() == bytes.fromhex("20 02 00 02")


def test_mqtt_3_1_is_served(wire):
    #            len "MQIsdp"                level
    peer = wire().send("10 0f 00 06 4d 51 49 73 64 70 03 02 00 3c 00 01 63")
    peer.expect("20 02 00 00")


@pytest.mark.statement("MQTT-3.1.2-3")
@pytest.mark.statement("MQTT-3.1.4-1")
@pytest.mark.parametrize("flags", [0x03, 0x01, 0x42, 0x0A, 0x22, 0x1E])
def test_invalid_flags_close_the_connection_without_an_answer(wire, flags):
    connect = bytearray(CONNECT)
    connect[9] = flags
    assert wire().send(bytes(connect)).rest() == b""


@pytest.mark.statement("MQTT-3.1.4-1")
def test_every_truncation_of_a_connect_is_closed_without_an_answer(broker):
    full = Connect("client", will=Message("w", b"m"), username="u", password=b"p").encode()
    for size in range(1, len(full) - 2):
        with Wire(broker.url_of("mqtt")) as peer:
            assert peer.send(bytes((0x10, size)), full[2 : 2 + size]).rest() == b""


@pytest.mark.statement("MQTT-3.1.3-5")
@given(client_id=st.text(string.ascii_letters + string.digits, min_size=1, max_size=23))
@example(client_id="0123456789abcdefghijklm")
@example(client_id="nopqrstuvwxyzABCDEFGHIJ")
@example(client_id="KLMNOPQRSTUVWXYZ")
def test_every_plain_client_id_is_accepted(running, client_id):
    with Wire(running.url_of("mqtt")) as peer:
        peer.connect(client_id)


@pytest.fixture(scope="module")
def running():
    with Broker() as broker:
        yield broker


@pytest.mark.statement("MQTT-3.1.3-6")
def test_each_empty_client_id_gets_a_unique_one(start, client):
    seen = []
    broker = start(on_connected=lambda peer: seen.append(peer.client_id))
    first, second = client("", broker), client("", broker)
    first.quiet()
    second.quiet()
    assert len(set(seen)) == 2
    assert all(seen)


@pytest.mark.statement("MQTT-3.1.3-8")
@pytest.mark.statement("MQTT-3.2.2-5")
def test_an_empty_client_id_without_a_clean_session_gets_return_code_2(wire):
    assert wire().send("10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00").rest() == bytes.fromhex("20 02 00 02")


@pytest.mark.statement("MQTT-3.1.3-9")
def test_a_refused_client_id_gets_return_code_2(start, wire):
    broker = start(limits=Limits(max_client_id_bytes=8))
    assert wire(broker).send(Connect("123456789")).rest() == bytes.fromhex("20 02 00 02")
    assert wire(broker).send(Connect("a\nb")).rest() == bytes.fromhex("20 02 00 02")


@pytest.mark.statement("MQTT-3.1.4-5")
@pytest.mark.statement("MQTT-3.2.2-4")
@pytest.mark.statement("MQTT-3.2.2-5")
@pytest.mark.parametrize("return_code", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_packets_after_a_refused_connect_are_ignored(start, wire, client, return_code, scheme):
    broker = start(authenticator=lambda peer, connect: connect.client_id != "bad" or Refused(return_code))
    with client("bad-too", broker, clean_session=False):  # creates a session
        pass
    watcher = client("good", broker)
    watcher.subscribe(("#", 0))
    peer = wire(broker, scheme)
    peer.send(Connect("bad", clean_session=False), Publish("a", b"x"), Subscribe(1, [("a", 0)]), PingReq())
    assert peer.rest() == bytes((0x20, 2, 0, return_code))
    watcher.quiet()


@pytest.mark.statement("MQTT-3.2.2-6")
def test_an_error_in_authentication_closes_without_a_connack(start, wire, client):
    def authenticator(peer, connect):
        if connect.client_id == "bad":
            raise LookupError("the directory is down")
        return True

    broker = start(authenticator=authenticator)
    other = client("good", broker)
    assert wire(broker).send(Connect("bad")).rest() == b""
    other.quiet()


@pytest.mark.statement("MQTT-3.2.2-1")
@pytest.mark.statement("MQTT-3.2.2-2")
@pytest.mark.statement("MQTT-3.2.2-3")
@pytest.mark.statement("MQTT-3.1.2-6")
@pytest.mark.statement("MQTT-3.1.4-3")
def test_session_present_reports_an_existing_session(client):
    for clean_session, expected in [(False, False), (False, True), (True, False), (True, False), (False, False)]:
        with client("c", clean_session=clean_session) as peer:
            assert peer.session_present is expected
            assert peer.subscribe(("a", 1)) == (1,)
            assert peer.send("e0 00").rest() == b""


@pytest.mark.statement("MQTT-3.1.2-24")
@pytest.mark.statement("MQTT-3.1.2-8")
def test_the_keep_alive_timeout_ends_the_connection(client):
    watcher = client(keep_alive=0)
    watcher.subscribe(("w", 0))
    began = time.monotonic()
    peer = client("c", keep_alive=1, will=Message("w", b"silent"))
    assert peer.rest() == b""
    assert time.monotonic() - began >= 1.5
    assert watcher.messages(1) == [Publish("w", b"silent")]


@pytest.mark.statement("U-1")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
@pytest.mark.parametrize("said", [b"", b"\x10"])
def test_a_client_that_does_not_connect_is_dropped(start, wire, scheme, said):
    broker = start(limits=Limits(connect_timeout=PATIENCE))
    peer = wire(broker, scheme)
    if said:
        peer.send(said)
    hub = broker._hub
    wait_until(lambda: hub.admission.all)
    (link,) = hub.admission.all

    def pass_time() -> None:
        hub.now = lambda: hub.loop.time() + PATIENCE
        link._on_timer()

    hub.loop.call_soon_threadsafe(pass_time)
    assert peer.rest() == b""


def test_a_connection_without_an_upgrade_request_is_dropped(start, wire):
    peer = wire(start(limits=Limits(connect_timeout=0.2)), "ws", upgrade=False)
    peer.socket.sendall(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n")
    assert peer.rest() == b""


@pytest.mark.statement("MQTT-3.12.4-1")
def test_pingreqs_are_answered_one_for_one(client):
    peer = client()
    peer.send(*[PingReq()] * 5000)
    peer.expect(*["d0 00"] * 5000)


@pytest.mark.statement("MQTT-4.8.0-1")
@pytest.mark.parametrize(
    "bad",
    [
        "36 03 00 01 61",  # QoS 3
        "30 03 00 01 2b",  # topic "+"
        "30 03 00 01 00",  # U+0000
        "30 02 00 00",  # an empty topic
        "32 05 00 01 61 00 00",  # packet identifier 0
        "80 06 00 01 00 01 61 00",  # flags of SUBSCRIBE
        "82 06 00 01 00 01 61 03",  # QoS 3 requested
        "82 02 00 01",  # no Topic Filter
        "82 07 00 01 00 02 61 23 00",  # "a#"
        "a2 02 00 01",  # no Topic Filter
        "60 02 00 01",  # flags of PUBREL
        "e1 00",  # flags of DISCONNECT
        "e0 01 00",  # DISCONNECT with a body
        "f0 00",  # reserved
        "d0 00",  # a server's packet
        "90 03 00 01 00",  # a server's packet
        "30 ff ff ff ff 01",  # a remaining length of five bytes
    ],
)
def test_a_protocol_violation_closes_only_its_connection(client, bad):
    other = client("other")
    other.subscribe(("#", 0))
    peer = client("c", will=Message("w", b"violated"))
    assert peer.send(bad, Publish("after", b"")).rest() == b""
    assert other.messages(1) == [Publish("w", b"violated")]
    other.quiet()


@pytest.mark.parametrize(
    ("flags", "rest"),
    [
        ("82", ""),  # a user name is announced and missing
        ("c2", ""),  # and a password
        ("c2", "00 01 75"),  # the password is missing
        ("0a", ""),  # a will QoS without a will, whose value is disregarded
        ("22", ""),  # a will retain without a will
    ],
)
def test_what_a_connect_of_mqtt_3_1_may_lack_or_set_in_vain(wire, flags, rest):
    """MQTT 3.1 §3.1: the remaining length takes precedence over the flags of the user name and the password."""
    peer = wire().send(f"10 {15 + len(bytes.fromhex(rest)):02x}", MQTT_3_1, flags, "00 3c 00 01 63", rest)
    peer.expect("20 02 00 00")
    peer.quiet()


@pytest.mark.parametrize("rest", ["00", "00 02 75"])
def test_a_string_that_is_cut_short_is_malformed_in_mqtt_3_1(wire, rest):
    size = 15 + len(bytes.fromhex(rest))
    assert wire().send(f"10 {size:02x}", MQTT_3_1, "82 00 3c 00 01 63", rest).rest() == b""


def test_a_client_of_mqtt_3_1_gets_a_positive_suback(start, wire):
    """MQTT 3.1 §3.8: the server has no way of informing it, and must acknowledge positively."""
    broker = start(authorizer=lambda peer, access: access.topic != "no")
    peer = wire(broker).send("10 0f", MQTT_3_1, "02 00 3c 00 01 63")
    peer.expect("20 02 00 00")
    peer.send("82 0b 00 01 00 02 6e 6f 01 00 01 61 01").expect("90 04 00 01 00 01")
    broker.publish("no", b"x")
    peer.quiet()
