"""Other clients with the embedded broker, and our clients with other brokers, over every transport that both support.

One test is one cell: a client library, a broker, a transport and a scenario. Only the address and the CA are configured
[MQTT-7.0.0-2].
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any

import agents
import pytest
from agents import PATIENCE, Peer, Received
from foreign_brokers import SCHEMES

FOREIGN_CLIENTS = {
    "paho": SCHEMES,
    "mqtt.js": SCHEMES,
    "aiomqtt": SCHEMES,
    "gmqtt": ("mqtt", "mqtts"),
    "mosquitto": ("mqtt", "mqtts"),
}
OUR_CLIENTS = ("mqttws", "mqttws.aio")
FOREIGN_BROKERS = ("mosquitto", "rabbitmq", "aedes", "amqtt")

MATRIX = [
    *((client, "mqttws", scheme) for client, schemes in FOREIGN_CLIENTS.items() for scheme in schemes),
    *((client, broker, scheme) for broker in FOREIGN_BROKERS for scheme in SCHEMES for client in OUR_CLIENTS),
]

_numbers = count(1)


class Stage:
    """The environment of a scenario: one library, one broker, one transport, and unique topics."""

    def __init__(self, library: str, broker: Any, scheme: str, agent: Callable[[str], Any], stack: ExitStack) -> None:
        self.library = library
        self.prefix = f"t{next(_numbers)}"
        self._url = broker.urls[scheme]
        self._ca = broker.ca
        self._agent = agent(library)
        self._stack = stack

    def client(self, name: str, *, clean: bool = True, will: dict[str, Any] | None = None, agent: Any = None) -> Peer:
        """Connect a client."""
        client: Peer = (agent or self._agent).connect(self._url, f"{self.prefix}-{name}", clean, will, self._ca)
        if agent is None:
            self._stack.callback(self._leave, client)
        return client

    def another(self) -> Any:
        """Start another process of the library, to be killed."""
        agent = agents.start(self.library)
        self._stack.callback(agent.close)
        return agent

    def topic(self, topic: str) -> str:
        """Return a topic that is unique to this scenario."""
        return f"{self.prefix}/{topic}"

    def _leave(self, client: Peer) -> None:
        try:
            client.disconnect()
        except (AssertionError, KeyError):  # it is already disconnected
            pass


def receive(client: Peer) -> Received:
    """Return the next message."""
    try:
        return client.messages.get(timeout=PATIENCE)
    except queue.Empty:
        raise AssertionError("no message came") from None


# The scenarios.


def deliver(stage: Stage, qos: int) -> None:
    subscriber, publisher = stage.client("s"), stage.client("p")
    subscriber.subscribe(stage.topic("a"), qos)
    publisher.publish(stage.topic("a"), b"x%d" % qos, qos)
    assert receive(subscriber) == (stage.topic("a"), b"x%d" % qos, qos, False)


def qos_0(stage: Stage) -> None:
    deliver(stage, 0)


def qos_1(stage: Stage) -> None:
    deliver(stage, 1)


def qos_2(stage: Stage) -> None:
    deliver(stage, 2)


def any_bytes(stage: Stage) -> None:
    subscriber, publisher = stage.client("s"), stage.client("p")
    subscriber.subscribe(stage.topic("ä/€/😀"), 1)
    for payload in (bytes(range(256)), b"", bytes(range(256)) * 256):
        publisher.publish(stage.topic("ä/€/😀"), payload, 1)
        assert receive(subscriber) == (stage.topic("ä/€/😀"), payload, 1, False)


def order(stage: Stage) -> None:
    subscriber, publisher = stage.client("s"), stage.client("p")
    subscriber.subscribe(stage.topic("a"), 1)
    number = 20 if stage.library == "mosquitto" else 200  # one process for each message
    for n in range(number):
        publisher.publish(stage.topic("a"), b"%d" % n, 1)
    assert [int(receive(subscriber)[1]) for _ in range(number)] == list(range(number))


def retained(stage: Stage) -> None:
    publisher = stage.client("p")
    publisher.publish(stage.topic("a"), b"old", 1, True)
    publisher.publish(stage.topic("a"), b"kept", 1, True)
    late = stage.client("late")
    late.subscribe(stage.topic("a"), 1)
    assert receive(late) == (stage.topic("a"), b"kept", 1, True)
    publisher.publish(stage.topic("a"), b"", 1, True)
    assert receive(late) == (stage.topic("a"), b"", 1, False)
    later = stage.client("later")
    later.subscribe(stage.topic("a"), 1)
    publisher.publish(stage.topic("a"), b"live", 1)
    assert receive(later) == (stage.topic("a"), b"live", 1, False)


def wildcards(stage: Stage) -> None:
    subscriber, publisher = stage.client("s"), stage.client("p")
    subscriber.subscribe(stage.topic("+/b/#"), 0)
    for topic in ("a/b", "a/x", "b", "a/b/c", "a/b/c/d", "a/a/b", "/b/", "end/b"):
        publisher.publish(stage.topic(topic), b"x", 1)
    topics = [receive(subscriber)[0] for _ in range(5)]
    assert topics == [stage.topic(topic) for topic in ("a/b", "a/b/c", "a/b/c/d", "/b/", "end/b")]


def unsubscribe(stage: Stage) -> None:
    subscriber, publisher = stage.client("s"), stage.client("p")
    subscriber.subscribe(stage.topic("a"), 1)
    subscriber.subscribe(stage.topic("end"), 1)
    publisher.publish(stage.topic("a"), b"1", 1)
    assert receive(subscriber)[1] == b"1"
    subscriber.unsubscribe(stage.topic("a"))
    publisher.publish(stage.topic("a"), b"2", 1)
    publisher.publish(stage.topic("end"), b"3", 1)
    assert receive(subscriber)[1] == b"3"


def will(stage: Stage) -> None:
    watcher = stage.client("w")
    watcher.subscribe(stage.topic("will"), 1)
    doomed = stage.another()
    last = {"topic": stage.topic("will"), "payload": "Z29uZQ==", "qos": 1, "retain": False}
    stage.client("doomed", will=last, agent=doomed)
    polite = stage.client("polite", will={**last, "payload": "bm8="})
    polite.disconnect()  # drops its will
    doomed.kill()
    assert receive(watcher) == (stage.topic("will"), b"gone", 1, False)


def session(stage: Stage) -> None:
    topic = "mosquitto/session" if stage.library == "mosquitto" else stage.topic("a")
    away, publisher = stage.client("away", clean=False), stage.client("p")
    away.subscribe(topic, 1)
    away.disconnect()
    for n in range(5):
        publisher.publish(topic, b"%d" % n, 1)
    back = stage.client("away", clean=False)
    assert [receive(back)[1] for _ in range(5)] == [b"%d" % n for n in range(5)]
    back.disconnect()
    stage.client("away", clean=True).disconnect()


def take_over(stage: Stage) -> None:
    first = stage.client("same")
    first.subscribe(stage.topic("a"), 1)
    second = stage.client("same")
    second.subscribe(stage.topic("a"), 1)
    assert first.lost.wait(PATIENCE)
    stage.client("p").publish(stage.topic("a"), b"x", 1)
    assert receive(second)[1] == b"x"


SCENARIOS = {
    "QoS 0": qos_0,
    "QoS 1": qos_1,
    "QoS 2": qos_2,
    "any bytes": any_bytes,
    "order": order,
    "retained": retained,
    "wildcards": wildcards,
    "unsubscribe": unsubscribe,
    "will": will,
    "session": session,
    "take-over": take_over,
}

_NOT_OURS = "{}: tried with paho-mqtt and MQTT.js, it does the same."
#: (side, scenario) -> what that side does not support.
UNSUPPORTED = {
    ("mosquitto client", "unsubscribe"): "`mosquitto_sub` cannot unsubscribe while it runs.",
    ("mosquitto client", "take-over"): "`mosquitto_sub` connects again by itself, and takes the session back.",
    ("rabbitmq broker", "QoS 2"): "RabbitMQ 3.10 has no QoS 2: it grants QoS 1.",
    ("rabbitmq broker over ws", "will"): _NOT_OURS.format("RabbitMQ's Web MQTT publishes a will after DISCONNECT, too"),
    ("amqtt broker", "session"): _NOT_OURS.format("amqtt 0.12 does not deliver what was queued for a session"),
    ("amqtt broker", "take-over"): _NOT_OURS.format("amqtt 0.12 lets both clients stay"),
}


def unsupported(library: str, server: str, scheme: str, scenario: str) -> str | None:
    """Return why a scenario is not run with these two; None if it is."""
    sides = [f"{library} client", f"{server} broker"]
    if scheme.startswith("ws"):
        sides.append(f"{server} broker over ws")
    return next((UNSUPPORTED[side, scenario] for side in sides if (side, scenario) in UNSUPPORTED), None)


@pytest.fixture(scope="module", autouse=True)
def remarks(cells):
    """Record the scenarios that are not run, with the reasons."""
    yield
    for library, server, scheme in MATRIX:
        for scenario in SCENARIOS:
            if reason := unsupported(library, server, scheme, scenario):
                cells[library, server, scheme][scenario] = reason


@pytest.mark.statement("MQTT-7.0.0-2")
@pytest.mark.parametrize(
    ("library", "server", "scheme", "scenario"),
    [
        pytest.param(library, server, scheme, scenario, id=f"{library}-{server}-{scheme}-{scenario}")
        for library, server, scheme in MATRIX
        for scenario in SCENARIOS
        if unsupported(library, server, scheme, scenario) is None
    ],
)
def test_cell(library, server, scheme, scenario, agent, broker, cells):
    with ExitStack() as stack:
        stage = Stage(library, broker(server), scheme, agent, stack)
        tried = cells[library, server, scheme]
        tried[scenario] = "NO"
        SCENARIOS[scenario](stage)
        tried[scenario] = "yes"
