"""Session files: saved files can be read, also by other programs; faults are reported, and the rest is read."""

from __future__ import annotations

import io
import json
import random
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tsharks

from mqttws import ConnAck, Connect, Disconnect, Packet, PubAck, Publish, SubAck, Subscribe
from mqttws.protocol.frames import binary_frame
from mqttws.tap import Record, SessionReader
from pubsub.cli.streams import input_file
from pubsub.look.capture import Segment, Streams
from pubsub.look.comparing import compare
from pubsub.look.ladder import Ladder, plain
from pubsub.look.reading import Source, Unreadable
from pubsub.look.saving import SAVERS, saver_for

KEY = b"\x11\x22\x33\x44"
REQUEST = (
    b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
)
TALK: list[tuple[str, Packet]] = [
    ("client", Connect("c", username="u", password=b"bait")),
    ("server", ConnAck()),
    ("client", Subscribe(1, [("a/#", 1)])),
    ("server", SubAck(1, [1])),
    ("client", Publish("a/b", b'{"x": 1}', 1, packet_id=2)),
    ("server", PubAck(2)),
    ("server", Publish("a/b", b"\x00" * 3000)),
    ("client", Disconnect()),
]


def session(websocket: bool = False, talk: list[tuple[str, Packet]] = TALK, connection: int = 1) -> list[Record]:
    """Return a session with one packet a second."""
    reader = SessionReader(connection)
    records = reader.opened(1000.0, server="h")
    if websocket:
        records += reader.receive_data("client", REQUEST, 1000.25)
        records += reader.receive_data("server", RESPONSE, 1000.5)
    for second, (sender, packet) in enumerate(talk, 1001):
        data = packet.encode()
        if websocket:
            data = binary_frame(data, KEY if sender == "client" else None)
        records += reader.receive_data(sender, data, float(second))
    return records + reader.receive_end("server", 1100.0) + reader.receive_end("client", 1101.0)


def save(records: list[Record], path: Path, secrets: bool = False) -> Path:
    saver = saver_for(str(path), secrets)
    for record in records:
        saver.add([record], False)
    saver.close()
    return path


def read(path: Path) -> tuple[list[Record], list[str]]:
    source = Source(str(path))
    return list(source.records()), source.complaints


def packets(records: list[Record]) -> list[tuple[str, Packet | None]]:
    return [(record.sender, record.packet) for record in records if record.layer == "mqtt"]


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
@pytest.mark.parametrize("ending", [".jsonl", ".pcapng"])
def test_saved_sessions_are_read_again(tmp_path: Path, ending: str, websocket: bool) -> None:
    records = session(websocket)
    again, complaints = read(save(records, tmp_path / f"s{ending}", secrets=True))
    assert complaints == []
    assert packets(again) == TALK
    assert [round(record.time, 3) for record in again] == [record.time for record in records]
    assert list(compare(again, records)) == []


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
@pytest.mark.parametrize("ending", sorted(SAVERS))
def test_everything_except_secrets_is_saved(tmp_path: Path, ending: str, websocket: bool) -> None:
    path = save(session(websocket), tmp_path / f"s{ending}")
    data = path.read_bytes()
    for secret in (b"bait", b"bait".hex().encode()):
        assert secret not in data
    if ending in (".jsonl", ".pcapng"):
        again, complaints = read(path)
        assert complaints == []
        connect = Connect("c", username="*", password=b"****")
        assert packets(again) == [("client", connect), *TALK[1:]]
        assert not any(record.broken for record in again)


