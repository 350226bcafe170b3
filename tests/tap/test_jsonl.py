"""Records as lines of JSON, in both directions; invalid lines are reported, and the others are read."""

from __future__ import annotations

import json

import packet_strategies as some
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mqttws
from mqttws.protocol.frames import binary_frame
from mqttws.tap import Record, SessionReader, lines, load, read_payload, to_json, to_line

KEY = b"abcd"


def session() -> list[Record]:
    reader = SessionReader()
    records = reader.opened(1.0, server="mqtt://h")
    records += reader.receive_data("client", mqttws.Connect("c", username="u", password=b"bait").encode(), 2.0)
    records += reader.receive_data("server", mqttws.ConnAck().encode(), 2.5)
    records += reader.receive_data("client", mqttws.Publish("a", b'{"a": 1}', 1, packet_id=1).encode(), 3.0)
    return records + reader.receive_end("client", 4.0)


def test_the_form_of_a_record() -> None:
    records = session()
    made = to_json(records[-2])
    assert made == {
        "number": 7,
        "time": 3.0,
        "connection": 1,
        "sender": "client",
        "layer": "mqtt",
        "name": "PUBLISH",
        "offset": 24,
        "size": 15,
        "data": "320d00016100017b2261223a20317d",
        "parts": [[6, 0, 15]],
        "summary": """'a' QoS 1 id 1, 8 bytes of JSON: '{"a": 1}'""",
        "meaning": "The sender keeps the message until PUBACK; otherwise it sends it again, with DUP.",
        "fields": [
            {
                "start": 0,
                "size": 1,
                "name": "packet type and flags",
                "key": "PUBLISH/packet type and flags",
                "value": "Publish: DUP 0, QoS 1, RETAIN 0",
                "bits": [["type", 4, 3], ["DUP", 1, 0], ["QoS", 2, 1], ["RETAIN", 1, 0]],
            },
            {"start": 1, "size": 1, "name": "remaining length", "key": "PUBLISH/remaining length", "value": 13},
            {
                "start": 2,
                "size": 2,
                "name": "length of the Topic Name",
                "key": "PUBLISH/length of the Topic Name",
                "value": 1,
            },
            {"start": 4, "size": 1, "name": "Topic Name", "key": "PUBLISH/Topic Name", "value": "a"},
            {"start": 5, "size": 2, "name": "packet identifier", "key": "PUBLISH/packet identifier", "value": 1},
            {"start": 7, "size": 8, "name": "payload", "key": "PUBLISH/payload", "value": {"hex": "7b2261223a20317d"}},
        ],
        "payload": {"kind": "JSON", "value": {"a": 1}},
        "changes": [["client", "sends 1", "", "published 1"], ["server", "receives 1", "", "published 1"]],
    }


def test_secrets_are_replaced_by_stars_in_every_layer() -> None:
    reader = SessionReader()
    request = b"GET /?X-Amz-Signature=bait HTTP/1.1\r\nUpgrade: websocket\r\nAuthorization: bait\r\n\r\n"
    records = reader.receive_data("client", request, 0.0)
    connect = mqttws.Connect("c", username="bait", password=b"bait").encode()
    stream = binary_frame(connect[:20], KEY) + binary_frame(connect[20:], KEY)
    for start in range(len(stream)):
        records += reader.receive_data("client", stream[start : start + 1], 0.0)
    text = "\n".join(lines(records))
    assert "bait" not in text
    assert b"bait".hex() not in text
    hidden = {record.layer for record in records if record.hidden}
    assert hidden == {"tcp", "http", "frame", "mqtt"}
    again = load(lines(records))  # the stars have the same length, so everything else can still be decoded
    assert again.faults == []
    assert [record.packet.client_id for record in again.records if isinstance(record.packet, mqttws.Connect)] == ["c"]
    assert "bait" in "\n".join(lines(records, secrets=True))


def test_invalid_lines_are_reported_and_the_others_are_read() -> None:
    good = list(lines(session(), secrets=True))
    bad = ["no json", "[1]", "{}", '{"layer": "tcp"}', '{"layer":"tcp","connection":1,"sender":"client","name":"data",'
           '"data":"0g","time":1}', "[" * 100_000, '{"mqttws":"tap","version":99}', "\x00"]  # fmt: skip
    mixed = [good[0], bad[0], *good[1:3], *bad[1:], "", *good[3:]]
    loaded = load(mixed)
    assert [record.name for record in loaded.records] == [record.name for record in session()]
    assert len(loaded.faults) == len(bad)
    assert loaded.faults[0] == (2, "this is not a record: Expecting value: line 1 column 1 (char 0)")
    assert all(len(why) < 200 for _, why in loaded.faults)


