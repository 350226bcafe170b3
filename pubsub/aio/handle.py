"""The handle of a subscription, for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

from mqttws import TimedOut, UnsubscribeRejected
from pubsub.runtime import Waited, late
from pubsub.subscription import Handle

__all__ = ["Subscription", "all_done"]

#: Seconds that a call waits before it checks whether its answer can still arrive.
WAIT_SLICE = 0.5


async def all_done(futures: Iterable[asyncio.Future[Any]], seconds: float, channels: Iterable[Waited] = ()) -> bool:
    """Wait for futures without cancelling them or raising their exceptions. Return whether all are done in time.

    Raises:
        WouldDeadlock: An answer on one of the channels cannot arrive before this callback returns.
    """
    pending, clock = set(futures), asyncio.get_running_loop().time
    deadline = clock() + seconds
    while pending:
        for channel in channels:
            channel.check_progress()
        left = max(0.0, deadline - clock())
        _, pending = await asyncio.wait(pending, timeout=min(left, WAIT_SLICE) if channels else left)
        if not channels or left <= WAIT_SLICE:
            break
    return not pending


class Subscription(Handle):
    """The handle of a subscription. As an async context manager it ends the subscription."""

    async def ready(self, timeout: float | None = None) -> dict[str, int]:
        """Wait for the server's answer.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Returns:
            Topic Filter -> the granted QoS, or 128 if the server refused it and granted others.

        Raises:
            SubscribeRejected: The server refused all Topic Filters.
            MQTTError: There is no connection, or the subscription has ended.
            TimedOut: There was no answer in time.
        """
        seconds = self._core.runtime.seconds(timeout)
        settled = self._core.settled
        channels = self._core.channels
        if not settled.done() and not await all_done([settled], seconds, channels):
            raise TimedOut(late("the server has not answered the subscription", seconds, channels))
        return self._core.granted()

    async def unsubscribe(self, timeout: float | None = None) -> None:
        """End the subscription, and wait for the server's answer if one is due. A second call has no effect.

        The observer's `next` is not called any more.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimedOut: There was no answer in time. The subscription has ended nevertheless.
            UnsubscribeRejected: The server closes the connection because of the UNSUBSCRIBE. It may send further
                messages, which are discarded.
            MQTTError: The subscription is in use in another event loop; nothing has changed.
        """
        channels = list(self._core.channels)
        answers = self._core.end()
        seconds = self._core.runtime.seconds(timeout)
        if not await all_done(answers, seconds):
            raise TimedOut(late("there was no answer to the UNSUBSCRIBE", seconds, channels))
        for answer in answers:
            error = None if answer.cancelled() else answer.exception()
            if isinstance(error, UnsubscribeRejected):  # otherwise the connection has ended, and the subscription too
                raise error

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            await self.unsubscribe()
        else:
            self._end()  # an exception, such as a cancellation, does not wait for the server

    def _end(self) -> None:
        """End the subscription, without waiting for the server's answer."""
        self._core.end()
