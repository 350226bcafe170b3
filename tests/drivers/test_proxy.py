"""HTTP proxies: which one is used, the CONNECT request, and that only the proxy receives its credentials."""

from __future__ import annotations

import base64
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from drivers import PATIENCE

from mqttws import ConnectError
from mqttws.broker import Broker
from mqttws.client.proxy import ENVIRONMENT, choose_proxy
from mqttws.client.url import parse_url
from mqttws.testing import Authority, mint_authority

Make = Callable[..., Any]


class Proxy:
    """A proxy for one connection: answers its CONNECT with given bytes, and forwards bytes to a given target.

    Args:
        answer: the response to CONNECT; b"" closes the connection instead.
        target: host and port; None closes the connection after the answer.
        drip: the number of bytes of the answer to send at a time.
    """

    def __init__(self, answer: bytes, target: tuple[str, int] | None = None, drip: int = 65536) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]
        self.asked = b""
        self._answer, self._target, self._drip = answer, target, drip
        self._stack = ExitStack()
        self._threads = [threading.Thread(target=self._run)]
        self._threads[0].start()

    def _run(self) -> None:
        client = self._stack.enter_context(self._listener.accept()[0])
        client.settimeout(PATIENCE)
        while b"\r\n\r\n" not in self.asked:
            asked = client.recv(65536)
            if not asked:  # the client gave up
                return
            self.asked += asked
        for start in range(0, len(self._answer), self._drip):
            try:
                client.sendall(self._answer[start : start + self._drip])
            except ConnectionError:  # the client has refused the answer before its end
                break
        if self._target is None:
            client.close()
            return
        server = self._stack.enter_context(socket.create_connection(self._target, timeout=PATIENCE))
        back = threading.Thread(target=self._carry, args=(server, client))
        self._threads.append(back)
        back.start()
        self._carry(client, server)

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self) -> None:
        for thread in self._threads:
            thread.join(PATIENCE)
        self._stack.close()
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Callable[..., Proxy]]:
    proxies: list[Proxy] = []

    def start(*arguments: Any, **options: Any) -> Proxy:
        proxies.append(Proxy(*arguments, **options))
        return proxies[-1]

    yield start
    for each in proxies:
        each.close()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return mint_authority()


@pytest.fixture
def broker(authority: Authority) -> Iterator[Broker]:
    tls = authority.issue("127.0.0.1", "broker.test").server_context()
    with Broker(wss_port=0, mqtts_port=0, tls=tls) as broker:
        yield broker


def port_of(url: str) -> int:
    return parse_url(url).port


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("scheme", ["ws", "wss", "mqtt", "mqtts"])
@pytest.mark.parametrize("drip", [1, 65536])
def test_connect_through_a_tunnel(
    make: Make, proxy, broker: Broker, authority: Authority, scheme: str, drip: int
) -> None:
    port = port_of(broker.url_of(scheme))
    tunnel = proxy(b"HTTP/1.1 200 Connection established\r\n\r\n", ("127.0.0.1", port), drip)
    # The proxy resolves the name.
    tls = authority.client_context() if scheme in ("wss", "mqtts") else None
    url = broker.url_of(scheme).replace("127.0.0.1", "broker.test")
    client = make(url, proxy=f"http://127.0.0.1:{tunnel.port}", tls=tls)
    client.open()
    client.subscribe("a", 1)
    client.publish("a", b"x" * 100_000, 1)
    assert next(client.messages(timeout=PATIENCE)).payload == b"x" * 100_000
    client.close()
    host = b"broker.test:%d" % port
    assert tunnel.asked.startswith(b"CONNECT %s HTTP/1.1\r\nHost: %s\r\n" % (host, host))
    assert b"roxy-Auth" not in tunnel.asked


def test_credentials_are_sent_only_to_the_proxy(make: Make, proxy, broker: Broker, authority: Authority) -> None:
    seen: list[tuple[tuple[str, str], ...]] = []
    broker_tls = authority.issue("127.0.0.1").server_context()
    with Broker(wss_port=0, tls=broker_tls, on_upgrade=lambda peer: seen.append(peer.headers)) as inner:
        tunnel = proxy(b"HTTP/1.1 200 OK\r\n\r\n", ("127.0.0.1", port_of(inner.url_of("wss"))))
        client = make(
            inner.url_of("wss") + "?token=of-the-server",
            proxy=f"http://ada:love%2Flace@127.0.0.1:{tunnel.port}",
            tls=authority.client_context(),
            headers=[("Authorization", "of the server")],
        )
        client.open()
        client.close()
    word = base64.b64encode(b"ada:love/lace")
    assert b"\r\nProxy-Authorization: Basic " + word + b"\r\n" in tunnel.asked
    assert b"of-the-server" not in tunnel.asked
    assert b"of the server" not in tunnel.asked
    assert "proxy-authorization" not in dict(seen[0])
    assert dict(seen[0])["authorization"] == "of the server"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "HTTP status 407"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP status 502"),
        (b"HTTP/1.1 200 O", "closed the connection before it opened the tunnel"),
        (b"", "closed the connection before it opened the tunnel"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "is not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000, "is not HTTP"),
    ],
    ids=["407", "502", "cut midway", "cut", "no HTTP", "a head without an end"],
)
def test_a_refusal_of_the_proxy_is_an_error(make: Make, proxy, authority: Authority, answer: bytes, words: str) -> None:
    tunnel = proxy(answer)
    client = make(
        "wss://broker.test/mqtt?signature=secret",
        proxy=f"http://ada:lovelace@127.0.0.1:{tunnel.port}",
        tls=authority.client_context(),
    )
    with pytest.raises(ConnectError, match=words) as caught:
        client.open()
    assert "secret" not in str(caught.value) + repr(caught.value)
    assert "lovelace" not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize("scheme", ["http", "socks5h"])
