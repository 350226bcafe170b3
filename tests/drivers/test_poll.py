"""The wait of the network thread for its sockets, by both of its ways."""

from __future__ import annotations

import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic

import pytest
from drivers import PATIENCE

from mqttws.poll import READ, WRITE, Poller
from mqttws.sockets import socket_module, socket_pair

Pair = tuple[socket.socket, socket.socket]

#: The program replaces a function after it has imported the client, and before it connects.
REPLACING = """
import errno, sys
from mqttws import ConnectError, connect
assert "socket" not in sys.modules
import socket

class Unreachable(socket.socket):
    def connect_ex(self, address):
        return errno.ENETUNREACH

socket.socket = Unreachable
try:
    connect("mqtt://127.0.0.1:1")
except ConnectError as error:
    print(error)
"""


@pytest.fixture(params=["poll", "select"])
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Poller:
    if request.param == "select":
        monkeypatch.delattr(select, "poll", raising=False)
    elif not hasattr(select, "poll"):
        pytest.skip("this system has no poll")
    return Poller()


@pytest.fixture
def pair() -> Iterator[Pair]:
    first, second = socket_pair()
    with first, second:
        yield first, second


def test_a_socket_is_ready_for_what_it_is_watched_for(
    poller: Poller, pair: tuple[socket.socket, socket.socket]
) -> None:
    first, second = pair
    poller.watch(first, READ)
    assert poller.wait(0.0) == []
    second.send(b"x")
    assert poller.wait(PATIENCE) == [first]
    poller.watch(second, READ)
    assert poller.wait(PATIENCE) == [first]
    poller.watch(second, READ | WRITE)
    assert set(poller.wait(PATIENCE)) == {first, second}
    poller.watch(first, 0)
    assert poller.watched == [second]
    assert poller.wait(None) == [second]


def test_an_ended_connection_is_ready(poller: Poller, pair: Pair) -> None:
    first, second = pair
    poller.watch(first, READ)
    second.close()
    assert poller.wait(PATIENCE) == [first]
    assert first.recv(1) == b""


def test_a_refused_connection_is_ready(poller: Poller, closed_port: int) -> None:
    with socket.socket() as refused:
        refused.setblocking(False)
        refused.connect_ex(("127.0.0.1", closed_port))
        poller.watch(refused, WRITE)
        assert poller.wait(PATIENCE) == [refused]
        assert refused.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0


def test_a_time_is_rounded_up(poller: Poller, pair: Pair) -> None:
    """A wait that ends early would be repeated without a pause until the time has come."""
    poller.watch(pair[0], READ)
    start = monotonic()
    assert poller.wait(0.0102) == []
    assert monotonic() - start >= 0.0102


def test_replaced_functions_of_socket_are_used() -> None:
    assert socket_module() is socket
    done = subprocess.run([sys.executable, "-c", REPLACING], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "cannot connect to 127.0.0.1:1: Network is unreachable\n"
