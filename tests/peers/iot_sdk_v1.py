"""Run AWS's IoT device SDK v1 (AWSIoTPythonSDK), unmodified: subscribe, publish and print the received message.

    python iot_sdk_v1.py HOST PORT TOPIC CA_FILE

The SDK reads the region from the host name, which must be one of AWS IoT; so this process resolves all names to this
machine. The keys come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import sys
import warnings
from typing import Any

WAIT = 15

_resolve = socket.getaddrinfo


def _resolve_here(host: str, *arguments: Any, **options: Any) -> Any:
    return _resolve("127.0.0.1", *arguments, **options)


socket.getaddrinfo = _resolve_here


def main(host: str, port: str, topic: str, ca_file: str) -> dict[str, Any]:
    warnings.simplefilter("ignore")  # the SDK uses deprecated functions of Python
    from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

    client = AWSIoTMQTTClient("sdk-v1", useWebsocket=True)
    client.configureEndpoint(host, int(port))
    client.configureCredentials(ca_file)
    client.configureIAMCredentials(
        os.environ["AWS_ACCESS_KEY_ID"],
        os.environ["AWS_SECRET_ACCESS_KEY"],
        os.environ.get("AWS_SESSION_TOKEN", ""),
    )
    client.configureConnectDisconnectTimeout(WAIT)
    client.configureMQTTOperationTimeout(WAIT)
    received: queue.Queue[str] = queue.Queue()
    try:
        client.connect(30)
    except Exception as error:
        return {"received": None, "error": f"{type(error).__name__}: {error}"}
    client.subscribe(topic, 1, lambda client, data, message: received.put(message.payload.decode()))
    client.publish(topic, "Hello from SDK v1", 1)
    message = received.get(timeout=WAIT)
    client.disconnect()
    return {"received": message}


if __name__ == "__main__":
    result = main(*sys.argv[1:])
    print(json.dumps(result), flush=True)
    os._exit(0)  # after a refused connection threads of the SDK keep running
