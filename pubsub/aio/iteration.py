"""Iterating over the messages of a subscription, with asyncio.

The task that takes the messages puts them into an `Inbox`, and an iteration takes them out. `Messages` is what the user
holds. Nothing else holds it, so it is finalised as soon as an iteration is left by `break`; the finaliser passes the
end on to the event loop.

`Messages` is not an asynchronous generator: one of those ends when an `anext` of it is cancelled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Self

from mqttws import WouldDeadlock
from pubsub.aio.handle import Subscription
from pubsub.message import Message
from pubsub.receipt import Release
from pubsub.subscription import SubscriptionCore
from pubsub.waiting import PLACES, Waiting

__all__ = ["Inbox", "Messages"]


class Inbox:
    """Messages on their way to an iteration, bounded: a task that puts one in waits for a free place."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._taken = 0  # places
        self._is_closed = self._is_discarded = False
        self._wakers: set[asyncio.Future[None]] = set()

    async def put(self, message: Message, release: Release | None) -> None:
        """Add a message, waiting for free places. If no iteration will take it, it is released."""
        waiting = Waiting(message, release)
        while self._taken + waiting.places > PLACES and not self._is_closed:
            await self._change()
        self._taken += waiting.places
        self._waiting.append(waiting)
        self._wake()
        if self._is_discarded:
            self.discard()

    async def peek(self, timeout: float | None) -> Waiting | None:
        """Wait for a message, and leave it in. Return None if none came in time, or no more will come.

        Cancelling it takes nothing out.

        Args:
            timeout: Seconds; None: as long as it takes.
        """
        try:
            async with asyncio.timeout(timeout):
                while not self._waiting and not self._is_closed:
                    await self._change()
        except TimeoutError:
            pass
        return self._waiting[0] if self._waiting else None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def pop(self, waiting: Waiting) -> None:
        """Take out what `peek` returned, and release it."""
        if waiting.release is not None:
            waiting.release()
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._taken -= waiting.places
        self._wake()

    def close(self) -> None:
        """Expect no more messages. What is in may still be taken."""
        self._is_closed = True
        self._wake()

    def discard(self) -> None:
        """Accept no more messages, and release the waiting ones."""
        self._is_discarded = True
        self.close()
        while self._waiting:
            self.pop(self._waiting[0])

    async def _change(self) -> None:
        waker = asyncio.get_running_loop().create_future()
        self._wakers.add(waker)
        try:
            await waker
        finally:
            self._wakers.discard(waker)

    def _wake(self) -> None:
        for waker in self._wakers:
            if not waker.done():
                waker.set_result(None)


class Messages(Subscription):
    """An iteration over the messages of a subscription, which has begun; also an async context manager that ends it.

    The messages wait from the moment at which the server has the subscription, also before the first `anext`. A message
    of QoS 1 or 2 is acknowledged when the iteration moves on, or ends. An `anext` that is cancelled, by a time-out for
    example, takes no message, and the iteration goes on.
    """

    def __init__(self, core: SubscriptionCore, inbox: Inbox, silence: float | None) -> None:
        super().__init__(core)
        self._inbox = inbox
        self._silence = silence
        self._given: Waiting | None = None  # the last message that was yielded, while it is in the inbox
        core.runtime.watch(self, partial(_abandon, core, inbox))

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """Return the next message.

        Raises:
            StopAsyncIteration: The subscription has ended, or there was no message for `timeout` seconds.
            MQTTError: Why the subscription has ended.
            WouldDeadlock: This is a callback, in the task that would have to deliver the message.
        """
        self._move_on()
        if self._core.is_ours and self._inbox.is_empty:
            raise WouldDeadlock("this callback is called by the task that delivers the messages; subscribe instead")
        waiting = await self._inbox.peek(self._silence)
        if waiting is None:
            error = self._core.error
            self._end()
            if error is not None:
                raise error
            raise StopAsyncIteration
        self._given = waiting
        return waiting.message

    def _move_on(self) -> None:
        if self._given is not None:
            self._inbox.pop(self._given)
            self._given = None

    async def unsubscribe(self, timeout: float | None = None) -> None:
        """See `Subscription.unsubscribe`."""
        self._move_on()
        try:
            await super().unsubscribe(timeout)
        finally:
            self._inbox.discard()

    async def aclose(self) -> None:
        """End the iteration, without waiting for the server's answer."""
        self._end()

    def _end(self) -> None:
        self._core.end()
        self._move_on()
        self._inbox.discard()


def _abandon(core: SubscriptionCore, inbox: Inbox) -> None:
    """End an iteration that is gone."""
    core.end()
    inbox.discard()
