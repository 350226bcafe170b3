"""What both drivers are made of: a client without its waiting.

`Core` holds the session, the futures, the queue of messages that came in, the state, and every decision about when a
connection is made and when the client has ended. It neither waits nor locks. A driver calls it under its lock, if it
has one; what runs user code is said to, and is called outside of it. The type of the futures is the driver's.

The life of a client::

    begin -> begin_attempt -> make_attempt -> establish -> advance ... -> lost -> begin_attempt ...
                                                                             └-> (give_up) the end, until `begin`
"""

from __future__ import annotations

import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Message, Publish
from mqttws.codec.subscribing import FAILURE, Subscribe, Unsubscribe
from mqttws.errors import (
    ConnectError,
    ConnectionClosed,
    MQTTError,
    QueueFull,
    SessionTakenOver,
    StoreError,
    SubscribeRejected,
)
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.events import Closed, Connected, Delivered, Subscribed, Unsubscribed
from mqttws.protocol.framing import ClientWebSocket, Framing
from mqttws.protocol.session import Session
from mqttws.transport.link import Link
from mqttws.transport.options import Options, State, TopicFilters
from mqttws.transport.proxy import Tunnel, choose_proxy
from mqttws.transport.url import Endpoint, parse_url

logger = logging.getLogger("mqttws")

#: Seconds that callbacks may take before the network gets its turn.
CALLBACK_SLICE = 0.05

#: A function and its two arguments.
Call = tuple[Callable[[Any, Any], object], Any, Any]

F = TypeVar("F")


@dataclass(slots=True)
class Attempt:
    """An attempt to connect.

    Attributes:
        host: name or address for the TCP connection: the server's, or the proxy's.
        port: 1 to 65,535.
        link: what is to move over it.
        deadline: when there must be a CONNACK.
        where: host and port, as an error names them.
    """

    host: str
    port: int
    link: Link
    deadline: float
    where: str

    def failed(self, error: OSError) -> ConnectError:
        """Say what went wrong with the TCP connection."""
        # asyncio words the errors of the system in its own way; those of the resolver have numbers below 0.
        if error.errno is not None and error.errno > 0:
            reason = os.strerror(error.errno)
        else:
            reason = error.strerror or str(error) or "it took too long"
        return ConnectError(f"cannot connect to {self.where}: {reason}")


class _Request(Generic[F]):
    """A call of `subscribe` or `unsubscribe`, which may take several packets.

    Args:
        future: of the caller.
        finish: makes the outcome from the return codes by Topic Filter, once all packets are answered.
    """

    def __init__(self, future: F, finish: Callable[[dict[str, int]], object]) -> None:
        self.future = future
        self.unanswered = 0
        self.codes: dict[str, int] = {}
        self.finish = finish


