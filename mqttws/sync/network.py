"""The network thread of a blocking client: a lock, sockets to wait for, and a state machine.

The thread executes turns. Each turn is one step of this sequence::

    _idle -> _ask -> _dial -> _move ... -> (lost) -> _idle     or the end

`_idle` waits until an attempt is due, `_ask` gets the URL, `_dial` makes the TCP connection, and `_move` writes, waits
and reads. Callbacks run after each step. A callback runs in this thread, so a blocking call in it executes the turns
itself until it is done.

Other threads change the core under a lock, or post calls: see `owner` and `docs/concurrency.md`. The thread does all
I/O with one exception: a single message is written by the thread that publishes it (`send_at_once`, `publish_at_once`).
"""

from __future__ import annotations

import _socket
import errno
import os
import sys
import threading
import time
from _weakrefset import WeakSet  # all of `weakref` would delay the first message
from collections.abc import Callable, Sequence
from functools import partial

from mqttws.client.attempt import Attempt
from mqttws.client.callbacks import accepted
from mqttws.client.core import Core
from mqttws.client.endpoints import Endpoints
from mqttws.client.options import Options
from mqttws.codec import compiled
from mqttws.codec.publishing import Message, Publish, encode_publish
from mqttws.errors import ConnectError, MQTTError, WouldDeadlock
from mqttws.hints import TYPE_CHECKING, Any, Protocol, inf
from mqttws.locks import AtomicLock
from mqttws.log import packet_log
from mqttws.log import report as report_exception
from mqttws.log import write as write_record
from mqttws.poll import READ, WRITE, Poller
from mqttws.protocol.connection import earlier
from mqttws.protocol.outgoing import LONG, TOKEN, Outgoing
from mqttws.sockets import READ_HEAD, READ_SIZE, acknowledge_at_once, close, read_size, socket_pair
from mqttws.sync.delivering import deliver
from mqttws.sync.dial import Dialer
from mqttws.sync.future import LightFuture, Receipt
from mqttws.sync.owner import Owner, slice_until

if TYPE_CHECKING:
    import socket

    from mqttws.client.layers import Link

Url = str | Sequence[str] | Callable[[], str | Sequence[str]]

#: The maximum seconds of one wait for the network.
_LONGEST_WAIT = 3_600.0
_NOTHING = memoryview(b"")
#: A message that the calling thread sends: its bytes; how many of them the socket has accepted, in an empty list before
#: it has accepted any; and, not at QoS 0, its packet identifier and the message as it is in flight.
_Sending = tuple[bytes, list[int], int, Outgoing | None]
#: Whether signal handlers run between a lock's `__enter__` and the block that calls its `__exit__`: see `locks`.
_HAS_GAP = sys.version_info >= (3, 14)
#: Whether one system call can read into two buffers; not on Windows.
_SCATTERS = hasattr(_socket.socket, "recvmsg_into")


class Taker(Protocol):
    """An iteration over the messages.

    Attributes:
        thread: The identifier of the last thread that took a message.
        over: Whether the iteration has ended.
        message: The message that was taken last.
    """

    thread: int
    over: bool
    message: Publish | None

    def move_on(self) -> None:
        """Acknowledge the message that was taken last, if there is one."""


class Lock:
    """An `RLock` as interpreted code takes it fastest, by `with` only.

    For each `with`, an `RLock` creates two bound methods, because its class defines `__enter__` and `__exit__`. Here
    they are slots, which contain bound methods that exist already. Compiled code does not find methods in slots, and
    takes the `RLock` itself.

    Args:
        rlock: The lock that is taken.
    """

    __slots__ = ("__enter__", "__exit__")

    def __init__(self, rlock: Any) -> None:
        self.__enter__ = rlock.__enter__
        self.__exit__ = rlock.__exit__