def test_qlog_conforms_to_its_schema(tmp_path: Path) -> None:
    schema = json.loads((Path(__file__).parent / "qlog.schema.json").read_text())
    made = json.loads(save(session(True), tmp_path / "s.qlog").read_text())
    jsonschema.validate(made, schema)
    (trace,) = made["traces"]
    names = [event["name"] for event in trace["events"]]
    assert names[:4] == ["connectivity:open", "http:get", "http:101", "websocket:binary"]
    assert names.count("mqtt:publish") == 2
    assert [event["time"] for event in trace["events"]] == sorted(event["time"] for event in trace["events"])
    head = json.dumps({"qlog_version": "0.3", "qlog_format": "JSON"}, separators=(",", ":"))
    assert (tmp_path / "s.qlog").read_text().startswith(head[:-1])  # in the first 256 bytes: section 3
    jsonschema.validate(json.loads(save([], tmp_path / "empty.qlog").read_text()), schema)
    for fault in (
        lambda trace: trace["events"][0].pop("name"),
        lambda trace: trace["vantage_point"].pop("flow"),
        lambda trace: trace["events"][0].update(group_id=1),
        lambda trace: trace["events"][1]["data"]["raw"].update(data="no hexadecimal"),
        lambda trace: trace.update(common_fields={"time_format": "seconds"}),
    ):
        wrong = json.loads((tmp_path / "s.qlog").read_text())
        fault(wrong["traces"][0])
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_qvis_opens_qlog(tmp_path: Path) -> None:
    """What QlogLoader.ts and QlogLoaderV2.ts of github.com/quiclog/qvis need, without which they complain or fail."""
    several = [*session(True), *session(False, connection=2)]
    made = json.loads(save(several, tmp_path / "s.qlog").read_text())
    assert made["qlog_version"] == "0.3"  # others are "Unknown qlog version!"
    assert made["qlog_format"] == "JSON"  # or "non-compliant qlog draft-02 trace!"
    for trace in made["traces"]:
        assert "event_fields" not in trace
        assert trace["vantage_point"].keys() >= {"type", "flow"}
        assert trace["common_fields"]["time_format"] == "relative"
        assert isinstance(trace["common_fields"]["reference_time"], float)
        groups: dict[str, list[float]] = {}
        for event in trace["events"]:
            # Where the first event has a group, all need one; each group becomes a connection, in order of time.
            groups.setdefault(event["group_id"], []).append(event["time"])
            assert len(event["name"].split(":")) == 2
            assert not {"header", "packet_type"} & event["data"].keys()  # their meaning is fixed by qlog
        assert sorted(groups) == ["1", "2"]
        assert all(times == sorted(times) for times in groups.values())
    # It reads the last event of each trace that is no error, so that there must be one.
    (empty,) = json.loads(save([], tmp_path / "empty.qlog").read_text())["traces"]
    assert empty == {"error_description": "the session has no records"}


@pytest.mark.parametrize("websocket", [False, True], ids=["tcp", "websocket"])
def test_tshark_finds_the_same_packets(tmp_path: Path, websocket: bool) -> None:
    tsharks.need_tshark()
    rows = tsharks.fields(save(session(websocket), tmp_path / "s.pcapng"), "mqtt.msgtype", "mqtt.topic", "mqtt.msgid")
    types = [int(value) for row in rows for value in row[0]]
    assert types == [packet.type for _, packet in TALK]
    assert [value for row in rows for value in row[1]] == ["a/#", "a/b", "a/b"]


def test_an_unknown_file_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the supported extensions are"):
        saver_for(str(tmp_path / "s.txt"), False)


# Captures of others.

CLIENT, SERVER = ("c", 50_000), ("s", 1883)


def segment(near: int, far: int, sequence: int, flags: int, data: bytes, version: int = 4, link: int = 1) -> bytes:
    """Return a frame with a TCP segment."""
    tcp = struct.pack(">HHIIBBHHH", near, far, sequence & 0xFFFFFFFF, 0, 0x50, flags, 1000, 0, 0) + data
    if version == 4:
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 0, 0, 64, 6, 0) + bytes(4) + bytes(4) + tcp
    else:  # with an extension header between
        ip = struct.pack(">IHBB", 6 << 28, 8 + len(tcp), 0, 64) + bytes(32) + bytes((6, 0)) + bytes(6) + tcp
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    heads = {1: bytes(12) + kind, 101: b"", 113: bytes(14) + kind, 0: bytes(4), 276: kind + bytes(18)}
    return heads[link] + ip


