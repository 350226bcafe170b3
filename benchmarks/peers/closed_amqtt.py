"""amqtt in a closed loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from amqtt.client import MQTTClient
from closedloop import MESSAGE, main

logging.disable(logging.CRITICAL)


class AsyncClient:
    """With asyncio."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = MQTTClient(config={"auto_reconnect": False})
        self._on_message = on_message
        self._reader: asyncio.Task[None] | None = None
        await self.client.connect(f"{'ws' if websocket else 'mqtt'}://127.0.0.1:{port}/")

    async def publish(self, topic: str, qos: int) -> None:
        await self.client.publish(topic, MESSAGE, qos)

    async def subscribe(self, topic: str, qos: int) -> None:
        await self.client.subscribe([(topic, qos)])

        async def read() -> None:
            while True:
                await self.client.deliver_message()
                self._on_message()

        self._reader = asyncio.ensure_future(read())

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self.client.disconnect()


main(tasks=AsyncClient)
