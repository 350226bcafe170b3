"""The packet log: one line for each packet and direction, without secrets; no cost if it is off."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from drivers import PATIENCE
from scripted import Scripted

from mqttws import PubAck, Publish, Subscribe, compiled
from mqttws.client.packet_log import describe

Make = Callable[..., Any]
pytestmark = pytest.mark.skipif(compiled, reason="the compiled build has no packet log")


def test_a_line_for_each_packet_and_direction(make: Make, server: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mqttws.packets")
    url = server.url.replace("://", "://ada:s3cret@") if server.url.startswith("mqtt") else server.url
    options = {} if "s3cret" in url else {"username": "ada", "password": "s3cret"}
    client = make(url, client_id="c", will=("w", "s3cret", 1, True), **options)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    client.publish("a", "s3cret")
    publishing = server.soon(client.publish, "a/b", "s3cret", 1, True)
    end.receive()
    end.receive()
    end.send(Publish("x\n", b"s3cret", 1, packet_id=9), PubAck(1))
    publishing.result(PATIENCE)
    next(client.messages(timeout=PATIENCE))
    closing = server.soon(client.close)
    end.rest()
    end.cut()
    closing.result(PATIENCE)
    lines = [record.getMessage() for record in caplog.records if record.name == "mqttws.packets"]
    assert lines == [
        "c -> CONNECT client_id='c' keep_alive=60 clean_session will='w' qos=1 retain username password",
        "c <- CONNACK return_code=0 session_present=0",
        "c -> PUBLISH 'a' qos=0 (6 bytes)",
        "c -> PUBLISH 'a/b' qos=1 retain id=1 (6 bytes)",
        "c <- PUBLISH 'x\\n' qos=1 id=9 (6 bytes)",
        "c <- PUBACK id=1",
        "c -> PUBACK id=9",
        "c -> DISCONNECT",
    ]
    assert "s3cret" not in caplog.text


def test_no_line_is_formatted_if_it_is_off(make: Make, server: Scripted, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqttws.client.packet_log.LoggedMachine", None)
    client = make(server.url, client_id="c")
    opening = server.soon(client.open)
    server.accept().welcome()
    opening.result(PATIENCE)


def test_malformed_packets_are_named(make: Make, server: Scripted, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mqttws.packets")
    client = make(server.url, client_id="c", reconnect=False)
    opening = server.soon(client.open)
    end = server.accept().welcome()
    opening.result(PATIENCE)
    end.send("36 05 00 01 61 00 01")
    end.rest()
    end.cut()
    client.close()
    assert any("<- malformed: both QoS bits" in record.getMessage() for record in caplog.records)


def test_a_line_is_bounded() -> None:
    line = describe(Subscribe(1, [(f"t/{number}", 1) for number in range(1_000)]))
    assert line.endswith("'t/7' qos=1 and 992 more")
