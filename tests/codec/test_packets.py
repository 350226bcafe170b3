"""The fourteen control packets: annotated literals in both directions, and each rule violated separately."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import packet_strategies as some
import pytest
from hypothesis import given

from mqttws import (
    ConnAck,
    Connect,
    Decoder,
    Disconnect,
    IllFormedText,
    LocalProtocolError,
    MalformedPacket,
    Message,
    Packet,
    PingReq,
    PingResp,
    PubAck,
    PubComp,
    Publish,
    PubRec,
    PubRel,
    SubAck,
    Subscribe,
    UnsubAck,
    Unsubscribe,
    compiled,
)
from mqttws.codec.packets import PACKETS, clear_unused_bits, decode
from mqttws.codec.publishing import encode_publish

#: (annotated bytes in hexadecimal, the packet)
LITERALS = [
    # CONNECT §3.1: name, level, flags, keep alive, payload
    ("10 0c  0004 4d515454  04 02 003c  0000", Connect()),
    ("10 0d  0004 4d515454  04 00 000a  0001 61", Connect("a", clean_session=False, keep_alive=10)),
    ("10 0e  0006 4d5149736470  03 02 003c  0000", Connect(protocol_level=3)),
    (
        # user name, password, will retain, will QoS 2, will, clean session
        "10 20  0004 4d515454  04 f6 ffff  0002 6964  0003 772f74  0002 00ff  0002 c3bc  0003 70 00 77",
        Connect("id", True, 65_535, Message("w/t", b"\x00\xff", 2, True), "ü", b"p\0w"),
    ),
    ("10 10  0004 4d515454  04 82 0000  0000  0002 7573", Connect(keep_alive=0, username="us")),
    ("10 10  0004 4d515454  04 c2 003c  0000  0000  0000", Connect(username="", password=b"")),
    ("10 11  0004 4d515454  04 0e 003c  0000  0001 77  0000", Connect(will=Message("w", b"", 1))),
    ("10 11  0004 4d515454  04 26 003c  0000  0001 77  0000", Connect(will=Message("w", b"", 0, True))),
    # CONNACK §3.2: session present, return code
    ("20 02  00 00", ConnAck()),
    ("20 02  01 00", ConnAck(0, session_present=True)),
    *((f"20 02  00 0{code}", ConnAck(code)) for code in range(1, 6)),
    # PUBLISH §3.3: topic, (packet id), payload
    ("30 03  0001 61", Publish("a")),
    ("31 05  0001 61  0001", Publish("a", b"\x00\x01", retain=True)),  # resembles an identifier, but is payload
    ("32 05  0001 61  0001", Publish("a", qos=1, packet_id=1)),
    ("3a 06  0001 61  ffff  2a", Publish("a", b"*", qos=1, dup=True, packet_id=65_535)),
    ("3d 07  0001 61  1234  6869", Publish("a", b"hi", 2, True, True, 0x1234)),
    ("30 05  0003 efbbbf", Publish("\ufeff")),  # [MQTT-1.5.3-3]
    ("30 80 01  0001 61" + "78" * 125, Publish("a", b"x" * 125)),
    # The acknowledgements, §3.4 to §3.7, §3.11
    ("40 02  1234", PubAck(0x1234)),
    ("50 02  0001", PubRec(1)),
    ("62 02  0001", PubRel(1)),
    ("70 02  ffff", PubComp(65_535)),
    ("b0 02  0100", UnsubAck(256)),
    # SUBSCRIBE §3.8: packet id, then filter and QoS
    ("82 06  0001  0001 61 00", Subscribe(1, [("a", 0)])),
    ("82 0e  00ff  0003 612f23 01  0003 2b2f62 02", Subscribe(255, [("a/#", 1), ("+/b", 2)])),
    # SUBACK §3.9: packet id, return codes
    ("90 06  0001  00 01 02 80", SubAck(1, [0, 1, 2, 0x80])),
    # UNSUBSCRIBE §3.10: packet id, filters
    ("a2 08  0001  0001 61  0001 23", Unsubscribe(1, ["a", "#"])),
    # §3.12 to §3.14
    ("c0 00", PingReq()),
    ("d0 00", PingResp()),
    ("e0 00", Disconnect()),
]


def split(literal: bytes) -> tuple[int, bytes]:
    """Return the first byte and the body of a packet of less than 16 KiB."""
    return literal[0], literal[2:] if literal[1] < 128 else literal[3:]


@pytest.mark.parametrize(("literal", "packet"), LITERALS, ids=[literal[:40] for literal, _ in LITERALS])
@pytest.mark.statement("MQTT-2.2.2-1")
@pytest.mark.statement("MQTT-2.3.1-5")
@pytest.mark.statement("MQTT-3.1.3-1")
def test_literals_both_ways(literal: str, packet: Packet) -> None:
    data = bytes.fromhex(literal)
    assert packet.encode() == data
    assert decode(*split(data)) == packet
    assert Decoder().feed(data) == [packet]


def test_every_packet_has_a_literal() -> None:
    assert {type(packet) for _, packet in LITERALS} == set(PACKETS.values())
    assert sorted(PACKETS) == list(range(1, 15))


@given(some.packets)
def test_decode_undoes_encode(packet: Packet) -> None:
    data = packet.encode()
    start = 2 if data[1] < 128 else 3
    again = decode(data[0], data[start:])
    assert again == packet
    assert hash(again) == hash(packet)
    assert again.encode() == data


@pytest.mark.statement("MQTT-2.2.2-2")
@pytest.mark.statement("MQTT-3.6.1-1")
@pytest.mark.statement("MQTT-3.8.1-1")
@pytest.mark.statement("MQTT-3.10.1-1")
@pytest.mark.statement("MQTT-3.14.1-1")
@pytest.mark.parametrize("packet_type", range(16))
@pytest.mark.parametrize("flags", range(16))
def test_every_type_with_every_nibble(packet_type: int, flags: int) -> None:
    bodies = {type(packet).type: split(packet.encode())[1] for _, packet in LITERALS}
    first = packet_type << 4 | flags
    body = bodies.get(packet_type, b"")
    if packet_type == 3:
        expected = "MQTT-3.3.1-4" if flags & 6 == 6 else "MQTT-3.3.1-2" if flags & 14 == 8 else None
    elif packet_type in (0, 15):
        expected = "§2.2.1"
    elif packet_type in (6, 8, 10):
        expected = None if flags == 2 else f"MQTT-3.{packet_type}.1-1"
    elif packet_type == 14:
        expected = None if flags == 0 else "MQTT-3.14.1-1"
    else:
        expected = None if flags == 0 else "MQTT-2.2.2-2"
    if expected is None:
        assert decode(first, body).type == packet_type
        return
    with pytest.raises(MalformedPacket) as caught:
        decode(first, body)
    assert caught.value.statement == expected
    assert f"[{expected}]" in str(caught.value)


#: (violated statement, the packet in hexadecimal)
MALFORMED = [
    # CONNECT
    ("MQTT-3.1.2-1", "10 0c  0004 6d717474  04 02 003c  0000"),  # mqtt
    ("MQTT-3.1.2-1", "10 0c  0004 4d515458  04 02 003c  0000"),
    ("MQTT-3.1.2-1", "10 0d  0005 4d51545400  04 02 003c  0000"),
    ("MQTT-3.1.2-1", "10 08  0000  04 02 003c  0000"),
    *(("MQTT-3.1.2-2", f"10 0c  0004 4d515454  {level:02x} 02 003c  0000") for level in (0, 1, 2, 3, 5, 6, 0x84, 255)),
    ("MQTT-3.1.2-2", "10 0e  0006 4d5149736470  04 02 003c  0000"),
    ("MQTT-3.1.2-3", "10 0c  0004 4d515454  04 03 003c  0000"),
    ("MQTT-3.1.2-13", "10 0c  0004 4d515454  04 0a 003c  0000"),
    ("MQTT-3.1.2-13", "10 0c  0004 4d515454  04 12 003c  0000"),
    ("MQTT-3.1.2-13", "10 0c  0004 4d515454  04 1a 003c  0000"),
    ("MQTT-3.1.2-14", "10 11  0004 4d515454  04 1e 003c  0000  0001 77  0000"),
    ("MQTT-3.1.2-15", "10 0c  0004 4d515454  04 22 003c  0000"),
    ("MQTT-3.1.2-22", "10 0e  0004 4d515454  04 42 003c  0000  0000"),
    ("MQTT-3.1.3-8", "10 0c  0004 4d515454  04 00 003c  0000"),
    ("§2.2.3", "10 0a  0004 4d515454  04 02 003c"),  # no client identifier [MQTT-3.1.3-3]
    ("§2.2.3", "10 0c  0004 4d515454  04 06 003c  0000"),  # will flag without a will [MQTT-3.1.2-9]
    ("§2.2.3", "10 0f  0004 4d515454  04 06 003c  0000  0001 77"),  # no will message
    ("§2.2.3", "10 0c  0004 4d515454  04 82 003c  0000"),  # no user name [MQTT-3.1.2-19]
    ("§2.2.3", "10 0e  0004 4d515454  04 c2 003c  0000  0000"),  # no password [MQTT-3.1.2-21]
    ("§2.2.3", "10 0e  0004 4d515454  04 02 003c  0000  0000"),  # a user name too many [MQTT-3.1.2-18]
    ("§2.2.3", "10 10  0004 4d515454  04 82 003c  0000  0000  0000"),  # a password too many [MQTT-3.1.2-20]
    ("MQTT-1.5.3-1", "10 0d  0004 4d515454  04 02 003c  0001 ff"),  # [MQTT-3.1.3-4]
    ("MQTT-1.5.3-2", "10 0d  0004 4d515454  04 02 003c  0001 00"),
    ("MQTT-1.5.3-1", "10 11  0004 4d515454  04 06 003c  0000  0001 c0  0000"),  # [MQTT-3.1.3-10]
    ("MQTT-1.5.3-2", "10 11  0004 4d515454  04 06 003c  0000  0001 00  0000"),
    ("MQTT-4.7.3-1", "10 10  0004 4d515454  04 06 003c  0000  0000  0000"),
    ("MQTT-3.3.2-2", "10 11  0004 4d515454  04 06 003c  0000  0001 23  0000"),
    ("MQTT-1.5.3-1", "10 0f  0004 4d515454  04 82 003c  0000  0001 80"),  # [MQTT-3.1.3-11]
    ("MQTT-1.5.3-2", "10 0f  0004 4d515454  04 82 003c  0000  0001 00"),
    # CONNACK
    ("§3.2.2.1", "20 02  02 00"),
    ("§3.2.2.1", "20 02  80 00"),
    ("§3.2.2.3", "20 02  00 06"),
    ("§3.2.2.3", "20 02  00 ff"),
    ("MQTT-3.2.2-4", "20 02  01 05"),
    ("§2.2.3", "20 01  00"),
    ("§2.2.3", "20 03  00 00 00"),
    # PUBLISH
    ("MQTT-3.3.1-4", "36 05  0001 61  0001"),
    ("MQTT-3.3.1-4", "36 03  0001 61"),
    ("MQTT-3.3.1-2", "38 03  0001 61"),
    ("MQTT-2.3.1-1", "32 05  0001 61  0000"),
    ("MQTT-2.3.1-1", "34 05  0001 61  0000"),
    ("MQTT-4.7.3-1", "30 02  0000"),
    ("MQTT-3.3.2-2", "30 05  0003 612f23"),
    ("MQTT-3.3.2-2", "30 05  0003 2b2f61"),
    ("MQTT-1.5.3-2", "30 05  0003 610061"),
    ("§2.2.3", "30 00"),
    ("§2.2.3", "30 01  00"),
    ("§2.2.3", "30 04  0005 6161"),  # [MQTT-3.3.2-1]
    ("§2.2.3", "32 03  0001 61"),
    ("§2.2.3", "32 04  0001 61  00"),
    *(
        ("MQTT-1.5.3-1", f"30 {2 + len(bytes.fromhex(text)):02x}  00{len(bytes.fromhex(text)):02x} {text}")
        # alone, truncated, overlong, a surrogate, beyond U+10FFFF, CESU-8
        for text in ("80", "c3", "e282", "c0af", "c080", "e080af", "eda080", "f4908080", "fe", "eda081edb080")
    ),
    # The acknowledgements
    *(("MQTT-2.3.1-1", f"{first} 02  0000") for first in ("40", "50", "62", "70", "b0")),
    *(("§2.2.3", f"{first} 03  0001 00") for first in ("40", "50", "62", "70", "b0")),
    *(("§2.2.3", f"{first} 01  01") for first in ("40", "50", "62", "70", "b0")),
    *(("§2.2.3", f"{first} 00") for first in ("40", "50", "62", "70", "b0")),
    # SUBSCRIBE
    ("MQTT-2.3.1-1", "82 06  0000  0001 61 00"),
    ("MQTT-3.8.3-3", "82 02  0001"),
    ("MQTT-3.8.3-4", "82 06  0001  0001 61 03"),
    ("MQTT-3.8.3-4", "82 06  0001  0001 61 80"),
    ("MQTT-4.7.3-1", "82 05  0001  0000 00"),
    ("MQTT-4.7.1-2", "82 08  0001  0003 23 2f61 00"),
    ("MQTT-4.7.1-3", "82 07  0001  0002 612b 00"),
    ("MQTT-1.5.3-1", "82 06  0001  0001 ff 00"),  # [MQTT-3.8.3-1]
    ("MQTT-1.5.3-2", "82 06  0001  0001 00 00"),
    ("§2.2.3", "82 05  0001  0001 61"),
    ("§2.2.3", "82 01  00"),
    # SUBACK
    *(("MQTT-3.9.3-2", f"90 03  0001  {code:02x}") for code in (3, 4, 0x7F, 0x81, 0xFF)),
    ("MQTT-3.8.4-5", "90 02  0001"),
    ("MQTT-2.3.1-1", "90 03  0000  00"),
    ("§2.2.3", "90 01  00"),
    # UNSUBSCRIBE
    ("MQTT-2.3.1-1", "a2 05  0000  0001 61"),
    ("MQTT-3.10.3-2", "a2 02  0001"),
    ("MQTT-1.5.3-1", "a2 05  0001  0001 c3"),  # [MQTT-3.10.3-1]
    ("§2.2.3", "a2 06  0001  0001 61  00"),
    ("MQTT-4.7.1-2", "a2 06  0001  0002 6123"),
    # packets without a body
    ("§2.2.3", "c0 01  00"),
    ("§2.2.3", "d0 01  00"),
    ("§2.2.3", "e0 01  00"),
]


@pytest.mark.parametrize(
    ("statement", "literal"),
    [pytest.param(*case, marks=pytest.mark.statement(case[0]), id=" ".join(case)[:60]) for case in MALFORMED],
)
def test_each_rule_violated_by_the_peer(statement: str, literal: str) -> None:
    data = bytes.fromhex(literal)
    assert data[1] == len(data) - 2, "the literal itself must be complete"
    with pytest.raises(MalformedPacket) as caught:
        decode(*split(data))
    assert caught.value.statement == statement
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(MalformedPacket) as caught:  # the stream decoder, which has separate code
        Decoder().feed(data)
    assert caught.value.statement == statement


#: A packet of MQTT 3.1 with bits set that 3.1 calls unused, and the same packet with these bits cleared.
UNUSED_BITS = [
    ("c1 00", "c0 00"),
    ("ef 00", "e0 00"),
    ("1f 0e  0006 4d5149736470  03 02 003c  0000", "10 0e  0006 4d5149736470  03 02 003c  0000"),
    ("45 02  0001", "40 02  0001"),
    ("6a 02  0001", "62 02  0001"),  # PUBREL with DUP
    ("8a 06  0001  0001 61 fd", "82 06  0001  0001 61 01"),  # SUBSCRIBE with DUP; six bits beside QoS 1
    ("82 0a  0001  0001 61 82  0001 62 00", "82 0a  0001  0001 61 02  0001 62 00"),
    # An UNSUBSCRIBE has no QoS: its first filter is followed by the length of the second, 1,024
    (f"aa 87 08  0001  0001 61  0400 {'62' * 1024}", f"a2 87 08  0001  0001 61  0400 {'62' * 1024}"),
    ("3b 05  0001 61  0001", "3b 05  0001 61  0001"),  # each bit of a PUBLISH has a meaning
    ("30 05  0001 61  fcfc", "30 05  0001 61  fcfc"),
]


@pytest.mark.parametrize(("sent", "cleared"), UNUSED_BITS, ids=[sent[:40] for sent, _ in UNUSED_BITS])
def test_bits_that_mqtt_3_1_does_not_use_are_cleared(sent: str, cleared: str) -> None:
    first, body = clear_unused_bits(*split(bytes.fromhex(sent)))
    assert (first, bytes(body)) == split(bytes.fromhex(cleared))


@pytest.mark.parametrize("first", [0x00, 0x0F, 0xF0, 0xFF])
def test_a_reserved_type_stays_reserved_with_cleared_bits(first: int) -> None:
    decoder = Decoder()
    decoder.lenient = True
    with pytest.raises(MalformedPacket, match="is reserved"):
        decoder.feed(bytes((first, 0)))


#: (violated statement, the call)
FORBIDDEN = [
    ("MQTT-3.1.2-2", lambda: Connect(protocol_level=5)),
    ("MQTT-3.1.3-7", lambda: Connect("", clean_session=False)),
    ("§3.1.2.10", lambda: Connect(keep_alive=-1)),
    ("§3.1.2.10", lambda: Connect(keep_alive=65_536)),
    ("MQTT-3.1.2-22", lambda: Connect(password=b"secret")),
    ("MQTT-1.5.3-1", lambda: Connect("\ud800")),
    ("MQTT-1.5.3-2", lambda: Connect("a\0")),
    ("§1.5.3", lambda: Connect("a" * 65_536)),
    ("MQTT-1.5.3-2", lambda: Connect(username="\0")),
    ("MQTT-1.5.3-1", lambda: Connect(username="\udfff")),
    ("§1.5.3", lambda: Connect(username="", password=bytes(65_536))),
    ("§1.5.3", lambda: Connect(will=Message("w", bytes(65_536)))),
    ("§3.2.2.3", lambda: ConnAck(6)),
    ("§3.2.2.3", lambda: ConnAck(-1)),
    ("MQTT-3.2.2-4", lambda: ConnAck(5, session_present=True)),
    ("MQTT-3.3.1-4", lambda: Publish("a", qos=3, packet_id=1)),
    ("MQTT-3.3.1-2", lambda: Publish("a", dup=True)),
    ("MQTT-2.3.1-5", lambda: Publish("a", packet_id=1)),
    ("MQTT-2.3.1-1", lambda: Publish("a", qos=1)),
    ("MQTT-2.3.1-1", lambda: Publish("a", qos=2, packet_id=0)),
    ("MQTT-2.3.1-1", lambda: Publish("a", qos=2, packet_id=65_536)),
    ("MQTT-3.3.2-2", lambda: Publish("a/+")),
    ("MQTT-4.7.3-1", lambda: Publish("")),
    ("MQTT-4.7.3-3", lambda: Publish("a" * 65_536)),
    ("MQTT-1.5.3-1", lambda: Publish("\ud800")),
    ("MQTT-1.5.3-2", lambda: Publish("\0")),
    ("MQTT-3.3.1-4", lambda: Message("a", qos=-1)),
    ("MQTT-3.3.2-2", lambda: Message("#")),
    *(("MQTT-2.3.1-1", lambda cls=cls: cls(0)) for cls in (PubAck, PubRec, PubRel, PubComp, UnsubAck)),
    *(("MQTT-2.3.1-1", lambda cls=cls: cls(65_536)) for cls in (PubAck, PubRec, PubRel, PubComp, UnsubAck)),
    ("MQTT-2.3.1-1", lambda: Subscribe(0, [("a", 0)])),
    ("MQTT-3.8.3-3", lambda: Subscribe(1, [])),
    ("MQTT-3.8.3-4", lambda: Subscribe(1, [("a", 3)])),
    ("MQTT-4.7.1-2", lambda: Subscribe(1, [("a", 0), ("a#", 0)])),
    ("MQTT-4.7.3-3", lambda: Subscribe(1, [("a" * 65_536, 0)])),
    ("MQTT-2.3.1-1", lambda: SubAck(0, [0])),
    ("MQTT-3.8.4-5", lambda: SubAck(1, [])),
    ("MQTT-3.9.3-2", lambda: SubAck(1, [3])),
    ("MQTT-2.3.1-1", lambda: Unsubscribe(0, ["a"])),
    ("MQTT-3.10.3-2", lambda: Unsubscribe(1, [])),
    ("MQTT-4.7.1-3", lambda: Unsubscribe(1, ["+a"])),
]


@pytest.mark.parametrize(
    ("statement", "make"),
    [pytest.param(*case, marks=pytest.mark.statement(case[0])) for case in FORBIDDEN],
)
def test_each_rule_violated_by_the_caller(statement: str, make) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LocalProtocolError) as caught:
        make()
    assert caught.value.statement == statement
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("flags", range(256))
@pytest.mark.statement("MQTT-3.1.2-3")
@pytest.mark.statement("MQTT-3.1.2-11")
def test_every_connect_flag_byte(flags: int) -> None:
    """All 256 flag bytes, each with exactly the fields that it announces: the table of §3.1.2.3."""
    fields = b"\0\1c"
    fields += b"\0\1w\0\1m" if flags & 4 else b""
    fields += b"\0\1u" if flags & 0x80 else b""
    fields += b"\0\1p" if flags & 0x40 else b""
    body = b"\0\4MQTT\4" + bytes((flags,)) + b"\0\0" + fields
    good = (
        not flags & 1
        and (flags & 0x18 != 0x18)
        and (flags & 4 or not flags & 0x38)
        and (flags & 0x80 or not flags & 0x40)
    )
    if not good:
        with pytest.raises(MalformedPacket):
            decode(0x10, body)
        return
    packet = decode(0x10, body)
    assert packet == Connect(
        "c",
        bool(flags & 2),
        0,
        Message("w", b"m", flags >> 3 & 3, bool(flags & 0x20)) if flags & 4 else None,
        "u" if flags & 0x80 else None,
        b"p" if flags & 0x40 else None,
    )
    assert packet.encode()[2:] == body


@pytest.mark.parametrize("code", range(256))
@pytest.mark.statement("MQTT-3.8.3-4")
def test_every_qos_byte_also_in_the_last_filter(code: int) -> None:
    body = b"\0\1\0\1a\0\0\1b" + bytes((code,))
    if code < 3:
        assert decode(0x82, body) == Subscribe(1, [("a", 0), ("b", code)])
    else:
        with pytest.raises(MalformedPacket, match=r"MQTT-3\.8\.3-4"):
            decode(0x82, body)


@pytest.mark.parametrize(
    "packet",
    [packet for _, packet in LITERALS if len(packet.encode()) > 2],
    ids=lambda packet: type(packet).__name__,
)
def test_every_truncation_is_malformed_or_another_packet(packet: Packet) -> None:
    """A truncated body is not read beyond its end; at most it gives a shorter payload or list."""
    first, body = split(packet.encode())
    for size in range(len(body)):
        try:
            shorter = decode(first, body[:size])
        except MalformedPacket:
            continue
        assert isinstance(shorter, (Publish, Subscribe, SubAck, Unsubscribe))
        assert type(shorter) is type(packet)
        assert shorter.encode()[2 if size < 128 else 3 :] == body[:size]


def test_surplus_bytes_after_the_last_field_are_malformed() -> None:
    for _, packet in LITERALS:
        first, body = split(packet.encode())
        if isinstance(packet, Publish):
            again = decode(first, body + b"\0")
            assert isinstance(again, Publish)
            assert again.payload == packet.payload + b"\0"
        elif isinstance(packet, SubAck):
            assert decode(first, body + b"\0") == SubAck(packet.packet_id, [*packet.return_codes, 0])
        else:
            with pytest.raises(MalformedPacket):
                decode(first, body + b"\0")


@given(some.publishes())
def test_a_publish_is_encoded_alike_with_and_without_the_object(packet: Publish) -> None:
    assert encode_publish(*packet._values()) == packet.encode()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "statement"),
    [
        ({"qos": 3, "packet_id": 1}, "MQTT-3.3.1-4"),
        ({"qos": 3}, "MQTT-3.3.1-4"),
        ({"qos": -1, "packet_id": 1}, "MQTT-3.3.1-4"),
        ({"qos": 1}, "MQTT-2.3.1-1"),
        ({"qos": 2, "packet_id": 0}, "MQTT-2.3.1-1"),
        ({"qos": 2, "packet_id": 65_536}, "MQTT-2.3.1-1"),
        ({"packet_id": 1}, "MQTT-2.3.1-5"),
        ({"dup": True}, "MQTT-3.3.1-2"),
        ({"topic": "a/#"}, "MQTT-3.3.2-2"),
        ({"topic": ""}, "MQTT-4.7.3-1"),
    ],
)
@pytest.mark.parametrize("make", [Publish, encode_publish])
def test_a_publish_is_refused_alike_with_and_without_the_object(
    fields: dict[str, object], statement: str, make
) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(LocalProtocolError) as caught:
        make(**{"topic": "a", "payload": b"x", **fields})
    assert caught.value.statement == statement


@pytest.mark.parametrize(
    "make",
    [
        lambda topic: Message(topic),
        lambda topic: Publish(topic),
        lambda topic: encode_publish(topic, b"x"),
        lambda topic: Subscribe(1, [(topic, 0)]),
        lambda topic: Unsubscribe(1, [topic]),
    ],
)
@pytest.mark.parametrize("topic", [["a"], {"a": 1}])
def test_a_topic_that_is_not_hashable_is_named_by_its_type(make: Callable[[Any], object], topic: Any) -> None:
    with pytest.raises(TypeError, match="object expected" if compiled else "must be a str, not"):
        make(topic)


class TestValues:
    def test_packets_compare_by_value_and_type(self) -> None:
        assert PubAck(1) == PubAck(1)
        assert PubAck(1) != PubAck(2)
        assert PubAck(1) != PubRec(1)
        assert PubAck(1) != (1,)
        assert len({PubAck(1), PubAck(1), PubRec(1), PingReq(), PingReq()}) == 3

    def test_messages_compare_by_value(self) -> None:
        assert Message("a", "ü") == Message("a", "ü".encode()) == Message("a", bytearray("ü".encode()))
        assert Message("a") != Message("a", retain=True)
        assert Message("a") != "a"
        assert len({Message("a"), Message("a"), Message("b")}) == 2

    @pytest.mark.parametrize("payload", [5, None, 1.5, ["a"], {}])
    def test_a_payload_is_bytes_or_text(self, payload: object) -> None:
        with pytest.raises(TypeError, match="None" if payload is None else type(payload).__name__):
            Message("a", payload)  # type: ignore[arg-type]

    @pytest.mark.parametrize(("payload", "position"), [("\ud800", 0), ("grün \udcff", 5)])
    def test_a_payload_of_text_that_has_no_utf_8_form(self, payload: str, position: int) -> None:
        with pytest.raises(IllFormedText, match=f"lone surrogate at character {position}") as caught:
            Message("a", payload)
        assert caught.value.statement == "MQTT-1.5.3-1"
        assert isinstance(caught.value, ValueError)
        assert caught.value.__context__ is None  # Python's message would contain the payload

    def test_fractions_are_refused(self) -> None:
        for wrong in (lambda: Connect(keep_alive=1.5), lambda: Message("a", qos=1.0)):  # type: ignore[arg-type]
            with pytest.raises(TypeError if compiled else LocalProtocolError, match=r"\bint\b|0, 1 or 2"):
                wrong()

    def test_a_topic_must_be_text(self) -> None:
        # The compiled build checks the types of arguments first, with another message.
        expected = "str object expected; got bytes" if compiled else "must be a str, not bytes"
        with pytest.raises(TypeError, match=expected):
            Message(b"a")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=expected):
            Unsubscribe(1, [b"a"])  # type: ignore[list-item]

    def test_a_str_is_not_taken_for_several_topic_filters(self) -> None:
        with pytest.raises(TypeError, match="must be a collection of str, not a str"):
            Unsubscribe(1, "ab")

    def test_a_message_larger_than_any_packet_is_refused_before_it_is_queued(self) -> None:
        # Pages of zeros take no memory until they are written.
        largest = 268_435_455 - len(b"\0\1a") - 2
        assert len(Message("a", bytes(largest)).payload) == largest
        with pytest.raises(LocalProtocolError, match="the maximum with this topic is 268,435,450"):
            Message("a", bytes(largest + 1))

    def test_an_oversize_packet_is_refused_by_encode(self) -> None:
        with pytest.raises(LocalProtocolError, match=r"§2\.2\.3"):
            Publish("a", bytes(268_435_455)).encode()

    def test_repr_shows_no_credentials_and_no_long_payload(self) -> None:
        shown = repr(Connect("id", username="eyJtoken", password=b"hunter2"))
        assert "eyJ" not in shown
        assert "hunter2" not in shown
        assert "username=***, password=***" in shown
        assert repr(Connect("id")).endswith("username=None, password=None, protocol_level=4)")
        assert repr(PubAck(1)) == "PubAck(packet_id=1)"
        assert repr(PingReq()) == "PingReq()"
        assert len(repr(Publish("a", bytes(10_000)))) < 400
        assert "...(10,000)" in repr(Message("a", b"x" * 10_000))
        assert repr(Message("a", b"x")) == "Message(topic='a', payload=b'x', qos=0, retain=False)"

    @pytest.mark.parametrize("escape", [pickle.dumps, copy.copy, copy.deepcopy])
    def test_credentials_do_not_leave_by_pickle(self, escape) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(TypeError, match="credentials") as caught:
            escape(Connect("id", username="u", password=b"hunter2"))
        assert "hunter2" not in str(caught.value)

    @pytest.mark.parametrize("again", [lambda packet: pickle.loads(pickle.dumps(packet)), copy.copy, copy.deepcopy])
    def test_other_packets_can_be_pickled_and_copied(self, again) -> None:  # type: ignore[no-untyped-def]
        for packet in [packet for _, packet in LITERALS if type(packet) is not Connect]:
            assert again(packet) == packet
        assert again(Message("a", b"x", 1, True)) == Message("a", b"x", 1, True)

    def test_a_short_topic_is_encoded_once(self) -> None:
        """A packet keeps its encoded topic, whether it was made or decoded; a long one would take memory."""
        from mqttws import Decoder

        for topic in ("a", "ä" * 40, "x" * 126):
            name = len(topic.encode()).to_bytes(2, "big") + topic.encode()
            for made in (Publish(topic, b"1", 1, packet_id=7), Publish(topic, b"1")):
                data = made.encode()
                for packet in (made, *Decoder().feed(data * 3)):
                    assert isinstance(packet, Publish)
                    assert packet._name == name
                    assert packet.encode() == data
        for packet in (Publish("x" * 127), *Decoder().feed(Publish("x" * 127).encode())):
            assert isinstance(packet, Publish)
            assert packet._name is None
            assert packet.encode() == b"\x30\x81\x01\0\x7f" + b"x" * 127

    def test_long_topics_are_not_cached(self) -> None:
        from mqttws.codec import publishing

        publishing._TOPICS.clear()  # earlier tests may have filled it
        topic = "long/" + "x" * 200
        assert Publish(topic).encode() == Publish(topic).encode()
        assert topic not in publishing._TOPICS
        assert publishing.encode_topic("a") == publishing.encode_topic("a") == b"\0\1a"
        assert publishing._TOPICS["a"] == b"\0\1a"
        assert (
            publishing.encode_topic("ä") == publishing.encode_topic("ä") == publishing._TOPICS["ä"] == b"\0\2\xc3\xa4"
        )
