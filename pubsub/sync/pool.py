"""A pool of connections, for programs with threads: the methods that wait.

Each connection (a part) has a reader, a thread that takes its messages, in addition to its client's thread. The readers
put messages into one queue, from which the runner of the channel delivers them. So callbacks are called one after the
other, as with one connection. A reader waits while the queue is full, by the number or the bytes of its messages; then
its client stops reading.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Any

import mqttws
from mqttws import ConnectError, ConnectionClosed, MQTTError, Publish, TimedOut, to_raise
from pubsub.owned_future import OwnedFuture
from pubsub.owned_lock import Event
from pubsub.pool.core import PoolCore
from pubsub.pool.part import Part

__all__ = ["Pool"]

#: The number of messages in the queue from which on the readers wait.
PLACES = 1_000
#: The default time-out of `close`, in seconds.
CLOSE_TIMEOUT = 5.0


class Pool(PoolCore):
    """Several blocking clients with the methods of one."""

    def __init__(self, *arguments: Any) -> None:
        self._queue: queue.SimpleQueue[Publish | None] = queue.SimpleQueue()
        self._has_space = Event()
        # The bytes of all messages put into the queue so far, and of those taken from it.
        self._bytes_put = self._bytes_taken = 0
        super().__init__(*arguments)

    def new_answer(self) -> Future[list[int]]:
        """See `PoolCore.new_answer`."""
        return OwnedFuture()

    def open(self) -> None:
        """Connect.

        Raises:
            MQTTError: The first part could not connect. The others make further attempts, as after a loss.
        """
        with self.lock:
            if self._is_closing:
                return
            self._is_open = True
            first = self._parts[0]
            first.is_open = True
        first.client.open()
        self._in_background(partial(self._read, first), f"pubsub reader {first.index}")
        self.look()

    def start(self, part: Part) -> None:
        """See `PoolCore.start`. A signal handler may interrupt this, but not the new thread, which opens the client."""
        with self.lock:
            if part.is_open or part.is_closed or self._is_closing:
                return
            part.is_open = True
        try:
            self._in_background(partial(self._open, part), f"pubsub reader {part.index}")
        except BaseException:
            part.is_open = False  # the next look starts it
            raise

    def _open(self, part: Part) -> None:
        try:
            with self.lock:
                if part.is_closed or self._is_closing:  # in the meantime: nobody would close its client
                    return
                part.client.open(wait=False)
        except ConnectError:  # the process lacks threads or file descriptors
            part.is_open = False
        except MQTTError:  # another thread has opened it, since only the end of `start` was interrupted
            pass
        else:
            self._read(part)

    def options_of(self, part: Part) -> Mapping[str, Any]:
        """See `PoolCore.options_of`. There are none: a reader takes the messages."""
        return {}

    @staticmethod
    def _in_background(target: Callable[[], object], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        return thread

    def _read(self, part: Part) -> None:
        client: mqttws.Client = part.client
        try:
            for publish in client.messages():
                while (over := self.took(part, publish)) is not None:
                    over.result()
                if self._is_filled(PLACES, self._most_bytes):
                    self._wait_for_space()
        except MQTTError:
            pass  # the client has ended; its change of state is handled elsewhere

    def put(self, publish: Publish) -> None:
        """See `PoolCore.put`."""
        self._queue.put(publish)
        self._bytes_put += len(publish.topic) + len(publish.payload)  # last: an interrupt must not leave it too high

    def end(self) -> None:
        """See `PoolCore.end`."""
        self._queue.put(None)
        self._has_space.set()

    @property
    def in_network_thread(self) -> bool:
        """Whether the caller runs in the network thread of a part; see `mqttws.Client.in_network_thread`."""
        return any(part.client.in_network_thread for part in list(self._parts))

    def _wait_for_space(self) -> None:
        if not self._is_closing:
            self._has_space.clear()
            if self._is_filled(PLACES, self._most_bytes) and not self._is_closing:
                self._has_space.wait()

    def _is_filled(self, places: int, size: int) -> bool:
        """Return whether the queue has this number of messages, or this number of bytes, or more."""
        return self._queue.qsize() >= places or self._bytes_put - self._bytes_taken >= size

    def messages(self) -> Iterator[Publish]:
        """Yield the messages of all parts until the pool is closed.

        Raises:
            Exception: A part has ended for this reason, and with it the pool.
        """
        while (publish := self._queue.get()) is not None:
            self._bytes_taken += len(publish.topic) + len(publish.payload)
            if not self._has_space.is_set() and not self._is_filled(PLACES // 2, self._most_bytes // 2 + 1):
                self._has_space.set()
            yield publish
        if self.error is not None and not self._is_closing:
            raise to_raise(self.error)

    def publish(
        self,
        topic: str,
        payload: bytes,
        qos: int,
        retain: bool,
        *,
        timeout: float | None = None,
        expire_after: float | None = None,
    ) -> None:
        """Publish a message through the part of its topic, and wait; see `mqttws.Client.publish`."""
        slot, part = self.carrier(topic)
        try:
            part.client.publish(topic, payload, qos, retain, timeout=timeout, expire_after=expire_after)
        finally:
            self.published(slot)

    def flush(self, timeout: float) -> None:
        """Wait until all messages published so far are sent or acknowledged; see `mqttws.Client.flush`."""
        deadline = time.monotonic() + timeout
        for part in list(self._parts):
            try:
                if part.client.pending:
                    part.client.flush(max(0.0, deadline - time.monotonic()))
            except ConnectionClosed:
                if not part.is_closed:  # a retired part had no messages left
                    raise

    def close(self, timeout: float | None = None) -> None:
        """Close every part, the publishing ones first, so that queued messages are sent and acknowledged."""
        deadline = time.monotonic() + (CLOSE_TIMEOUT if timeout is None else timeout)
        with self.lock:
            self._is_closing = True
            publishing = list(filter(lambda part: part.publishes, self._parts))
            receiving = list(filter(lambda part: not part.publishes, self._parts))
        self._has_space.set()
        for parts in (publishing, receiving):  # in parallel, so that none uses up the time of the others
            closing = [
                self._in_background(
                    partial(part.client.close, max(0.0, deadline - time.monotonic())), f"pubsub closing {part.index}"
                )
                for part in parts
            ]
            for thread in closing:
                thread.join(max(0.0, deadline - time.monotonic()) + 1.0)
        self.end()

    def retire(self, part: Part) -> None:
        """See `PoolCore.retire`."""
        try:
            self._in_background(partial(self._retire, part), f"pubsub closing {part.index}")
        except BaseException:
            part.is_leaving = False  # the next look closes it
            raise

    def _retire(self, part: Part) -> None:
        try:
            part.client.flush(CLOSE_TIMEOUT)
        except (TimedOut, MQTTError):
            pass
        part.client.close(CLOSE_TIMEOUT)
        self.gone(part)
