"""aiomqtt in a closed loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiomqtt
from closedloop import MESSAGE, WINDOW, main


class AsyncClient:
    """With asyncio."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        transport = {"transport": "websockets", "websocket_path": "/"} if websocket else {}
        self.client = aiomqtt.Client(
            "127.0.0.1", port, max_inflight_messages=WINDOW, max_concurrent_outgoing_calls=WINDOW, **transport
        )
        self._on_message = on_message
        self._reader: asyncio.Task[None] | None = None
        await self.client.__aenter__()

    async def publish(self, topic: str, qos: int) -> None:
        await self.client.publish(topic, MESSAGE, qos)

    async def subscribe(self, topic: str, qos: int) -> None:
        await self.client.subscribe(topic, qos)

        async def read() -> None:
            async for _ in self.client.messages:
                self._on_message()

        self._reader = asyncio.ensure_future(read())

    async def close(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
        await self.client.__aexit__(None, None, None)


main(tasks=AsyncClient)
