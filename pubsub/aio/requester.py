"""The requester, for asyncio: it publishes requests and waits for their responses."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Any, Self

from mqttws import TimedOut
from pubsub.aio.handle import all_done
from pubsub.core import REQUIRED
from pubsub.message import Message
from pubsub.requests import RequesterCore

__all__ = ["Requester"]


class Requester(RequesterCore):
    """Publishes requests and waits for their responses; returned by `PubSub.requester`. Several tasks may share it.

    As an async context manager it ends its subscription.
    """

    async def request(self, topic: str, message: Any = REQUIRED, *, timeout: float | None = None) -> Message:
        """Publish a request, and wait for its response.

        Args:
            topic: The topic of the responder; see `PubSub.respond`.
            message: A value that the codec can encode.
            timeout: Seconds, for the request and the response together; None: the `timeout` of the `PubSub`. A request
                that was not sent in time is not sent later.

        Returns:
            The response.

        Raises:
            TimedOut: There was no response in time; there may be no responder.
            RequestFailed: The responder has reported a failure.
            PublishFailed: The request could not be published.
            DecodeFailed: The response cannot be decoded.
            QueueFull: Too many requests have no response yet.
            WouldDeadlock: This is a callback of the `PubSub`.
            MQTTError: There is no connection, or the server refused the subscription.
        """
        loop, seconds = asyncio.get_running_loop(), self._runtime.seconds(timeout)
        deadline = loop.time() + seconds
        asked = self._begin(topic)
        try:
            await self._subscription.ready(seconds)
            left = max(0.001, deadline - loop.time())
            await self._ps.publish(asked.topic, message, timeout=left, expire_after=left, **self._options)
            if not await all_done([asked.waiter], deadline - loop.time()):  # type: ignore[list-item] # asyncio's own
                raise TimedOut(f"there was no response to the request to {topic!r} within {seconds:g} s")
            asked.waiter.result()
        finally:
            self._requests.forget(asked)
        response: Message = asked.response
        return response

    async def close(self, timeout: float | None = None) -> None:
        """End the subscription to the responses. Waiting requests fail with `SubscriptionEnded`.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.
        """
        await self._subscription.unsubscribe(timeout)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._subscription.__aexit__(kind, error, traceback)
