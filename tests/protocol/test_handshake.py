"""The WebSocket opening handshake at both ends: the bytes sent, and which requests and responses are accepted."""

from __future__ import annotations

import base64
import hashlib
import pickle
import re
import sys
import traceback

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mqttws import (
    ConnAck,
    ConnectError,
    ConnectionClosed,
    HandshakeRejected,
    LocalProtocolError,
    RemoteProtocolError,
)
from mqttws.protocol import client_handshake, heads
from mqttws.protocol.client_handshake import ClientWebSocket
from mqttws.protocol.events import Ended, Opened, UpgradeRequested
from mqttws.protocol.frames import binary_frame
from mqttws.protocol.handshake import MAX_EARLY, ServerWebSocket
from mqttws.protocol.heads import MAX_HEAD, MAX_LINES
from mqttws.protocol.plain import FramingEvent

#: RFC 6455 §1.3
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="

REQUEST = (
    "GET /mqtt HTTP/1.1\r\n"
    "Host: broker.example\r\n"
    "Upgrade: websocket\r\n"
    "Connection: Upgrade\r\n"
    f"Sec-WebSocket-Key: {KEY}\r\n"
    "Sec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Protocol: mqtt\r\n"
    "\r\n"
)


def accept_for(request: bytes) -> str:
    """Compute the Sec-WebSocket-Accept for a request, from RFC 6455 §4.2.2."""
    (line,) = [line for line in request.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")]
    key = line.partition(b":")[2].strip()
    return base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()


def one_by_one(data: bytes) -> list[bytes]:
    return [data[position : position + 1] for position in range(len(data))]


def client(**options: object) -> tuple[ClientWebSocket, str]:
    """Return a client that has sent its request, and the expected accept header."""
    websocket = ClientWebSocket("broker.example", "/mqtt", **options)  # type: ignore[arg-type]
    return websocket, accept_for(websocket.data_to_send())


def feed(websocket: ClientWebSocket | ServerWebSocket, chunks: list[bytes]) -> list[FramingEvent]:
    return [event for chunk in chunks for event in websocket.receive_data(chunk)]


def response(accept: str, *more: str, status: str = "101 Switching Protocols") -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


GOOD = "Sec-WebSocket-Protocol: mqtt"


class TestClientRequest:
    @pytest.mark.statement("MQTT-6.0.0-3")
    def test_bytes(self) -> None:
        websocket = ClientWebSocket(
            "broker.example:8083", "/mqtt?X-Amz-Date=20260101T000000Z&X=%2F%20+~", [("X-Extra", "1")]
        )
        assert websocket.start() == []
        lines = websocket.data_to_send().split(b"\r\n")
        (key,) = [line for line in lines if line.startswith(b"Sec-WebSocket-Key: ")]
        assert len(base64.b64decode(key.partition(b": ")[2])) == 16
        lines.remove(key)
        assert lines == [
            b"GET /mqtt?X-Amz-Date=20260101T000000Z&X=%2F%20+~ HTTP/1.1",
            b"Host: broker.example:8083",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"Sec-WebSocket-Protocol: mqtt",
            b"X-Extra: 1",
            b"",
            b"",
        ]
        assert websocket.data_to_send() == b""

    @pytest.mark.parametrize("target", ["/?a=%2f&b=%2F", "/x?X-Amz-Signature=00ff&", "/?", "/a//b/../c?d=e;f=[g]", "*"])
    def test_the_target_is_kept_byte_for_byte(self, target: str) -> None:
        assert ClientWebSocket("h", target).data_to_send().startswith(f"GET {target} HTTP/1.1\r\n".encode())

    @pytest.mark.parametrize(
        ("host", "target", "headers"),
        [
            ("h", "/a b", []),
            ("h", "/secret\r\nX: y", []),
            ("h", "/secret\n", []),
            ("h", "/sécret", []),
            ("h\r\nX: y", "/", []),
            ("a..b", "/", []),
            ("x" * 64 + ".example", "/", []),
            ("b\u00fccher.example", "/", []),  # the caller encodes it: IDNA 2003 and IDNA 2008 differ
            ("h", "/", [("Authorization", "secret\r\nX: y")]),
            ("h", "/", [("Authorization", "secret\N{EURO SIGN}")]),
            ("h", "/", [("Bad Name", "secret")]),
            ("h", "/", [("Nul", "secret\0")]),
            ("h", "/", [("Authorization:", "secret")]),
            ("h", "/", [("Authorization: secret", "secret")]),
        ],
    )
    def test_invalid_text_is_refused_without_repeating_it(
        self, host: str, target: str, headers: list[tuple[str, str]]
    ) -> None:
        with pytest.raises(ConnectError, match="the upgrade request cannot be made") as caught:
            ClientWebSocket(host, target, headers)
        shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
        assert "cret" not in shown
        assert "X: y" not in shown

    @pytest.mark.parametrize("host", ["xn--strae-oqa.de", "xn--nxasmm1c.gr:8083", "xn--a", "a~b%20c"])
    @pytest.mark.parametrize("more", [[], [("X-Empty", "")]], ids=["plain", "by h11"])
    def test_the_host_is_sent_unchanged(self, host: str, more: list[tuple[str, str]]) -> None:
        """The names are of IDNA 2008, or not punycode at all. Spec: RFC 5891 §4.4"""
        assert f"\r\nHost: {host}\r\n".encode() in ClientWebSocket(host, "/", more).data_to_send()

    def test_another_subprotocol_can_be_offered(self) -> None:
        websocket, accept = client(subprotocol="mqttv3.1")
        assert feed(websocket, [response(accept, "Sec-WebSocket-Protocol: mqttv3.1")]) == [Opened()]


class TestClientAccepted:
    @pytest.mark.parametrize("split", [False, True], ids=["joined", "byte by byte"])
    def test_frames_after_the_head_are_not_lost(self, split: bool) -> None:
        websocket, accept = client(entropy=lambda count: b"\1\2\3\4" * (count // 4))
        data = response(accept, GOOD) + b"\x89\x02hi" + binary_frame(ConnAck().encode(), None) + b"\x82\x04\xd0"
        events = feed(websocket, one_by_one(data) if split else [data])
        assert events[0] == Opened()
        assert b"".join(event for event in events[1:] if isinstance(event, bytes)) == ConnAck().encode() + b"\xd0"
        assert websocket.opened
        sent = websocket.data_to_send()  # the ping is answered, masked
        assert sent[:2] == b"\x8a\x82"
        assert bytes(a ^ b for a, b in zip(sent[6:], sent[2:6], strict=False)) == b"hi"
        assert websocket.receive_eof() is None

    def test_a_head_in_two_pieces_at_every_byte(self) -> None:
        for cut in range(1, 100):
            websocket, accept = client()
            data = response(accept, GOOD) + b"\x82\x01x"
            assert feed(websocket, [data[:cut], data[cut:]]) == [Opened(), b"x"]

    def test_header_names_and_tokens_in_any_case(self) -> None:
        websocket, accept = client()
        head = (
            f"HTTP/1.1 101 Ok\r\nUPGRADE: WebSocket\r\nconnection: keep-alive, upgrade\r\n"
            f"sec-websocket-accept: {accept}\r\nsec-websocket-protocol: mqtt\r\nX-Other: 1\r\n\r\n"
        )
        assert feed(websocket, [head.encode()]) == [Opened()]

    @pytest.mark.parametrize("others", [("Connection: keep-alive",), ("Connection: x, y", "Connection: close")])
    @pytest.mark.parametrize("more", [(), ("X-Empty:",)])  # which h11 reads
    def test_connection_options_on_several_lines_are_one_list(
        self, others: tuple[str, ...], more: tuple[str, ...]
    ) -> None:
        """Spec: RFC 9110 §5.3."""
        websocket, accept = client()
        assert feed(websocket, [response(accept, GOOD, *others, *more)]) == [Opened()]

    @pytest.mark.parametrize("more", [(), ("X-Empty:",)])  # which h11 reads
    @pytest.mark.parametrize(
        ("header", "values"),
        [
            ("Sec-WebSocket-Accept", ("AAAA", "{accept}")),
            ("Sec-WebSocket-Accept", ("{accept}", "{accept}")),
            ("Sec-WebSocket-Protocol", ("other", "mqtt")),
            ("Sec-WebSocket-Protocol", ("mqtt", "mqtt")),
            ("Upgrade", ("h2c", "websocket")),
        ],
    )
    def test_repeated_unique_headers_are_refused(
        self, header: str, values: tuple[str, str], more: tuple[str, ...]
    ) -> None:
        """Otherwise two recipients could use different lines. Spec: RFC 6455 §11.3.3, §11.3.4."""
        websocket, accept = client()
        head = response(accept, GOOD, *more).decode()
        kept = [line for line in head.split("\r\n")[:-2] if not line.startswith(header)]
        lines = [*kept, *(f"{header}: {value.format(accept=accept)}" for value in values), "", ""]
        (ended,) = feed(websocket, ["\r\n".join(lines).encode()])
        assert isinstance(ended, Ended)
        assert type(ended.error) is ConnectError

    @pytest.mark.statement("MQTT-6.0.0-4")
    def test_without_the_subprotocol_it_is_refused(self) -> None:
        websocket, accept = client()
        (ended,) = feed(websocket, [response(accept, "X-Which: none") + b"\x82\x01x"])
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, HandshakeRejected)
        assert ended.error.status == 101
        assert ended.error.headers == (("x-which", "none"),)
        assert "chose the subprotocol None; it must be 'mqtt'" in str(ended.error)
        assert not websocket.opened
        assert websocket.finished
        sent = websocket.data_to_send()
        assert sent[0] == 0x88
        assert int.from_bytes(bytes(a ^ b for a, b in zip(sent[6:8], sent[2:4], strict=True)), "big") == 1002
        assert feed(websocket, [b"\x82\x01x"]) == []

    @pytest.mark.parametrize(
        "make",
        [
            lambda accept: response(accept, "Sec-WebSocket-Protocol: mqttv3.1"),
            lambda accept: response(accept, "Sec-WebSocket-Protocol: mqttv5"),
            lambda accept: response(accept, "Sec-WebSocket-Protocol: \u00fc"),
            lambda accept: response(ACCEPT, GOOD),
            lambda accept: response(accept, GOOD, "Sec-WebSocket-Extensions: permessage-deflate"),
            lambda accept: response(accept, GOOD).replace(b"Upgrade: websocket", b"Upgrade: h2c"),
            lambda accept: response(accept, GOOD).replace(b"Connection: Upgrade", b"Connection: close"),
            lambda accept: b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
            lambda accept: b"\r\n\r\n",
            lambda accept: b"\x15\x03\x01\x00\x02\x02\x16\r\n\r\n",  # a TLS alert
            lambda accept: b"HTTP/1.1 101 \r\nX" + b"x" * MAX_HEAD,
            lambda accept: b"HTTP/1.1 101 \r\nX: " + b"x" * MAX_HEAD + b"\r\n\r\n",
            lambda accept: response(accept, GOOD, "Bad Header"),
        ],
    )
    @pytest.mark.parametrize("split", [False, True], ids=["joined", "byte by byte"])
    def test_an_invalid_response_is_refused(self, make, split: bool) -> None:  # type: ignore[no-untyped-def]
        websocket, accept = client()
        data = make(accept)
        events = feed(websocket, one_by_one(data) if split else [data])
        assert len(events) == 1
        assert isinstance(events[0], Ended)
        assert type(events[0].error) is ConnectError
        assert "cannot be used" in str(events[0].error)
        assert websocket.finished
        assert feed(websocket, [b"more"]) == []
        assert websocket.receive_eof() is None


@pytest.fixture
def nonce(monkeypatch: pytest.MonkeyPatch) -> str:
    """Make each client use the same key, and return the expected accept header."""
    monkeypatch.setattr(client_handshake.os, "urandom", bytes)
    return accept_for(ClientWebSocket("h", "/").data_to_send())


class TestPlainWays:
    """Plain requests and responses are written and read without h11, with the same result."""

    @pytest.mark.parametrize(
        ("host", "headers", "plain"),
        [
            ("broker.example", [], True),
            ("broker.example.:8083", [("X-A", "b c"), ("x-a", "d")], True),
            ("[::1]:1", [("Authorization", "Basic dXNlcjpwYXNz")], True),
            ("h", [("X-Empty", "")], False),
            ("h", [("X-Two-Spaces", "a  b")], False),
            ("h", [("Content-Length", "0")], False),
        ],
    )
    def test_a_plain_request_equals_that_of_h11(
        self, monkeypatch: pytest.MonkeyPatch, nonce: str, host: str, headers: list[tuple[str, str]], plain: bool
    ) -> None:
        by_ourselves = ClientWebSocket(host, "/mqtt?a=%2f", headers).data_to_send()
        sends = []
        send = h11.Connection.send
        monkeypatch.setattr(h11.Connection, "send", lambda self, event: sends.append(event) or send(self, event))
        assert ClientWebSocket(host, "/mqtt?a=%2f", headers).data_to_send() == by_ourselves
        assert bool(sends) != plain
        monkeypatch.setattr(client_handshake, "_split_line", lambda line: None)
        assert ClientWebSocket(host, "/mqtt?a=%2f", headers).data_to_send() == by_ourselves

    @pytest.mark.parametrize(
        ("lines", "plain"),
        [
            ([GOOD], True),
            ([GOOD, "X-A: b c", "Server: x/1.0 (y)"], True),
            (["sec-websocket-protocol:mqtt"], True),
            (["X-Which: none"], True),
            (["Sec-WebSocket-Protocol: other"], True),
            ([GOOD, "Sec-WebSocket-Extensions: x"], True),
            ([GOOD, "Connection: close"], True),  # the last of two is used
            ([GOOD, "X-A: \tb  c "], False),
            ([GOOD, "X-A: b", " folded"], False),
            ([GOOD, "X-Empty:"], False),
            ([GOOD, "Content-Length: 0"], False),
            ([GOOD, "Bad Header"], False),
            ([GOOD, "X-A: \u00fc"], False),
            ([GOOD, "X-A: \0"], False),
        ],
    )
    def test_a_plain_response_gives_the_same_result_as_h11(
        self, monkeypatch: pytest.MonkeyPatch, nonce: str, lines: list[str], plain: bool
    ) -> None:
        data = response(nonce, *lines) + b"\x82\x01x"
        assert (client_handshake._read_switching(data[:-3]) is not None) == plain
        by_ourselves = ClientWebSocket("h", "/").receive_data(data)
        monkeypatch.setattr(client_handshake, "_read_switching", lambda head: None)
        by_h11 = ClientWebSocket("h", "/").receive_data(data)
        assert list(map(repr, by_ourselves)) == list(map(repr, by_h11))

    @pytest.mark.parametrize(
        "head",
        [
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 1010 x\r\n\r\n",
            b"HTTP/1.0 101 x\r\n\r\n",
            b"HTTP/1.1 101 x\nA: b\r\n\r\n",
            b"HTTP/1.1 101 x\r\nA: b\n\n",
        ],
    )
    def test_other_responses_are_left_to_h11(self, head: bytes) -> None:
        assert client_handshake._read_switching(head) is None


def test_the_accept_header_is_that_of_the_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert heads.accept_of(KEY.encode()) == ACCEPT.encode()
    monkeypatch.setitem(sys.modules, "_sha1", None)  # a Python that is built without it
    assert heads.accept_of(KEY.encode()) == ACCEPT.encode()


class TestClientRefused:
    @pytest.mark.parametrize(
        ("head", "body"),
        [
            ("HTTP/1.1 403 Forbidden\r\ncontent-length: 5\r\n\r\n", b"no!!\n"),
            ("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n", b"3\r\nno!\r\n2\r\n!\n\r\n0\r\n\r\n"),
        ],
        ids=["content-length", "chunked"],
    )
    def test_with_a_body_at_every_split(self, head: str, body: bytes) -> None:
        data = head.encode() + body
        for cut in range(len(data) + 1):
            websocket, _ = client()
            (ended,) = feed(websocket, [data[:cut], data[cut:]])
            assert isinstance(ended, Ended)
            error = ended.error
            assert isinstance(error, HandshakeRejected)
            assert (error.status, error.body) == (403, b"no!!\n"), cut
            assert error.headers[0][0] in ("content-length", "transfer-encoding")
            assert websocket.finished
            assert websocket.receive_eof() is None
        websocket, _ = client()
        assert len(feed(websocket, one_by_one(data))) == 1

    def test_until_the_end_of_the_stream(self) -> None:
        websocket, _ = client()
        assert feed(websocket, [b"HTTP/1.1 500 Oops\r\nX-A: 1\r\n\r\nsome", b" words"]) == []
        ended = websocket.receive_eof()
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, HandshakeRejected)
        assert (ended.error.status, ended.error.body, ended.error.headers) == (500, b"some words", (("x-a", "1"),))
        assert websocket.receive_eof() is None

    def test_a_head_and_then_the_end(self) -> None:
        websocket, _ = client()
        assert feed(websocket, [b"HTTP/1.1 503 Busy\r\nContent-Length: 100\r\n\r\n"]) == []
        ended = websocket.receive_eof()
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, HandshakeRejected)
        assert (ended.error.status, ended.error.body) == (503, b"")

    @pytest.mark.parametrize(
        "head",
        ["HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 204 Nothing\r\n\r\n", "HTTP/1.1 304 Same\r\n\r\n"],
    )
    def test_without_a_body(self, head: str) -> None:
        websocket, _ = client()
        (ended,) = feed(websocket, [head.encode()])
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, HandshakeRejected)
        assert ended.error.status == int(head.split()[1])
        assert ended.error.body == b""

    @pytest.mark.parametrize("answer", ["101 Switching Protocols", "403 Forbidden"])
    def test_interim_responses_are_skipped(self, answer: str) -> None:
        """A client must accept any number of 1xx responses before the final one. Spec: RFC 9110 §15.2"""
        websocket, accept = client()
        interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
        events = feed(websocket, one_by_one(interim + response(accept, GOOD, status=answer)))
        events += [event for event in [websocket.receive_eof()] if event is not None]
        (event,) = events
        if answer.startswith("101"):
            assert event == Opened()
        else:
            assert isinstance(event, Ended)
            assert isinstance(event.error, HandshakeRejected)
            assert event.error.status == 403

    def test_a_redirect_contains_its_location(self) -> None:
        websocket, _ = client()
        head = b"HTTP/1.1 302 Found\r\nLocation: wss://other.example/mqtt?sig=x\r\nContent-Length: 0\r\n\r\n"
        (ended,) = feed(websocket, [head])
        assert isinstance(ended, Ended)
        error = ended.error
        assert isinstance(error, HandshakeRejected)
        assert dict(error.headers)["location"] == "wss://other.example/mqtt?sig=x"
        assert "sig" not in str(error)
        assert "sig" not in repr(error)
        assert "sig" not in repr(ended)
        again = pickle.loads(pickle.dumps(error))
        assert (again.status, again.headers, again.body, str(again)) == (302, error.headers, b"", str(error))

    def test_only_the_start_of_a_body_is_kept(self) -> None:
        websocket, _ = client()
        head = b"HTTP/1.1 400 Bad\r\nContent-Length: 100000\r\n\r\n"
        events = feed(websocket, [head, *[b"x" * 1_000] * 10])
        assert len(events) == 1
        assert isinstance(events[0], Ended)
        assert isinstance(events[0].error, HandshakeRejected)
        assert events[0].error.body == b"x" * 4096

    def test_a_body_that_is_malformed(self) -> None:
        websocket, _ = client()
        head = b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n"
        (ended,) = feed(websocket, [head, b"not a size\r\n"])
        assert isinstance(ended, Ended)
        assert type(ended.error) is ConnectError

    def test_closing_before_the_answer(self) -> None:
        websocket, _ = client()
        websocket.close()
        assert websocket.finished
        assert websocket.data_to_send() == b""
        websocket.send(b"too early")
        assert websocket.data_to_send() == b""


