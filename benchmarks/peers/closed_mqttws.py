"""mqttws in a closed loop, blocking and asyncio."""

from __future__ import annotations

from collections.abc import Callable

from closedloop import MESSAGE, main

import mqttws
import mqttws.aio


def url(port: int, websocket: bool) -> str:
    return f"ws://127.0.0.1:{port}/" if websocket else f"mqtt://127.0.0.1:{port}"


class Client:
    """With threads."""

    def __init__(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = mqttws.connect(
            url(port, websocket), on_message=lambda message: on_message(), max_in_flight_qos2=100
        )
        self.subscribe = self.client.subscribe
        self.close = self.client.close

    def publish(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        self.client.publish_nowait(topic, MESSAGE, qos).add_done_callback(lambda future: done())

    def publish_and_wait(self, topic: str, qos: int) -> None:
        self.client.publish(topic, MESSAGE, qos)


class AsyncClient:
    """With asyncio."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = mqttws.aio.Client(
            url(port, websocket), on_message=lambda message: on_message(), max_in_flight_qos2=100
        )
        await self.client.open()
        self.subscribe = self.client.subscribe
        self.close = self.client.close

    async def publish(self, topic: str, qos: int) -> None:
        await self.client.publish(topic, MESSAGE, qos)

    def publish_nowait(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        self.client.publish_nowait(topic, MESSAGE, qos).add_done_callback(lambda future: done())


main(Client, AsyncClient)
