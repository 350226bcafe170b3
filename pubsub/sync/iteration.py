"""Iterating over the messages of a subscription, with threads.

The thread that takes the messages puts them into an `Inbox`, and an iteration takes them out. `Messages` is what the
user holds. Nothing else holds it, so it is finalised as soon as an iteration is left by `break`; the finaliser passes
the end on, and takes no lock.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from functools import partial
from typing import Self

from mqttws import WouldDeadlock
from pubsub.message import Message
from pubsub.receipt import Release
from pubsub.subscription import SubscriptionCore
from pubsub.sync.handle import Subscription
from pubsub.sync.outcome import slice_of
from pubsub.waiting import PLACES, Waiting

__all__ = ["Inbox", "Messages"]


class Inbox:
    """Messages on their way to an iteration, bounded: a thread that puts one in waits for a free place.

    It is made of two `SimpleQueue`s, one of messages and one of free places. Those are written in C and reentrant: a
    signal handler or a finaliser cannot leave them locked.
    """

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Waiting | None] = queue.SimpleQueue()  # None wakes the iteration
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._free(PLACES)
        self._putting = threading.Lock()  # or two threads, each with half of the places, would wait for the other half
        self._taken: deque[Waiting | None] = deque()  # of the messages, by the iteration
        self._is_closed = self._is_discarded = False

    def put(self, message: Message, release: Release | None) -> None:
        """Add a message, waiting for free places. If no iteration will take it, it is released."""
        waiting = Waiting(message, release)
        with self._putting:  # only threads of ours come here, which no signal handler interrupts
            for _ in range(waiting.places):
                if not self._is_closed:
                    self._places.get()
            self._messages.put(waiting)
        if self._is_discarded:
            self._release_all()

    def _free(self, places: int) -> None:
        for _ in range(places):
            self._places.put(None)

    def peek(self, timeout: float | None) -> Waiting | None:
        """Wait for a message, and leave it in. Return None if none came in time, or no more will come.

        Args:
            timeout: Seconds; None: as long as it takes.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            while self._taken:
                waiting = self._taken[0]
                if waiting is not None:
                    return waiting
                self._taken.popleft()
            if self._is_closed and self._messages.empty():
                return None
            try:
                # In one step: a signal handler that raises cannot come between taking a message out and keeping it.
                self._taken.extend(map(self._messages.get, (True,), (slice_of(deadline),)))
            except queue.Empty:
                if deadline is not None and time.monotonic() >= deadline:
                    return None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._taken and self._messages.empty()

    def pop(self, waiting: Waiting) -> None:
        """Take out what `peek` returned, and release it. It may be repeated after an interrupt, at whatever step."""
        if waiting.release is not None:
            waiting.release()
        self._free(waiting.places)
        try:
            self._taken.remove(waiting)
        except ValueError:
            pass

    def close(self) -> None:
        """Expect no more messages. What is in may still be taken."""
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
    """An iteration over the messages of a subscription, which has begun; also a context manager that ends it.

    The messages wait from the moment at which the server has the subscription, also before the first `next`. A message
    of QoS 1 or 2 is acknowledged when the iteration moves on, or ends.
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
            MQTTError: Why the subscription has ended.
            WouldDeadlock: This is a callback, in the thread that would have to deliver the message.
        """
        self._move_on()
        if self._core.is_ours and self._inbox.is_empty:
            raise WouldDeadlock("this callback is called by the thread that delivers the messages; subscribe instead")
        waiting = self._inbox.peek(self._silence)
        if waiting is None:
            error = self._core.error
            self.close()
            if error is not None:
                raise error
            raise StopIteration
        self._given = waiting
        return waiting.message

    def _move_on(self) -> None:
        if self._given is not None:
            self._inbox.pop(self._given)
            self._given = None

    def unsubscribe(self, timeout: float | None = None) -> None:
        """See `Subscription.unsubscribe`."""
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
    """End an iteration that is gone."""
    core.end()
    inbox.discard()
