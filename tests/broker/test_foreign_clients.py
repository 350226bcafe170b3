"""Other clients with the broker: paho-mqtt in threads, and Mosquitto's programs in separate processes."""

from __future__ import annotations

import gc
import os
import queue
import shutil
import ssl
import subprocess
import threading
from urllib.parse import urlsplit

import pytest
from paho.mqtt import client as paho
from wire import PATIENCE

import mqttws
from mqttws.broker import Users, hash_password


class Paho:
    """A paho-mqtt client with its network thread."""

    def __init__(self, url: str, client_id: str = "", clean_session: bool = True, pem=None, username=None) -> None:
        parts = urlsplit(url)
        self.messages: queue.Queue[paho.MQTTMessage] = queue.Queue()
        self.acknowledged: queue.Queue[list[int]] = queue.Queue()
        self.connects: queue.Queue[tuple[object, bool]] = queue.Queue()
        self.gone = threading.Event()
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2,
            client_id,
            clean_session if client_id else True,
            transport="websockets" if parts.scheme.startswith("ws") else "tcp",
        )
        if parts.scheme.startswith("ws"):
            self.client.ws_set_options(parts.path)
        if pem is not None:
            self.client.tls_set_context(ssl.create_default_context(cafile=pem))
        if username is not None:
            self.client.username_pw_set(*username)
        self.client.on_message = lambda _, __, message: self.messages.put(message)
        self.client.on_subscribe = lambda _, __, ___, codes, ____: self.acknowledged.put([code.value for code in codes])
        self.client.on_connect = lambda _, __, flags, code, ___: self.connects.put((code.value, flags.session_present))
        self.client.on_disconnect = lambda *_: self.gone.set()
        self.address = (parts.hostname, parts.port)

    def connect(self, will: tuple[object, ...] | None = None) -> bool:
        if will is not None:
            self.client.will_set(*will)
        self.client.connect(*self.address, keepalive=30)
        self.client.loop_start()
        code, session_present = self.connects.get(timeout=PATIENCE)
        assert code == 0
        return session_present

    def subscribe(self, topic_filter: str, qos: int) -> list[int]:
        self.client.subscribe(topic_filter, qos)
        return self.acknowledged.get(timeout=PATIENCE)

    def publish(self, *args: object) -> None:
        self.client.publish(*args).wait_for_publish(PATIENCE)

    def receive(self) -> tuple[str, bytes, int, bool]:
        message = self.messages.get(timeout=PATIENCE)
        return message.topic, message.payload, message.qos, message.retain

    def __enter__(self) -> Paho:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets()  # paho leaves a pair of sockets to the garbage collector, which warns


@pytest.fixture(autouse=True)
def _blamed_here():
    """Collect garbage after each test, so that a warning about a leak of these clients fails the right test."""
    yield
    gc.collect()


@pytest.fixture(params=["mqtt", "ws", "mqtts", "wss"])
def make(request, start, server_tls, pem):
    """Return a function that creates paho clients of one broker, over one of its listeners."""
    broker = start(wss_port=0, mqtts_port=0, tls=server_tls)
    url = broker.url_of(request.param)

    def make(*args, **options):
        return Paho(url, *args, pem=pem if request.param in ("wss", "mqtts") else None, **options)

    return make


@pytest.mark.statement("MQTT-7.0.0-2")
def test_paho_publishes_and_subscribes_at_every_qos(make):
    with make() as subscriber, make() as publisher:
        subscriber.connect()
        publisher.connect()
        assert subscriber.subscribe("a/#", 2) == [2]
        for qos in (0, 1, 2):
            publisher.publish("a/b", b"x%d" % qos, qos)
            assert subscriber.receive() == ("a/b", b"x%d" % qos, qos, False)
        big = bytes(range(256)) * 3000
        publisher.publish("a/big", big, 1)
        assert subscriber.receive() == ("a/big", big, 1, False)


