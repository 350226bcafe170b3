"""Measure the basic costs of a library: the time of its import, and the memory of one idle connection.

For the memory each library gets the few lines that a user would write, with only the imports that they need, so no
helper of other cases counts.
"""

from __future__ import annotations

import subprocess
import time

#: Library -> its module, if the name differs.
MODULES = {"paho": "paho.mqtt.client", "awscrt": "awscrt.mqtt"}
#: The number of timed imports; the best counts.
IMPORTS = 5

#: Prints the memory and ends the process while it is connected.
_TELL = """
import os, sys
def report():
    with open("/proc/self/status") as status:
        kib = next(line.split()[1] for line in status if line.startswith("VmRSS:"))
    print('{"kib": %s}' % kib, flush=True)
    os._exit(0)
port = int(sys.argv[1])
"""
_MQTTWS = """
from mqttws import Client
client = Client(f"ws://127.0.0.1:{port}/").open()
report()
"""
#: Library -> the code that connects. The floor is a connected socket without a protocol.
CONNECTIONS = {
    "floor": """
import socket
connection = socket.create_connection(("127.0.0.1", port))
report()
""",
    "mqttws": _MQTTWS,
    "mqttws-compiled": _MQTTWS,
    "paho": """
import threading
from paho.mqtt.client import CallbackAPIVersion, Client
ready = threading.Event()
client = Client(CallbackAPIVersion.VERSION2, transport="websockets")
client.ws_set_options(path="/")
client.on_connect = lambda *arguments: ready.set()
client.connect("127.0.0.1", port)
client.loop_start()
assert ready.wait(10)
report()
""",
    "aiomqtt": """
import asyncio
import aiomqtt
async def main():
    async with aiomqtt.Client("127.0.0.1", port, transport="websockets", websocket_path="/"):
        report()
asyncio.run(main())
""",
    "gmqtt": """
import asyncio
import gmqtt
async def main():
    await gmqtt.Client("bench").connect("127.0.0.1", port, version=4)
    report()
asyncio.run(main())
""",
    "awscrt": """
from awscrt import io, mqtt
bootstrap = io.ClientBootstrap(io.EventLoopGroup(1), io.DefaultHostResolver(io.EventLoopGroup(1)))
connection = mqtt.Connection(
    mqtt.Client(bootstrap), host_name="127.0.0.1", port=port, client_id="bench", use_websockets=True
)
connection.connect().result(10)
report()
""",
    "mqttjs": """
const client = require('mqtt').connect(`ws://127.0.0.1:${process.argv[1]}/`, { protocolVersion: 4 })
client.once('connect', () => {
  console.log(JSON.stringify({ kib: process.memoryUsage().rss / 1024 }))
  process.exit(0)
})
""",
}


def connecting(library: str, interpreter: str, port: int) -> list[str]:
    """Return the command that connects and prints the memory then in use, in KiB, as JSON."""
    if library == "mqttjs":
        return [interpreter, "-e", CONNECTIONS[library], str(port)]
    return [interpreter, "-c", _TELL + CONNECTIONS[library], str(port)]


def import_ms(library: str, interpreter: str, environment: dict[str, str]) -> float:
    """Return the time of an interpreter that imports a library, less one that imports nothing; the best of several."""
    best: dict[str, float] = {}
    for _ in range(IMPORTS):
        # `import mqttws` loads nothing before a name is used.
        ours = library.startswith("mqttws")
        statement = "from mqttws import Client" if ours else f"import {MODULES.get(library, library)}"
        for code in (statement, "pass"):
            start = time.perf_counter()
            subprocess.run([interpreter, "-c", code], check=True, env=environment)
            best[code] = min(best.get(code, 60.0), time.perf_counter() - start)
    imported, nothing = best.values()
    return (imported - nothing) * 1e3
