"""The asyncio client: a task that connects and connects again, and a protocol that moves bytes.

Everything runs in one event loop, so there is no lock; a client belongs to the loop in which it was opened. Bytes
are written once for each turn of the loop (`_flush_soon`), however many calls have been made in it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from types import TracebackType
from typing import Any, Self

from mqttws.codec.publishing import Message, Publish
from mqttws.errors import ConnectionClosed, MQTTError, QueueFull
from mqttws.transport.core import Core, Options, State, TopicFilters, connect_failed, guarded
from mqttws.transport.tcp import ATTEMPT_DELAY
from mqttws.transport.url import parse_url

logger = logging.getLogger("mqttws")

#: Seconds that callbacks may take before the event loop gets its turn.
CALLBACK_SLICE = 0.05

Url = str | Callable[[], str | Awaitable[str]]


class _Pump(asyncio.Protocol):
    """Moves the bytes of one Network Connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._writable = True
        self._reading = True
        self.ended: asyncio.Future[None] = client._loop.create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        link = self._client._core.link
        if link is not None:
            link.receive_data(data, time.monotonic())
            self.move()

    def eof_received(self) -> bool:
        link = self._client._core.link
        if link is not None:
            link.receive_eof(time.monotonic())
            self.move()
        return True  # what is still to be written is written first

    def connection_lost(self, exc: Exception | None) -> None:
        link = self._client._core.link
        if link is not None and not self.ended.done():
            reason = f": {exc}" if exc is not None else ""
            link.fail(ConnectionClosed(f"the connection broke{reason}"), time.monotonic())
            self.move()
        self.end()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self.move()

    def move(self) -> None:
        """Write, act on what has happened, and set the timer."""
        core, now = self._client._core, time.monotonic()
        if self._transport is None or core.link is None or self.ended.done():
            return
        link = core.link
        while self._writable and (data := link.data_to_send(now)):
            self._transport.write(data)
        self._client._advance(now)
        if link.finished:
            while data := link.data_to_send(now):
                self._transport.write(data)
            self.end()
            return
        if core.reading != self._reading:
            self._reading = core.reading
            (self._transport.resume_reading if self._reading else self._transport.pause_reading)()
        self._set_timer(link.connection.next_deadline(), now)

    def end(self, *, cut: bool = False) -> None:
        """Close the transport; what is written already goes out first, unless it is cut."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None:
            (self._transport.abort if cut else self._transport.close)()
        if not self.ended.done():
            self.ended.set_result(None)

    def _set_timer(self, deadline: float | None, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            self._timer = self._client._loop.call_later(max(0.0, deadline - now), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        link = self._client._core.link
        if link is not None:
            link.connection.handle_timeout(time.monotonic())
            self.move()


class Client:
    """A client of one server, reconnecting as long as it is open.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt, at once or
            when awaited.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one.
        LocalProtocolError: an option breaks a rule of the standard.
        TypeError: there is no such option.
    """

    def __init__(self, url: Url, **options: Any) -> None:
        if not callable(url):
            parse_url(url)
        self._url = url
        self._options = Options(**options)
        self._core: Core[asyncio.Future[Any]] = Core(self._options, lambda: self._loop.create_future(), _settle)
        self._running_loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pump: _Pump | None = None
        self._stop = False
        self._wake = asyncio.Event()  # ends the wait before an attempt
        self._opened: asyncio.Future[None] | None = None
        self._waiters: set[asyncio.Future[None]] = set()  # for messages, for room, or for the end
        self._flushing = False
        self._calling = False

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._running_loop is None:
            self._running_loop = asyncio.get_running_loop()
        return self._running_loop

    # The user's verbs.

    @property
    def client_id(self) -> str:
        """The client identifier."""
        return self._core.client_id

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._core.state

    async def open(self, timeout: float | None = None) -> Self:
        """Connect.

        Args:
            timeout: seconds; None: the attempt ends by itself after the `timeout` of the options.

        Raises:
            ConnectError: the attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). No
                other one is made: reconnecting is for connections that stood.
            TimeoutError: it took too long.
        """
        if self._task is not None:
            raise MQTTError("the client is open already")
        self._stop = False
        self._opened = self._loop.create_future()
        self._task = self._loop.create_task(self._run(), name=f"mqttws {self.client_id}")
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._opened)
        except BaseException:
            if not self._opened.done():
                self._opened.cancel()
            await self.close(timeout=1.0)
            raise
        return self

    async def close(self, timeout: float | None = None) -> None:
        """Send what may be sent, DISCONNECT, and close. What is not complete by then fails. May be called twice.

        Args:
            timeout: seconds to wait for an orderly end; None: 5. The connection is cut then.
        """
        task = self._task
        if task is None:
            return
        self._stop = True
        self._wake.set()
        if self._core.link is not None and self._pump is not None:
            self._core.link.connection.disconnect(time.monotonic())
            self._pump.move()
        elif self._pump is None:
            task.cancel()  # it resolves, connects or waits: there is nothing to end in order
        try:
            async with asyncio.timeout(5.0 if timeout is None else timeout):
                await asyncio.shield(task)
        except (TimeoutError, asyncio.CancelledError) as reason:
            if self._pump is not None:
                self._pump.end(cut=True)
            task.cancel()
            await asyncio.wait({task})
            current = asyncio.current_task()
            if isinstance(reason, asyncio.CancelledError) and current is not None and current.cancelling():
                raise

    async def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        *,
        timeout: float | None = None,
    ) -> None:
        """Publish a message, and wait until it is delivered to the server as its QoS promises.

        Cancelling it, or its time running out, takes the message back where it has not been sent yet; where it has,
        it may still be delivered.

        Args:
            topic: a Topic Name.
            payload: bytes, or a str that is sent as UTF-8.
            qos: 0: handed to the network; 1 or 2: acknowledged in full.
            retain: whether the server keeps it for later subscribers.
            timeout: seconds; None: the `timeout` of the options.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            TimeoutError: it took too long.
            MQTTError: the client was closed, or gave up.
        """
        message = Message(topic, payload, qos, retain)
        token = 0
        withdrawn = False
        try:
            async with asyncio.timeout(self._options.timeout if timeout is None else timeout):
                token, future = await self._submit(message)
                try:
                    await future
                finally:
                    withdrawn = not future.done() or future.cancelled()
                    withdrawn = withdrawn and self._core.withdraw(token)
        except TimeoutError:
            fate = "was not sent and will not be" if withdrawn or not token else "was sent, and may still be delivered"
            raise TimeoutError(f"the message to {topic!r} was not delivered in time; it {fate}") from None

    def publish_nowait(
        self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False
    ) -> asyncio.Future[None]:
        """Publish a message when its turn comes; also before `open` and while disconnected.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            QueueFull: too many messages wait already; nothing has changed.
        """
        _, future = self._core.publish(Message(topic, payload, qos, retain))
        self._flush_soon()
        return future

    def withdraw(self, future: asyncio.Future[None]) -> bool:
        """Take back a message that has not been sent yet; its future is then done by nobody.

        Args:
            future: as `publish_nowait` gave it.

        Returns:
            Whether the message will not be sent. One that has been sent may still be delivered.
        """
        return self._core.withdraw_future(future)

    async def subscribe(self, topic_filters: TopicFilters, qos: int = 0, *, timeout: float | None = None) -> Any:
        """Subscribe, and wait for the server's answer. Reconnecting restores what was granted.

        Args:
            topic_filters: a Topic Filter; or several, each alone or as a (Topic Filter, QoS) pair.
            qos: asked for where no pair says otherwise.
            timeout: seconds; None: the `timeout` of the options.

        Returns:
            For one Topic Filter the QoS granted; for several a tuple of return codes: 0, 1, 2, or 128 for refused.

        Raises:
            LocalProtocolError: a Topic Filter or a QoS is ill-formed.
            SubscribeRejected: the one Topic Filter was refused.
            TimeoutError: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        return await self._wait(self.subscribe_nowait(topic_filters, qos), timeout)

    def subscribe_nowait(self, topic_filters: TopicFilters, qos: int = 0) -> asyncio.Future[Any]:
        """Subscribe when there is a connection. Returns a future of what `subscribe` would return."""
        future = self._core.subscribe(topic_filters, qos)
        self._flush_soon()
        return future

    async def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
        """Unsubscribe from one Topic Filter or several, and wait for the server's answer.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed.
            TimeoutError: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        await self._wait(self.unsubscribe_nowait(topic_filters), timeout)

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> asyncio.Future[None]:
        """Unsubscribe when there is a connection. Returns a future that is done when `unsubscribe` would return."""
        future = self._core.unsubscribe(topic_filters)
        self._flush_soon()
        return future

    async def messages(self, timeout: float | None = None) -> AsyncGenerator[Publish, None]:
        """Iterate over the messages that come in. A message is acknowledged when the iteration moves on.

        Args:
            timeout: seconds of silence after which the iteration ends; None: it goes on as long as the client.

        Raises:
            MQTTError: the client gave up. After `close` the iteration ends.
        """
        while True:
            deadline = None if timeout is None else self._loop.time() + timeout
            while not self._core.inbound:
                if self._task is None or self._core.state.name == "disconnected":
                    if self._core.error is not None and not self._stop:
                        raise self._core.error
                    return
                try:
                    async with asyncio.timeout_at(deadline):
                        await self._change()
                except TimeoutError:
                    return
            message = self._core.take()
            try:
                yield message
            finally:
                if not self._options.manual_ack:
                    self.acknowledge(message)
                elif not self._core.reading:
                    self._flush_soon()

    def __aiter__(self) -> AsyncIterator[Publish]:
        return self.messages()

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message of QoS 1 or 2, where `manual_ack` is set. A second time, or too late: no effect."""
        self._core.acknowledge(message)
        if message.qos or not self._core.reading:
            self._flush_soon()

    def reconnect_now(self) -> None:
        """Drop the connection and make a new one at once, with a fresh URL."""
        self._core.fresh()
        self._wake.set()
        if self._core.link is not None and self._pump is not None:
            self._core.link.fail(ConnectionClosed("the client asked for a new connection"), time.monotonic())
            self._pump.move()

    async def __aenter__(self) -> Self:
        return self if self._task is not None else await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<mqttws.aio.Client {self.client_id!r} {self.state.name}>"

    # Waiting.

    async def _wait(self, future: asyncio.Future[Any], timeout: float | None) -> Any:
        async with asyncio.timeout(self._options.timeout if timeout is None else timeout):
            return await future

    async def _submit(self, message: Message) -> tuple[int, asyncio.Future[Any]]:
        """Queue a message, waiting for room."""
        while True:
            try:
                submitted = self._core.publish(message)
                self._flush_soon()
                return submitted
            except QueueFull:
                if self._stop or self._task is None:
                    raise
                await self._change()

    async def _change(self) -> None:
        """Wait until messages came, room was made, or the end."""
        waiter = self._loop.create_future()
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            self._waiters.discard(waiter)

    def _notify(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _flush_soon(self) -> None:
        """Write at the end of this turn of the event loop."""
        if not self._flushing and self._pump is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._pump is not None:
            self._pump.move()

    # The life of connections.

    async def _run(self) -> None:
        """Connect, and connect again, until the end."""
        assert self._opened is not None
        due: float | None = 0.0
        failure: Exception | None = None
        try:
            while due is not None:
                await self._sleep_until(due)
                try:
                    await self._serve()
                    error = self._core.error or ConnectionClosed()
                except Exception as reason:  # of the attempt; what is worth another one is decided below
                    error = reason
                if not self._stop and self._core.recovers(error):
                    continue
                if self._stop or not self._opened.done():
                    failure = None if self._stop else error
                    break
                due = self._core.lost(error, time.monotonic())
                failure = self._core.error
                self._call_back()
        except asyncio.CancelledError:
            failure = None
        finally:
            self._task = None
            self._pump = None
            if self._core.state.name != "disconnected":
                self._core.give_up(failure)
            self._notify()
            self._call_back()
            if not self._opened.done():
                self._opened.set_exception(failure or ConnectionClosed("the client was closed"))

    async def _sleep_until(self, due: float) -> None:
        delay = due - time.monotonic()
        if delay > 0 and not self._wake.is_set():
            try:
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            except TimeoutError:
                pass
        self._wake.clear()
        if self._stop:
            raise asyncio.CancelledError

    async def _serve(self) -> None:
        """Make one Network Connection and wait for its end."""
        core, loop = self._core, self._loop
        core.error = None
        now = time.monotonic()
        deadline = now + self._options.timeout
        url = self._url
        if callable(url):
            given = url()
            url = given if isinstance(given, str) else await given
        endpoint, proxy = core.prepare(url)
        self._call_back()
        host, port = (endpoint.host, endpoint.port) if proxy is None else (proxy.host, proxy.port)
        pump = _Pump(self)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                # An address needs no race; and asyncio forgets the winner of one that is cancelled as it ends.
                delay = None if _is_address(host) else ATTEMPT_DELAY
                await loop.create_connection(lambda: pump, host, port, happy_eyeballs_delay=delay)
        except OSError as error:
            raise connect_failed(error, endpoint, proxy) from None
        self._pump = pump
        try:
            core.open_link(endpoint, proxy, time.monotonic(), deadline)
            pump.move()
            await pump.ended
        finally:
            pump.end(cut=not pump.ended.done())
            self._pump = None
            core.link = None

    def _advance(self, now: float) -> None:
        """Act on what has happened, and tell it."""
        core = self._core
        core.advance(now)
        if self._opened is not None and not self._opened.done() and core.state.name == "connected":
            self._opened.set_result(None)
        if self._waiters:
            self._notify()
        self._call_back()

    def _call_back(self) -> None:
        """Resolve futures and run callbacks."""
        while self._core.has_calls:
            for function, first, second in self._core.take_calls():
                function(first, second)
        if self._options.on_message is not None and self._core.inbound and not self._calling:
            self._calling = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Run `on_message` for some of the messages that wait."""
        self._calling = False
        on_message = self._options.on_message
        assert on_message is not None
        end = time.monotonic() + CALLBACK_SLICE
        inbound, manual_ack = self._core.inbound, self._options.manual_ack
        while inbound and not self._stop:
            message = inbound.popleft()
            guarded(on_message, message)
            if message.qos and not manual_ack:
                self.acknowledge(message)
            if time.monotonic() >= end:
                break
        if not self._core.reading:
            self._flush_soon()
        self._call_back()


def _settle(future: asyncio.Future[Any], outcome: object) -> None:
    """Give a future its outcome; one that was cancelled stays so."""
    if future.done():
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)


def _is_address(host: str) -> bool:
    """Tell an IP address from a name."""
    return ":" in host or host.replace(".", "").isdigit()


def connect(url: Url, **options: Any) -> Client:
    """Make a client that connects as its `async with` block is entered, or when its `open` is awaited.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt, at once or
            when awaited.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one.
    """
    return Client(url, **options)
