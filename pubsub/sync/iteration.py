"""The iterator over the messages of a subscription, for programs with threads.

The thread that delivers messages puts them into an `Inbox`, and the iteration takes them out. Only the user holds a
reference to `Messages`, so the finalizer runs as soon as an iteration is left by `break`. It causes the subscription to
be ended, and takes no lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from itertools import repeat
from typing import Self

from mqttws import WouldDeadlock, to_raise
from pubsub.message import Message
from pubsub.places import PLACES, Waiting
from pubsub.receipt import Release
from pubsub.subscription import SubscriptionCore
from pubsub.sync.handle import Subscription
from pubsub.sync.outcome import slice_of

__all__ = ["Inbox", "Messages"]


class Inbox:
    """A bounded queue of messages for an iteration: a thread that adds a message waits for free places.

    It consists of two `SimpleQueue`s, one of messages and one of free places. They are written in C and reentrant: a
    signal handler or a finalizer cannot leave them locked.
    """

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()  # None wakes the iteration
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._free(repeat(None, PLACES))
        # One thread at a time takes places. Otherwise two threads, each with half of the places, could wait for more.
        self._putting = threading.Lock()
        self._taken: deque[Waiting | None] = deque()  # messages that `peek` has moved here from `_messages`
        self._is_closed = self._is_discarded = False

    def put(self, message: Message, release: Release | None) -> None:
        """Add a message, waiting for free places. After `discard` it is released immediately."""
        waiting = Waiting(message, release)
        with self._putting:  # called only in threads of this package, which no signal handler interrupts
            for _ in range(waiting.places):
                if not self._is_closed:
                    self._places.get()
            self._messages.put(waiting)
        if self._is_discarded:
            self._release_all()

    def _free(self, places: Iterable[None]) -> None:
        any(map(self._places.put, places))  # in C, so no exception of a signal handler loses a place

    def peek(self, timeout: float | None) -> Waiting | None:
        """Wait for a message, and return it without removing it.

        Args:
            timeout: Seconds; None for no limit.

        Returns:
            The message; None if there was none in time, or the inbox is closed and empty.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            while self._taken:
                try:
                    waiting = self._taken[0]
                    if waiting is not None:
                        return waiting
                    self._taken.remove(None)
                except (IndexError, ValueError):  # another thread has removed it
                    pass
            if self._is_closed and self._messages.empty():
                self._messages.put(None)  # it wakes another thread that shares the iteration
                return None
            try:
                # `extend` and `map` run in C. No exception of a signal handler can come between the removal from the
                # queue and the insertion here, so none loses the message.
                self._taken.extend(map(self._messages.get, (True,), (slice_of(deadline),)))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    return None

    @property
    def is_empty(self) -> bool:
        """Whether there is no message."""
        return not self._taken and self._messages.empty()

    def pop(self, waiting: Waiting) -> None:
        """Remove and release the message that `peek` returned. May be repeated after an interrupt, at any step."""
        if waiting.release is not None:
            waiting.release()
        self._free(waiting.unfreed)
        try:
            self._taken.remove(waiting)
        except ValueError:
            pass

    def close(self) -> None:
        """Accept no more messages. Those that are waiting can still be taken."""
        self._is_closed = True
        self._messages.put(None)
        self._places.put(None)

    def discard(self) -> None:
        """Accept no more messages, and release the waiting ones."""
        self.close()
        self._is_discarded = True
        self._release_all()

    def _release_all(self) -> None:
        while not self.is_empty and (waiting := self.peek(0)) is not None:
            self.pop(waiting)


class Messages(Subscription):
    """A started iteration over the messages of a subscription. As a context manager it ends the subscription.

    Messages are queued as soon as the server has granted the subscription, also before the first `next`. A message of
    QoS 1 or 2 is acknowledged when the next one is requested, or the iteration ends.
    """

    def __init__(self, core: SubscriptionCore, inbox: Inbox, silence: float | None) -> None:
        super().__init__(core)
        self._inbox = inbox
        self._silence = silence
        self._given: Waiting | None = None  # the last message that was yielded, while it is in the inbox
        core.runtime.watch(self, partial(_abandon, core, inbox))

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Message:
        """Return the next message.

        Raises:
            StopIteration: The subscription has ended, or there was no message for `timeout` seconds.
            MQTTError: The subscription has ended, for this reason.
            WouldDeadlock: This is a callback, in the thread that would have to deliver the message.
        """
        self._move_on()
        if self._core.is_ours and self._inbox.is_empty:
            raise WouldDeadlock("this callback is called by the thread that delivers the messages; subscribe instead")
        while (waiting := self._inbox.peek(self._silence)) is not None:
            for _ in waiting.claim:
                self._given = waiting
                return waiting.message
            self._inbox.pop(waiting)  # another thread that shares the iteration has taken it
        error = self._core.error
        self.close()
        if error is not None:
            raise to_raise(error)
        raise StopIteration

    def _move_on(self) -> None:
        if self._given is not None:
            self._inbox.pop(self._given)
            self._given = None

    def unsubscribe(self, timeout: float | None = None) -> None:
        """End the iteration and the subscription; see `Subscription.unsubscribe`.

        Args:
            timeout: Seconds; None: the `timeout` of the `PubSub`.

        Raises:
            TimedOut: There was no answer in time.
            UnsubscribeRejected: The server closes the connection because of the UNSUBSCRIBE.
        """
        self._move_on()
        try:
            super().unsubscribe(timeout)
        finally:
            self._inbox.discard()

    def close(self) -> None:
        """End the iteration, without waiting for the server's answer."""
        self._end()

    def _end(self) -> None:
        self._core.end()
        self._move_on()
        self._inbox.discard()


def _abandon(core: SubscriptionCore, inbox: Inbox) -> None:
    """End the subscription of an iteration that was freed."""
    core.end()
    inbox.discard()
