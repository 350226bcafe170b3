"""The PubSub API with a real Mosquitto; each test for threads and for asyncio."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pubsub_faces import PATIENCE, Loop, Recorder, Threads

from mqttws import Reconnect, TakeoverSuspected
from pubsub import MqttOverWSProvider

Api = Threads | Loop


class Mosquitto:
    """A Mosquitto that can be stopped and restarted on the same port."""

    def __init__(self, program: str, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
            port, tcp_port = one.getsockname()[1], two.getsockname()[1]
        self._command = [program, "-v", "-c", str(folder / "mosquitto.conf")]
        (folder / "mosquitto.conf").write_text(
            f"listener {port} 127.0.0.1\nprotocol websockets\n"
            f"listener {tcp_port} 127.0.0.1\n"  # some versions do not start with WebSocket listeners alone
            "allow_anonymous true\n",
            encoding="utf-8",
        )
        self.url = f"ws://127.0.0.1:{port}/mqtt"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process, and wait until it logs that it is running."""
        deadline = time.monotonic() + PATIENCE
        while not self._runs():  # at a restart, a connection of another process may have its port for a moment
            assert time.monotonic() < deadline, "Mosquitto does not start"

    def _runs(self) -> bool:
        """Start the process. Return whether it runs; otherwise it has ended."""
        self._process = process = subprocess.Popen(self._command, stderr=subprocess.PIPE, text=True)
        running, outcome, log = threading.Event(), threading.Event(), process.stderr
        assert log is not None

        def read() -> None:
            with log:
                for line in log:
                    if "running" in line:
                        running.set()
                        outcome.set()
            outcome.set()

        threading.Thread(target=read, daemon=True).start()
        assert outcome.wait(PATIENCE), "Mosquitto does not start"
        if not running.is_set():
            process.wait(PATIENCE)
        return running.is_set()

    def stop(self, *, kill: bool = False) -> None:
        """Stop the process, and wait for its end."""
        if self._process is not None:
            (self._process.kill if kill else self._process.terminate)()
            self._process.wait(PATIENCE)
            self._process = None


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("Mosquitto is not installed")
        pytest.skip("Mosquitto is not installed")
    server = Mosquitto(program, tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.stop()


def subscribe(api: Api, topics: Any, observer: Any, **options: Any) -> dict[str, int]:
    subscription = api.call(api.ps.subscribe(topics, **options).subscribe, observer)
    granted: dict[str, int] = api.call(subscription.ready, PATIENCE)
    return granted


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_each_qos_with_overlapping_filters(mosquitto: Mosquitto, make: Callable[..., Api], qos: int) -> None:
    api, recorder = make(MqttOverWSProvider(mosquitto.url)), Recorder()
    assert subscribe(api, ["a/#", "a/+", "a/b"], recorder, qos=qos) == {"a/#": qos, "a/+": qos, "a/b": qos}
    for number in range(5):
        api.call(api.ps.publish, ["a/b", "a"], number, qos=qos)
    recorder.wait_for_values(0, 0, 1, 1, 2, 2, 3, 3, 4, 4)


def test_retained_messages_reach_each_new_observer_once(mosquitto: Mosquitto, make: Callable[..., Api]) -> None:
    api = make(MqttOverWSProvider(mosquitto.url))
    topics = [f"kept/{number}" for number in range(30)]  # more than Mosquitto's in-flight window
    api.call(api.ps.publish, topics, 1, retain=True, qos=1)
    recorders = [Recorder() for _ in range(3)]
    for recorder in recorders:
        subscribe(api, ["kept/#", "kept/+"], recorder, qos=1)
    for recorder in recorders:
        recorder.wait(lambda recorder=recorder: len(recorder.messages) >= 30)
    api.call(api.ps.publish, "kept/end", 2, qos=1)
    for recorder in recorders:
        recorder.wait(lambda recorder=recorder: recorder.messages[-1].value == 2)
        assert sorted(message.topic for message in recorder.messages) == sorted([*topics, "kept/end"])


def test_subscriptions_survive_a_killed_and_restarted_broker(mosquitto: Mosquitto, make: Callable[..., Api]) -> None:
    api, recorder = make(MqttOverWSProvider(mosquitto.url, reconnect=Reconnect(initial=0.02, maximum=0.1))), Recorder()
    states = Recorder()
    api.ps.connection_state_changes.subscribe(states.next)
    subscribe(api, "a", recorder, qos=1)
    mosquitto.stop(kill=True)
    states.wait(lambda: api.ps.connection_state != "Connected")
    offline = api.call(lambda: [api.ps.publish_nowait("a", "offline", qos=1)])[0]
    mosquitto.start()
    api.call(lambda: offline if hasattr(offline, "get_loop") else offline.result(PATIENCE))
    recorder.wait_for_values("offline")
    assert recorder.errors == []


def test_a_take_over_does_not_loop(mosquitto: Mosquitto, make: Callable[..., Api]) -> None:
    """Mosquitto only closes the connection; both clients see new connections end immediately, and one gives up."""
    options: dict[str, Any] = {"client_id": "same", "reconnect": Reconnect(initial=0.02, maximum=0.05, takeovers=3)}
    options["end_on"] = TakeoverSuspected
    apis = [make(MqttOverWSProvider(mosquitto.url, **options)) for _ in range(2)]
    recorder = Recorder()
    for api in apis:
        api.call(api.ps.subscribe("a").subscribe, recorder)
    recorder.wait(lambda: recorder.closes)
    assert isinstance(recorder.errors[0], TakeoverSuspected)
    assert "'same'" in str(recorder.errors[0])
