"""The blocking client: the methods that the threads of a program call.

A method takes the lock, changes the core, wakes the network thread, and, if it blocks, waits for a future. In a
callback, which runs in the network thread, it runs the network loop itself instead of waiting. In a signal handler or a
finalizer that has interrupted another method, the call is posted to the network thread. See `network`.
"""

from __future__ import annotations

import atexit
import os
import time
from _weakrefset import WeakSet  # all of `weakref` would delay the first message
from collections.abc import Callable, Sequence
from types import TracebackType

from mqttws.client.attempt import check_url
from mqttws.client.callbacks import check_callback
from mqttws.client.core import Core
from mqttws.client.options import CLOSE_TIMEOUT, Options, check_timeout
from mqttws.client.state import State
from mqttws.client.timings import Timings
from mqttws.codec.publishing import AT_MOST_ONCE, Message, Publish, as_payload, encode_publish
from mqttws.errors import MQTTError, QueueFull, TimedOut, WouldDeadlock
from mqttws.hints import TYPE_CHECKING, Any, NoReturn, Self, Unpack, overload
from mqttws.protocol.session import Session
from mqttws.sync.future import LightFuture
from mqttws.sync.network import Network, Url
from mqttws.sync.owner import slice_until
from mqttws.sync.publishing import Publisher

if TYPE_CHECKING:
    from concurrent.futures import Future  # which imports `logging`

    from mqttws.client.option_types import ClientOptions, TopicFilters
    from mqttws.client.waiting import Waiting
    from mqttws.protocol.ages import Age
    from mqttws.sync.iteration import Messages

_networks: WeakSet[Network] = WeakSet()


