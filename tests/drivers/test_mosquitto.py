"""Both drivers against a real Mosquitto, with paho-mqtt as the other client."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import paho.mqtt.client as paho
import pytest
from drivers import PATIENCE, States
from mosquitto import Mosquitto

from mqttws import ConnectionRefused, Message, Publish, Reconnect, TakeoverSuspected
from mqttws.testing import Authority, mint_authority

Make = Callable[..., Any]
SOON = Reconnect(initial=0.05, maximum=0.2)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return mint_authority()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Mosquitto]:
    """A Mosquitto shared by all tests that do not stop it; each test uses its own topics and client identifiers."""
    server = Mosquitto(tmp_path_factory.mktemp("mosquitto"), authority.issue("127.0.0.1"), authority.certificate)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def mortal(tmp_path, authority: Authority) -> Iterator[Mosquitto]:
    """A Mosquitto that the test may stop."""
    server = Mosquitto(tmp_path, authority.issue("127.0.0.1"), authority.certificate)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def other(shared: Mosquitto) -> Iterator[Callable[..., tuple[paho.Client, queue.Queue[Any]]]]:
    """Return a function that connects a paho-mqtt client; it subscribes and collects messages in a queue."""
    clients: list[paho.Client] = []

    def connect(*topics: str) -> tuple[paho.Client, queue.Queue[Any]]:
        client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        clients.append(client)
        subscribed, inbox = threading.Event(), queue.Queue[Any]()
        client.on_subscribe = lambda *arguments: subscribed.set()
        client.on_message = lambda client, data, message: inbox.put(message)
        client.connect("127.0.0.1", shared.ports["mqtt"])
        client.loop_start()
        for topic in topics:
            subscribed.clear()
            client.subscribe(topic, 2)
            assert subscribed.wait(PATIENCE)
        return client, inbox

    yield connect
    for client in clients:
        client.disconnect()
        client.loop_stop()
        client._reset_sockets()  # paho leaves a pair of sockets to the garbage collector, which warns


def take(client: Any, count: int) -> list[Publish]:
    messages = client.messages(timeout=PATIENCE)
    taken = [next(messages) for _ in range(count)]
    messages.close()
    return taken


@pytest.mark.statement("MQTT-7.0.0-2")
@pytest.mark.parametrize("scheme", ["mqtt", "ws", "mqtts", "wss"])
def test_all_qos_over_every_transport(
    make: Make, driver: type[Any], shared: Mosquitto, authority: Authority, scheme: str
) -> None:
    base = f"all/{driver.__name__}/{scheme}"
    tls = authority.client_context() if scheme in ("wss", "mqtts") else None
    client = make(shared.url(scheme), tls=tls)
    client.open()
    assert client.subscribe(f"{base}/+", 2) == 2
    assert client.subscribe([(f"{base}/x/#", 1), (f"{base}/y", 0)]) == (1, 0)
    # Mosquitto transfers only 40 kB/s over WebSockets, with any client.
    large = 10_000 if scheme.startswith("ws") else 1_000_000
    payloads = [b"", b"x", bytes(large)]
    for qos in (0, 1, 2):
        for payload in payloads:
            client.publish(f"{base}/a", payload, qos)
    messages = take(client, 9)
    assert sorted((message.qos, len(message.payload)) for message in messages) == [
        (qos, size) for qos in (0, 1, 2) for size in (0, 1, large)
    ]
    for qos in (0, 1, 2):  # messages of each QoS are in order
        assert [message.payload for message in messages if message.qos == qos] == payloads
    client.unsubscribe(f"{base}/+")
    client.publish(f"{base}/a", b"unheard", 1)
    client.publish(f"{base}/x/kept", b"kept", 1, True)
    assert [(m.payload, m.qos, m.retain) for m in take(client, 1)] == [(b"kept", 1, False)]
    client.subscribe(f"{base}/x/kept")
    assert [(m.payload, m.qos, m.retain) for m in take(client, 1)] == [(b"kept", 0, True)]
    client.close()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_exchange_with_paho(make: Make, driver: type[Any], shared: Mosquitto, other, qos: int) -> None:
    topic = f"paho/{driver.__name__}/{qos}"
    peer, inbox = other(f"{topic}/out")
    client = make(shared.url("ws"))
    client.open()
    client.subscribe(f"{topic}/in", 2)
    futures = [client.publish_nowait(f"{topic}/out", str(number), qos) for number in range(20)]
    for future in futures:
        future.result(PATIENCE)
    got = [inbox.get(timeout=PATIENCE) for _ in range(20)]
    assert [(int(message.payload), message.qos) for message in got] == [(number, qos) for number in range(20)]
    for number in range(20):
        peer.publish(f"{topic}/in", str(number), qos)
    assert [(int(message.payload), message.qos) for message in take(client, 20)] == [(n, qos) for n in range(20)]


def test_qos_2_within_the_window_of_mosquitto(make: Make, driver: type[Any], shared: Mosquitto) -> None:
    """It loses messages beyond its `max_inflight_messages`, which the default of the client respects."""
    topic = f"window/{driver.__name__}"
    client = make(shared.url("mqtt"))
    client.open()
    client.subscribe(topic, 2)
    futures = [client.publish_nowait(topic, str(number), 2) for number in range(400)]
    for future in futures:
        future.result(PATIENCE)
    assert [int(message.payload) for message in take(client, 400)] == list(range(400))


def test_a_refused_connection_is_an_error(make: Make, shared: Mosquitto) -> None:
    with pytest.raises(ConnectionRefused) as caught:
        make(shared.url("closed"), username="ada", password="wrong").open()
    assert caught.value.return_code == 5


def test_a_will_is_published_only_after_a_loss(make: Make, driver: type[Any], shared: Mosquitto, other) -> None:
    topic = f"will/{driver.__name__}"
    _, inbox = other(topic)
    options = {"client_id": f"will-{driver.__name__}", "reconnect": False, "will": Message(topic, b"gone", 1)}
    orderly = make(shared.url("mqtt"), **options)
    orderly.open()
    orderly.reconnect_now()  # sends DISCONNECT first
    orderly.publish(topic, b"still here", 1)
    orderly.close()
    lost = make(shared.url("mqtt"), **options)
    lost.open()
    make(shared.url("mqtt"), **options).open()  # the same client identifier: the first connection is closed
    assert [inbox.get(timeout=PATIENCE).payload for _ in range(2)] == [b"still here", b"gone"]


def test_a_session_survives_its_connections(make: Make, driver: type[Any], shared: Mosquitto, other) -> None:
    name = f"session-{driver.__name__}"
    peer, _ = other()
    states = States()
    client = make(shared.url("ws"), client_id=name, clean_session=False, on_state=states)
    client.open()
    assert states.wait("connected").session_present is False
    client.subscribe(name, 1)
    client.close()
    assert peer.publish(name, "meanwhile", 1).rc == 0
    again = make(shared.url("mqtt"), client_id=name, clean_session=False, on_state=states)
    again.open()
    assert states.wait("connected", 2).session_present is True
    assert [(m.payload, m.qos) for m in take(again, 1)] == [(b"meanwhile", 1)]


@pytest.mark.parametrize("scheme", ["mqtt", "ws"])
def test_reconnect_after_the_server_was_killed(make: Make, mortal: Mosquitto, scheme: str) -> None:
    states = States()
    client = make(mortal.url(scheme), on_state=states, reconnect=SOON)
    client.open()
    client.subscribe([("a/#", 1), ("b", 2)])
    mortal.stop(kill=True)
    states.wait("reconnecting")
    futures = [client.publish_nowait("a/b", str(number), 1) for number in range(10)]
    mortal.start()
    for future in futures:
        future.result(PATIENCE)
    assert [int(message.payload) for message in take(client, 10)] == list(range(10))
    assert states.names[:4] == ["connecting", "connected", "disrupted", "reconnecting"]
    assert states.names[-2:] == ["connecting", "connected"]
    assert states.wait("connected", 2).session_present is False


def test_a_session_survives_an_orderly_restart_of_the_server(make: Make, mortal: Mosquitto) -> None:
    states = States()
    client = make(mortal.url("mqtt"), client_id="kept", clean_session=False, on_state=states, reconnect=SOON)
    client.open()
    client.subscribe("a", 2)
    mortal.stop()
    future = client.publish_nowait("a", b"x", 2)
    mortal.start()
    future.result(PATIENCE)
    assert states.wait("connected", 2).session_present is True
    assert [(m.payload, m.qos) for m in take(client, 1)] == [(b"x", 2)]


def test_two_clients_with_one_client_identifier_do_not_loop(make: Make, driver: type[Any], shared: Mosquitto) -> None:
    states = [States(), States()]
    policy = Reconnect(initial=0.01, maximum=0.05, takeovers=3)
    name = f"twin-{driver.__name__}"
    for each in states:
        make(shared.url("mqtt"), client_id=name, on_state=each, reconnect=policy, end_on=TakeoverSuspected).open()
    ended: queue.Queue[States] = queue.Queue()
    for each in states:
        threading.Thread(target=lambda each=each: (each.wait("disconnected"), ended.put(each)), daemon=True).start()
    loser = ended.get(timeout=PATIENCE)
    assert isinstance(loser.wait("disconnected").error, TakeoverSuspected)
