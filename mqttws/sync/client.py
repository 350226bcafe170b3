"""The blocking client: the verbs of a user's threads.

A verb takes the lock, changes the core, wakes the network thread, and, if it is to wait, waits for a future. Inside a
callback, which runs in the network thread itself, it takes that thread's turns instead: see `network`.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self

from mqttws.client.core import Core
from mqttws.client.options import CLOSE_TIMEOUT, Options, State, TopicFilters
from mqttws.client.url import parse_url
from mqttws.codec.publishing import Message, Publish, as_payload, encode_publish
from mqttws.errors import MQTTError, QueueFull, WouldDeadlock
from mqttws.protocol.session import Session
from mqttws.sync.future import LightFuture, Receipt
from mqttws.sync.network import BURST, Network

#: Seconds that a thread waits before it looks whether a signal has arrived.
WAIT_SLICE = 0.5

_networks: weakref.WeakSet[Network] = weakref.WeakSet()


class Client:
    """A client of one server, reconnecting as long as it is open. May be used by several threads at once.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one, or an option is out of its range.
        LocalProtocolError: an option breaks a rule of the standard.
        TypeError: there is no such option.
    """

    def __init__(self, url: str | Callable[[], str], **options: Any) -> None:
        if not callable(url):
            parse_url(url)
        self._options = Options(**options)
        self._core: Core[LightFuture] = Core(self._options, LightFuture, Receipt.make, LightFuture.settle_all)
        self._network = Network(self._core, url)

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

    def open(self, timeout: float | None = None) -> Self:
        """Connect.

        Args:
            timeout: seconds; None: the attempt ends by itself after the `timeout` of the options.

        Raises:
            ConnectError: the attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). No
                other one is made: reconnecting is for connections that stood.
            TimeoutError: it took too long.
            MQTTError: the client is open already.
        """
        self._network.start()
        _networks.add(self._network)
        opened = self._core.opened
        assert opened is not None
        try:
            # An attempt that is bounded by the options ends by itself, and tells more than that it took too long.
            self._wait(opened, self._options.timeout + 1.0 if timeout is None else timeout, "there was no connection")
        except BaseException:
            self.close(timeout=1.0)
            raise
        return self

    def close(self, timeout: float | None = None) -> None:
        """Send what may be sent, DISCONNECT, and close. What is not complete by then fails. May be called twice.

        Inside a callback it returns at once, and the client closes when the callback has returned.

        Args:
            timeout: seconds to wait for an orderly end; None: 5. The connection is cut then.
        """
        self._network.stop(CLOSE_TIMEOUT if timeout is None else timeout)

    def publish(
        self,
        topic: str,
        payload: bytes | str = b"",
        qos: int = 0,
        retain: bool = False,
        *,
        timeout: float | None = None,
    ) -> None:
        """Publish a message, and wait until it is delivered to the server as its QoS promises.

        Args:
            topic: a Topic Name.
            payload: bytes, or a str that is sent as UTF-8.
            qos: 0: handed to the network; 1 or 2: acknowledged in full.
            retain: whether the server keeps it for later subscribers.
            timeout: seconds; None: the `timeout` of the options.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            TimeoutError: it took too long. A message that had not been sent yet never will be; one that had been may
                still be delivered.
            MQTTError: the client was closed, or gave up, or is not open.
        """
        message = Message(topic, payload, qos, retain)
        if qos == 0 and self._send_at_once(message):
            return
        seconds = self._options.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        token, future = self._submit(message, deadline)
        try:
            self._wait(future, deadline - time.monotonic(), "")
        except TimeoutError:
            fate = "was not sent and will not be" if self._withdraw(token) else "was sent, and may still be delivered"
            raise TimeoutError(f"the message to {topic!r} was not delivered within {seconds:g} s; it {fate}") from None

    def publish_nowait(
        self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False
    ) -> Future[None]:
        """Publish a message when its turn comes; also before `open` and while disconnected.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            QueueFull: too many messages wait already; nothing has changed.
            StoreError: the message cannot be stored; nothing has changed.
        """
        network = self._network
        if qos or type(qos) is not int:
            message = Message(topic, payload, qos, retain)
            with network.lock:
                future: LightFuture = self._core.publish_safe(message)
                if not network.woken:  # asked here, since `wake` takes the lock to ask
                    network.wake()
        else:
            packet = encode_publish(topic, payload if type(payload) is bytes else as_payload(payload), 0, retain)
            network.lock.acquire()  # half of what `with` costs
            try:
                if network.woken:
                    return self._core.publish_packet(packet)
                if network.send_at_once(packet, BURST):
                    future = Receipt.make(self._core.handover, 0)
                    return future
                future = self._core.publish_packet(packet)
                network.wake()
            finally:
                network.lock.release()
        if not self._core.running:  # no thread is there to tell a message that was dropped for this one
            self._core.calls.run()
        return future

    def withdraw(self, future: Future[None]) -> bool:
        """Take back a message that has not been sent yet; its future is then done by nobody.

        Args:
            future: as `publish_nowait` gave it.

        Returns:
            Whether the message will not be sent. One that has been sent may still be delivered.
        """
        with self._network.lock:
            withdrawn = self._core.withdraw_future(future)
            self._network.changed.notify_all()  # there is room
        return withdrawn

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
            TimeoutError: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._core.check_waiting()
        return self._wait(self.subscribe_nowait(topic_filters, qos), timeout, "there was no answer to the SUBSCRIBE")

    def subscribe_nowait(self, topic_filters: TopicFilters, qos: int = 0) -> Future[Any]:
        """Subscribe when there is a connection. Returns a future of what `subscribe` would return."""
        with self._network.lock:
            future = self._core.subscribe(topic_filters, qos)
            self._network.wake()
        return future

    def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
        """Unsubscribe from one Topic Filter or several, and wait for the server's answer.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed.
            TimeoutError: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._core.check_waiting()
        self._wait(self.unsubscribe_nowait(topic_filters), timeout, "there was no answer to the UNSUBSCRIBE")

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> Future[None]:
        """Unsubscribe when there is a connection. Returns a future that is done when `unsubscribe` would return."""
        with self._network.lock:
            future = self._core.unsubscribe(topic_filters)
            self._network.wake()
        return future

    def messages(self, timeout: float | None = None) -> Iterator[Publish]:
        """Iterate over the messages that come in. A message is acknowledged when the iteration moves on.

        Args:
            timeout: seconds of silence after which the iteration ends; None: it goes on as long as the client.

        Raises:
            MQTTError: the client gave up. After `close` the iteration ends.
        """
        self._core.check_iteration()
        while (message := self._next_message(timeout)) is not None:
            try:
                yield message
            finally:
                if message.qos and not self._options.manual_ack:
                    self.acknowledge(message)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message of QoS 1 or 2, where `manual_ack` is set. A second time, or too late: no effect."""
        if message.qos:
            with self._network.lock:
                self._core.acknowledge(message)
                self._network.wake()

    def reconnect_now(self) -> None:
        """End the connection, DISCONNECT included, and make a new one at once, with a fresh URL."""
        self._network.drop()

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
        seconds = self._options.timeout if timeout is None else timeout
        deadline = time.monotonic() + seconds
        if self._network.is_current:
            self._network.take_turns(future.done, deadline)
            deadline = 0.0
        while True:
            try:
                return future.result(_slice(deadline))
            except CancelledError:
                raise MQTTError("the call was cancelled") from None
            except TimeoutError:
                if future.done():
                    return future.result()
                if time.monotonic() >= deadline:
                    raise TimeoutError(f"{failure} within {seconds:g} s") from None

    def _send_at_once(self, message: Message) -> bool:
        packet = encode_publish(message.topic, message.payload, 0, message.retain)
        with self._network.lock:
            return self._network.send_at_once(packet)

    def _submit(self, message: Message, deadline: float) -> tuple[int, LightFuture]:
        """Queue a message, waiting for room."""
        network, core = self._network, self._core
        core.check_waiting()
        while True:
            with network.lock:
                try:
                    submitted = core.publish(message)
                    network.wake()
                    return submitted
                except QueueFull as error:
                    if self._options.overflow == "raise":
                        raise
                    if time.monotonic() >= deadline:
                        raise TimeoutError(f"the message to {message.topic!r} will not be sent: {error}") from None
                    if not network.is_current:
                        network.changed.wait(_slice(deadline))
                        continue
                waiting = core.session.sender.waiting
            network.take_turns(lambda waiting=waiting: core.session.sender.waiting < waiting, deadline)  # type: ignore[misc]

    def _withdraw(self, token: int) -> bool:
        with self._network.lock:
            withdrawn = self._core.withdraw(token)
            self._network.changed.notify_all()  # there is room
        return withdrawn

    def _next_message(self, timeout: float | None) -> Publish | None:
        """Wait for a message. None: the time is up, or the client was closed."""
        network, core = self._network, self._core
        try:
            message = core.inbound.popleft()  # what is there already takes no lock
        except IndexError:
            return self._await_message(timeout)
        if not core.reading and not network.woken:
            network.wake()
        return message

    def _await_message(self, timeout: float | None) -> Publish | None:
        network, core = self._network, self._core
        if network.is_current:
            raise WouldDeadlock("messages cannot be iterated over inside a callback; on_message takes them")
        deadline = None if timeout is None else time.monotonic() + timeout
        with network.lock:
            while not core.inbound:
                if core.over or (deadline is not None and time.monotonic() >= deadline):
                    return None
                network.changed.wait(_slice(deadline))
            if not core.reading:
                network.wake()
            return core.inbound.popleft()


def _slice(deadline: float | None) -> float:
    """Tell how long to wait before looking again.

    A signal that arrives at the very moment at which the main thread begins to wait for a lock does not end that wait:
    Python runs its handler, Ctrl-C's say, only when the wait is over.
    """
    return WAIT_SLICE if deadline is None else max(0.0, min(WAIT_SLICE, deadline - time.monotonic()))


def connect(url: str | Callable[[], str], **options: Any) -> Client:
    """Connect to a server.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt.
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
    for network in list(_networks):
        network.stop(0.5)


def _forget_all() -> None:
    """In a forked child the connections are the parent's."""
    for network in list(_networks):
        network.forget_parent()
    _networks.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