class TestServer:
    def test_bytes(self) -> None:
        websocket = ServerWebSocket()
        assert websocket.start() == []
        (event,) = feed(websocket, [REQUEST.encode()])
        assert event == UpgradeRequested(
            "/mqtt",
            (
                ("host", "broker.example"),
                ("upgrade", "websocket"),
                ("connection", "Upgrade"),
                ("sec-websocket-key", KEY),
                ("sec-websocket-version", "13"),
                ("sec-websocket-protocol", "mqtt"),
            ),
            "mqtt",
        )
        assert websocket.data_to_send() == b""
        assert websocket.accept_upgrade([("X-Extra", "1")]) == [Opened()]
        assert (
            websocket.data_to_send()
            == (
                "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                f"Sec-WebSocket-Accept: {ACCEPT}\r\nSec-WebSocket-Protocol: mqtt\r\nX-Extra: 1\r\n\r\n"
            ).encode()
        )
        assert websocket.opened

    def test_at_every_split(self) -> None:
        data = REQUEST.encode()
        for cut in range(len(data) + 1):
            assert len(feed(ServerWebSocket(), [data[:cut], data[cut:]])) == 1
        assert len(feed(ServerWebSocket(), one_by_one(data))) == 1
        assert len(feed(ServerWebSocket(), [REQUEST.replace("\r\n", "\n").encode()])) == 1

    def test_an_empty_body_is_accepted(self) -> None:
        (event,) = feed(ServerWebSocket(), [REQUEST.replace("Host:", "Content-Length: 0\r\nHost:").encode()])
        assert isinstance(event, UpgradeRequested)

    def test_the_event_does_not_show_the_query(self) -> None:
        (event,) = feed(ServerWebSocket(), [REQUEST.replace("/mqtt", "/mqtt?X-Amz-Signature=abc", 1).encode()])
        assert isinstance(event, UpgradeRequested)
        assert event.target == "/mqtt?X-Amz-Signature=abc"
        assert repr(event) == "UpgradeRequested(path='/mqtt', subprotocol='mqtt')"

    @pytest.mark.parametrize(
        ("offer", "chosen"),
        [
            ("mqtt", "mqtt"),
            ("foo, mqtt", "mqtt"),
            ("mqtt, foo", "mqtt"),
            ("mqttv3.1", "mqttv3.1"),
            ("mqttv3.1,mqtt", "mqtt"),
        ],
    )
    @pytest.mark.statement("MQTT-6.0.0-4")
    def test_the_subprotocol_is_chosen(self, offer: str, chosen: str) -> None:
        websocket = ServerWebSocket()
        (event,) = feed(websocket, [REQUEST.replace("Protocol: mqtt", f"Protocol: {offer}").encode()])
        assert isinstance(event, UpgradeRequested)
        assert event.subprotocol == chosen
        assert dict(event.headers)["sec-websocket-protocol"] == offer
        websocket.accept_upgrade()
        assert f"Sec-WebSocket-Protocol: {chosen}\r\n".encode() in websocket.data_to_send()

    @pytest.mark.parametrize(
        "lines",
        [
            "Upgrade: h2c, websocket\r\n",
            "upgrade:WebSocket,h2c\r\n",
            "Upgrade: h2c\r\nX: Upgrade: x\r\nUPGRADE: websocket\r\n",
            "Upgrade: websocket\r\nUpgrade: websocket\r\n",
        ],
    )
    def test_websocket_is_chosen_among_several_protocols(self, lines: str) -> None:
        for chunks in ([request := REQUEST.replace("Upgrade: websocket\r\n", lines).encode()], one_by_one(request)):
            websocket = ServerWebSocket()
            (event,) = feed(websocket, chunks)
            assert isinstance(event, UpgradeRequested)
            offered = [value for name, value in event.headers if name == "upgrade"]
            assert len(offered) == lines.lower().count("upgrade:") - lines.count("X:")  # hooks see the original header
            websocket.accept_upgrade()
            assert b"HTTP/1.1 101 " in websocket.data_to_send()

    @pytest.mark.parametrize(
        ("target", "expected"),
        [
            ("http://other.example/mqtt?x=1", "/mqtt?x=1"),
            ("HTTPS://other.example/", "/"),
            ("ws://other.example", "/"),
            ("http://other.example?x=1", "/?x=1"),
        ],
    )
    def test_the_authority_of_an_absolute_target_counts_for_the_host(self, target: str, expected: str) -> None:
        (event,) = feed(ServerWebSocket(), [REQUEST.replace("/mqtt", target, 1).encode()])
        assert isinstance(event, UpgradeRequested)
        assert event.target == expected
        assert dict(event.headers)["host"] == "other.example"

    @pytest.mark.parametrize("blank", ["\r\n", "\n", "\r\n\r\n\r\n"])
    def test_blank_lines_before_the_request_are_skipped(self, blank: str) -> None:
        for chunks in ([(blank + REQUEST).encode()], one_by_one((blank + REQUEST).encode())):
            (event,) = feed(ServerWebSocket(), chunks)
            assert isinstance(event, UpgradeRequested)

    def test_the_maximum_number_of_lines(self) -> None:
        more = "X: 1\r\n" * (MAX_LINES - REQUEST.count("\n") + 2)
        (event,) = feed(ServerWebSocket(), [REQUEST.replace("Host:", more + "Host:").encode()])
        assert isinstance(event, UpgradeRequested)
        (ended,) = feed(ServerWebSocket(), [REQUEST.replace("Host:", more + "X: 1\r\nHost:").encode()])
        assert isinstance(ended, Ended)

    @pytest.mark.parametrize("line", ["", "Sec-WebSocket-Protocol: soap\r\n", "Sec-WebSocket-Protocol: MQTT\r\n"])
    def test_an_offer_without_mqtt_is_rejected(self, line: str) -> None:
        websocket = ServerWebSocket()
        (ended,) = feed(websocket, [REQUEST.replace("Sec-WebSocket-Protocol: mqtt\r\n", line).encode()])
        assert isinstance(ended, Ended)
        assert isinstance(ended.error, RemoteProtocolError)
        assert ended.error.statement == "MQTT-6.0.0-3"
        answer = websocket.data_to_send()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"'mqtt' must be offered" in answer
        assert websocket.finished

    @pytest.mark.parametrize("split", [False, True], ids=["one line", "several lines"])
    @pytest.mark.parametrize(
        ("header", "values"),
        [
            ("Connection", ("Upgrade", "keep-alive")),
            ("Connection", ("keep-alive", "upgrade")),
            ("Connection", ("keep-alive", "Upgrade", "X-Extra")),
            ("Connection", ("", "Upgrade", "")),
            ("Upgrade", ("websocket", "h2c")),
            ("Upgrade", ("h2c", "WebSocket")),
            ("Sec-WebSocket-Protocol", ("mqtt", "foo")),
            ("Sec-WebSocket-Protocol", ("foo", "mqtt")),
            ("Sec-WebSocket-Extensions", ("permessage-deflate", "x-other; a=b")),
            ("Sec-WebSocket-Extensions", ("x-other", "permessage-deflate")),
        ],
    )
    def test_lines_of_a_list_are_one_list(self, header: str, values: tuple[str, ...], split: bool) -> None:
        """Spec: RFC 9110 §5.3, RFC 6455 §4.2.1"""
        lines = [f"{header}: {value}" for value in (values if split else (", ".join(values),))]
        kept = [line for line in REQUEST.split("\r\n")[:-2] if not line.startswith(f"{header}:")]
        websocket = ServerWebSocket()
        (event,) = feed(websocket, ["\r\n".join([*kept, *lines, "", ""]).encode()])
        assert isinstance(event, UpgradeRequested)
        assert [value for name, value in event.headers if name == header.lower()] == [
            line.removeprefix(f"{header}:").strip() for line in lines
        ]
        assert websocket.accept_upgrade() == [Opened()]
        answer = websocket.data_to_send()
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert b"\r\nSec-WebSocket-Protocol: mqtt\r\n" in answer
        assert b"Extensions" not in answer

    @pytest.mark.parametrize(
        "host",
        [
            "BROKER.Example:8083",
            "[::1]:80",
            "a..b",
            "x" * 64 + ".example",
            "xn--bcher-kva.example",
            "xn--strae-oqa.de",  # of IDNA 2008; in IDNA 2003 this letter is "ss"
            "xn--nxasmm1c.gr",
            "xn--a",  # no punycode
            "xn--" + "a" * 15_000,
            "a~b_c!d%20",
            "",
        ],
    )
    def test_the_host_is_reported_unchanged(self, host: str) -> None:
        """The server does not depend on the name, so it does not decode it. Spec: RFC 9110 §7.2, RFC 5891 §4.4"""
        (event,) = feed(ServerWebSocket(), [REQUEST.replace("broker.example", host).encode()])
        assert isinstance(event, UpgradeRequested)
        assert dict(event.headers)["host"] == host

    @pytest.mark.parametrize(
        ("request_", "status", "words"),
        [
            (REQUEST.replace("GET", "POST"), 400, "must be GET"),
            (REQUEST.replace("GET", "HEAD"), 400, None),
            (REQUEST.replace("HTTP/1.1", "HTTP/1.0"), 400, "HTTP/1.1"),
            (REQUEST.replace("Version: 13", "Version: 8"), 426, "Sec-WebSocket-Version"),
            (REQUEST.replace("Sec-WebSocket-Version: 13\r\n", ""), 400, "Sec-WebSocket-Version"),
            (REQUEST.replace(f"Sec-WebSocket-Key: {KEY}\r\n", ""), 400, "Sec-WebSocket-Key"),
            (REQUEST.replace(KEY, "c2hvcnQ="), 400, "16 bytes in base64"),
            (REQUEST.replace(KEY, KEY[:-3] + "R=="), 400, "16 bytes in base64"),
            (REQUEST.replace("Host:", "Content-Length: 5\r\nHost:"), 400, "must not have a body"),
            (REQUEST.replace("Host:", "Transfer-Encoding: chunked\r\nHost:"), 400, "must not have a body"),
            (REQUEST.replace("Upgrade: websocket\r\n", ""), 400, "Upgrade"),
            (REQUEST.replace("Upgrade: websocket\r\n", "Upgrade: h2c\r\n"), 400, "Upgrade"),
            (REQUEST.replace("Connection: Upgrade\r\n", ""), 400, "Connection"),
            (REQUEST.replace("Connection: Upgrade\r\n", "Connection: close\r\n"), 400, "Connection"),
            (REQUEST.replace("Host: broker.example\r\n", ""), 400, "Bad HTTP"),
            (REQUEST.replace("Host:", "Host: other\r\nHost:"), 400, "Bad HTTP"),
            (REQUEST.replace("broker.example", "b\u00fccher"), 400, "in ASCII"),
            (REQUEST.replace("broker.example", "a b"), 400, "a name or an address"),
            (REQUEST.replace("broker.example", "user@broker.example"), 400, "a name or an address"),
            (REQUEST.replace("broker.example", "broker.example/mqtt"), 400, "a name or an address"),
            (REQUEST.replace("/mqtt", "/m qtt", 1), 400, "Bad HTTP"),
            (REQUEST.replace("/mqtt", "/m\u00fc", 1), 400, "Bad HTTP"),
            (REQUEST.replace("Host", "Ho st", 1), 400, "Bad HTTP"),
            (REQUEST.replace("Connection: Upgrade\r\n", "Connection: x\r\nConnection: y\r\n"), 400, "Connection"),
            ("GET / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "Connection"),
            ("nonsense\r\n\r\n", 400, "Bad HTTP"),
            (REQUEST.replace("Host:", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nHost:"), 400, "repeated"),
            (REQUEST.replace("Host:", f"Sec-WebSocket-Key: {KEY}\r\nHost:"), 400, "repeated"),
            (REQUEST.replace("Host:", "Sec-WebSocket-Version: 13\r\nHost:"), 400, "repeated"),
            (REQUEST.replace("Upgrade: websocket", "Upgrade: websockets, h2c"), 400, "Upgrade"),
            ("GET /" + "x" * MAX_HEAD, 431, "too long"),
            (f"GET / HTTP/1.1\r\nHost: h\r\nX: {'x' * MAX_HEAD}\r\n\r\n", 431, "too long"),
            (REQUEST.replace("Host:", "X: 1\r\n" * MAX_LINES + "Host:"), 431, "over 100 lines"),
        ],
        ids=lambda value: repr(value)[:40],
    )
    def test_a_request_that_is_no_upgrade_is_refused(self, request_: str, status: int, words: str | None) -> None:
        for chunks in ([request_.encode()], one_by_one(request_.encode())):
            websocket = ServerWebSocket()
            events = feed(websocket, chunks)
            assert len(events) == 1
            assert isinstance(events[0], Ended)
            error = events[0].error
            assert isinstance(error, RemoteProtocolError)
            answer = websocket.data_to_send()
            assert answer.startswith(f"HTTP/1.1 {status} ".encode())
            assert b"\r\nconnection: close\r\n" in answer.lower()
            if words is not None:
                assert words in str(error)
                assert words.encode() in answer
            assert websocket.finished
            assert feed(websocket, [b"more"]) == []

    def test_the_supported_version_is_sent(self) -> None:
        """A 426 names the required protocol. Spec: RFC 6455 §4.4, RFC 9110 §7.8, §15.5.22"""
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.replace("Version: 13", "Version: 8").encode()])
        head, _, body = websocket.data_to_send().partition(b"\r\n\r\n")
        assert head.split(b"\r\n") == [
            b"HTTP/1.1 426 ",
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            b"content-length: %d" % len(body),
            b"connection: close",
        ]

    @pytest.mark.parametrize("given", [[], [("upgrade", "h2c, websocket"), ("Connection", "upgrade")]])
    def test_a_rejection_with_426_names_the_required_protocol(self, given: list[tuple[str, str]]) -> None:
        """Spec: RFC 9110 §15.5.22"""
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        websocket.reject_upgrade(426, given)
        head = h11.Connection(h11.CLIENT)
        head.send(h11.Request(method="GET", target="/", headers=[("Host", "h")]))
        head.receive_data(websocket.data_to_send())
        answer = head.next_event()
        assert isinstance(answer, h11.Response)
        assert [value for name, value in answer.headers if name == b"upgrade"] == [
            b"h2c, websocket" if given else b"websocket"
        ]
        assert heads.list_of(answer.headers, b"connection", lower=True) == [b"upgrade", b"close"]

    def test_a_refused_request_shows_no_credential(self) -> None:
        for request in (
            REQUEST.replace("/mqtt", "/mqtt?X-Amz-Signature=hush \u00fc", 1),
            REQUEST.replace("Host", "Authoriz ation: hush\r\nHost", 1),
            REQUEST.replace("GET /mqtt", "PUT /mqtt?hush", 1),
        ):
            websocket = ServerWebSocket()
            (ended,) = feed(websocket, [request.encode()])
            assert isinstance(ended, Ended)
            assert "hush" not in "".join(traceback.format_exception(ended.error)) + repr(ended)
            assert b"hush" not in websocket.data_to_send()

    def test_folded_lines_are_refused(self) -> None:
        (ended,) = feed(ServerWebSocket(), [REQUEST.replace("Host:", "X-Long: a\r\n b\r\nHost:").encode()])
        assert isinstance(ended, Ended)
        assert "A header must not be folded" in str(ended.error)

    def test_bytes_before_the_answer_wait(self) -> None:
        websocket = ServerWebSocket()
        frame = binary_frame(b"first", b"abcd")
        (event,) = feed(websocket, [REQUEST.encode() + frame[:3]])
        assert isinstance(event, UpgradeRequested)
        assert feed(websocket, [frame[3:], binary_frame(b"second", b"abcd")]) == []
        assert websocket.accept_upgrade() == [Opened(), b"firstsecond"]

    def test_bytes_before_the_answer_are_bounded(self) -> None:
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        assert feed(websocket, [bytes(MAX_EARLY)]) == []
        (ended,) = feed(websocket, [b"x"])
        assert isinstance(ended, Ended)
        assert "did not wait" in str(ended.error)
        with pytest.raises(LocalProtocolError):
            websocket.accept_upgrade()
        assert websocket.data_to_send() == b""

    def test_rejecting(self) -> None:
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        websocket.reject_upgrade(401, [("WWW-Authenticate", "Basic")], b"who?\n")
        assert websocket.data_to_send() == (
            b"HTTP/1.1 401 \r\nWWW-Authenticate: Basic\r\ncontent-length: 5\r\nconnection: close\r\n\r\nwho?\n"
        )
        assert websocket.finished
        with pytest.raises(LocalProtocolError, match="no upgrade"):
            websocket.accept_upgrade()

    @pytest.mark.parametrize("status", [300, 403, 599])
    def test_the_statuses_of_a_refusal(self, status: int) -> None:
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        websocket.reject_upgrade(status)
        assert websocket.data_to_send().startswith(f"HTTP/1.1 {status} ".encode())

    @pytest.mark.parametrize("act", ["accept_upgrade", "reject_upgrade"])
    def test_answering_before_the_request_raises(self, act: str) -> None:
        with pytest.raises(LocalProtocolError, match="no upgrade"):
            getattr(ServerWebSocket(), act)(*([403] if act == "reject_upgrade" else []))

    @pytest.mark.parametrize("header", [("Bad Name", "hush"), ("X", "hush\r\nY: z"), ("X", "hush\N{EURO SIGN}")])
    def test_an_invalid_header_changes_nothing(self, header: tuple[str, str]) -> None:
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        for act in (lambda: websocket.accept_upgrade([header]), lambda: websocket.reject_upgrade(403, [header])):
            with pytest.raises(LocalProtocolError, match="a header of the response") as caught:
                act()
            assert "hush" not in repr(caught.value)
        assert websocket.accept_upgrade() == [Opened()]

    @pytest.mark.parametrize("status", [0, 101, 200, 304, 299, 600])
    def test_a_status_that_is_no_refusal_changes_nothing(self, status: int) -> None:
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        with pytest.raises(LocalProtocolError, match=f"the HTTP status is {status}"):
            websocket.reject_upgrade(status)
        assert websocket.accept_upgrade() == [Opened()]

    def test_accepting_after_closing_raises(self) -> None:
        websocket = ServerWebSocket()
        feed(websocket, [REQUEST.encode()])
        websocket.close()
        assert websocket.finished
        with pytest.raises(LocalProtocolError):
            websocket.accept_upgrade()
        assert websocket.data_to_send() == b""


def test_both_ends_accept_each_other() -> None:
    """Each side accepts the literal bytes of the other."""
    one, _ = ClientWebSocket("h", "/x?y=z", [("X", "1")]), None
    other = ServerWebSocket()
    (asked,) = other.receive_data(one.data_to_send())
    assert isinstance(asked, UpgradeRequested)
    assert (asked.target, dict(asked.headers)["x"]) == ("/x?y=z", "1")
    assert other.accept_upgrade() == [Opened()]
    assert one.receive_data(other.data_to_send()) == [Opened()]


def test_errors_of_a_close_without_a_code_have_none() -> None:
    websocket, accept = client()
    events = feed(websocket, [response(accept, GOOD) + b"\x88\x00"])
    assert isinstance(events[1], Ended)
    assert isinstance(events[1].error, ConnectionClosed)
    assert events[1].error.code is None
    assert "1005" not in str(events[1].error)


PIECES = st.sampled_from(
    [b"X-A", b":", b" ", b"  ", b"\t", b"value", b"\x7f", b"\xfc", b"\r", b"~", b"(", b"a:b", b"\0"]
)


@given(st.lists(PIECES, max_size=8).map(b"".join))
def test_a_plain_line_is_a_token_and_visible_ascii_with_single_spaces(line: bytes) -> None:
    match = re.fullmatch(rb"([-!#$%&'*+.^_`|~0-9A-Za-z]+): ?([!-~]+(?: [!-~]+)*)", line)
    assert client_handshake._split_line(line) == (match and match.groups())


@pytest.mark.parametrize(
    ("host", "valid"),
    [
        ("a-b_c.example.:1", True),
        ("[::1]", True),
        ("l" * 63 + ".x", True),
        ("l" * 64 + ".x", False),
        ("a..b", False),
        ("", False),
        (":80", False),
        ("a b", False),
        ("a\r\nX: y", False),
        ("b\u00fccher", False),
        ("a/b", False),
    ],
)
def test_which_hosts_are_sent(host: str, valid: bool) -> None:
    assert client_handshake._is_host(host) is valid


def test_values_of_headers_are_freed_with_them() -> None:
    """An interned string would stay in memory for ever with Python 3.12."""
    ((name, value),) = heads.texts_of([(b"X-Token", b"of one request")])
    assert name == "x-token"
    assert sys.intern(" ".join(("of", "one", "request"))) is not value
