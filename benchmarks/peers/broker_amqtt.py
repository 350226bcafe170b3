"""Run amqtt's broker on the given port until the end of standard input."""

from __future__ import annotations

import asyncio
import logging
import sys

from amqtt.broker import Broker

logging.disable(logging.CRITICAL)


async def main(port: int) -> None:
    broker = Broker(
        {
            "listeners": {"default": {"type": "ws", "bind": f"127.0.0.1:{port}", "max_connections": 20_000}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    print(port, flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await broker.shutdown()


asyncio.run(main(int(sys.argv[1])))
