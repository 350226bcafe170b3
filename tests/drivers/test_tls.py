"""TLS, with a generated CA: which servers are trusted, client certificates, session resumption; an untrusted server
receives nothing.
"""

from __future__ import annotations

import contextlib
import gc
import random
import socket
import ssl
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from drivers import PATIENCE, States
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import End

from mqttws import CertificateError, ConnAck, Connect, ConnectError, Publish, tls_context
from mqttws.broker import Broker
from mqttws.client import tls
from mqttws.client.layers import Link
from mqttws.client.tls import TLSMemory, TLSPipe
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.outgoing import LONG
from mqttws.protocol.plain import Framing
from mqttws.protocol.session import Session
from mqttws.tap.tls import TLSLayer
from mqttws.testing import Authority, mint_authority

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def authority() -> Authority:
    return mint_authority()


class TLSServer:
    """A server for one connection: does the handshake and stores its parameters; the test does the rest."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE)
        self.port = self._listener.getsockname()[1]
        self._context = context
        context.sni_callback = self._name_asked_for
        self.name: str | None = None
        self.error: ssl.SSLError | OSError | None = None
        self.said = b""
        self.socket: ssl.SSLSocket | None = None
        self.ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _name_asked_for(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        self.name = name

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        connection.settimeout(PATIENCE)
        try:
            self.socket = self._context.wrap_socket(connection, server_side=True)
            self.said = self.socket.recv(65536)
        except OSError as error:
            self.error = error
            connection.close()
        self.ready.set()

    def url(self, scheme: str = "mqtts", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}"

    def end(self) -> End:
        """Return the connection as the `End` of a script."""
        assert self.ready.wait(PATIENCE)
        assert self.socket is not None, self.error
        end = End(self.socket, websocket=False)
        end._packets.extend(end._decoder.feed(self.said))
        return end

    def close(self) -> None:
        self._thread.join(PATIENCE)
        self._listener.close()
        if self.socket is not None:
            self.socket.close()


@pytest.fixture
def listen(request: pytest.FixtureRequest) -> Iterator[Callable[[ssl.SSLContext], TLSServer]]:
    servers: list[TLSServer] = []

    def listen(context: ssl.SSLContext) -> TLSServer:
        servers.append(TLSServer(context))
        return servers[-1]

    yield listen
    for server in servers:
        server.close()


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_everything_works_over_tls(make: Make, authority: Authority, scheme: str) -> None:
    server = authority.issue("127.0.0.1").server_context()
    with Broker(wss_port=0, mqtts_port=0, tls=server) as broker:
        client = make(broker.url_of(scheme), tls=authority.client_context())
        client.open()
        assert client.subscribe("a/#", 2) == 2
        payload = bytes(range(256)) * 4_000  # many TLS records
        for qos in (0, 1, 2):
            client.publish("a/b", payload, qos)
        taken = [next(client.messages(timeout=PATIENCE)) for _ in range(3)]
        assert [(message.payload == payload, message.qos) for message in taken] == [(True, 0), (True, 1), (True, 2)]
        client.close()


@pytest.mark.parametrize(
    "identity",
    [
        lambda authority: authority.issue("other.test"),
        lambda authority: authority.issue("127.0.0.1", days=-1),
        lambda authority: mint_authority().issue("127.0.0.1"),
    ],
    ids=["wrong name", "expired", "unknown authority"],
)
@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_an_untrusted_server_receives_nothing(make: Make, listen, authority: Authority, identity, scheme: str) -> None:
    server = listen(identity(authority).server_context())
    client = make(server.url(scheme), client_id="c", username="ada", password="secret", tls=authority.client_context())
    with pytest.raises(CertificateError, match="cannot be trusted"):
        client.open()
    assert client.state.name == "disconnected"
    assert server.ready.wait(PATIENCE)
    assert server.said == b""
    assert isinstance(server.error, ssl.SSLError)  # only the alert arrived, in every TLS version


def test_a_certificate_that_becomes_invalid_ends_the_client_with_end_on(
    closed_port: int, make: Make, authority: Authority
) -> None:
    states = States()
    trust = authority.client_context()
    with Broker(wss_port=closed_port, tls=authority.issue("127.0.0.1").server_context()) as broker:
        client = make(broker.url_of("wss"), tls=trust, on_state=states, end_on=CertificateError)
        client.open()
    stranger = mint_authority().issue("127.0.0.1").server_context()
    with Broker(wss_port=closed_port, tls=stranger), pytest.raises(CertificateError):
        list(client.messages(timeout=PATIENCE))
    assert isinstance(states.wait("disconnected").error, CertificateError)
    assert states.names[-2:] == ["connecting", "disconnected"]


@pytest.mark.parametrize("options", [{}, {"tls": None}, {"tls": True}])
def test_without_a_context_the_system_authorities_are_used(
    make: Make, listen, authority: Authority, options: Any
) -> None:
    server = listen(authority.issue("127.0.0.1").server_context())
    with pytest.raises(CertificateError):
        make(server.url(), **options).open()


def test_the_name_is_sent_and_an_address_is_not(make: Make, listen, authority: Authority) -> None:
    for host, name in (("localhost", "localhost"), ("127.0.0.1", None)):
        server = listen(authority.issue("localhost", "127.0.0.1").server_context())
        opening = threading.Thread(target=make(server.url(host=host), tls=authority.client_context()).open)
        opening.start()
        server.end().welcome()
        opening.join(PATIENCE)
        assert server.name == name


def test_the_name_has_no_trailing_dot(
    make: Make, listen, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An absolute name is looked up as it is; SNI and the certificate have it without the dot. Spec: RFC 6066 §3."""
    looked_up = []

    def resolve(host: str, port: int, **options: Any) -> Any:
        looked_up.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    server = listen(authority.issue("broker.test").server_context())
    opening = threading.Thread(target=make(server.url(host="broker.test."), tls=authority.client_context()).open)
    opening.start()
    server.end().welcome()
    opening.join(PATIENCE)
    assert server.name == "broker.test"
    assert looked_up == ["broker.test."]


