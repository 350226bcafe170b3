"""One interface for both drivers, so that each test of the contract runs with the blocking and the asyncio client.

`Blocking` is `mqttws.Client`. `Asyncio` runs `mqttws.aio.Client` in an event loop in another thread, with methods
that wait for it; it also returns `concurrent.futures.Future`. conftest.py files import the fixtures at the end.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

import mqttws
from mqttws import Publish, State
from mqttws.broker import Broker

#: Timeout of every wait, in seconds. A test that passes does not wait this long.
PATIENCE = 30.0


class States:
    """An observer of a client's states, with which a test can wait for one."""

    def __init__(self) -> None:
        self.seen: list[State] = []
        self._changed = threading.Condition()

    def __call__(self, state: State) -> None:
        with self._changed:
            self.seen.append(state)
            self._changed.notify_all()

    @property
    def names(self) -> list[str]:
        return [state.name for state in self.seen]

    def wait(self, name: str, count: int = 1) -> State:
        """Wait until a state has been reported `count` times, and return the last of these."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.names.count(name) >= count, PATIENCE), self.seen
            return [state for state in self.seen if state.name == name][count - 1]


class Blocking(mqttws.Client):
    """`mqttws.Client`."""

    def end(self) -> None:
        """Close the client and stop its threads."""
        self.close(timeout=1.0)


class Asyncio:
    """`mqttws.aio.Client`, in an event loop in another thread."""

    def __init__(self, url: str | Callable[[], str], **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self.client = self.call(self._make(url, options))
        except BaseException:
            self._stop_loop()
            raise

    async def _make(self, url: Any, options: dict[str, Any]) -> mqttws.aio.Client:
        return mqttws.aio.Client(url, **options)

    def call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE + 10)

    def later(self, method: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Call a `_nowait` method in the loop and return a `concurrent.futures.Future` of its result."""

        async def run() -> Any:
            return method(*arguments, **options)

        inner = self.call(run())

        async def wait() -> Any:
            return await inner

        return asyncio.run_coroutine_threadsafe(wait(), self.loop)

    def open(self, timeout: float | None = None, **options: Any) -> Asyncio:
        self.call(self.client.open(timeout, **options))
        return self

    def close(self, timeout: float | None = None, **options: Any) -> None:
        self.call(self.client.close(timeout, **options))

    def flush(self, timeout: float | None = None) -> None:
        self.call(self.client.flush(timeout))

    def end(self) -> None:
        """Close the client and stop its threads."""
        self.close(timeout=1.0)
        self._stop_loop()

    def _stop_loop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()

    def publish(self, *arguments: Any, **options: Any) -> None:
        self.call(self.client.publish(*arguments, **options))

    def publish_nowait(self, *arguments: Any, **options: Any) -> Future[Any]:
        return self.later(self.client.publish_nowait, *arguments, **options)

    def subscribe(self, *arguments: Any, **options: Any) -> Any:
        return self.call(self.client.subscribe(*arguments, **options))

    def subscribe_nowait(self, *arguments: Any) -> Future[Any]:
        return self.later(self.client.subscribe_nowait, *arguments)

    def unsubscribe_nowait(self, *arguments: Any) -> Future[Any]:
        return self.later(self.client.unsubscribe_nowait, *arguments)

    def unsubscribe(self, *arguments: Any, **options: Any) -> None:
        self.call(self.client.unsubscribe(*arguments, **options))

    def messages(self, timeout: float | None = None) -> Iterator[Publish]:
        iterator = self.client.messages(timeout)
        try:
            while True:
                try:
                    yield self.call(anext(iterator))
                except StopAsyncIteration:
                    return
        finally:
            self.call(iterator.aclose())

    def acknowledge(self, message: Publish) -> None:
        self.later_plain(self.client.acknowledge, message)

    def on(self, topic_filter: str, callback: Callable[[Publish], object]) -> None:
        self.later_plain(self.client.on, topic_filter, callback)

    def off(self, topic_filter: str, *callback: Callable[[Publish], object]) -> None:
        self.later_plain(self.client.off, topic_filter, *callback)

    def reconnect_now(self) -> None:
        self.later_plain(self.client.reconnect_now)

    def later_plain(self, method: Callable[..., Any], *arguments: Any) -> None:
        async def run() -> None:
            method(*arguments)

        self.call(run())

    @property
    def state(self) -> State:
        return self.client.state

    @property
    def expired(self) -> int:
        return self.client.expired

    @property
    def waiting(self) -> mqttws.Waiting:
        async def look() -> mqttws.Waiting:
            return self.client.waiting

        return self.call(look())

    @property
    def client_id(self) -> str:
        return self.client.client_id

    @property
    def session(self) -> mqttws.Session:
        return self.client.session

    def __enter__(self) -> Asyncio:
        return self.open()

    def __exit__(self, *exception: object) -> None:
        self.close()


def core_of(client: Any) -> Any:
    """Return the core of a client of either driver."""
    return client.client._core if isinstance(client, Asyncio) else client._core


def wait_until(condition: Callable[[], object]) -> None:
    """Wait for a state that nothing reports."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "the condition is still false"
        time.sleep(0.01)


@pytest.fixture(params=[Blocking, Asyncio], ids=["blocking", "asyncio"])
def driver(request: pytest.FixtureRequest) -> type[Any]:
    """Each driver in turn."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def make(driver: type[Any]) -> Iterator[Callable[..., Any]]:
    """Return a function that creates a client; all clients are closed after the test."""
    clients: list[Any] = []

    def maker(*arguments: Any, **options: Any) -> Any:
        clients.append(driver(*arguments, **options))
        return clients[-1]

    yield maker
    for client in clients:
        client.end()


@pytest.fixture
def broker() -> Iterator[Broker]:
    """A running broker with plain listeners."""
    with Broker(sys_interval=None) as broker:
        yield broker
