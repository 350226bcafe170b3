"""What both drivers are made of: a client without its waiting.

`Core` holds the session, the futures, the queue of messages that came in, the state, and the decisions about
reconnecting. It neither waits nor locks nor calls user code: a driver calls it (under its lock, if it has one), then
runs what `take_calls` hands over (outside of it). The type of the futures is the driver's.
"""

from __future__ import annotations

import logging
import os
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from mqttws.codec.connecting import Connect
from mqttws.codec.publishing import Message, Publish
from mqttws.codec.subscribing import FAILURE
from mqttws.codec.topics import check_topic_filter
from mqttws.errors import (
    ConnectError,
    ConnectionClosed,
    MQTTError,
    SessionTakenOver,
    SubscribeRejected,
)
from mqttws.protocol.client import ClientMachine
from mqttws.protocol.connection import ClientConnection
from mqttws.protocol.events import Closed, Connected, Delivered, Subscribed, Unsubscribed
from mqttws.protocol.framing import ClientWebSocket, Framing
from mqttws.protocol.reconnect import Reconnect, is_fatal
from mqttws.protocol.session import Session
from mqttws.transport.link import Link
from mqttws.transport.proxy import ENVIRONMENT, Proxy, Tunnel, choose_proxy
from mqttws.transport.url import Endpoint, parse_url

logger = logging.getLogger("mqttws")

#: Topic Filters as a caller gives them: one, or several, each with a QoS of its own or not.
TopicFilters = str | Sequence[str | tuple[str, int]]


#: A function and its two arguments: what a driver calls when it holds no lock.
Call = tuple[Callable[[Any, Any], object], Any, Any]


@dataclass(frozen=True, slots=True)
class State:
    """The state of a client.

    Attributes:
        name: "connecting"; "connected"; "disrupted", the connection was lost or an attempt failed; "reconnecting",
            an attempt will be made; "disconnected", no attempt will be made.
        error: why, where the name is "disrupted" or "disconnected"; None after `close`.
        delay: seconds until the attempt, where the name is "reconnecting".
        session_present: whether the server had kept the session, where the name is "connected".
    """

    name: str
    error: Exception | None = None
    delay: float | None = None
    session_present: bool | None = None


@dataclass(kw_only=True)
class Options:
    """The options of a client, the same for both drivers.

    Attributes:
        client_id: 1 to 65,535 bytes of UTF-8; None: "mqttws-" and 16 random hexadecimal digits.
        keep_alive: seconds, 0 to 65,535; 0 disables.
        clean_session: whether the server forgets the session when the connection ends. What is not acknowledged is
            sent again and what was subscribed is subscribed again on reconnecting either way.
        will: what the server publishes when the connection ends without a DISCONNECT.
        username: None: from the URL, if it has one.
        password: bytes, or a str that is sent as UTF-8; None: from the URL, if it has one.
        tls: see `tls_context`; None: the default one, where the URL asks for TLS.
        headers: more headers of the WebSocket's upgrade request.
        reconnect: how a lost connection is made again; True: with the defaults of `Reconnect`; False: not.
        timeout: seconds; bounds one attempt to connect, and each wait that is given no bound of its own.
        on_message: called with each message, instead of iterating over them.
        on_state: called with each `State`.
        on_error: called with what no call is there to be told: a subscription that the server refused to restore.
        manual_ack: whether QoS 1 and 2 messages are acknowledged by `acknowledge` only.
        max_in_flight: how many QoS 1 and 2 messages may be unacknowledged at once, 1 to 65,535.
        max_queued: how many messages may wait to be sent.
        max_queued_bytes: how many bytes of topics and payloads may wait to be sent.
        max_inbound: how many messages may wait to be taken before no more is read from the network. The messages of
            one read of 64 KiB may come on top.
        max_packet_size: bytes; a larger packet from the server ends the connection.
        max_filters: how many Topic Filters go into one SUBSCRIBE or UNSUBSCRIBE.
        ping_timeout: seconds; see `ClientMachine`.
        proxy: "environment": HTTPS_PROXY and NO_PROXY, for wss:// only; the URL of an HTTP proxy; None for none.
        is_fatal: tells an error that ends the client from one that is worth another attempt.
        recover: asked first of all when an attempt has failed, the first one too: True when it has learnt enough to
            make the next attempt differ (a clock's offset, fresh credentials), which is then made at once.
    """

    client_id: str | None = None
    keep_alive: int = 60
    clean_session: bool = True
    will: Message | None = None
    username: str | None = field(default=None, repr=False)
    password: str | bytes | None = field(default=None, repr=False)
    tls: Any = None
    headers: Iterable[tuple[str, str]] = field(default=(), repr=False)
    reconnect: bool | Reconnect = True
    timeout: float = 30.0
    on_message: Callable[[Publish], object] | None = None
    on_state: Callable[[State], object] | None = None
    on_error: Callable[[MQTTError], object] | None = None
    manual_ack: bool = False
    max_in_flight: int = 100
    max_queued: int = 10_000
    max_queued_bytes: int = 64 * 1024 * 1024
    max_inbound: int = 1_000
    max_packet_size: int = 64 * 1024 * 1024
    max_filters: int = 100
    ping_timeout: float | None = None
    proxy: str | None = ENVIRONMENT
    is_fatal: Callable[[Exception], bool] = is_fatal
    recover: Callable[[ConnectError], bool] | None = None