def test_a_tap_asks_for_the_same_name(authority: Authority) -> None:
    names: list[str | None] = []
    context = authority.issue("broker.test").server_context()
    context.sni_callback = lambda connection, name, context: names.append(name)
    near, far = TLSLayer(context), TLSLayer(authority.client_context(), "broker.test.")
    for _ in range(3):
        near.receive_data(far.data_to_send())
        far.receive_data(near.data_to_send())
    assert near.established
    assert names == ["broker.test"]


def test_alpn_protocols_are_offered(make: Make, listen, authority: Authority, tmp_path) -> None:
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    context = authority.issue("127.0.0.1").server_context()
    context.set_alpn_protocols(["x-amzn-mqtt-ca"])
    server = listen(context)
    client = make(server.url(), tls=tls_context(ca_file=tmp_path / "ca.pem", alpn=["x-amzn-mqtt-ca"]))
    opening = threading.Thread(target=client.open)
    opening.start()
    server.end().welcome()
    opening.join(PATIENCE)
    assert server.socket is not None
    assert server.socket.selected_alpn_protocol() == "x-amzn-mqtt-ca"


def test_a_client_certificate_is_presented(make: Make, listen, authority: Authority, tmp_path) -> None:
    context = authority.issue("127.0.0.1").server_context(client_authority=authority.certificate)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    certificate, key = authority.issue(common_name="device", identity_for="client").write(tmp_path, "device")
    server = listen(context)
    tls = tls_context(ca_file=tmp_path / "ca.pem", certificate=certificate, key=key)
    opening = threading.Thread(target=make(server.url(), tls=tls).open)
    opening.start()
    server.end().welcome()
    opening.join(PATIENCE)
    assert server.socket is not None
    assert server.socket.getpeercert()["subject"] == ((("commonName", "device"),),)


def test_a_missing_client_certificate_is_reported(make: Make, listen, authority: Authority) -> None:
    server = listen(authority.issue("127.0.0.1").server_context(client_authority=authority.certificate))
    with pytest.raises(ConnectError, match=r"(?i)certificate_?required|handshake"):
        make(server.url(), tls=authority.client_context()).open()


