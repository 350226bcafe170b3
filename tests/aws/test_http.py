"""HTTP POST requests, with scripted servers on loopback sockets, TLS servers, and proxies."""

from __future__ import annotations

import socket
import ssl
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pubsub.aws.http import Response, TransferError, check_url, post

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-One: a\r\nX-One: b\r\n\r\nhi"


def read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536) or b"\r\n\r\n"
    head, _, body = data.partition(b"\r\n\r\n")
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    length = int(lengths[0].partition(b":")[2]) if lengths else 0
    while len(body) < length:
        more = connection.recv(65536)
        assert more, "the client closed the connection within its request"
        body += more
    return head + b"\r\n\r\n" + body


class Peer:
    """A server that runs a script for each connection, and records the requests."""

    def __init__(self, script: Callable[[socket.socket, bytes], None], *, reads: bool = True) -> None:
        self._reads = reads
        self.requests: list[bytes] = []
        self.closed = threading.Event()
        self._script = script
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            with connection:
                if self.closed.is_set():
                    return
                connection.settimeout(10)
                try:
                    request = b""
                    if self._reads:
                        request = read_request(connection)
                        self.requests.append(request)
                    self._script(connection, request)
                except OSError:
                    pass  # the client closed the connection; the test checks its error

    def close(self) -> None:
        self.closed.set()
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(30)
        self._listener.close()
        assert not self._thread.is_alive()


@pytest.fixture
def peer_of() -> Iterator[Callable[[Callable[[socket.socket, bytes], None] | bytes], Peer]]:
    peers: list[Peer] = []

    def make(script: Callable[[socket.socket, bytes], None] | bytes) -> Peer:
        peers.append(Peer((lambda to, _: to.sendall(script)) if isinstance(script, bytes) else script))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


PeerOf = Callable[[Callable[[socket.socket, bytes], None] | bytes], Peer]