class Core(Generic[F]):
    """A client without its waiting.

    Args:
        options: of the client.
        make_future: makes a future of the driver's kind.
        settle: gives such a future its outcome, a result or an exception; one that was cancelled stays so.

    Attributes:
        running: whether the client is open: from `begin` until it was closed, or gave up.
        stopping: whether it is being closed.
        opened: done when the first attempt has succeeded or failed.
        state: see `State`.
        error: why the last connection ended; once the client has, why that was: None for `close`.
        link: the Network Connection; None while there is none.
        inbound: the messages that wait to be taken.
        reading: whether more is to be read from the network.
        dropped: how many messages were dropped because too many waited; see `Options.overflow`.
    """

    def __init__(self, options: Options, make_future: Callable[[], F], settle: Callable[[F, object], None]) -> None:
        self.options = options
        self.client_id = options.client_id if options.client_id is not None else _random_client_id()
        self.session = Session(options.max_in_flight, options.max_queued, options.max_queued_bytes)
        if options.store is not None:
            self.session.keep_in(options.store, self.client_id)
        self.dropped = 0
        self.running = self.stopping = False
        self.opened: F | None = None
        self.state = State("disconnected")
        self.error: Exception | None = None
        self.link: Link | None = None
        self.inbound: deque[Publish] = deque()
        self.reading = True
        self._make_future = make_future
        self._settle = settle
        self._policy = options.policy
        self._futures: dict[int, F] = {}  # of messages, by token
        self._requests: dict[int, _Request[F]] = {}  # by token
        self._calls: deque[Call] = deque()
        self._ended: Exception | None = None  # what futures get that are made after the end
        self._opening = False  # whether the first attempt is under way
        self._close_timeout = 0.0
        self._dropped = False  # whether the user asked for a new connection
        self._attempts = 0
        self._short_lived = 0
        self._connected_at: float | None = None
        self._connect(None)  # checks the options while the caller is there to be told

    def _connect(self, endpoint: Endpoint | None) -> Connect:
        """Make the CONNECT."""
        options = self.options
        username, password = options.username, options.password_bytes
        if username is None and endpoint is not None:
            username = endpoint.username
            password = endpoint.password.encode() if endpoint.password is not None else None
        return Connect(self.client_id, options.clean_session, options.keep_alive, options.will, username, password)

    # Calls of the user.

    def publish(self, message: Message) -> tuple[int, F]:
        """Send a message when its turn comes. Returns its token and its future.

        Raises:
            QueueFull: too many messages wait already; nothing has changed.
        """
        future = self._make_future()
        if self._ended is not None:
            self._settle(future, self._ended)
            return 0, future
        try:
            token = self._enqueue(message)
        except QueueFull as error:
            if self.options.overflow != "drop_newest":
                raise
            self.dropped += 1
            self._settle(future, error)
            return 0, future
        self._futures[token] = future
        return token, future

    def _enqueue(self, message: Message) -> int:
        while True:
            try:
                return self.session.publish(message)
            except QueueFull:
                if self.options.overflow != "drop_oldest":
                    raise
                dropped = self.session.sender.drop_oldest()
                assert dropped is not None
                self.dropped += 1
                self._resolve(self._futures.pop(dropped.token, None), QueueFull("it was dropped: newer ones came"))

    def publish_safe(self, message: Message) -> F:
        """Do as `publish` does, and let the message outlive the process from now on, where there is a store.

        Raises:
            QueueFull, StoreError: nothing has changed.
        """
        token, future = self.publish(message)
        if self.options.store is not None and message.qos and token:
            try:
                self.options.store.commit()
            except StoreError:
                self.withdraw(token)
                raise
        return future

    def withdraw(self, token: int) -> bool:
        """Take back a message that has not been sent. Returns whether it could be."""
        if not self.session.sender.withdraw(token):
            return False
        self._futures.pop(token, None)
        if self.options.store is not None:
            try:
                self.options.store.commit()
            except StoreError:  # the next process will find it there
                return False
        return True

    def withdraw_future(self, future: object) -> bool:
        """Take back a message by its future. Returns whether it could be."""
        token = next((token for token, known in self._futures.items() if known is future), None)
        return token is not None and self.withdraw(token)

    def subscribe(self, topic_filters: TopicFilters, qos: int) -> F:
        """Subscribe when there is a connection. Returns the future of the granted QoS, or of the return codes.

        Raises:
            LocalProtocolError: a Topic Filter or a QoS is ill-formed; nothing has changed.
        """
        wanted = [(entry, qos) if isinstance(entry, str) else entry for entry in _as_list(topic_filters)]
        Subscribe(1, tuple(wanted))  # checks all of them, before any is sent

        def finish(codes: dict[str, int]) -> object:
            if not isinstance(topic_filters, str):
                return tuple(codes[topic_filter] for topic_filter, _ in wanted)
            return SubscribeRejected(topic_filters) if codes[topic_filters] == FAILURE else codes[topic_filters]

        return self._request(self.session.subscribe, wanted, finish)

    def unsubscribe(self, topic_filters: str | Sequence[str]) -> F:
        """Unsubscribe when there is a connection. Returns the future of None.

        Raises:
            LocalProtocolError: a Topic Filter is ill-formed; nothing has changed.
        """
        unwanted = _as_list(topic_filters)
        Unsubscribe(1, tuple(unwanted))
        return self._request(self.session.unsubscribe, unwanted, lambda codes: None)

    def _request(
        self, send: Callable[[list[Any]], int], entries: list[Any], finish: Callable[[dict[str, int]], object]
    ) -> F:
        """Send as many packets as the entries take."""
        request = _Request(self._make_future(), finish)
        if self._ended is not None:
            self._settle(request.future, self._ended)
            return request.future
        size = self.options.max_filters
        for start in range(0, len(entries), size):
            self._requests[send(entries[start : start + size])] = request
            request.unanswered += 1
        return request.future

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge a message whose consumer has taken it."""
        if publish.qos:
            self.session.receiver.acknowledge(publish)
            if publish.qos == 2 and self.options.store is not None:  # it must not come again
                try:
                    self.options.store.commit()
                except StoreError:  # the PUBREC will meet it, too, and end the connection over it
                    pass

    def check_waiting(self) -> None:
        """Check that to wait for the network can come to an end.

        Raises:
            MQTTError: the client has not been opened.
        """
        if not self.running and self._ended is None:
            raise MQTTError("the client is not open: open it first, or use the _nowait form, which queues")

    def check_iteration(self) -> None:
        """Check that messages can be iterated over.

        Raises:
            MQTTError: they go to `on_message`.
        """
        if self.options.on_message is not None:
            raise MQTTError("the messages go to on_message; without it they can be iterated over")

    @property
    def over(self) -> bool:
        """Whether no more messages will come.

        Raises:
            MQTTError: the client gave up, or has not been opened.
        """
        self.check_waiting()
        if not self.running and self.error is not None:
            raise self.error
        return not self.running

    # The life of a client, told by the driver.

    def begin(self) -> None:
        """Open the client.

        Raises:
            MQTTError: it is open already.
        """
        if self.running:
            raise MQTTError("the client is open already")
        self.running, self.stopping, self._opening = True, False, True
        self.error = self._ended = None
        self.opened = self._make_future()
        self._attempts = self._short_lived = 0

    def begin_attempt(self) -> None:
        """Begin an attempt. The URL is to be asked for next, outside the lock."""
        self.error, self._dropped = None, False
        self._set_state(State("connecting"))

    def make_attempt(self, url: str, now: float) -> Attempt:
        """Go on with an attempt: this is the URL. A TCP connection is to be made next.

        Raises:
            ConnectError: this cannot be connected to, or the upgrade request cannot be made.
            ssl.SSLError, OSError: the TLS context cannot be made.
        """
        options = self.options
        try:
            endpoint = parse_url(url)
        except (TypeError, ValueError) as error:
            raise ConnectError(str(error)) from None
        proxy = choose_proxy(options.proxy, endpoint)
        framing: Framing = Framing()
        if endpoint.websocket:
            framing = ClientWebSocket(endpoint.host_header, endpoint.target, options.headers)
        machine = ClientMachine(
            self._connect(endpoint),
            self.session,
            ping_timeout=options.ping_timeout,
            max_packet_size=options.max_packet_size,
            max_filters=options.max_filters,
        )
        connection = ClientConnection(machine, framing, now, open_timeout=options.timeout)
        tunnel = Tunnel(proxy, endpoint) if proxy is not None else None
        tls = None
        if endpoint.tls:
            from mqttws.transport.tls import TLSPipe, tls_context

            tls = TLSPipe(options.tls if options.tls is not None else tls_context(), endpoint.host)
        link = Link(connection, tunnel, tls, linger=not endpoint.websocket)
        deadline = now + options.timeout
        if proxy is not None:
            return Attempt(proxy.host, proxy.port, link, deadline, f"the proxy {proxy.host}:{proxy.port}")
        return Attempt(endpoint.host, endpoint.port, link, deadline, f"{endpoint.host}:{endpoint.port}")

    def establish(self, attempt: Attempt) -> None:
        """Go on with an attempt: there is a TCP connection."""
        self.link = attempt.link
        self.reading = True

    def advance(self, now: float) -> None:
        """Act on what has happened on the link."""
        assert self.link is not None
        for event in self.link.connection.events():
            if type(event) is Publish:
                self.inbound.append(event)
            elif type(event) is Delivered:
                self._resolve(self._futures.pop(event.token, None), None)
            elif isinstance(event, Subscribed):
                if event.token is None:
                    self._restored(event.return_codes)
                else:
                    self._answered(event.token, event.return_codes)
            elif isinstance(event, Unsubscribed):
                self._answered(event.token, ())
            elif isinstance(event, Connected):
                self._connected_at, self._opening = now, False
                self._set_state(State("connected", session_present=event.session_present))
                self._resolve(self.opened, None)
            elif isinstance(event, Closed):
                self.error = event.error
        if not self.stopping:
            self._regulate(now)

    def _regulate(self, now: float) -> None:
        """Read on or not, by how many messages wait to be taken."""
        assert self.link is not None
        if self.reading and len(self.inbound) >= self.options.max_inbound:
            self.reading = False
            self.link.connection.pause_reading()
            if self.options.on_message is None:
                self._log(logging.INFO, "%d messages wait to be taken; nothing more is read", len(self.inbound))
        elif not self.reading and len(self.inbound) <= self.options.max_inbound // 2:
            self.reading = True
            self.link.connection.resume_reading(now)

    def _answered(self, token: int, return_codes: Iterable[tuple[str, int]]) -> None:
        """Note the answer to one packet of a request."""
        request = self._requests.pop(token)
        request.codes.update(return_codes)
        request.unanswered -= 1
        if not request.unanswered:
            self._resolve(request.future, request.finish(request.codes))

    def _restored(self, return_codes: Iterable[tuple[str, int]]) -> None:
        """Tell which subscriptions the server refused to restore: no call waits to be told."""
        for topic_filter, return_code in return_codes:
            if return_code == FAILURE:
                error = SubscribeRejected(topic_filter)
                self._log(logging.WARNING, "on reconnecting, %s", error)
                if self.options.on_error is not None:
                    self._calls.append((guarded, self.options.on_error, error))

    def drop(self, now: float) -> None:
        """End the connection, or the attempt to make one, in favour of another; the driver is to see to it at once."""
        self._dropped = True
        if self.link is not None:
            self.link.disconnect(now, 0.0)

    def stop(self, timeout: float) -> None:
        """Close the client: `disconnect` and `lost` are to follow. Only the first call counts.

        Args:
            timeout: seconds that an orderly end may take.
        """
        if not self.stopping:
            self.stopping, self._close_timeout = True, timeout

    def disconnect(self, now: float) -> None:
        """Where the client is to be closed, begin to close its connection."""
        if self.stopping and self.link is not None and not self.link.connection.closed:
            self.link.disconnect(now, self._close_timeout)
            self.reading = True  # the server's part in closing comes behind what has not been read

    @property
    def called_off(self) -> bool:
        """Whether the attempt under way is in vain."""
        return self.stopping or self._dropped

    def recovers(self, error: Exception | None) -> bool:
        """Tell whether a failed attempt is to be followed by another at once. It runs user code."""
        recover = self.options.recover
        if recover is None or self.called_off or not isinstance(error, ConnectError):
            return False
        try:
            return recover(error)
        except Exception:
            logger.exception("the callback `recover` raised an exception")
            return False

    def lost(self, error: Exception | None, recovers: bool, now: float) -> float | None:
        """Note that an attempt failed, or that the connection has ended.

        Args:
            error: why.
            recovers: what the method of that name told.
            now: seconds.

        Returns:
            When to begin the next attempt; None for never: then the client is disconnected, and every future failed.
        """
        self.link = None
        if self.stopping:
            self.give_up(None)
            return None
        if recovers:
            return now
        if self._dropped:
            error = ConnectionClosed("a new connection was asked for")
            self._attempts, self._short_lived, delay = 1, 0, 0.0
        else:
            error = self._judge(error if error is not None else ConnectionClosed(), now)
            patience = None
            if self._policy is not None and not self._opening and not self.options.is_fatal(error):
                patience = self._policy.delay(self._attempts, random.random())
            if patience is None:
                self.give_up(error)
                return None
            self._attempts += 1
            delay = patience
        self.error, self._connected_at = error, None
        self._log(logging.INFO, "the connection of %s ended: %s", self.client_id, error)
        self._set_state(State("disrupted", error=error))
        self._set_state(State("reconnecting", delay=delay))
        return now + delay

    def _judge(self, error: Exception, now: float) -> Exception:
        """Count how long connections last; several short ones in a row are a fight for the client identifier."""
        if self._connected_at is None or self._policy is None:
            self._short_lived = 0  # a server that cannot be reached is another matter
        elif now - self._connected_at >= self._policy.stable_after:
            self._attempts = self._short_lived = 0
        elif type(error) is ConnectionClosed:
            self._short_lived += 1
            if self._short_lived >= self._policy.takeovers:
                return SessionTakenOver(
                    f"the server accepted and closed {self._short_lived} connections in a row within "
                    f"{self._policy.stable_after:g} s: another client seems to use the client identifier "
                    f"{self.client_id!r}, or the server forbids what this one does"
                )
        return error

    def give_up(self, error: Exception | None) -> None:
        """End the client: every future fails, and the state is disconnected."""
        if self._ended is not None:
            return
        self.link = self._connected_at = None
        self.running = False
        self.error = error
        self._ended = error if error is not None else ConnectionClosed("the client was closed before this was complete")
        self.session.abandon()
        requests = {id(request): request.future for request in self._requests.values()}
        fate = self._ended if self.options.store is None else _kept(self._ended)
        kept = self.session.sender.tokens
        for token, future in self._futures.items():
            self._resolve(future, fate if token in kept else self._ended)
        for waiting in (*requests.values(), self.opened):
            self._resolve(waiting, self._ended)
        self._futures.clear()
        self._requests.clear()
        self._set_state(State("disconnected", error=error))

    def forget_parent(self) -> None:
        """In a forked child: what runs here is the parent's, and so are its futures and callbacks."""
        if self.running:
            self.give_up(ConnectionClosed("the process was forked, and the connection is the parent's"))
        if self.options.client_id is None:
            self.client_id = _random_client_id()  # or both would fight for it
        self._calls.clear()

    # What runs user code: to be called outside the lock, by one thread.

    @property
    def has_calls(self) -> bool:
        """Whether there is something for `run_calls` to do."""
        return bool(self._calls)

    @property
    def deliverable(self) -> bool:
        """Whether there is something for `deliver` to do."""
        return bool(self.inbound) and self.options.on_message is not None and not self.stopping

    def run_calls(self) -> None:
        """Resolve futures, run callbacks, log. One at a time: a callback may bring the next ones about itself."""
        calls = self._calls
        while calls:
            function, first, second = calls.popleft()
            function(first, second)

    def deliver(self, acknowledge: Callable[[Publish], None]) -> None:
        """Run `on_message` for the messages that wait, as long as callbacks may take.

        Args:
            acknowledge: of the driver.
        """
        on_message = self.options.on_message
        if on_message is None or not self.inbound:
            return
        inbound, manual_ack = self.inbound, self.options.manual_ack
        end = time.monotonic() + CALLBACK_SLICE
        while inbound and not self.stopping:
            message = inbound.popleft()
            guarded(on_message, message)
            if message.qos and not manual_ack:
                acknowledge(message)
            if time.monotonic() >= end:
                break

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._log(logging.DEBUG, "%s: %s", self.client_id, state.name)
            if self.options.on_state is not None:
                self._calls.append((guarded, self.options.on_state, state))

    def _log(self, level: int, message: str, *arguments: object) -> None:
        """Log, outside the lock: a handler may use this very client."""
        self._calls.append((_emit, level, (message, *arguments)))

    def _resolve(self, future: F | None, outcome: object) -> None:
        if future is not None:
            self._calls.append((self._settle, future, outcome))


def _emit(level: int, message: tuple[Any, ...], *, exc_info: bool = False) -> None:
    """Log. A handler that raises is at fault itself, and there is nobody else to tell."""
    try:
        logger.log(level, *message, exc_info=exc_info)
    except Exception:
        pass


def guarded(callback: Callable[[Any], object], argument: object) -> None:
    """Call back; an exception is logged, and never stops the network."""
    try:
        callback(argument)
    except Exception:
        _emit(logging.ERROR, ("a callback raised an exception: %r", callback), exc_info=True)


def _random_client_id() -> str:
    return f"mqttws-{os.urandom(8).hex()}"


def _as_list(entries: Any) -> list[Any]:
    return [entries] if isinstance(entries, str) else list(entries)


def _kept(error: Exception) -> Exception:
    """Say of a message that is not delivered, and in a store, what will become of it."""
    kept = ConnectionClosed(f"{error}; the store keeps the message, and a client with it will send it")
    kept.__cause__ = error
    return kept
