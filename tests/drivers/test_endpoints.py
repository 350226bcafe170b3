"""Several endpoints: each attempt tries them all, those first that have not failed lately."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from drivers import PATIENCE, States
from scripted import Scripted

from mqttws import ConnectError, ConnectTimeout, Reconnect
from mqttws.client.endpoints import Endpoints

Make = Callable[..., Any]
#: Waits for ever before a second attempt.
PATIENT = Reconnect(initial=1_000_000, maximum=1_000_000)
REFUSES = "mqtt://127.0.0.1:1"


@pytest.fixture
def servers() -> Iterator[list[Scripted]]:
    with ExitStack() as stack:
        yield [stack.enter_context(Scripted("mqtt")) for _ in range(2)]


def host_of(server: Scripted) -> str:
    return server.url.removeprefix("mqtt://")


def test_the_first_attempt_tries_them_all(make: Make, tcp_server: Scripted) -> None:
    states = States()
    client = make([REFUSES, REFUSES.replace(":1", ":2"), tcp_server.url], client_id="c", on_state=states)
    opening = tcp_server.soon(client.open)
    tcp_server.accept().welcome()
    opening.result(PATIENCE)
    assert client.state.endpoint == host_of(tcp_server)
    assert "disrupted" not in states.names


def test_where_none_answers_the_first_attempt_fails(make: Make) -> None:
    client = make([REFUSES, REFUSES.replace(":1", ":2")], client_id="c")
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:2"):
        client.open()


def test_a_connection_that_is_lost_is_made_to_another_endpoint_at_once(make: Make, servers: list[Scripted]) -> None:
    states = States()
    client = make([server.url for server in servers], client_id="c", on_state=states, reconnect=PATIENT)
    opening = servers[0].soon(client.open)
    end = servers[0].accept().welcome()
    opening.result(PATIENCE)
    end.cut()
    servers[1].accept().welcome()
    assert states.wait("connected", 2).endpoint == host_of(servers[1])
    assert states.wait("disrupted").endpoint == host_of(servers[0])


def test_an_endpoint_that_accepts_and_is_silent_is_left_for_the_next(make: Make, servers: list[Scripted]) -> None:
    client = make([server.url for server in servers], client_id="c", answer_timeout=0.2)
    begun = time.monotonic()
    opening = servers[0].soon(client.open)
    servers[0].accept().receive()
    servers[1].accept().welcome()
    opening.result(PATIENCE)
    assert time.monotonic() - begun < 3


def test_making_the_tcp_connection_has_a_time_out_apart(make: Make) -> None:
    with socket.socket() as full:  # a listener whose queue is full: connecting to it takes for ever
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        with ExitStack() as stack:
            for _ in range(3):
                each = stack.enter_context(socket.socket())
                each.setblocking(False)
                each.connect_ex(address)
            client = make(f"mqtt://127.0.0.1:{address[1]}", client_id="c", connect_timeout=0.2)
            begun = time.monotonic()
            with pytest.raises(ConnectTimeout):
                client.open()
            assert time.monotonic() - begun < 3


def test_what_is_no_list_of_urls(make: Make) -> None:
    with pytest.raises(ValueError, match="empty"):
        make([])
    with pytest.raises(ValueError, match="scheme"):
        make(["mqtt://127.0.0.1", "http://127.0.0.1"])
    with pytest.raises(TypeError, match="a URL is"):
        make(5)
    with pytest.raises(ValueError, match="url_order"):
        make(["mqtt://127.0.0.1"], url_order="best")


def test_the_order() -> None:
    endpoints = Endpoints(["mqtt://a", "mqtt://b", "mqtt://c"], "given", lambda: 0.0)
    assert endpoints() == "mqtt://a"
    assert endpoints.failed()
    assert endpoints() == "mqtt://b"
    endpoints.connected()
    endpoints.lost()
    assert [endpoints() for _ in range(3)] == ["mqtt://c", "mqtt://a", "mqtt://b"]
    assert not endpoints.failed()
    drawn = iter([0.5, 0.1, 0.9])
    endpoints = Endpoints(["mqtt://a", "mqtt://b", "mqtt://c"], "random", lambda: next(drawn))
    assert [endpoints() for _ in range(3)] == ["mqtt://b", "mqtt://a", "mqtt://c"]
