"""The blocking client: the verbs of a user's threads.

A verb takes the lock, changes the core, wakes the network thread, and, if it is to wait, waits for a future. Inside a
callback, which runs in the network thread itself, it takes that thread's turns instead. In a signal handler or a
finaliser that has interrupted another verb it is posted to the network thread. See `network`.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self, Unpack, overload

from mqttws.client.callbacks import check_callback, is_coroutine_function
from mqttws.client.core import Core
from mqttws.client.endpoints import check_url
from mqttws.client.options import CLOSE_TIMEOUT, ClientOptions, Options, State, TopicFilters, Waiting
from mqttws.codec.publishing import Message, Publish, as_payload, encode_publish
from mqttws.errors import MQTTError, QueueFull, TimedOut, WouldDeadlock
from mqttws.protocol.ages import Age
from mqttws.protocol.session import Session
from mqttws.sync.future import LightFuture, Receipt
from mqttws.sync.iteration import Messages
from mqttws.sync.network import BURST, Network, Url
from mqttws.sync.owner import slice_until

_networks: weakref.WeakSet[Network] = weakref.WeakSet()


class Client:
    """A client of one server, reconnecting as long as it is open. May be used by several threads at once.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://; a list of such URLs, all of which an attempt tries; or a callable that
            returns either, and is asked once for each attempt.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one, or an option is out of its range.
        LocalProtocolError: an option breaks a rule of the standard.
        TypeError: there is no such option, or one is of the wrong kind.
        Unsupported: the `server` is known not to take the will.
    """

    def __init__(self, url: Url, **options: Unpack[ClientOptions]) -> None:
        check_url(url)
        self._options = Options(**options)
        for name in ("on_message", "on_state", "on_error"):
            if is_coroutine_function(getattr(self._options, name)):
                raise TypeError(f"{name} is a coroutine function, which only mqttws.aio.Client awaits")
        self._network = Network(self._options, url)
        self._has_ages = self._options.expire_after is not None or self._options.store is not None
        _networks.add(self._network)
        if self._options.has_profile:  # what it takes is loaded for those alone who ask for it
            from mqttws.client.guarding import put_guard

            put_guard(self, self._options, lambda: list(self._core.session.subscriptions), self._network.log)

    # The user's verbs.

    @property
    def _core(self) -> Core[LightFuture]:
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
        """What outlives a connection; to be looked at only."""
        return self._core.session

    @property
    def pending(self) -> int:
        """How many messages were published and are not sent (QoS 0), or not acknowledged in full (QoS 1, 2), yet."""
        sender = self._core.session.sender
        return sender.waiting + sender.in_flight

    @property
    def received(self) -> int:
        """How many messages have come so far, those that wait to be taken included."""
        return self._core.received

    @property
    def dropped(self) -> int:
        """How many messages were dropped because too many waited; see `Options.overflow`."""
        return self._core.pending.dropped

    @property
    def expired(self) -> int:
        """How many messages were dropped because they waited to be sent for too long; see `Options.expire_after`."""
        return self._core.pending.expired

    @property
    def waiting(self) -> Waiting:
        """What waits to be sent."""
        network = self._network
        if network.owned():
            return network.core.waiting(time.monotonic())
        with network.lock:
            return network.core.waiting(time.monotonic())

    def open(self, timeout: float | None = None, *, wait: bool = True) -> Self:
        """Connect.

        With the option `retry_first` this returns after the first attempt, whatever came of it: see `state`.

        Args:
            timeout: seconds; None: the attempt ends by itself after the `timeout` of the options.
            wait: False: return at once, and make attempts until one succeeds, as with `retry_first`.

        Raises:
            ConnectError: the attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). No
                other one is made: reconnecting is for connections that stood.
            TimedOut: it took too long.
            MQTTError: the client is open already.
        """
        self._network.start(retries=self._options.retry_first or not wait)
        opened = self._core.opened
        assert opened is not None
        if not wait:
            return self
        try:
            # An attempt that is bounded by the options ends by itself, and tells more than that it took too long.
            self._wait(opened, self._options.timeout + 1.0 if timeout is None else timeout, "there was no connection")
        except BaseException:
            self.close(timeout=0.0)
            with self._network.lock:
                self._core.unopened()
            raise
        return self

    def close(self, timeout: float | None = None, *, send_will: bool = False) -> None:
        """Send what waits, await its acknowledgements, send DISCONNECT and close. May be called twice.

        What is not acknowledged in time fails. With `clean_session=False` messages that were sent stay in the session
        for the next `open`; with a store all messages of QoS 1 and 2 stay. Inside a callback this returns at once,
        and the client closes when the callback has returned; so does it in a signal handler that has interrupted a
        call of this client.

        Args:
            timeout: seconds to wait; None: 5. The connection is ended then.
            send_will: whether to end the connection without DISCONNECT, so that the server publishes the will.
        """
        seconds = CLOSE_TIMEOUT if timeout is None else timeout
        self._network.stop(seconds, send_will)
        self._network.join(seconds + 1.0)

    def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was published before is sent (QoS 0), or acknowledged in full (QoS 1 and 2).

        Args:
            timeout: seconds; None: the `timeout` of the options.

        Raises:
            TimedOut: it took too long; what is left goes on.
            MQTTError: the client was closed, or gave up, or is not open.
        """
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
        """Publish a message, and wait until it is delivered to the server as its QoS promises.

        Args:
            topic: a Topic Name.
            payload: bytes, or a str that is sent as UTF-8.
            qos: 0: handed to the network; 1 or 2: acknowledged in full.
            retain: whether the server keeps it for later subscribers.
            timeout: seconds; None: the `timeout` of the options.
            expire_after: seconds, above 0, that it may wait to be sent; infinite for no bound; None: the
                `expire_after` of the options.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            MessageExpired: it waited for too long, and was not sent.
            TimedOut: it took too long. A message that had not been sent yet never will be; one that had been may
                still be delivered.
            MQTTError: the client was closed, or gave up, or is not open.
        """
        message = Message(topic, payload, qos, retain)
        age = self._age(expire_after) if self._has_ages or expire_after is not None else None
        self._network.check_not_owned()
        if qos == 0 and self._send_at_once(message):
            return
        seconds = self._options.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        token, future = self._submit(message, age, deadline)
        try:
            self._wait(future, deadline - time.monotonic(), "")
        except (TimeoutError, WouldDeadlock) as error:
            fate = "was not sent and will not be" if self._withdraw(token) else "was sent, and may still be delivered"
            failure = f"the message to {topic!r} was not delivered"
            if isinstance(error, WouldDeadlock):
                raise WouldDeadlock(f"{failure}: {error}; it {fate}") from None
            raise TimedOut(f"{self._core.late(failure, seconds)}; it {fate}") from None

    def publish_nowait(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        *,
        expire_after: float | None = None,
    ) -> Future[None]:
        """Publish a message when its turn comes; also before `open` and while disconnected.

        Args:
            topic: as for `publish`, and so are the others.
            payload: bytes, or a str that is sent as UTF-8.
            qos: 0, 1 or 2.
            retain: whether the server keeps it for later subscribers.
            expire_after: seconds that it may wait to be sent; None: the `expire_after` of the options.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            QueueFull: too many messages wait already; nothing has changed.
            StoreError: the message cannot be stored; nothing has changed.
        """
        network = self._network
        core = network.core
        pending = core.pending
        future: LightFuture
        if self._has_ages or expire_after is not None:
            message, age = Message(topic, payload, qos, retain), self._age(expire_after)
            if not core.running:  # no thread is there to give up what has waited for too long
                network.call(core.pass_time, time.monotonic())
            future = network.request(pending.publish_safe, message, age)
            if not core.running and not network.owned():
                core.callbacks.run()
            return future
        # What `request` does, without its calls.
        if qos or type(qos) is not int:
            message = Message(topic, payload, qos, retain)
            if network.owned():
                return network.request(pending.publish_safe, message)
            with network.lock:
                if network.posted:
                    network.take_posted()
                future = pending.publish_safe(message)
                if not network.woken:
                    network.wake()
        else:
            packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
            if network.owned():
                return network.request(pending.publish_packet, packet)
            with network.lock:
                if network.posted:
                    network.take_posted()
                if network.woken:
                    return pending.publish_packet(packet)
                if network.send_at_once(packet, BURST):
                    future = Receipt.make(pending.sent, 0)
                    return future
                future = pending.publish_packet(packet)
                network.wake()
        if not core.running:  # no thread is there to settle a message that was dropped for this one
            core.callbacks.run()
        return future

    def withdraw(self, future: Future[None]) -> bool:
        """Take back a message that has not been sent yet; its future is then done by nobody.

        Args:
            future: as `publish_nowait` gave it.

        Returns:
            Whether the message will not be sent. One that has been sent may still be delivered.
        """
        network = self._network
        if network.owned():
            return False
        with network.lock:
            network.take_posted()
            withdrawn = network.core.pending.withdraw_future(future)
            network.notify()  # another message may wait instead
        return withdrawn

    @overload
    def subscribe(self, topic_filters: str, qos: int = 0, *, timeout: float | None = None) -> int: ...  # type: ignore[overload-overlap]

    @overload
    def subscribe(
        self, topic_filters: Sequence[str | tuple[str, int]], qos: int = 0, *, timeout: float | None = None
    ) -> tuple[int, ...]: ...

    def subscribe(self, topic_filters: TopicFilters, qos: int = 0, *, timeout: float | None = None) -> Any:
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
            TimedOut: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._core.check_waiting()
        return self._wait(self.subscribe_nowait(topic_filters, qos), timeout, "there was no answer to the SUBSCRIBE")

    @overload
    def subscribe_nowait(self, topic_filters: str, qos: int = 0) -> Future[int]: ...  # type: ignore[overload-overlap]

    @overload
    def subscribe_nowait(
        self, topic_filters: Sequence[str | tuple[str, int]], qos: int = 0
    ) -> Future[tuple[int, ...]]: ...

    def subscribe_nowait(self, topic_filters: TopicFilters, qos: int = 0) -> Future[Any]:
        """Subscribe when there is a connection. Returns a future of what `subscribe` would return."""
        return self._network.request(self._core.pending.subscribe, topic_filters, qos)

    def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
        """Unsubscribe from one Topic Filter or several, and wait for the server's answer.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed.
            TimedOut: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._core.check_waiting()
        self._wait(self.unsubscribe_nowait(topic_filters), timeout, "there was no answer to the UNSUBSCRIBE")

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> Future[None]:
        """Unsubscribe when there is a connection. Returns a future that is done when `unsubscribe` would return."""
        return self._network.request(self._core.pending.unsubscribe, topic_filters)

    def messages(self, timeout: float | None = None) -> Messages:
        """Iterate over the messages that come in. A message is acknowledged when the iteration moves on.

        Args:
            timeout: seconds of silence after which the iteration ends; None: it goes on as long as the client.

        Raises:
            MQTTError: messages go to `on_message`. While iterating: the client gave up. After `close` it ends.
        """
        self._core.check_iteration()
        return Messages(self._network, timeout)

    def on(self, topic_filter: str, callback: Callable[[Publish], object]) -> None:
        """Call a function with each message whose topic matches a Topic Filter.

        A message goes to every callback that matches, once to each, in the order in which they were added; only one
        that no callback matches goes to `on_message`, or to an iteration. It is acknowledged when all have returned.
        This subscribes to nothing: see `subscribe`.

        Args:
            topic_filter: a Topic Filter; of a shared one, `$share/<group>/<filter>`, the last part is compared.
            callback: is called in the network thread, as `on_message` is.

        Raises:
            LocalProtocolError: the Topic Filter is ill-formed.
            TypeError: the callback is none, or a coroutine function.
        """
        if is_coroutine_function(callback):
            raise TypeError("the callback is a coroutine function, which only mqttws.aio.Client awaits")
        check_callback(callback)
        self._network.call(self._core.routes.add, topic_filter, callback)

    def off(self, topic_filter: str, callback: Callable[[Publish], object] | None = None) -> None:
        """Call a function no more that `on` has named. One that is not there has no effect.

        Args:
            topic_filter: as it was given to `on`.
            callback: the function; None: all of that Topic Filter.

        Raises:
            LocalProtocolError: the Topic Filter is ill-formed.
        """
        self._network.call(self._core.routes.remove, topic_filter, callback)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message of QoS 1 or 2, where `manual_ack` is set. A second time, or too late: no effect."""
        if message.qos:
            self._network.acknowledge(message)

    def give_back(self, messages: Sequence[Publish]) -> None:
        """Return messages that an iteration gave and that are not acknowledged, where `manual_ack` is set.

        An iteration gives them once more, in their order, before all others.
        """
        self._network.call(self._network.give_back, messages)

    def reconnect_now(self) -> None:
        """End the connection, DISCONNECT included, and make a new one at once, with a fresh URL."""
        self._network.call(self._network.drop)

    def __enter__(self) -> Self:
        return self if self._core.running else self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mqttws.Client {self.client_id!r} {self.state.name}>"

    # Waiting.

    def _wait(self, future: LightFuture | Future[Any], timeout: float | None, failure: str) -> Any:
        """Wait for a future; inside a callback by taking turns."""
        network = self._network
        network.check_not_owned()
        seconds = self._options.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        if network.is_current:
            network.take_turns(future.done, deadline)
            deadline = 0.0
        while True:
            if not network.core.reading and not future.done():
                network.check_progress()
            try:
                return future.result(slice_until(deadline))
            except CancelledError:
                raise MQTTError("the call was cancelled") from None
            except TimeoutError:
                if future.done():
                    return future.result()
                if time.monotonic() >= deadline:
                    raise TimedOut(self._core.late(failure, seconds)) from None

    def _send_at_once(self, message: Message) -> bool:
        packet = encode_publish(message.topic, message.payload, 0, message.retain)
        network = self._network
        with network.lock:
            if network.posted:
                network.take_posted()
            return network.send_at_once(packet)

    def _age(self, expire_after: float | None) -> Age | None:
        """Return the age of a message that is published now."""
        return self._options.age(expire_after, time.monotonic(), time.time())

    def _submit(self, message: Message, age: Age | None, deadline: float) -> tuple[int, LightFuture]:
        """Queue a message, waiting until fewer wait."""
        network, core = self._network, self._core
        core.check_waiting()
        while True:
            with network.lock:
                if network.posted:
                    network.take_posted()
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
                    waiting = core.session.sender.waiting
                    waiter = network.watch()  # under the lock, under which fewer come to wait
            if not network.is_current:
                network.check_progress()
                waiter.wait(slice_until(deadline))
                continue
            network.take_turns(lambda waiting=waiting: core.session.sender.waiting < waiting, deadline)  # type: ignore[misc]

    def _withdraw(self, token: int) -> bool:
        with self._network.lock:
            withdrawn = self._core.pending.withdraw(token)
            self._network.notify()  # another message may wait instead
        return withdrawn


def connect(url: Url, **options: Unpack[ClientOptions]) -> Client:
    """Connect to a server.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://; several of them; or a callable: see `Client`.
        **options: see `Options`.

    Returns:
        The connected client, which is a context manager.

    Raises:
        ConnectError: see `Client.open`.
        ValueError: the URL is not one.
    """
    return Client(url, **options).open()


def _close_all() -> None:
    """Send DISCONNECT for what is still open when the interpreter ends."""
    networks = [network for network in list(_networks) if network.core.running]
    for network in networks:
        network.stop(0.5)
    end = time.monotonic() + 1.5
    for network in networks:
        network.join(max(0.0, end - time.monotonic()))


def _forget_all() -> None:
    """In a forked child the connections are the parent's."""
    for network in list(_networks):
        network.forget_parent()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
