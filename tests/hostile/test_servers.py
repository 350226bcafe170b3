"""Hostile servers: the client ends each attempt with a clear error, within bounds, and its other connections work."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
import threading
import time
import tracemalloc
import warnings
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from hashlib import sha1
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from drivers import wait_until
from hostile import MIB, ended
from wire import PATIENCE

import mqttws
import mqttws.aio
from mqttws import ConnAck, Publish
from mqttws.broker import Broker

Script = Callable[[socket.socket], None]


class Server:
    """A server that runs a script for each connection, and closes it after the test."""

    def __init__(self, script: Script) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.connections: list[socket.socket] = []
        self._script = script
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            self.connections.append(connection)
            with suppress(OSError):
                self._script(connection)

    def stop(self) -> None:
        if self._listener.fileno() < 0:
            return
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # wakes the script
            connection.close()
        self._thread.join(PATIENCE)


@pytest.fixture
def serve() -> Iterator[Callable[[Script], Server]]:
    servers: list[Server] = []

    def serve(script: Script) -> Server:
        servers.append(Server(script))
        return servers[-1]

    yield serve
    for server in servers:
        server.stop()


def attempt(kind: str, url: str, **options: Any) -> BaseException:
    """Connect, wait until the client ends, and return its error."""
    options = {"reconnect": False, "timeout": 1.0, "proxy": None} | options

    async def with_asyncio() -> None:
        async with mqttws.aio.connect(url, **options) as client:
            async for _ in client.messages(timeout=PATIENCE):
                pass
            raise client.state.error or AssertionError("no error")

    def blocking() -> None:
        with mqttws.connect(url, **options) as client:
            for _ in client.messages(timeout=PATIENCE):
                pass
            raise client.state.error or AssertionError("no error")

    try:
        asyncio.run(with_asyncio()) if kind == "asyncio" else blocking()
    except (mqttws.MQTTError, OSError) as error:
        return error
    raise AssertionError("nothing was raised")


def request(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = connection.recv(65536)
        assert more, "the client closed the connection before its request was complete"
        data += more
    return data


def accept(connection: socket.socket, more: bytes = b"", subprotocol: bytes = b"mqtt") -> None:
    key = next(line for line in request(connection).split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:"))
    token = sha1(key.partition(b":")[2].strip() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + b64encode(token) + b"\r\n" + more + b"Sec-WebSocket-Protocol: " + subprotocol + b"\r\n\r\n"
    )  # fmt: skip


def answer(data: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        request(connection)
        connection.sendall(data)
        connection.recv(100)

    return script


def dripping(data: bytes) -> Script:
    def script(connection: socket.socket) -> None:
        for byte in data * 1_000:
            connection.sendall(bytes((byte,)))
            time.sleep(0.02)

    return script


def inside(frames: bytes, connected: bool = False) -> Script:
    """Send frames, or packets, after the WebSocket upgrade."""

    def script(connection: socket.socket) -> None:
        accept(connection)
        connection.recv(65536)
        connection.sendall((b"\x82\x04" + ConnAck(0).encode() if connected else b"") + frames)
        while (data := connection.recv(65536)) and data[0] != 0x88:  # until the client closes the WebSocket
            pass
        connection.close()

    return script


def mqtt(packets: bytes) -> Script:
    """Send packets after a CONNACK, over plain TCP."""

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(ConnAck(0).encode() + packets)
        while connection.recv(65536):
            pass

    return script


REFUSAL = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 1000000000\r\n\r\n"

BEFORE = [
    pytest.param(lambda connection: connection.recv(1) and None, "ws", id="it closes at once"),
    pytest.param(ended, "ws", id="silence"),
    pytest.param(ended, "wss", id="silence instead of TLS"),
    pytest.param(ended, "mqtt", id="silence over TCP"),
    pytest.param(dripping(b"\x16\x03\x03\x3f\xff" + bytes(50)), "wss", id="TLS that drips"),
    pytest.param(dripping(b"HTTP/1.1 101 a\r\nX: " + b"a" * 1000), "ws", id="a response that drips"),
    pytest.param(dripping(b"\x20\xff\x7f\0"), "mqtt", id="a CONNACK that drips"),
    pytest.param(answer(REFUSAL + b"a" * 100_000), "ws", id="a body of a gigabyte"),
    pytest.param(answer(REFUSAL + b"a"), "ws", id="a body that does not come"),
    pytest.param(answer(b"HTTP/1.1 101 a\r\nX: " + b"a" * 100_000), "ws", id="100 KB of head"),
    pytest.param(answer(b"HTTP/1.1 101 a\r\n" + b"X: a\r\n" * 20_000), "ws", id="100 KB of headers"),
    pytest.param(answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 100), "ws", id="a hundred times 100"),
    pytest.param(answer(b"HTTP/1.1 101 a\r\nX: a\0\r\n\r\n"), "ws", id="U+0000 in a header"),
    pytest.param(answer(b"HTTP/1.1 101 \x1b[2J\r\n\x1b: a\r\n\r\n"), "ws", id="escapes in the head"),
    pytest.param(answer(b"SSH-2.0-OpenSSH\r\n\r\n"), "ws", id="another protocol"),
    pytest.param(answer(b"\0" * 100), "ws", id="zeros"),
    pytest.param(
        answer(b"HTTP/1.1 101 a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n"),
        "ws", id="an answer to another key",
    ),
    pytest.param(lambda connection: accept(connection, subprotocol=b"\x1b[2J"), "ws", id="another subprotocol"),
    pytest.param(
        lambda connection: accept(connection, b"Sec-WebSocket-Extensions: permessage-deflate\r\n"), "ws",
        id="compression that was not offered",
    ),
    pytest.param(inside(b"\x82\x04\x20\x02\x00\x09"), "ws", id="a CONNACK that is none"),
    pytest.param(inside(b"\x82\x05" + b"\x30\xff\xff\xff\x7f"), "ws", id="a huge packet instead of the CONNACK"),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize(("script", "scheme"), BEFORE)
def test_attacks_before_the_connack(serve, kind, script, scheme):
    url = f"{scheme}://127.0.0.1:{serve(script).port}" + ("/mqtt?X-Amz-Signature=c4n4ry" if "ws" in scheme else "")
    error = attempt(kind, url)
    assert isinstance(error, (mqttws.ConnectError, mqttws.RemoteProtocolError)), repr(error)
    assert str(error).isprintable()
    assert "c4n4ry" not in str(error) + repr(error)


AFTER = [
    pytest.param(b"\x81\x04text", id="text"),
    pytest.param(b"\x82\x82\0\0\0\0\xd0\0", id="masked"),
    pytest.param(b"\xc2\x02\xd0\0", id="RSV1"),
    pytest.param(b"\x83\x00", id="opcode 3"),
    pytest.param(b"\x89\x7e\x00\x7e" + bytes(126), id="a ping of 126 bytes"),
    pytest.param(b"\x09\x00", id="a fragmented ping"),
    pytest.param(b"\x80\x00", id="a continuation of nothing"),
    pytest.param(b"\x82\x7f\xff" + bytes(7), id="an absurd length"),
    pytest.param(b"\x82\x05\x90\xff\xff\xff\x7f", id="a huge packet that is no message"),
    pytest.param(b"\x82\x04" + ConnAck(0).encode(), id="a second CONNACK"),
    pytest.param(b"\x82\x02\xc0\x00", id="a PINGREQ"),
    pytest.param(b"\x82\x06\x30\x04\x00\x02\xff\xfe", id="a topic that is no UTF-8"),
    pytest.param(b"\x82\x05\x30\x03\x00\x01+", id="a topic with a wildcard"),
    pytest.param(b"\x88\x08\x03\xe8\x1b[2J\x9b\x07", id="a close with escapes"),
    pytest.param(b"\x88\x02\x03\xe8", id="a close in order"),
]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("frames", AFTER)
def test_attacks_after_the_connack(serve, kind, frames):
    error = attempt(kind, f"ws://127.0.0.1:{serve(inside(frames, connected=True)).port}/mqtt")
    assert isinstance(error, (mqttws.ConnectionClosed, mqttws.RemoteProtocolError)), repr(error)
    assert str(error).isprintable()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(serve, kind, status):
    """A signed request must not be sent to a host that the server names."""
    elsewhere = serve(answer(b""))
    target = f"ws://127.0.0.1:{elsewhere.port}/mqtt"
    head = f"HTTP/1.1 {status} Moved\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n"
    error = attempt(kind, f"ws://127.0.0.1:{serve(answer(head.encode())).port}/mqtt")
    assert isinstance(error, mqttws.HandshakeRejected)
    assert error.status == status
    assert dict(error.headers)["location"] == target
    assert not elsewhere.connections


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_an_unresponsive_server(serve, kind):
    error = attempt(kind, f"mqtt://127.0.0.1:{serve(mqtt(b'')).port}", keep_alive=1, ping_timeout=0.2)
    assert isinstance(error, mqttws.KeepAliveTimeout)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_announced_lengths_take_no_memory(serve, kind):
    script = mqtt(b"\x30\xf0\xff\xff\x1f\x00\x01a")  # almost 64 MiB, the default maximum of a client
    port = serve(script).port
    tracemalloc.start()
    try:
        error = attempt(kind, f"mqtt://127.0.0.1:{port}", keep_alive=1, ping_timeout=0.2)
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert isinstance(error, mqttws.KeepAliveTimeout)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_flood_for_a_blocked_consumer(serve, kind):
    """Reading stops; buffered bytes are bounded by `max_inbound_bytes` and one read."""
    sent = threading.Event()

    def script(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(ConnAck(0).encode())
        connection.settimeout(1.0)
        try:
            for _ in range(2_000):
                connection.sendall(Publish("a", bytes(1000)).encode() * 64)  # 128 MB in all
        except TimeoutError:
            sent.set()

    server = serve(script)
    url, options = f"mqtt://127.0.0.1:{server.port}", {"reconnect": False, "max_inbound_bytes": 100_000, "proxy": None}

    async def with_asyncio() -> None:
        async with mqttws.aio.connect(url, **options):
            await asyncio.get_running_loop().run_in_executor(None, sent.wait, PATIENCE)

    tracemalloc.start()
    try:
        if kind == "asyncio":
            asyncio.run(with_asyncio())
        else:
            with mqttws.connect(url, **options):
                sent.wait(PATIENCE)
        assert sent.is_set()
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_million_tiny_frames(serve, kind):
    script = inside(b"\x82\x00" * 1_000_000 + b"\x81\x00", connected=True)  # the last is text, which is an error
    error = attempt(kind, f"ws://127.0.0.1:{serve(script).port}/mqtt", timeout=PATIENCE)
    assert isinstance(error, mqttws.RemoteProtocolError), repr(error)


def test_descriptors_and_threads_are_released(serve):
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    port = serve(answer(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")).port
    attempt("blocking", f"ws://127.0.0.1:{port}/")
    attempt("asyncio", f"ws://127.0.0.1:{port}/")
    server = serve(answer(b"nonsense\r\n\r\n"))
    before, threads = descriptors(), set(threading.enumerate())
    for kind in ("blocking", "asyncio"):
        for _ in range(20):
            attempt(kind, f"ws://127.0.0.1:{server.port}/")
    wait_until(lambda: descriptors() - len(server.connections) <= before and set(threading.enumerate()) <= threads)


# --- TLS ---


def tls_server(identity: Any) -> Script:
    context = identity.server_context()

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            seen.append(secure.recv(100))

    seen: list[bytes] = []
    script.seen = seen  # type: ignore[attr-defined]
    return script


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("scheme", ["wss", "mqtts"])
def test_nothing_is_sent_to_a_server_with_an_unknown_certificate(serve, kind, scheme):
    from mqttws.testing import mint_authority

    authority, other = mint_authority(), mint_authority()
    for identity, trusted in (
        (authority.issue("127.0.0.1"), None),
        (authority.issue("127.0.0.1"), other),
        (authority.issue("elsewhere.example"), authority),
    ):
        script = tls_server(identity)
        options = {} if trusted is None else {"tls": trusted.client_context()}
        error = attempt(kind, f"{scheme}://127.0.0.1:{serve(script).port}", **options)
        assert isinstance(error, mqttws.CertificateError)
        assert script.seen == []


def test_verification_is_the_default():
    context = mqttws.tls_context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    context = mqttws.tls_context(insecure_no_verification=True)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2


def old_tls(side: int) -> ssl.SSLContext:
    """Return a context that supports at most TLS 1.1."""
    context = ssl.SSLContext(side)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    return context


def hello(address: tuple[str, int]) -> str:
    """Do a handshake with such a client, and return the negotiated version."""
    context = old_tls(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection(address, timeout=PATIENCE) as connection, context.wrap_socket(connection) as secure:
        return str(secure.version())


def old_server(serve: Callable[[Script], Server], tmp_path: Path) -> Server:
    authority = mqttws.testing.mint_authority()
    identity = authority.issue("127.0.0.1")
    (tmp_path / "both.pem").write_bytes(identity.key + identity.certificate)
    context = old_tls(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "both.pem")

    def script(connection: socket.socket) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            secure.recv(100)

    return serve(script)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("scheme", ["wss", "mqtts"])
def test_a_server_of_tls_1_1_is_refused(serve, tmp_path, kind, scheme):
    server = old_server(serve, tmp_path)
    assert hello(("127.0.0.1", server.port)) == "TLSv1.1"  # two old peers can connect
    context = mqttws.tls_context(insecure_no_verification=True)
    context.set_ciphers("ALL:@SECLEVEL=0")  # so that only its version is refused, not its ciphers
    error = attempt(kind, f"{scheme}://127.0.0.1:{server.port}", tls=context)
    assert isinstance(error, mqttws.ConnectError)
    assert "version" in str(error).lower()


def test_a_client_of_tls_1_1_is_refused_by_a_broker(caplog):
    context = mqttws.testing.mint_authority().issue("127.0.0.1").server_context()
    context.set_ciphers("ALL:@SECLEVEL=0")
    with Broker(tls=context, wss_port=0, mqtts_port=0, sys_interval=None) as broker:
        for scheme in ("wss", "mqtts"):
            parts = urlsplit(broker.url_of(scheme))
            with pytest.raises(OSError):  # SSLError or a reset: asyncio closes without an alert
                hello((str(parts.hostname), int(parts.port or 0)))
    assert caplog.text.count("UNSUPPORTED_PROTOCOL") == 2


def test_verification_is_disabled_in_one_place_only():
    """And every context sets its minimum version."""
    root = Path(mqttws.__file__).parents[1]
    sources = {
        path: path.read_text() for package in ("mqttws", "pubsub", "sigv4") for path in (root / package).rglob("*.py")
    }
    off = [path.name for path, text in sources.items() if "CERT_NONE" in text or "check_hostname = False" in text]
    # With a pre-shared key there is no certificate: the key authenticates the server.
    assert sorted(off) == ["tls.py", "tls.py"]
    (shared_key,) = (text for path, text in sources.items() if path.parts[-3:] == ("pubsub", "cli", "tls.py"))
    body = shared_key.partition("def _use_pre_shared_key(")[2].partition("\ndef ")[0]
    for switch in ("CERT_NONE", "check_hostname = False"):
        assert shared_key.count(switch) == body.count(switch) == 1
    assert not any("_create_unverified_context" in text for text in sources.values())
    making = re.compile(r"= ssl\.(SSLContext|create_default_context)\(")
    for path, text in sources.items():
        assert len(making.findall(text)) <= text.count(".minimum_version = ssl.TLSVersion.TLSv1_2"), path


# --- Arguments ---


@pytest.mark.parametrize("character", ["\r", "\n", "\0", "\r\nX: a", "é", "\u2028", " ", "\x7f", "\ud800"])
@pytest.mark.parametrize("where", ["ws://{}host/", "ws://host/{}", "ws://host/?{}", "ws://u{}:p@host/", "{}ws://host/"])
def test_invalid_characters_in_a_url_are_refused_before_anything_is_sent(character, where):
    with pytest.raises(ValueError, match="the URL") as caught:
        mqttws.connect(where.format(character))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("bad", ["a\rb", "a\nb", "a\r\nX: b", "a\0b", "é", "\u2028"])
@pytest.mark.parametrize("part", ["name", "value"])
def test_invalid_characters_in_a_header_are_refused_before_anything_is_sent(serve, kind, bad, part):
    received: list[bytes] = []
    server = serve(lambda connection: received.append(connection.recv(100)))
    headers = [(bad, "c4n4ry")] if part == "name" else [("X-Token", f"c4n4ry{bad}")]
    with pytest.raises(ValueError, match="headers") as caught:
        attempt(kind, f"ws://127.0.0.1:{server.port}/", headers=headers)
    assert "c4n4ry" not in str(caught.value)
    server.stop()
    assert received in ([], [b""])
