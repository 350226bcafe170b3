"""gmqtt in a closed loop; plain TCP only. It reports no PUBACK; the removal of a message from its store shows it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import gmqtt
from closedloop import MESSAGE, main
from gmqtt.mqtt.constants import MQTTv311

logging.disable(logging.CRITICAL)


class AsyncClient:
    """With asyncio."""

    async def open(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = gmqtt.Client(f"bench-{time.monotonic_ns()}")
        self._granted = asyncio.Event()
        self._waiting: dict[int, Callable[[], object]] = {}
        self.client.on_subscribe = lambda *given: self._granted.set()

        def received(*given: object) -> int:
            on_message()
            return 0

        self.client.on_message = received
        await self.client.connect("127.0.0.1", port, version=MQTTv311)
        self._loop = asyncio.get_running_loop()
        self._store = self.client._persistent_storage
        self._remove, self._store.remove_message_by_mid = self._store.remove_message_by_mid, self._on_complete

    def _on_complete(self, mid: int) -> None:
        self._remove(mid)
        self._waiting.pop(mid)()

    def publish_nowait(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        self.client.publish(topic, MESSAGE, qos)
        if qos:
            self._waiting[next(reversed(self._store._messages))] = done
        else:
            self._loop.call_soon(done)

    async def publish(self, topic: str, qos: int) -> None:
        future = self._loop.create_future()
        self.publish_nowait(topic, qos, lambda: future.set_result(None))
        await future

    async def subscribe(self, topic: str, qos: int) -> None:
        self.client.subscribe(topic, qos)
        await self._granted.wait()

    async def close(self) -> None:
        await self.client.disconnect()


main(tasks=AsyncClient)
