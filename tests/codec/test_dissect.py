"""Dissection: every byte of every packet has a name, and faults are described."""

from __future__ import annotations

import packet_strategies as some
from hypothesis import given
from hypothesis import strategies as st

import mqttws
from mqttws import Field, dissect


def test_a_connect_byte_by_byte() -> None:
    data = bytes.fromhex("10 18  0004 4d515454  04  ce  003c  0001 63  0001 77  0000  0001 75  0001 70")
    found = dissect(data)
    assert found.error is None
    assert found.packet == mqttws.Connect(
        "c", will=mqttws.Message("w", b"", 1), username="u", password=b"p", keep_alive=60
    )
    assert [(field.start, field.name, field.value) for field in found.fields] == [
        (0, "packet type and flags", "Connect"),
        (1, "remaining length", 24),
        (2, "length of the protocol name", 4),
        (4, "protocol name", b"MQTT"),
        (8, "protocol level", 4),
        (9, "connect flags", "11001110: user name, password, will QoS, will, clean session"),
        (10, "keep alive", 60),
        (12, "length of the client identifier", 1),
        (14, "client identifier", "c"),
        (15, "length of the will topic", 1),
        (17, "will topic", "w"),
        (18, "length of the will message", 0),
        (20, "will message", b""),
        (20, "length of the user name", 1),
        (22, "user name", "u"),
        (23, "length of the password", 1),
        (25, "password", b"p"),
    ]


def test_a_publish_shows_its_flags() -> None:
    fields = dissect(bytes.fromhex("3b 06  0001 61  0007  78")).fields
    assert fields[0] == Field(0, b"\x3b", "packet type and flags", "Publish: DUP 1, QoS 1, RETAIN 1")
    assert fields[-1] == Field(7, b"x", "payload", b"x")


def test_acknowledge_flags_are_spelled_out() -> None:
    assert dissect(bytes.fromhex("2002 0100")).fields[2].value == "00000001: session present"
    assert dissect(bytes.fromhex("2002 0000")).fields[2].value == "00000000: none set"


def test_a_fault_follows_the_fields_that_could_be_read() -> None:
    found = dissect(bytes.fromhex("82 06  0001  0001 61  03"))
    assert found.packet is None
    assert found.error is not None
    assert found.error.statement == "MQTT-3.8.3-4"
    assert found.fields[-1] == Field(7, b"\x03", "requested QoS", 3)


def test_wrong_lengths_are_reported() -> None:
    for data, statement in (("", "§2.2"), ("30", "§2.2"), ("c001", "§2.2.3"), ("c00000", "§2.2.3"), ("f000", "§2.2.1")):
        found = dissect(bytes.fromhex(data))
        assert found.packet is None
        assert found.error is not None
        assert found.error.statement == statement


@given(some.packets)
def test_every_byte_of_every_packet_is_named_once(packet: mqttws.Packet) -> None:
    data = packet.encode()
    found = dissect(data)
    assert found.packet == packet
    assert b"".join(field.data for field in found.fields) == data
    position = 0
    for field in found.fields:
        assert field.start == position
        position += len(field.data)


@given(st.binary(max_size=60))
def test_nothing_raises_and_nothing_is_shown_twice(data: bytes) -> None:
    found = dissect(data)
    assert (found.packet is None) != (found.error is None)
    assert data.startswith(b"".join(field.data for field in found.fields))


def test_an_empty_payload_is_no_field() -> None:
    found = dissect(mqttws.Publish("a").encode())
    assert found.packet == mqttws.Publish("a")
    assert [field.name for field in found.fields][-1] == "Topic Name"
