"""The iterator over the messages of a subscription, for asyncio.

The task that delivers messages puts them into an `Inbox`, and the iteration takes them out. Only the user holds a
reference to `Messages`, so the finalizer runs as soon as an iteration is left by `break`. It causes the subscription to
be ended in the event loop.

`Messages` is not an asynchronous generator, because a cancelled `anext` would end a generator.
"""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial
from typing import Self

from mqttws import WouldDeadlock, to_raise
from pubsub.aio.handle import Subscription
from pubsub.message import Message
from pubsub.places import PLACES, Waiting
from pubsub.receipt import Release
from pubsub.subscription import SubscriptionCore

__all__ = ["Inbox", "Messages"]


class Inbox:
    """A bounded queue of messages for an iteration: a task that adds a message waits for free places."""

    def __init__(self) -> None:
        self._waiting: deque[Waiting] = deque()
        self._taken = 0  # occupied places
        self._is_closed = self._is_discarded = False
        self._wakers: set[asyncio.Future[None]] = set()

    async def put(self, message: Message, release: Release | None) -> None:
        """Add a message, waiting for free places. After `discard` it is released immediately."""
        waiting = Waiting(message, release)
        while self._taken + waiting.places > PLACES and not self._is_closed:
            await self._change()
        self._taken += waiting.places
        self._waiting.append(waiting)
        self._wake()
        if self._is_discarded:
            self.discard()

    async def peek(self, timeout: float | None) -> Waiting | None:
        """Wait for a message, and return it without removing it. Cancellation has no effect on the inbox.

        Args:
            timeout: Seconds; None for no limit.

        Returns:
            The message; None if there was none in time, or the inbox is closed and empty.
        """
        # Not `asyncio.timeout`: on Python 3.11.2 it raises CancelledError in a task that was cancelled before.
        now = asyncio.get_running_loop().time
        left, end = timeout, None if timeout is None else now() + timeout
        while not self._waiting and not self._is_closed and (left is None or left > 0):
            await self._change(left)
            left = None if end is None else end - now()
        return self._waiting[0] if self._waiting else None

    @property
    def is_empty(self) -> bool:
        """Whether there is no message."""
        return not self._waiting

    def pop(self, waiting: Waiting) -> None:
        """Remove and release the message that `peek` returned."""
        if waiting.release is not None:
            waiting.release()
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            self._taken -= waiting.places
        self._wake()

    def close(self) -> None:
        """Accept no more messages. Those that are waiting can still be taken."""
        self._is_closed = True
        self._wake()

    def discard(self) -> None:
        """Accept no more messages, and release the waiting ones."""
        self._is_discarded = True
        self.close()
        while self._waiting:
            self.pop(self._waiting[0])

    async def _change(self, timeout: float | None = None) -> None:
        waker = asyncio.get_running_loop().create_future()
        self._wakers.add(waker)
        try:
            await asyncio.wait((waker,), timeout=timeout)
        finally:
            self._wakers.discard(waker)

    def _wake(self) -> None:
        for waker in self._wakers:
            if not waker.done():
                waker.set_result(None)


class Messages(Subscription):
    """A started iteration over the messages of a subscription. As an async context manager it ends the subscription.

    Messages are queued as soon as the server has granted the subscription, also before the first `anext`. A message of
    QoS 1 or 2 is acknowledged when the next one is requested, or the iteration ends. A cancelled `anext`, for example
    because of a time-out, takes no message, and the iteration can continue.
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
            MQTTError: The subscription has ended, for this reason.
            WouldDeadlock: This is a callback, in the task that would have to deliver the message.
        """
        self._move_on()
        if self._core.is_ours and self._inbox.is_empty:
            raise WouldDeadlock("this callback is called by the task that delivers the messages; subscribe instead")
        while (waiting := await self._inbox.peek(self._silence)) is not None:
            for _ in waiting.claim:
                self._given = waiting
                return waiting.message
            self._inbox.pop(waiting)  # another task that shares the iteration has taken it
        error = self._core.error
        self._end()
        if error is not None:
            raise to_raise(error)
        raise StopAsyncIteration

    def _move_on(self) -> None:
        if self._given is not None:
            self._inbox.pop(self._given)
            self._given = None

    async def unsubscribe(self, timeout: float | None = None) -> None:
        """End the iteration and the subscription; see `Subscription.unsubscribe`.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimedOut: There was no answer in time.
            UnsubscribeRejected: The server closes the connection because of the UNSUBSCRIBE.
            MQTTError: The iteration is in use in another event loop; nothing has changed.
        """
        self._core.check_usable()
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
    """End the subscription of an iteration that was freed."""
    core.end()
    inbox.discard()
