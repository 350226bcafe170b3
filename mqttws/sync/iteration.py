"""The iterator over the messages of a blocking client. A message is acknowledged when the next one is requested.

It is not a generator. An exception inside a generator, for example of Ctrl-C while it waits, ends the generator for
good, and the garbage collector runs its `finally` clause in any thread. Here the exception of a signal handler loses no
message: a message is moved from the inbox in one step, and the next call returns it if this one is interrupted.

Several threads may share an iteration. None of them may replace `message` before it is acknowledged. So each compares
it again after every call, where the interpreter may switch to another thread, and before it takes the next message.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

from mqttws.codec.publishing import Publish
from mqttws.sync.network import Network


class Messages(Iterator[Publish]):
    """The iterator that `Client.messages` returns.

    Args:
        network: The network thread of the client.
        timeout: Seconds without a message after which the iteration ends; None: it ends when the client is closed.

    Attributes:
        thread: The identifier of the last thread that took a message.
        over: Whether the iteration has ended.
        message: The message that was taken last; None once it is finished.
    """

    message: Publish | None = None

    def __init__(self, network: Network, timeout: float | None) -> None:
        self.thread = threading.get_ident()
        self._network = network
        self._timeout = timeout
        self._manual_ack = network.core.options.manual_ack
        self._unreturned = False  # whether an exception has interrupted the call that took `message`
        self.over = False
        network.call(network.iterations.add, self)

    def __iter__(self) -> Messages:
        return self

    def __next__(self) -> Publish:
        if self.over:
            raise StopIteration
        message = self.message
        while message is not None:
            if self._unreturned:
                self._unreturned = False
                return message
            if not message.qos:
                break
            self._acknowledge(message)
            if message is self.message:
                break
            message = self.message  # another thread has taken a message from this iteration meanwhile
        core = self._network.core
        try:
            try:
                for self.message in core.inbox.source:  # see `Inbox.source`
                    break
                message = self.message
            except IndexError:
                self.message = None
                message = self._await_message()
            if not core.reading and not self._network.woken:
                self._network.call(self._network.look_again)
        except BaseException:
            self._unreturned = self.message is not None
            raise
        if message is None:
            self.over = True
            raise StopIteration
        # No function is called between the `for` statement and this one, so no exception of a signal handler can occur.
        return message

    def _await_message(self) -> Publish | None:
        self.thread = threading.get_ident()
        return self._network.await_message(self, self._timeout)

    def move_on(self) -> None:
        """Acknowledge the message that was taken last, if there is one."""
        message = self.message
        if message is not None:
            self._acknowledge(message)
            if message is self.message:
                self.message = None

    def close(self) -> None:
        """End the iteration."""
        self.over = True
        message = self.message
        if message is not None and not self._unreturned:
            self._acknowledge(message)
            self.message = None

    def _acknowledge(self, message: Publish) -> None:
        if message.qos and not self._manual_ack:
            self._network.call(self._network.core.acknowledge, message)

    def __del__(self) -> None:
        # The garbage collector calls this in any thread, at any allocation. So it takes no lock, but posts the call.
        message = self.message
        if message is None:
            return
        if self._unreturned:
            self._network.post(self._network.core.inbox.give_back, [message])
        elif message.qos and not self._manual_ack:
            self._network.post(self._network.core.acknowledge, message)
