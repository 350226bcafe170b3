"""The client's core: all state and decisions of a client, without I/O. Both drivers use it.

`Core` contains the session, the received messages, the pending futures and the state. It decides when to connect and
when the client has ended. It does not wait, lock or read a clock. A driver calls it under its lock, if it has one.
Calls of user code are queued in `callbacks`, which the driver runs outside the lock.

The driver calls these methods, in this order::

    begin -> begin_attempt -> make_attempt -> establish -> advance ... -> judge -> lost -> begin_attempt ...
                                                                                    └-> the end, until `begin`

If an attempt fails, `judge` and `lost` follow it immediately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from mqttws.client import attempt
from mqttws.client.callbacks import DEBUG, INFO, WARNING, Callbacks
from mqttws.client.inbox import Inbox, popleft
from mqttws.client.layers import Link
from mqttws.client.options import Options
from mqttws.client.pending import Pending
from mqttws.client.routes import Callback, Routes
from mqttws.client.sent import F
from mqttws.client.state import State
from mqttws.client.timings import Timings
from mqttws.codec.publishing import Publish
from mqttws.codec.subscribing import FAILURE
from mqttws.errors import (
    ConnectError,
    ConnectionClosed,
    ConnectTimeout,
    HandshakeRejected,
    MQTTError,
    PacketTooLarge,
    PublishRejected,
    RemoteProtocolError,
    SessionLost,
    SessionTakenOver,
    StoreError,
    TakeoverSuspected,
    TimedOut,
    to_raise,
)
from mqttws.hints import TYPE_CHECKING, Any, Generic, inf
from mqttws.protocol.events import (
    Closed,
    Connected,
    Delivered,
    Event,
    Expired,
    Rejected,
    Sent,
    Skipped,
    Stalled,
    Subscribed,
    Unsubscribed,
)
from mqttws.protocol.outgoing import size_of
from mqttws.protocol.session import Session

if TYPE_CHECKING:
    from mqttws.client.driver import Driver
    from mqttws.client.tls import TLSMemory, TLSPipe
    from mqttws.client.waiting import Waiting
    from mqttws.protocol.claims import Holder

#: Seconds of running callbacks after which the driver handles the network again.
CALLBACK_SLICE = 0.05
#: The WebSocket close codes of a normal end: none (TCP), "normal", and a close frame without a code.
ORDERLY_CODES = frozenset({None, 1000, 1005})


class Verdict:
    """The consequence of the end of a connection or of an attempt.

    Attributes:
        error: The reason of the end.
        recovers: Whether to make the next attempt immediately: `recover` returned True, or another endpoint is left.
        fatal: Whether to make no further attempt.
    """

    __slots__ = ("error", "fatal", "recovers")

    def __init__(self, error: Exception, recovers: bool = False, fatal: bool = False) -> None:
        self.error = error
        self.recovers = recovers
        self.fatal = fatal


class Core(Generic[F]):
    """A client without I/O.

    Args:
        options: The options of the client.
        driver: The driver.
        now: The current time in seconds.
        wall: The same moment in seconds since 1970.

    Attributes:
        options: The options of the client.
        client_id: The client identifier.
        session: The session, which outlives connections.
        pending: The futures of incomplete calls.
        callbacks: The calls to make outside the lock.
        running: Whether the client is open: from `begin` until it is closed or gives up.
        stopping: Whether the client is being closed.
        dropped: Whether the program has requested a new connection, and the driver has not acted on it yet.
        opened: A future, done when the first attempt has succeeded or failed; with `retry_first` it never fails.
        state: The current `State`.
        error: The reason for which the last connection or the client ended; None after `close`.
        link: The Network Connection; None while there is none.
        timings: How long the phases of the latest connection took; None before the first one.
        inbox: The messages for iterations.
        calls: The messages for callbacks; with `on_message` the same object as `inbox`.
        routes: The callbacks by Topic Filter.
        received: The number of received messages.
        reading: Whether to read from the network.
    """

    def __init__(self, options: Options, driver: Driver[F], now: float = 0.0, wall: float = 0.0) -> None:
        self.options = options
        self.client_id = (
            options.client_id if options.client_id is not None else f"mqttws-{driver.random_bytes(8).hex()}"
        )
        options.connect(self.client_id)  # raise an error for invalid options now, before a store is claimed
        self.session = Session(
            options.max_in_flight, options.max_queued, options.max_queued_bytes, options.max_in_flight_qos2
        )
        if not options.clean_session:
            # The server may still have packet identifiers of an earlier process in use. It would treat a new QoS 2
            # message with one of them as a duplicate of that process's message. Spec: [MQTT-2.3.1-2]
            self.session.identifiers.start_at(1 + int(driver.random() * 65_535))
        self._holder: Holder | None = None  # of the claim on the store
        if options.store is not None:
            from mqttws.protocol.claims import Holder  # most clients have no store

            self._holder = Holder()
            self.session.keep_in(options.store, self.client_id, now, wall, self._holder)
        self.callbacks = Callbacks(driver.settle)
        self.pending: Pending[F] = Pending(options, self.session, driver, self.callbacks)
        self._driver = driver
        self.running = self.stopping = self.dropped = False
        self.opened: F | None = None
        self.state = State("disconnected")
        self.error: Exception | None = None
        self._reason = ""  # why the latest attempt failed, or the connection was lost; empty once connected again
        self.link: Link | None = None
        self.timings: Timings | None = None
        self.inbox = Inbox()
        self.calls = self.inbox if options.on_message is not None else Inbox()
        self.routes = Routes()
        self.received = 0
        self._sorted_out = (0, 0)  # of one read: the number of messages added to `calls`, and their bytes
        self.reading = True
        # The bytes of messages queued for the program, when last counted. Only the owner may count them: see `Inbox`.
        self._held = 0
        self._policy = options.policy
        self._opening = False  # whether the first attempt is not finished
        self._retries = False  # whether further attempts follow if it fails
        self._close_at = 0.0
        self._last_token = 0  # `close` waits only for messages and requests with lower tokens
        self._says_goodbye = True  # whether to send DISCONNECT
        # Whether the server should have the session when a connection is made.
        self._expects_session = options.store is not None and bool(
            self.session.subscriptions or self.session.sender.in_flight
        )
        self._left_for: TimedOut | None = None  # why this client closed a stalled connection
        self._endpoint: str | None = None
        self._has_lowered = False  # whether the log has the warning about `Sender.lowered`
        self._tls: TLSMemory | None = None
        self.session.sender.accepts_puback = True
        self._attempts = 0
        self._short_lived = 0
        self._attempted_at: float | None = None
        self._turn: float | None = None  # the time reserved for the next attempt
        self._keeps_turn = False  # whether the next attempt uses the reserved time of the last one
        self._connected_at: float | None = None

    def check_waiting(self) -> None:
        """Check that the client is open or has ended, so that a call that waits can complete.

        Raises:
            MQTTError: The client has not been opened, or opening it failed.
        """
        if not self.running and self.pending.ended is None:
            if self.error is not None:
                raise to_raise(self.error)
            raise MQTTError("the client is not open: open it, or use the _nowait form, which queues")

    def check_iteration(self) -> None:
        """Check that messages can be iterated over.

        Raises:
            MQTTError: The client has an `on_message`, which receives them.
        """
        if self.options.on_message is not None:
            raise MQTTError("on_message receives the messages; they can be iterated over only without it")

    @property
    def over(self) -> bool:
        """Whether no more messages will arrive.

        Raises:
            MQTTError: The client gave up, or has not been opened.
        """
        self.check_waiting()
        if not self.running and self.error is not None:
            raise to_raise(self.error)
        return not self.running

    # The life of a client: called by the driver.

    def begin(self, retries: bool = False, is_over: Callable[[], bool] = bool) -> None:
        """Open the client.

        Args:
            retries: Whether to make further attempts if the first one fails.
            is_over: See `Holder.activate`; `bool()` is False.

        Raises:
            MQTTError: It is already open.
            StoreError: Another client has taken over the client identifier in the store.
        """
        if self.running:
            raise MQTTError("the client is already open; close it first")
        self._driver.endpoints.restart()
        if self._holder is not None:
            self._holder.activate(is_over)
        self.running, self.stopping, self.dropped, self._opening = True, False, False, True
        self._retries, self._says_goodbye = retries, True
        self.error = self.pending.ended = None
        self._reason = ""
        self.opened = self._driver.make_future()
        self._attempts = self._short_lived = 0
        self._turn, self._keeps_turn = None, False
        self._begun_at, self._recovers = inf, False

    def unopened(self) -> None:
        """Record that `open` failed. It can be called again; messages published until then are queued."""
        self.pending.ended = None

    @property
    def earliest(self) -> float:
        """The earliest time of the next attempt, after the interval of the reconnect policy, in seconds."""
        if self._policy is None or self._attempted_at is None:
            return -inf
        return self._attempted_at + self._policy.interval

    def turn(self, now: float) -> float:
        """Return when the attempt that is due may begin: `now`, or later with a `connect_budget`."""
        budget = self.options.connect_budget
        if budget is None or self._keeps_turn:
            self._keeps_turn = False
            return now
        if self._turn is None:
            self._turn = budget.reserve(now)
        if self._turn <= now:
            turn = budget.begin(now)
            self._turn = turn if turn > now else None
        return self._turn or now

    def begin_attempt(self, now: float) -> None:
        """Start an attempt. The caller determines the URL next, outside the lock."""
        if not self._recovers:
            self._begun_at = now
        self._recovers = False
        self.take_drop()
        self.error = self._left_for = None
        self._set_state(State("connecting"))

    @property
    def overdue_at(self) -> float:
        """When an attempt should have ended by itself. It has not if a callable hangs, or `recover` is never done.

        Each URL has its own time, and that of the first one begins with the turn of this client (`connect_budget`).
        """
        return self._begun_at + self.options.timeout + 1.0

    def make_attempt(self, url: Any, now: float) -> attempt.Attempt:
        """Continue an attempt with its URL. The caller opens the TCP connection next.

        Args:
            url: The URL to connect to. It may come from a callable of the user, and is not checked yet.
            now: The current time in seconds.

        Raises:
            ConnectError: The URL is not valid, or HTTP does not allow the upgrade request.
            ssl.SSLError, OSError: The TLS context cannot be created.
        """
        self._attempted_at = now
        write = self._driver.packet_log()
        note = None if write is None else partial(self.callbacks.add, write, self.client_id)
        made = attempt.make_attempt(
            url, self.options, self.client_id, self.session, now, partial(self._make_tls, now), note
        )
        self._endpoint = made.where
        return made

    def _make_tls(self, now: float, host: str, port: int) -> TLSPipe:
        if self._tls is None:
            from mqttws.client.tls import TLSMemory  # it imports ssl, which a plain connection does not need

            self._tls = TLSMemory(self.options.tls)
        return self._tls.pipe(host, port, now)

    def establish(self, made: attempt.Attempt, now: float) -> None:
        """Continue an attempt after its TCP connection was opened."""
        if self.options.answer_timeout is not None:
            made.link.connection.open_within(self.options.answer_timeout, now)
        made.link.end_phase("tcp", now)
        self.link = made.link
        self.reading = True

    def advance(self, now: float) -> None:
        """Handle the events of the link."""
        assert self.link is not None
        events, messages, pending = self.link.connection.machine.events, self.inbox.messages, self.pending
        # Nearly all events are messages, so their number is that of all events minus the others.
        came = len(events)
        take = messages.append if not self.stopping else self._leave
        if self.calls is not self.inbox and not self.stopping and self.routes:
            take = self._sort
        while events:
            event = popleft(events)
            if type(event) is Publish:
                try:
                    take(event)
                except BaseException:
                    events.appendleft(event)  # the server does not send a message of QoS 2 again
                    raise
                continue
            came -= 1
            if type(event) is Delivered:
                pending.delivered(event.tokens)
            elif type(event) is Sent:
                pending.note_sent(event.token)
            elif isinstance(event, (Subscribed, Unsubscribed)):
                if event.token is None:
                    pending.restored(event.return_codes)
                else:
                    pending.answered(event.token, event.return_codes)
                if self._found_cause(event):
                    self._attempts = self._short_lived = 0
            elif isinstance(event, Connected):
                self._connected(event.session_present, now)
            elif isinstance(event, Rejected):
                pending.rejected(event.token, PublishRejected(event.topic, event.size))
                self._attempts = self._short_lived = 0  # the cause is identified
            elif isinstance(event, Expired):
                pending.fail_expired(event.tokens)
            elif isinstance(event, Skipped):
                pending.report(_too_large(event.topic, event.size, self.options.max_packet_size))
            elif isinstance(event, Stalled):
                self._stalled(event, now)
            elif isinstance(event, Closed):
                self.error = event.error if self._connected_at is not None else _failed_attempt(event.error)
        if came:
            # `_sort` has already counted the messages that it added to `calls`.
            size, (sorted_out, sorted_size) = self.link.take_received(), self._sorted_out
            self._sorted_out = (0, 0)
            self.received += came
            self.inbox.note(came - sorted_out, size - sorted_size)
        if not self.stopping and (came or not self.reading):
            self._regulate(now)
        if pending.flushes:
            pending.check_flushes()
        if self.session.sender.lowered and not self._has_lowered:
            self._has_lowered = True
            self._log(WARNING, "the server answers QoS 2 messages with PUBACK; these count as delivered")

    def _leave(self, message: Publish) -> None:
        """Drop a message that has come while the client is being closed. The server sends it again: see `discard`."""
        self.session.receiver.discard(message)

    def _sort(self, message: Publish) -> None:
        """Queue a message for its callbacks, or for the iterations if no callback matches."""
        if not self.routes.takers(message.topic):
            self.inbox.messages.append(message)
            return
        size = size_of(message.topic, message.payload)
        self.calls.note(1, size)
        self._sorted_out = (self._sorted_out[0] + 1, self._sorted_out[1] + size)
        self.calls.messages.append(message)  # last: if anything before it fails, the event is handled again

    def takers(self, message: Publish) -> Sequence[Callback]:
        """Return the callbacks for a message. If they were removed meanwhile, queue it for iterations."""
        on_message = self.options.on_message
        takers = self.routes.takers(message.topic) if self.routes else []
        if takers or on_message is not None:
            return takers or (on_message,)  # type: ignore[return-value]
        self.inbox.messages.append(message)
        self.inbox.note(1, size_of(message.topic, message.payload))
        return ()

    def pass_time(self, now: float) -> None:
        """Expire messages that have waited too long. Call this in each turn, and at `next_expiry`."""
        sender = self.session.sender
        sender.pass_time(now)
        if sender.ages is not None and (tokens := sender.expired(now)):
            self.pending.fail_expired(tokens, queued=True)

    @property
    def next_expiry(self) -> float | None:
        """The time by which `pass_time` must be called; None if there is none."""
        sender = self.session.sender
        return None if sender.ages is None else sender.next_expiry

    def waiting(self, now: float) -> Waiting:
        """Return the size and the age of the queue of messages that are not sent yet."""
        from mqttws.client.waiting import Waiting  # most programs do not call this

        sender = self.session.sender
        sender.pass_time(now)
        since = sender.since()
        return Waiting(sender.waiting, sender.waiting_size, 0.0 if since is None else max(0.0, now - since))

    def _stalled(self, event: Stalled, now: float) -> None:
        """Report that acknowledgements are overdue. With `stalled="leave"`, close the connection."""
        error = TimedOut(f"{event.count} acknowledgements are due, and none has arrived for {event.seconds:.1f} s")
        self.pending.report(error)
        if self.options.stalled == "leave" and not self.stopping and self.link is not None:
            self._left_for = error
            self.link.disconnect(now, 0.0, goodbye=False)

    def _found_cause(self, event: Subscribed | Unsubscribed) -> bool:
        """Return whether an answer reports a Topic Filter that makes the server close the connection."""
        found = self.session.suspects.closed_over
        return any(
            code == FAILURE and (isinstance(event, Unsubscribed) or topic_filter in found)
            for topic_filter, code in event.return_codes
        )

    def _connected(self, session_present: bool, now: float) -> None:
        self._connected_at, self._opening, self._reason = now, False, ""
        self.timings = self.link.timings if self.link is not None else None
        lost = None
        if self._expects_session and not session_present:
            lost = SessionLost(
                "the server no longer has the session: what it held for this client is gone; the subscriptions are "
                "made again"
            )
            self.pending.report(lost)
        self._expects_session = not self.options.clean_session
        self._driver.endpoints.connected()
        self._set_state(State("connected", lost, session_present=session_present, endpoint=self._endpoint))
        self.pending.resolve(self.opened, None)

    def _waiting_size(self) -> int:
        """Return the bytes of the messages queued for the program."""
        return self.inbox.size() + (0 if self.calls is self.inbox else self.calls.size())

    def _regulate(self, now: float) -> None:
        """Pause reading while the messages queued for the program exceed `max_inbound_bytes`, and resume it at half.

        Below the limit everything is read, so that acknowledgements are never delayed by a slow program.
        """
        assert self.link is not None
        most = self.options.max_inbound_bytes
        size = self._held = self._waiting_size()
        if self.reading and size >= most:
            self.reading = False
            self.link.connection.pause_reading()
            self._log(INFO, "reading is paused: %d bytes of messages have not been taken", size)
        elif not self.reading and size <= most // 2:
            self.reading = True
            self.link.connection.resume_reading(now)

    @property
    def stalled(self) -> str:
        """The reason for which no answer can arrive until messages are consumed; empty while the client reads."""
        if self.link is None or self.reading:
            return ""
        return f"reading is paused, because {self._held:,} bytes of messages have not been taken (max_inbound_bytes)"

    @property
    def unreachable(self) -> str:
        """Why there is no connection: the state, and the latest error; empty while there is one."""
        if self.state.name == "connected":
            return ""
        reason = self._reason if self.error is None else str(self.error)
        turn = "" if self._turn is None else ", and waits for its turn (connect_budget)"
        return f"the client is {self.state.name}{turn}{reason and ': '}{reason}"

    def late(self, failure: str, seconds: float) -> str:
        """Return the message of a timeout; it includes the reason if reading is paused, or there is no connection."""
        reason = self.stalled or self.unreachable
        return f"{failure} within {seconds:g} s{reason and ': '}{reason}"

    def failed(self, error: Exception, now: float) -> None:
        """Handle a failure of this process in a turn, such as a `MemoryError`: the connection ends, and not the client.

        The event that was being handled may be lost: `lost` fails the calls that it may have completed. The driver must
        close the connection immediately; `self.error` is the reason.
        """
        link = self.link
        if link is None:
            self.error = ConnectError(f"the attempt failed: {type(error).__name__}")
            self.error.__cause__ = error
        else:
            link.fail("an event could not be handled", error, now)
            events = link.connection.machine.events
            while events:
                first = events[0]
                try:
                    self.advance(now)
                except Exception:
                    if events and events[0] is first:  # so the loop ends if every call fails
                        self._skip(events.popleft())
            self.error = link.connection.error

    def _skip(self, event: Event) -> None:
        """Do not handle an event. The server sends a message again on the next connection."""
        if isinstance(event, Publish):
            self.session.receiver.discard(event)

    def drop(self) -> None:
        """Request a new connection. The driver then calls `disconnect` and `lost`, or abandons the attempt.

        This sets only a flag, so that an exception of a signal handler cannot leave the session half changed.
        """
        self.dropped = True

    def take_drop(self) -> bool:
        """Return whether a new connection was requested, which the caller then makes with a new URL."""
        if not self.dropped:
            return False
        self.dropped = False
        self._driver.endpoints.restart()
        return True

    def stop(self, now: float, timeout: float, send_will: bool = False) -> None:
        """Start to close the client: queued messages are sent first. The driver then calls `disconnect` and `lost`.

        A further call can only reduce the timeout.

        Args:
            now: The current time in seconds.
            timeout: Seconds after which the connection is closed even if messages are incomplete.
            send_will: Whether to close the connection without DISCONNECT, so that the server publishes the will.
        """
        self._close_at = min(self._close_at, now + timeout) if self.stopping else now + timeout
        self._says_goodbye = self._says_goodbye and not send_will
        if not self.stopping:
            self.stopping, self._last_token = True, self.session.sender.next_token()

    def _drains(self, now: float) -> bool:
        """Return whether a client that is being closed has time left, and incomplete messages or requests."""
        return now < self._close_at and self.session.has_incomplete(self._last_token)

    @property
    def deadline(self) -> float | None:
        """The time by which `disconnect` must be called; None if the client is not being closed."""
        return self._close_at if self.stopping else None

    def disconnect(self, now: float) -> bool:
        """Start to close the connection if a new one was requested, or the client is being closed and need not wait.

        Before a close, call this after writing: what is still queued then does not fit in the socket, and is not sent.
        Before a new connection, call it first: the queue waits for that.

        Returns:
            Whether this produced output.
        """
        link = self.link
        if link is not None and self.dropped:
            # With `close(send_will=True)` and nothing left to send, no other connection follows.
            link.disconnect(now, 0.0, goodbye=self._says_goodbye or self._drains(now))
            return True
        if not self.stopping or link is None or link.connection.closed:
            return False
        if not self.reading:  # the answers to wait for follow data that has not been read
            self.reading = True
            link.connection.resume_reading(now)
        if self._drains(now):
            return False
        link.disconnect(now, max(0.0, self._close_at - now), goodbye=self._says_goodbye)
        return True

    def ending(self, now: float) -> bool:
        """Return whether the client is being closed and need not connect again."""
        return self.stopping and not self._drains(now)

    def called_off(self, now: float) -> bool:
        """Return whether to abandon the current attempt, or the wait for the next one."""
        return self.dropped or self.ending(now)

    def judge(self, error: Exception | None, now: float) -> Verdict:
        """Decide what follows from the end of a connection or of an attempt.

        This calls user code, so do not call it under the lock.

        Args:
            error: The reason of the end.
            now: The current time in seconds.
        """
        if self.called_off(now):
            return Verdict(error or ConnectionClosed())
        error, options = self._left_for or error, self.options
        if options.recover is not None and isinstance(error, ConnectError) and self._driver.ask(options.recover, error):
            self._recovers = True
            return Verdict(error, recovers=True)
        if self._tries_another(error):
            self._log(INFO, "%s: %s; trying another endpoint", self.client_id, error)
            return Verdict(error or ConnectionClosed(), recovers=True)
        error = self._conclude(error or ConnectionClosed(), now)
        if isinstance(error, PacketTooLarge) and options.oversize == "end":
            return Verdict(error, fatal=True)
        return Verdict(error, fatal=(not self._opening or self._retries) and self._driver.ask(options.end_on, error))

    def lost(self, verdict: Verdict, now: float) -> float | None:
        """Record that an attempt failed, or that the connection has ended.

        Args:
            verdict: The result of `judge`.
            now: The current time in seconds.

        Returns:
            When to begin the next attempt; None for never: the client is disconnected, and all futures have failed.
        """
        # The cases, in order: the client is being closed; the next attempt follows immediately; the program requested a
        # new connection; or the reconnect policy decides.
        error = verdict.error
        if self.link is not None:
            self.pending.fail_lost(error)
            self.link = None
        if self.ending(now):
            self.give_up(None)
            return None
        if verdict.recovers:
            if isinstance(error, HandshakeRejected):
                self._keeps_turn = True  # no CONNECT was sent, so the next attempt does not count again
            return now
        dropped = self.take_drop()
        if dropped:
            error = ConnectionClosed("a new connection was requested")
            self._attempts, self._short_lived, delay = 1, 0, 0.0  # if the new attempt fails, the second delay applies
        else:
            patience = None  # no further attempt
            if self._policy is not None and not verdict.fatal and (not self._opening or self._retries):
                patience = self._policy.delay(self._attempts, self._driver.random())
            if patience is None:
                self.give_up(error)
                return None
            self._attempts += 1
            delay = patience
        delay = max(delay, self.earliest - now)
        if self.stopping and now + delay >= self._close_at:  # the next attempt would be too late for `close`
            self.give_up(None)
            return None
        if dropped and self._opening and not self._retries:  # `open` waits for the next attempt instead
            return now + delay
        if self._opening:  # with `retry_first`, `open` returns after the first attempt
            self._opening = False
            self.pending.resolve(self.opened, None)
        self.error, self._reason, self._connected_at = error, str(error), None
        self._log(INFO, "the connection of %s ended: %s", self.client_id, error)
        self._set_state(State("disrupted", error, endpoint=self._endpoint))
        self._set_state(State("reconnecting", delay=delay))
        return now + delay

    def _tries_another(self, error: Exception | None) -> bool:
        """Record the result of the endpoint. Return whether to try another one immediately."""
        endpoints = self._driver.endpoints
        if self._connected_at is None:
            return endpoints.failed(silent=isinstance(error, ConnectTimeout))
        endpoints.lost()
        return False

    def _conclude(self, error: Exception, now: float) -> Exception:
        """Draw conclusions from the end of a connection: update the counters, and return the error to report.

        A takeover is certain only if the server says so. It is likely if the server repeatedly accepts connections and
        closes them normally within seconds, unless a message or a request can be the cause.
        """
        random_id = self.options.client_id is None
        if random_id and isinstance(error, SessionTakenOver):  # no other client has a random identifier
            error = ConnectionClosed(error.message, error.code)
        if self._connected_at is None or self._policy is None:
            self._short_lived = 0  # the server could not be reached, which is no sign of a takeover
            return error
        if now - self._connected_at >= self._policy.stable_after:
            self._attempts = self._short_lived = 0
            return error
        session = self.session
        orderly = type(error) is ConnectionClosed and error.code in ORDERLY_CODES
        if random_id or not orderly or session.sender.in_flight or session.requests_sent:
            self._short_lived = 0
            return error
        self._short_lived += 1
        if self._short_lived < self._policy.takeovers:
            return error
        return TakeoverSuspected(
            f"the server accepted and closed {self._short_lived} connections in a row within "
            f"{self._policy.stable_after:g} s each: another client may use the client identifier "
            f"{self.client_id!r}, or the server rejects an action of this client"
        )

    def give_up(self, error: Exception | None) -> None:
        """End the client: all futures fail, and the state is "disconnected".

        A second call has no effect, but it completes one that an exception of a signal handler has interrupted.
        """
        cause = self.pending.ended
        if cause is None:
            cause = error if self.running else error or self.error  # `self.error`: from an `open` that failed
            cause = cause or ConnectionClosed("the client was closed before this was complete")
        self.link = self._connected_at = None
        self.pending.fail_all(cause)
        self.pending.resolve(self.opened, to_raise(cause))
        if self.running:
            self.error = error
            self._set_state(State("disconnected", error=error))
            self.running = False
        if self._holder is not None:
            self._holder.active = False

    def fork(self, child: Core[F]) -> ConnectionClosed:
        """Prepare the core of a forked child process. The connection stays with the parent.

        Args:
            child: The new core, whose calls fail until it is opened.

        Returns:
            The error with which the parent's futures fail in the child.
        """
        error = ConnectionClosed("the process was forked, and the connection belongs to the parent")
        child.routes = self.routes
        if self.running:
            child.error = child.pending.ended = error
        return error

    def take_futures(self, error: Exception) -> list[F]:
        """In a forked child process: remove and return the parent's futures, which must fail there."""
        futures = self.pending.take_all(error)
        return futures if self.opened is None else [*futures, self.opened]

    @property
    def deliverable(self) -> bool:
        """Whether there are messages for a callback."""
        return bool(self.calls.messages) and not self.stopping

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge a message that its consumer has finished."""
        if publish.qos:
            self.session.receiver.acknowledge(publish)
            if publish.qos == 2 and self.session.store is not None:  # after a crash it must not be delivered again
                try:
                    self.session.store.commit()
                except StoreError:  # sending the PUBREC commits again, and ends the connection if that fails
                    pass

    def _log(self, level: int, message: str, *arguments: object) -> None:
        self.callbacks.add(self._driver.log, level, (message, *arguments))

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._log(DEBUG, "%s: %s", self.client_id, state.name)
            if self.options.on_state is not None:
                self.callbacks.add(self._driver.call_back, self.options.on_state, state)


def _failed_attempt(error: MQTTError | None) -> MQTTError | None:
    """Return the error of an attempt that ended before the CONNACK, whatever the server has sent instead."""
    if not isinstance(error, RemoteProtocolError):
        return error
    failure = ConnectError(str(error))
    failure.__cause__ = error
    return failure


def _too_large(topic: str, size: int, most: int) -> PacketTooLarge:
    """Return the error to report for a message that was skipped."""
    message = f"a message of {size:,} bytes to {topic!r} was skipped: the maximum is {most:,} (max_packet_size)"
    return PacketTooLarge(message, "§2.2.3", topic, size)