def pcap(frames: list[bytes], link: int = 1, order: str = "<") -> bytes:
    data = struct.pack(order + "IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, link)
    for number, frame in enumerate(frames):
        data += struct.pack(order + "IIII", 1000 + number, 500_000, len(frame), len(frame)) + frame
    return data


def talk_frames(port: int = 1883, start: int = 0xFFFFFFF0, **options: Any) -> list[bytes]:
    """Return a session as frames, whose sequence numbers wrap around."""
    numbers = {"client": start, "server": 77}
    frames = [
        segment(50_000, port, start - 1, 2, b"", **options),
        segment(port, 50_000, 76, 18, b"", **options),
    ]
    for sender, packet in TALK:
        ports = (50_000, port) if sender == "client" else (port, 50_000)
        data = packet.encode()
        for at in range(0, len(data), 11):
            frames.append(segment(*ports, numbers[sender], 24, data[at : at + 11], **options))
            numbers[sender] += len(data[at : at + 11])
    return [*frames, segment(50_000, port, numbers["client"], 17, b"", **options)]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(("link", "order"), [(1, "<"), (1, ">"), (101, "<"), (113, "<"), (0, "<"), (276, ">")])
def test_captures_of_either_ip_and_any_link(tmp_path: Path, version: int, link: int, order: str) -> None:
    path = tmp_path / "s.pcap"
    path.write_bytes(pcap(talk_frames(port=4242, version=version, link=link), link, order))
    records, complaints = read(path)
    assert complaints == []
    assert packets(records) == TALK
    assert records[0].name == "open"
    assert records[0].notes["server"].endswith("port 4242")


def test_segments_out_of_order_and_twice(tmp_path: Path) -> None:
    frames = talk_frames()
    chance = random.Random(7)
    for _ in range(20):
        body = frames[2:-1]
        shuffled = [*body, *chance.sample(body, 30)]
        order = sorted(range(len(shuffled)), key=lambda at: at % len(body) + chance.uniform(0, 6))
        path = tmp_path / "s.pcap"
        path.write_bytes(pcap([*frames[:2], *(shuffled[at] for at in order), frames[-1]]))
        records, complaints = read(path)
        assert complaints == []
        for end in ("client", "server"):
            assert [each for each in packets(records) if each[0] == end] == [each for each in TALK if each[0] == end]


def lost_segment_and(count: int, size: int, flags: int = 16) -> Iterator[Segment]:
    """Yield a SYN, and many segments that follow a lost byte."""
    client, server = ("10.0.0.1", 50_000), ("10.0.0.2", 1883)
    yield Segment(0.0, client, server, 2**32 - 10, 2, b"")
    for number in range(count):
        sequence = (2**32 - 8 + number * max(1, size)) % 2**32  # it wraps soon
        yield Segment(number / 1000, client, server, sequence, flags, number.to_bytes(4, "big") * (size // 4))


def test_many_small_packets_after_a_lost_one_are_read_in_linear_time() -> None:
    streams, count = Streams(), 40_000
    began = time.monotonic()
    pieces = [piece for segment in lost_segment_and(count, 20) for piece in streams.add(segment)]
    assert [piece.kind for piece in pieces] == ["open"]
    pieces = list(streams.finish())
    assert time.monotonic() - began < 20  # with a search for the first one at each it takes minutes
    assert [piece.kind for piece in pieces] == ["gap", *["data"] * count]
    assert [piece.data[:4] for piece in pieces[1:]] == [number.to_bytes(4, "big") for number in range(count)]


def test_segments_without_data_are_counted_while_they_wait() -> None:
    streams = Streams()
    for segment in lost_segment_and(200_000, 0, flags=17):
        list(streams.add(segment))
    ((_, halves),) = streams._connections.values()
    assert len(halves[True].waiting) <= 4 * 1024 * 1024 / 64


def test_a_capture_that_begins_in_the_middle_or_has_a_gap(tmp_path: Path) -> None:
    frames = talk_frames()
    path = tmp_path / "s.pcap"
    path.write_bytes(pcap(frames[2:]))
    assert packets(read(path)[0]) == TALK
    path.write_bytes(pcap(frames[:9] + frames[10:]))
    records, complaints = read(path)
    assert complaints == []
    gaps = [record for record in records if record.name == "gap"]
    assert len(gaps) == 1
    assert 0 < gaps[0].size <= 11


def test_a_truncated_capture_is_read_as_far_as_possible(tmp_path: Path) -> None:
    for name, data in (
        ("s.pcap", pcap(talk_frames())),
        ("s.pcapng", save(session(), tmp_path / "w.pcapng").read_bytes()),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        whole = len(packets(read(path)[0]))
        for size in random.Random(1).sample(range(400, len(data)), 25):
            path.write_bytes(data[:size])
            records, complaints = read(path)
            assert 0 < len(packets(records)) <= whole
            assert len(complaints) <= 1
            assert all("everything before it is shown" in complaint for complaint in complaints)


@pytest.mark.parametrize(("ending", "said"), [(".html", "open it in a browser"), (".qlog", "for qlog tools")])
def test_what_is_saved_for_other_programs_says_so(tmp_path: Path, ending: str, said: str) -> None:
    path = save(session(), tmp_path / f"s{ending}")
    with pytest.raises(Unreadable, match=said):
        read(path)


def test_hexadecimal_is_read_whole_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pubsub.look.reading.MOST_HEX", 4_000)
    path = tmp_path / "s.txt"
    path.write_text("c000" * 1_000)
    assert len(packets(read(path)[0])) == 1_000
    path.write_text("c000" * 1_001)
    with pytest.raises(Unreadable, match="over 4,000 characters"):
        read(path)


def test_other_connections_are_skipped(tmp_path: Path) -> None:
    others = [
        segment(1, 22, 5, 24, b"SSH-2.0-x\r\n"),
        segment(2, 443, 5, 24, bytes.fromhex("160301000501")),
        b"\x00" * 60,
    ]
    path = tmp_path / "s.pcap"
    path.write_bytes(pcap(others + talk_frames()))
    records, complaints = read(path)
    assert packets(records) == TALK
    assert complaints == ["connections without readable MQTT, which are omitted: 2"]


@pytest.mark.parametrize("seed", range(3))
def test_no_capture_raises(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    good = pcap(talk_frames())
    path = tmp_path / "s.pcap"
    for _ in range(60):
        data = bytearray(good if chance.random() < 0.5 else save(session(), tmp_path / "w.pcapng").read_bytes())
        for _ in range(chance.randrange(1, 30)):
            data[chance.randrange(4, len(data))] = chance.randrange(256)
        path.write_bytes(data)
        read(path)


@pytest.mark.parametrize("ending", sorted(SAVERS))
def test_a_capture_of_any_time_is_saved_again(tmp_path: Path, ending: str) -> None:
    """Its unit of time may be a second, and the number of units has 64 bits."""
    data = bytearray(save(session(), tmp_path / "s.pcapng").read_bytes())
    at = data.index(struct.pack("<II", 1, 20))  # the description of the interface gets the option if_tsresol
    data[at : at + 20] = struct.pack("<IIHHIHHBxxxI", 1, 28, 101, 0, 0, 9, 1, 0, 28)
    first = data.index(struct.pack("<I", 6), at + 28)
    data[first + 12 : first + 20] = b"\xff" * 8
    (tmp_path / "old.pcapng").write_bytes(data)
    records, complaints = read(tmp_path / "old.pcapng")
    assert (complaints, max(record.time for record in records)) == ([], 2.0**64)
    save(records, tmp_path / f"again{ending}")


# Everything else.


def test_raw_streams_and_hexadecimal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = b"".join(packet.encode() for sender, packet in TALK if sender == "server")
    wanted = [each for each in TALK if each[0] == "server"]
    path = tmp_path / "s.bin"
    path.write_bytes(stream)
    assert packets(read(path)[0]) == wanted
    path.write_text(" ".join(f"0x{byte:02x}," for byte in stream))
    assert packets(read(path)[0]) == wanted
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream.hex(":").encode())))
    assert packets(list(Source("-", input_file()).records())) == wanted


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "is empty"), (b"30 03 zz", None), (b"3003" * 200 + b"x", "begins with hexadecimal")],
)
def test_unreadable_files_are_reported(tmp_path: Path, content: bytes, why: str | None) -> None:
    path = tmp_path / "s"
    path.write_bytes(content)
    if why is None:
        assert [record.layer for record in read(path)[0]] == ["tcp", "other", "tcp"]
        return
    with pytest.raises(Unreadable, match=why):
        read(path)


