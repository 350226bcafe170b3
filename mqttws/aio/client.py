"""The asyncio client: the verbs, and a task that connects and connects again; `pump` moves the bytes.

Everything runs in one event loop, so there is no lock; a client belongs to the loop in which it was opened. Bytes
are written once for each turn of the loop (`_flush_soon`), however many calls have been made in it.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self

from mqttws.aio.future import Receipt
from mqttws.aio.network import Pump
from mqttws.client.attempt import Attempt
from mqttws.client.core import Core
from mqttws.client.options import CLOSE_TIMEOUT, Options, State, TopicFilters
from mqttws.client.sent import Handover
from mqttws.client.url import parse_url
from mqttws.codec.publishing import Message, Publish, as_payload, encode_publish
from mqttws.errors import ConnectError, QueueFull
from mqttws.protocol.session import Session
from mqttws.sockets import ATTEMPT_DELAY, is_address

logger = logging.getLogger("mqttws")

Url = str | Callable[[], str | Awaitable[str]]


class Messages(AsyncIterator[Publish]):
    """The messages of a client, one after the other. Each is acknowledged when the iteration moves on, or ends.

    Not a generator: asyncio closes one that was left by `break` only some turns of the loop later, which may be after
    the connection has been closed.
    """

    def __init__(self, client: Client, timeout: float | None) -> None:
        self._client = client
        self._timeout = timeout
        self._taken: Publish | None = None
        self._over = False

    async def __anext__(self) -> Publish:
        if self._taken is not None:
            self._move_on()
        core = self._client._core
        if core.inbound and not self._over:  # then nothing is to be awaited
            message = core.inbound.popleft()
            if not core.reading:
                self._client._flush_soon()
            if message.qos:
                self._taken = message
            return message
        if not self._over:
            self._taken = await self._client._next_message(self._timeout)
        if self._taken is None:
            self._over = True
            raise StopAsyncIteration
        return self._taken

    async def aclose(self) -> None:
        """End the iteration."""
        self._over = True
        self._move_on()

    def _move_on(self) -> None:
        taken, self._taken = self._taken, None
        if taken is not None and not self._client._options.manual_ack:
            self._client.acknowledge(taken)

    def __del__(self) -> None:
        if self._taken is not None:
            self._client._soon(self._move_on)


class Client:
    """A client of one server, reconnecting as long as it is open. To await it opens it, and so does `async with`.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt, at once or
            when awaited.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one, or an option is out of its range.
        LocalProtocolError: an option breaks a rule of the standard.
        TypeError: there is no such option.
    """

    def __init__(self, url: Url, **options: Any) -> None:
        if not callable(url):
            parse_url(url)
        self._url = url
        self._options = Options(**options)
        self._core: Core[asyncio.Future[Any]] = Core(self._options, self._make_future, self._make_receipt, _settle)
        self._running_loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._pump: Pump | None = None
        self._patience: asyncio.Timeout | None = None  # of what the task waits for, while it has no connection
        self._waiters: set[asyncio.Future[None]] = set()  # for messages, for room, or for the end
        self._flushing = False
        self._delivering = False

    def _make_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self._running_loop or self._loop)

    def _make_receipt(self, handover: Handover[asyncio.Future[Any]], token: int) -> asyncio.Future[Any]:
        receipt = Receipt()
        receipt.loop = self._running_loop or self._loop
        receipt.handover = handover
        receipt.future = None
        receipt.token = token
        return receipt  # type: ignore[return-value]

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

    @property
    def session(self) -> Session:
        """What outlives a connection; to be looked at only."""
        return self._core.session

    @property
    def dropped(self) -> int:
        """How many messages were dropped because too many waited; see `Options.overflow`."""
        return self._core.dropped

    async def open(self, timeout: float | None = None) -> Self:
        """Connect.

        Args:
            timeout: seconds; None: the attempt ends by itself after the `timeout` of the options.

        Raises:
            ConnectError: the attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). No
                other one is made: reconnecting is for connections that stood.
            TimeoutError: it took too long.
            MQTTError: the client is open already.
        """
        self._core.begin()
        opened = self._core.opened
        assert opened is not None
        self._task = self._loop.create_task(self._run(), name=f"mqttws {self.client_id}")
        try:
            seconds = self._options.timeout + 1.0 if timeout is None else timeout
            await self._wait(asyncio.shield(opened), seconds, "there was no connection")
        except BaseException:
            opened.cancel()
            await self.close(timeout=1.0)
            raise
        return self

    async def close(self, timeout: float | None = None) -> None:
        """Send what may be sent, DISCONNECT, and close. What is not complete by then fails. May be called twice.

        Args:
            timeout: seconds to wait for an orderly end; None: 5. The connection is cut then.
        """
        task, seconds = self._task, CLOSE_TIMEOUT if timeout is None else timeout
        if task is None:
            self._core.give_up(None)
            self._tell()
            return
        self._core.stop(seconds)
        self._hurry()
        if task is asyncio.current_task():
            return  # the URL is being asked for: that is the caller
        try:
            await asyncio.wait({task}, timeout=seconds + 1.0)
        finally:
            if not task.done():
                task.cancel()

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
            MQTTError: the client was closed, or gave up, or is not open.
        """
        message = Message(topic, payload, qos, retain)
        seconds = self._options.timeout if timeout is None else timeout
        token, withdrawn = 0, False
        try:
            async with asyncio.timeout(seconds):
                token, future = await self._submit(message)
                if not qos:
                    self._flush()  # rather than wait for the end of this turn
                try:
                    await future
                finally:
                    withdrawn = future.cancelled() and self._core.withdraw(token)
                    if withdrawn:
                        self._notify()  # there is room
        except TimeoutError:
            fate = "was not sent and will not be" if withdrawn or not token else "was sent, and may still be delivered"
            raise TimeoutError(f"the message to {topic!r} was not delivered within {seconds:g} s; it {fate}") from None

    def publish_nowait(
        self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False
    ) -> asyncio.Future[None]:
        """Publish a message when its turn comes; also before `open` and while disconnected.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            QueueFull: too many messages wait already; nothing has changed.
            StoreError: the message cannot be stored; nothing has changed.
        """
        if qos or type(qos) is not int:
            future = self._core.publish_safe(Message(topic, payload, qos, retain))
        else:
            packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
            future = self._core.publish_packet(packet)
        if not self._flushing:
            self._flush_soon()
        if self._core.link is None and self._core.calls:  # a message was dropped for this one
            self._core.calls.run()
        return future

    def withdraw(self, future: asyncio.Future[None] | Receipt) -> bool:
        """Take back a message that has not been sent yet; its future is then done by nobody.

        Args:
            future: as `publish_nowait` gave it.

        Returns:
            Whether the message will not be sent. One that has been sent may still be delivered.
        """
        withdrawn = self._core.withdraw_future(future)
        self._notify()  # there is room
        return withdrawn

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
        self._core.check_waiting()
        return await self._wait(
            self.subscribe_nowait(topic_filters, qos), timeout, "there was no answer to the SUBSCRIBE"
        )

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
        self._core.check_waiting()
        await self._wait(self.unsubscribe_nowait(topic_filters), timeout, "there was no answer to the UNSUBSCRIBE")

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> asyncio.Future[None]:
        """Unsubscribe when there is a connection. Returns a future that is done when `unsubscribe` would return."""
        future = self._core.unsubscribe(topic_filters)
        self._flush_soon()
        return future

    def messages(self, timeout: float | None = None) -> Messages:
        """Iterate over the messages that come in. A message is acknowledged when the iteration moves on.

        Args:
            timeout: seconds of silence after which the iteration ends; None: it goes on as long as the client.

        Raises:
            MQTTError: the client gave up. After `close` the iteration ends.
        """
        self._core.check_iteration()
        return Messages(self, timeout)

    def __aiter__(self) -> Messages:
        return self.messages()

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message of QoS 1 or 2, where `manual_ack` is set. A second time, or too late: no effect."""
        self._core.acknowledge(message)
        if message.qos:
            self._flush_soon()

    def reconnect_now(self) -> None:
        """End the connection, DISCONNECT included, and make a new one at once, with a fresh URL."""
        self._core.drop(time.monotonic())
        self._hurry()

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
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            if not future.cancelled():
                raise  # it is the outcome
            raise TimeoutError(f"{failure} within {seconds:g} s") from None

    async def _submit(self, message: Message) -> tuple[int, asyncio.Future[Any]]:
        """Queue a message, waiting for room."""
        self._core.check_waiting()
        while True:
            try:
                submitted = self._core.publish(message)
                self._flush_soon()
                return submitted
            except QueueFull:
                if self._options.overflow == "raise":
                    raise
                await self._change()

    async def _next_message(self, timeout: float | None) -> Publish | None:
        """Wait for a message. None: the time is up, or the client was closed."""
        core = self._core
        deadline = None if timeout is None else self._loop.time() + timeout
        while not core.inbound:
            if core.over:
                return None
            try:
                async with asyncio.timeout_at(deadline):
                    await self._change()
            except TimeoutError:
                return None
        if not core.reading:
            self._flush_soon()
        return core.inbound.popleft()

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
            self._core.disconnect(time.monotonic())
            self._pump.move()

    def _hurry(self) -> None:
        """Have the task look at once what has changed."""
        self._flush_soon()
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(self._loop.time())

    def _soon(self, call: Callable[[], None]) -> None:
        """Call in the loop, from wherever the garbage collector happens to run."""
        loop = self._running_loop
        if loop is None or loop.is_closed():
            return
        try:
            here = asyncio.get_running_loop() is loop
        except RuntimeError:
            here = False
        if here:
            call()
        else:
            loop.call_soon_threadsafe(call)

    # The life of connections.

    async def _run(self) -> None:
        """Connect, and connect again, until the end."""
        core = self._core
        due: float | None = time.monotonic()
        failure: Exception | None = None
        try:
            while due is not None:
                await self._sleep_until(due)
                error: Exception | None = None
                if not core.stopping:
                    try:
                        await self._serve()
                        error = core.error
                    except Exception as reason:  # of the attempt; `lost` decides what follows from it
                        error = reason
                due = core.lost(error, core.recovers(error), time.monotonic())
                self._tell()
        except asyncio.CancelledError:
            pass  # by `close`, or by the end of the loop
        except Exception as error:  # a defect of ours: nobody must wait for ever because of it
            logger.exception("the task of %r failed", self.client_id)
            failure = error
        finally:
            self._task = None
            core.give_up(failure)
            self._tell()

    async def _sleep_until(self, due: float) -> None:
        """Wait for the next attempt, unless something comes in between."""
        delay = due - time.monotonic()
        if delay <= 0 or self._core.called_off:
            return
        try:
            async with asyncio.timeout(delay) as self._patience:
                await self._loop.create_future()
        except TimeoutError:
            pass
        finally:
            self._patience = None

    async def _serve(self) -> None:
        """Make one Network Connection and wait for its end."""
        self._core.begin_attempt()
        self._tell()
        pump = await self._dial()
        if pump is not None:
            try:
                await pump.ended
            finally:
                self._pump = None
                pump.end()

    async def _dial(self) -> Pump | None:
        """Ask for the URL, and make the TCP connection. Returns None where that was called off."""
        attempt = pump = None
        try:
            async with asyncio.timeout(self._options.timeout) as self._patience:
                url = self._url() if callable(self._url) else self._url
                if inspect.isawaitable(url):
                    url = await url
                attempt = self._core.make_attempt(url, time.monotonic())
                made = pump = Pump(attempt.link, self._core, partial(self._establish, attempt), self._advance)
                await self._connecting(attempt, made)
            return pump
        except OSError as error:
            if pump is not None:
                pump.end()
            if self._core.called_off:
                return None
            if attempt is not None:
                raise attempt.failed(error) from None
            if self._patience is not None and self._patience.expired():
                raise ConnectError(f"there was no URL within {self._options.timeout:g} s") from None
            raise
        finally:
            self._patience = None

    def _connecting(self, attempt: Attempt, pump: Pump) -> Coroutine[Any, Any, object]:
        """Begin to make a TCP connection: to a name, to several of its addresses side by side."""
        connect = partial(self._loop.create_connection, lambda: pump, attempt.host, attempt.port)
        if is_address(attempt.host):  # no race; and asyncio forgets the winner of one that is cancelled as it ends
            return connect()
        try:
            return connect(happy_eyeballs_delay=ATTEMPT_DELAY)
        except TypeError:  # uvloop has no such option
            return connect()

    def _establish(self, attempt: Attempt, pump: Pump) -> None:
        self._core.establish(attempt)
        self._pump = pump

    def _advance(self, now: float) -> None:
        """Act on what has happened, and tell it."""
        self._core.advance(now)
        self._tell()

    def _tell(self) -> None:
        """Resolve futures, run callbacks, and wake who waits."""
        core = self._core
        if core.calls:
            core.calls.run()
        if self._waiters:
            self._notify()
        if core.deliverable and not self._delivering:
            self._delivering = True
            self._loop.call_soon(self._deliver)

    def _deliver(self) -> None:
        """Run `on_message` for some of the messages that wait."""
        self._delivering = False
        self._core.deliver(self._core.acknowledge)
        self._flush_soon()  # what is acknowledged; and perhaps there is room to read on
        self._tell()


def _settle(futures: list[asyncio.Future[Any]], outcome: object) -> None:
    """Give futures their outcome; one that was cancelled stays so."""
    for future in futures:
        if future.done():
            continue
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)


def connect(url: Url, **options: Any) -> Client:
    """Make a client that connects when it is awaited, or as its `async with` block is entered.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt, at once or
            when awaited.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one.
    """
    return Client(url, **options)
