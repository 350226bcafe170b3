"""Each byte of a session is in one field, and each field is explained: its meaning, rule, code and tests."""

from __future__ import annotations

import ast
from itertools import count

import packet_strategies as some
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger import ROOT, find, statements

import mqttws
from mqttws.codec.packets import PACKETS
from mqttws.protocol.masking import mask
from mqttws.tap import Record, SessionReader, explain, explanations, fields_of, packet_fields

KEY = b"\x12\x34\x56\x78"


def check_whole(record: Record) -> None:
    """Check that every byte of a record is in one field, and that the field is explained."""
    position = 0
    for field in fields_of(record):
        assert field.start == position, (record, field)
        position += field.size
        assert explain(field.key).sentence
        assert sum(width for _, width, _ in field.bits) in (0, 8)
        if field.bits:
            byte = 0
            for _, width, value in field.bits:
                byte = byte << width | value
            assert byte == record.data[field.start]
    assert position == len(record.data)


@given(some.packets)
def test_every_byte_of_every_packet(packet: mqttws.Packet) -> None:
    sender = "server" if type(packet).__name__ in ("ConnAck", "SubAck", "UnsubAck", "PingResp") else "client"
    records = SessionReader().receive_data(sender, packet.encode(), 0.0)
    assert [record.layer for record in records] == ["tcp", "mqtt"]
    assert records[1].packet == packet
    for record in records:
        check_whole(record)


@given(st.lists(st.binary(min_size=1, max_size=80), max_size=5), st.booleans())
def test_every_byte_of_any_stream(pieces: list[bytes], upgrade: bool) -> None:
    reader = SessionReader()
    records = []
    if upgrade:
        records += reader.receive_data("client", REQUEST.encode(), 0.0)
    for piece in pieces:
        for sender in ("client", "server"):
            records += reader.receive_data(sender, piece, 1.0)
    records += reader.receive_end("client", 2.0) + reader.receive_end("server", 2.0)
    for record in records:
        check_whole(record)
    assert [record.number for record in records] == list(range(1, len(records) + 1))
    everything = (REQUEST.encode() if upgrade else b"") + b"".join(pieces)
    for sender, sent in (("client", everything), ("server", b"".join(pieces))):
        assert b"".join(each.data for each in records if each.layer == "tcp" and each.sender == sender) == sent


@given(st.integers(0, 255), st.integers(0, 20), st.integers(0, 3), st.booleans())
def test_every_kind_of_frame(first: int, size: int, form: int, masked: bool) -> None:
    length = [bytes((size,)), b"\x7e" + size.to_bytes(2, "big"), b"\x7f" + size.to_bytes(8, "big"), bytes((size,))][
        form
    ]
    header = bytes((first, length[0] | (0x80 if masked else 0))) + length[1:] + (KEY if masked else b"")
    reader = SessionReader()
    reader.receive_data("client", REQUEST.encode(), 0.0)
    payload = bytes(range(size))
    for record in reader.receive_data("client", header + (mask(payload, KEY) if masked else payload), 0.0):
        check_whole(record)


REQUEST = (
    "GET /mqtt?X-Amz-Date=1&X-Amz-Signature=s&flag HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n"
    "Authorization: secret\r\nX-Other: 1\r\n\r\n"
)


@pytest.mark.parametrize(
    ("sender", "head"),
    [
        ("client", REQUEST),
        ("client", "GET / HTTP/1.1\r\n\r\n"),
        ("client", "GET /?a=1&=&b HTTP/1.1\n\n"),
        ("client", "GET\r\n\r\n".replace("GET", "GET ")),
        ("server", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nDate: now\r\n\r\n"),
        ("server", "HTTP/1.1 503\r\nRetry-After: 5\r\nContent-Length: 2\r\nServer: x\r\n\r\nno"),
        ("server", "HTTP/1.1 302 Found\r\nLocation: /a\r\nTransfer-Encoding: chunked\r\n folded\r\nodd\r\n\r\n"),
    ],
)
def test_every_byte_of_a_head(sender: str, head: str) -> None:
    records = SessionReader().receive_data(sender, head.encode(), 0.0)
    assert records[1].layer == "http"
    assert [field.name for field in fields_of(records[1])].count("blank line") == 1
    for record in records:
        check_whole(record)


def test_the_values_of_secrets_are_marked() -> None:
    (_, head) = SessionReader().receive_data("client", REQUEST.encode(), 0.0)
    assert [(field.name, field.value) for field in fields_of(head) if field.secret] == [
        ("X-Amz-Signature", "s"),
        ("name of a parameter", "flag"),  # without a value, it may be one
        ("authorization", "secret"),
        ("x-other", "1"),
    ]
    connect = mqttws.Connect("c", username="u", password=b"p").encode()
    assert [field.value for field in packet_fields(connect) if field.secret] == ["u", b"p"]


# The table itself.


def defined_in(file: str) -> set[str]:
    """Return the tests of a file, as pytest names them, without parameters."""
    found = set()
    for node in ast.parse((ROOT / file).read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(f"{file}::{node.name}")
        elif isinstance(node, ast.ClassDef):
            found |= {f"{file}::{node.name}::{inner.name}" for inner in node.body if isinstance(inner, ast.FunctionDef)}
    return found


def test_names_in_the_explanations_exist() -> None:
    known = statements()
    named = {test for explanation in explanations().values() for test in explanation.tests}
    there = set().union(*(defined_in(file) for file in {test.partition("::")[0] for test in named}))
    assert named <= there, named - there
    for key, explanation in explanations().items():
        assert explanation.sentence.endswith("."), key
        assert explanation.section.startswith(("§", "RFC ")), key
        assert explanation.tests, key
        assert callable(find(explanation.reads)), key
        assert not explanation.writes or callable(find(explanation.writes)), key
        for statement in explanation.statements:
            assert statement in known, (key, statement)


def test_only_existing_fields_are_explained() -> None:
    """Each explained field of a packet exists in a packet."""
    literals = [
        mqttws.Connect("c", username="u", password=b"p", will=mqttws.Message("w", b"m")),
        mqttws.ConnAck(), mqttws.Publish("a", b"x", 1, packet_id=1),
        mqttws.PubAck(1), mqttws.PubRec(1), mqttws.PubRel(1),
        mqttws.PubComp(1), mqttws.Subscribe(1, [("a", 0)]), mqttws.SubAck(1, [0]), mqttws.Unsubscribe(1, ["a"]),
        mqttws.UnsubAck(1), mqttws.PingReq(), mqttws.PingResp(), mqttws.Disconnect(),
    ]  # fmt: skip
    made = {field.key for packet in literals for field in packet_fields(packet.encode())}
    names = {packet.__name__.upper() for packet in PACKETS.values()}
    explained = {key for key in explanations() if key.partition("/")[0] in names and not key.endswith("/not read")}
    assert explained == made


def test_numbers_continue_over_connections() -> None:
    numbers = count(1)
    first, second = SessionReader(1, numbers), SessionReader(2, numbers)
    made = first.opened(0.0) + second.opened(0.0) + first.receive_data("client", b"\xc0\x00", 1.0)
    assert [(record.number, record.connection) for record in made] == [(1, 1), (2, 2), (3, 1), (4, 1)]
