"""`pubsub demo`: a broker, two subscriptions and a few messages, all in this process."""

from __future__ import annotations

import argparse
import queue

import mqttws
from pubsub import Message, MqttOverWSProvider, PubSub
from pubsub.cli import OK, Failure
from pubsub.cli.streams import show

TOPICS = ["myTopic1", "myTopic2"]
#: The time limit of each step, in seconds.
PATIENCE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `demo`: none."""


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    happened: queue.SimpleQueue[Message | Exception | None] = queue.SimpleQueue()
    with mqttws.broker.Broker() as broker, PubSub(MqttOverWSProvider(aws_pubsub_endpoint=broker.url)) as ps:
        _line("broker", f"{broker.url}  (embedded, on a free port of this machine)")
        subscription = ps.subscribe(TOPICS, qos=2).subscribe(
            next=happened.put, error=happened.put, close=lambda: happened.put(None)
        )
        granted = subscription.ready(timeout=PATIENCE)
        _line("subscribed", ", ".join(f"{topic} (QoS {qos} granted)" for topic, qos in granted.items()))
        _publish(ps, TOPICS, {"msg": "Hello to all subscribers!"}, 0, happened)
        for qos in (0, 1, 2):
            _publish(ps, TOPICS[:1], {"msg": "Hello again", "n": qos}, qos, happened)
        subscription.unsubscribe(timeout=PATIENCE)
        _line("unsubscribed", "from " + " and ".join(TOPICS))
        _show(happened)
    _line("closed", "the connection and the broker")
    return OK


def _publish(
    ps: PubSub, topics: list[str], value: object, qos: int, happened: queue.SimpleQueue[Message | Exception | None]
) -> None:
    """Publish to topics, and show what arrives."""
    _line("publish", f"{value!r} to {' and '.join(topics)} at QoS {qos}")
    ps.publish(topics, value, qos=qos, timeout=PATIENCE)
    for _ in topics:
        _show(happened)


def _show(happened: queue.SimpleQueue[Message | Exception | None]) -> None:
    """Show the next thing that happened to the subscription."""
    try:
        what = happened.get(timeout=PATIENCE)
    except queue.Empty:
        raise Failure(f"nothing arrived within {PATIENCE:g} s") from None
    if isinstance(what, Exception):
        raise Failure(str(what))
    if what is None:
        _line("closed", "the subscription")
    else:
        _line("  received", f"{what.topic}  QoS {what.qos}  {what.value!r}")


def _line(what: str, text: str) -> None:
    show(f"{what:<13} {text}")
