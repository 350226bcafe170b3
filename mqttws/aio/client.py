"""The methods of the asyncio client. The task that connects and reconnects is in `network`.

Everything runs in one event loop, to which `open` binds the client. Do not call the methods in another thread.
"""

from __future__ import annotations

import asyncio
import os
import time
import weakref
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any, NoReturn, Self, Unpack, overload

from mqttws.aio.future import Receipt
from mqttws.aio.iteration import Messages
from mqttws.aio.network import Network, Url
from mqttws.aio.publishing import Publisher
from mqttws.aio.waits import NEXT_TURN
from mqttws.client.attempt import check_url
from mqttws.client.callbacks import check_callback
from mqttws.client.core import Core
from mqttws.client.option_types import ClientOptions, TopicFilters
from mqttws.client.options import CLOSE_TIMEOUT, Options, check_timeout
from mqttws.client.state import State
from mqttws.client.timings import Timings
from mqttws.client.waiting import Waiting
from mqttws.codec.publishing import AT_MOST_ONCE, Message, Publish, as_payload, encode_publish
from mqttws.errors import QueueFull, TimedOut, WouldDeadlock
from mqttws.protocol.session import Session

_networks: weakref.WeakSet[Network] = weakref.WeakSet()


class Client(Publisher):
    """An MQTT client, which reconnects as long as it is open. Awaiting it opens it, and so does `async with`.

    Args:
        url: The URL of the server, with the scheme `ws`, `wss`, `mqtt` or `mqtts`; a sequence of such URLs, all of
            which an attempt tries; or a callable, or coroutine function, that returns either and is called once for
            each attempt.
        **options: See `Options`.

    Raises:
        ValueError: The URL is not valid, or an option is out of its range.
        LocalProtocolError: An option breaks a rule of the standard.
        TypeError: There is no such option, or one has the wrong type.
        Unsupported: The `server` does not support the will.
        StoreError: The `store` cannot be read, or is in use with the same client identifier.
    """

    _network: Network

    def __init__(self, url: Url, **options: Unpack[ClientOptions]) -> None:
        values = Options(**options)
        check_url(url, values)
        for name, function in (
            ("url", url if callable(url) else None),
            *((name, getattr(values, name)) for name in ("on_message", "on_state", "on_error")),
        ):
            if function is not None:
                check_callback(function, name, awaited=True)
        super().__init__(values, Network(values, url))
        _networks.add(self._network)
        if self._options.has_profile:  # imported only if needed
            from mqttws.client.guarding import put_guard

            put_guard(self, self._options, lambda: list(self._core.session.subscriptions), self._network.log)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client cannot be pickled or copied; make one in each process")

    # The public methods.

    @property
    def _core(self) -> Core[asyncio.Future[Any]]:
        return self._network.core  # replaced after a fork

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
        """The session, which outlives connections; read-only."""
        return self._core.session

    @property
    def pending(self) -> int:
        """The number of published messages that are not sent (QoS 0) or not completely acknowledged (QoS 1, 2) yet."""
        sender = self._core.session.sender
        return sender.waiting + sender.in_flight

    @property
    def received(self) -> int:
        """The number of messages received so far, including those that the program has not taken yet."""
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
        """The reason why nothing is read before messages are taken; an empty string while the client reads."""
        return self._core.stalled

    @property
    def unreachable(self) -> str:
        """Why there is no connection: the state, and the latest error; an empty string while there is one."""
        return self._core.unreachable

    @property
    def timings(self) -> Timings | None:
        """How long each phase of making the latest connection took; None before the first one."""
        return self._core.timings

    @property
    def waiting(self) -> Waiting:
        """The queue of messages that are not sent yet."""
        network, core = self._network, self._core
        if network.busy:  # in a signal handler
            return core.waiting(time.monotonic())
        waiting: Waiting = network.change_core(core.waiting, time.monotonic())
        return waiting

    async def open(self, timeout: float | None = None, *, wait: bool = True) -> Self:
        """Connect.

        With the option `retry_first` this returns after the first attempt, even if it failed: see `state`.

        Args:
            timeout: Seconds; None: the `timeout` of the options for each URL, and however long the wait for the turn of
                this client is (`connect_budget`).
            wait: Whether to wait for the connection. If not, return immediately and make attempts until one succeeds,
                as with `retry_first`.

        Returns:
            The client itself.

        Raises:
            ConnectError: The attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). There
                is no further attempt: only a connection that was established is reconnected.
            TimedOut: It took too long.
            MQTTError: The client is already open.
            StoreError: Another client, which is newer, uses the store with the same client identifier.

        Spec: §3.1, §3.2
        """
        check_timeout(timeout)
        await self._network.await_end()
        self._network.start(retries=self._options.retry_first or not wait)
        opened = self._core.opened
        assert opened is not None
        if not wait:
            opened.add_done_callback(lambda done: done.cancelled() or done.exception())  # no call reports it
            return self
        try:
            seconds = left = self._options.timeout + 1.0 if timeout is None else timeout
            while timeout is None and not opened.done():  # as long as the attempt waits for its turn and then may take
                await asyncio.wait((opened,), timeout=left)
                left = min(seconds, self._core.overdue_at - time.monotonic())
                if left <= 0 and not opened.done():
                    raise TimedOut(self._core.late("there was no connection", seconds))
            await self._wait(opened, seconds, "there was no connection")
        except BaseException:
            opened.cancel()
            task = self._network.task
            try:
                await self.close(timeout=0.0)
            finally:
                if task is None or task.done():
                    self._core.unopened()
                else:  # this call was cancelled again; the task has yet to end the client
                    task.add_done_callback(lambda _: self._core.unopened())
            raise
        return self

    async def close(self, timeout: float | None = None, *, send_will: bool = False) -> None:
        """Send waiting messages, wait for acknowledgements, send DISCONNECT and close. A second call has no effect.

        Calls whose messages are not sent (QoS 0) or not acknowledged in time fail. With `clean_session=False` sent
        messages stay in the session for the next `open`; with a store all QoS 1 and 2 messages do.

        Args:
            timeout: Seconds to wait before the connection is closed in any case; None: 5.
            send_will: Whether to close the connection without DISCONNECT, so that the server publishes the will.

        Spec: §3.14, [MQTT-3.1.2-8], [MQTT-3.14.4-1]
        """
        check_timeout(timeout)
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
            return  # the caller is the user's function for the URL, which this task awaits
        try:
            await asyncio.wait({task}, timeout=seconds + 1.0)
            await network.end_callbacks(seconds)
        finally:
            if not task.done():  # this call was cancelled, or the server does not read
                network.call(self._core.stop, time.monotonic(), 0.0)
                network.flush_now()
                task.cancel()

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all messages published so far are sent (QoS 0) or completely acknowledged (QoS 1 and 2).

        Args:
            timeout: Seconds; None: the `timeout` of the options.

        Raises:
            TimedOut: It took too long; the messages are still being delivered.
            MQTTError: The client was closed, has given up, or is not open.
        """
        check_timeout(timeout)
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
            topic: A Topic Name: 1 to 65,535 bytes of UTF-8, without wildcards.
            payload: Bytes, or a str, which is encoded as UTF-8; at most 256 MiB with the topic.
            qos: 0: wait until the message is passed to the event loop; 1 or 2: until it is completely acknowledged.
            retain: Whether the server keeps the message for later subscribers.
            timeout: Seconds; None: the `timeout` of the options.
            expire_after: Seconds, above 0, that the message may wait to be sent; infinity for no limit; None: the
                `expire_after` of the options.

        Raises:
            LocalProtocolError: The topic or the QoS is not valid.
            MessageExpired: The message waited for too long, and was not sent.
            QueueFull: Too many messages are already waiting, and the option `overflow` is not "block".
            TimedOut: It took too long. A message that has not been sent yet is withdrawn; one that has been sent may
                still be delivered.
            WouldDeadlock: Nothing is read before messages are taken, and this task takes them.
            MQTTError: The client was closed, has given up, or is not open.

        Spec: §3.3, §4.3

        Examples:
            >>> import asyncio
            >>> from mqttws.aio import connect
            >>> from mqttws.broker import Broker
            >>> async def main():
            ...     async with Broker() as broker, connect(broker.url) as client:
            ...         await client.publish("greenhouse/temperature", "21.5", qos=1, retain=True)
            >>> asyncio.run(main())
        """
        if timeout is not None:
            check_timeout(timeout)
        age = self._age(expire_after) if self._has_ages or expire_after is not None else None
        network, core = self._network, self._network.core
        pending, seconds = core.pending, self._options.timeout if timeout is None else timeout
        packet = message = None
        if qos is not AT_MOST_ONCE or age is not None:
            message = Message(topic, payload, qos, retain)
        else:
            packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
        if not core.running:
            core.check_waiting()
        sent, left = pending.sent, seconds
        token = 0 if packet is None else network.enqueue(packet)
        future: asyncio.Future[Any] | None = None  # a message with a token needs none if it is sent in this turn
        if not token:
            call = (pending.publish_message, message, age) if packet is None else (pending.publish_packet, packet)
            try:
                future = network.call(*call)
            except QueueFull:
                started = network.loop.time()
                future = await self._submit(call, topic, started + seconds, seconds)
                left = max(0.0, seconds - (network.loop.time() - started))
        if age is not None:
            network.await_expiry()
        deadlock: WouldDeadlock | None = None
        withdrawn = False
        try:
            if future is None:
                await NEXT_TURN  # what was published in this turn is written before this task continues
                if token <= sent.token:
                    return
                future = network.make_receipt(sent, token)
            else:
                network.flush_first()
                if not qos:
                    if not future.done():
                        await NEXT_TURN
                    if future.done() and not future.cancelled():  # nearly always: without the coroutine of a wait
                        future.result()
                        return
            if await network.wait(future, left):
                return
        except WouldDeadlock as error:
            deadlock = error
        except asyncio.CancelledError:
            if future is None:
                future = network.make_receipt(sent, token)
            future.cancel()
            raise
        finally:
            if future is not None and future.cancelled() and network.call(pending.withdraw_future, future):
                withdrawn = True
                network.notify()  # there is space in the queue
                if core.stopping:
                    network.hurry()  # a `close` may have waited for it
            del future, sent  # the traceback of their exception refers to this frame: a cycle
        failure = f"the message to {topic!r} was not delivered"
        fate = "was not sent and will not be" if withdrawn else "was sent, and may still be delivered"
        if deadlock is not None:
            raise WouldDeadlock(f"{failure}: {deadlock}; it {fate}")
        raise TimedOut(f"{core.late(failure, seconds)}; it {fate}")

    def withdraw(self, future: asyncio.Future[None] | Receipt) -> bool:
        """Withdraw a message that has not been sent yet. Its future never completes.

        Args:
            future: The future that `publish_nowait` returned.

        Returns:
            Whether the message was withdrawn. A message that has been sent may still be delivered.
        """
        withdrawn = self._network.call(self._core.pending.withdraw_future, future)
        self._network.notify()  # there is space in the queue
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
            topic_filters: A Topic Filter; or several, each alone or as a (Topic Filter, QoS) pair.
            qos: The requested QoS of Topic Filters that are not in a pair, 0 to 2.
            timeout: Seconds; None: the `timeout` of the options.

        Returns:
            For one Topic Filter the granted QoS; for several a tuple of return codes: 0, 1, 2, or 128 for refused.

        Raises:
            LocalProtocolError: A Topic Filter or a QoS is not valid.
            SubscribeRejected: The one Topic Filter was refused.
            TimedOut: There was no answer in time. A request that has not been sent yet is withdrawn.
            QueueFull: Too many requests are not answered.
            MQTTError: The client was closed, or gave up.

        Spec: §3.8, §3.9

        Examples:
            >>> import asyncio
            >>> from mqttws.aio import connect
            >>> from mqttws.broker import Broker
            >>> async def main():
            ...     async with Broker() as broker, connect(broker.url) as client:
            ...         print(await client.subscribe("greenhouse/+", qos=1))
            ...         print(await client.subscribe([("barn/#", 2), "gate"]))
            >>> asyncio.run(main())
            1
            (2, 0)
        """
        check_timeout(timeout)
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
        """Subscribe without waiting for the answer; while disconnected, as soon as there is a connection.

        Args:
            topic_filters: A Topic Filter; or several, each alone or as a (Topic Filter, QoS) pair.
            qos: The requested QoS of Topic Filters that are not in a pair, 0 to 2.

        Returns:
            A future with the result or the exception of `subscribe`.

        Raises:
            LocalProtocolError: A Topic Filter or a QoS is not valid.
            QueueFull: Too many requests are not answered; nothing has changed.
        """
        return self._network.request(self._core.pending.subscribe, topic_filters, qos)

    async def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
        """Unsubscribe from one Topic Filter or several, and wait for the server's answer.

        Args:
            topic_filters: A Topic Filter, or several.
            timeout: Seconds; None: the `timeout` of the options.

        Raises:
            LocalProtocolError: A Topic Filter is not valid.
            TimedOut: There was no answer in time. A request that has not been sent yet is withdrawn.
            QueueFull: Too many requests are not answered.
            MQTTError: The client was closed, or gave up.

        Spec: §3.10, §3.11
        """
        self._core.check_waiting()
        check_timeout(timeout)
        await self._wait(self.unsubscribe_nowait(topic_filters), timeout, "there was no answer to the UNSUBSCRIBE")

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> asyncio.Future[None]:
        """Unsubscribe without waiting for the answer; while disconnected, as soon as there is a connection.

        Args:
            topic_filters: A Topic Filter, or several.

        Returns:
            A future that is done when `unsubscribe` would return.

        Raises:
            LocalProtocolError: A Topic Filter is not valid.
            QueueFull: Too many requests are not answered; nothing has changed.
        """
        return self._network.request(self._core.pending.unsubscribe, topic_filters)

    def messages(self, timeout: float | None = None) -> Messages:
        """Iterate over received messages. A message is acknowledged when the next one is requested.

        Args:
            timeout: Seconds without a message after which the iteration ends; None: it ends when the client is closed.

        Returns:
            An asynchronous iterator of `Publish`.

        Raises:
            MQTTError: The option `on_message` is set, so messages go there. While iterating: the client gave up.

        Examples:
            >>> import asyncio
            >>> from mqttws.aio import connect
            >>> from mqttws.broker import Broker
            >>> async def main():
            ...     async with Broker() as broker, connect(broker.url) as client:
            ...         await client.subscribe("greenhouse/+", qos=1)
            ...         await client.publish("greenhouse/temperature", "21.5", qos=1)
            ...         async for message in client.messages():
            ...             print(message.topic, message.payload)
            ...             break
            >>> asyncio.run(main())
            greenhouse/temperature b'21.5'
        """
        check_timeout(timeout)
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
            topic_filter: A Topic Filter; of a shared subscription, `$share/<group>/<filter>`, only the filter is
                compared.
            callback: A function, or a coroutine function, which is awaited before the next callback and message.

        Raises:
            LocalProtocolError: The Topic Filter is not valid.
            TypeError: The callback is not callable, or is a generator function.
        """
        check_callback(callback, awaited=True)
        self._network.call(self._core.routes.add, topic_filter, callback)

    def off(self, topic_filter: str, callback: Callable[[Publish], object] | None = None) -> None:
        """Remove a callback that was added with `on`. An unknown one has no effect.

        Args:
            topic_filter: The Topic Filter that was passed to `on`.
            callback: The function; None: all functions of that Topic Filter.

        Raises:
            LocalProtocolError: The Topic Filter is not valid.
        """
        self._network.call(self._core.routes.remove, topic_filter, callback)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message. Only with `manual_ack`; has no effect if repeated or too late.

        Args:
            message: A received message; nothing is sent for QoS 0.

        Spec: §3.4, §3.5
        """
        if message.qos:
            self._network.call(self._core.acknowledge, message)
            self._network.flush_soon()

    def give_back(self, messages: Sequence[Publish], after: int = 0) -> None:
        """Return unacknowledged messages to the client, for another iteration. Only with `manual_ack`.

        An iteration yields them again, in order, before all others.

        Args:
            messages: Messages that an iteration has yielded.
            after: The number of waiting messages to yield before these: not 0 for a message that was taken while others
                were given back.
        """
        self._network.call(self._network.give_back, list(messages), after)

    def reconnect_now(self) -> None:
        """Close the connection with DISCONNECT, and make a new one, with a new URL, after `Reconnect.interval`."""
        self._network.call(self._core.drop)
        self._network.hurry()

    def __await__(self) -> Generator[Any, None, Self]:
        return self.open().__await__()

    async def __aenter__(self) -> Self:
        return self if self._core.running and not self._core.stopping else await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<mqttws.aio.Client {self.client_id!r} {self.state.name}>"

    # Waiting.

    async def _wait(self, future: asyncio.Future[Any], timeout: float | None, failure: str) -> Any:
        seconds = self._options.timeout if timeout is None else timeout
        withdrawn = False
        try:
            if await self._network.wait(future, seconds):
                return future.result()
        finally:
            if future.cancelled():
                withdrawn = bool(self._network.call(self._core.pending.withdraw_request, future))
                if self._core.stopping:
                    self._network.hurry()  # a `close` may have waited for it
            del future  # the traceback of its exception refers to this frame: a cycle
        raise TimedOut(self._core.late(failure, seconds) + ("; it was not sent and will not be" if withdrawn else ""))

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
    """Return a client that connects when it is awaited, or when its `async with` block is entered.

    Args:
        url: The URL of the server, with the scheme `ws`, `wss`, `mqtt` or `mqtts`; a sequence of URLs; or a callable:
            see `Client`.
        **options: See `Options`.

    Returns:
        The client. Awaiting it raises what `Client.open` raises.

    Raises:
        ValueError: The URL is not valid, or an option is out of its range.

    Examples:
        >>> import asyncio
        >>> import mqttws.aio
        >>> from mqttws.broker import Broker
        >>> async def main():
        ...     async with Broker() as broker, mqttws.aio.connect(broker.url, client_id="thermometer") as client:
        ...         print(client.client_id, client.state.name)
        >>> asyncio.run(main())
        thermometer connected
    """
    return Client(url, **options)


def _forget_all() -> None:
    """Forget all connections in a forked child, because they belong to the parent."""
    for network in list(_networks):
        network.forget_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
