"""One interface for `pubsub.PubSub` and `pubsub.aio.PubSub`, so that each test of the contract runs with both.

`Threads` is `pubsub.PubSub`. `Loop` runs `pubsub.aio.PubSub` in an event loop in another thread, with methods that
wait for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pubsub
from pubsub import Message

#: Timeout of every wait, in seconds. A test that passes does not wait this long.
PATIENCE = 30.0


class Recorder:
    """An observer that records its calls, with which a test can wait for them."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.errors: list[Exception] = []
        self.closes = 0
        self._changed = threading.Condition()

    def next(self, message: Message) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    def error(self, error: Exception) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self.closes += 1
            self._changed.notify_all()

    def wait(self, condition: Callable[[], object]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE), (self.messages, self.errors, self.closes)

    @property
    def values(self) -> list[Any]:
        return [message.value for message in self.messages]

    def wait_for_values(self, *values: Any) -> None:
        """Wait for as many messages as `values`, and compare them."""
        self.wait(lambda: len(self.messages) >= len(values))
        assert self.values == list(values), self.values


class Threads:
    """`pubsub.PubSub`."""

    def __init__(self, *providers: pubsub.Provider, **options: Any) -> None:
        self.ps = pubsub.PubSub(*providers, **options)

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method and wait for its result."""
        return function(*arguments, **options)

    def iterate(self, topics: Any, count: int, begun: Callable[[], None], **options: Any) -> list[Message]:
        """Iterate until `count` messages have arrived. `begun` is called when the subscription is granted."""
        taken: list[Message] = []
        options.setdefault("timeout", PATIENCE)
        for message in self.ps.subscribe(topics, **options):
            if message.topic == "begin":
                begun()
                continue
            taken.append(message)
            if len(taken) == count:
                break
        return taken

    def end(self) -> None:
        self.ps.close()


class Loop:
    """`pubsub.aio.PubSub`."""

    def __init__(self, *providers: pubsub.Provider, **options: Any) -> None:
        from pubsub.aio import PubSub

        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.ps = PubSub(*providers, **options)

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call a method in the event loop and wait for its result."""

        async def run() -> Any:
            result = function(*arguments, **options)
            return await result if asyncio.iscoroutine(result) or asyncio.isfuture(result) else result

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE * 2)

    def iterate(self, topics: Any, count: int, begun: Callable[[], None], **options: Any) -> list[Message]:
        async def run() -> list[Message]:
            from contextlib import aclosing

            taken: list[Message] = []
            options.setdefault("timeout", PATIENCE)
            async with aclosing(aiter(self.ps.subscribe(topics, **options))) as messages:
                async for message in messages:
                    if message.topic == "begin":
                        begun()
                        continue
                    taken.append(message)
                    if len(taken) == count:
                        break
            return taken

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE * 2)

    def end(self) -> None:
        try:
            self.call(self.ps.close)
            left = [task for task in asyncio.all_tasks(self._loop) if not task.done()]
            assert not left, left
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(PATIENCE)
            self._loop.close()


FACES: list[type[Threads] | type[Loop]] = [Threads, Loop]
