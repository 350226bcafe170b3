"""The PubSub API for programs with asyncio: the same as `pubsub.PubSub`, with `await` before what waits.

Each connection has one task (`_take_messages`) that connects, takes message after message and calls `next`. A
callback may be a function or a coroutine function; one that is awaited delays the messages behind it and nothing
else. All belongs to the event loop in which it is used first.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from types import TracebackType
from typing import Any, Self

import mqttws
from pubsub.channel import Channel
from pubsub.codecs import JSON, Codec
from pubsub.core import PubSubCore
from pubsub.errors import ProviderError
from pubsub.message import Message
from pubsub.observers import Callback, Observer, logger, make_observer
from pubsub.providers.base import Provider
from pubsub.receipt import Receipt
from pubsub.subscription import SubscriptionCore
from pubsub.topics import check_filters

__all__ = ["Observable", "PubSub", "Subscription"]

#: How many messages may wait for an iteration that is behind.
MOST_WAITING = 100


class Subscription(SubscriptionCore):
    """One subscription; also an async context manager that ends it."""

    _core: PubSub

    async def ready(self, timeout: float | None = None) -> dict[str, int]:
        """Wait for the server's answer.

        Args:
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Returns:
            Topic Filter -> the QoS granted, or 128 where the server refused it and there are others.

        Raises:
            SubscribeRejected: the server refused the only one, or the last of them.
            MQTTError: there is no connection; or the subscription has ended.
            TimeoutError: there was no answer in time.
        """
        seconds = self._core.seconds(timeout)
        if not await _done([self._settled], seconds):
            raise TimeoutError(f"the server has not answered the subscription within {seconds:g} s")
        return self.granted()

    async def unsubscribe(self, timeout: float | None = None) -> None:
        """End it, and wait for the server's answer where one is due. A second time without effect.

        Args:
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimeoutError: there was no answer in time. The subscription has ended all the same.
        """
        answers = self.end()
        seconds = self._core.seconds(timeout)
        if not await _done(answers, seconds):
            raise TimeoutError(f"the server has not confirmed the end within {seconds:g} s")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.unsubscribe()


async def _done(futures: Iterable[asyncio.Future[Any]], seconds: float) -> bool:
    """Wait for futures without cancelling or judging them. Returns whether all are done in time."""
    waited_for = set(futures)
    if waited_for:
        _, pending = await asyncio.wait(waited_for, timeout=seconds)
        return not pending
    return True


class Observable:
    """What `subscribe` of a `PubSub` gives: nothing happens until it is subscribed to or iterated over."""

    def __init__(self, begin: Callable[[Observer], Subscription], timeout: float | None) -> None:
        self._begin = begin
        self._silence = timeout

    def subscribe(
        self, next: object = None, error: Callback | None = None, close: Callback | None = None
    ) -> Subscription:
        """Begin a subscription. It connects in the background, where there is no connection.

        Args:
            next: called with each `Message`, and awaited if it is a coroutine function; or an observer object, as
                the only argument.
            error: called with each failure.
            close: called once, when the subscription has ended, for whichever reason.

        Returns:
            The handle of the subscription.

        Raises:
            ProviderError: there is no provider, or it lacks a setting.
        """
        return self._begin(make_observer(next, error, close))

    async def __aiter__(self) -> AsyncGenerator[Message, None]:
        """Iterate over the messages of a subscription of its own, until it ends or is silent for too long.

        A message of QoS 1 or 2 is acknowledged when the iteration moves on.

        Raises:
            MQTTError: the subscription ended because of it.
        """
        inbox = _Inbox()
        subscription = self._begin(Observer(inbox.put, None, inbox.close, holds=True))
        try:
            while (taken := await inbox.get(self._silence)) is not None:
                message, receipt = taken
                try:
                    yield message
                finally:
                    if receipt is not None:
                        receipt.release()
            if subscription.error is not None:
                raise subscription.error
        finally:
            inbox.discard()
            subscription.end()


class _Inbox:
    """Messages on their way to an iteration: bounded; who puts waits for room."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Message, Receipt | None]] = deque()
        self._closed = False
        self._wakers: set[asyncio.Future[None]] = set()

    async def put(self, message: Message, receipt: Receipt | None) -> None:
        """Let a message wait to be taken; wait for room first. Once closed, nobody will take it."""
        while len(self._waiting) >= MOST_WAITING and not self._closed:
            await self._change()
        if not self._closed:
            self._waiting.append((message, receipt))
            self._wake()
        elif receipt is not None:
            receipt.release()

    async def get(self, timeout: float | None) -> tuple[Message, Receipt | None] | None:
        """Take a message. None: there was none in time, or there will be no more."""
        try:
            async with asyncio.timeout(timeout):
                while not self._waiting and not self._closed:
                    await self._change()
        except TimeoutError:
            pass
        self._wake()
        return self._waiting.popleft() if self._waiting else None

    def close(self) -> None:
        """Let no more in. What waits may still be taken."""
        self._closed = True
        self._wake()

    def discard(self) -> None:
        """Let no more in, and let go of what waits."""
        self.close()
        for _, receipt in self._waiting:
            if receipt is not None:
                receipt.release()
        self._waiting.clear()

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


