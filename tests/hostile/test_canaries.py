"""No secret is shown on any error path, with logging at DEBUG.

Each secret contains the word `c4n4ry`. The tests search for it in every log record with its traceback, every exception
(text, repr, arguments, traceback, pickle, with its causes), the repr of objects, and the output of commands.
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import traceback
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from wire import PATIENCE

import mqttws
import mqttws.aio
from mqttws import ConnAck, Connect
from mqttws.broker import Broker, Users, hash_password
from mqttws.client.proxy import choose_proxy
from mqttws.client.url import parse_url
from mqttws.testing import mint_authority
from pubsub import AWSIoTProvider, MqttOverWSProvider, PubSub
from sigv4 import Credentials, presign_iot_url

WORD = "c4n4ry"
#: Possible encodings of the word.
SPELLINGS = (WORD, b64encode(f"u:{WORD}".encode()).decode(), quote(WORD), WORD.encode().hex(), WORD.upper())

QUERY = f"X-Amz-Signature={WORD}&X-Amz-Security-Token={WORD}"
OPTIONS: dict[str, Any] = {"reconnect": False, "timeout": 2.0, "proxy": None}


class Cage:
    """Collects texts and searches them for the word."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        self.texts: list[str] = []

    def add(self, *things: object) -> None:
        for thing in things:
            self.texts += [str(thing), repr(thing)]
            if isinstance(thing, BaseException):
                self.texts += traceback.format_exception(thing)
                self.texts.append(repr(thing.__dict__))
                self.texts.append(repr(thing.args))
                self.texts.append(pickle.dumps(thing).decode("latin-1"))
                for other in (thing.__cause__, thing.__context__):
                    if other is not None and not thing.__suppress_context__:
                        self.add(other)

    def check(self) -> None:
        formatter = logging.Formatter("%(name)s %(message)s")
        texts = self.texts + [formatter.format(record) for record in self._caplog.records]
        texts += [repr(record.args) for record in self._caplog.records]
        assert texts, "no text was collected"
        for text in texts:
            for spelling in SPELLINGS:
                assert spelling not in text, text


@pytest.fixture
def cage(caplog: pytest.LogCaptureFixture) -> Iterator[Cage]:
    caplog.set_level(logging.DEBUG)
    cage = Cage(caplog)
    yield cage
    cage.check()


def test_a_secret_is_found_in_every_place(caplog: pytest.LogCaptureFixture) -> None:
    """A test of these tests: a secret is found in every place."""
    caplog.set_level(logging.DEBUG)
    try:
        raise ValueError(WORD)
    except ValueError as error:
        fault = error
    log = logging.getLogger("anything")
    for say in (
        lambda cage: cage.add(fault),
        lambda cage: cage.add({"password": WORD}),
        lambda cage: cage.add(b64encode(f"u:{WORD}".encode()).decode()),
        lambda cage: log.debug("url %s", WORD),
        lambda cage: log.error("it failed", exc_info=fault),
    ):
        caplog.clear()
        cage = Cage(caplog)
        say(cage)
        with pytest.raises(AssertionError):
            cage.check()


# --- the client ---


def serve(stack: Any, respond: Callable[[socket.socket], None]) -> int:
    """Serve one connection in a thread, and return the port."""
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    listener.settimeout(PATIENCE)

    def run() -> None:
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(PATIENCE)
                respond(connection)
                while connection.recv(65536):
                    pass
        except OSError:
            pass

    def wake() -> None:
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # no client connected

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    stack.callback(thread.join, PATIENCE)
    stack.callback(wake)
    return int(listener.getsockname()[1])


def say(data: bytes) -> Callable[[socket.socket], None]:
    def respond(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)

    return respond