def test_an_endless_line_does_not_fill_the_memory(tmp_path: Path) -> None:
    path = save(session(), tmp_path / "s.jsonl")
    with path.open("ab") as file:
        file.write(b"{" + b" " * (40 * 1024 * 1024) + b"}\n")
        file.write(b'{"mqttws": 1}\n')
    records, complaints = read(path)
    assert len(packets(records)) == len(TALK)
    assert [complaint.partition(":")[0] for complaint in complaints] == ["line 21", "line 22"]


# What is shown.


def lines_of(records: list[Record], **options: Any) -> Iterator[str]:
    ladder = Ladder(**options)
    for record in records:
        yield from ladder.lines(record)


HOSTILE = "\x1b]0;owned\x07\x9b31m\u202e\x00"


@pytest.mark.parametrize("verbose", [0, 1, 2])
def test_no_escape_of_a_peer_reaches_the_terminal(verbose: int) -> None:
    name = HOSTILE.replace("\0", "")
    talk = [
        ("client", Connect(name, username=name)),
        ("client", Publish(name, HOSTILE.encode())),
        ("client", Subscribe(1, [(name, 0)])),
    ]
    records = session(True, talk)
    head = f"GET /{HOSTILE}?{HOSTILE}={HOSTILE} HTTP/1.1\r\n{HOSTILE}: {HOSTILE}\r\n\r\n".encode()
    records += SessionReader(2).receive_data("client", head, 2000.0)
    records += SessionReader(3).receive_data("server", b"HTTP/1.1 " + HOSTILE.encode() + b"\r\n\r\n", 2000.0)
    records += SessionReader(4, frames=True).receive_data("server", b"\x88\x12\x03\xe8\x1b[31m" + bytes(11), 2000.0)
    for line in lines_of(records, verbose=verbose, secrets=True):
        assert line.isprintable(), line
    assert plain(HOSTILE) == r"\x1b]0;owned\x07\x9b31m\u202e\x00"


