"""MQTTium, over WebSocket."""

from __future__ import annotations

import asyncio
from functools import partial

import workloads as work
from mqttium.api import AsyncClient
from timing import atimed, main


async def publish(port: int, count: int, warm: int, qos: int) -> dict[str, float]:
    client = AsyncClient(message_delivery="callback", max_outbound_inflight=100)
    await client.connect_ws(f"ws://127.0.0.1:{port}/")

    async def some(number: int) -> None:
        receipts = []
        for _ in range(number):  # `publish` waits while a hundred are in flight
            receipts.append(await client.publish(work.TOPIC, work.MESSAGE, qos=qos))
        if not qos:
            receipts = [await client.publish(work.TOPIC, work.MESSAGE, qos=1)]
        for receipt in receipts:
            await receipt.wait()

    figures = await atimed(some, count, warm)
    await client.disconnect()
    return figures


def in_loop(case):
    return lambda **options: asyncio.run(case(**options))


main({f"publish_qos{qos}": in_loop(partial(publish, qos=qos)) for qos in (0, 1, 2)})
