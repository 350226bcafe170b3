"""Clients that say nothing, or one byte now and then, at each stage of a connection."""

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
def test_a_tls_handshake_that_drips(attack, dial, pem, scheme):
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


def test_an_upgrade_that_drips(attack, dial):
    victim = attack(limits=QUICK)
    drip(dial(victim, "ws"), HEAD)
    victim.until_logged("the client sent no CONNECT within 0.5 s")


def test_a_websocket_in_which_nothing_is_said(attack, wire):
    victim = attack(limits=QUICK)
    peer = wire(victim, "ws")
    assert peer.rest() == b""


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
def test_a_connect_that_drips(attack, wire, scheme):
    victim = attack(limits=QUICK)
    peer = wire(victim, scheme)
    data = b"\x10\xff\x7f" + CONNECT[2:] + bytes(9000)
    if scheme == "ws":
        data = b"\x82\xfe\x7f\xff\0\0\0\0" + data
    drip(peer.socket, data)
    victim.until_logged("the client sent no CONNECT within 0.5 s")


@pytest.mark.parametrize("scheme", ["ws", "mqtt"])
@pytest.mark.parametrize("keep_alive", [0, 1, 60])
def test_a_packet_that_drips(attack, join, scheme, keep_alive):
    """Each byte is a sign of life for the keep alive, so that alone would go on for ever."""
    victim = attack(limits=QUICK)
    peer = join(victim, scheme=scheme, keep_alive=keep_alive)
    data = b"\x30\xff\xff\x3e\x00\x01a" + bytes(9000)
    if scheme == "ws":
        data = b"\x82\xff" + (1_000_000).to_bytes(8, "big") + bytes(4) + data
    drip(peer.socket, data)
    victim.until_logged("a packet was not complete 0.5 s after its first byte")


def test_websocket_frames_without_a_packet_are_no_sign_of_life(attack, join):
    """A frame's header that drips, empty messages and pings: the keep alive counts bytes of MQTT."""
    victim = attack()
    for data in (b"\x82\xff" + (10).to_bytes(8, "big"), b"\x82\x80\0\0\0\0", b"\x89\x80\0\0\0\0"):
        peer = join(victim, scheme="ws", keep_alive=1)
        drip(peer.socket, data * 1000 if len(data) < 10 else data[:1] + data[1:9])


def test_a_large_packet_may_take_its_time(attack, join):
    """The bound is on one packet, not on a stream of them, and pieces within it are fine."""
    victim = attack(limits={"packet_timeout": 5.0})
    peer = join(victim, keep_alive=1)
    packet = b"\x30\x80\x80\x01\x00\x01a" + bytes(16384 - 3)
    for start in range(0, len(packet), 2048):
        peer.socket.sendall(packet[start : start + 2048])
        time.sleep(0.25)
    peer.quiet()


def test_many_at_once(attack, dial, wire):
    """A hundred silent connections on each listener: all are closed, and a client that comes meanwhile is served."""
    victim = attack(limits={"connect_timeout": 1.0})
    silent = [dial(victim, scheme) for scheme in ("ws", "mqtt") for _ in range(100)]
    victim.control.served()
    assert victim.metrics()["clients/connected"] == 1
    newcomer = wire(victim, "ws").connect("newcomer")
    newcomer.quiet()
    for connection in silent:
        assert ended(connection) == b""


def test_a_client_that_does_not_close_after_it_was_refused(attack, dial):
    """We close, it does not: it is given a moment, and then cut off."""
    victim = attack()
    connection = dial(victim)
    connection.sendall(b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x3c\x00\x00")  # an unknown protocol level
    assert connection.recv(100) == b"\x20\x02\x00\x01"
    assert connection.recv(100) == b""  # its half is closed; ours is not, and goes on
    end = time.monotonic() + PATIENCE
    with suppress(BrokenPipeError, ConnectionResetError):
        while time.monotonic() < end:
            connection.sendall(b"x")
            time.sleep(0.001)
        raise AssertionError("still open")
