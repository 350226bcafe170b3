"""What both drivers are made of: a client without waiting.

`Core` holds the session, the messages that came in, the pending futures, the state, and every decision about when a
connection is made and when the client has ended. It neither waits nor locks nor reads a clock. A driver calls it under
its lock, if it has one. What runs user code is noted in `callbacks`, which the driver runs outside the lock.

The life of a client::

    begin -> begin_attempt -> make_attempt -> establish -> advance ... -> lost -> begin_attempt ...
                                                                             └-> (give_up) the end, until `begin`
"""

from __future__ import annotations

from typing import Generic

from mqttws.client import attempt
from mqttws.client.callbacks import DEBUG, INFO, Callbacks
from mqttws.client.driver import Driver, F
from mqttws.client.inbox import Inbox
from mqttws.client.layers import Link
from mqttws.client.options import Options, State
from mqttws.client.pending import Pending
from mqttws.codec.publishing import Publish
from mqttws.errors import ConnectError, ConnectionClosed, MQTTError, SessionTakenOver, StoreError
from mqttws.protocol.events import Closed, Connected, Delivered, Sent, Subscribed, Unsubscribed
from mqttws.protocol.session import Session

#: Seconds that callbacks may take before the network gets its turn.
CALLBACK_SLICE = 0.05


class Core(Generic[F]):
    """A client without waiting.

    Args:
        options: of the client.
        driver: what it is driven by.

    Attributes:
        options: of the client.
        client_id: the client identifier.
        session: what outlives a connection.
        pending: the futures that callers wait for.
        callbacks: what is to be called outside the lock.
        running: whether the client is open: from `begin` until it was closed, or gave up.
        stopping: whether it is being closed.
        opened: done when the first attempt has succeeded or failed.
        state: see `State`.
        error: why the last connection ended; once the client has, why that was: None for `close`.
        link: the Network Connection; None while there is none.
        inbox: the messages that wait to be taken.
        reading: whether more is to be read from the network.
    """

    def __init__(self, options: Options, driver: Driver[F]) -> None:
        self.options = options
        self.client_id = (
            options.client_id if options.client_id is not None else f"mqttws-{driver.random_bytes(8).hex()}"
        )
        self.session = Session(options.max_in_flight, options.max_queued, options.max_queued_bytes)
        if options.store is not None:
            self.session.keep_in(options.store, self.client_id)
        self.callbacks = Callbacks()
        self.pending: Pending[F] = Pending(options, self.session, driver, self.callbacks)
        self._driver = driver
        self.running = self.stopping = False
        self.opened: F | None = None
        self.state = State("disconnected")
        self.error: Exception | None = None
        self.link: Link | None = None
        self.inbox = Inbox()
        self.reading = True
        self._policy = options.policy
        self._opening = False  # whether the first attempt is under way
        self._close_timeout = 0.0
        self._dropped = False  # whether the user asked for a new connection
        self._attempts = 0
        self._short_lived = 0
        self._connected_at: float | None = None
        attempt.make_connect(options, self.client_id)  # checks the options in the call that gives them

    def check_waiting(self) -> None:
        """Check that to wait for the network can come to an end.

        Raises:
            MQTTError: the client has not been opened.
        """
        if not self.running and self.pending.ended is None:
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
        self.error = self.pending.ended = None
        self.opened = self._driver.make_future()
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
        events, messages, pending = self.link.events, self.inbox.messages, self.pending
        came = len(events)
        while events:
            event = events.popleft()
            if type(event) is Publish:
                messages.append(event)
                continue
            came -= 1
            if type(event) is Delivered:
                pending.delivered(event.tokens)
            elif type(event) is Sent:
                pending.note_sent(event.token)
            elif isinstance(event, Subscribed):
                if event.token is None:
                    pending.restored(event.return_codes)
                else:
                    pending.answered(event.token, event.return_codes)
            elif isinstance(event, Unsubscribed):
                pending.answered(event.token, ())
            elif isinstance(event, Connected):
                self._connected_at, self._opening = now, False
                self._set_state(State("connected", session_present=event.session_present))
                self.pending.resolve(self.opened, None)
            elif isinstance(event, Closed):
                self.error = event.error
        if came:
            self.inbox.note(came, self.link.take_received())
        if not self.stopping:
            self._regulate(now)

    def _regulate(self, now: float) -> None:
        """Read on or not, by how many bytes of messages wait to be taken.

        As long as they are within their bound everything is read, so that no acknowledgement waits for the program.
        """
        assert self.link is not None
        most = self.options.max_inbound_bytes
        size = self.inbox.size()
        if self.reading and size >= most:
            self.reading = False
            self.link.connection.pause_reading()
            self._log(INFO, "messages of %d bytes wait to be taken; nothing more is read", size)
        elif not self.reading and size <= most // 2:
            self.reading = True
            self.link.connection.resume_reading(now)

    @property
    def stalled(self) -> str:
        """Why no answer can come before messages are taken; empty where nothing keeps the client from reading."""
        if self.link is None or self.reading:
            return ""
        return f"messages of {self.inbox.size():,} bytes wait to be taken, so nothing more is read"

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
            self._driver.report(recover)
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
                patience = self._policy.delay(self._attempts, self._driver.random())
            if patience is None:
                self.give_up(error)
                return None
            self._attempts += 1
            delay = patience
        self.error, self._connected_at = error, None
        self._log(INFO, "the connection of %s ended: %s", self.client_id, error)
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
        if self.pending.ended is not None:
            return
        self.link = self._connected_at = None
        self.running = False
        self.error = error
        self.pending.fail_all(error or ConnectionClosed("the client was closed before this was complete"))
        self.pending.resolve(self.opened, self.pending.ended)
        self._set_state(State("disconnected", error=error))

    def fork(self, child: Core[F]) -> ConnectionClosed:
        """In a forked child: leave the connection to the parent. The new core of the child says so until it is opened.

        Returns:
            Why the parent's futures fail in the child.
        """
        error = ConnectionClosed("the process was forked, and the connection is the parent's")
        if self.running:
            child.error = child.pending.ended = error
        return error

    def take_futures(self, error: Exception) -> list[F]:
        """In a forked child: take the parent's futures, which are to fail there."""
        futures = self.pending.take_all(error)
        return futures if self.opened is None else [*futures, self.opened]

    @property
    def deliverable(self) -> bool:
        """Whether there are messages for `on_message`."""
        return bool(self.inbox.messages) and self.options.on_message is not None and not self.stopping

    def acknowledge(self, publish: Publish) -> None:
        """Acknowledge a message whose consumer has taken it."""
        if publish.qos:
            self.session.receiver.acknowledge(publish)
            if publish.qos == 2 and self.options.store is not None:  # it must not come again
                try:
                    self.options.store.commit()
                except StoreError:  # the PUBREC will meet it, too, and end the connection over it
                    pass

    def _log(self, level: int, message: str, *arguments: object) -> None:
        self.callbacks.add(self._driver.log, level, (message, *arguments))

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._log(DEBUG, "%s: %s", self.client_id, state.name)
            if self.options.on_state is not None:
                self.callbacks.add(self._driver.call_back, self.options.on_state, state)
