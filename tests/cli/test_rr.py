"""`pubsub rr`: responses on a given topic, and those of a pubsub responder."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

import mqttws
from mqttws.broker import Broker, Limits
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
    service.respond("calculator/double", double).ready(30)
    broker.publish("replies/other/1", b"not ours", retain=True)
    assert main(["rr", broker.url, "calculator/double", "21", "-W", "10", "-q", "1"]) == 0
    assert capsysbinary.readouterr().out == b"42\n"


def test_a_failing_responder(service: PubSub, broker: Broker, capsys: pytest.CaptureFixture[str]) -> None:
    service.respond("fails", lambda message: 1 / 0).ready(30)
    assert main(["rr", broker.url, "fails", "x", "-W", "10"]) == 1
    assert capsys.readouterr().err == "pubsub rr: the responder failed\n"


def test_a_missing_response_times_out(broker: Broker) -> None:
    assert main(["rr", broker.url, "unanswered", "x", "-W", "0.3"]) == 27


def test_the_time_is_up_without_an_acknowledgement() -> None:
    """The request is not waited for when the client closes."""
    answers = [mqttws.ConnAck().encode(), mqttws.SubAck(1, (0,)).encode()]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for answer in answers:
                    connection.recv(1_000)
                    connection.sendall(answer)
                while connection.recv(1_000):
                    pass

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        began = time.monotonic()
        assert main(["rr", f"mqtt://127.0.0.1:{port}", "unanswered", "x", "-q", "1", "-W", "0.5"]) == 27
        assert time.monotonic() - began < 5.0
        serving.join(30)


def test_a_request_that_fails_ends_it(capfd: pytest.CaptureFixture[str]) -> None:
    """No response can come, so it does not wait for one."""
    with Broker(sys_interval=None, limits=Limits(max_packet_size=2_000)) as broker:
        assert main(["rr", broker.url, "service", "x" * 5_000, "-q", "1", "-W", "20"]) == 1
    assert "pubsub rr: the connection ended twice when the message of" in capfd.readouterr().err


def test_a_given_response_topic(service: PubSub, broker: Broker, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    service.subscribe("ask").subscribe(next=lambda message: service.publish("answer", message.value * 2)).ready(30)
    assert main(["rr", broker.url, "ask", "21", "-e", "answer", "-W", "10"]) == 0
    assert capsysbinary.readouterr().out == b"42\n"


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_without_a_response_is_no_success(broker: Broker, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "pubsub", "rr", broker.url, "unanswered", "x"]
    asked = threading.Event()
    with mqttws.connect(broker.url, on_message=lambda message: asked.set()) as responder:
        responder.subscribe("unanswered/#")
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                assert asked.wait(30)
                process.send_signal(number)
                out, err = process.communicate(timeout=30)
            finally:
                process.kill()
    assert (process.returncode, out, err) == (130, b"", b"")
