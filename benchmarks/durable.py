"""Measure the cost of a store: QoS 1 and 2 messages through a client, a broker and their stores, 64 in flight.

    python benchmarks/durable.py [MESSAGES]

Client and broker run in one event loop, so a figure includes the work of both. Each case is run five times, alternating
with the others, and the best run of each counts.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from mqttws import SQLiteStore, aio
from mqttws.broker import Broker

IN_FLIGHT = 64
PAYLOAD = b"x" * 64
#: Name -> the durability of the stores; None for memory only.
STORES: dict[str, str | None] = {"memory": None, "SQLite, normal": "normal", "SQLite, full": "full"}


async def run(kind: str | None, qos: int, messages: int, directory: Path) -> float:
    """Publish to the session of a disconnected subscriber. Return messages a second."""
    with ExitStack() as stack:
        stores = [
            None if kind is None else stack.enter_context(SQLiteStore(directory / name, synchronous=kind))
            for name in ("client.db", "broker.db")
        ]
        async with Broker(ws_port=None, sys_interval=None, store=stores[1]) as broker:
            async with aio.connect(broker.url, client_id="away", clean_session=False) as away:
                await away.subscribe("t", 2)
            client = aio.connect(
                broker.url,
                client_id="c",
                clean_session=False,
                store=stores[0],
                max_in_flight=IN_FLIGHT,
                max_in_flight_qos2=IN_FLIGHT,
            )
            async with client:
                left = iter(range(messages))

                async def publish() -> None:
                    for _ in left:
                        await client.publish("t", PAYLOAD, qos)

                begin = time.perf_counter()
                await asyncio.gather(*[publish() for _ in range(IN_FLIGHT)])
                seconds = time.perf_counter() - begin
            assert broker.metrics()["publish/messages/received"] == messages
    return messages / seconds


def main() -> None:
    """Measure each case, and print it relative to memory."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else 5_000
    for qos in (1, 2):
        best = dict.fromkeys(STORES, 0.0)
        for _ in range(5):
            for name, kind in STORES.items():
                with tempfile.TemporaryDirectory() as directory:
                    best[name] = max(best[name], asyncio.run(run(kind, qos, messages, Path(directory))))
        for name, figure in best.items():
            print(f"QoS {qos}, {name}: {figure:,.0f} a second, {best['memory'] / figure:.1f} times less than memory")


if __name__ == "__main__":
    main()
