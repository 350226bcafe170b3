"""No code of the user runs under a lock of pubsub, and finalisers are safe at any time; for threads and asyncio."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

from pubsub_faces import PATIENCE, Loop, Threads

import pubsub.aio
from mqttws import Reconnect
from mqttws.broker import Broker
from pubsub import MqttOverWSProvider

Api = Threads | Loop


class Watched:
    """Records which functions of the user have run, and which of them under the lock."""

    def __init__(self) -> None:
        self.ran: set[str] = set()
        self.under_lock: set[str] = set()
        self.runtime: Any = None
        self._changed = threading.Condition()

    def note(self, what: str) -> None:
        with self._changed:
            self.ran.add(what)
            if self.runtime is not None and self.runtime._lock.owned():
                self.under_lock.add(what)
            self._changed.notify_all()

    def callback(self, what: str) -> Callable[..., None]:
        return lambda *arguments: self.note(what)

    def wait_for(self, *whats: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.ran >= set(whats), PATIENCE), self.ran


class Provider(MqttOverWSProvider):
    watched: Watched

    def url(self) -> str:
        self.watched.note("url")
        return super().url()

    def client_options(self) -> dict[str, Any]:
        self.watched.note("client_options")
        return super().client_options()

    def objection_to_publish(self, topic: str, payload: bytes, qos: int) -> Exception | None:
        self.watched.note("objection_to_publish")
        return None

    def objections_to_subscribe(self, wanted: Any, standing: Any) -> dict[str, Exception]:
        self.watched.note("objections_to_subscribe")
        return {}

    def explain(self, error: Exception) -> Exception:
        self.watched.note("explain")
        return error

    def recover(self, error: Exception) -> bool:
        self.watched.note("recover")
        return False


class Codec:
    def __init__(self, watched: Watched) -> None:
        self._watched = watched

    def encode(self, value: Any) -> bytes:
        self._watched.note("encode")
        return b"%d" % value

    def decode(self, payload: bytes) -> Any:
        self._watched.note("decode")
        return int(payload)


def test_no_code_of_the_user_runs_under_the_lock(make: Callable[..., Api], stack: Any) -> None:
    watched = Watched()
    forbidden = {"secret"}
    broker = stack.enter_context(Broker(authorizer=lambda peer, access: access.topic not in forbidden))
    provider = Provider(
        broker.url,
        reconnect=Reconnect(initial=0.02, maximum=0.02),
        on_error=watched.callback("on_error"),
    )
    provider.watched = watched
    api = make(provider, codec=Codec(watched))
    watched.runtime = api.ps._runtime
    api.ps.connection_state_changes.subscribe(watched.callback("state"))
    subscription = api.call(
        api.ps.subscribe(["a", "secret", "later"], dedupe=watched.callback("dedupe")).subscribe,
        watched.callback("next"),
        watched.callback("error"),
        watched.callback("close"),
    )
    api.call(subscription.ready, PATIENCE)
    api.call(lambda: api.ps.publish_nowait("a", 1, qos=1).add_done_callback(watched.callback("future")))
    api.call(api.ps.publish, ["a", "b"], 1, qos=1)
    watched.wait_for("next", "error", "future")
    forbidden.add("later")
    broker.stop()
    watched.wait_for("recover")
    broker.start()
    watched.wait_for("on_error")
    api.call(api.ps.close)
    watched.wait_for("close")
    of_provider = {
        "url",
        "client_options",
        "objection_to_publish",
        "objections_to_subscribe",
        "explain",
        "recover",
    }
    of_codec = {"encode", "decode", "dedupe"}
    assert watched.ran == of_provider | of_codec | {"next", "error", "close", "state", "future", "on_error"}
    assert watched.under_lock == set()


def test_asyncio_iterations_can_be_finalised_at_any_time(world: Any) -> None:
    async def main() -> tuple[int, int, int]:
        published = left = got = 0

        def count(message: Any) -> None:
            nonlocal got
            got += 1

        async with asyncio.timeout(PATIENCE * 3), pubsub.aio.PubSub(world.provider()) as ps:
            await ps.subscribe("w", qos=1).subscribe(count).ready()

            async def publish() -> None:
                nonlocal published
                for _ in range(300):
                    await ps.publish("w", 1, qos=1)
                    ps.publish_nowait("a", 1, qos=1)
                    published += 1

            async def leave() -> None:
                nonlocal left
                for _ in range(300):
                    iteration = aiter(ps.subscribe("a", qos=1, timeout=PATIENCE))
                    await iteration.ready()
                    cycle: list[Any] = [iteration]
                    cycle.append(cycle)
                    left += 1
                    del iteration, cycle

            await asyncio.gather(publish(), publish(), leave(), leave())
            gc.collect()
            await ps.publish("w", 1, qos=1)
            published += 1
            while got < published:
                await asyncio.sleep(0.001)
            return left, len(ps._channels["MqttOverWSProvider"].members()), len(ps._runtime._iterations)

    threshold = gc.get_threshold()
    gc.set_threshold(100, 10, 10)
    try:
        assert asyncio.run(main()) == (600, 1, 0)
    finally:
        gc.set_threshold(*threshold)