def attempt(kind: str, url: Any, cage: Cage, **options: Any) -> None:
    """Connect, wait for the end, and collect all texts."""
    options = OPTIONS | options
    states: list[object] = []
    options["on_state"] = states.append

    async def with_asyncio() -> None:
        client = mqttws.aio.Client(url, **options)
        cage.add(client)
        try:
            async with client:
                cage.add(client)
                async for _ in client.messages(timeout=PATIENCE):
                    pass
        finally:
            cage.add(client, client.state)

    def blocking() -> None:
        client = mqttws.Client(url, **options)
        cage.add(client)
        try:
            with client:
                cage.add(client)
                for _ in client.messages(timeout=PATIENCE):
                    pass
        finally:
            cage.add(client, client.state)

    try:
        asyncio.run(with_asyncio()) if kind == "asyncio" else blocking()
    except Exception as error:
        cage.add(error)
    cage.add(*states)


ANSWERS = [
    b"",
    b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 500 No\r\n\r\nclosed",
    b"HTTP/1.1 101 a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: AAAA\r\n\r\n",
    b"nonsense\r\n\r\n",
    b"\0\0\0\r\n\r\n",
    b"a" * 20_000,
]


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("answer", range(len(ANSWERS)))
def test_a_client_whose_upgrade_fails(cage, stack, kind, answer):
    port = serve(stack, say(ANSWERS[answer]))
    url = f"ws://user:{WORD}@127.0.0.1:{port}/mqtt?{QUERY}"
    attempt(kind, url, cage, headers=[("Authorization", f"Bearer {WORD}")])


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("answer", [b"", ConnAck(4).encode(), ConnAck(0).encode(), b"\x20\x02\x00\x09", b"\xff" * 9])
def test_a_client_whose_connection_ends(cage, stack, kind, answer):
    port = serve(stack, say(answer))
    attempt(kind, f"mqtt://user:{WORD}@127.0.0.1:{port}", cage)
    port = serve(stack, say(answer))
    attempt(kind, lambda: f"mqtt://127.0.0.1:{port}", cage, username="user", password=WORD)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
