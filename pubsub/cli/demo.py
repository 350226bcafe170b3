"""`pubsub demo`: the main job, whole, in one process, to be read by a person."""

from __future__ import annotations

import argparse
import threading

import mqttws
from pubsub import Message, MqttOverWSProvider, PubSub
from pubsub.cli import OK, Failure

TOPICS = ["myTopic1", "myTopic2"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`: none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    expected = len(TOPICS) + 3
    received = threading.Semaphore(0)

    def show(message: Message) -> None:
        _line("received", f"{message.topic}  QoS {message.qos}  {message.value!r}")
        received.release()

    with mqttws.broker.Broker() as broker, PubSub(MqttOverWSProvider(aws_pubsub_endpoint=broker.url)) as ps:
        _line("broker", f"{broker.url}  (embedded, on a free port of this machine)")
        closed = threading.Event()
        subscription = ps.subscribe(TOPICS, qos=2).subscribe(next=show, error=_error, close=closed.set)
        granted = subscription.ready(timeout=5)
        _line("subscribed", ", ".join(f"{topic} (QoS {qos} granted)" for topic, qos in granted.items()))
        ps.publish(TOPICS, {"msg": "Hello to all subscribers!"}, timeout=5)
        _line("published", "one object to both topics")
        for qos in (0, 1, 2):
            ps.publish("myTopic1", {"msg": f"at QoS {qos}", "n": qos}, qos=qos, timeout=5)
            _line("published", f"to myTopic1 at QoS {qos}")
        for _ in range(expected):
            if not received.acquire(timeout=5):
                raise Failure("a message did not arrive within 5 s")
        subscription.unsubscribe(timeout=5)
        _line("unsubscribed", "from " + " and ".join(TOPICS))
        if not closed.wait(timeout=5):
            raise Failure("the subscription did not close within 5 s")
        _line("closed", f"the subscription, after {expected} messages")
    _line("closed", "the connection and the broker")
    return OK


def _error(error: Exception) -> None:
    _line("error", str(error))


def _line(what: str, text: str) -> None:
    print(f"{what:<13} {text}", flush=True)
