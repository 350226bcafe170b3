"""zmqtt in a closed loop; plain TCP only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import zmqtt
from closedloop import MESSAGE, main


class AsyncClient:
    """With asyncio. Each subscription has an iteration."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = zmqtt.create_client("127.0.0.1", port)
        self._on_message = on_message
        self._reader: asyncio.Task[None] | None = None
        await self.client.__aenter__()

    async def publish(self, topic: str, qos: int) -> None:
        await self.client.publish(topic, MESSAGE, qos=zmqtt.QoS(qos))

    async def subscribe(self, topic: str, qos: int) -> None:
        subscription = self.client.subscribe(topic, qos=zmqtt.QoS(qos))
        await subscription.start()

        async def read() -> None:
            async for _ in subscription:
                self._on_message()

        self._reader = asyncio.ensure_future(read())

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self.client.__aexit__(None, None, None)


main(tasks=AsyncClient)
