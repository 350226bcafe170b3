"""Several endpoints: each attempt tries all of them, those first that have not failed recently."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import pytest
from drivers import PATIENCE, States
from scripted import Scripted

from mqttws import ConnectError, ConnectionRefused, ConnectTimeout, Reconnect, TimedOut
from mqttws.broker import Broker
from mqttws.client.endpoints import MOST_FAILURES, Endpoints

Make = Callable[..., Any]
#: No second attempt.
PATIENT = Reconnect(initial=1_000_000, maximum=1_000_000)
REFUSES = "mqtt://127.0.0.1:1"


@pytest.fixture
def servers() -> Iterator[list[Scripted]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Scripted("mqtt")) for _ in range(2)]


def host_of(server: Scripted) -> str:
    return server.url.removeprefix("mqtt://")


def test_the_first_attempt_tries_all_endpoints(make: Make, tcp_server: Scripted) -> None:
    states = States()
    client = make([REFUSES, REFUSES.replace(":1", ":2"), tcp_server.url], client_id="c", on_state=states)
    opening = tcp_server.soon(client.open)
    tcp_server.accept().welcome()
    opening.result(PATIENCE)
    assert client.state.endpoint == host_of(tcp_server)
    assert "disrupted" not in states.names


def test_the_first_attempt_fails_if_no_endpoint_answers(make: Make) -> None:
    client = make([REFUSES, REFUSES.replace(":1", ":2")], client_id="c")
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:2"):
        client.open()


def test_open_waits_until_each_endpoint_was_tried(make: Make, tcp_server: Scripted) -> None:
    """Each URL has the whole `timeout`."""
    silent = [Scripted("mqtt") for _ in range(4)]
    with ExitStack() as stack:
        urls = [stack.enter_context(each).url for each in silent]
        client = make([*urls, tcp_server.url], timeout=0.5)
        opening = tcp_server.soon(client.open)
        tcp_server.accept().welcome()
        opening.result(PATIENCE)
        client.close()


def test_open_ends_although_recover_always_asks_for_another_attempt(make: Make, closed_port: int) -> None:
    client = make(f"mqtt://127.0.0.1:{closed_port}", recover=lambda error: True, timeout=0.2)
    with pytest.raises(TimedOut, match="there was no connection"):
        client.open()


def test_after_a_loss_another_endpoint_is_tried_immediately(make: Make, servers: list[Scripted]) -> None:
    states = States()
    client = make([server.url for server in servers], client_id="c", on_state=states, reconnect=PATIENT)
    opening = servers[0].soon(client.open)
    end = servers[0].accept().welcome()
    opening.result(PATIENCE)
    end.cut()
    servers[1].accept().welcome()
    assert states.wait("connected", 2).endpoint == host_of(servers[1])
    assert states.wait("disrupted").endpoint == host_of(servers[0])


def test_an_endpoint_without_a_connack_is_left_for_the_next(make: Make, servers: list[Scripted]) -> None:
    urls = [server.url for server in servers]
    client = make(urls, client_id="c", answer_timeout=0.2, timeout=10 * PATIENCE)
    opening = servers[0].soon(client.open)
    servers[0].accept().receive()
    servers[1].accept().welcome()
    opening.result(PATIENCE)


def test_the_tcp_connection_has_a_separate_timeout(make: Make) -> None:
    with socket.socket() as full:  # a listener with a full backlog: connecting to it never ends
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with ExitStack() as stack:
            for _ in range(3):
                each = stack.enter_context(socket.socket())
                each.setblocking(False)
                each.connect_ex(address)
            client = make(f"mqtt://127.0.0.1:{address[1]}", connect_timeout=0.2, timeout=10 * PATIENCE)
            begun = time.monotonic()
            with pytest.raises(ConnectTimeout):
                client.open()
            assert time.monotonic() - begun < PATIENCE


def test_an_invalid_list_of_urls_is_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="empty"):
        make([])
    with pytest.raises(ValueError, match="scheme"):
        make(["mqtt://127.0.0.1", "http://127.0.0.1"])
    with pytest.raises(TypeError, match="the URL must be"):
        make(5)
    with pytest.raises(ValueError, match="url_order"):
        make(["mqtt://127.0.0.1"], url_order="best")


def test_a_callable_is_called_once_per_attempt_and_may_return_several(make: Make, servers: list[Scripted]) -> None:
    asked: list[int] = []

    def urls() -> list[str]:
        asked.append(1)
        return [REFUSES, *(server.url for server in servers)]

    states = States()
    client = make(urls, client_id="c", on_state=states, reconnect=PATIENT)
    opening = servers[0].soon(client.open)
    end = servers[0].accept().welcome()
    opening.result(PATIENCE)
    assert len(asked) == 1
    end.cut()
    servers[1].accept().welcome()
    assert states.wait("connected", 2).endpoint == host_of(servers[1])
    assert len(asked) == 2


@pytest.mark.parametrize("asks", ["reconnect_now", "open"])
def test_a_callable_is_called_again_if_the_program_begins_anew(make: Make, servers: list[Scripted], asks: str) -> None:
    """The remaining URLs of an attempt that the program has ended are old, so their signatures may have expired."""
    asked: list[int] = []

    def urls() -> list[str]:
        asked.append(1)
        return [server.url for server in servers]

    client = make(urls, client_id="c")
    opening = servers[0].soon(client.open, 0.05 if asks == "open" else None)
    servers[0].accept().receive()
    if asks == "open":
        with pytest.raises(TimedOut):
            opening.result(PATIENCE)
        opening = servers[0].soon(client.open)
    else:
        client.reconnect_now()
    servers[0].accept().welcome()
    opening.result(PATIENCE)
    assert len(asked) == 2


@pytest.mark.parametrize("answer", [[], None, ["http://127.0.0.1"], 5])
def test_a_callable_that_returns_no_url_fails_the_attempt(make: Make, answer: Any) -> None:
    with pytest.raises(ConnectError, match="URL"):
        make(lambda: answer, client_id="c").open()


@pytest.fixture
def name(monkeypatch: pytest.MonkeyPatch, servers: list[Scripted]) -> str:
    """Return a host name with the addresses of both servers."""
    parts = [urlsplit(server.url) for server in servers]
    addresses = [(each.hostname, each.port) for each in parts]
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, port: Any, *arguments: Any, **options: Any) -> Any:
        if host != "cluster.test":
            return real(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return "mqtt://cluster.test"


def test_an_unresponsive_address_is_left_for_the_next(make: Make, servers: list[Scripted], name: str) -> None:
    client = make(name, client_id="c", answer_timeout=0.2, reconnect=False)
    opening = servers[0].soon(client.open)
    servers[0].accept().receive()
    servers[1].accept().welcome()
    opening.result(PATIENCE)


def test_an_attempt_fails_if_all_addresses_are_unresponsive(make: Make, servers: list[Scripted], name: str) -> None:
    client = make(name, client_id="c", answer_timeout=0.2, reconnect=False)
    opening = servers[0].soon(client.open)
    for server in servers:
        server.accept().receive()
    with pytest.raises(ConnectTimeout):
        opening.result(PATIENCE)


def test_a_refusal_by_one_address_ends_the_attempt(make: Make, servers: list[Scripted], name: str) -> None:
    client = make(name, client_id="c", reconnect=False)
    opening = servers[0].soon(client.open)
    end = servers[0].accept()
    end.receive()
    end.send("20 02 00 05")
    with pytest.raises(ConnectionRefused):
        opening.result(PATIENCE)


def test_after_a_loss_another_address_is_tried_first(make: Make, servers: list[Scripted], name: str) -> None:
    states = States()
    client = make(name, client_id="c", on_state=states, reconnect=PATIENT)
    opening = servers[0].soon(client.open)
    end = servers[0].accept().welcome()
    opening.result(PATIENCE)
    end.cut()
    servers[1].accept().welcome()
    states.wait("connected", 2)


def test_recently_failed_endpoints_come_last() -> None:
    endpoints = Endpoints(["mqtt://a", "mqtt://b", "mqtt://c"], "given", lambda: 0.0)
    assert following(endpoints, 1) == ["mqtt://a"]
    assert endpoints.failed(silent=False)
    assert following(endpoints, 1) == ["mqtt://b"]
    endpoints.connected()
    endpoints.lost()
    assert following(endpoints, 3) == ["mqtt://c", "mqtt://a", "mqtt://b"]
    assert not endpoints.failed(silent=True)
    drawn = iter([0.5, 0.1, 0.9])
    endpoints = Endpoints(["mqtt://a", "mqtt://b", "mqtt://c"], "random", lambda: next(drawn))
    assert following(endpoints, 3) == ["mqtt://b", "mqtt://a", "mqtt://c"]


def following(endpoints: Endpoints, count: int) -> list[str]:
    return [endpoints.choose(endpoints.ask()) for _ in range(count)]


def test_a_signed_url_is_identified_by_its_host() -> None:
    numbers = count()
    endpoints = Endpoints(lambda: [f"wss://{host}/mqtt?sig={next(numbers)}" for host in "ab"], "given", lambda: 0.0)
    assert following(endpoints, 1) == ["wss://a/mqtt?sig=0"]
    endpoints.connected()
    endpoints.lost()
    assert following(endpoints, 2) == ["wss://b/mqtt?sig=3", "wss://a/mqtt?sig=2"]


def test_the_record_of_failures_is_bounded() -> None:
    numbers = count()
    endpoints = Endpoints(lambda: f"mqtt://host{next(numbers)}", "given", lambda: 0.0)
    for _ in range(MOST_FAILURES + 10):
        following(endpoints, 1)
        endpoints.sort([next(numbers)])
        endpoints.reached(next(numbers))
        assert endpoints.failed(silent=False) is False
    assert len(endpoints._urls._last) == len(endpoints._addresses._last) == MOST_FAILURES


def test_recently_failed_addresses_come_last() -> None:
    endpoints = Endpoints("mqtt://a", "given", lambda: 0.0)
    following(endpoints, 1)
    assert endpoints.sort([1, 2, 3]) == [1, 2, 3]
    endpoints.reached(1)
    assert endpoints.failed(silent=True)
    assert following(endpoints, 1) == ["mqtt://a"]
    assert endpoints.sort([1, 2, 3]) == [2, 3]
    endpoints.reached(2)
    assert not endpoints.failed(silent=False)
    following(endpoints, 1)
    assert endpoints.sort([1, 2, 3]) == [3, 1, 2]
    assert not endpoints.failed(silent=True), "no address accepted the TCP connection"


@pytest.mark.parametrize("host", ["xn--strae-oqa.de", "xn--nxasmm1c.gr"])
def test_a_name_of_idna_2008_is_connected_to(
    make: Make, broker: Broker, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Python's codec "idna" is of IDNA 2003 and cannot decode these names. Spec: RFC 5891 §4.4"""
    port = urlsplit(broker.url_of("ws")).port
    asked = []

    def getaddrinfo(name: Any, *arguments: Any, **options: Any) -> Any:
        asked.append(name)
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", ("127.0.0.1", port))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    make(f"ws://{host}:{port}/mqtt", client_id="c", reconnect=False).open()
    assert set(asked) == {host}
    assert [session.client_id for session in broker.sessions()] == ["c"]
