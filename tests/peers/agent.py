"""Run clients of a library for the tests: commands are read, and answers and messages written, as lines of JSON.

    python agent.py paho|aiomqtt|gmqtt|zmqtt|mqttium|awscrt|mqttws|mqttws.aio

    {"id": 1, "client": "a", "do": "connect", "url": ..., "client_id": ..., "clean": true, "will": null, "ca": null}
    {"id": 2, "client": "a", "do": "subscribe", "filter": "x/#", "qos": 1}
    {"id": 3, "client": "a", "do": "publish", "topic": "x", "payload": base64, "qos": 1, "retain": false}
    ... "unsubscribe", "disconnect"; "version" without a client

Each is answered by {"id": 1, "ok": ...} or {"id": 1, "error": ...}; {"client": "a", "message": [topic, base64, qos,
retain]} and {"client": "a", "lost": true} are sent at any time. `agent.mjs` does the same for MQTT.js.
"""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import json
import ssl
import sys
import threading
from urllib.parse import urlsplit

PATIENCE = 30.0
_lock = threading.Lock()


def report(**event):
    with _lock:
        print(json.dumps(event), flush=True)


def report_message(name, topic, payload, qos, retain):
    report(client=name, message=[topic, base64.b64encode(payload).decode(), qos, bool(retain)])


def context(ca):
    return ssl.create_default_context(cafile=ca) if ca else None


class Paho:
    """paho-mqtt, with its network thread."""

    distribution = "paho-mqtt"

    def __init__(self, name, url, client_id, clean, will, ca):
        from paho.mqtt import client as paho

        parts = urlsplit(url)
        websocket = parts.scheme.startswith("ws")
        self._client = client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, client_id, clean, transport="websockets" if websocket else "tcp"
        )
        if websocket:
            client.ws_set_options(parts.path or "/")
        if ca:
            client.tls_set_context(context(ca))
        if will:
            client.will_set(will["topic"], base64.b64decode(will["payload"]), will["qos"], will["retain"])
        self._answered = {}
        self._connected = threading.Event()
        self._left = False
        client.on_connect = lambda *_: self._connected.set()
        client.on_subscribe = client.on_unsubscribe = lambda _, __, mid, *___: self._answer(mid).set()
        client.on_message = lambda _, __, m: report_message(name, m.topic, bytes(m.payload), m.qos, m.retain)
        client.on_disconnect = lambda *_: self._lost(name)
        client.connect(parts.hostname, parts.port, keepalive=60)
        client.loop_start()
        if not self._connected.wait(PATIENCE):
            raise TimeoutError("no CONNACK")

    def _lost(self, name):
        if not self._left:
            self._left = True
            self._client.disconnect()  # otherwise it would reconnect and take the session over
            report(client=name, lost=True)

    def _answer(self, mid):
        with _lock:
            return self._answered.setdefault(mid, threading.Event())

    def _wait(self, mid):
        if not self._answer(mid).wait(PATIENCE):
            raise TimeoutError("no answer")

    def subscribe(self, topic_filter, qos):
        self._wait(self._client.subscribe(topic_filter, qos)[1])

    def unsubscribe(self, topic_filter):
        self._wait(self._client.unsubscribe(topic_filter)[1])

    def publish(self, topic, payload, qos, retain):
        message = self._client.publish(topic, payload, qos, retain)
        message.wait_for_publish(PATIENCE)
        if not message.is_published():
            raise TimeoutError("not acknowledged")

    def disconnect(self):
        self._left = True
        self._client.disconnect()
        self._client.loop_stop()


class Aiomqtt:
    distribution = "aiomqtt"

    async def connect(self, name, url, client_id, clean, will, ca):
        import aiomqtt

        parts = urlsplit(url)
        options = {}
        if parts.scheme.startswith("ws"):
            options = {"transport": "websockets", "websocket_path": parts.path or "/"}
        if will:
            payload = base64.b64decode(will["payload"])
            options["will"] = aiomqtt.Will(will["topic"], payload, will["qos"], will["retain"])
        self._left = False
        self._client = aiomqtt.Client(
            parts.hostname,
            parts.port,
            identifier=client_id,
            clean_session=clean,
            protocol=aiomqtt.ProtocolVersion.V311,
            tls_context=context(ca),
            **options,
        )
        await self._client.__aenter__()
        self._reading = asyncio.create_task(self._read(name))

    async def _read(self, name):
        import aiomqtt

        try:
            async for m in self._client.messages:
                report_message(name, str(m.topic), bytes(m.payload), m.qos, m.retain)
        except aiomqtt.MqttError:
            if not self._left:
                report(client=name, lost=True)

    async def subscribe(self, topic_filter, qos):
        await self._client.subscribe(topic_filter, qos)

    async def unsubscribe(self, topic_filter):
        await self._client.unsubscribe(topic_filter)

    async def publish(self, topic, payload, qos, retain):
        await self._client.publish(topic, payload, qos, retain)

    async def disconnect(self):
        self._left = True
        await self._client.__aexit__(None, None, None)
        self._reading.cancel()


