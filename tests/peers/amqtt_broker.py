"""Run amqtt on the given ports until the end of standard input.

python amqtt_broker.py FILE mqtt=1 mqtts=2 ws=3 wss=4     (key and certificate in one)
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import sys

from amqtt.broker import Broker


async def main():
    pem, *ports = sys.argv[1:]
    listeners = {"default": {"max_connections": 1000, "type": "tcp"}}
    for scheme, _, port in (one.partition("=") for one in ports):
        listener = {"bind": f"127.0.0.1:{port}", "type": "ws" if scheme.startswith("ws") else "tcp"}
        if scheme in ("mqtts", "wss"):
            listener |= {"ssl": True, "certfile": pem, "keyfile": pem}
        listeners["default" if scheme == "mqtt" else scheme] = listeners["default"] | listener
    plugins = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    broker = Broker({"listeners": listeners, "plugins": plugins})
    await broker.start()
    print(json.dumps({"version": importlib.metadata.version("amqtt")}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await broker.shutdown()


asyncio.run(main())
