"""Host names with several addresses: an unreachable one delays the first attempt little, and later ones not at all."""

from __future__ import annotations

import _socket
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from math import inf
from typing import Any

import pytest
from drivers import PATIENCE, States

from mqttws import ConnectError, Reconnect
from mqttws.broker import Broker
from mqttws.client.url import parse_url
from mqttws.poll import Poller
from mqttws.resolver import resolve
from mqttws.sync import dial

Make = Callable[..., Any]
Entry = tuple[Any, Any, int, str, Any]


def entry(host: str, port: int) -> Entry:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return (family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0) if ":" in host else (host, port))


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Entry]]:
    """Host names to resolve to the given addresses."""
    known: dict[str, list[Entry]] = {}
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        return known[host] if host in known else real(host, port, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return known


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port where connecting neither succeeds nor fails: the listener's backlog is full and it accepts nothing."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def port() -> Iterator[int]:
    with Broker() as broker:
        yield parse_url(broker.url_of("mqtt")).port


@pytest.mark.parametrize("first", ["black hole", "closed_port", "no such family"])
def test_an_unreachable_first_address_is_skipped(
    make: Make, names: dict[str, list[Entry]], black_hole: int, closed_port: int, port: int, first: str
) -> None:
    dead = {
        "black hole": entry("127.0.0.1", black_hole),
        "closed_port": entry("127.0.0.1", closed_port),
        "no such family": (12345, socket.SOCK_STREAM, 0, "", ("x", 1)),
    }[first]
    names["broker.test"] = [dead, entry("127.0.0.1", port)]
    client = make(f"mqtt://broker.test:{port}")
    client.open()
    assert client.state.name == "connected"


def test_a_name_is_resolved_again_at_each_attempt(make: Make, names: dict[str, list[Entry]], closed_port: int) -> None:
    """Every attempt resolves the name again; earlier answers are not cached."""
    states = States()
    with Broker(sys_interval=None) as old, Broker(sys_interval=None) as new:
        names["broker.test"] = [entry("127.0.0.1", parse_url(old.url_of("mqtt")).port)]
        client = make("mqtt://broker.test", client_id="c", on_state=states, reconnect=Reconnect(0.01, 0.05)).open()
        names["broker.test"] = [entry("127.0.0.1", closed_port)]  # in between, no server listens
        assert old.disconnect("c")
        states.wait("disrupted", 3)
        names["broker.test"] = [entry("127.0.0.1", parse_url(new.url_of("mqtt")).port)]
        states.wait("connected", 2)
        client.publish("t", b"x", 1)
        assert new.metrics()["clients/connected"] == 1
        assert old.metrics()["clients/connected"] == 0


def test_the_error_of_the_last_address_is_reported(make: Make, names: dict[str, list[Entry]], closed_port: int) -> None:
    names["broker.test"] = [entry("127.0.0.1", closed_port), entry("127.0.0.1", closed_port)]
    refused = f"cannot connect to broker.test:{closed_port}: .*(refused|Multiple exceptions)"
    with pytest.raises(ConnectError, match=refused):
        make(f"mqtt://broker.test:{closed_port}").open()


def test_addresses_that_never_answer(make: Make, names: dict[str, list[Entry]], black_hole: int) -> None:
    names["broker.test"] = [entry("127.0.0.1", black_hole)] * 2
    with pytest.raises(ConnectError, match=r"cannot connect to broker\.test:1883: .*"):
        make("mqtt://broker.test", timeout=0.4).open()


def test_an_unknown_name_is_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(ConnectError, match=r"cannot connect to broker\.test:1883: Name or service not known"):
        make("mqtt://broker.test").open()


@pytest.mark.parametrize("host", ["a..b", ".test", "x" * 64 + ".test"])
def test_an_invalid_name_is_an_error(make: Make, host: str) -> None:
    with pytest.raises(ValueError, match="empty or longer than 63"):
        make(f"mqtt://{host}")
    with pytest.raises(ConnectError, match="empty or longer than 63"):
        make(lambda: f"mqtt://{host}").open()
    with pytest.raises(ConnectError, match="not of the form"):
        make("mqtt://broker.test", proxy=f"http://{host}").open()


def test_a_hanging_resolver_does_not_block_other_clients(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def getaddrinfo(*arguments: Any, **options: Any) -> Any:
        go_on.wait(PATIENCE)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    client = make("mqtt://broker.test", timeout=0.2)
    try:
        with pytest.raises(ConnectError, match=r"cannot connect to broker\.test:1883"):
            client.open()
        assert client.state.name == "disconnected"
    finally:
        go_on.set()


def test_close_while_connecting(make: Make, black_hole: int) -> None:
    client = make(f"mqtt://127.0.0.1:{black_hole}")
    failures: list[BaseException] = []

    def open_client() -> None:
        try:
            client.open()
        except Exception as error:
            failures.append(error)

    opening = threading.Thread(target=open_client)
    opening.start()
    while client.state.name != "connecting":
        opening.join(0.01)
    client.close()
    opening.join(PATIENCE)
    assert client.state.name == "disconnected"
    assert "closed" in str(failures[0])


def test_both_families_take_turns(names: dict[str, list[Entry]]) -> None:
    six, four = [entry(f"::{n}", 1) for n in (1, 2, 3)], [entry(f"10.0.0.{n}", 1) for n in (1, 2)]
    names["broker.test"] = [*six, *four]
    assert [address[2][0] for address in resolve("broker.test", 1)] == [
        "::1",
        "10.0.0.1",
        "::2",
        "10.0.0.2",
        "::3",
    ]
    names["broker.test"] = [*four, *six]
    assert [address[2][0] for address in resolve("broker.test", 1)][:2] == ["10.0.0.1", "::1"]


class Distant(socket.socket):
    """A socket that is not connected immediately."""

    def getpeername(self) -> Any:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


@pytest.mark.parametrize("distant", [False, True])
def test_other_sockets_of_the_race_are_closed(
    names: dict[str, list[Entry]], black_hole: int, port: int, monkeypatch: pytest.MonkeyPatch, distant: bool
) -> None:
    """Step by step, with a simulated clock."""
    if distant:
        monkeypatch.setattr(socket, "socket", Distant)
    names["broker.test"] = [entry("127.0.0.1", black_hole), entry("127.0.0.1", port)]
    resolved = threading.Event()
    poller = Poller()
    dialer = dial.Dialer("broker.test", 1883, poller, resolved.set)
    assert resolved.wait(PATIENCE)
    assert dialer.advance(100.0) is None
    assert dialer.next_deadline() == 100.0 + dial.ATTEMPT_DELAY
    (first,) = poller.watched
    assert dialer.advance(100.1) is None
    assert poller.watched == [first]
    winner = dialer.advance(100.0 + dial.ATTEMPT_DELAY)
    assert dialer.next_deadline() is None
    if distant:
        assert winner is None
        assert len(poller.watched) == 2
        winner = dialer.advance(101.0, poller.wait(PATIENCE))
    assert winner is not None
    assert dialer.reached == (socket.AF_INET, socket.IPPROTO_TCP, ("127.0.0.1", port))
    with winner:
        assert _socket.socket.getpeername(winner) == ("127.0.0.1", port)
        assert winner.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        dialer.close()
        assert poller.watched == []
        assert first.fileno() == -1


def test_a_name_without_an_address_is_an_error(names: dict[str, list[Entry]]) -> None:
    names["broker.test"] = []
    resolved = threading.Event()
    dialer = dial.Dialer("broker.test", 1883, Poller(), resolved.set)
    assert resolved.wait(PATIENCE)
    with pytest.raises(OSError, match="no address") as caught:
        dialer.advance(0.0)
    assert caught.value.errno == errno.EHOSTUNREACH


@pytest.mark.parametrize("seconds", [inf, 1e10], ids=["infinite", "of centuries"])
@pytest.mark.parametrize("name", ["timeout", "ack_timeout"])
def test_a_time_beyond_what_the_system_can_wait_for(make: Make, port: int, name: str, seconds: float) -> None:
    client = make(f"mqtt://127.0.0.1:{port}", keep_alive=0, **{name: seconds})
    client.open()
    client.publish("a", b"x", 1, timeout=seconds)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "::1"])
def test_an_address_is_dialed_as_the_resolver_gives_it(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual form of IPv4 is not looked up; the old forms and IPv6 are."""
    expected = [(entry[0], entry[2], entry[4]) for entry in socket.getaddrinfo(host, 1883, type=socket.SOCK_STREAM)]
    if host == "127.0.0.1":
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: pytest.fail("it was looked up"))
    assert dial.Dialer(host, 1883, Poller(), lambda: None)._waiting == expected


@pytest.mark.parametrize("host", ["127.0.0.256", "1.2.3.4.5", "::1::2", "127.0.0.1."])
def test_what_is_no_address_is_an_error(host: str) -> None:
    with pytest.raises(OSError):
        dial.Dialer(host, 1883, Poller(), lambda: None)
