"""The network thread of a blocking client: a lock, a selector, and turns.

Everything is done in turns, and each turn is one step of this sequence::

    _idle -> _ask -> _dial -> _move ... -> (lost) -> _idle     or the end

`_idle` waits until an attempt is due, `_ask` asks for the URL, `_dial` makes the TCP connection, `_move` writes, waits
and reads. After each step callbacks run. The thread takes turn after turn; whoever waits inside a callback, which
runs in this very thread, takes the turns himself until what he waits for has come. User code never runs under the
lock. The lock is reentrant, because the garbage collector may end an abandoned iteration, which acknowledges its
last message, at any moment.

One thing is done outside the thread: a lone message of QoS 0 is written by whoever publishes it (`send_at_once`). It
touches neither the session nor the events, so that an exception of a signal handler in its midst leaves them whole.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable
from math import inf
from typing import Any

from mqttws.client.attempt import Attempt
from mqttws.client.core import Core
from mqttws.errors import MQTTError, WouldDeadlock
from mqttws.protocol.connection import earlier
from mqttws.sockets import READ_SIZE, acknowledge_at_once
from mqttws.sync.dial import Dialer

logger = logging.getLogger("mqttws")

#: Seconds from one call to the next within which they belong to one burst.
BURST = 20e-6


class Network:
    """The thread of one client.

    Args:
        core: what it drives.
        url: of the server, or a callable that gives a fresh one for each attempt.

    Attributes:
        lock: guards the core.
        changed: notified when messages came, room was made, or the client has ended.
        woken: whether the thread is about to look what there is to do.
    """

    def __init__(self, core: Core[Any], url: str | Callable[[], str]) -> None:
        self.core = core
        self._url = url
        self._thread: threading.Thread | None = None
        self._forget()

    def _forget(self) -> None:
        """Begin anew; in a forked child the old locks may be held by threads that are not there."""
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self._step: Callable[[float | None], None] | None = None
        self._due = 0.0  # when the next attempt is to be made
        self._attempt: Attempt | None = None
        self._dialer: Dialer | None = None
        self._socket: socket.socket | None = None
        self._unsent = memoryview(b"")
        self._sending: tuple[bytes, list[int]] | None = None  # at once, and how much of it the socket has taken
        self._sent_at = -inf  # when something was sent at once for the last time
        self._selector: selectors.BaseSelector | None = None
        self._wake_in: socket.socket | None = None
        self._wake_out: socket.socket | None = None
        self.woken = False
        self._identity = 0  # of the thread

    # For other threads.

    @property
    def is_current(self) -> bool:
        """Whether this is the network thread."""
        return threading.get_ident() == self._identity

    def start(self) -> None:
        """Begin to connect.

        Raises:
            MQTTError: the client is open already.
        """
        if not self.is_current and not self.core.running:
            self.join(1.0)  # the thread of an earlier life, which is over
        with self.lock:
            if self._thread is not None and not self.core.running:
                raise MQTTError("the client is still closing: one of its callbacks has not returned")
            self.core.begin()
            try:
                self._wake_in, self._wake_out = socket.socketpair()
                self._wake_in.setblocking(False)
                self._wake_out.setblocking(False)
                self._selector = selectors.DefaultSelector()
                self._selector.register(self._wake_in, selectors.EVENT_READ)
                self._step, self._due = self._idle, 0.0
                self._thread = threading.Thread(target=self._run, name=f"mqttws {self.core.client_id}", daemon=True)
                self._thread.start()
            except BaseException:
                self.core.give_up(None)
                self._clean_up()
                raise

    def stop(self, timeout: float) -> None:
        """Close the client, and wait for it unless this is its own thread."""
        with self.lock:
            if self._thread is not None:
                self.core.stop(timeout)
            else:
                self.core.give_up(None)
            self.wake()
        if self._thread is None:
            self.core.calls.run()
        elif not self.is_current:
            self.join(timeout + 1.0)

    def join(self, timeout: float) -> None:
        """Wait for the end of the thread."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)

    def wake(self) -> None:
        """Make the thread look again; for itself there is no need to."""
        with self.lock:
            if not self.woken and self._wake_out is not None and not self.is_current:
                self.woken = True
                self._wake_out.send(b"\0")

    def send_at_once(self, packet: bytes, burst: float = 0.0) -> bool:
        """Send a PUBLISH of QoS 0 in the calling thread, which spares two changes of threads. Under the lock.

        Args:
            packet: the whole PUBLISH.
            burst: seconds from one call to the next within which they belong together: then the thread is to send
                their messages in one piece, and this does nothing.

        Returns:
            Whether it is sent. If not, nothing has happened.
        """
        self._note_sending()
        link, now = self.core.link, time.monotonic()
        if link is None or self._socket is None or self._unsent or now - self._sent_at < burst:
            return False
        data = link.frame_now(packet, now)
        if data is None:
            return False
        # Ctrl-C may raise an exception in this thread between any two steps, when the socket has taken the bytes and
        # nobody knows of it yet. So their count is put down by the very call that makes the socket take them.
        counts: list[int] = []
        self._sending = data, counts
        try:
            counts.extend(map(self._socket.send, (data,)))
        except OSError:  # it is full, or broken: the thread will meet that, too
            return False
        finally:
            self._note_sending()
        self._sent_at = now
        if self._unsent:
            self.wake()
        return True

    def _note_sending(self) -> None:
        """Note how much the socket has taken of what was sent at once."""
        if self._sending is not None:
            data, counts = self._sending
            if counts:
                self._unsent = memoryview(data)[counts[0] :]
            self._sending = None

    def drop(self) -> None:
        """Make a new connection at once."""
        with self.lock:
            self.core.drop(time.monotonic())
            self._due = 0.0
            self.wake()

    def take_turns(self, done: Callable[[], bool], deadline: float) -> None:
        """Inside a callback: move bytes until something is done.

        Args:
            done: tells.
            deadline: when to give up.

        Raises:
            WouldDeadlock: this very callback must return first.
        """
        while not done() and time.monotonic() < deadline:
            if self._step is None:
                raise WouldDeadlock("the network waits for this callback to return; use the _nowait form here")
            self._turn(deadline if self.core.reading else time.monotonic())
            if not done() and self.core.link is not None and not self.core.reading:
                raise WouldDeadlock(
                    f"{len(self.core.inbound)} messages wait for this callback to return, so nothing more is read; "
                    "use the _nowait form here, or raise max_inbound"
                )

    def forget_parent(self) -> None:
        """In a forked child: the thread is gone, and the sockets are the parent's."""
        mine = (self._selector, self._socket, self._wake_in, self._wake_out)
        self._thread = None
        self._forget()
        for each in mine:
            if each is not None:
                each.close()  # the parent's copies stay open
        self.core.forget_parent()

    # The thread.

    def _run(self) -> None:
        """Take turns until the end."""
        self._identity = threading.get_ident()
        try:
            while self._step is not None or self.core.deliverable:
                if self._step is not None:
                    self._turn(None)
                self.core.deliver(self._acknowledge)
        except BaseException as error:  # a defect of ours, or SystemExit: nobody must wait for ever because of it
            logger.exception("the network thread of %r failed", self.core.client_id)
            with self.lock:
                self.core.give_up(error if isinstance(error, Exception) else None)
        finally:
            try:
                self.core.calls.run()
            finally:
                with self.lock:
                    self._clean_up()

    def _clean_up(self) -> None:
        """Close everything. Under the lock."""
        if self._dialer is not None:
            self._dialer.close()
        for each in (self._socket, self._selector, self._wake_in, self._wake_out):
            if each is not None:
                each.close()
        self._dialer = self._socket = self._selector = self._wake_in = self._wake_out = self._thread = None
        self._identity = 0
        self.woken = False
        self.changed.notify_all()

    def _turn(self, until: float | None) -> None:
        """Take one step, waiting until some time at most; then call back."""
        assert self._step is not None
        self._step(until)
        self.core.calls.run()

    def _acknowledge(self, message: Any) -> None:
        with self.lock:
            self.core.acknowledge(message)

    def _idle(self, until: float | None) -> None:
        """Wait until the next attempt is due."""
        if self.core.stopping:
            self._lost(None)
        elif time.monotonic() < self._due:
            self._select(until, self._due)
        else:
            with self.lock:
                self.core.begin_attempt()
            self._step = self._ask

    def _ask(self, until: float | None) -> None:
        """Ask for the URL, and begin to connect."""
        self._step = None  # what waits inside the user's callable waits in vain
        try:
            url = self._url() if callable(self._url) else self._url
            with self.lock:
                attempt = self.core.make_attempt(url, time.monotonic())
        except Exception as error:
            self._lost(error)
            return
        assert self._selector is not None
        self._attempt, self._step = attempt, self._dial
        try:
            self._dialer = Dialer(attempt.host, attempt.port, self._selector, self.wake)
        except OSError as error:
            self._lost(attempt.failed(error))

    def _dial(self, until: float | None) -> None:
        """Go on connecting."""
        attempt, dialer = self._attempt, self._dialer
        assert attempt is not None
        assert dialer is not None
        if self.core.called_off:
            self._lost(None)
            return
        try:
            connected = dialer.advance(time.monotonic())
            if connected is None:
                ready = self._select(until, earlier(attempt.deadline, dialer.next_deadline()))
                now = time.monotonic()
                connected = dialer.advance(now, ready)
                if connected is None and now >= attempt.deadline:
                    raise TimeoutError("no address answered in time")
        except OSError as error:
            self._lost(attempt.failed(error))
            return
        if connected is not None:
            dialer.close()
            with self.lock:
                self._socket, self._dialer = connected, None
                self.core.establish(attempt)
            self._step = self._move

    def _move(self, until: float | None) -> None:
        """Write, wait, read."""
        core, now = self.core, time.monotonic()
        link = core.link
        assert link is not None
        with self.lock:
            core.disconnect(now)
            broken = self._write(now)
            if broken is not None:
                link.broke(broken, now)
            core.advance(now)
            self.changed.notify_all()
            over = link.over(now, bool(self._unsent))
            if core.calls and not over:
                return  # whoever waits to hear that something was sent goes on while this thread reads
            # Inside a callback no messages are delivered, or callbacks would nest.
            waits = bool(core.calls) or (until is None and core.deliverable)
            deadline = now if waits else link.next_deadline()
        if over:
            self._lost(core.error)
            return
        data = self._read(until, deadline)
        now = time.monotonic()
        with self.lock:
            if isinstance(data, OSError):
                link.broke(data, now)
            elif data:
                link.receive_data(data, now)
            elif data is not None:
                link.receive_eof(now)
            link.handle_timeout(now)
            core.advance(now)
            self.changed.notify_all()

    def _write(self, now: float) -> OSError | None:
        """Write all that the socket takes. Under the lock. Returns what broke it, if anything did."""
        assert self.core.link is not None
        assert self._socket is not None
        self._note_sending()
        try:
            while True:
                if not self._unsent:
                    data = self.core.link.data_to_send(now)
                    if not data:
                        return None
                    self._unsent = memoryview(data)
                sent = self._socket.send(self._unsent)
                self._unsent = self._unsent[sent:]
        except BlockingIOError:
            return None
        except OSError as error:
            self._unsent = memoryview(b"")
            return error

    def _read(self, until: float | None, deadline: float | None) -> bytes | OSError | None:
        """Wait, then read once.

        Returns:
            Bytes; b"" at their end; what broke the socket; or None, if there is nothing.
        """
        connection = self._socket
        assert connection is not None
        self._watch(connection)
        ready = self._select(until, deadline)
        if connection not in ready or not self.core.reading:
            return None
        try:
            data = connection.recv(READ_SIZE)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        acknowledge_at_once(connection)
        return data

    def _watch(self, connection: socket.socket) -> None:
        """Have the selector tell what is of interest now."""
        selector = self._selector
        assert selector is not None
        events = selectors.EVENT_READ if self.core.reading else 0
        if self._unsent:
            events |= selectors.EVENT_WRITE
        key = selector.get_map().get(connection)
        if key is None and events:
            selector.register(connection, events)
        elif key is not None and not events:
            selector.unregister(connection)
        elif key is not None and key.events != events:
            selector.modify(connection, events)

    def _select(self, until: float | None, deadline: float | None) -> list[socket.socket]:
        """Wait until something happens, or until the earlier of two times. Returns the sockets it happened to."""
        assert self._selector is not None
        until = earlier(until, deadline)
        timeout = None if until is None else max(0.0, until - time.monotonic())
        ready: list[socket.socket] = []
        for key, _ in self._selector.select(timeout):
            if key.fileobj is self._wake_in:
                self._drain_wake()
            else:
                assert isinstance(key.fileobj, socket.socket)
                ready.append(key.fileobj)
        return ready

    def _drain_wake(self) -> None:
        with self.lock:
            self.woken = False
            assert self._wake_in is not None
            try:
                self._wake_in.recv(64)
            except BlockingIOError:
                pass

    def _lost(self, error: Exception | None) -> None:
        """Note the end of a connection, or of an attempt."""
        self._step = None
        recovers = self.core.recovers(error)
        with self.lock:
            due = self.core.lost(error, recovers, time.monotonic())
            self.changed.notify_all()
        if self._dialer is not None:
            self._dialer.close()
            self._dialer = None
        if self._socket is not None:
            assert self._selector is not None
            if self._socket in self._selector.get_map():
                self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None
        self._unsent, self._sending = memoryview(b""), None
        if due is not None:
            self._due, self._step = due, self._idle