def test_the_request_is_sent_and_the_answer_is_read(peer_of: PeerOf) -> None:
    peer = peer_of(OK)
    answer = post(f"http://127.0.0.1:{peer.port}/path?q=1", {"X-Mine": "yes"}, b"body")
    assert answer == Response(200, {"content-length": "2", "x-one": "b"}, b"hi")
    head, _, body = peer.requests[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /path?q=1 HTTP/1.1"
    assert f"Host: 127.0.0.1:{peer.port}".encode() in lines
    assert b"X-Mine: yes" in lines
    assert b"Content-Length: 4" in lines
    assert body == b"body"


def test_redirects_are_not_followed(peer_of: PeerOf) -> None:
    elsewhere = peer_of(OK)
    peer = peer_of(
        f"HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:{elsewhere.port}/\r\nContent-Length: 0\r\n\r\n".encode()
    )
    assert post(f"http://127.0.0.1:{peer.port}/", {}, b"secret").status == 307
    assert elsewhere.requests == []


def test_chunks_are_joined(peer_of: PeerOf) -> None:
    peer = peer_of(b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n")
    answer = post(f"http://127.0.0.1:{peer.port}/", {}, b"")
    assert (answer.status, answer.body) == (400, b"abc")


def test_the_body_is_not_in_the_repr() -> None:
    assert repr(Response(200, {"x": "secret"}, b"secret")) == "Response(status=200, 6 bytes)"


@pytest.mark.parametrize("head", ["Content-Length: 101\r\n", ""])
def test_too_long_an_answer_is_an_error(head: str, peer_of: PeerOf) -> None:
    peer = peer_of(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode() + b"x" * 101)
    where = f"127.0.0.1:{peer.port}"
    with pytest.raises(TransferError, match=f"^the answer from {where} has more than 100 bytes$"):
        post(f"http://{where}/", {}, b"", most=100)


def test_an_unresponsive_server_times_out(peer_of: PeerOf) -> None:
    peer = peer_of(lambda to, _: to.recv(1) and None)
    with pytest.raises(TransferError, match=rf"^no answer from 127\.0\.0\.1:{peer.port} within 0\.2 s$"):
        post(f"http://127.0.0.1:{peer.port}/", {}, b"", timeout=0.2)


HEADS = [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n"]


@pytest.mark.parametrize(
    ("head", "proxied"), [*((head, False) for head in HEADS), *((head, True) for head in HEADS[:2])]
)
def test_a_slow_server_or_proxy_times_out(
    head: bytes, proxied: bool, peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = threading.Event()

    def drip(to: socket.socket, _: bytes) -> None:
        to.sendall(head)
        to.settimeout(0.05)
        for _ in range(200):  # ten seconds, if the client does not close
            to.sendall(b"x")
            try:
                if not to.recv(1):
                    break
            except TimeoutError:
                pass
        else:
            return
        left.set()

    peer = peer_of(drip)
    url = f"http://127.0.0.1:{peer.port}/"
    if proxied:
        monkeypatch.setenv("https_proxy", url)
        url = "https://service.test/"
    with pytest.raises(TransferError, match=r"within 0\.3 s"):
        post(url, {}, b"", timeout=0.3)
    assert left.wait(30)


def test_several_addresses_share_the_time(peer_of: PeerOf, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    peer, seconds = peer_of(OK), []
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in (closed_port, peer.port)]
    with monkeypatch.context() as patched:
        lookup, connect = socket.getaddrinfo, socket.create_connection
        patched.setattr(
            socket, "getaddrinfo", lambda host, *a, **o: found if host == "h.test" else lookup(host, *a, **o)
        )
        patched.setattr(socket, "create_connection", lambda to, most: (seconds.append(most), connect(to, most))[1])
        assert post("http://h.test/", {}, b"", timeout=8.0).body == b"hi"
        assert seconds[0] <= 4.0 < seconds[1] <= 8.0
        with pytest.raises(TransferError, match=r"^no answer from h\.test:80 within 0 s$"):
            post("http://h.test/", {}, b"", timeout=0.0)


def test_a_truncated_answer_is_an_error(peer_of: PeerOf) -> None:
    peer = peer_of(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhalf")
    with pytest.raises(TransferError, match=r"is not HTTP \(IncompleteRead\)"):
        post(f"http://127.0.0.1:{peer.port}/", {}, b"")


@pytest.mark.parametrize(
    "said",
    [
        b"SSH-2.0-x\r\n\r\n",
        b"",
        b"HTTP/1.1 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    ],
)
def test_an_answer_that_is_not_http_is_an_error(said: bytes, peer_of: PeerOf) -> None:
    peer = peer_of(said)
    with pytest.raises(TransferError, match=rf"from 127\.0\.0\.1:{peer.port} is not HTTP|cannot reach 127"):
        post(f"http://127.0.0.1:{peer.port}/", {}, b"")


def test_a_closed_port_is_an_error(closed_port: int) -> None:
    with pytest.raises(TransferError, match=rf"^cannot reach 127\.0\.0\.1:{closed_port}: Connection refused$"):
        post(f"http://127.0.0.1:{closed_port}/", {}, b"")


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://h/", "h/path", "https://", "http://:80/", "https://user:pass@h/", "https://h:0/", "https://h:x/"),
        *(f"http://{'a' * 64}.test/", "http://a..b/", "http://./", "http://a b/", "http://\udcff/", "http://a\x7f/"),
        *("http://h/a b", "http://h/\xe9", "http://h/?\x7f"),
    ],
)
def test_an_invalid_url_is_an_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ValueError, match=r"^expected a URL such as https://host\[:port\]/path") as caught:
        check_url(url)
    assert "pass" not in str(caught.value)


# --- TLS ---


def tls_server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


class TLSPeer(Peer):
    def __init__(self, script: Callable[[socket.socket, bytes], None], certificate: Path) -> None:
        self._context = tls_server(certificate)

        def secured(connection: socket.socket, _: bytes) -> None:
            with self._context.wrap_socket(connection, server_side=True) as secure:
                request = read_request(secure)
                self.requests.append(request)
                script(secure, request)

        super().__init__(secured, reads=False)


@pytest.fixture
def tls_peer(certificate: Path) -> Iterator[TLSPeer]:
    peer = TLSPeer(lambda to, _: to.sendall(OK), certificate)
    yield peer
    peer.close()


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


def test_requests_over_tls(tls_peer: TLSPeer, certificate: Path) -> None:
    answer = post(f"https://127.0.0.1:{tls_peer.port}/", {}, b"body", context=trusting(certificate))
    assert answer.body == b"hi"
    assert tls_peer.requests[0].endswith(b"body")


def test_nothing_is_sent_to_a_server_with_an_untrusted_certificate(tls_peer: TLSPeer) -> None:
    where = f"127.0.0.1:{tls_peer.port}"
    with pytest.raises(TransferError, match=f"^the certificate of {where} is not trusted: self-signed"):
        post(f"https://{where}/", {}, b"secret")
    assert tls_peer.requests == []


def test_a_certificate_of_another_host_is_refused(tls_peer: TLSPeer, certificate: Path) -> None:
    with pytest.raises(TransferError, match="is not trusted: Hostname mismatch"):
        post(f"https://localhost:{tls_peer.port}/", {}, b"secret", context=trusting(certificate))
    assert tls_peer.requests == []


def test_an_unresponsive_tls_server_times_out(certificate: Path) -> None:
    peer = TLSPeer(lambda to, _: to.recv(1) and None, certificate)
    try:
        with pytest.raises(TransferError, match=r"within 0\.3 s"):
            post(f"https://127.0.0.1:{peer.port}/", {}, b"", timeout=0.3, context=trusting(certificate))
    finally:
        peer.close()


def test_a_server_without_tls_is_an_error() -> None:
    peer = Peer(lambda to, _: to.sendall(OK), reads=False)
    try:
        with pytest.raises(TransferError, match=rf"^cannot reach 127\.0\.0\.1:{peer.port}: \[SSL"):
            post(f"https://127.0.0.1:{peer.port}/", {}, b"", timeout=5)
    finally:
        peer.close()


# --- proxies ---

BASIC = b"Proxy-Authorization: Basic dTpwQHg="  # u:p@x


def test_plain_http_sends_the_whole_url_to_a_proxy(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = peer_of(OK)
    monkeypatch.setenv("http_proxy", f"http://u:p%40x@127.0.0.1:{proxy.port}")
    assert post("http://service.test:81/path", {}, b"body").body == b"hi"
    lines = proxy.requests[0].split(b"\r\n")
    assert lines[0] == b"POST http://service.test:81/path HTTP/1.1"
    assert b"Host: service.test:81" in lines
    assert BASIC in lines


def test_tls_goes_through_a_tunnel(
    peer_of: PeerOf, tls_peer: TLSPeer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tunnel(client: socket.socket, _: bytes) -> None:
        with socket.create_connection(("127.0.0.1", tls_peer.port), timeout=30) as server:
            client.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")

            def carry(source: socket.socket, sink: socket.socket) -> None:
                try:
                    while data := source.recv(65536):
                        sink.sendall(data)
                    sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass

            back = threading.Thread(target=carry, args=(server, client))
            back.start()
            carry(client, server)
            back.join(30)

    proxy = peer_of(tunnel)
    monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{proxy.port}")
    url = f"https://127.0.0.1:{tls_peer.port}/"
    assert post(url, {}, b"secret", context=trusting(certificate)).body == b"hi"
    assert proxy.requests[0].startswith(f"CONNECT 127.0.0.1:{tls_peer.port} ".encode())
    assert b"secret" not in proxy.requests[0]
    assert tls_peer.requests[0].endswith(b"secret")


def test_only_the_proxy_receives_its_credentials(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = peer_of(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    monkeypatch.setenv("https_proxy", f"http://u:p%40x@127.0.0.1:{proxy.port}")
    with pytest.raises(TransferError, match="407") as caught:
        post("https://service.test/", {}, b"")
    assert BASIC in proxy.requests[0]
    assert "p@x" not in str(caught.value)
    assert "dTpwQHg" not in str(caught.value)


def test_hosts_in_no_proxy_are_connected_directly(peer_of: PeerOf, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, service = peer_of(OK), peer_of(OK)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    post(f"http://127.0.0.1:{service.port}/", {}, b"")
    assert proxy.requests == []
    assert len(service.requests) == 1


@pytest.mark.parametrize("proxy", ["socks5://u:hunter2@127.0.0.1:1080", "http://u:hunter2@a..b", "u:hunter2@a b"])
def test_an_unsupported_proxy_is_an_error(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(TransferError, match=r"proxy for https is not http://host:port") as caught:
        post("https://service.test/", {}, b"")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://u:\uff1asecret@127.0.0.1:9", "http://u:secret\u2100@127.0.0.1:9"])
def test_the_message_of_the_standard_library_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    with pytest.raises(ValueError, match="expected a URL") as refused:
        check_url(url)
    monkeypatch.setenv("http_proxy", url)
    with pytest.raises(TransferError, match="proxy") as caught:
        post("http://127.0.0.1:9/", {}, b"")
    for error in (refused.value, caught.value):
        assert "secret" not in "".join(traceback.format_exception(error))
