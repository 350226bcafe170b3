"""The task of an asyncio client that connects and reconnects, its waits, and its callbacks.

Everything runs in one event loop, to which `open` binds the client: see `owner` and `docs/concurrency.md`. Bytes are
written once per iteration of the loop (`flush_soon`), however many calls were made in it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextvars import copy_context
from functools import partial
from math import inf
from threading import get_ident
from typing import Any, NoReturn, Protocol

from mqttws.aio.delivering import deliver
from mqttws.aio.dial import connect
from mqttws.aio.future import Receipt
from mqttws.aio.owner import Future, Owner
from mqttws.aio.pump import Pump
from mqttws.aio.waits import EXPIRED, HOPELESS, Waits
from mqttws.client.callbacks import WARNING, accepted
from mqttws.client.core import Core
from mqttws.client.endpoints import Endpoints
from mqttws.client.options import Options
from mqttws.client.routes import Callback
from mqttws.client.sent import HighWaterMark
from mqttws.codec.publishing import Publish
from mqttws.errors import ConnectError, ConnectionClosed, ConnectTimeout, MQTTError, WouldDeadlock
from mqttws.log import packet_log
from mqttws.log import report as report_exception
from mqttws.log import write as write_record

Url = str | Sequence[str] | Callable[[], str | Sequence[str] | Awaitable[str | Sequence[str]]]

_Awaited = tuple[Callback, Awaitable[object]]

#: The maximum number of states and errors that wait while an async callback is pending.
MAX_CALLS = 1_000


class Taker(Protocol):
    """An iteration over the messages.

    Attributes:
        task: The last task that took a message.
        over: Whether the iteration has ended.
    """

    task: asyncio.Task[Any] | None
    over: bool


class Network(Owner):
    """The driver of one client: it owns the core and makes the connections.

    Args:
        options: The options of the client.
        url: See `Client`.

    Attributes:
        task: The task that connects and reconnects; None while the client is closed.
        iterations: The iterations over the messages.
    """

    def __init__(self, options: Options, url: Url) -> None:
        self._options = options
        self.endpoints = Endpoints(url, options.url_order, self.random, options.check_use)
        self._has_lost_store = False
        self._begin()

    def _begin(self) -> None:
        """Create all state; also in a forked child, where no object of the parent may be used."""
        super().__init__()
        self.core = Core(self._options, self, time.monotonic(), time.time())
        self.task: asyncio.Task[None] | None = None
        self.iterations: weakref.WeakSet[Taker] = weakref.WeakSet()
        self._pump: Pump | None = None
        self._expiry: asyncio.TimerHandle | None = None  # fires when the next message expires
        self._patience: asyncio.Timeout | None = None  # limits what the task awaits while it has no connection
        self._waiters: set[asyncio.Future[None]] = set()  # of tasks that wait for a message, space, or the end
        self._waits = Waits()  # of tasks that wait for the outcome of a call
        self._ending = False  # whether `_end_turn` is scheduled
        self._delivering = False
        self._delivery: asyncio.Task[None] | None = None  # awaits what `on_message` returned
        self._calls: deque[tuple[Callable[[Any], object], object]] = deque()
        self._calling: asyncio.Task[None] | None = None  # awaits what the other callbacks returned

    # The interface for the core: see `mqttws.client.driver`.

    packet_log = staticmethod(packet_log)
    random_bytes = staticmethod(os.urandom)

    @staticmethod
    def ask(question: Callable[[Any], bool], error: Exception) -> bool:
        """See `Driver.ask`."""
        try:
            return bool(accepted(question(error)))
        except (Exception, asyncio.CancelledError):  # the latter from the result of a cancelled future
            report_exception(question)
            return False

    @staticmethod
    def random() -> float:
        """See `Driver.random`."""
        from random import random  # slow to import, and not needed before the first reconnection

        return random()

    def make_future(self) -> Future:
        """See `Driver.make_future`."""
        return asyncio.Future(loop=self._loop or self.loop)  # without the call of `create_future`

    def make_receipt(self, sent: HighWaterMark[Future], token: int) -> Future:
        """See `Driver.make_receipt`."""
        receipt = Receipt()
        receipt.loop = self._loop or self.loop
        receipt.sent = sent
        receipt.future = receipt.callbacks = None
        receipt.token = token
        return receipt  # type: ignore[return-value]

    def call_back(self, callback: Callable[[Any], object], argument: object) -> None:
        """See `Driver.call_back`. If the callback returns an awaitable, later callbacks run after that is done."""
        if self._calling is not None:
            if len(self._calls) == MAX_CALLS:
                self._calls.popleft()
                write_record(WARNING, "a callback does not return; the oldest call that waits for it was dropped", ())
            self._calls.append((callback, argument))
            return
        result = _guarded(callback, argument)
        if inspect.isawaitable(result):
            self._calling = self._make_task(self._await_calls(callback, result))

    def _make_task(self, coroutine: Coroutine[Any, Any, None], name: str | None = None) -> asyncio.Task[None]:
        """Return a task that begins in a later turn of the loop.

        `create_task` would run it immediately with `asyncio.eager_task_factory`. But the caller has to store it first:
        a task that ends clears the attribute that refers to it.
        """
        return asyncio.Task(coroutine, loop=self.loop, name=name)

    async def _await_calls(self, callback: Callable[[Any], object], result: object) -> None:
        try:
            while True:
                if inspect.isawaitable(result):
                    await _awaited(callback, result)
                if not self._calls:
                    return
                callback, argument = self._calls.popleft()
                result = _guarded(callback, argument)
        finally:
            self._calling = None

    def log(self, level: int, message: tuple[Any, ...]) -> None:
        """See `Driver.log`."""
        write_record(level, message[0], message[1:])

    # For the methods of the client.

    async def await_end(self) -> None:
        """Wait for the task to end, if a `close` that was itself cancelled has cancelled it."""
        self.bind()
        if self.task is not None and self.task.cancelling():
            await asyncio.wait({self.task}, timeout=1.0)

    def start(self, retries: bool) -> None:
        """Begin to connect, in the running event loop.

        Args:
            retries: Whether a first attempt that fails is followed by others.

        Raises:
            MQTTError: The client is already open, possibly in another event loop.
        """
        if self._has_lost_store:
            raise MQTTError(
                "the store belongs to the parent process; close it before the fork, or use another file in this process"
            )
        self.bind()
        self.change_core(self.core.begin, retries, self.loop.is_closed)
        self.await_expiry()  # for messages that an earlier process has stored
        self.task = self._make_task(self._run(), f"mqttws {self.core.client_id}")

    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """See `Owner._leave_loop`."""
        if self.core.running and not loop.is_closed():
            raise MQTTError("the client is open in another event loop; close it there first, or make another client")
        error = ConnectionClosed("the client is used in another event loop now")
        for future in self.change_core(self.core.take_futures, error):
            if not loop.is_closed():
                loop.call_soon_threadsafe(self.settle, [future], error)
        if self.core.running:  # the loop was closed before the task had ended
            self.change_core(self.core.give_up, error)
            self.core.callbacks.clear()
        self.task = self._pump = self._patience = self._delivery = self._calling = None
        self.flushing = self.unflushed = self._ending = self._delivering = self.busy = False
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None
        self._waiters.clear()
        self._waits.clear()

    def await_expiry(self) -> None:
        """Set the timer for the next message that expires."""
        if self.busy:  # in a signal handler: `_run_posted` does this after its call
            return
        core = self.core
        due = self.change_core(lambda: core.next_expiry)
        if due is None:
            return
        when = self.loop.time() + due - time.monotonic()
        if self._expiry is not None:
            if self._expiry.when() <= when:
                return
            self._expiry.cancel()
        self._expiry = self.loop.call_at(when, self._expire)

    def _expire(self) -> None:
        self._expiry = None
        self.call(self.core.pass_time, time.monotonic())
        self.run_callbacks()
        self.await_expiry()

    def flush_soon(self) -> None:
        """Write at the end of this iteration of the event loop."""
        self.unflushed = True
        if not self.flushing and self._pump is not None:
            self._end_later()
            self.flusher, self.flushing = get_ident(), True

    def flush_now(self) -> None:
        """Write now."""
        if self._pump is not None:
            self._pump.move()

    def flush_first(self) -> None:
        """Write now if this is the first call in this iteration of the event loop; otherwise at the end of it.

        So the message of a single task that publishes and waits is written immediately. The messages of many tasks are
        written together: if there were several calls in the last iteration, the first one of this is no exception.
        """
        if self.flushing:
            self.unflushed = self.has_many = True
        elif self._pump is not None:
            self._end_later()
            self.flusher, self.flushing = get_ident(), True
            self.unflushed, self.has_many = self.has_many, False
            if not self.unflushed:
                self._pump.move()

    def _end_later(self) -> None:
        """Schedule `_end_turn`, if it is not scheduled.

        The flag is set last: an exception of a signal handler then causes superfluous calls, and loses none.
        """
        if not self._ending:
            for _ in range(2):  # if Ctrl-C ends the loop just before the first call, the second is made
                self.loop.call_soon(self._end_turn)
            self._ending = True

    def _end_turn(self) -> None:
        self._ending = self.flushing = False
        pump = self._pump
        if pump is None:
            return
        if self.unflushed:
            self.unflushed = False
            pump.move()
        pump.acknowledge()

    def hurry(self) -> None:
        """Wake the task that connects, which then checks whether it is to stop or to connect again."""
        self.flush_soon()
        now = time.monotonic()
        self._hasten(now if self.core.called_off(now) else self.core.deadline or now)

    # Waiting.

    async def wait(self, future: Future, seconds: float) -> bool:
        """Wait for a future. Return whether it has an outcome; without one it is cancelled.

        Raises:
            Exception: The outcome is this exception.
            WouldDeadlock: Nothing is read before messages are taken, and only this task takes them.
        """
        if future.done():
            if future.cancelled():
                return False
            try:
                future.result()
            finally:
                del future  # the traceback of its exception refers to this frame: a cycle
            return True
        if not self.core.reading:
            self.check_progress()
        loop = self._loop or self.loop
        task = asyncio.current_task(loop)
        cancellations = task.cancelling() if task is not None else 0
        waits = self._waits.begin(future, seconds, loop, task)
        try:
            await future
        except asyncio.CancelledError:
            reason = waits.get(future)
            if task is not None and task.cancelling() > cancellations:  # also if the time was up in the same turn
                raise
            if reason is HOPELESS:
                self.check_progress()
                # Reading has resumed since, but the future is cancelled. The task itself was not.
                raise WouldDeadlock(
                    "nothing was read, and only this task took messages; use the _nowait form here"
                ) from None
            if reason is not EXPIRED:
                raise
            return False
        finally:
            waits.pop(future, None)
            del future  # as above
        return True

    async def change(self, deadline: float | None) -> bool:
        """Wait until there is a message, there is space in the queue, or the client has ended.

        Args:
            deadline: The latest time to return, by the clock of the loop; None for no limit.

        Returns:
            Whether there was a change before the deadline.
        """
        loop = self.loop
        waiter: asyncio.Future[None] = loop.create_future()

        def release() -> None:
            if not waiter.done():
                waiter.set_result(None)

        timer = None if deadline is None else loop.call_at(deadline, release)
        self._waiters.add(waiter)
        try:
            await waiter
        finally:
            if timer is not None:
                timer.cancel()
            self._waiters.discard(waiter)
        return deadline is None or loop.time() < deadline

    async def message_came(self, timeout: float | None) -> bool:
        """Wait for a message.

        Args:
            timeout: Seconds; None: until the client is closed.

        Returns:
            Whether there is a message. If not, the time is up or the client was closed.

        Raises:
            MQTTError: The client gave up, or is not open.
        """
        self.bind()
        messages = self.core.inbox.messages
        deadline = None if timeout is None else self.loop.time() + timeout
        while not messages:
            if self.core.over:
                return False
            if not await self.change(deadline) and not messages:
                return False
        return True

    def give_back(self, messages: list[Publish], after: int) -> None:
        """Move messages to the inbox; see `Inbox.give_back`."""
        self.core.inbox.give_back(messages, after)
        self.notify()

    def check_progress(self) -> None:
        """Check that a wait of this task can end.

        Raises:
            WouldDeadlock: Nothing is read before messages are taken, and only this task takes them.
        """
        stalled = self.core.stalled
        if stalled and self._only_taker(asyncio.current_task()):
            raise WouldDeadlock(f"{stalled}, and this task takes them; use the _nowait form here")

    def _only_taker(self, task: asyncio.Task[Any] | None) -> bool:
        """Return whether a task is the only one that takes messages."""
        takers = {iteration.task for iteration in list(self.iterations) if not iteration.over} or {self._delivery}
        return takers == {task}

    def _end_deadlocks(self) -> None:
        """If nothing is read any more, end those earlier waits that could therefore never end.

        These are the waits of a task that is also the only one that takes messages: it cannot take any while it waits.
        """
        if not self.core.stalled:
            return
        for future, task in self._waits.tasks():
            if not future.done() and self._only_taker(task):
                self._waits.end(future)

    def notify(self) -> None:
        """Wake the tasks that wait for a change."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    # Callbacks.

    def run_callbacks(self, received: bool = False) -> None:
        """Settle futures, run callbacks, and wake the tasks that wait.

        Args:
            received: Whether the event loop has called the client with received data. Otherwise this may be a call of
                the user, in which no callback for messages runs.
        """
        core = self.core
        settles, wakes = bool(core.callbacks.due), bool(self._waiters)
        if settles:
            core.callbacks.run()
        if wakes:
            self.notify()
        if not core.reading:
            self._end_deadlocks()
        if core.deliverable and not self._delivering and self._delivery is None:
            if received and not settles:
                self._deliver_now()
            else:  # a task whose call has ended, a `subscribe` for example, continues before the callbacks run
                self._delivering = True
                self.loop.call_soon(self._deliver)
        elif received:
            if settles or wakes:
                self._end_later()  # scheduled after the tasks, so that what they publish is written in the same turn
            elif self._pump is not None:
                self._pump.acknowledge()

    def _deliver_now(self) -> None:
        """Call `_deliver` as the event loop does: in a new context, and without raising an exception to the transport.

        The transport would end the connection. That of uvloop would do so even after `SystemExit` and
        `KeyboardInterrupt`, which end the loop.
        """
        try:
            copy_context().run(self._deliver)
        except (SystemExit, KeyboardInterrupt) as error:
            self.loop.call_soon(_raise, error)
        except BaseException as error:  # of a signal handler
            self.loop.call_exception_handler({"message": "Exception in the delivery of messages", "exception": error})

    def _deliver(self) -> None:
        """Call the user's callbacks; see `deliver`. Await what one returns, if it is an awaitable."""
        self._delivering = False
        try:
            unfinished = deliver(self)
            if unfinished is not None:
                self._delivery = self._make_task(self._await_delivery(*unfinished))
        finally:
            self.flush_soon()  # writes acknowledgements, and resumes reading if it was paused
            self.run_callbacks()

    async def _await_delivery(self, message: Publish, takers: Iterator[Callback], awaited: _Awaited | None) -> None:
        """Await what a callback returned, call the others, acknowledge, and continue with the waiting messages."""
        core = self.core
        messages = core.calls.messages
        try:
            while True:
                while awaited is not None:
                    await _awaited(*awaited)
                    awaited = _first_awaitable(takers, message)
                self._taken(message)
                self.flush_soon()
                found: Sequence[Callback] = ()
                while messages and not core.stopping and not found:
                    message = messages.popleft()
                    found = core.takers(message)
                if not found:
                    return
                takers = iter(found)
                awaited = _first_awaitable(takers, message)
        except BaseException:  # cancelled by `end_callbacks`: the server sends the message again
            if message.qos:  # has no effect if it was acknowledged, with `manual_ack`
                self.call(core.session.receiver.discard, message)
            raise
        finally:
            self._delivery = None
            self.run_callbacks()

    def _taken(self, message: Publish) -> None:
        if message.qos and not self._options.manual_ack:
            self.call(self.core.acknowledge, message)

    async def end_callbacks(self, timeout: float) -> None:
        """Wait until the pending async callbacks have returned; cancel them when the time is up."""
        here = asyncio.current_task()
        tasks = {task for task in (self._delivery, self._calling) if task is not None and task is not here}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()

    # Connections.

    async def _run(self) -> None:
        """Connect and reconnect until the client ends."""
        core = self.core
        due: float | None = time.monotonic()
        failure: Exception | None = None
        try:
            while due is not None:
                await self._sleep_until(due)
                while core.take_drop():  # a new connection waits for the interval and for its turn, too
                    await self._sleep_until(min(due, core.earliest))
                now = time.monotonic()
                while not core.called_off(now) and (turn := core.turn(now)) > now:
                    await self._sleep_until(turn)
                    core.take_drop()
                    now = time.monotonic()
                error: Exception | None = None
                if not core.ending(time.monotonic()):
                    try:
                        await self._serve()
                        error = core.error
                    except Exception as reason:  # the attempt failed; `judge` decides whether there is another one
                        error = reason
                due = self.change_core(core.lost, core.judge(error, time.monotonic()), time.monotonic())
                self.run_callbacks()
        except asyncio.CancelledError:
            pass  # by `close`, or by the end of the loop
        except Exception as error:  # a defect of this package must not make callers wait forever
            report_exception(self._run)
            failure = error
        finally:
            self.task = None
            if self._expiry is not None:
                self._expiry.cancel()
                self._expiry = None
            self.change_core(core.give_up, failure)
            self.run_callbacks()

    async def _sleep_until(self, due: float) -> None:
        """Wait until the next attempt is due, or until `hurry` ends the wait."""
        delay = due - time.monotonic()
        if delay <= 0 or self.core.called_off(time.monotonic()):
            return
        try:
            async with asyncio.timeout(self._seconds_left(delay)) as self._patience:
                await self.loop.create_future()
        except TimeoutError:
            pass
        finally:
            self._patience = None

    def _seconds_left(self, seconds: float) -> float:
        """Return a number of seconds, or fewer if the client is to be closed before that."""
        deadline = self.core.deadline
        return seconds if deadline is None else max(0.0, min(seconds, deadline - time.monotonic()))

    async def _serve(self) -> None:
        """Make one Network Connection and wait for its end."""
        self.change_core(self.core.begin_attempt, time.monotonic())
        self.run_callbacks()
        pump = await self._dial()
        if pump is not None:
            try:
                await asyncio.wait((pump.ended,))  # which a cancellation leaves as it is
            except asyncio.CancelledError:
                # `asyncio.run` cancels all tasks at once when it ends by SystemExit, before a program's `async with`
                # has closed the client. This is an orderly end, as the interpreter's is for a blocking client.
                self.change_core(self.core.stop, time.monotonic(), 0.0)
                self.flush_now()
                raise
            finally:
                self._pump = None
                pump.end()

    async def _dial(self) -> Pump | None:
        """Get the URL, and make the TCP connection. Return None if that was abandoned."""
        attempt = pump = None
        try:
            async with asyncio.timeout(self._seconds_left(self._options.timeout)) as self._patience:
                attempt = self.change_core(self.core.make_attempt, await self._ask(), time.monotonic())
                self._hasten(attempt.deadline)
                made = pump = Pump(attempt, self)
                options = self.core.options
                await connect(
                    attempt.host, attempt.port, lambda: made, self.endpoints,
                    resolved=partial(attempt.link.end_phase, "lookup"),
                    unix_socket=options.unix_socket, bind_address=options.bind_address,
                )  # fmt: skip
            return pump
        except OSError as error:
            if pump is not None:
                pump.end()
            if self.core.called_off(time.monotonic()):
                return None
            if attempt is not None:
                raise attempt.failed(error) from None
            if self._patience is not None and self._patience.expired():
                raise ConnectTimeout(f"the callable returned no URL within {self._options.timeout:g} s") from None
            raise
        finally:
            self._patience = None

    async def _ask(self) -> Any:
        """Return the URL of the attempt. It is not checked."""
        try:
            answer = self.endpoints.ask()
            if inspect.isawaitable(answer):
                answer = await answer
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():  # by `close`, or at the end of the time limit
                raise
            raise ConnectError("the callable for the URL awaited something that was cancelled") from None
        return self.endpoints.choose(answer)

    def _hasten(self, deadline: float) -> None:
        """End what the task awaits at a deadline, if it does not end before."""
        patience = self._patience
        if patience is not None and not patience.expired():
            patience.reschedule(min(patience.when() or inf, self.loop.time() + deadline - time.monotonic()))

    def established(self, pump: Pump) -> None:
        """Use a new TCP connection."""
        self.change_core(self.core.establish, pump.attempt, time.monotonic())
        self._pump = pump

    def forget_parent(self) -> None:
        """Start with new state in a forked child. The event loop and its futures belong to the parent."""
        if self._options.store is not None:
            self._options.store = None
            self._has_lost_store = True
        core = self.core
        if self._pump is not None:
            self._pump.forget_parent()
        self._begin()
        core.fork(self.core)


def _raise(error: BaseException) -> NoReturn:
    try:
        raise error
    finally:
        del error  # its traceback refers to this frame: a cycle


def _first_awaitable(takers: Iterator[Callback], message: Publish) -> _Awaited | None:
    """Call callbacks until one returns an awaitable. Return the callback and the awaitable; None if none did."""
    for callback in takers:
        try:
            result = callback(message)
        except (Exception, asyncio.CancelledError):  # as in `_guarded`, without a call for each message
            report_exception(callback)
            continue
        if result is not None and inspect.isawaitable(result):
            return callback, result
    return None


def _guarded(callback: Callable[[Any], object], argument: object) -> object:
    """Call a callback. Log an exception, and return None then."""
    try:
        return callback(argument)
    except (Exception, asyncio.CancelledError):  # the latter from the result of a cancelled future
        report_exception(callback)
        return None


async def _awaited(callback: Callable[[Any], object], result: Awaitable[object]) -> None:
    """Await what a callback returned. Log an exception."""
    try:
        await result
    except Exception:
        report_exception(callback)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():  # by `close`
            raise
        report_exception(callback)  # the callback awaited something that was cancelled
