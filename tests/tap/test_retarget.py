"""`retarget` replaces the target and Host of an upgrade request, in any pieces, and changes nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws.client.url import parse_url
from mqttws.tap.retarget import Retarget

ENDPOINT = parse_url("wss://a.iot.example/mqtt?X-Amz-Signature=00ff")
HEAD = b"GET /mqtt HTTP/1.1\r\nUpgrade: websocket\r\nhOST : 127.0.0.1:8083\r\nOrigin: http://host: 1\r\n\r\n"
MADE = (
    b"GET /mqtt?X-Amz-Signature=00ff HTTP/1.1\r\nUpgrade: websocket\r\nHost: a.iot.example\r\n"
    b"Origin: http://host: 1\r\n\r\n"
)


@given(st.lists(st.integers(1, 40)), st.binary(max_size=30))
def test_in_pieces_of_any_size(sizes: list[int], after: bytes) -> None:
    retarget, stream, out = Retarget(ENDPOINT), HEAD + after, b""
    for size in sizes:
        out += retarget.feed(stream[:size])
        stream = stream[size:]
    out += retarget.feed(stream)
    assert out == MADE + after
    assert retarget.feed(HEAD) == HEAD  # only the first head is changed
    assert retarget.rest() == b""


@pytest.mark.parametrize("data", [b"GET /mqtt HTTP/1.1\r\nHost: a", b"", b"\x10\x0c\0\x04MQTT"])
def test_other_bytes_are_unchanged(data: bytes) -> None:
    retarget = Retarget(ENDPOINT)
    assert retarget.feed(data) == b""
    assert retarget.rest() == data
    assert retarget.feed(b"more") == b"more"


def test_an_endless_head_is_not_buffered() -> None:
    retarget, sent = Retarget(ENDPOINT), b""
    for _ in range(70):
        sent += retarget.feed(bytes(1024))
    assert sent == bytes(70 * 1024)


def test_another_form_of_request_line_is_unchanged() -> None:
    assert Retarget(ENDPOINT).feed(b"nonsense\r\nHost: a\r\n\r\n") == b"nonsense\r\nHost: a.iot.example\r\n\r\n"