@pytest.mark.parametrize(
    ("odd", "why"),
    [
        *((f'"time":{time}', "its time is not") for time in
          ("1" + "0" * 400, "-5", "NaN", "Infinity", "1e300", "1e999", '"1"', "null", "[1]")),
        *((f'"time":1,"notes":{notes}', "its notes are not") for notes in ("[]", '{"server":null}', '{"server":NaN}')),
    ],
)  # fmt: skip
def test_a_line_with_an_odd_time_or_note_is_reported(odd: str, why: str) -> None:
    bad = f'{{"connection":1,"sender":"client","layer":"tcp","name":"open","data":"",{odd}}}'
    good = list(lines(session(), secrets=True))
    loaded = load([*good[:2], bad, *good[2:]])
    assert loaded.records == session()
    assert [number for number, _ in loaded.faults] == [3]
    assert why in loaded.faults[0][1]


@pytest.mark.parametrize("name", ["time", "self"])
def test_a_note_of_any_name_is_read(name: str) -> None:
    line = f'{{"connection":1,"sender":"client","layer":"tcp","name":"open","data":"","time":1,"notes":{{"{name}":5}}}}'
    loaded = load([line])
    assert loaded.faults == []
    assert loaded.records[0].notes == {name: 5}


def test_a_file_with_only_packets_is_read() -> None:
    kept = [line for line in lines(session(), secrets=True) if '"layer":"mqtt"' in line]
    loaded = load(kept)
    assert [record.name for record in loaded.records if record.layer == "mqtt"] == ["CONNECT", "CONNACK", "PUBLISH"]


@given(some.packets)
def test_every_packet_can_be_written(packet: mqttws.Packet) -> None:
    for record in SessionReader().receive_data("client", packet.encode(), 0.0):
        json.dumps(to_json(record, secrets=True), allow_nan=False)


# Payloads.


def test_the_types_of_payloads() -> None:
    for data, kind, value in (
        (b"", "empty", b""),
        (b'{"a": [1, null]}', "JSON", {"a": [1, None]}),
        (b"42", "JSON", 42),
        ("grün".encode(), "text", "grün"),
        (bytes.fromhex("a16161820102"), "CBOR", {"a": [1, 2]}),
        (bytes.fromhex("bf6161f97e00ff"), "CBOR", {"a": float("nan")}),
        (bytes.fromhex("c11a514b67b0"), "CBOR", {"tag 1": 1363896240}),
        (bytes.fromhex("9f5f42010243030405ff7f61616162ff20f6ff"), "CBOR", [b"\x01\x02\x03\x04\x05", "ab", -1, None]),
        (b"\x00\x01\xff", "bytes", b"\x00\x01\xff"),
        (b"\x81" * 5000, "bytes", b"\x81" * 5000),
        (b"[" * 5000, "text", "[" * 5000),
        (b"\x1b[31m", "bytes", b"\x1b[31m"),
    ):
        found = read_payload(data)
        assert (found.kind, repr(found.value)) == (kind, repr(value))


@given(st.binary(max_size=60))
def test_no_payload_raises(data: bytes) -> None:
    assert read_payload(data).kind in ("empty", "JSON", "text", "CBOR", "bytes")


@pytest.mark.parametrize("one", [b"[", b'{"a":'], ids=["arrays", "objects"])
@pytest.mark.parametrize(("depth", "kind"), [(64, "JSON"), (65, "text"), (600, "text"), (5000, "text")])
def test_nested_json_of_any_depth_can_be_written(one: bytes, depth: int, kind: str) -> None:
    payload = one * depth + b"1" * (one != b"[") + (b"]" if one == b"[" else b"}") * depth
    reader = SessionReader()
    reader.receive_data("client", mqttws.Connect("c").encode(), 1.0)
    record = reader.receive_data("client", mqttws.Publish("a", payload).encode(), 2.0)[-1]
    assert to_json(record)["payload"]["kind"] == kind
    json.loads(to_line(record))
