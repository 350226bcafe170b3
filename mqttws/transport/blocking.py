"""The blocking client: one thread that moves bytes, a lock, and futures.

Everything is done in turns (`_turn`): connect when it is time to, or write, wait, read; then call back. The thread
takes turn after turn. Whoever waits in another thread waits for a future; whoever waits inside a callback, which
runs in this very thread, takes the turns himself until his future is done. User code is never run under the lock.
"""

from __future__ import annotations

import atexit
import logging
import os
import selectors
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from types import TracebackType
from typing import Any, Self

from mqttws.codec.publishing import Message, Publish
from mqttws.errors import ConnectError, ConnectionClosed, MQTTError, QueueFull, WouldDeadlock
from mqttws.transport import tcp
from mqttws.transport.core import Core, Options, State, TopicFilters, connect_failed, guarded
from mqttws.transport.future import LightFuture
from mqttws.transport.url import parse_url

logger = logging.getLogger("mqttws")

#: Bytes asked of the socket at once; more costs more than it brings.
READ_SIZE = 64 * 1024
#: Seconds that callbacks may take before the network gets its turn.
CALLBACK_SLICE = 0.05

_clients: weakref.WeakSet[Client] = weakref.WeakSet()


class Client:
    """A client of one server, reconnecting as long as it is open. May be used by several threads at once.

    Args:
        url: ws://, wss://, mqtt:// or mqtts://, or a callable that gives a fresh one for each attempt.
        **options: see `Options`.

    Raises:
        ValueError: the URL is not one.
        LocalProtocolError: an option breaks a rule of the standard.
        TypeError: there is no such option.
    """

    def __init__(self, url: str | Callable[[], str], **options: Any) -> None:
        if not callable(url):
            parse_url(url)
        self._url = url
        self._options = Options(**options)
        self._core: Core[LightFuture] = Core(self._options, LightFuture, LightFuture.settle)
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # messages came, room was made, or the end
        self._thread: threading.Thread | None = None
        self._stop = False
        self._opened: Future[None] = Future()
        self._closed_at: float | None = None  # when to stop waiting for an orderly close
        self._next_attempt: float | None = None
        self._socket: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._selector: selectors.BaseSelector | None = None
        self._wake_in: socket.socket | None = None
        self._wake_out: socket.socket | None = None
        self._woken = False
        self._taken: Publish | None = None  # what an iteration has handed out last

    # The user's verbs.

    @property
    def client_id(self) -> str:
        """The client identifier."""
        return self._core.client_id

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._core.state

    def open(self, timeout: float | None = None) -> Self:
        """Connect.

        Args:
            timeout: seconds; None: the attempt ends by itself after the `timeout` of the options.

        Raises:
            ConnectError: the attempt failed (`HandshakeRejected`, `ConnectionRefused`, `CertificateError` ...). No
                other one is made: reconnecting is for connections that stood.
            TimeoutError: it took too long.
        """
        with self._lock:
            if self._thread is not None:
                raise MQTTError("the client is open already")
            self._stop = False
            self._closed_at = None
            self._opened = Future()
            self._next_attempt = 0.0
            self._wake_in, self._wake_out = socket.socketpair()
            self._wake_in.setblocking(False)
            self._wake_out.setblocking(False)
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._wake_in, selectors.EVENT_READ)
            self._thread = threading.Thread(target=self._run, name=f"mqttws {self.client_id}", daemon=True)
            self._thread.start()  # under the lock: whoever closes at this moment waits for a thread that runs
        _clients.add(self)
        try:
            self._wait(self._opened, self._options.timeout + 1.0 if timeout is None else timeout)
        except BaseException:
            self.close(timeout=1.0)
            raise
        return self

    def close(self, timeout: float | None = None) -> None:
        """Send what may be sent, DISCONNECT, and close. What is not complete by then fails. May be called twice.

        Args:
            timeout: seconds to wait for an orderly end; None: 5. The connection is cut then.
        """
        thread = self._thread
        if thread is None:
            return
        seconds = 5.0 if timeout is None else timeout
        with self._lock:
            self._stop = True
            if self._closed_at is None:
                self._closed_at = time.monotonic() + seconds
                if self._core.link is not None:
                    self._core.link.connection.disconnect(time.monotonic())
            self._wake()
            self._changed.notify_all()
        if thread is not threading.current_thread():
            thread.join(seconds + 1.0)
        _clients.discard(self)

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
            MQTTError: the client was closed, or gave up.
        """
        message = Message(topic, payload, qos, retain)
        deadline = time.monotonic() + (self._options.timeout if timeout is None else timeout)
        token, future = self._submit(message, deadline)
        try:
            self._wait(future, deadline - time.monotonic())
        except TimeoutError:
            with self._lock:
                withdrawn = self._core.withdraw(token)
            fate = "was not sent and will not be" if withdrawn else "was sent, and may still be delivered"
            raise TimeoutError(f"the message to {topic!r} was not delivered in time; it {fate}") from None

    def publish_nowait(
        self, topic: str, payload: bytes | str = b"", qos: int = 0, retain: bool = False
    ) -> Future[None]:
        """Publish a message when its turn comes; also before `open` and while disconnected.

        Returns:
            A future that is done when `publish` would return.

        Raises:
            LocalProtocolError: the topic or the QoS is ill-formed.
            QueueFull: too many messages wait already; nothing has changed.
        """
        message = Message(topic, payload, qos, retain)
        with self._lock:
            _, future = self._core.publish(message)
            self._wake()
        return future

    def withdraw(self, future: Future[None]) -> bool:
        """Take back a message that has not been sent yet; its future is then done by nobody.

        Args:
            future: as `publish_nowait` gave it.

        Returns:
            Whether the message will not be sent. One that has been sent may still be delivered.
        """
        with self._lock:
            return self._core.withdraw_future(future)

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
        return self._wait(self.subscribe_nowait(topic_filters, qos), timeout)

    def subscribe_nowait(self, topic_filters: TopicFilters, qos: int = 0) -> Future[Any]:
        """Subscribe when there is a connection. Returns a future of what `subscribe` would return."""
        with self._lock:
            future = self._core.subscribe(topic_filters, qos)
            self._wake()
        return future

    def unsubscribe(self, topic_filters: str | Sequence[str], *, timeout: float | None = None) -> None:
        """Unsubscribe from one Topic Filter or several, and wait for the server's answer.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed.
            TimeoutError: there was no answer in time.
            MQTTError: the client was closed, or gave up.
        """
        self._wait(self.unsubscribe_nowait(topic_filters), timeout)

    def unsubscribe_nowait(self, topic_filters: str | Sequence[str]) -> Future[None]:
        """Unsubscribe when there is a connection. Returns a future that is done when `unsubscribe` would return."""
        with self._lock:
            future = self._core.unsubscribe(topic_filters)
            self._wake()
        return future

    def messages(self, timeout: float | None = None) -> Iterator[Publish]:
        """Iterate over the messages that come in. A message is acknowledged when the iteration moves on.

        Args:
            timeout: seconds of silence after which the iteration ends; None: it goes on as long as the client.

        Raises:
            MQTTError: the client gave up. After `close` the iteration ends.
        """
        while (message := self._next_message(timeout)) is not None:
            try:
                yield message
            finally:
                if not self._options.manual_ack:
                    self.acknowledge(message)

    def acknowledge(self, message: Publish) -> None:
        """Acknowledge a message of QoS 1 or 2, where `manual_ack` is set. A second time, or too late: no effect."""
        if message.qos:
            with self._lock:
                self._core.acknowledge(message)
                self._wake()

    def reconnect_now(self) -> None:
        """Drop the connection and make a new one at once, with a fresh URL."""
        with self._lock:
            self._core.fresh()
            if self._core.link is not None:
                self._core.link.fail(ConnectionClosed("the client asked for a new connection"), time.monotonic())
            elif self._next_attempt is not None:
                self._next_attempt = 0.0
            self._wake()

    def __enter__(self) -> Self:
        return self if self._thread is not None else self.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<mqttws.Client {self.client_id!r} {self.state.name}>"

    # Waiting.

    def _in_network_thread(self) -> bool:
        return threading.current_thread() is self._thread

    def _wait(self, future: Future[Any], timeout: float | None) -> Any:
        """Wait for a future; inside a callback by taking turns."""
        seconds = self._options.timeout if timeout is None else timeout
        if self._in_network_thread():
            self._take_turns(future.done, time.monotonic() + seconds)
            seconds = 0.0
        try:
            return future.result(seconds)
        except CancelledError:
            raise MQTTError("the call was cancelled") from None

    def _take_turns(self, done: Callable[[], bool], deadline: float) -> None:
        """Move bytes inside a callback until something is done.

        Raises:
            WouldDeadlock: nothing more can be read before this very callback returns.
        """
        while not done() and not self._stop and time.monotonic() < deadline:
            self._turn(deadline, nested=True)
            if not done() and self._core.link is not None and not self._core.reading:
                raise WouldDeadlock(
                    f"{len(self._core.inbound)} messages wait for this callback to return, so nothing more is read; "
                    "use the _nowait form here, or raise max_inbound"
                )

    def _submit(self, message: Message, deadline: float) -> tuple[int, Future[Any]]:
        """Queue a message, waiting for room."""
        while True:
            with self._lock:
                try:
                    submitted = self._core.publish(message)
                    self._wake()
                    return submitted
                except QueueFull:
                    if time.monotonic() >= deadline or self._stop:
                        raise
                    if not self._in_network_thread():
                        self._changed.wait(deadline - time.monotonic())
                        continue
            room = self._core.session.sender.waiting
            self._take_turns(lambda room=room: self._core.session.sender.waiting < room, deadline)  # type: ignore[misc]

    def _next_message(self, timeout: float | None) -> Publish | None:
        """Wait for a message. None: the time is up, or the client was closed."""
        if self._in_network_thread():
            raise WouldDeadlock("messages cannot be iterated over inside a callback; on_message takes them")
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._lock:
            while not self._core.inbound:
                if self._thread is None or self._core.state.name == "disconnected":
                    if self._core.error is not None and not self._stop:
                        raise self._core.error
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    return None
                self._changed.wait(left)
            if not self._core.reading:
                self._wake()
            return self._core.take()

    def _wake(self) -> None:
        """Make the network thread look again. Under the lock."""
        if not self._woken and self._wake_out is not None and not self._in_network_thread():
            self._woken = True
            self._wake_out.send(b"\0")

    # The network thread.

    def _run(self) -> None:
        """Take turns until the end."""
        try:
            while self._next_attempt is not None or self._core.link is not None:
                self._turn(None)
        except BaseException as error:  # a defect of ours: nobody must wait for ever because of it
            logger.exception("the network thread of %r failed", self.client_id)
            failure = error if isinstance(error, Exception) else None
            with self._lock:
                self._core.give_up(failure)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        self._call_back()
        with self._lock:
            for each in (self._selector, self._socket, self._wake_in, self._wake_out):
                if each is not None:
                    each.close()
            self._selector = self._socket = self._wake_in = self._wake_out = None
            self._woken = False
            self._thread = None
            self._changed.notify_all()
        if not self._opened.done():
            self._opened.set_exception(self._core.error or ConnectionClosed("the client was closed"))

    def _turn(self, until: float | None, *, nested: bool = False) -> None:
        """Do what there is to do, waiting for it until some time at most."""
        if self._core.link is None:
            self._connect_when_due(until)
        else:
            self._move_bytes(until)
        self._call_back(nested=nested)

    def _connect_when_due(self, until: float | None) -> None:
        now = time.monotonic()
        if self._stop:
            self._give_up(None)
        elif self._next_attempt is not None and now < self._next_attempt:
            due = self._next_attempt if until is None else min(self._next_attempt, until)
            self._select(due - now)
        elif self._next_attempt is not None:
            self._attempt(now)

    def _attempt(self, now: float) -> None:
        """Try to connect; what comes after TCP is a matter of the turns that follow."""
        self._next_attempt = None
        with self._lock:
            self._core.error = None
        try:
            url = self._url() if callable(self._url) else self._url
            with self._lock:
                endpoint, proxy = self._core.prepare(url)
            self._call_back()
            assert self._wake_in is not None
            host, port = (endpoint.host, endpoint.port) if proxy is None else (proxy.host, proxy.port)
            deadline = now + self._options.timeout
            try:
                connected = tcp.connect(host, port, deadline, time.monotonic, self._wake_in, self._called_off)
            except InterruptedError:
                raise ConnectError("the client was closed while it was connecting") from None
            except OSError as error:
                raise connect_failed(error, endpoint, proxy) from None
            with self._lock:
                self._socket = connected
                self._core.open_link(endpoint, proxy, time.monotonic(), deadline)
            assert self._selector is not None
            self._selector.register(connected, selectors.EVENT_READ)
        except Exception as error:
            self._lost(error)

    def _called_off(self) -> bool:
        """Tell whether an attempt is over: what else wakes the thread, a message to be sent say, can wait."""
        self._drain_wake()
        return self._stop

    def _move_bytes(self, until: float | None) -> None:
        """Write, wait, read."""
        now = time.monotonic()
        with self._lock:
            broken = self._write(now)
            self._core.advance(now)  # what was handed to the network is delivered, as far as QoS 0 goes
            finished = self._core.link is not None and self._core.link.finished and not self._unsent
        if broken is None and not finished:
            broken = self._read(until, now)
        now = time.monotonic()
        with self._lock:
            link = self._core.link
            assert link is not None
            if broken is not None:
                link.fail(ConnectionClosed(f"the connection broke: {broken.strerror or broken}"), now)
            deadline = link.connection.next_deadline()
            if deadline is not None and now >= deadline:
                link.connection.handle_timeout(now)
            waiting = self._core.session.sender.waiting
            self._core.advance(now)
            if self._core.inbound or waiting:
                self._changed.notify_all()
            if self._core.state.name == "connected" and not self._opened.done():
                self._opened.set_result(None)
            over = broken is not None or (link.finished and not self._unsent and finished)
            cut = self._closed_at is not None and now >= self._closed_at
        if over or cut:
            self._lost(self._core.error)

    def _write(self, now: float) -> OSError | None:
        """Write all that the socket takes. Under the lock. Returns what broke it, if anything did."""
        assert self._core.link is not None
        assert self._socket is not None
        try:
            while True:
                if not self._unsent:
                    data = self._core.link.data_to_send(now)
                    if not data:
                        return None
                    self._unsent = memoryview(data)
                sent = self._socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            return None
        except OSError as error:
            return error

    def _read(self, until: float | None, now: float) -> OSError | None:
        """Wait for bytes, for a deadline, or to be woken; then read once. Returns what broke the socket, if so."""
        link, readable = self._core.link, False
        assert link is not None
        assert self._socket is not None
        deadlines = (until, link.connection.next_deadline(), self._closed_at)
        due = min((deadline for deadline in deadlines if deadline is not None), default=None)
        if self._core.has_calls or (self._core.inbound and self._options.on_message is not None):
            due = now  # callbacks wait for their turn
        events = selectors.EVENT_READ if self._core.reading else 0
        if self._unsent:
            events |= selectors.EVENT_WRITE
        readable = self._select(None if due is None else due - now, self._socket, events)
        if not readable:
            return None
        try:
            data = self._socket.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        now = time.monotonic()
        with self._lock:
            if data:
                link.receive_data(data, now)
            else:
                link.receive_eof(now)
        return None

    def _select(self, timeout: float | None, connection: socket.socket | None = None, events: int = 0) -> bool:
        """Wait. Returns whether the connection can be read."""
        selector = self._selector
        assert selector is not None
        if connection is not None:
            registered = connection in selector.get_map()
            if events and registered:
                if selector.get_key(connection).events != events:
                    selector.modify(connection, events)
            elif events:
                selector.register(connection, events)
            elif registered:
                selector.unregister(connection)
        readable = False
        for key, happened in selector.select(None if timeout is None else max(0.0, timeout)):
            if key.fileobj is self._wake_in:
                self._drain_wake()
            elif happened & selectors.EVENT_READ:
                readable = True
        return readable

    def _drain_wake(self) -> None:
        with self._lock:
            self._woken = False
            assert self._wake_in is not None
            try:
                self._wake_in.recv(64)
            except BlockingIOError:
                pass

    def _lost(self, error: Exception | None) -> None:
        """Note the end of a connection, or of an attempt."""
        with self._lock:
            if self._socket is not None:
                assert self._selector is not None
                if self._socket in self._selector.get_map():
                    self._selector.unregister(self._socket)
                self._socket.close()
                self._socket = None
            self._unsent = memoryview(b"")
            self._core.link = None
        failure = error if error is not None else ConnectionClosed()
        if not self._stop and self._core.recovers(failure):
            self._next_attempt = 0.0
            return
        if self._stop or not self._opened.done():
            self._give_up(None if self._stop else failure)
            return
        with self._lock:
            self._next_attempt = self._core.lost(failure, time.monotonic())

    def _give_up(self, error: Exception | None) -> None:
        self._next_attempt = None
        with self._lock:
            self._core.give_up(error)
            self._changed.notify_all()

    def _call_back(self, *, nested: bool = False) -> None:
        """Run what is to be run outside the lock; messages not inside a callback, or callbacks would nest."""
        if self._core.has_calls:
            with self._lock:
                calls = self._core.take_calls()
            for function, first, second in calls:
                function(first, second)
        on_message = self._options.on_message
        if on_message is None or nested or not self._core.inbound:
            return
        end = time.monotonic() + CALLBACK_SLICE
        inbound, manual_ack = self._core.inbound, self._options.manual_ack
        while inbound and not self._stop:
            message = inbound.popleft()
            guarded(on_message, message)
            if message.qos and not manual_ack:
                self.acknowledge(message)
            if time.monotonic() >= end:
                break


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
    for client in list(_clients):
        client.close(timeout=0.5)


def _forget_all() -> None:
    """In a forked child: the threads are gone, and the sockets are the parent's."""
    for client in list(_clients):
        client._thread = None
    _clients.clear()


atexit.register(_close_all)
os.register_at_fork(after_in_child=_forget_all)
