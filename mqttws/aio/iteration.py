"""The iterator over the messages of an asyncio client. A message is acknowledged when the next one is requested.

It is not a generator. A cancelled `anext` would end a generator for good, and after a `break` asyncio closes a
generator only some iterations of the loop later, possibly after the connection has been closed. Here a cancelled
`anext` takes no message and does not end the iteration. Several tasks may share an iteration.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from mqttws.aio.network import Network
from mqttws.codec.publishing import Publish


class Messages(AsyncIterator[Publish]):
    """The asynchronous iterator that `Client.messages` returns.

    Args:
        network: The network of the client.
        timeout: Seconds without a message after which the iteration ends; None: it ends when the client is closed.

    Attributes:
        task: The last task that took a message.
        over: Whether the iteration has ended.
    """

    def __init__(self, network: Network, timeout: float | None) -> None:
        self.task: asyncio.Task[Any] | None = None
        self._network = network
        self._timeout = timeout
        self._manual_ack = network.core.options.manual_ack
        self._taken: Publish | None = None  # yielded, and not acknowledged yet
        self.over = False
        network.iterations.add(self)

    async def __anext__(self) -> Publish:
        if self._taken is not None:
            self._move_on()
        if self.over:
            raise StopAsyncIteration
        network = self._network
        messages = network.core.inbox.messages
        if not messages:
            self.task = asyncio.current_task()
            if not await network.message_came(self._timeout):
                self.over = True
                raise StopAsyncIteration
            if self._taken is not None:  # another task has taken a message from this iteration meanwhile
                self._move_on()
        message = messages.popleft()
        if not network.core.reading:
            self.task = asyncio.current_task()
            network.flush_soon()
        if message.qos and not self._manual_ack:
            self._taken = message
        return message

    async def aclose(self) -> None:
        """End the iteration."""
        self.over = True
        if self._taken is not None:
            self._move_on()

    def _move_on(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None:
            self._network.call(self._network.core.acknowledge, taken)
            self._network.flush_soon()

    def __del__(self) -> None:
        # The garbage collector calls this in any thread, at any allocation. So the call is posted.
        taken = getattr(self, "_taken", None)
        if taken is not None:
            self._network.post(self._network.core.acknowledge, taken)
