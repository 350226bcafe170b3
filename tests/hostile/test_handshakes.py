"""Malicious upgrade requests and WebSocket frames."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hostile import CONNECT, MIB, ended
from wire import Wire

GOOD = (
    b"GET /mqtt HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: mqtt\r\n"
)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def test_the_valid_request(victim, dial):
    """The valid request that the others modify, so that they are refused for their modification."""
    connection = dial(victim, "ws")
    connection.sendall(GOOD + b"\r\n")
    assert status(connection.recv(65536)) == 101


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        pytest.param(GOOD + b"Host: b\r\n", 400, id="two Hosts"),
        pytest.param(GOOD.replace(b"Host: a\r\n", b""), 400, id="no Host"),
        pytest.param(GOOD + b"Content-Length: 5\r\n", 400, id="a body"),
        pytest.param(GOOD + b"Content-Length: 0\r\nContent-Length: 5\r\n", 400, id="two lengths"),
        pytest.param(GOOD + b"Content-Length: 0x5\r\n", 400, id="a length that is none"),
        pytest.param(GOOD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400, id="length and chunks"),
        pytest.param(GOOD + b"Transfer-Encoding: chunked\r\n", 400, id="chunks"),
        pytest.param(GOOD + b"Transfer-Encoding: cow\r\n", 400, id="an unknown coding"),
        pytest.param(GOOD + b"X-Folded: a\r\n  b\r\n", 400, id="a folded line"),
        pytest.param(GOOD + b"X-Folded: a\r\n\tContent-Length: 5\r\n", 400, id="a length in a folded line"),
        pytest.param(GOOD + b" X-First: a\r\n", 400, id="a space in front"),
        pytest.param(GOOD + b"X-Space : a\r\n", 400, id="a space before the colon"),
        pytest.param(GOOD + b"X-Null: a\0b\r\n", 400, id="U+0000 in a value"),
        pytest.param(GOOD + b"X-Return: a\rb\r\n", 400, id="a bare CR in a value"),
        pytest.param(GOOD + b"X\xffY: a\r\n", 400, id="a name that is not ASCII"),
        pytest.param(GOOD + b": a\r\n", 400, id="no name"),
        pytest.param(GOOD + b"X-No-Colon\r\n", 400, id="no colon"),
        pytest.param(GOOD.replace(b"1.1", b"1.0"), 400, id="HTTP/1.0"),
        pytest.param(GOOD.replace(b"1.1", b"9.9"), 400, id="HTTP/9.9"),
        pytest.param(GOOD.replace(b"GET", b"POST"), 400, id="POST"),
        pytest.param(GOOD.replace(b"/mqtt", b"/mq tt"), 400, id="a space in the target"),
        pytest.param(GOOD.replace(b"/mqtt", b"/mqtt\0"), 400, id="U+0000 in the target"),
        pytest.param(GOOD.replace(b"/mqtt", b"/../mqtt"), 404, id="another path"),
        pytest.param(GOOD.replace(b"Version: 13", b"Version: 8"), 426, id="an old version"),
        pytest.param(GOOD.replace(b"dGhlIHNhbXBsZSBub25jZQ==", b"short"), 400, id="a key that is too short"),
        pytest.param(GOOD.replace(b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""), 400, id="no key"),
        pytest.param(GOOD.replace(b"Protocol: mqtt", b"Protocol: soap"), 400, id="another subprotocol"),
        pytest.param(GOOD + b"Origin: https://evil.example\r\n", 403, id="a foreign Origin"),
        pytest.param(GOOD + b"Origin: null\r\n", 403, id="an Origin of null"),
        pytest.param(GOOD + b"Origin: http://a\r\nOrigin: https://evil.example\r\n", 403, id="two Origins"),
        pytest.param(GOOD + b"Origin: http://a\r\n", 403, id="a name made to resolve to loopback"),
        pytest.param(GOOD + b"X-Long: " + b"a" * 100_000 + b"\r\n", 431, id="100 KB in one header"),
        pytest.param(GOOD + b"X-Many: a\r\n" * 10_000, 431, id="100 KB in many headers"),
        pytest.param(b"GET /" + b"a" * 100_000 + GOOD[9:], 431, id="100 KB of target"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n", 400, id="TLS on a plain port"),
        pytest.param(CONNECT + b"\r\n", 400, id="MQTT without a WebSocket"),
    ],
)
def test_malicious_requests_are_refused(victim, dial, head, expected):
    connection = dial(victim, "ws")
    connection.sendall(head + b"\r\n")
    assert status(ended(connection)) == expected
    assert victim.grown() < 4 * MIB


def test_data_after_a_refused_request_is_ignored(victim, dial):
    """A second request, or frames, sent together with a refused request, are ignored."""
    for smuggled in (GOOD + b"\r\n", b"\x82\x8e\0\0\0\0" + CONNECT):
        connection = dial(victim, "ws")
        connection.sendall(GOOD + b"Content-Length: %d\r\n\r\n" % len(smuggled) + smuggled)
        answer = ended(connection)
        assert (status(answer), answer.count(b"HTTP/1.1")) == (400, 1)
    assert victim.metrics()["clients/connected"] == 1


def test_compression_is_not_negotiated(victim, wire):
    """So a compressed frame (RSV1) is an error, and no decompression bomb is possible."""
    peer = wire(victim, "ws", headers=("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits",))
    assert b"extensions" not in peer.head.lower()
    peer.socket.sendall(b"\xc2\x8e\0\0\0\0" + CONNECT)
    assert closing(peer) == 1002


def closing(peer: Wire) -> int:
    """Read the close frame and the end of the connection, and return the close code."""
    while True:
        opcode, payload = peer.frame()
        if opcode == 8:
            with suppress(OSError):
                peer.socket.sendall(masked(0x88, payload[:2]))
            assert ended(peer.socket) == b""
            return int.from_bytes(payload[:2], "big")


def masked(first: int, payload: bytes, length: bytes | None = None) -> bytes:
    return bytes((first,)) + (length or bytes((0x80 | len(payload),))) + bytes(4) + payload


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        pytest.param(masked(0x81, b"text"), 1003, id="text"),
        pytest.param(masked(0x01, b"te") + masked(0x80, b"xt"), 1003, id="fragmented text"),
        pytest.param(masked(0x81, b"\xff\xfe"), 1007, id="text that is no UTF-8"),
        pytest.param(b"\x82\x0e" + CONNECT, 1002, id="not masked"),
        pytest.param(b"\x89\x00", 1002, id="a ping, not masked"),
        pytest.param(masked(0xC2, b"x"), 1002, id="RSV1"),
        pytest.param(masked(0xA2, b"x"), 1002, id="RSV2"),
        pytest.param(masked(0x92, b"x"), 1002, id="RSV3"),
        pytest.param(masked(0xC9, b""), 1002, id="RSV1 on a ping"),
        pytest.param(masked(0x83, b"x"), 1002, id="opcode 3"),
        pytest.param(masked(0x8B, b"x"), 1002, id="opcode 11"),
        pytest.param(masked(0x89, bytes(126), b"\xfe\x00\x7e"), 1002, id="a ping of 126 bytes"),
        pytest.param(masked(0x88, bytes(126), b"\xfe\x00\x7e"), 1002, id="a closing frame of 126 bytes"),
        pytest.param(masked(0x09, b"x"), 1002, id="a fragmented ping"),
        pytest.param(masked(0x08, b""), 1002, id="a fragmented closing frame"),
        pytest.param(masked(0x88, b"\x03"), 1002, id="a closing frame of one byte"),
        pytest.param(masked(0x88, b"\x03\xed"), 1002, id="a close code that may not be sent"),
        pytest.param(masked(0x88, b"\x03\xe8\xff"), 1007, id="a reason that is no UTF-8"),
        pytest.param(masked(0x80, b"x"), 1002, id="a continuation of nothing"),
        pytest.param(masked(0x02, b"\x10") + masked(0x82, b"x"), 1002, id="a message inside another"),
        pytest.param(masked(0x82, b"x", b"\xfe\x00\x01"), 1002, id="a length not in its shortest form"),
        pytest.param(masked(0x82, b"", b"\xff\x80" + bytes(7)), 1002, id="a length beyond 2^63"),
        pytest.param(masked(0x82, b"\x30\x03\x00\x01a"), 1002, id="a PUBLISH before the CONNECT"),
    ],
)
def test_malicious_frames_close_the_connection(victim, wire, frames, code):
    peer = wire(victim, "ws")
    peer.socket.sendall(frames)
    assert closing(peer) == code


def test_a_message_in_a_million_fragments(victim, wire):
    """Fragments are processed as they arrive; nothing is buffered until the end of the message."""
    peer = wire(victim, "ws").connect("hog")
    packet = b"\x30\xa2\x06\x00\x01a" + bytes(799)
    peer.socket.sendall(masked(0x02, b"\x30") + b"".join(masked(0x00, bytes((byte,))) for byte in packet[1:]))
    for _ in range(100):
        peer.socket.sendall(masked(0x00, b"") * 1_000)
    peer.socket.sendall(masked(0x80, b""))
    peer.socket.settimeout(60)  # on a busy machine 100,000 frames take a while
    peer.quiet()
    assert victim.grown() < 8 * MIB
