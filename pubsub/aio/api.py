"""The PubSub API for asyncio: the methods that wait. The tasks themselves are in `runtime`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Self

import mqttws
from mqttws import LocalProtocolError, TimedOut, WouldDeadlock, to_raise
from pubsub.aio.handle import Subscription, all_done
from pubsub.aio.iteration import Inbox, Messages
from pubsub.aio.requester import Requester
from pubsub.aio.runtime import Tasks
from pubsub.channel import Channel
from pubsub.codecs import JSON, Codec, check_codec
from pubsub.core import REQUIRED, ObservableCore, PubSubCore
from pubsub.errors import PublishFailed
from pubsub.observers import Observer
from pubsub.providers.base import Provider
from pubsub.publishing import FAILURES, Delivery, Publication
from pubsub.requests import PREFIX, Requests
from pubsub.runtime import late

__all__ = ["Observable", "PubSub", "Subscription"]

#: The default time-out of `close`, in seconds.
CLOSE_TIMEOUT = 5.0


class Observable(ObservableCore[Subscription]):
    """The result of `PubSub.subscribe`. Nothing happens until it is subscribed to, iterated over or entered.

    As an async context manager it returns `Messages`, a started iteration, and ends it::

        async with ps.subscribe("a") as messages:
            await messages.ready(5)
            async for message in messages: ...
    """

    _handle = Subscription
    _entered: Messages | None = None

    def __aiter__(self) -> Messages:
        """Start a subscription, and iterate over its messages until it ends or none arrives for `timeout` seconds.

        Raises:
            ProviderError: There is no provider, or a setting is missing.
        """
        inbox = Inbox()
        subscription = self._make(Observer(inbox.put, None, inbox.close, holds=True))
        messages = Messages(subscription, inbox, self._silence)
        subscription.begin()
        return messages

    async def __aenter__(self) -> Messages:
        if self._entered is not None:
            raise RuntimeError("this observable is already entered; call subscribe again for another iteration")
        self._entered = aiter(self)
        return self._entered

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        entered, self._entered = self._entered, None
        if entered is not None:
            await entered.__aexit__(kind, error, traceback)


class PubSub(PubSubCore[Observable, asyncio.Future[None]]):
    """Publish and subscribe through one provider or several, in one event loop.

    Connections are made when they are needed. As an async context manager it closes them. It can be used again after
    `close`. A connection belongs to the event loop in which it was made; once that loop is closed, the `PubSub` can be
    used in another one.

    Args:
        *providers: The providers; see `add_pluggable`.
        codec: The codec of calls without the argument `codec`.
        timeout: Seconds; the default time-out of each call that waits.

    Examples:
        >>> import asyncio
        >>> from mqttws.broker import Broker
        >>> from pubsub import MqttOverWSProvider
        >>> from pubsub.aio import PubSub
        >>> async def main():
        ...     async with Broker() as broker, PubSub(MqttOverWSProvider(broker.url)) as ps:
        ...         async with ps.subscribe("greenhouse/+", qos=1) as messages:
        ...             print(await messages.ready())
        ...             await ps.publish("greenhouse/temperature", {"celsius": 21.5}, qos=1)
        ...             print((await anext(messages)).value)
        >>> asyncio.run(main())
        {'greenhouse/+': 1}
        {'celsius': 21.5}
    """

    _name = "pubsub.aio.PubSub"
    _observable = Observable
    _runtime: Tasks

    def __init__(self, *providers: Provider, codec: Codec = JSON, timeout: float = 30.0) -> None:
        super().__init__(Tasks(timeout), *providers, codec=codec)

    async def publish(
        self,
        topics: str | Iterable[str],
        message: Any = REQUIRED,
        *,
        qos: int = 0,
        retain: bool = False,
        provider: str | None = None,
        codec: Codec | None = None,
        timeout: float | None = None,
        expire_after: float | None = None,
    ) -> None:
        """Publish a message to one topic or several, and wait until it is delivered to the server with its QoS.

        Args:
            topics: A Topic Name or several.
            message: A value that the codec can encode; by default anything that JSON can represent, or bytes.
            qos: 0: wait until the message is passed to the event loop; 1 or 2: until it is completely acknowledged.
            retain: Whether the server keeps the message for later subscribers.
            provider: The name of a provider; None: all providers.
            codec: The codec that encodes the message; None: that of the `PubSub`.
            timeout: Seconds; None: the `timeout` of the `PubSub`.
            expire_after: Seconds, above 0, that the message may wait to be sent; infinity for no limit; None: the
                `expire_after` of the provider.

        Raises:
            PublishFailed: It failed or took too long for at least one topic.
            LocalProtocolError: A topic or the QoS is not valid; nothing was sent.
            TypeError, ValueError: The message cannot be encoded; nothing was sent.
            ProviderError: There is no provider, or a setting is missing.

        Spec: §3.3, §4.3

        Examples:
            >>> import asyncio
            >>> from mqttws.broker import Broker
            >>> from pubsub import MqttOverWSProvider
            >>> from pubsub.aio import PubSub
            >>> async def main():
            ...     async with Broker() as broker, PubSub(MqttOverWSProvider(broker.url)) as ps:
            ...         await ps.publish(["greenhouse/lamp", "barn/lamp"], {"on": True}, qos=1)
            >>> asyncio.run(main())
        """
        selected = tuple(self._providers) if provider is None else (provider,)
        is_usual = type(qos) is int and message is not REQUIRED and not self._runtime.abandoned
        if is_usual and isinstance(topics, str) and len(selected) == 1:
            channel = self._channels.get(selected[0])
            if channel is not None and channel.connected and self._runtime.is_usable(channel.runner):
                used = self._codec if codec is None else check_codec(codec)
                await self._publish_one(channel, topics, used.encode(message), qos, retain, timeout, expire_after)
                return
        deliveries = self._prepare(topics, message, qos, retain, provider, codec, expire_after)
        publication = self._new_publication(deliveries)
        publication.future = self._runtime.new_future()
        seconds = self._runtime.seconds(timeout)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            for delivery in deliveries:
                full = publication.add(delivery, self._send)
                if full is not None:
                    await self._wait_for_space(publication, delivery, full, seconds, deadline)
            publication.begin()
            channels, left = list(self._channels.values()), deadline - asyncio.get_running_loop().time()
            if not await all_done([publication.future], left, channels if qos else ()):
                raise publication.give_up(TimedOut, late("not delivered", seconds, channels))
        except WouldDeadlock as error:
            raise publication.give_up(WouldDeadlock, f"not delivered: {error}") from None
        except asyncio.CancelledError:
            publication.cancel()
            raise
        publication.future.result()

    async def _publish_one(
        self,
        channel: Channel,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        timeout: float | None,
        expire_after: float | None,
    ) -> None:
        """Publish to one topic through an open connection. The client checks the topic and the QoS, and waits."""
        objection = channel.provider.objection_to_publish(topic, payload, qos)
        if objection is not None:
            raise objection
        client: mqttws.aio.Client = channel.client
        try:
            await client.publish(
                topic,
                payload,
                qos,
                retain,
                timeout=self._runtime.timeout if timeout is None else timeout,  # the client checks it
                expire_after=expire_after,
            )
        except LocalProtocolError:
            raise
        except FAILURES as error:
            raise PublishFailed({topic: channel.explain_failure(error)}, 1) from None

    async def _wait_for_space(
        self, publication: Publication, delivery: Delivery, full: mqttws.QueueFull, seconds: float, deadline: float
    ) -> None:
        """Wait for space in the queue and publish a message, if the provider's `overflow` is "block"."""
        provider, topic, *message, expire_after = delivery
        channel, loop = self.channel(provider), asyncio.get_running_loop()
        try:
            if channel.overflow != "block":
                raise full
            if not await all_done([channel.opened], deadline - loop.time()):
                failure = late("not delivered", seconds, [channel])
                raise TimedOut(f"{failure}; it was not sent and will not be: {full}")
            client: Any = channel.client
            left = max(0.0, deadline - loop.time())
            await client.publish(topic, *message, timeout=left, expire_after=expire_after)
        except FAILURES as error:
            publication.fail(topic, channel.explain_failure(error))

    def requester(
        self,
        name: str | None = None,
        *,
        prefix: str = PREFIX,
        qos: int = 1,
        provider: str | None = None,
        codec: Codec | None = None,
        max_pending: int = 1_000,
    ) -> Requester:
        """Return a requester, which publishes requests and waits for their responses; see `respond`.

        Args:
            name: The name of the requester, one level of a topic; None: a random one. Responses are published below
                `prefix/name`.
            prefix: A Topic Name, which must be the same for the responders.
            qos: The QoS of requests and of the subscription to responses: 0, 1 or 2.
            provider: The name of a provider; None: all providers.
            codec: The codec of requests and responses; None: that of the `PubSub`.
            max_pending: The maximum number of requests without a response, at least 1.

        Returns:
            The requester, which is an async context manager.

        Raises:
            LocalProtocolError: The name, the prefix or the QoS is not valid.
            ProviderError: There is no provider, or a setting is missing.
            TypeError: An argument has the wrong type.
            ValueError: `max_pending` is below 1.
        """
        return Requester(self, self._runtime, Requests(name, prefix, max_pending), qos, provider, codec)

    async def connect(self, provider: str | None = None, *, timeout: float | None = None) -> None:
        """Connect, and wait for the connections. Without this call they are made when they are needed.

        Args:
            provider: The name of a provider; None: all providers.
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Raises:
            MQTTError: The attempt failed.
            ProviderError: There is no provider, or a setting is missing.
            TimedOut: It took too long; connecting continues in the background.
        """
        seconds = self._runtime.seconds(timeout)
        channels = [self.channel(each) for each in self.select(provider)]
        await all_done([channel.opened for channel in channels], seconds)
        for channel in channels:
            if not channel.opened.done():
                raise TimedOut(f"{channel.provider.name} has not connected within {seconds:g} s")
            if channel.error is not None:
                raise to_raise(channel.error)

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all messages published so far are sent (QoS 0) or completely acknowledged (QoS 1 and 2).

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimedOut: It took too long; the messages are still being delivered.
            MQTTError: A connection has ended.
        """
        loop, seconds = asyncio.get_running_loop(), self._runtime.seconds(timeout)
        deadline = loop.time() + seconds
        for channel in list(self._channels.values()):
            if not await all_done([channel.opened], deadline - loop.time()):
                raise TimedOut(f"{channel.provider.name} has not connected within {seconds:g} s")
            client: mqttws.aio.Client = channel.client
            try:
                await client.flush(max(0.0, deadline - loop.time()))
            except TimedOut:  # it names the seconds that were left
                raise TimedOut(late("not all that was published was acknowledged", seconds, [channel])) from None

    async def close(self, timeout: float | None = None) -> None:
        """End every subscription, send queued messages, and close every connection.

        This waits for the acknowledgements of published messages; those that are not complete in time fail. Received
        messages that were not consumed are not acknowledged.

        Args:
            timeout: Seconds to wait before the connections are closed in any case; None: 5.

        Raises:
            MQTTError: A connection is in use in another event loop; nothing was closed.
        """
        seconds = self._runtime.seconds(timeout, CLOSE_TIMEOUT)  # before anything is closed
        await self._close(self._begin_close(), seconds)

    async def remove_pluggable(self, provider: str | Provider, timeout: float | None = None) -> None:
        """Remove a provider, and close its connection.

        Args:
            provider: The provider, or its name.
            timeout: Seconds to wait before the connection is closed in any case; None: 5.

        Raises:
            MQTTError: Its connection is in use in another event loop; nothing has changed.
            ProviderError: There is no such provider.
            TypeError: The argument is neither.
        """
        seconds = self._runtime.seconds(timeout, CLOSE_TIMEOUT)
        await self._close(self._begin_close([self._take_out(provider)]), seconds)

    async def _close(self, channels: list[Channel], timeout: float) -> None:
        loop, current = asyncio.get_running_loop(), asyncio.current_task()
        deadline = loop.time() + timeout
        for channel in channels:
            for subscription in channel.members():
                subscription.channel_ended(channel, None)
        # In parallel: a connection that cannot send must not use up the time of the others.
        clients: list[mqttws.aio.Client] = [channel.client for channel in channels]
        runners = [channel.runner for channel in channels if channel.runner is not current]
        try:
            await asyncio.gather(*(client.close(timeout) for client in clients))
            await all_done(runners, deadline - loop.time())
        finally:  # a runner that is cancelled closes its client, if this call was cancelled before it could
            for runner in runners:
                runner.cancel()
            self._set_aside(channels)
        await all_done(self._runtime.spawned - {current}, deadline - loop.time())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