def test_paho_gets_retained_messages_and_wills(make):
    with make() as subscriber, make() as publisher:
        publisher.connect()
        publisher.publish("kept", b"x", 1, True)
        subscriber.connect()
        subscriber.subscribe("kept", 1)
        assert subscriber.receive() == ("kept", b"x", 1, True)
        subscriber.subscribe("w", 1)
        with make("mortal") as mortal, make("mortal") as successor:
            mortal.connect(("w", b"gone", 1))
            successor.connect()
            assert subscriber.receive() == ("w", b"gone", 1, False)
            assert mortal.gone.wait(PATIENCE)
            mortal.client.loop_stop()


def test_paho_resumes_its_session(make):
    with make("c", clean_session=False) as peer:
        assert peer.connect() is False
        peer.subscribe("a", 2)
    with make() as publisher:
        publisher.connect()
        for qos in (1, 2):
            publisher.publish("a", b"%d" % qos, qos)
    with make("c", clean_session=False) as peer:
        assert peer.connect() is True
        assert [peer.receive()[1:3] for _ in range(2)] == [(b"1", 1), (b"2", 2)]


def test_paho_under_order_and_load(make):
    with make() as subscriber, make() as publisher:
        subscriber.connect()
        subscriber.subscribe("a", 1)
        publisher.client.max_inflight_messages_set(1000)
        publisher.connect()
        pending = [publisher.client.publish("a", b"%d" % number, 1) for number in range(2000)]
        assert [int(subscriber.receive()[1]) for _ in range(2000)] == list(range(2000))
        pending[-1].wait_for_publish(PATIENCE)


def test_paho_authenticates_with_the_users_file(start):
    broker = start(authenticator=Users({"ann": hash_password("pass")}))
    with Paho(broker.url, username=("ann", "pass")) as peer:
        peer.connect()
    with Paho(broker.url, username=("ann", "wrong")) as peer:
        peer.client.connect(*peer.address)
        peer.client.loop_start()
        code, _ = peer.connects.get(timeout=PATIENCE)
        assert code == 134  # paho reports return code 4 as the reason code of MQTT 5


@pytest.fixture
def mosquitto():
    """Return a function that runs Mosquitto's clients; each ends by itself or is killed after the test."""
    if shutil.which("mosquitto_sub") is None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("mosquitto_sub is not installed")
    running: list[subprocess.Popen[str]] = []

    def run(program: str, url: str, *arguments: str, pem=None) -> subprocess.Popen[str]:
        parts = urlsplit(url)
        command = [f"mosquitto_{program}", "-h", parts.hostname, "-p", str(parts.port), *arguments]
        command += ["--cafile", str(pem)] if pem is not None else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("scheme", ["mqtt", "mqtts"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
@pytest.mark.parametrize("version", ["mqttv31", "mqttv311"])
def test_mosquittos_clients(start, server_tls, pem, mosquitto, scheme, qos, version):
    broker = start(mqtts_port=0, tls=server_tls)
    url = broker.url_of(scheme)
    ca = pem if scheme == "mqtts" else None
    sub = mosquitto("sub", url, "-V", version, "-t", "a/#", "-q", qos, "-C", "2", "-F", "%t %p %q %r", pem=ca)
    assert mosquitto("pub", url, "-V", version, "-t", "a/kept", "-m", "k", "-q", qos, "-r", pem=ca).wait(PATIENCE) == 0
    first = sub.stdout.readline().split()
    assert first in (
        ["a/kept", "k", qos, "0"],
        ["a/kept", "k", qos, "1"],
    )  # published before or after it had subscribed
    assert mosquitto("pub", url, "-V", version, "-t", "a/b", "-m", "x", "-q", qos, pem=ca).wait(PATIENCE) == 0
    assert sub.stdout.readline().split() == ["a/b", "x", qos, "0"]
    assert sub.wait(PATIENCE) == 0


def test_our_client_reconnects_to_a_killed_and_restarted_broker(start):
    broker = start()
    with mqttws.connect(broker.url, client_id="c", clean_session=False, timeout=PATIENCE) as client:
        client.subscribe("a", 1)
        broker.stop()
        future = client.publish_nowait("a", b"while away", 1)
        broker.start()
        future.result(PATIENCE)
        assert next(client.messages(timeout=PATIENCE)).payload == b"while away"