def test_a_client_that_cannot_connect(cage, stack, kind):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    attempt(kind, f"ws://user:{WORD}@127.0.0.1:{port}/?{QUERY}", cage)
    attempt(kind, f"wss://user:{WORD}@name.invalid/?{QUERY}", cage)
    authority = mint_authority()
    context = authority.issue("elsewhere.example").server_context()

    def tls(connection: socket.socket) -> None:
        context.wrap_socket(connection, server_side=True).close()

    url = f"wss://user:{WORD}@127.0.0.1:{serve(stack, tls)}/?{QUERY}"
    attempt(kind, url, cage, tls=authority.client_context())
    reconnect = mqttws.Reconnect(initial=0.01, attempts=2)
    attempt(kind, f"ws://user:{WORD}@127.0.0.1:{port}/?{QUERY}", cage, reconnect=reconnect)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("answer", [b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n", b""])
def test_a_client_behind_a_proxy(cage, stack, kind, answer):
    url = f"wss://user:{WORD}@broker.example/?{QUERY}"
    for scheme in ("http", "socks5"):
        port = serve(stack, say(answer))
        attempt(kind, url, cage, proxy=f"{scheme}://u:{WORD}@127.0.0.1:{port}")
    attempt(kind, url, cage, proxy=f"http://u:{WORD}@127.0.0.1:99999")
    cage.add(choose_proxy(f"http://u:{WORD}@127.0.0.1:{port}", parse_url(url)))


BAD_URLS = [
    f"ws://user:{WORD}@host/ ?{QUERY}",
    f"http://user:{WORD}@host/?{QUERY}",
    f"user:{WORD}@host/?{QUERY}",
    f"ws://user:{WORD}@host:99999/?{QUERY}",
    f"ws://user:{WORD}@host:x/?{QUERY}",
    f"ws://user:{WORD}@/?{QUERY}",
    f"ws:///?{QUERY}",
    f"ws://host?{QUERY}#{WORD}",
    f"mqtt://user:{WORD}@host/path?{QUERY}",
    f"ws://a@user:{WORD}@host/?{QUERY}",
    f"ws://user:{WORD}é@host/?{QUERY}",
    f"ws:user:{WORD}@host",
    f"//user:{WORD}@host?{QUERY}",
    f"ws://user:{WORD}/p@host/?{QUERY}",
    f"ws://user:{WORD}?p@host/?{QUERY}",
]


@pytest.mark.parametrize("url", BAD_URLS)
def test_an_invalid_url(cage, url):
    for kind in ("blocking", "asyncio"):
        attempt(kind, url, cage)
        attempt(kind, lambda: url, cage)


def test_invalid_options(cage):
    for options in (
        {"username": "u" * 70_000, "password": WORD},
        {"username": None, "password": WORD},
        {"username": "\0", "password": WORD},
        {"username": "u", "password": WORD * 20_000},
        {"username": "u", "password": WORD, "client_id": "c\0"},
        {"username": "u", "password": WORD, "keep_alive": 70_000},
    ):
        attempt("blocking", "mqtt://host", cage, **options)


@pytest.mark.parametrize("kind", ["blocking", "asyncio"])
@pytest.mark.parametrize("bad", ["X-Tok\n", "é"])
def test_an_invalid_header(cage, stack, kind, bad):
    url = f"ws://127.0.0.1:{serve(stack, say(b''))}/?{QUERY}"
    attempt(kind, url, cage, headers=[("Authorization", WORD + bad)])


def test_objects_that_hold_secrets(cage):
    url = f"wss://user:{WORD}@host/mqtt?{QUERY}"
    keys = Credentials("ASIAEXAMPLE", f"{WORD}-secret", f"{WORD}-token")
    cage.add(
        parse_url(url),
        Connect("c", username="u", password=WORD.encode()),
        keys,
        repr(presign_iot_url("wss://a-ats.iot.eu-west-1.amazonaws.com/mqtt", keys)),
        MqttOverWSProvider(url),
        AWSIoTProvider(aws_pubsub_endpoint="a-ats.iot.eu-west-1.amazonaws.com", credentials=keys),
        Users({"user": hash_password(WORD)}),
        mint_authority().issue(WORD.upper()[:3]),
    )


# --- the broker ---


@pytest.mark.parametrize("answer", [False, "raise", "slow"])
def test_a_broker_that_refuses(cage, stack, answer):
    async def authenticate(peer: Any, connect: Any) -> bool:
        cage.add(peer, connect)
        if answer == "raise":
            raise LookupError("no such user")
        return False

    def upgrade(peer: Any) -> Any:
        cage.add(peer)
        if answer == "slow":
            raise LookupError("no such token")

    broker = stack.enter_context(Broker(authenticator=authenticate, on_upgrade=upgrade))
    for url in (f"{broker.url}?{QUERY}", broker.url_of("mqtt")):
        url = url.replace("://", f"://user:{WORD}@")
        attempt("blocking", url, cage, headers=[("Authorization", f"Bearer {WORD}")])


def test_malformed_requests_to_a_broker(cage, stack):
    """A CONNECT that is cut or changed at every byte, and an upgrade request that is cut at every line."""
    users = Users({"user": hash_password("other")})
    broker = stack.enter_context(Broker(authenticator=users))
    connect = Connect("c", username="user", password=WORD.encode()).encode()
    head = (
        f"GET /mqtt?{QUERY} HTTP/1.1\r\nHost: a\r\nAuthorization: {WORD}\r\nCookie: {WORD}\r\nOrigin: http://a\r\n\r\n"
    )
    floods = [connect]
    floods += [
        connect[:position] + bytes((connect[position] ^ 0x5A,)) + connect[position + 1 :] for position in range(14)
    ]
    for data in floods:
        with socket.create_connection(("127.0.0.1", int(broker.url_of("mqtt").rpartition(":")[2]))) as peer:
            peer.settimeout(PATIENCE)
            peer.sendall(data)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
    port = int(broker.url.split(":")[2].partition("/")[0])
    lines = head.split("\r\n")
    for left_out in range(len(lines)):
        with socket.create_connection(("127.0.0.1", port)) as peer:
            peer.settimeout(PATIENCE)
            peer.sendall("\r\n".join(lines[:left_out] + lines[left_out + 1 :]).encode() + b"\r\n")
            peer.shutdown(socket.SHUT_WR)
            answer = b""
            while more := peer.recv(4096):
                answer += more
            cage.add(answer)


def test_an_invalid_users_file(cage, tmp_path):
    path = tmp_path / "users"
    for text in (f"user:scrypt$1$1$1$AA==${WORD}", f"user {WORD}", f"user:{WORD}", f"user:md5$1$1$1$AA==${WORD}"):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"users, line 1|the hash of user") as caught:
            Users.load(path)
        cage.add(caught.value)


# --- PubSub ---


@pytest.mark.parametrize(
    "endpoint", ["{host}", "wss://{host}/mqtt", "no endpoint", f"wss://u:{WORD}@{{host}}/?{QUERY}"]
)
def test_pubsub_over_aws_iot(cage, stack, endpoint):
    host = f"127.0.0.1:{serve(stack, say(b''))}"
    keys = Credentials("ASIAEXAMPLE", f"{WORD}-secret", f"{WORD}-token")
    try:
        provider = AWSIoTProvider(
            aws_pubsub_endpoint=endpoint.format(host=host), aws_pubsub_region="eu-west-1", credentials=keys
        )
        cage.add(provider)
        with PubSub(provider) as ps:
            cage.add(ps)
            ps.publish("a", 1, timeout=1.0)
    except Exception as error:
        cage.add(error)


def test_pubsub_over_websocket(cage, stack):
    for answer in ANSWERS[:3]:
        port = serve(stack, say(answer))
        try:
            with PubSub(MqttOverWSProvider(f"ws://user:{WORD}@127.0.0.1:{port}/?{QUERY}")) as ps:
                cage.add(ps)
                ps.publish("a", 1, timeout=1.0)
        except Exception as error:
            cage.add(error)


# --- the commands ---


@pytest.mark.parametrize(
    "words",
    [
        ["sub", f"ws://user:{WORD}@127.0.0.1:1/mqtt?{QUERY}", "a", "-d"],
        ["sub", f"wss://user:{WORD}@name.invalid/mqtt?{QUERY}", "a", "-d", "-H", f"Authorization: {WORD}"],
        ["sub", f"http://user:{WORD}@127.0.0.1/mqtt?{QUERY}", "a"],
        ["sub", "ws://127.0.0.1:1/", "a", "-u", "user", "-P", WORD, "-d"],
        ["sub", "ws://127.0.0.1:1/", "a", "-u", "user", "-d"],
        ["pub", f"mqtt://user:{WORD}@127.0.0.1:1", "a", "-m", "x", "-d"],
        ["bench", f"ws://user:{WORD}@127.0.0.1:1/mqtt?{QUERY}", "-d", "-H", f"Authorization: {WORD}"],
        ["bench", f"http://user:{WORD}@127.0.0.1/mqtt?{QUERY}", "--json"],
        ["pub", f"mqtt://user:{WORD}@127.0.0.1:x", "a", "-m", "x", "-d"],
        ["sub", "ws://127.0.0.1:1/", "a", "-H", f"Authorization {WORD}"],
    ],
)
def test_commands(cage, words):
    environment = os.environ | {
        "PUBSUB_PASSWORD": WORD,
        "HTTPS_PROXY": f"http://u:{WORD}@127.0.0.1:1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    command = [sys.executable, "-X", "dev", "-W", "ignore", "-m", "pubsub", *words, "--timeout", "2"]
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=PATIENCE * 3, check=False
    )
    assert process.returncode in (1, 2, 3), process.stderr
    assert process.stderr
    cage.add(process.stdout, process.stderr)


def test_no_source_line_shows_a_secret():
    """No source line logs or formats a URL, a query, a header or a password directly."""
    roots = [Path(module.__file__ or "").parent for module in (mqttws, sys.modules["pubsub"], sys.modules["sigv4"])]
    for path in (path for root in roots for path in root.rglob("*.py")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if "log." in line or "logger." in line:
                for bad in ("password", "target", "headers", ".query", "secret", "token"):
                    assert bad not in line, f"{path}:{number}: {line.strip()}"
