"""How methods of an asyncio client call functions on the core: directly, or posted to the event loop.

Everything runs in one event loop, so there is no lock. But a signal handler or a finalizer may run in the middle of a
call. A call that it makes finds the client `busy`, and is posted to the loop.
"""

from __future__ import annotations

import asyncio
import sys
from abc import ABC, abstractmethod
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import TYPE_CHECKING, Any

from mqttws.aio.future import Receipt, call_back
from mqttws.client.core import Core
from mqttws.client.posted import PostedRequest, make_posted
from mqttws.errors import MQTTError, QueueFull
from mqttws.hints import mypyc_attr

if TYPE_CHECKING:
    from mqttws.client.sent import HighWaterMark

Future = asyncio.Future[Any]

#: Whether `_get_running_loop` asks the system for the process, which takes as long as the rest of a call.
_ASKS_SYSTEM = sys.version_info < (3, 12)


@mypyc_attr(allow_interpreted_subclasses=True)
class Owner(ABC):
    """The event loop of a client, and the calls that are made in it.

    Attributes:
        busy: Whether a call is changing the core.
        posted: The posted calls, which are made when no other call is being made.
        core: The core of the client.
        flushing: Whether a flush is scheduled for the end of this iteration of the loop.
        unflushed: Whether there may be output to write by then.
        flusher: The thread in which the latest flush was scheduled.
        has_many: Whether several tasks have published in this iteration of the loop, or, before the first one, in the
            last.
    """

    core: Core[Future]

    def __init__(self) -> None:
        self.busy = self.flushing = self.unflushed = self.has_many = False
        self.flusher = 0
        self.posted: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop of the client: the first one in which it is used, until `bind` changes it."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    def bind(self) -> None:
        """Bind the client to the running event loop, if there is one.

        Raises:
            MQTTError: The client is open in another event loop, or in that of another thread.
        """
        running, bound = _get_running_loop(), self._loop
        if running is None and bound is not None and bound.is_running():
            raise MQTTError(
                "the event loop of the client runs in another thread; call this in the loop, by "
                "asyncio.run_coroutine_threadsafe or loop.call_soon_threadsafe"
            )
        if running is not None and running is not bound:
            if bound is not None:
                self._leave_loop(bound)
            self._loop = running

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that changes the core. If another such call is being made, post this one.

        Returns:
            The result of the function; None if the call was posted.

        Raises:
            MQTTError: The client is open in another event loop.
        """
        # `_in_turn` only saves time: a closed loop of 64 tasks calls this 64 times in each turn.
        if not (_ASKS_SYSTEM and self.flushing and self._in_turn()) and _get_running_loop() is not self._loop:
            self.bind()
        if self.busy:
            self.post(function, *arguments)
            return None
        if self.posted:
            self._take_posted()
        self.busy = True
        try:
            return function(*arguments)
        finally:
            self.busy = False

    def change_core(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that changes the core, while no other call is being made. A signal handler posts its calls.

        Unlike `call`, this makes no posted calls, whose exceptions would be taken for those of the function.
        """
        self.busy = True
        try:
            return function(*arguments)
        finally:
            self.busy = False

    def _in_turn(self) -> bool:
        """Return whether the loop runs in this thread, when a flush is scheduled; quickly, without the system."""
        return self.flusher == get_ident() and self._loop is not None and self._loop.is_running()

    def request(self, function: Callable[..., Future], *arguments: Any) -> Future:
        """Do the same as `call` for a function that returns a future.

        Returns:
            That future; or, if the call was posted, another one that gets the same outcome.

        Raises:
            RuntimeError: There is no event loop for the future; nothing has changed.
        """
        loop = self._loop or self.loop
        if self.busy:
            future = loop.create_future()
            self.post(PostedRequest(future, self.settle, function, arguments))
            return future
        try:
            made: Future = self.call(function, *arguments)
        except MQTTError:  # nothing has changed
            raise
        except BaseException:  # an exception of a signal handler: the call may have queued its message
            self.flush_soon()
            raise
        self.flush_soon()
        if self.core.link is None and self.core.callbacks.due:  # a message was dropped for this one
            self.core.callbacks.run()
        return made

    def enqueue(self, packet: bytes) -> int:
        """Queue an encoded QoS 0 message for the flush of this turn, if one is scheduled and nothing is in the way.

        Returns:
            Its token; 0 if it was not queued.
        """
        pending = self.core.pending
        if not self.flushing or self.busy or self.posted or not pending.queues_directly or not self._in_turn():
            return 0
        self.busy = self.unflushed = self.has_many = True
        try:
            return pending.sender.enqueue_packet(packet)
        except QueueFull:
            return 0
        finally:
            self.busy = False

    def post(self, function: Callable[..., object], *arguments: Any) -> None:
        """Schedule a call in the event loop. For finalizers, in any thread, and signal handlers.

        Args:
            function: A function that may be called again if an exception of a signal handler interrupts it.
            *arguments: Its arguments.
        """
        self.posted.append((function, arguments))
        loop = self._loop
        if loop is not None:
            try:
                loop.call_soon_threadsafe(self._run_posted)
            except RuntimeError:  # closed: the call is made in the next loop in which the client is opened
                pass

    def _run_posted(self) -> None:
        if self.posted and not self.busy:
            self._take_posted()
            self.flush_soon()
            self.run_callbacks()
            self.await_expiry()

    def _take_posted(self) -> None:
        """Make the posted calls; see `make_posted`."""
        self.change_core(make_posted, self.posted)

    @staticmethod
    def settle(futures: list[Any], outcome: object) -> None:
        """Set the outcome of futures, a result or an exception. Skip those that are done."""
        receipts: list[Receipt] = []
        for future in futures:
            if type(future) is Receipt:
                if outcome is None and future.future is None:  # it has only callbacks; a second call finds none left
                    receipts.append(future)
                    if len(receipts) == 1 and not future.loop.is_closed():
                        for _ in range(2):  # if Ctrl-C ends the loop just before the first call, the second is made
                            future.loop.call_soon(call_back, receipts)
                    continue
                future = future.future or future.make_real()  # asyncio reports an exception that nobody asks for
            receipts = []  # the callbacks of this future come before those of later receipts
            if future.done():
                continue
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

    @abstractmethod
    def _leave_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Release an event loop; its futures fail. Messages that are not sent yet stay queued."""

    @abstractmethod
    def make_receipt(self, sent: HighWaterMark[Future], token: int) -> Future:
        """See `Driver.make_receipt`."""

    @abstractmethod
    def await_expiry(self) -> None:
        """Set the timer that expires old messages."""

    @abstractmethod
    def flush_soon(self) -> None:
        """Write at the end of this iteration of the event loop."""

    @abstractmethod
    def run_callbacks(self, received: bool = False) -> None:
        """Settle futures, run callbacks, and wake the tasks that wait."""