F = TypeVar("F")


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
    """

    def __init__(self, options: Options, make_future: Callable[[], F], settle: Callable[[F, object], None]) -> None:
        password = options.password
        self.options = options
        self.client_id = options.client_id if options.client_id is not None else f"mqttws-{os.urandom(8).hex()}"
        self.session = Session(options.max_in_flight, options.max_queued, options.max_queued_bytes)
        self.link: Link | None = None
        self.state = State("disconnected")
        self.inbound: deque[Publish] = deque()
        self.reading = True
        self.error: Exception | None = None  # why the last connection ended
        self._password = password.encode() if isinstance(password, str) else password
        self._reconnect = options.reconnect if isinstance(options.reconnect, Reconnect) else None
        if options.reconnect is True:
            self._reconnect = Reconnect()
        self._make_future = make_future
        self._futures: dict[int, F] = {}  # of messages, by token
        self._requests: dict[int, _Request[F]] = {}  # by token
        self._settle = settle
        self._calls: list[Call] = []
        self._attempt = 0
        self._short_lived = 0
        self._connected_at: float | None = None
        self._connect(None)  # checks the options while the caller is there to be told

    def _connect(self, endpoint: Endpoint | None) -> Connect:
        """Make the CONNECT."""
        options = self.options
        username, password = options.username, self._password
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
        token = self.session.publish(message)
        future = self._futures[token] = self._make_future()
        return token, future

    def withdraw(self, token: int) -> bool:
        """Take back a message that has not been sent. Returns whether it could be."""
        if self.session.sender.withdraw(token):
            self._futures.pop(token, None)
            return True
        return False

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
        for topic_filter, _ in wanted:
            check_topic_filter(topic_filter)

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
        for topic_filter in unwanted:
            check_topic_filter(topic_filter)
        return self._request(self.session.unsubscribe, unwanted, lambda codes: None)

    def _request(
        self, send: Callable[[list[Any]], int], entries: list[Any], finish: Callable[[dict[str, int]], object]
    ) -> F:
        """Send as many packets as the entries take."""
        request = _Request(self._make_future(), finish)
        size = self.options.max_filters
        for start in range(0, max(len(entries), 1), size):
            self._requests[send(entries[start : start + size])] = request
            request.unanswered += 1
        return request.future

    def take(self) -> Publish:
        """Take the next message that came in."""
        return self.inbound.popleft()

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge a message whose consumer has taken it."""
        if publish.qos:
            if self.link is not None:
                self.link.connection.acknowledge(publish)
            else:
                self.session.receiver.acknowledge(publish)

    # The life of connections, told by the driver.

    def prepare(self, url: str) -> tuple[Endpoint, Proxy | None]:
        """Begin an attempt.

        Returns:
            Where it leads, and the proxy to go through.

        Raises:
            ConnectError: this cannot be connected to.
        """
        self._set_state(State("connecting"))
        try:
            endpoint = parse_url(url)
        except (TypeError, ValueError) as error:
            raise ConnectError(str(error)) from None
        return endpoint, choose_proxy(self.options.proxy, endpoint)

    def open_link(self, endpoint: Endpoint, proxy: Proxy | None, now: float, deadline: float) -> None:
        """Go on with an attempt: there is a TCP connection.

        Args:
            endpoint: where the attempt leads.
            proxy: through which it leads.
            now: seconds.
            deadline: when there must be a CONNACK.

        Raises:
            ConnectError: the upgrade request cannot be made.
            ssl.SSLError, OSError: the TLS context cannot be made.
        """
        options = self.options
        tls = None
        if endpoint.tls:
            from mqttws.transport.tls import TLSPipe, tls_context

            context = options.tls if options.tls is not None else tls_context()
            tls = TLSPipe(context, endpoint.host)
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
        connection = ClientConnection(machine, framing, now, open_timeout=max(0.0, deadline - now))
        self.link = Link(connection, Tunnel(proxy, endpoint) if proxy is not None else None, tls)
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
                self._connected_at = now
                self._set_state(State("connected", session_present=event.session_present))
            elif isinstance(event, Closed):
                self.error = event.error
        self._regulate(now)

    def _regulate(self, now: float) -> None:
        """Read on or not, by how many messages wait to be taken."""
        assert self.link is not None
        if self.reading and len(self.inbound) >= self.options.max_inbound:
            self.reading = False
            self.link.connection.pause_reading()
            if self.options.on_message is None:
                logger.info("%d messages wait to be taken; nothing more is read until some are", len(self.inbound))
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
                logger.warning("on reconnecting, %s", error)
                if self.options.on_error is not None:
                    self._call(self.options.on_error, error)

    def lost(self, error: Exception, now: float) -> float | None:
        """Note that an attempt failed, or that the connection has ended.

        Returns:
            When to make the next attempt; None for never: then the client is disconnected and every future has failed.
        """
        self.link = None
        self.error = error = self._judge(error, now)
        established, self._connected_at = self._connected_at is not None, None
        if self._reconnect is None or self.options.is_fatal(error):
            self.give_up(error)
            return None
        delay = self._reconnect.delay(self._attempt, random.random())
        if delay is None:
            self.give_up(error)
            return None
        if established:
            logger.info("the connection ended: %s", error)
        self._attempt += 1
        self._set_state(State("disrupted", error=error))
        self._set_state(State("reconnecting", delay=delay))
        return now + delay

    def recovers(self, error: Exception) -> bool:
        """Tell whether another attempt is to be made at once. It runs user code, and so outside the lock."""
        if self.options.recover is None or not isinstance(error, ConnectError):
            return False
        try:
            return self.options.recover(error)
        except Exception:
            logger.exception("the callback `recover` raised an exception")
            return False

    def _judge(self, error: Exception, now: float) -> Exception:
        """Count how long connections last; several short ones in a row are a fight for the client identifier."""
        policy = self._reconnect
        if self._connected_at is None or policy is None:
            return error
        if now - self._connected_at >= policy.stable_after:
            self._attempt = self._short_lived = 0
        elif type(error) is ConnectionClosed:
            self._short_lived += 1
            if self._short_lived >= policy.takeovers:
                return SessionTakenOver(
                    f"the server accepted and closed {self._short_lived} connections in a row within "
                    f"{policy.stable_after:g} s: another client seems to use the client identifier {self.client_id!r}, "
                    "or the server forbids what this one does"
                )
        return error

    def give_up(self, error: Exception | None) -> None:
        """End the client: every future fails, and the state is disconnected."""
        self.link = None
        self.error = error
        failure = error if error is not None else ConnectionClosed("the client was closed before this was complete")
        for future in (*self._futures.values(), *(request.future for request in self._requests.values())):
            self._resolve(future, failure)
        self._futures.clear()
        self._requests.clear()
        self.session.abandon()
        self._set_state(State("disconnected", error=error))

    def fresh(self) -> None:
        """Count attempts from the beginning again."""
        self._attempt = self._short_lived = 0

    # What is to be called by the driver, outside its lock.

    @property
    def has_calls(self) -> bool:
        """Whether anything is to be called."""
        return bool(self._calls)

    def take_calls(self) -> list[Call]:
        """Take what is to be called now: futures to settle, callbacks to run. None of it raises."""
        calls, self._calls = self._calls, []
        return calls

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            logger.debug("%s: %s", self.client_id, state.name)
            if self.options.on_state is not None:
                self._call(self.options.on_state, state)

    def _call(self, callback: Callable[[Any], object], argument: object) -> None:
        self._calls.append((guarded, callback, argument))

    def _resolve(self, future: F | None, outcome: object) -> None:
        if future is not None:
            self._calls.append((self._settle, future, outcome))


def guarded(callback: Callable[[Any], object], argument: object) -> None:
    """Call back; an exception is logged, and never stops the network."""
    try:
        callback(argument)
    except Exception:
        logger.exception("a callback raised an exception: %r", callback)


def connect_failed(error: OSError | TimeoutError, endpoint: Endpoint, proxy: Proxy | None) -> ConnectError:
    """Say what went wrong below TLS."""
    where = f"the proxy {proxy.host}:{proxy.port}" if proxy is not None else f"{endpoint.host}:{endpoint.port}"
    reason = error.strerror or str(error) or "it took too long"
    return ConnectError(f"cannot connect to {where}: {reason}")


def _as_list(entries: Any) -> list[Any]:
    return [entries] if isinstance(entries, str) else list(entries)