def test_a_silent_proxy_is_named(make: Make, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ConnectError, match=r"the proxy did not open the tunnel within 0\.2 s"):
            make("mqtt://broker.example", proxy=proxy, timeout=0.2).open()


def test_an_unreachable_proxy_is_named(make: Make, closed_port: int) -> None:
    with pytest.raises(ConnectError, match=f"cannot connect to the proxy 127.0.0.1:{closed_port}: Connection refused"):
        make("wss://broker.test", proxy=f"http://ada:secret@127.0.0.1:{closed_port}").open()


def test_environment_variables_are_used(
    make: Make, proxy, broker: Broker, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = port_of(broker.url_of("wss"))
    tunnel = proxy(b"HTTP/1.1 200 OK\r\n\r\n", ("127.0.0.1", port))
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{tunnel.port}")
    client = make(f"wss://broker.test:{port}/mqtt", tls=authority.client_context())
    client.open()
    client.close()
    assert tunnel.asked.startswith(b"CONNECT broker.test:%d " % port)


@pytest.mark.parametrize(
    ("url", "no_proxy", "asked"),
    [
        ("wss://broker.test/mqtt", "", True),
        ("wss://broker.test/mqtt", "other.test", True),
        ("wss://broker.test/mqtt", "broker.test", False),
        ("wss://a.broker.test/mqtt", ".broker.test", False),
        ("wss://a.broker.test/mqtt", "x, broker.test ,y", False),
        ("wss://broker.test:8443/mqtt", "broker.test:8443", False),
        ("wss://broker.test/mqtt", "*", False),
        ("ws://broker.test/mqtt", "", False),
        ("mqtt://broker.test", "", False),
        ("mqtts://broker.test", "", False),
    ],
)
@pytest.mark.parametrize("name", ["HTTPS_PROXY", "https_proxy"])
def test_which_hosts_use_a_proxy(
    monkeypatch: pytest.MonkeyPatch, name: str, url: str, no_proxy: str, asked: bool
) -> None:
    monkeypatch.setenv(name, "http://u:p@proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    chosen = choose_proxy(ENVIRONMENT, parse_url(url))
    assert (chosen is not None) == asked
    if chosen is not None:
        assert (chosen.host, chosen.port) == ("proxy.test", 3128)
        assert chosen.credentials == (b"u", b"p")
        assert "Basic" not in repr(chosen)


@pytest.mark.parametrize(
    ("setting", "host", "port"),
    [("http://proxy.test", "proxy.test", 80), ("proxy.test:3128", "proxy.test", 3128), ("http://[::1]:1", "::1", 1)],
)
def test_valid_proxy_settings(setting: str, host: str, port: int) -> None:
    chosen = choose_proxy(setting, parse_url("mqtt://broker.test"))
    assert chosen is not None
    assert (chosen.host, chosen.port, chosen.credentials) == (host, port, None)


@pytest.mark.parametrize(
    "setting",
    [
        "https://proxy.test",
        "socks4://proxy.test",
        "http://",
        "http://proxy.test:0",
        "http://u:secret@proxy.test:x",
        "http://u:\uff1asecret@proxy.test:8080",
        "http://u:secret\u2100@proxy.test:8080",
        "http://u:secret@[proxy.test:8080",
        "http://u:secret@pr\u00f6xy.test:8080",
        "u:secret]@proxy.test",
    ],
)
def test_invalid_proxy_settings_are_refused(make: Make, setting: str, caplog: pytest.LogCaptureFixture) -> None:
    states: list[Any] = []
    with pytest.raises(ConnectError, match="not of the form") as caught:
        make("mqtt://broker.test", proxy=setting, on_state=states.append).open()
    shown = "".join(traceback.format_exception(caught.value))
    assert "secret" not in shown + repr(states) + caplog.text
