"""paho-mqtt in a closed loop, with its network thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from closedloop import MESSAGE, PATIENCE, WINDOW, main
from paho.mqtt import client as paho


class Client:
    """With threads. A callback may get the identifier of a message before `publish` has returned it."""

    def __init__(self, port: int, websocket: bool, on_message: Callable[[], object]) -> None:
        self.client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, transport="websockets" if websocket else "tcp", reconnect_on_failure=False
        )
        if websocket:
            self.client.ws_set_options(path="/")
        self.client.max_inflight_messages_set(WINDOW)
        self._ready, self._granted = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        self._waiting: dict[int, Callable[[], object] | None] = {}  # None: the callback came first
        self.client.on_connect = lambda *arguments: self._ready.set()
        self.client.on_subscribe = lambda *arguments: self._granted.set()
        self.client.on_message = lambda *arguments: on_message()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(PATIENCE)

    def publish(self, topic: str, qos: int, done: Callable[[], object]) -> None:
        if self.client.on_publish is None:
            self.client.on_publish = self._on_publish
        mid = self.client.publish(topic, MESSAGE, qos).mid
        with self._lock:
            if mid not in self._waiting:
                self._waiting[mid] = done
                return
            del self._waiting[mid]
        done()

    def _on_publish(self, client, userdata, mid, reason, properties) -> None:
        with self._lock:
            done = self._waiting.pop(mid, None)
            if done is None:
                self._waiting[mid] = None
                return
        done()

    def publish_and_wait(self, topic: str, qos: int) -> None:
        self.client.publish(topic, MESSAGE, qos).wait_for_publish(PATIENCE)

    def subscribe(self, topic: str, qos: int) -> None:
        self.client.subscribe(topic, qos)
        assert self._granted.wait(PATIENCE)

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


main(Client)
