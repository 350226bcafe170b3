"""Unix sockets, local addresses and SOCKS5 proxies, with both drivers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mqttws import ConnectError
from mqttws.broker import Broker, Peer
from mqttws.client.socks import SocksTunnel
from mqttws.client.url import parse_url

PATIENCE = 30.0
Make = Callable[..., Any]


class Relay:
    """A proxy: calls `greet` for each connection, and forwards bytes to the server socket that it returns."""

    def __init__(self, listener: socket.socket, greet: Callable[[socket.socket], socket.socket | None]) -> None:
        self._listener = listener
        self._greet = greet
        self._stack = ExitStack()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, run: Callable[..., None], *arguments: socket.socket) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client = self._stack.enter_context(self._listener.accept()[0])
            except OSError:
                return
            client.settimeout(PATIENCE)
            server = self._greet(client)
            if server is None:
                client.close()
                continue
            self._stack.enter_context(server)
            self._start(self._pump, client, server)
            self._start(self._pump, server, client)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE)
        self._stack.close()


@pytest.fixture
def relays() -> Iterator[Callable[..., Relay]]:
    made: list[Relay] = []

    def make(*arguments: Any) -> Relay:
        made.append(Relay(*arguments))
        return made[-1]

    yield make
    for relay in made:
        relay.close()


def to(url: str) -> socket.socket:
    endpoint = parse_url(url)
    return socket.create_connection((endpoint.host, endpoint.port), PATIENCE)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_connect_to_a_unix_socket(make: Make, relays: Callable[..., Relay], tmp_path: Path, scheme: str) -> None:
    path = str(tmp_path / "broker.sock")
    with Broker() as broker:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        relays(listener, lambda client: to(broker.url_of(scheme)))
        url = "ws://localhost/mqtt" if scheme == "ws" else "mqtt://nowhere.test"
        client = make(url, unix_socket=path).open()
        client.publish("a", "x", qos=1)
        client.close()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")
def test_a_missing_unix_socket_is_an_error(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "none.sock")
    with pytest.raises(ConnectError, match=r"none\.sock: No such file"):
        make("mqtt://localhost", unix_socket=path).open()


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_the_local_address_is_used(make: Make, scheme: str) -> None:
    peers: list[Peer] = []
    with Broker(on_connected=peers.append) as broker:
        client = make(broker.url_of(scheme), bind_address="127.0.0.7").open()
        client.publish("a", "x", qos=1)
        client.close()
    assert [peer.address[0] for peer in peers] == ["127.0.0.7"]


def test_a_foreign_local_address_is_an_error(make: Make) -> None:
    with Broker() as broker, pytest.raises(ConnectError, match=r"Cannot assign|assign requested"):
        make(broker.url, bind_address="192.0.2.1").open()


# SOCKS5, by the bytes of RFC 1928.


def exactly(client: socket.socket, expected: str) -> None:
    data = bytes.fromhex(expected)
    got = b""
    while len(got) < len(data):
        piece = client.recv(len(data) - len(got))
        if not piece:
            break
        got += piece
    assert got == data, got.hex(" ")


@pytest.mark.parametrize("drip", [False, True])
@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_connect_through_socks5_with_a_password(
    make: Make, relays: Callable[..., Relay], scheme: str, drip: bool
) -> None:
    wrong: list[BaseException] = []
    with Broker() as broker:

        def answer(client: socket.socket, data: str) -> None:
            raw = bytes.fromhex(data)
            for piece in [raw[at : at + 1] for at in range(len(raw))] if drip else [raw]:
                client.sendall(piece)

        def greet(client: socket.socket) -> socket.socket | None:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                exactly(client, "05 02 00 02")  # version 5, two methods: none, user and password
                answer(client, "05 02")
                exactly(client, "01 03 61 64 61 02 70 77")  # version 1, "ada", "pw"
                answer(client, "01 00")
                exactly(client, "05 01 00 03 0b 62 72 6f 6b 65 72 2e 74 65 73 74 0b b8")  # CONNECT broker.test:3000
                answer(client, "05 00 00 01 00 00 00 00 00 00")
            except BaseException as error:
                wrong.append(error)
                return None
            return to(broker.url_of(scheme))

        listener = socket.create_server(("127.0.0.1", 0))
        relays(listener, greet)
        proxy = f"socks5h://ada:pw@127.0.0.1:{listener.getsockname()[1]}"
        path = "/mqtt" if scheme == "ws" else ""
        client = make(f"{scheme}://broker.test:3000{path}", proxy=proxy).open()
        client.publish("a", "x", qos=1)
        client.close()
    assert wrong == []


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["05 ff"], "an authentication method"),
        (["05 02", "01 01"], "refused user name and password"),
        (["05 00", "05 05 00 01 00000000 0000"], "connection refused"),
        (["05 00", "05 7f 00 01 00000000 0000"], "reply 127"),
        (["48 54 54 50"], "not SOCKS5"),
        (["05 00", "04 00 00 01 00000000 0000"], "not SOCKS5"),
        (["05 00", ""], "closed the connection before it opened the tunnel"),
    ],
)
def test_a_refusal_of_a_socks5_proxy_is_an_error(
    make: Make, relays: Callable[..., Relay], answers: list[str], words: str
) -> None:
    def greet(client: socket.socket) -> None:
        for answer in answers:
            client.recv(1000)
            client.sendall(bytes.fromhex(answer))
        client.shutdown(socket.SHUT_WR)
        client.recv(1000)

    listener = socket.create_server(("127.0.0.1", 0))
    relays(listener, greet)
    with pytest.raises(ConnectError, match=words) as caught:
        make("mqtt://broker.test", proxy=f"socks5://ada:canary@127.0.0.1:{listener.getsockname()[1]}").open()
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "request_bytes"),
    [("10.1.2.3", "05 01 00 01 0a 01 02 03 07 5b"), ("[::1]", "05 01 00 04" + "00" * 15 + "01 07 5b")],
)
def test_ip_addresses_are_sent_as_addresses_to_socks5(host: str, request_bytes: str) -> None:
    tunnel = SocksTunnel(None, parse_url(f"mqtt://{host}"))
    assert tunnel.data_to_send() == bytes.fromhex("05 01 00")
    assert tunnel.receive_data(bytes.fromhex("05 00")) == b""
    assert tunnel.data_to_send() == bytes.fromhex(request_bytes)
    # A bound address of each type, followed by a byte of the server.
    for reply in ("05 00 00 03 02 61 62 00 00", "05 00 00 04" + "00" * 18, "05 00 00 01" + "00" * 6):
        again = SocksTunnel(None, parse_url(f"mqtt://{host}"))
        again.receive_data(bytes.fromhex("05 00"))
        assert again.receive_data(bytes.fromhex(reply) + b"rest") == b"rest"
        assert again.established
