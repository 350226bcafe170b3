"""One small program for each client library: publish 100 messages at QoS 1 and 100 at QoS 2, and receive 100.

    python program.py LIBRARY HOST PORT

Each is configured as its documentation describes for a persistent session: a fixed client identifier, no clean session,
a keep alive of 2 s, short reconnect delays, and time-outs of 3 s where the library has any. If a library does not
reconnect automatically, the program does, and publishes again what has not been acknowledged. The output is lines of
JSON: {"ready": true} once subscribed, {"got": 7}, {"done": [qos, 7]}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

COUNT = 100
HOST, PORT = sys.argv[2], int(sys.argv[3])
NAME = "under-test"
_lock = threading.Lock()
_got: set[int] = set()
_over = threading.Event()


def report(**event):
    with _lock:
        print(json.dumps(event), flush=True)


def got(payload):
    number = int(payload)
    report(got=number)
    _got.add(number)
    if len(_got) == COUNT:
        _over.set()


def work():
    """Return (QoS, number) of the messages to publish, in order."""
    return [(qos, number) for number in range(COUNT) for qos in (1, 2)]


def paho():
    from paho.mqtt import client as library

    client = library.Client(library.CallbackAPIVersion.VERSION2, NAME, clean_session=False)
    client.reconnect_delay_set(1, 1)
    subscribed = threading.Event()
    client.on_connect = lambda *_: client.subscribe("down/#", 1)
    client.on_subscribe = lambda *_: subscribed.set()
    client.on_message = lambda _, __, message: got(message.payload)
    client.connect_async(HOST, PORT, keepalive=2)
    client.loop_start()
    subscribed.wait()
    report(ready=True)
    infos = [(qos, number, client.publish(f"up/{qos}", str(number), qos)) for qos, number in work()]
    for qos, number, info in infos:
        info.wait_for_publish()
        report(done=[qos, number])
    _over.wait()
    client.disconnect()
    client.loop_stop()


def mqttws():
    import mqttws as library

    client = library.Client(
        f"mqtt://{HOST}:{PORT}", client_id=NAME, clean_session=False, keep_alive=2,
        on_message=lambda message: got(message.payload), reconnect=library.Reconnect(initial=0.1, maximum=1.0),
    )  # fmt: skip
    client.open(wait=False)
    while True:
        try:
            client.subscribe("down/#", 1, timeout=3)
            break
        except library.MQTTError:
            time.sleep(0.2)
    report(ready=True)
    futures = [(qos, number, client.publish_nowait(f"up/{qos}", str(number), qos)) for qos, number in work()]
    for qos, number, future in futures:
        future.result()
        report(done=[qos, number])
    _over.wait()
    client.close()


async def mqttws_aio():
    import mqttws as library
    from mqttws import aio

    client = aio.Client(
        f"mqtt://{HOST}:{PORT}", client_id=NAME, clean_session=False, keep_alive=2,
        on_message=lambda message: got(message.payload), reconnect=library.Reconnect(initial=0.1, maximum=1.0),
    )  # fmt: skip
    await client.open(wait=False)
    while True:
        try:
            await client.subscribe("down/#", 1, timeout=3)
            break
        except library.MQTTError:
            await asyncio.sleep(0.2)
    report(ready=True)
    futures = [(qos, number, client.publish_nowait(f"up/{qos}", str(number), qos)) for qos, number in work()]
    for qos, number, future in futures:
        await future
        report(done=[qos, number])
    await asyncio.to_thread(_over.wait)
    await client.close()


async def aiomqtt():
    import aiomqtt as library

    waiting = work()

    async def publish(client):
        while waiting:
            qos, number = waiting[0]
            await client.publish(f"up/{qos}", str(number), qos)
            waiting.pop(0)
            report(done=[qos, number])

    async def receive(client):
        async for message in client.messages:
            got(message.payload)
            if _over.is_set():
                return

    while waiting or not _over.is_set():
        try:
            async with library.Client(
                HOST, PORT, identifier=NAME, clean_session=False, keepalive=2, timeout=3
            ) as client:
                await client.subscribe("down/#", 1)
                report(ready=True)
                tasks = [asyncio.create_task(publish(client)), asyncio.create_task(receive(client))]
                try:
                    await asyncio.gather(*tasks)
                finally:
                    for task in tasks:
                        task.cancel()
        except library.MqttError:
            await asyncio.sleep(0.5)


async def gmqtt():
    import gmqtt as library
    from gmqtt.mqtt.constants import UNLIMITED_RECONNECTS, MQTTv311

    ready = asyncio.Event()
    client = library.Client(NAME, clean_session=False)
    client.set_config({"reconnect_retries": UNLIMITED_RECONNECTS, "reconnect_delay": 1})
    client.on_connect = lambda *_: client.subscribe("down/#", qos=1)
    client.on_subscribe = lambda *_, **__: ready.set()

    async def on_message(_, __, payload, ___, ____):
        got(payload)
        return 0

    client.on_message = on_message
    while True:
        try:
            await client.connect(HOST, PORT, keepalive=2, version=MQTTv311)
            break
        except Exception:
            await asyncio.sleep(0.5)
    await ready.wait()
    report(ready=True)
    for qos, number in work():  # gmqtt has no way to wait for an acknowledgement
        client.publish(f"up/{qos}", str(number), qos=qos)
    await asyncio.to_thread(_over.wait)
    await asyncio.sleep(1)
    await client.disconnect()


async def amqtt():
    from amqtt.client import MQTTClient

    client = MQTTClient(
        NAME, {"keep_alive": 2, "auto_reconnect": True, "reconnect_retries": -1, "reconnect_max_interval": 1}
    )
    while True:
        try:
            await client.connect(f"mqtt://{HOST}:{PORT}/", cleansession=False)
            await client.subscribe([("down/#", 1)])
            break
        except Exception:
            await asyncio.sleep(0.5)
    report(ready=True)

    async def receive():
        while not _over.is_set():
            message = await client.deliver_message()
            if message is not None and message.data is not None:
                got(message.data)

    receiving = asyncio.create_task(receive())
    for qos, number in work():
        await client.publish(f"up/{qos}", str(number).encode(), qos=qos)
        report(done=[qos, number])
    await receiving
    await client.disconnect()


async def mqttium():
    from mqttium.api import AsyncClient, ReconnectPolicy

    policy = ReconnectPolicy(initial_delay=0.5, max_delay=1.0)
    client = AsyncClient(NAME, clean_start=False, keepalive=2, reconnect=policy, connect_timeout=3, subscribe_timeout=3)
    while True:
        try:
            await client.connect(HOST, PORT)
            break
        except Exception:
            await asyncio.sleep(0.5)
    while True:
        try:
            await client.subscribe("down/#", qos=1)
            break
        except Exception:
            await asyncio.sleep(0.5)
    report(ready=True)

    async def receive():
        async for message in client.messages():
            got(message.payload)
            if _over.is_set():
                return

    receiving = asyncio.create_task(receive())
    receipts = [
        (qos, number, await client.publish(f"up/{qos}", str(number).encode(), qos=qos)) for qos, number in work()
    ]
    for qos, number, receipt in receipts:
        await receipt.wait()
        report(done=[qos, number])
    await receiving
    await client.disconnect()


async def zmqtt():
    import zmqtt as library

    reconnect = library.ReconnectConfig(initial_delay=0.5, max_delay=1.0, max_attempts=None)
    while True:
        client = library.create_client(
            HOST, PORT, client_id=NAME, clean_session=False, keepalive=2, reconnect=reconnect
        )
        try:
            await client.connect()
            break
        except library.MQTTError:
            await asyncio.sleep(0.5)
    while True:
        messages = client.subscribe("down/#", qos=library.QoS(1))
        try:
            await messages.__aenter__()
            break
        except library.MQTTError:
            await asyncio.sleep(0.5)
    report(ready=True)

    async def receive():
        while not _over.is_set():
            got((await messages.get_message()).payload)

    receiving = asyncio.create_task(receive())
    for qos, number in work():
        while True:
            try:
                await client.publish(f"up/{qos}", str(number), qos=library.QoS(qos))
                break
            except library.MQTTDisconnectedError:
                await asyncio.sleep(0.2)
        report(done=[qos, number])
    await receiving
    await client.disconnect()


def awscrt():
    from awscrt import io, mqtt

    bootstrap = io.ClientBootstrap(io.EventLoopGroup(1), io.DefaultHostResolver(io.EventLoopGroup(1)))
    connection = mqtt.Connection(
        mqtt.Client(bootstrap, None), HOST, PORT, NAME, clean_session=False, keep_alive_secs=2, ping_timeout_ms=1000,
        protocol_operation_timeout_ms=3000, reconnect_min_timeout_secs=1, reconnect_max_timeout_secs=1,
    )  # fmt: skip
    while True:
        try:
            connection.connect().result(5)
            break
        except Exception:
            pass
    while True:
        try:
            subscribing, _ = connection.subscribe(
                "down/#", mqtt.QoS.AT_LEAST_ONCE, lambda topic, payload, **_: got(payload)
            )
            subscribing.result(5)
            break
        except Exception:
            pass
    report(ready=True)
    # awscrt has no QoS 2. A message that times out is published again, as its documentation describes.
    waiting = [number for qos, number in work() if qos == 1]
    while waiting:
        futures = [(number, connection.publish("up/1", str(number), mqtt.QoS.AT_LEAST_ONCE)[0]) for number in waiting]
        waiting = []
        for number, future in futures:
            try:
                future.result()
                report(done=[1, number])
            except Exception:
                waiting.append(number)
    _over.wait()
    connection.disconnect().result(5)


PROGRAMS = {
    "paho-mqtt": paho, "aiomqtt": aiomqtt, "gmqtt": gmqtt, "amqtt": amqtt, "mqttium": mqttium, "zmqtt": zmqtt,
    "awscrt": awscrt, "mqttws": mqttws, "mqttws.aio": mqttws_aio,
}  # fmt: skip

if __name__ == "__main__":
    program = PROGRAMS[sys.argv[1]]
    if asyncio.iscoroutinefunction(program):
        asyncio.run(program())
    else:
        program()
