"""Run AWS's IoT device SDK v2 (awsiotsdk, over awscrt), unmodified: subscribe, publish and print the received message.

    python iot_sdk_v2.py HOST PORT TOPIC sigv4 REGION CA_FILE
    python iot_sdk_v2.py HOST PORT TOPIC mtls CA_FILE CERTIFICATE KEY

The keys of "sigv4" come from AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import Future
from typing import Any

from awscrt import auth, mqtt
from awsiot import mqtt_connection_builder as builder

WAIT = 15


def connect(host: str, port: int, way: str, arguments: list[str]) -> mqtt.Connection:
    common = {"endpoint": host, "port": port, "client_id": f"sdk-v2-{way}", "keep_alive_secs": 30}
    if way == "sigv4":
        region, ca_file = arguments
        provider = auth.AwsCredentialsProvider.new_static(
            os.environ["AWS_ACCESS_KEY_ID"],
            os.environ["AWS_SECRET_ACCESS_KEY"],
            os.environ.get("AWS_SESSION_TOKEN"),
        )
        return builder.websockets_with_default_aws_signing(region, provider, ca_filepath=ca_file, **common)
    ca_file, certificate, key = arguments
    return builder.mtls_from_path(certificate, key, ca_filepath=ca_file, **common)


def main(host: str, port: str, topic: str, way: str, *arguments: str) -> dict[str, Any]:
    connection = connect(host, int(port), way, list(arguments))
    try:
        connection.connect().result(WAIT)
    except Exception as error:
        return {"received": None, "error": str(error)}
    received: Future[str] = Future()
    subscribed, _ = connection.subscribe(
        topic, mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **more: received.set_result(payload.decode())
    )
    granted = subscribed.result(WAIT)["qos"]
    published, _ = connection.publish(topic, "Hello from SDK v2", mqtt.QoS.AT_LEAST_ONCE)
    published.result(WAIT)
    message = received.result(WAIT)
    connection.disconnect().result(WAIT)
    return {"received": message, "granted": int(granted)}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
