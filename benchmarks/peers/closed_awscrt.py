"""awscrt in a closed loop, without TLS."""

from __future__ import annotations

import time
from collections.abc import Callable

from awscrt import io, mqtt
from closedloop import MESSAGE, PATIENCE, main


class Client:
    """With threads."""

    def __init__(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self._on_message = on_message
        loops = io.EventLoopGroup(1)
        self.connection = mqtt.Connection(
            mqtt.Client(io.ClientBootstrap(loops, io.DefaultHostResolver(loops))),
            host_name="127.0.0.1",
            port=port,
            client_id=f"bench-{time.monotonic_ns()}",
            use_websockets=websocket,
        )
        self.connection.connect().result(PATIENCE)

    def publish(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        self.connection.publish(topic, MESSAGE, mqtt.QoS(qos))[0].add_done_callback(lambda future: done())

    def publish_and_wait(self, topic: str, qos: int) -> None:
        self.connection.publish(topic, MESSAGE, mqtt.QoS(qos))[0].result(PATIENCE)

    def subscribe(self, topic: str, qos: int) -> None:
        self.connection.subscribe(topic, mqtt.QoS(qos), lambda topic, payload, **named: self._on_message())[0].result(
            PATIENCE
        )

    def close(self) -> None:
        self.connection.disconnect().result(PATIENCE)


main(Client)
