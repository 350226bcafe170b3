"""The asyncio client: its methods. The task that connects and moves bytes is in `network`.

Everything runs in one event loop, to which `open` binds the client. Do not call the methods in another thread.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any, Self, Unpack, overload

from mqttws.aio.future import Receipt
from mqttws.aio.iteration import Messages
from mqttws.aio.network import Network, Url
from mqttws.aio.waits import NEXT_TURN
from mqttws.client.callbacks import check_callback
from mqttws.client.core import Core
from mqttws.client.endpoints import check_url
from mqttws.client.options import CLOSE_TIMEOUT, ClientOptions, Options, State, TopicFilters, Waiting
from mqttws.codec.publishing import Message, Publish, as_payload, encode_publish
from mqttws.errors import QueueFull, TimedOut, WouldDeadlock
from mqttws.protocol.ages import Age
from mqttws.protocol.session import Session

_networks: weakref.WeakSet[Network] = weakref.WeakSet()


class Client:
    """A client of one server, which reconnects as long as it is open. Awaiting it opens it, and so does `async with`.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://; a list of such URLs, all of which an attempt tries; or a callable that
            returns either or an awaitable of it, and is called once for each attempt.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not valid, or an option is out of its range.
        LocalProtocolError: an option breaks a rule of the standard.
        TypeError: there is no such option, or one has the wrong type.
        Unsupported: the `server` does not support the will.
    """

    def __init__(self, url: Url, **options: Unpack[ClientOptions]) -> None:
        check_url(url)
        self._options = Options(**options)
        self._network = Network(self._options, url)
        self._has_ages = self._options.expire_after is not None or self._options.store is not None
        _networks.add(self._network)
        if self._options.has_profile:  # imported only if needed
            from mqttws.client.guarding import put_guard

            put_guard(self, self._options, lambda: list(self._core.session.subscriptions), self._network.log)

    # The public methods.

    @property
    def _core(self) -> Core[asyncio.Future[Any]]:
        return self._network.core  # another one after a fork

    @property
    def client_id(self) -> str:
        """The client identifier."""
        return self._core.client_id

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._core.state

    @property
    def session(self) -> Session:
        """What outlives a connection; to be examined only."""
        return self._core.session

    @property
    def pending(self) -> int:
        """The number of published messages that are not sent (QoS 0) or not completely acknowledged (QoS 1, 2) yet."""
        sender = self._core.session.sender
        return sender.waiting + sender.in_flight

    @property
    def received(self) -> int:
        """The number of messages received so far, including those that wait for the program."""
        return self._core.received

    @property
    def dropped(self) -> int:
        """The number of messages that were dropped because the queue was full; see `Options.overflow`."""
        return self._core.pending.dropped

    @property
    def expired(self) -> int:
        """The number of messages that expired before they were sent; see `Options.expire_after`."""
        return self._core.pending.expired

    @property
    def stalled(self) -> str:
        """Why no answer can come before messages are taken; empty as long as everything is read."""
        return self._core.stalled

    @property
    def waiting(self) -> Waiting:
        """The queue of messages that are not sent yet."""
        return self._core.waiting(time.monotonic())

    async def open(self, timeout: float | None = None, *, wait: bool = True) -> Self:
        """Connect.

        With the option `retry_first` this returns after the first attempt, even if it failed: see `state`.

        Args:
            timeout: seconds; None: the attempt ends after the `timeout` of the options.
            wait: False: return immediately, and make attempts until one succeeds, as with `retry_first`.

        Returns:
            The client itself.

        Raises:
            ConnectError: the attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). There
                is no further attempt: only a connection that was established is reconnected.
            TimedOut: it took too long.
            MQTTError: the client is already open.
        """
        self._network.start(retries=self._options.retry_first or not wait)
        opened = self._core.opened
        assert opened is not None
        if not wait:
            opened.add_done_callback(lambda done: done.cancelled() or done.exception())  # no call reports it
            return self
        try:
            # An attempt ends by itself after the `timeout` of the options, with a better error than TimedOut.
            seconds = self._options.timeout + 1.0 if timeout is None else timeout
            await self._wait(opened, seconds, "there was no connection")
        except BaseException:
            opened.cancel()
            await self.close(timeout=0.0)
            self._core.unopened()
            raise
        return self

    async def close(self, timeout: float | None = None, *, send_will: bool = False) -> None:
        """Send waiting messages, wait for acknowledgements, send DISCONNECT and close. A second call has no effect.

        Calls whose messages are not acknowledged in time fail. With `clean_session=False` sent messages stay in the
        session for the next `open`; with a store all QoS 1 and 2 messages do.

        Args:
            timeout: seconds to wait before the connection is closed in any case; None: 5.
            send_will: whether to close the connection without DISCONNECT, so that the server publishes the will.
        """
        network, seconds = self._network, CLOSE_TIMEOUT if timeout is None else timeout
        network.bind()
        task = network.task
        if task is None:
            network.call(self._core.give_up, None)
            network.run_callbacks()
            return
        network.call(self._core.stop, time.monotonic(), seconds, send_will)
        network.hurry()
        if task is asyncio.current_task():
            return  # the caller is the user's function for the URL, which this task is awaiting
        try:
            await asyncio.wait({task}, timeout=seconds + 1.0)
            await network.end_callbacks(seconds)
        finally:
            if not task.done():  # this call was cancelled, or the server does not read
                network.call(self._core.stop, time.monotonic(), 0.0)
                network.flush_now()
                task.cancel()

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was published before is sent (QoS 0), or acknowledged in full (QoS 1 and 2).

        Args:
            timeout: seconds; None: the `timeout` of the options.

        Raises:
            TimedOut: it took too long; the messages are still being delivered.
            MQTTError: the client was closed, has given up, or is not open.
        """
        self._core.check_waiting()
        flushing = self._network.request(self._core.pending.flush)
        await self._wait(flushing, timeout, "not all that was published was acknowledged")

    async def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        *,
        timeout: float | None = None,
        expire_after: float | None = None,
    ) -> None:
        """Publish a message, and wait until it is delivered to the server with its QoS.

        Cancellation and the time-out withdraw the message if it has not been sent yet; otherwise it may still be
        delivered.

        Args:
            topic: a Topic Name.
            payload: bytes, or a str, which is encoded as UTF-8.
            qos: 0: wait until it is passed to the network; 1 or 2: until it is completely acknowledged.
            retain: whether the server keeps it for later subscribers.
            timeout: seconds; None: the `timeout` of the options.
            expire_after: seconds, above 0, that it may wait to be sent; infinity for no limit; None: the
                `expire_after` of the options.

        Raises:
            LocalProtocolError: the topic or the QoS is not valid.
            MessageExpired: it waited for too long, and was not sent.
            TimedOut: it took too long.
            MQTTError: the client was closed, has given up, or is not open.
        """
        age = self._age(expire_after) if self._has_ages or expire_after is not None else None
        network, core = self._network, self._network.core
        pending, seconds = core.pending, self._options.timeout if timeout is None else timeout
        call: tuple[Any, ...]
        if qos or type(qos) is not int or age is not None:
            call = pending.publish_message, Message(topic, payload, qos, retain), age
        else:
            packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
            call = pending.publish_packet, packet
        core.check_waiting()
        future: asyncio.Future[Any]
        try:
            future = network.call(*call)
        except QueueFull:
            started = network.loop.time()
            future = await self._submit(call, topic, started + seconds, seconds)
            seconds = max(0.0, seconds - (network.loop.time() - started))
        if age is not None:
            network.await_expiry()
        deadlock: WouldDeadlock | None = None
        withdrawn = False
        try:
            if qos:
                network.flush_soon()
            else:
                network.flush_first()
                if not future.done():
                    await NEXT_TURN  # at whose beginning what was published in this one is written
            if await network.wait(future, seconds):
                return
        except WouldDeadlock as error:
            deadlock = error
        except asyncio.CancelledError:
            future.cancel()
            raise
        finally:
            if future.cancelled() and network.call(pending.withdraw_future, future):
                withdrawn = True
                network.notify()  # another message may wait instead
        failure = f"the message to {topic!r} was not delivered"
        fate = "was not sent and will not be" if withdrawn else "was sent, and may still be delivered"
        if deadlock is not None:
            raise WouldDeadlock(f"{failure}: {deadlock}; it {fate}")
        raise TimedOut(f"{core.late(failure, seconds)}; it {fate}")

    def publish_nowait(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        *,
        expire_after: float | None = None,
    ) -> asyncio.Future[None]:
        """Queue a message for publishing; also before `open` and while disconnected.

        Args:
            topic: a Topic Name.
            payload: bytes, or a str, which is encoded as UTF-8.
            qos: 0, 1 or 2.
            retain: whether the server keeps it for later subscribers.
            expire_after: seconds that it may wait to be sent; None: the `expire_after` of the options.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: the topic or the QoS is not valid.
            QueueFull: too many messages are already waiting; nothing has changed.
            StoreError: the message cannot be stored; nothing has changed.
        """
        network, pending = self._network, self._network.core.pending
        if self._has_ages or expire_after is not None:
            message, age = Message(topic, payload, qos, retain), self._age(expire_after)
            future = network.request(pending.publish_safe, message, age)
            network.await_expiry()
            return future
        if qos or type(qos) is not int:
            return network.request(pending.publish_safe, Message(topic, payload, qos, retain))
        packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
        if network.busy or network.posted or not network.flushing:
            return network.request(pending.publish_packet, packet)
        # The next ones of a burst: what `request` does, without its calls.
        network.busy = network.unflushed = True
        try:
            return pending.publish_packet(packet)
        finally:
            network.busy = False

    def withdraw(self, future: asyncio.Future[None] | Receipt) -> bool:
        """Withdraw a message that has not been sent yet. Its future never completes.

        Args:
            future: the future that `publish_nowait` returned.

        Returns:
            Whether the message was withdrawn. A message that has been sent may still be delivered.
        """
        withdrawn = self._network.call(self._core.pending.withdraw_future, future)
        self._network.notify()  # another message may wait instead
        return bool(withdrawn)

    @overload
    async def subscribe(self, topic_filters: str, qos: int = 0, *, timeout: float | None = None) -> int: ...  # type: ignore[overload-overlap]

    @overload
    async def subscribe(
        self, topic_filters: Sequence[str | tuple[str, int]], qos: int = 0, *, timeout: float | None = None
    ) -> tuple[int, ...]: ...

    async def subscribe(self, topic_filters: TopicFilters, qos: int = 0, *, timeout: float | None = None) -> Any:
        """Subscribe, and wait for the server's answer. Reconnecting restores granted subscriptions.

        Args:
            topic_filters: a Topic Filter; or several, each alone or as a (Topic Filter, QoS) pair.
            qos: the requested QoS of Topic Filters that are not in a pair, 0 to 2.
            timeout: seconds; None: the `timeout` of the options.

        Returns:
            For one Topic Filter the granted QoS; for several a tuple of return codes: 0, 1, 2, or 128 for refused.

        Raises:
            LocalProtocolError: a Topic Filter or a QoS is not valid.
            SubscribeRejected: the one Topic Filter was refused.
            TimedOut: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._core.check_waiting()
        return await self._wait(
            self.subscribe_nowait(topic_filters, qos), timeout, "there was no answer to the SUBSCRIBE"
        )

    @overload
    def subscribe_nowait(self, topic_filters: str, qos: int = 0) -> asyncio.Future[int]: ...  # type: ignore[overload-overlap]

    @overload
    def subscribe_nowait(
        self, topic_filters: Sequence[str | tuple[str, int]], qos: int = 0
    ) -> asyncio.Future[tuple[int, ...]]: ...

    def subscribe_nowait(self, topic_filters: TopicFilters, qos: int = 0) -> asyncio.Future[Any]:
        """Subscribe once there is a connection. Return a future with the result of `subscribe`."""
        return self._network.request(self._core.pending.subscribe, topic_filters, qos)

    async def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
        """Unsubscribe from one Topic Filter or several, and wait for the server's answer.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed.
            TimedOut: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._core.check_waiting()
        await self._wait(self.unsubscribe_nowait(topic_filters), timeout, "there was no answer to the UNSUBSCRIBE")

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> asyncio.Future[None]:
        """Unsubscribe once there is a connection. Return a future that is done when `unsubscribe` would return."""
        return self._network.request(self._core.pending.unsubscribe, topic_filters)

    def messages(self, timeout: float | None = None) -> Messages:
        """Iterate over the messages that come in. A message is acknowledged when the iteration moves on.

        Args:
            timeout: seconds without a message after which the iteration ends; None: it ends with the client.

        Raises:
            MQTTError: the client gave up. After `close` the iteration ends.
        """
        self._core.check_iteration()
        return Messages(self._network, timeout)

    def __aiter__(self) -> Messages:
        return self.messages()

    def on(self, topic_filter: str, callback: Callable[[Publish], object]) -> None:
        """Call a function with each message whose topic matches a Topic Filter.

        A message goes to every matching callback, once to each, in the order in which they were added. A message
        without a matching callback goes to `on_message` or to an iteration. It is acknowledged when all callbacks have
        returned. This does not subscribe: see `subscribe`.

        Args:
            topic_filter: a Topic Filter; of a shared subscription, `$share/<group>/<filter>`, only the filter is
                compared.
            callback: a function, or a coroutine function, which is awaited before the next callback and message.

        Raises:
            LocalProtocolError: the Topic Filter is ill-formed.
            TypeError: the callback is none.
        """
        check_callback(callback)
        self._network.call(self._core.routes.add, topic_filter, callback)

    def off(self, topic_filter: str, callback: Callable[[Publish], object] | None = None) -> None:
        """Remove a callback that was added with `on`. An unknown one has no effect.

        Args:
            topic_filter: the Topic Filter that was passed to `on`.
            callback: the function; None: all functions of that Topic Filter.

        Raises:
            LocalProtocolError: the Topic Filter is ill-formed.
        """
        self._network.call(self._core.routes.remove, topic_filter, callback)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a QoS 1 or 2 message. Only with `manual_ack`; has no effect if repeated or too late."""
        if message.qos:
            self._network.call(self._core.acknowledge, message)
            self._network.flush_soon()

    def give_back(self, messages: Sequence[Publish], after: int = 0) -> None:
        """Return unacknowledged messages to the client, for another iteration. Only with `manual_ack`.

        An iteration yields them again, in order, before all others.

        Args:
            messages: messages that an iteration has yielded.
            after: how many of the messages that wait are yielded before these; for one that was taken while others were
                given back.
        """
        self._network.call(self._network.give_back, messages, after)

    def reconnect_now(self) -> None:
        """Close the connection with DISCONNECT, and make a new one immediately, with a new URL."""
        self._network.call(self._core.drop, time.monotonic())
        self._network.hurry()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return self if self._core.running else await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<mqttws.aio.Client {self.client_id!r} {self.state.name}>"

    # Waiting.

    async def _wait(self, future: asyncio.Future[Any], timeout: float | None, failure: str) -> Any:
        seconds = self._options.timeout if timeout is None else timeout
        if not await self._network.wait(future, seconds):
            raise TimedOut(self._core.late(failure, seconds))
        return future.result()

    def _age(self, expire_after: float | None) -> Age | None:
        """Return the age of a message that is published now."""
        return self._options.age(expire_after, time.monotonic(), time.time())

    async def _submit(self, call: tuple[Any, ...], topic: str, deadline: float, seconds: float) -> asyncio.Future[Any]:
        """Make a call that queues a message, once there is space in the queue."""
        network, overflow = self._network, self._options.overflow
        while True:
            try:
                future: asyncio.Future[Any] = network.call(*call)
                return future
            except QueueFull as error:
                if overflow == "raise":
                    raise
                network.check_progress()
                if not await network.change(deadline):
                    late = self._core.late(f"the message to {topic!r} was not delivered", seconds)
                    raise TimedOut(f"{late}; it was not sent and will not be: {error}") from None


def connect(url: Url, **options: Unpack[ClientOptions]) -> Client:
    """Make a client that connects when it is awaited, or as its `async with` block is entered.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt, at once or
            when awaited.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one.
    """
    return Client(url, **options)


def _forget_all() -> None:
    """Forget all connections in a forked child, because they belong to the parent."""
    for network in list(_networks):
        network.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
