"""What both drivers are made of: a client without its waiting.

`Core` holds the session, the queue of messages that came in, the state, and every decision about when a connection is
made and when the client has ended; what it owes its callers is in `Promises`. It neither waits nor locks. A driver
calls it under its lock, if it has one; what runs user code is said to, and is called outside of it.

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
from collections.abc import Callable

from mqttws.client import attempt
from mqttws.client.callbacks import guarded, report
from mqttws.client.layers import Link
from mqttws.client.options import Options, State
from mqttws.client.pending import F, Promises
from mqttws.client.sent import Handover
from mqttws.codec.publishing import Publish
from mqttws.errors import ConnectError, ConnectionClosed, MQTTError, SessionTakenOver
from mqttws.protocol.events import Closed, Connected, Delivered, Sent, Subscribed, Unsubscribed
from mqttws.protocol.session import Session

logger = logging.getLogger("mqttws")

#: Seconds that callbacks may take before the network gets its turn.
CALLBACK_SLICE = 0.05


class Core(Promises[F]):
    """A client without its waiting.

    Args:
        options: of the client.
        make_future: makes a future of the driver's kind.
        make_receipt: makes one for a message of QoS 0, by its `Handover` and its token.
        settle: gives such futures their outcome, a result or an exception; one that was cancelled stays so.

    Attributes:
        running: whether the client is open: from `begin` until it was closed, or gave up.
        stopping: whether it is being closed.
        opened: done when the first attempt has succeeded or failed.
        state: see `State`.
        error: why the last connection ended; once the client has, why that was: None for `close`.
        link: the Network Connection; None while there is none.
        inbound: the messages that wait to be taken.
        reading: whether more is to be read from the network.
    """

    def __init__(
        self,
        options: Options,
        make_future: Callable[[], F],
        make_receipt: Callable[[Handover[F], int], F],
        settle: Callable[[list[F], object], None],
    ) -> None:
        session = Session(options.max_in_flight, options.max_queued, options.max_queued_bytes)
        super().__init__(options, session, make_future, make_receipt, settle)
        self.client_id = options.client_id if options.client_id is not None else _random_client_id()
        if options.store is not None:
            session.keep_in(options.store, self.client_id)
        self.running = self.stopping = False
        self.opened: F | None = None
        self.state = State("disconnected")
        self.error: Exception | None = None
        self.link: Link | None = None
        self.inbound: deque[Publish] = deque()
        self.reading = True
        self._policy = options.policy
        self._opening = False  # whether the first attempt is under way
        self._close_timeout = 0.0
        self._dropped = False  # whether the user asked for a new connection
        self._attempts = 0
        self._short_lived = 0
        self._connected_at: float | None = None
        attempt.make_connect(options, self.client_id)  # checks the options while the caller is there to be told

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

    def make_attempt(self, url: str, now: float) -> attempt.Attempt:
        """Go on with an attempt: this is the URL. A TCP connection is to be made next.

        Raises:
            ConnectError: this cannot be connected to, or the upgrade request cannot be made.
            ssl.SSLError, OSError: the TLS context cannot be made.
        """
        return attempt.make_attempt(url, self.options, self.client_id, self.session, now)

    def establish(self, made: attempt.Attempt) -> None:
        """Go on with an attempt: there is a TCP connection."""
        self.link = made.link
        self.reading = True

    def advance(self, now: float) -> None:
        """Act on what has happened on the link."""
        assert self.link is not None
        events, inbound = self.link.connection.machine.events, self.inbound
        while events:
            event = events.popleft()
            if type(event) is Publish:
                inbound.append(event)
            elif type(event) is Delivered:
                self._delivered(event.tokens)
            elif type(event) is Sent:
                self._sent(event.token)
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
                self.calls.log(logging.INFO, "%d messages wait to be taken; nothing more is read", len(self.inbound))
        elif not self.reading and len(self.inbound) <= self.options.max_inbound // 2:
            self.reading = True
            self.link.connection.resume_reading(now)

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
        self.calls.log(logging.INFO, "the connection of %s ended: %s", self.client_id, error)
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
        self._break(error or ConnectionClosed("the client was closed before this was complete"))
        self._resolve(self.opened, self._ended)
        self._set_state(State("disconnected", error=error))

    def forget_parent(self) -> None:
        """In a forked child: what runs here is the parent's, and so are its futures and callbacks."""
        if self.running:
            self.give_up(ConnectionClosed("the process was forked, and the connection is the parent's"))
        if self.options.client_id is None:
            self.client_id = _random_client_id()  # or both would fight for it
        self.calls.clear()

    # What runs user code: to be called outside the lock, by one thread.

    @property
    def deliverable(self) -> bool:
        """Whether there is something for `deliver` to do."""
        return bool(self.inbound) and self.options.on_message is not None and not self.stopping

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
            try:
                on_message(message)
            except Exception:
                report(on_message)
            if message.qos and not manual_ack:
                acknowledge(message)
            if time.monotonic() >= end:
                break

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.calls.log(logging.DEBUG, "%s: %s", self.client_id, state.name)
            if self.options.on_state is not None:
                self.calls.add(guarded, self.options.on_state, state)


def _random_client_id() -> str:
    return f"mqttws-{os.urandom(8).hex()}"