class Gmqtt:
    distribution = "gmqtt"

    async def connect(self, name, url, client_id, clean, will, ca):
        import gmqtt
        from gmqtt.mqtt.constants import MQTTv311

        parts = urlsplit(url)
        message = None
        if will:
            payload = base64.b64decode(will["payload"])
            message = gmqtt.Message(will["topic"], payload, qos=will["qos"], retain=will["retain"])
        self._left = False
        self._answered = {}
        self._client = client = gmqtt.Client(client_id, clean_session=clean, will_message=message)
        client.set_config({"reconnect_retries": 0, "reconnect_delay": 3600})
        client.on_message = lambda _, topic, payload, qos, properties: self._on_message(
            name, topic, payload, qos, properties
        )
        client.on_disconnect = lambda *_, **__: None if self._left else report(client=name, lost=True)
        client.on_subscribe = lambda _, mid, *__: self._answer(mid).set()
        client.on_unsubscribe = lambda _, mid, *__: self._answer(mid).set()
        await client.connect(parts.hostname, parts.port, ssl=context(ca) or False, version=MQTTv311)

    @staticmethod
    def _on_message(name, topic, payload, qos, properties):
        report_message(name, topic, bytes(payload), qos, properties["retain"])
        return 0

    def _answer(self, mid):
        return self._answered.setdefault(mid, asyncio.Event())

    async def subscribe(self, topic_filter, qos):
        await asyncio.wait_for(self._answer(self._client.subscribe(topic_filter, qos)).wait(), PATIENCE)

    async def unsubscribe(self, topic_filter):
        await asyncio.wait_for(self._answer(self._client.unsubscribe(topic_filter)).wait(), PATIENCE)

    async def publish(self, topic, payload, qos, retain):
        self._client.publish(topic, payload, qos=qos, retain=retain)  # has no way to wait for the acknowledgement

    async def disconnect(self):
        self._left = True
        await self._client.disconnect()


class Zmqtt:
    distribution = "zmqtt"

    async def connect(self, name, url, client_id, clean, will, ca):
        import zmqtt

        parts = urlsplit(url)
        self._name = name
        self._left = False
        self._reading = []
        self._client = zmqtt.create_client(
            parts.hostname,
            parts.port,
            client_id=client_id,
            clean_session=clean,
            tls=context(ca) or False,
            reconnect=zmqtt.ReconnectConfig(enabled=False),
        )
        await self._client.connect()

    async def subscribe(self, topic_filter, qos):
        import zmqtt

        subscription = self._client.subscribe(topic_filter, qos=zmqtt.QoS(qos))
        await subscription.start()
        self._reading.append(asyncio.create_task(self._read(subscription)))

    async def _read(self, subscription):
        try:
            async for m in subscription:
                report_message(self._name, m.topic, bytes(m.payload), int(m.qos), m.retain)
        except Exception:
            if not self._left:
                report(client=self._name, lost=True)

    async def publish(self, topic, payload, qos, retain):
        import zmqtt

        await self._client.publish(topic, payload, qos=zmqtt.QoS(qos), retain=retain)

    async def disconnect(self):
        self._left = True
        for task in self._reading:
            task.cancel()
        await self._client.disconnect()


class Mqttium:
    distribution = "mqttium"

    async def connect(self, name, url, client_id, clean, will, ca):
        from mqttium.api import AsyncClient

        parts = urlsplit(url)
        self._left = False
        self._client = AsyncClient(client_id, clean_start=clean)
        await self._client.connect(parts.hostname, parts.port)
        self._reading = asyncio.create_task(self._read(name))

    async def _read(self, name):
        try:
            async for m in self._client.messages():
                report_message(name, m.topic, bytes(m.payload), int(m.qos), m.retain)
        except Exception:
            pass
        if not self._left:
            report(client=name, lost=True)

    async def subscribe(self, topic_filter, qos):
        await self._client.subscribe(topic_filter, qos=qos)

    async def publish(self, topic, payload, qos, retain):
        await self._client.publish(topic, payload, qos=qos, retain=retain)

    async def disconnect(self):
        self._left = True
        self._reading.cancel()
        await self._client.disconnect()


