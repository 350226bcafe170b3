"""MQTTium in a closed loop."""

from __future__ import annotations

from collections.abc import Callable

from closedloop import MESSAGE, WINDOW, main
from mqttium.api import AsyncClient as Library


class AsyncClient:
    """With asyncio."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = Library(message_delivery="callback", max_outbound_inflight=WINDOW)
        self.client.on_message = lambda *given: on_message()
        if websocket:
            await self.client.connect_ws(f"ws://127.0.0.1:{port}/")
        else:
            await self.client.connect("127.0.0.1", port)
        self.close = self.client.disconnect

    async def publish(self, topic: str, qos: int) -> None:
        receipt = await self.client.publish(topic, MESSAGE, qos=qos)
        await receipt.wait()

    def publish_nowait(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        self.client.publish_nowait(topic, MESSAGE, qos=qos).add_done_callback(lambda receipt: done())

    async def subscribe(self, topic: str, qos: int) -> None:
        await self.client.subscribe(topic, qos=qos)


main(tasks=AsyncClient)
