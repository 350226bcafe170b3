"""The same under Rx: a subscription as an observable of `reactivex` (`pip install reactivex`), with all its operators.

Usage: python examples/rx.py [URL]; without a URL against the embedded broker.

Rx ends a stream at its first error. A subscription of ours goes on after some (one message that cannot be decoded,
one Topic Filter of several refused): `to_rx` shows how to choose; here every error ends the stream.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import reactivex
from reactivex import operators as ops
from reactivex.abc import DisposableBase, ObserverBase, SchedulerBase
from reactivex.disposable import Disposable

import mqttws
from pubsub import Message, MqttOverWSProvider, Observable, PubSub


def to_rx(observable: Observable) -> reactivex.Observable[Message]:
    """Make an observable of Rx. An observer of Rx is an observer here: `on_next`, `on_error`, `on_completed`."""

    def subscribe(observer: ObserverBase[Any], scheduler: SchedulerBase | None = None) -> DisposableBase:
        return Disposable(observable.subscribe(observer).unsubscribe)

    return reactivex.create(subscribe)


def main(url: str) -> None:
    """Watch the warm rooms."""
    with PubSub(MqttOverWSProvider(url)) as ps:
        over = threading.Event()
        warm = to_rx(ps.subscribe("demo/+/temperature", qos=1)).pipe(
            ops.filter(lambda message: message.value >= 20),
            ops.map(lambda message: f"{message.topic.split('/')[1]}: {message.value} °C"),
            ops.distinct_until_changed(),
            ops.take(3),
        )
        warm.subscribe(print, print, over.set)
        ps.subscribe("demo/ready").subscribe().ready()  # the server takes requests in order: the first is answered too
        for room, value in (("hall", 18), ("attic", 24.5), ("attic", 24.5), ("hall", 20), ("attic", 23), ("hall", 21)):
            ps.publish(f"demo/{room}/temperature", value, qos=1)
        over.wait(10)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with mqttws.broker.Broker() as broker:
            main(broker.url)
