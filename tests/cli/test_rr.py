"""`pubsub rr`: responses on a given topic, and those of a pubsub responder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mqttws.broker import Broker
from pubsub import Message, MqttOverWSProvider, PubSub
from pubsub.cli import main


@pytest.fixture
def broker() -> Iterator[Broker]:
    with Broker(sys_interval=None) as broker:
        yield broker


@pytest.fixture
def service(broker: Broker) -> Iterator[PubSub]:
    with PubSub(MqttOverWSProvider(broker.url)) as ps:
        yield ps


def double(message: Message) -> object:
    return message.value * 2


def test_a_request_to_a_pubsub_responder(
    service: PubSub, broker: Broker, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    service.respond("calculator/double", double).ready(10)
    broker.publish("replies/other/1", b"not ours", retain=True)
    assert main(["rr", broker.url, "calculator/double", "21", "-W", "10", "-q", "1"]) == 0
    assert capsysbinary.readouterr().out == b"42\n"


def test_a_failing_responder(service: PubSub, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    service.respond("fails", lambda message: 1 / 0).ready(10)
    assert main(["rr", broker.url, "fails", "x", "-W", "10"]) == 1
    assert capsys.readouterr().err == "pubsub rr: the responder failed\n"


def test_a_missing_response_times_out(broker: Broker) -> None:
    assert main(["rr", broker.url, "unanswered", "x", "-W", "0.3"]) == 27


def test_a_given_response_topic(service: PubSub, broker: Broker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    service.subscribe("ask").subscribe(next=lambda message: service.publish("answer", message.value * 2)).ready(10)
    assert main(["rr", broker.url, "ask", "21", "-e", "answer", "-W", "10"]) == 0
    assert capsysbinary.readouterr().out == b"42\n"
