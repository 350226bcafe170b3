"""The lenient WebSocket server, for clients that violate parts of RFC 6455."""

from __future__ import annotations

import base64

import pytest

from mqttws import PingResp, Publish
from mqttws.protocol.events import Ended, Opened, UpgradeRequested
from mqttws.protocol.handshake import ServerWebSocket
from mqttws.protocol.lenient import LenientServerWebSocket

LONG_KEY = base64.b64encode(bytes(range(128))).decode()


def request(key: str) -> bytes:
    return (
        "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n"
    ).encode()


def opened() -> LenientServerWebSocket:
    websocket = LenientServerWebSocket()
    (event,) = websocket.receive_data(request(LONG_KEY))
    assert isinstance(event, UpgradeRequested)
    assert websocket.accept_upgrade([("X-Extra", "One Two: Three")]) == [Opened()]
    return websocket


def test_a_long_key_is_accepted_and_answered_in_lower_case() -> None:
    head = opened().data_to_send()
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n")
    assert b"\r\nsec-websocket-accept: " in head
    assert b"\r\nx-extra: One Two: Three\r\n\r\n" in head


@pytest.mark.parametrize("key", ["", "c2hvcnQ=", "A" * 21, "A" * 173, "dGhlIHNhbXBsZSBub25j*Q=="])
def test_an_invalid_key_is_still_refused(key: str) -> None:
    (event,) = LenientServerWebSocket().receive_data(request(key))
    assert isinstance(event, Ended)


def test_the_default_server_is_strict() -> None:
    (event,) = ServerWebSocket().receive_data(request(LONG_KEY))
    assert isinstance(event, Ended)


def test_each_packet_is_a_separate_message() -> None:
    websocket = opened()
    websocket.data_to_send()
    packets = [PingResp().encode(), Publish("a", b"x" * 200).encode(), PingResp().encode()]
    websocket.send(b"".join(packets))
    websocket.send(b"")
    assert websocket.data_to_send() == (
        b"\x82\x02" + packets[0] + b"\x82\x7e\x00" + bytes([len(packets[1])]) + packets[1] + b"\x82\x02" + packets[2]
    )