class Network(Owner):
    """The thread of one client, and its core.

    Args:
        options: The options of the client.
        url: See `Client`.

    Attributes:
        iterations: The iterations over the messages.
    """

    #: Creates the lock; a test uses one that reports a second acquisition by the same thread.
    make_lock: Callable[[], Any] = AtomicLock if _HAS_GAP else staticmethod(threading.RLock)

    def __init__(self, options: Options, url: Url) -> None:
        self._options = options
        self.endpoints = Endpoints(url, options.url_order, self.random, options.check_use)
        self._has_lost_store = False
        self._begin()

    def _begin(self) -> None:
        """Create all state; also in a forked child, where no object of the parent may be used."""
        rlock = self.make_lock()
        super().__init__(rlock, rlock if compiled or _HAS_GAP else Lock(rlock))
        self.core = Core(self._options, self, time.monotonic(), time.time())
        self.iterations: WeakSet[Taker] = WeakSet()
        self._step: Callable[[float | None], None] | None = None
        self._due = 0.0  # when the next attempt is to be made
        self._attempt: Attempt | None = None
        self._dialer: Dialer | None = None
        self._socket: socket.socket | None = None
        self._read_size = READ_SIZE
        self._has_more = False  # whether the last read was full, so that the socket has more
        self._unacknowledged = False  # whether TCP is still to acknowledge what was read
        self._beyond = bytearray()  # for what follows a long message
        self._unsent = _NOTHING
        self._sending: _Sending | None = None
        self._sent_at = -inf  # when `_send` has written for the last time
        self._poller: Poller | None = None
        self._watched = 0  # what the socket is watched for

    # The interface for the core: see `mqttws.client.driver`.

    make_future = staticmethod(LightFuture)
    settle = staticmethod(LightFuture.settle_all)
    make_receipt = staticmethod(Receipt.make)
    packet_log = staticmethod(packet_log)
    random_bytes = staticmethod(os.urandom)

    @staticmethod
    def ask(question: Callable[[Any], bool], error: Exception) -> bool:
        """See `Driver.ask`."""
        try:
            return bool(accepted(question(error)))
        except BaseException:  # `SystemExit`, too: this thread goes on
            report_exception(question)
            return False

    @staticmethod
    def random() -> float:
        """See `Driver.random`."""
        from random import random  # slow to import, and not needed before the first reconnection

        return random()

    def call_back(self, callback: Callable[[Any], object], argument: object) -> None:
        """See `Driver.call_back`."""
        try:
            accepted(callback(argument))
        except Exception:
            report_exception(callback)

    def log(self, level: int, message: tuple[Any, ...]) -> None:
        """See `Driver.log`."""
        write_record(level, message[0], message[1:])

    # For other threads.

    def look_again(self) -> None:
        """Do nothing. Passed to `call`, which wakes the thread, so that it reads again if it may."""

    def await_message(self, taker: Taker, timeout: float | None) -> Publish | None:
        """Wait for a message, and move it to an iteration.

        Args:
            taker: The iteration.
            timeout: Seconds; None: until the client is closed.

        Returns:
            The message; None if the time is up or the client was closed.

        Raises:
            WouldDeadlock: This is the network thread, which reads the messages.
            MQTTError: The client gave up, or is not open.
        """
        self.check_not_owned()
        if self.is_current:
            raise WouldDeadlock("messages cannot be iterated over inside a callback; on_message takes them")
        deadline = None if timeout is None else time.monotonic() + timeout
        source = self.core.inbox.source
        while True:
            # Watch first, then look: a message that comes between the two ends the wait.
            waiter = self.watch_messages()
            with self.lock:
                is_free = taker.message is None
                if is_free:
                    try:
                        for taker.message in source:  # see `Inbox.source`
                            return taker.message
                    except IndexError:
                        pass
                    if self.core.over or (deadline is not None and time.monotonic() >= deadline):
                        return None
            if is_free:
                waiter.wait(slice_until(deadline))
            else:  # another thread has taken a message from the same iteration
                taker.move_on()

    def give_back(self, messages: list[Publish], after: int) -> None:
        """Move messages to the inbox; see `Inbox.give_back`. Requires the lock."""
        self.core.inbox.give_back(messages, after)
        self.notify()

    def check_progress(self) -> None:
        """Check that a wait of this thread can end.

        Raises:
            WouldDeadlock: Nothing is read before messages are taken, and this is the only thread that takes them.
        """
        stalled = self.core.stalled
        if stalled:
            with self.lock:
                takers = {iteration.thread for iteration in filter(lambda each: not each.over, self.iterations)}
            if takers == {threading.get_ident()}:
                raise WouldDeadlock(f"{stalled}, and this thread takes them; use the _nowait form here")

    def start(self, retries: bool) -> None:
        """Begin to connect.

        Args:
            retries: Whether a first attempt that fails is followed by others.

        Raises:
            ConnectError: The system has no file descriptors or threads left.
            MQTTError: The client is already open.
        """
        self.check_not_owned()
        if self._has_lost_store:
            raise MQTTError(
                "the store belongs to the parent process; close it before the fork, or use another file in this process"
            )
        if not self.is_current and not self.core.running:
            self.join(1.0)  # the client was open before, and its thread may not have ended yet
        thread = threading.Thread(target=self._run, name=f"mqttws {self.core.client_id}", daemon=True)
        try:
            with self.lock:
                if self._runner is not None and not self.core.running:
                    raise MQTTError("the client is still closing: one of its callbacks has not returned")
                if not self.core.running:
                    self._starter = threading.get_ident()  # before the thread, which is this thread's from then on
                    self._runner = thread  # first of all, so that the handler below undoes the rest
                self.core.begin(retries)
                self._wake_in, self._wake_out = socket_pair()
                self._poller = Poller()
                self._poller.watch(self._wake_in, READ)
                self._step, self._due = self._idle, 0.0
            thread.start()  # without the lock, for which the thread would wait
        except BaseException as error:
            with self.lock:
                if self._runner is thread:
                    if thread.ident is not None:
                        self.core.stop(time.monotonic(), 0.0)  # an interrupt after the start: the thread cleans up
                        self.wake()
                    else:
                        self.core.give_up(None)
                        self.core.unopened()
                        self._clean_up()
            if isinstance(error, (OSError, RuntimeError)):
                raise ConnectError(f"cannot connect: {error}") from error
            raise

    def stop(self, timeout: float, send_will: bool = False) -> None:
        """Start to close the client, and return immediately."""
        self.call(self._stop, timeout, send_will)
        if self._runner is None and not self.owned():
            self.core.callbacks.run()

    def _stop(self, timeout: float, send_will: bool) -> None:
        if self._runner is not None:
            self.core.stop(time.monotonic(), timeout, send_will)
        else:
            self.core.give_up(None)

    def join(self, timeout: float) -> None:
        """Wait until the network thread has ended. Do nothing in that thread, or if this thread holds the lock."""
        thread = self._runner
        # A thread that `start` has not started yet finds the client closed. If this is a signal handler that interrupts
        # `start`, the thread cannot even begin before this returns.
        if thread is None or thread.ident is None or self.is_current or self.owned():
            return
        # In Python 3.11 an exception that interrupts `Thread.join` makes later calls return as if the thread had ended
        # (bpo-45274). So wait for `_clean_up` first, which sets `_runner` to None.
        deadline = time.monotonic() + timeout
        while self._runner is thread and time.monotonic() < deadline:
            waiter = self.watch()
            if self._runner is thread:
                waiter.wait(slice_until(deadline))
        if self._runner is not thread:
            thread.join(slice_until(deadline))

    def send_at_once(self, packet: bytes, burst: float = 0.0) -> bool:
        """Send a PUBLISH of QoS 0 in the calling thread, which saves two thread switches. Requires the lock.

        Args:
            packet: The encoded PUBLISH.
            burst: Seconds. If the last call was less than this ago, do nothing: the network thread sends the messages
                of a burst together.

        Returns:
            Whether the packet was sent. If not, nothing has changed.
        """
        self._note_sending()
        link, now = self.core.link, time.monotonic()
        if link is None or self._socket is None or self._unsent or now - self._sent_at < burst or self.core.dropped:
            return False
        data = link.frame_now(packet, now)
        if data is None:
            return False
        sending = self._sending = data, [], 0, None
        try:
            return self._send(sending, now)
        except BaseException:
            self._wake_up()  # the network thread writes the rest, if the socket has accepted a part
            raise

    def publish_at_once(self, message: Message, burst: float = 0.0) -> tuple[int, LightFuture] | None:
        """Send a message of QoS 1 or 2 in the calling thread, which saves two thread switches. Requires the lock.

        Args:
            message: The message.
            burst: See `send_at_once`.

        Returns:
            The token and the future of the message. None if it must be queued: then nothing has changed.
        """
        self._note_sending()
        core, now = self.core, time.monotonic()
        link, pending = core.link, core.pending
        if link is None or self._socket is None or self._unsent or now - self._sent_at < burst or core.dropped:
            return None
        # In a callback, the network thread writes the message together with acknowledgements, after the callback.
        if len(message.payload) >= 2 * LONG or not message.qos or pending.ended is not None or self.is_current:
            return None
        alone = pending.sender.next_alone(message)
        if alone is None:
            return None
        packet_id, outgoing = alone
        packet = encode_publish(message.topic, message.payload, message.qos, message.retain, False, packet_id)
        data = link.frame_now(packet, now, message.qos)
        if data is None:
            return None
        # In this order: the message is in flight only if the bytes to be sent are known, and they are sent only if it
        # is. An exception of a signal handler may come between any two of these steps.
        sending = self._sending = data, [], packet_id, outgoing
        try:
            pending.sender.begin(packet_id, outgoing)
            future = pending.expect(outgoing[TOKEN])
            self._send(sending, now)
        except BaseException:
            self._wake_up()  # the network thread writes what is in flight
            raise
        return outgoing[TOKEN], future

    def _send(self, sending: _Sending, now: float) -> bool:
        """Write the bytes of `_sending`, as many as the socket accepts. Return False if it accepts none."""
        assert self._socket is not None
        data, counts = sending[:2]
        try:
            # An exception of a signal handler can come after any call, also after the socket has accepted the bytes and
            # before their count is stored. So one call in C sends the bytes and stores the count.
            counts.extend(map(self._socket.send, (data,)))
            self._sent_at = now
            return True
        except OSError:  # full or broken: the network thread gets the same error, and handles it
            return False
        finally:
            self._note_sending()
            if self._unsent:
                self.wake()

    def _note_sending(self) -> None:
        """Record how many bytes of `_sending` the socket has accepted. The network thread writes the others.

        If the socket has accepted none, a message of QoS 0 is not sent. One of QoS 1 or 2 is, if it is in flight.
        """
        if self._sending is not None:
            data, counts, packet_id, outgoing = self._sending
            if counts:
                self._unsent = memoryview(data)[counts[0] :]
            elif outgoing is not None and self.core.session.sender.published(packet_id) == outgoing:
                self._unsent = memoryview(data)
            self._sending = None

    def take_turns(self, done: Callable[[], bool], deadline: float) -> None:
        """Execute turns in a callback until a condition is true.

        Args:
            done: The condition.
            deadline: The time at which to return in any case, by `time.monotonic`.

        Raises:
            WouldDeadlock: The condition cannot become true before this callback returns.
        """
        self._acknowledge()  # the turn that runs this callback has not done so yet
        while not done() and time.monotonic() < deadline:
            if self._step is None:  # this callback runs inside a step, which cannot run twice at once
                raise WouldDeadlock("the network waits for this callback to return; use the _nowait form here")
            self._turn(deadline if self.core.reading else time.monotonic())
            stalled = self.core.stalled
            if stalled and not done():
                raise WouldDeadlock(
                    f"{stalled} before this callback returns; use the _nowait form here, or raise max_inbound_bytes"
                )

    def forget_parent(self) -> None:
        """Start with new state in a forked child. The thread, futures and queued messages belong to the parent."""
        core, sockets = self.core, (self._socket, self._wake_in, self._wake_out)
        if self._options.store is not None:
            self._options.store = None
            self._has_lost_store = True
        self._begin()
        for each in sockets:
            if each is not None:
                close(each)  # the parent's copies stay open
        error = core.fork(self.core)
        core.stopping = True  # if a callback has forked, its thread calls no others with the parent's messages
        for future in core.take_futures(error):
            future.fail_in_child(error)

    # The thread.

    def _run(self) -> None:
        """Execute turns until the client has ended.

        A callback may fork. In the child this thread returns from that callback, but it is not the client's thread any
        more: `forget_parent` has replaced all state, and the client may have been opened again, with another thread.
        """
        me = threading.current_thread()
        with self.lock:
            if self._runner is not me:  # `start` was interrupted, and has cleaned up
                return
            self._identity = threading.get_ident()
        try:
            while self._runner is me and (self._step is not None or self.core.deliverable):
                if self._step is not None:
                    self._turn(None)
                if self.core.calls.messages and self._runner is me:
                    deliver(self)
        except BaseException as error:  # the end of a connection failed, too: callers must not wait forever
            report_exception(self._run)
            failure = MQTTError(f"the network thread failed: {type(error).__name__}")
            failure.__cause__ = error
            with self.lock:
                if self._runner is me:
                    self.core.give_up(failure)
        finally:
            if self._runner is me:
                with self.lock:
                    self.take_posted()
                self._run_callbacks()
                with self.lock:
                    self._clean_up()

    def _clean_up(self) -> None:
        """Close all sockets. Requires the lock."""
        if self._dialer is not None:
            self._dialer.close()
        for each in (self._socket, self._wake_in, self._wake_out):
            if each is not None:
                close(each)
        self._watched = 0
        self._unsent, self._sending = _NOTHING, None  # the next connection must not begin with them
        self._dialer = self._socket = self._poller = self._wake_in = self._wake_out = self._runner = None
        self._identity = 0
        self.woken = self.waiting = False
        self.notify()

    def _turn(self, until: float | None) -> None:
        """Execute one step, then run callbacks.

        Args:
            until: The time at which the step ends if it waits; None: no limit.
        """
        step = self._step
        assert step is not None
        try:
            if self.posted:
                with self.lock:
                    self.take_posted()
            step(until)
        except OSError:  # other code has closed the descriptors of the wait, which would fail again
            raise
        except Exception as error:  # a lack of memory, or a defect of this package, ends only the connection
            report_exception(step)
            with self.lock:
                self.core.failed(error, time.monotonic())
            self._lost(self.core.error)
        if self.core.callbacks.due:
            self._run_callbacks()
        self._acknowledge()  # now, because callbacks and waiting threads should not wait for it

    def _acknowledge(self) -> None:
        """Make TCP acknowledge what was read."""
        if self._unacknowledged:
            self._unacknowledged = False
            acknowledge_at_once(self._socket)

    def _run_callbacks(self) -> None:
        """Run the callbacks that are due. `SystemExit` in one is logged; it does not end the thread."""
        callbacks = self.core.callbacks
        while callbacks.due:
            try:
                callbacks.run()
            except BaseException:
                report_exception(self._run_callbacks)

    def _idle(self, until: float | None) -> None:
        """Wait until the next attempt is due."""
        now = time.monotonic()
        if self.core.take_drop():
            self._due = min(self._due, self.core.earliest)
        if self.core.ending(now):
            self._lost(None)
        elif now < self._due:
            self._select(until, earlier(self._pass_time(now), earlier(self._due, self.core.deadline)))
        elif (turn := self.core.turn(now)) > now:
            self._due = turn
        else:
            with self.lock:
                self.core.begin_attempt(now)
            self._step = self._ask

    def _pass_time(self, now: float) -> float | None:
        """Expire old messages while there is no connection. Return the time of the next call; None for never."""
        with self.lock:
            self.core.pass_time(now)
            self.notify(False)
            return now if self.core.callbacks.due else self.core.next_expiry

    def _ask(self, until: float | None) -> None:
        """Get the URL, and start to connect."""
        self._step = None  # the user's callable for the URL runs now: a blocking call in it raises WouldDeadlock
        try:
            url = self.endpoints.choose(self.endpoints.ask())
            with self.lock:
                attempt = self.core.make_attempt(url, time.monotonic())
        except BaseException as error:
            self._lost(
                error if isinstance(error, Exception) else ConnectError(f"the callable for the URL raised {error!r}")
            )
            return
        assert self._poller is not None
        self._attempt, self._step = attempt, self._dial
        options = self.core.options
        try:
            self._dialer = Dialer(
                attempt.host, attempt.port, self._poller, self._wake_up,
                resolved=partial(attempt.link.end_phase, "lookup"),
                unix_socket=options.unix_socket, bind_address=options.bind_address, sort=self.endpoints.sort,
            )  # fmt: skip
        except Exception as error:
            self._lost(attempt.failed(error))

    def _dial(self, until: float | None) -> None:
        """Continue to connect, until a TCP connection is established."""
        attempt, dialer = self._attempt, self._dialer
        assert attempt is not None
        assert dialer is not None
        if self.core.called_off(time.monotonic()):
            self._lost(None)
            return
        try:
            connected = dialer.advance(time.monotonic())
            if connected is None:
                deadline = earlier(attempt.deadline, self.core.deadline)
                deadline = earlier(deadline, self._pass_time(time.monotonic()))
                ready = self._select(until, earlier(deadline, dialer.next_deadline()))
                now = time.monotonic()
                connected = dialer.advance(now, ready)
                if connected is None and now >= attempt.deadline:
                    raise TimeoutError("no address answered in time")
        except Exception as error:
            self._lost(attempt.failed(error))
            return
        if connected is not None:
            dialer.close()
            self.endpoints.reached(dialer.reached)
            with self.lock:
                self._socket, self._dialer = connected, None
                self.core.establish(attempt, time.monotonic())
            self._step = self._move

    def _move(self, until: float | None) -> None:
        """Write, wait until a socket is ready or a deadline comes, and read once."""
        core, now = self.core, time.monotonic()
        link = core.link
        assert link is not None
        # The order matters. Write first: what other threads have queued must not wait for the next readable byte. Then
        # the deadlines and events, which can add output for the next turn. Callbacks run after the lock is released.
        with self.lock:
            self.woken = False
            if core.dropped:  # before writing: what is queued leaves on the new connection
                core.disconnect(now)
            broken = self._write(now)
            if core.stopping and core.disconnect(now):
                broken = broken or self._write(now)
            if broken is not None:
                link.broke(broken, now)
            core.pass_time(now)
            core.advance(now)
            self.notify(bool(core.inbox.messages))
            over = link.over(now, bool(self._unsent))
            if core.callbacks.due and not over:
                return  # run callbacks first: a thread that waits for a sent message continues while this one reads
            # Wait for nothing if there is work to do. Inside a callback (`until` is set) no messages are delivered,
            # because callbacks would nest; so there they are no work.
            has_work = bool(core.callbacks.due) or bool(self.posted) or (until is None and core.deliverable)
            deadline = now if has_work else earlier(link.next_deadline(), core.next_expiry)
            if core.stopping:
                deadline = earlier(deadline, core.deadline)
            self.waiting = not over  # a call that is made after this writes a byte, so no wake-up is lost
        if over:
            self._lost(core.error)
            return
        data = self._await_data(until, deadline)
        now = time.monotonic()
        is_due = deadline is not None and now >= deadline
        if data is None and not is_due:
            return  # woken by another thread: the next turn writes what it queued
        with self.lock:
            if isinstance(data, OSError):
                link.broke(data, now)
            elif data:
                link.receive_data(data, now)
                if len(data) >= READ_HEAD or self._read_size != READ_SIZE:
                    self._read_size = read_size(link.missing, link.encrypted, self._read_size)
                if self._has_more and link.missing >= READ_SIZE // 2 and core.reading:
                    self._read_on(link, now)
            elif data is not None:
                link.receive_eof(now)
            if is_due:
                link.handle_timeout(now)
            core.advance(now)
            self.notify(bool(core.inbox.messages))

    def _write(self, now: float) -> OSError | None:
        """Write until the socket accepts no more, or nothing is left. Requires the lock.

        Returns:
            The error that broke the connection, or None.
        """
        link, connection = self.core.link, self._socket
        assert link is not None
        assert connection is not None
        if self._sending is not None:
            self._note_sending()
        try:
            more = True
            while True:
                if not self._unsent:
                    data = link.data_to_send(now) if more else b""
                    if not data:
                        return None
                    self._unsent = memoryview(data)
                    more = link.has_more(data)
                    del data  # the view keeps it
                sent = connection.send(self._unsent)
                self._unsent = self._unsent[sent:] or _NOTHING  # an empty view of the data would keep it
        except BlockingIOError:
            return None
        except OSError as error:
            self._unsent = _NOTHING
            return error

    def _read_on(self, link: Link, now: float) -> None:
        """Read a second time in this turn, within long messages. Requires the lock.

        A turn takes longer than such a read. Each further read would keep another message in memory.
        """
        data = self._read()
        if isinstance(data, OSError):
            link.broke(data, now)
        elif data:
            link.receive_data(data, now)
            self._read_size = read_size(link.missing, link.encrypted, self._read_size)
        elif data is not None:
            link.receive_eof(now)

    def _await_data(self, until: float | None, deadline: float | None) -> bytes | OSError | None:
        """Wait, then read; see `_read`."""
        connection = self._socket
        assert connection is not None
        self._watch(connection)
        ready = self._poll(until, deadline)
        return self._read() if connection in ready and self.core.reading else None

    def _read(self) -> bytes | OSError | None:
        """Read once.

        Returns:
            The received bytes, without those that were read into the payload of a long message; b"" at EOF; the error
            that broke the connection; or None if there was nothing to read.
        """
        self._has_more = False
        link, connection = self.core.link, self._socket
        assert link is not None
        assert connection is not None
        try:
            buffer = link.payload_buffer() if self._read_size != READ_SIZE else None
            if buffer is None:
                size = self._read_size
                data = connection.recv(size)
                count = len(data)
            else:
                with buffer:  # the traceback of an error would keep it; see `Decoder.payload_buffer`
                    size = len(buffer) + READ_HEAD
                    data, count = self._read_payload(link, connection, buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            return error
        except MemoryError:
            return OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        self._has_more = count == size >= READ_SIZE
        self._unacknowledged = not self._has_more  # otherwise the next read acknowledges both
        return data

    def _read_payload(self, link: Link, connection: socket.socket, buffer: memoryview) -> tuple[bytes, int]:
        """Read into the payload of a long message, and a little further, if that can be done by one system call.

        Returns:
            The last byte of the payload that was read, and the bytes beyond its end; b"" at EOF. And the number of
            bytes that were read.
        """
        size = len(buffer)
        if _SCATTERS:
            if not self._beyond:
                self._beyond = bytearray(READ_HEAD)
            count = connection.recvmsg_into((buffer, self._beyond))[0]
        else:
            count = connection.recv_into(buffer)
        if not count:
            return b"", 0
        if count <= size:
            return link.fill(count), count
        return link.fill(size) + self._beyond[: count - size], count

    def _watch(self, connection: socket.socket) -> None:
        """Set what the socket is watched for, if that has changed."""
        events = READ if self.core.reading else 0
        if self._unsent:
            events |= WRITE
        if events != self._watched:
            assert self._poller is not None
            self._poller.watch(connection, events)
            self._watched = events

    def _select(self, until: float | None, deadline: float | None) -> list[socket.socket]:
        """Wait as `_poll` does, unless the core was changed after this thread has last looked at it."""
        with self.lock:
            if self.woken:
                self.woken = False
                return []
            self.waiting = True
        return self._poll(until, deadline)

    def _poll(self, until: float | None, deadline: float | None) -> list[socket.socket]:
        """Wait until a socket is ready, another thread wakes this one, or the earlier of two times comes.

        The caller has set `waiting` under the lock, together with its look at the core.

        Returns:
            The sockets that are ready.
        """
        assert self._poller is not None
        until = deadline if until is None else earlier(until, deadline)
        # A longer wait could overflow in the system; its early end is harmless, because the caller looks at the time.
        timeout = None if until is None else min(max(0.0, until - time.monotonic()), _LONGEST_WAIT)
        try:
            ready = self._poller.wait(timeout)
        except MemoryError:  # for a moment: the next turn waits again
            return []
        finally:
            self.waiting = False
        if self._wake_in in ready:
            self._drain_wake()
            ready.remove(self._wake_in)
        return ready

    def _drain_wake(self) -> None:
        assert self._wake_in is not None
        try:
            self._wake_in.recv(64)
        except BlockingIOError:
            pass
        self.woken = False  # the next turn looks at the core, under the lock

    def _lost(self, error: Exception | None) -> None:
        """Handle the end of a connection or of an attempt: close the socket, and schedule the next attempt, if any."""
        self._step = None
        # It calls functions of the user, and so runs outside the lock.
        verdict = self.core.judge(error, time.monotonic())
        with self.lock:
            due = self.core.lost(verdict, time.monotonic())
            self.notify()
        if self._dialer is not None:
            self._dialer.close()
            self._dialer = None
        if self._socket is not None:
            assert self._poller is not None
            if self._watched:
                self._poller.watch(self._socket, 0)
                self._watched = 0
            close(self._socket)
            self._socket = None
        self._unsent, self._sending = _NOTHING, None
        if due is not None:
            self._due, self._step = due, self._idle