class PubSub(PubSubCore):
    """Publish and subscribe through one provider or several, in one event loop.

    Connections are made when they are needed. As an async context manager it closes them; after `close` it may be
    used again.

    Args:
        *providers: see `add_pluggable`.
        codec: translates messages, where a call names no other.
        timeout: seconds; bounds each wait that is given no bound of its own.
    """

    def __init__(self, *providers: Provider, codec: Codec = JSON, timeout: float = 30.0) -> None:
        super().__init__(*providers, codec=codec, timeout=timeout)
        self._tasks: set[asyncio.Future[Any]] = set()

    def subscribe(
        self,
        topics: str | Iterable[str],
        *,
        qos: int = 0,
        provider: str | None = None,
        codec: Codec | None = None,
        timeout: float | None = None,
    ) -> Observable:
        """Make an observable of the messages on topics.

        Args:
            topics: a Topic Filter or several.
            qos: the highest QoS that messages should come with: 0, 1 or 2.
            provider: the name of one; None: through all.
            codec: decodes the messages; None: that of the `PubSub`.
            timeout: seconds of silence after which an iteration ends; None: never.

        Raises:
            LocalProtocolError: a Topic Filter or the QoS is ill-formed.
        """
        wanted = check_filters(topics, qos)

        def begin(observer: Observer) -> Subscription:
            subscription = Subscription(self, observer, codec or self._codec, self.select(provider))
            subscription.begin(wanted)
            return subscription

        return Observable(begin, timeout)

    async def publish(
        self,
        topics: str | Iterable[str],
        message: Any,
        *,
        qos: int = 0,
        retain: bool = False,
        provider: str | None = None,
        codec: Codec | None = None,
        timeout: float | None = None,
    ) -> None:
        """Publish a message to one topic or several, and wait until all have it as the QoS promises.

        Args:
            topics: a topic or several.
            message: what the codec takes; with the default anything that JSON has, or bytes as they are.
            qos: 0: handed to the network; 1 or 2: acknowledged in full.
            retain: whether the server keeps it for later subscribers.
            provider: the name of one; None: through all.
            codec: encodes the message; None: that of the `PubSub`.
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Raises:
            PublishFailed: it failed for some of the topics, or it took too long for them.
            LocalProtocolError: a topic or the QoS is ill-formed; nothing was sent.
            TypeError, ValueError: the message cannot be encoded; nothing was sent.
        """
        publication = self.publish_all(topics, message, qos, retain, provider, codec)
        seconds = self.seconds(timeout)
        try:
            if not await _done([publication.future], seconds):
                raise publication.expire(seconds)
        except asyncio.CancelledError:
            publication.cancel()
            raise
        publication.future.result()

    def publish_nowait(
        self,
        topics: str | Iterable[str],
        message: Any,
        *,
        qos: int = 0,
        retain: bool = False,
        provider: str | None = None,
        codec: Codec | None = None,
    ) -> asyncio.Future[None]:
        """Publish without waiting. Returns a future of what `publish` would return or raise.

        Raises:
            PublishFailed: not one of the topics was accepted: the queue is full, or there is no connection and the
                provider does not queue.
            LocalProtocolError, TypeError, ValueError: as `publish`.
        """
        future: asyncio.Future[None] = self.publish_all(topics, message, qos, retain, provider, codec).future
        return future

    async def connect(self, provider: str | None = None, *, timeout: float | None = None) -> None:
        """Connect now.

        Args:
            provider: the name of one; None: all.
            timeout: seconds; None: the `timeout` of the `PubSub`.

        Raises:
            MQTTError: it failed.
            TimeoutError: it took too long; it goes on in the background.
        """
        seconds = self.seconds(timeout)
        channels = [self.channel(each) for each in self.select(provider)]
        await _done([channel.opened for channel in channels], seconds)
        for channel in channels:
            if not channel.opened.done():
                raise TimeoutError(f"{channel.provider.name} has not connected within {seconds:g} s")
            if channel.error is not None:
                raise channel.error

    async def close(self, timeout: float | None = None) -> None:
        """End every subscription, send what may be sent, and close every connection.

        Args:
            timeout: seconds to wait for an orderly end; None: 5. What is not complete by then fails.
        """
        await self._close(self.closing(), 5.0 if timeout is None else timeout)

    async def remove_pluggable(self, provider: str | Provider, timeout: float | None = None) -> None:
        """Remove a provider, by itself or by its name, and close its connection.

        Raises:
            ProviderError: there is no such provider.
        """
        name = provider if isinstance(provider, str) else provider.name
        if name not in self._providers:
            raise ProviderError(f"there is no provider named {name!r}")
        del self._providers[name]
        await self._close(self.closing([name]), 5.0 if timeout is None else timeout)

    async def _close(self, channels: list[Channel], timeout: float) -> None:
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        deadline = loop.time() + timeout
        for channel in channels:
            for subscription in channel.members():
                subscription.channel_ended(channel, None)
            await channel.client.close(max(0.0, deadline - loop.time()))
        runners = [channel.runner for channel in channels if channel.runner is not current]
        if not await _done(runners, max(0.0, deadline - loop.time())):
            for runner in runners:
                runner.cancel()
        await _done(self._tasks - {current}, max(0.0, deadline - loop.time()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    # What the core asks for.

    def new_client(self, provider: Provider, **options: Any) -> mqttws.aio.Client:
        """Make a driver that asks a provider where to connect."""
        return mqttws.aio.Client(provider.url_async, **options)

    def new_future(self) -> asyncio.Future[None]:
        """Make a future."""
        return asyncio.get_running_loop().create_future()

    def start(self, channel: Channel) -> None:
        """Begin to connect and to take messages."""
        channel.runner = asyncio.get_running_loop().create_task(
            _take_messages(channel), name=f"pubsub {channel.provider.name}"
        )

    def notify(self, function: Callable[..., object], *arguments: object) -> None:
        """Call now: in an event loop no callback stops the network by waiting."""
        function(*arguments)

    def spawn(self, result: Any) -> None:
        """Take what a callback returned: an awaitable is awaited in a task of its own."""
        if inspect.isawaitable(result):
            task = asyncio.ensure_future(_guarded(result))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _guarded(result: Any) -> None:
    """Await what a callback returned; what it raises is logged."""
    try:
        await result
    except Exception:
        logger.exception("a callback raised an exception")


async def _take_messages(channel: Channel) -> None:
    """Connect, hand out message after message, and tell the end."""
    failure: Exception | None = None
    client, name = channel.client, channel.provider.name
    try:
        if not channel.is_closing:
            await client.open()
        if channel.is_closing:
            await client.close()
        async with aclosing(client.messages()) as messages:
            async for publish in messages:
                receipt = Receipt(partial(client.acknowledge, publish)) if publish.qos else None
                for subscription in channel.route(publish):
                    result = subscription.deliver(publish, name, receipt)
                    if inspect.isawaitable(result):
                        await _guarded(result)
                if receipt is not None:
                    receipt.release()
    except Exception as error:
        failure = error
    finally:
        await client.close()
        channel.ended(failure)
