"""Secrets in units that cannot be decoded, or are not complete, are hidden in every layer and in every output."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mqttws import Connect
from mqttws.protocol.frames import binary_frame
from mqttws.protocol.masking import mask
from mqttws.tap import Record, SessionReader, fields_of, hide
from pubsub.look.ladder import Ladder
from pubsub.look.saving import SAVERS, saver_for

#: It is repeated, so that any row of eight bytes in the middle of it contains one.
SECRET = b"bait" * 16
FORMS = (b"bait", b"bait".hex().encode(), b"bait".hex(" ").encode())
KEY = b"\x11\x22\x33\x44"
UPGRADE = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n"


def text(value: bytes) -> bytes:
    return len(value).to_bytes(2, "big") + value


def connect_of_mqtt_5() -> bytes:
    body = text(b"MQTT") + b"\x05\xc2\x00\x3c" + b"\x05\x11\x00\x00\x00\x0a" + text(b"lamp") + text(b"u") + text(SECRET)
    return bytes((0x10, len(body))) + body


CONNECT = Connect("lamp", username="u", password=SECRET).encode()
#: Bytes of a client that contain a CONNECT, and are no packet of MQTT 3.1.1.
PACKETS = {
    "MQTT 5": connect_of_mqtt_5(),
    "AUTH of MQTT 5": connect_of_mqtt_5() + bytes((0xF0, len(SECRET) + 4, 0x18, len(SECRET) + 2)) + text(SECRET),
    "a reserved connect flag": CONNECT[:9] + bytes((CONNECT[9] | 1,)) + CONNECT[10:],
    "flags in the first byte": b"\x11" + CONNECT[1:],
    "another protocol name": CONNECT.replace(b"MQTT", b"MQTX"),
    "an endless remaining length": b"\x10\xff\xff\xff\xff\xff" + CONNECT[2:],
    "ends early": CONNECT[:-1],
    "a length that is too short": bytes((CONNECT[0], CONNECT[1] - 8)) + CONNECT[2:],
    "after a packet": b"\xc0\x00" + CONNECT[:-1],
    "a valid one": CONNECT,
}


def frame(first: int, payload: bytes) -> bytes:
    header = bytes((first, 0x80 | len(payload))) if len(payload) < 126 else bytes((first, 0xFE, 0, len(payload)))
    return header + KEY + mask(payload, KEY)


#: Streams of a client that cannot be decoded from before its CONNECT on.
STREAMS = {
    "a blank line": b"\r\n" + CONNECT,
    "two zeros": b"\x00\x00" + CONNECT,
    "an incomplete packet": b"\x30\xff\x7f" + CONNECT,
    "a malformed packet": b"\x37\x3e\x3c\xff" + CONNECT,
    "a SUBACK": b"\x90\x34" + CONNECT,
    "a frame with two zeros": UPGRADE + frame(0x82, b"\x00\x00") + frame(0x82, CONNECT),
    "a text frame": UPGRADE + frame(0x81, b"hi") + frame(0x82, CONNECT),
    "a reserved bit": UPGRADE + frame(0xC2, CONNECT),
    "a reserved bit, fragmented": UPGRADE + frame(0x42, CONNECT[:30]) + frame(0x80, CONNECT[30:]),
    "a reserved opcode": UPGRADE + frame(0x83, CONNECT),
    "a continuation": UPGRADE + frame(0x80, CONNECT),
    "a ping": UPGRADE + frame(0x89, CONNECT),
    "the reason of a close": UPGRADE + frame(0x88, b"\x03\xe8" + CONNECT),
    "a ping in the middle of a CONNECT": UPGRADE + frame(0x02, CONNECT[:40]) + frame(0x89, CONNECT) + frame(0x80, b""),
    "a body": b"POST /token HTTP/1.1\r\nContent-Length: 73\r\n\r\npassword=" + SECRET,
    "a request before it": b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" + CONNECT + b"\r\n\r\n",
}
HEADS = {
    "cut short": b"GET /mqtt HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer " + SECRET,
    "cut short in the target": b"GET /mqtt?token=" + SECRET,
    "cut short behind it": b"GET /mqtt HTTP/1.1\r\nAuthorization: " + SECRET + b"\r\nHost",
    "without an end": b"GET /mqtt HTTP/1.1\r\nX-Long: " + bytes(65_536) + SECRET * 2,
    "a token of a custom authorizer": b"GET / HTTP/1.1\r\nHost: h\r\nMyToken: " + SECRET + b"\r\n\r\n",
    "an API key": b"GET / HTTP/1.1\r\nX-Api-Key: " + SECRET + b"\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nAuthorization : " + SECRET + b"\r\n\r\n",
    "a folded line": b"GET / HTTP/1.1\r\nUser-Agent: a\r\n b:" + SECRET + b"\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\n" + SECRET + b"\r\n\r\n",
    "a user in the target": b"GET http://u:" + SECRET + b"@h/ HTTP/1.1\r\n\r\n",
    "a user in the target, with reserved characters": b"GET http://u:a/b?" + SECRET + b"@h/ HTTP/1.1\r\n\r\n",
    "a subprotocol": UPGRADE[:-2] + b"Sec-WebSocket-Protocol: mqtt, " + SECRET + b"\r\n\r\n",
    "no name of a parameter": b"GET /?" + SECRET + b" HTTP/1.1\r\n\r\n",
    "a valid one": UPGRADE.replace(b"Host", b"Authorization: " + SECRET + b"\r\nHost"),
}


def outputs(pieces: list[bytes], path: Path, sender: str = "client") -> Iterator[bytes]:
    """Yield what a live view shows at once, and what is saved."""
    reader = SessionReader()
    batches: list[list[Record]] = []
    ladders = [Ladder(verbose) for verbose in range(3)]
    savers = [saver_for(str(path / f"s{ending}"), False) for ending in SAVERS]

    def add(batch: list[Record], settled: bool) -> Iterator[bytes]:
        batches.append(batch)
        for saver in savers:
            saver.add(batch, settled)
        for ladder in ladders:
            for record in batch:
                yield "\n".join(ladder.lines(record)).encode()
        yield b"".join(map(hide, batch))

    for piece in pieces:
        yield from add(reader.receive_data(sender, piece, 1.0), not reader.under_way(sender))
    yield from add(reader.receive_end(sender, 2.0), True)
    for saver in savers:
        saver.close()
    for ending in SAVERS:
        yield (path / f"s{ending}").read_bytes()
    records = [record for batch in batches for record in batch]
    for record in records:
        at = 0
        for field in fields_of(record):
            assert field.start == at
            at += field.size
        assert at == len(record.data)
        yield hide(record)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [7, 20, 50, 100_000])
@pytest.mark.parametrize("way", ["tcp", "frame", "frames"])
@pytest.mark.parametrize("case", PACKETS)
def test_a_connect_that_cannot_be_decoded(case: str, way: str, size: int, tmp_path: Path) -> None:
    data = PACKETS[case]
    if way == "tcp":
        pieces = cut(data, size)
    else:
        frames = [data] if way == "frame" else cut(data, size)
        pieces = [UPGRADE, *cut(b"".join(binary_frame(frame, KEY) for frame in frames), size)]
    for output in outputs(pieces, tmp_path):
        assert not any(form in output for form in FORMS)


@pytest.mark.parametrize("size", [7, 20, 50, 100_000])
@pytest.mark.parametrize("case", STREAMS)
def test_a_stream_that_is_lost_before_its_connect(case: str, size: int, tmp_path: Path) -> None:
    for output in outputs(cut(STREAMS[case], size), tmp_path):
        assert not any(form in output for form in FORMS)


def test_a_long_frame_before_a_connect() -> None:
    """Its pieces belong to no unit that is kept, so their number does not matter."""
    reader = SessionReader(limit=1000)
    reader.receive_data("client", UPGRADE + b"\xc2\xff" + (1 << 20).to_bytes(8, "big") + bytes(4), 1.0)
    for _ in range(20):
        reader.receive_data("client", bytes(1000), 2.0)
    for record in reader.receive_data("client", CONNECT, 3.0):
        assert b"bait" not in hide(record)


def test_what_follows_a_connect_is_shown() -> None:
    reader = SessionReader(frames=True)
    stream = frame(0x82, Connect("c").encode()) + frame(0x89, b"p") + frame(0x81, b"hi") + frame(0x80, b"more")
    assert not any(record.hidden for record in reader.receive_data("client", stream, 1.0))
    reader = SessionReader()
    made = [record for byte in b"\x30\x03\x00\x01a" for record in reader.receive_data("client", bytes((byte,)), 1.0)]
    assert made[-1].name == "PUBLISH"
    assert not any(record.hidden for record in made)  # they were, until it was complete


@pytest.mark.parametrize("size", [20, 50, 100_000])
@pytest.mark.parametrize("case", HEADS)
def test_a_head_of_a_client(case: str, size: int, tmp_path: Path) -> None:
    for output in outputs(cut(HEADS[case], size), tmp_path):
        assert not any(form in output for form in FORMS)


@pytest.mark.parametrize("head", [b"Set-Cookie: ", b"Location: wss://h/mqtt?token=", b"Sec-WebSocket-Protocol: "])
def test_a_head_of_a_server(head: bytes, tmp_path: Path) -> None:
    for output in outputs(cut(b"HTTP/1.1 302 Found\r\n" + head + SECRET + b"\r\n\r\n", 30), tmp_path, "server"):
        assert not any(form in output for form in FORMS)


def test_what_follows_a_gap_in_a_connect() -> None:
    reader = SessionReader()
    reader.receive_data("client", CONNECT[:20], 1.0)
    reader.receive_gap("client", 3, 2.0)
    for record in reader.receive_data("client", CONNECT[23:], 3.0):
        assert b"bait" not in hide(record)


def test_what_has_no_secret_is_shown() -> None:
    reader = SessionReader()
    made = reader.receive_data("client", CONNECT[:20], 1.0) + reader.receive_data("client", CONNECT[20:], 1.0)
    assert hide(made[0]) == CONNECT[:20]  # it was hidden until the packet was complete: the user name follows
    assert b"bait" not in hide(made[1])
    hello = bytes.fromhex("16030100c8010000c40303")
    reader = SessionReader()
    made = [record for at in range(len(hello)) for record in reader.receive_data("client", hello[at : at + 1], 1.0)]
    assert not any(record.hidden for record in made)
    request = b"GET / HTTP/1.1\r\nHost: h\r\nAccept: */*\r\nUser-Agent: a\r\nX-Amz-Customauthorizer-Name: demo\r\n\r\n"
    assert not any(record.hidden for record in SessionReader().receive_data("client", request, 1.0))
    answer = b"HTTP/1.1 403 Forbidden\r\nX-Amzn-ErrorType: ForbiddenException\r\n\r\n"
    assert not any(record.hidden for record in SessionReader().receive_data("server", answer, 1.0))


def test_the_beginning_of_a_connect_of_mqtt_5_is_shown() -> None:
    (_, record) = SessionReader().receive_data("client", PACKETS["MQTT 5"], 1.0)
    assert [field.name for field in fields_of(record)][-2:] == ["protocol level", "not read"]
    assert hide(record) == PACKETS["MQTT 5"][:9] + b"*" * (len(PACKETS["MQTT 5"]) - 9)


def test_a_connect_of_many_frames_is_read_in_linear_time() -> None:
    """Each small frame is a part that is hidden until the packet is complete."""
    client_id = "c" * 60_000
    stream = b"".join(binary_frame(piece, KEY) for piece in cut(Connect(client_id).encode(), 1))
    records = SessionReader(frames=True).receive_data("client", stream, 1.0)
    assert records[-1].readable
    assert not any(record.hidden for record in records)