@pytest.mark.parametrize(
    ("answer", "words"),
    [(b"", "closed the connection during the TLS handshake"), (b"220 mail.test ESMTP\r\n", "TLS handshake failed")],
    ids=["closes", "uses another protocol"],
)
def test_a_server_without_tls_is_an_error(make: Make, authority: Authority, answer: bytes, words: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(PATIENCE)

        def serve() -> None:
            with listener.accept()[0] as connection:
                connection.settimeout(PATIENCE)
                connection.recv(65536)
                connection.sendall(answer)

        serving = threading.Thread(target=serve)
        serving.start()
        with pytest.raises(ConnectError, match=words):
            make(f"mqtts://127.0.0.1:{listener.getsockname()[1]}", tls=authority.client_context()).open()
        serving.join(PATIENCE)


@pytest.mark.parametrize("scheme", ["mqtts", "wss"])
def test_an_unresponsive_server_times_out_in_the_handshake(make: Make, authority: Authority, scheme: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"{scheme}://127.0.0.1:{listener.getsockname()[1]}"
        client = make(url, tls=authority.client_context(), timeout=0.2)
        with pytest.raises(ConnectError, match="did not answer within"):
            client.open()
        assert client.state.name == "disconnected"


def test_a_reconnect_resumes_the_tls_session(make: Make, authority: Authority) -> None:
    with Broker(mqtts_port=0, tls=authority.issue("127.0.0.1").server_context()) as broker:
        states = States()
        client = make(broker.url_of("mqtts"), tls=authority.client_context(), on_state=states)
        client.open()
        assert resumed(client) is False
        for connections in (2, 3):  # a ticket is used once; each connection brings another
            client.publish("a", b"", 1)
            client.reconnect_now()
            states.wait("connected", connections)
            client.publish("a", b"", 1)
            assert resumed(client) is True


def test_a_session_is_offered_only_to_its_server(authority: Authority) -> None:
    memory = TLSMemory(authority.client_context())
    server = authority.issue("localhost", "127.0.0.1").server_context()
    first = memory.pipe("localhost", 1, 0.0)
    shake(first, server)
    assert first.session is not None
    for host, port in (("127.0.0.1", 1), ("localhost", 2)):
        other = memory.pipe(host, port, 0.0)
        assert other.session is None
        assert not shake(other, server).session_reused
    again = memory.pipe("localhost", 1, 0.0)
    assert again.session is not None
    assert shake(again, server).session_reused


def test_a_session_survives_only_attempts_that_reach_no_server(authority: Authority) -> None:
    memory = TLSMemory(authority.client_context())
    server = authority.issue("localhost").server_context()
    shake(memory.pipe("localhost", 1, 0.0), server)
    assert memory.pipe("localhost", 1, 0.0).session is not None  # there was no TCP connection
    failing = memory.pipe("localhost", 1, 0.0)
    failing.receive_data(b"")
    with pytest.raises(ConnectError, match="the TLS handshake failed"):
        failing.receive_data(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert failing.session is None
    assert not shake(memory.pipe("localhost", 1, 0.0), server).session_reused


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_not_resumed_by_a_context_that_verifies_since(
    authority: Authority, version: ssl.TLSVersion
) -> None:
    """A resumed handshake verifies no certificate, so an untrusted server would be accepted."""
    context = tls_context(insecure_no_verification=True)
    context.maximum_version = version
    memory, server = TLSMemory(context), authority.issue("localhost").server_context()
    first = memory.pipe("localhost", 1, 0.0)
    shake(first, server)
    assert first.session is not None
    context.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(CertificateError):
        shake(memory.pipe("localhost", 1, 0.0), server)


@pytest.mark.parametrize(
    "change",
    [
        lambda context: setattr(context, "check_hostname", False),
        lambda context: setattr(context, "verify_flags", ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_TRUSTED_FIRST),
        lambda context: context.load_verify_locations(cadata=mint_authority().certificate.decode()),
    ],
    ids=["hostname", "flags", "authority"],
)
def test_a_session_is_not_resumed_if_its_context_verifies_differently(
    authority: Authority, change: Callable[[ssl.SSLContext], object]
) -> None:
    context = authority.client_context()
    context.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
    memory, server = TLSMemory(context), authority.issue("localhost").server_context()
    shake(memory.pipe("localhost", 1, 0.0), server)
    change(context)
    assert memory.pipe("localhost", 1, 0.0).session is None


def test_a_certificate_is_verified_again_each_day(authority: Authority) -> None:
    memory, server = TLSMemory(authority.client_context()), authority.issue("localhost").server_context()
    hours = (0, 8, 16, 24, 32)
    reused = [shake(memory.pipe("localhost", 1, 1_000.0 + 3_600 * hour), server).session_reused for hour in hours]
    assert reused == [False, True, True, False, True]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_is_offered_once_to_a_server_that_then_closes(authority: Authority, version: ssl.TLSVersion) -> None:
    """Otherwise a server that fails on a session, and closes, would be offered it at every attempt."""
    context = authority.client_context()
    context.maximum_version = version
    memory, server = TLSMemory(context), authority.issue("localhost").server_context()
    shake(memory.pipe("localhost", 1, 0.0), server)
    closing = memory.pipe("localhost", 1, 0.0)
    closing.receive_data(b"")
    assert closing.session is not None  # not sent yet
    assert closing.data_to_send()
    assert closing.session is None
    assert not shake(memory.pipe("localhost", 1, 0.0), server).session_reused


def test_the_sessions_of_few_servers_are_kept(authority: Authority) -> None:
    memory = TLSMemory(authority.client_context())
    for port in range(100):
        memory.pipe("localhost", port, 0.0)
    assert len(memory._last) == 8


def test_the_system_authorities_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(tls, "tls_context", lambda: made.append(None) or ssl.create_default_context())
    memory = TLSMemory(None)
    assert not made
    for port in range(3):
        memory.pipe("localhost", port, 0.0)
    assert len(made) == 1


@pytest.mark.parametrize("records", [1, 2, 50])
@pytest.mark.parametrize("size", [0, 1, 100, 16_384])
def test_tls_records_received_together_are_decrypted(authority: Authority, records: int, size: int) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    plain = [bytes((number,)) * size for number in range(records)]
    for piece in plain:
        server.write(piece)
    pipe.receive_data(server.sent())
    assert plaintext(pipe) == b"".join(plain)


@pytest.mark.parametrize("step", [1, 7, 1_000])
def test_tls_records_received_in_pieces_are_decrypted(authority: Authority, step: int) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    for number in range(5):
        server.write(bytes((number,)) * 300)
    server.unwrap()
    cipher = server.sent()
    came = []
    for start in range(0, len(cipher), step):
        assert not pipe.eof
        pipe.receive_data(cipher[start : start + step])
        came.append(plaintext(pipe))
    assert b"".join(came) == b"".join(bytes((number,)) * 300 for number in range(5))
    assert pipe.eof


def test_records_are_decrypted_together_until_it_is_enough(authority: Authority) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    for number in range(5):
        server.write(bytes((number,)) * 300)
    pipe.receive_data(server.sent())
    assert [len(pipe.read(enough)) for enough in (1, 300, 301, 1_000)] == [300, 300, 600, 300]
    assert not pipe.readable


@pytest.mark.parametrize("size", [1, 299, 300, 301, 1_500])
def test_plaintext_is_written_into_a_buffer(authority: Authority, size: int) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    plain = bytes(range(250)) * 6
    for start in range(0, len(plain), 300):
        server.write(plain[start : start + 300])
    pipe.receive_data(server.sent())
    came = b""
    while pipe.readable:
        buffer = bytearray(size)
        count = pipe.read_into(memoryview(buffer))
        assert count == min(size, len(plain) - len(came))
        came += buffer[:count]
    assert came == plain
    assert pipe.read_into(memoryview(bytearray(size))) == 0
    server.unwrap()
    pipe.receive_data(server.sent())
    assert pipe.read_into(memoryview(bytearray(size))) == 0
    assert pipe.eof


def test_long_plaintext_is_encrypted_in_pieces(authority: Authority) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    data = bytes(range(256)) * (4 * LONG // 256) + b"rest"
    pipe.send(data)
    pieces = []
    while pipe.plaintext:
        pieces.append(pipe.data_to_send())
        assert not pipe._outgoing.pending
    assert pipe.data_to_send() == b""
    assert len(pieces) == 4
    assert all(LONG < len(piece) < LONG + 1_000 for piece in pieces)
    assert server.receive(b"".join(pieces)) == data
    pipe.send(b"short")
    assert server.receive(pipe.data_to_send()) == b"short"
    assert not pipe.plaintext


def test_modified_ciphertext_is_an_error(authority: Authority) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    server.write(bytes(100))
    cipher = server.sent()
    pipe.receive_data(cipher[:-1] + bytes((cipher[-1] ^ 1,)))
    for _ in range(2):
        assert pipe.readable
        with pytest.raises(ConnectError, match="the TLS connection failed"):
            pipe.read(LONG)
    with pytest.raises(ConnectError, match="the TLS connection failed"):
        pipe.read_into(memoryview(bytearray(1)))


def test_a_failed_layer_needs_no_garbage_collector(authority: Authority) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    server.write(bytes(100))
    cipher = server.sent()
    pipe.receive_data(cipher[:-1] + bytes((cipher[-1] ^ 1,)))
    with contextlib.suppress(ConnectError):
        pipe.read(LONG)
    left = weakref.ref(pipe)
    gc.disable()
    try:
        del pipe
        assert left() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("into", [True, False])
def test_what_came_before_modified_ciphertext_is_not_lost(authority: Authority, into: bool) -> None:
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    server.write(b"first")
    server.write(b"second")
    server.write(bytes(100))
    cipher = server.sent()
    pipe.receive_data(cipher[:-1] + bytes((cipher[-1] ^ 1,)))
    buffer = bytearray(20)
    came = buffer[: pipe.read_into(memoryview(buffer))] if into else pipe.read(LONG)
    assert came == b"firstsecond"
    assert pipe.readable
    with pytest.raises(ConnectError, match="the TLS connection failed"):
        pipe.read(LONG)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.sampled_from((0, 1, 500, LONG - 10, LONG, 2 * LONG + 7, 300_000)), min_size=1, max_size=6),
    seed=st.integers(0, 1 << 32),
)
def test_messages_are_delivered_whole_however_they_are_divided(
    authority: Authority, sizes: list[int], seed: int
) -> None:
    """Into records and into reads, with payloads that are decrypted into their places and others in between."""
    pipe = TLSPipe(authority.client_context(), "localhost", 0.0)
    server = shake(pipe, authority.issue("localhost").server_context())
    link = Link(ClientConnection(ClientMachine(Connect("c"), Session()), Framing(), 0.0), 0.0, tls=pipe)
    chance = random.Random(seed)
    sent = [Publish("a/b", chance.randbytes(size)) for size in sizes]
    stream = ConnAck().encode() + b"".join(each.encode() for each in sent)
    while stream:
        size = chance.choice((1, 100, 5_000, 16_384, 16_384, 16_384))
        server.write(stream[:size])
        stream = stream[size:]
    cipher = server.sent()
    server.receive(link.data_to_send(0.0))  # CONNECT
    while cipher:
        size = chance.choice((1, 1_000, 16_000, LONG, LONG, 4 * LONG))
        link.receive_data(cipher[:size], 0.0)
        cipher = cipher[size:]
    events = list(link.connection.events())
    assert link.connection.error is None
    assert [event for event in events if isinstance(event, Publish)] == sent


class ServerEnd:
    """The server side of a `TLSPipe`, in memory."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self.write = self._tls.write
        self.sent = self._outgoing.read

    def receive(self, data: bytes) -> bytes:
        self._incoming.write(data)
        plaintext = b""
        while self._incoming.pending or self._tls.pending():
            plaintext += self._tls.read(len(data))
        return plaintext

    @property
    def session_reused(self) -> bool | None:
        return self._tls.session_reused

    def shake_hands(self, data: bytes) -> bytes:
        self._incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.do_handshake()
        return self.sent()

    def unwrap(self) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            self._tls.unwrap()


def plaintext(pipe: TLSPipe) -> bytes:
    """Return all the plaintext that has arrived."""
    pieces = []
    while pipe.readable:
        pieces.append(pipe.read(LONG))
    return b"".join(pieces)


def shake(pipe: TLSPipe, context: ssl.SSLContext) -> ServerEnd:
    """Do the handshake, and deliver the session tickets to the client."""
    server = ServerEnd(context)
    pipe.receive_data(b"")
    while True:
        answer = server.shake_hands(pipe.data_to_send())
        if not answer:
            break
        pipe.receive_data(answer)
        assert plaintext(pipe) == b""
    assert pipe.established
    return server


def resumed(client: Any) -> bool | None:
    link = getattr(client, "client", client)._core.link
    assert link is not None
    reused: bool | None = link._tls._tls.session_reused
    return reused