def test_the_ladder() -> None:
    shown = list(lines_of(session()))
    assert (
        shown[1]
        == "  1.000000 #1        3  C ---> S  CONNECT      'c', clean session, keep alive 60 s, user name hidden"
    )
    assert shown[2] == "  2.000000 #1        5  C <--- S  CONNACK      0: accepted  (3 in 1 s)"
    assert shown[6] == "  6.000000 #1       13  C <--- S  PUBACK       id 2  (11 > 13 in 1 s)"
    assert not any("\x1b" in line for line in shown)
    assert any("\x1b[36m" in line for line in lines_of(session(), colour=True))


@pytest.mark.parametrize("verbose", [0, 1, 2])
@pytest.mark.parametrize("websocket", [False, True])
def test_secrets_are_hidden_unless_requested(verbose: int, websocket: bool) -> None:
    hidden = "\n".join(lines_of(session(websocket), verbose=verbose))
    assert "bait" not in hidden
    assert b"bait".hex(" ") not in hidden
    if verbose:
        assert "bait" in "\n".join(lines_of(session(websocket), verbose=verbose, secrets=True))


def test_pending_packets_are_listed() -> None:
    ladder = Ladder()
    for record in session(talk=TALK[:5]):
        list(ladder.lines(record))
    assert [(flow, record.name) for flow, record in ladder.waiting.items()] == [((1, "client", "sends 2"), "PUBLISH")]


def test_the_differences_of_two_sessions() -> None:
    other = [*TALK[:4], ("client", Publish("a/b", b"other", 1, packet_id=9)), ("server", PubAck(9)), *TALK[6:]]
    shown = list(compare(session(), session(True, other)))
    assert [line[:1] for line in shown] == ["-", "+"]
    assert "'a/b' QoS 1 id 2" in shown[0]
    assert "of text: 'other'" in shown[1]
    renumbered = [("client", Publish("a/b", b'{"x": 1}', 1, packet_id=9)), ("server", PubAck(9))]
    assert list(compare(session(), session(True, [*TALK[:4], *renumbered, *TALK[6:]]))) == []
