"""A subscription as an observable of `reactivex` (`pip install reactivex`), with all its operators.

Usage: python examples/rx.py [URL]; without a URL it uses the embedded broker.

Rx ends a stream at its first error. A subscription of pubsub continues after some errors: for example, one message that
cannot be decoded, or one refused Topic Filter of several. With `to_rx` as it is here, every error ends the stream.
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
    """Return an observable of Rx. pubsub accepts observers of Rx: `on_next`, `on_error`, `on_completed`."""

    def subscribe(observer: ObserverBase[Any], scheduler: SchedulerBase | None = None) -> DisposableBase:
        return Disposable(observable.subscribe(observer).unsubscribe)

    return reactivex.create(subscribe)


def main(url: str) -> None:
    """Print the temperatures of warm rooms."""
    with PubSub(MqttOverWSProvider(url)) as ps:
        over = threading.Event()
        warm = to_rx(ps.subscribe("demo/+/temperature", qos=1)).pipe(
            ops.filter(lambda message: message.value >= 20),
            ops.map(lambda message: f"{message.topic.split('/')[1]}: {message.value} °C"),
            ops.distinct_until_changed(),
            ops.take(3),
        )
        warm.subscribe(print, print, over.set)
        ps.subscribe("demo/ready").subscribe().ready()  # answers come in order: the first SUBSCRIBE is answered, too
        for room, value in (("hall", 18), ("attic", 24.5), ("attic", 24.5), ("hall", 20), ("attic", 23), ("hall", 21)):
            ps.publish(f"demo/{room}/temperature", value, qos=1)
        over.wait(10)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with mqttws.broker.Broker() as broker:
            main(broker.url)