class Awscrt:
    distribution = "awscrt"

    def __init__(self, name, url, client_id, clean, will, ca):
        from awscrt import io, mqtt

        parts = urlsplit(url)
        self._qos = mqtt.QoS
        self._name = name
        bootstrap = io.ClientBootstrap(io.EventLoopGroup(1), io.DefaultHostResolver(io.EventLoopGroup(1)))
        self._connection = mqtt.Connection(
            mqtt.Client(bootstrap),
            parts.hostname,
            parts.port,
            client_id,
            clean_session=clean,
            reconnect_min_timeout_secs=3600,
            reconnect_max_timeout_secs=3600,
            on_connection_interrupted=lambda *_, **__: report(client=name, lost=True),
        )
        self._connection.connect().result(PATIENCE)

    def subscribe(self, topic_filter, qos):
        future, _ = self._connection.subscribe(topic_filter, self._qos(qos), self._on_message)
        future.result(PATIENCE)

    def _on_message(self, topic, payload, dup, qos, retain, **_):
        report_message(self._name, topic, bytes(payload), int(qos), retain)

    def publish(self, topic, payload, qos, retain):
        self._connection.publish(topic, payload, self._qos(qos), retain)[0].result(PATIENCE)

    def disconnect(self):
        self._connection.disconnect()


class Ours:
    """The blocking client."""

    distribution = "mqttws-pubsub"

    def __init__(self, name, url, client_id, clean, will, ca):
        import mqttws

        options = {"tls": context(ca)} if ca else {}
        if will:
            payload = base64.b64decode(will["payload"])
            options["will"] = mqttws.Message(will["topic"], payload, will["qos"], will["retain"])
        self._left = False
        self._client = mqttws.connect(
            url,
            client_id=client_id,
            clean_session=clean,
            reconnect=False,
            timeout=PATIENCE,
            on_message=lambda m: report_message(name, m.topic, m.payload, m.qos, m.retain),
            on_state=lambda state: self._on_state(name, state),
            **options,
        )

    def _on_state(self, name, state):
        if state.name == "disconnected" and not self._left:
            report(client=name, lost=True)

    def subscribe(self, topic_filter, qos):
        self._client.subscribe(topic_filter, qos)

    def unsubscribe(self, topic_filter):
        self._client.unsubscribe(topic_filter)

    def publish(self, topic, payload, qos, retain):
        self._client.publish(topic, payload, qos, retain)

    def disconnect(self):
        self._left = True
        self._client.close()


class OursAio:
    """The asyncio client."""

    distribution = "mqttws-pubsub"

    async def connect(self, name, url, client_id, clean, will, ca):
        import mqttws
        from mqttws import aio

        options = {"tls": context(ca)} if ca else {}
        if will:
            payload = base64.b64decode(will["payload"])
            options["will"] = mqttws.Message(will["topic"], payload, will["qos"], will["retain"])
        self._left = False
        self._client = aio.connect(
            url,
            client_id=client_id,
            clean_session=clean,
            reconnect=False,
            timeout=PATIENCE,
            on_message=lambda m: report_message(name, m.topic, m.payload, m.qos, m.retain),
            on_state=lambda state: Ours._on_state(self, name, state),
            **options,
        )
        await self._client.open()

    async def subscribe(self, topic_filter, qos):
        await self._client.subscribe(topic_filter, qos)

    async def unsubscribe(self, topic_filter):
        await self._client.unsubscribe(topic_filter)

    async def publish(self, topic, payload, qos, retain):
        await self._client.publish(topic, payload, qos, retain)

    async def disconnect(self):
        self._left = True
        await self._client.close()


KINDS = {
    "paho": Paho, "aiomqtt": Aiomqtt, "gmqtt": Gmqtt, "zmqtt": Zmqtt, "mqttium": Mqttium, "awscrt": Awscrt,
    "mqttws": Ours, "mqttws.aio": OursAio,
}  # fmt: skip


async def obey(kind, clients, command):
    """Run a command; blocking libraries run in a thread."""

    async def call(function, *arguments):
        if asyncio.iscoroutinefunction(function):
            return await function(*arguments)
        return await asyncio.to_thread(function, *arguments)

    name, do = command.get("client"), command["do"]
    if do == "version":
        return importlib.metadata.version(kind.distribution)
    if do == "connect":
        options = (name, command["url"], command["client_id"], command["clean"], command["will"], command["ca"])
        if hasattr(kind, "connect"):
            clients[name] = kind()
            await clients[name].connect(*options)
        else:
            clients[name] = await asyncio.to_thread(kind, *options)
        return None
    client = clients[name]
    if do == "subscribe":
        return await call(client.subscribe, command["filter"], command["qos"])
    if do == "unsubscribe":
        return await call(client.unsubscribe, command["filter"])
    if do == "publish":
        payload = base64.b64decode(command["payload"])
        return await call(client.publish, command["topic"], payload, command["qos"], command["retain"])
    assert do == "disconnect", do
    return await call(clients.pop(name).disconnect)


async def main():
    kind = KINDS[sys.argv[1]]
    clients = {}
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            report(id=command["id"], ok=await obey(kind, clients, command))
        except Exception as error:
            report(id=command["id"], error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    asyncio.run(main())
