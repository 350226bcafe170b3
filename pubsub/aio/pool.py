"""A pool of connections, for asyncio: the methods that wait.

The client of each connection (a part) calls a function with its messages, which puts them into one queue. From there
the runner of the channel delivers them. So callbacks are called one after the other, as with one connection. While the
queue is full, by the number or the bytes of its messages, the function makes its client wait, which then stops reading.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any

from mqttws import ConnectionClosed, MQTTError, Publish, to_raise
from pubsub.pool.core import PoolCore
from pubsub.pool.part import Part

__all__ = ["Pool"]

#: The number of messages in the queue from which on the clients wait.
PLACES = 1_000
#: The default time-out of `close`, in seconds.
CLOSE_TIMEOUT = 5.0


class Pool(PoolCore):
    """Several asyncio clients with the methods of one."""

    def __init__(self, *arguments: Any) -> None:
        self._queue: deque[Publish] = deque()
        self._bytes = 0  # of the messages in the queue
        self._is_over = False
        self._came: asyncio.Future[None] | None = None  # while `messages` waits, because the queue is empty
        self._space: asyncio.Future[None] | None = None  # while clients wait, because the queue is full
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(*arguments)

    def new_answer(self) -> asyncio.Future[list[int]]:
        """See `PoolCore.new_answer`."""
        return asyncio.get_running_loop().create_future()

    async def open(self) -> None:
        """Connect.

        Raises:
            MQTTError: The first part could not connect. The others make further attempts, as after a loss.
        """
        if self._is_closing:
            return
        self._is_open = True
        first = self._parts[0]
        first.is_open = True
        await first.client.open()
        self.look()

    def start(self, part: Part) -> None:
        """See `PoolCore.start`."""
        if not (part.is_open or part.is_closed or self._is_closing):
            part.is_open = True
            self._spawn(part.client.open(wait=False))

    def options_of(self, part: Part) -> Mapping[str, Any]:
        """See `PoolCore.options_of`."""
        return {"on_message": partial(self._take, part)}

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _take(self, part: Part, publish: Publish) -> Coroutine[Any, Any, None] | None:
        """Take a message of a part. Return what its client must await before the next one."""
        over = self.took(part, publish)
        if over is None and len(self._queue) < PLACES and self._bytes < self._most_bytes:
            return None
        return self._wait(part, publish, over)

    async def _wait(self, part: Part, publish: Publish, over: Any) -> None:
        """Wait until a message can be taken, and then until there is space for others."""
        while over is not None:
            await asyncio.shield(over)
            over = self.took(part, publish)
        while (len(self._queue) >= PLACES or self._bytes >= self._most_bytes) and not self._is_closing:
            if self._space is None or self._space.done():
                self._space = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._space)

    def put(self, publish: Publish) -> None:
        """See `PoolCore.put`."""
        self._queue.append(publish)
        self._bytes += len(publish.topic) + len(publish.payload)
        if self._came is not None:
            _wake(self._came)
            self._came = None

    def end(self) -> None:
        """See `PoolCore.end`."""
        self._is_over = True
        _wake(self._came)
        _wake(self._space)

    async def messages(self) -> AsyncIterator[Publish]:
        """Yield the messages of all parts until the pool is closed.

        Raises:
            Exception: A part has ended for this reason, and with it the pool.
        """
        while True:
            while self._queue:
                publish = self._queue.popleft()
                self._bytes -= len(publish.topic) + len(publish.payload)
                if self._space is not None and len(self._queue) < PLACES // 2 and self._bytes <= self._most_bytes // 2:
                    _wake(self._space)
                    self._space = None
                yield publish
            if self._is_over:
                break
            self._came = asyncio.get_running_loop().create_future()
            await self._came
        if self.error is not None and not self._is_closing:
            raise to_raise(self.error)

    async def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        *,
        timeout: float | None = None,
        expire_after: float | None = None,
    ) -> None:
        """Publish a message through the part of its topic, and wait; see `mqttws.aio.Client.publish`."""
        slot, part = self.carrier(topic)
        try:
            await part.client.publish(topic, payload, qos, retain, timeout=timeout, expire_after=expire_after)
        finally:
            self.published(slot)

    async def flush(self, timeout: float) -> None:
        """Wait until all messages published so far are sent or acknowledged; see `mqttws.aio.Client.flush`."""
        deadline = asyncio.get_running_loop().time() + timeout
        for part in list(self._parts):
            try:
                if part.client.pending:
                    await part.client.flush(max(0.0, deadline - asyncio.get_running_loop().time()))
            except ConnectionClosed:
                if not part.is_closed:  # a retired part had no messages left
                    raise

    async def close(self, timeout: float | None = None) -> None:
        """Close every part, the publishing ones first, so that queued messages are sent and acknowledged."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (CLOSE_TIMEOUT if timeout is None else timeout)
        self._is_closing = True
        _wake(self._space)
        for parts in (
            [part for part in self._parts if part.publishes],
            [part for part in self._parts if not part.publishes],
        ):
            await _all(part.client.close(max(0.0, deadline - loop.time())) for part in parts)
        self.end()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(0.1, deadline - loop.time()))

    def retire(self, part: Part) -> None:
        """See `PoolCore.retire`."""
        self._spawn(self._retire(part))

    async def _retire(self, part: Part) -> None:
        try:
            await part.client.flush(CLOSE_TIMEOUT)
        except MQTTError:
            pass
        await part.client.close(CLOSE_TIMEOUT)
        self.gone(part)


async def _all(works: Iterable[Any]) -> None:
    await asyncio.gather(*works)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