class Client(Publisher):
    """An MQTT client, which reconnects as long as it is open. Thread-safe. As a context manager it opens and closes.

    Args:
        url: The URL of the server, with the scheme `ws`, `wss`, `mqtt` or `mqtts`; a sequence of such URLs, all of
            which an attempt tries; or a callable that returns either and is called once for each attempt.
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
                check_callback(function, name, awaited=False)
        super().__init__(values, Network(values, url))
        _networks.add(self._network)
        if self._options.has_profile:  # imported only if needed
            from mqttws.client.guarding import put_guard

            put_guard(self, self._options, lambda: list(self._core.session.subscriptions), self._network.log)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Client cannot be pickled or copied; make one in each process")

    # The public methods.

    @property
    def _core(self) -> Core[LightFuture]:
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
    def in_network_thread(self) -> bool:
        """Whether the caller runs in the client's network thread: in a callback, or in a handler of its log records."""
        return self._network.is_current

    @property
    def waiting(self) -> Waiting:
        """The queue of messages that are not sent yet."""
        network = self._network
        if network.owned():
            return network.core.waiting(time.monotonic())
        with network.lock:
            return network.core.waiting(time.monotonic())

    def open(self, timeout: float | None = None, *, wait: bool = True) -> Self:
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
        before = self._core.opened
        try:
            self._network.start(retries=self._options.retry_first or not wait)
            opened = self._core.opened
            assert opened is not None
            if wait:
                self._wait_for_connection(opened, timeout)
        except BaseException:
            # Otherwise the client was open before this call, or another thread has opened it meanwhile: it stays open.
            if self._core.opened is not before and self._network.is_starter:
                self.close(timeout=0.0)
                with self._network.lock:
                    self._core.unopened()
            raise
        return self

    def close(self, timeout: float | None = None, *, send_will: bool = False) -> None:
        """Send waiting messages, wait for acknowledgements, send DISCONNECT and close. A second call has no effect.

        Calls whose messages are not sent (QoS 0) or not acknowledged in time fail. With `clean_session=False` sent
        messages stay in the session for the next `open`; with a store all QoS 1 and 2 messages do. In a callback, and
        in a signal handler that has interrupted a call of this client, this returns immediately and the client closes
        afterwards.

        Args:
            timeout: Seconds to wait before the connection is closed in any case; None: 5.
            send_will: Whether to close the connection without DISCONNECT, so that the server publishes the will.

        Spec: §3.14, [MQTT-3.1.2-8], [MQTT-3.14.4-1]
        """
        check_timeout(timeout)
        seconds = CLOSE_TIMEOUT if timeout is None else timeout
        self._network.stop(seconds, send_will)
        self._network.join(seconds + 1.0)

    def flush(self, timeout: float | None = None) -> None:
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
        self._wait(flushing, timeout, "not all that was published was acknowledged")

    def publish(
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

        Args:
            topic: A Topic Name: 1 to 65,535 bytes of UTF-8, without wildcards.
            payload: Bytes, or a str, which is encoded as UTF-8; at most 256 MiB with the topic.
            qos: 0: wait until the message is passed to the operating system; 1 or 2: until it is completely
                acknowledged.
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
            WouldDeadlock: The call is in a callback or a signal handler, where its wait could not end.
            MQTTError: The client was closed, has given up, or is not open.

        Spec: §3.3, §4.3

        Examples:
            >>> from mqttws import connect
            >>> from mqttws.broker import Broker
            >>> with Broker() as broker, connect(broker.url) as client:
            ...     client.publish("greenhouse/temperature", "21.5", qos=1, retain=True)
        """
        if timeout is not None:
            check_timeout(timeout)
        age = self._age(expire_after) if self._has_ages or expire_after is not None else None
        self._network.check_not_owned()
        if qos is AT_MOST_ONCE and self._send_at_once(topic, payload, retain):
            return
        message = Message(topic, payload, qos, retain)
        seconds = self._options.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        token, future = self._submit(message, age, deadline)
        try:
            self._wait(future, deadline - time.monotonic(), "", qos > 0)
        except (TimeoutError, WouldDeadlock) as error:
            fate = "was not sent and will not be" if self._withdraw(token) else "was sent, and may still be delivered"
            failure = f"the message to {topic!r} was not delivered"
            if isinstance(error, WouldDeadlock):
                raise WouldDeadlock(f"{failure}: {error}; it {fate}") from None
            raise TimedOut(f"{self._core.late(failure, seconds)}; it {fate}") from None
        finally:
            del future  # the traceback of its exception refers to this frame: a cycle

    def withdraw(self, future: Future[None]) -> bool:
        """Withdraw a message that has not been sent yet. Its future never completes.

        Args:
            future: The future that `publish_nowait` returned.

        Returns:
            Whether the message was withdrawn. A message that has been sent may still be delivered.
        """
        network = self._network
        if network.owned():
            return False
        with network.lock:
            network.take_posted()
            withdrawn = network.core.pending.withdraw_future(future)
            network.notify()  # wake a thread that waits for space in the queue
        return withdrawn

    @overload
    def subscribe(self, topic_filters: str, qos: int = 0, *, timeout: float | None = None) -> int: ...  # type: ignore[overload-overlap]

    @overload
    def subscribe(
        self, topic_filters: Sequence[str | tuple[str, int]], qos: int = 0, *, timeout: float | None = None
    ) -> tuple[int, ...]: ...

    def subscribe(self, topic_filters: TopicFilters, qos: int = 0, *, timeout: float | None = None) -> Any:
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
            >>> from mqttws import connect
            >>> from mqttws.broker import Broker
            >>> with Broker() as broker, connect(broker.url) as client:
            ...     client.subscribe("greenhouse/+", qos=1)
            ...     client.subscribe([("barn/#", 2), "gate"])
            1
            (2, 0)
        """
        self._check_request(timeout)
        return self._wait_for_answer(
            self.subscribe_nowait(topic_filters, qos), timeout, "there was no answer to the SUBSCRIBE"
        )

    @overload
    def subscribe_nowait(self, topic_filters: str, qos: int = 0) -> Future[int]: ...  # type: ignore[overload-overlap]

    @overload
    def subscribe_nowait(
        self, topic_filters: Sequence[str | tuple[str, int]], qos: int = 0
    ) -> Future[tuple[int, ...]]: ...

    def subscribe_nowait(self, topic_filters: TopicFilters, qos: int = 0) -> Future[Any]:
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

    def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
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
        self._check_request(timeout)
        self._wait_for_answer(self.unsubscribe_nowait(topic_filters), timeout, "there was no answer to the UNSUBSCRIBE")

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> Future[None]:
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
            An iterator of `Publish`.

        Raises:
            MQTTError: The option `on_message` is set, so messages go there. While iterating: the client gave up.

        Examples:
            >>> from mqttws import connect
            >>> from mqttws.broker import Broker
            >>> with Broker() as broker, connect(broker.url) as client:
            ...     client.subscribe("greenhouse/+", qos=1)
            ...     client.publish("greenhouse/temperature", "21.5", qos=1)
            ...     for message in client.messages():
            ...         print(message.topic, message.payload)
            ...         break
            1
            greenhouse/temperature b'21.5'
        """
        check_timeout(timeout)
        self._core.check_iteration()
        from mqttws.sync.iteration import Messages

        return Messages(self._network, timeout)

    def on(self, topic_filter: str, callback: Callable[[Publish], object]) -> None:
        """Call a function with each message whose topic matches a Topic Filter.

        A message goes to every matching callback, once to each, in the order in which they were added. A message
        without a matching callback goes to `on_message` or to an iteration. It is acknowledged when all callbacks have
        returned. This does not subscribe: see `subscribe`.

        Args:
            topic_filter: A Topic Filter; of a shared subscription, `$share/<group>/<filter>`, only the filter is
                compared.
            callback: A function of a message. It is called in the network thread, as `on_message` is.

        Raises:
            LocalProtocolError: The Topic Filter is not valid.
            TypeError: The callback is not callable, or is a coroutine function or a generator function.
        """
        check_callback(callback, awaited=False)
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

    def __enter__(self) -> Self:
        return self if self._core.running and not self._core.stopping else self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mqttws.Client {self.client_id!r} {self.state.name}>"

    # Waiting.

    def _wait(
        self, future: LightFuture | Future[Any], timeout: float | None, failure: str, is_answered: bool = True
    ) -> Any:
        """Wait for a future; in a callback, by running the network loop.

        Args:
            future: The future of the call.
            timeout: Seconds; None: the `timeout` of the options.
            failure: What to say has not happened if the time runs out.
            is_answered: Whether the server's answer settles the future. Then reading must not have stopped.
        """
        network = self._network
        network.check_not_owned()
        seconds = self._options.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        if network.is_current:
            network.take_turns(future.done, deadline)
            deadline = 0.0
        try:
            while True:
                if is_answered and not network.core.reading and not future.done():
                    network.check_progress()
                try:
                    return future.result(slice_until(deadline))
                except TimeoutError:
                    if future.done():
                        return future.result()
                    if time.monotonic() >= deadline:
                        raise TimedOut(self._core.late(failure, seconds)) from None
                except Exception:
                    if future.cancelled():
                        raise MQTTError("the call was cancelled") from None
                    raise
        finally:
            del future  # the traceback of its exception refers to this frame: a cycle

    def _check_request(self, timeout: float | None) -> None:
        """Check that this thread may wait for the answer to a request, before the request is queued."""
        self._core.check_waiting()
        check_timeout(timeout)
        self._network.check_not_owned()

    def _wait_for_connection(self, opened: Future[Any], timeout: float | None) -> None:
        """Wait for the first attempt. Without a timeout, as long as it waits for its turn and then may take."""
        seconds = left = self._options.timeout + 1.0 if timeout is None else timeout
        while True:
            try:
                self._wait(opened, left, "there was no connection")
                return
            except TimedOut:
                left = min(seconds, self._core.overdue_at - time.monotonic())
                if timeout is not None or left <= 0:
                    raise TimedOut(self._core.late("there was no connection", seconds)) from None

    def _wait_for_answer(self, future: Future[Any], timeout: float | None, failure: str) -> Any:
        """Wait as `_wait` does for the answer to a request. If the wait fails, withdraw what was not sent."""
        try:
            return self._wait(future, timeout, failure)
        except (TimedOut, WouldDeadlock) as error:
            with self._network.lock:
                withdrawn = self._core.pending.withdraw_request(future)
                self._network.wake()  # a `close` may have waited for it
            if not withdrawn:
                raise
            raise type(error)(f"{error}; it was not sent and will not be") from None
        finally:
            del future  # the traceback of its exception refers to this frame: a cycle

    def _send_at_once(self, topic: str, payload: bytes | str, retain: bool) -> bool:
        packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
        network = self._network
        with network.lock:
            if network.posted:
                network.take_posted()
            return network.send_at_once(packet)

    def _submit(self, message: Message, age: Age | None, deadline: float) -> tuple[int, LightFuture]:
        """Queue a message, once there is space in the queue. Return its token and its future."""
        network, core = self._network, self._core
        core.check_waiting()
        while True:
            with network.lock:
                if network.posted:
                    network.take_posted()
                # While other threads wait for theirs, the network thread sends the messages of several together.
                if age is None and not network.woken and not core.session.sender.in_flight:
                    sent = network.publish_at_once(message)
                    if sent is not None:
                        return sent
                try:
                    submitted = core.pending.publish(message, age)
                    network.wake()
                    return submitted
                except QueueFull as error:
                    if self._options.overflow == "raise":
                        raise
                    if time.monotonic() >= deadline:
                        stalled = core.stalled
                        raise TimedOut(
                            f"the message to {message.topic!r} will not be sent: {error}{stalled and '; '}{stalled}"
                        ) from None
                    # Registered under the lock: no message can leave the queue between the check and the wait.
                    waiting = core.session.sender.waiting
                    waiter = network.watch()
                except BaseException:
                    network.wake_after_failure()
                    raise
            if not network.is_current:
                network.check_progress()
                waiter.wait(slice_until(deadline))
                continue
            network.take_turns(lambda waiting=waiting: core.session.sender.waiting < waiting, deadline)  # type: ignore[misc]

    def _withdraw(self, token: int) -> bool:
        with self._network.lock:
            withdrawn = self._core.pending.withdraw(token)
            self._network.notify()  # there is space in the queue
            self._network.wake()  # a `close` may have waited for it
        return withdrawn


def connect(url: Url, **options: Unpack[ClientOptions]) -> Client:
    """Connect to a server.

    Args:
        url: The URL of the server, with the scheme `ws`, `wss`, `mqtt` or `mqtts`; a sequence of URLs; or a callable:
            see `Client`.
        **options: See `Options`.

    Returns:
        The connected client, which is a context manager.

    Raises:
        ConnectError: The attempt failed; see `Client.open`.
        TimedOut: It took too long.
        ValueError: The URL is not valid, or an option is out of its range.

    Examples:
        >>> import mqttws
        >>> from mqttws.broker import Broker
        >>> with Broker() as broker, mqttws.connect(broker.url, client_id="thermometer") as client:
        ...     print(client.client_id, client.state.name)
        thermometer connected
    """
    return Client(url, **options).open()


def _close_all() -> None:
    """Send DISCONNECT on open connections when the interpreter exits."""
    networks = [network for network in list(_networks) if network.core.running]
    for network in networks:
        network.stop(0.5)
    end = time.monotonic() + 1.5
    for network in networks:
        network.join(max(0.0, end - time.monotonic()))


def _forget_all() -> None:
    """Forget all connections in a forked child, because they belong to the parent."""
    for network in list(_networks):
        network.forget_parent()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
