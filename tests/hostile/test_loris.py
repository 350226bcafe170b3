"""Clients that send nothing, or single bytes slowly, at each stage of a connection."""

from __future__ import annotations

import ssl
import time
from contextlib import suppress

import pytest
from hostile import CONNECT, drip, ended
from wire import PATIENCE

QUICK = {"connect_timeout": 0.5, "packet_timeout": 0.5}
HEAD = b"GET /mqtt HTTP/1.1\r\nHost: a\r\nX-Slow: " + b"a" * 10_000


@pytest.mark.parametrize("scheme", ["ws", "wss", "mqtt", "mqtts"])
def test_silence_from_the_start(attack, dial, pem, scheme):
    victim = attack(limits=QUICK, pem=str(pem))
    assert ended(dial(victim, scheme)) == b""


@pytest.mark.parametrize("scheme", ["wss", "mqtts"])
def test_a_slow_tls_handshake(attack, dial, pem, scheme):
    victim = attack(limits=QUICK, pem=str(pem))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    drip(dial(victim, scheme), outgoing.read())
    victim.until_logged("TLS handshake failed")


def test_silence_after_the_tls_handshake(attack, dial, pem, stack):
    victim = attack(limits=QUICK, pem=str(pem))
    context = ssl.create_default_context(cafile=None)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for scheme in ("wss", "mqtts"):
        connection = stack.enter_context(context.wrap_socket(dial(victim, scheme)))
        assert ended(connection) == b""


def test_a_slow_upgrade(attack, dial):
    victim = attack(limits=QUICK)
    drip(dial(victim, "ws"), HEAD)
    victim.until_logged("the client sent no CONNECT within 0.5 s")


def test_silence_after_the_upgrade(attack, wire):
    victim = attack(limits=QUICK)
    peer = wire(victim, "ws")
    assert peer.rest() == b""


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_a_slow_connect(attack, wire, scheme):
    victim = attack(limits=QUICK)
    peer = wire(victim, scheme)
    data = b"\x10\xff\x7f" + CONNECT[2:] + bytes(9000)
    if scheme == "ws":
        data = b"\x82\xfe\x7f\xff\0\0\0\0" + data
    drip(peer.socket, data)
    victim.until_logged("the client sent no CONNECT within 0.5 s")


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
@pytest.mark.parametrize("keep_alive", [0, 1, 60])
def test_a_slow_packet(attack, join, scheme, keep_alive):
    """Each byte resets the keep alive, which alone would allow this for ever."""
    victim = attack(limits={"packet_timeout": 0.5})
    peer = join(victim, scheme=scheme, keep_alive=keep_alive)
    data = b"\x30\xff\xff\x3e\x00\x01a" + bytes(9000)
    if scheme == "ws":
        data = b"\x82\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + data
    drip(peer.socket, data)
    victim.until_logged("a packet was not complete 0.5 s after its first byte")


def test_websocket_frames_without_a_packet_do_not_reset_the_keep_alive(attack, join):
    """A slow frame header, empty messages and pings: only bytes of MQTT reset the keep alive."""
    victim = attack()
    for data in (b"\x82\xff" + (10).to_bytes(8, "big"), b"\x82\x80\0\0\0\0", b"\x89\x80\0\0\0\0"):
        peer = join(victim, scheme="ws", keep_alive=1)
        drip(peer.socket, data * 1000 if len(data) < 10 else data[:1] + data[1:9])


def test_a_large_packet_may_be_slow(attack, join):
    """The bound applies to one packet, not to a stream, and pieces within it are accepted."""
    victim = attack(limits={"packet_timeout": 5.0})
    peer = join(victim, keep_alive=1)
    packet = b"\x30\x80\x80\x01\x00\x01a" + bytes(16384 - 3)
    for start in range(0, len(packet), 2048):
        peer.socket.sendall(packet[start : start + 2048])
        time.sleep(0.25)
    peer.quiet()


def test_many_silent_connections(attack, dial, wire):
    """A hundred idle connections on each listener: all are closed, and a client that connects meanwhile is served."""
    victim = attack(limits={"connect_timeout": 1.0})
    silent = [dial(victim, scheme) for scheme in ("ws", "mqtt") for _ in range(100)]
    victim.control.served()
    assert victim.metrics()["clients/connected"] == 1
    newcomer = wire(victim, "ws").connect("newcomer")
    newcomer.quiet()
    for connection in silent:
        assert ended(connection) == b""


def test_a_client_that_does_not_close_after_it_was_refused(attack, dial):
    """The broker closes its side, and after a while the whole connection."""
    victim = attack()
    connection = dial(victim)
    connection.sendall(b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x3c\x00\x00")  # an unknown protocol level
    assert connection.recv(100) == b"\x20\x02\x00\x01"
    assert connection.recv(100) == b""  # the broker's side is closed; the client keeps sending
    end = time.monotonic() + PATIENCE
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < end:
            connection.sendall(b"x")
            time.sleep(0.001)
        raise AssertionError("still open")
